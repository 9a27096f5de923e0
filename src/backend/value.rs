//! A kept value: bytes under a key of ours, with a time to live. What features of ours keep beside the results:
//! checkpoints, large payloads.

use bytes::Bytes;

use crate::protocol::ResultRecord;

/// What is in front of the key of a value where values are kept by the key of a result.
const VALUE_KEY: &str = "celeriac-value-";
/// The state of a value there: none of a task's, so that it may be kept again.
const VALUE_STATE: &str = "VALUE";

/// One value. Written and read by clients and children; a crash after it was written leaves it until it expires.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptValue {
    /// Its name, without what a store puts in front of it.
    pub key: String,
    /// What only those who have written it know to read.
    pub value: Bytes,
    /// How long it is kept; none: for ever.
    pub expires_ms: Option<u64>,
}

impl KeptValue {
    /// The key of a value among results.
    pub(crate) fn result_key(key: &str) -> String {
        [VALUE_KEY, key].concat()
    }

    /// For stores that keep values among results.
    pub(crate) fn into_result(self) -> ResultRecord {
        ResultRecord {
            task_id: Self::result_key(&self.key),
            state: VALUE_STATE.to_owned(),
            record: self.value,
            content_type: "application/octet-stream".to_owned(),
            expires_ms: self.expires_ms,
            reply_to: None,
            retain: None,
        }
    }
}

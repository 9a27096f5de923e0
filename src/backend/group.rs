//! A saved group: which results are its members', under the group's id.

use bytes::Bytes;

use crate::protocol::ResultRecord;

/// What is in front of a group's id where groups are kept by a text key (Celery's own).
const GROUP_KEY: &str = "celery-taskset-meta-";
/// The state of a group where it is kept among results: none of a task's, so that it may be saved again.
const GROUP_STATE: &str = "GROUP";

/// What is kept of a group. Written by whoever saves it, read by `GroupResult.restore`; saving it twice changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupRecord {
    /// The group's id.
    pub group_id: String,
    /// The encoded document, which only clients read.
    pub record: Bytes,
    /// How it is encoded.
    pub content_type: String,
    /// How long it is kept; none: for ever. Not every store tells when it is read.
    pub expires_ms: Option<u64>,
}

impl GroupRecord {
    /// The key of a group among results.
    pub(crate) fn key(group_id: &str) -> String {
        [GROUP_KEY, group_id].concat()
    }

    /// For stores that keep groups among results.
    pub(crate) fn into_result(self) -> ResultRecord {
        ResultRecord {
            task_id: Self::key(&self.group_id),
            state: GROUP_STATE.to_owned(),
            record: self.record,
            content_type: self.content_type,
            expires_ms: self.expires_ms,
            reply_to: None,
            retain: None,
        }
    }

    /// What [`Self::into_result`] made.
    pub(crate) fn from_result(group_id: &str, result: ResultRecord) -> Self {
        let ResultRecord { record, content_type, expires_ms, .. } = result;
        Self { group_id: group_id.to_owned(), record, content_type, expires_ms }
    }
}

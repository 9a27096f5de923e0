//! The header `celeriac`: what options of ours have to say of a message, an object with a member for each.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::large::Large;

/// Its members; those that we do not know are skipped. Celery's clients and workers pass the header on unread.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Own {
    /// Limits of all workers.
    pub limit: Option<OwnLimit>,
    /// Its body is kept elsewhere.
    pub large: Option<Large>,
    /// It must not run twice, whatever happens: an early acknowledgement is stored before it begins, and not while it runs.
    /// So a body of a chord that we called.
    pub once: bool,
    /// The key that it was sent under (`keys`).
    pub unique: Option<Unique>,
}

/// The key that a message was sent under.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Unique {
    /// The key.
    pub key: String,
    /// The call that has it.
    pub token: String,
    /// `queued`: it is freed when a worker has the message; `started`: when it is begun; `finished`: when it has ended for
    /// good. Else nobody frees it.
    pub until: Option<String>,
    /// Its call was debounced: only the last message of several is run.
    pub debounced: bool,
    /// Another key, of those of which one runs at a time.
    pub turn: Option<String>,
    /// For how long it is held, in milliseconds.
    pub ttl_ms: u64,
}

/// What says which part of a limit a message counts for.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct OwnLimit {
    /// The key: each has the limit for itself.
    pub key: String,
}

impl Own {
    /// Reads it; none where it is something else: another program's header of the same name stops no message.
    pub(super) fn read(text: &RawValue) -> Option<Box<Self>> {
        let text = text.get();
        if !text.starts_with('{') {
            return None;
        }
        serde_json::from_str(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Message;

    fn own(headers: &str) -> Option<Box<Own>> {
        let headers = headers.to_owned().into_bytes().into();
        let message = Message { headers, ..Message::default() };
        message.task_headers().unwrap().own
    }

    #[test]
    fn it_is_read_where_it_is_and_stops_no_message_otherwise() {
        assert_eq!(own(r#"{"task": "t", "id": "1", "celeriac": {"later": [1]}}"#), Some(Box::default()));
        assert_eq!(own(r#"{"task": "t", "id": "1"}"#), None);
        assert!(own(r#"{"task": "t", "id": "1", "celeriac": {"once": true}}"#).is_some_and(|own| own.once));
        for other in ["7", "null", "[]", r#""text""#] {
            assert_eq!(own(&format!(r#"{{"task": "t", "id": "1", "celeriac": {other}}}"#)), None);
        }
    }
}

//! What a backend keeps for a task id.

use bytes::Bytes;

/// One stored result. The record itself is opaque (for JSON it is Celery's result document,
/// `compat/protocol.md` 11.1); what the engine must know of it stands beside it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResultRecord {
    /// The task's id.
    pub task_id: String,
    /// `SUCCESS`, `FAILURE`, ..., or a state of the user's own.
    pub state: String,
    /// The whole record, encoded by the result serializer.
    pub record: Bytes,
    /// Media type of the record.
    pub content_type: String,
    /// Milliseconds until it may vanish; none keeps it.
    pub expires_ms: Option<u64>,
}

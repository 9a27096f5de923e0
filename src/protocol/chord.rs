//! A part of a chord, as it is counted.

use bytes::Bytes;

use super::state;

/// One part of a chord that has ended. Made by the child that ended it, counted by
/// [`crate::backend::ResultBackend::count_parts`] after the part's own result was stored; a part that is counted
/// again changes nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChordPart {
    /// The chord: the id of its header's group.
    pub group_id: String,
    /// The part.
    pub task_id: String,
    /// Its place in the header; none is behind all that have one.
    pub group_index: Option<i64>,
    /// How it ended: `SUCCESS`, `FAILURE`, `REVOKED`.
    pub state: String,
    /// What the body is given of it: `[1, task id, state, value]`, encoded by the result serializer.
    pub element: Bytes,
    /// How long the chord is kept after this part, in milliseconds (`result_chord_expires`); none: for ever.
    pub expires_ms: Option<u64>,
    /// How long the saved record of its group is; none leaves it as it is.
    pub group_expires_ms: Option<u64>,
    /// How long whoever completes the chord has it alone (twice `result_chord_join_timeout`).
    pub claim_ms: u64,
}

impl ChordPart {
    /// The body cannot be called any more.
    pub fn is_failed(&self) -> bool {
        self.state == state::FAILURE || self.state == state::REVOKED
    }

    /// Its name among those that were counted, as Celery writes it. With the index, since a header may have one
    /// signature twice.
    pub fn member(&self) -> String {
        format!("{}:{}", self.task_id, self.index())
    }

    /// Its place as text.
    pub fn index(&self) -> String {
        self.group_index.map_or_else(|| "+inf".to_owned(), |index| index.to_string())
    }
}

//! A part of a chord, as it is counted, and the right to end a chord.

use std::time::Duration;

use bytes::Bytes;

use super::state;

/// Characters of what tells a claim from earlier ones of the same part.
pub(crate) const NONCE: usize = 16;

/// A chord that has ended well is remembered at least this long, so that a copy of one of its parts counts for nothing.
const REMEMBERED: Duration = Duration::from_secs(300);

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

/// The right to end one chord. Held until [`crate::backend::ResultBackend::finish_chord`], or until it expires; a part
/// that is counted once more while it holds the claim has a new one, and the old one is worth nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChordClaim {
    /// The chord.
    pub group_id: String,
    /// Tells this claim from all others.
    pub token: String,
    /// How long it holds without [`crate::backend::ResultBackend::hold_chord`], in milliseconds.
    pub claim_ms: u64,
    /// How long the chord is kept, in milliseconds; none: for ever.
    pub expires_ms: Option<u64>,
    /// It was taken by a part that failed, before all were counted.
    pub failed: bool,
}

impl ChordClaim {
    /// The claim of a part. The token names the part, and ends with [`NONCE`] characters that no other claim has.
    pub(crate) fn new(part: &ChordPart, nonce: &str, failed: bool) -> Self {
        Self {
            group_id: part.group_id.clone(),
            token: format!("{}:{nonce}", part.member()),
            claim_ms: part.claim_ms,
            expires_ms: part.expires_ms,
            failed,
        }
    }

    /// How long it has to be remembered that the chord is over, in milliseconds; none: for ever. Of a failed one parts
    /// may still come for as long as the chord would have been kept.
    pub fn remembered_ms(&self) -> Option<u64> {
        let usual = (2 * self.claim_ms).max(REMEMBERED.as_millis() as u64);
        if self.failed { self.expires_ms.map(|expires| expires.max(usual)) } else { Some(usual) }
    }
}

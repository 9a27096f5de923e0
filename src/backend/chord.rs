//! What counting the parts of chords gives.

use std::time::Duration;

use bytes::Bytes;

use crate::protocol::ChordPart;

/// Characters of what tells a claim from earlier ones of the same part.
pub(crate) const NONCE: usize = 16;

/// A chord that has ended well is remembered at least this long, so that a copy of one of its parts counts for nothing.
const REMEMBERED: Duration = Duration::from_secs(300);

/// What became of one part that was counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Others are still missing, or someone else is at work on the end of the chord.
    Waiting,
    /// It was the last one: the claim's holder is to gather all parts and to call the body.
    Complete(ChordClaim),
    /// It failed, and the chord with it, whatever is still missing: the claim's holder is to end the body.
    Failed(ChordClaim),
    /// The chord has ended before.
    Ended,
}

/// The right to end one chord. Held until [`super::ResultBackend::finish_chord`], or until it expires; a part
/// that is counted once more while it holds the claim has a new one, and the old one is worth nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChordClaim {
    /// The chord.
    pub group_id: String,
    /// Tells this claim from all others.
    pub token: String,
    /// How long it holds without [`super::ResultBackend::hold_chord`], in milliseconds.
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

/// A chord of which nothing was counted for long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stalled {
    /// The chord.
    pub group_id: String,
    /// One of its messages, as it was given to [`super::ResultBackend::guard_chord`].
    pub message: Bytes,
    /// How many parts it has.
    pub size: u64,
    /// How many were counted.
    pub counted: u64,
    /// Indices of the first parts that are missing, as far as they have such.
    pub missing: Vec<u64>,
    /// How often it was found without progress; nothing was counted in between.
    pub times: u32,
}

/// Missing parts that are named.
const NAMED: usize = 20;

/// Indices that are not among those of the parts that were counted, given as [`ChordPart::member`].
pub(crate) fn missing<'a>(size: u64, members: impl Iterator<Item = &'a str>) -> Vec<u64> {
    let counted: std::collections::HashSet<u64> =
        members.filter_map(|member| member.rsplit(':').next()?.parse().ok()).collect();
    (0..size).filter(|index| !counted.contains(index)).take(NAMED).collect()
}

/// What tells a claim from all others of its part.
pub(crate) fn nonce() -> String {
    format!("{:0width$x}", fastrand::u64(..), width = NONCE)
}

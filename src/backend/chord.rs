//! What counting the parts of chords gives.

use bytes::Bytes;

use crate::protocol::ChordClaim;
pub(crate) use crate::protocol::NONCE;

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

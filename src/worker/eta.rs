//! Requests that wait in memory for their time: near ETAs and near turns of a rate limit.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tokio::time::Instant;

use super::pool::RequestTag;

/// Requests that wait at the most; more are parked in the broker.
const MAX_HELD: usize = 1_000;

/// The requests that wait, by the moment they wait for, then in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Held(BinaryHeap<Reverse<(Instant, RequestTag)>>);

impl Held {
    /// Whether one more may wait.
    pub(crate) fn has_room(&self) -> bool {
        self.0.len() < MAX_HELD
    }

    /// Lets one wait.
    pub(crate) fn push(&mut self, until: Instant, tag: RequestTag) {
        self.0.push(Reverse((until, tag)));
    }

    /// The next one whose time has come.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<RequestTag> {
        self.next().filter(|at| *at <= now)?;
        self.0.pop().map(|Reverse((_, tag))| tag)
    }

    /// Takes out those that are meant, in the order in which they came.
    pub(crate) fn take(&mut self, meant: impl Fn(RequestTag) -> bool) -> Vec<RequestTag> {
        let (taken, kept) =
            std::mem::take(&mut self.0).into_iter().partition(|Reverse((_, tag))| meant(*tag));
        self.0 = kept;
        let taken: BinaryHeap<Reverse<(Instant, RequestTag)>> = taken;
        let mut tags: Vec<_> = taken.into_iter().map(|Reverse((_, tag))| tag).collect();
        tags.sort_unstable();
        tags
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// Forgets all of them.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

//! Topics and the stream: messages that name no queue ([`crate::protocol::Queue::of_topic`],
//! [`crate::protocol::Queue::of_stream`]). They are published as all others are, alone, in a batch or with a commit.
//!
//! What every driver guarantees:
//!
//! 1. A message to a topic goes, once each, to the queues that are bound with a fitting pattern when it is published,
//!    whoever bound them, and to the subscriptions there are. None at all is no error.
//! 2. A queue that is bound keeps what comes while nobody consumes it.
//! 3. An entry of the stream is there when its publication has returned, or its commit. Entries have one order, which
//!    is that of their cursors; whoever reads on after a cursor gets each later one once. The oldest go.

/// How a queue is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rebind {
    /// With just these patterns: others that it had are gone.
    Replace,
    /// As it was, should the store have lost it; with these patterns if the store knows nothing of it. For workers that
    /// come back after an outage: others, with a newer app, may have bound it otherwise meanwhile.
    Restore,
}

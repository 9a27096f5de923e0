//! What can go wrong with a broker, by what the caller can do about it.

use std::time::Duration;

/// An error of a broker. Texts never hold a password.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BrokerError {
    /// The URL or an option is wrong. Trying again does not help.
    #[error("{0}")]
    Config(String),
    /// The store cannot be reached, or answered with an error that may pass.
    #[error("cannot reach broker {url}: {reason}")]
    Unavailable {
        /// Without its password.
        url: String,
        /// What the store said.
        reason: String,
    },
    /// The store did not answer in time (a locked file, a stalled connection).
    #[error("broker {url} did not answer within {}s: {reason}", .after.as_secs_f32())]
    Timeout {
        /// Without its password.
        url: String,
        /// How long it was waited for.
        after: Duration,
        /// What was being waited for.
        reason: String,
    },
    /// The store is read-only, full or damaged; someone has to look at it.
    #[error("broker {url} cannot be used: {reason}")]
    Broken {
        /// Without its password.
        url: String,
        /// What the store said, and what to do.
        reason: String,
    },
    /// The broker refuses this very call, and will again: no route, no access, a queue declared otherwise.
    #[error("broker {url} refuses: {reason}")]
    Refused {
        /// Without its password.
        url: String,
        /// What it said, and what to do.
        reason: String,
    },
    /// One message is larger than the broker takes.
    #[error("message of {size} bytes is over the limit of {limit} bytes")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The consumer or broker was closed.
    #[error("the connection to the broker is closed")]
    Closed,
}

impl BrokerError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Timeout { .. })
    }
}

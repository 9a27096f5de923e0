//! What can go wrong with a result backend, by what the caller can do about it.

use std::time::Duration;

/// An error of a result backend. Texts never hold a password.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BackendError {
    /// The URL or an option is wrong. Trying again does not help.
    #[error("{0}")]
    Config(String),
    /// The store cannot be reached, or answered with an error that may pass.
    #[error("cannot reach result backend {url}: {reason}")]
    Unavailable {
        /// Without its password.
        url: String,
        /// What the store said.
        reason: String,
    },
    /// The store did not answer in time (a locked file, a stalled connection).
    #[error("result backend {url} did not answer within {}s: {reason}", .after.as_secs_f32())]
    Timeout {
        /// Without its password.
        url: String,
        /// How long it was waited for.
        after: Duration,
        /// What was being waited for.
        reason: String,
    },
    /// The store is read-only, full or damaged; someone has to look at it.
    #[error("result backend {url} cannot be used: {reason}")]
    Broken {
        /// Without its password.
        url: String,
        /// What the store said, and what to do.
        reason: String,
    },
    /// The store refuses this very call, and will again.
    #[error("result backend {url} refuses: {reason}")]
    Refused {
        /// Without its password.
        url: String,
        /// What it said, and what to do.
        reason: String,
    },
    /// Stores of this kind cannot do that.
    #[error(
        "{what} is not supported by result backend {url}: name another in `result_backend`, such as redis:// or sqlite:///"
    )]
    Unsupported {
        /// Without its password.
        url: String,
        /// What was asked for, as a noun.
        what: String,
    },
    /// The backend was closed.
    #[error("the connection to the result backend is closed")]
    Closed,
}

impl BackendError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Timeout { .. })
    }
}

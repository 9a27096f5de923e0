//! What can go wrong for a caller.

use std::time::Duration;

use crate::backend::BackendError;
use crate::broker::BrokerError;
use crate::keys::KeyError;

/// An error of a client's call.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// The broker refused or failed.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The result backend refused or failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Keys could not be asked for.
    #[error("keys: {0}")]
    Keys(#[from] KeyError),
    /// Keys were asked for, and neither the broker nor the result backend keeps any.
    #[error(
        "broker {0} keeps no keys (idempotency, unique, debounce, throttle, locks): they live in the result backend, so name one \
         in `result_backend` that can keep them, redis:// or sqlite:///"
    )]
    NoKeys(String),
    /// Results were asked for, but there is nowhere to look.
    #[error("no result backend is configured")]
    NoBackend,
    /// What was waited for did not come.
    #[error("no result came within {}s", .0.as_secs_f32())]
    WaitedTooLong(Duration),
}

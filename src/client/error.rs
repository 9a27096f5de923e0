//! What can go wrong for a caller.

use std::time::Duration;

use crate::backend::BackendError;
use crate::broker::BrokerError;

/// An error of a client's call.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// The broker refused or failed.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The result backend refused or failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Results were asked for, but there is nowhere to look.
    #[error("no result backend is configured")]
    NoBackend,
    /// What was waited for did not come.
    #[error("no result came within {}s", .0.as_secs_f32())]
    WaitedTooLong(Duration),
}

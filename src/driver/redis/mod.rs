//! Redis: kombu's layout of lists, and Celery's result keys.
//!
//! - [`address`], [`dial`], [`link`], [`errors`], [`script`]: the connection.
//! - [`keys`], [`scripts`]: where everything is kept, and what has to happen in one step (`lua/`).
//! - [`broker`], [`publish`], [`listen`], [`inspect`], [`dead`]: the broker.
//! - [`consumer`], [`claim`], [`settle`], [`recover`], [`wake`]: consumers.

mod address;
mod broker;
mod claim;
mod consumer;
mod dead;
mod dial;
mod errors;
mod inspect;
mod keys;
mod link;
mod listen;
mod publish;
mod recover;
mod script;
mod scripts;
mod settle;
mod wake;

use std::sync::Arc;

use super::ConnectOptions;
use crate::backend::{BackendError, ResultBackend};
use crate::broker::{Broker, BrokerError};
use crate::url::StoreUrl;

pub use broker::RedisBroker;

/// The broker behind a URL. Connects when it is first used.
pub(super) fn broker(url: &StoreUrl, options: &ConnectOptions) -> Result<Arc<dyn Broker>, BrokerError> {
    Ok(Arc::new(RedisBroker::open(url, options)?))
}

/// The result backend behind a URL. Connects when it is first used.
pub(super) fn backend(
    url: &StoreUrl,
    _options: ConnectOptions,
) -> Result<Arc<dyn ResultBackend>, BackendError> {
    Err(BackendError::Config(format!("{}:// is not built yet", url.scheme)))
}

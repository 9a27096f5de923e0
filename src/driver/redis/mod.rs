//! Redis.
//!
//! - `address`, `dial`, `link`, `errors`, `script`: the connection.
//! - `backend`, `record`, `watch`: results.

mod address;
mod backend;
mod dial;
mod errors;
mod link;
mod record;
mod script;
mod watch;

use std::sync::Arc;

use backend::RedisBackend;

use super::ConnectOptions;
use crate::backend::{BackendError, ResultBackend};
use crate::broker::{Broker, BrokerError};
use crate::url::StoreUrl;

pub use record::{ResultPlace, stored_state};

/// The broker behind a URL. Connects when it is first used.
pub(super) fn broker(url: &StoreUrl, _options: ConnectOptions) -> Result<Arc<dyn Broker>, BrokerError> {
    Err(BrokerError::Config(format!("{}:// is not built yet", url.scheme)))
}

/// The result backend behind a URL. Connects when it is first used.
pub(super) fn backend(
    url: &StoreUrl,
    options: &ConnectOptions,
) -> Result<Arc<dyn ResultBackend>, BackendError> {
    match RedisBackend::new(url, options) {
        Ok(backend) => Ok(Arc::new(backend)),
        Err(error) => Err(BackendError::Config(error.to_string())),
    }
}

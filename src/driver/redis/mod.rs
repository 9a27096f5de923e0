//! Redis.
//!
//! - [`address`], [`dial`], [`link`], [`errors`], [`script`]: the connection.

mod address;
mod dial;
mod errors;
mod link;
mod script;

use std::sync::Arc;

use super::ConnectOptions;
use crate::backend::{BackendError, ResultBackend};
use crate::broker::{Broker, BrokerError};
use crate::url::StoreUrl;

/// The broker behind a URL. Connects when it is first used.
pub(super) fn broker(url: &StoreUrl, _options: ConnectOptions) -> Result<Arc<dyn Broker>, BrokerError> {
    Err(BrokerError::Config(format!("{}:// is not built yet", url.scheme)))
}

/// The result backend behind a URL. Connects when it is first used.
pub(super) fn backend(
    url: &StoreUrl,
    _options: ConnectOptions,
) -> Result<Arc<dyn ResultBackend>, BackendError> {
    Err(BackendError::Config(format!("{}:// is not built yet", url.scheme)))
}

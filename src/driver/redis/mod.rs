//! Redis: kombu's layout of lists, and Celery's result keys.
//!
//! - `address`, `dial`, `wire`, `link`, `direct`, `errors`, `script`: the connection.
//! - `keys`, `scripts`: where everything is kept, and what has to happen in one step (`lua/`).
//! - `broker`, `publish`, `listen`, `hear`, `inspect`, `dead`, `schedule`, `topics`: the broker.
//! - `consumer`, `held`, `kept`, `claim`, `settle`, `recover`, `wake`: consumers.
//! - `backend`, `record`, `groups`, `watch`: results; `chord`: how parts of chords are counted.
//! - `own_keys`: keys that calls take, in either.
//! - `limits`: limits of all workers.

mod address;
mod backend;
mod broker;
mod chord;
mod claim;
mod consumer;
mod dead;
mod dial;
mod direct;
mod errors;
mod groups;
mod guard;
mod hear;
mod held;
mod inbox;
mod inspect;
mod keep;
mod kept;
mod keys;
mod limits;
mod link;
mod listen;
mod mentions;
mod own_keys;
mod publish;
mod record;
mod recover;
mod schedule;
mod script;
mod scripts;
mod settle;
mod topics;
mod values;
mod wake;
mod watch;
mod wire;

use std::sync::Arc;

use backend::RedisBackend;

use super::ConnectOptions;
use crate::backend::{BackendError, ResultBackend};
use crate::broker::{Broker, BrokerError};
use crate::url::StoreUrl;

pub use broker::RedisBroker;
pub use record::{ResultPlace, stored_state};

/// The broker behind a URL. Connects when it is first used.
pub(super) fn broker(url: &StoreUrl, options: &ConnectOptions) -> Result<Arc<dyn Broker>, BrokerError> {
    Ok(Arc::new(RedisBroker::open(url, options)?))
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

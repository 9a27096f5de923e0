//! From a URL to a store.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::{BackendError, ResultBackend};
use crate::broker::{Broker, BrokerError};
use crate::clock::Clock;
use crate::driver::memory::MemoryStore;

/// Who does the store's work in this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Threading {
    /// The thread that calls, and for all who call at the same time: no hop to another thread, but the
    /// future blocks the thread that polls it. For clients, which poll on a thread of the caller's.
    #[default]
    Inline,
    /// A thread of the store's own. For workers, whose event loop must not block.
    Dedicated,
}

/// How a process uses its stores.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Who does the store's work.
    pub threading: Threading,
    /// Where leases and due times come from.
    pub clock: Clock,
    /// How long opening the store may take.
    pub connect_timeout: Duration,
    /// How long one call may take, a publish above all.
    pub publish_timeout: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            threading: Threading::default(),
            clock: Clock::system(),
            connect_timeout: Duration::from_secs(5),
            publish_timeout: Duration::from_secs(5),
        }
    }
}

/// The broker behind a URL.
pub fn connect_broker(url: &str, options: ConnectOptions) -> Result<Arc<dyn Broker>, BrokerError> {
    match url.strip_prefix("memory://") {
        Some(name) => Ok(Arc::new(MemoryStore::named(name, &options.clock))),
        None => Err(BrokerError::Config("not built yet: use memory://".to_owned())),
    }
}

/// The result backend behind a URL.
pub fn connect_backend(url: &str, options: ConnectOptions) -> Result<Arc<dyn ResultBackend>, BackendError> {
    match url.strip_prefix("memory://") {
        Some(name) => Ok(Arc::new(MemoryStore::named(name, &options.clock))),
        None => Err(BackendError::Config("not built yet: use memory://".to_owned())),
    }
}

//! Sending, asking, waiting: one broker, perhaps one result backend, any number of callers.

mod error;
mod patience;
mod producer;
mod result;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use crate::backend::ResultBackend;
use crate::broker::{Broker, BrokerError};
use crate::driver::{self, ConnectOptions, Threading};

pub use error::ClientError;

/// How long one attempt of an inline store may block the thread of its caller.
const SLICE: Duration = Duration::from_millis(100);
/// Stands for "no limit": what is added to the clock must not overflow.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A client of one broker and at most one result backend. Connects on first use.
pub struct Client {
    broker_url: String,
    backend_url: Option<String>,
    options: ConnectOptions,
    /// Written once, by the first caller that connects; read by all.
    broker: OnceLock<Arc<dyn Broker>>,
    /// As `broker`.
    backend: OnceLock<Arc<dyn ResultBackend>>,
    /// Held while connecting, so that callers that come together connect once.
    connecting: Mutex<()>,
}

impl Client {
    /// A client that has not connected yet.
    ///
    /// An inline store blocks whoever polls it while the store is locked, and can neither be interrupted nor
    /// given a deadline for one call. So it is asked to give up after a moment, and asked again until the
    /// deadline: in between the caller may look for signals.
    pub fn new(broker_url: &str, backend_url: Option<&str>, options: ConnectOptions) -> Self {
        Self {
            broker_url: broker_url.to_owned(),
            backend_url: backend_url.map(str::to_owned),
            options,
            broker: OnceLock::new(),
            backend: OnceLock::new(),
            connecting: Mutex::new(()),
        }
    }

    /// The broker, connected.
    fn broker(&self) -> Result<&dyn Broker, BrokerError> {
        if self.broker.get().is_none() {
            let _connecting = self.connecting.lock();
            if self.broker.get().is_none() {
                let broker = driver::connect_broker(&self.broker_url, self.sliced())?;
                let _set_before = self.broker.set(broker);
            }
        }
        Ok(&**self.broker.get().expect("it was set above"))
    }

    /// The broker's URL without its password.
    pub async fn display_url(&self) -> Result<String, ClientError> {
        self.patiently(None, || async { Ok(self.broker()?.display_url()) }).await
    }

    /// The result backend, connected.
    fn backend(&self) -> Result<&dyn ResultBackend, ClientError> {
        let Some(url) = &self.backend_url else { return Err(ClientError::NoBackend) };
        if self.backend.get().is_none() {
            let _connecting = self.connecting.lock();
            if self.backend.get().is_none() {
                let backend = driver::connect_backend(url, self.sliced())?;
                let _set_before = self.backend.set(backend);
            }
        }
        Ok(&**self.backend.get().expect("it was set above"))
    }

    fn sliced(&self) -> ConnectOptions {
        let mut options = self.options.clone();
        if options.threading == Threading::Inline {
            options.connect_timeout = options.connect_timeout.min(SLICE);
            options.publish_timeout = options.publish_timeout.min(SLICE);
        }
        options
    }
}

#[cfg(test)]
mod tests;

//! Sending, asking, waiting: one broker, perhaps one result backend, any number of callers.

mod arrivals;
mod changes;
mod chord;
mod error;
mod groups;
mod keys;
mod patience;
mod producer;
mod result;
mod schedule;
mod topics;
mod values;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use crate::backend::ResultBackend;
use crate::broker::{Broker, BrokerError};
use crate::driver::{self, ConnectOptions};

pub use arrivals::Arrivals;
pub use changes::Changes;
pub use error::ClientError;
pub use patience::RetryPolicy;
pub use producer::Sending;

/// Stands for "no limit": what is added to the clock must not overflow.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A client of one broker and at most one result backend. Connects on first use.
pub struct Client {
    broker_url: String,
    backend_url: Option<String>,
    options: ConnectOptions,
    backend_options: ConnectOptions,
    /// The broker is a store in a file or in memory.
    embedded: bool,
    /// Results come on a queue, which must be there before their tasks are sent.
    replies: bool,
    /// Written once, by the first caller that connects; read by all.
    broker: OnceLock<Arc<dyn Broker>>,
    /// As `broker`.
    backend: OnceLock<Arc<dyn ResultBackend>>,
    /// Held while connecting, so that callers that come together connect once.
    connecting: Mutex<()>,
}

impl Client {
    /// A client that has not connected yet.
    pub fn new(broker_url: &str, backend_url: Option<&str>, options: ConnectOptions) -> Self {
        Self {
            broker_url: broker_url.to_owned(),
            backend_url: backend_url.map(str::to_owned),
            backend_options: options.clone(),
            options,
            embedded: ["sqlite:", "memory:"].iter().any(|scheme| broker_url.starts_with(scheme)),
            replies: backend_url.is_some_and(is_queue),
            broker: OnceLock::new(),
            backend: OnceLock::new(),
            connecting: Mutex::new(()),
        }
    }

    /// The same, with other options for the result backend.
    #[must_use]
    pub fn with_backend_options(mut self, options: ConnectOptions) -> Self {
        self.backend_options = options;
        self
    }

    /// The broker, connected.
    fn broker(&self) -> Result<&dyn Broker, BrokerError> {
        if self.broker.get().is_none() {
            let _connecting = self.connecting.lock();
            if self.broker.get().is_none() {
                let broker = driver::connect_broker(&self.broker_url, self.options.clone())?;
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
                let url = driver::backend_url(url, &self.broker_url);
                let backend = driver::connect_backend(url, self.backend_options.clone())?;
                let _set_before = self.backend.set(backend);
            }
        }
        Ok(&**self.backend.get().expect("it was set above"))
    }
}

/// Whether a backend of that URL sends results over a queue.
fn is_queue(url: &str) -> bool {
    ["rpc:", "amqp:", "amqps:", "pyamqp:"].iter().any(|scheme| url.starts_with(scheme))
}

#[cfg(test)]
mod retry_tests;
#[cfg(test)]
mod tests;

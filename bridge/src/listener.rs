//! `Listener`: what is broadcast, or replied, for Python.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use celeriac::broker;
use celeriac::client::ClientError;
use celeriac::protocol::Message;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use tokio::sync::{Mutex, watch};

use crate::completions::{Completions, Reply};
use crate::convert::maybe_seconds;
use crate::errors::Failure;
use crate::json::from_json;
use crate::runtime::{Engine, own_pid, same_process};
use crate::values::properties_to;

/// Stands for "no limit": what is added to the clock must not overflow.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// How long the goodbye to the store may take.
const GOODBYE: Duration = Duration::from_secs(2);

pub(crate) type Received<'py> = (Bound<'py, PyAny>, Bound<'py, PyDict>, Bound<'py, PyBytes>);

/// Hears one exchange, or is a mailbox for replies.
#[pyclass(frozen, module = "celeriac._core")]
pub(crate) struct Listener {
    pid: u32,
    hearing: Arc<Hearing>,
}

/// Shared by the Python object and the calls under way.
struct Hearing {
    /// None when closed. Held by the call that receives, for as long as it waits.
    inner: Mutex<Option<Box<dyn broker::Listener>>>,
    /// Written by `close`; the call that receives ends then.
    closed: watch::Sender<bool>,
    /// Counted by the listener, where it drops messages that nobody takes.
    missed: Option<Arc<AtomicU64>>,
}

impl Listener {
    pub(crate) fn new(listener: Box<dyn broker::Listener>) -> Self {
        let missed = listener.missed();
        let (inner, closed) = (Mutex::new(Some(listener)), watch::Sender::new(false));
        Self { pid: own_pid(), hearing: Arc::new(Hearing { inner, closed, missed }) }
    }
}

impl Hearing {
    async fn next(&self, timeout: Duration) -> Result<Option<Message>, Failure> {
        let mut closed = self.closed.subscribe();
        let mut inner = self.inner.lock().await;
        let Some(listener) = inner.as_mut() else { return Ok(None) };
        tokio::select! {
            // `wait_for` ends when the value is true; the sender lives as long as this call.
            _ = closed.wait_for(|closed| *closed) => Ok(None),
            message = listener.next() => match message {
                Ok(message) => Ok(Some(message)),
                Err(error) => Err(Failure::from(ClientError::from(error))),
            },
            () = tokio::time::sleep(timeout) => Ok(None),
        }
    }
}

#[pymethods]
impl Listener {
    /// The next message; None on time-out, and when closed.
    #[pyo3(signature = (timeout = None))]
    fn receive<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Option<Received<'py>>> {
        same_process(self.pid, "Listener")?;
        let timeout = maybe_seconds(timeout)?.unwrap_or(FOREVER);
        let message = Engine::current(py)?.wait(py, self.hearing.next(timeout))?;
        message.map(|message| received(py, &message)).transpose()
    }

    /// The same for a coroutine: `completions` is told of it under `token`.
    fn receive_later(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        completions: &Completions,
        token: i64,
    ) -> PyResult<()> {
        same_process(self.pid, "Listener")?;
        let timeout = maybe_seconds(timeout)?.unwrap_or(FOREVER);
        let (queue, hearing) = (completions.queue()?, self.hearing.clone());
        let call = async move { hearing.next(timeout).await.map(Reply::Heard) };
        queue.start(Engine::current(py)?, token, call);
        Ok(())
    }

    /// How many messages were dropped, since nobody took them in time.
    #[getter]
    fn missed(&self) -> u64 {
        self.hearing.missed.as_ref().map_or(0, |missed| missed.load(Ordering::Relaxed))
    }

    /// Stops listening, and removes a mailbox from the store.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        same_process(self.pid, "Listener")?;
        self.hearing.closed.send_replace(true);
        Engine::current(py)?.wait(py, async {
            if let Some(mut listener) = self.hearing.inner.lock().await.take() {
                let _closed_or_late = tokio::time::timeout(GOODBYE, listener.close()).await;
            }
            Ok(())
        })
    }

    fn __repr__(&self) -> String {
        format!("<Listener of process {}>", self.pid)
    }
}

impl Drop for Listener {
    /// In a forked child the connections are the parent's.
    fn drop(&mut self) {
        if own_pid() != self.pid {
            std::mem::forget(self.hearing.clone());
        }
    }
}

/// A message as Python gets it: headers, properties, body.
pub(crate) fn received<'py>(py: Python<'py>, message: &Message) -> PyResult<Received<'py>> {
    // Nobody can do anything about headers that cannot be read: the body says it all.
    let headers = from_json(py, &message.headers, None);
    let headers = headers.unwrap_or_else(|_| PyDict::new(py).into_any());
    let properties = properties_to(py, &message.properties)?;
    Ok((headers, properties, PyBytes::new(py, &message.body)))
}

//! `Inbox`: a mailbox for replies, read by one Python thread at a time.

use std::time::Duration;

use celeriac::broker::Listener;
use celeriac::client::ClientError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::convert::maybe_seconds;
use crate::errors::Failure;
use crate::json::from_json;
use crate::runtime::{Engine, same_process};

/// How long the goodbye to the store may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// Replies to a question.
#[pyclass(frozen, module = "celeriac._core")]
pub(crate) struct Inbox {
    pid: u32,
    /// None when closed. Locked by whoever waits for a reply.
    listener: Mutex<Option<Box<dyn Listener>>>,
}

impl Inbox {
    pub(crate) fn new(listener: Box<dyn Listener>) -> Self {
        Self { pid: std::process::id(), listener: Mutex::new(Some(listener)) }
    }
}

#[pymethods]
impl Inbox {
    /// The next reply: headers and body. None after the time, or when closed.
    #[pyo3(signature = (timeout = None))]
    fn next<'py>(
        &self,
        py: Python<'py>,
        timeout: Option<f64>,
    ) -> PyResult<Option<(Bound<'py, PyAny>, Bound<'py, PyBytes>)>> {
        same_process(self.pid, "Inbox")?;
        let within = maybe_seconds(timeout)?;
        let waiting = async {
            let mut listener = self.listener.lock().await;
            let Some(listener) = listener.as_mut() else { return Ok(None) };
            let next = listener.next();
            let next = match within {
                None => next.await,
                Some(within) => match tokio::time::timeout(within, next).await {
                    Ok(next) => next,
                    Err(_) => return Ok(None),
                },
            };
            next.map(Some).map_err(|error| Failure::from(ClientError::from(error)))
        };
        let Some(message) = Engine::current(py)?.wait(py, waiting)? else { return Ok(None) };
        let headers = from_json(py, &message.headers, None)?;
        Ok(Some((headers, PyBytes::new(py, &message.body))))
    }

    /// Removes it from the store.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        same_process(self.pid, "Inbox")?;
        let closing = async {
            if let Some(mut listener) = self.listener.lock().await.take() {
                let _closed_or_late = timeout(GOODBYE, listener.close()).await;
            }
            Ok(())
        };
        Engine::current(py)?.wait(py, closing)
    }
}

impl Drop for Inbox {
    /// In a forked child the connection is the parent's.
    fn drop(&mut self) {
        if std::process::id() != self.pid {
            std::mem::forget(self.listener.get_mut().take());
        }
    }
}

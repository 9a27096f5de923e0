//! `Consumer` and `Delivery`: messages taken by hand, for commands that move them or look at them.

use std::sync::Arc;
use std::time::Duration;

use celeriac::broker::{self, BrokerError, ClaimId, Commit, Committed, Credit, Settle};
use celeriac::client::ClientError;
use celeriac::protocol;
use parking_lot::Mutex;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::convert::seconds;
use crate::errors::Failure;
use crate::json::from_json;
use crate::runtime::{Engine, own_pid, same_process};
use crate::values::{Publication, properties_to};

/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(15);

/// Takes messages from queues. What it has taken and not settled goes back when it is closed.
#[pyclass(frozen, module = "celeriac._core")]
pub(crate) struct Consumer {
    pid: u32,
    /// None when closed. Locked only while attached, for the time of a clone.
    inner: Mutex<Option<Arc<dyn broker::Consumer>>>,
}

impl Consumer {
    pub(crate) fn new(consumer: Box<dyn broker::Consumer>) -> Self {
        Self { pid: own_pid(), inner: Mutex::new(Some(consumer.into())) }
    }

    fn inner(&self) -> PyResult<Arc<dyn broker::Consumer>> {
        same_process(self.pid, "Consumer")?;
        self.inner.lock().clone().ok_or_else(|| PyRuntimeError::new_err("this Consumer is closed"))
    }

    fn now<T: Send>(
        py: Python<'_>,
        call: impl Future<Output = Result<T, BrokerError>> + Send,
    ) -> PyResult<T> {
        let call = async { call.await.map_err(|error| Failure::from(ClientError::from(error))) };
        Engine::current(py)?.wait(py, call)
    }
}

#[pymethods]
impl Consumer {
    /// Up to so many messages; none when none came within the time.
    fn claim(&self, py: Python<'_>, count: usize, timeout: f64) -> PyResult<Vec<Delivery>> {
        let inner = self.inner()?;
        let timeout = seconds(timeout)?.unwrap_or(Duration::MAX);
        let credit = Credit { count, bytes: usize::MAX };
        let claimed = Self::now(py, async {
            tokio::time::timeout(timeout, inner.claim(credit)).await.unwrap_or_else(|_| Ok(Vec::new()))
        })?;
        Ok(claimed.into_iter().map(Delivery).collect())
    }

    #[expect(clippy::needless_pass_by_value, reason = "PyO3 makes lists, it lends none")]
    fn settle(&self, py: Python<'_>, claims: Vec<(u64, u64)>, how: &str) -> PyResult<usize> {
        let settle = match how {
            "ack" => Settle::Ack,
            "requeue" => Settle::Requeue,
            "release" => Settle::Release,
            other => {
                return Err(PyValueError::new_err(format!(
                    "a claim is settled by ack, requeue or release, not by {other:?}"
                )));
            }
        };
        let inner = self.inner()?;
        let commit = |&(id, fence): &(u64, u64)| Commit {
            claim: Some(ClaimId { id, fence }),
            settle: settle.clone(),
            ..Commit::default()
        };
        let batch: Vec<Commit> = claims.iter().map(commit).collect();
        let committed = Self::now(py, async { inner.commit(&batch).await })?;
        Ok(committed.iter().filter(|one| **one == Committed::Stale).count())
    }

    /// Whether it still held what it had taken.
    fn renew(&self, py: Python<'_>) -> PyResult<bool> {
        let inner = self.inner()?;
        Ok(!Self::now(py, async { inner.renew().await })?.lost)
    }

    /// Gives back what is not settled.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        same_process(self.pid, "Consumer")?;
        let Some(inner) = self.inner.lock().take() else { return Ok(()) };
        Self::now(py, async {
            // A server that does not answer gives everything back when it notices that we are gone.
            tokio::time::timeout(GOODBYE, inner.close()).await.unwrap_or(Ok(()))
        })
    }
}

impl Drop for Consumer {
    /// In a forked child the connections are the parent's.
    fn drop(&mut self) {
        if own_pid() != self.pid {
            std::mem::forget(self.inner.get_mut().take());
        }
    }
}

/// A message that was taken. Immutable.
#[pyclass(frozen, module = "celeriac._core")]
pub(crate) struct Delivery(broker::Delivery);

#[pymethods]
impl Delivery {
    /// Names the claim for `settle`.
    #[getter]
    fn claim(&self) -> (u64, u64) {
        (self.0.claim.id, self.0.claim.fence)
    }

    #[getter]
    fn queue(&self) -> &str {
        &self.0.queue
    }

    #[getter]
    fn exchange(&self) -> &str {
        &self.0.exchange
    }

    #[getter]
    fn routing_key(&self) -> &str {
        &self.0.routing_key
    }

    #[getter]
    fn redelivered(&self) -> bool {
        self.0.redelivered
    }

    /// None when they cannot be read.
    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        from_json(py, &self.0.message.headers, None).ok()
    }

    #[getter]
    fn properties<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        properties_to(py, &self.0.message.properties)
    }

    #[getter]
    fn body<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.message.body)
    }

    /// The same message, byte for byte, to be sent elsewhere.
    fn publication(&self, exchange: String, routing_key: String) -> Publication {
        let message = self.0.message.clone();
        Publication(protocol::Publication { exchange, routing_key, due_ms: None, declare: None, message })
    }
}

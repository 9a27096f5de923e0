//! `Arrivals`: the final records of many tasks, for Python.

use std::sync::{Arc, Weak};

use celeriac::client::{self, Client};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tokio::sync::Mutex;

use crate::completions::{Completions, Reply};
use crate::convert::maybe_seconds;
use crate::errors::Failure;
use crate::runtime::{Engine, same_process};
use crate::values::ResultRecord;

/// Follows some tasks to their ends.
#[pyclass(frozen, module = "celeriac._core")]
pub(crate) struct Arrivals {
    pid: u32,
    /// Does not keep a client open that was closed.
    client: Weak<Client>,
    /// Held by the call that waits.
    inner: Arc<Mutex<client::Arrivals>>,
}

impl Arrivals {
    pub(crate) fn new(client: &Arc<Client>, task_ids: Vec<String>, before: Vec<String>) -> Self {
        let inner = Arc::new(Mutex::new(client::Arrivals::new(task_ids, before)));
        Self { pid: std::process::id(), client: Arc::downgrade(client), inner }
    }

    fn client(&self) -> PyResult<Arc<Client>> {
        same_process(self.pid, "Arrivals")?;
        self.client.upgrade().ok_or_else(|| PyRuntimeError::new_err("the Client of these Arrivals is closed"))
    }
}

#[pymethods]
impl Arrivals {
    /// Final records that were not given before; none when all have been given.
    #[pyo3(signature = (timeout = None))]
    fn next(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Vec<ResultRecord>> {
        let (client, timeout) = (self.client()?, maybe_seconds(timeout)?);
        let records = Engine::current(py)?.wait(py, async {
            let records = self.inner.lock().await.next(&client, timeout).await;
            records.map_err(Failure::from)
        })?;
        Ok(records.into_iter().map(ResultRecord).collect())
    }

    fn next_later(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        completions: &Completions,
        token: i64,
    ) -> PyResult<()> {
        let (client, timeout) = (self.client()?, maybe_seconds(timeout)?);
        let inner = Arc::clone(&self.inner);
        completions.queue()?.start(Engine::current(py)?, token, async move {
            let records = inner.lock().await.next(&client, timeout).await;
            let records = records.map_err(Failure::from)?;
            Ok(Reply::Records(records.into_iter().map(Some).collect()))
        });
        Ok(())
    }

    fn __repr__(&self) -> String {
        format!("<Arrivals of process {}>", self.pid)
    }
}

impl Drop for Arrivals {
    /// In a forked child the connections are the parent's.
    fn drop(&mut self) {
        if std::process::id() != self.pid {
            std::mem::forget(Arc::clone(&self.inner));
        }
    }
}

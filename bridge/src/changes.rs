//! `Changes`: the records of many tasks, each time one changes, for Python.

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

/// Follows some tasks.
#[pyclass(frozen, module = "celeriac._core")]
pub(crate) struct Changes {
    pid: u32,
    /// Does not keep a client open that was closed.
    client: Weak<Client>,
    /// Held by the call that waits.
    inner: Arc<Mutex<client::Changes>>,
}

impl Changes {
    pub(crate) fn new(client: &Arc<Client>, task_ids: Vec<String>) -> Self {
        let inner = Arc::new(Mutex::new(client::Changes::new(task_ids)));
        Self { pid: std::process::id(), client: Arc::downgrade(client), inner }
    }

    fn client(&self) -> PyResult<Arc<Client>> {
        same_process(self.pid, "Changes")?;
        self.client.upgrade().ok_or_else(|| PyRuntimeError::new_err("the Client of these Changes is closed"))
    }
}

#[pymethods]
impl Changes {
    /// Records that are new; the first time those that are stored.
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
        format!("<Changes of process {}>", self.pid)
    }
}

impl Drop for Changes {
    /// In a forked child the connections are the parent's.
    fn drop(&mut self) {
        if std::process::id() != self.pid {
            std::mem::forget(Arc::clone(&self.inner));
        }
    }
}

//! `Schedule`: what the broker keeps of periodic tasks, for a scheduler in Python.

use celeriac::broker::{Firing, ScheduleLease};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::client::{Client, Retry, sending};
use crate::convert::seconds;
use crate::values::Publication;

/// One schedule of a client's broker.
#[pyclass(frozen, module = "celeriac._core")]
pub(crate) struct Schedule {
    client: Py<Client>,
    name: String,
}

#[pymethods]
impl Schedule {
    #[new]
    fn new(client: Py<Client>, name: String) -> Self {
        Self { client, name }
    }

    fn lease(&self, py: Python<'_>, holder: &str, ttl: f64) -> PyResult<(bool, Option<String>)> {
        let ttl = seconds(ttl)?.unwrap_or_default();
        let lease = self
            .client
            .get()
            .now(py, |client| async move { client.schedule_lease(&self.name, holder, ttl).await })?;
        Ok(match lease {
            ScheduleLease::Held => (true, Some(holder.to_owned())),
            ScheduleLease::Other(other) => (false, other),
        })
    }

    fn release(&self, py: Python<'_>, holder: &str) -> PyResult<()> {
        let release = |client: std::sync::Arc<celeriac::client::Client>| async move {
            client.schedule_release(&self.name, holder).await
        };
        self.client.get().now(py, release)
    }

    #[expect(clippy::needless_pass_by_value, reason = "PyO3 makes lists, it lends none")]
    #[expect(clippy::too_many_arguments, reason = "a moment, and those of `Client.publish`")]
    #[pyo3(signature = (holder, ttl, entry, due_ms, state, batch, timeout = None, retry = None, results = false))]
    fn fire(
        &self,
        py: Python<'_>,
        holder: String,
        ttl: f64,
        entry: String,
        due_ms: i64,
        state: String,
        batch: Vec<Py<Publication>>,
        timeout: Option<f64>,
        retry: Option<Retry>,
        results: bool,
    ) -> PyResult<&'static str> {
        let how = sending(timeout, retry, results)?;
        let firing = Firing {
            schedule: self.name.clone(),
            holder,
            lease: seconds(ttl)?.unwrap_or_default(),
            entry,
            due_ms,
            state,
            publications: batch.iter().map(|one| one.get().0.clone()).collect(),
        };
        let firing = &firing;
        let fired = self.client.get().now(py, |client| async move { client.fire(firing, how).await })?;
        Ok(fired.as_str())
    }

    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let state =
            self.client.get().now(py, |client| async move { client.schedule_state(&self.name).await })?;
        let entries = PyDict::new(py);
        for (entry, last) in state.entries {
            entries.set_item(entry, (last.due_ms, last.state))?;
        }
        let dict = PyDict::new(py);
        dict.set_item("entries", entries)?;
        dict.set_item("changes", state.changes)?;
        dict.set_item("holder", state.holder)?;
        Ok(dict)
    }

    fn change(&self, py: Python<'_>, entry: &str, change: Option<String>) -> PyResult<()> {
        self.client
            .get()
            .now(py, |client| async move { client.schedule_change(&self.name, entry, change).await })
    }
}

//! `ChordPart`: a part of a chord that has ended, as the child that ended it hands it to the supervisor.

use bytes::Bytes;
use celeriac::protocol;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// See [`protocol::ChordPart`]. Immutable.
#[pyclass(frozen, module = "celeriac._core")]
pub(crate) struct ChordPart(pub(crate) protocol::ChordPart);

#[pymethods]
impl ChordPart {
    #[new]
    #[expect(clippy::too_many_arguments, reason = "the fields of the value")]
    #[pyo3(signature = (group_id, task_id, group_index, state, element, *, expires_ms = None, group_expires_ms = None, claim_ms = 6000))]
    fn new(
        group_id: String,
        task_id: String,
        group_index: Option<i64>,
        state: String,
        element: &Bound<'_, PyBytes>,
        expires_ms: Option<u64>,
        group_expires_ms: Option<u64>,
        claim_ms: u64,
    ) -> Self {
        let element = Bytes::copy_from_slice(element.as_bytes());
        Self(protocol::ChordPart {
            group_id,
            task_id,
            group_index,
            state,
            element,
            expires_ms,
            group_expires_ms,
            claim_ms,
        })
    }

    #[getter]
    fn group_id(&self) -> &str {
        &self.0.group_id
    }

    #[getter]
    fn task_id(&self) -> &str {
        &self.0.task_id
    }

    #[getter]
    fn group_index(&self) -> Option<i64> {
        self.0.group_index
    }

    #[getter]
    fn state(&self) -> &str {
        &self.0.state
    }

    #[getter]
    fn element<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.element)
    }

    fn __repr__(&self) -> String {
        format!("<ChordPart {} of {} {}>", self.0.task_id, self.0.group_id, self.0.state)
    }
}

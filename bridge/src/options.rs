//! Option dicts: read by name, each error names the option, and what is left over is an error too.

use std::time::Duration;

use pyo3::conversion::FromPyObjectOwned;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::convert::seconds;
use crate::errors::Class;

/// The options of `what` that have not been read yet.
pub(crate) struct Options<'py> {
    what: String,
    left: Bound<'py, PyDict>,
}

impl<'py> Options<'py> {
    pub(crate) fn new(what: impl Into<String>, dict: &Bound<'py, PyDict>) -> PyResult<Self> {
        Ok(Self { what: what.into(), left: dict.copy()? })
    }

    /// Reads an option; none when it is absent or None.
    pub(crate) fn take<T: FromPyObjectOwned<'py>>(&self, name: &str) -> PyResult<Option<T>> {
        let py = self.left.py();
        let Some(value) = self.left.get_item(name)? else { return Ok(None) };
        self.left.del_item(name)?;
        if value.is_none() {
            return Ok(None);
        }
        match value.extract() {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                let error: PyErr = error.into();
                Err(self.wrong(name, &error.value(py).to_string()))
            }
        }
    }

    /// Reads an option that must be there.
    pub(crate) fn need<T: FromPyObjectOwned<'py>>(&self, name: &str) -> PyResult<T> {
        self.take(name)?.ok_or_else(|| self.wrong(name, "it is missing"))
    }

    /// Reads a time in seconds; none is no limit.
    pub(crate) fn duration(&self, name: &str) -> PyResult<Option<Duration>> {
        let Some(value) = self.take::<f64>(name)? else { return Ok(None) };
        if value.is_nan() || value < 0.0 {
            let text = format!("{value} is no time in seconds");
            return Err(self.wrong(name, &text));
        }
        seconds(value)
    }

    pub(crate) fn py(&self) -> Python<'py> {
        self.left.py()
    }

    /// The error that names an option of these.
    pub(crate) fn wrong(&self, name: &str, why: &str) -> PyErr {
        Class::Improper.error(self.py(), format!("option {name:?} of {}: {why}", self.what))
    }

    /// Complains about what nobody has read.
    pub(crate) fn finish(self) -> PyResult<()> {
        if self.left.is_empty() {
            return Ok(());
        }
        let names = self.left.keys();
        Err(Class::Improper
            .error(self.left.py(), format!("{} has no option {}", self.what, names.get_item(0)?.repr()?)))
    }
}

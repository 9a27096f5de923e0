//! One table: engine error to Python exception. The classes live in `celeriac.exceptions` and are imported
//! when the first one is raised.

use celeriac::backend::BackendError;
use celeriac::broker::BrokerError;
use pyo3::exceptions::{PyException, PyRuntimeError, PyTimeoutError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

/// Names of exception classes of `celeriac.exceptions`.
#[derive(Clone, Copy)]
pub(crate) enum Class {
    Encode,
    Decode,
    Operational,
    Improper,
}

/// The imported classes, by [`Class`]. Written once by whoever raises first.
static CLASSES: [PyOnceLock<Py<PyType>>; 4] =
    [PyOnceLock::new(), PyOnceLock::new(), PyOnceLock::new(), PyOnceLock::new()];

impl Class {
    fn name(self) -> &'static str {
        match self {
            Self::Encode => "EncodeError",
            Self::Decode => "DecodeError",
            Self::Operational => "OperationalError",
            Self::Improper => "ImproperlyConfigured",
        }
    }

    fn of(self, py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
        CLASSES[self as usize].import(py, "celeriac.exceptions", self.name())
    }

    /// An instance with this text.
    pub(crate) fn error(self, py: Python<'_>, text: impl Into<String>) -> PyErr {
        match self.of(py) {
            Ok(class) => PyErr::from_type(class.clone(), text.into()),
            Err(import_error) => import_error,
        }
    }

    /// The same error if it is of this class already, or is no `Exception` (`KeyboardInterrupt`); else an
    /// instance of this class with its text and with it as cause.
    pub(crate) fn wrap(self, py: Python<'_>, cause: PyErr) -> PyErr {
        let same = self.of(py).is_ok_and(|class| cause.is_instance(py, class));
        if same || !cause.is_instance_of::<PyException>(py) {
            return cause;
        }
        let error = self.error(py, cause.value(py).to_string());
        error.set_cause(py, Some(cause));
        error
    }
}

/// What went wrong in the engine, kept as a Rust value until a Python thread wants it.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The broker refused or failed.
    Broker(BrokerError),
    /// The result backend refused or failed.
    Backend(BackendError),
    /// A wait ran out.
    TimedOut(String),
    /// The caller used something that it may not use (any more).
    Misuse(String),
}

impl From<BrokerError> for Failure {
    fn from(error: BrokerError) -> Self {
        Self::Broker(error)
    }
}

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Self {
        Self::Backend(error)
    }
}

impl Failure {
    /// The exception to raise.
    pub(crate) fn into_py(self, py: Python<'_>) -> PyErr {
        match self {
            Self::Broker(error @ BrokerError::Config(_)) => Class::Improper.error(py, error.to_string()),
            Self::Broker(error) => Class::Operational.error(py, error.to_string()),
            Self::Backend(error @ BackendError::Config(_)) => Class::Improper.error(py, error.to_string()),
            Self::Backend(error) => Class::Operational.error(py, error.to_string()),
            Self::TimedOut(text) => PyTimeoutError::new_err(text),
            Self::Misuse(text) => PyRuntimeError::new_err(text),
        }
    }
}

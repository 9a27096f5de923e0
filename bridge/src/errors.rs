//! One table: engine error to Python exception. The classes live in `celeriac.exceptions` and are imported
//! when the first one is raised.

use celeriac::backend::BackendError;
use celeriac::broker::BrokerError;
use celeriac::client::ClientError;
use pyo3::exceptions::{PyException, PyNotImplementedError, PyTimeoutError};
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
pub(crate) struct Failure(ClientError);

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self(error)
    }
}

impl Failure {
    /// The exception to raise.
    pub(crate) fn into_py(self, py: Python<'_>) -> PyErr {
        let text = self.0.to_string();
        match self.0 {
            ClientError::Broker(BrokerError::Config(_))
            | ClientError::Backend(BackendError::Config(_))
            | ClientError::NoBackend
            | ClientError::NoKeys(_) => Class::Improper.error(py, text),
            ClientError::Backend(BackendError::Unsupported { .. }) => PyNotImplementedError::new_err(text),
            ClientError::Broker(_) | ClientError::Backend(_) | ClientError::Keys(_) => {
                Class::Operational.error(py, text)
            }
            ClientError::WaitedTooLong(_) => PyTimeoutError::new_err(text),
        }
    }
}

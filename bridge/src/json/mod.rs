//! Python objects to kombu's JSON and back, in one pass with no tree between.
//!
//! What it accepts, refuses and writes is what kombu's encoder over Python's `json` does: extended types as
//! `{"__type__": ..., "__value__": ...}`, ASCII output, bare `NaN` and `Infinity`, exact integers, lone
//! surrogates. Nesting is bounded, so neither a cycle nor a hostile body can exhaust the stack.

mod decode;
mod encode;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyString};

pub(crate) use decode::{from_json, known_key, object_into, open_pair};
pub(crate) use encode::{append_json, append_text, to_json};

/// Levels of nesting that are read and written.
const MAX_DEPTH: usize = 512;

/// Encodes as kombu's JSON does.
#[pyfunction]
#[pyo3(signature = (obj, default = None))]
pub(crate) fn json_dumps<'py>(
    obj: &Bound<'py, PyAny>,
    default: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyBytes>> {
    let text = to_json(obj, default)?;
    Ok(PyBytes::new(obj.py(), &text))
}

/// Decodes kombu's JSON.
#[pyfunction]
#[pyo3(signature = (data, decoders = None))]
pub(crate) fn json_loads<'py>(
    data: &Bound<'py, PyAny>,
    decoders: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = data.py();
    if let Ok(bytes) = data.cast::<PyBytes>() {
        from_json(py, bytes.as_bytes(), decoders)
    } else if let Ok(text) = data.cast::<PyString>() {
        match text.to_str() {
            Ok(text) => from_json(py, text.as_bytes(), decoders),
            Err(error) => Err(crate::errors::Class::Decode.wrap(py, error)),
        }
    } else if let Ok(bytes) = data.cast::<PyByteArray>() {
        from_json(py, &bytes.to_vec(), decoders)
    } else if let Ok(buffer) = PyBuffer::<u8>::get(data) {
        from_json(py, &buffer.to_vec(py)?, decoders)
    } else {
        let kind = data.get_type();
        Err(PyTypeError::new_err(format!("json_loads takes bytes, bytearray, memoryview or str, not {kind}")))
    }
}

//! Body compression for Python.

use celeriac::protocol;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::Class;

/// Compresses with gzip/zlib, bzip2 or zstd, by name or content type.
#[pyfunction]
pub(crate) fn compress<'py>(
    py: Python<'py>,
    data: &[u8],
    content_type: &str,
) -> PyResult<Bound<'py, PyBytes>> {
    let packed = py.detach(|| protocol::compress(data, content_type));
    let packed = packed.map_err(|error| Class::Encode.error(py, format!("{content_type}: {error}")))?;
    Ok(PyBytes::new(py, &packed))
}

/// Undoes [`compress`]; never gives, or holds, more than `limit` bytes.
#[pyfunction]
pub(crate) fn decompress<'py>(
    py: Python<'py>,
    data: &[u8],
    content_type: &str,
    limit: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    let plain = py.detach(|| protocol::decompress(data, content_type, limit));
    let plain = plain.map_err(|error| Class::Decode.error(py, format!("{content_type}: {error}")))?;
    Ok(PyBytes::new(py, &plain))
}

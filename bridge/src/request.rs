//! The headers of a message become the fields of a task's request, its arguments among them.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::json::from_json;

/// Fills the fields in. Tells whether it has: a body that is not as protocol 2 wants it, or not plain JSON, is
/// left to others, and so are the headers then.
#[pyfunction]
pub(crate) fn fill_request(
    headers: &Bound<'_, PyDict>,
    properties: &Bound<'_, PyDict>,
    body: &Bound<'_, PyBytes>,
    decoders: Option<&Bound<'_, PyDict>>,
    delivery: (Bound<'_, PyAny>, Bound<'_, PyAny>, Bound<'_, PyAny>),
    node: &Bound<'_, PyAny>,
    tag: &Bound<'_, PyAny>,
) -> PyResult<bool> {
    let py = headers.py();
    // Errors are found again, and told of, by who reads such bodies.
    let Ok(payload) = from_json(py, body.as_bytes(), decoders) else { return Ok(false) };
    if !open_payload(headers, &payload)? {
        return Ok(false);
    }
    let info = PyDict::new(py);
    let (exchange, routing_key, redelivered) = delivery;
    info.set_item(intern!(py, "exchange"), exchange)?;
    info.set_item(intern!(py, "routing_key"), routing_key)?;
    info.set_item(intern!(py, "priority"), properties.get_item(intern!(py, "priority"))?)?;
    info.set_item(intern!(py, "redelivered"), redelivered)?;
    headers.set_item(intern!(py, "delivery_info"), info)?;
    headers.set_item(intern!(py, "properties"), properties)?;
    headers.set_item(intern!(py, "reply_to"), properties.get_item(intern!(py, "reply_to"))?)?;
    headers.set_item(intern!(py, "correlation_id"), properties.get_item(intern!(py, "correlation_id"))?)?;
    headers.set_item(intern!(py, "hostname"), node)?;
    headers.set_item(intern!(py, "called_directly"), false)?;
    // Names that begin so are ours; a message must not set them.
    headers.set_item(intern!(py, "_children"), py.None())?;
    headers.set_item(intern!(py, "_tag"), tag)?;
    headers.set_item(intern!(py, "_follow_ups"), PyList::empty(py))?;
    let retries = intern!(py, "retries");
    if headers.get_item(retries)?.is_none_or(|count| count.is_none()) {
        headers.set_item(retries, 0)?;
    }
    let custom = intern!(py, "headers");
    if headers.contains(custom)? {
        headers.del_item(custom)?;
    }
    Ok(true)
}

/// `[args, kwargs, embed]`, or nothing.
fn open_payload(headers: &Bound<'_, PyDict>, payload: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = headers.py();
    let Ok(payload) = payload.cast_exact::<PyList>() else { return Ok(false) };
    if payload.len() != 3 {
        return Ok(false);
    }
    let (args, kwargs, embed) = (payload.get_item(0)?, payload.get_item(1)?, payload.get_item(2)?);
    if !(args.is_exact_instance_of::<PyList>() && kwargs.is_exact_instance_of::<PyDict>()) {
        return Ok(false);
    }
    if !embed.is_none() {
        let Ok(embed) = embed.cast_exact::<PyDict>() else { return Ok(false) };
        if !embed.is_empty() {
            let names = [
                intern!(py, "callbacks"),
                intern!(py, "errbacks"),
                intern!(py, "chain"),
                intern!(py, "chord"),
            ];
            for name in names {
                headers.set_item(name, embed.get_item(name)?)?;
            }
        }
    }
    headers.set_item(intern!(py, "args"), args)?;
    headers.set_item(intern!(py, "kwargs"), kwargs)?;
    Ok(true)
}

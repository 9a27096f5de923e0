//! A message becomes the fields of a task's request, in one step: headers, arguments, and what the worker adds.

use celeriac::worker::pool::RequestTag;
use celeriac::worker::pool::process::frame::{Unpacked, UnpackedMessage};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList};

use crate::json::{from_json, known_key, object_into, open_pair};
use crate::values::properties_dict;

/// How nearly every body ends: nothing follows.
const NO_EMBED: &[u8] = br#", {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#;
/// Fields that nearly every request has. None is what they are without a header.
const USUAL: [&str; 31] = [
    "lang",
    "task",
    "id",
    "shadow",
    "eta",
    "expires",
    "group",
    "group_index",
    "timelimit",
    "root_id",
    "parent_id",
    "argsrepr",
    "kwargsrepr",
    "origin",
    "stamped_headers",
    "stamps",
    "args",
    "kwargs",
    "callbacks",
    "errbacks",
    "chain",
    "chord",
    "delivery_info",
    "properties",
    "reply_to",
    "correlation_id",
    "hostname",
    "_children",
    "_tag",
    "_follow_ups",
    "_parts",
];

/// The fields; none when the message is not as protocol 2 wants it, or not plain JSON: others read such a message step
/// by step, and tell what is wrong.
pub(crate) fn request_fields<'py>(
    py: Python<'py>,
    tag: RequestTag,
    execution: &Unpacked<'_>,
    decoders: Option<&Bound<'py, PyDict>>,
    node: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyDict>>> {
    let message = &execution.message;
    if message.content_type != "application/json" {
        return Ok(None);
    }
    let fields = usual_fields(py)?;
    if !matches!(object_into(message.headers, &fields), Ok(true)) || is_compressed(&fields)? {
        return Ok(None);
    }
    if !open_body(&fields, message, decoders)? {
        return Ok(None);
    }
    add_delivery(&fields, execution)?;
    fields.set_item(intern!(py, "hostname"), node)?;
    fields.set_item(intern!(py, "called_directly"), false)?;
    // Names that begin so are ours; a message must not set them.
    fields.set_item(intern!(py, "_children"), py.None())?;
    fields.set_item(intern!(py, "_tag"), tag)?;
    fields.set_item(intern!(py, "_follow_ups"), PyList::empty(py))?;
    fields.set_item(intern!(py, "_parts"), py.None())?;
    let retries = intern!(py, "retries");
    if fields.get_item(retries)?.is_none_or(|count| count.is_none()) {
        fields.set_item(retries, 0)?;
    }
    let custom = intern!(py, "headers");
    if fields.contains(custom)? {
        fields.del_item(custom)?;
    }
    Ok(Some(fields))
}

/// A dict that has room for all, so that it does not grow step by step.
fn usual_fields(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    static FIELDS: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    let make = || {
        let fields = PyDict::new(py);
        USUAL.iter().try_for_each(|name| fields.set_item(known_key(py, name), py.None()))?;
        PyResult::Ok(fields.unbind())
    };
    FIELDS.get_or_try_init(py, make)?.bind(py).copy()
}

fn is_compressed(fields: &Bound<'_, PyDict>) -> PyResult<bool> {
    match fields.get_item(intern!(fields.py(), "compression"))? {
        Some(method) => method.is_truthy(),
        None => Ok(false),
    }
}

/// `[args, kwargs, embed]`.
fn open_body<'py>(
    fields: &Bound<'py, PyDict>,
    message: &UnpackedMessage<'_>,
    decoders: Option<&Bound<'py, PyDict>>,
) -> PyResult<bool> {
    let py = fields.py();
    let names =
        [intern!(py, "callbacks"), intern!(py, "errbacks"), intern!(py, "chain"), intern!(py, "chord")];
    let plain = message.body.strip_suffix(NO_EMBED).and_then(|pair| open_pair(py, pair, decoders));
    let (args, kwargs) = if let Some(pair) = plain {
        // Whatever the headers say of them.
        for name in names {
            fields.set_item(name, py.None())?;
        }
        pair
    } else {
        // Errors are found again, and told of, by who reads such bodies.
        let Ok(payload) = from_json(py, message.body, decoders) else { return Ok(false) };
        let Ok(payload) = payload.cast_exact::<PyList>() else { return Ok(false) };
        if payload.len() != 3 {
            return Ok(false);
        }
        let embed = payload.get_item(2)?;
        if !embed.is_none() {
            let Ok(embed) = embed.cast_exact::<PyDict>() else { return Ok(false) };
            if !embed.is_empty() {
                for name in names {
                    fields.set_item(name, embed.get_item(name)?)?;
                }
            }
        }
        (payload.get_item(0)?, payload.get_item(1)?)
    };
    if !(args.is_exact_instance_of::<PyList>() && kwargs.is_exact_instance_of::<PyDict>()) {
        return Ok(false);
    }
    fields.set_item(intern!(py, "args"), args)?;
    fields.set_item(intern!(py, "kwargs"), kwargs)?;
    Ok(true)
}

/// How it came here.
fn add_delivery(fields: &Bound<'_, PyDict>, execution: &Unpacked<'_>) -> PyResult<()> {
    let py = fields.py();
    let properties = properties_dict(py, &execution.message)?;
    let info = PyDict::new(py);
    info.set_item(intern!(py, "exchange"), execution.exchange)?;
    info.set_item(intern!(py, "routing_key"), execution.routing_key)?;
    info.set_item(intern!(py, "priority"), execution.message.priority)?;
    info.set_item(intern!(py, "redelivered"), execution.redelivered)?;
    fields.set_item(intern!(py, "delivery_info"), info)?;
    for name in [intern!(py, "reply_to"), intern!(py, "correlation_id")] {
        fields.set_item(name, properties.get_item(name)?)?;
    }
    fields.set_item(intern!(py, "properties"), properties)
}

//! `Publication` and `ResultRecord`: the engine's values as frozen Python objects; and properties both ways.

use std::sync::Arc;

use bytes::Bytes;
use celeriac::protocol::{self, Message, Properties};
use celeriac::worker::pool::process::frame::UnpackedMessage;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

use crate::json::{from_json, to_json};

/// A message and where it goes. Immutable.
#[pyclass(frozen, module = "celeriac._core")]
pub(crate) struct Publication(pub(crate) protocol::Publication);

#[pymethods]
impl Publication {
    #[new]
    #[pyo3(signature = (headers, properties, body, *, exchange = String::new(), routing_key, due_ms = None, declare = None))]
    fn new(
        headers: &Bound<'_, PyDict>,
        properties: &Bound<'_, PyDict>,
        body: &Bound<'_, PyBytes>,
        exchange: String,
        routing_key: String,
        due_ms: Option<i64>,
        declare: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let message = Message {
            headers: to_json(headers, None)?.into(),
            properties: properties_from(properties)?,
            body: Bytes::copy_from_slice(body.as_bytes()),
        };
        let declare = declare.map(queue_from).transpose()?;
        Ok(Self(protocol::Publication { exchange, routing_key, due_ms, declare, message }))
    }

    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        from_json(py, &self.0.message.headers, None)
    }

    #[getter]
    fn properties<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        properties_to(py, &self.0.message.properties)
    }

    #[getter]
    fn body<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.message.body)
    }

    #[getter]
    fn exchange(&self) -> &str {
        &self.0.exchange
    }

    #[getter]
    fn routing_key(&self) -> &str {
        &self.0.routing_key
    }

    #[getter]
    fn due_ms(&self) -> Option<i64> {
        self.0.due_ms
    }

    #[getter]
    fn size(&self) -> usize {
        self.0.message.size()
    }

    #[getter]
    fn declare<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(queue) = &self.0.declare else { return Ok(None) };
        let text = serde_json::to_vec(&**queue).map_err(|error| PyValueError::new_err(error.to_string()))?;
        from_json(py, &text, None).map(Some)
    }

    fn __repr__(&self) -> String {
        let protocol::Publication { exchange, routing_key, message, .. } = &self.0;
        let id = message.properties.correlation_id.as_deref().unwrap_or("-");
        format!("<Publication {id} to {exchange:?}/{routing_key:?}, {} bytes>", message.body.len())
    }
}

/// What a backend keeps for a task id. Immutable.
#[pyclass(frozen, module = "celeriac._core")]
pub(crate) struct ResultRecord(pub(crate) protocol::ResultRecord);

#[pymethods]
impl ResultRecord {
    #[new]
    #[pyo3(signature = (task_id, state, record, content_type, expires_ms = None))]
    fn new(
        task_id: String,
        state: String,
        record: &Bound<'_, PyBytes>,
        content_type: String,
        expires_ms: Option<u64>,
    ) -> Self {
        let record = Bytes::copy_from_slice(record.as_bytes());
        Self(protocol::ResultRecord {
            task_id,
            state,
            record,
            content_type,
            expires_ms,
            reply_to: None,
            retain: None,
        })
    }

    #[getter]
    fn task_id(&self) -> &str {
        &self.0.task_id
    }

    #[getter]
    fn state(&self) -> &str {
        &self.0.state
    }

    #[getter]
    fn record<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.record)
    }

    #[getter]
    fn content_type(&self) -> &str {
        &self.0.content_type
    }

    fn __repr__(&self) -> String {
        format!("<ResultRecord {} {}>", self.0.task_id, self.0.state)
    }
}

/// A queue's declaration.
pub(crate) fn queue_from(dict: &Bound<'_, PyDict>) -> PyResult<Arc<protocol::Queue>> {
    json_value(dict).map(Arc::new)
}

/// A dict of JSON values to whatever serde makes of it.
pub(crate) fn json_value<T: serde::de::DeserializeOwned>(dict: &Bound<'_, PyDict>) -> PyResult<T> {
    serde_json::from_slice(&to_json(dict, None)?).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// Python's dict of message properties to the engine's.
pub(crate) fn properties_from(dict: &Bound<'_, PyDict>) -> PyResult<Properties> {
    let mut properties = Properties { delivery_mode: 2, ..Properties::default() };
    let mut other: Option<Bound<'_, PyDict>> = None;
    for (key, value) in dict.iter() {
        let name = key.cast::<PyString>()?.to_str()?;
        match name {
            "content_type" => properties.content_type = value.extract()?,
            "content_encoding" => properties.content_encoding = value.extract()?,
            "correlation_id" => properties.correlation_id = value.extract()?,
            "reply_to" => properties.reply_to = value.extract()?,
            "delivery_mode" => properties.delivery_mode = value.extract::<Option<u8>>()?.unwrap_or(2),
            "priority" => properties.priority = value.extract()?,
            "expiration" => properties.expiration_ms = expiration(&value)?,
            _ => other.get_or_insert_with(|| PyDict::new(dict.py())).set_item(key, value)?,
        }
    }
    if let Some(other) = other {
        properties.other = json_value(&other)?;
    }
    Ok(properties)
}

/// Milliseconds as text, the form they have on the wire; a number is taken as well.
fn expiration(value: &Bound<'_, PyAny>) -> PyResult<Option<u64>> {
    if value.is_none() {
        return Ok(None);
    }
    if let Ok(text) = value.cast::<PyString>() {
        return text.to_str()?.parse().map(Some).map_err(|_| {
            PyValueError::new_err(format!("property expiration must be whole milliseconds, not {text:?}"))
        });
    }
    value.extract().map(Some).map_err(|_| {
        PyTypeError::new_err("property expiration must be whole milliseconds, as text or as int")
    })
}

/// The engine's properties to Python's dict, without those that are not set.
pub(crate) fn properties_to<'py>(py: Python<'py>, properties: &Properties) -> PyResult<Bound<'py, PyDict>> {
    let other = if properties.other.is_empty() {
        Vec::new()
    } else {
        serde_json::to_vec(&properties.other).map_err(|error| PyValueError::new_err(error.to_string()))?
    };
    properties_dict(
        py,
        &UnpackedMessage {
            content_type: &properties.content_type,
            content_encoding: &properties.content_encoding,
            correlation_id: properties.correlation_id.as_deref(),
            reply_to: properties.reply_to.as_deref(),
            delivery_mode: properties.delivery_mode,
            priority: properties.priority,
            expiration_ms: properties.expiration_ms,
            other: &other,
            headers: &[],
            body: &[],
        },
    )
}

/// The same of a message that was not copied.
pub(crate) fn properties_dict<'py>(
    py: Python<'py>,
    message: &UnpackedMessage<'_>,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = if message.other.is_empty() {
        PyDict::new(py)
    } else {
        from_json(py, message.other, None)?.cast_into::<PyDict>()?
    };
    dict.set_item(intern!(py, "content_type"), message.content_type)?;
    dict.set_item(intern!(py, "content_encoding"), message.content_encoding)?;
    if let Some(id) = message.correlation_id {
        dict.set_item(intern!(py, "correlation_id"), id)?;
    }
    if let Some(queue) = message.reply_to {
        dict.set_item(intern!(py, "reply_to"), queue)?;
    }
    dict.set_item(intern!(py, "delivery_mode"), message.delivery_mode)?;
    if let Some(priority) = message.priority {
        dict.set_item(intern!(py, "priority"), priority)?;
    }
    if let Some(expiration) = message.expiration_ms {
        dict.set_item(intern!(py, "expiration"), expiration.to_string())?;
    }
    Ok(dict)
}

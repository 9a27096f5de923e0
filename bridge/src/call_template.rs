//! `CallTemplate`: the message of a task's calls, all but what differs from one call to the next.

use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use celeriac::protocol::{self, Message, Properties, Queue};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use crate::json::{append_json, append_text};
use crate::saferepr::saferepr;
use crate::values::{Publication, properties_from, queue_from};

/// The end of a body without follow-ups.
const NO_EMBED: &[u8] = br#"{"callbacks": null, "errbacks": null, "chain": null, "chord": null}"#;

/// A header whose value each call gives.
#[derive(Clone, Copy)]
enum Varying {
    Id,
    Root,
    Parent,
    Args,
    Kwargs,
}

impl Varying {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "id" => Self::Id,
            "root_id" => Self::Root,
            "parent_id" => Self::Parent,
            "argsrepr" => Self::Args,
            "kwargsrepr" => Self::Kwargs,
            _ => return None,
        })
    }
}

/// Made of one call's message. Immutable.
#[pyclass(frozen, module = "celeriac._core")]
pub(crate) struct CallTemplate {
    /// What the message depends on beside the call: the template fits as long as these are the same objects.
    values: Py<PyTuple>,
    /// Header text, each piece with the header that comes after it.
    pieces: Vec<(Vec<u8>, Varying)>,
    /// The header text after the last of them.
    rest: Vec<u8>,
    properties: Properties,
    exchange: String,
    routing_key: String,
    declare: Option<Arc<Queue>>,
    default: Py<PyAny>,
    /// Greatest lengths of `argsrepr` and `kwargsrepr`, and the levels that both show.
    shown: (i64, i64, usize),
}

#[pymethods]
impl CallTemplate {
    #[new]
    #[pyo3(signature = (values, headers, properties, target, default, shown, declare = None))]
    fn new(
        values: Py<PyTuple>,
        headers: &Bound<'_, PyDict>,
        properties: &Bound<'_, PyDict>,
        target: (String, String),
        default: Py<PyAny>,
        shown: (i64, i64, usize),
        declare: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let (mut pieces, mut text) = (Vec::new(), vec![b'{']);
        for (at, (name, value)) in headers.iter().enumerate() {
            if at > 0 {
                text.extend_from_slice(b", ");
            }
            let name = name.cast::<PyString>()?;
            append_json(name, None, 1, &mut text)?;
            text.extend_from_slice(b": ");
            match Varying::of(name.to_str()?) {
                Some(varying) => pieces.push((mem::take(&mut text), varying)),
                None => append_json(&value, None, 1, &mut text)?,
            }
        }
        text.push(b'}');
        let properties = properties_from(properties)?;
        let (exchange, routing_key) = target;
        let declare = declare.map(queue_from).transpose()?;
        Ok(Self { values, pieces, rest: text, properties, exchange, routing_key, declare, default, shown })
    }

    /// The message of one call; None when something that it depends on is not what it was.
    #[expect(clippy::too_many_arguments, reason = "a whole call, in one call of the hot path")]
    #[pyo3(signature = (values, task_id, root_id, parent_id, reply_to, args, kwargs, embed = None))]
    fn build(
        &self,
        values: &Bound<'_, PyTuple>,
        task_id: &Bound<'_, PyAny>,
        root_id: &Bound<'_, PyAny>,
        parent_id: &Bound<'_, PyAny>,
        reply_to: String,
        args: &Bound<'_, PyAny>,
        kwargs: &Bound<'_, PyAny>,
        embed: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Option<Publication>> {
        if !self.fits(values) {
            return Ok(None);
        }
        let ids = Ids { task: task_id, root: root_id, parent: parent_id };
        let message = self.message(values.py(), &ids, reply_to, (args, kwargs), embed)?;
        Ok(Some(Publication(self.publication(message))))
    }

    /// The messages of many calls, one for each id, until they have `max_bytes` together; at least one.
    #[expect(clippy::too_many_arguments, reason = "as above")]
    #[expect(clippy::needless_pass_by_value, reason = "PyO3 makes lists, it lends none")]
    fn build_many(
        &self,
        values: &Bound<'_, PyTuple>,
        task_ids: Vec<Bound<'_, PyAny>>,
        root_id: &Bound<'_, PyAny>,
        parent_id: &Bound<'_, PyAny>,
        reply_to: &str,
        calls: Vec<(Bound<'_, PyAny>, Bound<'_, PyAny>)>,
        max_bytes: usize,
    ) -> PyResult<Option<Vec<Publication>>> {
        if !self.fits(values) {
            return Ok(None);
        }
        let mut made = Vec::with_capacity(calls.len());
        let mut bytes = 0;
        for (task_id, (args, kwargs)) in task_ids.iter().zip(&calls) {
            let root = if root_id.is_none() { task_id } else { root_id };
            let ids = Ids { task: task_id, root, parent: parent_id };
            let message = self.message(values.py(), &ids, reply_to.to_owned(), (args, kwargs), None)?;
            bytes += message.size();
            if bytes > max_bytes && !made.is_empty() {
                break;
            }
            made.push(Publication(self.publication(message)));
        }
        Ok(Some(made))
    }
}

/// What names one call.
struct Ids<'a, 'py> {
    task: &'a Bound<'py, PyAny>,
    root: &'a Bound<'py, PyAny>,
    parent: &'a Bound<'py, PyAny>,
}

impl CallTemplate {
    fn fits(&self, values: &Bound<'_, PyTuple>) -> bool {
        let own = self.values.bind(values.py());
        own.len() == values.len() && own.iter_borrowed().zip(values.iter_borrowed()).all(|(a, b)| a.is(b))
    }

    fn message(
        &self,
        py: Python<'_>,
        ids: &Ids<'_, '_>,
        reply_to: String,
        (args, kwargs): (&Bound<'_, PyAny>, &Bound<'_, PyAny>),
        embed: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Message> {
        let (longest_args, longest_kwargs, levels) = self.shown;
        let mut headers = Vec::with_capacity(1024);
        for (text, varying) in &self.pieces {
            headers.extend_from_slice(text);
            match varying {
                Varying::Id => append_json(ids.task, None, 1, &mut headers)?,
                Varying::Root => append_json(ids.root, None, 1, &mut headers)?,
                Varying::Parent => append_json(ids.parent, None, 1, &mut headers)?,
                Varying::Args => append_text(&saferepr(args, longest_args, levels)?, &mut headers),
                Varying::Kwargs => append_text(&saferepr(kwargs, longest_kwargs, levels)?, &mut headers),
            }
        }
        headers.extend_from_slice(&self.rest);
        let properties = Properties {
            correlation_id: Some(ids.task.extract()?),
            reply_to: Some(reply_to),
            ..self.properties.clone()
        };
        let body = self.body(py, args, kwargs, embed)?;
        Ok(Message { headers: headers.into(), properties, body })
    }

    fn publication(&self, message: Message) -> protocol::Publication {
        let (exchange, routing_key) = (self.exchange.clone(), self.routing_key.clone());
        protocol::Publication { exchange, routing_key, due_ms: None, declare: self.declare.clone(), message }
    }

    fn body(
        &self,
        py: Python<'_>,
        args: &Bound<'_, PyAny>,
        kwargs: &Bound<'_, PyAny>,
        embed: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Bytes> {
        let default = Some(self.default.bind(py));
        let mut body = Vec::with_capacity(256);
        body.push(b'[');
        append_json(args, default, 1, &mut body)?;
        body.extend_from_slice(b", ");
        append_json(kwargs, default, 1, &mut body)?;
        body.extend_from_slice(b", ");
        match embed {
            Some(embed) => append_json(embed, default, 1, &mut body)?,
            None => body.extend_from_slice(NO_EMBED),
        }
        body.push(b']');
        Ok(body.into())
    }
}

//! Events: what workers and clients tell monitors. One is an object, several are an array, in Celery's JSON.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::json::{self, Loose};
use super::{Message, Properties};

/// Where events are sent.
pub const EVENT_EXCHANGE: &str = "celeryev";

/// The routing key of an event: its type with dots.
pub fn event_routing_key(kind: &str) -> String {
    kind.replace('-', ".")
}

/// What carries an event, or several.
pub fn event_message(node: &str, body: Vec<u8>) -> Message {
    let mut headers = Vec::with_capacity(64);
    json::write(&mut headers, &BTreeMap::from([("hostname", node)]));
    Message {
        headers: headers.into(),
        properties: Properties {
            content_type: "application/json".to_owned(),
            content_encoding: "utf-8".to_owned(),
            delivery_mode: 1,
            priority: Some(0),
            ..Properties::default()
        },
        body: body.into(),
    }
}

/// Writes one event, field by field, in Celery's order.
#[derive(Debug)]
pub struct EventWriter(Vec<u8>);

impl EventWriter {
    /// Begins with who it is that tells: the node, how many hours west of UTC it is, its process, its logical time.
    pub fn new(node: &str, utcoffset: f64, pid: u32, clock: u64) -> Self {
        let mut out = Vec::with_capacity(256);
        out.push(b'{');
        let mut writer = Self(out);
        writer.put("hostname", node);
        writer.field("utcoffset", &utcoffset).field("pid", &pid).field("clock", &clock)
    }

    /// Adds a field.
    #[must_use]
    pub fn field<T: Serialize + ?Sized>(mut self, name: &'static str, value: &T) -> Self {
        self.0.extend_from_slice(b", ");
        self.put(name, value);
        self
    }

    /// The event, with when it happened (Unix time) and what it is.
    pub fn end(self, timestamp: f64, kind: &str) -> Vec<u8> {
        let mut out = self.field("timestamp", &timestamp).field("type", kind).0;
        out.push(b'}');
        out
    }

    fn put<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) {
        json::write(&mut self.0, name);
        self.0.extend_from_slice(b": ");
        json::write(&mut self.0, value);
    }
}

/// What monitors are shown of a task's message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShownTask<'a> {
    /// The name to show.
    pub name: Cow<'a, str>,
    /// The arguments as text.
    pub args: Cow<'a, str>,
    /// As above.
    pub kwargs: Cow<'a, str>,
    /// The first task of its workflow.
    pub root_id: Option<Cow<'a, str>>,
    /// The task that sent it.
    pub parent_id: Option<Cow<'a, str>>,
    /// How often it was tried before.
    pub retries: i64,
    /// Not to be run before: as it came.
    pub eta: Option<Cow<'a, str>>,
    /// Not to be run after: as it came.
    pub expires: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields<'a> {
    #[serde(borrow)]
    task: Loose<'a>,
    shadow: Loose<'a>,
    argsrepr: Loose<'a>,
    kwargsrepr: Loose<'a>,
    root_id: Loose<'a>,
    parent_id: Loose<'a>,
    retries: Loose<'a>,
    eta: Loose<'a>,
    expires: Loose<'a>,
}

impl<'a> ShownTask<'a> {
    /// Reads it from headers. None when they are not headers of a task, which is found out before.
    pub fn read(headers: &'a Bytes) -> Option<ShownTask<'a>> {
        let fields: Fields<'a> = json::object(headers, "headers").ok()?;
        let shadow = fields.shadow.text().filter(|name| !name.is_empty());
        Some(ShownTask {
            name: shadow.or_else(|| fields.task.text())?,
            args: fields.argsrepr.text().unwrap_or_default(),
            kwargs: fields.kwargsrepr.text().unwrap_or_default(),
            root_id: fields.root_id.text(),
            parent_id: fields.parent_id.text(),
            retries: if let Loose::Int(retries) = fields.retries { retries } else { 0 },
            eta: fields.eta.text(),
            expires: fields.expires.text(),
        })
    }

    /// Adds the fields of `task-received`.
    #[must_use]
    pub fn fields(&self, id: &str, event: EventWriter) -> EventWriter {
        event
            .field("uuid", id)
            .field("name", &self.name)
            .field("args", &self.args)
            .field("kwargs", &self.kwargs)
            .field("root_id", &self.root_id)
            .field("parent_id", &self.parent_id)
            .field("retries", &self.retries)
            .field("eta", &self.eta)
            .field("expires", &self.expires)
    }
}

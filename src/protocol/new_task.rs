//! A task message made without Python: headers in Celery's order, a JSON body.

use bytes::Bytes;
use serde::{Serialize, Serializer};

use super::{Message, Properties, json};

/// A task to send, as far as its headers go; writes them in Celery's order. For senders without Python.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NewTask<'a> {
    lang: Lang,
    /// The task's name.
    pub task: &'a str,
    /// The task's id.
    pub id: &'a str,
    /// The name to show instead of its own.
    pub shadow: Option<&'a str>,
    /// ISO 8601; see [`super::format_iso_utc`].
    pub eta: Option<&'a str>,
    /// ISO 8601.
    pub expires: Option<&'a str>,
    /// The group it is part of.
    pub group: Option<&'a str>,
    /// Its place in the group.
    pub group_index: Option<u32>,
    /// How often it was tried before.
    pub retries: u32,
    /// Hard, then soft limit in seconds.
    #[serde(serialize_with = "write_limits")]
    pub timelimit: [Option<f64>; 2],
    /// The first task of its workflow; its own id when there is none.
    pub root_id: Option<&'a str>,
    /// The task that sent it.
    pub parent_id: Option<&'a str>,
    /// The arguments as monitors show them.
    pub argsrepr: &'a str,
    /// The keyword arguments as monitors show them.
    pub kwargsrepr: &'a str,
    /// Who sends it: `gen<pid>@<host>`.
    pub origin: &'a str,
    /// Its result is not wanted.
    pub ignore_result: bool,
    replaced_task_nesting: u32,
    stamped_headers: (),
    stamps: Stamps,
}

/// Always `"py"`; nobody checks it.
#[derive(Clone, Debug, Default, Serialize)]
enum Lang {
    #[default]
    #[serde(rename = "py")]
    Py,
}

/// Always `{}`.
#[derive(Clone, Debug, Default, Serialize)]
struct Stamps {}

impl<'a> NewTask<'a> {
    /// A task with nothing but a name and an id.
    pub fn new(task: &'a str, id: &'a str) -> Self {
        Self { task, id, root_id: Some(id), argsrepr: "()", kwargsrepr: "{}", ..Self::default() }
    }

    /// The header object as JSON text.
    pub fn headers(&self) -> Bytes {
        let mut out = Vec::with_capacity(512);
        json::write(&mut out, self);
        out.into()
    }

    /// A persistent message with a JSON body; `args` is the text of a JSON array, `kwargs` of an object.
    pub fn message(&self, args: &str, kwargs: &str) -> Message {
        let embed = r#"{"callbacks": null, "errbacks": null, "chain": null, "chord": null}"#;
        Message {
            headers: self.headers(),
            properties: Properties {
                content_type: "application/json".to_owned(),
                content_encoding: "utf-8".to_owned(),
                correlation_id: Some(self.id.to_owned()),
                delivery_mode: 2,
                priority: Some(0),
                ..Properties::default()
            },
            body: format!("[{args}, {kwargs}, {embed}]").into(),
        }
    }
}

/// Whole seconds without a fraction, as Python writes integers.
fn write_limits<S: Serializer>(limits: &[Option<f64>; 2], serializer: S) -> Result<S::Ok, S::Error> {
    let number = |limit: Option<f64>| {
        limit.and_then(|seconds| {
            let whole = (seconds.fract() == 0.0).then(|| serde_json::Number::from(seconds as i64));
            whole.or_else(|| serde_json::Number::from_f64(seconds))
        })
    };
    [number(limits[0]), number(limits[1])].serialize(serializer)
}

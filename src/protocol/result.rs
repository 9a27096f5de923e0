//! What a backend keeps for a task id.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{DecodeError, format_iso_utc, json, state};

const PART: &str = "result record";

/// One stored result. The record itself is opaque (for JSON it is Celery's result document,
/// `compat/protocol.md` 11.1); what the engine must know of it stands beside it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResultRecord {
    /// The task's id.
    pub task_id: String,
    /// `SUCCESS`, `FAILURE`, ..., or a state of the user's own.
    pub state: String,
    /// The whole record, encoded by the result serializer.
    pub record: Bytes,
    /// Media type of the record.
    pub content_type: String,
    /// Milliseconds until it may vanish; none keeps it.
    pub expires_ms: Option<u64>,
    /// Where an `rpc://` result goes: the `reply_to` of the request. The worker fills it in.
    pub reply_to: Option<String>,
    /// How many of its kind are kept, if that is limited. The worker fills it in.
    pub retain: Option<Arc<Retain>>,
}

/// Of some results only the newest are kept: whoever stores one removes what is beyond their number, in the same step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retain {
    /// Names the results among which it is counted.
    pub list: String,
    /// Where a result of that id may have been counted before: one that had failed, and was run again.
    pub other: String,
    /// So many are kept; none: all of them, and they are not counted.
    pub most: Option<u32>,
}

/// A result record in JSON, opened as far as the engine needs it: value and children stay text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResultDocument<'a> {
    /// The state.
    pub status: String,
    /// The value, or what was raised, as JSON text; `null` when missing.
    pub result: Cow<'a, str>,
    /// The traceback.
    pub traceback: Option<String>,
    /// What it sent, as JSON text; `null` when missing.
    pub children: Cow<'a, str>,
    /// When it ended, ISO 8601.
    pub date_done: Option<String>,
    /// The group it was in.
    pub group_id: Option<String>,
    /// The task that sent it.
    pub parent_id: Option<String>,
    /// The task's id; empty when missing.
    pub task_id: String,
}

#[derive(Deserialize)]
struct Wire<'a> {
    status: String,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(default)]
    traceback: Option<String>,
    #[serde(borrow, default)]
    children: Option<&'a RawValue>,
    #[serde(default)]
    date_done: Option<String>,
    #[serde(default)]
    group_id: Option<String>,
    #[serde(default)]
    parent_id: Option<String>,
    #[serde(default)]
    task_id: Option<String>,
}

impl<'a> ResultDocument<'a> {
    /// Reads a record. Members that only `result_extended` writes are skipped.
    pub fn parse(record: &'a [u8]) -> Result<Self, DecodeError> {
        let masked = json::mask_nan(record);
        let text = masked.as_deref().unwrap_or(record);
        let wire: Wire<'_> = json::object(text, PART)?;
        let cut = |value: Option<&RawValue>| match value {
            None => Ok(Cow::Borrowed("null")),
            Some(value) => std::str::from_utf8(json::same_place(record, text, value.get()))
                .map(Cow::Borrowed)
                .map_err(|_| DecodeError::Invalid { part: PART, field: "result", expected: "UTF-8" }),
        };
        Ok(Self {
            result: cut(wire.result)?,
            children: cut(wire.children)?,
            status: wire.status,
            traceback: wire.traceback,
            date_done: wire.date_done,
            group_id: wire.group_id,
            parent_id: wire.parent_id,
            task_id: wire.task_id.unwrap_or_default(),
        })
    }

    /// The record of a task that raised; `state` is `FAILURE`, `REVOKED` or `RETRY`.
    pub fn raised(task_id: &str, state: &str, exception: &ExceptionText<'_>, now_ms: i64) -> Self {
        let mut result = Vec::new();
        json::write(&mut result, exception);
        Self {
            status: state.to_owned(),
            result: String::from_utf8(result).expect("our JSON is ASCII").into(),
            children: "null".into(),
            date_done: state::is_ready(state).then(|| format_iso_utc(now_ms)),
            task_id: task_id.to_owned(),
            ..Self::default()
        }
    }

    /// The record as Celery writes it.
    pub fn to_json(&self) -> Vec<u8> {
        let raw = |out: &mut Vec<u8>, text: &str| {
            out.extend_from_slice(if text.is_empty() { b"null" } else { text.as_bytes() });
        };
        let mut out = b"{\"status\": ".to_vec();
        json::write(&mut out, &self.status);
        out.extend_from_slice(b", \"result\": ");
        raw(&mut out, &self.result);
        out.extend_from_slice(b", \"traceback\": ");
        json::write(&mut out, &self.traceback);
        out.extend_from_slice(b", \"children\": ");
        raw(&mut out, &self.children);
        out.extend_from_slice(b", \"date_done\": ");
        json::write(&mut out, &self.date_done);
        for (name, id) in [("group_id", &self.group_id), ("parent_id", &self.parent_id)] {
            if let Some(id) = id {
                out.extend_from_slice(format!(", \"{name}\": ").as_bytes());
                json::write(&mut out, id);
            }
        }
        out.extend_from_slice(b", \"task_id\": ");
        json::write(&mut out, &self.task_id);
        out.push(b'}');
        out
    }

    /// The same with what a backend needs beside it.
    pub fn to_record(&self, expires_ms: Option<u64>) -> ResultRecord {
        ResultRecord {
            task_id: self.task_id.clone(),
            state: self.status.clone(),
            record: self.to_json().into(),
            content_type: "application/json".to_owned(),
            expires_ms,
            reply_to: None,
            retain: None,
        }
    }
}

/// An exception as a result record holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ExceptionText<'a> {
    /// The class.
    #[serde(rename = "exc_type")]
    pub class: &'a str,
    /// Its arguments.
    #[serde(rename = "exc_message")]
    pub arguments: &'a [&'a str],
    /// The module of the class.
    #[serde(rename = "exc_module")]
    pub module: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_the_engine_is_what_celery_writes() {
        let exception =
            ExceptionText { class: "TaskRevokedError", arguments: &["revoked"], module: "celery.exceptions" };
        let document = ResultDocument::raised("a-1", state::REVOKED, &exception, 1_795_294_758_986);
        let record = document.to_record(Some(1));
        let expected = concat!(
            r#"{"status": "REVOKED", "result": {"exc_type": "TaskRevokedError", "exc_message": ["revoked"], "#,
            r#""exc_module": "celery.exceptions"}, "traceback": null, "children": null, "#,
            r#""date_done": "2026-11-21T20:59:18.986000+00:00", "task_id": "a-1"}"#
        );
        assert_eq!(record.record, expected);
        assert_eq!(ResultDocument::parse(&record.record).unwrap(), document);
    }

    #[test]
    fn a_value_that_is_not_strict_json_survives() {
        let record = br#"{"status": "SUCCESS", "result": [NaN, -Infinity], "task_id": "a"}"#;
        assert_eq!(ResultDocument::parse(record).unwrap().result, "[NaN, -Infinity]");
    }
}

//! Protocol 1, whose headers are in the body, and the hybrid of both become protocol 2.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::headers::HEADER_ORDER;
use super::json::{self, Loose};
use super::{DecodeError, Message, decompress};

/// Bytes that the body of a compressed protocol 1 message may have.
const MAX_BODY: usize = 64 << 20;
/// Where a repr is cut.
const MAX_REPR: usize = 1024;
/// Nesting below which a repr shows dots.
const MAX_REPR_DEPTH: usize = 3;

type Members<'a> = BTreeMap<String, &'a RawValue>;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Head<'a> {
    #[serde(borrow)]
    task: Loose<'a>,
    compression: Loose<'a>,
}

/// What the headers and the first byte of the body say.
enum Kind {
    Protocol2,
    Hybrid,
    Protocol1 { compression: Option<String> },
}

impl Message {
    /// Makes protocol 2 of a protocol 1 or hybrid message with a JSON body; protocol 2 comes back as it is, and
    /// its body is not looked into. An error gives the message back.
    ///
    /// A compressed body below headers that name a task is taken for protocol 2: nothing sends compressed hybrids.
    #[expect(clippy::result_large_err, reason = "the message is given back, to be kept as a dead letter")]
    pub fn upgrade(self) -> Result<Self, (Self, DecodeError)> {
        if self.is_plainly_protocol_2() {
            return Ok(self);
        }
        let upgraded = self.kind().and_then(|kind| match kind {
            Kind::Protocol2 => Ok(None),
            Kind::Hybrid => self.rebuild(&self.body, Precedence::Headers).map(Some),
            Kind::Protocol1 { compression: None } => self.rebuild(&self.body, Precedence::Body).map(Some),
            Kind::Protocol1 { compression: Some(method) } => {
                let body = decompress(&self.body, &method, MAX_BODY)?;
                self.rebuild(&body, Precedence::Body).map(Some)
            }
        });
        match upgraded {
            Ok(None) => Ok(self),
            Ok(Some(message)) => Ok(message),
            Err(error) => Err((self, error)),
        }
    }

    /// Knows what Celery and we write without parsing it.
    fn is_plainly_protocol_2(&self) -> bool {
        const STARTS: [&[u8]; 2] = [br#"{"lang": "py", "task": ""#, br#"{"lang":"py","task":""#];
        STARTS.iter().any(|start| self.headers.starts_with(start))
            && (self.body.first() == Some(&b'[') || !self.is_json())
    }

    fn is_json(&self) -> bool {
        matches!(self.properties.content_type.as_str(), "application/json" | "json")
    }

    fn kind(&self) -> Result<Kind, DecodeError> {
        let masked = json::mask_nan(&self.headers);
        let head = match json::object::<Head<'_>>(masked.as_deref().unwrap_or(&self.headers), "headers") {
            Err(DecodeError::NotObject { .. }) => return Err(DecodeError::UnknownMessage),
            head => head?,
        };
        let compression = head.compression.text().map(Cow::into_owned);
        match head.task {
            Loose::Text(_) => {
                let is_object = json::first_byte(&self.body) == Some(b'{');
                let hybrid = self.is_json() && compression.is_none() && is_object;
                Ok(if hybrid { Kind::Hybrid } else { Kind::Protocol2 })
            }
            Loose::Absent if self.is_json() => Ok(Kind::Protocol1 { compression }),
            Loose::Absent => Err(DecodeError::UnsupportedBody),
            _ => Err(DecodeError::UnknownMessage),
        }
    }

    /// Moves the fields of the body that are headers into the headers.
    fn rebuild(&self, body: &[u8], precedence: Precedence) -> Result<Self, DecodeError> {
        let header_text = json::mask_nan(&self.headers).map_or(Cow::Borrowed(&self.headers[..]), Cow::Owned);
        let body_text = json::mask_nan(body).map_or(Cow::Borrowed(body), Cow::Owned);
        let message_headers: Members<'_> = json::object(&header_text, "headers")?;
        let mut fields: Members<'_> = match json::object(&body_text, "body") {
            Err(DecodeError::NotObject { .. }) => return Err(DecodeError::UnknownMessage),
            fields => fields?,
        };
        if precedence == Precedence::Body && !fields.get("task").is_some_and(|task| is_text(task)) {
            return Err(DecodeError::UnknownMessage);
        }
        let in_body = |value: &RawValue| json::same_place(body, &body_text, value.get());
        let in_headers = |value: &RawValue| json::same_place(&self.headers, &header_text, value.get());

        let args = fields.remove("args");
        let kwargs = fields.remove("kwargs");
        if kwargs.is_some_and(|kwargs| json::first_byte(kwargs.get().as_bytes()) != Some(b'{')) {
            return Err(DecodeError::Invalid { part: "body", field: "kwargs", expected: "an object" });
        }
        let mut new_body = b"[".to_vec();
        new_body.extend_from_slice(args.map_or(b"[]", &in_body));
        new_body.extend_from_slice(b", ");
        new_body.extend_from_slice(kwargs.map_or(b"{}", &in_body));
        for (before, name) in [(", {", "callbacks"), (", ", "errbacks"), (", ", "chain"), (", ", "chord")] {
            new_body.extend_from_slice(format!("{before}\"{name}\": ").as_bytes());
            new_body.extend_from_slice(fields.remove(name).map_or(b"null", &in_body));
        }
        new_body.extend_from_slice(b"}]");

        fields.remove("utc");
        if let Some(taskset) = fields.remove("taskset").filter(|taskset| taskset.get() != "null") {
            fields.insert("group".to_owned(), taskset);
        }
        let mut headers: BTreeMap<String, Cow<'_, [u8]>> = BTreeMap::new();
        headers.insert("lang".to_owned(), Cow::Borrowed(b"\"py\""));
        headers.insert("argsrepr".to_owned(), repr_json(args, "()").into());
        headers.insert("kwargsrepr".to_owned(), repr_json(kwargs, "{}").into());
        let from_body = fields.iter().map(|(name, value)| (name.clone(), Cow::Borrowed(in_body(value))));
        let from_headers = message_headers
            .iter()
            .filter(|(name, _)| *name != "compression")
            .map(|(name, value)| (name.clone(), Cow::Borrowed(in_headers(value))));
        match precedence {
            Precedence::Headers => headers.extend(from_body.chain(from_headers)),
            Precedence::Body => headers.extend(from_headers.chain(from_body)),
        }
        let mut properties = self.properties.clone();
        "utf-8".clone_into(&mut properties.content_encoding);
        Ok(Self { headers: write_headers(headers).into(), properties, body: new_body.into() })
    }
}

/// Who wins where headers and body say different things.
#[derive(Clone, Copy, PartialEq)]
enum Precedence {
    /// Hybrid.
    Headers,
    /// Protocol 1: its headers are in the body.
    Body,
}

fn is_text(value: &RawValue) -> bool {
    value.get().starts_with('"')
}

fn write_headers(mut headers: BTreeMap<String, Cow<'_, [u8]>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let known: Vec<_> = HEADER_ORDER.iter().filter_map(|name| headers.remove_entry(*name)).collect();
    for (name, value) in known.into_iter().chain(headers) {
        out.extend_from_slice(if out.is_empty() { b"{" } else { b", " });
        json::write(&mut out, &name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(&value);
    }
    out.push(b'}');
    out
}

/// The repr as a JSON text; empty when the value is nested too deeply to be read.
fn repr_json(value: Option<&RawValue>, missing: &str) -> Vec<u8> {
    let mut repr = String::new();
    match value.map(|value| serde_json::from_str::<Value>(value.get())) {
        None => repr.push_str(missing),
        Some(Ok(value)) => write_repr(&mut repr, &value, 0),
        Some(Err(_)) => {}
    }
    let mut out = Vec::new();
    json::write(&mut out, &repr);
    out
}

/// Near to what Python shows: for logs and monitors only.
fn write_repr(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Null => out.push_str("None"),
        Value::Bool(true) => out.push_str("True"),
        Value::Bool(false) => out.push_str("False"),
        Value::Number(number) => {
            let _ = write!(out, "{number}");
        }
        Value::String(text) => {
            let room = MAX_REPR.saturating_sub(out.len());
            out.push('\'');
            for c in text.chars().take(room) {
                if c == '\'' {
                    out.push('\\');
                }
                out.push(c);
            }
            out.push_str(if text.len() > room { "...'" } else { "'" });
        }
        Value::Array(items) => {
            let items = items.iter().map(|item| (None, item));
            write_items(out, ['[', ']'], items, depth);
        }
        Value::Object(items) => {
            let items = items.iter().map(|(name, item)| (Some(name.as_str()), item));
            write_items(out, ['{', '}'], items, depth);
        }
    }
}

fn write_items<'a>(
    out: &mut String,
    [open, close]: [char; 2],
    items: impl ExactSizeIterator<Item = (Option<&'a str>, &'a Value)>,
    depth: usize,
) {
    out.push(open);
    let deep = depth >= MAX_REPR_DEPTH && items.len() > 0;
    for (place, (name, item)) in items.enumerate() {
        if deep || out.len() >= MAX_REPR {
            out.push_str(if place == 0 { "..." } else { ", ..." });
            break;
        }
        if place > 0 {
            out.push_str(", ");
        }
        if let Some(name) = name {
            let _ = write!(out, "'{}': ", name.replace('\'', "\\'"));
        }
        write_repr(out, item, depth + 1);
    }
    out.push(close);
}

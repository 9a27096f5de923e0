//! The envelope of brokers that have no headers of their own: one JSON object for each message.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::json::{self, Loose};
use super::{DecodeError, Message, Properties};

const PART: &str = "envelope";
/// Properties that have a place of their own; the rest is carried along.
const KNOWN: [&str; 8] = [
    "correlation_id",
    "reply_to",
    "delivery_mode",
    "expiration",
    "delivery_info",
    "priority",
    "body_encoding",
    "delivery_tag",
];

/// A Redis list element, opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Envelope {
    /// The message.
    pub message: Message,
    /// The exchange it was sent to; empty is the default one.
    pub exchange: String,
    /// The routing key it was sent with.
    pub routing_key: String,
    /// Unique; names it among the unacknowledged. Empty when the sender gave none.
    pub delivery_tag: String,
    /// It was delivered before and put back.
    pub redelivered: bool,
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, default)]
    body: Loose<'a>,
    #[serde(borrow, default, rename = "content-type")]
    content_type: Loose<'a>,
    #[serde(borrow, default, rename = "content-encoding")]
    content_encoding: Loose<'a>,
    #[serde(borrow, default)]
    headers: Option<&'a RawValue>,
    #[serde(borrow, default)]
    properties: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DeliveryInfo<'a> {
    #[serde(borrow)]
    exchange: Loose<'a>,
    #[serde(borrow)]
    routing_key: Loose<'a>,
    redelivered: Loose<'a>,
}

impl Envelope {
    /// Writes a list element as kombu does, byte for byte; the header text goes in as it is.
    pub fn encode(message: &Message, exchange: &str, routing_key: &str, delivery_tag: &str) -> Vec<u8> {
        let properties = &message.properties;
        let mut out = Vec::with_capacity(message.body.len() * 4 / 3 + message.headers.len() + 512);
        out.extend_from_slice(b"{\"body\": \"");
        write_base64(&mut out, &message.body);
        out.extend_from_slice(b"\", \"content-encoding\": ");
        json::write(&mut out, &properties.content_encoding);
        out.extend_from_slice(b", \"content-type\": ");
        json::write(&mut out, &properties.content_type);
        out.extend_from_slice(b", \"headers\": ");
        out.extend_from_slice(if message.headers.is_empty() { b"{}" } else { &message.headers });
        out.extend_from_slice(b", \"properties\": {");
        for (name, text) in
            [("correlation_id", &properties.correlation_id), ("reply_to", &properties.reply_to)]
        {
            if let Some(text) = text {
                write_field(&mut out, name, text);
            }
        }
        for (name, value) in &properties.other {
            if !KNOWN.contains(&name.as_str()) {
                write_field(&mut out, name, value);
            }
        }
        let delivery_mode = if properties.delivery_mode == 0 { 2 } else { properties.delivery_mode };
        write_field(&mut out, "delivery_mode", &delivery_mode);
        if let Some(ms) = properties.expiration_ms {
            write_field(&mut out, "expiration", &ms.to_string());
        }
        out.extend_from_slice(b"\"delivery_info\": {\"exchange\": ");
        json::write(&mut out, exchange);
        out.extend_from_slice(b", \"routing_key\": ");
        json::write(&mut out, routing_key);
        out.extend_from_slice(b"}, ");
        write_field(&mut out, "priority", &properties.priority.unwrap_or(0));
        out.extend_from_slice(b"\"body_encoding\": \"base64\", \"delivery_tag\": ");
        json::write(&mut out, delivery_tag);
        out.extend_from_slice(b"}}");
        out
    }

    /// Reads a list element. Optional properties may be missing or of a type that makes no sense, which is
    /// the same. So may delivery information and tag, which stop a worker of Celery: whoever takes the message knows
    /// its queue, and tags of our own name it. Without a content type it is refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        match Self::decode_masked(bytes, bytes) {
            Err(DecodeError::Json { part, line, column }) => {
                let error = DecodeError::Json { part, line, column };
                let masked = json::mask_nan(bytes).ok_or(error)?;
                Self::decode_masked(bytes, &masked)
            }
            decoded => decoded,
        }
    }

    /// Reads `text`, which is `bytes` but for `NaN`; the headers are cut out of `bytes`.
    fn decode_masked(bytes: &[u8], text: &[u8]) -> Result<Self, DecodeError> {
        let wire: Wire<'_> = json::object(text, PART)?;
        let content_type = required(wire.content_type, "content-type")?.into_owned();
        let properties = wire.properties.ok_or(DecodeError::Missing { part: PART, field: "properties" })?;
        let found: Found<'_> = json::object(properties.get().as_bytes(), "properties")?;
        let info: DeliveryInfo<'_> = match found.delivery_info {
            Some(info) if info.get() != "null" => json::object(info.get().as_bytes(), "delivery_info")?,
            _ => DeliveryInfo::default(),
        };
        let headers =
            wire.headers.map_or(&b"null"[..], |headers| json::same_place(bytes, text, headers.get()));
        Ok(Self {
            message: Message {
                headers: Bytes::copy_from_slice(headers),
                body: decode_body(required(wire.body, "body")?, found.body_encoding)?,
                properties: Properties {
                    content_type,
                    content_encoding: wire.content_encoding.text().unwrap_or_default().into_owned(),
                    ..found.properties
                },
            },
            exchange: info.exchange.text().unwrap_or_default().into_owned(),
            routing_key: info.routing_key.text().unwrap_or_default().into_owned(),
            delivery_tag: found.delivery_tag.text().unwrap_or_default().into_owned(),
            redelivered: info.redelivered == Loose::Bool(true),
        })
    }
}

fn required<'a>(value: Loose<'a>, field: &'static str) -> Result<Cow<'a, str>, DecodeError> {
    match value {
        Loose::Text(text) => Ok(text),
        none if none.is_none() => Err(DecodeError::Missing { part: PART, field }),
        _ => Err(DecodeError::Invalid { part: PART, field, expected: "text" }),
    }
}

fn decode_body(body: Cow<'_, str>, encoding: Loose<'_>) -> Result<Bytes, DecodeError> {
    let invalid = |field, expected| DecodeError::Invalid { part: PART, field, expected };
    match encoding {
        Loose::Text(encoding) if encoding == "base64" => {
            STANDARD.decode(body.as_bytes()).map(Bytes::from).map_err(|_| invalid("body", "base64"))
        }
        Loose::Text(encoding) if !matches!(&*encoding, "utf-8" | "utf8" | "") => {
            Err(invalid("body_encoding", "base64 or utf-8"))
        }
        _ => Ok(body.into_owned().into()),
    }
}

/// A property and the comma behind it: none of ours is the last.
fn write_field<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, name: &str, value: &T) {
    json::write(out, name);
    out.extend_from_slice(b": ");
    json::write(out, value);
    out.extend_from_slice(b", ");
}

fn write_base64(out: &mut Vec<u8>, data: &[u8]) {
    let start = out.len();
    out.resize(start + data.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(data, &mut out[start..]);
    written.expect("padded base64 takes four bytes for every three");
}

/// The property object as it comes.
#[derive(Default)]
struct Found<'a> {
    properties: Properties,
    delivery_info: Option<&'a RawValue>,
    body_encoding: Loose<'a>,
    delivery_tag: Loose<'a>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Found<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FoundVisitor)
    }
}

struct FoundVisitor;

impl<'de> Visitor<'de> for FoundVisitor {
    type Value = Found<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = Found::default();
        found.properties.delivery_mode = 2;
        while let Some(Loose::Text(name)) = map.next_key()? {
            let properties = &mut found.properties;
            match &*name {
                "correlation_id" => properties.correlation_id = text(map.next_value()?),
                "reply_to" => properties.reply_to = text(map.next_value()?),
                "delivery_mode" => properties.delivery_mode = small(&map.next_value()?).unwrap_or(2),
                "priority" => properties.priority = small(&map.next_value()?),
                "expiration" => properties.expiration_ms = milliseconds(&map.next_value()?),
                "delivery_info" => found.delivery_info = map.next_value()?,
                "body_encoding" => found.body_encoding = map.next_value()?,
                "delivery_tag" => found.delivery_tag = map.next_value()?,
                _ => {
                    properties.other.insert(name.into_owned(), map.next_value()?);
                }
            }
        }
        Ok(found)
    }
}

fn text(value: Loose<'_>) -> Option<String> {
    value.text().map(Cow::into_owned)
}

fn small(value: &Loose<'_>) -> Option<u8> {
    if let Loose::Int(number) = value { Some((*number).clamp(0, 255) as u8) } else { None }
}

fn milliseconds(value: &Loose<'_>) -> Option<u64> {
    match value {
        Loose::Text(text) => text.parse().ok(),
        Loose::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

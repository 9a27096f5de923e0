//! The envelope of brokers that have no headers of their own: one JSON object for each message.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
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

/// A list element, opened: what is needed only for a moment is borrowed from it where it can be.
#[derive(Debug)]
pub(crate) struct Opened<'a> {
    pub(crate) message: Message,
    pub(crate) exchange: Cow<'a, str>,
    pub(crate) routing_key: Cow<'a, str>,
    pub(crate) delivery_tag: Cow<'a, str>,
    pub(crate) redelivered: bool,
}

/// An element as nearly all are, for one pass. What does not fit is read again as [`Wire`], which tells what is wrong.
#[derive(Deserialize)]
struct Regular<'a> {
    #[serde(borrow)]
    body: Cow<'a, str>,
    #[serde(borrow, rename = "content-type")]
    content_type: Cow<'a, str>,
    #[serde(borrow, default, rename = "content-encoding")]
    content_encoding: Loose<'a>,
    #[serde(borrow)]
    headers: &'a RawValue,
    #[serde(borrow)]
    properties: Found<'a, DeliveryInfo<'a>>,
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

/// Where it was sent to, and whether it came back.
#[derive(Default)]
struct DeliveryInfo<'a> {
    exchange: Loose<'a>,
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
        let Opened { message, exchange, routing_key, delivery_tag, redelivered } = Self::open(bytes)?;
        Ok(Self {
            message,
            exchange: exchange.into_owned(),
            routing_key: routing_key.into_owned(),
            delivery_tag: delivery_tag.into_owned(),
            redelivered,
        })
    }

    /// The same for who takes of it only what is needed.
    pub(crate) fn open(bytes: &[u8]) -> Result<Opened<'_>, DecodeError> {
        if let Ok(opened) = json::object(bytes, PART).and_then(Regular::open) {
            return Ok(opened);
        }
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
    fn decode_masked<'a>(bytes: &[u8], text: &[u8]) -> Result<Opened<'a>, DecodeError> {
        let wire: Wire<'_> = json::object(text, PART)?;
        let content_type = required(wire.content_type, "content-type")?;
        let properties = wire.properties.ok_or(DecodeError::Missing { part: PART, field: "properties" })?;
        let mut found: Found<'_, &RawValue> = json::object(properties.get().as_bytes(), "properties")?;
        let info: DeliveryInfo<'_> = match found.delivery_info.take() {
            Some(info) if info.get() != "null" => json::object(info.get().as_bytes(), "delivery_info")?,
            _ => DeliveryInfo::default(),
        };
        let headers =
            wire.headers.map_or(&b"null"[..], |headers| json::same_place(bytes, text, headers.get()));
        let body = required(wire.body, "body")?;
        let opened = found.open(headers, &body, info, &content_type, wire.content_encoding)?;
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        Ok(Opened {
            message: opened.message,
            exchange: owned(opened.exchange),
            routing_key: owned(opened.routing_key),
            delivery_tag: owned(opened.delivery_tag),
            redelivered: opened.redelivered,
        })
    }
}

impl<'a> Regular<'a> {
    fn open(self) -> Result<Opened<'a>, DecodeError> {
        let mut found = self.properties;
        let info = found.delivery_info.take().unwrap_or_default();
        let headers = self.headers.get().as_bytes();
        found.open(headers, &self.body, info, &self.content_type, self.content_encoding)
    }
}

impl<'a, I> Found<'a, I> {
    /// All parts put together.
    fn open(
        self,
        headers: &[u8],
        body: &str,
        info: DeliveryInfo<'a>,
        content_type: &str,
        content_encoding: Loose<'_>,
    ) -> Result<Opened<'a>, DecodeError> {
        let (headers, body) = decode_body(headers, body, &self.body_encoding)?;
        let properties = Properties {
            content_type: content_type.to_owned(),
            content_encoding: content_encoding.text().unwrap_or_default().into_owned(),
            ..self.properties
        };
        Ok(Opened {
            message: Message { headers, properties, body },
            exchange: info.exchange.text().unwrap_or_default(),
            routing_key: info.routing_key.text().unwrap_or_default(),
            delivery_tag: self.delivery_tag.text().unwrap_or_default(),
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

/// Headers and decoded body, in one piece of memory.
fn decode_body(headers: &[u8], body: &str, encoding: &Loose<'_>) -> Result<(Bytes, Bytes), DecodeError> {
    let invalid = |field, expected| DecodeError::Invalid { part: PART, field, expected };
    let encoded = match encoding {
        Loose::Text(encoding) if encoding == "base64" => true,
        Loose::Text(encoding) if !matches!(&**encoding, "utf-8" | "utf8" | "") => {
            return Err(invalid("body_encoding", "base64 or utf-8"));
        }
        _ => false,
    };
    let size = if encoded { base64::decoded_len_estimate(body.len()) } else { body.len() };
    let mut both = Vec::with_capacity(headers.len() + size);
    both.extend_from_slice(headers);
    if encoded {
        both.resize(headers.len() + size, 0);
        let decoded = STANDARD.decode_slice(body, &mut both[headers.len()..]);
        both.truncate(headers.len() + decoded.map_err(|_| invalid("body", "base64"))?);
    } else {
        both.extend_from_slice(body.as_bytes());
    }
    let mut both = Bytes::from(both);
    let body = both.split_off(headers.len());
    Ok((both, body))
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

/// The property object as it comes. `I` is what is made of the delivery information.
struct Found<'a, I> {
    properties: Properties,
    delivery_info: Option<I>,
    body_encoding: Loose<'a>,
    delivery_tag: Loose<'a>,
}

impl<'de: 'a, 'a, I: Deserialize<'de>> Deserialize<'de> for Found<'a, I> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FoundVisitor(PhantomData))
    }
}

struct FoundVisitor<I>(PhantomData<I>);

impl<'de, I: Deserialize<'de>> Visitor<'de> for FoundVisitor<I> {
    type Value = Found<'de, I>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let properties = Properties { delivery_mode: 2, ..Properties::default() };
        let mut found = Found {
            properties,
            delivery_info: None,
            body_encoding: Loose::Absent,
            delivery_tag: Loose::Absent,
        };
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

impl<'de: 'a, 'a> Deserialize<'de> for DeliveryInfo<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(InfoVisitor)
    }
}

struct InfoVisitor;

impl<'de> Visitor<'de> for InfoVisitor {
    type Value = DeliveryInfo<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut info = DeliveryInfo::default();
        while let Some(Loose::Text(name)) = map.next_key()? {
            match &*name {
                "exchange" => info.exchange = map.next_value()?,
                "routing_key" => info.routing_key = map.next_value()?,
                "redelivered" => info.redelivered = map.next_value()?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(info)
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

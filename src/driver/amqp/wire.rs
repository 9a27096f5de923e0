//! One message, as basic properties and a body.

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde_json::Value;

use super::table;
use crate::protocol::{Message, Properties};

/// How often the process that ran a message died. Written by whoever gives it back after a crash.
pub(super) const CRASHES: &str = "celeriac_crashes";
/// On a copy that went to the end of its queue: it was delivered before.
const REDELIVERED: &str = "redelivered";
/// What `RabbitMQ` adds to a message whose time in a delay queue is over. Sent again, it would look like a cycle
/// there, and be dropped.
const DEATH: [&str; 7] = [
    "x-death",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
];
const DELIVERY_COUNT: &str = "x-delivery-count";

/// The properties of a message, or which of its parts AMQP cannot carry.
pub(super) fn properties(message: &Message) -> Result<BasicProperties, String> {
    let own = &message.properties;
    let mut headers = match &message.headers[..] {
        b"" => FieldTable::default(),
        text => table::from_text(text).ok_or("the headers are no JSON object")?,
    };
    strip(&mut headers);
    let mode = if own.delivery_mode == 1 { 1 } else { 2 };
    // Celery writes a priority always, and tasks see it in their `delivery_info`.
    let priority = own.priority.unwrap_or(0);
    let mut properties =
        BasicProperties::default().with_headers(headers).with_delivery_mode(mode).with_priority(priority);
    if !own.content_type.is_empty() {
        properties = properties.with_content_type(short("content_type", &own.content_type)?);
    }
    if !own.content_encoding.is_empty() {
        properties = properties.with_content_encoding(short("content_encoding", &own.content_encoding)?);
    }
    if let Some(id) = &own.correlation_id {
        properties = properties.with_correlation_id(short("correlation_id", id)?);
    }
    if let Some(queue) = &own.reply_to {
        properties = properties.with_reply_to(short("reply_to", queue)?);
    }
    // A server closes the channel over a longer one. The header `expires` holds all the same.
    if let Some(ms) = own.expiration_ms.filter(|ms| u32::try_from(*ms).is_ok()) {
        properties = properties.with_expiration(short("expiration", &ms.to_string())?);
    }
    other(properties, &own.other)
}

fn other(
    mut properties: BasicProperties,
    other: &serde_json::Map<String, Value>,
) -> Result<BasicProperties, String> {
    for (name, value) in other {
        let text = || match value {
            Value::String(text) => short(name, text),
            value => short(name, &value.to_string()),
        };
        properties = match name.as_str() {
            "message_id" => properties.with_message_id(text()?),
            "type" => properties.with_type(text()?),
            "user_id" => properties.with_user_id(text()?),
            "app_id" => properties.with_app_id(text()?),
            "cluster_id" => properties.with_cluster_id(text()?),
            "timestamp" => match value.as_u64() {
                Some(seconds) => properties.with_timestamp(seconds),
                None => properties,
            },
            // kombu passes what it does not know to py-amqp, which leaves it out.
            _ => properties,
        };
    }
    Ok(properties)
}

fn short(name: &str, text: &str) -> Result<ShortString, String> {
    ShortString::try_new(text).map_err(|_| format!("{name} has over 255 bytes"))
}

/// Takes out what the server wrote about earlier ways.
fn strip(headers: &mut FieldTable) {
    let fields = headers.inner();
    if fields.contains_key(DELIVERY_COUNT) || DEATH.iter().any(|name| fields.contains_key(*name)) {
        let mut kept = fields.clone();
        kept.retain(|name, _| name.as_str() != DELIVERY_COUNT && !DEATH.contains(&name.as_str()));
        *headers = kept.into();
    }
}

/// A message that was received.
pub(super) struct Received {
    pub(super) message: Message,
    pub(super) crashes: u32,
    pub(super) redelivered: bool,
}

/// Reads what was delivered. Nothing of it can fail: what makes no sense is left out.
pub(super) fn read(properties: &BasicProperties, body: Vec<u8>, redelivered: bool) -> Received {
    let text = |value: &Option<ShortString>| value.as_ref().map(ToString::to_string);
    let mut own = Properties {
        content_type: text(properties.content_type()).unwrap_or_default(),
        content_encoding: text(properties.content_encoding()).unwrap_or_default(),
        correlation_id: text(properties.correlation_id()),
        reply_to: text(properties.reply_to()),
        delivery_mode: properties.delivery_mode().unwrap_or(1),
        priority: *properties.priority(),
        expiration_ms: properties.expiration().as_ref().and_then(|ms| ms.as_str().parse().ok()),
        ..Properties::default()
    };
    for (name, value) in [
        ("message_id", properties.message_id()),
        ("type", properties.kind()),
        ("user_id", properties.user_id()),
        ("app_id", properties.app_id()),
        ("cluster_id", properties.cluster_id()),
    ] {
        if let Some(value) = value {
            own.other.insert(name.to_owned(), value.as_str().into());
        }
    }
    if let Some(seconds) = properties.timestamp() {
        own.other.insert("timestamp".to_owned(), (*seconds).into());
    }
    let none = FieldTable::default();
    let headers = properties.headers().as_ref().unwrap_or(&none);
    let number = |name| headers.inner().get(name).and_then(|value| table::json_value(value).as_u64());
    let flag = headers.inner().get(REDELIVERED).and_then(AMQPValue::as_bool);
    Received {
        crashes: number(CRASHES).map_or(0, |count| u32::try_from(count).unwrap_or(u32::MAX)),
        redelivered: redelivered || flag == Some(true) || number(DELIVERY_COUNT).is_some_and(|n| n > 0),
        message: Message {
            headers: table::to_text(headers).into(),
            properties: own,
            body: Bytes::from(body),
        },
    }
}

/// The same message, marked as delivered before, with further headers.
pub(super) fn again(message: &Message, more: &[(&str, Value)]) -> Message {
    let mut more = more.to_vec();
    more.push((REDELIVERED, true.into()));
    with(message, &more)
}

/// The same message with further headers.
pub(super) fn with(message: &Message, more: &[(&str, Value)]) -> Message {
    let mut headers: serde_json::Map<String, Value> =
        table::from_text(&message.headers).map(|table| table::json_object(&table)).unwrap_or_default();
    for (name, value) in more {
        headers.insert((*name).to_owned(), value.clone());
    }
    Message { headers: table::to_text(&table::table(&headers)).into(), ..message.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(headers: &str) -> Message {
        Message {
            headers: Bytes::copy_from_slice(headers.as_bytes()),
            properties: Properties {
                content_type: "application/json".into(),
                content_encoding: "utf-8".into(),
                correlation_id: Some("id".into()),
                reply_to: Some("reply".into()),
                delivery_mode: 2,
                priority: Some(0),
                expiration_ms: Some(5000),
                other: serde_json::json!({"message_id": "m", "user_id": "guest", "timestamp": 5})
                    .as_object()
                    .unwrap()
                    .clone(),
            },
            body: Bytes::from_static(b"[[], {}, {}]"),
        }
    }

    #[test]
    fn every_property_comes_back() {
        let sent = message(r#"{"lang": "py", "task": "t", "id": "id"}"#);
        let received = read(&properties(&sent).unwrap(), sent.body.to_vec(), false);
        assert_eq!(received.message, sent);
        assert_eq!((received.crashes, received.redelivered), (0, false));
    }

    #[test]
    fn what_the_server_wrote_about_earlier_ways_is_not_sent_again() {
        let sent = message(
            r#"{"task": "t", "x-death": [{"count": 1}], "x-first-death-queue": "q", "x-delivery-count": 1}"#,
        );
        let headers = properties(&sent).unwrap().headers().clone().unwrap();
        assert_eq!(headers.inner().len(), 1);
    }

    #[test]
    fn a_copy_counts_crashes_and_says_that_it_was_delivered_before() {
        let copied = again(&message(r#"{"task": "t"}"#), &[(CRASHES, 2.into())]);
        let received = read(&properties(&copied).unwrap(), Vec::new(), false);
        assert_eq!((received.crashes, received.redelivered), (2, true));
    }

    #[test]
    fn a_longer_expiration_than_servers_take_is_left_to_the_header() {
        let mut sent = message("{}");
        for (ms, written) in [(4_294_967_295, Some("4294967295")), (4_294_967_296, None)] {
            sent.properties.expiration_ms = Some(ms);
            let properties = properties(&sent).unwrap();
            assert_eq!(properties.expiration().as_ref().map(ShortString::as_str), written);
        }
    }

    #[test]
    fn what_amqp_cannot_carry_is_named() {
        let mut long = message("{}");
        long.properties.correlation_id = Some("x".repeat(256));
        assert_eq!(properties(&long).unwrap_err(), "correlation_id has over 255 bytes");
    }
}

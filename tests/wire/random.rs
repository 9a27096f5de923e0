//! The codec against anything at all: nothing panics, and what is written is read again.

use celeriac::protocol::{
    ControlRequest, Envelope, Message, Properties, ResultDocument, compress, decompress, format_iso_utc,
    parse_iso_ms,
};
use celeriac::url::StoreUrl;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::Value;

use crate::golden::{case, cases, raw_envelopes};

const METHODS: [&str; 3] = ["application/x-gzip", "application/x-bz2", "application/zstd"];

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(any::<String>(), inner, 0..4).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

prop_compose! {
    fn properties()(
        content_type in any::<String>(),
        content_encoding in any::<String>(),
        correlation_id in option::of(any::<String>()),
        reply_to in option::of(any::<String>()),
        delivery_mode in 1_u8..=2,
        priority in 0_u8..=9,
        expiration_ms in option::of(any::<u64>()),
        other in btree_map("x_[a-z]{1,8}", json_value(), 0..3),
    ) -> Properties {
        Properties {
            content_type, content_encoding, correlation_id, reply_to, delivery_mode, expiration_ms,
            priority: Some(priority),
            other: other.into_iter().collect(),
        }
    }
}

/// Bytes that look like JSON more often than chance would have it.
fn almost_json() -> impl Strategy<Value = Vec<u8>> {
    let pieces = vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\\u00e9",
        "\\ud800",
        "null",
        "true",
        "NaN",
        "-",
        "Infinity",
        "1",
        "1e999",
        "\"task\"",
        "\"id\"",
        "\"args\"",
        "\"kwargs\"",
        "\"body\"",
        "\"headers\"",
        "\"properties\"",
        "\"delivery_info\"",
        "\"content-type\"",
        "\"timelimit\"",
        "\"eta\"",
        " ",
        "\u{e9}",
        "\u{0}",
    ];
    vec(select(pieces), 0..60).prop_map(|pieces| pieces.concat().into_bytes())
}

/// Does everything that a worker does with bytes from outside.
fn swallow(headers: &[u8], content_type: &str, body: &[u8]) {
    let message = Message {
        headers: headers.to_vec().into(),
        properties: Properties { content_type: content_type.to_owned(), ..Properties::default() },
        body: body.to_vec().into(),
    };
    let _ = message.task_headers();
    match message.clone().upgrade() {
        Ok(upgraded) => {
            let _ = upgraded.task_headers();
        }
        Err((given_back, error)) => {
            assert_eq!(given_back, message);
            assert!(error.to_string().len() < 200);
        }
    }
    let _ = ControlRequest::parse(body);
    let _ = ResultDocument::parse(body);
}

fn swallow_element(element: &[u8]) {
    if let Ok(envelope) = Envelope::decode(element) {
        let message = envelope.message;
        swallow(&message.headers, &message.properties.content_type, &message.body);
    }
}

/// Changes some bytes of a text.
fn mutate(text: &str, changes: &[(Index, u8, u8)]) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for (place, what, byte) in changes {
        if bytes.is_empty() {
            break;
        }
        let at = place.index(bytes.len());
        match what % 5 {
            0 => bytes[at] = *byte,
            1 => bytes.insert(at, *byte),
            2 => drop(bytes.remove(at)),
            3 => bytes.truncate(at),
            _ => {
                let copy = bytes[at..bytes.len().min(at + usize::from(*byte))].to_vec();
                bytes.splice(at..at, copy);
            }
        }
    }
    bytes
}

fn changes() -> impl Strategy<Value = Vec<(Index, u8, u8)>> {
    vec((any::<Index>(), any::<u8>(), any::<u8>()), 1..6)
}

proptest! {
    #[test]
    fn a_message_comes_back_out_of_its_envelope(
        properties in properties(),
        headers in btree_map(any::<String>(), json_value(), 0..5),
        body in vec(any::<u8>(), 0..300),
        names in (any::<String>(), any::<String>(), any::<String>()),
    ) {
        let headers: Value = headers.into_iter().collect();
        let message = Message { headers: headers.to_string().into(), properties, body: body.into() };
        let raw = Envelope::encode(&message, &names.0, &names.1, &names.2);
        let envelope = Envelope::decode(&raw).unwrap();
        prop_assert_eq!(envelope.message, message);
        prop_assert_eq!((envelope.exchange, envelope.routing_key, envelope.delivery_tag), names);
        prop_assert!(!envelope.redelivered);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        headers in vec(any::<u8>(), 0..200), body in vec(any::<u8>(), 0..200), json in any::<bool>(),
    ) {
        swallow(&headers, if json { "application/json" } else { "" }, &body);
        swallow_element(&headers);
    }

    #[test]
    fn what_is_almost_json_never_panics(headers in almost_json(), body in almost_json()) {
        swallow(&headers, "application/json", &body);
        swallow_element(&body);
        swallow(b"{}", "application/json", &body);
        swallow(br#"{"task": "t", "id": "1"}"#, "application/json", &body);
    }

    #[test]
    fn compression_gives_back_what_it_got(data in vec(any::<u8>(), 0..2000), repeat in 1_usize..20) {
        let data = data.repeat(repeat);
        for method in METHODS {
            let packed = compress(&data, method).unwrap();
            prop_assert_eq!(&decompress(&packed, method, data.len()).unwrap(), &data);
            if !data.is_empty() {
                prop_assert!(decompress(&packed, method, data.len() - 1).is_err());
            }
        }
    }

    #[test]
    fn damaged_compressed_data_keeps_to_the_limit(
        data in vec(any::<u8>(), 0..500), change in changes(), limit in 0_usize..2000,
    ) {
        for method in METHODS {
            let packed: String = compress(&data, method).unwrap().into_iter().map(char::from).collect();
            let damaged: Vec<u8> = mutate(&packed, &change).into_iter().collect();
            for input in [&damaged, &data] {
                if let Ok(out) = decompress(input, method, limit) {
                    prop_assert!(out.len() <= limit);
                }
            }
        }
    }

    #[test]
    fn moments_are_read_as_they_were_written(ms in -62_135_596_800_000_i64..=253_402_300_799_999) {
        let text = format_iso_utc(ms);
        prop_assert_eq!(parse_iso_ms(&text), Some(ms));
        let jiff: jiff::Timestamp = text.parse().unwrap();
        prop_assert_eq!(jiff.as_millisecond(), ms);
    }

    #[test]
    fn any_text_is_a_moment_or_not(text in "[0-9TtZz:.+, -]{0,40}", other in any::<String>()) {
        let _ = parse_iso_ms(&other);
        if let Some(ms) = parse_iso_ms(&text) {
            prop_assert_eq!(parse_iso_ms(&format_iso_utc(ms)), Some(ms));
        }
    }

    #[test]
    fn urls_never_panic_and_print_what_they_parse(text in "(redis|amqp|sqlite|sentinel)://[-a-z0-9@:/;?&=%.\\[\\]]{0,40}") {
        if let Ok(url) = StoreUrl::parse(&text)
            && url.alternatives().all(|url| url.password.is_none())
        {
            let printed = StoreUrl::parse(&url.to_string()).unwrap();
            prop_assert_eq!(printed, url);
        }
    }
}

#[test]
fn golden_messages_with_changed_bytes_never_panic() {
    let mut texts: Vec<String> = Vec::new();
    for (_, case) in cases("redis_messages") {
        texts.extend(raw_envelopes(&case).into_iter().map(|(raw, _)| raw.to_owned()));
    }
    let foreign = case("foreign_messages", "redis");
    let rows = foreign["rows"].as_array().unwrap();
    texts.extend(rows.iter().map(|row| row["message"].as_str().unwrap().to_owned()));
    assert!(texts.len() > 100);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(2000));
    let strategy = (any::<Index>(), changes(), changes());
    let result = runner.run(&strategy, |(which, change, inner)| {
        let raw = which.get(&texts);
        swallow_element(&mutate(raw, &change));
        if let Ok(envelope) = Envelope::decode(raw.as_bytes()) {
            let message = envelope.message;
            let headers = mutate(std::str::from_utf8(&message.headers).unwrap(), &inner);
            swallow(&headers, &message.properties.content_type, &message.body);
            if let Ok(body) = std::str::from_utf8(&message.body) {
                swallow(&message.headers, &message.properties.content_type, &mutate(body, &inner));
            }
        }
        Ok(())
    });
    result.unwrap();
}

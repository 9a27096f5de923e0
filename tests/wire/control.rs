//! Remote control as Celery's clients and workers speak it.

use celeriac::protocol::{ControlReply, ControlRequest, DecodeError, Envelope};
use serde_json::Value;

use crate::golden::{cases, raw_envelopes};

#[test]
fn every_request_and_reply_is_read_and_written_again() {
    let (mut requests, mut replies) = (0, 0);
    for (name, case) in cases("redis_control") {
        for (raw, _) in raw_envelopes(&case["requests"]) {
            let body = Envelope::decode(raw.as_bytes()).unwrap().message.body;
            let request = ControlRequest::parse(&body).unwrap_or_else(|error| panic!("{name}: {error}"));
            let expected: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(serde_json::from_slice::<Value>(&request.to_json()).unwrap(), expected, "{name}");
            assert_eq!(expected["method"], *request.method, "{name}");
            requests += 1;
        }
        for (raw, _) in raw_envelopes(&case["replies"]) {
            let body = Envelope::decode(raw.as_bytes()).unwrap().message.body;
            let reply = ControlReply::parse(&body).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(reply.node, "w1@worker.example", "{name}");
            let written: Value = serde_json::from_slice(&reply.to_json()).unwrap();
            assert_eq!(written, serde_json::from_slice::<Value>(&body).unwrap(), "{name}");
            replies += 1;
        }
    }
    assert!(requests >= 30 && replies >= 25, "only {requests} requests and {replies} replies");
}

#[test]
fn requests_without_arguments_are_written_byte_for_byte() {
    let mut found = 0;
    for (name, case) in cases("redis_control") {
        for (raw, decoded) in raw_envelopes(&case["requests"]) {
            if decoded["body (decoded)"]["arguments"].as_object().is_some_and(serde_json::Map::is_empty) {
                let body = Envelope::decode(raw.as_bytes()).unwrap().message.body;
                assert_eq!(ControlRequest::parse(&body).unwrap().to_json(), body, "{name}");
                found += 1;
            }
        }
    }
    assert!(found >= 5, "only {found} requests");
}

#[test]
fn requests_of_another_shape_are_refused() {
    for body in ["", "null", "[\"ping\"]", "{}", r#"{"method": 1}"#, r#"{"method": "x", "destination": "a"}"#]
    {
        assert!(ControlRequest::parse(body.as_bytes()).is_err(), "{body}");
    }
    for body in ["{}", "[]", r#"{"a": 1, "b": 2}"#] {
        assert!(ControlReply::parse(body.as_bytes()).is_err(), "{body}");
    }
    let pcre = br#"{"method": "x", "pattern": "w.*", "matcher": "pcre"}"#;
    assert_eq!(ControlRequest::parse(pcre), Err(DecodeError::UnsupportedMatcher));
}

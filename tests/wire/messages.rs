//! Task messages as Celery sends them, through Redis envelopes and AMQP.

use celeriac::protocol::{Envelope, Message, NewTask, Properties, TaskHeaders, decompress};
use serde_json::{Value, json};

use crate::golden::{base64, case, cases, raw_envelopes, text};

/// A second opinion on dates.
fn moment(value: &Value) -> Option<i64> {
    let text = value.as_str()?;
    let with_offset: Result<jiff::Timestamp, _> = text.parse();
    let timestamp = with_offset.unwrap_or_else(|_| {
        let naive: jiff::civil::DateTime = text.parse().unwrap();
        naive.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp()
    });
    Some(timestamp.as_millisecond())
}

fn assert_headers(headers: &TaskHeaders<'_>, expected: &Value, name: &str) {
    assert_eq!(Some(&*headers.task), text(&expected["task"]), "{name}");
    assert_eq!(Some(&*headers.id), text(&expected["id"]), "{name}");
    assert_eq!(headers.eta_ms, moment(&expected["eta"]), "{name}");
    assert_eq!(headers.expires_ms, moment(&expected["expires"]), "{name}");
    assert_eq!(headers.hard_limit, expected["timelimit"][0].as_f64(), "{name}");
    assert_eq!(headers.soft_limit, expected["timelimit"][1].as_f64(), "{name}");
    assert_eq!(Some(u64::from(headers.retries)), expected["retries"].as_u64(), "{name}");
    assert_eq!(headers.ignore_result, expected["ignore_result"].as_bool(), "{name}");
    assert_eq!(headers.group.as_deref(), text(&expected["group"]), "{name}");
    assert_eq!(headers.root_id.as_deref(), text(&expected["root_id"]), "{name}");
    assert_eq!(headers.parent_id.as_deref(), text(&expected["parent_id"]), "{name}");
    assert_eq!(headers.shadow.as_deref(), text(&expected["shadow"]), "{name}");
}

/// Checks what a worker does first: upgrade, then read the headers.
fn assert_task_message(message: Message, headers: &Value, body: Option<&Value>, name: &str) {
    if headers.get("task").is_some() {
        assert_headers(&message.task_headers().unwrap(), headers, name);
        assert_eq!(message.clone().upgrade().unwrap(), message, "{name}: protocol 2 is left alone");
        return;
    }
    let body = body.unwrap_or_else(|| panic!("{name}: protocol 1 has a readable body"));
    let upgraded = message.upgrade().unwrap();
    assert_headers(&upgraded.task_headers().unwrap(), body, name);
    let embed = json!({
        "callbacks": body["callbacks"],
        "errbacks": body["errbacks"],
        "chain": null,
        "chord": body["chord"],
    });
    let new_body: Value = serde_json::from_slice(&upgraded.body).unwrap();
    assert_eq!(new_body, json!([body["args"], body["kwargs"], embed]), "{name}");
    let new_headers: Value = serde_json::from_slice(&upgraded.headers).unwrap();
    assert_eq!(new_headers["lang"], "py", "{name}");
    assert_eq!(new_headers["group"], body["taskset"], "{name}");
    assert!(new_headers["argsrepr"].as_str().unwrap().starts_with('['), "{name}");
    assert_eq!(upgraded.clone().upgrade().unwrap(), upgraded, "{name}: twice is once");
}

fn assert_properties(properties: &Properties, expected: &Value, name: &str) {
    assert_eq!(properties.correlation_id.as_deref(), text(&expected["correlation_id"]), "{name}");
    assert_eq!(properties.reply_to.as_deref(), text(&expected["reply_to"]), "{name}");
    assert_eq!(Some(u64::from(properties.delivery_mode)), expected["delivery_mode"].as_u64(), "{name}");
    assert_eq!(properties.priority.map(u64::from), expected["priority"].as_u64(), "{name}");
    let expiration = text(&expected["expiration"]).map(|text| text.parse::<u64>().unwrap());
    assert_eq!(properties.expiration_ms, expiration, "{name}");
    for member in ["message_id", "user_id", "origin", "argsrepr"] {
        assert_eq!(properties.other.get(member), expected.get(member), "{name} {member}");
    }
}

#[test]
fn every_envelope_is_read_and_written_again_byte_for_byte() {
    let folders = ["redis_messages", "redis_results", "redis_results_protocol_1", "redis_control"];
    let (mut tasks, mut protocol_1) = (0, 0);
    for folder in folders {
        for (name, case) in cases(folder) {
            for (raw, decoded) in raw_envelopes(&case) {
                let envelope = Envelope::decode(raw.as_bytes()).unwrap_or_else(|e| panic!("{name}: {e}"));
                let properties = &decoded["properties"];
                let message = &envelope.message;
                assert_properties(&message.properties, properties, &name);
                assert_eq!(Some(&*message.properties.content_type), text(&decoded["content-type"]));
                assert_eq!(Some(&*message.properties.content_encoding), text(&decoded["content-encoding"]));
                assert_eq!(message.body, base64(&decoded["body"]), "{name}");
                let headers: Value = serde_json::from_slice(&message.headers).unwrap();
                assert_eq!(headers, decoded["headers"], "{name}");
                assert_eq!(Some(&*envelope.exchange), text(&properties["delivery_info"]["exchange"]));
                assert_eq!(Some(&*envelope.delivery_tag), text(&properties["delivery_tag"]));

                let written = Envelope::encode(
                    message,
                    &envelope.exchange,
                    &envelope.routing_key,
                    &envelope.delivery_tag,
                );
                assert_eq!(String::from_utf8(written).unwrap(), raw, "{name}");

                let body = &decoded["body (decoded)"];
                if headers.get("task").is_some() || body.get("task").is_some() {
                    tasks += 1;
                    protocol_1 += usize::from(headers.get("task").is_none());
                    assert_task_message(envelope.message, &headers, Some(body), &name);
                }
            }
        }
    }
    assert!(tasks > 150, "only {tasks} task messages found");
    assert!(protocol_1 >= 8, "only {protocol_1} of protocol 1");
}

#[test]
fn every_amqp_message_is_read() {
    let (mut count, mut binary) = (0, 0);
    for (name, case) in cases("amqp_messages") {
        for raw in case["messages"].as_array().unwrap() {
            let properties = &raw["properties"];
            let body = match text(&raw["body"]) {
                Some(text) => text.as_bytes().to_vec(),
                None => base64(&raw["body_base64"]),
            };
            binary += usize::from(raw.get("body_base64").is_some());
            let message = Message {
                headers: raw["headers"].to_string().into(),
                properties: Properties {
                    content_type: text(&properties["content_type"]).unwrap().to_owned(),
                    ..Properties::default()
                },
                body: body.clone().into(),
            };
            let opened = serde_json::from_slice::<Value>(&body).ok();
            if raw["headers"].get("task").is_none() && opened.as_ref().is_none_or(|o| o.get("task").is_none())
            {
                continue;
            }
            count += 1;
            assert_task_message(message, &raw["headers"], opened.as_ref(), &name);
        }
    }
    assert!(count > 90 && binary >= 5, "only {count} messages, {binary} of them binary");
}

#[test]
fn compressed_bodies_of_celery_are_opened() {
    let plain = [("gzip", "zlib"), ("zlib", "zlib"), ("bzip2", "bzip2"), ("zstd", "zstd")];
    for (name, _) in plain {
        let case = case("redis_messages", name);
        let (raw, _) = raw_envelopes(&case)[0];
        let message = Envelope::decode(raw.as_bytes()).unwrap().message;
        let headers: Value = serde_json::from_slice(&message.headers).unwrap();
        let method = headers["compression"].as_str().unwrap();
        let body: Value = serde_json::from_slice(&decompress(&message.body, method, 4096).unwrap()).unwrap();
        assert_eq!(body[0][0], "x".repeat(200), "{name}");
        assert!(decompress(&message.body, method, 100).is_err(), "{name}");
    }
}

#[test]
fn headers_are_written_as_celery_writes_them() {
    let names = ["delay_args", "time_limits", "group_3", "shadow", "eta_aware", "expires_datetime"];
    for name in names {
        let case = case("redis_messages", name);
        let (raw, decoded) = raw_envelopes(&case)[0];
        let message = Envelope::decode(raw.as_bytes()).unwrap().message;
        let headers = &decoded["headers"];
        let mut task = NewTask::new(text(&headers["task"]).unwrap(), text(&headers["id"]).unwrap());
        task.shadow = text(&headers["shadow"]);
        task.eta = text(&headers["eta"]);
        task.expires = text(&headers["expires"]);
        task.group = text(&headers["group"]);
        task.group_index = headers["group_index"].as_u64().map(|index| u32::try_from(index).unwrap());
        task.timelimit = [headers["timelimit"][0].as_f64(), headers["timelimit"][1].as_f64()];
        task.root_id = text(&headers["root_id"]);
        task.parent_id = text(&headers["parent_id"]);
        task.argsrepr = text(&headers["argsrepr"]).unwrap();
        task.kwargsrepr = text(&headers["kwargsrepr"]).unwrap();
        task.origin = text(&headers["origin"]).unwrap();
        task.ignore_result = headers["ignore_result"].as_bool().unwrap();
        assert_eq!(task.headers(), message.headers, "{name}");
    }
}

#[test]
fn a_message_made_here_reads_as_one_of_celery() {
    let message = NewTask::new("demo.add", "a-1").message("[2, 3]", "{}");
    let expected =
        "[[2, 3], {}, {\"callbacks\": null, \"errbacks\": null, \"chain\": null, \"chord\": null}]";
    assert_eq!(message.body, expected);
    let headers = message.task_headers().unwrap();
    assert_eq!((&*headers.task, &*headers.id, headers.retries), ("demo.add", "a-1", 0));
    assert_eq!(headers.hard_limit, None);
}

#[test]
fn headers_that_are_not_strict_json_keep_their_text() {
    let message = NewTask::new("demo.add", "a-1").message("[]", "{}");
    let headers = r#"{"task": "demo.add", "id": "a\n1", "load": NaN, "x": [-Infinity, "NaN"], "retries": 2}"#;
    let message = Message { headers: headers.into(), ..message };
    let raw = Envelope::encode(&message, "", "celery", "tag");
    let decoded = Envelope::decode(&raw).unwrap().message;
    assert_eq!(decoded.headers, headers);
    let read = decoded.task_headers().unwrap();
    assert_eq!((&*read.id, read.retries), ("a\n1", 2));
    assert_eq!(decoded.clone().upgrade().unwrap(), decoded);
}

#[test]
fn texts_without_escapes_are_borrowed_from_the_message() {
    let message = NewTask::new("demo.add", "a-1").message("[]", "{}");
    let headers = message.task_headers().unwrap();
    assert!(matches!(headers.task, std::borrow::Cow::Borrowed(_)));
    assert!(matches!(headers.root_id, Some(std::borrow::Cow::Borrowed(_))));
}

//! What is on the wire, against what Celery itself wrote there: messages, declarations, replies.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use celeriac::broker::{Committed, Settle};
use celeriac::driver::{ConnectOptions, ReplyOptions};
use celeriac::protocol::{Message, Properties, Publication, ResultRecord, Topology};
use serde_json::{Value, json};

use crate::amqp::{channel, consumer, existing, get, now};
use crate::rabbit::{Host, shared};
use crate::setup::{commit, in_time, names, publication, take};

fn golden(folder: &str) -> Vec<(PathBuf, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder);
    let files = std::fs::read_dir(folder).expect("the folder is there");
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a file");
        (path, serde_json::from_str(&text).expect("JSON"))
    };
    files.map(|file| read(file.expect("an entry").path())).collect()
}

fn named(folder: &str, name: &str) -> Value {
    let found =
        golden(folder).into_iter().find(|(path, _)| path.file_stem().is_some_and(|stem| stem == name));
    found.expect("the case is there").1
}

/// A message of the capture, as our side has it.
fn from_golden(sent: &Value) -> Option<Message> {
    let text = |name: &str| sent["properties"][name].as_str().map(str::to_owned);
    let known = [
        "content_type",
        "content_encoding",
        "correlation_id",
        "reply_to",
        "delivery_mode",
        "priority",
        "expiration",
    ];
    let properties = sent["properties"].as_object()?;
    let other = properties.iter().filter(|(name, _)| !known.contains(&name.as_str()));
    let mut headers = Vec::new();
    serde_json::to_writer(&mut headers, &sent["headers"]).expect("writes");
    Some(Message {
        headers: headers.into(),
        body: sent["body"].as_str()?.to_owned().into(),
        properties: Properties {
            content_type: text("content_type")?,
            content_encoding: text("content_encoding")?,
            correlation_id: text("correlation_id"),
            reply_to: text("reply_to"),
            delivery_mode: sent["properties"]["delivery_mode"].as_u64()? as u8,
            priority: sent["properties"]["priority"].as_u64().map(|priority| priority as u8),
            expiration_ms: text("expiration").and_then(|ms| ms.parse().ok()).filter(|ms| *ms > 1000),
            other: other.map(|(name, value)| (name.clone(), value.clone())).collect(),
        },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_of_celery_goes_out_and_comes_back_field_for_field() {
    in_time(async {
        let host = shared().host();
        let broker = host.worker(Vec::new());
        let consumer = consumer(&broker, &["celery"]).await;
        let (_connection, channel) = channel(&host).await;
        let mut seen = 0;
        for (path, case) in golden("amqp_messages") {
            for sent in case["messages"].as_array().into_iter().flatten() {
                let Some(mut message) = from_golden(sent) else { continue };
                // Celery always sends one, and so do we.
                message.properties.priority.get_or_insert(0);
                // An expiration that RabbitMQ closes the channel for is left to the header.
                let taken = |ms: &u64| u32::try_from(*ms).is_ok();
                message.properties.expiration_ms = message.properties.expiration_ms.filter(taken);
                // An empty queue, read by a plain client: what is on the wire.
                let there = Publication { routing_key: "wire".into(), message, ..Publication::default() };
                broker.publish(vec![there.clone()]).await.expect("publishes");
                let wire = get(&channel, "wire").await.expect("it is there");
                let headers = wire.properties.headers().as_ref().expect("headers are always sent");
                let expected = sent["headers"].as_object().expect("an object");
                assert_eq!(headers.inner().len(), expected.len(), "{}", path.display());
                let void = headers.inner().values().filter(|value| value.as_void().is_some()).count();
                assert_eq!(void, expected.values().filter(|value| value.is_null()).count());
                assert_eq!(*wire.properties.delivery_mode(), Some(there.message.properties.delivery_mode));
                assert_eq!(*wire.properties.priority(), there.message.properties.priority);

                let here = Publication { routing_key: "celery".into(), ..there };
                broker.publish(vec![here.clone()]).await.expect("publishes");
                let got = take(&*consumer, 1).await.remove(0);
                assert_eq!(got.message.properties, here.message.properties, "{}", path.display());
                assert_eq!(got.message.body, here.message.body);
                let back: Value = serde_json::from_slice(&got.message.headers).expect("JSON");
                assert_eq!(back, sent["headers"], "{}", path.display());
                if expected.contains_key("lang") {
                    assert!(got.message.headers.starts_with(b"{\"lang\": \"py\", \"task\": "));
                }
                assert_eq!(commit(&*consumer, &got, Settle::Ack).await, Committed::Done);
                seen += 1;
            }
        }
        assert!(seen > 60, "only {seen} messages were seen");
    })
    .await;
}

/// The captured ones are among the existing ones, each field the same.
fn assert_all_there(kind: &str, captured: &Value, existing: &[Value], skip: impl Fn(&Value) -> bool) {
    let mut seen = 0;
    for wanted in captured[kind].as_array().expect("a list") {
        if skip(wanted) {
            continue;
        }
        let same = |found: &&Value| {
            wanted.as_object().expect("an object").iter().all(|(name, value)| match name.as_str() {
                "exclusive" => true,
                "arguments" => sorted(&found[name]) == sorted(value),
                name => {
                    found[name].as_str().map_or_else(|| found[name].to_string(), str::to_owned)
                        == value.as_str().map_or_else(|| value.to_string(), str::to_owned)
                }
            })
        };
        assert!(existing.iter().any(|found| same(&found)), "{kind}: {wanted} is not in {existing:#?}");
        seen += 1;
    }
    assert!(seen > 0, "no {kind} were compared");
}

/// Arguments as texts: the command line gives them as an object, the capture as a list with their types.
fn sorted(arguments: &Value) -> Vec<String> {
    let mut texts: Vec<String> = match arguments {
        Value::Array(list) => list
            .iter()
            .map(|item| {
                format!(
                    "{} {}",
                    item[0].as_str().unwrap_or_default(),
                    item[item.as_array().map_or(0, Vec::len) - 1]
                )
            })
            .collect(),
        Value::Object(object) => object.iter().map(|(name, value)| format!("{name} {value}")).collect(),
        _ => Vec::new(),
    };
    texts.sort();
    texts
}

fn assert_topology(host: &Host, case: &str) {
    let captured = &named("amqp_topology", case)["topology_while_running"];
    let ours = |item: &Value| {
        let of_control = |name: &Value| {
            name.as_str().is_some_and(|name| name.contains("pidbox") || name.starts_with("celeryev"))
        };
        ["name", "source_name", "destination_name"].iter().any(|field| of_control(&item[*field]))
    };
    let queues = existing(shared(), host, "list_queues", &["name", "durable", "auto_delete", "arguments"]);
    assert_all_there("queues", captured, &queues, ours);
    let columns = ["name", "type", "durable", "auto_delete", "internal", "arguments"];
    assert_all_there("exchanges", captured, &existing(shared(), host, "list_exchanges", &columns), ours);
    let columns = ["source_name", "destination_name", "destination_kind", "routing_key", "arguments"];
    assert_all_there("bindings", captured, &existing(shared(), host, "list_bindings", &columns), ours);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_exchanges_and_bindings_are_those_that_celery_declares() {
    in_time(async {
        let host = shared().host();
        let queue = |name: &str| {
            let mut queue = (*Topology::default().queue(name)).clone();
            queue.arguments.insert("x-max-priority".to_owned(), json!(10));
            queue
        };
        let broker = host.worker(vec![queue("a"), queue("b")]);
        let _consumer = consumer(&broker, &["a", "b"]).await;

        assert_topology(&host, "worker_queues");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_delay_levels_are_those_that_celery_declares() {
    tokio::time::timeout(Duration::from_secs(90), async {
        let host = shared().host();
        let topology = Topology {
            missing_queue_type: "quorum".to_owned(),
            missing_exchange_type: "topic".to_owned(),
            ..Topology::default()
        };
        let broker = host.broker(ConnectOptions {
            topology: Arc::new(topology),
            publish_timeout: Duration::from_secs(60),
            park: false,
            ..ConnectOptions::default()
        });
        let mut delayed = publication("celery", "later");
        delayed.exchange = "celery".to_owned();
        delayed.due_ms = Some(now().0 + 2_500);
        broker.publish(vec![delayed]).await.expect("publishes");

        assert_topology(&host, "quorum_delayed");
        let consumer = consumer(&broker, &["celery"]).await;
        let got = take(&*consumer, 1).await;
        assert_eq!(names(&got), ["later"]);
        assert_eq!((&*got[0].exchange, &*got[0].routing_key), ("celery", "celery"));
        assert_eq!(commit(&*consumer, &got[0], Settle::Ack).await, Committed::Done);
    })
    .await
    .expect("the test ends in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_is_on_the_wire_what_celery_writes() {
    in_time(async {
        let host = shared().host();
        let case = named("rpc_results", "success");
        let captured = &case["messages"][0];
        let (queue, id) = (&case["reply_queue"], &captured["properties"]["correlation_id"]);
        let (queue, id) = (queue.as_str().expect("text").to_owned(), id.as_str().expect("text").to_owned());
        let reply =
            ReplyOptions { queue: Some(queue.clone()), persistent: false, expires_ms: Some(86_400_000) };
        let client = host.backend(ConnectOptions { reply, ..ConnectOptions::default() });
        client.prepare().await.expect("declares");
        let queues =
            existing(shared(), &host, "list_queues", &["name", "durable", "auto_delete", "arguments"]);
        assert_eq!(queues.len(), 1);
        assert_eq!((&queues[0]["durable"], &queues[0]["auto_delete"]), (&json!(true), &json!(true)));
        assert_eq!(sorted(&queues[0]["arguments"]), ["x-expires 86400000"]);

        let worker = host.backend(ConnectOptions::default());
        let record = ResultRecord {
            task_id: id.clone(),
            state: "SUCCESS".to_owned(),
            record: captured["body"].as_str().expect("text").to_owned().into(),
            content_type: "application/json".to_owned(),
            expires_ms: None,
            reply_to: Some("plain".to_owned()),
            retain: None,
        };
        let to_client = ResultRecord { reply_to: Some(queue), ..record.clone() };
        let to_nobody = ResultRecord { reply_to: None, ..record.clone() };
        let (_connection, channel) = channel(&host).await;
        let declared = channel.queue_declare(
            "plain".into(),
            lapin::options::QueueDeclareOptions::default(),
            lapin::types::FieldTable::default(),
        );
        declared.await.expect("declares");
        worker.store(vec![record.clone(), to_client, to_nobody]).await.expect("stores");

        let wire = get(&channel, "plain").await.expect("it is there");
        assert_eq!(wire.data, record.record);
        let properties = &wire.properties;
        let text = |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string);
        assert_eq!(
            text(properties.content_type()).as_deref(),
            captured["properties"]["content_type"].as_str()
        );
        assert_eq!(
            text(properties.content_encoding()).as_deref(),
            captured["properties"]["content_encoding"].as_str()
        );
        assert_eq!(text(properties.correlation_id()), Some(id.clone()));
        assert_eq!((*properties.delivery_mode(), *properties.priority()), (Some(1), Some(0)));
        assert_eq!(properties.headers().as_ref().map(|headers| headers.inner().len()), Some(0));

        let mut watch = client.watch(vec![id.clone()]).await.expect("watches");
        let got = watch.next().await.expect("watches");
        assert_eq!(got, [ResultRecord { reply_to: None, ..record }]);
        assert!(client.read(std::slice::from_ref(&id)).await.expect("reads")[0].is_some());
        client.forget(std::slice::from_ref(&id)).await.expect("forgets");
        assert!(client.read(&[id]).await.expect("reads")[0].is_none());
    })
    .await;
}

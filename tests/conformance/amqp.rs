//! What `RabbitMQ` sees of us and gives us: messages, declarations, delays, limits, refusals.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use celeriac::broker::{BrokerError, Committed, Consumer, DeadReason, Settle};
use celeriac::clock::UnixMillis;
use celeriac::driver::{ConnectOptions, ReplyOptions};
use celeriac::protocol::{Exchange, Message, Properties, Publication, Queue, ResultRecord, Topology};
use lapin::options::BasicGetOptions;
use serde_json::{Value, json};

use crate::rabbit::{Host, Rabbit, options, shared};
use crate::setup::{self, commit, credit, in_time, message, names, publication, take};

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

async fn channel(host: &Host) -> (lapin::Connection, lapin::Channel) {
    let connection = lapin::Connection::connect(&host.url, lapin::ConnectionProperties::default());
    let connection = connection.await.expect("connects");
    let channel = connection.create_channel().await.expect("opens a channel");
    (connection, channel)
}

async fn get(channel: &lapin::Channel, queue: &str) -> Option<lapin::message::Delivery> {
    let got = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.expect("gets");
    got.map(|got| got.delivery)
}

async fn consumer(broker: &Arc<dyn celeriac::broker::Broker>, queues: &[&str]) -> Box<dyn Consumer> {
    broker.consume(setup::options("w", queues)).await.expect("consumes")
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
                let Some(message) = from_golden(sent) else { continue };
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

/// What exists in a virtual host, in the words of the capture.
fn existing(rabbit: &Rabbit, host: &Host, what: &str, columns: &[&str]) -> Vec<Value> {
    let arguments = [&[what, "-p", &host.name, "--formatter", "json"], columns].concat();
    serde_json::from_str(&rabbit.ctl(&arguments)).expect("JSON")
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

fn now() -> UnixMillis {
    celeriac::clock::Clock::system().now()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_later_waits_in_the_server_and_comes_as_it_was_meant() {
    in_time(async {
        let host = shared().host();
        let broker = host.worker(Vec::new());
        // One whose name ends like the other's must get no copy.
        let consumer = consumer(&broker, &["q", "x.q"]).await;
        let due = now().after(Duration::from_millis(2_100));
        broker.publish(vec![setup::due("x.q", "published", due)]).await.expect("publishes");
        setup_publish(&*broker, "q", "parked").await;
        let first = take(&*consumer, 1).await;
        assert_eq!(names(&first), ["parked"]);
        assert_eq!(commit(&*consumer, &first[0], Settle::Park(due)).await, Committed::Done);

        let mut later = take(&*consumer, 2).await;
        // A level's time is never cut short; it is a whole second less than the rest at the most.
        assert!(now().0 >= due.0 - 1_000, "{} ms too early", due.0 - now().0);
        later.sort_by_key(setup::name);
        assert_eq!(names(&later), ["parked", "published"]);
        for (delivery, queue) in later.iter().zip(["q", "x.q"]) {
            assert_eq!((&*delivery.exchange, &*delivery.routing_key, &*delivery.queue), ("", queue, queue));
            assert_eq!(commit(&*consumer, delivery, Settle::Park(UnixMillis(0))).await, Committed::Done);
        }
        // What has gone through the levels may do so again.
        let again = take(&*consumer, 2).await;
        for delivery in &again {
            assert_eq!(
                commit(&*consumer, delivery, Settle::Park(now().after(Duration::from_millis(1_100)))).await,
                Committed::Done
            );
        }
        assert_eq!(take(&*consumer, 2).await.len(), 2);
    })
    .await;
}

async fn setup_publish(broker: &dyn celeriac::broker::Broker, queue: &str, name: &str) {
    broker.publish(vec![publication(queue, name)]).await.expect("publishes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_leaves_the_time_of_a_message_to_the_worker() {
    in_time(async {
        let host = shared().host();
        let client = host.broker(ConnectOptions { park: false, ..options(Vec::new()) });
        let consumer = consumer(&host.worker(Vec::new()), &["q"]).await;
        let due = now().after(Duration::from_secs(3600));

        client.publish(vec![setup::due("q", "a", due)]).await.expect("publishes");

        assert_eq!(names(&take(&*consumer, 1).await), ["a"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_queue_takes_is_refused_and_says_so() {
    in_time(async {
        let host = shared().host();
        let broker = host.worker(Vec::new());
        let to = |exchange: &str, key: &str| Publication {
            exchange: exchange.to_owned(),
            ..publication(key, "lost")
        };

        for (exchange, key, word) in [("amq.direct", "nobody", "\"nobody\""), ("missing", "k", "no exchange")]
        {
            let error = broker.publish(vec![to(exchange, key)]).await.expect_err("it is refused");
            assert!(matches!(error, BrokerError::Refused { .. }), "{error}");
            assert!(error.to_string().contains(word), "{error}");
        }

        // The next one is not concerned, and a queue that someone deleted is declared again.
        let (_connection, channel) = channel(&host).await;
        for name in ["a", "b"] {
            setup_publish(&*broker, "q", name).await;
            let wire = get(&channel, "q").await.expect("it is there");
            assert_eq!(wire.data, name.as_bytes());
            channel
                .queue_delete("q".into(), lapin::options::QueueDeleteOptions::default())
                .await
                .expect("deletes");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_exists_otherwise_is_refused_by_what_differs() {
    in_time(async {
        let host = shared().host();
        setup_publish(&*host.worker(Vec::new()), "q", "a").await;
        let mut other = (*Topology::default().queue("q")).clone();
        other.arguments.insert("x-max-priority".to_owned(), json!(5));
        let broker = host.worker(vec![other]);

        let published = broker.publish(vec![publication("q", "b")]).await.expect_err("it is refused");
        let Err(consumed) = broker.consume(setup::options("w", &["q"])).await else {
            panic!("it is refused")
        };

        for error in [published, consumed] {
            assert!(matches!(error, BrokerError::Refused { .. }), "{error}");
            assert!(error.to_string().contains("x-max-priority"), "{error}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_claims_nothing_more_leaves_the_rest_to_others() {
    for quorum in [false, true] {
        in_time(async {
            let host = shared().host();
            let mut queue = (*Topology::default().queue("q")).clone();
            if quorum {
                queue.arguments.insert("x-queue-type".to_owned(), json!("quorum"));
            }
            let broker = host.worker(vec![queue]);
            let all: Vec<String> = (0..60).map(|number| number.to_string()).collect();
            let batch = all.iter().map(|name| publication("q", name)).collect();
            broker.publish(batch).await.expect("publishes");
            let busy = consumer(&broker, &["q"]).await;
            let idle = consumer(&broker, &["q"]).await;
            let mut held = take(&*busy, 40).await;
            // Its tasks turned out to be long: what is settled early frees the server to send more, which it must not
            // keep.
            for delivery in held.drain(2..) {
                assert_eq!(commit(&*busy, &delivery, Settle::Ack).await, Committed::Done);
            }

            let rest = take(&*idle, 20).await;

            assert_eq!(rest.len(), 20, "quorum: {quorum}");
            assert_eq!(commit(&*busy, &held[0], Settle::Ack).await, Committed::Done);
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_sends_no_more_ahead_than_is_wanted() {
    in_time(async {
        let host = shared().host();
        let broker = host.worker(Vec::new());
        broker.publish((0..50).map(|n| publication("q", &n.to_string())).collect()).await.expect("publishes");
        let consumer = consumer(&broker, &["q"]).await;
        let mut taken = take(&*consumer, 3).await;
        let unacked = |host: &Host| {
            let queues = existing(shared(), host, "list_queues", &["name", "messages_unacknowledged"]);
            let of_q = queues.iter().find(|queue| queue["name"] == "q").expect("it is there");
            of_q["messages_unacknowledged"].as_u64().expect("a count")
        };
        assert_eq!(unacked(&host), 3);

        taken.extend(take(&*consumer, 10).await);
        assert_eq!(unacked(&host), 13);
        let acks: Vec<_> = taken.iter().map(|delivery| setup::settle(delivery, Settle::Ack)).collect();
        assert!(consumer.commit(&acks).await.expect("commits").iter().all(|done| *done == Committed::Done));
        // Claims nothing: what was sent in place of those goes back.
        let deadline = Instant::now() + Duration::from_secs(20);
        while unacked(&host) > 0 {
            assert!(Instant::now() < deadline, "it keeps what nobody claims");
        }
        let (_connection, channel) = channel(&host).await;
        assert_eq!(get(&channel, "q").await.map(|next| next.data), Some(b"13".to_vec()));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_crashes_too_often_becomes_a_dead_letter() {
    in_time(async {
        let host = shared().host();
        let broker = host.worker(Vec::new());
        setup_publish(&*broker, "q", "bomb").await;
        let consumer = consumer(&broker, &["q"]).await;
        let mut answers = Vec::new();
        for crashes in 0..3 {
            let taken = take(&*consumer, 1).await;
            assert_eq!((taken[0].crashes, taken[0].redelivered), (crashes, crashes > 0));
            // Counts survive every other way back.
            commit(&*consumer, &taken[0], Settle::Requeue).await;
            let taken = take(&*consumer, 1).await;
            assert_eq!(taken[0].crashes, crashes);
            answers.push(commit(&*consumer, &taken[0], Settle::Crashed).await);
        }
        assert_eq!(answers, [Committed::Done, Committed::Done, Committed::Dead]);
        let letters = broker.dead_letters(Some("q"), 10).await.expect("lists");
        assert_eq!((letters.len(), &*letters[0].reason, letters[0].crashes), (1, "crashed", 3));
        assert_eq!(letters[0].message.body, "bomb");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_with_a_dead_letter_exchange_keeps_to_it() {
    in_time(async {
        let host = shared().host();
        let mut queue = (*Topology::default().queue("q")).clone();
        queue.arguments.insert("x-dead-letter-exchange".to_owned(), json!(""));
        queue.arguments.insert("x-dead-letter-routing-key".to_owned(), json!("morgue"));
        let broker = host.worker(vec![queue]);
        setup_publish(&*broker, "morgue", "before").await;
        setup_publish(&*broker, "q", "a").await;
        let taking = consumer(&broker, &["q"]).await;
        let taken = take(&*taking, 1).await;

        let how = Settle::Dead(DeadReason::Rejected, "no".to_owned());
        assert_eq!(commit(&*taking, &taken[0], how).await, Committed::Done);

        let morgue = consumer(&broker, &["morgue"]).await;
        assert_eq!(names(&take(&*morgue, 2).await), ["before", "a"]);
        assert!(broker.dead_letters(None, 10).await.expect("lists").is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ready_messages_are_counted_and_purged_and_held_ones_are_not() {
    in_time(async {
        let host = shared().host();
        let broker = host.worker(vec![(*Topology::default().queue("configured")).clone()]);
        for name in ["a", "b", "c"] {
            setup_publish(&*broker, "q", name).await;
        }
        let taking = consumer(&broker, &["q"]).await;
        let held = take(&*taking, 1).await;

        let queues = broker.queues().await.expect("lists");
        assert_eq!(queues.iter().map(|queue| (&*queue.name, queue.ready)).collect::<Vec<_>>(), [("q", 2)]);
        assert_eq!(broker.purge("q").await.expect("purges"), 2);
        assert_eq!(broker.purge("unknown").await.expect("purges"), 0);

        commit(&*taking, &held[0], Settle::Release).await;
        assert_eq!(names(&take(&*taking, 1).await), ["a"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_thousands_is_confirmed_in_order_for_many_callers() {
    in_time(async {
        let host = shared().host();
        let broker = host.worker(Vec::new());
        let send = |queue: &'static str| {
            let broker = broker.clone();
            async move {
                let batch = (0..2_500).map(|number| publication(queue, &number.to_string())).collect();
                broker.publish(batch).await.expect("publishes");
            }
        };
        tokio::join!(send("a"), send("b"), send("c"));
        let consumer = consumer(&broker, &["b"]).await;
        let mut next = 0;
        while next < 2_500 {
            let taken = consumer.claim(credit(500)).await.expect("claims");
            for delivery in &taken {
                assert_eq!(setup::name(delivery), next.to_string());
                next += 1;
            }
            let acks: Vec<_> = taken.iter().map(|delivery| setup::settle(delivery, Settle::Ack)).collect();
            consumer.commit(&acks).await.expect("commits");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fanout_exchange_without_queues_is_no_error() {
    in_time(async {
        let host = shared().host();
        let news = Queue {
            name: "news".to_owned(),
            exchange: Exchange { name: "news".to_owned(), kind: "fanout".to_owned(), ..Exchange::default() },
            auto_delete: true,
            ..Queue::default()
        };
        let broker = host.worker(vec![news]);
        let listening = consumer(&broker, &["news"]).await;
        let to_news = |name: &str| Publication {
            exchange: "news".to_owned(),
            message: message(name),
            ..Publication::default()
        };
        broker.publish(vec![to_news("heard")]).await.expect("publishes");
        assert_eq!(names(&take(&*listening, 1).await), ["heard"]);
        listening.close().await.expect("closes");

        broker.publish(vec![to_news("to nobody")]).await.expect("publishes");
    })
    .await;
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
        assert!(client.read(&[id.clone()]).await.expect("reads")[0].is_some());
        client.forget(&[id.clone()]).await.expect("forgets");
        assert!(client.read(&[id]).await.expect("reads")[0].is_none());
    })
    .await;
}

//! Topics: who is bound gets it, whoever bound them; and the stream, of which nothing is read twice or left out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use celeriac::broker::{Broker, Commit, Committed, Listener, Rebind, Settle};
use celeriac::protocol::{Publication, Queue, TASK_STREAM, TopicBinding};

use crate::setup::{Setup, commit, names, nothing, publication, settle, take};

const TOPIC: &str = "celeriac.events";

fn event(key: &str, name: &str) -> Publication {
    Publication {
        exchange: TOPIC.to_owned(),
        declare: Some(Arc::new(Queue::of_topic(TOPIC))),
        ..publication(key, name)
    }
}

fn entry(name: &str, kept: u64) -> Publication {
    Publication {
        exchange: TASK_STREAM.to_owned(),
        declare: Some(Arc::new(Queue::of_stream(kept))),
        ..publication("succeeded", name)
    }
}

async fn bind(broker: &dyn Broker, queue: &str, patterns: &[&str], how: Rebind) {
    let patterns = patterns.iter().map(ToString::to_string).collect();
    let binding = TopicBinding { exchange: TOPIC.to_owned(), queue: queue.to_owned(), patterns };
    broker.bind_topics(&binding, how).await.expect("binds");
}

async fn emit(broker: &dyn Broker, events: &[(&str, &str)]) {
    let batch = events.iter().map(|(key, name)| event(key, name)).collect();
    broker.publish(batch).await.expect("publishes");
}

async fn body(listener: &mut dyn Listener) -> String {
    String::from_utf8(listener.next().await.expect("hears").body.to_vec()).expect("a text")
}

pub(crate) async fn each_bound_queue_gets_what_fits_once_while_nobody_consumes(setup: Setup) {
    let broker = &*setup.broker;
    bind(broker, "celeriac.events.shop", &["order.*", "order.created", "#.paid"], Rebind::Replace).await;
    bind(broker, "celeriac.events.mail", &["order.#"], Rebind::Replace).await;

    emit(
        broker,
        &[("order.created", "a"), ("order.line.added", "b"), ("bill.paid", "c"), ("nobody.cares", "d")],
    )
    .await;

    let shop = setup.consumer("shop@h", &["celeriac.events.shop"]).await;
    let mail = setup.consumer("mail@h", &["celeriac.events.mail"]).await;
    let taken = take(&*shop, 2).await;
    assert_eq!(names(&taken), ["a", "c"]);
    assert_eq!(&*taken[0].queue, "celeriac.events.shop");
    assert_eq!(names(&take(&*mail, 2).await), ["a", "b"]);
    nothing(&setup, &*shop).await;
    nothing(&setup, &*mail).await;
}

pub(crate) async fn what_is_given_back_goes_to_its_own_queue_alone(setup: Setup) {
    let broker = &*setup.broker;
    bind(broker, "celeriac.events.shop", &["#"], Rebind::Replace).await;
    bind(broker, "celeriac.events.mail", &["#"], Rebind::Replace).await;
    let shop = setup.consumer("shop@h", &["celeriac.events.shop"]).await;
    let mail = setup.consumer("mail@h", &["celeriac.events.mail"]).await;
    emit(broker, &[("order.created", "a")]).await;
    let first = take(&*shop, 1).await;
    let other = take(&*mail, 1).await;

    assert_eq!(commit(&*shop, &first[0], Settle::Requeue).await, Committed::Done);
    let second = take(&*shop, 1).await;
    assert_eq!(commit(&*shop, &second[0], Settle::Release).await, Committed::Done);
    assert_eq!(names(&take(&*shop, 1).await), ["a"]);

    assert_eq!(commit(&*mail, &other[0], Settle::Ack).await, Committed::Done);
    nothing(&setup, &*mail).await;
}

pub(crate) async fn who_binds_anew_gets_nothing_of_what_it_wants_no_more(setup: Setup) {
    let broker = &*setup.broker;
    let consumer = setup.consumer("w@h", &["celeriac.events.shop"]).await;
    bind(broker, "celeriac.events.shop", &["order.*", "bill.*"], Rebind::Replace).await;
    bind(broker, "celeriac.events.shop", &["bill.*", "stock.*"], Rebind::Replace).await;

    emit(broker, &[("order.created", "a"), ("bill.paid", "b"), ("stock.low", "c")]).await;
    assert_eq!(names(&take(&*consumer, 2).await), ["b", "c"]);

    // A worker of an older version comes back after an outage: what is bound stays.
    bind(broker, "celeriac.events.shop", &["order.*"], Rebind::Restore).await;
    emit(broker, &[("order.created", "d"), ("stock.low", "e")]).await;
    assert_eq!(names(&take(&*consumer, 1).await), ["e"]);

    bind(broker, "celeriac.events.shop", &[], Rebind::Replace).await;
    emit(broker, &[("stock.low", "f"), ("order.created", "g")]).await;
    bind(broker, "celeriac.events.shop", &["order.*"], Rebind::Restore).await;
    emit(broker, &[("order.created", "h")]).await;
    assert_eq!(names(&take(&*consumer, 1).await), ["h"], "what was lost is bound again");
    nothing(&setup, &*consumer).await;
}

pub(crate) async fn an_event_can_be_sent_with_a_commit(setup: Setup) {
    let broker = &*setup.broker;
    bind(broker, "celeriac.events.shop", &["order.*"], Rebind::Replace).await;
    let consumer = setup.consumer("w@h", &["q"]).await;
    setup.publish("q", &["task"]).await;
    let taken = take(&*consumer, 1).await;
    let end = || Commit { publications: vec![event("order.created", "a")], ..settle(&taken[0], Settle::Ack) };

    assert_eq!(consumer.commit(&[end()]).await.expect("commits"), [Committed::Done]);
    assert_eq!(consumer.commit(&[end()]).await.expect("commits"), [Committed::Stale]);

    let shop = setup.consumer("shop@h", &["celeriac.events.shop"]).await;
    assert_eq!(names(&take(&*shop, 1).await), ["a"]);
    nothing(&setup, &*shop).await;
}

pub(crate) async fn a_subscription_hears_what_is_sent_while_it_listens(setup: Setup) {
    let broker = &*setup.broker;
    emit(broker, &[("order.created", "before")]).await;
    let patterns = ["order.*".to_owned()];
    let mut first = broker.subscribe(TOPIC, &patterns).await.expect("subscribes");
    let mut second = broker.subscribe(TOPIC, &patterns).await.expect("subscribes");

    for name in ["a", "b"] {
        emit(broker, &[("order.created", name)]).await;
    }

    for listener in [&mut first, &mut second] {
        assert_eq!([body(&mut **listener).await, body(&mut **listener).await], ["a", "b"]);
    }
}

/// Reads entries and their cursors.
async fn read(listener: &mut dyn Listener, count: usize) -> Vec<(String, String, bool)> {
    let mut entries = Vec::new();
    while entries.len() < count {
        let message = listener.next().await.expect("reads");
        let headers: serde_json::Value = serde_json::from_slice(&message.headers).expect("JSON");
        let cursor = headers["cursor"].as_str().expect("a cursor").to_owned();
        let body = String::from_utf8(message.body.to_vec()).expect("a text");
        entries.push((cursor, body, headers["gap"].as_bool().unwrap_or(false)));
    }
    entries
}

pub(crate) async fn a_stream_is_read_on_after_a_cursor_with_nothing_twice_or_left_out(setup: Setup) {
    let broker = &*setup.broker;
    let start = broker.stream_end().await.expect("answers").expect("it keeps a stream");
    let consumer = setup.consumer("w@h", &["q"]).await;
    let mut reader = broker.stream(Some(&start)).await.expect("reads");
    let tasks: Vec<String> = (0..40).map(|number| format!("task {number}")).collect();
    setup.publish("q", &tasks.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let taken = take(&*consumer, tasks.len()).await;

    let mut seen: Vec<(String, String, bool)> = Vec::new();
    for (round, part) in taken.chunks(10).enumerate() {
        let end = |delivery| Commit {
            publications: vec![entry(&crate::setup::name(delivery), 1000)],
            ..settle(delivery, Settle::Ack)
        };
        let commits: Vec<Commit> = part.iter().map(end).collect();
        assert_eq!(consumer.commit(&commits).await.expect("commits"), vec![Committed::Done; part.len()]);
        if round == 2 {
            // Nobody reads this part as it comes.
            let after = &seen.last().expect("some were read").0;
            reader = broker.stream(Some(after)).await.expect("reads on");
            continue;
        }
        let count = part.len() * if round == 3 { 2 } else { 1 };
        seen.extend(read(&mut *reader, count).await);
    }

    let bodies: Vec<&String> = seen.iter().map(|(_, body, _)| body).collect();
    assert_eq!(bodies, tasks.iter().collect::<Vec<_>>());
    assert_eq!(seen.iter().map(|(cursor, ..)| cursor).collect::<BTreeSet<_>>().len(), tasks.len());
    assert!(seen.iter().all(|(_, _, gap)| !gap));
    let last = broker.stream_end().await.expect("answers").expect("it keeps a stream");
    assert_eq!(last, seen.last().expect("some were read").0);
}

pub(crate) async fn a_stale_commit_adds_nothing_to_the_stream(setup: Setup) {
    let broker = &*setup.broker;
    let consumer = setup.consumer("w@h", &["q"]).await;
    setup.publish("q", &["task"]).await;
    let taken = take(&*consumer, 1).await;
    let end = || Commit { publications: vec![entry("end", 1000)], ..settle(&taken[0], Settle::Ack) };
    assert_eq!(consumer.commit(&[end()]).await.expect("commits"), [Committed::Done]);
    let after = broker.stream_end().await.expect("answers").expect("it keeps a stream");

    assert_eq!(consumer.commit(&[end()]).await.expect("commits"), [Committed::Stale]);

    assert_eq!(broker.stream_end().await.expect("answers"), Some(after));
}

pub(crate) async fn whoever_comes_too_late_is_told_of_the_gap(setup: Setup) {
    let broker = &*setup.broker;
    broker.publish(vec![entry("first", 10)]).await.expect("publishes");
    let first = broker.stream_end().await.expect("answers").expect("it keeps a stream");

    // Redis drops whole pieces of a stream, so there are many.
    for part in 0..20 {
        let batch = (0..100).map(|number| entry(&format!("{part}/{number}"), 10)).collect();
        broker.publish(batch).await.expect("publishes");
    }

    let mut reader = broker.stream(Some(&first)).await.expect("reads");
    let found = read(&mut *reader, 2).await;
    assert!(found[0].2, "{found:?}");
    assert!(!found[1].2, "{found:?}");
    assert!(broker.stream(Some("no cursor")).await.is_err());
}

pub(crate) async fn a_reader_that_waits_wakes_when_something_comes(setup: Setup) {
    let broker = &*setup.broker;
    let start = broker.stream_end().await.expect("answers").expect("it keeps a stream");
    let mut reader = broker.stream(Some(&start)).await.expect("reads");
    let waits = tokio::time::timeout(Duration::from_millis(20), reader.next()).await;
    assert!(waits.is_err(), "{waits:?}");

    broker.publish(vec![entry("a", 10)]).await.expect("publishes");

    assert_eq!(read(&mut *reader, 1).await[0].1, "a");
}

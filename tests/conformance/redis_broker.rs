//! What only Redis does: kombu's keys and commands, side by side with consumers of kombu.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use celeriac::broker::{Broker, BrokerError, Commit, Committed, ConsumerOptions, DeadReason, Settle};
use celeriac::clock::Clock;
use celeriac::driver::ConnectOptions;
use celeriac::driver::redis::RedisBroker;
use celeriac::protocol::{Binding, Envelope, Exchange, Publication, Queue};
use serde_json::{Value, json};

use crate::servers::{RedisServer, Room, until};
use crate::setup::{
    LEASE, START, commit, credit, in_time, message, names, options, prioritized, publication, record, settle,
    take,
};

const SEPARATOR: &str = "\x06\x16";

/// A room without a prefix, so that keys are as kombu has them by default.
pub(crate) fn bare(room: &Room, clock: &Clock, transport: &Value) -> RedisBroker {
    let transport = transport.as_object().cloned().unwrap_or_default();
    let options = ConnectOptions { transport, clock: clock.clone(), ..ConnectOptions::default() };
    RedisBroker::connect(&room.url, &options).expect("the URL is one")
}

pub(crate) fn ask<T: redis::FromRedisValue>(connection: &mut redis::Connection, words: &[&str]) -> T {
    let mut command = redis::cmd(words[0]);
    for word in &words[1..] {
        command.arg(word);
    }
    command.query(connection).unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

/// Calls of each command so far.
pub(crate) fn calls(connection: &mut redis::Connection) -> HashMap<String, u64> {
    let info: String = ask(connection, &["INFO", "commandstats"]);
    info.lines()
        .filter_map(|line| {
            let (name, stats) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), stats.split(',').next()?.parse().ok()?))
        })
        .collect()
}

/// Calls since `before`, without those that look.
pub(crate) fn since(
    before: &HashMap<String, u64>,
    connection: &mut redis::Connection,
) -> HashMap<String, u64> {
    let mut after = calls(connection);
    after.retain(|name, count| {
        *count -= before.get(name).copied().unwrap_or(0);
        *count > 0 && name != "info"
    });
    after
}

pub(crate) fn bound(name: &str, kind: &str, exchange: &str, key: &str) -> Queue {
    let exchange = Exchange { name: exchange.to_owned(), kind: kind.to_owned(), ..Exchange::default() };
    Queue { name: name.to_owned(), exchange, routing_key: key.to_owned(), ..Queue::default() }
}

#[tokio::test]
async fn keys_and_elements_are_where_kombu_has_them() {
    let room = Room::new();
    let broker = bare(&room, &Clock::manual(START), &json!({}));
    let mut look = room.connection();

    broker.publish(vec![publication("celery", "a"), prioritized("celery", "b", 5)]).await.expect("publishes");

    let keys: BTreeSet<String> = ask(&mut look, &["KEYS", "*"]);
    let third = format!("celery{SEPARATOR}3");
    let expected =
        ["_kombu.binding.celery", "_kombu.binding_permanent.celery", "celery", &third, "celeriac:queues"];
    assert_eq!(keys, expected.map(str::to_owned).into());
    let member = format!("celery{SEPARATOR}{SEPARATOR}celery");
    for key in ["_kombu.binding.celery", "_kombu.binding_permanent.celery"] {
        assert_eq!(ask::<Vec<String>>(&mut look, &["SMEMBERS", key]), std::slice::from_ref(&member));
    }
    let element: Vec<u8> = ask(&mut look, &["LINDEX", "celery", "0"]);
    let read = Envelope::decode(&element).expect("reads");
    assert_eq!((&*read.exchange, &*read.routing_key, &read.message), ("", "celery", &message("a")));
    assert_eq!(element, Envelope::encode(&read.message, "", "celery", &read.delivery_tag));

    let consumer = broker.consume(options("w", &["celery"])).await.expect("consumes");
    let taken = take(&*consumer, 1).await;
    let claims: Vec<(String, f64)> = ask(&mut look, &["ZRANGE", "unacked_index", "0", "-1", "WITHSCORES"]);
    assert_eq!((claims.len(), claims[0].1), (1, START.0 as f64 / 1000.0));
    let value: String = ask(&mut look, &["HGET", "unacked", &claims[0].0]);
    let [envelope, exchange, key]: [Value; 3] = serde_json::from_str(&value).expect("kombu reads it");
    assert_eq!((exchange, key), (json!(""), json!("celery")));
    assert_eq!(envelope, serde_json::from_slice::<Value>(&element).expect("is JSON"));

    commit(&*consumer, &taken[0], Settle::Ack).await;
    assert_eq!(ask::<u64>(&mut look, &["EXISTS", "unacked", "unacked_index"]), 0);
}

#[tokio::test]
async fn a_message_is_one_command_and_a_task_a_fraction_of_one() {
    let server = RedisServer::start(&[]);
    let clock = Clock::system();
    let connect = ConnectOptions { clock, ..ConnectOptions::default() };
    let broker = RedisBroker::connect(&server.url(0), &connect).expect("the URL is one");
    let mut look = server.connection(0);
    broker.publish(vec![publication("q", "first")]).await.expect("publishes");
    let before = calls(&mut look);
    broker.publish(vec![publication("q", "second")]).await.expect("publishes");
    assert_eq!(since(&before, &mut look), HashMap::from([("lpush".to_owned(), 1)]));

    for (with_results, most) in [(false, 0.2), (true, 2.2)] {
        let tasks = 1000;
        let batch = (0..tasks).map(|number| publication("q", &number.to_string())).collect();
        broker.publish(batch).await.expect("publishes");
        let results = Some("0:".to_owned());
        let options = celeriac::broker::ConsumerOptions { results, ..options("w", &["q"]) };
        let consumer = broker.consume(options).await.expect("consumes");
        let before = calls(&mut look);
        let mut done = 0;
        while done < tasks {
            let taken = take(&*consumer, 100).await;
            let commits = taken.iter().enumerate().map(|(at, delivery)| Commit {
                results: if with_results {
                    vec![record(&format!("{}", done + at), "SUCCESS")]
                } else {
                    Vec::new()
                },
                ..settle(delivery, Settle::Ack)
            });
            let answers = consumer.commit(&commits.collect::<Vec<_>>()).await.expect("commits");
            assert!(answers.iter().all(|answer| *answer == Committed::Done));
            done += taken.len();
        }
        let used = since(&before, &mut look);
        let each = used.values().sum::<u64>() as f64 / f64::from(tasks as u32);
        assert!(each <= most, "{each} commands a task: {used:?}");
        consumer.close().await.expect("closes");
        broker.purge("q").await.expect("purges");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_an_idle_worker_is_few_commands() {
    let server = RedisServer::start(&[]);
    let broker = RedisBroker::connect(&server.url(0), &ConnectOptions::default()).expect("the URL is one");
    let consumer = broker
        .consume(celeriac::broker::ConsumerOptions { results: Some("0:".to_owned()), ..options("w", &["q"]) })
        .await
        .expect("consumes");
    let mut look = server.connection(0);
    let mut before = HashMap::new();
    let tasks = 20;
    for number in 0..=tasks {
        let mut claim = consumer.claim(credit(10));
        let waits = tokio::time::timeout(Duration::from_millis(5), &mut claim).await;
        assert!(waits.is_err(), "{waits:?}");
        if number == 0 {
            // What is asked once only is over, with the first.
            before = calls(&mut look);
        }
        broker.publish(vec![publication("q", "a")]).await.expect("publishes");
        let taken = in_time(claim).await.expect("claims");
        let done = Commit {
            results: vec![record(&number.to_string(), "SUCCESS")],
            ..settle(&taken[0], Settle::Ack)
        };
        assert_eq!(consumer.commit(&[done]).await.expect("commits"), [Committed::Done]);
    }
    let used = since(&before, &mut look);
    let each = used.values().sum::<u64>() as f64 / f64::from(tasks + 1);
    assert!(each <= 18.0, "{each} commands a task: {used:?}");
}

#[tokio::test]
async fn what_a_consumer_of_kombu_restores_is_run_again_and_our_old_claim_is_stale() {
    let room = Room::new();
    let clock = Clock::manual(START);
    let broker = bare(&room, &clock, &json!({}));
    broker.publish(vec![prioritized("q", "a", 4)]).await.expect("publishes");
    let consumer = broker.consume(options("w", &["q"])).await.expect("consumes");
    let taken = take(&*consumer, 1).await;
    let mut look = room.connection();

    // As kombu does it: the message gets its marks and goes to the list of its priority.
    let tags: Vec<String> = ask(&mut look, &["ZRANGE", "unacked_index", "0", "-1"]);
    let value: String = ask(&mut look, &["HGET", "unacked", &tags[0]]);
    let [mut envelope, _, key]: [Value; 3] = serde_json::from_str(&value).expect("kombu reads it");
    envelope["headers"]["redelivered"] = json!(true);
    envelope["properties"]["delivery_info"]["redelivered"] = json!(true);
    assert_eq!(envelope["properties"]["priority"], 4);
    ask::<()>(&mut look, &["ZREM", "unacked_index", &tags[0]]);
    ask::<()>(&mut look, &["HDEL", "unacked", &tags[0]]);
    let list = format!("{}{SEPARATOR}3", key.as_str().expect("a queue"));
    ask::<()>(&mut look, &["RPUSH", &list, &envelope.to_string()]);

    let again = take(&*consumer, 1).await;
    assert_eq!((names(&again), again[0].redelivered), (vec!["a".to_owned()], true));
    assert_eq!(commit(&*consumer, &taken[0], Settle::Ack).await, Committed::Stale);
    assert_eq!(commit(&*consumer, &again[0], Settle::Ack).await, Committed::Done);
}

#[tokio::test]
async fn an_overdue_claim_of_kombu_is_put_back_with_its_marks() {
    let room = Room::new();
    let clock = Clock::manual(START);
    let broker = bare(&room, &clock, &json!({"visibility_timeout": 60}));
    let feed = Publication {
        exchange: "feed".to_owned(),
        declare: Some(bound("news", "topic", "feed", "feed.#").into()),
        ..publication("feed.a", "x")
    };
    broker.publish(vec![feed]).await.expect("publishes");
    let mut look = room.connection();
    let element: String = ask(&mut look, &["RPOP", "news"]);
    let now = START.0 / 1000;
    for (tag, age) in [("old", 61), ("older", 62), ("fresh", 59)] {
        let body = element.replace("\"eA==\"", &format!("\"{}\"", base64(tag)));
        ask::<()>(&mut look, &["ZADD", "unacked_index", &(now - age).to_string(), tag]);
        ask::<()>(&mut look, &["HSET", "unacked", tag, &format!("[{body}, \"feed\", \"feed.a\"]")]);
    }

    broker.sweep().await.expect("sweeps");

    let consumer = broker.consume(options("w", &["news"])).await.expect("consumes");
    let taken = take(&*consumer, 2).await;
    assert_eq!(names(&taken), ["older", "old"]);
    assert!(taken.iter().all(|delivery| delivery.redelivered));
    let headers: Value = serde_json::from_slice(&taken[0].message.headers).expect("is JSON");
    assert_eq!(headers["redelivered"], true);
    assert_eq!(ask::<u64>(&mut look, &["HEXISTS", "unacked", "fresh"]), 1);
    let statuses = broker.queues().await.expect("lists");
    assert_eq!(statuses.iter().find(|status| status.name == "news").expect("is known").claimed, 2);
}

fn base64(text: &str) -> String {
    use ::base64::Engine as _;
    ::base64::engine::general_purpose::STANDARD.encode(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_held_for_long_never_looks_overdue() {
    let room = Room::new();
    let broker = bare(&room, &Clock::system(), &json!({"visibility_timeout": 0.6}));
    broker.publish(vec![publication("q", "a")]).await.expect("publishes");
    let consumer = broker.consume(options("w", &["q"])).await.expect("consumes");
    let taken = take(&*consumer, 1).await;
    let mut look = room.connection();
    let score = |look: &mut redis::Connection| -> f64 {
        ask::<Vec<(String, f64)>>(look, &["ZRANGE", "unacked_index", "0", "-1", "WITHSCORES"])[0].1
    };
    let first = score(&mut look);

    tokio::task::block_in_place(|| until("the claim is refreshed", || score(&mut look) > first + 0.5));

    broker.sweep().await.expect("sweeps");
    assert_eq!(commit(&*consumer, &taken[0], Settle::Ack).await, Committed::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_is_woken_by_a_push_of_anyone_to_any_list() {
    let room = Room::new();
    let broker = bare(&room, &Clock::system(), &json!({}));
    let consumer = broker.consume(options("w", &["a", "b"])).await.expect("consumes");
    let mut other = room.connection();
    // The net below looks every 15 seconds: it would take longer than the test may.
    in_time(async {
        for number in 0..200_u32 {
            let queue = if number % 2 == 0 { "a" } else { "b" };
            let list = if number % 3 == 0 { format!("{queue}{SEPARATOR}6") } else { queue.to_owned() };
            let element = Envelope::encode(&message(&number.to_string()), "", queue, &number.to_string());
            let mut claim = consumer.claim(credit(10));
            if number % 5 == 0 {
                let waits = tokio::time::timeout(Duration::from_millis(5), &mut claim).await;
                assert!(waits.is_err(), "{waits:?}");
            }
            redis::cmd("LPUSH").arg(&list).arg(element).query::<()>(&mut other).expect("pushes");
            let taken = claim.await.expect("claims");
            assert_eq!(names(&taken), [number.to_string()]);
            commit(&*consumer, &taken[0], Settle::Ack).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_tell_of_changes_is_waited_for_all_the_same() {
    let server = RedisServer::start(&["--rename-command", "CLIENT", ""]);
    let broker = RedisBroker::connect(&server.url(0), &ConnectOptions::default()).expect("the URL is one");
    let consumer = broker.consume(options("w", &["q", "other"])).await.expect("consumes");
    in_time(async {
        for (queue, name) in [("q", "a"), ("other", "b"), ("q", "c")] {
            let mut claim = consumer.claim(credit(1));
            assert!(tokio::time::timeout(Duration::from_millis(30), &mut claim).await.is_err());
            broker.publish(vec![publication(queue, name)]).await.expect("publishes");
            assert_eq!(names(&claim.await.expect("claims")), [name]);
        }
    })
    .await;
}

#[tokio::test]
async fn what_nobody_can_read_is_kept_apart_and_stops_nothing() {
    let room = Room::new();
    let broker = bare(&room, &Clock::manual(START), &json!({}));
    let mut look = room.connection();
    let good = String::from_utf8(Envelope::encode(&message("good"), "", "q", "t")).expect("is ASCII");
    let untyped = good.replace("\"content-type\": \"application/json\", ", "");
    let bare_minimum = good.replace("\"delivery_info\": {\"exchange\": \"\", \"routing_key\": \"q\"}, ", "");
    let bare_minimum = bare_minimum.replace(", \"delivery_tag\": \"t\"", "");
    assert!(untyped.len() < good.len() && bare_minimum.len() < good.len() - 50);
    let bad = ["not json", "[1, 2]", "", "{\"body\": ", "{}", "{broken}", "\u{0}{}", &untyped];
    for element in bad.iter().chain([&&*good, &&*bare_minimum]) {
        ask::<()>(&mut look, &["LPUSH", "q", element]);
    }
    let consumer = broker.consume(options("w", &["q"])).await.expect("consumes");

    let taken = in_time(take(&*consumer, 2)).await;

    assert_eq!(names(&taken), ["good", "good"]);
    let letters = broker.dead_letters(Some("q"), 100).await.expect("lists");
    let mut kept: Vec<&[u8]> = letters.iter().map(|letter| &letter.message.body[..]).collect();
    kept.sort_unstable();
    let mut expected: Vec<&[u8]> = bad.iter().map(|element| element.as_bytes()).collect();
    expected.sort_unstable();
    assert_eq!(kept, expected);
    assert!(letters.iter().all(|letter| letter.reason == "malformed" && !letter.detail.is_empty()));
    // The one that needs its crashes counted has a place for the count.
    assert_eq!(commit(&*consumer, &taken[1], Settle::Crashed).await, Committed::Done);
    let again = take(&*consumer, 1).await;
    assert_eq!((names(&again), again[0].crashes), (vec!["good".to_owned()], 1));
}

#[tokio::test]
async fn dead_letters_are_bounded_and_the_oldest_go() {
    let room = Room::new();
    let broker = bare(&room, &Clock::manual(START), &json!({"celeriac_dead_letters": 3}));
    for number in 0..5 {
        let letter = publication("q", &number.to_string());
        broker.bury(letter, DeadReason::Rejected, "a\0b".into()).await.expect("buries");
    }

    let letters = broker.dead_letters(None, 10).await.expect("lists");

    let bodies: Vec<_> = letters.iter().map(|letter| letter.message.body.clone()).collect();
    assert_eq!(bodies, ["2", "3", "4"]);
    assert_eq!(letters[0].detail, "a b");
    let mut look = room.connection();
    assert_eq!(ask::<u64>(&mut look, &["HLEN", "celeriac:dead:letters"]), 3);
}

#[tokio::test]
async fn a_message_that_goes_nowhere_is_refused_and_nothing_of_its_batch_is_sent() {
    let room = Room::new();
    let broker = bare(&room, &Clock::manual(START), &json!({}));
    let lost = Publication { exchange: "nowhere".to_owned(), ..publication("key", "x") };

    let refused = broker.publish(vec![publication("q", "a"), lost]).await;

    let Err(error @ BrokerError::Refused { .. }) = refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains("\"nowhere\"") && error.to_string().contains("\"key\""), "{error}");
    assert_eq!(ask::<u64>(&mut room.connection(), &["EXISTS", "q"]), 0);
}

#[tokio::test]
async fn exchanges_route_as_those_of_kombu() {
    let room = Room::new();
    let broker = bare(&room, &Clock::manual(START), &json!({}));
    let mut news = bound("news", "topic", "feed", "feed.#");
    let exchange = Exchange { name: "mail".to_owned(), ..Exchange::default() };
    news.bindings.push(Binding { exchange, routing_key: "letters".to_owned(), ..Binding::default() });
    let send = |exchange: &str, key: &str, declare: &Queue| Publication {
        exchange: exchange.to_owned(),
        declare: Some(declare.clone().into()),
        ..publication(key, key)
    };
    let sports = bound("sports", "topic", "feed", "*.sports");
    broker
        .publish(vec![
            send("feed", "feed.sports", &news),
            send("feed", "feed.a.b", &sports),
            send("mail", "letters", &news),
        ])
        .await
        .expect("publishes");
    let mut look = room.connection();
    let members: BTreeSet<String> = ask(&mut look, &["SMEMBERS", "_kombu.binding.feed"]);
    let expected = [["feed.#", r"^feed\..*?$", "news"], ["*.sports", r"^.*?[^\.]\.sports$", "sports"]];
    assert_eq!(members, expected.map(|parts| parts.join(SEPARATOR)).into());

    let consumer = broker.consume(options("w", &["news", "sports"])).await.expect("consumes");
    let mut taken: Vec<String> = take(&*consumer, 4)
        .await
        .iter()
        .map(|delivery| format!("{} {}", delivery.queue, delivery.routing_key))
        .collect();
    taken.sort();
    assert_eq!(taken, ["news feed.a.b", "news feed.sports", "news letters", "sports feed.sports"]);

    // A fanout exchange is a channel, with the routing key behind it.
    let mut listener = broker.listen("all").await.expect("listens");
    broker.publish(vec![send("all", "key", &bound("any", "fanout", "all", ""))]).await.expect("publishes");
    assert_eq!(in_time(listener.next()).await.expect("hears"), message("key"));
}

#[tokio::test]
async fn a_queue_that_expires_does_and_its_binding_is_swept() {
    let room = Room::new();
    let broker = bare(&room, &Clock::manual(START), &json!({}));
    let mut queue = bound("short", "direct", "short", "short");
    queue.arguments.insert("x-expires".to_owned(), json!(60_000));
    let sent = Publication { declare: Some(queue.into()), ..publication("short", "a") };
    broker.publish(vec![sent]).await.expect("publishes");
    let mut look = room.connection();

    assert!((1..=60_000).contains(&ask::<i64>(&mut look, &["PTTL", "short"])));
    let deadlines: Vec<(String, f64)> =
        ask(&mut look, &["ZRANGE", "_kombu.binding_deadlines", "0", "-1", "WITHSCORES"]);
    assert_eq!(deadlines.len(), 1);
    assert_eq!(ask::<u64>(&mut look, &["EXISTS", "_kombu.binding_permanent.short"]), 0);
    broker.sweep().await.expect("sweeps");
    assert_eq!(ask::<u64>(&mut look, &["EXISTS", "_kombu.binding.short"]), 1);
    ask::<()>(&mut look, &["ZADD", "_kombu.binding_deadlines", "1", "short"]);
    broker.sweep().await.expect("sweeps");
    assert_eq!(ask::<u64>(&mut look, &["EXISTS", "_kombu.binding.short", "_kombu.binding_deadlines"]), 0);
}

#[tokio::test]
async fn sweeping_counts_no_crash_against_a_limit_that_is_not_the_workers() {
    let room = Room::new();
    let clock = Clock::manual(START);
    let broker = bare(&room, &clock, &json!({}));
    broker.publish(vec![publication("q", "a")]).await.expect("publishes");
    let patient = || ConsumerOptions { max_crashes: 10, ..options("w", &["q"]) };

    for crashes in 0..5 {
        let consumer = broker.consume(patient()).await.expect("consumes");
        let taken = take(&*consumer, 1).await;
        assert_eq!(taken[0].crashes, crashes);
        let begun = Commit { begun: true, ..settle(&taken[0], Settle::Keep) };
        assert_eq!(consumer.commit(&[begun]).await.expect("commits"), [Committed::Done]);
        clock.advance(LEASE);
        broker.sweep().await.expect("sweeps");
        drop(consumer);
    }

    assert!(broker.dead_letters(None, 10).await.expect("lists").is_empty());
}

#[tokio::test]
async fn many_released_together_come_back_in_order() {
    let room = Room::new();
    let broker = bare(&room, &Clock::manual(START), &json!({}));
    let all: Vec<String> = (0..2500).map(|number| number.to_string()).collect();
    broker.publish(all.iter().map(|name| publication("q", name)).collect()).await.expect("publishes");
    let consumer = broker.consume(options("w", &["q"])).await.expect("consumes");
    for how in [Settle::Release, Settle::Crashed, Settle::Park(START)] {
        let taken = take(&*consumer, all.len()).await;
        assert_eq!(names(&taken), all, "{how:?}");
        let commits: Vec<Commit> = taken.iter().map(|delivery| settle(delivery, how.clone())).collect();
        let answers = consumer.commit(&commits).await.expect("commits");
        assert!(answers.iter().all(|answer| *answer == Committed::Done));
    }
    consumer.close().await.expect("closes");
    let next = broker.consume(options("w", &["q"])).await.expect("consumes");
    let taken = take(&*next, all.len()).await;
    assert_eq!(names(&taken), all);
    assert!(taken.iter().all(|delivery| delivery.crashes == 1));
}

#[tokio::test]
async fn a_claim_and_a_mark_of_one_commit_and_a_name_with_quotes() {
    let room = Room::new();
    let broker = bare(&room, &Clock::manual(START), &json!({}));
    let queue = "a:\"b\\c\" é";
    broker.publish(vec![publication(queue, "x")]).await.expect("publishes");
    let consumer = broker.consume(options("w", &[queue])).await.expect("consumes");
    let taken = take(&*consumer, 1).await;
    let begun = Commit { begun: true, ..settle(&taken[0], Settle::Keep) };
    let batch = [begun, settle(&taken[0], Settle::Release), settle(&taken[0], Settle::Ack)];
    let answers = consumer.commit(&batch).await.expect("commits");
    assert_eq!(answers, [Committed::Done, Committed::Done, Committed::Stale]);
    assert_eq!(ask::<u64>(&mut room.connection(), &["EXISTS", "celeriac:begun", "unacked"]), 0);
    let again = take(&*consumer, 1).await;
    assert_eq!((names(&again), &*again[0].queue), (vec!["x".to_owned()], queue));
}

#[tokio::test]
async fn an_evicting_server_without_a_disk_is_warned_of() {
    let server = RedisServer::start(&["--maxmemory-policy", "allkeys-lru"]);
    let broker = RedisBroker::connect(&server.url(0), &ConnectOptions::default()).expect("the URL is one");
    let advice = broker.advice().await.expect("advises");
    assert_eq!(advice.len(), 2, "{advice:?}");
    assert!(advice[0].contains("allkeys-lru") && advice[1].contains("disk"), "{advice:?}");
    let report = broker.examine().await.expect("tells");
    assert_eq!(report.settings["maxmemory-policy"], "allkeys-lru");
    assert_eq!(report.workers, Some(0));
    assert!(report.version.is_some_and(|version| version.starts_with(|first: char| first.is_ascii_digit())));
    assert!(report.clock_offset_ms.is_some_and(|offset| offset.abs() < 60_000), "the same machine");
}

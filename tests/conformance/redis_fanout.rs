//! Queues on fanout exchanges in Redis: every worker that listens gets every message, once.

use std::sync::Arc;
use std::time::Duration;

use celeriac::broker::{Broker, Consumer, DeadReason, Settle};
use celeriac::clock::{Clock, UnixMillis};
use celeriac::driver::ConnectOptions;
use celeriac::driver::redis::RedisBroker;
use celeriac::protocol::{Envelope, Publication, Queue, Topology};
use serde_json::json;

use crate::redis_broker::{ask, bare, bound};
use crate::servers::Room;
use crate::setup::{START, commit, credit, in_time, message, names, options, publication, take};

const SEPARATOR: &str = "\x06\x16";
const OWN: &str = "bcast.8be976b5-ae5d-4cd5-9b33-6fa6ee900c47";

/// A broker whose app has a queue of a worker's own, and one that is shared, on the exchange `news`.
fn broker(room: &Room, clock: &Clock) -> RedisBroker {
    let own = Queue { auto_delete: true, ..bound(OWN, "fanout", "news", "celery") };
    let shared = bound("shared", "fanout", "news", "celery");
    let queues = [own, shared].into_iter().map(|queue| (queue.name.clone(), Arc::new(queue))).collect();
    let topology = Arc::new(Topology { queues, ..Topology::default() });
    let options = ConnectOptions { topology, clock: clock.clone(), ..ConnectOptions::default() };
    RedisBroker::connect(&room.url, &options).expect("the URL is one")
}

fn news(name: &str) -> Publication {
    Publication { exchange: "news".to_owned(), ..publication("celery", name) }
}

/// Checks that a consumer gets nothing more, by what it gets next.
async fn next_is_direct(broker: &RedisBroker, consumer: &dyn Consumer, queue: &str) {
    broker.publish(vec![publication(queue, "last")]).await.expect("publishes");
    assert_eq!(names(&in_time(consumer.claim(credit(10))).await.expect("claims")), ["last"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_worker_gets_each_message_once_whatever_its_queue_is_called() {
    let room = Room::new();
    let broker = broker(&room, &Clock::system());
    let own = broker.consume(options("own", &[OWN, "shared", "a"])).await.expect("consumes");
    let one = broker.consume(options("one", &["shared", "b"])).await.expect("consumes");
    let two = broker.consume(options("two", &["shared", "c"])).await.expect("consumes");

    for name in ["first", "second"] {
        broker.publish(vec![news(name)]).await.expect("publishes");
    }

    for (consumer, queue, direct) in [(&own, OWN, "a"), (&one, "shared", "b"), (&two, "shared", "c")] {
        let taken = in_time(take(&**consumer, 2)).await;
        assert_eq!(names(&taken), ["first", "second"]);
        for delivery in &taken {
            assert_eq!((&*delivery.queue, &*delivery.exchange), (queue, "news"));
            commit(&**consumer, delivery, Settle::Ack).await;
        }
        next_is_direct(&broker, &**consumer, direct).await;
    }
    let mut look = room.connection();
    let left: Vec<String> = ask(&mut look, &["KEYS", "*bcast*"]);
    assert_eq!(left.len(), 2, "what remembers the messages: {left:?}");
    assert!(left.iter().all(|key| ask::<i64>(&mut look, &["PTTL", key]) > 0), "nothing stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_celery_publishes_is_heard_with_any_routing_key_and_a_copy_of_it_is_not() {
    let room = Room::new();
    let broker = broker(&room, &Clock::system());
    let consumer = broker.consume(options("w", &[OWN, "a"])).await.expect("consumes");
    let mut look = room.connection();
    for (tag, channel) in
        [("1", "news"), ("2", "news/celery"), ("2", "news/celery"), ("3", "news/x.y"), ("4", "newspaper")]
    {
        let channel = format!("/{}.{channel}", room.database);
        let element = Envelope::encode(&message(tag), "news", "celery", tag);
        let element = String::from_utf8(element).expect("is ASCII");
        let heard: u64 = ask(&mut look, &["PUBLISH", &channel, &element]);
        assert_eq!(heard, u64::from(tag != "4"), "{channel}");
    }
    let garbage: u64 = ask(&mut look, &["PUBLISH", &format!("/{}.news/celery", room.database), "garbage"]);
    assert_eq!(garbage, 1);

    let taken = in_time(take(&*consumer, 3)).await;

    assert_eq!(names(&taken), ["1", "2", "3"]);
    next_is_direct(&broker, &*consumer, "a").await;
    let letters = broker.dead_letters(Some(OWN), 10).await.expect("lists");
    assert_eq!(
        letters.iter().map(|letter| &*letter.reason).collect::<Vec<_>>(),
        [DeadReason::Malformed.as_str()]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_heard_is_claimed_parked_and_given_back_like_anything_else() {
    let room = Room::new();
    let clock = Clock::manual(START);
    let broker = broker(&room, &clock);
    let consumer = broker.consume(options("w", &["shared"])).await.expect("consumes");
    for name in ["held", "later"] {
        broker.publish(vec![news(name)]).await.expect("publishes");
    }
    let taken = in_time(take(&*consumer, 2)).await;
    let minute = Duration::from_secs(60);
    commit(&*consumer, &taken[1], Settle::Park(START.after(minute))).await;
    drop(consumer);

    let namesake = broker.consume(options("w", &["shared"])).await.expect("consumes");
    assert_eq!(names(&in_time(take(&*namesake, 1)).await), ["held"]);
    clock.advance(minute);
    broker.wake();
    assert_eq!(names(&in_time(take(&*namesake, 1)).await), ["later"]);
    assert!(clock.now() > UnixMillis(START.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_to_consume_hears_nothing_more() {
    let room = Room::new();
    let broker = broker(&room, &Clock::system());
    let consumer = broker.consume(options("w", &[OWN, "a"])).await.expect("consumes");
    let subscribed = |look: &mut redis::Connection| -> u64 {
        ask::<(String, u64)>(look, &["PUBSUB", "NUMSUB", &format!("/{}.news", room.database)]).1
    };
    let mut look = room.connection();
    assert_eq!(subscribed(&mut look), 1);

    consumer.set_queues(vec!["a".to_owned()]).await.expect("sets");
    crate::servers::until("it listens no more", || subscribed(&mut look) == 0);
    next_is_direct(&broker, &*consumer, "a").await;
    consumer.set_queues(vec![OWN.to_owned()]).await.expect("sets");
    assert_eq!(subscribed(&mut look), 1);
    consumer.close().await.expect("closes");
    crate::servers::until("it listens no more", || subscribed(&mut look) == 0);
}

#[tokio::test]
async fn an_inbox_is_where_kombu_has_its_queue_of_replies_and_leaves_nothing_behind() {
    let room = Room::new();
    let broker = bare(&room, &Clock::system(), &json!({}));
    let mut look = room.connection();

    let mut inbox = broker.inbox("reply.celery.pidbox", "oid").await.expect("opens");

    let member = format!("oid{SEPARATOR}{SEPARATOR}oid.reply.celery.pidbox");
    let bound: Vec<String> = ask(&mut look, &["SMEMBERS", "_kombu.binding.reply.celery.pidbox"]);
    assert_eq!(bound, [member]);
    // As a worker of kombu answers.
    let element = Envelope::encode(&message("a"), "reply.celery.pidbox", "oid", "tag");
    let pushed = redis::cmd("LPUSH").arg("oid.reply.celery.pidbox").arg(element).query::<u64>(&mut look);
    assert_eq!(pushed.expect("pushes"), 1);
    assert_eq!(inbox.next().await.expect("hears"), message("a"));

    broker.reply("reply.celery.pidbox", "oid", message("b")).await.expect("sends");
    assert_eq!(inbox.next().await.expect("hears"), message("b"));
    inbox.close().await;

    let left: Vec<String> = ask(&mut look, &["KEYS", "*reply*"]);
    assert_eq!(left, Vec::<String>::new());
}

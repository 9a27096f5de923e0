//! Parking on Redis: messages that wait for their moment in a sorted set.

use std::time::Duration;

use celeriac::broker::{Broker as _, Settle};
use celeriac::clock::{Clock, UnixMillis};
use celeriac::driver::ConnectOptions;
use celeriac::driver::redis::RedisBroker;
use celeriac::protocol::Envelope;
use serde_json::json;

use crate::redis_broker::{ask, bare};
use crate::servers::Room;
use crate::setup::{LEASE, START, commit, credit, due, in_time, names, options, publication, take};

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_message_comes_by_itself_when_it_is_due() {
    let room = Room::new();
    let clock = Clock::system();
    let broker = bare(&room, &clock, &json!({}));
    let consumer = broker.consume(options("w", &["q"])).await.expect("consumes");
    in_time(async {
        for _ in 0..10 {
            let at = clock.now().after(Duration::from_millis(30));
            broker.publish(vec![due("q", "a", at)]).await.expect("publishes");
            let taken = take(&*consumer, 1).await;
            assert!(clock.now() >= at);
            commit(&*consumer, &taken[0], Settle::Ack).await;
        }
    })
    .await;
}

#[tokio::test]
async fn parked_messages_come_in_the_order_in_which_they_are_due() {
    let room = Room::new();
    let clock = Clock::manual(START);
    let broker = bare(&room, &clock, &json!({}));
    let at = |ms| UnixMillis(START.0 + ms);
    // More than one look brings back.
    let all: Vec<String> = (1..=1200).map(|number| number.to_string()).collect();
    let batch = (1..=1200).rev().map(|number| due("q", &number.to_string(), at(number)));
    broker.publish(batch.collect()).await.expect("publishes");
    let consumer = broker.consume(options("w", &["q"])).await.expect("consumes");
    clock.advance(Duration::from_secs(60));
    broker.wake();

    let mut taken = Vec::new();
    while taken.len() < all.len() {
        taken.extend(names(&in_time(consumer.claim(credit(500))).await.expect("claims")));
    }

    assert_eq!(taken, all);
}

#[tokio::test]
async fn a_client_that_does_not_park_sends_at_once() {
    let room = Room::new();
    let options = ConnectOptions { park: false, ..room.options(&Clock::manual(START)) };
    let broker = RedisBroker::connect(&room.url, &options).expect("the URL is one");

    broker.publish(vec![due("q", "a", START.after(LEASE))]).await.expect("publishes");

    assert_eq!(ask::<u64>(&mut room.connection(), &["LLEN", &format!("{}q", room.prefix)]), 1);
}

#[tokio::test]
async fn what_is_unparked_lies_behind_the_others_for_any_worker() {
    let room = Room::new();
    let broker = bare(&room, &Clock::manual(START), &json!({}));
    let late = |name: String, ms, priority| {
        let mut publication = due("q", &name, UnixMillis(START.0 + ms));
        publication.message.properties.priority = Some(priority);
        publication
    };
    let mut batch = vec![
        publication("q", "ready"),
        late("third".to_owned(), 5, 4),
        due("other", "x", START.after(LEASE)),
    ];
    batch.extend((1..=2500).rev().map(|number| late(number.to_string(), number, 0)));
    broker.publish(batch).await.expect("publishes");
    let mut look = room.connection();
    assert_eq!(ask::<u64>(&mut look, &["LLEN", "q"]), 1);

    assert_eq!(broker.unpark("q").await.expect("moves"), 2501);
    assert_eq!(broker.unpark("q").await.expect("moves"), 0);

    assert_eq!(ask::<u64>(&mut look, &["EXISTS", "celeriac:parked:q", "celeriac:parked:other"]), 1);
    assert_eq!(ask::<u64>(&mut look, &["LLEN", "q\x06\x163"]), 1);
    // As a consumer of kombu takes them.
    let mut taken = Vec::new();
    for _ in 0..=2500 {
        let element: Vec<u8> = ask(&mut look, &["RPOP", "q"]);
        let read = Envelope::decode(&element).expect("reads");
        taken.push(String::from_utf8(read.message.body.to_vec()).expect("is text"));
    }
    let expected: Vec<String> =
        ["ready".to_owned()].into_iter().chain((1..=2500).map(|n| n.to_string())).collect();
    assert_eq!(taken, expected);
}

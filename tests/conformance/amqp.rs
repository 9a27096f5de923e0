//! What `RabbitMQ` does with us: delays, limits, refusals, dead letters, batches.

use std::sync::Arc;
use std::time::{Duration, Instant};

use celeriac::broker::{BrokerError, Committed, Consumer, DeadReason, Settle};
use celeriac::clock::UnixMillis;
use celeriac::driver::ConnectOptions;
use celeriac::protocol::{Exchange, Publication, Queue, Topology};
use lapin::options::BasicGetOptions;
use serde_json::{Value, json};

use crate::rabbit::{Host, Rabbit, options, shared};
use crate::setup::{self, commit, credit, in_time, message, names, publication, take};

pub(crate) async fn channel(host: &Host) -> (lapin::Connection, lapin::Channel) {
    let connection = lapin::Connection::connect(&host.url, lapin::ConnectionProperties::default());
    let connection = connection.await.expect("connects");
    let channel = connection.create_channel().await.expect("opens a channel");
    (connection, channel)
}

pub(crate) async fn get(channel: &lapin::Channel, queue: &str) -> Option<lapin::message::Delivery> {
    let got = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.expect("gets");
    got.map(|got| got.delivery)
}

pub(crate) async fn consumer(
    broker: &Arc<dyn celeriac::broker::Broker>,
    queues: &[&str],
) -> Box<dyn Consumer> {
    broker.consume(setup::options("w", queues)).await.expect("consumes")
}

/// What exists in a virtual host, in the words of the capture.
pub(crate) fn existing(rabbit: &Rabbit, host: &Host, what: &str, columns: &[&str]) -> Vec<Value> {
    let arguments = [&[what, "-p", &host.name, "--formatter", "json"], columns].concat();
    serde_json::from_str(&rabbit.ctl(&arguments)).expect("JSON")
}

pub(crate) fn now() -> UnixMillis {
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

/// A connection has 2,047 numbers for channels, and each of these questions costs one for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asking_often_for_a_queue_that_is_not_there_never_runs_out_of_channels() {
    in_time(async {
        let broker = shared().host().worker(Vec::new());
        for _ in 0..21 {
            let asked = futures_util::future::try_join_all((0..100).map(|_| broker.purge("unknown"))).await;
            assert_eq!(asked.expect("no queue, nothing purged").iter().sum::<u64>(), 0);
        }
        setup_publish(&*broker, "q", "a").await;
        assert_eq!(broker.purge("q").await.expect("purges"), 1);
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
async fn quick_deliveries_of_two_queues_come_in_their_order() {
    in_time(async {
        let host = shared().host();
        let broker = host.worker(Vec::new());
        let queues = ["a", "b"];
        for queue in queues {
            let batch = (0..3_000).map(|number| publication(queue, &number.to_string())).collect();
            broker.publish(batch).await.expect("publishes");
        }
        // How much the server may send ahead changes on the way, and whom it is for.
        let consumer = consumer(&broker, &queues).await;
        let mut next = [0, 0];
        for count in [2].into_iter().chain([500, 300, 600].into_iter().cycle()) {
            let taken = consumer.claim(credit(count)).await.expect("claims");
            for delivery in &taken {
                let next = &mut next[usize::from(&*delivery.queue == "b")];
                assert_eq!(setup::name(delivery), next.to_string());
                *next += 1;
            }
            let acks: Vec<_> = taken.iter().map(|delivery| setup::settle(delivery, Settle::Ack)).collect();
            let answers = consumer.commit(&acks).await.expect("commits");
            assert!(answers.iter().all(|answer| *answer == Committed::Done));
            if next == [3_000, 3_000] {
                break;
            }
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

//! `RabbitMQ` going away, refusing, and coming back.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use celeriac::broker::{Broker, BrokerError, Committed, Consumer, Renewal, Settle};
use celeriac::driver::ConnectOptions;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::rabbit::{Host, alone, options, shared};
use crate::setup::{self, commit, credit, in_time, message, name, names, publication, take};

const LONG: Duration = Duration::from_secs(100);

async fn in_long_time(test: impl Future<Output = ()>) {
    tokio::time::timeout(LONG, test).await.expect("the test ends in time");
}

/// Asks until the loss is told.
async fn loss(consumer: &dyn Consumer) -> Renewal {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let renewal = consumer.renew().await.expect("renews");
        if renewal.lost {
            return renewal;
        }
        assert!(Instant::now() < deadline, "the loss is never told");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Claims until there are as many; errors that pass are waited for.
async fn take_patiently(consumer: &dyn Consumer, count: usize) -> Vec<celeriac::broker::Delivery> {
    let mut taken = Vec::new();
    while taken.len() < count {
        match consumer.claim(credit(count - taken.len())).await {
            Ok(more) => taken.extend(more),
            Err(error) => {
                assert!(error.is_transient(), "{error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    taken
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_channel_is_told_once_its_claims_come_again_and_old_ones_are_stale() {
    in_time(async {
        let host = shared().host();
        let broker = host.worker(Vec::new());
        broker.publish(["a", "b", "c"].map(|name| publication("q", name)).to_vec()).await.expect("publishes");
        let consumer = broker.consume(setup::options("w", &["q"])).await.expect("consumes");
        let held = take(&*consumer, 3).await;
        assert_eq!(commit(&*consumer, &held[0], Settle::Ack).await, Committed::Done);

        shared().ctl(&["close_all_connections", "-p", &host.name, "for the test"]);

        // Nothing is given out before the loss was told.
        let deadline = Instant::now() + Duration::from_secs(20);
        while consumer.claim(credit(0)).await.is_ok() {
            assert!(Instant::now() < deadline, "the loss is not noticed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let claimed = consumer.claim(credit(1)).await;
        assert!(matches!(claimed, Err(BrokerError::Unavailable { .. })), "{claimed:?}");
        let told = loss(&*consumer).await;
        assert!(told.why.is_some_and(|why| why.contains("for the test")));
        assert!(!consumer.renew().await.expect("renews").lost);
        assert_eq!(commit(&*consumer, &held[1], Settle::Ack).await, Committed::Stale);
        assert_eq!(commit(&*consumer, &held[2], Settle::Keep).await, Committed::Stale);

        let again = take_patiently(&*consumer, 2).await;
        assert_eq!(names(&again), ["b", "c"]);
        assert!(again.iter().all(|delivery| delivery.redelivered && delivery.crashes == 0));
        assert!(again[0].claim.fence > held[2].claim.fence);
        assert_eq!(commit(&*consumer, &held[1], Settle::Ack).await, Committed::Stale);
        for delivery in &again {
            assert_eq!(commit(&*consumer, delivery, Settle::Ack).await, Committed::Done);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_and_a_reply_queue_hear_again_after_a_loss() {
    in_time(async {
        let host = shared().host();
        let broker = host.worker(Vec::new());
        let mut listener = broker.listen("celery.pidbox").await.expect("listens");
        shared().ctl(&["close_all_connections", "-p", &host.name, "for the test"]);

        // What is sent while nobody listens is not heard: so it is sent until it is.
        let heard = async {
            tokio::select! {
                heard = listener.next() => heard.expect("hears"),
                () = async {
                    loop {
                        let _while_it_is_away =
                            broker.broadcast("celery.pidbox", "", message("x"), Duration::from_secs(1)).await;
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                } => unreachable!("it never ends"),
            }
        };
        assert_eq!(heard.await, message("x"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_blocks_is_named_consumption_goes_on_and_publishing_resumes() {
    let node = alone().await;
    in_long_time(async {
        let host = node.host();
        let broker = host
            .broker(ConnectOptions { publish_timeout: Duration::from_millis(1_500), ..options(Vec::new()) });
        broker.publish(vec![publication("q", "before")]).await.expect("publishes");
        let consumer = broker.consume(setup::options("w", &["q"])).await.expect("consumes");

        node.ctl(&["set_vm_memory_high_watermark", "0.00001"]);
        let mut error = broker.publish(vec![publication("q", "blocked")]).await.expect_err("it is blocked");
        if !error.to_string().contains("blocks") {
            // The server says so only to who has tried.
            error = broker.publish(vec![publication("q", "blocked")]).await.expect_err("it is blocked");
        }
        let taken = take(&*consumer, 1).await;
        let acked = commit(&*consumer, &taken[0], Settle::Ack).await;
        node.ctl(&["set_vm_memory_high_watermark", "0.8"]);

        assert!(matches!(error, BrokerError::Timeout { .. }), "{error}");
        assert!(error.to_string().contains("memory"), "{error}");
        assert_eq!((names(&taken), acked), (vec!["before".to_owned()], Committed::Done));
        publish_patiently(&*broker, "after").await;
        let mut last = String::new();
        while last != "after" {
            let taken = take_patiently(&*consumer, 1).await;
            last = name(&taken[0]);
            commit(&*consumer, &taken[0], Settle::Ack).await;
        }
    })
    .await;
}

async fn publish_patiently(broker: &dyn Broker, name: &str) {
    while let Err(error) = broker.publish(vec![publication("q", name)]).await {
        assert!(error.is_transient(), "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_node_restarts_under_load() {
    let node = alone().await;
    in_long_time(async {
        let host = node.host();
        let broker = host.worker(Vec::new());
        let consumer = broker.consume(setup::options("w", &["q"])).await.expect("consumes");
        let (done, stop) = watch::channel(false);
        let (sent, total) = watch::channel(None);
        let publish = async {
            let mut number = 0;
            // As long as the restart takes, and a little more.
            while !*stop.borrow() {
                publish_patiently(&*broker, &number.to_string()).await;
                number += 1;
            }
            sent.send_replace(Some(number));
            number
        };
        let mut seen: HashMap<String, usize> = HashMap::new();
        let drain = async {
            // Whatever is not there in the end would be waited for until the test is out of time.
            while total.borrow().is_none_or(|total| seen.len() < total) {
                let _lost_or_not = consumer.renew().await.expect("renews");
                let claim =
                    tokio::time::timeout(Duration::from_millis(200), consumer.claim(credit(20))).await;
                match claim {
                    Ok(Ok(taken)) => {
                        for delivery in &taken {
                            *seen.entry(name(delivery)).or_default() += 1;
                        }
                        let acks: Vec<_> =
                            taken.iter().map(|delivery| setup::settle(delivery, Settle::Ack)).collect();
                        let _stale_after_a_loss = consumer.commit(&acks).await;
                    }
                    Ok(Err(error)) => {
                        assert!(error.is_transient(), "{error}");
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Err(_) => {}
                }
            }
        };
        let stopping = async {
            for command in ["stop_app", "start_app"] {
                tokio::time::sleep(Duration::from_millis(500)).await;
                node.later(&[command]).await;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            done.send_replace(true);
        };
        let (count, (), ()) = tokio::join!(publish, drain, stopping);

        assert!(count > 10, "only {count} were sent");
        let missing: Vec<_> = (0..count).filter(|number| !seen.contains_key(&number.to_string())).collect();
        assert!(missing.is_empty(), "lost: {missing:?} of {count}");
        let twice = seen.values().filter(|times| **times > 1).count();
        assert!(twice <= 25, "{twice} of {count} came more than once");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_acknowledgement_timeout_of_the_server_is_explained() {
    let node = alone().await;
    in_long_time(async {
        node.ctl(&["eval", "application:set_env(rabbit, channel_tick_interval, 500), application:set_env(rabbit, consumer_timeout, 1000)."]);
        let host = node.host();
        let broker = host.worker(Vec::new());
        broker.publish(vec![publication("q", "long")]).await.expect("publishes");
        let consumer = broker.consume(setup::options("w", &["q"])).await.expect("consumes");
        let held = take(&*consumer, 1).await;

        let told = loss(&*consumer).await;
        node.ctl(&["eval", "application:set_env(rabbit, channel_tick_interval, 60000), application:set_env(rabbit, consumer_timeout, 1800000)."]);

        let why = told.why.expect("a reason");
        assert!(why.contains("consumer_timeout in rabbitmq.conf"), "{why}");
        assert_eq!(commit(&*consumer, &held[0], Settle::Ack).await, Committed::Stale);
        let again = take_patiently(&*consumer, 1).await;
        assert!(again[0].redelivered);
    })
    .await;
}

async fn becomes(silent: &mut watch::Receiver<bool>) {
    let _gone_with_the_test = silent.wait_for(|silent| *silent).await;
}

/// Passes on what both sides say, until it is told to be silent.
async fn proxy(to: String, silent: watch::Receiver<bool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            // One that comes while it is silent is answered once it speaks again.
            let (to, mut silent) = (to.clone(), silent.clone());
            tokio::spawn(async move {
                while *silent.borrow_and_update() {
                    if silent.changed().await.is_err() {
                        return;
                    }
                }
                let server = TcpStream::connect(to).await.expect("connects");
                let (mut client, mut server) = (client, server);
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    () = becomes(&mut silent) => {}
                }
                // Open, and dead.
                let _kept = (client, server);
                std::future::pending::<()>().await;
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_open_and_dead_is_noticed_and_made_anew() {
    in_long_time(async {
        let host = shared().host();
        let address =
            host.url.trim_start_matches("amqp://").split('/').next().expect("an address").to_owned();
        let (silence, silent) = watch::channel(false);
        let port = proxy(address, silent).await;
        let through = Host {
            name: host.name.clone(),
            url: format!("amqp://127.0.0.1:{port}/{}?heartbeat=1", host.name),
        };
        let broker: Arc<dyn Broker> = through.worker(Vec::new());
        let consumer = broker.consume(setup::options("w", &["q"])).await.expect("consumes");
        broker.publish(vec![publication("q", "a")]).await.expect("publishes");
        let _held = take(&*consumer, 1).await;

        silence.send_replace(true);
        // By heartbeats alone: nothing else is sent.
        let told = loss(&*consumer).await;
        assert!(told.why.is_some());
        silence.send_replace(false);

        publish_patiently(&*broker, "b").await;
        let seen: HashSet<String> = names(&take_patiently(&*consumer, 2).await).into_iter().collect();
        assert_eq!(seen, HashSet::from(["a".to_owned(), "b".to_owned()]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_an_error_in_time_without_a_password() {
    in_time(async {
        let broker =
            Host { name: String::new(), url: "amqp://user:secret@127.0.0.1:9/x;127.0.0.1:1".to_owned() }
                .worker(Vec::new());

        let error = broker.publish(vec![publication("q", "a")]).await.expect_err("nobody is there");

        assert!(matches!(error, BrokerError::Unavailable { .. }), "{error}");
        assert!(
            !error.to_string().contains("secret") && error.to_string().contains("127.0.0.1:9"),
            "{error}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_refused_and_the_next_server_of_a_list_is_tried() {
    in_time(async {
        let host = shared().host();
        let wrong = host.url.replace("amqp://", "amqp://guest:wrong@");
        let broker = Host { name: String::new(), url: wrong }.worker(Vec::new());
        let error = broker.publish(vec![publication("q", "a")]).await.expect_err("it is refused");
        assert!(matches!(error, BrokerError::Refused { .. }), "{error}");
        assert!(!error.to_string().contains("wrong"), "{error}");

        let list = Host { name: String::new(), url: format!("amqp://127.0.0.1:9;{}", host.url) };
        let broker = list.worker(Vec::new());
        broker.publish(vec![publication("q", "a")]).await.expect("the second one takes it");
    })
    .await;
}

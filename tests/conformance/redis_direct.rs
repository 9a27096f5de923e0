//! Publishing to Redis on the calling thread: the connection that it has for that, and what becomes of it.

use std::sync::Arc;
use std::time::Duration;

use celeriac::broker::{Broker, BrokerError};
use celeriac::client::{Client, RetryPolicy, Sending};
use celeriac::driver::redis::RedisBroker;
use celeriac::driver::{ConnectOptions, Threading};

use crate::redis_faults::{make_certificates, tls_server};
use crate::servers::{RedisServer, free_port, until};
use crate::setup::{in_time, publication};

const NAME: &str = "direct-test";
/// Of the server's `CLIENT LIST`: a connection that has published.
const USED: &str = "cmd=lpush";

fn options() -> ConnectOptions {
    let mut options = ConnectOptions::default();
    options.transport.insert("client_name".to_owned(), NAME.into());
    options
}

fn broker(url: &str, options: &ConnectOptions) -> RedisBroker {
    RedisBroker::connect(url, options).expect("the URL is one")
}

/// Our connections, as the server describes them.
fn connections(looking: &mut redis::Connection) -> Vec<String> {
    let list: String = redis::cmd("CLIENT").arg("LIST").query(looking).expect("lists");
    let named = format!(" name={NAME} ");
    list.lines().filter(|line| line.contains(&named)).map(str::to_owned).collect()
}

fn ids(looking: &mut redis::Connection) -> Vec<String> {
    let id = |line: String| line.split(' ').next().and_then(|id| id.strip_prefix("id=")).map(str::to_owned);
    connections(looking).into_iter().filter_map(id).collect()
}

fn kill(looking: &mut redis::Connection, id: &str) {
    let _: i64 = redis::cmd("CLIENT").arg("KILL").arg("ID").arg(id).query(looking).expect("kills");
}

fn length(looking: &mut redis::Connection) -> usize {
    redis::cmd("LLEN").arg("q").query(looking).expect("counts")
}

async fn send(broker: &RedisBroker) -> Result<(), BrokerError> {
    in_time(broker.publish(vec![publication("q", "a")])).await
}

/// Publishes until there are two connections and both have been used; returns how many messages that took.
async fn warm_up(broker: &RedisBroker, looking: &mut redis::Connection) -> usize {
    let mut sent = 0;
    in_time(async {
        loop {
            send(broker).await.expect("publishes");
            sent += 1;
            let ours = connections(looking);
            if ours.len() == 2 && ours.iter().all(|line| line.contains(USED)) {
                return sent;
            }
            assert!(ours.len() <= 2, "{ours:?}");
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_that_goes_on_publishing_gets_a_connection_of_its_own_and_one_that_does_not_does_not() {
    let server = RedisServer::start(&[]);
    let mut looking = server.connection(0);
    let broker = broker(&server.url(0), &options());
    for number in 0..7 {
        in_time(broker.publish(vec![publication("q", &number.to_string())])).await.expect("publishes");
    }
    assert_eq!(connections(&mut looking).len(), 1, "a few messages are not worth it");

    let sent = warm_up(&broker, &mut looking).await;

    let in_list: Vec<String> =
        redis::cmd("LRANGE").arg("q").arg(0).arg(-1).query(&mut looking).expect("reads");
    assert_eq!(in_list.len(), 7 + sent);
    drop(broker);
    until("both are closed with the broker", || connections(&mut looking).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_as_a_task_or_in_a_worker_blocks_no_thread() {
    let server = RedisServer::start(&[]);
    let mut looking = server.connection(0);
    let in_task = broker(&server.url(0), &options());
    let spawned = tokio::spawn(async move {
        for _ in 0..40 {
            send(&in_task).await.expect("publishes");
        }
        in_task
    });
    let in_task = spawned.await.expect("it ran");
    assert_eq!(connections(&mut looking).len(), 1);
    drop(in_task);
    until("it is closed", || connections(&mut looking).is_empty());

    let worker = ConnectOptions { threading: Threading::Dedicated, ..options() };
    let of_worker = broker(&server.url(0), &worker);
    for _ in 0..40 {
        send(&of_worker).await.expect("publishes");
    }
    assert_eq!(connections(&mut looking).len(), 1);
    assert_eq!(length(&mut looking), 80);
}

#[tokio::test]
async fn a_loop_of_one_thread_is_not_blocked() {
    let server = RedisServer::start(&[]);
    let mut looking = server.connection(0);
    let broker = broker(&server.url(0), &options());
    for _ in 0..40 {
        send(&broker).await.expect("publishes");
    }
    assert_eq!(connections(&mut looking).len(), 1);
    assert_eq!(length(&mut looking), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_threads_share_two_connections_and_every_message_arrives_once() {
    const THREADS: usize = 32;
    const CALLS: usize = 50;
    let server = RedisServer::start(&[]);
    let mut looking = server.connection(0);
    let broker = broker(&server.url(0), &options());
    let before = warm_up(&broker, &mut looking).await;
    let handle = tokio::runtime::Handle::current();
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (broker, handle) = (broker.clone(), handle.clone());
            std::thread::spawn(move || {
                for call in 0..CALLS {
                    let sent = broker.publish(vec![publication("q", &format!("{thread}-{call}"))]);
                    handle.block_on(in_time(sent)).expect("publishes");
                }
            })
        })
        .collect();
    until("all have published", || threads.iter().all(std::thread::JoinHandle::is_finished));
    assert!(threads.into_iter().all(|thread| thread.join().is_ok()));

    assert_eq!(connections(&mut looking).len(), 2);
    assert_eq!(length(&mut looking), before + THREADS * CALLS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_server_closed_while_nobody_looked_costs_no_call() {
    let server = RedisServer::start(&[]);
    let mut looking = server.connection(0);
    let broker = broker(&server.url(0), &options());
    let mut sent = 0;
    for _ in 0..5 {
        sent += warm_up(&broker, &mut looking).await;
        let newest = ids(&mut looking).pop().expect("there are two");
        kill(&mut looking, &newest);
        send(&broker).await.expect("publishes");
        sent += 1;
    }
    assert_eq!(length(&mut looking), sent, "none is lost, none is there twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_restarted_between_two_calls_is_found_again() {
    let mut server = RedisServer::start(&[]);
    let mut looking = server.connection(0);
    let policy = RetryPolicy {
        max_retries: Some(10),
        start: Duration::ZERO,
        step: Duration::from_millis(20),
        longest: Duration::from_millis(200),
    };
    let client = Client::new(&server.url(0), None, options());
    let how = Sending { retry: policy, ..Sending::default() };
    let send = async || in_time(client.publish(|| vec![publication("q", "a")], how)).await;
    for _ in 0..3 {
        in_time(async {
            while connections(&mut looking).iter().filter(|line| line.contains(USED)).count() < 2 {
                send().await.expect("publishes");
            }
        })
        .await;
        server.stop();
        assert!(server.resume(), "it starts again");
        looking = server.connection(0);

        send().await.expect("publishes");
        assert_eq!(length(&mut looking), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stalls_costs_a_call_its_deadline_and_both_connections() {
    let server = RedisServer::start(&[]);
    let mut looking = server.connection(0);
    let hasty = ConnectOptions { publish_timeout: Duration::from_secs(1), ..options() };
    let broker = broker(&server.url(0), &hasty);
    warm_up(&broker, &mut looking).await;
    let before = ids(&mut looking);

    server.pause();
    let error = send(&broker).await.expect_err("nobody answers");
    assert!(
        matches!(&error, BrokerError::Timeout { after, .. } if *after == Duration::from_secs(1)),
        "{error}"
    );
    // Stopped or not: a client with a time limit of its own keeps that.
    let client = Client::new(&server.url(0), None, hasty);
    let limit = Sending { timeout: Some(Duration::from_millis(20)), ..Sending::default() };
    let error = in_time(client.publish(|| vec![publication("q", "a")], limit)).await.expect_err("as above");
    assert!(error.is_transient(), "{error}");
    server.unpause();

    warm_up(&broker, &mut looking).await;
    until("the old ones are gone", || ids(&mut looking).iter().all(|id| !before.contains(id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_limit_shorter_than_the_servers_is_kept() {
    let server = RedisServer::start(&[]);
    let mut looking = server.connection(0);
    let broker = broker(&server.url(0), &options());
    warm_up(&broker, &mut looking).await;
    server.pause();
    let limited = tokio::time::timeout(Duration::from_millis(50), send(&broker)).await;
    assert!(limited.is_err(), "it ended by the limit");
    server.unpause();

    let before = length(&mut looking);
    warm_up(&broker, &mut looking).await;
    assert!(length(&mut looking) > before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_refuses_is_told_as_ever_and_ends_nothing() {
    let server = RedisServer::start(&[]);
    let mut looking = server.connection(0);
    let broker = broker(&server.url(0), &options());
    warm_up(&broker, &mut looking).await;
    let before = ids(&mut looking);
    redis::cmd("SET").arg("other").arg("no list").exec(&mut looking).expect("sets");
    // The first of these declares the queue, which is no single command.
    for _ in 0..3 {
        let error = in_time(broker.publish(vec![publication("other", "a")])).await.expect_err("no list");
        assert!(
            matches!(&error, BrokerError::Refused { reason, .. } if reason.starts_with("WRONGTYPE")),
            "{error}"
        );
    }
    assert_eq!(ids(&mut looking), before);

    // What is not carried out is asked over the shared connection, which is then left.
    redis::cmd("REPLICAOF").arg("127.0.0.1").arg(free_port()).exec(&mut looking).expect("sets");
    let error = send(&broker).await.expect_err("it is read-only");
    assert!(
        matches!(&error, BrokerError::Unavailable { reason, .. } if reason.starts_with("READONLY")),
        "{error}"
    );
    redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec(&mut looking).expect("sets");
    warm_up(&broker, &mut looking).await;
    assert!(ids(&mut looking).iter().all(|id| !before.contains(id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_was_changed_is_an_error_without_it() {
    let server = RedisServer::start(&["--requirepass", "hunter2"]);
    let url = format!("redis://:hunter2@127.0.0.1:{}/0", server.port);
    let mut looking = redis::Client::open(&*url).expect("the URL is one").get_connection().expect("connects");
    let broker = broker(&url, &options());
    warm_up(&broker, &mut looking).await;

    redis::cmd("CONFIG").arg(&["SET", "requirepass", "hunter9"]).exec(&mut looking).expect("sets");
    for id in ids(&mut looking) {
        kill(&mut looking, &id);
    }
    let refused = in_time(async {
        loop {
            match send(&broker).await {
                // What was under way when the connection ended.
                Err(error) if error.is_transient() => {}
                Err(error) => return error,
                Ok(()) => panic!("it was let in"),
            }
        }
    })
    .await;
    let text = refused.to_string();
    assert!(matches!(refused, BrokerError::Broken { .. }) && text.contains("password"), "{text}");
    assert!(!text.contains("hunter"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_room_for_one_connection_serves_all_calls_over_it() {
    let server = RedisServer::start(&[]);
    let mut looking = server.connection(0);
    redis::cmd("CONFIG").arg(&["SET", "maxclients", "2"]).exec(&mut looking).expect("sets");
    let broker = broker(&server.url(0), &options());
    for _ in 0..100 {
        send(&broker).await.expect("publishes");
    }
    assert_eq!((connections(&mut looking).len(), length(&mut looking)), (1, 100));
    let stats: String = redis::cmd("INFO").arg("stats").query(&mut looking).expect("reads");
    let refused =
        stats.lines().find_map(|line| line.strip_prefix("rejected_connections:")).expect("is there");
    let refused: u32 = refused.parse().expect("a number");
    assert!((1..=8).contains(&refused), "ever less often tried: {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_message_arrives_whole() {
    const LARGE: usize = 24 << 20;
    let server = RedisServer::start(&[]);
    let mut looking = server.connection(0);
    let broker = Arc::new(broker(&server.url(0), &options()));
    warm_up(&broker, &mut looking).await;
    redis::cmd("DEL").arg("q").exec(&mut looking).expect("deletes");

    in_time(broker.publish(vec![publication("q", &"x".repeat(LARGE))])).await.expect("publishes");

    let size: usize = redis::cmd("EVAL")
        .arg("return #redis.call('lindex', KEYS[1], 0)")
        .arg(&["1", "q"])
        .query(&mut looking)
        .expect("looks");
    assert!(size > LARGE, "{size}");
    assert_eq!(connections(&mut looking).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_unix_sockets_are_as_good() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    make_certificates(directory.path());
    let file = |name: &str| directory.path().join(name).display().to_string();
    let (server, port) =
        tls_server(&["--tls-auth-clients", "no", "--unixsocket", &file("redis.sock")], &file);
    let mut looking = server.connection(0);
    let urls = [
        format!("rediss://localhost:{port}/0?ssl_ca_certs={}", file("ca.pem")),
        format!("redis+socket://{}?virtual_host=0", file("redis.sock")),
    ];
    for url in urls {
        redis::cmd("DEL").arg("q").exec(&mut looking).expect("deletes");
        let broker = broker(&url, &options());
        let mut sent = warm_up(&broker, &mut looking).await;
        for _ in 0..20 {
            send(&broker).await.expect("publishes");
            sent += 1;
        }
        in_time(broker.publish(vec![publication("q", &"x".repeat(1 << 20))])).await.expect("publishes");
        let newest = ids(&mut looking).pop().expect("there are two");
        kill(&mut looking, &newest);
        send(&broker).await.expect("publishes");
        assert_eq!(length(&mut looking), sent + 2, "{url}");
        drop(broker);
        until("it is closed", || connections(&mut looking).is_empty());
    }
}

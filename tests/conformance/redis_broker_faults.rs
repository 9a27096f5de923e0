//! Connections and servers that fail under the Redis broker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use celeriac::broker::{Broker, BrokerError, Commit, Committed, Settle};
use celeriac::clock::Clock;
use celeriac::driver::ConnectOptions;
use celeriac::driver::redis::RedisBroker;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::servers::{RedisServer, Room};
use crate::setup::{LEASE, START, commit, credit, due, in_time, names, options, publication, settle, take};

/// Passes bytes on to a server until it is told to lose an answer.
struct Proxy {
    port: u16,
    /// The next answer is thrown away, and its connection cut.
    loses: Arc<AtomicBool>,
}

impl Proxy {
    async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("is bound").port();
        let loses = Arc::new(AtomicBool::new(false));
        let flag = loses.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", server)).await.expect("connects");
                tokio::spawn(pass(client, server, flag.clone()));
            }
        });
        Self { port, loses }
    }

    fn lose_the_next_answer(&self) {
        self.loses.store(true, Ordering::SeqCst);
    }

    fn has_lost(&self) -> bool {
        !self.loses.load(Ordering::SeqCst)
    }
}

async fn pass(client: TcpStream, server: TcpStream, loses: Arc<AtomicBool>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let there = async { tokio::io::copy(&mut from_client, &mut to_server).await.map(drop) };
    let back = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = from_server.read(&mut buffer).await?;
            if count == 0 || loses.swap(false, Ordering::SeqCst) {
                return Ok::<(), std::io::Error>(());
            }
            to_client.write_all(&buffer[..count]).await?;
        }
    };
    tokio::select! {
        _ = there => {}
        _ = back => {}
    }
}

async fn behind_proxy(room: &Room) -> (Proxy, RedisBroker) {
    let proxy = Proxy::start(room.port).await;
    let url = format!("redis://127.0.0.1:{}/{}", proxy.port, room.database);
    let broker = RedisBroker::connect(&url, &room.options(&Clock::system())).expect("the URL is one");
    (proxy, broker)
}

fn unacked(room: &Room) -> u64 {
    let key = format!("{}unacked", room.prefix);
    redis::cmd("HLEN").arg(key).query(&mut room.connection()).expect("looks")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_answer_is_lost_loses_nothing() {
    let room = Room::new();
    let (proxy, broker) = behind_proxy(&room).await;
    broker.publish(["a", "b", "c"].map(|name| publication("q", name)).to_vec()).await.expect("publishes");
    let consumer = broker.consume(options("w", &["q"])).await.expect("consumes");

    proxy.lose_the_next_answer();
    let lost = in_time(consumer.claim(credit(2))).await;

    assert!(lost.as_ref().is_err_and(BrokerError::is_transient), "{lost:?}");
    assert!(proxy.has_lost());
    assert_eq!(unacked(&room), 2, "the script ran");
    let taken = in_time(take(&*consumer, 3)).await;
    assert_eq!(names(&taken), ["a", "b", "c"]);
    assert!(taken.iter().all(|delivery| !delivery.redelivered));
    assert_eq!(unacked(&room), 3);
    consumer.close().await.expect("closes");
    assert_eq!(unacked(&room), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_happens_once() {
    let room = Room::new();
    let (proxy, broker) = behind_proxy(&room).await;
    broker.publish(vec![publication("q", "a"), publication("next", "-")]).await.expect("publishes");
    let consumer = broker.consume(options("w", &["q"])).await.expect("consumes");
    let taken = take(&*consumer, 1).await;
    let done = Commit { publications: vec![publication("next", "b")], ..settle(&taken[0], Settle::Ack) };

    proxy.lose_the_next_answer();
    let lost = in_time(consumer.commit(std::slice::from_ref(&done))).await;
    assert!(lost.as_ref().is_err_and(BrokerError::is_transient) && proxy.has_lost(), "{lost:?}");
    // The server may have forgotten what was declared, so that is said again.
    let again = in_time(consumer.commit(&[done])).await.expect("commits");

    assert_eq!(again, [Committed::Stale]);
    assert_eq!(unacked(&room), 0);
    let next = broker.consume(options("next", &["next"])).await.expect("consumes");
    assert_eq!(names(&in_time(next.claim(credit(5))).await.expect("claims")), ["-", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_waits_survives_the_loss_of_its_connections() {
    let room = Room::new();
    let broker = RedisBroker::connect(&room.url, &named(&room)).expect("the URL is one");
    let consumer = broker.consume(options("w", &["q"])).await.expect("consumes");
    let mut listener = broker.listen("pidbox").await.expect("listens");
    for number in 0..5 {
        let mut claim = consumer.claim(credit(1));
        // That of the broker, that of the listener, and that which waits.
        while connections(&room).len() < 3 {
            let waits = tokio::time::timeout(Duration::from_millis(20), &mut claim).await;
            assert!(waits.is_err(), "{waits:?}");
        }
        kill(&room);

        let name = number.to_string();
        in_time(async {
            while broker.publish(vec![publication("q", &name)]).await.is_err() {}
            // The wait may end with the error of a connection: then it is begun anew, as a worker does.
            let taken = match claim.await {
                Ok(taken) => taken,
                Err(error) => {
                    assert!(error.is_transient(), "{error}");
                    take(&*consumer, 1).await
                }
            };
            assert_eq!(names(&taken), [&*name]);
            while consumer.commit(&[settle(&taken[0], Settle::Ack)]).await.is_err() {}
        })
        .await;
        let heard = async {
            loop {
                let said = broker.broadcast("pidbox", "", crate::setup::message(&name), LEASE).await;
                let next = tokio::time::timeout(Duration::from_millis(100), listener.next()).await;
                if let (Ok(()), Ok(Ok(message))) = (said, next) {
                    return message;
                }
            }
        };
        in_time(heard).await;
    }
}

fn named(room: &Room) -> ConnectOptions {
    let mut options = room.options(&Clock::system());
    options.transport.insert("client_name".to_owned(), room.prefix.clone().into());
    options
}

/// The connections of this room.
fn connections(room: &Room) -> Vec<String> {
    let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut room.connection()).expect("lists");
    let named = format!(" name={} ", room.prefix);
    let ours = list.lines().filter(|line| line.contains(&named));
    ours.filter_map(|line| Some(line.strip_prefix("id=")?.split(' ').next()?.to_owned())).collect()
}

fn kill(room: &Room) {
    let mut connection = room.connection();
    for id in connections(room) {
        // One may have ended meanwhile.
        let _: i64 =
            redis::cmd("CLIENT").arg("KILL").arg("ID").arg(id).query(&mut connection).expect("kills");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_a_stalled_server_carries_out_late_takes_nothing() {
    let server = RedisServer::start(&[]);
    let options_of = |timeout| ConnectOptions { publish_timeout: timeout, ..ConnectOptions::default() };
    let patient = RedisBroker::connect(&server.url(0), &ConnectOptions::default()).expect("the URL is one");
    let hasty = RedisBroker::connect(&server.url(0), &options_of(Duration::from_millis(200)))
        .expect("the URL is one");
    let consumer = hasty.consume(options("w", &["q"])).await.expect("consumes");
    for round in 0..5 {
        let name = round.to_string();
        patient.publish(vec![publication("q", &name)]).await.expect("publishes");
        server.pause();
        let stalled = in_time(consumer.claim(credit(1))).await;
        assert!(matches!(stalled, Err(BrokerError::Timeout { .. })), "{stalled:?}");
        server.unpause();

        let taken = in_time(async {
            loop {
                if let Ok(taken) = consumer.claim(credit(1)).await {
                    return taken;
                }
            }
        })
        .await;

        assert_eq!(names(&taken), [&*name]);
        in_time(async { while consumer.commit(&[settle(&taken[0], Settle::Ack)]).await.is_err() {} }).await;
        let mut look = server.connection(0);
        let left: u64 = redis::cmd("HLEN").arg("unacked").query(&mut look).expect("looks");
        assert_eq!(left, 0);
    }
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_sent_again() {
    let server = RedisServer::start(&[]);
    let connect = ConnectOptions { clock: Clock::manual(START), ..ConnectOptions::default() };
    let broker = RedisBroker::connect(&server.url(0), &connect).expect("the URL is one");
    let mut look = server.connection(0);
    let mut forget = || redis::cmd("SCRIPT").arg("FLUSH").query::<()>(&mut look).expect("flushes");
    forget();
    let consumer = broker.consume(options("w", &["q"])).await.expect("consumes");
    broker.publish(vec![publication("q", "a"), publication("q", "b")]).await.expect("publishes");
    forget();
    let taken = take(&*consumer, 2).await;
    forget();
    assert_eq!(commit(&*consumer, &taken[0], Settle::Ack).await, Committed::Done);
    forget();
    consumer.renew().await.expect("renews");
    forget();
    consumer.close().await.expect("closes");
    forget();
    broker.sweep().await.expect("sweeps");
    let next = broker.consume(options("w", &["q"])).await.expect("consumes");
    assert_eq!(names(&take(&*next, 1).await), ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_recover_at_the_same_time_give_back_once_and_in_order() {
    let room = Room::new();
    let clock = Clock::manual(START);
    let connect = || RedisBroker::connect(&room.url, &room.options(&clock)).expect("the URL is one");
    let (one, two) = (connect(), connect());
    let all: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    let slow = one.consume(options("slow", &["q"])).await.expect("consumes");
    let (first, second) = (
        one.consume(options("first", &["q"])).await.expect("consumes"),
        two.consume(options("second", &["q"])).await.expect("consumes"),
    );
    one.publish(all.iter().map(|name| publication("q", name)).collect()).await.expect("publishes");
    assert_eq!(names(&take(&*slow, 100).await), all);
    clock.advance(LEASE / 2);
    first.renew().await.expect("renews");
    second.renew().await.expect("renews");
    clock.advance(LEASE / 2);

    let (one_more, other) = tokio::join!(first.renew(), second.renew());

    assert_eq!(one_more.expect("renews").recovered + other.expect("renews").recovered, 100);
    assert_eq!(names(&take(&*first, 100).await), all);
}

#[tokio::test]
async fn a_server_that_lost_everything_is_consumed_from_again() {
    let server = RedisServer::start(&[]);
    let connect = ConnectOptions { clock: Clock::manual(START), ..ConnectOptions::default() };
    let broker = RedisBroker::connect(&server.url(0), &connect).expect("the URL is one");
    let consumer = broker.consume(options("w", &["q"])).await.expect("consumes");
    broker.publish(vec![publication("q", "a")]).await.expect("publishes");
    let taken = take(&*consumer, 1).await;

    redis::cmd("FLUSHALL").query::<()>(&mut server.connection(0)).expect("flushes");

    assert_eq!(commit(&*consumer, &taken[0], Settle::Ack).await, Committed::Stale);
    assert!(consumer.renew().await.expect("renews").lost);
    assert!(!consumer.renew().await.expect("renews").lost);
    let batch = vec![publication("q", "b"), due("q", "c", START.after(LEASE))];
    broker.publish(batch).await.expect("publishes");
    assert_eq!(names(&take(&*consumer, 1).await), ["b"]);
}

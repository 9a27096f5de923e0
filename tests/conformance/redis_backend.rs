//! What only Redis does as a result backend: Celery's keys, commands and channels, whoever wrote the record.

use std::sync::Arc;
use std::time::Duration;

use celeriac::backend::{BackendError, Keeper, Kept, Left, ResultBackend};
use celeriac::clock::Clock;
use celeriac::driver::{ConnectOptions, connect_backend};
use celeriac::protocol::ResultRecord;
use redis::Commands as _;

use crate::servers::{RedisServer, Room, until};
use crate::setup::{in_time, record};

pub(crate) fn connect(url: &str) -> Arc<dyn ResultBackend> {
    connect_backend(url, ConnectOptions::default()).expect("the URL is one")
}

fn in_room(room: &Room) -> Arc<dyn ResultBackend> {
    connect_backend(&room.url, room.options(&Clock::system())).expect("the URL is one")
}

pub(crate) async fn state(backend: &dyn ResultBackend, task_id: &str) -> Option<String> {
    let read = backend.read(&[task_id.to_owned()]).await.expect("reads");
    read.into_iter().next().flatten().map(|record| record.state)
}

#[tokio::test]
async fn a_record_lies_under_celerys_key_and_is_published_there() {
    let room = Room::new();
    let mut looking = room.connection();
    let mut listening = room.connection();
    let mut channel = listening.as_pubsub();
    let key = format!("{}celery-task-meta-t1", room.prefix);
    channel.subscribe(&key).expect("subscribes");
    let expiring = ResultRecord { expires_ms: Some(86_400_000), ..record("t1", "SUCCESS") };

    in_room(&room).store(vec![expiring.clone(), record("t2", "FAILURE")]).await.expect("stores");

    let message = channel.get_message().expect("it comes");
    assert_eq!(message.get_payload_bytes(), expiring.record);
    assert_eq!(looking.get::<_, Vec<u8>>(&key).expect("reads"), expiring.record);
    let left: i64 = looking.pttl(&key).expect("reads");
    assert!((86_000_000..=86_400_000).contains(&left), "{left}");
    let kept: i64 = looking.pttl(format!("{}celery-task-meta-t2", room.prefix)).expect("reads");
    assert_eq!(kept, -1, "it has no time to live");
    let all: Vec<String> = looking.keys("*").expect("reads");
    assert_eq!(all.len(), 2, "{all:?}");
}

#[tokio::test]
async fn a_batch_costs_two_commands_for_each_record_and_one_or_two_more() {
    let server = RedisServer::start(&[]);
    let backend = connect(&server.url(0));
    backend.store(vec![record("first", "SUCCESS")]).await.expect("the script is known now");
    let mut looking = server.connection(0);
    for (state, expected) in [("SUCCESS", 201), ("FAILURE", 202)] {
        redis::cmd("CONFIG").arg("RESETSTAT").exec(&mut looking).expect("resets");
        let batch: Vec<_> = (0..100).map(|number| record(&format!("{state}{number}"), state)).collect();

        backend.store(batch).await.expect("stores");

        assert_eq!(calls(&mut looking), expected, "{state}");
    }
}

/// Commands since the last reset.
fn calls(looking: &mut redis::Connection) -> u32 {
    let stats: String = redis::cmd("INFO").arg("commandstats").query(looking).expect("reads");
    let counted: Vec<(&str, u32)> = stats
        .lines()
        .filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="))
        .filter(|(name, _)| !name.starts_with("config") && *name != "info")
        .map(|(name, rest)| (name, rest.split(',').next().unwrap_or_default().parse().expect("a count")))
        .collect();
    counted.iter().map(|(_, calls)| calls).sum()
}

#[tokio::test]
async fn success_is_final_whoever_wrote_it_and_in_whatever_form() {
    let forms: [(&str, &[u8]); 8] = [
        ("celery", br#"{"status": "STATE", "result": 5, "traceback": null}"#),
        ("compact", br#"{"status":"STATE","result":5}"#),
        ("spaced", b" { \"status\" : \"STATE\",\n \"result\": \"SUCCESS\"}"),
        (
            "pickle4",
            b"\x80\x04\x95\x9d\0\0\0\0\0\0\0}\x94(\x8c\x06status\x94\x8c\x07STATE\x94\x8c\x06result\x94K\x05",
        ),
        ("pickle2", b"\x80\x02}q\0(X\x06\0\0\0statusq\x01X\x07\0\0\0STATEq\x02X\x06\0\0\0resultq\x03K\x05"),
        ("msgpack", b"\x86\xa6status\xa7STATE\xa6result\x05"),
        ("yaml", b"children: []\nresult: 'status: SUCCESS'\nstatus: STATE\ntask_id: x\n"),
        ("yaml last", b"result: 5\nstatus: STATE"),
    ];
    let room = Room::new();
    let backend = in_room(&room);
    let mut writing = room.connection();
    // As long as SUCCESS: the lengths in the binary forms stay right.
    for (word, is_final) in [("SUCCESS", true), ("FAILURE", false), ("XSUCCES", false)] {
        for (form, text) in forms {
            let at = text.windows(5).position(|window| window == b"STATE").expect("it is there");
            let stored = [&text[..at], word.as_bytes(), &text[at + 5..]].concat();
            let () = writing.set(format!("{}celery-task-meta-t", room.prefix), &stored).expect("sets");
            assert_eq!(state(&*backend, "t").await.as_deref(), Some(word), "{form}");

            backend.store(vec![record("t", "REVOKED")]).await.expect("stores");

            let expected = if is_final { "SUCCESS" } else { "REVOKED" };
            assert_eq!(state(&*backend, "t").await.as_deref(), Some(expected), "{form} {word}");
        }
    }
}

#[tokio::test]
async fn success_is_final_within_a_batch_too() {
    let room = Room::new();
    let backend = in_room(&room);
    let batch = ["STARTED", "SUCCESS", "FAILURE"].map(|state| record("t", state));

    backend.store(batch.to_vec()).await.expect("stores");

    assert_eq!(state(&*backend, "t").await.as_deref(), Some("SUCCESS"));
}

#[tokio::test]
async fn a_key_of_another_type_is_replaced() {
    let room = Room::new();
    let backend = in_room(&room);
    let () = room.connection().rpush(format!("{}celery-task-meta-t", room.prefix), "x").expect("pushes");
    assert_eq!(state(&*backend, "t").await, None);

    backend.store(vec![record("t", "SUCCESS")]).await.expect("stores");

    assert_eq!(state(&*backend, "t").await.as_deref(), Some("SUCCESS"));
}

#[tokio::test]
async fn an_unreadable_record_ends_the_wait_for_it_and_no_other() {
    let room = Room::new();
    let backend = in_room(&room);
    let () = room.connection().set(format!("{}celery-task-meta-bad", room.prefix), "\u{1}?").expect("sets");
    let mut bad = backend.watch(vec!["bad".to_owned()]).await.expect("watches");
    let mut good = backend.watch(vec!["good".to_owned(), "bad".to_owned()]).await.expect("watches");

    in_time(async {
        let told = bad.next().await.expect("watches");
        assert_eq!((&*told[0].state, &told[0].record[..]), ("FAILURE", &b"\x01?"[..]));
        assert_eq!(good.next().await.expect("watches").len(), 1);
        backend.store(vec![record("good", "SUCCESS")]).await.expect("stores");
        assert_eq!(good.next().await.expect("watches"), [record("good", "SUCCESS")]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_watches_share_one_connection_and_leave_no_subscription() {
    let server = RedisServer::start(&[]);
    let backend = connect(&server.url(0));
    let mut looking = server.connection(0);
    let ids: Vec<String> = (0..2500).map(|number| format!("t{number}")).collect();
    let stored = ids.iter().map(|id| record(id, "STARTED")).collect();
    backend.store(stored).await.expect("stores");

    in_time(async {
        let mut watches = Vec::new();
        for id in &ids {
            watches.push(backend.watch(vec![id.clone()]).await.expect("watches"));
        }
        let mut all = backend.watch(ids.clone()).await.expect("watches");
        for (watch, id) in watches.iter_mut().zip(&ids) {
            assert_eq!(watch.next().await.expect("watches"), [record(id, "STARTED")]);
        }
        let done = ids.iter().map(|id| record(id, "SUCCESS")).collect();
        backend.store(done).await.expect("stores");
        for (watch, id) in watches.iter_mut().zip(&ids) {
            assert_eq!(watch.next().await.expect("watches"), [record(id, "SUCCESS")]);
        }
        let mut finished = std::collections::HashSet::new();
        while finished.len() < ids.len() {
            let news = all.next().await.expect("watches");
            finished.extend(news.into_iter().filter(|told| told.state == "SUCCESS").map(|told| told.task_id));
        }
    })
    .await;

    let clients: String = redis::cmd("CLIENT").arg("LIST").query(&mut looking).expect("reads");
    assert_eq!(clients.lines().count(), 3, "a link, a subscriber, and who asks: {clients}");
    until("every channel is left", || {
        let channels: Vec<String> = redis::cmd("PUBSUB").arg("CHANNELS").query(&mut looking).expect("reads");
        channels.is_empty()
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_dropped_while_it_waits_disturbs_no_other() {
    let room = Room::new();
    let backend = in_room(&room);
    in_time(async {
        for round in 0..50 {
            let id = format!("t{round}");
            let mut stays = backend.watch(vec![id.clone()]).await.expect("watches");
            let mut goes = backend.watch(vec![id.clone()]).await.expect("watches");
            let _ = tokio::time::timeout(Duration::from_millis(round % 3), goes.next()).await;
            let (told, stored) = tokio::join!(stays.next(), async {
                drop(goes);
                backend.store(vec![record(&id, "SUCCESS")]).await
            });
            stored.expect("stores");
            assert_eq!(told.expect("watches"), [record(&id, "SUCCESS")]);
        }
    })
    .await;
}

#[tokio::test]
async fn a_full_server_says_what_to_do_and_is_tried_again() {
    let server = RedisServer::start(&[]);
    let backend = connect(&server.url(0));
    backend.store(vec![record("a", "SUCCESS")]).await.expect("stores");
    let mut setting = server.connection(0);
    let mut limit = |bytes: u32| {
        redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).exec(&mut setting).expect("sets");
    };
    limit(1);

    let error = backend.store(vec![record("b", "SUCCESS")]).await.expect_err("there is no room");

    assert!(
        matches!(&error, BackendError::Unavailable { reason, .. } if reason.contains("maxmemory")),
        "{error}"
    );
    limit(0);
    backend.store(vec![record("b", "SUCCESS")]).await.expect("there is room again");
}

#[test]
fn broker_and_backend_of_one_server_know_it_and_their_places_differ() {
    let backend = |url: &str| connect_backend(url, ConnectOptions::default()).expect("the URL is one");
    let (one, two) = (backend("redis://:pw@h/1"), backend("redis://h:6379/2"));
    assert_eq!(one.store_id(), two.store_id());
    assert_ne!(one.location(), two.location());
    assert_ne!(one.store_id(), backend("redis://h:6380/1").store_id());
    assert_eq!(one.display_url(), "redis://:**@h/1");
}

fn keeper(name: &str, lease: Duration) -> Keeper {
    Keeper { place: "amqp://broker".to_owned(), name: name.to_owned(), lease }
}

fn kept(id: &str) -> Kept {
    Kept { id: id.to_owned(), message: format!("message of {id}").into() }
}

#[tokio::test]
async fn what_a_keeper_leaves_is_taken_over_by_one_and_kept_until_it_is_forgotten() {
    let room = Room::new();
    let backend = in_room(&room);
    let (gone, lives) = (keeper("gone", Duration::ZERO), keeper("lives", Duration::from_secs(60)));
    backend.keep_begun(&gone, &[kept("a"), kept("b")]).await.expect("keeps");
    backend.keep_begun(&lives, &[kept("c")]).await.expect("keeps");
    backend.forget_begun(&gone, &["b".to_owned()]).await.expect("forgets");
    let stranger = Keeper { place: "amqp://other".to_owned(), ..keeper("stranger", Duration::ZERO) };
    assert_eq!(backend.renew_begun(&stranger).await.expect("renews").begun, []);

    let next = keeper("next", Duration::from_secs(60));
    let taken = backend.renew_begun(&next).await.expect("renews");
    assert_eq!(taken, Left { lost: true, begun: vec![kept("a")] });
    assert_eq!(backend.renew_begun(&next).await.expect("renews"), Left::default());
    assert_eq!(backend.renew_begun(&lives).await.expect("renews"), Left::default());
    assert!(backend.renew_begun(&gone).await.expect("renews").lost, "it was taken for dead");
    backend.forget_begun(&next, &["a".to_owned()]).await.expect("forgets");
    backend.forget_begun(&lives, &["c".to_owned()]).await.expect("forgets");
    let left: Vec<String> = room.connection().keys("*begun:amqp://broker:*").expect("reads");
    assert_eq!(left, Vec::<String>::new());
}

//! What only the file does: two openings, reopening, idling, growing, URLs.

use std::path::Path;
use std::time::Duration;

use celeriac::backend::ResultBackend;
use celeriac::broker::{Broker, BrokerError, Commit, Committed, Settle};
use celeriac::clock::{Clock, UnixMillis};
use celeriac::driver::sqlite::{SqliteOptions, SqliteStore};
use celeriac::driver::{ConnectOptions, Threading, connect_backend, connect_broker};

use crate::setup::{
    LEASE, START, commit, credit, due, in_time, message, names, options, publication, record, settle, take,
};

const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn open(file: &Path, clock: &Clock) -> SqliteStore {
    let fast = SqliteOptions { survive_power_cut: false, ..SqliteOptions::new(file) };
    SqliteStore::open(SqliteOptions { clock: clock.clone(), threading: Threading::Dedicated, ..fast })
        .expect("opens")
}

fn file() -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("store.db");
    (directory, file)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_is_rung_by_another_connection() {
    let (_directory, file) = file();
    let (client, worker) = (open(&file, &Clock::system()), open(&file, &Clock::system()));
    let consumer = worker.consume(options("w", &["q"])).await.expect("consumes");
    let mut listener = worker.listen("pidbox").await.expect("listens");
    // The net below the bells looks once a second: it would take several times as long as the test may.
    in_time(async {
        for number in 0..200 {
            let id = number.to_string();
            let (answered, ()) = tokio::join!(
                async {
                    client.publish(vec![publication("q", &id)]).await.expect("publishes");
                    client.broadcast("pidbox", "", message(&id), MINUTE).await.expect("sends");
                    let mut watch = client.watch(vec![id.clone()]).await.expect("watches");
                    watch.next().await.expect("watches")
                },
                async {
                    let taken = take(&*consumer, 1).await;
                    assert_eq!(listener.next().await.expect("hears"), message(&id));
                    let results = vec![record(&id, "SUCCESS")];
                    let done = Commit { results, ..settle(&taken[0], Settle::Ack) };
                    consumer.commit(&[done]).await.expect("commits");
                }
            );
            assert_eq!(answered, [record(&id, "SUCCESS")]);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_is_there_after_reopening() {
    let (_directory, file) = file();
    let clock = Clock::manual(START);
    let store = open(&file, &clock);
    let batch = vec![publication("q", "a"), publication("q", "b"), due("q", "later", START.after(MINUTE))];
    store.publish(batch).await.expect("publishes");
    store.store(vec![record("t", "SUCCESS")]).await.expect("stores");
    let consumer = store.consume(options("w", &["q"])).await.expect("consumes");
    take(&*consumer, 1).await;
    drop(consumer);
    drop(store);

    let store = open(&file, &clock);
    let consumer = store.consume(options("w", &["q"])).await.expect("consumes");

    assert_eq!(names(&take(&*consumer, 2).await), ["a", "b"]);
    assert_eq!(store.read(&["t".to_owned()]).await.expect("reads"), [Some(record("t", "SUCCESS"))]);
    clock.advance(MINUTE);
    assert_eq!(names(&in_time(take(&*consumer, 1)).await), ["later"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_stepped_back_holds_a_lease_for_no_longer_than_it_is() {
    let (_directory, file) = file();
    let before = open(&file, &Clock::manual(START.after(60 * MINUTE)));
    before.publish(vec![publication("q", "a")]).await.expect("publishes");
    let silent = before.consume(options("silent", &["q"])).await.expect("consumes");
    let held = take(&*silent, 1).await;
    commit(&*silent, &held[0], Settle::Park(UnixMillis(START.0 + 1))).await;
    take(&*silent, 1).await;

    // An hour earlier, the same file.
    let clock = Clock::manual(START);
    let after = open(&file, &clock);
    after.publish(vec![due("q", "b", START.after(MINUTE))]).await.expect("publishes");
    let consumer = after.consume(options("w", &["q"])).await.expect("consumes");
    let mut claim = consumer.claim(credit(1));
    let woken = after.wakeups();
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut claim).await.is_err());
    assert!(after.wakeups() - woken < 10, "it spins");

    clock.advance(LEASE);
    after.wake();
    assert_eq!(names(&in_time(claim).await.expect("claims")), ["a"]);
    consumer.renew().await.expect("renews");
    clock.advance(MINUTE.saturating_sub(LEASE));
    after.wake();
    assert_eq!(names(&in_time(take(&*consumer, 1)).await), ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn idling_costs_one_wakeup_a_second() {
    let (_directory, file) = file();
    let store = open(&file, &Clock::system());
    let consumer = store.consume(options("w", &["q"])).await.expect("consumes");
    let mut listener = store.listen("pidbox").await.expect("listens");
    let mut watch = store.watch(vec!["t".to_owned()]).await.expect("watches");
    let parked = due("q", "later", Clock::system().now().after(60 * MINUTE));
    store.publish(vec![parked]).await.expect("publishes");

    let idle = async {
        tokio::select! {
            claimed = consumer.claim(credit(1)) => panic!("{claimed:?}"),
            heard = listener.next() => panic!("{heard:?}"),
            seen = watch.next() => panic!("{seen:?}"),
        }
    };
    let seconds = 3;
    assert!(tokio::time::timeout(Duration::from_secs(seconds), idle).await.is_err());

    // One a second, and the few with which the waiting began.
    assert!(store.wakeups() <= seconds + 10, "{} in {seconds} seconds", store.wakeups());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_file_does_not_grow() {
    let (_directory, file) = file();
    let clock = Clock::manual(START);
    let store = open(&file, &clock);
    let consumer = store.consume(options("w", &["q"])).await.expect("consumes");
    let mut sizes = Vec::new();
    for _ in 0..6 {
        for _ in 0..5 {
            store
                .publish((0..200).map(|_| publication("q", &"x".repeat(500))).collect())
                .await
                .expect("publishes");
        }
        for number in 0..10 {
            let taken = take(&*consumer, 100).await;
            let commits = taken.iter().enumerate().map(|(at, delivery)| {
                let mut result = record(&format!("{number}-{at}-{}", delivery.claim.id), "SUCCESS");
                result.expires_ms = Some(1000);
                Commit { results: vec![result], ..settle(delivery, Settle::Ack) }
            });
            consumer.commit(&commits.collect::<Vec<_>>()).await.expect("commits");
        }
        store.broadcast("pidbox", "", message("x"), MINUTE).await.expect("sends");
        clock.advance(MINUTE);
        consumer.renew().await.expect("renews");
        store.sweep().await.expect("sweeps");
        sizes.push(std::fs::metadata(&file).expect("is there").len());
        let log = file.with_file_name("store.db-wal");
        assert_eq!(std::fs::metadata(log).map_or(0, |log| log.len()), 0, "the log is emptied by a sweep");
    }
    assert!(sizes[5] <= sizes[1], "{sizes:?}");
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_and_the_next_is_taken() {
    let (_directory, file) = file();
    let store = SqliteStore::open(SqliteOptions { max_message: 100, ..SqliteOptions::new(&file) });
    let store = store.expect("opens");

    let refused = store.publish(vec![publication("q", "a"), publication("q", &"x".repeat(200))]).await;

    assert!(matches!(refused, Err(BrokerError::TooLarge { limit: 100, size }) if size >= 200), "{refused:?}");
    assert!(store.queues().await.expect("lists").is_empty(), "nothing of the batch is there");
    store.publish(vec![publication("q", "b")]).await.expect("publishes");
}

#[tokio::test]
async fn many_threads_share_the_store() {
    let (_directory, file) = file();
    let store = SqliteStore::open(SqliteOptions::new(&file)).expect("opens");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for number in 0..25 {
                    let publish = store.publish(vec![publication("q", &format!("{thread}-{number}"))]);
                    futures_util::FutureExt::now_or_never(publish).expect("never waits").expect("publishes");
                }
            });
        }
    });
    let consumer = store.consume(options("w", &["q"])).await.expect("consumes");
    let mut taken = names(&take(&*consumer, 200).await);
    taken.sort();
    taken.dedup();
    assert_eq!(taken.len(), 200);
}

#[tokio::test]
async fn one_url_is_one_store_whoever_asks() {
    let (_directory, file) = file();
    let url = format!("sqlite:///{}?synchronous=normal", file.display());
    let broker = connect_broker(&url, ConnectOptions::default()).expect("connects");
    let backend = connect_backend(&url, ConnectOptions::default()).expect("connects");
    assert!(broker.store_id().is_some());
    assert_eq!(broker.store_id(), backend.store_id());
    broker.publish(vec![publication("q", "a")]).await.expect("publishes");
    let again = connect_broker(&url, ConnectOptions::default()).expect("connects");
    assert_eq!(again.queues().await.expect("lists")[0].ready, 1);

    let memory = connect_broker("memory://test", ConnectOptions::default()).expect("connects");
    memory.publish(vec![publication("q", "a")]).await.expect("publishes");
    drop(memory);
    let memory = connect_broker("memory://test", ConnectOptions::default()).expect("connects");
    let other = connect_broker("memory://other", ConnectOptions::default()).expect("connects");
    assert_eq!(memory.queues().await.expect("lists")[0].ready, 1);
    assert!(other.queues().await.expect("lists").is_empty());
}

#[test]
fn a_url_that_cannot_be_used_says_what_can() {
    for (url, hint) in [
        ("sqlite://:memory:", "memory://"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite://store.db", "sqlite:///"),
        ("sqlite:///store.db?sync=off", "synchronous"),
        ("kafka://localhost", "sqlite:///"),
        ("store.db", "sqlite:///"),
    ] {
        match connect_broker(url, ConnectOptions::default()) {
            Err(BrokerError::Config(text)) => assert!(text.contains(hint), "{url}: {text}"),
            Err(other) => panic!("{url}: {other}"),
            Ok(_) => panic!("{url} was taken"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_one_name_both_work() {
    let (_directory, file) = file();
    let (one, two) = (open(&file, &Clock::system()), open(&file, &Clock::system()));
    one.publish(vec![publication("q", "a"), publication("q", "b")]).await.expect("publishes");
    let first = one.consume(options("same", &["q"])).await.expect("consumes");
    let held = take(&*first, 1).await;

    let second = two.consume(options("same", &["q"])).await.expect("consumes");

    assert_eq!(names(&take(&*second, 1).await), ["b"]);
    assert_eq!(commit(&*first, &held[0], Settle::Ack).await, Committed::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_parked_of_a_queue_can_be_made_ready_at_once() {
    let (_directory, file) = file();
    let store = open(&file, &Clock::manual(START));
    let batch = vec![
        due("q", "first", START.after(2 * MINUTE)),
        due("other", "stays", START.after(MINUTE)),
        publication("q", "ready"),
        due("q", "last", START.after(MINUTE)),
    ];
    store.publish(batch).await.expect("publishes");

    assert_eq!(store.unpark("q").await.expect("moves"), 2);
    assert_eq!(store.unpark("q").await.expect("moves"), 0);

    let consumer = store.consume(options("w", &["q", "other"])).await.expect("consumes");
    // Each in the place that it had when it was sent.
    assert_eq!(names(&take(&*consumer, 3).await), ["first", "ready", "last"]);
    let parked: u64 = store.queues().await.expect("lists").iter().map(|queue| queue.parked).sum();
    assert_eq!(parked, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_counts_workers_that_have_a_lease() {
    let (_directory, file) = file();
    let clock = Clock::manual(START);
    let store = open(&file, &clock);
    let workers = async || Broker::examine(&store).await.expect("tells").workers;

    assert_eq!(workers().await, Some(0));
    let consumer = store.consume(options("w", &["q"])).await.expect("consumes");
    assert_eq!(workers().await, Some(1));
    clock.advance(LEASE * 2);
    assert_eq!(workers().await, Some(0));
    consumer.renew().await.expect("renews");
    assert_eq!(workers().await, Some(1));
    consumer.close().await.expect("closes");
    assert_eq!(workers().await, Some(0));
}

//! What the store in one SQLite file takes: `cargo bench --bench sqlite_store [-- DIRECTORY]`.
//!
//! Tasks look like Celery's (800 bytes of headers, results of 200 bytes). CPU is that of the whole process.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use celeriac::backend::ResultBackend;
use celeriac::broker::{Broker, Commit, Credit, Settle};
use celeriac::driver::Threading;
use celeriac::driver::sqlite::{SqliteOptions, SqliteStore};
use celeriac::protocol::ResultRecord;
use common::{cpu, id, options, publication};

const BATCH: usize = 100;
const TASKS: usize = 20_000;
const TRIPS: usize = 2_000;

fn main() {
    let directory = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let directory = directory.map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    for survive_power_cut in [true, false] {
        println!("synchronous={}", if survive_power_cut { "full" } else { "normal" });
        let file = directory.join("bench.db");
        runtime.block_on(async {
            one_by_one(&open(&file, survive_power_cut, Threading::Inline)).await;
            through(&open(&file, survive_power_cut, Threading::Dedicated)).await;
            trips(&file, survive_power_cut).await;
        });
        threads(&open(&file, survive_power_cut, Threading::Inline));
    }
}

fn open(file: &Path, survive_power_cut: bool, threading: Threading) -> SqliteStore {
    for end in ["", "-wal", "-shm"] {
        let mut name = file.as_os_str().to_owned();
        name.push(end);
        drop(std::fs::remove_file(name));
    }
    attach(file, survive_power_cut, threading)
}

fn attach(file: &Path, survive_power_cut: bool, threading: Threading) -> SqliteStore {
    SqliteStore::open(SqliteOptions { survive_power_cut, threading, ..SqliteOptions::new(file) })
        .expect("opens")
}

fn report(what: &str, tasks: usize, since: (Instant, Duration)) {
    let (wall, used) = (since.0.elapsed().as_secs_f64(), cpu().saturating_sub(since.1).as_secs_f64());
    let tasks = tasks as f64;
    println!("  {what:<44} {:>8.0}/s {:>7.1} µs CPU each", tasks / wall, used / tasks * 1e6);
}

async fn one_by_one(store: &SqliteStore) {
    let since = (Instant::now(), cpu());
    for number in 0..TRIPS {
        store.publish(vec![publication(number)]).await.expect("publishes");
    }
    report("publish, one by one, one thread", TRIPS, since);
}

fn threads(store: &SqliteStore) {
    let since = (Instant::now(), cpu());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for number in 0..TRIPS / 4 {
                    let publish = store.publish(vec![publication(thread * TRIPS + number)]);
                    futures_util::FutureExt::now_or_never(publish)
                        .expect("does not wait")
                        .expect("publishes");
                }
            });
        }
    });
    report("publish, one by one, 8 threads", 2 * TRIPS, since);
}

async fn through(store: &SqliteStore) {
    let start = (Instant::now(), cpu());
    for first in (0..TASKS).step_by(BATCH) {
        store.publish((first..first + BATCH).map(publication).collect()).await.expect("publishes");
    }
    report("publish, batches of 100", TASKS, start);

    let consumer = store.consume(options()).await.expect("consumes");
    let (mut done, drain) = (0, (Instant::now(), cpu()));
    while done < TASKS {
        let credit = Credit { count: BATCH, bytes: usize::MAX };
        let claimed = consumer.claim(credit).await.expect("claims");
        let commits = claimed.iter().enumerate().map(|(at, claimed)| Commit {
            claim: Some(claimed.claim),
            settle: Settle::Ack,
            results: vec![ResultRecord {
                task_id: id(done + at),
                state: "SUCCESS".to_owned(),
                record: "r".repeat(200).into(),
                content_type: "application/json".to_owned(),
                expires_ms: Some(86_400_000),
                reply_to: None,
                retain: None,
            }],
            ..Commit::default()
        });
        let commits = commits.collect::<Vec<_>>();
        consumer.commit(&commits).await.expect("commits");
        done += commits.len();
    }
    report("claim(100) + commit(100 with result)", TASKS, drain);
    report("the whole way, one after the other", TASKS, start);
    consumer.close().await.expect("closes");
}

/// A client publishes and waits for the result; a worker with a connection of its own answers.
async fn trips(file: &Path, survive_power_cut: bool) {
    let client = open(file, survive_power_cut, Threading::Inline);
    let worker = Arc::new(attach(file, survive_power_cut, Threading::Dedicated));
    let consumer = worker.consume(options()).await.expect("consumes");
    let answer = tokio::spawn(async move {
        for _ in 0..TRIPS {
            let claimed = consumer.claim(Credit { count: 1, bytes: usize::MAX }).await.expect("claims");
            let task_id = claimed[0].message.properties.correlation_id.clone().expect("has an id");
            let results =
                vec![ResultRecord { task_id, state: "SUCCESS".to_owned(), ..ResultRecord::default() }];
            let claim = Some(claimed[0].claim);
            let commit = Commit { claim, settle: Settle::Ack, results, ..Commit::default() };
            consumer.commit(&[commit]).await.expect("commits");
        }
    });
    let start = (Instant::now(), cpu());
    let mut times = Vec::with_capacity(TRIPS);
    for number in 0..TRIPS {
        let sent = Instant::now();
        client.publish(vec![publication(number)]).await.expect("publishes");
        let mut watch = client.watch(vec![id(number)]).await.expect("watches");
        watch.next().await.expect("watches");
        times.push(sent.elapsed());
    }
    answer.await.expect("answers");
    report("publish, claim, commit, watch: round trips", TRIPS, start);
    times.sort();
    println!("  {:<44} p50 {:?}, p99 {:?}", "", times[TRIPS / 2], times[TRIPS * 99 / 100]);
}

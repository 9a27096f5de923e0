//! Leases: kept for long tasks, and what happens when one is lost all the same.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use celeriac::broker::{Broker, ConsumerOptions};
use celeriac::worker::Stop;
use celeriac::worker::pool::Mode;
use serde_json::json;

use crate::common::{START, World, early, iso, late, message, messages, modes, options, pause, pool, until};
use crate::faults::Flaky;

#[tokio::test(start_paused = true)]
async fn a_task_much_longer_than_the_lease_runs_once() {
    let world = World::new();
    let pool = pool(1, Duration::from_secs(90));
    let played = pool.played();
    let mut short = options(&[("t", late())]);
    short.lease = Duration::from_secs(5);
    let idle = crate::common::pool(4, Duration::ZERO);
    let idle_played = idle.played();
    let first = world.start(short.clone(), pool);
    world.publish(messages("t", 1)).await;
    until("it runs", async || !played.lock().is_empty()).await;

    short.node = "celery@other".into();
    let second = world.start(short, idle);
    until("it is done", async || world.result("t-0").await.is_some()).await;

    first.stop(Stop::Warm).await;
    second.stop(Stop::Warm).await;
    assert_eq!((played.lock().len(), idle_played.lock().len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stale_attempt_does_not_commit_over_the_newer_one() {
    let world = World::new();
    let slow = pool(1, Duration::from_secs(20));
    let slow_played = slow.played();
    let mut short = options(&[("t", late())]);
    short.lease = Duration::from_secs(3);
    let store = Arc::new(world.store.clone());
    let flaky = Arc::new(Flaky::new(store.clone()));
    let first = world.start_on(short.clone(), flaky.clone(), store, slow);
    world.publish(messages("t", 1)).await;
    until("it runs", async || !slow_played.lock().is_empty()).await;

    flaky.cut.store(true, Ordering::SeqCst);
    short.node = "celery@other".into();
    let quick = pool(1, Duration::ZERO);
    let quick_played = quick.played();
    let second = world.start(short, quick);
    until("the other runs it", async || world.result("t-0").await.is_some()).await;
    flaky.cut.store(false, Ordering::SeqCst);
    until("the first one's outcome is dropped", async || first.handle.stats().stale == 1).await;

    first.stop(Stop::Warm).await;
    second.stop(Stop::Warm).await;
    assert_eq!((slow_played.lock().len(), quick_played.lock().len()), (1, 1));
    let queue = world.queue().await;
    assert_eq!((queue.ready, queue.claimed), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_steps_back_an_hour_loses_nothing_and_repeats_nothing() {
    let world = World::new();
    let slow = pool(2, Duration::from_secs(20));
    let played = slow.played();
    let mut short = options(&[("t", late())]);
    short.lease = Duration::from_secs(5);
    let first = world.start(short.clone(), slow);
    let idle = pool(1, Duration::ZERO);
    let idle_played = idle.played();
    world.publish(messages("t", 1)).await;
    until("it runs", async || !played.lock().is_empty()).await;
    world.publish(vec![message("t", "later", json!({"eta": iso(START + 10_000)}))]).await;
    pause(500).await;

    world.clock.step_back(Duration::from_secs(3600));
    short.node = "celery@other".into();
    let second = world.start(short, idle);
    until("what ran is done", async || world.result("t-0").await.is_some()).await;
    world.publish(vec![message("t", "good", json!({}))]).await;
    until("a good one runs", async || world.result("good").await.is_some()).await;
    pause(60_000).await;
    let early = [modes(&played, "later"), modes(&idle_played, "later")].concat();
    world.clock.advance(Duration::from_secs(3600));
    world.drained().await;

    first.stop(Stop::Warm).await;
    second.stop(Stop::Warm).await;
    assert_eq!(early, []);
    for id in ["t-0", "good", "later"] {
        assert_eq!([modes(&played, id), modes(&idle_played, id)].concat(), [Mode::Run], "{id}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_comes_again_while_it_runs_is_not_run_twice() {
    let world = World::new();
    let slow = pool(2, Duration::from_secs(20));
    let played = slow.played();
    let mut short = options(&[("t", late()), ("e", early())]);
    short.lease = Duration::from_secs(3);
    let store = Arc::new(world.store.clone());
    let flaky = Arc::new(Flaky::new(store.clone()));
    world.publish([messages("t", 1), messages("e", 1)].concat()).await;
    // Cut off before the early one is acknowledged, and until its lease has run out.
    let worker = world.start_on(short, flaky.clone(), store, slow);
    until("both run", async || {
        flaky.cut.store(played.lock().len() == 2, Ordering::SeqCst);
        played.lock().len() == 2
    })
    .await;
    pause(6_000).await;
    // Someone of another queue notices.
    let other = ConsumerOptions {
        queues: vec!["other".into()],
        node: "celery@other".into(),
        lease: Duration::from_secs(30),
        max_crashes: 3,
        results: None,
    };
    let other = world.store.consume(other).await.unwrap();
    other.renew().await.unwrap();
    assert_eq!(world.queue().await.ready, 2, "both go back");
    flaky.cut.store(false, Ordering::SeqCst);

    world.drained().await;
    let finished = worker.handle.stats().finished;
    let log = worker.log();
    worker.stop(Stop::Warm).await;

    for id in ["t-0", "e-0"] {
        assert_eq!(modes(&played, id), [Mode::Run], "{id}");
        assert!(world.result(id).await.is_some(), "{id}: its result is stored");
    }
    assert_eq!(finished, 2);
    assert!(log.iter().any(|line| line.contains("t[t-0] was delivered again")), "{log:#?}");
}

//! Warm and cold stops: what ends, what goes back, what is told.

use std::time::Duration;

use celeriac::worker::Stop;
use celeriac::worker::pool::scripted::{Scene, ScriptedPool, usual};
use celeriac::worker::pool::{Mode, OutcomeKind};

use crate::common::{World, early, late, messages, modes, options, outcome, pool, until};

#[tokio::test(start_paused = true)]
async fn a_warm_stop_lets_tasks_end_and_hands_the_rest_back_at_once() {
    let world = World::new();
    let pool = pool(2, Duration::from_secs(30));
    let played = pool.played();
    let mut options = options(&[("t", late())]);
    options.prefetch_multiplier = Some(4);
    let worker = world.start(options, pool);
    world.publish(messages("t", 20)).await;
    until("eight are claimed", async || world.queue().await.claimed == 8).await;

    worker.handle.stop(Stop::Warm);
    until("six are back", async || world.queue().await.ready == 18).await;
    assert!(world.result("t-0").await.is_none());
    let exit = worker.ended().await;

    assert_eq!(exit.code, 0);
    assert_eq!(played.lock().len(), 2);
    assert!(world.result("t-0").await.is_some() && world.result("t-1").await.is_some());
    let queue = world.queue().await;
    assert_eq!((queue.ready, queue.claimed), (18, 0));
}

#[tokio::test(start_paused = true)]
async fn a_drain_deadline_hands_late_tasks_back_and_concludes_early_ones() {
    let world = World::new();
    let script = |execution: &celeriac::worker::pool::Execution| match &execution.mode {
        Mode::Run => Scene::hangs(),
        mode => Scene::outcome(outcome(execution, usual(mode))),
    };
    let pool = ScriptedPool::new(2, script);
    let played = pool.played();
    let mut options = options(&[("early", early()), ("late", late())]);
    options.drain = Some(Duration::from_secs(5));
    let worker = world.start(options, pool);
    world.publish(messages("early", 1)).await;
    world.publish(messages("late", 1)).await;
    until("both run", async || played.lock().len() == 2).await;
    crate::common::pause(100).await;

    let exit = worker.stop(Stop::Warm).await;

    assert_eq!(exit.code, 0);
    let queue = world.queue().await;
    assert_eq!((queue.ready, queue.claimed, queue.dead), (1, 0, 0));
    assert_eq!(modes(&played, "early-0").len(), 2);
    assert!(matches!(modes(&played, "early-0")[1], Mode::Lost(_)));
    assert_eq!(world.result("early-0").await.unwrap().state, "FAILURE");
    assert_eq!(modes(&played, "late-0"), [Mode::Run]);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_nobody_chose_loses_nothing() {
    let world = World::new();
    let pool = ScriptedPool::new(2, |execution| {
        if execution.message.task_headers().is_ok_and(|headers| headers.task == "early") {
            return Scene::outcome(outcome(execution, OutcomeKind::Success)).after(Duration::from_secs(60));
        }
        Scene::hangs()
    });
    let played = pool.played();
    let mut options = options(&[("early", early()), ("late", late())]);
    options.drain = Some(Duration::from_secs(5));
    options.drain_spares_acknowledged = true;
    let worker = world.start(options, pool);
    world.publish(messages("early", 1)).await;
    world.publish(messages("late", 1)).await;
    until("both run", async || played.lock().len() == 2).await;

    worker.handle.stop(Stop::Warm);
    until("the late one is back", async || world.queue().await.ready == 1).await;
    assert!(!worker.join.is_finished(), "the early one runs on");
    let exit = worker.ended().await;

    assert_eq!(exit.code, 0);
    assert_eq!(modes(&played, "early-0"), [Mode::Run]);
    assert_eq!(world.result("early-0").await.unwrap().state, "SUCCESS");
    let queue = world.queue().await;
    assert_eq!((queue.ready, queue.claimed, queue.dead), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_soft_stop_lets_tasks_end_for_a_while_and_then_kills() {
    let world = World::new();
    let pool = ScriptedPool::new(2, |execution| {
        if execution.message.task_headers().is_ok_and(|headers| headers.id == "late-0") {
            return Scene::outcome(outcome(execution, OutcomeKind::Success)).after(Duration::from_secs(2));
        }
        Scene::hangs()
    });
    let played = pool.played();
    let mut options = options(&[("late", late())]);
    options.soft_stop = Duration::from_secs(5);
    options.log_level = 30;
    let worker = world.start(options, pool);
    world.publish(messages("late", 3)).await;
    until("both run", async || played.lock().len() == 2).await;

    worker.handle.stop(Stop::Soft);
    until("the short one has ended", async || world.result("late-0").await.is_some()).await;
    let log = worker.log();
    let exit = worker.ended().await;

    assert_eq!(exit.code, 1, "it is a cold stop all the same");
    assert_eq!(log, ["Initiating Soft Shutdown, terminating in 5 seconds"]);
    let queue = world.queue().await;
    assert_eq!((queue.ready, queue.claimed), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_soft_stop_with_nothing_that_runs_is_cold_at_once() {
    let world = World::new();
    let mut options = options(&[("late", late())]);
    options.soft_stop = Duration::from_secs(3_600);
    let worker = world.start(options, pool(1, Duration::ZERO));

    let exit = worker.stop(Stop::Soft).await;

    assert_eq!(exit.code, 1);
}

#[tokio::test(start_paused = true)]
async fn a_cold_stop_overrides_a_warm_one() {
    let world = World::new();
    let pool = ScriptedPool::new(1, |_| Scene::hangs());
    let played = pool.played();
    let worker = world.start(options(&[("t", late())]), pool);
    world.publish(messages("t", 3)).await;
    until("one runs", async || !played.lock().is_empty()).await;

    worker.handle.stop(Stop::Warm);
    crate::common::pause(1_000).await;
    assert!(!worker.join.is_finished());
    let exit = worker.stop(Stop::Cold).await;

    assert_eq!(exit.code, 1);
    assert_eq!(world.queue().await.ready, 3);
}

#[tokio::test(start_paused = true)]
async fn a_stop_asked_for_before_the_start_is_kept() {
    let world = World::new();
    let worker = celeriac::worker::Worker::new(
        options(&[]),
        std::sync::Arc::new(world.store.clone()),
        None,
        Box::new(pool(1, Duration::ZERO)),
        world.clock.clone(),
    );
    worker.handle().stop(Stop::Warm);

    let exit = tokio::time::timeout(Duration::from_secs(60), worker.run()).await.unwrap().unwrap();

    assert_eq!(exit.code, 0);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_vanishes_loses_nothing() {
    let world = World::new();
    let hanging = ScriptedPool::new(4, |_| Scene::hangs());
    let first = world.start(options(&[("t", late())]), hanging);
    world.publish(messages("t", 10)).await;
    until("four are claimed", async || world.queue().await.claimed == 4).await;

    first.vanish().await;
    let pool = pool(4, Duration::ZERO);
    let played = pool.played();
    let second = world.start(options(&[("t", late())]), pool);
    world.drained().await;

    second.stop(Stop::Warm).await;
    assert_eq!(played.lock().len(), 10);
}

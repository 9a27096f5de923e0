//! When a message is acknowledged, and what its end does to it.

use std::time::Duration;

use celeriac::broker::Broker;
use celeriac::protocol::Publication;
use celeriac::worker::pool::scripted::{Scene, ScriptedPool, usual};
use celeriac::worker::pool::{Mode, OutcomeKind};
use celeriac::worker::{Stop, TaskOptions};
use serde_json::json;

use crate::common::{World, early, late, message, messages, modes, options, outcome, pause, pool, until};

#[tokio::test(start_paused = true)]
async fn an_early_ack_goes_out_while_a_long_task_runs() {
    let world = World::new();
    let worker = world.start(options(&[("t", early())]), pool(1, Duration::from_secs(3)));

    world.publish(messages("t", 1)).await;

    until("it is acknowledged", async || {
        world.queue().await.claimed == 0 && worker.handle.stats().committed == 1
    })
    .await;
    assert!(world.result("t-0").await.is_none());
    until("it is done", async || world.result("t-0").await.is_some()).await;
    assert_eq!(worker.stop(Stop::Warm).await.code, 0);
}

#[tokio::test(start_paused = true)]
async fn an_early_ack_of_a_short_task_travels_with_its_outcome() {
    let world = World::new();
    let worker = world.start(options(&[("t", early())]), pool(1, Duration::ZERO));

    world.publish(messages("t", 1)).await;

    until("it is done", async || world.result("t-0").await.is_some()).await;
    assert_eq!(worker.handle.stats().committed, 1);
    assert_eq!(world.queue().await.claimed, 0);
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn a_late_ack_comes_after_the_result() {
    let world = World::new();
    let worker = world.start(options(&[("t", late())]), pool(1, Duration::from_secs(3)));

    world.publish(messages("t", 1)).await;
    pause(2_000).await;

    assert_eq!(world.queue().await.claimed, 1);
    world.drained().await;
    assert_eq!(world.result("t-0").await.unwrap().state, "SUCCESS");
    worker.stop(Stop::Warm).await;
}

/// Runs one task that ends once in this way, then (if it comes again) well. Gives what it was played as,
/// the state stored, the reasons of the dead letters.
async fn plays(
    task: TaskOptions,
    scene: impl Fn() -> Option<OutcomeKind> + Send + 'static,
) -> (Vec<Mode>, String, Vec<String>) {
    let world = World::new();
    let mut first = true;
    let pool = ScriptedPool::new(1, move |execution| {
        let kind = match execution.mode {
            Mode::Run if std::mem::take(&mut first) => match scene() {
                Some(kind) => kind,
                None => return Scene::dies("signal 9 (SIGKILL)").after(Duration::from_millis(30)),
            },
            ref mode => usual(mode),
        };
        Scene::outcome(outcome(execution, kind)).after(Duration::from_millis(30))
    });
    let played = pool.played();
    let worker = world.start(options(&[("t", task)]), pool);
    world.publish(messages("t", 1)).await;
    until("it is over", async || {
        let queue = world.queue().await;
        world.result("t-0").await.is_some() && queue.ready + queue.claimed == 0
    })
    .await;
    worker.stop(Stop::Warm).await;
    let dead = world.dead().await.into_iter().map(|letter| letter.reason).collect();
    (modes(&played, "t-0"), world.result("t-0").await.unwrap().state, dead)
}

#[tokio::test(start_paused = true)]
async fn a_late_failure_is_acknowledged_or_kept_as_a_dead_letter() {
    let fails = || Some(OutcomeKind::Failure);
    let keeps = TaskOptions { acks_on_failure: false, ..late() };

    assert_eq!(plays(late(), fails).await, (vec![Mode::Run], "FAILURE".into(), vec![]));
    assert_eq!(plays(keeps, fails).await, (vec![Mode::Run], "FAILURE".into(), vec!["rejected".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_late_reject_is_a_dead_letter_or_comes_again() {
    let rejected = plays(late(), || Some(OutcomeKind::Rejected)).await;
    assert_eq!(rejected, (vec![Mode::Run], "REJECTED".into(), vec!["rejected".to_owned()]));

    let requeued = plays(late(), || Some(OutcomeKind::Requeued)).await;
    assert_eq!(requeued, (vec![Mode::Run, Mode::Run], "SUCCESS".into(), vec![]));
}

#[tokio::test(start_paused = true)]
async fn an_early_reject_changes_nothing_at_the_broker() {
    let requeued = plays(early(), || Some(OutcomeKind::Requeued)).await;

    assert_eq!(requeued, (vec![Mode::Run], "REQUEUED".into(), vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_lost_process_is_concluded_as_lost() {
    let lost = Mode::Lost("signal 9 (SIGKILL)".into());

    assert_eq!(plays(early(), || None).await, (vec![Mode::Run, lost.clone()], "FAILURE".into(), vec![]));
    assert_eq!(plays(late(), || None).await, (vec![Mode::Run, lost], "FAILURE".into(), vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_lost_process_brings_the_message_back_when_the_task_says_so() {
    let rejects = TaskOptions { reject_on_worker_lost: true, ..late() };

    assert_eq!(plays(rejects, || None).await, (vec![Mode::Run, Mode::Run], "SUCCESS".into(), vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_kills_its_process_again_and_again_becomes_a_dead_letter() {
    let world = World::new();
    let pool = ScriptedPool::new(1, |execution| match execution.mode {
        Mode::Run => Scene::dies("signal 9 (SIGKILL)").after(Duration::from_millis(5)),
        ref mode => Scene::outcome(outcome(execution, usual(mode))),
    });
    let played = pool.played();
    let rejects = TaskOptions { reject_on_worker_lost: true, ..late() };
    let worker = world.start(options(&[("t", rejects)]), pool);

    world.publish(messages("t", 1)).await;
    world.drained().await;

    worker.stop(Stop::Warm).await;
    let lost = Mode::Lost("signal 9 (SIGKILL)".into());
    assert_eq!(modes(&played, "t-0"), [Mode::Run, Mode::Run, Mode::Run, lost]);
    assert_eq!(world.result("t-0").await.unwrap().state, "FAILURE", "whoever waits learns of it");
    let dead = world.dead().await;
    assert_eq!((dead[0].reason.as_str(), dead[0].crashes), ("crashed", 3));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_while_it_concludes_does_not_loop() {
    let world = World::new();
    let pool = ScriptedPool::new(1, |_| Scene::dies("exitcode 1"));
    let played = pool.played();
    let worker = world.start(options(&[("t", late())]), pool);

    world.publish(messages("t", 1)).await;
    world.drained().await;

    worker.stop(Stop::Warm).await;
    assert_eq!(modes(&played, "t-0"), [Mode::Run, Mode::Lost("exitcode 1".into())]);
    assert_eq!(world.dead().await[0].reason, "crashed");
}

#[tokio::test(start_paused = true)]
async fn follow_ups_are_published_with_the_outcome() {
    let world = World::new();
    let pool = ScriptedPool::new(1, |execution| {
        let mut outcome = outcome(execution, OutcomeKind::Success);
        if execution.message.task_headers().unwrap().task == "first" {
            let next = message("second", "next", json!({}));
            outcome.publications =
                vec![Publication { routing_key: "celery".into(), message: next, ..Publication::default() }];
        }
        Scene::outcome(outcome)
    });
    let worker = world.start(options(&[("first", late()), ("second", early())]), pool);

    world.publish(messages("first", 1)).await;

    until("the second is done", async || world.result("next").await.is_some()).await;
    worker.stop(Stop::Warm).await;
    assert_eq!(world.store.queues().await.unwrap()[0].ready, 0);
}

#[tokio::test(start_paused = true)]
async fn what_comes_back_unbegun_runs_again_in_its_old_order() {
    let world = World::new();
    let mut first = true;
    let pool = ScriptedPool::new(1, move |execution| {
        if std::mem::take(&mut first) {
            return Scene { after: Duration::ZERO, end: celeriac::worker::pool::scripted::End::Returned };
        }
        Scene::outcome(outcome(execution, OutcomeKind::Success))
    });
    let played = pool.played();
    let worker = world.start(options(&[("t", early())]), pool);

    world.publish(messages("t", 3)).await;
    world.drained().await;

    worker.stop(Stop::Warm).await;
    let order: Vec<_> = played.lock().iter().map(|(_, execution)| crate::common::id_of(execution)).collect();
    assert_eq!(order, ["t-0", "t-0", "t-1", "t-2"]);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_requests_drain() {
    let world = World::new();
    let worker = world.start(
        options(&[("t", early())]),
        ScriptedPool::new(8, |execution| {
            let mut outcome = outcome(execution, OutcomeKind::Success);
            outcome.runtime = Some(Duration::from_micros(20));
            Scene::outcome(outcome)
        }),
    );

    world.publish(messages("t", 10_000)).await;
    world.drained().await;

    let stats = worker.handle.stats();
    worker.stop(Stop::Warm).await;
    assert_eq!((stats.succeeded, stats.totals["t"], stats.stale), (10_000, 10_000, 0));
    assert!(stats.batches < 2_500, "commits travel in batches: {}", stats.batches);
    assert!(world.result("t-9999").await.is_some());
}

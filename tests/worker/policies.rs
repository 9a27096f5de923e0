//! What tasks and queues ask for: dead letters, results that are kept, and queues that are paused.

use std::collections::HashMap;
use std::time::Duration;

use celeriac::broker::Broker;
use celeriac::protocol::Publication;
use celeriac::worker::pool::scripted::{Scene, ScriptedPool, usual};
use celeriac::worker::pool::{Mode, OutcomeKind};
use celeriac::worker::{Policy, QueueDefaults, Stop, TaskOptions, WorkerOptions};
use serde_json::json;

use crate::common::{World, early, late, message, messages, options, outcome, pool, until};

fn buries(mut task: TaskOptions) -> TaskOptions {
    task.policy.dead_letter = Some(true);
    task
}

/// Fails after some time; what is only to be concluded ends at once.
fn failing(after: Duration) -> ScriptedPool {
    ScriptedPool::new(1, move |execution| {
        let kind = match execution.mode {
            Mode::Run => OutcomeKind::Failure,
            _ => usual(&execution.mode),
        };
        let mut outcome = outcome(execution, kind);
        "Traceback".clone_into(&mut outcome.traceback);
        Scene::outcome(outcome).after(if execution.mode == Mode::Run { after } else { Duration::ZERO })
    })
}

#[tokio::test(start_paused = true)]
async fn a_task_that_fails_for_good_is_buried_however_it_is_acknowledged() {
    for (task, after) in [(early(), 0), (early(), 500), (late(), 0), (late(), 500)] {
        let world = World::new();
        let worker = world.start(options(&[("t", buries(task))]), failing(Duration::from_millis(after)));

        world.publish(messages("t", 1)).await;

        until("it is dead", async || !world.dead().await.is_empty()).await;
        let letter = world.dead().await.remove(0);
        assert_eq!((&*letter.reason, &*letter.detail, &*letter.traceback), ("failed", "why", "Traceback"));
        assert_eq!(letter.message, messages("t", 1)[0]);
        assert_eq!(world.result("t-0").await.unwrap().state, "FAILURE");
        world.drained().await;
        assert_eq!(worker.handle.stats().buried, 1);
        worker.stop(Stop::Warm).await;
    }
}

#[tokio::test(start_paused = true)]
async fn only_who_asks_for_it_gets_dead_letters() {
    let world = World::new();
    let defaults = QueueDefaults {
        policy: Policy { dead_letter: Some(true), ..Policy::default() },
        ..QueueDefaults::default()
    };
    let never = TaskOptions {
        policy: Policy { dead_letter: Some(false), ..Policy::default() },
        ..TaskOptions::default()
    };
    let options = WorkerOptions {
        queues: vec!["celery".to_owned(), "kept".to_owned()],
        queue_defaults: HashMap::from([("kept".to_owned(), defaults)]),
        ..options(&[("t", early()), ("never", never)])
    };
    let worker = world.start(options, failing(Duration::ZERO));
    let to = |queue: &str, task: &str, id: &str| Publication {
        routing_key: queue.into(),
        message: message(task, id, json!({})),
        ..Publication::default()
    };
    let batch = vec![to("celery", "t", "1"), to("kept", "never", "2"), to("kept", "t", "3")];
    world.store.publish(batch).await.unwrap();

    for id in ["1", "2", "3"] {
        until("it has failed", async || world.result(id).await.is_some()).await;
    }

    let dead = world.dead().await;
    assert_eq!(dead.iter().map(|letter| &*letter.queue).collect::<Vec<_>>(), ["kept"]);
    assert_eq!(dead[0].message, message("t", "3", json!({})));
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_lost_with_its_worker_is_buried_by_the_next_one() {
    let world = World::new();
    let tasks = [("t", buries(early()))];
    let first = world.start(options(&tasks), pool(1, Duration::from_secs(3600)));
    world.publish(messages("t", 1)).await;
    until("its acknowledgement is a mark", async || {
        world.queue().await.claimed == 1 && first.handle.stats().committed == 1
    })
    .await;
    first.vanish().await;

    let next = world.start(options(&tasks), failing(Duration::ZERO));

    until("it is dead", async || !world.dead().await.is_empty()).await;
    let letter = world.dead().await.remove(0);
    assert_eq!((&*letter.reason, letter.crashes), ("failed", 1));
    assert_eq!(world.result("t-0").await.unwrap().state, "FAILURE");
    world.drained().await;
    next.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn only_the_newest_results_of_a_task_are_kept() {
    let world = World::new();
    let policy = Policy { keep_successes: Some(2), ..Policy::default() };
    let task = TaskOptions { policy, ..TaskOptions::default() };
    let worker = world.start(options(&[("t", task), ("other", early())]), pool(1, Duration::ZERO));

    let all = [messages("t", 4), messages("other", 3)].concat();
    world.publish(all).await;
    until("all have ended", async || worker.handle.stats().finished == 7).await;
    world.drained().await;

    let mut there = Vec::new();
    for id in ["t-0", "t-1", "t-2", "t-3", "other-0", "other-1", "other-2"] {
        there.push(world.result(id).await.is_some());
    }
    assert_eq!(there, [false, false, true, true, true, true, true]);
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_takes_nothing_from_a_queue_that_was_paused_before_or_without_its_hearing() {
    let world = World::new();
    world.store.set_paused("celery", true).await.unwrap();
    let queues = vec!["celery".to_owned(), "other".to_owned()];
    let options = WorkerOptions { queues, ..options(&[("t", early())]) };
    let worker = world.start(options, pool(1, Duration::ZERO));
    world.publish(messages("t", 2)).await;
    let elsewhere = Publication {
        routing_key: "other".into(),
        message: message("t", "x", json!({})),
        ..Publication::default()
    };
    world.store.publish(vec![elsewhere]).await.unwrap();
    until("the other queue goes on", async || world.result("x").await.is_some()).await;
    assert_eq!((world.queue().await.ready, worker.handle.stats().finished), (2, 1));

    // Nobody tells it: it reads what is kept.
    world.store.set_paused("celery", false).await.unwrap();

    until("it goes on", async || world.result("t-1").await.is_some()).await;
    worker.stop(Stop::Warm).await;
}

//! Batches: how large they get, how long they wait, and what becomes of each request when one ends badly.

use std::time::Duration;

use celeriac::worker::pool::scripted::{Played, Scene, ScriptedPool};
use celeriac::worker::pool::{Execution, Mode, OutcomeKind};
use celeriac::worker::{BatchOptions, Stop, TaskOptions, WorkerOptions};
use serde_json::json;

use crate::common::{World, early, id_of, late, message, messages, options, pause, until};

fn batched(task: TaskOptions, max_size: usize, max_wait_ms: u64) -> TaskOptions {
    let batch = Some(BatchOptions { max_size, max_wait: Duration::from_millis(max_wait_ms) });
    TaskOptions { batch, ..task }
}

fn prefetching(task: TaskOptions, multiplier: Option<u32>) -> WorkerOptions {
    WorkerOptions { prefetch_multiplier: multiplier, ..options(&[("many", task)]) }
}

fn members(execution: &Execution) -> Vec<String> {
    match &execution.mode {
        Mode::Batch(members) => members.iter().map(id_of).collect(),
        _ => Vec::new(),
    }
}

/// The ids of each batch that was begun.
fn batches(played: &Played) -> Vec<Vec<String>> {
    played.lock().iter().map(|(_, execution)| members(execution)).filter(|ids| !ids.is_empty()).collect()
}

fn ids(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|number| format!("many-{number}")).collect()
}

/// A pool whose batches take this long.
fn taking(slots: usize, millis: u64) -> ScriptedPool {
    ScriptedPool::new(slots, move |execution| {
        let kind = celeriac::worker::pool::scripted::usual(&execution.mode);
        Scene::ends(kind).after(Duration::from_millis(millis))
    })
}

#[tokio::test(start_paused = true)]
async fn a_thousand_calls_make_ten_batches_of_a_hundred_in_order_whatever_is_held_ahead() {
    for multiplier in [None, Some(1), Some(4)] {
        let world = World::new();
        world.publish(messages("many", 1_000)).await;
        let pool = taking(1, 20);
        let played = pool.played();
        let worker = world.start(prefetching(batched(late(), 100, 2_000), multiplier), pool);

        world.drained().await;

        worker.stop(Stop::Warm).await;
        let expected: Vec<_> = (0..10).map(|batch| ids(batch * 100, batch * 100 + 100)).collect();
        assert_eq!(batches(&played), expected, "{multiplier:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_held_is_bounded_while_a_batch_runs() {
    let world = World::new();
    world.publish(messages("many", 2_000)).await;
    let pool = taking(1, 60_000);
    let played = pool.played();
    let worker = world.start(prefetching(batched(late(), 100, 100), Some(1)), pool);

    until("one runs", async || batches(&played).len() == 1).await;
    pause(5_000).await;

    let claimed = world.queue().await.claimed;
    assert!((100..=300).contains(&claimed), "{claimed}");
    worker.stop(Stop::Cold).await;
}

#[tokio::test(start_paused = true)]
async fn a_lone_call_waits_for_others_no_longer_than_it_is_told_to() {
    let world = World::new();
    let pool = taking(2, 1);
    let played = pool.played();
    let worker = world.start(prefetching(batched(early(), 100, 2_000), None), pool);
    let from = tokio::time::Instant::now();

    world.publish(messages("many", 1)).await;
    world.drained().await;

    worker.stop(Stop::Warm).await;
    let began = played.lock()[0].0.duration_since(from);
    assert!((2_000..2_200).contains(&began.as_millis()), "{began:?}");
    assert_eq!(batches(&played), [ids(0, 1)]);
}

#[tokio::test(start_paused = true)]
async fn other_tasks_do_not_wait_for_a_batch_that_gathers() {
    let world = World::new();
    let pool = taking(1, 1);
    let played = pool.played();
    let mut options = options(&[("many", batched(early(), 10, 60_000)), ("one", early())]);
    options.prefetch_multiplier = Some(1);
    let worker = world.start(options, pool);

    world.publish(messages("many", 5)).await;
    world.publish(messages("one", 20)).await;
    until("the others have run", async || played.lock().len() == 20).await;

    assert!(batches(&played).is_empty());
    world.publish(messages("many", 5)).await;
    until("it is full", async || batches(&played).len() == 1).await;
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_gives_back_what_was_gathered() {
    let world = World::new();
    let pool = taking(1, 1);
    let played = pool.played();
    let worker = world.start(prefetching(batched(early(), 10, 60_000), None), pool);
    world.publish(messages("many", 7)).await;
    until("they are gathered", async || world.queue().await.claimed == 7).await;

    worker.stop(Stop::Warm).await;

    let queue = world.queue().await;
    assert_eq!((queue.ready, queue.claimed, batches(&played).len()), (7, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_lost_its_process_is_handled_request_by_request() {
    let rejects = TaskOptions { reject_on_worker_lost: true, ..late() };
    for (task, times) in [(rejects, 2), (early(), 1)] {
        let world = World::new();
        world.publish(messages("many", 3)).await;
        let mut first = true;
        let pool = ScriptedPool::new(1, move |execution| match &execution.mode {
            Mode::Batch(_) if std::mem::take(&mut first) => {
                Scene::dies("signal 9 (SIGKILL)").after(Duration::from_millis(20))
            }
            mode => Scene::ends(celeriac::worker::pool::scripted::usual(mode)),
        });
        let played = pool.played();
        let worker = world.start(prefetching(batched(task, 3, 100), None), pool);

        until("all have ended", async || {
            let queue = world.queue().await;
            let ended = played.lock().len() >= if times == 2 { 2 } else { 4 };
            ended && queue.ready + queue.claimed == 0
        })
        .await;

        worker.stop(Stop::Warm).await;
        assert_eq!(batches(&played).len(), times);
        let lost = |(_, execution): &(_, Execution)| matches!(execution.mode, Mode::Lost(_));
        assert_eq!(played.lock().iter().filter(|one| lost(one)).count(), if times == 2 { 0 } else { 3 });
    }
}

#[tokio::test(start_paused = true)]
async fn the_hard_limit_of_one_is_that_of_the_whole_batch() {
    let world = World::new();
    let limited = message("many", "limited", json!({"timelimit": [2.0, null]}));
    world.publish(vec![limited, message("many", "other", json!({}))]).await;
    let pool = ScriptedPool::new(1, |execution| match &execution.mode {
        Mode::Batch(_) => Scene::hangs(),
        mode => Scene::ends(celeriac::worker::pool::scripted::usual(mode)),
    });
    let played = pool.played();
    let worker = world.start(prefetching(batched(late(), 2, 100), None), pool);

    world.drained().await;

    worker.stop(Stop::Warm).await;
    let timed_out = |(_, execution): &(_, Execution)| execution.mode == Mode::TimedOut(2.0);
    assert_eq!(played.lock().iter().filter(|one| timed_out(one)).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_to_be_a_dead_letter_becomes_one_however_it_was_acknowledged() {
    for (task, millis) in [(early(), 0), (early(), 50), (late(), 50)] {
        let world = World::new();
        world.publish(messages("many", 2)).await;
        let pool = ScriptedPool::new(1, move |_| {
            Scene::ends(OutcomeKind::DeadLettered).after(Duration::from_millis(millis))
        });
        let worker = world.start(prefetching(batched(task, 2, 100), None), pool);

        until("both are", async || world.dead().await.len() == 2).await;

        worker.stop(Stop::Warm).await;
        assert_eq!(world.queue().await.ready, 0);
    }
}

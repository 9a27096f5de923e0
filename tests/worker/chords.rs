//! Chords: who completes one ends it, whatever dies in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use celeriac::backend::ResultBackend;
use celeriac::broker::Broker;
use celeriac::protocol::{ChordPart, Publication};
use celeriac::worker::pool::scripted::{Played, Scene, ScriptedPool};
use celeriac::worker::pool::{Execution, Join, Mode, Outcome, OutcomeKind};
use celeriac::worker::{Stop, WorkerOptions};
use serde_json::json;

use crate::brokers::Moody;
use crate::common::{World, early, id_of, late, message, messages, modes, options, outcome, until};

/// The part that the task `t-N` is.
fn part(group_id: &str, execution: &Execution, state: &str) -> ChordPart {
    let task_id = id_of(execution);
    ChordPart {
        group_id: group_id.to_owned(),
        group_index: task_id.strip_prefix("t-").and_then(|number| number.parse().ok()),
        state: state.to_owned(),
        element: format!("{state} {task_id}").into(),
        expires_ms: Some(86_400_000),
        group_expires_ms: None,
        claim_ms: 6_000,
        task_id,
    }
}

fn ran(execution: &Execution, state: &str) -> Outcome {
    let kind = if state == "SUCCESS" { OutcomeKind::Success } else { OutcomeKind::Failure };
    Outcome { parts: vec![part("g", execution, state)], ..outcome(execution, kind) }
}

/// A join whose body goes to a queue; what it was given is in the message.
fn body_to(queue: &str, join: &Join) -> Outcome {
    let texts: Vec<_> = join.elements.iter().map(|element| String::from_utf8_lossy(element)).collect();
    let given = join.broken.clone().unwrap_or_else(|| texts.join(", "));
    let publication = Publication {
        routing_key: queue.to_owned(),
        message: message("body", &join.group_id, json!({"given": given})),
        ..Publication::default()
    };
    let kind = if join.broken.is_some() { OutcomeKind::Failure } else { OutcomeKind::Success };
    Outcome { kind, publications: vec![publication], ..Outcome::default() }
}

fn joins(played: &Played) -> Vec<Arc<Join>> {
    let join = |mode: &Mode| match mode {
        Mode::Join(join) => Some(join.clone()),
        _ => None,
    };
    played.lock().iter().filter_map(|(_, execution)| join(&execution.mode)).collect()
}

/// A pool whose tasks succeed as parts, and whose joins end as told.
fn pool(slots: usize, mut on_join: impl FnMut(&Join) -> Scene + Send + 'static) -> ScriptedPool {
    ScriptedPool::new(slots, move |execution| match &execution.mode {
        Mode::Join(join) => on_join(join),
        _ => Scene::outcome(ran(execution, "SUCCESS")),
    })
}

fn calls_body(join: &Join) -> Scene {
    Scene::outcome(body_to("bodies", join))
}

/// What the bodies that were called were given.
async fn bodies(world: &World) -> Vec<String> {
    let consumer = {
        let options = celeriac::broker::ConsumerOptions {
            queues: vec!["bodies".into()],
            node: "reader".into(),
            lease: Duration::from_secs(30),
            max_crashes: 3,
            results: None,
        };
        world.store.consume(options).await.unwrap()
    };
    let mut found = Vec::new();
    let credit = celeriac::broker::Credit { count: 100, bytes: usize::MAX };
    while let Ok(claimed) = tokio::time::timeout(Duration::from_millis(5), consumer.claim(credit)).await {
        for delivery in claimed.unwrap() {
            let headers: serde_json::Value = serde_json::from_slice(&delivery.message.headers).unwrap();
            found.push(headers["given"].as_str().unwrap().to_owned());
        }
    }
    found
}

async fn start_chord(world: &World, size: u64) {
    world.store.start_chord("g", size, Some(86_400_000)).await.unwrap();
}

fn all(count: usize) -> String {
    (0..count).map(|number| format!("SUCCESS t-{number}")).collect::<Vec<_>>().join(", ")
}

fn tasks() -> WorkerOptions {
    options(&[("t", late()), ("e", early())])
}

#[tokio::test(start_paused = true)]
async fn the_body_is_called_once_with_all_parts_in_order() {
    let world = World::new();
    let pool = pool(4, calls_body);
    let played = pool.played();
    let worker = world.start(tasks(), pool);
    start_chord(&world, 50).await;

    world.publish(messages("t", 50)).await;
    world.drained().await;

    assert_eq!(bodies(&world).await, [all(50)]);
    assert_eq!(joins(&played).len(), 1);
    for number in 0..50 {
        assert_eq!(world.result(&format!("t-{number}")).await.unwrap().state, "SUCCESS");
    }
    assert_eq!(worker.stop(Stop::Warm).await.code, 0);
}

#[tokio::test(start_paused = true)]
async fn the_same_where_messages_and_results_are_two_stores() {
    let world = World::new();
    let broker = Arc::new(Moody::new(&world.store));
    let worker = world.start_on(tasks(), broker, Arc::new(world.store.clone()), pool(4, calls_body));
    start_chord(&world, 50).await;

    world.publish(messages("t", 50)).await;
    world.drained().await;

    assert_eq!(bodies(&world).await, [all(50)]);
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn the_last_part_is_acknowledged_when_the_body_is_there_and_not_before() {
    let world = World::new();
    let pool = pool(1, |join| calls_body(join).after(Duration::from_secs(20)));
    let played = pool.played();
    let worker = world.start(tasks(), pool);
    start_chord(&world, 3).await;
    world.publish(messages("t", 3)).await;

    until("it is being joined", async || !joins(&played).is_empty()).await;
    crate::common::pause(10_000).await;
    assert_eq!(world.queue().await.claimed, 1, "its message is what is left of the chord");
    assert_eq!(world.result("t-2").await.unwrap().state, "SUCCESS");

    world.drained().await;
    assert_eq!(bodies(&world).await.len(), 1);
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_part_ends_the_chord_at_once() {
    let world = World::new();
    let pool = ScriptedPool::new(1, |execution| match &execution.mode {
        Mode::Join(join) => calls_body(join),
        _ if id_of(execution) == "t-1" => Scene::outcome(ran(execution, "FAILURE")),
        _ => Scene::outcome(ran(execution, "SUCCESS")),
    });
    let played = pool.played();
    let worker = world.start(tasks(), pool);
    start_chord(&world, 4).await;

    world.publish(messages("t", 2)).await;
    world.drained().await;
    assert_eq!(bodies(&world).await, ["FAILURE t-1"]);

    world.publish((2..4).map(|number| message("t", &format!("t-{number}"), json!({}))).collect()).await;
    world.drained().await;
    assert_eq!(joins(&played).len(), 1);
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_dies_while_it_joins_leaves_the_chord_to_the_next_one() {
    let world = World::new();
    let hanging = pool(1, |_| Scene::hangs());
    let played = hanging.played();
    let worker = world.start(tasks(), hanging);
    start_chord(&world, 3).await;
    world.publish(messages("t", 3)).await;
    until("it is being joined", async || !joins(&played).is_empty()).await;
    worker.vanish().await;

    let worker = world.start(tasks(), pool(1, calls_body));
    world.drained().await;

    assert_eq!(bodies(&world).await, [all(3)]);
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_over_a_chord_is_followed_by_another() {
    let world = World::new();
    let deaths = AtomicU32::new(0);
    let worker = world.start(
        tasks(),
        pool(2, move |join| {
            if deaths.fetch_add(1, Ordering::SeqCst) < 2 {
                return Scene::dies("signal 9 (SIGKILL)");
            }
            calls_body(join)
        }),
    );
    start_chord(&world, 3).await;
    world.publish(messages("t", 3)).await;
    world.drained().await;

    assert_eq!(bodies(&world).await, [all(3)]);
    assert!(world.dead().await.is_empty());
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_cannot_be_called_is_ended_with_an_error() {
    let world = World::new();
    let worker = world.start(
        tasks(),
        pool(
            2,
            |join| if join.broken.is_none() { Scene::dies("signal 11 (SIGSEGV)") } else { calls_body(join) },
        ),
    );
    start_chord(&world, 3).await;
    world.publish(messages("t", 3)).await;
    world.drained().await;

    assert_eq!(bodies(&world).await, ["signal 11 (SIGSEGV)"]);
    let counted =
        world.store.count_parts(&[ChordPart { group_id: "g".into(), ..ChordPart::default() }]).await;
    assert_eq!(counted.unwrap(), [celeriac::backend::Counted::Ended]);
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn a_chord_that_kills_every_process_is_left_with_a_dead_letter() {
    let world = World::new();
    let pool = pool(1, |_| Scene::dies("signal 9 (SIGKILL)"));
    let played = pool.played();
    let worker = world.start(tasks(), pool);
    start_chord(&world, 1).await;
    world.publish(messages("t", 1)).await;
    until("it is a dead letter", async || world.dead().await.len() == 1).await;

    let joins = joins(&played);
    assert_eq!(joins.len(), 6);
    assert_eq!(joins.iter().filter(|join| join.broken.is_some()).count(), 3);
    assert_eq!(world.dead().await[0].reason, "crashed");
    assert_eq!(worker.handle.stats().outstanding, 0);
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_the_broker_refuses_is_ended_with_an_error() {
    let world = World::new();
    let broker = Arc::new(Moody::new(&world.store));
    let pool = pool(1, |join| {
        Scene::outcome(body_to(if join.broken.is_some() { "bodies" } else { "refused" }, join))
    });
    let worker = world.start_on(tasks(), broker, Arc::new(world.store.clone()), pool);
    start_chord(&world, 2).await;
    world.publish(messages("t", 2)).await;
    world.drained().await;

    let bodies = bodies(&world).await;
    assert!(bodies.len() == 1 && bodies[0].contains("there is no such queue"), "{bodies:?}");
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn a_join_under_way_ends_before_a_warm_stop_and_one_that_waits_too() {
    let world = World::new();
    // One slot, and two chords of one part: the second one waits for the first.
    let pool = ScriptedPool::new(1, |execution| match &execution.mode {
        Mode::Join(join) => calls_body(join).after(Duration::from_secs(5)),
        _ => Scene::outcome(Outcome {
            parts: vec![part(&id_of(execution), execution, "SUCCESS")],
            ..outcome(execution, OutcomeKind::Success)
        }),
    });
    let played = pool.played();
    let worker = world.start(tasks(), pool);
    for group in ["e-0", "e-1"] {
        world.store.start_chord(group, 1, None).await.unwrap();
    }
    world.publish(messages("e", 2)).await;
    until("both have run", async || {
        modes(&played, "e-0").contains(&Mode::Run) && modes(&played, "e-1").contains(&Mode::Run)
    })
    .await;

    let exit = worker.stop(Stop::Warm).await;

    assert_eq!(exit.code, 0);
    assert_eq!(bodies(&world).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn one_request_may_end_several_chords_one_after_another() {
    let world = World::new();
    let pool = ScriptedPool::new(2, |execution| match &execution.mode {
        // The body of the first chord is itself the last part of a third.
        Mode::Join(join) if join.group_id == "a" => Scene::outcome(Outcome {
            parts: vec![part("c", execution, "FAILURE")],
            ..body_to("bodies", join)
        }),
        Mode::Join(join) => calls_body(join),
        _ => {
            let parts = ["a", "b"].map(|group| part(group, execution, "SUCCESS")).to_vec();
            Scene::outcome(Outcome { parts, ..outcome(execution, OutcomeKind::Success) })
        }
    });
    let played = pool.played();
    let worker = world.start(tasks(), pool);
    for group in ["a", "b", "c"] {
        world.store.start_chord(group, 1, None).await.unwrap();
    }
    world.publish(messages("t", 1)).await;
    world.drained().await;

    let joined: Vec<_> = joins(&played).iter().map(|join| join.group_id.clone()).collect();
    assert_eq!(joined, ["a", "b", "c"]);
    assert_eq!(bodies(&world).await, ["SUCCESS t-0", "SUCCESS t-0", "FAILURE t-0"]);
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn limits_of_the_task_are_not_those_of_its_join() {
    let world = World::new();
    let pool = pool(1, |join| calls_body(join).after(Duration::from_secs(30)));
    let played = pool.played();
    let mut tasks = tasks();
    tasks.time_limit = Some(Duration::from_secs(1));
    let worker = world.start(tasks, pool);
    start_chord(&world, 1).await;
    world.publish(messages("t", 1)).await;
    world.drained().await;

    assert_eq!(bodies(&world).await.len(), 1);
    let limits: Vec<_> = played.lock().iter().map(|(_, execution)| execution.hard_limit).collect();
    assert_eq!(limits[0], Some(Duration::from_secs(1)));
    assert!(limits[1].is_some_and(|limit| limit > Duration::from_secs(60)));
    worker.stop(Stop::Warm).await;
}

//! Chords whose parts are lost: found when nothing of them is left anywhere, and ended.

use std::time::Duration;

use celeriac::backend::{Counted, ResultBackend};
use celeriac::broker::Broker;
use celeriac::protocol::{ChordPart, Envelope, Publication};
use celeriac::worker::pool::Mode;
use celeriac::worker::pool::scripted::{Played, Scene, ScriptedPool, usual};
use celeriac::worker::{Stop, WorkerOptions};
use serde_json::json;

use crate::common::{START, World, early, id_of, message, options, outcome, pause, pool, until};

fn looking() -> WorkerOptions {
    WorkerOptions { chord_lost_after: Some(Duration::from_secs(10)), ..options(&[("t", early())]) }
}

fn part(number: i64) -> ChordPart {
    ChordPart {
        group_id: "g".into(),
        task_id: format!("part-{number}"),
        group_index: Some(number),
        state: "SUCCESS".into(),
        element: "[]".into(),
        claim_ms: 6000,
        ..ChordPart::default()
    }
}

/// A chord of three parts that is looked after, with one part counted.
async fn started(world: &World) {
    let kept = Envelope::encode(&message("t", "part-0", json!({"group": "g"})), "", "celery", "");
    world.store.start_chord("g", 3, None).await.unwrap();
    world.store.guard_chord("g", kept.into()).await.unwrap();
    assert_eq!(world.store.count_parts(&[part(0)]).await.unwrap(), [Counted::Waiting]);
}

/// What children were told of chords that cannot be completed.
fn broken(played: &Played) -> Vec<String> {
    let why = |mode: &Mode| match mode {
        Mode::Join(join) => join.broken.clone(),
        _ => None,
    };
    played.lock().iter().filter_map(|(_, execution)| why(&execution.mode)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_chord_whose_parts_are_nowhere_any_more_is_ended_with_words_for_it() {
    let world = World::new();
    started(&world).await;
    let pool = pool(1, Duration::ZERO);
    let played = pool.played();
    let worker = world.start(looking(), pool);

    until("it is ended", async || !broken(&played).is_empty()).await;

    assert!(world.clock.now().0 - START >= 10_000, "not before its time");
    assert!(broken(&played)[0].starts_with("2 of its 3 parts (index 1, 2) have not ended"));
    until("it is over", async || world.store.count_parts(&[part(1)]).await.unwrap() == [Counted::Ended])
        .await;
    pause(60_000).await;
    assert_eq!(broken(&played).len(), 1);
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn a_chord_of_which_a_message_is_left_is_waited_for() {
    let world = World::new();
    started(&world).await;
    let later = Publication {
        routing_key: "celery".into(),
        due_ms: Some(START + 3_600_000),
        message: message("t", "part-1", json!({"group": "g"})),
        ..Publication::default()
    };
    world.store.publish(vec![later]).await.unwrap();
    let pool = pool(1, Duration::ZERO);
    let played = pool.played();
    let worker = world.start(looking(), pool);

    pause(120_000).await;
    assert_eq!(broken(&played), Vec::<String>::new());
    world.store.purge("celery").await.unwrap();

    until("it is ended", async || !broken(&played).is_empty()).await;
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn a_chord_whose_parts_go_on_ending_is_waited_for() {
    let world = World::new();
    world.store.start_chord("g", 1_000, None).await.unwrap();
    world.store.guard_chord("g", "{}".into()).await.unwrap();
    let pool = pool(1, Duration::ZERO);
    let played = pool.played();
    let worker = world.start(looking(), pool);

    for number in 0..20 {
        world.store.count_parts(&[part(number)]).await.unwrap();
        pause(6_000).await;
    }

    assert_eq!(broken(&played), Vec::<String>::new());
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_part_ends_its_chord_by_the_message_that_is_kept_of_it() {
    let world = World::new();
    started(&world).await;
    let pool = ScriptedPool::new(1, |execution| {
        let mut outcome = outcome(execution, usual(&execution.mode));
        if matches!(execution.mode, Mode::Refused(_)) {
            outcome.parts = vec![ChordPart { state: "FAILURE".into(), ..part(1) }];
        }
        Scene::outcome(outcome)
    });
    let played = pool.played();
    let worker = world.start(looking(), pool);
    let mut refused = message("t", "part-1", json!({"group": "g"}));
    refused.properties.content_type = "text/plain".into();

    world.publish(vec![refused]).await;

    let joined = || {
        let played = played.lock();
        let join = played.iter().find(|(_, execution)| matches!(execution.mode, Mode::Join(_)));
        join.map(|(_, execution)| id_of(execution))
    };
    until("its chord is ended", async || joined().is_some()).await;
    assert_eq!(joined().as_deref(), Some("part-0"), "its own message says nothing of the body");
    worker.stop(Stop::Warm).await;
}

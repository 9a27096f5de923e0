//! Bad input: refused before it reaches a child, kept, and told of without its content.

use std::time::Duration;

use celeriac::protocol::Message;
use celeriac::worker::Stop;
use celeriac::worker::pool::scripted::{Scene, ScriptedPool};
use celeriac::worker::pool::{Mode, OutcomeKind};
use serde_json::json;

use crate::common::{World, early, message, messages, modes, options, outcome, pool, until};

#[tokio::test(start_paused = true)]
async fn bad_messages_become_dead_letters_and_good_ones_run() {
    let world = World::new();
    let pool = pool(1, Duration::ZERO);
    let played = pool.played();
    let mut options = options(&[("t", early())]);
    options.max_message_bytes = 10_000;
    let worker = world.start(options, pool);
    let good = message("t", "good", json!({}));
    let with = |change: fn(&mut Message)| {
        let mut message = message("t", "secret", json!({}));
        change(&mut message);
        message
    };

    world
        .publish(vec![
            with(|message| message.properties.content_type = "application/x-python-serialize".into()),
            with(|message| message.properties.content_type = String::new()),
            with(|message| message.body = vec![b'x'; 10_001].into()),
            with(|message| message.headers = "{\"task\": \"t\"".into()),
            with(|message| message.headers = "{}".into()),
            with(|message| message.headers = "{\"task\": \"t\", \"id\": \"secret\", \"eta\": 5}".into()),
            good,
        ])
        .await;
    until("the good one is done", async || world.result("good").await.is_some()).await;
    world.drained().await;

    let mut reasons: Vec<_> = world.dead().await.into_iter().map(|letter| letter.reason).collect();
    reasons.sort();
    assert_eq!(reasons, ["disallowed", "disallowed", "malformed", "malformed", "malformed", "too-large"]);
    assert!(worker.log().iter().filter(|line| line.contains("refused")).count() == 6);
    assert!(!worker.log().iter().any(|line| line.contains("secret")));
    let concluded = played.lock().iter().filter(|(_, execution)| execution.mode != Mode::Run).count();
    assert_eq!((concluded, played.lock().len()), (4, 5), "those whose id can be read are recorded");
    assert!(played.lock().iter().all(|(_, execution)| execution.message.body.len() < 20));
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_task_is_concluded_and_kept_as_a_dead_letter() {
    let world = World::new();
    let pool = pool(1, Duration::ZERO);
    let played = pool.played();
    let worker = world.start(options(&[("t", early())]), pool);

    world.publish(messages("other", 1)).await;
    world.drained().await;

    worker.stop(Stop::Warm).await;
    assert_eq!(modes(&played, "other-0"), [Mode::Unknown]);
    assert_eq!(world.result("other-0").await.unwrap().state, "FAILURE");
    assert_eq!(world.dead().await[0].reason, "unknown");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_a_child_refuses_late_is_a_dead_letter_although_it_was_acknowledged() {
    for (kind, reason) in [(OutcomeKind::Malformed, "malformed"), (OutcomeKind::Disallowed, "disallowed")] {
        let world = World::new();
        // Longer than an early acknowledgement waits.
        let pool = ScriptedPool::new(1, move |execution| {
            Scene::outcome(outcome(execution, kind)).after(Duration::from_millis(50))
        });
        let worker = world.start(options(&[("t", early())]), pool);

        world.publish(messages("t", 1)).await;
        until("it is kept", async || !world.dead().await.is_empty()).await;

        let letter = &world.dead().await[0];
        assert_eq!((&*letter.reason, &*letter.queue), (reason, "celery"));
        assert_eq!(letter.message.body, "[[], {}, {}]");
        world.drained().await;
        worker.stop(Stop::Warm).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_protocol_1_message_runs() {
    let world = World::new();
    let pool = pool(1, Duration::ZERO);
    let played = pool.played();
    let worker = world.start(options(&[("t", early())]), pool);
    let mut old = message("t", "old", json!({}));
    old.headers = "{}".into();
    old.body = json!({"task": "t", "id": "old", "args": [1], "kwargs": {}}).to_string().into();

    world.publish(vec![old]).await;
    world.drained().await;

    worker.stop(Stop::Warm).await;
    assert_eq!(modes(&played, "old"), [Mode::Run]);
}

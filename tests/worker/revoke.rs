//! Revoking tasks that wait, that run, and that have not come yet.

use std::time::Duration;

use celeriac::backend::ResultBackend;
use celeriac::broker::Broker;
use celeriac::protocol::ResultRecord;
use celeriac::worker::Stop;
use celeriac::worker::pool::Mode;
use celeriac::worker::pool::scripted::{Scene, ScriptedPool, usual};
use serde_json::{Value, json};

use crate::common::{
    Running, START, World, early, iso, late, message, messages, modes, options, outcome, pause, pool, until,
};

async fn ask(world: &World, worker: &Running, request: Value) {
    let mut message = message("x", "x", json!({}));
    message.body = request.to_string().into();
    world.store.broadcast("celery.pidbox", "", message, Duration::from_secs(60)).await.unwrap();
    let _ = worker;
    pause(200).await;
}

#[tokio::test(start_paused = true)]
async fn a_revoked_task_does_not_run() {
    let world = World::new();
    let pool = pool(1, Duration::from_secs(2));
    let played = pool.played();
    let mut options = options(&[("t", late())]);
    options.prefetch_multiplier = Some(4);
    let worker = world.start(options, pool);
    world.publish(messages("t", 2)).await;
    until("the first runs", async || !played.lock().is_empty()).await;

    let revoke = json!({"method": "revoke", "arguments": {"task_id": ["t-1", "later"]}, "destination": null});
    ask(&world, &worker, revoke).await;
    world.publish(vec![message("t", "later", json!({}))]).await;
    world.drained().await;

    worker.stop(Stop::Warm).await;
    assert_eq!(modes(&played, "t-0"), [Mode::Run]);
    assert_eq!(modes(&played, "t-1"), [Mode::Revoked("revoked".into())]);
    assert_eq!(modes(&played, "later"), [Mode::Revoked("revoked".into())]);
}

#[tokio::test(start_paused = true)]
async fn a_running_task_is_terminated_when_asked() {
    for task in [early(), late()] {
        let world = World::new();
        let pool = ScriptedPool::new(1, |execution| match &execution.mode {
            Mode::Run => Scene::hangs(),
            mode => Scene::outcome(outcome(execution, usual(mode))),
        });
        let played = pool.played();
        let worker = world.start(options(&[("t", task)]), pool);
        world.publish(messages("t", 1)).await;
        until("it runs", async || !played.lock().is_empty()).await;

        let arguments = json!({"task_id": "t-0", "terminate": true, "signal": "SIGKILL"});
        ask(&world, &worker, json!({"method": "revoke", "arguments": arguments})).await;
        world.drained().await;

        worker.stop(Stop::Warm).await;
        assert_eq!(modes(&played, "t-0"), [Mode::Run, Mode::Revoked("terminated".into())]);
        assert_eq!(world.result("t-0").await.unwrap().state, "REVOKED");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_for_others_and_nonsense_change_nothing() {
    let world = World::new();
    let pool = pool(1, Duration::ZERO);
    let played = pool.played();
    let worker = world.start(options(&[("t", early())]), pool);
    pause(100).await;

    let arguments = json!({"task_id": "t-0"});
    ask(
        &world,
        &worker,
        json!({"method": "revoke", "arguments": arguments, "destination": ["celery@other"]}),
    )
    .await;
    ask(&world, &worker, json!({"method": "no such", "arguments": {}})).await;
    ask(&world, &worker, json!(["nonsense"])).await;
    world.publish(messages("t", 1)).await;
    world.drained().await;

    worker.stop(Stop::Warm).await;
    assert_eq!(modes(&played, "t-0"), [Mode::Run]);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_revoked_task_learns_it_before_its_turn_comes() {
    let world = World::new();
    let pool = pool(1, Duration::from_secs(5));
    let played = pool.played();
    let worker = world.start(options(&[("t", late())]), pool);
    let eta = json!({"eta": iso(START + 3_600_000)});
    world.publish(vec![message("t", "runs", json!({})), message("t", "parked", eta)]).await;
    until("the first runs", async || !played.lock().is_empty()).await;
    let done = ResultRecord { task_id: "done".into(), state: "FAILURE".into(), ..ResultRecord::default() };
    world.store.store(vec![done]).await.unwrap();

    let ids = json!(["runs", "parked", "unknown", "done"]);
    ask(&world, &worker, json!({"method": "revoke", "arguments": {"task_id": ids}})).await;

    for (id, state) in
        [("runs", None), ("parked", Some("REVOKED")), ("unknown", Some("REVOKED")), ("done", Some("FAILURE"))]
    {
        let stored = world.result(id).await.map(|record| record.state);
        assert_eq!(stored.as_deref(), state, "{id}");
    }
    worker.stop(Stop::Warm).await;
    assert_eq!(modes(&played, "runs"), [Mode::Run]);
}

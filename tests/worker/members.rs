//! Members of a workflow under early acknowledgement: never run twice, never lost without a word.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use celeriac::worker::Stop;
use celeriac::worker::pool::Mode;
use celeriac::worker::pool::scripted::{Scene, ScriptedPool, usual};
use serde_json::json;

use crate::common::{World, early, late, message, messages, modes, options, outcome, pause, pool, until};
use crate::faults::Flaky;

/// A pool whose tasks never end.
fn hanging() -> ScriptedPool {
    ScriptedPool::new(4, |execution| match execution.mode {
        Mode::Run => Scene::hangs(),
        ref mode => Scene::outcome(outcome(execution, usual(mode))),
    })
}

fn gone() -> Mode {
    Mode::Lost("the whole worker that ran it is gone".into())
}

#[tokio::test(start_paused = true)]
async fn a_member_is_acknowledged_at_its_end_and_others_when_they_begin() {
    let world = World::new();
    let worker = world.start(options(&[("t", early())]), pool(4, Duration::from_secs(3)));

    world.publish(vec![message("t", "member", json!({"group": "g"}))]).await;
    world.publish(messages("t", 1)).await;

    until("one is acknowledged and one marked", async || worker.handle.stats().committed == 2).await;
    assert_eq!(world.queue().await.claimed, 1);
    until("both are done", async || world.result("member").await.is_some()).await;
    world.drained().await;
    assert_eq!(worker.stop(Stop::Warm).await.code, 0);
}

#[tokio::test(start_paused = true)]
async fn a_short_member_costs_one_commit() {
    let world = World::new();
    let worker = world.start(options(&[("t", early())]), pool(1, Duration::ZERO));

    world.publish(vec![message("t", "member", json!({"parent_id": "p"}))]).await;

    until("it is done", async || world.result("member").await.is_some()).await;
    assert_eq!(worker.handle.stats().committed, 1);
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_whole_worker_dies_is_concluded_by_the_next_and_not_run_again() {
    let world = World::new();
    let tasks = [("t", early())];
    let first = world.start(options(&tasks), hanging());
    world.publish(vec![message("t", "member", json!({"root_id": "r"}))]).await;
    world.publish(messages("t", 1)).await;
    until("one is acknowledged and one marked", async || first.handle.stats().committed == 2).await;

    first.vanish().await;
    let pool = pool(4, Duration::ZERO);
    let played = pool.played();
    let second = world.start(options(&tasks), pool);

    until("it is concluded", async || world.result("member").await.is_some()).await;
    world.drained().await;
    second.stop(Stop::Warm).await;
    assert_eq!(modes(&played, "member"), [gone()]);
    assert_eq!(world.result("member").await.unwrap().state, "FAILURE");
    assert!(modes(&played, "t-0").is_empty(), "what stands alone is gone, as with Celery");
    assert!(world.dead().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_member_that_had_not_begun_is_run_by_the_next_worker() {
    let world = World::new();
    let tasks = [("t", early())];
    let first = world.start(options(&tasks), ScriptedPool::new(0, |_| Scene::hangs()));
    world.publish(vec![message("t", "member", json!({"group": "g"}))]).await;
    pause(100).await;

    first.vanish().await;
    let pool = pool(1, Duration::ZERO);
    let played = pool.played();
    let second = world.start(options(&tasks), pool);

    until("it is done", async || world.result("member").await.is_some()).await;
    second.stop(Stop::Warm).await;
    assert_eq!(modes(&played, "member"), [Mode::Run]);
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_child_dies_is_concluded_here() {
    let world = World::new();
    let pool = ScriptedPool::new(1, |execution| match execution.mode {
        Mode::Run => Scene::dies("signal 9 (SIGKILL)").after(Duration::from_millis(30)),
        ref mode => Scene::outcome(outcome(execution, usual(mode))),
    });
    let played = pool.played();
    let worker = world.start(options(&[("t", early())]), pool);

    world.publish(vec![message("t", "member", json!({"group": "g"}))]).await;

    until("it is concluded", async || world.result("member").await.is_some()).await;
    world.drained().await;
    worker.stop(Stop::Warm).await;
    assert_eq!(modes(&played, "member"), [Mode::Run, Mode::Lost("signal 9 (SIGKILL)".into())]);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_a_cold_stop_kills_is_not_run_again() {
    let world = World::new();
    let worker = world.start(options(&[("t", early())]), hanging());
    world.publish(vec![message("t", "member", json!({"group": "g"}))]).await;
    until("it is marked", async || worker.handle.stats().committed == 1).await;

    worker.stop(Stop::Cold).await;

    assert_eq!(world.result("member").await.unwrap().state, "FAILURE");
    let queue = world.queue().await;
    assert_eq!((queue.ready, queue.claimed), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_late_task_that_took_too_many_workers_along_is_recorded_and_kept() {
    let world = World::new();
    let tasks = [("t", late())];
    world.publish(messages("t", 1)).await;
    for _ in 0..3 {
        let pool = hanging();
        let played = pool.played();
        let worker = world.start(options(&tasks), pool);
        until("it runs", async || modes(&played, "t-0") == [Mode::Run]).await;
        pause(200).await;
        worker.vanish().await;
    }
    let pool = pool(1, Duration::ZERO);
    let played = pool.played();
    let worker = world.start(options(&tasks), pool);
    world.drained().await;

    worker.stop(Stop::Warm).await;
    assert_eq!(modes(&played, "t-0"), [Mode::Lost("the process that ran it died 3 times".into())]);
    assert_eq!(world.result("t-0").await.unwrap().state, "FAILURE");
    let dead = world.dead().await;
    assert_eq!((dead[0].reason.as_str(), dead[0].crashes), ("crashed", 3));
}

#[tokio::test(start_paused = true)]
async fn a_refused_member_is_recorded_without_its_body() {
    let world = World::new();
    let pool = pool(1, Duration::ZERO);
    let played = pool.played();
    let worker = world.start(options(&[("t", early())]), pool);
    let mut refused = message("t", "member", json!({"group": "g"}));
    refused.properties.content_type = "application/x-python-serialize".into();
    refused.body = "not for children".into();

    world.publish(vec![refused]).await;
    world.drained().await;

    worker.stop(Stop::Warm).await;
    let (_, execution) = played.lock()[0].clone();
    assert!(matches!(&execution.mode, Mode::Refused(why) if why.contains("is not accepted")));
    assert!(execution.message.body.is_empty());
    assert_eq!(world.result("member").await.unwrap().state, "FAILURE");
    let letter = &world.dead().await[0];
    assert_eq!((&*letter.reason, &letter.message.body[..]), ("disallowed", &b"not for children"[..]));
}

/// A store of a world whose broker counts no crash of a whole worker.
fn forgetful(world: &World) -> Arc<Flaky> {
    let flaky = Flaky::new(Arc::new(world.store.clone()));
    flaky.forgets_crashes.store(true, Ordering::SeqCst);
    Arc::new(flaky)
}

#[tokio::test(start_paused = true)]
async fn where_the_broker_counts_no_crashes_a_member_is_kept_with_the_results_and_concluded() {
    let world = World::new();
    let store = Arc::new(world.store.clone());
    let tasks = [("t", early())];
    let hangs = hanging();
    let started = hangs.played();
    let first = world.start_on(options(&tasks), forgetful(&world), store.clone(), hangs);
    world.publish(vec![message("t", "member", json!({"group": "g"}))]).await;
    until("it is acknowledged", async || {
        world.queue().await.claimed == 0 && modes(&started, "member") == [Mode::Run]
    })
    .await;

    first.vanish().await;
    let pool = pool(4, Duration::ZERO);
    let played = pool.played();
    let second = world.start_on(options(&tasks), forgetful(&world), store, pool);

    until("it is concluded", async || world.result("member").await.is_some()).await;
    pause(60_000).await;
    second.stop(Stop::Warm).await;
    assert_eq!(modes(&played, "member"), [gone()], "once");
    assert_eq!(world.result("member").await.unwrap().state, "FAILURE");
}

#[tokio::test(start_paused = true)]
async fn a_kept_member_that_ends_is_not_concluded_by_others() {
    let world = World::new();
    let store = Arc::new(world.store.clone());
    let tasks = [("t", early())];
    let first = pool(4, Duration::from_secs(90));
    let first = world.start_on(options(&tasks), forgetful(&world), store.clone(), first);
    world.publish(vec![message("t", "member", json!({"group": "g"}))]).await;
    until("it is acknowledged", async || first.handle.stats().committed == 1).await;
    let idle = pool(4, Duration::ZERO);
    let played = idle.played();
    let mut other = options(&tasks);
    other.node = "celery@other".into();
    let second = world.start_on(other, forgetful(&world), store, idle);

    until("it is done", async || world.result("member").await.is_some()).await;
    pause(60_000).await;
    first.stop(Stop::Warm).await;
    pause(60_000).await;

    second.stop(Stop::Warm).await;
    assert_eq!(world.result("member").await.unwrap().state, "SUCCESS");
    assert!(played.lock().is_empty());
}

fn once(id: &str) -> celeriac::protocol::Message {
    message("t", id, json!({"celeriac": {"once": true}}))
}

#[tokio::test(start_paused = true)]
async fn what_must_not_run_twice_is_marked_before_it_begins() {
    let world = World::new();
    let tasks = [("t", early())];
    let hangs = hanging();
    let started = hangs.played();
    let first = world.start(options(&tasks), hangs);

    world.publish(vec![once("payment")]).await;
    until("it runs", async || !started.lock().is_empty()).await;
    assert_eq!(first.handle.stats().committed, 1, "stored before");
    // Not even within its first moment.
    first.vanish().await;
    let pool = pool(1, Duration::ZERO);
    let played = pool.played();
    let second = world.start(options(&tasks), pool);

    until("it is concluded", async || world.result("payment").await.is_some()).await;
    world.drained().await;
    second.stop(Stop::Warm).await;
    assert_eq!(modes(&played, "payment"), [gone()]);
}

#[tokio::test(start_paused = true)]
async fn what_must_not_run_twice_is_a_task_like_any_otherwise() {
    let world = World::new();
    let worker = world.start(options(&[("t", early()), ("l", late())]), pool(2, Duration::ZERO));

    world.publish((0..20).map(|number| once(&format!("o-{number}"))).collect()).await;
    world.publish(vec![message("l", "late", json!({"celeriac": {"once": true}}))]).await;
    world.drained().await;

    for number in 0..20 {
        assert_eq!(world.result(&format!("o-{number}")).await.unwrap().state, "SUCCESS");
    }
    assert_eq!(world.result("late").await.unwrap().state, "SUCCESS");
    assert_eq!(worker.handle.stats().committed, 41, "two commits each, and one for late acknowledgement");
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn where_the_broker_counts_no_crashes_it_is_kept_before_it_begins() {
    let world = World::new();
    let store = Arc::new(world.store.clone());
    let tasks = [("t", early())];
    let hangs = hanging();
    let started = hangs.played();
    let first = world.start_on(options(&tasks), forgetful(&world), store.clone(), hangs);
    world.publish(vec![once("payment")]).await;
    until("it runs", async || !started.lock().is_empty()).await;
    assert_eq!(world.queue().await.claimed, 0, "acknowledged before");

    first.vanish().await;
    let pool = pool(1, Duration::ZERO);
    let played = pool.played();
    let second = world.start_on(options(&tasks), forgetful(&world), store, pool);

    until("it is concluded", async || world.result("payment").await.is_some()).await;
    second.stop(Stop::Warm).await;
    assert_eq!(modes(&played, "payment"), [gone()]);
}

#[tokio::test(start_paused = true)]
async fn a_warm_stop_gives_back_what_is_marked_and_has_not_begun() {
    let world = World::new();
    let tasks = [("t", early())];
    let first = world.start(options(&tasks), ScriptedPool::new(1, |_| Scene::hangs()));
    world.publish(vec![once("a"), once("b")]).await;
    until("one runs", async || first.handle.stats().committed >= 1).await;
    first.stop(Stop::Cold).await;

    let pool = pool(1, Duration::ZERO);
    let played = pool.played();
    let second = world.start(options(&tasks), pool);
    until("the other is done", async || world.result("b").await.is_some()).await;
    second.stop(Stop::Warm).await;
    assert_eq!(modes(&played, "b"), [Mode::Run]);
    assert!(modes(&played, "a").is_empty(), "concluded by the worker that ran it");
}

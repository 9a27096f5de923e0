//! Tasks that are not to run yet, or not any more.

use std::time::Duration;

use celeriac::worker::Stop;
use celeriac::worker::pool::Mode;
use serde_json::json;

use crate::common::{START, World, early, iso, message, modes, options, pool, starts, until};

#[tokio::test(start_paused = true)]
async fn a_near_eta_waits_in_the_worker_and_runs_on_time() {
    let world = World::new();
    let pool = pool(1, Duration::ZERO);
    let (played, from) = (pool.played(), tokio::time::Instant::now());
    let worker = world.start(options(&[("t", early())]), pool);

    world
        .publish(vec![message("t", "a", json!({"eta": iso(START + 600)})), message("t", "b", json!({}))])
        .await;
    world.drained().await;

    assert_eq!(worker.handle.stats().parked, 0);
    worker.stop(Stop::Warm).await;
    let starts = starts(&played, from);
    assert_eq!(starts[0].0, "b");
    assert!(starts[1].0 == "a" && (595..650).contains(&starts[1].1), "{starts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_far_eta_is_parked_in_the_broker_and_comes_back() {
    let world = World::new();
    let pool = pool(1, Duration::ZERO);
    let (played, from) = (pool.played(), tokio::time::Instant::now());
    let worker = world.start(options(&[("t", early())]), pool);

    world.publish(vec![message("t", "a", json!({"eta": iso(START + 60_000)}))]).await;
    until("it is parked", async || world.queue().await.parked == 1).await;
    world.drained().await;

    worker.stop(Stop::Warm).await;
    let starts = starts(&played, from);
    assert!((59_990..60_200).contains(&starts[0].1), "{starts:?}");
}

#[tokio::test(start_paused = true)]
async fn an_expired_task_is_concluded_and_not_run() {
    let world = World::new();
    let pool = pool(1, Duration::ZERO);
    let played = pool.played();
    let worker = world.start(options(&[("t", early())]), pool);

    world.publish(vec![message("t", "a", json!({"expires": iso(START - 1)}))]).await;
    world.drained().await;

    worker.stop(Stop::Warm).await;
    assert_eq!(modes(&played, "a"), [Mode::Revoked("expired".into())]);
    assert_eq!(world.result("a").await.unwrap().state, "REVOKED");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_expires_while_it_waits_for_a_slot_does_not_run() {
    let world = World::new();
    let pool = pool(1, Duration::from_secs(2));
    let played = pool.played();
    let mut options = options(&[("t", early())]);
    options.prefetch_multiplier = Some(4);
    let worker = world.start(options, pool);

    world
        .publish(vec![
            message("t", "a", json!({})),
            message("t", "b", json!({"expires": iso(START + 1_000)})),
        ])
        .await;
    world.drained().await;

    worker.stop(Stop::Warm).await;
    assert_eq!(modes(&played, "b"), [Mode::Revoked("expired".into())]);
}

//! Rate limits: spacing, order, and nobody else is held up.

use std::time::Duration;

use celeriac::worker::pool::scripted::Played;
use celeriac::worker::{RateLimit, Stop, TaskOptions};

use crate::common::{World, early, messages, options, pool, starts, until};

fn limited(text: &str) -> TaskOptions {
    TaskOptions { rate_limit: RateLimit::parse(text).unwrap(), ..TaskOptions::default() }
}

fn of(played: &Played, from: tokio::time::Instant, task: &str) -> Vec<(String, u64)> {
    starts(played, from).into_iter().filter(|(id, _)| id.starts_with(task)).collect()
}

#[tokio::test(start_paused = true)]
async fn starts_are_spaced_by_the_rate_in_order_and_none_is_lost() {
    let world = World::new();
    let pool = pool(4, Duration::from_millis(1));
    let (played, from) = (pool.played(), tokio::time::Instant::now());
    let worker = world.start(options(&[("slow", limited("2/s"))]), pool);

    world.publish(messages("slow", 40)).await;
    world.drained().await;

    worker.stop(Stop::Warm).await;
    let starts = of(&played, from, "slow");
    let order: Vec<_> = starts.iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(order, (0..40).map(|number| format!("slow-{number}")).collect::<Vec<_>>());
    for pair in starts.windows(2) {
        let apart = pair[1].1 - pair[0].1;
        assert!((498..700).contains(&apart), "{pair:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn throttled_tasks_do_not_hold_up_others() {
    let world = World::new();
    let pool = pool(1, Duration::from_millis(1));
    let (played, from) = (pool.played(), tokio::time::Instant::now());
    let mut options = options(&[("slow", limited("1/m")), ("fast", early())]);
    options.prefetch_multiplier = Some(1);
    let worker = world.start(options, pool);

    world.publish(messages("slow", 200)).await;
    world.publish(messages("fast", 50)).await;
    until("the fast ones are done", async || of(&played, from, "fast").len() == 50).await;

    assert_eq!(of(&played, from, "slow").len(), 1);
    assert!(of(&played, from, "fast")[49].1 < 5_000);
    until("the others are parked", async || world.queue().await.parked == 199).await;
    worker.stop(Stop::Cold).await;
}

#[tokio::test(start_paused = true)]
async fn rate_limits_can_be_switched_off() {
    let world = World::new();
    let pool = pool(1, Duration::ZERO);
    let (played, from) = (pool.played(), tokio::time::Instant::now());
    let mut options = options(&[("slow", limited("1/h"))]);
    options.disable_rate_limits = true;
    let worker = world.start(options, pool);

    world.publish(messages("slow", 20)).await;
    world.drained().await;

    worker.stop(Stop::Warm).await;
    assert!(of(&played, from, "slow")[19].1 < 2_000);
}

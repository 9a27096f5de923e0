//! Limits of all workers: never exceeded, nearly all used, fair between keys, and nothing is held up or lost.

use std::time::Duration;

use celeriac::limits::WindowRate;
use celeriac::protocol::Message;
use celeriac::worker::pool::Mode;
use celeriac::worker::pool::scripted::Played;
use celeriac::worker::{LimitOptions, Stop, TaskOptions, WorkerOptions};
use serde_json::json;

use crate::common::{
    Running, World, early, id_of, iso, late, message, messages, modes, options, pause, pool, starts, until,
};

fn rate(count: u32, window: Duration) -> LimitOptions {
    LimitOptions { rate: Some(WindowRate { count, window }), most: None }
}

fn most(most: u32) -> LimitOptions {
    LimitOptions { rate: None, most: Some(most) }
}

fn limited(limit: LimitOptions) -> TaskOptions {
    TaskOptions { limit, ..early() }
}

fn node(number: usize, options: &WorkerOptions) -> WorkerOptions {
    WorkerOptions { node: format!("w{number}@test"), ..options.clone() }
}

/// Workers of two slots each, whose tasks take so long.
fn workers(
    world: &World,
    count: usize,
    options: &WorkerOptions,
    takes: Duration,
) -> (Vec<Running>, Vec<Played>) {
    (0..count)
        .map(|number| {
            let pool = pool(2, takes);
            let played = pool.played();
            (world.start(node(number, options), pool), played)
        })
        .unzip()
}

fn all_starts(played: &[Played], from: tokio::time::Instant) -> Vec<(u64, String)> {
    let mut all: Vec<_> =
        played.iter().flat_map(|played| starts(played, from)).map(|(id, at)| (at, id)).collect();
    all.sort();
    all
}

fn at_once(starts: &[(u64, String)], takes: u64) -> usize {
    let running = |at: u64| starts.iter().filter(|(start, _)| *start <= at && at < start + takes).count();
    starts.iter().map(|(at, _)| running(*at)).max().unwrap_or(0)
}

async fn stop(workers: Vec<Running>) {
    for worker in workers {
        worker.stop(Stop::Warm).await;
    }
}

fn keyed(task: &str, key: &str, number: usize) -> Message {
    message(task, &format!("{key}-{number}"), json!({"celeriac": {"limit": {"key": key}}}))
}

#[tokio::test(start_paused = true)]
async fn four_workers_start_no_more_in_any_window_and_use_nearly_all() {
    let world = World::new();
    let from = tokio::time::Instant::now();
    let options = options(&[("slow", limited(rate(50, Duration::from_secs(1))))]);
    let (workers, played) = workers(&world, 4, &options, Duration::from_millis(3));

    world.publish(messages("slow", 300)).await;
    world.drained().await;

    stop(workers).await;
    let starts = all_starts(&played, from);
    assert_eq!(starts.len(), 300);
    for (place, (start, _)) in starts.iter().enumerate() {
        let within = starts[place..].iter().take_while(|(at, _)| *at < start + 1000).count();
        assert!(within <= 50, "{within} in the second from {start}");
    }
    let took = starts[299].0 - starts[0].0;
    assert!(299_000 / took >= 47, "300 took {took} ms");
}

#[tokio::test(start_paused = true)]
async fn four_workers_run_no_more_at_once_and_as_many() {
    let world = World::new();
    let from = tokio::time::Instant::now();
    let options = options(&[("slow", limited(most(3))), ("fast", early())]);
    let (workers, played) = workers(&world, 4, &options, Duration::from_millis(40));

    world.publish(messages("slow", 60)).await;
    world.publish(messages("fast", 10)).await;
    world.drained().await;

    stop(workers).await;
    let all = all_starts(&played, from);
    let (slow, fast): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, id)| id.starts_with("slow"));
    assert_eq!((slow.len(), fast.len()), (60, 10));
    assert_eq!(at_once(&slow, 40), 3);
    assert!(fast[9].0 < slow[30].0, "what has no limit is not held up");
    // 20 rounds of 40 ms; waking up takes a little each time.
    assert!(slow[59].0 < 1_600, "the last began after {} ms", slow[59].0);
}

#[tokio::test(start_paused = true)]
async fn a_key_with_thousands_does_not_hold_back_another() {
    let world = World::new();
    let from = tokio::time::Instant::now();
    let options = options(&[("work", limited(most(1)))]);
    let (workers, played) = workers(&world, 2, &options, Duration::from_millis(20));
    let mut batch: Vec<_> = (0..3_000).map(|number| keyed("work", "big", number)).collect();
    batch.push(keyed("work", "small", 0));
    world.publish(batch).await;

    let small = async || all_starts(&played, from).into_iter().find(|(_, id)| id == "small-0");
    until("the small one has begun", async || small().await.is_some()).await;

    let (at, _) = small().await.expect("it has begun");
    let before = all_starts(&played, from).iter().filter(|(start, _)| *start <= at).count();
    assert!(before < 300, "{before} of the big one went before it");
    for worker in workers {
        worker.stop(Stop::Cold).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_parked_comes_back_in_time_and_about_in_order() {
    let world = World::new();
    let from = tokio::time::Instant::now();
    let options = options(&[("work", limited(rate(20, Duration::from_secs(1))))]);
    let (workers, played) = workers(&world, 2, &options, Duration::from_millis(3));
    world.publish(messages("work", 400)).await;
    until("most are parked", async || world.queue().await.parked > 250).await;

    world.drained().await;

    stop(workers).await;
    let starts = all_starts(&played, from);
    assert_eq!(starts.len(), 400);
    let took = starts[399].0 - starts[0].0;
    assert!(took < 21_500, "400 at 20 a second took {took} ms");
    for (place, (_, id)) in starts.iter().enumerate() {
        let number: usize = id.rsplit('-').next().unwrap().parse().unwrap();
        assert!(number.abs_diff(place) <= 80, "{id} was started as number {place}");
    }
}

#[tokio::test(start_paused = true)]
async fn turns_of_a_worker_that_vanished_come_back_with_its_lease() {
    let world = World::new();
    let from = tokio::time::Instant::now();
    let mut options = options(&[("work", TaskOptions { limit: most(1), ..late() })]);
    options.lease = Duration::from_secs(5);
    let first = pool(1, Duration::from_secs(3600));
    let began = first.played();
    let dead = world.start(node(0, &options), first);
    world.publish(messages("work", 2)).await;
    until("one runs", async || !began.lock().is_empty()).await;
    let second = pool(1, Duration::from_millis(1));
    let played = second.played();
    let alive = world.start(node(1, &options), second);
    pause(8_000).await;
    assert!(played.lock().is_empty(), "the turn is out as long as its worker lives");

    dead.vanish().await;
    let vanished = u64::try_from(from.elapsed().as_millis()).unwrap();
    world.drained().await;

    alive.stop(Stop::Warm).await;
    let starts = starts(&played, from);
    assert_eq!(starts.len(), 2);
    assert!((2_000..12_000).contains(&(starts[0].1 - vanished)), "{starts:?} after {vanished}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_gives_back_all_that_wait_in_their_order() {
    let world = World::new();
    let options = options(&[("work", limited(most(1)))]);
    let first = pool(1, Duration::from_millis(500));
    let began = first.played();
    let worker = world.start(options.clone(), first);
    world.publish(messages("work", 20)).await;
    until("one runs", async || !began.lock().is_empty()).await;
    pause(50).await;

    assert_eq!(worker.stop(Stop::Warm).await.code, 0);

    let left = world.queue().await;
    assert_eq!((left.ready + left.parked, left.claimed), (19, 0));
    let second = pool(1, Duration::from_millis(1));
    let (played, from) = (second.played(), tokio::time::Instant::now());
    let worker = world.start(options, second);
    world.drained().await;
    worker.stop(Stop::Warm).await;
    assert_eq!(starts(&played, from).len(), 19);
}

#[tokio::test(start_paused = true)]
async fn what_expired_while_it_waited_is_concluded_and_takes_no_turn() {
    let world = World::new();
    let options = options(&[("work", limited(rate(1, Duration::from_secs(10))))]);
    let pool = pool(1, Duration::from_millis(1));
    let (played, from) = (pool.played(), tokio::time::Instant::now());
    let worker = world.start(options, pool);
    let expires = iso(crate::common::START + 3_000);
    let mut batch = vec![message("work", "first", json!({}))];
    batch.push(message("work", "late", json!({ "expires": expires })));
    batch.push(message("work", "last", json!({})));
    world.publish(batch).await;
    world.drained().await;

    worker.stop(Stop::Warm).await;
    assert_eq!(modes(&played, "late"), [Mode::Revoked("expired".into())]);
    let ran: Vec<_> = starts(&played, from).into_iter().filter(|(id, _)| id != "late").collect();
    // The turn after the first one's, not the third, which would be at 20 seconds.
    assert!(ran[1].1 - ran[0].1 < 15_000, "{ran:?}");
}

#[tokio::test(start_paused = true)]
async fn one_slot_is_shared_with_tasks_that_have_no_limit() {
    let world = World::new();
    let options = options(&[("work", limited(most(5))), ("fast", early())]);
    let pool = pool(1, Duration::from_millis(10));
    let (played, from) = (pool.played(), tokio::time::Instant::now());
    world.publish(messages("fast", 100)).await;
    world.publish(messages("work", 100)).await;
    world.publish(messages("fast", 100)).await;
    let worker = world.start(options, pool);

    world.drained().await;

    worker.stop(Stop::Warm).await;
    let order: Vec<_> = played.lock().iter().map(|(_, execution)| id_of(execution)).collect();
    assert_eq!(order.len(), 300);
    let last = |task: &str| order.iter().rposition(|id| id.starts_with(task)).unwrap();
    assert!(last("work") > 150 && last("fast") > 200, "neither waits for all of the other: {order:?}");
    assert!(starts(&played, from)[299].1 < 6_000);
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_a_queue_holds_for_all_its_tasks_together() {
    let world = World::new();
    let from = tokio::time::Instant::now();
    let mut options = options(&[("a", limited(most(2))), ("b", early())]);
    options.queue_limits.insert("celery".to_owned(), most(3));
    let (workers, played) = workers(&world, 4, &options, Duration::from_millis(20));

    world.publish(messages("a", 30)).await;
    world.publish(messages("b", 30)).await;
    world.drained().await;

    stop(workers).await;
    let all = all_starts(&played, from);
    assert_eq!((all.len(), at_once(&all, 20)), (60, 3));
    let a: Vec<_> = all.iter().filter(|(_, id)| id.starts_with('a')).cloned().collect();
    assert!(at_once(&a, 20) <= 2);
}

#[tokio::test(start_paused = true)]
async fn a_line_whose_messages_are_gone_holds_nobody_back() {
    let world = World::new();
    let options = options(&[("work", limited(rate(1, Duration::from_secs(2))))]);
    let pool = pool(1, Duration::from_millis(1));
    let (played, from) = (pool.played(), tokio::time::Instant::now());
    let worker = world.start(options, pool);
    world.publish(messages("work", 500)).await;
    until("most are parked", async || world.queue().await.parked > 450).await;
    celeriac::broker::Broker::purge(&world.store, "celery").await.unwrap();
    until("what waits here has run", async || world.queue().await.claimed == 0).await;
    let before = starts(&played, from).len();
    let sent = tokio::time::Instant::now();
    let again = (0..5).map(|number| message("work", &format!("again-{number}"), json!({}))).collect();

    world.publish(again).await;
    world.drained().await;

    worker.stop(Stop::Warm).await;
    assert_eq!(starts(&played, from).len(), before + 5);
    assert!(sent.elapsed() < Duration::from_secs(60), "{:?}", sent.elapsed());
}

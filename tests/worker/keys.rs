//! Keys that messages were sent under: when they are free again, and what is asked before a message runs.

use std::sync::Arc;
use std::time::Duration;

use celeriac::broker::Broker;
use celeriac::driver::memory::MemoryStore;
use celeriac::keys::{Admission, Admitted, Arrival, Held, Keys, Kind, Turn};
use celeriac::protocol::{Message, Publication};
use celeriac::worker::pool::scripted::{Scene, ScriptedPool, usual};
use celeriac::worker::pool::{Mode, OutcomeKind};
use celeriac::worker::{Stop, TaskOptions, WorkerOptions};
use serde_json::{Value, json};

use crate::brokers::Moody;
use crate::common::{World, early, late, message, modes, options, outcome, pause, pool, until};

fn call(key: &str, token: &str) -> Admission {
    Admission {
        key: key.into(),
        kind: Kind::Hold,
        task_id: token.into(),
        token: token.into(),
        ttl_ms: 600_000,
        pending_ms: 1_000,
    }
}

/// A message whose id is its token.
fn keyed(token: &str, member: Value) -> Message {
    let mut unique = json!({"key": "k", "token": token, "ttl_ms": 600_000});
    if let (Value::Object(unique), Value::Object(member)) = (&mut unique, member) {
        unique.extend(member);
    }
    message("t", token, json!({"celeriac": {"unique": unique}}))
}

async fn send(world: &World, token: &str, until: &str) {
    let message = keyed(token, json!({"until": until}));
    let publication = Publication { routing_key: "celery".into(), message, ..Publication::default() };
    let admitted = world.store.publish_admitted(&publication, &call("k", token)).await.unwrap();
    assert_eq!(admitted, Some(Admitted::New));
}

/// Whether another call would get the key now.
async fn is_free(store: &MemoryStore, key: &str) -> bool {
    match store.reserve(&call(key, "probe")).await.unwrap() {
        Admitted::New => {
            let held = Held { key: key.into(), token: "probe".into(), ttl_ms: 1 };
            store.free(&[held]).await.unwrap()[0]
        }
        _ => false,
    }
}

/// Whether the key is free when a task has ended in this way and is not run any more.
async fn frees(task: TaskOptions, kind: Option<OutcomeKind>) -> bool {
    let world = World::new();
    let mut first = true;
    let pool = ScriptedPool::new(1, move |execution| match (&execution.mode, kind) {
        (Mode::Run, _) if !std::mem::take(&mut first) => Scene::hangs(),
        (Mode::Run, None) => Scene::dies("signal 9 (SIGKILL)").after(Duration::from_millis(30)),
        (Mode::Run, Some(kind)) => Scene::outcome(outcome(execution, kind)).after(Duration::from_millis(30)),
        (mode, _) => Scene::outcome(outcome(execution, usual(mode))),
    });
    let played = pool.played();
    send(&world, "a", "finished").await;
    let worker = world.start(options(&[("t", task)]), pool);
    until("it has ended, or comes again", async || {
        let queue = world.queue().await;
        let again = modes(&played, "a").iter().filter(|mode| **mode == Mode::Run).count() > 1;
        again || world.result("a").await.is_some() && queue.ready + queue.claimed == 0
    })
    .await;
    let free = is_free(&world.store, "k").await;
    worker.stop(Stop::Cold).await;
    free
}

#[tokio::test(start_paused = true)]
async fn a_key_that_lasts_is_free_at_the_end_and_not_when_the_task_comes_again() {
    use OutcomeKind::{Disallowed, Failure, Ignored, Malformed, Rejected, Requeued, Retry, Revoked, Success};
    for kind in [Success, Failure, Ignored, Malformed, Rejected, Revoked, Disallowed] {
        for task in [early(), late()] {
            assert!(frees(task, Some(kind)).await, "{kind:?}");
        }
    }
    for task in [early(), late()] {
        assert!(!frees(task, Some(Retry)).await, "the retry has it");
    }
    assert!(!frees(late(), Some(Requeued)).await);
    assert!(frees(early(), None).await, "its process died, and it is told as lost");
    let again = TaskOptions { reject_on_worker_lost: true, ..late() };
    assert!(!frees(again, None).await, "it comes again");
}

#[tokio::test(start_paused = true)]
async fn expired_revoked_and_unknown_tasks_free_their_keys() {
    let world = World::new();
    send(&world, "a", "finished").await;
    let worker = world.start(options(&[("other", early())]), pool(1, Duration::ZERO));

    until("it is a dead letter", async || world.dead().await.len() == 1).await;
    assert!(is_free(&world.store, "k").await);
    worker.stop(Stop::Warm).await;

    let expired = json!({"unique": {"key": "k", "token": "b", "until": "finished", "ttl_ms": 600_000}});
    world.store.reserve(&call("k", "b")).await.unwrap();
    world
        .publish(vec![message("t", "b", json!({"celeriac": expired, "expires": "2001-01-01T00:00:00Z"}))])
        .await;
    let worker = world.start(options(&[("t", early())]), pool(1, Duration::ZERO));
    until("it is concluded", async || world.result("b").await.is_some()).await;
    until("its key is free", async || is_free(&world.store, "k").await).await;
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn keys_are_free_when_a_worker_has_it_or_it_begins_as_was_asked() {
    for (moment, waiting, running) in
        [("queued", true, true), ("started", false, true), ("finished", false, false)]
    {
        let world = World::new();
        let hangs = ScriptedPool::new(1, |_| Scene::hangs());
        let played = hangs.played();
        let several = WorkerOptions { prefetch_multiplier: Some(4), ..options(&[("t", late())]) };
        let worker = world.start(several, hangs);
        world.publish(vec![message("t", "before", json!({}))]).await;
        until("the slot is taken", async || modes(&played, "before").len() == 1).await;
        send(&world, "a", moment).await;
        until("a worker has it", async || world.queue().await.claimed == 2).await;
        pause(50).await;
        assert_eq!(is_free(&world.store, "k").await, waiting, "{moment}, waiting for a slot");
        worker.stop(Stop::Cold).await;

        let hangs = ScriptedPool::new(2, |_| Scene::hangs());
        let played = hangs.played();
        let worker = world.start(options(&[("t", late())]), hangs);
        until("it has begun", async || modes(&played, "a").len() == 1).await;
        pause(50).await;
        assert_eq!(is_free(&world.store, "k").await, running, "{moment}, running");
        worker.stop(Stop::Cold).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_of_a_worker_that_is_gone_is_freed_by_the_next() {
    let world = World::new();
    let first = world.start(options(&[("t", early())]), ScriptedPool::new(1, |_| Scene::hangs()));
    send(&world, "a", "finished").await;
    until("it is marked", async || first.handle.stats().committed == 1).await;
    first.vanish().await;
    assert!(!is_free(&world.store, "k").await);

    let second = world.start(options(&[("t", early())]), pool(1, Duration::ZERO));

    until("it is free", async || is_free(&world.store, "k").await).await;
    assert_eq!(world.result("a").await.unwrap().state, "FAILURE");
    second.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn a_key_does_not_run_out_while_a_worker_has_its_message() {
    let world = World::new();
    let worker = world.start(options(&[("t", late())]), ScriptedPool::new(1, |_| Scene::hangs()));
    let message = keyed("a", json!({"until": "finished", "ttl_ms": 20_000}));
    let publication = Publication { routing_key: "celery".into(), message, ..Publication::default() };
    let short = Admission { ttl_ms: 20_000, ..call("k", "a") };
    world.store.publish_admitted(&publication, &short).await.unwrap();

    for _ in 0..12 {
        pause(5_000).await;
        assert!(!is_free(&world.store, "k").await);
    }

    worker.vanish().await;
    pause(25_000).await;
    assert!(is_free(&world.store, "k").await);
}

#[tokio::test(start_paused = true)]
async fn keys_beside_the_results_are_asked_for_before_and_freed_after() {
    let world = World::new();
    let other = MemoryStore::new(world.clock.clone());
    for token in ["lapsed", "a"] {
        other.reserve(&Admission { pending_ms: 10, ..call("k", token) }).await.unwrap();
        pause(20).await;
    }
    let member = json!({"until": "finished"});
    world.publish(vec![keyed("lapsed", member.clone()), keyed("a", member)]).await;
    let pool = pool(2, Duration::from_secs(2));
    let played = pool.played();
    let broker = Arc::new(Moody::new(&world.store));
    let worker = world.start_on(options(&[("t", early())]), broker, Arc::new(other.clone()), pool);

    until("one of them runs", async || modes(&played, "a").len() == 1).await;
    let waits = other.reserve(&call("k", "b")).await.unwrap();
    assert_eq!(waits, Admitted::Exists("a".into(), None), "the message has confirmed");
    world.drained().await;
    until("its key is free", async || is_free(&other, "k").await).await;

    worker.stop(Stop::Warm).await;
    assert_eq!(modes(&played, "a"), [Mode::Run]);
    assert_eq!(modes(&played, "lapsed"), [Mode::Revoked("task a has its key".into())]);
}

#[tokio::test(start_paused = true)]
async fn of_debounced_messages_only_the_last_is_run() {
    let world = World::new();
    let pool = pool(2, Duration::ZERO);
    let played = pool.played();
    for token in ["a", "b", "c"] {
        let mut sent = keyed(token, json!({"debounced": true}));
        // They have one id; the body tells them apart.
        sent.headers = String::from_utf8(sent.headers.to_vec())
            .unwrap()
            .replace(&format!("\"id\":\"{token}\""), "\"id\":\"w\"")
            .into();
        sent.body = format!("[[\"{token}\"], {{}}, {{}}]").into();
        let publication =
            Publication { routing_key: "celery".into(), message: sent, ..Publication::default() };
        let wanted = Admission { kind: Kind::Debounce(None), task_id: "w".into(), ..call("k", token) };
        let admitted = world.store.publish_admitted(&publication, &wanted).await.unwrap();
        assert_eq!(admitted, Some(Admitted::New));
    }

    let worker = world.start(options(&[("t", early())]), pool);
    world.drained().await;
    worker.stop(Stop::Warm).await;

    let ran: Vec<String> = played
        .lock()
        .iter()
        .map(|(_, execution)| String::from_utf8(execution.message.body.to_vec()).unwrap())
        .collect();
    assert_eq!(ran, [r#"[["c"], {}, {}]"#]);
}

#[tokio::test(start_paused = true)]
async fn of_messages_with_a_turn_one_runs_at_a_time() {
    let world = World::new();
    let pool = pool(4, Duration::from_secs(3));
    let played = pool.played();
    let worker = world.start(options(&[("t", early())]), pool);
    let member = json!({"until": "started", "turn": "turn"});

    world.publish(vec![keyed("a", member.clone()), keyed("b", member)]).await;

    until("the first runs", async || played.lock().len() == 1).await;
    pause(2_000).await;
    assert_eq!(played.lock().len(), 1, "the other one waits, in the store");
    assert_eq!(world.queue().await.parked, 1);
    world.drained().await;
    worker.stop(Stop::Warm).await;
    assert_eq!(played.lock().len(), 2);
    let arrival = Arrival {
        held: Held { key: "x".into(), token: "t".into(), ttl_ms: 1 },
        task_id: "x".into(),
        debounced: false,
        turn: Some("turn".into()),
    };
    assert_eq!(world.store.arrive(&arrival).await.unwrap(), Turn::Run, "nobody has the turn");
}

//! Commands: what each answers, in Celery's words, and what it changes.

use std::sync::Arc;
use std::time::Duration;

use celeriac::broker::Broker;
use celeriac::protocol::{ControlReply, Message};
use celeriac::worker::pool::Mode;
use celeriac::worker::pool::scripted::{Scene, ScriptedPool, usual};
use celeriac::worker::{Notice, RateLimit, Stop, TaskOptions, WorkerOptions};
use serde_json::{Value, json};

use crate::common::START;
use crate::common::{
    Running, World, early, iso, late, message, messages, modes, options, outcome, pause, pool, starts, until,
};

/// Asks all workers; gives what they have answered within a while.
async fn ask_all(world: &World, request: Value) -> Vec<ControlReply> {
    let mut inbox = world.store.inbox("reply.celery.pidbox", "oid").await.unwrap();
    send(world, request).await;
    let mut replies = Vec::new();
    while let Ok(reply) = tokio::time::timeout(Duration::from_millis(300), inbox.next()).await {
        let reply: Message = reply.unwrap();
        let headers: Value = serde_json::from_slice(&reply.headers).unwrap();
        assert_eq!(headers["ticket"], "ticket");
        assert!(headers["clock"].is_u64());
        replies.push(ControlReply::parse(&reply.body).unwrap());
    }
    replies
}

async fn send(world: &World, mut request: Value) {
    request["ticket"] = "ticket".into();
    request["reply_to"] = json!({"exchange": "reply.celery.pidbox", "routing_key": "oid"});
    let mut message = message("x", "x", json!({}));
    message.body = request.to_string().into();
    world.store.broadcast("celery.pidbox", "", message, Duration::from_secs(60)).await.unwrap();
}

async fn ask(world: &World, method: &str, arguments: Value) -> Value {
    let mut replies = ask_all(world, json!({"method": method, "arguments": arguments})).await;
    assert_eq!(replies.len(), 1, "{method}: {replies:?}");
    let reply = replies.pop().unwrap();
    assert_eq!(reply.node, "celery@test");
    reply.value
}

/// What Celery's worker has answered to the request of that golden file.
fn golden(case: &str) -> (Value, Value) {
    let path = format!("{}/tests/golden/redis_control/{case}.json", env!("CARGO_MANIFEST_DIR"));
    let case: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let request = case["requests"][0]["decoded"]["body (decoded)"].clone();
    let reply = case["replies"][0]["decoded"]["body (decoded)"]["w1@worker.example"].clone();
    (request, reply)
}

fn hanging(slots: usize) -> ScriptedPool {
    ScriptedPool::new(slots, |execution| match &execution.mode {
        Mode::Run => Scene::hangs(),
        mode => Scene::outcome(outcome(execution, usual(mode))),
    })
}

async fn started(world: &World, options: WorkerOptions, pool: ScriptedPool) -> Running {
    let worker = world.start(options, pool);
    pause(50).await;
    worker
}

#[tokio::test(start_paused = true)]
async fn answers_are_those_of_celerys_worker() {
    let world = World::new();
    let worker = started(&world, options(&[("demo.add", early())]), pool(1, Duration::ZERO)).await;

    for case in [
        "ping",
        "ping_pattern",
        "autoscale",
        "pool_restart",
        "rate_limit",
        "rate_limit_invalid",
        "rate_limit_unknown",
        "time_limit",
        "revoke_stamped",
        "revoke_stamped_terminate",
        "terminate_unknown",
        "add_consumer",
        "cancel_consumer",
        "unknown_command",
    ] {
        let (mut request, expected) = golden(case);
        if request["pattern"].is_string() {
            request["pattern"] = "c*".into();
        }
        let replies = ask_all(&world, request).await;
        assert_eq!(replies.iter().map(|reply| reply.value.clone()).collect::<Vec<_>>(), [expected], "{case}");
    }

    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_told_of_requests_is_what_celerys_worker_tells() {
    let world = World::new();
    let pool = hanging(1);
    let played = pool.played();
    let mut options = options(&[("demo.sleep", early()), ("demo.late", late())]);
    options.prefetch_multiplier = Some(4);
    let worker = started(&world, options, pool).await;
    let mut first = message("demo.sleep", "a", json!({"argsrepr": "(120,)", "kwargsrepr": "{}"}));
    first.body = "[[120], {}, {}]".into();
    world.publish(vec![first]).await;
    until("it runs", async || !played.lock().is_empty()).await;
    let eta = json!({"eta": iso(START + 100_000)});
    world.publish(vec![message("demo.late", "b", json!({})), message("demo.late", "c", eta)]).await;
    pause(50).await;

    let (_, expected) = golden("inspect_active");
    let active = ask(&world, "active", json!({"safe": null})).await;
    let (ours, theirs) = (active[0].as_object().unwrap(), expected[0].as_object().unwrap());
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    assert_eq!(
        (&ours["args"], &ours["acknowledged"], &ours["worker_pid"]),
        (&json!([120]), &json!(true), &json!(1))
    );
    assert!((ours["time_start"].as_f64().unwrap() - START as f64 / 1000.0).abs() < 60.0);
    let safe = ask(&world, "dump_active", json!({"safe": true})).await;
    assert_eq!((&safe[0]["args"], &safe[0]["kwargs"]), (&json!("(120,)"), &json!("{}")));

    let reserved = ask(&world, "reserved", json!({})).await;
    assert_eq!(reserved.as_array().unwrap().len(), 1);
    assert_eq!((&reserved[0]["id"], &reserved[0]["time_start"]), (&json!("b"), &json!(null)));
    let known = ask(&world, "query_task", json!({"ids": ["a", "b", "unknown"]})).await;
    assert_eq!((&known["a"][0], &known["b"][0]), (&json!("active"), &json!("reserved")));
    assert_eq!(known.as_object().unwrap().len(), 2);
    let missing = ask(&world, "query_task", json!({})).await;
    assert!(missing["error"].as_str().unwrap().starts_with("TypeError("), "{missing}");

    worker.stop(Stop::Cold).await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_tells_of_itself_in_celerys_shape() {
    let world = World::new();
    let mut options = options(&[("demo.add", early()), ("celery.ping", early())]);
    options.control.about.conf = r#"{"a": 1}"#.into();
    options.control.about.conf_with_defaults = r#"{"a": 1, "b": 2}"#.into();
    options.control.about.report = "versions".into();
    options.control.about.tasks = r#"{"demo.add": {"max_retries": "3", "rate_limit": "5/s"}}"#.into();
    options.control.about.broker = r#"{"hostname": "h"}"#.into();
    let worker = started(&world, options, pool(2, Duration::ZERO)).await;
    world.publish(messages("demo.add", 3)).await;
    world.drained().await;

    let (_, expected) = golden("inspect_stats");
    let stats = ask(&world, "stats", json!({})).await;
    for place in ["", "/pool", "/pool/writes", "/rusage"] {
        let keys = |value: &Value| {
            let mut keys: Vec<_> =
                value.pointer(place).unwrap().as_object().unwrap().keys().cloned().collect();
            keys.sort();
            keys
        };
        assert_eq!(keys(&stats), keys(&expected), "{place}");
    }
    assert_eq!((&stats["total"], &stats["pool"]["max-concurrency"]), (&json!({"demo.add": 3}), &json!(2)));
    assert_eq!(stats["pid"], std::process::id());
    assert_eq!(ask(&world, "conf", json!({})).await, json!({"a": 1}));
    assert_eq!(ask(&world, "dump_conf", json!({"with_defaults": true})).await, json!({"a": 1, "b": 2}));
    assert_eq!(ask(&world, "report", json!({})).await, json!({"ok": "versions"}));
    let (_, expected) = golden("inspect_active_queues");
    assert_eq!(ask(&world, "active_queues", json!({})).await, expected);
    assert_eq!(ask(&world, "registered", json!({})).await, json!(["demo.add [rate_limit=5/s]"]));
    let items = json!({"taskinfoitems": ["rate_limit", "max_retries", "_x"], "builtins": true});
    let all = ask(&world, "registered", items.clone()).await;
    assert_eq!(all, json!(["celery.ping", "demo.add [rate_limit=5/s max_retries=3]"]));
    ask(&world, "rate_limit", json!({"task_name": "demo.add", "rate_limit": "9/m"})).await;
    assert_eq!(ask(&world, "registered", items).await[1], "demo.add [rate_limit=9/m max_retries=3]");

    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_rate_limit_holds_at_once_for_what_waits_already() {
    let world = World::new();
    let pool = pool(8, Duration::ZERO);
    let played = pool.played();
    let limit = TaskOptions { rate_limit: RateLimit::parse("1/s").unwrap(), ..early() };
    let worker = started(&world, options(&[("t", limit)]), pool).await;
    let from = tokio::time::Instant::now();
    world.publish(messages("t", 3)).await;
    pause(100).await;
    assert_eq!(played.lock().len(), 1);

    let answer = ask(&world, "rate_limit", json!({"task_name": "t", "rate_limit": 0})).await;
    assert_eq!(answer, json!({"ok": "rate limit disabled successfully"}));
    until("the second runs", async || played.lock().len() >= 2).await;

    assert!(starts(&played, from)[1].1 < 1_000, "{:?}", starts(&played, from));
    let slow = ask(&world, "rate_limit", json!({"task_name": "t", "rate_limit": "1/h"})).await;
    assert_eq!(slow, json!({"ok": "new rate limit set successfully"}));
    let before = played.lock().len();
    world.publish(vec![message("t", "next", json!({})), message("t", "last", json!({}))]).await;
    pause(60_000).await;
    assert_eq!(played.lock().len(), before.max(3) + 1);
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn new_time_limits_hold_for_what_begins_later_and_a_message_may_say_otherwise() {
    let world = World::new();
    let pool = pool(1, Duration::from_secs(5));
    let played = pool.played();
    let mut options = options(&[("t", late())]);
    options.prefetch_multiplier = Some(4);
    let worker = started(&world, options, pool).await;
    let own = json!({"timelimit": [null, 7]});
    world
        .publish(vec![message("t", "a", json!({})), message("t", "b", json!({})), message("t", "c", own)])
        .await;
    until("the first runs", async || !played.lock().is_empty()).await;

    let answer = ask(&world, "time_limit", json!({"task_name": "t", "soft": 60, "hard": 120.5})).await;
    assert_eq!(answer, json!({"ok": "time limits set successfully"}));
    world.publish(vec![message("t", "d", json!({}))]).await;
    world.drained().await;

    let limits: Vec<_> = played
        .lock()
        .iter()
        .map(|(_, execution)| {
            (execution.soft_limit.map(|it| it.as_secs()), execution.hard_limit.map(|it| it.as_secs_f64()))
        })
        .collect();
    assert_eq!(
        limits,
        [(None, None), (Some(60), Some(120.5)), (Some(7), Some(120.5)), (Some(60), Some(120.5))]
    );
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_consumes_from_one_more_queue_and_from_one_less() {
    let world = World::new();
    let pool = pool(1, Duration::ZERO);
    let played = pool.played();
    let worker = started(&world, options(&[("t", late())]), pool).await;
    let to = |queue: &str, id: &str| celeriac::protocol::Publication {
        routing_key: queue.into(),
        message: message("t", id, json!({})),
        ..Default::default()
    };

    let more = json!({"queue": "more", "exchange": "ex", "exchange_type": "topic", "routing_key": "more.#"});
    assert_eq!(ask(&world, "add_consumer", more).await, json!({"ok": "add consumer more"}));
    let queues = ask(&world, "active_queues", json!({})).await;
    assert_eq!((&queues[1]["name"], &queues[1]["exchange"]["type"]), (&json!("more"), &json!("topic")));
    assert_eq!(queues[1]["routing_key"], "more.#");
    world.store.publish(vec![to("more", "a")]).await.unwrap();
    until("it runs", async || played.lock().len() == 1).await;

    ask(&world, "cancel_consumer", json!({"queue": "more"})).await;
    assert_eq!(ask(&world, "active_queues", json!({})).await.as_array().unwrap().len(), 1);
    world.store.publish(vec![to("more", "b"), to("celery", "c")]).await.unwrap();
    pause(3_000).await;

    worker.stop(Stop::Warm).await;
    assert_eq!(modes(&played, "b"), []);
    assert_eq!(modes(&played, "c"), [Mode::Run]);
}

#[tokio::test(start_paused = true)]
async fn stamped_tasks_are_revoked_and_terminated_by_their_stamps() {
    let world = World::new();
    let pool = hanging(1);
    let played = pool.played();
    let worker = started(&world, options(&[("t", late())]), pool).await;
    let stamp = |stamp: Value| json!({"stamped_headers": ["trace"], "stamps": {"trace": stamp}});
    world.publish(vec![message("t", "runs", stamp(json!(["abc", "x"])))]).await;
    until("it runs", async || !played.lock().is_empty()).await;

    let headers = json!({"headers": {"trace": ["abc", "def"]}, "terminate": true});
    let answer = ask(&world, "revoke_by_stamped_headers", headers).await;
    assert_eq!(answer, json!({"ok": "headers defaultdict(<class 'set'>, {'trace': {'abc'}}) revoked"}));
    world.publish(vec![message("t", "waits", stamp(json!("def")))]).await;
    world.drained().await;

    assert_eq!(modes(&played, "runs"), [Mode::Run, Mode::Revoked("terminated".into())]);
    assert_eq!(modes(&played, "waits"), [Mode::Revoked("revoked".into())]);
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn revoked_tasks_are_told_and_an_unknown_signal_is_an_error() {
    let world = World::new();
    let worker = started(&world, options(&[("t", late())]), pool(1, Duration::ZERO)).await;

    let answer = ask(&world, "revoke", json!({"task_id": ["a", "b", "a"], "signal": "SIGTERM"})).await;
    assert_eq!(answer, json!({"ok": "tasks {'a', 'b'} flagged as revoked"}));
    assert_eq!(ask(&world, "revoked", json!({})).await, json!(["a", "b"]));
    let answer = ask(&world, "terminate", json!({"task_id": "a", "signal": "NOPE"})).await;
    assert_eq!(answer["error"], "AttributeError(\"module 'signal' has no attribute 'SIGNOPE'\")");

    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn workers_that_start_learn_what_is_revoked_before_they_claim() {
    let world = World::new();
    let first = started(&world, options(&[("t", late())]), pool(1, Duration::ZERO)).await;
    ask(&world, "revoke", json!({"task_id": "a"})).await;
    first.stop(Stop::Warm).await;
    let folder = tempfile::tempdir().unwrap();
    let keeper = |node: &str| {
        let mut options = options(&[("t", late())]);
        options.node = node.to_owned();
        options.control.mingle = true;
        options.control.state_file = Some(folder.path().join(node));
        options
    };
    let mut options = keeper("one");
    options.queues = vec!["other".into()];
    let one = world.start(options, pool(1, Duration::ZERO));
    pause(1_500).await;
    let told =
        ask_all(&world, json!({"method": "hello", "arguments": {"from_node": "x", "revoked": ["a"]}})).await;
    assert_eq!(told[0].value["revoked"], json!(["a"]));
    world.publish(vec![message("t", "a", json!({}))]).await;

    let pool = pool(1, Duration::ZERO);
    let played = pool.played();
    let two = world.start(keeper("two"), pool);
    world.drained().await;

    assert_eq!(modes(&played, "a"), [Mode::Revoked("revoked".into())]);
    two.stop(Stop::Warm).await;
    one.stop(Stop::Warm).await;
    let saved = std::fs::read_to_string(folder.path().join("two")).unwrap();
    assert!(saved.contains(r#""revoked":"a""#), "{saved}");
    let mut options = keeper("two");
    options.control.mingle = false;
    let again = started(&world, options, crate::common::pool(1, Duration::ZERO)).await;
    assert_eq!(ask_all(&world, json!({"method": "revoked"})).await[0].value, json!(["a"]));
    again.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn commands_of_the_app_are_given_to_it_and_delay_nothing_else() {
    let world = World::new();
    let mut options = options(&[("t", late())]);
    options.control.commands = ["own".to_owned()].into();
    let worker = started(&world, options, pool(1, Duration::ZERO)).await;

    let nothing_yet = ask_all(&world, json!({"method": "own", "arguments": {"n": 1}})).await;
    assert!(nothing_yet.is_empty());
    assert_eq!(ask(&world, "ping", json!({})).await, json!({"ok": "pong"}));
    let asked = worker.handle.notices().drain().into_iter().find_map(|notice| match notice {
        Notice::Command { number, method, arguments } => Some((number, method, arguments)),
        _ => None,
    });
    let (number, method, arguments) = asked.unwrap();
    assert_eq!((method.as_str(), arguments.as_str()), ("own", r#"{"n":1}"#));
    let mut inbox = world.store.inbox("reply.celery.pidbox", "oid").await.unwrap();
    let handle = worker.handle.clone();
    let answered = Arc::new(std::sync::Mutex::new(false));
    let done = answered.clone();
    std::thread::spawn(move || *done.lock().unwrap() = handle.reply(number, r#"{"ok": 1}"#.into()))
        .join()
        .unwrap();
    assert!(*answered.lock().unwrap());

    let reply = inbox.next().await.unwrap();
    assert_eq!(ControlReply::parse(&reply.body).unwrap().value, json!({"ok": 1}));
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_told_to_shut_down_ends_warm_and_says_nothing() {
    let world = World::new();
    let worker = started(&world, options(&[("t", late())]), pool(1, Duration::ZERO)).await;

    assert!(ask_all(&world, json!({"method": "shutdown", "arguments": {}})).await.is_empty());

    let log = worker.log();
    assert!(log.iter().any(|line| line == "Got shutdown from remote"), "{log:?}");
    assert_eq!(worker.ended().await.code, 0);
}

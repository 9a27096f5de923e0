//! What monitors are told: of the worker, and of its tasks when that is wanted.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use celeriac::broker::{Broker, Listener};
use celeriac::driver::memory::MemoryStore;
use celeriac::protocol::Message;
use celeriac::worker::pool::scripted::{Scene, ScriptedPool, usual};
use celeriac::worker::pool::{Mode, Outcome, OutcomeKind};
use celeriac::worker::{Stop, TaskOptions, WorkerOptions};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Value, json};

use crate::brokers::Moody;
use crate::common::{START, World, early, iso, late, message, options, pause, pool, until};

const MINUTE: Duration = Duration::from_secs(60);

/// Hears what a worker tells.
struct Monitor(Box<dyn Listener>);

impl Monitor {
    async fn of(store: &MemoryStore) -> Self {
        Self(store.listen("celeryev").await.unwrap())
    }

    /// The next message's events, as text and as values.
    async fn hear(&mut self) -> Vec<(String, Value)> {
        let message = tokio::time::timeout(MINUTE, self.0.next()).await.expect("something is told").unwrap();
        assert_eq!(message.properties.content_type, "application/json");
        assert_eq!(message.properties.delivery_mode, 1);
        let headers: Value = serde_json::from_slice(&message.headers).unwrap();
        assert_eq!(headers, json!({"hostname": "celery@test"}));
        events_in(std::str::from_utf8(&message.body).unwrap())
    }

    /// Events of one task until (and with) one of a type; others are passed over.
    async fn story(&mut self, id: &str, last: &str) -> Vec<(String, Value)> {
        let mut story = Vec::new();
        loop {
            for (text, event) in self.hear().await {
                if event["uuid"] == id {
                    let ends = event["type"] == last;
                    story.push((text, event));
                    if ends {
                        return story;
                    }
                }
            }
        }
    }
}

/// A single event, or those of an array, each with its own text.
fn events_in(body: &str) -> Vec<(String, Value)> {
    let texts: Vec<&serde_json::value::RawValue> =
        serde_json::from_str(body).unwrap_or_else(|_| vec![serde_json::from_str(body).unwrap()]);
    texts.iter().map(|raw| (raw.get().to_owned(), serde_json::from_str(raw.get()).unwrap())).collect()
}

fn kinds(story: &[(String, Value)]) -> Vec<&str> {
    story.iter().map(|(_, event)| event["type"].as_str().unwrap()).collect()
}

fn watched(tasks: &[(&str, TaskOptions)]) -> WorkerOptions {
    WorkerOptions { task_events: true, ..options(tasks) }
}

/// Ends by what the task's name says.
fn actors() -> ScriptedPool {
    ScriptedPool::new(1, |execution| {
        let name = execution.message.task_headers().unwrap().task.into_owned();
        let kind = match (name.as_str(), &execution.mode) {
            ("boom", Mode::Run) => OutcomeKind::Failure,
            ("again", Mode::Run) => OutcomeKind::Retry,
            ("reject", Mode::Run) => OutcomeKind::Rejected,
            ("requeue", Mode::Run) if !execution.redelivered => OutcomeKind::Requeued,
            ("ignore", Mode::Run) => OutcomeKind::Ignored,
            (_, mode) => usual(mode),
        };
        Scene::outcome(Outcome {
            kind,
            summary: if kind == OutcomeKind::Success { "5" } else { "ValueError('caf\u{e9}')" }.to_owned(),
            traceback: if execution.mode == Mode::Run && kind != OutcomeKind::Success {
                "Traceback\n".to_owned()
            } else {
                String::new()
            },
            runtime: Some(Duration::from_micros(300)),
            ..Outcome::default()
        })
    })
}

fn headers() -> Value {
    json!({"argsrepr": "(2, 3)", "kwargsrepr": "{}", "root_id": "r", "parent_id": null, "eta": null, "expires": null})
}

#[tokio::test(start_paused = true)]
async fn a_task_is_told_of_from_its_receipt_to_its_end() {
    let world = World::new();
    let mut monitor = Monitor::of(&world.store).await;
    let tasks: Vec<_> = ["ok", "boom", "again", "ignore"].map(|name| (name, early())).to_vec();
    let worker = world.start(watched(&tasks), actors());

    world.publish(vec![message("ok", "1", headers())]).await;
    let story = monitor.story("1", "task-succeeded").await;
    assert_eq!(kinds(&story), ["task-received", "task-started", "task-succeeded"]);
    let (received, succeeded) = (&story[0].1, &story[2].1);
    assert_eq!(received["args"], "(2, 3)");
    assert_eq!(received["root_id"], "r");
    assert_eq!(received["hostname"], "celery@test");
    assert_eq!(succeeded["result"], "5");
    assert_eq!(succeeded["runtime"], 0.0003);
    let clocks: Vec<_> = story.iter().map(|(_, event)| event["clock"].as_u64().unwrap()).collect();
    assert!(clocks.windows(2).all(|pair| pair[0] < pair[1]), "{clocks:?}");

    world.publish(vec![message("boom", "2", json!({"shadow": "shown"}))]).await;
    let story = monitor.story("2", "task-failed").await;
    assert_eq!(kinds(&story), ["task-received", "task-started", "task-failed"]);
    assert_eq!(story[0].1["name"], "shown");
    assert_eq!(story[2].1["exception"], "ValueError('caf\u{e9}')");
    assert_eq!(story[2].1["traceback"], "Traceback\n");
    assert!(story[2].0.contains("caf\\u00e9"), "it is not ASCII: {}", story[2].0);

    world.publish(vec![message("again", "3", headers())]).await;
    let story = monitor.story("3", "task-retried").await;
    assert_eq!(kinds(&story), ["task-received", "task-started", "task-retried"]);

    world.publish(vec![message("ignore", "4", headers()), message("ok", "5", headers())]).await;
    let mut told = Vec::new();
    while told.last().is_none_or(|(_, event): &(String, Value)| event["type"] != "task-succeeded") {
        told.extend(monitor.hear().await);
    }
    told.retain(|(_, event)| event["uuid"] == "4");
    assert_eq!(kinds(&told), ["task-received", "task-started"]);
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_does_not_run_is_told_of_as_celery_does() {
    let world = World::new();
    let mut monitor = Monitor::of(&world.store).await;
    let tasks: Vec<_> = ["ok", "reject", "requeue"].map(|name| (name, late())).to_vec();
    let worker = world.start(watched(&tasks), actors());

    world.publish(vec![message("ok", "old", json!({"expires": iso(START - 1000)}))]).await;
    let story = monitor.story("old", "task-revoked").await;
    assert_eq!(kinds(&story), ["task-revoked"]);
    assert_eq!((&story[0].1["expired"], &story[0].1["signum"]), (&json!(true), &Value::Null));

    world.publish(vec![message("not.known", "unknown", json!({}))]).await;
    let story = monitor.story("unknown", "task-failed").await;
    assert_eq!(kinds(&story), ["task-failed"]);
    assert_eq!(story[0].1["exception"], "NotRegistered('not.known')");
    assert_eq!(story[0].1.get("traceback"), None);

    world.publish(vec![message("reject", "no", headers())]).await;
    let story = monitor.story("no", "task-rejected").await;
    assert_eq!(kinds(&story), ["task-received", "task-started", "task-failed", "task-rejected"]);
    assert_eq!(story[3].1["requeue"], false);

    world.publish(vec![message("requeue", "later", headers())]).await;
    let story = monitor.story("later", "task-rejected").await;
    assert_eq!(kinds(&story), ["task-received", "task-started", "task-rejected"]);
    assert_eq!(story[2].1["requeue"], true);
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_says_that_it_comes_lives_and_goes() {
    let world = World::new();
    let mut monitor = Monitor::of(&world.store).await;
    let options = WorkerOptions { heartbeat: Some(Duration::from_secs(2)), ..options(&[("t", early())]) };
    let worker = world.start(options, pool(1, Duration::from_secs(60)));
    let born = world.clock.now().0;

    let online = monitor.hear().await.remove(0).1;
    assert_eq!(online["type"], "worker-online");
    world.publish(vec![message("t", "1", json!({}))]).await;
    let mut moments = Vec::new();
    for _ in 0..3 {
        let beat = monitor.hear().await.remove(0).1;
        assert_eq!(beat["type"], "worker-heartbeat");
        assert_eq!((&beat["freq"], &beat["active"], &beat["processed"]), (&json!(2.0), &json!(1), &json!(1)));
        moments.push(beat["timestamp"].as_f64().unwrap() - born as f64 / 1000.0);
    }
    for (beat, moment) in (1..).zip(&moments) {
        assert!((moment - 2.0 * f64::from(beat)).abs() < 0.5, "{moments:?}");
    }
    worker.stop(Stop::Cold).await;
    // Until its last task is concluded it lives.
    let mut last = monitor.hear().await.remove(0).1;
    while last["type"] == "worker-heartbeat" {
        last = monitor.hear().await.remove(0).1;
    }
    assert_eq!(last["type"], "worker-offline");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_that_was_not_asked_for() {
    let world = World::new();
    let mut monitor = Monitor::of(&world.store).await;
    let quiet = TaskOptions { send_events: false, ..early() };
    let first = world.start(options(&[("t", early())]), ScriptedPool::succeeding(1));
    world.publish(vec![message("t", "unwatched", json!({}))]).await;
    world.drained().await;
    first.stop(Stop::Warm).await;

    let second = world.start(watched(&[("t", early()), ("quiet", quiet)]), ScriptedPool::succeeding(1));
    world.publish(vec![message("quiet", "quiet", json!({})), message("t", "1", json!({}))]).await;

    // All that was told before would come first.
    let (_, event) = monitor.hear().await.remove(0);
    assert_eq!((&event["type"], &event["uuid"]), (&json!("task-received"), &json!("1")));
    second.stop(Stop::Warm).await;
}

async fn ask(world: &World, method: &str, clock: u64) {
    let mut request = message("x", "x", json!({}));
    request.headers = json!({"clock": clock}).to_string().into();
    request.body = json!({"method": method, "arguments": {}}).to_string().into();
    world.store.broadcast("celery.pidbox", "", request, MINUTE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn monitors_switch_events_on_and_off_and_ask_for_a_heartbeat() {
    let world = World::new();
    let mut monitor = Monitor::of(&world.store).await;
    let worker = world.start(options(&[("t", early())]), ScriptedPool::succeeding(1));
    pause(100).await;

    ask(&world, "heartbeat", 1000).await;
    let beat = monitor.hear().await.remove(0).1;
    assert_eq!((&beat["type"], &beat["freq"]), (&json!("worker-heartbeat"), &json!(5.0)));
    assert!(beat["clock"].as_u64().unwrap() > 1000, "the logical clock is past what was told: {beat}");

    ask(&world, "enable_events", 1).await;
    until("it says so", async || worker.log().iter().any(|line| line.contains("task enabled"))).await;
    world.publish(vec![message("t", "1", json!({}))]).await;
    assert_eq!(kinds(&monitor.story("1", "task-succeeded").await).len(), 3);

    ask(&world, "disable_events", 1).await;
    until("it says so", async || worker.log().iter().any(|line| line.contains("task disabled"))).await;
    world.publish(vec![message("t", "2", json!({}))]).await;
    world.drained().await;
    ask(&world, "heartbeat", 1).await;
    assert_eq!(monitor.hear().await.remove(0).1["type"], "worker-heartbeat");
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_takes_no_events_stops_no_work_and_costs_bounded_memory() {
    const TASKS: usize = 4_000;
    let world = World::new();
    let mut monitor = Monitor::of(&world.store).await;
    let broker = Arc::new(Moody::new(&world.store).mute());
    let options = WorkerOptions { prefetch_multiplier: Some(100), ..watched(&[("t", early())]) };
    let worker =
        world.start_on(options, broker.clone(), Arc::new(world.store.clone()), ScriptedPool::succeeding(4));
    let batch = (0..TASKS).map(|number| message("t", &format!("t-{number}"), json!({}))).collect();
    world.publish(batch).await;
    world.drained().await;
    assert_eq!(worker.handle.stats().succeeded, TASKS as u64);
    assert_eq!(worker.handle.stats().events_sent, 0);

    broker.speak();
    until("what was kept is sent", async || worker.handle.stats().events_sent == 10_000).await;
    assert_eq!(worker.handle.stats().events_dropped, 3 * TASKS as u64 - 10_000);
    assert!(worker.log().iter().any(|line| line.contains("2000 events were dropped")));
    // The newest are kept, in order.
    let first = monitor.hear().await.remove(0).1;
    assert!(first["clock"].as_u64().unwrap() > 2_000, "{first}");
    worker.stop(Stop::Warm).await;
}

/// Names of the fields in their order, and what kinds of values they have.
fn shape(text: &str) -> (Vec<String>, BTreeMap<String, &'static str>) {
    let value: BTreeMap<String, Value> = serde_json::from_str(text).unwrap();
    let kind = |value: &Value| match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "text",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let kinds = value.iter().map(|(name, value)| (name.clone(), kind(value))).collect();
    (names(text), kinds)
}

fn names(text: &str) -> Vec<String> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = Vec<String>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<String>, A::Error> {
            let mut names = Vec::new();
            while let Some((name, IgnoredAny)) = map.next_entry()? {
                names.push(name);
            }
            Ok(names)
        }
    }
    serde_json::Deserializer::from_str(text).deserialize_map(Names).unwrap()
}

/// Celery's events by type, as they were captured on Redis.
fn golden() -> BTreeMap<String, Vec<String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/redis_events");
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let case: Value = serde_json::from_slice(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap();
        let body = BASE64_STANDARD.decode(case["decoded"]["body"].as_str().unwrap()).unwrap();
        for (text, event) in events_in(&String::from_utf8(body).unwrap()) {
            found.entry(event["type"].as_str().unwrap().to_owned()).or_default().push(text);
        }
    }
    found
}

#[tokio::test(start_paused = true)]
async fn events_have_the_shape_of_celerys_to_the_order_of_their_fields() {
    let world = World::new();
    let mut monitor = Monitor::of(&world.store).await;
    let tasks: Vec<_> = ["ok", "boom", "again", "reject"].map(|name| (name, late())).to_vec();
    let options = WorkerOptions { heartbeat: Some(Duration::from_millis(500)), ..watched(&tasks) };
    let worker = world.start(options, actors());
    let dead = json!({"expires": iso(START - 1000)});
    let mut batch: Vec<Message> =
        ["ok", "boom", "again", "reject"].map(|name| message(name, name, headers())).into();
    batch.extend([message("ok", "old", dead), message("who", "who", json!({}))]);
    world.publish(batch).await;
    pause(2_000).await;
    worker.stop(Stop::Warm).await;

    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    while !told.contains_key("worker-offline") {
        for (text, event) in monitor.hear().await {
            told.entry(event["type"].as_str().unwrap().to_owned()).or_default().push(text);
        }
    }
    let mut golden = golden();
    // Told by clients and by tasks.
    golden.retain(|kind, _| kind != "task-sent" && kind != "my-custom-event");
    assert_eq!(told.keys().collect::<Vec<_>>(), golden.keys().collect::<Vec<_>>());
    for (kind, texts) in &told {
        let known: Vec<_> = golden[kind].iter().map(|text| shape(text)).collect();
        for text in texts {
            let (names, kinds) = shape(text);
            let same = |(golden_names, golden_kinds): &(Vec<String>, BTreeMap<String, &str>)| {
                // What may be null is so in one and not in the other.
                let fits = |(name, kind): (&String, &&str)| {
                    golden_kinds
                        .get(name)
                        .is_some_and(|known| known == kind || [*known, *kind].contains(&"null"))
                };
                *golden_names == names && kinds.iter().all(fits)
            };
            assert!(known.iter().any(same), "{kind}: {text}\nis like none of\n{known:#?}");
        }
    }
}

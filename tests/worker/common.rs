//! A world for one worker: a store, a clock that moves with the runtime's, and ways to look at both.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use celeriac::backend::ResultBackend;
use celeriac::broker::{Broker, DeadLetter, QueueStatus};
use celeriac::clock::{Clock, UnixMillis};
use celeriac::driver::memory::MemoryStore;
use celeriac::protocol::{Message, Properties, Publication, ResultRecord};
use celeriac::worker::pool::scripted::{Played, Scene, ScriptedPool};
use celeriac::worker::pool::{Execution, Outcome, OutcomeKind, Pool};
use celeriac::worker::{Exit, Stop, TaskOptions, Worker, WorkerError, WorkerHandle, WorkerOptions};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// A moment that all tests start at.
pub(crate) const START: i64 = 1_700_000_000_000;

pub(crate) struct World {
    pub(crate) store: MemoryStore,
    pub(crate) clock: Clock,
    ticker: JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.ticker.abort();
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let clock = Clock::manual(UnixMillis(START));
        let store = MemoryStore::new(clock.clone());
        let (moving, waking) = (clock.clone(), store.clone());
        let ticker = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                moving.advance(Duration::from_millis(1));
                if (moving.now().0 - START) % 100 == 0 {
                    waking.wake();
                }
            }
        });
        Self { store, clock, ticker }
    }

    pub(crate) async fn publish(&self, messages: Vec<Message>) {
        let publication =
            |message| Publication { routing_key: "celery".into(), message, ..Publication::default() };
        self.store.publish(messages.into_iter().map(publication).collect()).await.unwrap();
    }

    pub(crate) async fn queue(&self) -> QueueStatus {
        let queues = self.store.queues().await.unwrap();
        queues.into_iter().find(|queue| queue.name == "celery").unwrap_or_default()
    }

    pub(crate) async fn dead(&self) -> Vec<DeadLetter> {
        self.store.dead_letters(None, 1000).await.unwrap()
    }

    pub(crate) async fn result(&self, id: &str) -> Option<ResultRecord> {
        self.store.read(&[id.to_owned()]).await.unwrap().pop().unwrap()
    }

    /// Waits until the queue holds nothing any more in any way.
    pub(crate) async fn drained(&self) {
        until("the queue is drained", async || {
            let queue = self.queue().await;
            queue.ready + queue.claimed + queue.parked == 0
        })
        .await;
    }

    pub(crate) fn start(&self, options: WorkerOptions, pool: impl Pool + 'static) -> Running {
        self.start_on(options, Arc::new(self.store.clone()), Arc::new(self.store.clone()), pool)
    }

    pub(crate) fn start_on(
        &self,
        options: WorkerOptions,
        broker: Arc<dyn Broker>,
        backend: Arc<dyn ResultBackend>,
        pool: impl Pool + 'static,
    ) -> Running {
        let worker = Worker::new(options, broker, Some(backend), Box::new(pool), self.clock.clone());
        let handle = worker.handle();
        Running { handle, join: tokio::spawn(worker.run()) }
    }
}

/// A worker that runs.
pub(crate) struct Running {
    pub(crate) handle: WorkerHandle,
    pub(crate) join: JoinHandle<Result<Exit, WorkerError>>,
}

impl Running {
    pub(crate) async fn stop(self, how: Stop) -> Exit {
        self.handle.stop(how);
        self.ended().await
    }

    pub(crate) async fn ended(self) -> Exit {
        tokio::time::timeout(Duration::from_secs(120), self.join).await.expect("it stops").unwrap().unwrap()
    }

    /// It is gone without a word, as after SIGKILL.
    pub(crate) async fn vanish(self) {
        self.join.abort();
        let _ = self.join.await;
    }

    pub(crate) fn log(&self) -> Vec<String> {
        let text = |notice| match notice {
            celeriac::worker::Notice::Log(line) => Some(line.text),
            _ => None,
        };
        self.handle.notices().drain().into_iter().filter_map(text).collect()
    }
}

/// Waits, in the runtime's stopped time, until something is so.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(600);
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(crate) async fn pause(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// A task message; `more` are further headers.
pub(crate) fn message(task: &str, id: &str, more: Value) -> Message {
    let mut headers = json!({"lang": "py", "task": task, "id": id, "retries": 0});
    if let (Value::Object(headers), Value::Object(more)) = (&mut headers, more) {
        headers.extend(more);
    }
    Message {
        headers: headers.to_string().into(),
        properties: Properties {
            content_type: "application/json".into(),
            content_encoding: "utf-8".into(),
            correlation_id: Some(id.to_owned()),
            ..Properties::default()
        },
        body: "[[], {}, {}]".into(),
    }
}

pub(crate) fn messages(task: &str, count: usize) -> Vec<Message> {
    (0..count).map(|number| message(task, &format!("{task}-{number}"), json!({}))).collect()
}

pub(crate) fn iso(millis: i64) -> String {
    jiff::Timestamp::from_millisecond(millis).unwrap().to_string()
}

/// Options with these tasks, and log lines of every kind.
pub(crate) fn options(tasks: &[(&str, TaskOptions)]) -> WorkerOptions {
    WorkerOptions {
        node: "celery@test".into(),
        tasks: tasks
            .iter()
            .map(|(name, options)| ((*name).to_owned(), options.clone()))
            .collect::<HashMap<_, _>>(),
        log_level: 10,
        ..WorkerOptions::default()
    }
}

pub(crate) fn early() -> TaskOptions {
    TaskOptions::default()
}

pub(crate) fn late() -> TaskOptions {
    TaskOptions { acks_late: true, ..TaskOptions::default() }
}

/// An outcome that stores its kind as the task's state.
pub(crate) fn outcome(execution: &Execution, kind: OutcomeKind) -> Outcome {
    let record = ResultRecord {
        task_id: id_of(execution),
        state: format!("{kind:?}").to_uppercase(),
        record: "{}".into(),
        content_type: "application/json".into(),
        expires_ms: None,
        reply_to: None,
        retain: None,
    };
    Outcome { kind, results: vec![record], summary: "why".into(), ..Outcome::default() }
}

pub(crate) fn id_of(execution: &Execution) -> String {
    let headers: Value = serde_json::from_slice(&execution.message.headers).unwrap();
    headers["id"].as_str().unwrap().to_owned()
}

/// A pool whose executions end as their mode says, with a stored state, after some time.
pub(crate) fn pool(slots: usize, after: Duration) -> ScriptedPool {
    ScriptedPool::new(slots, move |execution| {
        let kind = celeriac::worker::pool::scripted::usual(&execution.mode);
        Scene::outcome(outcome(execution, kind)).after(after)
    })
}

/// The ids that were run, in order, with the milliseconds from the start at which they began.
pub(crate) fn starts(played: &Played, from: tokio::time::Instant) -> Vec<(String, u64)> {
    let start = |(at, execution): &(tokio::time::Instant, Execution)| {
        (id_of(execution), at.duration_since(from).as_millis() as u64)
    };
    played.lock().iter().map(start).collect()
}

/// The modes in which an id was played, in order.
pub(crate) fn modes(played: &Played, id: &str) -> Vec<celeriac::worker::pool::Mode> {
    let of_id = |(_, execution): &&(tokio::time::Instant, Execution)| id_of(execution) == id;
    played.lock().iter().filter(of_id).map(|(_, execution)| execution.mode.clone()).collect()
}

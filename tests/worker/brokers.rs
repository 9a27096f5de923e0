//! What a worker makes of its broker: how long it tries to reach it, what the broker has to say, what it refuses, and
//! a second broker for follow-ups.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use celeriac::broker::{
    Broker, BrokerError, Consumer, ConsumerOptions, DeadFilter, DeadLetter, DeadReason, Listener, QueueStatus,
};
use celeriac::driver::memory::MemoryStore;
use celeriac::protocol::{Message, Publication};
use celeriac::worker::pool::scripted::{Scene, ScriptedPool};
use celeriac::worker::pool::{Outcome, OutcomeKind};
use celeriac::worker::{Stop, Worker, WorkerError};
use serde_json::json;

use crate::common::{World, message, messages, options, outcome, pool, until};
use crate::common::{early, late};

/// The memory store, with moods.
pub(crate) struct Moody {
    inner: MemoryStore,
    /// It takes no events. Written by tests.
    mute: AtomicBool,
    /// How often it cannot be consumed from.
    away: AtomicU32,
    attempts: AtomicU32,
    advice: Vec<String>,
}

impl Moody {
    pub(crate) fn new(inner: &MemoryStore) -> Self {
        let (away, attempts) = (AtomicU32::new(0), AtomicU32::new(0));
        Self { inner: inner.clone(), mute: AtomicBool::new(false), away, attempts, advice: Vec::new() }
    }

    /// The same, taking no events.
    pub(crate) fn mute(self) -> Self {
        self.mute.store(true, Ordering::SeqCst);
        self
    }

    /// It takes events again.
    pub(crate) fn speak(&self) {
        self.mute.store(false, Ordering::SeqCst);
    }
}

#[async_trait]
impl Broker for Moody {
    /// Refuses what goes to the queue `refused`, and the batch with it.
    async fn publish(&self, batch: Vec<Publication>) -> Result<(), BrokerError> {
        if batch.iter().any(|one| one.routing_key == "refused") {
            let (url, reason) = (self.display_url(), "there is no such queue".to_owned());
            return Err(BrokerError::Refused { url, reason });
        }
        self.inner.publish(batch).await
    }

    async fn consume(&self, options: ConsumerOptions) -> Result<Box<dyn Consumer>, BrokerError> {
        self.attempts.fetch_add(1, Ordering::SeqCst);
        let away = self.away.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if away.is_ok() {
            return Err(BrokerError::Unavailable { url: self.display_url(), reason: "no answer".to_owned() });
        }
        self.inner.consume(options).await
    }

    async fn purge(&self, queue: &str) -> Result<u64, BrokerError> {
        self.inner.purge(queue).await
    }

    async fn queues(&self) -> Result<Vec<QueueStatus>, BrokerError> {
        Broker::queues(&self.inner).await
    }

    async fn find_dead(&self, filter: &DeadFilter, limit: usize) -> Result<Vec<DeadLetter>, BrokerError> {
        self.inner.find_dead(filter, limit).await
    }

    async fn bury(
        &self,
        message: Publication,
        reason: DeadReason,
        detail: String,
    ) -> Result<(), BrokerError> {
        self.inner.bury(message, reason, detail).await
    }

    async fn broadcast(
        &self,
        exchange: &str,
        routing_key: &str,
        message: Message,
        ttl: Duration,
    ) -> Result<(), BrokerError> {
        if self.mute.load(Ordering::SeqCst) {
            return Err(BrokerError::Unavailable { url: self.display_url(), reason: "no answer".to_owned() });
        }
        self.inner.broadcast(exchange, routing_key, message, ttl).await
    }

    async fn listen(&self, exchange: &str) -> Result<Box<dyn Listener>, BrokerError> {
        self.inner.listen(exchange).await
    }

    fn store_id(&self) -> Option<String> {
        None
    }

    fn display_url(&self) -> String {
        "moody://broker".to_owned()
    }

    async fn advice(&self) -> Result<Vec<String>, BrokerError> {
        Ok(self.advice.clone())
    }

    async fn sweep(&self) -> Result<(), BrokerError> {
        Broker::sweep(&self.inner).await
    }
}

/// A pool whose tasks send a message to each of these queues.
fn sending(queues: &'static [&'static str]) -> ScriptedPool {
    ScriptedPool::new(1, move |execution| {
        let publications = queues.iter().map(|queue| Publication {
            routing_key: (*queue).to_owned(),
            message: message("next", queue, json!({})),
            ..Publication::default()
        });
        let done = outcome(execution, OutcomeKind::Success);
        Scene::outcome(Outcome { publications: publications.collect(), ..done })
    })
}

async fn ready(store: &MemoryStore, name: &str) -> u64 {
    let queues = Broker::queues(store).await.unwrap();
    queues.iter().find(|queue| queue.name == name).map_or(0, |queue| queue.ready)
}

#[tokio::test(start_paused = true)]
async fn a_worker_gives_up_a_broker_that_stays_away_after_so_many_attempts() {
    let world = World::new();
    let broker = Arc::new(Moody { away: AtomicU32::new(100), ..Moody::new(&world.store) });
    let mut options = options(&[("t", early())]);
    options.connect_attempts = Some(4);
    let worker =
        world.start_on(options, broker.clone(), Arc::new(world.store.clone()), pool(1, Duration::ZERO));

    let ended = tokio::time::timeout(Duration::from_secs(60), worker.join).await.expect("it ends").unwrap();

    assert!(matches!(ended, Err(WorkerError::Broker(BrokerError::Unavailable { .. }))));
    assert_eq!(broker.attempts.load(Ordering::SeqCst), 4);
}

#[tokio::test(start_paused = true)]
async fn a_worker_starts_as_soon_as_its_broker_is_there() {
    let world = World::new();
    let broker = Arc::new(Moody { away: AtomicU32::new(3), ..Moody::new(&world.store) });
    let mut options = options(&[("t", early())]);
    options.connect_attempts = Some(4);
    world.publish(messages("t", 1)).await;

    let worker =
        world.start_on(options, broker.clone(), Arc::new(world.store.clone()), pool(1, Duration::ZERO));

    world.drained().await;
    assert_eq!(broker.attempts.load(Ordering::SeqCst), 4);
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_broker_advises_is_logged_at_the_start() {
    let world = World::new();
    let advice = vec!["its memory may be evicted".to_owned(), "its disk is not synced".to_owned()];
    let broker = Arc::new(Moody { advice: advice.clone(), ..Moody::new(&world.store) });
    let mut options = options(&[("t", early())]);
    options.log_level = 30;
    let worker = world.start_on(options, broker, Arc::new(world.store.clone()), pool(1, Duration::ZERO));

    let mut said = Vec::new();
    until("both sentences are logged", async || {
        said.extend(worker.log());
        said.len() >= 2
    })
    .await;

    assert_eq!(said, advice);
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn a_follow_up_that_is_refused_is_dropped_with_a_line_and_holds_up_nothing() {
    let world = World::new();
    let broker = Arc::new(Moody::new(&world.store));
    world.publish(messages("t", 1)).await;

    let worker = world.start_on(
        options(&[("t", late())]),
        broker,
        Arc::new(world.store.clone()),
        sending(&["one", "refused", "two"]),
    );

    world.drained().await;
    assert_eq!(world.result("t-0").await.unwrap().state, "SUCCESS");
    assert_eq!((ready(&world.store, "one").await, ready(&world.store, "two").await), (1, 1));
    let line = "a follow-up message was dropped: broker moody://broker refuses: there is no such queue";
    assert!(worker.log().iter().any(|said| said == line));
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn follow_ups_go_to_the_broker_that_is_written_to() {
    let world = World::new();
    let other = MemoryStore::new(world.clock.clone());
    world.publish(messages("t", 3)).await;
    let store = Arc::new(world.store.clone());
    let played = Box::new(sending(&["next"]));
    let worker =
        Worker::new(options(&[("t", late())]), store.clone(), Some(store), played, world.clock.clone())
            .with_writer(Arc::new(other.clone()));
    let handle = worker.handle();
    let join = tokio::spawn(worker.run());

    world.drained().await;

    assert_eq!(ready(&other, "next").await, 3);
    assert_eq!(ready(&world.store, "next").await, 0);
    assert_eq!(world.result("t-2").await.unwrap().state, "SUCCESS");
    handle.stop(Stop::Warm);
    join.await.unwrap().unwrap();
}

//! Stores that fail before or after a call took effect: nothing is lost, nothing runs or commits twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use celeriac::backend::{BackendError, ResultBackend, Watch};
use celeriac::broker::{
    Broker, BrokerError, ChordEnd, Commit, Committed, Consumer, ConsumerOptions, Credit, DeadFilter,
    DeadLetter, DeadReason, Delivery, Listener, QueueStatus, Renewal,
};
use celeriac::driver::memory::MemoryStore;
use celeriac::protocol::{ChordClaim, Message, Publication, ResultRecord};
use celeriac::worker::pool::OutcomeKind;
use celeriac::worker::pool::scripted::{Scene, ScriptedPool};
use celeriac::worker::{Stop, TaskOptions};
use parking_lot::Mutex;

use crate::common::{World, early, id_of, late, messages, options, outcome, pool, until};

/// Fails by a fixed pattern, or always while it is cut.
pub(crate) struct Faults {
    /// Calls so far.
    calls: AtomicU64,
    /// Of how many calls one fails before and one after it took effect; 0 is never.
    every: AtomicU64,
}

impl Faults {
    /// Whether this call fails before or after it takes effect.
    fn next(&self) -> (bool, bool) {
        let every = self.every.load(Ordering::SeqCst);
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        if every == 0 { (false, false) } else { (call % every == 1, call % every == every / 2) }
    }
}

/// A broker and backend over the memory store that fails.
pub(crate) struct Flaky {
    inner: Arc<MemoryStore>,
    faults: Arc<Faults>,
    /// Nothing gets through.
    pub(crate) cut: Arc<AtomicBool>,
    /// Whether broker and backend say that they are one store.
    one_store: bool,
    /// How often claims get nothing, although there is something.
    pub(crate) deaf: Arc<AtomicBool>,
    /// A worker that dies takes along what it has begun, as on RabbitMQ.
    pub(crate) forgets_crashes: AtomicBool,
    /// How often each record was stored by a call that went through.
    stored: Arc<Mutex<HashMap<String, u32>>>,
}

impl Flaky {
    pub(crate) fn new(inner: Arc<MemoryStore>) -> Self {
        Self {
            inner,
            faults: Arc::new(Faults { calls: AtomicU64::new(0), every: AtomicU64::new(0) }),
            cut: Arc::default(),
            one_store: true,
            deaf: Arc::default(),
            forgets_crashes: AtomicBool::new(false),
            stored: Arc::default(),
        }
    }

    fn failing(inner: Arc<MemoryStore>, every: u64, one_store: bool) -> Self {
        let flaky = Self { one_store, ..Self::new(inner) };
        flaky.faults.every.store(every, Ordering::SeqCst);
        flaky
    }

    async fn through<T>(&self, call: impl Future<Output = Result<T, BrokerError>>) -> Result<T, BrokerError> {
        through(&self.faults, &self.cut, call).await
    }
}

async fn through<T>(
    faults: &Faults,
    cut: &AtomicBool,
    call: impl Future<Output = Result<T, BrokerError>>,
) -> Result<T, BrokerError> {
    let failed = || BrokerError::Unavailable { url: "flaky://".into(), reason: "as asked for".into() };
    let (before, after) = faults.next();
    if before || cut.load(Ordering::SeqCst) {
        return Err(failed());
    }
    let value = call.await?;
    if after { Err(failed()) } else { Ok(value) }
}

#[async_trait]
impl Broker for Flaky {
    async fn publish(&self, batch: Vec<Publication>) -> Result<(), BrokerError> {
        self.through(Broker::publish(&*self.inner, batch)).await
    }

    async fn consume(&self, options: ConsumerOptions) -> Result<Box<dyn Consumer>, BrokerError> {
        let inner = self.through(self.inner.consume(options)).await?;
        Ok(Box::new(FlakyConsumer {
            inner,
            faults: self.faults.clone(),
            cut: self.cut.clone(),
            deaf: AtomicBool::new(self.deaf.swap(false, Ordering::SeqCst)),
        }))
    }

    fn counts_crashes(&self) -> bool {
        !self.forgets_crashes.load(Ordering::SeqCst)
    }

    async fn purge(&self, queue: &str) -> Result<u64, BrokerError> {
        self.inner.purge(queue).await
    }

    async fn queues(&self) -> Result<Vec<QueueStatus>, BrokerError> {
        self.inner.queues().await
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
        self.through(self.inner.bury(message, reason, detail)).await
    }

    async fn broadcast(
        &self,
        exchange: &str,
        routing_key: &str,
        message: Message,
        ttl: Duration,
    ) -> Result<(), BrokerError> {
        self.inner.broadcast(exchange, routing_key, message, ttl).await
    }

    async fn listen(&self, exchange: &str) -> Result<Box<dyn Listener>, BrokerError> {
        self.inner.listen(exchange).await
    }

    fn store_id(&self) -> Option<String> {
        self.one_store.then(|| "flaky".to_owned())
    }

    fn display_url(&self) -> String {
        "flaky://".into()
    }

    async fn sweep(&self) -> Result<(), BrokerError> {
        self.through(self.inner.sweep()).await
    }
}

#[async_trait]
impl ResultBackend for Flaky {
    async fn store(&self, batch: Vec<ResultRecord>) -> Result<(), BackendError> {
        let stored = async {
            for record in &batch {
                *self.stored.lock().entry(record.task_id.clone()).or_default() += 1;
            }
            ResultBackend::store(&*self.inner, batch.clone()).await.expect("memory stores");
            Ok(())
        };
        let failed = |error: BrokerError| BackendError::Unavailable {
            url: "flaky://".into(),
            reason: error.to_string(),
        };
        through(&self.faults, &self.cut, stored).await.map_err(failed)
    }

    async fn read(&self, task_ids: &[String]) -> Result<Vec<Option<ResultRecord>>, BackendError> {
        self.inner.read(task_ids).await
    }

    async fn forget(&self, task_ids: &[String]) -> Result<(), BackendError> {
        self.inner.forget(task_ids).await
    }

    async fn watch(&self, task_ids: Vec<String>) -> Result<Box<dyn Watch>, BackendError> {
        self.inner.watch(task_ids).await
    }

    fn store_id(&self) -> Option<String> {
        self.one_store.then(|| "flaky".to_owned())
    }

    fn display_url(&self) -> String {
        "flaky://".into()
    }
}

struct FlakyConsumer {
    inner: Box<dyn Consumer>,
    faults: Arc<Faults>,
    cut: Arc<AtomicBool>,
    /// Its claims get nothing.
    deaf: AtomicBool,
}

#[async_trait]
impl Consumer for FlakyConsumer {
    async fn claim(&self, credit: Credit) -> Result<Vec<Delivery>, BrokerError> {
        if self.deaf.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        // A claim whose answer is lost stays claimed until the lease ends: that is the driver's to avoid.
        if self.cut.load(Ordering::SeqCst) || self.faults.next().0 {
            return Err(BrokerError::Unavailable { url: "flaky://".into(), reason: "as asked for".into() });
        }
        self.inner.claim(credit).await
    }

    async fn commit(&self, batch: &[Commit]) -> Result<Vec<Committed>, BrokerError> {
        through(&self.faults, &self.cut, self.inner.commit(batch)).await
    }

    async fn commit_body(&self, commit: &Commit, chord: &ChordClaim) -> Result<ChordEnd, BrokerError> {
        through(&self.faults, &self.cut, self.inner.commit_body(commit, chord)).await
    }

    async fn renew(&self) -> Result<Renewal, BrokerError> {
        through(&self.faults, &self.cut, self.inner.renew()).await
    }

    async fn set_queues(&self, queues: Vec<String>) -> Result<(), BrokerError> {
        self.inner.set_queues(queues).await
    }

    async fn close(&self) -> Result<(), BrokerError> {
        self.inner.close().await
    }
}

/// A task that publishes a `second` task each time it runs.
fn chained(slots: usize, after: Duration) -> ScriptedPool {
    ScriptedPool::new(slots, move |execution| {
        let mut outcome = outcome(execution, OutcomeKind::Success);
        if execution.message.task_headers().unwrap().task == "first" {
            let id = id_of(execution).replace("first", "second");
            let message = crate::common::message("second", &id, serde_json::json!({}));
            outcome.publications =
                vec![Publication { routing_key: "celery".into(), message, ..Publication::default() }];
        }
        Scene::outcome(outcome).after(after)
    })
}

async fn runs_each_once(task: TaskOptions, one_store: bool, every: u64, after: Duration, exactly: bool) {
    let world = World::new();
    let flaky = Arc::new(Flaky::failing(Arc::new(world.store.clone()), every, one_store));
    let pool = chained(4, after);
    let played = pool.played();
    let worker = world.start_on(options(&[("first", task), ("second", late())]), flaky.clone(), flaky, pool);

    world.publish(messages("first", 100)).await;
    until("all are done", async || world.result("second-99").await.is_some()).await;
    world.drained().await;

    let stats = worker.handle.stats();
    worker.stop(Stop::Warm).await;
    let mut runs = HashMap::<String, u32>::new();
    for (_, execution) in played.lock().iter() {
        *runs.entry(id_of(execution)).or_default() += 1;
    }
    assert_eq!(runs.len(), 200);
    let firsts = runs.iter().filter(|(id, _)| id.starts_with("first"));
    assert!(firsts.clone().all(|(_, count)| *count == 1), "{runs:?}");
    if exactly {
        assert!(runs.values().all(|count| *count == 1), "{runs:?}");
    }
    assert_eq!(stats.stale, 0);
}

#[tokio::test(start_paused = true)]
async fn one_store_that_fails_before_and_after_commits_runs_and_commits_everything_once() {
    for every in [3, 4, 7] {
        runs_each_once(late(), true, every, Duration::from_millis(3), true).await;
        runs_each_once(late(), true, every, Duration::from_millis(200), true).await;
    }
}

/// Without a claim there is nothing that says whether a lost answer took effect: follow-ups may come twice.
#[tokio::test(start_paused = true)]
async fn early_acknowledged_tasks_run_once_on_a_store_that_fails() {
    for every in [3, 7] {
        runs_each_once(early(), true, every, Duration::from_millis(20), false).await;
        runs_each_once(early(), false, every, Duration::from_millis(20), false).await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_stores_that_fail_lose_nothing() {
    for every in [3, 4, 7] {
        runs_each_once(late(), false, every, Duration::from_millis(3), false).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_resumes_after_an_outage_and_says_so_once() {
    let world = World::new();
    let flaky = Arc::new(Flaky::new(Arc::new(world.store.clone())));
    let pool = pool(2, Duration::from_millis(500));
    let played = pool.played();
    let mut options = options(&[("t", late())]);
    options.lease = Duration::from_secs(600);
    let worker = world.start_on(options, flaky.clone(), flaky.clone(), pool);
    world.publish(messages("t", 10)).await;
    until("two run", async || played.lock().len() == 2).await;

    flaky.cut.store(true, Ordering::SeqCst);
    crate::common::pause(120_000).await;
    assert!(world.result("t-0").await.is_none());
    flaky.cut.store(false, Ordering::SeqCst);
    world.drained().await;

    let log = worker.log();
    worker.stop(Stop::Warm).await;
    assert_eq!(played.lock().len(), 10);
    let lines = |what: &str| log.iter().filter(|line| line.contains(what)).count();
    assert_eq!((lines("cannot commit"), lines("can commit")), (1, 1), "{log:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_cannot_be_reached_at_the_start_is_tried_until_it_can() {
    let world = World::new();
    let flaky = Arc::new(Flaky::new(Arc::new(world.store.clone())));
    flaky.cut.store(true, Ordering::SeqCst);
    let worker =
        world.start_on(options(&[("t", late())]), flaky.clone(), flaky.clone(), pool(1, Duration::ZERO));
    world.publish(messages("t", 1)).await;
    crate::common::pause(30_000).await;
    assert!(world.result("t-0").await.is_none());

    flaky.cut.store(false, Ordering::SeqCst);
    world.drained().await;

    assert!(world.result("t-0").await.is_some());
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_claims_nothing_from_a_backlog_is_made_anew() {
    let world = World::new();
    let flaky = Arc::new(Flaky::new(Arc::new(world.store.clone())));
    flaky.deaf.store(true, Ordering::SeqCst);
    let worker =
        world.start_on(options(&[("t", late())]), flaky.clone(), flaky.clone(), pool(1, Duration::ZERO));

    world.publish(messages("t", 5)).await;
    world.drained().await;

    assert_eq!(worker.handle.stats().reconnected, 1);
    worker.stop(Stop::Warm).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_while_the_store_is_gone_ends_and_loses_nothing() {
    let world = World::new();
    let flaky = Arc::new(Flaky::new(Arc::new(world.store.clone())));
    let pool = pool(1, Duration::from_millis(100));
    let played = pool.played();
    let worker = world.start_on(options(&[("t", late())]), flaky.clone(), flaky.clone(), pool);
    world.publish(messages("t", 3)).await;
    until("one runs", async || !played.lock().is_empty()).await;

    flaky.cut.store(true, Ordering::SeqCst);
    worker.stop(Stop::Warm).await;

    let second = world.start(options(&[("t", late())]), crate::common::pool(1, Duration::ZERO));
    world.drained().await;
    second.stop(Stop::Warm).await;
    for id in ["t-0", "t-1", "t-2"] {
        assert!(world.result(id).await.is_some());
    }
}

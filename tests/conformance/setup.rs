//! A store to test, and words to test it with.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use celeriac::backend::ResultBackend;
use celeriac::broker::{Broker, Commit, Consumer, ConsumerOptions, Credit, Delivery, Settle};
use celeriac::clock::{Clock, UnixMillis};
use celeriac::driver::memory::MemoryStore;
use celeriac::protocol::{Message, Properties, Publication, ResultRecord};

/// When the clocks of the tests start.
pub(crate) const START: UnixMillis = UnixMillis(1_700_000_000_000);
pub(crate) const LEASE: Duration = Duration::from_secs(30);

pub(crate) struct Setup {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) backend: Arc<dyn ResultBackend>,
    /// Stands still until [`Setup::advance`].
    pub(crate) clock: Clock,
    wake: Box<dyn Fn() + Send + Sync>,
    /// Lets what the store itself expires grow older, where its time is not that of the clock.
    age: Box<dyn Fn(Duration) + Send + Sync>,
    /// The priority of a rank: 0 is the least urgent, 9 the most.
    pub(crate) urgent: fn(u8) -> u8,
    _directory: Option<tempfile::TempDir>,
}

pub(crate) fn memory() -> Setup {
    let clock = Clock::manual(START);
    let store = MemoryStore::new(clock.clone());
    let (broker, backend) = (Arc::new(store.clone()), Arc::new(store.clone()));
    Setup { wake: Box::new(move || store.wake()), ..Setup::of(broker, backend, clock) }
}

#[cfg(feature = "sqlite")]
pub(crate) fn sqlite(threading: celeriac::driver::Threading) -> Setup {
    use celeriac::driver::sqlite::{SqliteOptions, SqliteStore};
    let directory = tempfile::tempdir().expect("a temporary directory");
    let clock = Clock::manual(START);
    let store = SqliteStore::open(SqliteOptions {
        threading,
        clock: clock.clone(),
        survive_power_cut: false,
        ..SqliteOptions::new(directory.path().join("store.db"))
    })
    .expect("opens");
    let (broker, backend) = (Arc::new(store.clone()), Arc::new(store.clone()));
    let of = Setup::of(broker, backend, clock);
    Setup { wake: Box::new(move || store.wake()), _directory: Some(directory), ..of }
}

/// Messages and results in Redis.
#[cfg(feature = "redis")]
pub(crate) fn redis() -> Setup {
    use celeriac::driver::connect_backend;
    use celeriac::driver::redis::RedisBroker;
    let room = crate::servers::Room::new();
    let clock = Clock::manual(START);
    let broker = RedisBroker::connect(&room.url, &room.options(&clock)).expect("the URL is one");
    let backend = connect_backend(&room.url, room.options(&clock)).expect("the URL is one");
    let of = Setup::of(Arc::new(broker.clone()), backend, clock);
    let (wake, age) = (Box::new(move || broker.wake()), Box::new(move |by| room.age(by)));
    Setup { wake, age, urgent: |rank| 9_u8.saturating_sub(rank), ..of }
}

impl Setup {
    pub(crate) fn of(broker: Arc<dyn Broker>, backend: Arc<dyn ResultBackend>, clock: Clock) -> Self {
        let (wake, age) = (Box::new(|| {}), Box::new(|_| {}));
        Self { broker, backend, clock, wake, age, urgent: |rank| rank, _directory: None }
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.clock.advance(by);
        (self.age)(by);
        (self.wake)();
    }

    pub(crate) async fn publish(&self, queue: &str, names: &[&str]) {
        let batch = names.iter().map(|name| publication(queue, name)).collect();
        self.broker.publish(batch).await.expect("publishes");
    }

    pub(crate) async fn consumer(&self, node: &str, queues: &[&str]) -> Box<dyn Consumer> {
        let results = Some(self.backend.location());
        let options = ConsumerOptions { results, ..options(node, queues) };
        self.broker.consume(options).await.expect("consumes")
    }
}

pub(crate) fn options(node: &str, queues: &[&str]) -> ConsumerOptions {
    ConsumerOptions {
        queues: queues.iter().map(ToString::to_string).collect(),
        node: node.to_owned(),
        lease: LEASE,
        max_crashes: 3,
        results: None,
    }
}

/// A message whose body is its name.
pub(crate) fn message(name: &str) -> Message {
    Message {
        headers: Bytes::from_static(b"{\"task\": \"t\"}"),
        properties: Properties {
            content_type: "application/json".to_owned(),
            content_encoding: "utf-8".to_owned(),
            delivery_mode: 2,
            // As Celery always writes it: some stores cannot tell it from none.
            priority: Some(0),
            ..Properties::default()
        },
        body: Bytes::copy_from_slice(name.as_bytes()),
    }
}

pub(crate) fn publication(queue: &str, name: &str) -> Publication {
    Publication { routing_key: queue.to_owned(), message: message(name), ..Publication::default() }
}

pub(crate) fn prioritized(queue: &str, name: &str, priority: u8) -> Publication {
    let mut publication = publication(queue, name);
    publication.message.properties.priority = Some(priority);
    publication
}

pub(crate) fn due(queue: &str, name: &str, at: UnixMillis) -> Publication {
    Publication { due_ms: Some(at.0), ..publication(queue, name) }
}

pub(crate) fn record(task_id: &str, state: &str) -> ResultRecord {
    ResultRecord {
        task_id: task_id.to_owned(),
        state: state.to_owned(),
        record: Bytes::from(format!("{{\"status\": \"{state}\"}}")),
        content_type: "application/json".to_owned(),
        expires_ms: None,
        reply_to: None,
        retain: None,
    }
}

pub(crate) fn settle(delivery: &Delivery, settle: Settle) -> Commit {
    Commit { claim: Some(delivery.claim), settle, ..Commit::default() }
}

pub(crate) fn credit(count: usize) -> Credit {
    Credit { count, bytes: usize::MAX }
}

pub(crate) fn name(delivery: &Delivery) -> String {
    String::from_utf8(delivery.message.body.to_vec()).expect("names are text")
}

pub(crate) fn names(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(name).collect()
}

/// Claims until there are `count`.
pub(crate) async fn take(consumer: &dyn Consumer, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while taken.len() < count {
        taken.extend(consumer.claim(credit(count - taken.len())).await.expect("claims"));
    }
    taken
}

/// Commits one settlement.
pub(crate) async fn commit(
    consumer: &dyn Consumer,
    delivery: &Delivery,
    how: Settle,
) -> celeriac::broker::Committed {
    consumer.commit(&[settle(delivery, how)]).await.expect("commits")[0]
}

/// Checks that a claim finds nothing now: it still waits after the store has been asked to look again.
pub(crate) async fn nothing(setup: &Setup, consumer: &dyn Consumer) {
    let mut claim = consumer.claim(credit(10));
    for _ in 0..3 {
        (setup.wake)();
        let pending = tokio::time::timeout(Duration::from_millis(20), &mut claim).await;
        assert!(pending.is_err(), "nothing was expected, but {pending:?}");
    }
}

/// No test of the suite may hang. Longer than a server may take to start on a busy machine: the first test that
/// needs one waits for it inside.
pub(crate) async fn in_time<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(180), test).await.expect("the test ends in time")
}

//! Running tasks: claiming, deciding, giving to the pool, committing.
//!
//! The way of a delivery through the files:
//! - `consumer`: the main loop; `intake`: a delivery becomes a decision (`strategy`, `rate_limit`,
//!   `revoked`) and a `request`; `eta`: what waits for its time;
//! - `running`: requests go to the `pool`, and come back as outcomes; `request` says what that does to the
//!   claim; `member`: what is never lost silently, since others wait for it;
//! - `commit`: results, follow-ups and settlement, in batches; `link`: stores that do not answer;
//! - `limits`, `turns`: what waits for a turn of a limit of all workers;
//! - `prefetch`: how much is claimed; `autoscale`: how many slots there are; `upkeep`: leases and the watchdog;
//!   `control`: what others ask for;
//!   `saved`: what is known beyond the worker's life; `events`: what monitors are told; `stream`: what is kept of it;
//! - `http`: the pool that makes HTTP calls and delivers webhooks; `aside`: the second loop that feeds it;
//! - `health`, `metrics`: what is told to those who ask by HTTP;
//! - `lifecycle`: start and stop; `notice`, `told`, `log`, `stats`, `service`: what is told of all this.

pub mod http;
pub mod pool;

mod aside;
mod autoscale;
mod batch;
mod chords;
mod commit;
mod consumer;
mod control;
mod counting;
mod dead;
mod eta;
mod events;
mod first;
mod health;
mod intake;
mod keeping;
mod lifecycle;
mod limits;
mod link;
mod log;
mod member;
mod metrics;
mod notice;
mod options;
mod pause;
mod payloads;
mod policy;
mod prefetch;
mod rate_limit;
mod request;
mod revoked;
mod running;
mod saved;
mod service;
mod stalled;
mod stats;
mod strategy;
mod stream;
mod tasks;
mod told;
mod turns;
mod unique;
mod upkeep;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::backend::ResultBackend;
use crate::broker::{Broker, BrokerError};
use crate::clock::{Clock, Lamport};
use crate::numbers::NumberMap;
use commit::{Commits, Stores};
use consumer::ConsumerLoop;
use control::Heard;
use log::Log;
use pool::Pool;
use prefetch::Prefetch;
use service::Service;
use stats::{Counter, Counters};
use tasks::Tasks;

pub use autoscale::AutoscaleOptions;
pub use batch::BatchOptions;
pub use health::health_address;
pub use lifecycle::{Exit, Stop};
pub use limits::{LimitOptions, parse_window_rate};
pub use notice::{Level, LogLine, Notice, NoticeQueue};
pub use options::{About, ControlOptions, TaskOptions, WorkerOptions};
pub use policy::{Policy, QueueDefaults};
pub use rate_limit::{RateLimit, RateLimitError};
pub use service::ServiceManager;
pub use stats::Stats;
pub use told::{TaskEvent, TaskNotice};

/// Why a worker ended otherwise than by a stop.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WorkerError {
    /// The broker cannot be used, and waiting does not help.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// There is nothing to run tasks any more.
    #[error("{0}")]
    Pool(String),
    /// The health address cannot be used.
    #[error("cannot listen on the health address {address}: {error}")]
    Health {
        /// The address.
        address: String,
        /// Why.
        error: Arc<std::io::Error>,
    },
    /// The service manager that started the worker cannot be told of it.
    #[error("cannot open the socket of the service manager ($NOTIFY_SOCKET): {0}")]
    Service(Arc<std::io::Error>),
    /// Something is limited over all workers, and nothing keeps such limits.
    #[error("{0}")]
    Limits(String),
    /// The file with what is kept beyond the worker's life cannot be used.
    #[error("{0}")]
    State(String),
}

/// A worker that does not run yet.
pub struct Worker {
    options: WorkerOptions,
    stores: Stores,
    pool: Box<dyn Pool>,
    clock: Clock,
    notices: Arc<NoticeQueue>,
    stats: Arc<Counters>,
    orders: Arc<watch::Sender<Option<Stop>>>,
    heard: (mpsc::Sender<Heard>, mpsc::Receiver<Heard>),
    lamport: Arc<Lamport>,
}

impl Worker {
    /// A worker on this broker and backend (results are dropped when there is none).
    pub fn new(
        options: WorkerOptions,
        broker: Arc<dyn Broker>,
        backend: Option<Arc<dyn ResultBackend>>,
        pool: Box<dyn Pool>,
        clock: Clock,
    ) -> Self {
        let notices = Arc::new(NoticeQueue::new(options.log_level));
        notices.want_tasks(&options.tell);
        let log = Arc::new(Log::new(notices.clone(), clock.clone()));
        let store = broker.store_id();
        let one_store = store.is_some() && backend.as_ref().is_none_or(|backend| backend.store_id() == store);
        let stores = Stores { broker, writer: None, backend, one_store, log };
        let totals =
            options.tasks.keys().map(|name| (Arc::from(name.as_str()), Counter::default())).collect();
        let stats = Arc::new(Counters { totals, ..Counters::default() });
        let orders = Arc::new(watch::Sender::new(None));
        let heard = mpsc::channel(control::WAITING);
        let lamport = Arc::default();
        Self { options, stores, pool, clock, notices, stats, orders, heard, lamport }
    }

    /// The same, with another broker for follow-ups (`broker_write_url`). They are sent before the claim is
    /// settled, since no transaction spans two brokers.
    #[must_use]
    pub fn with_writer(mut self, writer: Arc<dyn Broker>) -> Self {
        let store = writer.store_id();
        if store.is_none() || store != self.stores.broker.store_id() {
            self.stores.writer = Some(writer);
            self.stores.one_store = false;
        }
        self
    }

    /// What the rest of the program holds while the worker runs.
    pub fn handle(&self) -> WorkerHandle {
        WorkerHandle {
            orders: self.orders.clone(),
            stats: self.stats.clone(),
            notices: self.notices.clone(),
            heard: self.heard.0.clone(),
        }
    }

    /// Runs until a handle stops it. Must be called on a tokio runtime with time and IO.
    pub async fn run(mut self) -> Result<Exit, WorkerError> {
        // Kept to the end: the loop's receiver must not see all senders gone.
        let orders = self.orders.clone();
        let ear = self.options.control.enabled.then(|| {
            let (exchange, node) = (self.options.control.exchange.clone(), self.options.node.clone());
            control::listen(&self.stores, exchange, node, self.lamport.clone(), self.heard.0.clone())
        });
        let service = Service::new(self.options.service_manager.as_ref());
        let service = service.map_err(|error| WorkerError::Service(Arc::new(error)))?;
        let aside = self.aside();
        let mut consumer = self.into_loop(service);
        consumer.ear = ear;
        let _door = consumer.open_health().await?;
        consumer.load_state().map_err(WorkerError::State)?;
        consumer.open_limits()?;
        consumer.connect().await?;
        consumer.start_aside(aside);
        consumer.turn().await;
        let exit = consumer.finish().await;
        consumer.end_aside(exit.is_err()).await;
        drop(orders);
        exit
    }

    fn into_loop(self, service: Service) -> ConsumerLoop {
        let now = Instant::now();
        let log = self.stores.log.clone();
        let monitor = events::Events::new(&self.options, self.lamport, &log);
        let policies = policy::Policies::new(&self.options);
        let limits = self.options.dead_limits.any();
        let dead = dead::DeadLook::new(&self.stores, limits || self.options.health_address.is_some());
        let keeps_members = self.stores.broker.counts_crashes();
        let stalled = stalled::StalledLook::new(self.options.chord_lost_after, &self.stores);
        let keeping = keeping::Keeping::new(&self.stores, &self.options.node, self.options.lease);
        ConsumerLoop {
            monitor,
            stream: stream::stream(self.options.task_stream),
            tasks: Tasks::new(self.options.tasks.clone()),
            prefetch: Prefetch::new(self.options.prefetch_multiplier, self.options.prefetch_bytes),
            ear: None,
            aside: None,
            is_aside: false,
            autoscale: self.options.autoscale.map(|options| autoscale::Autoscale::new(options, now)),
            orders: self.orders.subscribe(),
            claim_link: upkeep::link("claim from the broker", &log),
            renew_link: upkeep::link("renew the lease", &log),
            options: self.options,
            clock: self.clock,
            stores: self.stores,
            pool: self.pool,
            notices: self.notices,
            service,
            log,
            stats: self.stats,
            born: now,
            requests: NumberMap::default(),
            orphans: HashMap::new(),
            marking: HashSet::new(),
            next_tag: 1,
            ready: VecDeque::new(),
            held: eta::Held::default(),
            young: VecDeque::new(),
            marks: VecDeque::new(),
            rates: rate_limit::RateLimits::default(),
            limits: None,
            turning: None,
            hearing: None,
            batches: batch::Batches::default(),
            payloads: NumberMap::default(),
            revoked: revoked::Revoked::default(),
            commits: Commits::default(),
            stale_logged: 0,
            keeps_members,
            policies,
            dead,
            pauses: pause::Pauses::default(),
            keeping,
            stalled,
            sources: Vec::new(),
            claim_after: None,
            renew_at: now,
            keys_at: now + Duration::from_secs(1),
            tick_at: now + Duration::from_secs(1),
            sweep_at: now + Duration::from_secs(30),
            strikes: 0,
            last_finish: now,
            consuming: false,
            life: lifecycle::Phase::Running,
            ending: lifecycle::Ending::default(),
            broken: None,
            control: self.heard.1,
            desk: control::Desk::default(),
            saving: saved::Saving::default(),
            claiming: None,
            committing: None,
            in_flight: 0,
            renewing: None,
            chores: FuturesUnordered::new(),
            events: Vec::new(),
            timer: Box::pin(tokio::time::sleep_until(now)),
        }
    }
}

/// Stops a worker, and looks at it, from any thread.
#[derive(Clone)]
pub struct WorkerHandle {
    /// Written here, read by the worker's loop.
    orders: Arc<watch::Sender<Option<Stop>>>,
    stats: Arc<Counters>,
    notices: Arc<NoticeQueue>,
    heard: mpsc::Sender<Heard>,
}

impl WorkerHandle {
    /// Asks for a stop. A cold one overrides a warm one, never the other way round.
    pub fn stop(&self, how: Stop) {
        self.orders.send_if_modified(|order| {
            let stronger = order.is_none_or(|order| order < how);
            if stronger {
                *order = Some(how);
            }
            stronger
        });
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.stats.snapshot()
    }

    /// Answers a command of the app's own ([`Notice::Command`]) with JSON text. Waits for a place in the worker's queue, so
    /// it must not be called on a runtime's thread. False when the worker has ended.
    pub fn reply(&self, number: u64, json: String) -> bool {
        self.heard.blocking_send(Heard::Answer(number, json)).is_ok()
    }

    /// What the worker has to tell.
    pub fn notices(&self) -> Arc<NoticeQueue> {
        self.notices.clone()
    }
}

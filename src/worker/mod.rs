//! Running tasks: claiming, deciding, giving to the pool, committing.
//!
//! The way of a delivery through the files:
//! - `consumer`: the main loop; `intake`: a delivery becomes a decision (`strategy`, `rate_limit`,
//!   `revoked`) and a `request`; `eta`: what waits for its time;
//! - `running`: requests go to the `pool`, and come back as outcomes; `request` says what that does to the
//!   claim;
//! - `commit`: results, follow-ups and settlement, in batches; `link`: stores that do not answer;
//! - `prefetch`: how much is claimed; `upkeep`: leases and the watchdog; `control`: what others ask for;
//! - `lifecycle`: start and stop; `notice`, `log`, `stats`: what is told of all this.

pub mod pool;

mod commit;
mod consumer;
mod control;
mod eta;
mod intake;
mod lifecycle;
mod link;
mod log;
mod notice;
mod options;
mod prefetch;
mod rate_limit;
mod request;
mod revoked;
mod running;
mod stats;
mod strategy;
mod tasks;
mod upkeep;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::backend::ResultBackend;
use crate::broker::{Broker, BrokerError};
use crate::clock::Clock;
use crate::numbers::NumberMap;
use commit::{Commits, Stores};
use consumer::ConsumerLoop;
use log::Log;
use pool::Pool;
use prefetch::Prefetch;
use stats::{Counter, Counters};
use tasks::Tasks;

pub use lifecycle::{Exit, Stop};
pub use notice::{Level, LogLine, Notice, NoticeQueue};
pub use options::{TaskOptions, WorkerOptions};
pub use rate_limit::{RateLimit, RateLimitError};
pub use stats::Stats;

/// Why a worker ended otherwise than by a stop.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WorkerError {
    /// The broker cannot be used, and waiting does not help.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// There is nothing to run tasks any more.
    #[error("{0}")]
    Pool(String),
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
        let log = Arc::new(Log::new(notices.clone(), clock.clone()));
        let store = broker.store_id();
        let one_store = store.is_some() && backend.as_ref().is_none_or(|backend| backend.store_id() == store);
        let stores = Stores { broker, writer: None, backend, one_store, log };
        let totals =
            options.tasks.keys().map(|name| (Arc::from(name.as_str()), Counter::default())).collect();
        let stats = Arc::new(Counters { totals, ..Counters::default() });
        let orders = Arc::new(watch::Sender::new(None));
        Self { options, stores, pool, clock, notices, stats, orders }
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
        WorkerHandle { orders: self.orders.clone(), stats: self.stats.clone(), notices: self.notices.clone() }
    }

    /// Runs until a handle stops it. Must be called on a tokio runtime with time and IO.
    pub async fn run(self) -> Result<Exit, WorkerError> {
        // Kept to the end: the loop's receiver must not see all senders gone.
        let orders = self.orders.clone();
        let (_ear, control) =
            control::listen(self.stores.broker.clone(), self.options.node.clone(), self.stores.log.clone());
        let mut consumer = self.into_loop(control);
        consumer.connect().await?;
        consumer.turn().await;
        let exit = consumer.finish().await;
        drop(orders);
        exit
    }

    fn into_loop(
        self,
        control: tokio::sync::mpsc::Receiver<crate::protocol::ControlRequest>,
    ) -> ConsumerLoop {
        let now = Instant::now();
        let log = self.stores.log.clone();
        ConsumerLoop {
            tasks: Tasks::new(self.options.tasks.clone()),
            prefetch: Prefetch::new(self.options.prefetch_multiplier, self.options.prefetch_bytes),
            orders: self.orders.subscribe(),
            claim_link: upkeep::link("claim from the broker", &log),
            renew_link: upkeep::link("renew the lease", &log),
            options: self.options,
            clock: self.clock,
            stores: self.stores,
            pool: self.pool,
            notices: self.notices,
            log,
            stats: self.stats,
            born: now,
            requests: NumberMap::default(),
            orphans: HashMap::new(),
            next_tag: 1,
            ready: VecDeque::new(),
            held: eta::Held::default(),
            young: VecDeque::new(),
            marks: VecDeque::new(),
            rates: rate_limit::RateLimits::default(),
            revoked: revoked::Revoked::default(),
            commits: Commits::default(),
            stale_logged: 0,
            sources: Vec::new(),
            claim_after: None,
            renew_at: now,
            tick_at: now + Duration::from_secs(1),
            sweep_at: now + Duration::from_secs(30),
            strikes: 0,
            last_finish: now,
            consuming: false,
            life: lifecycle::Phase::Running,
            ending: lifecycle::Ending::default(),
            broken: None,
            control,
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

    /// What the worker has to tell.
    pub fn notices(&self) -> Arc<NoticeQueue> {
        self.notices.clone()
    }
}

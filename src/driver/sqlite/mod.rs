//! The store in one SQLite file: broker and result backend of any number of processes on one host.
//!
//! - `schema`: the tables. `connection`: opening the file, waiting for its lock. `fault`: its errors.
//! - `queue`, `owner`, `results`, `chord`, `broadcast`, `schedule`, `keys`, `topics`: the SQL, as steps within a transaction
//!   (`step`).
//! - `writer`: the connection that writes; everyone who waits shares a transaction.
//! - `doorbell`: wake-up across processes. `watch`: who waits for results.
//! - `process`: which process this is, and whether another still lives.
//! - `broker`, `consumer`, `backend`: the contracts.
//!
//! In [`Threading::Inline`](crate::driver::Threading) mode a future does its work when it is polled, and blocks its
//! thread for as long as the file's lock and the disk take. Reads do so in both modes: they never wait for a lock.
//!
//! What a power cut takes: with `synchronous=full` (the default) nothing that was published or committed; with
//! `synchronous=normal` perhaps the last moments. A claim or a renewal may always be lost: then the message is
//! ready again. The file is whole in every case, also when a process is killed between any two steps.

mod backend;
mod broadcast;
mod broker;
mod chord;
mod connection;
mod consumer;
mod dead;
mod doorbell;
mod fault;
mod guard;
mod keys;
mod limits;
mod owner;
mod queue;
mod results;
mod schedule;
mod schema;
mod step;
mod topics;
mod watch;
mod writer;

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Notify;
use tokio::sync::watch::Sender;

use crate::broker::BrokerError;
use crate::clock::Clock;
use crate::driver::Threading;
use crate::driver::process::Process;
use crate::driver::routing::QueueOrder;
use connection::Linked;
use doorbell::{Bells, Heard, Kind, Listener, Rings};
use fault::Fault;
use watch::Watches;
use writer::{Durability, Synchronous, Writer, WriterOptions};

/// Dead owners are looked for this often at the most.
const RECOVERY: Duration = Duration::from_secs(1);

/// How to open the file.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// The file; it is made when it is missing, its directory is not.
    pub path: PathBuf,
    /// Whether a publish or commit that returned survives a power cut.
    pub survive_power_cut: bool,
    /// Bytes that one message may have (headers and body).
    pub max_message: usize,
    /// Bytes that the file may grow to (its write-ahead log aside); none: as long as the disk has room.
    pub max_size: Option<u64>,
    /// Who does the work.
    pub threading: Threading,
    /// Where leases and due times come from.
    pub clock: Clock,
    /// How long opening may wait for the file's lock.
    pub connect_timeout: Duration,
    /// How long a write may wait for the file's lock.
    pub timeout: Duration,
    /// In which order claims look at their queues.
    pub queue_order: QueueOrder,
}

impl SqliteOptions {
    /// The defaults for a file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            survive_power_cut: true,
            max_message: 100 << 20,
            max_size: None,
            threading: Threading::Inline,
            clock: Clock::system(),
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
            queue_order: QueueOrder::default(),
        }
    }
}

/// A broker and result backend in one file. Clones share its connections.
#[derive(Clone)]
pub struct SqliteStore(Arc<Shared>);

struct Shared {
    path: PathBuf,
    clock: Clock,
    max_message: usize,
    timeout: Duration,
    /// How claims look at their queues: as whoever opened the store first in this process wants it.
    queue_order: QueueOrder,
    process: Process,
    writer: Arc<Writer>,
    /// For reading beside the writer; used by whoever reads, for one read.
    reader: Mutex<Linked>,
    signals: Arc<Signals>,
    /// When dead owners were last looked for; none when someone has seen one. Written and read by claims and ticks.
    recovered: Mutex<Option<Instant>>,
    /// SQLite's change counter as the bells' thread last saw it.
    seen: Mutex<i64>,
}

/// Who waits in this process. Apart from [`Shared`], because the writer rings it.
struct Signals {
    bells: Arc<Bells>,
    /// Rung when a waiting claim may go on.
    messages: Notify,
    /// Rung after a broadcast.
    broadcasts: Notify,
    /// Rung after an entry of the stream.
    streams: Notify,
    /// Counts what came back of limits. Written by whoever hears of it, watched by their bells.
    turns: Sender<u64>,
    watches: Watches,
}

impl SqliteStore {
    /// Opens the file.
    pub fn open(options: SqliteOptions) -> Result<Self, BrokerError> {
        let url = url(&options.path);
        open(options).map(Self).map_err(|fault| fault.broker(url))
    }

    /// Makes everyone who waits look again; for tests, after they moved a manual clock.
    pub fn wake(&self) {
        *self.0.recovered.lock() = None;
        for kind in Kind::ALL {
            self.0.signals.bells.poke(kind);
        }
    }

    /// How often the thread that waits for changes woke up: what idling costs.
    pub fn wakeups(&self) -> u64 {
        self.0.signals.bells.wakeups()
    }

    pub(in crate::driver) fn downgrade(&self) -> WeakStore {
        WeakStore(Arc::downgrade(&self.0))
    }
}

/// A store that is kept open by others.
pub(in crate::driver) struct WeakStore(Weak<Shared>);

impl WeakStore {
    pub(in crate::driver) fn upgrade(&self) -> Option<SqliteStore> {
        self.0.upgrade().map(SqliteStore)
    }
}

fn open(options: SqliteOptions) -> Result<Arc<Shared>, Fault> {
    let system = |error: std::io::Error| Fault::Passing(error.to_string());
    let connection = Linked::open(&options.path, options.connect_timeout, options.max_size)?;
    let path = connection.path().to_owned();
    let reader = Linked::open(&path, options.connect_timeout, None)?;
    let signals = Arc::new(Signals {
        bells: Arc::new(Bells::new(&path).map_err(system)?),
        messages: Notify::new(),
        broadcasts: Notify::new(),
        streams: Notify::new(),
        turns: Sender::new(0),
        watches: Watches::default(),
    });
    let durable = if options.survive_power_cut { Synchronous::Full } else { Synchronous::Normal };
    let writer = Writer::start(
        connection,
        WriterOptions {
            clock: options.clock.clone(),
            timeout: options.timeout,
            durable,
            threading: options.threading,
        },
        signals.clone(),
    )
    .map_err(system)?;
    Ok(Arc::new(Shared {
        path,
        clock: options.clock,
        max_message: options.max_message,
        timeout: options.timeout,
        queue_order: options.queue_order,
        process: Process::own(),
        writer,
        reader: Mutex::new(reader),
        signals,
        recovered: Mutex::new(None),
        seen: Mutex::new(0),
    }))
}

fn url(path: &std::path::Path) -> String {
    format!("sqlite:///{}", path.display())
}

impl Signals {
    /// Wakes whoever waits for what this process has just committed.
    fn committed(&self, connection: &Connection, rings: Rings, listeners: &[Listener]) {
        if let Err(error) = self.bells.ring(connection, listeners) {
            tracing::debug!(%error, "cannot ring; others will see the change within a second");
        }
        self.wake(rings);
        if rings.has(Kind::Results) && !self.watches.is_empty() {
            self.bells.poke(Kind::Results);
        }
    }

    fn wake(&self, rings: Rings) {
        if rings.has(Kind::Messages) {
            self.messages.notify_waiters();
        }
        if rings.has(Kind::Broadcasts) {
            self.broadcasts.notify_waiters();
        }
        if rings.has(Kind::Stream) {
            self.streams.notify_waiters();
        }
        if rings.has(Kind::Turns) {
            self.turns.send_modify(|version| *version += 1);
        }
    }
}

impl Shared {
    fn url(&self) -> String {
        url(&self.path)
    }

    /// One read, beside the writer.
    fn read<T>(&self, read: impl Fn(&Connection) -> rusqlite::Result<T>) -> Result<T, Fault> {
        connection::retry(self.timeout, || {
            let mut reader = self.reader.lock();
            reader.follow()?;
            Ok(read(&reader)?)
        })
    }

    /// Hangs up a bell and makes sure that its thread runs.
    async fn listen_for(self: &Arc<Self>, kind: Kind) -> Result<(), Fault> {
        let store = Arc::downgrade(self);
        let hear = move |heard| store.upgrade().is_some_and(|store| store.hear(&heard));
        self.signals.bells.start(hear).map_err(|error| Fault::Passing(error.to_string()))?;
        if self.signals.bells.hang(kind) {
            let (bells, process) = (self.signals.bells.clone(), self.process.clone());
            let register =
                move |step: &mut step::Step<'_>| broadcast::register(step, &bells.hanging(), &process);
            self.writer.submit(Durability::Relaxed, register).await?;
        }
        Ok(())
    }

    /// Called by the thread of the bells; false ends it.
    fn hear(&self, heard: &Heard) -> bool {
        match *heard {
            Heard::Changed(rings) => self.changed(rings),
            Heard::Tick(armed) => {
                if let Err(fault) = self.tick(armed) {
                    tracing::debug!(?fault, "cannot look for changes");
                }
            }
        }
        true
    }

    fn changed(&self, rings: Rings) {
        self.signals.wake(rings);
        if rings.has(Kind::Results) && !self.signals.watches.is_empty() {
            if let Err(fault) = self.read(|connection| self.signals.watches.scan(connection)) {
                self.signals.watches.fail(&fault);
            }
            self.signals.bells.arm(Kind::Results, None);
        }
    }

    /// The net below the bells: changes that nobody rang for, and owners that died.
    fn tick(&self, armed: Rings) -> Result<(), Fault> {
        let replaced = self.reader.lock().follow()?;
        let version: i64 = self.read(|connection| {
            connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
        })?;
        let changed = std::mem::replace(&mut *self.seen.lock(), version) != version || replaced;
        let now = self.clock.now();
        if armed.has(Kind::Messages) && !self.read(|connection| owner::dead(connection, now, 0))?.is_empty() {
            *self.recovered.lock() = None;
            self.signals.messages.notify_waiters();
        }
        if changed {
            self.changed(armed);
            self.keep_registered()?;
        }
        Ok(())
    }

    /// Names our bells again, should someone have taken them out of the table.
    fn keep_registered(&self) -> Result<(), Fault> {
        let hanging = self.signals.bells.hanging();
        if self.read(|connection| broadcast::are_registered(connection, &hanging))? {
            return Ok(());
        }
        let process = self.process.clone();
        self.writer.post(move |step| broadcast::register(step, &hanging, &process));
        Ok(())
    }

    /// Whether it is time to look for dead owners; whoever is told yes does it.
    fn recovery_is_due(&self) -> bool {
        let mut recovered = self.recovered.lock();
        let due = recovered.is_none_or(|last| last.elapsed() >= RECOVERY);
        if due {
            *recovered = Some(Instant::now());
        }
        due
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // A forked copy must not take down the bells of the process it was copied from.
        if i64::from(std::process::id()) == self.process.pid {
            let hanging = self.signals.bells.hanging();
            self.signals.bells.stop();
            if !hanging.is_empty() {
                self.writer.post(move |step| broadcast::unregister(step, &hanging));
            }
            self.writer.close();
        }
    }
}

//! The one connection that writes, and how everyone who waits for it shares its transactions.
//!
//! Whoever wants something written appends a job. Whoever then carries out jobs (the thread of the store, or
//! the caller that gets the connection first) takes all that wait and carries them out in **one** transaction,
//! so that they share one flush to the disk. If a job fails by its own fault, each is tried alone.
//!
//! A job that was taken is carried out even if its caller has gone; the answer then has no receiver, and a
//! claim gives itself back (`consumer::Claims`).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::Signals;
use super::connection::{Linked, retry};
use super::doorbell::Rings;
use super::fault::Fault;
use super::step::Step;
use crate::clock::Clock;
use crate::driver::Threading;

/// Jobs that one transaction takes.
const JOBS: usize = 256;
/// Callers that may wait for the thread of the store; more wait before they append.
const WAITING: usize = 1024;

/// What a power cut may take back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Durability {
    /// The last moments, in order: a claim, a renewal.
    Relaxed,
    /// Nothing.
    Durable,
}

pub(super) struct Writer {
    clock: Clock,
    timeout: Duration,
    /// What [`Durability::Durable`] asks of SQLite.
    durable: Synchronous,
    threading: Threading,
    /// Appended to by callers, emptied by whoever carries out.
    waiting: Mutex<Waiting>,
    /// Rung when a job was appended for the thread, and when a caller has carried out jobs.
    changed: Condvar,
    room: Arc<Semaphore>,
    /// Used by whoever carries out jobs, for the length of one transaction.
    desk: Mutex<Desk>,
    /// Told of what a committed transaction changed.
    signals: Arc<Signals>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Synchronous {
    Normal,
    Full,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Box<dyn Job>>,
    /// How many jobs were ever appended; the number of the last one.
    appended: u64,
    /// The number of the last job that was carried out by a caller.
    done: u64,
    /// A caller is carrying out jobs.
    led: bool,
    closed: bool,
}

struct Desk {
    connection: Linked,
    queues: HashMap<String, i64>,
    synchronous: Option<Synchronous>,
}

/// Something to do in a transaction. It may be tried more than once.
trait Job: Send {
    fn durability(&self) -> Durability;
    fn attempt(&mut self, step: &mut Step<'_>) -> Result<(), Fault>;
    fn answer(self: Box<Self>, outcome: Result<(), Fault>);
}

struct Work<F, T, S, U> {
    durability: Durability,
    attempt: F,
    value: Option<T>,
    /// What makes the answer of the value, once that is committed; none when nobody waits for it.
    reply: Option<(S, oneshot::Sender<Result<U, Fault>>)>,
    _room: Option<OwnedSemaphorePermit>,
}

impl<F, T, S, U> Job for Work<F, T, S, U>
where
    F: FnMut(&mut Step<'_>) -> rusqlite::Result<T> + Send,
    S: FnOnce(T) -> U + Send,
    T: Send,
    U: Send,
{
    fn durability(&self) -> Durability {
        self.durability
    }

    fn attempt(&mut self, step: &mut Step<'_>) -> Result<(), Fault> {
        self.value = Some((self.attempt)(step)?);
        Ok(())
    }

    fn answer(mut self: Box<Self>, outcome: Result<(), Fault>) {
        let Some((seal, reply)) = self.reply.take() else { return };
        let value = self.value.take();
        let answer = outcome.and_then(|()| value.map(seal).ok_or(Fault::Closed));
        // Whoever asked may be gone; an answer that matters takes care of itself when it is dropped.
        drop(reply.send(answer));
    }
}

/// How the writer is set up.
pub(super) struct WriterOptions {
    pub(super) clock: Clock,
    pub(super) timeout: Duration,
    pub(super) durable: Synchronous,
    pub(super) threading: Threading,
}

impl Writer {
    pub(super) fn start(
        connection: Linked,
        options: WriterOptions,
        signals: Arc<Signals>,
    ) -> std::io::Result<Arc<Self>> {
        let writer = Arc::new(Self {
            clock: options.clock,
            timeout: options.timeout,
            durable: options.durable,
            threading: options.threading,
            waiting: Mutex::default(),
            changed: Condvar::new(),
            room: Arc::new(Semaphore::new(WAITING)),
            desk: Mutex::new(Desk { connection, queues: HashMap::new(), synchronous: None }),
            signals,
        });
        if options.threading == Threading::Dedicated {
            let writer = writer.clone();
            std::thread::Builder::new().name("celeriac-sqlite".to_owned()).spawn(move || writer.run())?;
        }
        Ok(writer)
    }

    /// Carries out `work` in a transaction, perhaps with others'.
    pub(super) async fn submit<T, F>(&self, durability: Durability, work: F) -> Result<T, Fault>
    where
        F: FnMut(&mut Step<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.submit_sealed(durability, work, |value| value).await
    }

    /// The same; `seal` makes the answer of what was committed. Work may be tried more than once, and what an
    /// attempt gave that was rolled back is dropped unsealed.
    pub(super) async fn submit_sealed<T, F, S, U>(
        &self,
        durability: Durability,
        work: F,
        seal: S,
    ) -> Result<U, Fault>
    where
        F: FnMut(&mut Step<'_>) -> rusqlite::Result<T> + Send + 'static,
        S: FnOnce(T) -> U + Send + 'static,
        T: Send + 'static,
        U: Send + 'static,
    {
        let room = match self.threading {
            Threading::Inline => None,
            Threading::Dedicated => Some(self.room.clone().acquire_owned().await.map_err(|_| Fault::Closed)?),
        };
        let (reply, answer) = oneshot::channel();
        self.append(Box::new(Work {
            durability,
            attempt: work,
            value: None,
            reply: Some((seal, reply)),
            _room: room,
        }));
        answer.await.unwrap_or(Err(Fault::Closed))
    }

    /// The same, when nobody can wait for it.
    pub(super) fn post<F>(&self, work: F)
    where
        F: FnMut(&mut Step<'_>) -> rusqlite::Result<()> + Send + 'static,
    {
        let durability = Durability::Relaxed;
        let reply = None::<(fn(()), _)>;
        self.append(Box::new(Work { durability, attempt: work, value: None, reply, _room: None }));
    }

    fn append(&self, job: Box<dyn Job>) {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            drop(waiting);
            return job.answer(Err(Fault::Closed));
        }
        waiting.jobs.push_back(job);
        waiting.appended += 1;
        match self.threading {
            Threading::Dedicated => drop(self.changed.notify_one()),
            Threading::Inline => self.see_done(waiting),
        }
    }

    /// Waits until the job that was just appended is done: by the caller who leads, or by leading.
    ///
    /// Not by waiting for the connection's lock: someone whose job is done would wait behind the next leader's
    /// flush, and have nothing to share with it.
    fn see_done(&self, mut waiting: MutexGuard<'_, Waiting>) {
        let mine = waiting.appended;
        while waiting.led {
            self.changed.wait(&mut waiting);
            if waiting.done >= mine {
                return;
            }
        }
        waiting.led = true;
        let led = Lead { writer: self, last: waiting.appended };
        let jobs = std::mem::take(&mut waiting.jobs);
        drop(waiting);
        self.carry_out(&mut self.desk.lock(), jobs);
        drop(led);
    }

    /// The thread of the store: until it is closed and nothing waits.
    fn run(&self) {
        let _closed = CloseOnExit(self);
        loop {
            let jobs = {
                let mut waiting = self.waiting.lock();
                while waiting.jobs.is_empty() {
                    if waiting.closed {
                        return;
                    }
                    self.changed.wait(&mut waiting);
                }
                let count = waiting.jobs.len().min(JOBS);
                waiting.jobs.drain(..count).collect()
            };
            self.carry_out(&mut self.desk.lock(), jobs);
        }
    }

    /// No more jobs; those that wait are still done (by the thread, if there is one).
    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.changed.notify_all();
    }

    fn carry_out(&self, desk: &mut Desk, mut jobs: VecDeque<Box<dyn Job>>) {
        if jobs.is_empty() {
            return;
        }
        match self.transaction(desk, jobs.make_contiguous()) {
            Ok(()) => jobs.into_iter().for_each(|job| job.answer(Ok(()))),
            Err(fault) if jobs.len() > 1 && fault.is_of_the_step() => {
                for mut job in jobs {
                    let outcome = self.transaction(desk, std::slice::from_mut(&mut job));
                    job.answer(outcome);
                }
            }
            Err(fault) => jobs.into_iter().for_each(|job| job.answer(Err(fault.clone()))),
        }
    }

    /// All of the jobs in one transaction, or none of them.
    fn transaction(&self, desk: &mut Desk, jobs: &mut [Box<dyn Job>]) -> Result<(), Fault> {
        let wanted = match jobs.iter().map(|job| job.durability()).max() {
            Some(Durability::Durable) => self.durable,
            _ => Synchronous::Normal,
        };
        if desk.connection.follow()? {
            desk.queues.clear();
            desk.synchronous = None;
        }
        desk.set_synchronous(wanted)?;
        retry(self.timeout, || Ok(desk.sql("BEGIN IMMEDIATE")?))?;
        let mut step = Step {
            connection: &desk.connection,
            queues: &mut desk.queues,
            now: self.clock.now(),
            rings: Rings::default(),
        };
        let attempted = jobs.iter_mut().try_for_each(|job| job.attempt(&mut step));
        let rings = step.rings;
        let committed = attempted.and_then(|()| {
            let listeners = self.signals.bells.listeners(&desk.connection, rings)?;
            desk.sql("COMMIT")?;
            Ok(listeners)
        });
        match committed {
            Ok(listeners) => {
                if rings != Rings::default() {
                    self.signals.committed(&desk.connection, rings, &listeners);
                }
                Ok(())
            }
            Err(fault) => {
                desk.queues.clear();
                // Some errors have rolled back by themselves.
                if !desk.connection.is_autocommit() {
                    desk.sql("ROLLBACK")?;
                }
                Err(fault)
            }
        }
    }

    /// Something that cannot be done within a transaction, between two of them.
    pub(super) fn aside<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Fault> {
        Ok(work(&self.desk.lock().connection)?)
    }
}

impl Desk {
    fn sql(&self, sql: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql)?.execute([]).map(drop)
    }

    fn set_synchronous(&mut self, wanted: Synchronous) -> Result<(), Fault> {
        if self.synchronous != Some(wanted) {
            self.sql(match wanted {
                Synchronous::Normal => "PRAGMA synchronous = NORMAL",
                Synchronous::Full => "PRAGMA synchronous = FULL",
            })?;
            self.synchronous = Some(wanted);
        }
        Ok(())
    }
}

/// A caller that carries out everyone's jobs, up to the last. Should it panic, the next one leads.
struct Lead<'a> {
    writer: &'a Writer,
    last: u64,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut waiting = self.writer.waiting.lock();
        waiting.led = false;
        waiting.done = self.last;
        self.writer.changed.notify_all();
    }
}

/// Should the thread end by a panic, callers get an error instead of no answer.
struct CloseOnExit<'a>(&'a Writer);

impl Drop for CloseOnExit<'_> {
    fn drop(&mut self) {
        let jobs = {
            let mut waiting = self.0.waiting.lock();
            waiting.closed = true;
            std::mem::take(&mut waiting.jobs)
        };
        // Outside the lock: what a job holds may be the last of the store.
        drop(jobs);
    }
}

//! The pool of child processes.
//!
//! - `frame`: what travels between supervisor and child; the child's end uses it too.
//! - `child`: one child and what it was given.
//! - `slots`: the same for a child that runs several requests at a time.
//! - `spawn`: where children come from; `renew`: other sizes, other children, another fork server.
//! - `limits`, `recycle`: when a request has run too long, when a child has done enough.
//! - `pace`: how much a child is given ahead.
//!
//! Duties of [`ProcessPool`]:
//! 1. keep as many children as asked for; ask for the next one the moment one is seen to be gone;
//! 2. give executions to idle children, and short ones to busy children too, up to a depth; call back
//!    what waits behind one that turns out not to be short;
//! 3. signal the soft limit, kill at the hard limit, and tell how a child died;
//! 4. report every execution once as finished, lost, evicted or returned, in the order in which they ended.

mod child;
pub mod frame;
mod limits;
mod pace;
mod recycle;
mod renew;
mod slots;
mod spawn;
mod stop;

use std::future::poll_fn;
use std::ops::RangeBounds;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::UnixStream;
use tokio::time::{Instant, Sleep};

use self::child::Child;
use self::recycle::RecycleLimits;
use self::renew::{Candidate, OldServer};
use self::slots::Left;
use self::spawn::SpawnEvent;
pub use self::spawn::{ForkServer, Spawner};
use super::{Execution, Pool, PoolEvent, RequestTag};

/// How long the status of a child whose socket closed is waited for.
const STATUS_WAIT: Duration = Duration::from_millis(500);
/// Between two tries to make a child, after one failed.
const RESPAWN_PAUSE: Duration = Duration::from_millis(100);

/// How to make a [`ProcessPool`].
#[derive(Debug)]
pub struct ProcessPoolOptions {
    /// Children.
    pub processes: usize,
    /// Requests that run in each of them at the same time, where children have several slots and end a single request
    /// when they are told to. None: each has one, on its main thread, and a signal or its end is what ends a request.
    pub slots: Option<usize>,
    /// Where children come from.
    pub spawner: Spawner,
    /// A child that has run this many tasks is replaced.
    pub max_tasks_per_child: Option<u64>,
    /// A child that uses more memory after a task is replaced (KiB).
    pub max_memory_per_child: Option<u64>,
    /// Some task has a hard limit: the children must be such that can be killed.
    pub hard_limits: bool,
}

/// Why a pool cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// A fixed child is the worker's own process.
    #[error(
        "a hard time limit needs a pool of processes: the solo pool runs tasks in the worker itself, which cannot be killed; use --pool prefork, or a soft limit"
    )]
    HardLimitOnSolo,
    /// There is one fixed child.
    #[error("the solo pool runs one task at a time: concurrency must be 1, not {0}")]
    ConcurrencyOnSolo(usize),
    /// A fixed child stays.
    #[error(
        "the solo pool cannot replace its process: limits of tasks or memory per child need --pool prefork"
    )]
    RecycleOnSolo,
    /// No slots at all.
    #[error("the pool needs at least one process, and a slot in it")]
    Empty,
}

/// Runs requests in child processes.
#[derive(Debug)]
pub struct ProcessPool {
    processes: usize,
    slots: Option<usize>,
    spawner: Spawner,
    /// Fork servers that were replaced, and stay until their last child has gone: it would die with them.
    old_servers: Vec<OldServer>,
    /// The fork server that is to take over, until its first child is set up.
    candidate: Option<Candidate>,
    /// How often the pool was restarted. Children of an earlier generation are replaced.
    generation: u32,
    /// The first generation of the children of the present fork server.
    server_since: u32,
    recycle: RecycleLimits,
    /// Children that run, or are being made.
    children: Vec<Child>,
    /// Children that are gone or going, until all that they wrote is read and their end is known.
    leaving: Vec<Child>,
    next_number: u64,
    /// No child is asked for before this moment.
    respawn_at: Option<Instant>,
    /// Some child has said that it is set up, so the others will too: one that dies before has begun nothing.
    tells_ready: bool,
    stopping: bool,
    broken: bool,
    events: Vec<PoolEvent>,
    news: Vec<SpawnEvent>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl ProcessPool {
    /// A pool; children are made when it is first polled.
    pub fn new(options: ProcessPoolOptions) -> Result<Self, PoolError> {
        let recycle = RecycleLimits {
            max_tasks: options.max_tasks_per_child,
            max_memory_kib: options.max_memory_per_child,
        };
        if options.processes == 0 || options.slots == Some(0) {
            return Err(PoolError::Empty);
        }
        if matches!(options.spawner, Spawner::Fixed(_)) {
            if options.hard_limits {
                return Err(PoolError::HardLimitOnSolo);
            }
            let concurrency = options.processes * options.slots.unwrap_or(1);
            if concurrency != 1 {
                return Err(PoolError::ConcurrencyOnSolo(concurrency));
            }
            if recycle.max_tasks.is_some() || recycle.max_memory_kib.is_some() {
                return Err(PoolError::RecycleOnSolo);
            }
        }
        Ok(Self {
            processes: options.processes,
            slots: options.slots,
            spawner: options.spawner,
            old_servers: Vec::new(),
            candidate: None,
            generation: 0,
            server_since: 0,
            recycle,
            children: Vec::new(),
            leaving: Vec::new(),
            next_number: 1,
            respawn_at: None,
            tells_ready: false,
            stopping: false,
            broken: false,
            events: Vec::new(),
            news: Vec::new(),
            timer: None,
        })
    }

    /// Everything there is to do now; ready when there are events.
    fn poll_events(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = Instant::now();
            self.poll_candidate(cx, now);
            self.spawn_missing(now);
            self.poll_spawner(cx, now);
            let alone = self.children.len() == 1;
            for child in &mut self.children {
                child.poll_write(cx);
                child.poll_read(cx, now, &mut self.events);
                child.on_time(now, alone, &mut self.events);
                child.poll_write(cx);
            }
            self.replace_outdated(now);
            self.retire_children(now);
            self.bury_children(cx, now);
            if !self.events.is_empty() {
                return Poll::Ready(());
            }
            // A child that just left is replaced at once.
            if self.children.len() < self.processes && self.may_spawn(now) {
                continue;
            }
            if self.poll_timer(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn may_spawn(&self, now: Instant) -> bool {
        let can = match &self.spawner {
            Spawner::ForkServer(_) => true,
            Spawner::Fixed(stream) => stream.is_some(),
        };
        can && !self.stopping && !self.broken && self.respawn_at.is_none_or(|at| at <= now)
    }

    fn spawn_missing(&mut self, now: Instant) {
        while self.children.len() < self.processes && self.may_spawn(now) {
            let number = self.next_number;
            self.next_number += 1;
            let made = match &mut self.spawner {
                Spawner::ForkServer(server) => {
                    server.spawn(number).map(|stream| Child::new(number, None, stream))
                }
                Spawner::Fixed(stream) => fixed_child(number, stream),
            };
            match made {
                Ok(child) => {
                    let mut child = child.with_slots(self.slots, now);
                    child.generation = self.generation;
                    if child.pid.is_some() {
                        self.events.push(PoolEvent::SlotFree);
                    }
                    self.children.push(child);
                }
                Err(error) => self.spawn_failed(now, &error),
            }
        }
    }

    fn spawn_failed(&mut self, now: Instant, error: &std::io::Error) {
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
        // Out of descriptors, say, is no reason to end a server, and with it all that its children run.
        if let Spawner::ForkServer(server) = &mut self.spawner
            && matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected)
        {
            server.close();
            self.orphan_children(self.server_since..);
        }
        self.fork_failed(now, &error.to_string());
    }

    fn poll_spawner(&mut self, cx: &mut Context<'_>, now: Instant) {
        let Spawner::ForkServer(server) = &mut self.spawner else { return };
        let mut news = std::mem::take(&mut self.news);
        server.poll_events(cx, &mut news);
        self.poll_old_servers(cx, &mut news);
        for event in news.drain(..) {
            match event {
                SpawnEvent::Made { number, pid } => {
                    if let Some(child) = self.child(number) {
                        child.pid = Some(pid);
                    }
                    self.events.push(PoolEvent::SlotFree);
                }
                SpawnEvent::Exited { number, status } => {
                    if let Some(child) = self.child(number) {
                        child.status = Some(status);
                    }
                }
                SpawnEvent::Failed { number, errno } => {
                    self.children.retain(|child| child.number != number);
                    let error = std::io::Error::from_raw_os_error(errno);
                    self.fork_failed(now, &format!("fork: {error}"));
                }
                SpawnEvent::Gone => {
                    self.orphan_children(self.server_since..);
                    if !self.stopping {
                        self.fork_failed(now, "the fork server has ended");
                        if !self.broken {
                            self.respawn_at = None;
                        }
                    }
                }
            }
        }
        self.news = news;
    }

    /// Counts a failure; too many are the end of the pool.
    fn fork_failed(&mut self, now: Instant, why: &str) {
        let Spawner::ForkServer(server) = &mut self.spawner else { return };
        self.respawn_at = Some(now + RESPAWN_PAUSE);
        if server.failed(now) && !self.broken && !self.stopping {
            self.broken = true;
            self.events.push(PoolEvent::Broken(format!("cannot make child processes: {why}")));
        }
    }

    /// The parent-death signal ends the children of a server that is gone; a hung one, or one whose process id
    /// was never told, must not keep its slot.
    fn orphan_children(&mut self, generations: impl RangeBounds<u32>) {
        for child in self.all_children().filter(|child| generations.contains(&child.generation)) {
            child.kill();
            child.orphan |= child.status.is_none();
            child.status.get_or_insert(9);
        }
    }

    fn child(&mut self, number: u64) -> Option<&mut Child> {
        self.all_children().find(|child| child.number == number)
    }

    fn all_children(&mut self) -> impl Iterator<Item = &mut Child> {
        self.children.iter_mut().chain(&mut self.leaving)
    }

    /// Children that have done enough end; those that are gone leave their slot.
    fn retire_children(&mut self, now: Instant) {
        let mut place = 0;
        while place < self.children.len() {
            let child = &mut self.children[place];
            self.tells_ready |= child.ready;
            if child.status.is_some() {
                child.drain(now, &mut self.events);
            }
            if child.ended.is_some() {
                let child = self.children.swap_remove(place);
                self.child_gone(&child, now);
                self.leaving.push(child);
                continue;
            }
            self.recycle_child(place, now);
            place += 1;
        }
        // Told to end by `bury_children`, and replaced before they have ended: those of one slot when they have nothing
        // left to run, so that there are never more at work than asked for, the others at once.
        let (stopping, several) = (self.stopping, self.slots.is_some());
        let leave = |child: &mut Child| child.retiring && (several || child.is_idle()) && !stopping;
        let before = self.children.len();
        self.leaving.extend(self.children.extract_if(.., leave));
        if self.children.len() != before {
            self.events.push(PoolEvent::SlotFree);
        }
    }

    fn recycle_child(&mut self, place: usize, now: Instant) {
        let child = &mut self.children[place];
        let Some(pid) = child.pid else { return };
        let works = child.ready || child.recycle.any_finished();
        if let Spawner::ForkServer(server) = &mut self.spawner
            && works
        {
            server.succeeded();
        }
        if child.retiring {
            return;
        }
        let condemned = child.is_condemned().then(|| "a request in it does not end".to_owned());
        if let Some(why) = condemned.or_else(|| child.recycle.due(self.recycle, pid, now)) {
            child.retire();
            let number = child.number;
            self.events.push(PoolEvent::ChildReplaced { number, pid, why, died: false });
        }
    }

    fn child_gone(&mut self, child: &Child, now: Instant) {
        if self.tells_ready && !child.ready && !child.orphan {
            self.fork_failed(now, "children end before they are set up");
        }
    }

    /// Reports what children that are gone had been given, when it is known how they ended.
    fn bury_children(&mut self, cx: &mut Context<'_>, now: Instant) {
        let mut place = 0;
        while place < self.leaving.len() {
            let child = &mut self.leaving[place];
            if child.retiring && child.ended.is_none() {
                child.lead_out(now);
                child.poll_write(cx);
                child.poll_read(cx, now, &mut self.events);
                child.on_time(now, true, &mut self.events);
                child.poll_write(cx);
                if child.status.is_some() {
                    child.drain(now, &mut self.events);
                }
            }
            let known = child.status.is_some() || child.pid.is_none() || self.is_fixed();
            let child = &self.leaving[place];
            if child.ended.is_some_and(|ended| known || ended + STATUS_WAIT <= now) {
                let child = self.leaving.swap_remove(place);
                self.report_end(child);
            } else {
                place += 1;
            }
        }
    }

    fn report_end(&mut self, mut child: Child) {
        // It closed its socket and did not end: nobody reads it any more.
        child.kill();
        let how = match (&child.fault, child.status) {
            (Some(fault), _) => fault.clone(),
            (None, Some(status)) => spawn::describe(status),
            (None, None) => "its socket closed".to_owned(),
        };
        let Left { begun, waiting } = child.take_given();
        let read = !child.unread && (child.ready || !self.tells_ready);
        for tag in begun {
            let (hard_limit, terminated, how) = (child.timed_out, child.terminated, how.clone());
            self.events.push(match (read, child.is_condemned()) {
                (false, _) => PoolEvent::Returned(tag),
                (true, false) => PoolEvent::Lost { tag, hard_limit, terminated, how },
                (true, true) => PoolEvent::Evicted(tag),
            });
        }
        // Back in the order in which they came: the worker puts each one before the others.
        self.events.extend(waiting.into_iter().rev().map(PoolEvent::Returned));
        if !child.retiring && !self.stopping {
            if self.is_fixed() {
                self.broken = true;
                self.events.push(PoolEvent::Broken("the process that runs tasks has ended".to_owned()));
            } else {
                let (number, pid) = (child.number, child.pid.unwrap_or(0));
                self.events.push(PoolEvent::ChildReplaced { number, pid, why: how, died: true });
            }
        }
    }

    /// How many executions a child takes now. Where children tell that they are set up, none before it has.
    fn room(&self, child: &Child, short: bool, now: Instant) -> usize {
        if self.stopping || (self.tells_ready && !child.ready) {
            return 0;
        }
        child.room(short, self.recycle, now)
    }

    fn is_fixed(&self) -> bool {
        matches!(self.spawner, Spawner::Fixed(_))
    }

    /// Sleeps until something is due; ready when it is.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let ended = self.leaving.iter().filter_map(|child| child.ended).map(|ended| ended + STATUS_WAIT);
        let leave = self.leaving.iter().filter_map(|child| child.next_deadline(true));
        let alone = self.children.len() == 1;
        let due = self.children.iter().filter_map(|child| child.next_deadline(alone));
        let missing = self.children.len() < self.processes && !self.stopping && !self.broken;
        let respawn = self.respawn_at.filter(|_| missing);
        let Some(next) = ended.chain(leave).chain(due).chain(respawn).chain(self.renew_deadline()).min()
        else {
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
        // One that fires too early costs less than setting it anew each time.
        if timer.deadline() > next || timer.is_elapsed() {
            timer.as_mut().reset(next);
        }
        timer.as_mut().poll(cx)
    }
}

fn fixed_child(number: u64, stream: &mut Option<std::os::unix::net::UnixStream>) -> std::io::Result<Child> {
    let stream = stream.take().ok_or_else(|| std::io::Error::other("there is only one"))?;
    stream.set_nonblocking(true)?;
    Ok(Child::new(number, Some(std::process::id()), UnixStream::from_std(stream)?))
}

#[async_trait]
impl Pool for ProcessPool {
    fn slots(&self) -> usize {
        self.processes * self.slots.unwrap_or(1)
    }

    fn free(&self, short: bool) -> usize {
        let now = Instant::now();
        self.children.iter().map(|child| self.room(child, short, now)).sum()
    }

    fn submit(&mut self, execution: Execution) -> Result<(), Execution> {
        let now = Instant::now();
        let room = |place: &usize| self.room(&self.children[*place], execution.short, now);
        match (0..self.children.len()).max_by_key(room).filter(|place| room(place) > 0) {
            Some(place) => self.children[place].push(execution, now),
            None => Err(execution),
        }
    }

    async fn events(&mut self, into: &mut Vec<PoolEvent>) {
        poll_fn(|cx| self.poll_events(cx)).await;
        into.append(&mut self.events);
    }

    fn terminate(&mut self, tag: RequestTag, signal: i32) {
        if self.is_fixed() {
            return;
        }
        let mut events = std::mem::take(&mut self.events);
        self.all_children().any(|child| child.terminate(tag, signal, &mut events));
        self.events = events;
    }

    async fn stop(&mut self, deadline: Duration, into: &mut Vec<PoolEvent>) {
        self.stop_children(Instant::now() + deadline).await;
        into.append(&mut self.events);
    }

    fn pids(&self) -> Vec<u32> {
        self.children.iter().filter_map(|child| child.pid).collect()
    }

    fn keeps_hard_limits(&self) -> bool {
        !matches!(self.spawner, Spawner::Fixed(_))
    }

    fn resize(&mut self, concurrency: usize) -> Result<(), String> {
        self.set_size(concurrency)
    }

    fn restart(&mut self, reload: bool) -> Result<(), String> {
        self.renew(reload)
    }
}

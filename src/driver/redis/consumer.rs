//! A consumer: its registration, what it holds, and the calls of the contract.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use redis::{FromRedisValue, Value, pipe};
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use super::broker::Shared;
use super::claim::{Leases, Looked};
use super::hear::Hearing;
use super::held::{Claim, write_tag};
use super::kept::Asker;
use super::keys::Queues;
use super::publish::expires_ms;
use super::record::ResultPlace;
use super::recover::{End, Holder, Registered, abandon};
use super::scripts::{REGISTER, RENEW};
use super::wake::{Alarm, Armed};
use crate::broker::{
    BrokerError, ChordEnd, Commit, Committed, Consumer, ConsumerOptions, Credit, DeadReason, Delivery,
    Renewal,
};
use crate::clock::UnixMillis;
use crate::driver::process::Process;
use crate::numbers::NumberMap;
use crate::protocol::ChordClaim;

/// A claim that waits looks again after so long, whatever it was told.
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// A wait is at least this long, so that a moment that has just passed is not asked for in a loop.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);
/// Processes of this host are looked at this often.
const NEIGHBOURS: Duration = Duration::from_secs(1);
/// Overdue claims of kombu are looked for this often.
const FOREIGN: Duration = Duration::from_secs(10);
/// Shortest time between two refreshes of what is held.
const SHORTEST_REFRESH: Duration = Duration::from_millis(200);
/// Tags in one command.
const CHUNK: usize = 1000;

/// A consumer. Dropped without `close` it is dead: see [`Drop`].
pub(super) struct RedisConsumer {
    inner: Arc<Inner>,
    /// Keeps consumers of kombu from taking long claims for lost. Ends with this consumer.
    refresher: tokio::task::JoinHandle<()>,
}

/// What the calls and tasks of a consumer share.
pub(super) struct Inner {
    pub(super) store: Arc<Shared>,
    pub(super) options: ConsumerOptions,
    process: Process,
    /// Where the results of its commits go.
    pub(super) results: ResultPlace,
    pub(super) state: Mutex<State>,
    /// Wakes the claim that waits. One claim looks at a time; others wait here, which would find nothing else.
    alarm: tokio::sync::Mutex<Alarm>,
    /// The number of the next claim; never goes back, so that an old claim is never taken for a new one.
    next: AtomicU64,
    /// Counts looks: each starts with another queue.
    turn: AtomicUsize,
    /// Puts into our lists what is published to fanout exchanges. Ends with this consumer.
    hearing: tokio::sync::Mutex<Hearing>,
    /// Set by whoever finds the lease lost, taken by `renew`, which reports it.
    lost: AtomicBool,
    /// Set once, by `close` or the drop; read by every call.
    closed: AtomicBool,
}

/// What changes together.
pub(super) struct State {
    /// What names this consumer in the store. Written when the lease was lost and a new one is taken.
    pub(super) token: Arc<str>,
    /// Everything that is held under the token, by number.
    pub(super) claims: NumberMap<Claim>,
    /// Claimed, and not yet given to whoever asks: filled by looks, emptied by claims.
    pub(super) kept: VecDeque<Delivery>,
    /// Claimed, unreadable, and to be settled by the next look.
    pub(super) condemned: Vec<(u64, DeadReason, String)>,
    /// Numbers of looks whose answers were lost: first, and behind the last. What they took is given back before the
    /// next look.
    pub(super) doubtful: Vec<(u64, u64)>,
    /// The queues, once for each one that a look may start with.
    rotations: Vec<Arc<Queues>>,
    /// Other consumers of this host as of the last renewal.
    neighbours: Vec<Registered>,
    neighbours_seen: Instant,
    /// Ends of the leases of others, as of the last look that asked.
    pub(super) leases: Leases,
    foreign_seen: Option<Instant>,
    /// When the store answered last, and since when it does so again after it was out of reach.
    answered: Option<Instant>,
    in_touch_since: Option<Instant>,
}

impl RedisConsumer {
    pub(super) async fn start(store: &Arc<Shared>, options: ConsumerOptions) -> Result<Self, BrokerError> {
        store.measure_clock().await?;
        let state = State {
            token: new_token(),
            claims: NumberMap::default(),
            kept: VecDeque::new(),
            condemned: Vec::new(),
            doubtful: Vec::new(),
            rotations: Vec::new(),
            neighbours: Vec::new(),
            neighbours_seen: Instant::now(),
            leases: Leases::default(),
            foreign_seen: None,
            answered: None,
            in_touch_since: None,
        };
        let own_place = || ResultPlace::new(store.address.database(), &store.layout.prefix);
        let inner = Arc::new(Inner {
            store: store.clone(),
            process: Process::own(),
            results: options.results.as_deref().and_then(ResultPlace::parse).unwrap_or_else(own_place),
            state: Mutex::new(state),
            alarm: tokio::sync::Mutex::default(),
            next: AtomicU64::new(1),
            turn: AtomicUsize::new(0),
            hearing: tokio::sync::Mutex::default(),
            lost: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            options,
        });
        inner.take_queues(&inner.options.queues.clone()).await?;
        store.recover_expired(inner.options.max_crashes).await?;
        let others = inner.register().await?;
        inner.meet(&others).await?;
        let every = (store.layout.visibility_timeout / 3).max(SHORTEST_REFRESH);
        let refresher = tokio::spawn(refresh(Arc::downgrade(&inner), every));
        Ok(Self { inner, refresher })
    }
}

fn new_token() -> Arc<str> {
    format!("{:016x}", uuid::Uuid::new_v4().as_u64_pair().0).into()
}

impl Inner {
    fn check_open(&self) -> Result<(), BrokerError> {
        if self.closed.load(Ordering::SeqCst) { Err(BrokerError::Closed) } else { Ok(()) }
    }

    fn token(&self) -> Arc<str> {
        self.state.lock().token.clone()
    }

    /// The token, and numbers for so many claims.
    pub(super) fn reserve(&self, count: usize) -> (Arc<str>, u64) {
        (self.token(), self.next.fetch_add(count as u64, Ordering::SeqCst))
    }

    fn lease_end(&self) -> String {
        self.store.now().after(self.options.lease).0.to_string()
    }

    /// Registers under the token; gives everybody who is registered.
    async fn register(&self) -> Result<Vec<Registered>, BrokerError> {
        let holder = Holder { node: self.options.node.clone(), process: self.process.clone() };
        let holder = serde_json::to_string(&holder).expect("texts and numbers are JSON");
        let args = [self.token().to_string(), self.lease_end(), holder];
        let answer = self.store.link.script(&REGISTER, &self.store.layout.shared, &args).await;
        let mut all = Registered::read(answer.map_err(|error| self.store.failed(error))?);
        all.retain(|other| other.token != args[0]);
        Ok(all)
    }

    /// Ends those of the others that are seen to be dead, and remembers the neighbours among them.
    async fn meet(&self, others: &[Registered]) -> Result<usize, BrokerError> {
        let mut recovered = 0;
        for other in others {
            if other.is_dead() {
                let ended = self.store.recover(&other.token, End::Gone, self.options.max_crashes).await?;
                recovered += ended.unwrap_or(0);
            } else if other.holder.node == self.options.node && other.holder.process != self.process {
                tracing::warn!(
                    node = self.options.node,
                    "processes {} and {} both consume as {}: give each a name of its own with -n",
                    other.holder.process.pid,
                    self.process.pid,
                    self.options.node,
                );
            }
        }
        self.remember(others);
        Ok(recovered)
    }

    fn remember(&self, others: &[Registered]) {
        let here = |other: &&Registered| other.holder.process.host == self.process.host;
        let mut state = self.state.lock();
        state.neighbours = others.iter().filter(here).cloned().collect();
        state.neighbours_seen = Instant::now();
    }

    /// Takes a new lease: that of `token` was taken from us, and all claims with it.
    pub(super) async fn register_again(&self, token: &Arc<str>) -> Result<(), BrokerError> {
        {
            let mut state = self.state.lock();
            if state.token != *token || self.closed.load(Ordering::SeqCst) {
                return Ok(());
            }
            state.token = new_token();
            state.claims.clear();
            state.kept.clear();
            state.condemned.clear();
            state.doubtful.clear();
            state.leases = Leases::default();
        }
        self.lost.store(true, Ordering::SeqCst);
        let others = self.register().await?;
        self.remember(&others);
        Ok(())
    }

    async fn take_queues(&self, names: &[String]) -> Result<(), BrokerError> {
        let declarations: Vec<_> = names.iter().map(|name| self.store.topology.queue(name)).collect();
        if !declarations.is_empty() {
            self.store.declare(&declarations).await?;
        }
        let mut hearing = self.hearing.lock().await;
        hearing.change(&self.store, &self.options.node, &declarations).await?;
        let names: Vec<Arc<str>> =
            declarations.iter().map(|queue| super::hear::list_of(&self.options.node, queue).into()).collect();
        let rotations =
            (0..names.len().max(1)).map(|turn| Queues::new(&self.store.layout, &names, turn).into());
        self.state.lock().rotations = rotations.collect();
        Ok(())
    }

    fn queues(&self) -> Arc<Queues> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let state = self.state.lock();
        state.rotations[turn % state.rotations.len()].clone()
    }

    /// Looks at the processes of this host, about once a second; whether one was gone.
    async fn look_at_neighbours(&self) -> Result<bool, BrokerError> {
        let dead: Vec<Registered> = {
            let mut state = self.state.lock();
            if state.neighbours.is_empty() || state.neighbours_seen.elapsed() < NEIGHBOURS {
                return Ok(false);
            }
            state.neighbours_seen = Instant::now();
            state.neighbours.extract_if(.., |other| other.is_dead()).collect()
        };
        for other in &dead {
            self.store.recover(&other.token, End::Gone, self.options.max_crashes).await?;
        }
        Ok(!dead.is_empty())
    }

    /// Waits until it pays to look again. Meanwhile it looks at the processes of this host, which asks nothing of the
    /// server.
    async fn wait(
        &self,
        alarm: &mut Alarm,
        queues: &Arc<Queues>,
        until: Option<UnixMillis>,
        mut rung: Pin<&mut Notified<'_>>,
    ) -> Result<(), BrokerError> {
        let longest = until.map_or(LONGEST_WAIT, |until| self.store.now().until(until));
        let deadline = Instant::now() + longest.clamp(SHORTEST_WAIT, LONGEST_WAIT.min(alarm.covers()));
        while Instant::now() < deadline {
            let moment = deadline.min(Instant::now() + NEIGHBOURS);
            tokio::select! {
                () = &mut rung => return Ok(()),
                () = alarm.wait(queues) => return Ok(()),
                () = tokio::time::sleep_until(moment) => {}
            }
            if self.look_at_neighbours().await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The store answers. How long others are still given to renew leases that have ended: whoever comes back first after
    /// an outage must not take those for dead that were cut off just as long.
    pub(super) fn grace(&self) -> Duration {
        let (now, lease) = (Instant::now(), self.options.lease);
        let mut state = self.state.lock();
        if state.answered.is_some_and(|at| now - at > lease / 2) {
            state.in_touch_since = Some(now);
        }
        state.answered = Some(now);
        let passed = state.in_touch_since.map_or(lease, |since| now - since);
        (lease / 3).saturating_sub(passed)
    }

    /// Binds anew what would expire though it is consumed from.
    async fn keep_bindings(&self) -> Result<(), BrokerError> {
        let names = self.state.lock().rotations[0].names.clone();
        let queues = names.iter().map(|name| self.store.topology.queue(&super::hear::shown(name)));
        let expiring: Vec<_> = queues.filter(|queue| expires_ms(queue).is_some()).collect();
        if expiring.is_empty() { Ok(()) } else { self.store.declare(&expiring).await }
    }

    /// Looks for claims of kombu that are overdue.
    async fn restore_foreign(&self) -> Result<(), BrokerError> {
        {
            let mut state = self.state.lock();
            if state.foreign_seen.is_some_and(|seen| seen.elapsed() < FOREIGN) {
                return Ok(());
            }
            state.foreign_seen = Some(Instant::now());
        }
        self.store.restore_foreign().await.map(drop)
    }
}

/// Makes claims look as if they had been made now, before consumers of kombu take them for lost. Those that must not
/// run again look as if they were made in a far future, and stay so.
async fn refresh(inner: Weak<Inner>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(inner) = inner.upgrade() else { return };
        let tags: Vec<Vec<u8>> = {
            let state = inner.state.lock();
            let tag = |(number, claim): (&u64, &Claim)| {
                let mut tag = Vec::new();
                write_tag(&mut tag, &state.token, *number, claim);
                tag
            };
            state.claims.iter().map(tag).collect()
        };
        let score = inner.store.score();
        for chunk in tags.chunks(CHUNK) {
            let mut pipeline = pipe();
            let command = pipeline.cmd("ZADD").arg(inner.store.layout.unacked_index()).arg("XX").arg("GT");
            for tag in chunk {
                command.arg(&score).arg(tag);
            }
            if let Err(error) = inner.store.link.pipeline::<Value>(&pipeline).await {
                tracing::warn!("cannot refresh claims: {error}");
            }
        }
    }
}

#[async_trait]
impl Consumer for RedisConsumer {
    async fn claim(&self, credit: Credit) -> Result<Vec<Delivery>, BrokerError> {
        let inner = &self.inner;
        if credit.count == 0 {
            return Ok(Vec::new());
        }
        let mut alarm = inner.alarm.lock().await;
        let _asker = Asker(inner);
        loop {
            inner.check_open()?;
            if let Some(kept) = inner.take_kept(credit) {
                return Ok(kept);
            }
            inner.look_at_neighbours().await?;
            // Listens before it looks, so that no change falls in between.
            let rung = inner.store.bell.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();
            let queues = inner.queues();
            let armed = if alarm.hungry {
                alarm.arm(&inner.store, &queues).await.map_err(|error| inner.store.failed(error))?
            } else {
                alarm.armed()
            };
            if armed == Armed::Empty {
                inner.check_open()?;
                let end = inner.state.lock().leases.end;
                inner.wait(&mut alarm, &queues, end, rung.as_mut()).await?;
                // Something is there, most probably: it is claimed before anything is armed again.
                alarm.hungry = false;
                continue;
            }
            match inner.look_apart(credit, queues.clone()).await? {
                Looked::Found { less } => alarm.hungry = less,
                Looked::Again => {}
                Looked::NothingUntil(_) if armed == Armed::Not => alarm.hungry = true,
                Looked::NothingUntil(moment) => {
                    inner.check_open()?;
                    inner.wait(&mut alarm, &queues, moment, rung.as_mut()).await?;
                    alarm.hungry = false;
                }
            }
        }
    }

    async fn commit_body(&self, commit: &Commit, chord: &ChordClaim) -> Result<ChordEnd, BrokerError> {
        self.inner.check_open()?;
        self.inner.carry_out_body(commit, chord).await
    }

    async fn commit(&self, batch: &[Commit]) -> Result<Vec<Committed>, BrokerError> {
        self.inner.check_open()?;
        self.inner.carry_out(batch).await
    }

    async fn renew(&self) -> Result<Renewal, BrokerError> {
        let inner = &self.inner;
        inner.check_open()?;
        let (token, now) = (inner.token(), inner.store.now().0.to_string());
        let args = [token.to_string(), inner.lease_end(), now];
        let answer = inner.store.link.script(&RENEW, &inner.store.layout.shared, &args).await;
        let mut recovered = 0;
        let answer = answer.map_err(|error| inner.store.failed(error))?;
        let patient = !inner.grace().is_zero();
        match answer {
            Value::Array(parts) => {
                let mut parts = parts.into_iter();
                let ended = parts.next().and_then(|ended| Vec::<String>::from_redis_value(ended).ok());
                let ended = ended.filter(|_| !patient);
                let mut others = parts.next().map(Registered::read).unwrap_or_default();
                others.retain(|other| other.token != *token);
                for ended in ended.unwrap_or_default() {
                    let count = inner.store.recover(&ended, End::Expired, inner.options.max_crashes).await?;
                    recovered += count.unwrap_or(0);
                }
                let dead: Vec<Registered> = others.extract_if(.., |other| other.is_dead()).collect();
                for other in dead {
                    let count =
                        inner.store.recover(&other.token, End::Gone, inner.options.max_crashes).await?;
                    recovered += count.unwrap_or(0);
                }
                inner.remember(&others);
            }
            _ => inner.register_again(&token).await?,
        }
        inner.disown().await?;
        inner.keep_bindings().await?;
        inner.restore_foreign().await?;
        Ok(Renewal { lost: inner.lost.swap(false, Ordering::SeqCst), recovered, why: None })
    }

    async fn set_queues(&self, queues: Vec<String>) -> Result<(), BrokerError> {
        self.inner.check_open()?;
        self.inner.take_queues(&queues).await?;
        self.inner.store.bell.notify_waiters();
        Ok(())
    }

    async fn close(&self) -> Result<(), BrokerError> {
        let inner = &self.inner;
        if inner.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let token = {
            let mut state = inner.state.lock();
            state.kept.clear();
            state.token.clone()
        };
        // A claim that waits finds out that it is closed.
        inner.store.bell.notify_waiters();
        inner.hearing.lock().await.stop();
        let closed = inner.store.recover(&token, End::Closed, inner.options.max_crashes).await;
        if closed.is_err() {
            abandon(&token);
        }
        closed.map(drop)
    }
}

impl Drop for RedisConsumer {
    /// As if the process had died: the lease is not renewed, and who looks for dead consumers in this process sees
    /// that it is. The others see it when the lease ends.
    fn drop(&mut self) {
        self.refresher.abort();
        if !self.inner.closed.swap(true, Ordering::SeqCst) {
            abandon(&self.inner.token());
        }
    }
}

//! The broker contract over the state in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::state::{Claimed, State};
use super::topics::StreamReader;
use super::{MemoryStore, Shared};
use crate::broker::{
    Broker, BrokerError, ChordEnd, Commit, Committed, Consumer, ConsumerOptions, Credit, DeadFilter,
    DeadLetter, DeadLimits, DeadReason, DeadStats, Delivery, Fired, Firing, Listener, QueueStatus, Rebind,
    Renewal, Resolution, ScheduleLease, ScheduleState, Settle,
};
use crate::keys::{Admission, Admitted, Keys};
use crate::limits::LimitStore;
use crate::protocol::{ChordClaim, Message, Publication, TopicBinding};

/// A sleep is at least this long, so that a moment that has just passed is not asked for in a loop.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);

#[async_trait]
impl Broker for MemoryStore {
    async fn publish(&self, batch: Vec<Publication>) -> Result<(), BrokerError> {
        let now = self.0.clock.now();
        {
            let mut state = self.0.state.lock();
            for publication in batch {
                state.publish(publication, now);
            }
        }
        self.0.published();
        Ok(())
    }

    fn keys(&self) -> Option<&dyn Keys> {
        Some(self)
    }

    async fn publish_admitted(
        &self,
        publication: &Publication,
        admission: &Admission,
    ) -> Result<Option<Admitted>, BrokerError> {
        let now = self.0.clock.now();
        let admitted = {
            let mut state = self.0.state.lock();
            let admitted = state.keys.admit(admission, true, now);
            if admitted == Admitted::New {
                state.publish(publication.clone(), now);
            }
            admitted
        };
        self.0.messages.notify_waiters();
        Ok(Some(admitted))
    }

    async fn bury(
        &self,
        message: Publication,
        reason: DeadReason,
        detail: String,
    ) -> Result<(), BrokerError> {
        let now = self.0.clock.now();
        self.0.state.lock().bury_new(message, reason, &detail, now);
        Ok(())
    }

    async fn consume(&self, options: ConsumerOptions) -> Result<Box<dyn Consumer>, BrokerError> {
        let now = self.0.clock.now();
        let mut state = self.0.state.lock();
        let recovered = state.recover(None, now);
        let owner = state.register(&options, now);
        let queues = state.declare(&options.queues);
        drop(state);
        if recovered > 0 {
            self.0.messages.notify_waiters();
        }
        Ok(Box::new(MemoryConsumer {
            store: self.0.clone(),
            options,
            owner: AtomicU64::new(owner),
            queues: Mutex::new(queues),
            turn: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }))
    }

    async fn purge(&self, queue: &str) -> Result<u64, BrokerError> {
        Ok(self.0.state.lock().purge(queue))
    }

    async fn recall(&self, queue: &str) -> Result<u64, BrokerError> {
        let moved = self.0.state.lock().recall(queue, self.0.clock.now());
        self.0.messages.notify_waiters();
        Ok(moved)
    }

    fn limits(&self) -> Option<Arc<dyn LimitStore>> {
        Some(self.limit_store())
    }

    fn recalls(&self) -> bool {
        true
    }

    async fn queues(&self) -> Result<Vec<QueueStatus>, BrokerError> {
        Ok(self.0.state.lock().statuses(self.0.clock.now()))
    }

    async fn mentions(&self, texts: &[String]) -> Result<Option<Vec<bool>>, BrokerError> {
        let state = self.0.state.lock();
        Ok(Some(texts.iter().map(|text| state.mentions(text)).collect()))
    }

    async fn find_dead(&self, filter: &DeadFilter, limit: usize) -> Result<Vec<DeadLetter>, BrokerError> {
        Ok(self.0.state.lock().find_dead(filter, limit))
    }

    async fn dead_stats(&self) -> Result<DeadStats, BrokerError> {
        Ok(self.0.state.lock().dead_stats())
    }

    async fn resolve_dead(&self, resolutions: Vec<Resolution>) -> Result<Vec<u64>, BrokerError> {
        let resolved = self.0.state.lock().resolve_dead(resolutions, self.0.clock.now());
        self.0.messages.notify_waiters();
        Ok(resolved)
    }

    async fn trim_dead(&self, limits: &DeadLimits) -> Result<u64, BrokerError> {
        Ok(self.0.state.lock().trim_dead(limits, self.0.clock.now()))
    }

    async fn paused(&self, queues: &[String]) -> Result<Vec<String>, BrokerError> {
        Ok(self.0.state.lock().paused(queues))
    }

    async fn set_paused(&self, queue: &str, paused: bool) -> Result<(), BrokerError> {
        self.0.state.lock().set_paused(queue, paused);
        Ok(())
    }

    async fn broadcast(
        &self,
        exchange: &str,
        _routing_key: &str,
        message: Message,
        ttl: Duration,
    ) -> Result<(), BrokerError> {
        let expires = self.0.clock.now().after(ttl);
        self.0.state.lock().broadcast(exchange, message, expires);
        self.0.broadcasts.notify_waiters();
        Ok(())
    }

    async fn listen(&self, exchange: &str) -> Result<Box<dyn Listener>, BrokerError> {
        let heard = self.0.state.lock().now_heard();
        let (store, exchange) = (self.0.clone(), exchange.to_owned());
        Ok(Box::new(MemoryListener { store, exchange, heard, _ear: None }))
    }

    async fn bind_topics(&self, binding: &TopicBinding, how: Rebind) -> Result<(), BrokerError> {
        let mut state = self.0.state.lock();
        state.declare(std::slice::from_ref(&binding.queue));
        state.topics.bind(binding, how);
        Ok(())
    }

    async fn subscribe(
        &self,
        exchange: &str,
        _patterns: &[String],
    ) -> Result<Box<dyn Listener>, BrokerError> {
        let mut state = self.0.state.lock();
        let (heard, ear) = (state.now_heard(), Some(state.topics.subscribe(exchange)));
        drop(state);
        let (store, exchange) = (self.0.clone(), exchange.to_owned());
        Ok(Box::new(MemoryListener { store, exchange, heard, _ear: ear }))
    }

    async fn stream_end(&self) -> Result<Option<String>, BrokerError> {
        Ok(Some(self.0.state.lock().topics.last().to_string()))
    }

    async fn stream(&self, after: Option<&str>) -> Result<Box<dyn Listener>, BrokerError> {
        Ok(Box::new(StreamReader::new(self.0.clone(), after)?))
    }

    fn store_id(&self) -> Option<String> {
        Some(self.id())
    }

    fn display_url(&self) -> String {
        self.url()
    }

    async fn sweep(&self) -> Result<(), BrokerError> {
        self.0.state.lock().sweep(self.0.clock.now());
        self.0.messages.notify_waiters();
        Ok(())
    }

    async fn schedule_lease(
        &self,
        schedule: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<ScheduleLease, BrokerError> {
        let now = self.0.clock.now();
        Ok(self.0.state.lock().schedule(schedule).lease(holder, now, now.after(ttl)))
    }

    async fn schedule_release(&self, schedule: &str, holder: &str) -> Result<(), BrokerError> {
        self.0.state.lock().schedule(schedule).release(holder);
        Ok(())
    }

    async fn fire(&self, firing: &Firing) -> Result<Fired, BrokerError> {
        let now = self.0.clock.now();
        let fired = {
            let mut state = self.0.state.lock();
            let fired = state.schedule(&firing.schedule).fire(firing, now);
            if fired == Fired::Sent {
                for publication in &firing.publications {
                    state.publish(publication.clone(), now);
                }
            }
            fired
        };
        self.0.published();
        Ok(fired)
    }

    async fn schedule_state(&self, schedule: &str) -> Result<ScheduleState, BrokerError> {
        Ok(self.0.state.lock().schedule(schedule).state(self.0.clock.now()))
    }

    async fn schedule_change(
        &self,
        schedule: &str,
        entry: &str,
        change: Option<String>,
    ) -> Result<(), BrokerError> {
        self.0.state.lock().schedule(schedule).change(entry, change);
        Ok(())
    }
}

struct MemoryConsumer {
    store: Arc<Shared>,
    options: ConsumerOptions,
    /// Written when the lease was lost and a new one is taken, read by every call.
    owner: AtomicU64,
    /// Written by `set_queues`, read by `claim`.
    queues: Mutex<Vec<Arc<str>>>,
    /// Counts claims: each starts with another queue.
    turn: AtomicUsize,
    /// Set by whoever finds the lease lost, taken by `renew`, which reports it.
    lost: AtomicBool,
    /// Set once by `close`; read by every call.
    closed: AtomicBool,
}

impl MemoryConsumer {
    /// Wakes whoever waits for what a batch has brought.
    fn wake_for(&self, batch: &[Commit]) {
        let comes_back = |commit: &Commit| {
            !matches!(commit.settle, Settle::Keep | Settle::Once | Settle::Ack | Settle::Dead(..))
        };
        if batch.iter().any(|commit| !commit.publications.is_empty() || comes_back(commit)) {
            self.store.published();
        }
        if batch.iter().any(|commit| !commit.results.is_empty()) {
            self.store.results.notify_waiters();
        }
    }

    fn check_open(&self) -> Result<(), BrokerError> {
        if self.closed.load(Ordering::SeqCst) { Err(BrokerError::Closed) } else { Ok(()) }
    }

    /// One look for deliveries.
    fn look(&self, credit: Credit) -> Claimed {
        let now = self.store.clock.now();
        let queues = self.queues.lock().clone();
        let mut state = self.store.state.lock();
        self.keep_registered(&mut state);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        state.claim(self.owner.load(Ordering::SeqCst), &queues, turn, credit, now)
    }

    /// Takes a new lease when ours is gone.
    fn keep_registered(&self, state: &mut State) {
        if !state.knows(self.owner.load(Ordering::SeqCst)) {
            self.lost.store(true, Ordering::SeqCst);
            let owner = state.register(&self.options, self.store.clock.now());
            self.owner.store(owner, Ordering::SeqCst);
        }
    }
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn claim(&self, credit: Credit) -> Result<Vec<Delivery>, BrokerError> {
        if credit.count == 0 {
            return Ok(Vec::new());
        }
        loop {
            // Listens before it looks, so that no change falls in between.
            let mut changed = Box::pin(self.store.messages.notified());
            changed.as_mut().enable();
            self.check_open()?;
            match self.look(credit) {
                Claimed::Some(deliveries) => return Ok(deliveries),
                Claimed::NothingUntil(None) => changed.await,
                Claimed::NothingUntil(Some(moment)) => {
                    let wait = self.store.clock.now().until(moment).max(SHORTEST_SLEEP);
                    let _ = tokio::time::timeout(wait, changed).await;
                }
            }
        }
    }

    async fn commit(&self, batch: &[Commit]) -> Result<Vec<Committed>, BrokerError> {
        self.check_open()?;
        let now = self.store.clock.now();
        let owner = self.owner.load(Ordering::SeqCst);
        let answers = {
            let mut state = self.store.state.lock();
            let carry_out = |commit| state.commit(owner, self.options.max_crashes, commit, now);
            batch.iter().map(carry_out).collect()
        };
        self.wake_for(batch);
        Ok(answers)
    }

    async fn commit_body(&self, commit: &Commit, chord: &ChordClaim) -> Result<ChordEnd, BrokerError> {
        self.check_open()?;
        let now = self.store.clock.now();
        let owner = self.owner.load(Ordering::SeqCst);
        let answer = {
            let mut state = self.store.state.lock();
            if !state.chords.is_held_by(chord, now) {
                return Ok(ChordEnd::NotHeld);
            }
            let answer = state.commit(owner, self.options.max_crashes, commit, now);
            if answer != Committed::Stale {
                state.chords.finish(chord, now);
            }
            answer
        };
        self.wake_for(std::slice::from_ref(commit));
        Ok(ChordEnd::Ended(answer))
    }

    async fn renew(&self) -> Result<Renewal, BrokerError> {
        self.check_open()?;
        let recovered = {
            let mut state = self.store.state.lock();
            self.keep_registered(&mut state);
            let (owner, now) = (self.owner.load(Ordering::SeqCst), self.store.clock.now());
            state.renew(owner, self.options.lease, now);
            state.recover(Some(owner), now)
        };
        if recovered > 0 {
            self.store.messages.notify_waiters();
        }
        Ok(Renewal { lost: self.lost.swap(false, Ordering::SeqCst), recovered, why: None })
    }

    async fn set_queues(&self, queues: Vec<String>) -> Result<(), BrokerError> {
        self.check_open()?;
        *self.queues.lock() = self.store.state.lock().declare(&queues);
        self.store.messages.notify_waiters();
        Ok(())
    }

    async fn close(&self) -> Result<(), BrokerError> {
        if !self.closed.swap(true, Ordering::SeqCst) {
            self.store.state.lock().close(self.owner.load(Ordering::SeqCst));
            self.store.messages.notify_waiters();
        }
        Ok(())
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        if !self.closed.load(Ordering::SeqCst) {
            self.store.state.lock().abandon(self.owner.load(Ordering::SeqCst));
            self.store.messages.notify_waiters();
        }
    }
}

struct MemoryListener {
    store: Arc<Shared>,
    exchange: String,
    /// The number of the last broadcast that was heard.
    heard: u64,
    /// Says that a subscription listens.
    _ear: Option<Arc<()>>,
}

impl Shared {
    /// Wakes whoever may have something new: what was published may have gone to anyone.
    fn published(&self) {
        self.messages.notify_waiters();
        self.broadcasts.notify_waiters();
    }
}

#[async_trait]
impl Listener for MemoryListener {
    async fn next(&mut self) -> Result<Message, BrokerError> {
        loop {
            let mut changed = Box::pin(self.store.broadcasts.notified());
            changed.as_mut().enable();
            let found = self.store.state.lock().hear(&self.exchange, self.heard, self.store.clock.now());
            if let Some((id, message)) = found {
                self.heard = id;
                return Ok(message);
            }
            changed.await;
        }
    }
}

//! The consumer contract over the file.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::chord;
use super::doorbell::Kind;
use super::fault::Fault;
use super::queue::{self, Order, Taken};
use super::writer::Durability;
use super::{Shared, owner};
use crate::broker::{
    BrokerError, ChordEnd, ClaimId, Commit, Committed, Consumer, ConsumerOptions, Credit, Delivery, Renewal,
    Settle,
};
use crate::driver::routing::QueueOrder;
use crate::protocol::ChordClaim;

pub(super) struct SqliteConsumer {
    store: Arc<Shared>,
    options: Arc<ConsumerOptions>,
    /// Its row in `owner`. Written when the lease was lost and a new one is taken, read by every call.
    owner: AtomicI64,
    /// Written by `set_queues`, read by `claim`.
    queues: Mutex<Vec<Arc<str>>>,
    /// Counts claims: each starts with another queue.
    turn: AtomicUsize,
    /// Set by whoever finds the lease lost, taken by `renew`, which reports it.
    lost: AtomicBool,
    /// Set once by `close`; read by every call.
    closed: AtomicBool,
}

impl SqliteConsumer {
    pub(super) async fn start(store: &Arc<Shared>, options: ConsumerOptions) -> Result<Self, Fault> {
        let options = Arc::new(options);
        let (own, process) = (options.clone(), store.process.clone());
        let register = move |step: &mut super::step::Step<'_>| {
            owner::recover(step, 0)?;
            for name in &own.queues {
                step.queue(name)?;
            }
            let id = owner::register(step, &own, &process)?;
            Ok((id, owner::twins(step, &own.node, &process)?))
        };
        let (id, twins) = store.writer.submit(Durability::Relaxed, register).await?;
        for pid in twins {
            tracing::warn!(
                node = options.node,
                "processes {pid} and {} both consume as {}: give each a name of its own with -n",
                store.process.pid,
                options.node,
            );
        }
        Ok(Self {
            store: store.clone(),
            owner: AtomicI64::new(id),
            queues: Mutex::new(shared(&options.queues)),
            options,
            turn: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        })
    }

    fn check_open(&self) -> Result<(), BrokerError> {
        if self.closed.load(Ordering::SeqCst) { Err(BrokerError::Closed) } else { Ok(()) }
    }

    fn error(&self) -> impl Fn(Fault) -> BrokerError + '_ {
        |fault| fault.broker(self.store.url())
    }

    /// One look for deliveries.
    async fn look(&self, credit: Credit) -> Result<Claims, Fault> {
        let strategy = self.store.queue_order;
        let mut queues = self.queues.lock().clone();
        if strategy == QueueOrder::Sorted {
            queues.sort();
        }
        let order = Order {
            owner: self.owner.load(Ordering::SeqCst),
            queues,
            strategy,
            start: self.turn.fetch_add(1, Ordering::Relaxed),
            credit,
        };
        let owner = order.owner;
        let recover = self.store.recovery_is_due();
        let store = Arc::downgrade(&self.store);
        self.store
            .writer
            .submit_sealed(
                Durability::Relaxed,
                move |step| {
                    if recover {
                        owner::recover(step, order.owner)?;
                    }
                    queue::claim(step, &order)
                },
                move |taken| Claims { taken, owner, store },
            )
            .await
    }

    /// Takes a new lease: ours was taken from us.
    async fn register_again(&self) -> Result<(), Fault> {
        self.lost.store(true, Ordering::SeqCst);
        let (options, process) = (self.options.clone(), self.store.process.clone());
        let register = move |step: &mut super::step::Step<'_>| owner::register(step, &options, &process);
        let id = self.store.writer.submit(Durability::Relaxed, register).await?;
        self.owner.store(id, Ordering::SeqCst);
        Ok(())
    }
}

fn shared(queues: &[String]) -> Vec<Arc<str>> {
    queues.iter().map(|name| name.as_str().into()).collect()
}

#[async_trait]
impl Consumer for SqliteConsumer {
    async fn claim(&self, credit: Credit) -> Result<Vec<Delivery>, BrokerError> {
        if credit.count == 0 {
            return Ok(Vec::new());
        }
        loop {
            // Listens before it looks, so that no change falls in between.
            let mut changed = Box::pin(self.store.signals.messages.notified());
            changed.as_mut().enable();
            self.check_open()?;
            match self.look(credit).await.map_err(self.error())?.take() {
                Taken::Some(deliveries) => return Ok(deliveries),
                Taken::NothingUntil(due) => {
                    let due = due.map(|due| self.store.clock.now().until(due));
                    self.store.signals.bells.arm(Kind::Messages, due);
                    changed.await;
                }
                Taken::Unregistered => self.register_again().await.map_err(self.error())?,
            }
        }
    }

    async fn commit(&self, batch: &[Commit]) -> Result<Vec<Committed>, BrokerError> {
        self.check_open()?;
        self.store.check_sizes(batch.iter().flat_map(|commit| &commit.publications))?;
        let only_begins = |commit: &Commit| {
            matches!(commit.settle, Settle::Keep | Settle::Once)
                && commit.results.is_empty()
                && commit.publications.is_empty()
                && commit.free_keys.is_empty()
        };
        let durability =
            if batch.iter().all(only_begins) { Durability::Relaxed } else { Durability::Durable };
        let owner = self.owner.load(Ordering::SeqCst);
        let max_crashes = self.options.max_crashes;
        let batch = batch.to_vec();
        self.store
            .writer
            .submit(durability, move |step| {
                batch.iter().map(|commit| queue::commit(step, owner, max_crashes, commit)).collect()
            })
            .await
            .map_err(self.error())
    }

    async fn commit_body(&self, commit: &Commit, chord: &ChordClaim) -> Result<ChordEnd, BrokerError> {
        self.check_open()?;
        self.store.check_sizes(&commit.publications)?;
        let owner = self.owner.load(Ordering::SeqCst);
        let max_crashes = self.options.max_crashes;
        let (commit, claim) = (commit.clone(), chord.clone());
        let end = move |step: &mut super::step::Step<'_>| {
            if !chord::is_held_by(step, &claim)? {
                return Ok(ChordEnd::NotHeld);
            }
            let committed = queue::commit(step, owner, max_crashes, &commit)?;
            if committed != Committed::Stale {
                chord::finish(step, &claim)?;
            }
            Ok(ChordEnd::Ended(committed))
        };
        self.store.writer.submit(Durability::Durable, end).await.map_err(self.error())
    }

    async fn renew(&self) -> Result<Renewal, BrokerError> {
        self.check_open()?;
        let own = self.owner.load(Ordering::SeqCst);
        let renew = move |step: &mut super::step::Step<'_>| {
            Ok((owner::renew(step, own)?, owner::recover(step, own)?))
        };
        let (renewed, recovered) =
            self.store.writer.submit(Durability::Relaxed, renew).await.map_err(self.error())?;
        if !renewed && self.owner.load(Ordering::SeqCst) == own {
            self.register_again().await.map_err(self.error())?;
        }
        Ok(Renewal { lost: self.lost.swap(false, Ordering::SeqCst), recovered, why: None })
    }

    async fn set_queues(&self, queues: Vec<String>) -> Result<(), BrokerError> {
        self.check_open()?;
        *self.queues.lock() = shared(&queues);
        let declare = move |step: &mut super::step::Step<'_>| {
            queues.iter().try_for_each(|name| step.queue(name).map(drop))
        };
        self.store.writer.submit(Durability::Relaxed, declare).await.map_err(self.error())?;
        self.store.signals.messages.notify_waiters();
        Ok(())
    }

    async fn close(&self) -> Result<(), BrokerError> {
        if self.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let owner = self.owner.load(Ordering::SeqCst);
        let close = move |step: &mut super::step::Step<'_>| owner::close(step, owner);
        let closed = self.store.writer.submit(Durability::Relaxed, close).await;
        // A claim that waits finds out that it is closed.
        self.store.signals.messages.notify_waiters();
        closed.map_err(self.error())
    }
}

impl Drop for SqliteConsumer {
    fn drop(&mut self) {
        if !self.closed.load(Ordering::SeqCst) {
            let owner = self.owner.load(Ordering::SeqCst);
            self.store.writer.post(move |step| owner::abandon(step, owner));
        }
    }
}

/// An answer to a claim on its way to whoever asked. If that one is gone, what was claimed goes back.
struct Claims {
    taken: Taken,
    owner: i64,
    store: Weak<Shared>,
}

impl Claims {
    fn take(mut self) -> Taken {
        std::mem::replace(&mut self.taken, Taken::NothingUntil(None))
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        let Taken::Some(deliveries) = &self.taken else { return };
        let claims: Vec<ClaimId> = deliveries.iter().map(|delivery| delivery.claim).collect();
        if let Some(store) = self.store.upgrade() {
            let owner = self.owner;
            store.writer.post(move |step| {
                claims.iter().try_for_each(|claim| match queue::let_go(step, owner, *claim)? {
                    Some(standing) => queue::make_ready(step, standing),
                    None => Ok(()),
                })
            });
        }
    }
}

//! The contract of what moves messages.
//!
//! Every call takes or gives a **batch**: with a backlog batches grow by themselves and the cost of a
//! task falls; on an idle queue a batch is one task and nothing waits for company.
//!
//! What every driver guarantees (the conformance suite in `tests/conformance` checks it):
//!
//! 1. A [`Broker::publish`] that returned `Ok` is as durable as the store is configured to be, all of the
//!    batch or none of it.
//! 2. [`Consumer::claim`] is one atomic step: there is no moment at which a message exists only in a
//!    worker's memory. A claim is held under the consumer's lease.
//! 3. [`Consumer::commit`] is atomic for each entry: publications, results (where the store holds them)
//!    and settlement happen together or not at all, and never for a claim that is no longer held.
//! 4. A consumer whose lease ran out, or whose process is seen to be gone, loses all its claims: they are
//!    ready again, in their old order, those begun with one crash more. What it commits later is
//!    [`Committed::Stale`]. How many crashes are too many is for the worker to say that gets them: it ends the
//!    request, so that whoever waits for it learns of it, and only then buries the message.
//! 5. A publication with `due_ms` in the future is parked in the store and delivered when it is due,
//!    whoever is connected then; it costs a worker nothing. It takes the place in its queue that it would
//!    have had without.
//! 6. Within one queue and priority, order is first in, first out. Higher priority first (0 to 9).

mod dead;
mod error;
mod schedule;
mod topics;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::UnixMillis;
use crate::keys::{Admission, Admitted, Held, KeyError, Keys};
use crate::limits::LimitStore;
use crate::protocol::{ChordClaim, Message, Publication, ResultRecord, TopicBinding};
use crate::report::StoreReport;

pub use dead::{DeadFilter, DeadLetter, DeadLimits, DeadReason, DeadStats, Resolution};
pub(crate) use dead::{account, apart, without_traceback};
pub use error::BrokerError;
pub use schedule::{Fired, Firing, LastDue, ScheduleLease, ScheduleState};
pub use topics::Rebind;

/// How long a reply waits for whoever asked, where the store keeps it.
pub(crate) const REPLY_KEPT: Duration = Duration::from_secs(60);

/// The broadcast exchange that stands for an inbox, in stores that have no queues for it.
fn mailbox(exchange: &str, key: &str) -> String {
    format!("{exchange}/{key}")
}

/// What moves messages. One per process and URL, shared by all threads.
#[async_trait]
pub trait Broker: Send + Sync {
    /// Sends a batch. Returns when the store has it; see guarantee 1.
    async fn publish(&self, batch: Vec<Publication>) -> Result<(), BrokerError>;

    /// What keeps keys in the store of the messages; none where that is not possible.
    fn keys(&self) -> Option<&dyn Keys> {
        None
    }

    /// Sends a message if it gets its key, in one step. Nothing is sent unless the answer is [`Admitted::New`]. None: keys and
    /// messages are not in one store.
    async fn publish_admitted(
        &self,
        _publication: &Publication,
        _admission: &Admission,
    ) -> Result<Option<Admitted>, BrokerError> {
        Ok(None)
    }

    /// Starts to consume. The consumer holds its claims until it commits, closes, or dies.
    async fn consume(&self, options: ConsumerOptions) -> Result<Box<dyn Consumer>, BrokerError>;

    /// Removes what is ready or parked in a queue (not what is claimed); returns how many.
    async fn purge(&self, queue: &str) -> Result<u64, BrokerError>;

    /// Moves what this driver has parked for a queue back into the queue, for workers that know nothing of
    /// parking (the messages keep their `eta` header); returns how many.
    async fn unpark(&self, queue: &str) -> Result<u64, BrokerError> {
        let url = self.display_url();
        Err(BrokerError::Config(format!(
            "nothing of queue {queue:?} has to be moved back: no other kind of worker reads {url}"
        )))
    }

    /// Makes due what is parked for a queue: the rule by which a worker had parked it has changed. What has an ETA is
    /// parked again by whoever claims it. Returns how many; a store that cannot do it lets them come at their time.
    async fn recall(&self, queue: &str) -> Result<u64, BrokerError> {
        let _ = queue;
        Ok(0)
    }

    /// Every queue the store knows, with its counts.
    async fn queues(&self) -> Result<Vec<QueueStatus>, BrokerError>;

    /// Which of these texts occur in any message that may still be run: ready, claimed or parked. None: it cannot tell, at
    /// a reasonable cost.
    async fn mentions(&self, _texts: &[String]) -> Result<Option<Vec<bool>>, BrokerError> {
        Ok(None)
    }

    /// Dead letters, oldest first, of one queue or of all.
    async fn dead_letters(&self, queue: Option<&str>, limit: usize) -> Result<Vec<DeadLetter>, BrokerError> {
        self.find_dead(&DeadFilter::of_queue(queue), limit).await
    }

    /// Dead letters that are meant by a filter, oldest first.
    async fn find_dead(&self, filter: &DeadFilter, limit: usize) -> Result<Vec<DeadLetter>, BrokerError>;

    /// How many dead letters there are, and since when.
    async fn dead_stats(&self) -> Result<DeadStats, BrokerError> {
        Ok(DeadStats::default())
    }

    /// Takes dead letters out, and publishes what is to be in their place; tells the numbers of those that were still
    /// there. Whoever tries, a letter is published once: one atomic step for each where the store can. `RabbitMQ`
    /// publishes first and takes it out then: a crash in between leaves the letter beside its repeat.
    async fn resolve_dead(&self, _resolutions: Vec<Resolution>) -> Result<Vec<u64>, BrokerError> {
        let url = self.display_url();
        Err(BrokerError::Config(format!("dead letters of {url} can only be looked at")))
    }

    /// Removes dead letters beyond the limits, up to about a thousand; returns how many. Workers call it every minute.
    async fn trim_dead(&self, _limits: &DeadLimits) -> Result<u64, BrokerError> {
        Ok(0)
    }

    /// Which of these queues are paused: nothing is to be claimed from them, by any worker.
    async fn paused(&self, _queues: &[String]) -> Result<Vec<String>, BrokerError> {
        Ok(Vec::new())
    }

    /// Notes that a queue is paused, or not any more, for all workers: those that start later read it. It changes no
    /// consumer; whoever calls it tells the workers that run.
    async fn set_paused(&self, _queue: &str, _paused: bool) -> Result<(), BrokerError> {
        let url = self.display_url();
        Err(BrokerError::Config(format!("{url} cannot keep that a queue is paused")))
    }

    /// Keeps a message that nobody holds a claim to any more as a dead letter: it was acknowledged early, and
    /// then found to be unreadable.
    async fn bury(&self, message: Publication, reason: DeadReason, detail: String)
    -> Result<(), BrokerError>;

    /// Sends to every [`Listener`] of `exchange` that exists now (control commands, events); one that comes
    /// later does not hear it. A listener that is slow, or out of reach for a while, hears it within `ttl`, where
    /// the store keeps broadcasts; where they are channels (Redis), it misses what is said while it is out of reach, and
    /// what waits for it has no end.
    /// At most once for each.
    ///
    /// Events have a routing key (their type; `task.multi` for several), commands an empty one. A store that has no such keys
    /// sends to the same listeners without.
    async fn broadcast(
        &self,
        exchange: &str,
        routing_key: &str,
        message: Message,
        ttl: Duration,
    ) -> Result<(), BrokerError>;

    /// Receives what is broadcast on `exchange` from now on.
    async fn listen(&self, exchange: &str) -> Result<Box<dyn Listener>, BrokerError>;

    /// A private mailbox: receives what [`Broker::reply`] sends to `exchange` with `key`, from now on and for as long as
    /// the listener lives. Nobody else may use that key.
    async fn inbox(&self, exchange: &str, key: &str) -> Result<Box<dyn Listener>, BrokerError> {
        self.listen(&mailbox(exchange, key)).await
    }

    /// Sends to the inbox that was opened for `exchange` and `key`. One that is gone gets nothing, and that is no error:
    /// whoever asked does not wait any more.
    async fn reply(&self, exchange: &str, key: &str, message: Message) -> Result<(), BrokerError> {
        self.broadcast(&mailbox(exchange, key), "", message, REPLY_KEPT).await
    }

    /// Whether a message whose worker died as a whole comes again with that crash counted ([`Delivery::crashes`]).
    fn counts_crashes(&self) -> bool {
        true
    }

    /// Keeps limits of all workers together, where there is no result backend that does; none: it cannot.
    fn limits(&self) -> Option<Arc<dyn LimitStore>> {
        None
    }

    /// Whether [`Broker::recall`] brings back what is parked.
    fn recalls(&self) -> bool {
        false
    }

    /// Names the store behind this broker, such as a canonical path or `host:port`. A backend that answers
    /// the same is the same store, and [`Consumer::commit`] then takes results as well.
    fn store_id(&self) -> Option<String>;

    /// The URL without its password, for banners and errors.
    fn display_url(&self) -> String;

    /// What an operator should know about this store, in sentences: settings that lose messages above all. Asked
    /// once, at the start of a worker.
    async fn advice(&self) -> Result<Vec<String>, BrokerError> {
        Ok(Vec::new())
    }

    /// What the store says of itself, for `doctor`. Asked for by operators, never by a worker.
    async fn examine(&self) -> Result<StoreReport, BrokerError> {
        Ok(StoreReport::default())
    }

    /// Forgets expired results, spent broadcasts, dead leases. Workers call it every minute or so.
    async fn sweep(&self) -> Result<(), BrokerError>;

    /// Takes the lease of a schedule for `ttl`, or renews it, unless another holds it. Whoever has just taken it reads
    /// the state before it fires.
    async fn schedule_lease(
        &self,
        _schedule: &str,
        _holder: &str,
        _ttl: Duration,
    ) -> Result<ScheduleLease, BrokerError> {
        Err(no_schedules(&self.display_url()))
    }

    /// Gives the lease of a schedule back, if it is the holder's.
    async fn schedule_release(&self, _schedule: &str, _holder: &str) -> Result<(), BrokerError> {
        Err(no_schedules(&self.display_url()))
    }

    /// Sends a due moment, at most once whoever tries; see [`Firing`]. Also renews the lease. A call whose answer got
    /// lost may be repeated. Where noting and publishing are two steps (`RabbitMQ`), the moment is noted first.
    async fn fire(&self, _firing: &Firing) -> Result<Fired, BrokerError> {
        Err(no_schedules(&self.display_url()))
    }

    /// What is kept of a schedule; nothing of one that nobody has used.
    async fn schedule_state(&self, _schedule: &str) -> Result<ScheduleState, BrokerError> {
        Err(no_schedules(&self.display_url()))
    }

    /// Notes what a user changed of an entry, or takes that back (none).
    async fn schedule_change(
        &self,
        _schedule: &str,
        _entry: &str,
        _change: Option<String>,
    ) -> Result<(), BrokerError> {
        Err(no_schedules(&self.display_url()))
    }

    /// Declares a queue and binds it to a topic exchange (see `topics.rs`). May be repeated.
    async fn bind_topics(&self, _binding: &TopicBinding, _how: Rebind) -> Result<(), BrokerError> {
        Err(no_topics(&self.display_url()))
    }

    /// Hears what is sent to a topic exchange from now on, at most once; for whoever wants no queue of its own. More than
    /// the patterns ask for may come.
    async fn subscribe(&self, exchange: &str, patterns: &[String]) -> Result<Box<dyn Listener>, BrokerError> {
        let _ = patterns;
        self.listen(exchange).await
    }

    /// The cursor of the stream's newest entry; none where the store keeps no stream, and passes entries on as they come.
    async fn stream_end(&self) -> Result<Option<String>, BrokerError> {
        Ok(None)
    }

    /// Reads the stream's entries after a cursor, then those that come. Each is the body of a message; its headers have
    /// the `cursor`, and `gap` where entries before it were gone before they could be read. Without a cursor: what
    /// comes from now on.
    async fn stream(&self, after: Option<&str>) -> Result<Box<dyn Listener>, BrokerError> {
        let _ = after;
        Err(no_topics(&self.display_url()))
    }
}

fn no_topics(url: &str) -> BrokerError {
    BrokerError::Config(format!("{url} has no topics and no stream"))
}

impl From<BrokerError> for KeyError {
    fn from(error: BrokerError) -> Self {
        Self { transient: error.is_transient(), reason: error.to_string() }
    }
}

fn no_schedules(url: &str) -> BrokerError {
    BrokerError::Config(format!("{url} keeps no schedules of periodic tasks"))
}

/// How a consumer consumes.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// Queues to take from, in the order of `queue_order_strategy` round robin.
    pub queues: Vec<String>,
    /// The worker's node name (`celery@host`). A consumer of the same name whose process is gone gives its
    /// claims back the moment this one starts.
    pub node: String,
    /// How long claims are held without a renewal.
    pub lease: Duration,
    /// Crashes (ends of the process that ran it) after which a message is dead.
    pub max_crashes: u32,
    /// Where the results of its commits go ([`crate::backend::ResultBackend::location`]), when broker and backend
    /// are one store.
    pub results: Option<String>,
}

/// How much may be claimed now.
#[derive(Clone, Copy, Debug)]
pub struct Credit {
    /// Deliveries at the most.
    pub count: usize,
    /// Bytes at the most; one delivery is given even if it alone is larger.
    pub bytes: usize,
}

/// A consumer: the right to claim, and all that it has claimed. Methods may be called concurrently.
///
/// Dropped without [`Consumer::close`] it is as dead as if its process had died: its claims go back, and those
/// begun count a crash.
#[async_trait]
pub trait Consumer: Send + Sync {
    /// Takes up to `credit` deliveries; waits until there is at least one (with a count of 0 it returns
    /// none at once). Cancel-safe: a call that is dropped before it returned has claimed nothing that stays
    /// claimed. It also gives back claims of dead consumers, about once a second, and ends with
    /// [`BrokerError::Closed`] when the consumer is closed meanwhile.
    async fn claim(&self, credit: Credit) -> Result<Vec<Delivery>, BrokerError>;

    /// Carries out a batch of commits, each atomically and all in one round trip or transaction where the
    /// store can. Answers in the same order. An `Err` means that none of the batch is known to have
    /// happened: the caller repeats it if the error is transient. [`BrokerError::TooLarge`] (a follow-up is
    /// over the limit) means that none of it happened, nor will: the caller takes that follow-up out.
    async fn commit(&self, batch: &[Commit]) -> Result<Vec<Committed>, BrokerError>;

    /// One commit, and that the chord is over which it calls the body of: all in one step, if the chord's claim is held.
    /// So no crash lies between the body and the end of its chord. A store that does not keep both answers
    /// [`ChordEnd::Apart`], and has done nothing.
    async fn commit_body(&self, _commit: &Commit, _chord: &ChordClaim) -> Result<ChordEnd, BrokerError> {
        Ok(ChordEnd::Apart)
    }

    /// Renews the lease of everything this consumer holds, in time independent of how much that is. Gives
    /// back claims of dead consumers as well. A consumer that has lost its lease has a new one after this,
    /// with no claims.
    async fn renew(&self) -> Result<Renewal, BrokerError>;

    /// Starts or stops taking from a queue.
    async fn set_queues(&self, queues: Vec<String>) -> Result<(), BrokerError>;

    /// Says goodbye: whatever is still claimed goes back at once, in order, with no attempt counted.
    async fn close(&self) -> Result<(), BrokerError>;
}

/// Names one claim of one consumer. Only the driver looks inside: `id` names the message, `fence` the claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClaimId {
    /// The message's place in the store.
    pub id: u64,
    /// Grows with every claim of the same message: a commit with an old one is refused.
    pub fence: u64,
}

/// A message received, with its right to acknowledge.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// What to commit it with.
    pub claim: ClaimId,
    /// The queue it came from.
    pub queue: Arc<str>,
    /// The exchange it was sent to.
    pub exchange: Arc<str>,
    /// The routing key it was sent with.
    pub routing_key: Arc<str>,
    /// It was delivered before and came back.
    pub redelivered: bool,
    /// How many times the process that ran it died.
    pub crashes: u32,
    /// The message.
    pub message: Message,
}

/// What is to happen to a claim.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Settle {
    /// Keep the claim; only publish and store (an early-acknowledged request has no claim at all).
    #[default]
    Keep,
    /// Keep the claim, and note that it has begun and must not run a second time: the early acknowledgement of a member
    /// of a workflow. When its consumer dies it is delivered once more, with a crash counted, so that a worker may
    /// conclude it; and never to a worker of another kind, which would run it.
    Once,
    /// Done: the message is gone.
    Ack,
    /// Back to the queue behind everything of its priority (`Reject(requeue=True)`).
    Requeue,
    /// Back to where it was, next to be taken; nothing is counted (shutdown, throttled).
    Release,
    /// Its process died: back to where it was with one crash more, or dead when that was the last allowed.
    Crashed,
    /// Not now: parked until then; nothing is counted.
    Park(UnixMillis),
    /// It will not be tried again: kept as a dead letter with its reason.
    Dead(DeadReason, String),
}

/// One atomic unit of a commit. By default of nothing.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// The claim to settle; none when it was acknowledged before.
    pub claim: Option<ClaimId>,
    /// What happens to it.
    pub settle: Settle,
    /// Results to store with it. Only for consumers whose store keeps the results too.
    pub results: Vec<ResultRecord>,
    /// Follow-ups to publish with it.
    pub publications: Vec<Publication>,
    /// A process has begun to run it: if the whole worker dies now, one crash is counted.
    pub begun: bool,
    /// Keys to free with it, where the broker keeps them ([`Broker::keys`]); elsewhere the worker frees them after it, and
    /// if it dies before, they run out.
    pub free_keys: Vec<Held>,
}

impl Commit {
    /// Whether it is not the commit of nothing: it settles a claim, or something goes with it.
    pub(crate) fn does_something(&self) -> bool {
        self.claim.is_some()
            || !(self.results.is_empty() && self.publications.is_empty() && self.free_keys.is_empty())
    }
}

/// What became of one [`Commit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// All of it happened.
    Done,
    /// [`Settle::Crashed`] was the last one allowed: it is a dead letter now.
    Dead,
    /// The claim is no longer this consumer's; nothing of it happened.
    Stale,
}

/// What became of a commit that ends a chord.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChordEnd {
    /// Nothing: it takes more than one step here.
    Apart,
    /// Nothing: the chord's claim is not held any more, for the chord is over or somebody else ends it.
    NotHeld,
    /// This; the chord is over unless it is [`Committed::Stale`].
    Ended(Committed),
}

/// What a renewal found.
#[derive(Clone, Debug, Default)]
pub struct Renewal {
    /// Our own lease had run out and was taken: every claim made before is lost.
    pub lost: bool,
    /// Why, where the store says so: for the log of the worker.
    pub why: Option<String>,
    /// Claims of dead consumers that were given back by this call.
    pub recovered: usize,
}

/// Counts of one queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueStatus {
    /// Its name.
    pub name: String,
    /// May be claimed now.
    pub ready: u64,
    /// Claimed by some consumer.
    pub claimed: u64,
    /// Waiting for its time.
    pub parked: u64,
    /// Dead letters that came from it.
    pub dead: u64,
}

/// Receives broadcasts.
#[async_trait]
pub trait Listener: Send {
    /// The next message. Cancel-safe.
    async fn next(&mut self) -> Result<Message, BrokerError>;

    /// Counts messages that were dropped since nobody took them; none where that cannot happen, or is not known.
    fn missed(&self) -> Option<Arc<AtomicU64>> {
        None
    }

    /// Removes what the store keeps for this listener, where it keeps anything. Dropping it does so too, a moment later.
    async fn close(&mut self) {}
}

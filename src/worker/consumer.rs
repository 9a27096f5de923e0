//! The main loop: deliveries in, decisions out. One thread, no lock, no waiting but in [`ConsumerLoop::wait`].
//!
//! Duties, each in a file of its own beside this one:
//! 1. `intake`: what to do with each delivery.
//! 2. `running`: give requests to the pool, and take what it reports.
//! 3. `upkeep`: leases, the watchdog, sweeping, and everything else that time brings.
//! 4. `control`: what other programs ask for.
//! 5. `lifecycle`: the start and the end.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Sleep};

use super::aside::Aside;
use super::autoscale::Autoscale;
use super::batch::Batches;
use super::commit::{Commits, Done, Entry, Stores, What, nothing};
use super::control::{Desk, Ear, Heard};
use super::eta::Held;
use super::events::Events;
use super::lifecycle::{Phase as LifePhase, Stop};
use super::limits::Limits;
use super::link::Link;
use super::log::Log;
use super::notice::NoticeQueue;
use super::options::WorkerOptions;
use super::pool::{Pool, PoolEvent, RequestTag};
use super::prefetch::Prefetch;
use super::rate_limit::RateLimits;
use super::request::Request;
use super::revoked::Revoked;
use super::saved::Saving;
use super::stats::Counters;
use super::tasks::Tasks;
use super::turns::Rung;
use super::upkeep::{Chore, Renewed};
use crate::broker::{BrokerError, Commit, Committed, Consumer, Delivery};
use crate::clock::Clock;
use crate::limits::{Answers, LimitError};
use crate::numbers::NumberMap;
use crate::protocol::Queue;

/// Outcomes that may wait for their commit before no more is claimed.
const MAX_UNCOMMITTED: usize = 500;

/// A claim that is not answered for so long has found nothing and waits.
const WAITS: Duration = Duration::from_millis(100);

/// Between two looks whether the program has heard of enough requests.
const CROWDED: Duration = Duration::from_millis(5);

/// A consumer of the broker. There is more than one when the watchdog made a new one: the old one keeps
/// its claims until they are settled.
pub(super) struct Source {
    pub(super) number: u32,
    pub(super) consumer: Arc<dyn Consumer>,
}

/// What happened.
enum Happened {
    Pool,
    Claimed(u32, Result<Vec<Delivery>, BrokerError>),
    Committed(Done),
    Renewed(Vec<Renewed>),
    Chore(Chore),
    Control(Heard),
    Turns(Result<Answers, LimitError>),
    Rung(Rung),
    Stop,
    Time,
}

type Claimed = (u32, Result<Vec<Delivery>, BrokerError>);

/// A claim under way.
pub(super) struct Claim {
    future: BoxFuture<'static, Claimed>,
    pub(super) count: usize,
    pub(super) since: Instant,
}

/// Everything the worker knows.
pub(super) struct ConsumerLoop {
    pub(super) options: WorkerOptions,
    pub(super) clock: Clock,
    pub(super) stores: Stores,
    pub(super) pool: Box<dyn Pool>,
    pub(super) notices: Arc<NoticeQueue>,
    pub(super) service: super::service::Service,
    pub(super) log: Arc<Log>,
    pub(super) stats: Arc<Counters>,
    pub(super) tasks: Tasks,
    /// When the loop was made: zero of the rate limits' time.
    pub(super) born: Instant,

    /// Requests that are claimed, or acknowledged and not over.
    pub(super) requests: NumberMap<Request>,
    /// Requests that a child has while their claim is or may be lost, by id: when their message comes again, it is
    /// theirs. Written when a loss is told, and by whatever takes a request out of the table.
    pub(super) orphans: HashMap<String, RequestTag>,
    /// Requests that wait for their early acknowledgement to be stored before they begin ([`super::first`]).
    pub(super) marking: HashSet<RequestTag>,
    pub(super) next_tag: RequestTag,
    pub(super) ready: VecDeque<RequestTag>,
    pub(super) held: Held,
    /// Begun requests whose early acknowledgement waits a moment for their outcome.
    pub(super) young: VecDeque<(Instant, RequestTag)>,
    /// Begun requests with late acknowledgement that are marked as begun if they run on.
    pub(super) marks: VecDeque<(Instant, RequestTag)>,
    pub(super) rates: RateLimits,
    /// Limits of all workers; none where nothing is limited.
    pub(super) limits: Option<Box<Limits>>,
    pub(super) turning: Option<BoxFuture<'static, Result<Answers, LimitError>>>,
    pub(super) hearing: Option<BoxFuture<'static, Rung>>,
    pub(super) batches: Batches,
    /// Bodies that are kept elsewhere, of requests whose last commit is on its way, by its number.
    pub(super) payloads: NumberMap<Box<str>>,
    pub(super) prefetch: Prefetch,
    pub(super) monitor: Events,
    /// What stands for the stream of what happens to tasks, if it is wanted.
    pub(super) stream: Option<Arc<Queue>>,
    /// What hears control requests, if anything does.
    pub(super) ear: Option<Ear>,
    /// The loop that makes HTTP calls, if this worker makes any.
    pub(super) aside: Option<Aside>,
    /// This is that loop: what a worker does once is the other's.
    pub(super) is_aside: bool,
    pub(super) autoscale: Option<Autoscale>,
    pub(super) revoked: Revoked,
    pub(super) commits: Commits,
    pub(super) stale_logged: u64,
    /// Early acknowledgements of members of workflows are marks, which the broker counts a crash for.
    pub(super) keeps_members: bool,
    /// Where it does not, members are kept beside the results.
    pub(super) keeping: Option<super::keeping::Keeping>,
    /// What tasks and queues ask for.
    pub(super) policies: super::policy::Policies,
    pub(super) dead: super::dead::DeadLook,
    /// Queues that nothing is taken from.
    pub(super) pauses: super::pause::Pauses,
    /// Chords are looked after, if they are.
    pub(super) stalled: Option<super::stalled::StalledLook>,

    /// The last one is claimed from.
    pub(super) sources: Vec<Source>,
    pub(super) claim_link: Link,
    pub(super) claim_after: Option<Instant>,
    pub(super) renew_link: Link,
    pub(super) renew_at: Instant,
    /// When the keys of requests are renewed next.
    pub(super) keys_at: Instant,
    pub(super) tick_at: Instant,
    pub(super) sweep_at: Instant,
    pub(super) strikes: u32,
    pub(super) last_finish: Instant,
    pub(super) consuming: bool,

    pub(super) life: LifePhase,
    pub(super) ending: super::lifecycle::Ending,
    pub(super) broken: Option<String>,
    /// Written by handles, read here.
    pub(super) orders: watch::Receiver<Option<Stop>>,
    pub(super) control: mpsc::Receiver<Heard>,
    pub(super) desk: Desk,
    pub(super) saving: Saving,

    pub(super) claiming: Option<Claim>,
    pub(super) committing: Option<BoxFuture<'static, Done>>,
    /// Commits of the batch that is under way.
    pub(super) in_flight: usize,
    pub(super) renewing: Option<BoxFuture<'static, Vec<Renewed>>>,
    pub(super) chores: FuturesUnordered<BoxFuture<'static, Chore>>,
    pub(super) events: Vec<PoolEvent>,
    pub(super) timer: Pin<Box<Sleep>>,
}

impl ConsumerLoop {
    /// Runs until the life is over.
    pub(super) async fn turn(&mut self) {
        // A stop may have been asked for before the loop ran.
        self.ordered();
        self.on_time(Instant::now());
        while !self.is_over() {
            self.start_work();
            let happened = self.wait().await;
            self.handle(happened);
            self.dispatch();
        }
    }

    /// Begins what can be begun: a claim, a commit.
    pub(super) fn start_work(&mut self) {
        if self.limits.is_some() {
            self.start_turns();
        }
        self.start_commit();
        self.start_claim();
        let next = self.next_moment();
        // One wake-up too many costs less than setting the timer anew each time.
        if next < self.timer.deadline() || self.timer.is_elapsed() {
            self.timer.as_mut().reset(next);
        }
    }

    pub(super) fn start_commit(&mut self) {
        if self.committing.is_some() {
            return;
        }
        if let Some(number) = self.commits.next_consumer() {
            let waiting = self.commits.len();
            let consumer = self.source(number);
            self.committing = Some(self.commits.carry_out(consumer, self.stores.clone()));
            self.in_flight = waiting - self.commits.len();
        }
    }

    pub(super) fn source(&self, number: u32) -> Option<Arc<dyn Consumer>> {
        self.sources.iter().find(|source| source.number == number).map(|source| source.consumer.clone())
    }

    fn start_claim(&mut self) {
        let slots = self.slots_to_fill();
        // What runs here and comes again takes no slot, and must not wait for one. A batch takes one as a whole.
        let aside = self.limits.as_ref().filter(|_| self.options.prefetch_multiplier.is_none());
        let beyond = self.orphans.len()
            + aside.map_or(0, |limits| limits.beyond())
            + self
                .batches
                .beyond(slots, |task| self.tasks.options(Some(task)).batch.map_or(1, |b| b.max_size));
        // Tasks turned out to be long while a large claim waits: a smaller one takes its place. Not one that the store
        // may just be answering: what it took would come back behind what the smaller one takes.
        let too_large = |claim: &Claim| {
            claim.count > 2 * self.prefetch.target(slots).max(1) + beyond && claim.since.elapsed() >= WAITS
        };
        if self.claiming.as_ref().is_some_and(too_large) {
            self.claiming = None;
        }
        let full = self.commits.len() + self.in_flight > MAX_UNCOMMITTED || !self.held.has_room();
        if self.claiming.is_some() || self.claim_after.is_some() || full || self.life != LifePhase::Running {
            return;
        }
        if self.notices.is_crowded() {
            // The program hears of each request, and is slower than they come.
            self.claim_after = Some(Instant::now() + CROWDED);
            return;
        }
        let credit = self.prefetch.credit(slots, beyond, self.batches.gather());
        let (Some(source), Some(credit)) = (self.sources.last(), credit) else { return };
        let (number, consumer) = (source.number, source.consumer.clone());
        self.claiming = Some(Claim {
            future: Box::pin(async move { (number, consumer.claim(credit).await) }),
            count: credit.count,
            since: Instant::now(),
        });
    }

    /// Waits until something happens. The only place where the loop waits.
    async fn wait(&mut self) -> Happened {
        tokio::select! {
            () = self.pool.events(&mut self.events) => Happened::Pool,
            done = slot(&mut self.committing) => Happened::Committed(done),
            (number, claimed) = claim(&mut self.claiming) => Happened::Claimed(number, claimed),
            renewed = slot(&mut self.renewing) => Happened::Renewed(renewed),
            answer = slot(&mut self.turning) => Happened::Turns(answer),
            rung = slot(&mut self.hearing) => Happened::Rung(rung),
            Some(chore) = self.chores.next() => Happened::Chore(chore),
            Some(heard) = self.control.recv() => Happened::Control(heard),
            Ok(()) = self.orders.changed() => Happened::Stop,
            () = &mut self.timer => Happened::Time,
        }
    }

    fn handle(&mut self, happened: Happened) {
        match happened {
            Happened::Pool => self.pool_reported(),
            Happened::Claimed(number, claimed) => self.claimed(number, claimed),
            Happened::Committed(done) => self.committed(done),
            Happened::Renewed(renewed) => self.renewed(renewed),
            Happened::Chore(chore) => self.chore_done(chore),
            Happened::Control(heard) => self.heard(heard),
            Happened::Turns(answer) => self.turns_answered(answer),
            Happened::Rung(rung) => self.bell_rung(rung),
            Happened::Stop => self.ordered(),
            Happened::Time => {}
        }
        self.on_time(Instant::now());
    }

    /// Queues a commit of a request that goes on.
    pub(super) fn commit_meanwhile(&mut self, tag: RequestTag, commit: Commit) {
        let Some(request) = self.requests.get(&tag) else { return };
        let (consumer, suspect) = (request.consumer, request.suspect);
        let what = What::Meanwhile(tag, commit.claim);
        self.commits.push(Entry { consumer, commit, what, suspect, chord: None });
    }

    /// Queues the last commit of a request that was taken out of the table.
    pub(super) fn commit_end(&mut self, request: &Request, commit: Commit) {
        let (consumer, suspect) = (request.consumer, request.suspect);
        let what = self.end_of(request, &commit);
        self.commits.push(Entry { consumer, commit, what, suspect, chord: None });
    }

    /// Takes a request out of the table, and gives its credit back.
    pub(super) fn remove(&mut self, tag: RequestTag) -> Option<Request> {
        let mut request = self.requests.remove(&tag)?;
        if let Some(limited) = request.limit.take() {
            self.left_limit(tag, *limited, Self::has_run(&request));
        }
        if request.stale || request.suspect {
            self.orphans.remove(&request.id);
        }
        self.prefetch.bytes -= request.message.size();
        if !request.phase.is_held() {
            self.prefetch.count -= 1;
        }
        Some(request)
    }

    pub(super) fn committed(&mut self, done: Done) {
        self.in_flight = 0;
        self.commits.carried_out(done.parts);
        self.stats.batches.add(1);
        for (what, answer) in &done.answers {
            if let What::EndOfKept(tag) = what
                && !done.joins.iter().any(|join| join.is_kept(*tag))
            {
                self.forget_begun(*tag);
            }
            if let What::EndOfLarge(number) | What::EndOfKept(number) = what {
                self.payload_settled(*number, *answer, &done.joins);
            }
            match (what, answer) {
                (_, Committed::Done) => self.stats.committed.add(1),
                (_, Committed::Dead) => {
                    self.stats.crashed.add(1);
                    self.log.line(super::notice::Level::Error, "celery.worker.request", || {
                        "a task killed its process too often; its message is kept as a dead letter".to_owned()
                    });
                }
                // It had taken effect before its answer was lost.
                (_, Committed::Stale) if done.repeated && !done.closed => self.stats.committed.add(1),
                (What::End | What::EndOfKept(_) | What::EndOfLarge(_), Committed::Stale) => {
                    self.stats.stale.add(1);
                }
                (What::Meanwhile(tag, claim), Committed::Stale) => {
                    // It may have another claim by now, if its message came again.
                    let same = |request: &&mut Request| request.claim.is_none() || request.claim == *claim;
                    if let Some(request) = self.requests.get_mut(tag).filter(same) {
                        request.stale = true;
                        self.orphans.insert(request.id.clone(), *tag);
                    }
                }
            }
        }
        if !self.marking.is_empty() {
            self.marked(&done.answers);
        }
        for join in done.joins {
            self.join(join);
        }
        if done.closed {
            self.source_closed(done.consumer);
        }
    }

    /// A commit that only settles.
    pub(super) fn settle(&mut self, request: &Request, settle: crate::broker::Settle) {
        if request.claim.is_some() && !request.stale {
            let free_keys = request.keys_after(&settle);
            self.commit_end(request, Commit { claim: request.claim, settle, free_keys, ..nothing() });
        }
    }

    /// Microseconds since the loop was made: the time of the rate limits.
    pub(super) fn rate_time(&self, now: Instant) -> u64 {
        u64::try_from(now.duration_since(self.born).as_micros()).unwrap_or(u64::MAX)
    }

    pub(super) fn rate_moment(&self, at: u64) -> Instant {
        self.born + Duration::from_micros(at)
    }
}

/// Waits for a future that may not be there, and takes it away when it is over.
pub(super) async fn slot<T>(slot: &mut Option<BoxFuture<'static, T>>) -> T {
    match slot {
        None => pending().await,
        Some(future) => {
            let value = future.await;
            *slot = None;
            value
        }
    }
}

async fn claim(slot: &mut Option<Claim>) -> Claimed {
    match slot {
        None => pending().await,
        Some(claim) => {
            let value = (&mut claim.future).await;
            *slot = None;
            value
        }
    }
}

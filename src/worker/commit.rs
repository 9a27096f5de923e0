//! Carrying out what was decided: publications, results and settlement, in batches.
//!
//! 1. One batch is under way at a time; everything that is finished meanwhile goes with the next one.
//! 2. Where broker and backend are one store, a commit carries its results: one transaction.
//! 3. Elsewhere the order is: publications confirmed, results stored, claims settled. A crash in between
//!    leads to a repeat, never to a loss. Each step is repeated by itself until it works.
//! 4. An error may hide that a step took effect. Repeating it is then answered by `Stale`, since the claim
//!    is gone; such an answer is not taken for a claim that was lost.
//! 5. Requests that are parts of chords are counted in between (`counting`).

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::counting::{self, PartEnd};
use super::dead::Burial;
use super::link::Link;
use super::log::Log;
use super::notice::Level;
use super::pool::RequestTag;
use crate::backend::{BackendError, ChordClaim, ResultBackend};
use crate::broker::{
    Broker, BrokerError, ChordEnd, ClaimId, Commit, Committed, Consumer, DeadReason, Settle,
};
use crate::keys::KeyError;

/// Commits in one batch at the most.
const MAX_BATCH: usize = 1_000;
/// A store that does not answer for this long is asked again.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// What a commit is for; decides what its answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The end of a request, or of its claim.
    End,
    /// The end of a request that may be kept beside the results.
    EndOfKept(RequestTag),
    /// The end of a request whose body is kept elsewhere ([`super::payloads`]).
    EndOfLarge(u64),
    /// An acknowledgement, a mark or a state while the request goes on, with the claim it had then.
    Meanwhile(RequestTag, Option<ClaimId>),
}

/// One commit that waits.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The consumer that holds the claim.
    pub(crate) consumer: u32,
    pub(crate) commit: Commit,
    pub(crate) what: What,
    /// The claim may be lost: ask before publishing.
    pub(crate) suspect: bool,
    /// It is a part of chords, or has ended one.
    pub(crate) chord: Option<Box<PartEnd>>,
}

/// What became of a batch.
#[derive(Debug)]
pub(crate) struct Done {
    /// In the order in which they were queued.
    pub(crate) answers: Vec<(What, Committed)>,
    /// A step was repeated, so that `Stale` may mean that it had taken effect.
    pub(crate) repeated: bool,
    /// The consumer says that it is closed.
    pub(crate) closed: bool,
    pub(crate) consumer: u32,
    /// Chords that can be ended now.
    pub(crate) joins: Vec<PartEnd>,
    /// How many of the batch were parts of chords.
    pub(crate) parts: usize,
}

/// Where commits go.
#[derive(Clone)]
pub(crate) struct Stores {
    pub(crate) broker: Arc<dyn Broker>,
    /// Where follow-ups go, if not to `broker`.
    pub(crate) writer: Option<Arc<dyn Broker>>,
    pub(crate) backend: Option<Arc<dyn ResultBackend>>,
    /// Broker and backend are one store.
    pub(crate) one_store: bool,
    pub(crate) log: Arc<Log>,
}

impl Stores {
    /// Where follow-ups go.
    pub(super) fn writer(&self) -> &dyn Broker {
        self.writer.as_deref().unwrap_or(&*self.broker)
    }

    /// Where a consumer is to put the results of its commits, if it takes them.
    pub(crate) fn location(&self) -> Option<String> {
        self.backend.as_ref().filter(|_| self.one_store).map(|backend| backend.location())
    }
}

/// The commits that wait.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    queue: VecDeque<Entry>,
    /// How many of them are parts of chords, with those of the batch that is under way.
    parts: usize,
    /// Messages to be buried that nobody holds a claim to any more: with the next batch, before anything else of it. A
    /// crash before that loses them, as early acknowledgement does; one after it repeats nothing.
    burials: Vec<Burial>,
}

impl Commits {
    pub(crate) fn bury(&mut self, burial: Option<Burial>) {
        self.burials.extend(burial);
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        self.parts += usize::from(entry.chord.is_some());
        self.queue.push_back(entry);
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// A part of a chord waits, or is under way: it may have to be run once more.
    pub(crate) fn any_part(&self) -> bool {
        self.parts > 0
    }

    /// So many parts have been carried out.
    pub(crate) fn carried_out(&mut self, parts: usize) {
        self.parts -= parts;
    }

    /// Whether a commit of this consumer waits.
    pub(crate) fn any_of(&self, consumer: u32) -> bool {
        self.queue.iter().any(|entry| entry.consumer == consumer)
    }

    /// The consumer of the next batch.
    pub(crate) fn next_consumer(&self) -> Option<u32> {
        self.queue.front().map(|entry| entry.consumer)
    }

    /// Begins to carry out the next batch. `consumer` is the one it is for; none when that one is gone.
    pub(crate) fn carry_out(
        &mut self,
        consumer: Option<Arc<dyn Consumer>>,
        stores: Stores,
    ) -> BoxFuture<'static, Done> {
        let number = self.next_consumer().expect("asked for only when something waits");
        let same = self.queue.iter().take(MAX_BATCH).take_while(|entry| entry.consumer == number).count();
        let mut entries: Vec<Entry> = self.queue.drain(..same).collect();
        let ends: Vec<_> = if self.parts == 0 {
            Vec::new()
        } else {
            let ends = entries.iter_mut().enumerate();
            ends.filter_map(|(place, entry)| Some((place, entry.chord.take()?))).collect()
        };
        let suspects = entries.iter().any(|entry| entry.suspect);
        let probes = if suspects { entries.iter().map(|entry| entry.suspect).collect() } else { Vec::new() };
        let (commits, whats): (Vec<_>, Vec<_>) =
            entries.into_iter().map(|entry| (entry.commit, entry.what)).unzip();
        let burials = std::mem::take(&mut self.burials);
        let mut round = Round { commits, probes, consumer, stores, repeated: false, closed: false };
        Box::pin(async move {
            round.bury(burials).await;
            let parts = ends.len();
            let (answers, joins) = if parts == 0 {
                (round.run().await, Vec::new())
            } else {
                counting::run(&mut round, ends).await
            };
            Done {
                answers: whats.into_iter().zip(answers).collect(),
                repeated: round.repeated,
                closed: round.closed,
                consumer: number,
                joins,
                parts,
            }
        })
    }
}

/// One batch under way.
pub(super) struct Round {
    pub(super) commits: Vec<Commit>,
    /// Which of them have claims that may be lost; empty when none has.
    probes: Vec<bool>,
    consumer: Option<Arc<dyn Consumer>>,
    pub(super) stores: Stores,
    repeated: bool,
    closed: bool,
}

impl Round {
    pub(super) async fn run(&mut self) -> Vec<Committed> {
        if self.stores.backend.is_none() {
            for commit in &mut self.commits {
                commit.results.clear();
            }
        }
        if self.stores.one_store {
            return self.settle().await;
        }
        let lost = self.probe().await;
        for (commit, lost) in self.commits.iter_mut().zip(&lost) {
            if *lost {
                commit.free_keys.clear();
                commit.results.clear();
                commit.publications.clear();
            }
        }
        self.publish().await;
        self.store().await;
        // What is left may be nothing at all: an early-acknowledged request whose results are stored by now.
        if !self.commits.iter().any(Commit::does_something) {
            return vec![Committed::Done; self.commits.len()];
        }
        self.settle().await
    }

    /// Keeps what nobody holds a claim to; each until the store takes it, or refuses it for good.
    async fn bury(&mut self, burials: Vec<Burial>) {
        let mut link = Link::new("keep a dead letter", self.stores.log.clone());
        for Burial { letter, reason, account } in burials {
            loop {
                let burying = self.stores.broker.bury(letter.clone(), reason, account.clone());
                match within(burying, broker_timeout).await {
                    Ok(()) => break,
                    Err(error @ (BrokerError::TooLarge { .. } | BrokerError::Refused { .. })) => {
                        self.dropped(&error);
                        break;
                    }
                    Err(error) => self.pause(&mut link, &error).await,
                }
            }
        }
        link.worked();
    }

    /// Asks whether the claims in doubt are still ours.
    async fn probe(&mut self) -> Vec<bool> {
        let asked: Vec<usize> = (0..self.probes.len())
            .filter(|place| self.probes[*place] && self.commits[*place].claim.is_some())
            .collect();
        if asked.is_empty() {
            return Vec::new();
        }
        let probes: Vec<Commit> = asked.iter().map(|place| keep(&self.commits[*place])).collect();
        let answers = self.commit(&probes).await;
        let mut lost = vec![false; self.commits.len()];
        for (place, answer) in asked.into_iter().zip(answers) {
            lost[place] = answer == Committed::Stale;
        }
        lost
    }

    async fn publish(&mut self) {
        let mut link = Link::new("publish to the broker", self.stores.log.clone());
        let mut batch: Vec<_> =
            self.commits.iter_mut().flat_map(|commit| commit.publications.drain(..)).collect();
        while !batch.is_empty() {
            match within(self.stores.writer().publish(batch.clone()), broker_timeout).await {
                Ok(()) => break,
                // One that is too large, or refused for good, must not hold up the others: they go one by one,
                // without it.
                Err(BrokerError::TooLarge { .. } | BrokerError::Refused { .. }) if batch.len() > 1 => {
                    let rest = batch.split_off(batch.len() / 2);
                    Box::pin(self.publish_part(batch)).await;
                    batch = rest;
                }
                Err(error @ (BrokerError::TooLarge { .. } | BrokerError::Refused { .. })) => {
                    self.dropped(&error);
                    break;
                }
                Err(error) => self.pause(&mut link, &error).await,
            }
        }
        link.worked();
    }

    async fn publish_part(&mut self, part: Vec<crate::protocol::Publication>) {
        let carrier = Commit { publications: part, ..nothing() };
        let commits = std::mem::replace(&mut self.commits, vec![carrier]);
        self.publish().await;
        self.commits = commits;
    }

    async fn store(&mut self) {
        let Some(backend) = self.stores.backend.clone() else { return };
        let batch: Vec<_> = self.commits.iter_mut().flat_map(|commit| commit.results.drain(..)).collect();
        if batch.is_empty() {
            return;
        }
        let mut link = Link::new("store results", self.stores.log.clone());
        while let Err(error) = within(backend.store(batch.clone()), backend_timeout).await {
            self.pause(&mut link, &error).await;
        }
        link.worked();
    }

    async fn settle(&mut self) -> Vec<Committed> {
        let commits = std::mem::take(&mut self.commits);
        self.commit(&commits).await
    }

    /// Gives commits to the consumer until it takes them.
    pub(super) async fn commit(&mut self, commits: &[Commit]) -> Vec<Committed> {
        let mut link = Link::new("commit to the broker", self.stores.log.clone());
        loop {
            let Some(consumer) = self.consumer.clone() else { return self.without_consumer(commits).await };
            match within(consumer.commit(commits), broker_timeout).await {
                Ok(answers) => {
                    link.worked();
                    if self.stores.broker.keys().is_none() {
                        self.free_keys(commits.iter().zip(&answers)).await;
                    }
                    return answers;
                }
                Err(BrokerError::Closed) => {
                    self.closed = true;
                    self.consumer = None;
                }
                Err(error @ BrokerError::TooLarge { .. }) => return self.commit_apart(commits, &error).await,
                Err(error @ BrokerError::Refused { .. })
                    if commits.iter().any(|commit| !commit.publications.is_empty()) =>
                {
                    return self.commit_apart(commits, &error).await;
                }
                Err(error) => self.pause(&mut link, &error).await,
            }
        }
    }

    /// Gives one that ends a chord to the consumer until it has answered. What the store refuses for good is for more steps
    /// to find out about.
    pub(super) async fn commit_body(&mut self, commit: &Commit, chord: &ChordClaim) -> ChordEnd {
        let mut link = Link::new("commit to the broker", self.stores.log.clone());
        loop {
            let Some(consumer) = self.consumer.clone() else { return ChordEnd::Apart };
            match within(consumer.commit_body(commit, chord), broker_timeout).await {
                Ok(end) => {
                    link.worked();
                    return end;
                }
                Err(BrokerError::Closed | BrokerError::TooLarge { .. } | BrokerError::Refused { .. }) => {
                    return ChordEnd::Apart;
                }
                Err(error) => self.pause(&mut link, &error).await,
            }
        }
    }

    /// One of the commits is too large, or its follow-up is refused: they go in halves, and the one goes without what it carries.
    async fn commit_apart(&mut self, commits: &[Commit], error: &BrokerError) -> Vec<Committed> {
        if let [commit] = commits {
            self.dropped(error);
            let reason = match error {
                BrokerError::TooLarge { .. } => DeadReason::TooLarge,
                _ => DeadReason::Rejected,
            };
            let settle = match commit.claim {
                Some(_) => Settle::Dead(reason, error.to_string()),
                None => Settle::Keep,
            };
            let free_keys = commit.free_keys.clone();
            let bare = Commit { claim: commit.claim, settle, free_keys, ..nothing() };
            return Box::pin(self.commit(&[bare])).await;
        }
        let (first, second) = commits.split_at(commits.len() / 2);
        let mut answers = Box::pin(self.commit(first)).await;
        answers.extend(Box::pin(self.commit(second)).await);
        answers
    }

    /// Its claims are gone with the consumer. What needs no claim is published and stored all the same.
    async fn without_consumer(&mut self, commits: &[Commit]) -> Vec<Committed> {
        let free = |commit: &&Commit| commit.claim.is_none();
        let kept = std::mem::replace(&mut self.commits, commits.iter().filter(free).cloned().collect());
        self.publish().await;
        self.store().await;
        self.commits = kept;
        let answer =
            |commit: &Commit| if commit.claim.is_some() { Committed::Stale } else { Committed::Done };
        let answers: Vec<Committed> = commits.iter().map(answer).collect();
        self.free_keys(commits.iter().zip(&answers)).await;
        answers
    }

    /// Frees the keys of what was carried out, where the broker has not done that with it.
    async fn free_keys(&mut self, done: impl Iterator<Item = (&Commit, &Committed)>) {
        let freed = done.filter(|(_, answer)| **answer != Committed::Stale);
        let held: Vec<_> = freed.flat_map(|(commit, _)| commit.free_keys.iter().cloned()).collect();
        if held.is_empty() {
            return;
        }
        let stores = self.stores.clone();
        let Some(keys) = stores.keys() else { return };
        let mut link = Link::new("free keys", stores.log.clone());
        loop {
            let late = || KeyError::from(backend_timeout());
            match within(keys.free(&held), late).await {
                Ok(_) => break,
                Err(error) => self.pause(&mut link, &error).await,
            }
        }
        link.worked();
    }

    pub(super) async fn pause(&mut self, link: &mut Link, error: &(dyn std::fmt::Display + Sync)) {
        self.repeated = true;
        let delay = link.failed(&error);
        tokio::time::sleep(delay).await;
    }

    pub(super) fn dropped(&self, error: &BrokerError) {
        self.stores.log.line(Level::Error, "celery.worker.request", || {
            format!("a follow-up message was dropped: {error}")
        });
    }
}

/// A commit of nothing.
pub(crate) fn nothing() -> Commit {
    Commit::default()
}

/// Asks for the claim of a commit, and changes nothing.
fn keep(commit: &Commit) -> Commit {
    Commit { claim: commit.claim, ..nothing() }
}

pub(super) async fn within<T, E>(
    call: impl Future<Output = Result<T, E>>,
    timeout: impl Fn() -> E,
) -> Result<T, E> {
    tokio::time::timeout(ANSWER_WITHIN, call).await.unwrap_or_else(|_| Err(timeout()))
}

pub(crate) fn broker_timeout() -> BrokerError {
    let reason = "it does not answer".to_owned();
    BrokerError::Timeout { url: "(connected)".to_owned(), after: ANSWER_WITHIN, reason }
}

pub(super) fn backend_timeout() -> BackendError {
    let reason = "it does not answer".to_owned();
    BackendError::Timeout { url: "(connected)".to_owned(), after: ANSWER_WITHIN, reason }
}

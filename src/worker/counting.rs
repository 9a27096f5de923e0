//! Commits of requests that are parts of chords, or that ended one.
//!
//! Where broker and backend are one store, a body and the end of its chord are one step. Elsewhere the body is published,
//! then the chord is over: a worker that dies in between leaves a body that is sent a second time, with the same id.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::chords::{Claimed, broken};
use super::commit::{Round, backend_timeout, broker_timeout, nothing, within};
use super::link::Link;
use super::notice::Level;
use super::pool::{Join, RequestTag};
use super::request::Request;
use crate::backend::{BackendError, ChordClaim, Counted, ResultBackend};
use crate::broker::{BrokerError, ChordEnd, Commit, Committed, Settle};
use crate::protocol::{ChordPart, Envelope, Publication};

/// How long a chord's claim is held while a child calls its body.
const HOLD: Duration = Duration::from_secs(180);

/// The end of a request with something to count.
#[derive(Debug)]
pub(crate) struct PartEnd {
    /// For executions that may follow.
    pub(super) request: Request,
    pub(super) parts: Vec<ChordPart>,
    /// The chord that this outcome ends.
    pub(super) done: Option<Claimed>,
    /// Chords that are to be ended after it.
    pub(super) chords: VecDeque<Claimed>,
    /// What happens to the message's claim when all of them have ended. In the commit until that is carried out.
    pub(super) settle: Settle,
}

impl PartEnd {
    /// Its message is what is kept of it beside the results, under this tag.
    pub(super) fn is_kept(&self, tag: RequestTag) -> bool {
        self.request.kept == Some(tag)
    }
}

/// One of them, and its place in the batch.
type Placed = (usize, Box<PartEnd>);

/// Carries out a batch in which there are some. Gives the answers of all, and those that have chords to end: their messages
/// are not settled.
pub(super) async fn run(round: &mut Round, mut ends: Vec<Placed>) -> (Vec<Committed>, Vec<PartEnd>) {
    let backend = round.stores.backend.clone().filter(|backend| backend.counts_chords());
    let mut ended = Vec::new();
    for (place, end) in &mut ends {
        end.settle = std::mem::replace(&mut round.commits[*place].settle, Settle::Keep);
    }
    if let Some(backend) = &backend {
        ends = end_in_one_step(round, backend, ends, &mut ended).await;
        let bodies: Vec<&mut Placed> = ends.iter_mut().filter(|(_, end)| end.done.is_some()).collect();
        if !bodies.is_empty() {
            publish_bodies(round, backend, bodies).await;
            ends = finish_simple(round, backend, ends).await;
        }
    }
    let mut answers = round.run().await;
    for (place, answer) in ended {
        answers[place] = answer;
    }
    // A claim that is lost: its message goes elsewhere, and is counted there.
    ends.retain(|(place, _)| answers[*place] == Committed::Done);
    if let Some(backend) = &backend {
        count(round, backend, &mut ends).await;
    }
    let (joins, settled): (Vec<_>, Vec<_>) = ends.into_iter().partition(|(_, end)| !end.chords.is_empty());
    settle(round, settled, &mut answers).await;
    (answers, joins.into_iter().map(|(_, end)| *end).collect())
}

/// Ends chords where that and what it sets off are one step. Gives those that are left for more steps, and adds the answers
/// of others to `ended`. An end that is a part of other chords takes more: what counts it comes before the chord is over.
async fn end_in_one_step(
    round: &mut Round,
    backend: &Arc<dyn ResultBackend>,
    ends: Vec<Placed>,
    ended: &mut Vec<(usize, Committed)>,
) -> Vec<Placed> {
    let mut left = Vec::with_capacity(ends.len());
    for (place, mut end) in ends {
        let claim = end.done.as_ref().map(|done| done.claim.clone()).filter(|_| end.parts.is_empty());
        let Some(claim) = claim.filter(|_| round.stores.one_store) else {
            left.push((place, end));
            continue;
        };
        // One that is not held is told apart below.
        let _ = hold(round, backend, &claim).await;
        let mut commit = std::mem::replace(&mut round.commits[place], nothing());
        if end.chords.is_empty() {
            commit.settle = end.settle.clone();
            commit.free_keys = end.request.keys_at_end();
        }
        match round.commit_body(&commit, &claim).await {
            ChordEnd::Apart => {
                round.commits[place] = Commit { settle: Settle::Keep, free_keys: Vec::new(), ..commit };
                left.push((place, end));
                continue;
            }
            ChordEnd::NotHeld => {
                // Over by now, or somebody else's to end.
                let Commit { claim, settle, free_keys, .. } = commit;
                round.commits[place] = Commit { claim, settle, free_keys, ..nothing() };
            }
            ChordEnd::Ended(answer) => ended.push((place, answer)),
        }
        end.done = None;
        if !end.chords.is_empty() {
            left.push((place, end));
        }
    }
    left
}

/// Publishes what the ends of chords set off, if their claims are still ours, and leaves the rest of them to the batch.
async fn publish_bodies(round: &mut Round, backend: &Arc<dyn ResultBackend>, mut ends: Vec<&mut Placed>) {
    for (place, end) in &mut ends {
        let Some(done) = &end.done else { continue };
        if !hold(round, backend, &done.claim).await {
            // Somebody else ends it, or has ended it.
            let commit = &mut round.commits[*place];
            commit.publications.clear();
            commit.results.clear();
            (end.done, end.parts) = (None, Vec::new());
        }
    }
    let mut all = Vec::new();
    for (place, _) in &ends {
        all.extend_from_slice(&round.commits[*place].publications);
    }
    let refused = publish(round, all).await.is_err();
    for (place, end) in ends {
        let publications = std::mem::take(&mut round.commits[*place].publications);
        if !refused || publications.is_empty() {
            continue;
        }
        // One of them cannot be published: each by itself shows which.
        let Err(error) = publish(round, publications).await else { continue };
        round.commits[*place].results.clear();
        end.parts.clear();
        let Some(done) = end.done.take() else { continue };
        if done.join.broken.is_some() {
            round.dropped(&error);
            end.done = Some(done);
        } else {
            let join = broken(&done.claim, &error.to_string());
            end.chords.push_front(Claimed { claim: done.claim, join });
        }
    }
}

/// Chords with nothing to store or to count besides are over at once: the less lies between that and the body, the more
/// seldom a crash has it sent twice. Gives those that are left; the others are commits like any.
async fn finish_simple(
    round: &mut Round,
    backend: &Arc<dyn ResultBackend>,
    ends: Vec<Placed>,
) -> Vec<Placed> {
    let mut left = Vec::new();
    for (place, mut end) in ends {
        if end.parts.is_empty() && round.commits[place].results.is_empty() && end.done.is_some() {
            finish(round, backend, &mut end).await;
        }
        if end.parts.is_empty() && end.chords.is_empty() && end.done.is_none() {
            round.commits[place].free_keys = end.request.keys_at_end();
            round.commits[place].settle = end.settle;
        } else {
            left.push((place, end));
        }
    }
    left
}

async fn finish(round: &mut Round, backend: &Arc<dyn ResultBackend>, end: &mut PartEnd) {
    if let Some(done) = end.done.take() {
        // That the claim is gone can only mean that it was carried out, or taken in the last moment.
        let _ = ask(round, "end chords", || backend.finish_chord(&done.claim)).await;
    }
}

/// Until the broker takes them, or refuses them for good.
async fn publish(round: &mut Round, batch: Vec<Publication>) -> Result<(), BrokerError> {
    let mut link = Link::new("publish to the broker", round.stores.log.clone());
    if batch.is_empty() {
        return Ok(());
    }
    loop {
        match within(round.stores.writer().publish(batch.clone()), broker_timeout).await {
            Ok(()) => {
                link.worked();
                return Ok(());
            }
            Err(error @ (BrokerError::TooLarge { .. } | BrokerError::Refused { .. })) => return Err(error),
            Err(error) => round.pause(&mut link, &error).await,
        }
    }
}

/// Counts the parts of all, says of chords that they are over, and gathers those that can be ended.
async fn count(round: &mut Round, backend: &Arc<dyn ResultBackend>, ends: &mut [Placed]) {
    let (mut owners, mut parts) = (Vec::new(), Vec::new());
    for (owner, (_, end)) in ends.iter_mut().enumerate() {
        owners.resize(owners.len() + end.parts.len(), owner);
        parts.append(&mut end.parts);
    }
    let counted = count_parts(round, backend, &parts).await;
    for (_, end) in ends.iter_mut() {
        finish(round, backend, end).await;
    }
    for ((owner, part), counted) in owners.into_iter().zip(parts).zip(counted) {
        let (claim, join) = match counted {
            Counted::Waiting | Counted::Ended => continue,
            Counted::Complete(claim) => {
                let join = gather(round, backend, &claim).await;
                (claim, join)
            }
            Counted::Failed(claim) => {
                if !see(round, backend, &mut ends[owner].1.request, &claim.group_id).await {
                    continue;
                }
                let (group_id, elements) = (claim.group_id.clone(), vec![part.element]);
                (claim, Arc::new(Join { group_id, elements, ..Join::default() }))
            }
        };
        if hold(round, backend, &claim).await {
            ends[owner].1.chords.push_back(Claimed { claim, join });
        }
    }
}

/// Sees to it that the request's message tells of the body, which that of a refused one does not: another message of the
/// chord takes its place. False when there is none; the last of the other parts ends the chord, then.
async fn see(
    round: &mut Round,
    backend: &Arc<dyn ResultBackend>,
    request: &mut Request,
    group_id: &str,
) -> bool {
    if !request.blind {
        return true;
    }
    let kept = ask(round, "read what is kept of chords", || backend.guarded_chord(group_id)).await;
    let opened = kept.ok().flatten().and_then(|kept| Envelope::decode(&kept).ok());
    opened.is_some_and(|envelope| {
        request.message = Arc::new(envelope.message);
        true
    })
}

/// What the store refuses to count is left out, and hides nothing else.
async fn count_parts(
    round: &mut Round,
    backend: &Arc<dyn ResultBackend>,
    parts: &[ChordPart],
) -> Vec<Counted> {
    if parts.is_empty() {
        return Vec::new();
    }
    match ask(round, "count parts of chords", || backend.count_parts(parts)).await {
        Ok(counted) => counted,
        Err(error) if parts.len() == 1 => {
            let ChordPart { group_id, task_id, .. } = &parts[0];
            round.stores.log.line(Level::Error, "celery.worker.request", || {
                format!("Task {task_id} cannot be counted as a part of chord {group_id}: {error}")
            });
            vec![Counted::Waiting]
        }
        Err(_) => {
            let (first, second) = parts.split_at(parts.len() / 2);
            let mut counted = Box::pin(count_parts(round, backend, first)).await;
            counted.extend(Box::pin(count_parts(round, backend, second)).await);
            counted
        }
    }
}

async fn gather(round: &mut Round, backend: &Arc<dyn ResultBackend>, claim: &ChordClaim) -> Arc<Join> {
    const WHAT: &str = "gather the parts of chords";
    let group_id = claim.group_id.clone();
    let elements = match ask(round, WHAT, || backend.gather(&group_id)).await {
        Ok(elements) => elements,
        Err(error) => return broken(claim, &error.to_string()),
    };
    // One that cannot be read is as good as none: the results are given one after another, then.
    let group = ask(round, WHAT, || backend.read_group(&group_id)).await.ok().flatten();
    Arc::new(Join { group_id, elements, group: group.map(|group| group.record), broken: None })
}

/// Whether the claim is ours, for some time from now.
async fn hold(round: &mut Round, backend: &Arc<dyn ResultBackend>, claim: &ChordClaim) -> bool {
    let held = ask(round, "hold the claims of chords", || backend.hold_chord(claim, HOLD)).await;
    // A store that cannot tell must not make the chord hang.
    held.unwrap_or(true)
}

/// Settles those with nothing left to do.
async fn settle(round: &mut Round, ends: Vec<Placed>, answers: &mut [Committed]) {
    let commit = |(place, end): Placed| {
        let free_keys = end.request.keys_at_end();
        let commit =
            Commit { claim: end.request.claim, settle: end.settle, begun: true, free_keys, ..nothing() };
        commit.does_something().then_some((place, commit))
    };
    let (places, commits): (Vec<_>, Vec<_>) = ends.into_iter().filter_map(commit).unzip();
    if commits.is_empty() {
        return;
    }
    let settled = round.commit(&commits).await;
    for (place, answer) in places.into_iter().zip(settled) {
        answers[place] = answer;
    }
}

/// Asks the backend until it answers. An error is its last word.
async fn ask<T, F: Future<Output = Result<T, BackendError>>>(
    round: &mut Round,
    what: &'static str,
    call: impl Fn() -> F,
) -> Result<T, BackendError> {
    let mut link = Link::new(what, round.stores.log.clone());
    loop {
        match within(call(), backend_timeout).await {
            Ok(answer) => {
                link.worked();
                return Ok(answer);
            }
            Err(error @ (BackendError::Refused { .. } | BackendError::Unsupported { .. })) => {
                return Err(error);
            }
            Err(error) => round.pause(&mut link, &error).await,
        }
    }
}

//! Carrying out commits: what is published first, and confirmed; then what is acknowledged.
//!
//! A commit that fails half-way is repeated by the caller. Copies that are in their place are then not sent again, and
//! what was acknowledged is stale.

use std::sync::Arc;

use futures_util::future::join_all;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicNackOptions, BasicRejectOptions};

use super::consumer::{Held, Shared};
use super::publish::Letter;
use super::{dead, failure, wire};
use crate::broker::{BrokerError, ClaimId, Commit, Committed, DeadReason, Settle};

/// How a delivery is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Ack,
    /// Back to its place.
    Release,
    /// To the dead-letter exchange of its queue.
    Reject,
}

/// What a commit comes to.
struct Plan {
    claim: ClaimId,
    answer: Answer,
    committed: Committed,
    /// Goes out before the answer.
    letter: Option<Letter>,
    /// Its place in the batch.
    place: usize,
}

pub(super) async fn commit(shared: &Arc<Shared>, batch: &[Commit]) -> Result<Vec<Committed>, BrokerError> {
    let mut answers = vec![Committed::Done; batch.len()];
    let (mut plans, dead) = plan(shared, batch, &mut answers)?;
    let publications: Vec<_> = batch
        .iter()
        .zip(&answers)
        .filter(|(_, answer)| **answer != Committed::Stale)
        .flat_map(|(commit, _)| commit.publications.iter().cloned())
        .collect();
    shared.publisher.publish(&publications).await?;
    if dead {
        dead::declare(&shared.publisher.link).await?;
    }
    send_copies(shared, &mut plans).await?;
    answer(shared, &plans, &mut answers).await?;
    Ok(answers)
}

/// Decides what becomes of each claim, and whether any becomes a dead letter.
fn plan(
    shared: &Shared,
    batch: &[Commit],
    answers: &mut [Committed],
) -> Result<(Vec<Plan>, bool), BrokerError> {
    let state = shared.state.lock();
    if state.closed {
        return Err(BrokerError::Closed);
    }
    let mut plans = Vec::with_capacity(batch.len());
    let mut dead = false;
    for (place, commit) in batch.iter().enumerate() {
        let Some(claim) = commit.claim else { continue };
        let Some(held) = state.held.get(&claim.id).filter(|held| held.fence == claim.fence) else {
            answers[place] = Committed::Stale;
            continue;
        };
        if matches!(commit.settle, Settle::Keep | Settle::Once) {
            continue;
        }
        let mut plan = settle(shared, held, &commit.settle, &mut dead)?;
        (plan.claim, plan.place) = (claim, place);
        plans.push(plan);
    }
    Ok((plans, dead))
}

fn settle(shared: &Shared, held: &Held, settle: &Settle, dead: &mut bool) -> Result<Plan, BrokerError> {
    let publisher = &shared.publisher;
    let plan = |answer, letter| Plan {
        claim: ClaimId { id: 0, fence: 0 },
        answer,
        committed: Committed::Done,
        letter,
        place: 0,
    };
    let mut bury = |reason, detail: &str, crashes| {
        *dead = true;
        dead::letter(publisher, &held.queue, &held.message, reason, detail, crashes)
    };
    Ok(match settle {
        Settle::Keep | Settle::Once | Settle::Ack => plan(Answer::Ack, None),
        Settle::Release => plan(Answer::Release, None),
        Settle::Requeue => {
            let copy = wire::again(&held.message, &[]);
            plan(Answer::Ack, Some(publisher.to_queue(&held.queue, &copy, None)?))
        }
        Settle::Park(until) => {
            plan(Answer::Ack, Some(publisher.to_queue(&held.queue, &held.message, Some(until.0))?))
        }
        Settle::Crashed if held.crashes + 1 >= shared.max_crashes => {
            let letter = bury(DeadReason::Crashed, "its process died too often", held.crashes + 1)?;
            Plan { committed: Committed::Dead, ..plan(Answer::Ack, Some(letter)) }
        }
        Settle::Crashed => {
            let copy = wire::again(&held.message, &[(wire::CRASHES, (held.crashes + 1).into())]);
            plan(Answer::Ack, Some(publisher.to_queue(&held.queue, &copy, None)?))
        }
        // A queue with a place of its own for dead letters keeps to it.
        Settle::Dead(..)
            if publisher.topology.queue(&held.queue).arguments.contains_key("x-dead-letter-exchange") =>
        {
            plan(Answer::Reject, None)
        }
        Settle::Dead(reason, detail) => plan(Answer::Ack, Some(bury(*reason, detail, held.crashes)?)),
    })
}

/// Sends what is to be in its place before the original is acknowledged.
async fn send_copies(shared: &Shared, plans: &mut [Plan]) -> Result<(), BrokerError> {
    let mut letters = Vec::new();
    let mut copied = Vec::new();
    {
        let state = shared.state.lock();
        for plan in plans.iter_mut() {
            let Some(letter) = plan.letter.take() else { continue };
            if state.held.get(&plan.claim.id).is_some_and(|held| held.copied) {
                continue;
            }
            letters.push(letter);
            copied.push(plan.claim);
        }
    }
    shared.publisher.deliver(letters).await?;
    let mut state = shared.state.lock();
    for claim in copied {
        if let Some(held) = state.held.get_mut(&claim.id).filter(|held| held.fence == claim.fence) {
            held.copied = true;
        }
    }
    Ok(())
}

/// Answers the deliveries. What is answered is no longer held from here on: the answers are written even if this call
/// is dropped, or the channel is lost and everything on it comes again.
async fn answer(shared: &Shared, plans: &[Plan], answers: &mut [Committed]) -> Result<(), BrokerError> {
    let (channel, work) = {
        let mut state = shared.state.lock();
        let mut work: Vec<(u64, Answer)> = Vec::with_capacity(plans.len());
        for plan in plans {
            let held = state.held.get(&plan.claim.id).is_some_and(|held| held.fence == plan.claim.fence);
            if held {
                state.held.remove(&plan.claim.id);
                work.push((plan.claim.id, plan.answer));
                answers[plan.place] = plan.committed;
            } else {
                answers[plan.place] = Committed::Stale;
            }
        }
        if work.is_empty() {
            return Ok(());
        }
        work.sort_unstable_by_key(|(tag, _)| *tag);
        let acks: Vec<u64> =
            work.iter().filter(|(_, answer)| *answer == Answer::Ack).map(|(tag, _)| *tag).collect();
        let (multiple, singly) = state.tags.settle(&acks);
        work.retain(|(tag, answer)| {
            *answer != Answer::Ack || Some(*tag) == multiple || singly.binary_search(tag).is_ok()
        });
        for (tag, _) in &work {
            state.tags.settled(*tag);
        }
        let work: Vec<_> =
            work.into_iter().map(|(tag, answer)| (tag, answer, Some(tag) == multiple)).collect();
        (state.channel.clone(), work)
    };
    let Some(channel) = channel else {
        return Err(failure::unavailable(&shared.link.url, "the connection was lost"));
    };
    let sent =
        join_all(work.into_iter().map(|(tag, answer, multiple)| send(&channel, tag, answer, multiple)));
    for done in sent.await {
        done.map_err(|error| shared.link.error(&error))?;
    }
    Ok(())
}

async fn send(channel: &Channel, tag: u64, answer: Answer, multiple: bool) -> lapin::Result<()> {
    match answer {
        Answer::Ack => channel.basic_ack(tag, BasicAckOptions { multiple }).await,
        Answer::Release => channel.basic_nack(tag, BasicNackOptions { multiple: false, requeue: true }).await,
        Answer::Reject => channel.basic_reject(tag, BasicRejectOptions { requeue: false }).await,
    }
}

//! Chords: their parts are counted when a request is committed, and who completes one ends it.
//!
//! 1. Requests with parts go through the commit in steps (`counting`): follow-ups published and results stored, with the
//!    claim kept; the parts counted; then the claim settled.
//! 2. A part that completes a chord, or is the first to fail, is not settled yet: its message is what is left of the chord
//!    should this worker die. The chord's parts are gathered and its request is given to a child once more
//!    ([`Mode::Join`]), which calls the body or ends it.
//! 3. That outcome is committed like others; before it is published the chord's claim must still be ours, and after it the
//!    chord is over. A crash in between leads to a repeat, never to a chord that hangs.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::commit::{Entry, nothing};
use super::consumer::ConsumerLoop;
use super::counting::PartEnd;
use super::notice::Level;
use super::pool::{Join, Mode, Outcome, OutcomeKind};
use super::request::{Phase, Request};
use crate::backend::ChordClaim;
use crate::broker::{Commit, DeadReason, Settle};
use crate::protocol::ChordPart;

/// How long calling a body may take, once a child has begun with it: its error links may be the user's code.
pub(super) const JOIN_LIMIT: Duration = Duration::from_secs(120);
/// How often a process may die over a chord before its body is ended instead of called, and then before it is left alone.
const TRIES: u32 = 3;

/// A chord that this worker may end, and what a child is told of it.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(super) claim: ChordClaim,
    pub(super) join: Arc<Join>,
}

/// What a request that ends chords has besides.
#[derive(Debug)]
pub(crate) struct Joining {
    /// What happens to the message's claim when all of them have ended.
    settle: Settle,
    /// The first one is being ended.
    chords: VecDeque<Claimed>,
    /// Processes that died over it.
    tries: u32,
}

impl ConsumerLoop {
    /// Queues the last commit of a request with parts of chords.
    pub(super) fn commit_part(&mut self, request: Request, commit: Commit, parts: Vec<ChordPart>) {
        let end = PartEnd { request, parts, done: None, chords: VecDeque::new(), settle: Settle::Keep };
        self.commit_chord(end, commit);
    }

    fn commit_chord(&mut self, end: PartEnd, commit: Commit) {
        let what = self.end_of(&end.request, &commit);
        let PartEnd { request: Request { consumer, suspect, .. }, .. } = end;
        self.commits.push(Entry { consumer, commit, what, suspect, chord: Some(Box::new(end)) });
    }

    /// A request whose parts were counted has chords to end.
    pub(super) fn join(&mut self, end: PartEnd) {
        let PartEnd { request, chords, settle, .. } = end;
        self.enter_join(request, Joining { settle, chords, tries: 0 });
    }

    /// Chords that nobody would end are ended on behalf of a request that is nobody's.
    pub(super) fn join_lost(&mut self, request: Request, chords: VecDeque<Claimed>) {
        self.enter_join(request, Joining { settle: Settle::Keep, chords, tries: 0 });
    }

    /// Lets it wait for a slot, in front of the others: what it holds up is a whole workflow.
    fn enter_join(&mut self, mut request: Request, joining: Joining) {
        let Some(first) = joining.chords.front() else { return };
        request.mode = Mode::Join(first.join.clone());
        (request.phase, request.pid, request.terminate) = (Phase::Ready, None, None);
        request.joining = Some(Box::new(joining));
        let tag = self.next_tag;
        self.next_tag += 1;
        self.prefetch.bytes += request.message.size();
        self.prefetch.count += 1;
        self.requests.insert(tag, request);
        self.ready.push_front(tag);
    }

    /// A child has called a chord's body, or ended it. The request was taken out of the table.
    pub(super) fn joined(&mut self, mut request: Request, outcome: Outcome) {
        if request.stale {
            self.stats.stale.add(1);
            return;
        }
        if !matches!(outcome.kind, OutcomeKind::Success | OutcomeKind::Failure) {
            return self.join_again(request, &outcome.summary);
        }
        let Some(joining) = request.joining.take() else { return };
        let Joining { settle, mut chords, .. } = *joining;
        let done = chords.pop_front();
        let Outcome { mut results, publications, parts, .. } = outcome;
        self.address(&request, &mut results);
        let commit = Commit { claim: request.claim, settle, results, publications, begun: true, ..nothing() };
        self.commit_chord(PartEnd { request, parts, done, chords, settle: Settle::Keep }, commit);
    }

    /// The process that was ending a chord is gone: another one tries; after some the body is not called any more, but
    /// ended with an error; when that does not work either, the chord is left alone.
    pub(super) fn join_again(&mut self, mut request: Request, how: &str) {
        let Some(mut joining) = request.joining.take() else { return };
        joining.tries += 1;
        let Some(chord) = joining.chords.front_mut() else { return };
        let group_id = chord.claim.group_id.clone();
        let left = joining.tries >= TRIES && chord.join.broken.is_some();
        if joining.tries >= TRIES {
            chord.join = broken(&chord.claim, how);
            joining.tries = 0;
        }
        self.log.task(Level::Error, "celery.worker.request", &request, || {
            let fate = if left { "it is left as it is" } else { "another one tries" };
            format!("A process that was to end chord {group_id} is gone ({how}): {fate}")
        });
        if left {
            joining.chords.pop_front();
        }
        if joining.chords.is_empty() {
            let detail = format!("processes died while they ended chord {group_id}: {how}");
            return self.settle(&request, Settle::Dead(DeadReason::Crashed, detail));
        }
        self.enter_join(request, *joining);
    }
}

/// What a child is told when the body must not be called.
pub(super) fn broken(claim: &ChordClaim, why: &str) -> Arc<Join> {
    Arc::new(Join { group_id: claim.group_id.clone(), broken: Some(why.to_owned()), ..Join::default() })
}

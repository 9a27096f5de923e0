//! The requests of a child with several slots: which of them it has begun, their limits, and which must end.
//!
//! 1. A child begins what it was given in order, and says so before the first line of a task runs: what it
//!    has not begun can always be handed back, what it has begun is lost with it.
//! 2. One request cannot be killed alone. When its hard limit has passed, or it is terminated, it is reported
//!    as lost at once; the child is told to end it, and is condemned if that takes too long.
//! 3. A lost request is concluded while the old run of it may go on, perhaps in the same child: on the way
//!    to a child, conclusions have a bit in their tag that runs have not.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::frame::{self, CONCLUSION};
use super::limits::{RECLAIM_AFTER, TELL_AFTER};
use super::pace::SHORT_DEPTH;
use crate::worker::pool::{Execution, PoolEvent, RequestTag};

/// How long a request that was told to end may take before its process is replaced.
const CANCEL_WAIT: Duration = Duration::from_secs(1);
/// A child that does not begin what it was given gets nothing for so long, when there are others.
const STALL_WAIT: Duration = Duration::from_millis(100);

/// What becomes due for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    SoftLimit,
    HardLimit,
    /// It was told to end, and has not.
    Condemn,
}

/// A request that the child was given.
#[derive(Debug)]
struct Given {
    soft: Option<Duration>,
    hard: Option<Duration>,
    begun: bool,
    /// It was reported as lost; only its slot is still waited for.
    doomed: bool,
}

/// What a child has when it is gone.
#[derive(Debug, Default)]
pub(super) struct Left {
    pub(super) begun: Vec<RequestTag>,
    pub(super) waiting: Vec<RequestTag>,
}

/// The slots of one child.
#[derive(Debug)]
pub(super) struct SlotTable {
    size: usize,
    given: HashMap<RequestTag, Given>,
    /// How many of them have begun; the doomed too.
    begun: usize,
    doomed: usize,
    /// Requests of which it is not told yet that they have begun, oldest first.
    untold: VecDeque<(Instant, RequestTag)>,
    /// Moments of requests that may have ended since.
    due: BinaryHeap<Reverse<(Instant, RequestTag, Due)>>,
    /// When a request began or ended, or the first one was given.
    moved: Instant,
    /// It began nothing for too long: it gets nothing until then.
    stalled: Option<Instant>,
    /// A question for what has not begun is on its way.
    reclaiming: bool,
    /// A request did not end when it was told to: the process has to be replaced.
    pub(super) condemned: bool,
}

impl SlotTable {
    pub(super) fn new(size: usize, now: Instant) -> Self {
        Self {
            size,
            given: HashMap::new(),
            begun: 0,
            doomed: 0,
            untold: VecDeque::new(),
            due: BinaryHeap::new(),
            moved: now,
            stalled: None,
            reclaiming: false,
            condemned: false,
        }
    }

    /// Changes how many run at the same time. What runs goes on.
    pub(super) fn resize(&mut self, size: usize, out: &mut Vec<u8>) {
        self.size = size;
        frame::encode_slots(size, out);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.given.is_empty()
    }

    /// Nothing but what was told to end.
    pub(super) fn only_doomed(&self) -> bool {
        self.given.len() == self.doomed
    }

    pub(super) fn len(&self) -> usize {
        self.given.len()
    }

    /// How many it takes now: as many as there are free slots, and some ahead of them while they keep ending.
    pub(super) fn room(&self, short: bool, now: Instant) -> usize {
        if self.condemned || self.stalled.is_some() || self.reclaiming {
            return 0;
        }
        let flows = self.given.is_empty() || now.duration_since(self.moved) < RECLAIM_AFTER;
        let ahead = if short && flows { SHORT_DEPTH } else { 0 };
        (self.size + ahead).saturating_sub(self.given.len())
    }

    /// Takes an execution; gives it back when it cannot be written.
    pub(super) fn push(
        &mut self,
        mut execution: Execution,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<(), Execution> {
        let tag = execution.tag;
        if !execution.mode.runs() {
            execution.tag |= CONCLUSION;
        }
        let wire = execution.tag;
        if self.given.contains_key(&wire) || frame::encode_execution(&execution, out).is_err() {
            return Err(Execution { tag, ..execution });
        }
        if self.given.is_empty() {
            self.moved = now;
        }
        let Execution { soft_limit: soft, hard_limit: hard, .. } = execution;
        self.given.insert(wire, Given { soft, hard, begun: false, doomed: false });
        Ok(())
    }

    /// The child begins these.
    pub(super) fn began(&mut self, wires: &[RequestTag], now: Instant) {
        self.moved = now;
        self.stalled = None;
        for wire in wires {
            let Some(given) = self.given.get_mut(wire).filter(|given| !given.begun) else { continue };
            given.begun = true;
            self.begun += 1;
            self.untold.push_back((now + TELL_AFTER, *wire));
            for (limit, due) in [(given.soft, Due::SoftLimit), (given.hard, Due::HardLimit)] {
                if let Some(at) = limit.and_then(|limit| now.checked_add(limit)) {
                    self.due.push(Reverse((at, *wire, due)));
                }
            }
        }
    }

    /// A request has ended: whose it was, if anybody's; an error when it was never given.
    pub(super) fn finished(&mut self, wire: RequestTag, now: Instant) -> Result<Option<RequestTag>, ()> {
        let given = self.given.remove(&wire).ok_or(())?;
        self.moved = now;
        self.stalled = None;
        self.begun -= usize::from(given.begun);
        self.doomed -= usize::from(given.doomed);
        Ok((!given.doomed).then_some(wire & !CONCLUSION))
    }

    /// An update of a request that nobody has given up.
    pub(super) fn owner(&self, wire: RequestTag) -> Option<RequestTag> {
        self.given.get(&wire).filter(|given| !given.doomed).map(|_| wire & !CONCLUSION)
    }

    /// The child hands these back.
    pub(super) fn returned(&mut self, wires: &[RequestTag], into: &mut Vec<PoolEvent>) {
        self.reclaiming = false;
        // There is room again, even if all had begun before the question came.
        into.push(PoolEvent::SlotFree);
        for wire in wires {
            if self.given.get(wire).is_some_and(|given| !given.begun) {
                self.given.remove(wire);
                into.push(PoolEvent::Returned(wire & !CONCLUSION));
            }
        }
    }

    /// Asks for all that has not begun.
    pub(super) fn reclaim(&mut self, out: &mut Vec<u8>) {
        let waiting = self.given.iter().filter(|(_, given)| !given.begun);
        let waiting: Vec<_> = waiting.map(|(wire, _)| *wire).collect();
        if !waiting.is_empty() && !self.reclaiming {
            frame::encode_reclaim(&waiting, out);
            self.reclaiming = true;
        }
    }

    /// Ends one request (revoke with terminate). False when it has not begun here.
    pub(super) fn terminate(
        &mut self,
        tag: RequestTag,
        signal: i32,
        now: Instant,
        out: &mut Vec<u8>,
        into: &mut Vec<PoolEvent>,
    ) -> bool {
        let found = [tag, tag | CONCLUSION].into_iter().find(|wire| self.runs(*wire));
        let Some(wire) = found else { return false };
        self.doom(wire, now, out);
        let how = format!("terminated (signal {signal})");
        into.push(PoolEvent::Lost { tag, hard_limit: None, terminated: true, how });
        true
    }

    fn runs(&self, wire: RequestTag) -> bool {
        self.given.get(&wire).is_some_and(|given| given.begun && !given.doomed)
    }

    fn doom(&mut self, wire: RequestTag, now: Instant, out: &mut Vec<u8>) {
        if let Some(given) = self.given.get_mut(&wire) {
            given.doomed = true;
            self.doomed += 1;
            frame::encode_cancel(wire, out);
            self.due.push(Reverse((now + CANCEL_WAIT, wire, Due::Condemn)));
        }
    }

    /// When something becomes due.
    pub(super) fn next_deadline(&self, alone: bool) -> Option<Instant> {
        let tell = self.untold.front().map(|(at, _)| *at);
        let due = self.due.peek().map(|Reverse((at, ..))| *at);
        let reclaim = self.waits(alone).then(|| self.moved + RECLAIM_AFTER);
        [tell, due, reclaim, self.stalled].into_iter().flatten().min()
    }

    /// Something has not begun, and could begin elsewhere.
    fn waits(&self, alone: bool) -> bool {
        !alone && !self.reclaiming && self.given.len() > self.begun
    }

    /// Does what is due. `alone`: no other child could run what waits here.
    pub(super) fn on_time(
        &mut self,
        now: Instant,
        pid: u32,
        alone: bool,
        out: &mut Vec<u8>,
        into: &mut Vec<PoolEvent>,
    ) {
        while let Some((at, wire)) = self.untold.front().copied()
            && at <= now
        {
            self.untold.pop_front();
            if self.runs(wire) {
                into.push(PoolEvent::Began { tag: wire & !CONCLUSION, pid });
            }
        }
        while let Some(Reverse((at, wire, due))) = self.due.peek().copied()
            && at <= now
        {
            self.due.pop();
            self.pass(wire, due, now, out, into);
        }
        if self.waits(alone) && now.duration_since(self.moved) >= RECLAIM_AFTER {
            self.reclaim(out);
            self.stalled = Some(now + STALL_WAIT);
        }
        if self.stalled.take_if(|until| *until <= now).is_some() {
            into.push(PoolEvent::SlotFree);
        }
    }

    fn pass(
        &mut self,
        wire: RequestTag,
        due: Due,
        now: Instant,
        out: &mut Vec<u8>,
        into: &mut Vec<PoolEvent>,
    ) {
        let Some(given) = self.given.get(&wire) else { return };
        match due {
            Due::SoftLimit if !given.doomed => frame::encode_soft_limit(wire, out),
            Due::HardLimit if !given.doomed => {
                let hard_limit = given.hard.map(|limit| limit.as_secs_f64());
                self.doom(wire, now, out);
                let (tag, how) = (wire & !CONCLUSION, "its hard time limit has passed".to_owned());
                into.push(PoolEvent::Lost { tag, hard_limit, terminated: false, how });
            }
            Due::Condemn => self.condemned = true,
            Due::SoftLimit | Due::HardLimit => {}
        }
    }

    /// Empties the table of a child that is gone.
    pub(super) fn take(&mut self) -> Left {
        let mut left = Left::default();
        for (wire, given) in self.given.drain().filter(|(_, given)| !given.doomed) {
            let list = if given.begun { &mut left.begun } else { &mut left.waiting };
            list.push(wire & !CONCLUSION);
        }
        // In the order in which they came.
        left.begun.sort_unstable();
        left.waiting.sort_unstable();
        (self.begun, self.doomed) = (0, 0);
        self.untold.clear();
        self.due.clear();
        left
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::worker::pool::Mode;

    fn execution(tag: RequestTag, hard: Option<Duration>) -> Execution {
        Execution {
            tag,
            mode: Mode::Run,
            message: Arc::default(),
            exchange: "".into(),
            routing_key: "celery".into(),
            queue: None,
            redelivered: false,
            soft_limit: None,
            hard_limit: hard,
            short: false,
        }
    }

    #[test]
    fn a_request_over_its_hard_limit_is_lost_at_once_and_condemns_a_child_that_does_not_end_it() {
        let (now, mut out, mut events) = (Instant::now(), Vec::new(), Vec::new());
        let second = Duration::from_secs(1);
        let mut slots = SlotTable::new(2, now);
        slots.push(execution(1, Some(second)), now, &mut out).unwrap();
        slots.push(execution(2, None), now, &mut out).unwrap();
        slots.began(&[1, 2], now);

        slots.on_time(now + second, 7, true, &mut out, &mut events);

        let lost = PoolEvent::Lost {
            tag: 1,
            hard_limit: Some(1.0),
            terminated: false,
            how: "its hard time limit has passed".into(),
        };
        let began = |tag| PoolEvent::Began { tag, pid: 7 };
        assert_eq!(events, [began(1), began(2), lost]);
        assert!(!slots.condemned);
        slots.on_time(now + second + CANCEL_WAIT, 7, true, &mut out, &mut events);
        assert!(slots.condemned);
        assert_eq!(slots.take().begun, [2]);
    }

    #[test]
    fn a_conclusion_is_told_apart_from_the_run_that_it_ends() {
        let (now, mut out, mut events) = (Instant::now(), Vec::new(), Vec::new());
        let mut slots = SlotTable::new(2, now);
        slots.push(execution(1, None), now, &mut out).unwrap();
        slots.began(&[1], now);
        assert!(slots.terminate(1, 15, now, &mut out, &mut events));

        let conclusion = Execution { mode: Mode::Revoked("terminated".into()), ..execution(1, None) };
        slots.push(conclusion, now, &mut out).unwrap();

        assert_eq!(slots.finished(1, now), Ok(None));
        assert_eq!(slots.finished(1 | CONCLUSION, now), Ok(Some(1)));
        assert_eq!(slots.finished(1, now), Err(()));
        assert!(slots.is_empty());
    }

    #[test]
    fn a_question_that_comes_too_late_tells_that_there_is_room_again() {
        let (now, mut out, mut events) = (Instant::now(), Vec::new(), Vec::new());
        let mut slots = SlotTable::new(1, now);
        slots.push(execution(1, None), now, &mut out).unwrap();
        slots.reclaim(&mut out);
        slots.began(&[1], now);
        assert_eq!(slots.finished(1, now), Ok(Some(1)));
        assert_eq!(slots.room(false, now), 0);

        slots.returned(&[], &mut events);

        assert_eq!(events, [PoolEvent::SlotFree]);
        assert_eq!(slots.room(false, now), 1);
    }

    #[test]
    fn what_does_not_begin_is_called_back_when_there_are_other_children() {
        let (now, mut out, mut events) = (Instant::now(), Vec::new(), Vec::new());
        let mut slots = SlotTable::new(1, now);
        slots.push(execution(1, None), now, &mut out).unwrap();
        let later = now + RECLAIM_AFTER;

        slots.on_time(later, 7, true, &mut out, &mut events);
        assert!(!slots.reclaiming);
        slots.on_time(later, 7, false, &mut out, &mut events);

        assert!(slots.reclaiming);
        assert_eq!(slots.room(false, later), 0);
        slots.returned(&[1], &mut events);
        assert_eq!(events, [PoolEvent::SlotFree, PoolEvent::Returned(1)]);
        slots.on_time(later + STALL_WAIT, 7, false, &mut out, &mut events);
        assert_eq!(slots.room(false, later + STALL_WAIT), 1);
    }
}

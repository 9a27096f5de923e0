//! Batches: requests of a task that wants several at once are gathered here, and given to one child together.
//!
//! 1. A request whose turn has come joins the batch of its task that gathers, instead of waiting for a slot.
//! 2. A batch that is full, or whose first request has waited long enough, waits for a slot as one request does. Until it
//!    gets one, more may join.
//! 3. The pool runs it as one execution, under a tag of its own ([`Mode::Batch`]). What it tells of that tag is told of
//!    each request; each is answered, and from then on handled, by itself.
//!
//! A request stays an ordinary one all the while: its claim, its acknowledgement and its place in the table are its own.
//! Whatever takes it out of the table (a revocation, a lost lease) need not know of batches: a batch looks at what is left
//! of it when it is its turn. So a crash between any two steps loses no more than it does without batches.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::consumer::ConsumerLoop;
use super::pool::{Execution, Mode, RequestTag};
use super::request::{Loss, Phase, Request};
use crate::numbers::NumberMap;
use crate::protocol::Message;

/// Messages of one batch have no more bytes together, unless one alone has.
const MAX_BYTES: usize = 64 << 20;

/// How a task wants its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    /// Requests in one batch at the most; at least 1.
    pub max_size: usize,
    /// The first request of a batch waits no longer for others.
    pub max_wait: Duration,
}

/// Where a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Until that moment.
    Gathers(Instant),
    /// Waits for a slot.
    Waits,
    /// The pool has it.
    Runs,
}

/// One batch.
#[derive(Debug)]
struct Batch {
    task: u32,
    /// In the order in which they came. Some may have left the table, or run elsewhere, since.
    members: Vec<RequestTag>,
    bytes: usize,
    stage: Stage,
}

/// All batches of a worker. Empty where no task has asked for any.
#[derive(Debug, Default)]
pub(super) struct Batches {
    all: NumberMap<Batch>,
    /// The batch of each task that more may join.
    open: HashMap<u32, RequestTag>,
}

impl Batches {
    /// When the next batch has waited long enough.
    pub(super) fn next(&self) -> Option<Instant> {
        self.open.values().filter_map(|tag| self.gathers_until(*tag)).min()
    }

    fn gathers_until(&self, tag: RequestTag) -> Option<Instant> {
        match self.all.get(&tag)?.stage {
            Stage::Gathers(until) => Some(until),
            Stage::Waits | Stage::Runs => None,
        }
    }

    /// Whether some batch gathers: then every single request is worth a claim.
    pub(super) fn gather(&self) -> bool {
        !self.open.is_empty()
    }

    /// The requests of a batch.
    fn members(&self, tag: RequestTag) -> Vec<RequestTag> {
        self.all.get(&tag).map_or_else(Vec::new, |batch| batch.members.clone())
    }

    /// Requests that are held and take no slot of their own, since a batch takes one as a whole.
    pub(super) fn surplus(&self) -> usize {
        self.all.values().map(|batch| batch.members.len().saturating_sub(1)).sum()
    }

    /// How many more may be held than without batches: for each slot one that runs and one that waits, and what the open
    /// ones have room for. `size` tells how large the batches of a task may be.
    pub(super) fn beyond(&self, slots: usize, size: impl Fn(u32) -> usize) -> usize {
        if self.all.is_empty() {
            return 0;
        }
        let mut waiting = 0;
        let mut beyond = 0;
        for batch in self.all.values() {
            waiting += usize::from(batch.stage == Stage::Waits);
            // Those beyond that wait in the broker as well as here.
            if batch.stage != Stage::Waits || waiting <= slots {
                beyond += batch.members.len().saturating_sub(1);
            }
        }
        let room = |(task, tag): (&u32, &RequestTag)| size(*task).saturating_sub(self.members_of(*tag));
        if waiting < slots.max(1) { beyond + self.open.iter().map(room).sum::<usize>() } else { beyond }
    }

    fn members_of(&self, tag: RequestTag) -> usize {
        self.all.get(&tag).map_or(0, |batch| batch.members.len())
    }

    /// No more may join; what waits is somebody else's now.
    pub(super) fn clear_waiting(&mut self) {
        self.open.clear();
        self.all.retain(|_, batch| batch.stage == Stage::Runs);
    }
}

impl ConsumerLoop {
    /// A request joins the batch of its task. True if that is how its task wants it.
    pub(super) fn gather(&mut self, tag: RequestTag) -> bool {
        // What must be marked before it begins is, and comes back.
        let may = |request: &&Request| request.mode == Mode::Run && !request.first;
        let Some(request) = self.requests.get(&tag).filter(may) else { return false };
        let (Some(task), Some(options)) = (request.task, self.tasks.options(request.task).batch) else {
            return false;
        };
        let size = request.message.size();
        let full = |batch: &Batch| batch.bytes + size > MAX_BYTES || batch.members.len() >= options.max_size;
        let open = self.batches.open.get(&task).copied();
        let has_room = |open: &_| self.batches.all.get(open).is_some_and(|batch| !full(batch));
        let number = if let Some(number) = open.filter(has_room) {
            number
        } else {
            if let Some(open) = open {
                self.close(open);
            }
            self.open_batch(task, options)
        };
        let Some(batch) = self.batches.all.get_mut(&number) else { return false };
        batch.members.push(tag);
        batch.bytes += size;
        if batch.members.len() >= options.max_size {
            self.close(number);
        }
        true
    }

    fn open_batch(&mut self, task: u32, options: BatchOptions) -> RequestTag {
        let number = self.next_tag;
        self.next_tag += 1;
        let until = Instant::now() + options.max_wait;
        let batch = Batch { task, members: Vec::new(), bytes: 0, stage: Stage::Gathers(until) };
        self.batches.all.insert(number, batch);
        self.batches.open.insert(task, number);
        number
    }

    /// Nothing more joins this batch.
    fn close(&mut self, number: RequestTag) {
        self.let_wait(number);
        if let Some(batch) = self.batches.all.get(&number)
            && self.batches.open.get(&batch.task) == Some(&number)
        {
            self.batches.open.remove(&batch.task);
        }
    }

    /// This batch waits for a slot from now on.
    fn let_wait(&mut self, number: RequestTag) {
        if let Some(batch) = self.batches.all.get_mut(&number)
            && matches!(batch.stage, Stage::Gathers(_))
        {
            batch.stage = Stage::Waits;
            self.ready.push_back(number);
        }
    }

    /// Batches whose first request has waited long enough.
    pub(super) fn end_gathering(&mut self, now: Instant) {
        if !self.batches.gather() {
            return;
        }
        let due = |tag: &&RequestTag| self.batches.gathers_until(**tag).is_some_and(|until| until <= now);
        let due: Vec<_> = self.batches.open.values().filter(due).copied().collect();
        for number in due {
            self.let_wait(number);
        }
    }

    /// Gives what stands in the queue for slots under this tag, if it is a batch, to the pool. False when there is no
    /// room for it.
    pub(super) fn submit_batch(&mut self, number: RequestTag) -> bool {
        if self.batches.members_of(number) == 0 {
            return true;
        }
        if self.pool.free(false) == 0 {
            return false;
        }
        self.close(number);
        let members = self.runnable(number);
        let Some(execution) = self.batch_execution(number, &members) else {
            self.batches.all.remove(&number);
            return true;
        };
        if self.pool.submit(execution).is_err() {
            return false;
        }
        for tag in &members {
            if let Some(request) = self.requests.get_mut(tag) {
                (request.phase, request.batch) = (Phase::Submitted, Some(number));
            }
        }
        if let Some(batch) = self.batches.all.get_mut(&number) {
            (batch.members, batch.stage) = (members, Stage::Runs);
        }
        true
    }

    /// Those of a batch that are still there and may run. The others go their own way.
    fn runnable(&mut self, number: RequestTag) -> Vec<RequestTag> {
        let mut members = self.batches.members(number);
        let waits = |request: &Request| request.phase == Phase::Ready && request.mode == Mode::Run;
        members.retain(|tag| self.requests.get(tag).is_some_and(waits));
        members.retain(|tag| {
            let ends = self.discard(*tag);
            if ends {
                self.ready.push_back(*tag);
            }
            !ends
        });
        members
    }

    /// What the pool is given. The shortest time limit of any request is the batch's.
    fn batch_execution(&self, number: RequestTag, members: &[RequestTag]) -> Option<Execution> {
        let requests: Vec<_> =
            members.iter().filter_map(|tag| Some((*tag, self.requests.get(tag)?))).collect();
        let (_, first) = requests.first()?;
        let least = |limit: fn(&Request) -> Option<Duration>| {
            requests.iter().filter_map(|(_, request)| limit(request)).min()
        };
        Some(Execution {
            message: Arc::new(Message::default()),
            soft_limit: least(|request| request.soft_limit),
            hard_limit: least(|request| request.hard_limit),
            mode: Mode::Batch(requests.iter().map(|(tag, request)| request.execution(*tag, false)).collect()),
            ..first.execution(number, false)
        })
    }

    /// The pool told of this tag: the requests of that batch that are not over.
    fn unanswered(&self, number: RequestTag) -> Vec<RequestTag> {
        let mut members = self.batches.members(number);
        members.retain(|tag| self.requests.get(tag).is_some_and(|request| request.batch == Some(number)));
        members
    }

    /// A child has begun a batch.
    pub(super) fn batch_began(&mut self, number: RequestTag, pid: u32, now: Instant) {
        for tag in self.unanswered(number) {
            self.began(tag, pid, now);
        }
    }

    /// A child has ended a batch. It answers for each request before.
    pub(super) fn batch_ended(&mut self, number: RequestTag) {
        for tag in self.unanswered(number) {
            let how = "its batch ended without it".to_owned();
            self.leave_batch(tag);
            self.lost(tag, Loss { hard_limit: None, terminated: false, how });
        }
        self.batches.all.remove(&number);
    }

    /// The child of a batch is gone: each request that it had not answered is handled as one that ran alone. One was
    /// terminated on purpose: it is nobody else's fault.
    pub(super) fn batch_lost(&mut self, number: RequestTag, loss: &Loss) {
        let stops = !self.takes_work();
        for tag in self.unanswered(number) {
            let meant = self.requests.get(&tag).is_some_and(|request| request.terminate.is_some());
            self.leave_batch(tag);
            if loss.terminated && !meant && !stops {
                self.evicted(tag);
            } else {
                self.lost(tag, loss.clone());
            }
        }
        self.batches.all.remove(&number);
    }

    /// The process of a batch was ended because of another request.
    pub(super) fn batch_evicted(&mut self, number: RequestTag) {
        for tag in self.unanswered(number) {
            self.leave_batch(tag);
            self.evicted(tag);
        }
        self.batches.all.remove(&number);
    }

    /// A batch was not begun: it waits for a slot again, before all others.
    pub(super) fn batch_returned(&mut self, number: RequestTag) {
        let members = self.unanswered(number);
        let takes_work = self.takes_work();
        let mut back = Vec::new();
        for tag in members {
            self.leave_batch(tag);
            let Some(request) = self.requests.get_mut(&tag) else { continue };
            (request.phase, request.pid) = (Phase::Ready, None);
            if request.stale {
                self.remove(tag);
            } else if takes_work || request.claim.is_none() {
                back.push(tag);
            } else {
                self.hand_back(tag);
            }
        }
        match self.batches.all.get_mut(&number).filter(|_| !back.is_empty()) {
            Some(batch) => {
                (batch.members, batch.stage) = (back, Stage::Waits);
                self.ready.push_front(number);
            }
            None => {
                self.batches.all.remove(&number);
            }
        }
    }

    /// Gives a batch that waits back to the broker; false when this tag is none's.
    pub(super) fn hand_back_batch(&mut self, number: RequestTag) -> bool {
        if self.batches.members_of(number) == 0 {
            return false;
        }
        self.close(number);
        let waits = |request: &Request| request.phase == Phase::Ready;
        for tag in self.batches.members(number) {
            if self.requests.get(&tag).is_some_and(waits) {
                self.hand_back(tag);
            }
        }
        self.batches.all.remove(&number);
        true
    }

    fn leave_batch(&mut self, tag: RequestTag) {
        if let Some(request) = self.requests.get_mut(&tag) {
            request.batch = None;
        }
    }

    /// Ends the process that runs a request, which may be in a batch.
    pub(super) fn end_process_of(&mut self, tag: RequestTag, signal: i32) {
        let batch = self.requests.get(&tag).and_then(|request| request.batch);
        self.pool.terminate(batch.unwrap_or(tag), signal);
    }
}

//! One child: the supervisor's end of its socket, and what it was given.
//!
//! 1. With one slot, executions wait in `queue`; the first is the one that runs (that it has begun is inferred:
//!    it was sent to an idle child, or the one before it has ended). With several, `slots` knows them.
//! 2. Reading and writing are apart: a child that writes a large outcome is read while a large request
//!    is written to it.
//! 3. What a child wrote before it died is read to the end before anything is called lost.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::RecvFlags;
use rustix::process::Signal;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::frame::{self, Decoder, Frame};
use super::limits::{self, RECLAIM_AFTER, Running};
use super::pace::Pace;
use super::recycle::Recycle;
use super::slots::{Left, SlotTable};
use crate::worker::pool::{Execution, Mode, Outcome, PoolEvent, RequestTag};

/// How long a child that has nothing left may take to end.
const LEAVE_WAIT: Duration = Duration::from_secs(10);
/// How long the neighbours of a request that cannot be ended may run on before their process is killed.
const NEIGHBOUR_WAIT: Duration = Duration::from_secs(60);
/// What waits to be written is written when it is more.
const FLUSHED: usize = 32 * 1024;

/// An execution that was written to the child.
#[derive(Debug)]
struct Queued {
    tag: RequestTag,
    soft: Option<Duration>,
    hard: Option<Duration>,
    short: bool,
}

/// One child, from the request to fork it until all that it wrote is read and its end is known.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "facts about a process, each true or not by itself")]
pub(super) struct Child {
    /// The number the fork server knows it by.
    pub(super) number: u64,
    /// How often the pool had been restarted when it was made; a restart replaces those with a lower one.
    pub(super) generation: u32,
    /// Known when the fork server has answered; nothing is given to the child before.
    pub(super) pid: Option<u32>,
    pub(super) recycle: Recycle,
    /// It said that it is set up.
    pub(super) ready: bool,
    /// It gets nothing more, and is told to end when it has nothing left.
    pub(super) retiring: bool,
    /// The hard limit for which it was killed.
    pub(super) timed_out: Option<f64>,
    /// It was sent a signal on purpose.
    pub(super) terminated: bool,
    /// Its wait status, when the fork server has told.
    pub(super) status: Option<i32>,
    /// Its socket is closed, or what it sent makes no sense.
    pub(super) ended: Option<Instant>,
    /// It died before it had read the one request that it was given.
    pub(super) unread: bool,
    /// What it sent that makes no sense.
    pub(super) fault: Option<String>,
    stream: UnixStream,
    decoder: Decoder,
    out: Vec<u8>,
    written: usize,
    queue: VecDeque<Queued>,
    running: Option<Running>,
    pace: Pace,
    reclaiming: bool,
    /// What a child with several slots has; `queue` and `running` are empty then.
    slots: Option<SlotTable>,
    /// The batch that each request of one is in, until it is answered. Empty but for batches.
    members: HashMap<RequestTag, RequestTag>,
    told_to_end: bool,
    /// When it is killed if it has not ended by itself.
    pub(super) leave_by: Option<Instant>,
    /// It is killed then, with what runs beside a request that could not be ended.
    condemned: Option<Instant>,
    /// Its fork server is gone, so that its own end tells nothing.
    pub(super) orphan: bool,
}

impl Child {
    pub(super) fn new(number: u64, pid: Option<u32>, stream: UnixStream) -> Self {
        Self {
            number,
            generation: 0,
            pid,
            recycle: Recycle::default(),
            ready: false,
            retiring: false,
            timed_out: None,
            terminated: false,
            status: None,
            ended: None,
            unread: false,
            fault: None,
            stream,
            decoder: Decoder::default(),
            out: Vec::new(),
            written: 0,
            queue: VecDeque::new(),
            running: None,
            pace: Pace::default(),
            reclaiming: false,
            slots: None,
            members: HashMap::new(),
            told_to_end: false,
            leave_by: None,
            condemned: None,
            orphan: false,
        }
    }

    /// The same, with so many slots.
    pub(super) fn with_slots(mut self, slots: Option<usize>, now: Instant) -> Self {
        self.slots = slots.map(|size| SlotTable::new(size, now));
        if let Some(size) = slots {
            self.resize(size);
        }
        self
    }

    /// Changes how many requests run in it at the same time; nothing to do where it is one.
    pub(super) fn resize(&mut self, size: usize) {
        if let Some(slots) = &mut self.slots {
            slots.resize(size, &mut self.out);
            slots.reclaim(&mut self.out);
        }
    }

    /// It has nothing to run.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.slots.as_ref().is_none_or(SlotTable::is_empty)
    }

    /// Since when the request that it runs has been running.
    pub(super) fn runs_since(&self) -> Option<Instant> {
        self.running.map(|running| running.began)
    }

    /// It is to be replaced because a request in it does not end.
    pub(super) fn is_condemned(&self) -> bool {
        self.slots.as_ref().is_some_and(|slots| slots.condemned)
    }

    /// How many executions it takes now.
    pub(super) fn room(&self, short: bool, recycle: super::recycle::RecycleLimits, now: Instant) -> usize {
        if self.pid.is_none()
            || self.retiring
            || self.ended.is_some()
            || self.status.is_some()
            || self.terminated
        {
            return 0;
        }
        if let Some(slots) = &self.slots {
            return slots.room(short, now).min(self.recycle.left(recycle, slots.len()));
        }
        let waiting = self.queue.len();
        let depth = match (self.queue.front(), &self.running) {
            (None, _) if !short => 1,
            (None, _) => self.pace.depth,
            (Some(head), Some(running))
                if short
                    && head.short
                    && !self.reclaiming
                    && now.duration_since(running.began) < RECLAIM_AFTER =>
            {
                self.pace.depth.saturating_sub(waiting)
            }
            _ => 0,
        };
        depth.min(self.recycle.left(recycle, waiting))
    }

    /// Takes an execution; gives it back when it cannot be written.
    pub(super) fn push(&mut self, execution: Execution, now: Instant) -> Result<(), Execution> {
        if let Mode::Batch(members) = &execution.mode {
            self.members.extend(members.iter().map(|member| (member.tag, execution.tag)));
        }
        if let Some(slots) = &mut self.slots {
            return slots.push(execution, now, &mut self.out);
        }
        if frame::encode_execution(&execution, &mut self.out).is_err() {
            return Err(execution);
        }
        let Execution { tag, soft_limit: soft, hard_limit: hard, short, .. } = execution;
        if self.queue.is_empty() {
            self.running = Some(Running::new(now, soft, hard));
        }
        self.queue.push_back(Queued { tag, soft, hard, short });
        // What is left is written when the pool is polled; a child is not to wait for the rest of a large claim.
        if self.out.len() - self.written >= FLUSHED {
            self.flush();
        }
        Ok(())
    }

    /// The request that runs.
    pub(super) fn head(&self) -> Option<RequestTag> {
        self.queue.front().map(|queued| queued.tag)
    }

    /// Ends a request that runs here (revoke with terminate); false when it does not.
    pub(super) fn terminate(&mut self, tag: RequestTag, signal: i32, into: &mut Vec<PoolEvent>) -> bool {
        if let Some(slots) = &mut self.slots {
            return slots.terminate(tag, signal, Instant::now(), &mut self.out, into);
        }
        if self.head() != Some(tag) {
            return false;
        }
        self.terminated = true;
        self.reclaim();
        // Children take no notice of SIGTERM: service managers send it to every process of a worker, and
        // a warm stop lets tasks end. Meant for one child alone, it is a kill.
        self.signal(if signal == Signal::TERM.as_raw() { Signal::KILL.as_raw() } else { signal });
        true
    }

    /// Asks for all that has not begun.
    pub(super) fn reclaim(&mut self) {
        if let Some(slots) = &mut self.slots {
            return slots.reclaim(&mut self.out);
        }
        let tags: Vec<_> = self.queue.iter().skip(1).map(|queued| queued.tag).collect();
        if !tags.is_empty() && !self.reclaiming {
            frame::encode_reclaim(&tags, &mut self.out);
            self.reclaiming = true;
        }
    }

    /// It gets nothing more, and hands back what it has not begun.
    pub(super) fn retire(&mut self) {
        self.reclaim();
        self.retiring = true;
    }

    /// Tells it to end when it has nothing left.
    pub(super) fn stop(&mut self, now: Instant) {
        self.retiring = true;
        if !self.told_to_end {
            self.told_to_end = true;
            self.leave_by = Some(now + LEAVE_WAIT);
            frame::encode_stop(&mut self.out);
        }
    }

    /// The way out of a child that retires: it ends what it runs, is told to end, and is killed when it does
    /// not. One that is condemned is killed when its neighbours have ended, or have had their time.
    pub(super) fn lead_out(&mut self, now: Instant) {
        if self.is_condemned() {
            let until = *self.condemned.get_or_insert(now + NEIGHBOUR_WAIT);
            if until <= now || self.only_doomed() {
                self.condemned = Some(now + LEAVE_WAIT);
                self.kill();
            }
        } else if self.is_idle() {
            self.stop(now);
            if self.leave_by.take_if(|at| *at <= now).is_some() {
                self.kill();
            }
        }
    }

    /// Everything was written.
    pub(super) fn is_flushed(&self) -> bool {
        self.out.is_empty() || self.ended.is_some()
    }

    /// Sends a signal, unless it is the worker's own process or is known to be gone.
    pub(super) fn signal(&self, signal: i32) {
        if let Some(pid) = self.pid.filter(|pid| self.status.is_none() && *pid != std::process::id()) {
            limits::signal(pid, signal);
        }
    }

    /// Kills it.
    pub(super) fn kill(&self) {
        self.signal(Signal::KILL.as_raw());
    }

    /// When something becomes due here.
    pub(super) fn next_deadline(&self, alone: bool) -> Option<Instant> {
        if self.ended.is_some() {
            return None;
        }
        let work = match (&self.slots, &self.running) {
            (Some(slots), _) => slots.next_deadline(alone),
            (None, running) => running.and_then(|one| one.next(self.queue.len() > 1 && !self.reclaiming)),
        };
        // Once killed it ends by itself, and its moment must not be waited for again and again.
        let condemned = self.condemned.filter(|_| !self.only_doomed());
        [work, self.leave_by, condemned].into_iter().flatten().min()
    }

    fn only_doomed(&self) -> bool {
        self.slots.as_ref().is_some_and(SlotTable::only_doomed)
    }

    /// Does what is due: tells that a request has begun, limits, calling back what waits.
    pub(super) fn on_time(&mut self, now: Instant, alone: bool, into: &mut Vec<PoolEvent>) {
        if let (Some(slots), Some(pid)) = (&mut self.slots, self.pid) {
            return slots.on_time(now, pid, alone, &mut self.out, into);
        }
        let (Some(running), Some(head)) = (&mut self.running, self.queue.front()) else { return };
        let ran = now.duration_since(running.began);
        let Some(pid) = self.pid else { return };
        if !running.told && ran >= limits::TELL_AFTER {
            running.told = true;
            into.push(PoolEvent::Began { tag: head.tag, pid });
        }
        let tag = head.tag;
        let hard = head.hard.filter(|_| running.hard_passed(now));
        if running.soft_passed(now) {
            frame::encode_soft_limit(tag, &mut self.out);
            // The child compares the tag, so a signal that comes first finds it a moment later.
            self.flush();
            limits::signal(pid, Signal::USR1.as_raw());
        }
        if let Some(limit) = hard {
            self.timed_out = Some(limit.as_secs_f64());
            self.kill();
        }
        if ran >= RECLAIM_AFTER {
            self.reclaim();
        }
    }

    /// Writes what waits, as far as the socket takes it.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) {
        while self.written < self.out.len() && self.ended.is_none() {
            match self.stream.poll_write_ready(cx) {
                // Reading finds out about an error, and what the child wrote before is read first.
                Poll::Pending | Poll::Ready(Err(_)) => return,
                Poll::Ready(Ok(())) => self.flush(),
            }
        }
    }

    fn flush(&mut self) {
        match self.stream.try_write(&self.out[self.written..]) {
            Ok(written) => self.written += written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The child is gone: what waits has no reader. Its end is found by reading.
            Err(_) => self.written = self.out.len(),
        }
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
            // One large request must not keep its room for ever.
            if self.out.capacity() > 1 << 20 {
                self.out.shrink_to(1 << 16);
            }
        }
    }

    /// Reads what is there.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, now: Instant, into: &mut Vec<PoolEvent>) {
        while self.ended.is_none() {
            // Asked so, the system is not asked once more when it has given all there was.
            match pin!(self.stream.read_buf(self.decoder.buffer())).poll(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(0)) => self.ended = Some(now),
                Poll::Ready(Ok(_)) => self.take_frames(now, into),
                Poll::Ready(Err(error)) => {
                    self.broke_off(error.kind() == io::ErrorKind::ConnectionReset, now);
                }
            }
        }
    }

    /// Reads to the end what a dead child wrote. Its own children may keep the socket open, so the end is
    /// where nothing more is there.
    pub(super) fn drain(&mut self, now: Instant, into: &mut Vec<PoolEvent>) {
        let mut chunk = vec![0; 64 * 1024];
        while self.ended.is_none() {
            match rustix::net::recv(&self.stream, &mut chunk[..], RecvFlags::DONTWAIT) {
                Ok((read, _)) if read > 0 => {
                    self.decoder.feed(&chunk[..read]);
                    self.take_frames(now, into);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => self.broke_off(error == rustix::io::Errno::CONNRESET, now),
                Ok(_) => self.ended = Some(now),
            }
        }
    }

    /// The socket gives nothing more. A reset says that the child died before it had read everything.
    fn broke_off(&mut self, reset: bool, now: Instant) {
        self.ended = Some(now);
        self.unread = reset && self.queue.len() == 1;
    }

    /// Takes what a child that is gone had been given.
    pub(super) fn take_given(&mut self) -> Left {
        self.members.clear();
        if let Some(slots) = &mut self.slots {
            return slots.take();
        }
        self.running = None;
        let mut tags = self.queue.drain(..).map(|queued| queued.tag);
        Left { begun: tags.next().into_iter().collect(), waiting: tags.collect() }
    }

    fn take_frames(&mut self, now: Instant, into: &mut Vec<PoolEvent>) {
        loop {
            match self.decoder.next_frame() {
                Ok(None) => return,
                Ok(Some(Frame::Ready)) => {
                    self.ready = true;
                    // What it was given before begins now, and so do its limits.
                    let told = self.running.is_some_and(|running| running.told);
                    self.next_runs(now);
                    if let Some(running) = &mut self.running {
                        running.told = told;
                    }
                    into.push(PoolEvent::SlotFree);
                }
                Ok(Some(Frame::Outcome(tag, outcome))) => self.finished(tag, outcome, now, into),
                Ok(Some(Frame::Update(tag, record))) => {
                    if let Some(tag) = self.owner(tag) {
                        into.push(PoolEvent::Update(tag, record));
                    }
                }
                Ok(Some(Frame::Returned(tags))) => self.returned(&tags, now, into),
                Ok(Some(Frame::Began(tags))) if self.slots.is_some() => {
                    self.slots.iter_mut().for_each(|slots| slots.began(&tags, now));
                }
                Ok(Some(_)) => return self.broken("a frame that only the supervisor sends", now),
                Err(error) => return self.broken(&error.to_string(), now),
            }
        }
    }

    /// Whose an update is; nobody's, when the request has been given up.
    fn owner(&self, tag: RequestTag) -> Option<RequestTag> {
        let Some(slots) = &self.slots else { return Some(tag) };
        match self.members.get(&tag) {
            Some(batch) => slots.owner(*batch).map(|_| tag),
            None => slots.owner(tag),
        }
    }

    /// One of a batch has been answered; the batch goes on. Nobody wants the answer when the batch has been given up.
    fn member_finished(&mut self, tag: RequestTag, outcome: Outcome, into: &mut Vec<PoolEvent>) {
        let wanted = self.owner(tag).is_some();
        self.members.remove(&tag);
        if wanted {
            into.push(PoolEvent::Finished(tag, outcome));
        }
    }

    /// What is left of a batch that is over is nobody's.
    fn forget_members(&mut self, batch: RequestTag) {
        if !self.members.is_empty() {
            self.members.retain(|_, of| *of != batch);
        }
    }

    fn finished(&mut self, tag: RequestTag, outcome: Outcome, now: Instant, into: &mut Vec<PoolEvent>) {
        if !self.members.is_empty() && self.members.contains_key(&tag) {
            return self.member_finished(tag, outcome, into);
        }
        self.forget_members(tag);
        if let Some(slots) = &mut self.slots {
            return match slots.finished(tag, now) {
                Ok(owner) => {
                    self.recycle.finished();
                    // The slot of a request that nobody waits for is free all the same.
                    into.push(owner.map_or(PoolEvent::SlotFree, |tag| PoolEvent::Finished(tag, outcome)));
                }
                Err(()) => self.broken("an outcome of a request it was not given", now),
            };
        }
        let Some(place) = self.queue.iter().position(|queued| queued.tag == tag) else {
            return self.broken("an outcome of a request it was not given", now);
        };
        self.queue.remove(place);
        self.recycle.finished();
        self.pace.finished(now);
        into.push(PoolEvent::Finished(tag, outcome));
        if place == 0 {
            self.next_runs(now);
        }
    }

    fn returned(&mut self, tags: &[RequestTag], now: Instant, into: &mut Vec<PoolEvent>) {
        for tag in tags {
            self.forget_members(*tag);
        }
        if let Some(slots) = &mut self.slots {
            return slots.returned(tags, into);
        }
        self.reclaiming = false;
        let head = self.head();
        for tag in tags {
            if let Some(place) = self.queue.iter().position(|queued| queued.tag == *tag) {
                self.queue.remove(place);
                into.push(PoolEvent::Returned(*tag));
            }
        }
        if self.head() != head {
            self.next_runs(now);
        }
    }

    fn next_runs(&mut self, now: Instant) {
        self.running = self.queue.front().map(|next| Running::new(now, next.soft, next.hard));
    }

    fn broken(&mut self, what: &str, now: Instant) {
        self.fault = Some(format!("it sent {what}"));
        self.ended = Some(now);
        self.kill();
    }
}

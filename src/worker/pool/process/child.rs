//! One child: the supervisor's end of its socket, and what it was given.
//!
//! 1. Executions wait in `queue`; the first is the one that runs (that it has begun is inferred: it was
//!    sent to an idle child, or the one before it has ended).
//! 2. Reading and writing are apart: a child that writes a large outcome is read while a large request
//!    is written to it.
//! 3. What a child wrote before it died is read to the end before anything is called lost.

use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll};

use rustix::net::RecvFlags;
use rustix::process::Signal;
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::frame::{self, Decoder, Frame};
use super::limits::{self, RECLAIM_AFTER, Running};
use super::recycle::Recycle;
use crate::worker::pool::{Execution, Outcome, PoolEvent, RequestTag};

/// Short executions that one child is given at the most.
pub(super) const SHORT_DEPTH: usize = 64;

/// An execution that was written to the child.
#[derive(Debug)]
struct Queued {
    tag: RequestTag,
    soft: Option<std::time::Duration>,
    hard: Option<std::time::Duration>,
    short: bool,
}

/// One child, from the request to fork it until all that it wrote is read and its end is known.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "facts about a process, each true or not by itself")]
pub(super) struct Child {
    /// The number the fork server knows it by.
    pub(super) number: u64,
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
    reclaiming: bool,
    told_to_end: bool,
    /// When it is killed if it has not ended by itself.
    pub(super) leave_by: Option<Instant>,
    /// Its fork server is gone, so that its own end tells nothing.
    pub(super) orphan: bool,
}

impl Child {
    pub(super) fn new(number: u64, pid: Option<u32>, stream: UnixStream) -> Self {
        Self {
            number,
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
            reclaiming: false,
            told_to_end: false,
            leave_by: None,
            orphan: false,
        }
    }

    /// It has nothing to run.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty()
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
        let waiting = self.queue.len();
        let depth = match (self.queue.front(), &self.running) {
            (None, _) => {
                if short {
                    SHORT_DEPTH
                } else {
                    1
                }
            }
            (Some(head), Some(running))
                if short
                    && head.short
                    && !self.reclaiming
                    && now.duration_since(running.began) < RECLAIM_AFTER =>
            {
                SHORT_DEPTH - waiting.min(SHORT_DEPTH)
            }
            _ => 0,
        };
        depth.min(self.recycle.left(recycle, waiting))
    }

    /// Takes an execution; gives it back when it cannot be written.
    pub(super) fn push(&mut self, execution: Execution, now: Instant) -> Result<(), Execution> {
        if frame::encode_execution(&execution, &mut self.out).is_err() {
            return Err(execution);
        }
        let Execution { tag, soft_limit: soft, hard_limit: hard, short, .. } = execution;
        if self.queue.is_empty() {
            self.running = Some(Running::new(now, soft, hard));
        }
        self.queue.push_back(Queued { tag, soft, hard, short });
        Ok(())
    }

    /// The request that runs.
    pub(super) fn head(&self) -> Option<RequestTag> {
        self.queue.front().map(|queued| queued.tag)
    }

    /// Asks for all that has not begun.
    pub(super) fn reclaim(&mut self) {
        let tags: Vec<_> = self.queue.iter().skip(1).map(|queued| queued.tag).collect();
        if !tags.is_empty() && !self.reclaiming {
            frame::encode_reclaim(&tags, &mut self.out);
            self.reclaiming = true;
        }
    }

    /// Tells it to end when it has nothing left.
    pub(super) fn stop(&mut self) {
        self.retiring = true;
        if !self.told_to_end {
            self.told_to_end = true;
            frame::encode_stop(&mut self.out);
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
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        if self.ended.is_some() {
            return None;
        }
        self.running.as_ref()?.next(self.queue.len() > 1 && !self.reclaiming)
    }

    /// Does what is due: tells that a request has begun, limits, calling back what waits.
    pub(super) fn on_time(&mut self, now: Instant, into: &mut Vec<PoolEvent>) {
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
            match self.stream.poll_read_ready(cx) {
                Poll::Pending => return,
                Poll::Ready(Err(_)) => self.ended = Some(now),
                Poll::Ready(Ok(())) => match self.stream.try_read_buf(self.decoder.buffer()) {
                    Ok(0) => self.ended = Some(now),
                    Ok(_) => self.take_frames(now, into),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => self.broke_off(error.kind() == io::ErrorKind::ConnectionReset, now),
                },
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

    /// Empties the queue of a child that is gone: the request that ran, and those that had not begun.
    pub(super) fn take_queue(&mut self) -> (Option<RequestTag>, Vec<RequestTag>) {
        self.running = None;
        let mut tags = self.queue.drain(..).map(|queued| queued.tag);
        (tags.next(), tags.collect())
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
                Ok(Some(Frame::Update(tag, record))) => into.push(PoolEvent::Update(tag, record)),
                Ok(Some(Frame::Returned(tags))) => self.returned(&tags, now, into),
                Ok(Some(_)) => return self.broken("a frame that only the supervisor sends", now),
                Err(error) => return self.broken(&error.to_string(), now),
            }
        }
    }

    fn finished(&mut self, tag: RequestTag, outcome: Outcome, now: Instant, into: &mut Vec<PoolEvent>) {
        let Some(place) = self.queue.iter().position(|queued| queued.tag == tag) else {
            return self.broken("an outcome of a request it was not given", now);
        };
        self.queue.remove(place);
        self.recycle.finished();
        into.push(PoolEvent::Finished(tag, outcome));
        if place == 0 {
            self.next_runs(now);
        }
    }

    fn returned(&mut self, tags: &[RequestTag], now: Instant, into: &mut Vec<PoolEvent>) {
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

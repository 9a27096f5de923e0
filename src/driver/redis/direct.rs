//! A connection that the thread which publishes drives itself: no other thread is woken for its message and its answer.
//!
//! It is an extra of the shared connection (`link.rs`), which does everything else and everything that goes wrong: it is
//! made in the background, once the shared connection has answered a few times; whoever finds it busy, or ended,
//! asks over the shared one. So there is one of it at the most, however many threads publish.

use std::io;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::errors::{Fault, LinkError};
use super::wire::Blocking;

/// How long the thread is blocked at a time: then whoever waits for the future may look at clocks and signals.
pub(super) const SLICE: Duration = Duration::from_millis(100);
/// Answers of the shared connection before another is made: who sends a few messages has one.
const ANSWERS: u32 = 8;
/// How often the number of answers is doubled when none can be made.
const DOUBLED: u32 = 16;
/// The longest answer that is taken: what the answers to publications come nowhere near.
const LONGEST: usize = 64 * 1024;

/// The connection, if there is one.
#[derive(Default)]
pub(super) struct Direct(Mutex<State>);

/// Written by who takes the connection, gives it back, makes it or ends it; each holds the lock for moments only.
#[derive(Default)]
struct State {
    slot: Slot,
    /// Of the shared connection, since there is none here.
    answers: u32,
    /// Failures to make one, since the last success.
    failures: u32,
}

#[derive(Default)]
enum Slot {
    #[default]
    Absent,
    Opening,
    Idle(Box<dyn Blocking>),
    Busy,
}

/// Whether the thread may be blocked: it runs no task, and drives nothing else.
pub(super) fn may_block() -> bool {
    tokio::task::try_id().is_none()
        && Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread)
}

impl Direct {
    /// The connection, if it is free; one that has ended meanwhile is let go.
    pub(super) fn take(&self) -> Option<Turn<'_>> {
        let stream = {
            let mut state = self.0.lock();
            match mem::replace(&mut state.slot, Slot::Busy) {
                Slot::Idle(stream) => stream,
                other => {
                    state.slot = other;
                    return None;
                }
            }
        };
        // Dropped without it, a turn leaves none behind.
        let mut turn = Turn { direct: self, stream: None };
        if !is_quiet(&*stream) {
            return None;
        }
        turn.stream = Some(stream);
        Some(turn)
    }

    /// Counts an answer of the shared connection. Whoever gets the right to make one here makes it.
    pub(super) fn count(self: &Arc<Self>) -> Option<Opening> {
        let mut state = self.0.lock();
        if !matches!(state.slot, Slot::Absent) {
            return None;
        }
        state.answers += 1;
        if state.answers < ANSWERS << state.failures {
            return None;
        }
        state.slot = Slot::Opening;
        Some(Opening { direct: self.clone(), stream: None })
    }

    /// Lets go of the connection: of one that is busy, when it is given back.
    pub(super) fn end(&self) {
        let ended = {
            let mut state = self.0.lock();
            state.answers = 0;
            mem::take(&mut state.slot)
        };
        drop(ended);
    }

    /// Puts back what somebody had the turn for, unless it was ended since.
    fn put(&self, expected: impl FnOnce(&Slot) -> bool, stream: Option<Box<dyn Blocking>>) {
        let mut state = self.0.lock();
        if expected(&state.slot) {
            state.answers = 0;
            state.slot = stream.map_or(Slot::Absent, Slot::Idle);
        }
    }
}

/// The right to make the connection; given up when dropped.
pub(super) struct Opening {
    direct: Arc<Direct>,
    stream: Option<Box<dyn Blocking>>,
}

impl Opening {
    pub(super) fn finish(mut self, opened: Result<Box<dyn Blocking>, LinkError>) {
        match opened {
            Ok(stream) => {
                self.direct.0.lock().failures = 0;
                self.stream = Some(stream);
            }
            Err(error) => {
                let mut state = self.direct.0.lock();
                state.failures = (state.failures + 1).min(DOUBLED);
                tracing::debug!("publishing goes on over one connection: {error}");
            }
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.direct.put(|slot| matches!(slot, Slot::Opening), self.stream.take());
    }
}

/// Whether the server has said nothing and not hung up since the last answer.
fn is_quiet(stream: &dyn Blocking) -> bool {
    let mut byte = [0_u8];
    let waiting = recv(stream.socket(), &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
    matches!(waiting, Err(Errno::AGAIN))
}

/// The connection, for one exchange. Dropped in the middle of it, the connection ends.
pub(super) struct Turn<'a> {
    direct: &'a Direct,
    stream: Option<Box<dyn Blocking>>,
}

impl Turn<'_> {
    /// Sends a command, and waits for its answer of one line. Blocks the thread that polls.
    pub(super) async fn ask(
        mut self,
        url: &Arc<str>,
        command: &[u8],
        within: Duration,
    ) -> Result<(), LinkError> {
        let mut stream = self.stream.take().expect("it is there until here");
        let mut exchange = Exchange { stream: &mut *stream, deadline: Instant::now() + within };
        let answer = exchange.run(command).await.map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => {
                LinkError::new(url, Fault::Timeout(within), "no answer; the connection was given up")
            }
            _ => LinkError::new(url, Fault::Io, error.to_string()),
        })?;
        let read = read(url, &answer);
        if !read.as_ref().is_err_and(LinkError::ends_connection) {
            self.stream = Some(stream);
        }
        read
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let stream = self.stream.take();
        self.direct.put(|slot| matches!(slot, Slot::Busy), stream);
    }
}

/// One command and its answer, until the deadline.
struct Exchange<'a> {
    stream: &'a mut dyn Blocking,
    deadline: Instant,
}

impl Exchange<'_> {
    async fn run(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        let mut left = command;
        while !left.is_empty() {
            match self.stream.write(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => left = &left[written..],
                Err(error) => self.pause(error).await?,
            }
        }
        while let Err(error) = self.stream.flush() {
            self.pause(error).await?;
        }
        let mut answer = Vec::with_capacity(64);
        let mut part = [0; 512];
        while !answer.ends_with(b"\r\n") {
            match self.stream.read(&mut part) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server hung up")),
                Ok(_) if answer.len() > LONGEST => return Err(io::ErrorKind::InvalidData.into()),
                Ok(length) => answer.extend_from_slice(&part[..length]),
                Err(error) => self.pause(error).await?,
            }
        }
        Ok(answer)
    }

    /// Nothing could be read or written for a moment: lets others look at their clocks.
    async fn pause(&mut self, why: io::Error) -> io::Result<()> {
        if !matches!(why.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) {
            return Err(why);
        }
        if Instant::now() >= self.deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        tokio::task::yield_now().await;
        Ok(())
    }
}

/// What an answer says; anything but one line ends the connection.
fn read(url: &Arc<str>, answer: &[u8]) -> Result<(), LinkError> {
    let line = answer.strip_suffix(b"\r\n").filter(|line| !line.contains(&b'\n')).unwrap_or_default();
    match line.split_first() {
        Some((b'+' | b':', _)) => Ok(()),
        Some((b'-', error)) => {
            let text = String::from_utf8_lossy(error);
            let (code, details) = text.split_once(' ').unwrap_or((&text, ""));
            Err(LinkError::server(url, code, details))
        }
        _ => Err(LinkError::new(url, Fault::Io, "an answer that makes no sense")),
    }
}

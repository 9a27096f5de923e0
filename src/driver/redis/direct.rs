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

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    const COMMAND: &[u8] = b"PUBLISH";

    /// A connection that is free, and its other end.
    fn connected() -> (Arc<Direct>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let state = State { slot: Slot::Idle(Box::new(ours)), ..State::default() };
        (Arc::new(Direct(Mutex::new(state))), theirs)
    }

    async fn ask(direct: &Direct, within: Duration) -> Result<(), LinkError> {
        direct.take().expect("it is free").ask(&"redis://h".into(), COMMAND, within).await
    }

    /// What comes of an answer, and whether the connection is kept.
    async fn after(answer: &'static [u8]) -> (Result<(), LinkError>, bool) {
        let (direct, mut theirs) = connected();
        let server = std::thread::spawn(move || {
            let mut asked = [0; COMMAND.len()];
            theirs.read_exact(&mut asked).unwrap();
            // Cut anywhere, as the network may.
            let (first, second) = answer.split_at(answer.len() / 2);
            theirs.write_all(first).unwrap();
            theirs.write_all(second).unwrap();
            (asked, theirs)
        });
        let answer = ask(&direct, Duration::from_secs(20)).await;
        let (asked, theirs) = server.join().unwrap();
        assert_eq!(asked, COMMAND);
        let kept = direct.take().is_some();
        drop(theirs);
        (answer, kept)
    }

    #[tokio::test]
    async fn one_line_is_an_answer_and_anything_else_ends_the_connection() {
        for done in [&b":1\r\n"[..], b"+OK\r\n"] {
            let (answer, kept) = after(done).await;
            assert!(answer.is_ok() && kept, "{answer:?}");
        }
        let kept_by =
            [(&b"-OOM used up\r\n"[..], Fault::Full, true), (b"-READONLY no\r\n", Fault::ReadOnly, false)];
        for (said, fault, expected) in kept_by {
            let (answer, kept) = after(said).await;
            let error = answer.unwrap_err();
            assert_eq!((&error.fault, kept), (&fault, expected), "{error}");
            assert!(!error.is_doubtful());
        }
        for nonsense in [&b"$1\r\na\r\n"[..], b"\r\n", b">2\r\n+a\r\n:1\r\n"] {
            let (answer, kept) = after(nonsense).await;
            assert!(answer.is_err_and(|error| error.is_doubtful()) && !kept);
        }
        // The second answer may come before the first is taken, or after: it belongs to nobody.
        let (_, kept) = after(b":1\r\n:2\r\n").await;
        assert!(!kept);
    }

    #[tokio::test]
    async fn an_answer_that_does_not_end_is_not_kept_in_memory() {
        let (direct, mut theirs) = connected();
        let turn = direct.take().unwrap();
        let server = std::thread::spawn(move || {
            let mut said = 0;
            while theirs.write_all(&[b'x'; 4096]).is_ok() {
                said += 4096;
            }
            said
        });
        let answer = turn.ask(&"redis://h".into(), COMMAND, Duration::from_secs(20)).await;
        assert_eq!(answer.unwrap_err().fault, Fault::Io);
        assert!(direct.take().is_none());
        assert!(server.join().unwrap() >= LONGEST, "it hung up only then");
    }

    #[tokio::test]
    async fn what_is_said_unasked_ends_the_connection() {
        let (direct, mut theirs) = connected();
        theirs.write_all(b"-ERR good-bye\r\n").unwrap();
        assert!(direct.take().is_none());
        let (direct, theirs) = connected();
        drop(theirs);
        assert!(direct.take().is_none());
    }

    #[tokio::test]
    async fn silence_ends_a_call_at_its_deadline_and_the_connection_with_it() {
        let (direct, _theirs) = connected();
        let within = Duration::from_millis(20);
        let error = ask(&direct, within).await.unwrap_err();
        assert_eq!(error.fault, Fault::Timeout(within));
        assert!(direct.take().is_none());
    }

    #[tokio::test]
    async fn whoever_lets_go_in_the_middle_ends_the_connection_and_before_it_leaves_it() {
        let (direct, theirs) = connected();
        let turn = direct.take().unwrap();
        assert!(direct.take().is_none(), "one at a time");
        drop(turn);

        let asked = ask(&direct, Duration::from_secs(20));
        let cut = tokio::time::timeout(Duration::from_millis(5), asked).await;
        assert!(cut.is_err());
        assert!(direct.take().is_none());
        drop(theirs);
    }

    #[tokio::test]
    async fn a_connection_that_was_ended_while_it_was_busy_is_not_put_back() {
        let (direct, mut theirs) = connected();
        let turn = direct.take().unwrap();
        direct.end();
        theirs.write_all(b":1\r\n").unwrap();
        turn.ask(&"redis://h".into(), COMMAND, Duration::from_secs(20)).await.unwrap();
        assert!(direct.take().is_none());
        let mut rest = Vec::new();
        theirs.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, COMMAND, "it is closed");
    }

    #[test]
    fn each_failure_to_make_one_doubles_the_answers_until_the_next() {
        let direct = Arc::new(Direct::default());
        let answers = || (1..).find_map(|count| direct.count().map(|opening| (count, opening))).unwrap();
        let refused = || Err(LinkError::new(&"redis://h".into(), Fault::Io, "refused"));
        for expected in [ANSWERS, 2 * ANSWERS, 4 * ANSWERS] {
            let (count, opening) = answers();
            assert_eq!(count, expected);
            assert!(direct.count().is_none(), "one is enough");
            opening.finish(refused());
        }
        let (count, opening) = answers();
        assert_eq!(count, 8 * ANSWERS);
        let (ours, _theirs) = UnixStream::pair().unwrap();
        opening.finish(Ok(Box::new(ours)));
        assert!(direct.take().is_some());
        direct.end();
        assert_eq!(answers().0, ANSWERS, "a success makes up for all of them");
    }
}

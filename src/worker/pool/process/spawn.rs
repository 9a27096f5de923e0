//! Where children come from: a fork server that forks them on request, or one that is there already.

use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::{Command, Stdio};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::net::UnixStream;
use tokio::time::Instant;

/// Failures in a row, each within a minute of the last, after which no child can be made any more.
const MAX_FAILURES: u32 = 5;
const FAILURE_MEMORY: Duration = Duration::from_secs(60);
/// Length of a record that the fork server sends: kind, number, pid, status.
const RECORD: usize = 17;

/// What makes children.
#[derive(Debug)]
pub enum Spawner {
    /// A process that forks children on request and hands over one end of a socket to each.
    ForkServer(ForkServer),
    /// One child that is there already (solo: the worker's own main thread). It cannot be killed or replaced.
    Fixed(Option<StdUnixStream>),
}

impl Spawner {
    /// A fork server that already runs behind `stream`; `argv` starts another when it is gone.
    pub fn fork_server(stream: Option<StdUnixStream>, argv: Option<Vec<OsString>>) -> Self {
        Self::ForkServer(ForkServer {
            first: stream,
            link: None,
            argv,
            process: None,
            records: Vec::new(),
            failures: 0,
            last_failure: None,
        })
    }

    /// The one child behind this socket.
    pub fn fixed(stream: StdUnixStream) -> Self {
        Self::Fixed(Some(stream))
    }
}

/// What a fork server reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpawnEvent {
    /// The child of this number runs as `pid`.
    Made { number: u64, pid: u32 },
    /// The child of this number ended with this wait status.
    Exited { number: u64, status: i32 },
    /// The child of this number could not be forked.
    Failed { number: u64, errno: i32 },
    /// The fork server is gone, and its children with it.
    Gone,
}

/// The supervisor's side of a fork server.
#[derive(Debug)]
pub struct ForkServer {
    /// The server's socket until the runtime runs.
    first: Option<StdUnixStream>,
    link: Option<UnixStream>,
    argv: Option<Vec<OsString>>,
    /// The server that was started here; reaped when its socket closes.
    process: Option<std::process::Child>,
    /// The beginning of a record that has not come whole.
    records: Vec<u8>,
    failures: u32,
    last_failure: Option<Instant>,
}

impl ForkServer {
    /// Asks for a child, and gives the supervisor's end of its socket. Starts a server if there is none.
    pub(super) fn spawn(&mut self, number: u64) -> io::Result<UnixStream> {
        let link = self.link()?;
        let (ours, theirs) = StdUnixStream::pair()?;
        let mut request = [0; 9];
        request[0] = b'F';
        request[1..].copy_from_slice(&number.to_le_bytes());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [theirs.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let sent = rustix::net::sendmsg(link, &[IoSlice::new(&request)], &mut control, SendFlags::NOSIGNAL)?;
        if sent != request.len() {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "the fork server does not read"));
        }
        ours.set_nonblocking(true)?;
        UnixStream::from_std(ours)
    }

    /// A server that does not run yet, started by the same command; none when there is no command.
    pub(super) fn another(&self) -> Option<Self> {
        let argv = self.argv.clone()?;
        let (process, failures) = (None, 0);
        Some(Self {
            first: None,
            link: None,
            argv: Some(argv),
            process,
            records: Vec::new(),
            failures,
            last_failure: None,
        })
    }

    /// Whether the failures are too many; counts one more.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        let recent = self.last_failure.is_some_and(|last| now.duration_since(last) < FAILURE_MEMORY);
        self.failures = if recent { self.failures + 1 } else { 1 };
        self.last_failure = Some(now);
        self.failures >= MAX_FAILURES
    }

    /// A child came up: failures before it do not count.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Reads what the server has to say.
    pub(super) fn poll_events(&mut self, cx: &mut Context<'_>, into: &mut Vec<SpawnEvent>) {
        let Some(link) = &self.link else { return };
        let mut chunk = [0; RECORD * 32];
        let gone = loop {
            match link.poll_read_ready(cx) {
                Poll::Pending => break false,
                Poll::Ready(Err(_)) => break true,
                Poll::Ready(Ok(())) => {}
            }
            match link.try_read(&mut chunk) {
                Ok(0) => break true,
                Ok(read) => self.records.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break true,
            }
        };
        self.parse(into);
        if gone {
            self.close();
            into.push(SpawnEvent::Gone);
        }
    }

    /// Closes the socket, which ends the server and its children; reaps a server that was started here.
    pub(super) fn close(&mut self) {
        self.link = None;
        self.first = None;
        self.records.clear();
        if let Some(mut process) = self.process.take() {
            // Its socket is closed, so it is ending or has ended; a stuck one is killed.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn link(&mut self) -> io::Result<&UnixStream> {
        if self.link.is_none() {
            let stream = match self.first.take() {
                Some(stream) => stream,
                None => self.start()?,
            };
            stream.set_nonblocking(true)?;
            self.link = Some(UnixStream::from_std(stream)?);
        }
        Ok(self.link.as_ref().expect("set above"))
    }

    fn start(&mut self) -> io::Result<StdUnixStream> {
        let Some([program, arguments @ ..]) = self.argv.as_deref() else {
            return Err(io::Error::other(
                "the fork server is gone, and there is no command to start another",
            ));
        };
        let (ours, theirs) = StdUnixStream::pair()?;
        let process =
            Command::new(program).args(arguments).stdin(Stdio::from(OwnedFd::from(theirs))).spawn()?;
        self.process = Some(process);
        Ok(ours)
    }

    fn parse(&mut self, into: &mut Vec<SpawnEvent>) {
        let whole = self.records.len() / RECORD * RECORD;
        for record in self.records[..whole].chunks_exact(RECORD) {
            let number = u64::from_le_bytes(record[1..9].try_into().expect("eight bytes"));
            let pid = u32::from_le_bytes(record[9..13].try_into().expect("four bytes"));
            let status = i32::from_le_bytes(record[13..17].try_into().expect("four bytes"));
            match record[0] {
                b'P' => into.push(SpawnEvent::Made { number, pid }),
                b'X' => into.push(SpawnEvent::Exited { number, status }),
                b'E' => into.push(SpawnEvent::Failed { number, errno: status }),
                // A newer server may say more.
                _ => {}
            }
        }
        self.records.drain(..whole);
    }
}

/// How a process ended, from its wait status: `signal 9 (SIGKILL)`, `exitcode 1`.
pub(super) fn describe(status: i32) -> String {
    let signal = status & 0x7f;
    if signal == 0 {
        return format!("exitcode {}", (status >> 8) & 0xff);
    }
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        31 => "SIGSYS",
        _ => return format!("signal {signal}"),
    };
    format!("signal {signal} ({name})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_status_is_told_in_words() {
        assert_eq!(describe(9), "signal 9 (SIGKILL)");
        assert_eq!(describe(0x8b), "signal 11 (SIGSEGV)");
        assert_eq!(describe(1 << 8), "exitcode 1");
        assert_eq!(describe(34), "signal 34");
    }
}

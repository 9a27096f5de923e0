//! What this binary does when it is started as a fork server or as a child.
//!
//! The server starts processes rather than forking, which needs no unsafe code and looks the same from
//! the pool's side. A child does what the body of a request says.

mod many;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use celeriac::protocol::ResultRecord;
use celeriac::worker::pool::process::frame::{self, Decoder, Frame};
use celeriac::worker::pool::{Execution, Outcome};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::Signal;

const ROLE: &str = "CELERIAC_TEST_ROLE";

/// The command that starts a fork server.
pub(super) fn server() -> Vec<OsString> {
    command("server of child")
}

/// One whose children have several slots.
pub(super) fn server_of_many() -> Vec<OsString> {
    command("server of many")
}

fn command(role: &str) -> Vec<OsString> {
    let binary = std::env::current_exe().unwrap().into_os_string();
    let arguments = ["--exact", "process::roles::plays_its_role_when_started_by_another_test", "--nocapture"];
    // The test harness in it has something to say, which belongs to no test.
    let quiet = ["sh", "-c", "exec \"$0\" \"$@\" >/dev/null"].map(OsString::from);
    let environment =
        ["env".into(), format!("{ROLE}={role}").into()].into_iter().chain(quiet).chain([binary]);
    environment.chain(arguments.map(OsString::from)).collect()
}

/// Started as a test by nobody but the fork server and the pool; on its own it has nothing to do.
#[test]
fn plays_its_role_when_started_by_another_test() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    // `env` and `sh` replace themselves by this process, so that the parent is the one who started it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    match role.strip_prefix("server of ") {
        Some(child) => fork_server(&socket, child),
        None if role == "many" => many::serve(&socket),
        None => serve(&socket),
    }
    leave();
}

#[expect(clippy::disallowed_methods, reason = "a process of its own, with no claims")]
fn leave() -> ! {
    std::process::exit(0)
}

fn fork_server(socket: &UnixStream, role: &str) {
    let answers = Arc::new(Mutex::new(socket.try_clone().unwrap()));
    let record = |kind: u8, number: u64, pid: u32, status: i32| {
        let mut record = vec![kind];
        record.extend(number.to_le_bytes());
        record.extend(pid.to_le_bytes());
        record.extend(status.to_le_bytes());
        record
    };
    while let Some((number, fd)) = fork_request(socket) {
        let argv = command(role);
        let mut child = Command::new(&argv[0]).args(&argv[1..]).stdin(Stdio::from(fd)).spawn().unwrap();
        let _ = answers.lock().unwrap().write_all(&record(b'P', number, child.id(), 0));
        let answers = answers.clone();
        std::thread::spawn(move || {
            let status = child.wait().unwrap();
            let _ = answers.lock().unwrap().write_all(&record(b'X', number, 0, status.into_raw()));
        });
    }
}

fn fork_request(socket: &UnixStream) -> Option<(u64, OwnedFd)> {
    let mut request = [0; 9];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut request)], &mut control, flags);
    if received.ok()?.bytes != request.len() {
        return None;
    }
    let number = u64::from_le_bytes(request[1..].try_into().unwrap());
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Some((number, fd?))
}

#[derive(Default)]
struct Inbox {
    waiting: VecDeque<Execution>,
    stopped: bool,
}

type Shared = Arc<(Mutex<Inbox>, Condvar)>;

/// A child: a thread reads frames ahead, this one does what they say.
pub(super) fn serve(socket: &UnixStream) {
    let inbox = Shared::default();
    let writer = Arc::new(Mutex::new(socket.try_clone().unwrap()));
    let (reading, for_reader, answers) = (socket.try_clone().unwrap(), inbox.clone(), writer.clone());
    let mut ready = Vec::new();
    frame::encode_ready(&mut ready);
    writer.lock().unwrap().write_all(&ready).unwrap();
    std::thread::spawn(move || read_ahead(reading, &for_reader, &answers));
    loop {
        let mut guard = inbox.0.lock().unwrap();
        while guard.waiting.is_empty() && !guard.stopped {
            guard = inbox.1.wait(guard).unwrap();
        }
        let Some(execution) = guard.waiting.pop_front() else { return };
        drop(guard);
        obey(&execution, &writer);
    }
}

fn read_ahead(mut socket: UnixStream, inbox: &Shared, answers: &Mutex<UnixStream>) {
    let mut decoder = Decoder::default();
    let mut chunk = vec![0; 1 << 16];
    loop {
        let read = socket.read(&mut chunk).unwrap_or(0);
        decoder.feed(&chunk[..read]);
        let mut guard = inbox.0.lock().unwrap();
        guard.stopped |= read == 0;
        while let Some(frame) = decoder.next_frame().unwrap() {
            match frame {
                Frame::Execution(execution) => guard.waiting.push_back(*execution),
                Frame::Stop => guard.stopped = true,
                Frame::Reclaim(tags) => {
                    let returned = guard.waiting.iter().map(|execution| execution.tag);
                    let returned: Vec<_> = returned.filter(|tag| tags.contains(tag)).collect();
                    guard.waiting.retain(|execution| !returned.contains(&execution.tag));
                    let mut answer = Vec::new();
                    frame::encode_returned(&returned, &mut answer);
                    answers.lock().unwrap().write_all(&answer).unwrap();
                }
                _ => {}
            }
        }
        inbox.1.notify_all();
        if read == 0 {
            return;
        }
    }
}

fn obey(execution: &Execution, writer: &Mutex<UnixStream>) {
    let order = std::str::from_utf8(&execution.message.body).unwrap();
    let mut outcome = Outcome { summary: std::process::id().to_string(), ..Outcome::default() };
    let mut answer = Vec::new();
    match order.split(' ').next().unwrap() {
        "tell-and-hang" => {
            frame::encode_update(execution.tag, &ResultRecord::default(), &mut answer).unwrap();
            writer.lock().unwrap().write_all(&answer).unwrap();
            loop {
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        "hang" => loop {
            std::thread::sleep(Duration::from_secs(1));
        },
        "die" => std::process::abort(),
        "nonsense" => {
            answer.extend([255; 64]);
            writer.lock().unwrap().write_all(&answer).unwrap();
            return;
        }
        "sleep" => std::thread::sleep(Duration::from_millis(order[6..].parse().unwrap())),
        "parent" => outcome.summary = std::os::unix::process::parent_id().to_string(),
        "echo" => {
            let record = execution.message.body.clone();
            outcome.results.push(ResultRecord { record, ..ResultRecord::default() });
        }
        _ => {}
    }
    frame::encode_outcome(execution.tag, &outcome, &mut answer).unwrap();
    writer.lock().unwrap().write_all(&answer).unwrap();
    if order == "ok-and-die" {
        std::process::abort();
    }
}

//! `Child` and `Execution`: the child's end of its socket.
//!
//! 1. A Rust thread reads frames ahead of the task that runs. It never attaches to Python, and no signal is
//!    delivered to it, so that handlers run promptly on the main thread.
//! 2. What it read waits in a queue; a descriptor is readable exactly while there is something to receive.
//! 3. A reclaim is answered by the thread: what has not been received goes back.
//! 4. End-of-file means that the supervisor is gone. A child that runs nothing is told to stop; one that
//!    runs something is ended at once, since nobody would take its outcome and the request will be run again.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use celeriac::worker::pool::process::frame::{self, Decoder, Frame, FrameError, Packed, Received, Unpacked};
use celeriac::worker::pool::{Mode, OutcomeKind, RequestTag};
use parking_lot::{Condvar, Mutex};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use crate::convert::{adopt, maybe_seconds, timespec};
use crate::errors::Class;
use crate::json::from_json;
use crate::request::request_fields;
use crate::runtime::{same_process, without_signals};
use crate::values::{Publication, ResultRecord, properties_dict};
use crate::wakeup::Wakeup;

/// Executions that are read ahead at the most; the supervisor sends far fewer.
const MAX_AHEAD: usize = 4096;
/// Frames up to this size are small. The buffer of a socket has room for many of them.
const SMALL: usize = 4096;
/// How long the question for a soft limit waits for a frame that is on its way.
const SOFT_LIMIT_PATIENCE: Duration = Duration::from_secs(1);
/// The exit code of a child that lost its supervisor (`EX_UNAVAILABLE`).
const ORPHANED: i32 = 69;

/// One request for a child. Its fields are read out of the frame when they are asked for.
#[pyclass(frozen, module = "celeriac._core")]
pub(crate) struct Execution(Packed);

impl Execution {
    fn unpack(&self) -> PyResult<Unpacked<'_>> {
        self.0.unpack().map_err(|error| PyValueError::new_err(error.to_string()))
    }
}

#[pymethods]
impl Execution {
    #[getter]
    fn tag(&self) -> RequestTag {
        self.0.tag()
    }

    #[getter]
    fn mode(&self) -> PyResult<&'static str> {
        Ok(match self.unpack()?.mode {
            Mode::Run => "run",
            Mode::TimedOut(_) => "timed_out",
            Mode::Lost(_) => "lost",
            Mode::Revoked(_) => "revoked",
            Mode::Unknown => "unknown",
        })
    }

    #[getter]
    fn detail(&self) -> PyResult<String> {
        Ok(match self.unpack()?.mode {
            Mode::Lost(text) | Mode::Revoked(text) => text,
            Mode::Run | Mode::TimedOut(_) | Mode::Unknown => String::new(),
        })
    }

    #[getter]
    fn limit(&self) -> PyResult<Option<f64>> {
        Ok(if let Mode::TimedOut(limit) = self.unpack()?.mode { Some(limit) } else { None })
    }

    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        from_json(py, self.unpack()?.message.headers, None)
    }

    #[getter]
    fn properties<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        properties_dict(py, &self.unpack()?.message)
    }

    #[getter]
    fn body<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, self.unpack()?.message.body))
    }

    #[getter]
    fn exchange(&self) -> PyResult<&str> {
        Ok(self.unpack()?.exchange)
    }

    #[getter]
    fn routing_key(&self) -> PyResult<&str> {
        Ok(self.unpack()?.routing_key)
    }

    #[getter]
    fn redelivered(&self) -> PyResult<bool> {
        Ok(self.unpack()?.redelivered)
    }

    #[getter]
    fn soft_limit(&self) -> PyResult<Option<f64>> {
        Ok(self.unpack()?.soft_limit.map(|limit| limit.as_secs_f64()))
    }

    #[getter]
    fn hard_limit(&self) -> PyResult<Option<f64>> {
        Ok(self.unpack()?.hard_limit.map(|limit| limit.as_secs_f64()))
    }

    /// The fields of the task's request, when the message is plain JSON of protocol 2; None leaves it to others.
    fn request<'py>(
        &self,
        py: Python<'py>,
        decoders: Option<&Bound<'py, PyDict>>,
        node: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        request_fields(py, self.0.tag(), &self.unpack()?, decoders, node)
    }

    fn __repr__(&self) -> PyResult<String> {
        Ok(format!("<Execution {} {}>", self.0.tag(), self.mode()?))
    }
}

/// What the reader thread and Python's threads share.
struct Shared {
    /// The reader reads from it; `soft_limit_passed` looks whether there is something left to read.
    socket: UnixStream,
    /// The same socket. Written by whoever responds and by the reader, a whole frame at a time.
    writer: Mutex<UnixStream>,
    /// Readable exactly while `state` holds something to receive. Changed under the lock of `state`.
    wakeup: Wakeup,
    state: Mutex<State>,
    /// Notified when the queue has room again.
    room: Condvar,
}

#[derive(Default)]
struct State {
    /// Read and not received. Pushed by the reader, popped by `receive`.
    queue: VecDeque<Packed>,
    /// Received and not responded to. Counted by Python's threads; read by the reader at end-of-file.
    running: usize,
    /// Requests whose soft limit has passed. Added by the reader, removed by `respond`.
    soft: Vec<RequestTag>,
    /// No more will come: told to stop, or the supervisor is gone. Written by the reader.
    stopping: bool,
    /// The reader holds bytes that it has not made sense of. Written by the reader.
    reading: bool,
}

impl Shared {
    /// Body of the reader thread.
    fn read(&self) {
        let mut decoder = Decoder::default();
        let mut bytes = vec![0; 1 << 16];
        loop {
            if !wait_readable(&self.socket, None) {
                continue;
            }
            self.state.lock().reading = true;
            match (&self.socket).read(&mut bytes) {
                Ok(0) => return,
                Ok(count) => decoder.feed(&bytes[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
            loop {
                match decoder.next_received() {
                    Ok(Some(Received::Execution(execution))) => self.add(execution),
                    Ok(Some(Received::Other(frame))) => self.take(frame),
                    Ok(None) => break,
                    // The stream makes no sense any more: as good as closed.
                    Err(_) => return,
                }
            }
            self.state.lock().reading = false;
        }
    }

    fn add(&self, execution: Packed) {
        let mut state = self.state.lock();
        while state.queue.len() >= MAX_AHEAD {
            self.room.wait(&mut state);
        }
        state.queue.push_back(execution);
        if state.queue.len() == 1 && !state.stopping {
            self.wakeup.set();
        }
    }

    fn take(&self, frame: Frame) {
        let mut state = self.state.lock();
        match frame {
            Frame::Reclaim(tags) => {
                let had_some = !state.queue.is_empty();
                let mut returned = Vec::new();
                state.queue.retain(|execution| {
                    let reclaimed = tags.contains(&execution.tag());
                    if reclaimed {
                        returned.push(execution.tag());
                    }
                    !reclaimed
                });
                if had_some && state.queue.is_empty() && !state.stopping {
                    self.wakeup.clear();
                }
                drop(state);
                let mut answer = Vec::new();
                frame::encode_returned(&returned, &mut answer);
                // A supervisor that is gone shows at the next read.
                let _gone = self.writer.lock().write_all(&answer);
            }
            Frame::SoftLimit(tag) => state.soft.push(tag),
            Frame::Stop => self.stop(&mut state),
            // Requests are read otherwise; frames from a child to the supervisor are of no use here.
            Frame::Execution(_)
            | Frame::Ready
            | Frame::Outcome(..)
            | Frame::Update(..)
            | Frame::Returned(_) => {}
        }
    }

    fn stop(&self, state: &mut State) {
        if !state.stopping {
            state.stopping = true;
            if state.queue.is_empty() {
                self.wakeup.set();
            }
        }
    }

    /// The end of the reader thread, and with it of the child.
    fn orphaned(&self) {
        let mut state = self.state.lock();
        if state.running > 0 {
            end_process();
        }
        state.reading = false;
        if !state.queue.is_empty() {
            state.queue.clear();
            // `stop` makes it readable again.
            self.wakeup.clear();
        }
        self.stop(&mut state);
    }

    fn pop(&self) -> Option<Packed> {
        let mut state = self.state.lock();
        let execution = state.queue.pop_front()?;
        state.running += 1;
        if state.queue.is_empty() && !state.stopping {
            self.wakeup.clear();
        }
        if state.queue.len() + 1 == MAX_AHEAD {
            self.room.notify_one();
        }
        Some(execution)
    }

    /// Whether all that the supervisor has sent so far has been understood.
    fn is_read(&self) -> bool {
        // In this order: the reader sets `reading` before it takes bytes off the socket.
        !wait_readable(&self.socket, Some(Duration::ZERO)) && !self.state.lock().reading
    }
}

/// Waits until there is something to read; false when the time is over or a signal came.
fn wait_readable(socket: &impl std::os::fd::AsFd, timeout: Option<Duration>) -> bool {
    let mut waiting = [PollFd::new(socket, PollFlags::IN)];
    let timeout = timeout.map(timespec);
    matches!(poll(&mut waiting, timeout.as_ref()), Ok(1..))
}

/// Nothing may run any more: no exit handlers, no destructors.
#[expect(unsafe_code, reason = "the standard library has only an exit that runs C's exit handlers")]
fn end_process() -> ! {
    // SAFETY: takes no pointer, needs no state, does not return.
    unsafe { libc::_exit(ORPHANED) }
}

/// The child's end of its socket.
#[pyclass(frozen, module = "celeriac._core")]
pub(crate) struct Child {
    pid: u32,
    shared: Arc<Shared>,
}

impl Child {
    fn send(&self, py: Python<'_>, frame: &[u8]) -> PyResult<()> {
        // A small one is written without letting others run, if there is room: that takes less time than to detach.
        let writer = if frame.len() <= SMALL { self.shared.writer.try_lock() } else { None };
        let sent = match writer.map(|writer| send_at_once(&writer, frame)) {
            Some(Ok(true)) => return Ok(()),
            Some(Err(error)) => Err(error),
            Some(Ok(false)) | None => py.detach(|| self.shared.writer.lock().write_all(frame)),
        };
        sent.map_err(|error| PyOSError::new_err(format!("the supervisor is gone: {error}")))
    }
}

/// Writes a frame if there is room for it; false when there is not.
fn send_at_once(writer: &UnixStream, frame: &[u8]) -> std::io::Result<bool> {
    match send(writer, frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(written) if written == frame.len() => Ok(true),
        Ok(0) | Err(Errno::AGAIN | Errno::INTR) => Ok(false),
        // Of so few bytes the system takes all or none. If it did not, the frame would have to stay in one piece.
        Ok(written) => (&*writer).write_all(&frame[written..]).map(|()| true),
        Err(error) => Err(error.into()),
    }
}

#[pymethods]
impl Child {
    /// Takes over the descriptor, and tells the supervisor that the child is set up.
    #[new]
    fn new(py: Python<'_>, fd: RawFd) -> PyResult<Self> {
        let socket = UnixStream::from(adopt(fd)?);
        socket.set_nonblocking(false)?;
        let shared = Arc::new(Shared {
            writer: Mutex::new(socket.try_clone()?),
            socket,
            wakeup: Wakeup::new()?,
            state: Mutex::default(),
            room: Condvar::new(),
        });
        let child = Self { pid: std::process::id(), shared: Arc::clone(&shared) };
        let mut ready = Vec::new();
        frame::encode_ready(&mut ready);
        // A supervisor that is gone already shows to the reader, as end-of-file.
        let _gone = child.send(py, &ready);
        without_signals(py, || {
            let reader = std::thread::Builder::new().name("celeriac-frames".to_owned());
            reader.spawn(move || {
                let reading = std::panic::AssertUnwindSafe(|| shared.read());
                // After a panic nobody would read any more: that is as if the supervisor were gone.
                let _ended = std::panic::catch_unwind(reading);
                shared.orphaned();
            })
        })??;
        Ok(child)
    }

    /// The next request; None when told to stop, or on time-out.
    #[pyo3(signature = (timeout = None))]
    fn receive(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Execution>> {
        if self.pid == std::process::id()
            && let Some(execution) = self.shared.pop()
        {
            return Ok(Some(Execution(execution)));
        }
        same_process(self.pid, "Child")?;
        let deadline = maybe_seconds(timeout)?.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            if let Some(execution) = self.shared.pop() {
                return Ok(Some(Execution(execution)));
            }
            if self.shared.state.lock().stopping {
                return Ok(None);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            let woken = py.detach(|| wait_readable(&self.shared.wakeup.as_fd(), left));
            if !woken {
                py.check_signals()?;
            }
        }
    }

    /// No more requests will come.
    #[getter]
    fn stopping(&self) -> bool {
        self.shared.state.lock().stopping
    }

    /// Readable when `receive(0)` would give something, and when told to stop.
    fn fileno(&self) -> PyResult<RawFd> {
        same_process(self.pid, "Child")?;
        Ok(self.shared.wakeup.descriptor())
    }

    /// Answers a request.
    #[expect(clippy::too_many_arguments, reason = "the whole outcome, in one call of the hot path")]
    #[expect(clippy::needless_pass_by_value, reason = "PyO3 makes lists, it lends none")]
    fn respond(
        &self,
        py: Python<'_>,
        tag: RequestTag,
        kind: &str,
        results: Vec<Py<ResultRecord>>,
        publications: Vec<Py<Publication>>,
        summary: &str,
        runtime: Option<f64>,
    ) -> PyResult<()> {
        same_process(self.pid, "Child")?;
        let (kind, runtime) = (outcome_kind(kind)?, maybe_seconds(runtime)?);
        let records = results.iter().map(|record| &record.get().0);
        let follow_ups = publications.iter().map(|one| &one.get().0);
        let mut bytes = Vec::with_capacity(512);
        frame::encode_end(tag, kind, runtime, summary, records, follow_ups, &mut bytes)
            .map_err(|error| too_large(py, error))?;
        {
            let mut state = self.shared.state.lock();
            state.soft.retain(|passed| *passed != tag);
            // Before it is sent: a supervisor that has its last outcome may close the socket at once.
            state.running = state.running.saturating_sub(1);
        }
        self.send(py, &bytes)
    }

    /// Stores a state of the running task's own.
    fn update(&self, py: Python<'_>, tag: RequestTag, record: &Bound<'_, ResultRecord>) -> PyResult<()> {
        same_process(self.pid, "Child")?;
        let mut bytes = Vec::new();
        frame::encode_update(tag, &record.get().0, &mut bytes).map_err(|error| too_large(py, error))?;
        self.send(py, &bytes)
    }

    /// Whether the supervisor sent SIGUSR1 for this very request. The frame that says so was written before
    /// the signal was sent, but may not have been read yet.
    fn soft_limit_passed(&self, py: Python<'_>, tag: RequestTag) -> PyResult<bool> {
        same_process(self.pid, "Child")?;
        let deadline = Instant::now() + SOFT_LIMIT_PATIENCE;
        loop {
            let all_read = self.shared.is_read();
            if self.shared.state.lock().soft.contains(&tag) {
                return Ok(true);
            }
            if all_read || Instant::now() >= deadline {
                return Ok(false);
            }
            py.detach(|| std::thread::sleep(Duration::from_micros(100)));
        }
    }
}

fn too_large(py: Python<'_>, error: FrameError) -> PyErr {
    Class::Encode.error(py, error.to_string())
}

fn outcome_kind(name: &str) -> PyResult<OutcomeKind> {
    Ok(match name {
        "success" => OutcomeKind::Success,
        "failure" => OutcomeKind::Failure,
        "retry" => OutcomeKind::Retry,
        "ignored" => OutcomeKind::Ignored,
        "rejected" => OutcomeKind::Rejected,
        "requeued" => OutcomeKind::Requeued,
        "revoked" => OutcomeKind::Revoked,
        "malformed" => OutcomeKind::Malformed,
        "disallowed" => OutcomeKind::Disallowed,
        other => return Err(PyValueError::new_err(format!("no outcome is of kind {other:?}"))),
    })
}

//! `Child` and `Execution`: the child's end of its socket.
//!
//! 1. A Rust thread reads frames ahead of the task that runs. It never attaches to Python, and no signal is
//!    delivered to it, so that handlers run promptly on the main thread.
//! 2. What it read waits in a queue; a descriptor is readable exactly while there is something to receive.
//! 3. A reclaim is answered by the thread: what has not been received goes back.
//!    What has been received has begun; a child of several slots says so before it runs.
//! 4. Orders for requests that run in a child of several slots (soft limits, to end one, more slots) wait beside
//!    the queue, with a descriptor of their own: they come while there is no room for more requests.
//! 5. End-of-file means that the supervisor is gone. A child that runs nothing is told to stop; one that
//!    runs something is ended at once, since nobody would take its outcome and the request will be run again.

use std::collections::{HashSet, VecDeque};
use std::io::{Read as _, Write as _};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use celeriac::protocol;
use celeriac::worker::pool::process::frame::{
    self, Decoder, Ended, Frame, FrameError, Packed, Received, Unpacked,
};
use celeriac::worker::pool::{Mode, OutcomeKind, RequestTag};
use parking_lot::{Condvar, Mutex};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use crate::chord::ChordPart;
use crate::convert::{adopt, maybe_seconds, timespec};
use crate::errors::Class;
use crate::json::from_json;
use crate::request::request_fields;
use crate::runtime::{own_pid, same_process, without_signals};
use crate::values::{Publication, ResultRecord, properties_dict};
use crate::wakeup::Wakeup;

/// Answers that wait to be written together are written when they take more.
const LATER_BYTES: usize = 1 << 20;
/// Executions that are read ahead at the most; the supervisor sends far fewer.
const MAX_AHEAD: usize = 4096;
/// Frames up to this size are small. The buffer of a socket has room for many of them.
const SMALL: usize = 4096;
/// How long the question for a soft limit waits for a frame that is on its way.
const SOFT_LIMIT_PATIENCE: Duration = Duration::from_secs(1);
/// The exit code of a child that lost its supervisor (`EX_UNAVAILABLE`).
const ORPHANED: i32 = 69;

/// What [`Execution::chord`] tells.
type Chord<'py> = (String, Vec<Bound<'py, PyBytes>>, Option<Bound<'py, PyBytes>>, Option<String>);

/// One request for a child. Its fields are read out of the frame when they are asked for.
#[pyclass(frozen, module = "celeriac._core")]
pub(crate) struct Execution(pub(crate) Packed);

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

    /// The request's number in this worker; unlike the tag, the same for a run and for its conclusion.
    #[getter]
    fn number(&self) -> RequestTag {
        self.0.tag() & !frame::CONCLUSION
    }

    #[getter]
    fn mode(&self) -> PyResult<&'static str> {
        Ok(match self.unpack()?.mode {
            Mode::Run => "run",
            Mode::TimedOut(_) => "timed_out",
            Mode::Lost(_) => "lost",
            Mode::Revoked(_) => "revoked",
            Mode::Unknown => "unknown",
            Mode::Refused(_) => "refused",
            Mode::Join(_) => "join",
            Mode::Batch(_) => "batch",
        })
    }

    #[getter]
    fn detail(&self) -> PyResult<String> {
        Ok(match self.unpack()?.mode {
            Mode::Lost(text) | Mode::Revoked(text) | Mode::Refused(text) => text,
            Mode::Run | Mode::TimedOut(_) | Mode::Unknown | Mode::Join(_) | Mode::Batch(_) => String::new(),
        })
    }

    #[getter]
    fn limit(&self) -> PyResult<Option<f64>> {
        Ok(if let Mode::TimedOut(limit) = self.unpack()?.mode { Some(limit) } else { None })
    }

    /// The chord to be ended: its id, its parts' elements, the record of its group, why it cannot be completed. None
    /// when it is no join.
    #[getter]
    fn chord<'py>(&self, py: Python<'py>) -> PyResult<Option<Chord<'py>>> {
        let Mode::Join(join) = self.unpack()?.mode else { return Ok(None) };
        let elements = join.elements.iter().map(|element| PyBytes::new(py, element)).collect();
        let group = join.group.as_ref().map(|record| PyBytes::new(py, record));
        Ok(Some((join.group_id.clone(), elements, group, join.broken.clone())))
    }

    /// The requests of a batch, each to be answered under its own tag, and then the batch; none of anything else.
    #[getter]
    fn members(&self) -> PyResult<Vec<Self>> {
        let members = self.0.members().map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(members.into_iter().map(Self).collect())
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

    /// The queue it came from, where that matters to the child.
    #[getter]
    fn queue(&self) -> PyResult<Option<&str>> {
        Ok(self.unpack()?.queue)
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
    /// What a child of several slots has besides.
    several: Option<Several>,
}

/// What only a child of several slots has.
struct Several {
    /// Readable exactly while there are orders. Changed under the lock of the state.
    ordered: Wakeup,
    /// Notified when there is something to receive, or nothing will come any more.
    arrived: Condvar,
    /// Answers that are written together. Filled by `respond_later`, emptied by `flush`.
    later: Mutex<Vec<u8>>,
}

/// What a child of several slots is told beside requests.
#[derive(Clone, Copy)]
enum Order {
    SoftLimit(RequestTag),
    Cancel(RequestTag),
    Slots(u64),
    Stop,
}

#[derive(Default)]
struct State {
    /// Read and not received. Pushed by the reader, popped by `receive`.
    queue: VecDeque<Packed>,
    /// Received and not responded to. Kept by Python's threads; read by the reader at end-of-file.
    running: HashSet<RequestTag>,
    /// Orders for a child of several slots. Added by the reader, taken by `orders`.
    orders: Vec<Order>,
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
        if let Some(several) = &self.several {
            several.arrived.notify_one();
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
            Frame::SoftLimit(tag) if self.several.is_some() => self.order(&mut state, Order::SoftLimit(tag)),
            Frame::SoftLimit(tag) => state.soft.push(tag),
            Frame::Cancel(tag) => self.order(&mut state, Order::Cancel(tag)),
            Frame::Slots(count) => self.order(&mut state, Order::Slots(count)),
            Frame::Stop => self.stop(&mut state),
            // Requests are read otherwise; frames from a child to the supervisor are of no use here.
            Frame::Execution(_)
            | Frame::Ready
            | Frame::Outcome(..)
            | Frame::Update(..)
            | Frame::Returned(_)
            | Frame::Began(_) => {}
        }
    }

    /// Passes an order on. A child of one slot gets none.
    fn order(&self, state: &mut State, order: Order) {
        let Some(several) = &self.several else { return };
        if state.orders.is_empty() {
            several.ordered.set();
        }
        state.orders.push(order);
    }

    fn stop(&self, state: &mut State) {
        if !state.stopping {
            state.stopping = true;
            if state.queue.is_empty() {
                self.wakeup.set();
            }
            self.order(state, Order::Stop);
            if let Some(several) = &self.several {
                several.arrived.notify_all();
            }
        }
    }

    /// The end of the reader thread, and with it of the child.
    fn orphaned(&self) {
        let mut state = self.state.lock();
        if !state.running.is_empty() {
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
        self.pop_from(&mut self.state.lock())
    }

    fn pop_from(&self, state: &mut State) -> Option<Packed> {
        let execution = state.queue.pop_front()?;
        state.running.insert(execution.tag());
        if execution.is_batch() {
            // What cannot be read is told of when the child reads it.
            state.running.extend(execution.members().unwrap_or_default().iter().map(Packed::tag));
        }
        if state.queue.is_empty() && !state.stopping {
            self.wakeup.clear();
        }
        if state.queue.len() + 1 == MAX_AHEAD {
            self.room.notify_one();
        }
        Some(execution)
    }

    /// Up to `limit` requests, of which the supervisor is told that they begin.
    fn pop_many(&self, limit: usize) -> (Vec<Execution>, Vec<u8>) {
        let mut state = self.state.lock();
        let popped = std::iter::from_fn(|| self.pop_from(&mut state));
        let popped: Vec<_> = popped.take(limit).map(Execution).collect();
        let began = began(&popped);
        (popped, began)
    }

    /// The next request for one of many threads; none when nothing will come any more.
    fn wait_one(&self, several: &Several) -> Option<(Execution, Vec<u8>)> {
        let mut state = self.state.lock();
        loop {
            if let Some(execution) = self.pop_from(&mut state) {
                let execution = Execution(execution);
                let began = began(std::slice::from_ref(&execution));
                return Some((execution, began));
            }
            if state.stopping {
                return None;
            }
            several.arrived.wait(&mut state);
        }
    }

    /// A request is over. False when its answer must not be sent: an exception from another thread may come
    /// when a request has been answered, and would have it answered twice.
    fn answered(&self, tag: RequestTag) -> bool {
        let mut state = self.state.lock();
        state.soft.retain(|passed| *passed != tag);
        state.running.remove(&tag) || self.several.is_none()
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
    fn several(&self) -> PyResult<&Several> {
        let several = self.shared.several.as_ref();
        several
            .ok_or_else(|| PyValueError::new_err("this child has one slot: it was made without several=True"))
    }

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
    #[pyo3(signature = (fd, several = false))]
    fn new(py: Python<'_>, fd: RawFd, several: bool) -> PyResult<Self> {
        let socket = UnixStream::from(adopt(fd)?);
        socket.set_nonblocking(false)?;
        let shared = Arc::new(Shared {
            writer: Mutex::new(socket.try_clone()?),
            socket,
            wakeup: Wakeup::new()?,
            state: Mutex::default(),
            room: Condvar::new(),
            several: if several { Some(Several::new()?) } else { None },
        });
        let child = Self { pid: own_pid(), shared: Arc::clone(&shared) };
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
        if self.pid == own_pid()
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

    /// Requests that wait, up to so many; the supervisor knows that they have begun. Does not wait.
    fn receive_many(&self, py: Python<'_>, limit: usize) -> PyResult<Vec<Execution>> {
        same_process(self.pid, "Child")?;
        self.several()?;
        let (executions, began) = self.shared.pop_many(limit);
        if !executions.is_empty() {
            self.send(py, &began)?;
        }
        Ok(executions)
    }

    /// The next request, for one of many threads; None when told to stop. No signal handlers run.
    fn receive_one(&self, py: Python<'_>) -> PyResult<Option<Execution>> {
        same_process(self.pid, "Child")?;
        let several = self.several()?;
        let Some((execution, began)) = py.detach(|| self.shared.wait_one(several)) else { return Ok(None) };
        self.send(py, &began)?;
        Ok(Some(execution))
    }

    /// What this child was told since the last call, each with the tag or the number that it is about.
    fn orders(&self) -> PyResult<Vec<(&'static str, u64)>> {
        same_process(self.pid, "Child")?;
        let several = self.several()?;
        let orders = {
            let mut state = self.shared.state.lock();
            several.ordered.clear();
            std::mem::take(&mut state.orders)
        };
        let words = orders.into_iter().map(|order| match order {
            Order::SoftLimit(tag) => ("soft_limit", tag),
            Order::Cancel(tag) => ("cancel", tag),
            Order::Slots(count) => ("slots", count),
            Order::Stop => ("stop", 0),
        });
        Ok(words.collect())
    }

    /// Readable while there are orders.
    fn orders_fileno(&self) -> PyResult<RawFd> {
        same_process(self.pid, "Child")?;
        Ok(self.several()?.ordered.descriptor())
    }

    /// Writes the answers that wait.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        same_process(self.pid, "Child")?;
        let answers = std::mem::take(&mut *self.several()?.later.lock());
        if answers.is_empty() { Ok(()) } else { self.send(py, &answers) }
    }

    /// Answers a request with the next `flush`; tells whether this is the first answer that waits for it.
    #[expect(clippy::too_many_arguments, reason = "as `respond`")]
    #[expect(clippy::needless_pass_by_value, reason = "PyO3 makes lists, it lends none")]
    #[pyo3(signature = (tag, kind, results, publications, summary, runtime, traceback = None, parts = None))]
    fn respond_later(
        &self,
        py: Python<'_>,
        tag: RequestTag,
        kind: &str,
        results: Vec<Py<ResultRecord>>,
        publications: Vec<Py<Publication>>,
        summary: &str,
        runtime: Option<f64>,
        traceback: Option<&str>,
        parts: Option<Vec<Py<ChordPart>>>,
    ) -> PyResult<bool> {
        same_process(self.pid, "Child")?;
        let several = self.several()?;
        let parts = chord_parts(parts);
        let ended = ended(kind, &results, &publications, summary, runtime, traceback, &parts)?;
        let (first, full) = {
            let mut later = several.later.lock();
            let before = later.len();
            frame::encode_ended(tag, ended, &mut later).map_err(|error| too_large(py, error))?;
            if !self.shared.answered(tag) {
                later.truncate(before);
            }
            (before == 0, later.len() > LATER_BYTES)
        };
        if full {
            self.flush(py)?;
        }
        Ok(first)
    }

    /// Answers a request.
    #[expect(clippy::too_many_arguments, reason = "the whole outcome, in one call of the hot path")]
    #[expect(clippy::needless_pass_by_value, reason = "PyO3 makes lists, it lends none")]
    #[pyo3(signature = (tag, kind, results, publications, summary, runtime, traceback = None, parts = None))]
    fn respond(
        &self,
        py: Python<'_>,
        tag: RequestTag,
        kind: &str,
        results: Vec<Py<ResultRecord>>,
        publications: Vec<Py<Publication>>,
        summary: &str,
        runtime: Option<f64>,
        traceback: Option<&str>,
        parts: Option<Vec<Py<ChordPart>>>,
    ) -> PyResult<()> {
        same_process(self.pid, "Child")?;
        let parts = chord_parts(parts);
        let ended = ended(kind, &results, &publications, summary, runtime, traceback, &parts)?;
        let mut bytes = Vec::new();
        frame::encode_ended(tag, ended, &mut bytes).map_err(|error| too_large(py, error))?;
        // Before it is sent: a supervisor that has its last outcome may close the socket at once.
        if self.shared.answered(tag) { self.send(py, &bytes) } else { Ok(()) }
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

impl Several {
    fn new() -> std::io::Result<Self> {
        Ok(Self { ordered: Wakeup::new()?, arrived: Condvar::new(), later: Mutex::default() })
    }
}

/// The word that these begin.
fn began(executions: &[Execution]) -> Vec<u8> {
    let tags: Vec<_> = executions.iter().map(|execution| execution.0.tag()).collect();
    let mut bytes = Vec::new();
    frame::encode_began(&tags, &mut bytes);
    bytes
}

fn ended<'a>(
    kind: &str,
    results: &'a [Py<ResultRecord>],
    publications: &'a [Py<Publication>],
    summary: &'a str,
    runtime: Option<f64>,
    traceback: Option<&'a str>,
    parts: &'a [protocol::ChordPart],
) -> PyResult<
    Ended<
        'a,
        impl ExactSizeIterator<Item = &'a protocol::ResultRecord>,
        impl ExactSizeIterator<Item = &'a protocol::Publication>,
    >,
> {
    Ok(Ended {
        kind: outcome_kind(kind)?,
        results: results.iter().map(|record| &record.get().0),
        publications: publications.iter().map(|one| &one.get().0),
        runtime: maybe_seconds(runtime)?,
        summary,
        traceback: traceback.unwrap_or_default(),
        parts,
    })
}

/// Few requests have any.
fn chord_parts(parts: Option<Vec<Py<ChordPart>>>) -> Vec<protocol::ChordPart> {
    parts.unwrap_or_default().iter().map(|part| part.get().0.clone()).collect()
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
        "dead_lettered" => OutcomeKind::DeadLettered,
        "revoked" => OutcomeKind::Revoked,
        "malformed" => OutcomeKind::Malformed,
        "disallowed" => OutcomeKind::Disallowed,
        other => return Err(PyValueError::new_err(format!("no outcome is of kind {other:?}"))),
    })
}

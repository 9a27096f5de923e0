//! `Worker`: the engine's worker on a thread of its own. That thread never attaches to Python: what it has
//! to say waits in a queue with a descriptor, for the main Python thread to fetch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use celeriac::client::ClientError;
use celeriac::clock::Clock;
use celeriac::driver::{connect_backend, connect_broker};
use celeriac::worker::pool::process::frame::Packed;
use celeriac::worker::{self, Exit, Notice, NoticeQueue, Stats, Stop, TaskEvent, TaskNotice, WorkerHandle};
use parking_lot::{Condvar, Mutex};
use pyo3::IntoPyObjectExt as _;
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::child::Execution;
use crate::connections::Connections;
use crate::convert::maybe_seconds;
use crate::errors::Failure;
use crate::logging;
use crate::runtime::{own_pid, same_process, without_signals};
use crate::wakeup::Wakeup;
use crate::worker_options::{Plan, read};

/// How often a wait looks for signals.
const TICK: Duration = Duration::from_millis(100);
/// The exit code of an engine that failed.
const FAILED: i32 = 1;

/// What Python's threads and the engine's thread share.
struct Shared {
    /// Readable while there are notices, or the end to tell of.
    wakeup: Wakeup,
    state: Mutex<State>,
    /// Notified when the engine's thread has connected, and when it has ended.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Written by the engine's thread when it is connected; read by Python's.
    handle: Option<WorkerHandle>,
    /// What was asked for before there was a handle. Written by Python's threads, read once by the engine's.
    order: Option<Stop>,
    /// What came of connecting. Written by the engine's thread, taken by `start`.
    connected: Option<Result<(), ClientError>>,
    /// How it ended. Written by the engine's thread, taken by `notices`.
    exit: Option<Exit>,
    /// Written by `start` and by the end of the engine's thread.
    running: bool,
}

impl Shared {
    /// Body of the engine's thread.
    fn run(&self, plan: Plan) {
        let running = std::panic::AssertUnwindSafe(|| self.work(plan));
        let exit = std::panic::catch_unwind(running).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
            Exit { code: FAILED, text: format!("the engine failed: {text}") }
        });
        logging::send_to(None);
        let mut state = self.state.lock();
        state.exit = Some(exit);
        state.running = false;
        self.wakeup.set();
        self.changed.notify_all();
    }

    /// Connects, says so, and works until a stop.
    fn work(&self, plan: Plan) -> Exit {
        let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = match built {
            Ok(runtime) => runtime,
            Err(error) => return failed(format!("cannot start the engine: {error}")),
        };
        let _inside = runtime.enter();
        let worker = match connect(plan) {
            Ok(worker) => worker,
            Err(error) => {
                let text = error.to_string();
                self.state.lock().connected = Some(Err(error));
                return failed(text);
            }
        };
        self.hand_over(worker.handle());
        runtime.block_on(worker.run()).unwrap_or_else(|error| failed(error.to_string()))
    }

    fn hand_over(&self, handle: WorkerHandle) {
        let mut state = self.state.lock();
        if let Some(order) = state.order {
            handle.stop(order);
        }
        logging::send_to(Some(handle.notices()));
        state.handle = Some(handle);
        state.connected = Some(Ok(()));
        self.changed.notify_all();
    }

    fn notices(&self) -> Option<Arc<NoticeQueue>> {
        self.state.lock().handle.as_ref().map(WorkerHandle::notices)
    }
}

fn failed(text: String) -> Exit {
    Exit { code: FAILED, text }
}

fn connect(plan: Plan) -> Result<worker::Worker, ClientError> {
    let Connections { broker: options, backend: backend_options } = plan.connections;
    let broker = connect_broker(&plan.broker_url, options.clone())?;
    let backend = match &plan.result_backend {
        Some(url) => Some(connect_backend(url, backend_options)?),
        None => None,
    };
    let writer = match &plan.write_url {
        Some(url) => Some(connect_broker(url, options)?),
        None => None,
    };
    let worker = worker::Worker::new(plan.options, broker, backend, Box::new(plan.pool), Clock::system());
    Ok(match writer {
        Some(writer) => worker.with_writer(writer),
        None => worker,
    })
}

/// The engine's worker.
#[pyclass(frozen, module = "celeriac._core")]
pub(crate) struct Worker {
    pid: u32,
    shared: Arc<Shared>,
    /// Taken by `start`.
    plan: Mutex<Option<Plan>>,
}

impl Worker {
    /// Waits for a state, with the interpreter released; tells whether it came. Signal handlers run meanwhile.
    fn wait(
        &self,
        py: Python<'_>,
        deadline: Option<Instant>,
        reached: impl Fn(&State) -> bool + Sync,
    ) -> PyResult<bool> {
        loop {
            let tick = Instant::now() + TICK;
            let until = deadline.map_or(tick, |deadline| deadline.min(tick));
            let there = py.detach(|| {
                let mut state = self.shared.state.lock();
                if !reached(&state) {
                    self.shared.changed.wait_until(&mut state, until);
                }
                reached(&state)
            });
            if there {
                return Ok(true);
            }
            py.check_signals()?;
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(false);
            }
        }
    }
}

#[pymethods]
impl Worker {
    /// Checks the options; connects to nothing, starts no thread.
    #[new]
    fn new(options: &Bound<'_, PyDict>) -> PyResult<Self> {
        let plan = read(options)?;
        let shared = Shared { wakeup: Wakeup::new()?, state: Mutex::default(), changed: Condvar::new() };
        Ok(Self { pid: own_pid(), shared: Arc::new(shared), plan: Mutex::new(Some(plan)) })
    }

    /// Starts the engine's thread; returns when it is connected.
    fn start(&self, py: Python<'_>) -> PyResult<()> {
        same_process(self.pid, "Worker")?;
        let Some(plan) = self.plan.lock().take() else {
            return Err(PyRuntimeError::new_err("this Worker was started before"));
        };
        self.shared.state.lock().running = true;
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("celeriac-worker".to_owned());
        let started = without_signals(py, || thread.spawn(move || shared.run(plan)))?;
        if let Err(error) = started {
            self.shared.state.lock().running = false;
            return Err(PyOSError::new_err(format!("cannot start the engine's thread: {error}")));
        }
        self.wait(py, None, |state| state.connected.is_some() || !state.running)?;
        // None: it ended before it could connect, and `notices` tells how.
        if let Some(Err(error)) = self.shared.state.lock().connected.take() {
            return Err(Failure::from(error).into_py(py));
        }
        if let Some(notices) = self.shared.notices() {
            let shared = Arc::clone(&self.shared);
            notices.on_nonempty(Box::new(move || shared.wakeup.set()));
        }
        Ok(())
    }

    /// Readable while there are notices.
    fn fileno(&self) -> PyResult<i32> {
        same_process(self.pid, "Worker")?;
        Ok(self.shared.wakeup.descriptor())
    }

    /// What the worker has to say since the last call.
    fn notices(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        same_process(self.pid, "Worker")?;
        self.shared.wakeup.clear();
        // The end is looked at first: whatever was said before it is in the queue by then.
        let exit = self.shared.state.lock().exit.take();
        let said = self.shared.notices().map(|notices| notices.drain()).unwrap_or_default();
        let mut tuples = said.into_iter().map(|notice| to_tuple(py, notice)).collect::<PyResult<Vec<_>>>()?;
        if let Some(exit) = exit {
            tuples.push(("stopped", exit.code, exit.text).into_py_any(py)?);
        }
        Ok(tuples)
    }

    /// `warm`: stop claiming, drain, hand back. `cold`: cancel what runs, hand back. `soft`: cold, after a while.
    fn stop(&self, how: &str) -> PyResult<()> {
        same_process(self.pid, "Worker")?;
        let how = match how {
            "warm" => Stop::Warm,
            "soft" => Stop::Soft,
            "cold" => Stop::Cold,
            other => {
                return Err(PyValueError::new_err(format!(
                    "a worker stops warm, soft or cold, not {other:?}"
                )));
            }
        };
        let mut state = self.shared.state.lock();
        state.order = state.order.max(Some(how));
        if let Some(handle) = &state.handle {
            handle.stop(how);
        }
        Ok(())
    }

    /// Has notices made of requests from now on when one of these happens to them.
    #[expect(clippy::needless_pass_by_value, reason = "PyO3 makes lists, it lends none")]
    fn tell(&self, events: Vec<String>) -> PyResult<()> {
        same_process(self.pid, "Worker")?;
        let events = events.iter().map(|name| event(name)).collect::<PyResult<Vec<_>>>()?;
        if let Some(notices) = self.shared.notices() {
            notices.want_tasks(&events);
        }
        Ok(())
    }

    /// Answers a command of the app's own with JSON text; false when the worker has ended.
    fn reply(&self, py: Python<'_>, number: u64, json: String) -> PyResult<bool> {
        same_process(self.pid, "Worker")?;
        let handle = self.shared.state.lock().handle.clone();
        Ok(handle.is_some_and(|handle| py.detach(|| handle.reply(number, json))))
    }

    /// Counters; empty before the start.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        same_process(self.pid, "Worker")?;
        let stats = self.shared.state.lock().handle.as_ref().map(WorkerHandle::stats);
        stats.map_or_else(|| Ok(PyDict::new(py)), |stats| stats_to(py, stats))
    }

    /// Waits for the engine's thread to end; tells whether it has.
    #[pyo3(signature = (timeout = None))]
    fn join(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        same_process(self.pid, "Worker")?;
        let deadline = maybe_seconds(timeout)?.and_then(|timeout| Instant::now().checked_add(timeout));
        self.wait(py, deadline, |state| !state.running)
    }

    fn __repr__(&self) -> String {
        format!("<Worker of process {}>", self.pid)
    }
}

impl Drop for Worker {
    /// A forked fork server has a copy of the supervisor's plan; the descriptors in it are not its own.
    fn drop(&mut self) {
        if own_pid() != self.pid {
            std::mem::forget(self.plan.get_mut().take());
        }
    }
}

/// What may happen to a request, as Python calls it.
const EVENTS: [(&str, TaskEvent); 5] = [
    ("received", TaskEvent::Received),
    ("revoked", TaskEvent::Revoked),
    ("unknown", TaskEvent::Unknown),
    ("rejected", TaskEvent::Rejected),
    ("dead", TaskEvent::Dead),
];

/// What happens to a request, by its name in Python.
pub(crate) fn event(name: &str) -> PyResult<TaskEvent> {
    let found = EVENTS.iter().find(|(known, _)| *known == name).map(|(_, event)| *event);
    found.ok_or_else(|| PyValueError::new_err(format!("nothing that happens to requests is called {name:?}")))
}

fn to_tuple(py: Python<'_>, notice: Notice) -> PyResult<Py<PyAny>> {
    match notice {
        Notice::Ready => ("ready",).into_py_any(py),
        Notice::Task(told) => {
            let TaskNotice { event, execution, detail, signal } = *told;
            let name = EVENTS.iter().find(|(_, known)| *known == event).map(|(name, _)| *name);
            let packed = Packed::new(&execution).map_err(|error| PyValueError::new_err(error.to_string()))?;
            ("task", name, Execution(packed), detail, signal).into_py_any(py)
        }
        Notice::Settled(reference) => ("settled", &*reference).into_py_any(py),
        Notice::Command { number, method, arguments } => {
            ("command", number, method, arguments).into_py_any(py)
        }
        Notice::Log(line) => {
            let (id, name) = line.task.unzip();
            let created = line.created.0 as f64 / 1000.0;
            ("log", line.level as u8, line.target, line.text, created, id, name).into_py_any(py)
        }
    }
}

fn stats_to(py: Python<'_>, stats: Stats) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    macro_rules! copy {
        ($($name:ident)+) => { $(dict.set_item(stringify!($name), stats.$name)?;)+ };
    }
    copy! {
        claimed finished succeeded failed retried revoked refused lost released parked stale crashed
        buried committed batches replaced reconnected events_sent events_dropped ready held outstanding dead_letters dead_oldest_ms totals pids
    }
    Ok(dict)
}

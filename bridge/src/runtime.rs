//! One tokio runtime for each process: made when first needed, made anew after a fork, stopped before the
//! interpreter ends. No thread of it ever attaches to Python.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::convert::seconds;
use crate::errors::Failure;

/// How often a wait looks for signals and for the end of the interpreter.
const TICK: Duration = Duration::from_millis(100);
/// One: a second would be woken for nothing by every call (a publish cost half as much again). A store's call that
/// blocks its thread does so for a tenth of a second at most.
const THREADS: usize = 1;

/// The runtime of this process. Locked only while attached, and never across a release of the interpreter:
/// so no thread holds it at the moment of a fork, and the child may lock it.
static CURRENT: Mutex<Option<&'static Engine>> = Mutex::new(None);

/// The interpreter of this process is ending. Written by the exit hook, read by every call.
static EXITING: AtomicBool = AtomicBool::new(false);

/// This process' id, once somebody has asked for it: the system takes half a microsecond to tell, and each task in a
/// child asks twice. Set back to zero by the interpreter's hook in a forked child, before anything else runs there.
static PID: AtomicU32 = AtomicU32::new(0);

/// A runtime and who uses it. Leaked: a forked child has none of its threads and must not drop it.
pub(crate) struct Engine {
    pid: u32,
    handle: Handle,
    /// Taken by whoever stops it.
    runtime: Mutex<Option<Runtime>>,
    /// Written by whoever stops it; read by waits, which then give up.
    stopping: AtomicBool,
    /// Rung after `stopping` was set.
    stopped: Notify,
    /// Calls that wait now. Those of threads that fork left behind are not counted in the child, which has
    /// an engine of its own.
    waiting: AtomicUsize,
}

impl Engine {
    /// The engine of this process.
    pub(crate) fn current(py: Python<'_>) -> PyResult<&'static Self> {
        let pid = own_pid();
        let of_this_process = |current: Option<&'static Self>| current.filter(|engine| engine.pid == pid);
        if let Some(engine) = of_this_process(*CURRENT.lock()) {
            return Ok(engine);
        }
        if EXITING.load(Ordering::Acquire) {
            return Err(PyRuntimeError::new_err("the engine has stopped because the interpreter is ending"));
        }
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(THREADS).thread_name("celeriac").enable_all();
        // Not under the lock: this runs Python, which may let another thread run that wants the lock.
        let runtime = without_signals(py, || builder.build())?.map_err(|error| {
            PyRuntimeError::new_err(format!("cannot start the engine's threads: {error}"))
        })?;
        let mut current = CURRENT.lock();
        if let Some(engine) = of_this_process(*current) {
            // Another thread was quicker. Its threads are idle and end by themselves.
            runtime.shutdown_background();
            return Ok(engine);
        }
        let engine: &'static Self = Box::leak(Box::new(Self {
            pid,
            handle: runtime.handle().clone(),
            runtime: Mutex::new(Some(runtime)),
            stopping: AtomicBool::new(false),
            stopped: Notify::new(),
            waiting: AtomicUsize::new(0),
        }));
        *current = Some(engine);
        Ok(engine)
    }

    /// Runs a future to its end on this thread, with the interpreter released. Signal handlers run
    /// meanwhile; when one raises, the future is dropped.
    pub(crate) fn wait<T: Send>(
        &'static self,
        py: Python<'_>,
        future: impl Future<Output = Result<T, Failure>> + Send,
    ) -> PyResult<T> {
        let _waiting = Waiting::enter(&self.waiting);
        let mut future = pin!(future);
        let mut for_signals = true;
        loop {
            let step = py.detach(|| {
                self.handle.block_on(async {
                    tokio::select! {
                        biased;
                        done = future.as_mut() => Some(done),
                        () = self.pause(for_signals) => None,
                    }
                })
            });
            if let Some(done) = step {
                return done.map_err(|failure| failure.into_py(py));
            }
            py.check_signals()?;
            if self.stopping.load(Ordering::Acquire) {
                return Err(PyRuntimeError::new_err("the engine was stopped during the call"));
            }
            // Asked only now: most calls are over by then.
            for_signals = may_get_signals();
        }
    }

    /// Until it is time to look for signals again; where none can come, until the engine stops. A thousand threads that
    /// wait would else do nothing but look.
    async fn pause(&self, for_signals: bool) {
        if for_signals {
            return tokio::time::sleep(TICK).await;
        }
        let stopped = self.stopped.notified();
        if !self.stopping.load(Ordering::Acquire) {
            stopped.await;
        }
    }

    /// Runs a future on the engine's threads.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.handle.spawn(future).abort_handle()
    }

    /// Lets waiting calls give up, then stops the threads.
    fn stop(&self, timeout: Duration) {
        self.stopping.store(true, Ordering::Release);
        self.stopped.notify_waiters();
        let deadline = Instant::now() + timeout;
        while self.waiting.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        let runtime = self.runtime.lock().take();
        if let Some(runtime) = runtime {
            runtime.shutdown_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }
}

/// Counts a call for as long as it waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Runs `start`, which starts threads, such that no signal is delivered to them: Python's handlers run on
/// the main thread, and only a signal that comes there interrupts what it waits for.
pub(crate) fn without_signals<T>(py: Python<'_>, start: impl FnOnce() -> T) -> PyResult<T> {
    let signal = py.import("signal")?;
    let all = signal.call_method0("valid_signals")?;
    let before = signal.call_method1("pthread_sigmask", (signal.getattr("SIG_BLOCK")?, all))?;
    let started = start();
    signal.call_method1("pthread_sigmask", (signal.getattr("SIG_SETMASK")?, before))?;
    Ok(started)
}

/// Whether Python runs signal handlers on this thread: on the main one alone. The thread that forks is the main one of the
/// child.
fn may_get_signals() -> bool {
    #[cfg(target_os = "linux")]
    return rustix::thread::gettid() == rustix::process::getpid();
    #[cfg(not(target_os = "linux"))]
    return true;
}

/// This process' id.
pub(crate) fn own_pid() -> u32 {
    match PID.load(Ordering::Relaxed) {
        0 => {
            let pid = std::process::id();
            PID.store(pid, Ordering::Relaxed);
            pid
        }
        pid => pid,
    }
}

/// The hook of a forked child.
#[pyfunction]
fn forked() {
    PID.store(0, Ordering::Relaxed);
}

/// Registers the hook. Who forks without the interpreter and goes on with Python has it run its hooks, as it must.
pub(crate) fn register_fork_hook(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let hooks = PyDict::new(m.py());
    hooks.set_item("after_in_child", wrap_pyfunction!(forked, m)?)?;
    m.py().import("os")?.getattr("register_at_fork")?.call((), Some(&hooks))?;
    Ok(())
}

/// Refuses to use `what`, made by process `pid`, in another process.
pub(crate) fn same_process(pid: u32, what: &str) -> PyResult<()> {
    let here = own_pid();
    if pid == here {
        return Ok(());
    }
    Err(PyRuntimeError::new_err(format!(
        "this {what} was made in process {pid} and cannot be used in process {here}, which was forked from \
         it: make a new one here"
    )))
}

/// Stops the engine's threads in this process. What is called later starts them again.
#[pyfunction]
#[pyo3(signature = (timeout = 2.0))]
pub(crate) fn shutdown_runtime(py: Python<'_>, timeout: f64) -> PyResult<()> {
    let timeout = seconds(timeout)?.unwrap_or(TICK * 600);
    let engine = CURRENT.lock().take();
    if let Some(engine) = engine
        && engine.pid == own_pid()
    {
        py.detach(|| engine.stop(timeout));
    }
    Ok(())
}

/// The exit hook: a thread that came back to Python after the interpreter has begun to end would be
/// unwound through Rust frames, which aborts the process. So nothing waits any more when it begins.
#[pyfunction]
fn stop_for_exit(py: Python<'_>) -> PyResult<()> {
    EXITING.store(true, Ordering::Release);
    shutdown_runtime(py, 2.0)
}

/// Registers the exit hook.
pub(crate) fn register_exit_hook(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let hook = wrap_pyfunction!(stop_for_exit, m)?;
    m.py().import("atexit")?.call_method1("register", (hook,))?;
    Ok(())
}

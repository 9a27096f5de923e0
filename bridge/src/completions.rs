//! `Completions`: where finished calls wait, as Rust values, until a Python event loop comes for them.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::prelude::*;
use tokio::task::AbortHandle;

use crate::errors::Failure;
use crate::listener::received;
use crate::runtime::{Engine, own_pid, same_process};
use crate::values::ResultRecord;
use crate::wakeup::Wakeup;

/// What a call gave.
pub(crate) enum Reply {
    Nothing,
    Records(Vec<Option<celeriac::protocol::ResultRecord>>),
    Heard(Option<celeriac::protocol::Message>),
    /// Whose id a call gets that was not sent, and until when its message may be due.
    Other(Option<(String, Option<i64>)>),
}

impl Reply {
    fn into_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self {
            Self::Nothing => Ok(py.None()),
            Self::Other(other) => Ok(other.into_pyobject(py)?.unbind()),
            Self::Records(records) => {
                let records: Vec<_> = records.into_iter().map(|record| record.map(ResultRecord)).collect();
                Ok(records.into_pyobject(py)?.unbind())
            }
            Self::Heard(message) => {
                let message = message.map(|message| received(py, &message)).transpose()?;
                Ok(message.into_pyobject(py)?.into_any().unbind())
            }
        }
    }
}

/// A finished call: its token, and what it gave.
type Finished = (i64, Result<Reply, Failure>);

/// Shared by the Python object and the calls under way; the descriptor lives until the last of them.
pub(crate) struct Queue {
    wakeup: Wakeup,
    /// Pushed by engine threads, taken by the loop's thread. None when closed. Bounded by the calls under way.
    done: Mutex<Option<Vec<Finished>>>,
    /// The calls under way. Written by the loop's thread when they start, by engine threads when they end.
    running: Mutex<HashMap<i64, AbortHandle>>,
}

impl Queue {
    /// Runs a call on the engine's threads; it is reported under its token.
    pub(crate) fn start(
        self: Arc<Self>,
        engine: &Engine,
        token: i64,
        call: impl Future<Output = Result<Reply, Failure>> + Send + 'static,
    ) {
        let queue = Arc::clone(&self);
        // Held until it is entered: a call that ends at once is not taken out before.
        let mut running = self.running.lock();
        let task = engine.spawn(async move {
            let reply = call.await;
            queue.running.lock().remove(&token);
            queue.push(token, reply);
        });
        running.insert(token, task);
    }

    /// Ends a call where it is.
    fn cancel(&self, token: i64) {
        if let Some(task) = self.running.lock().remove(&token) {
            task.abort();
        }
    }

    /// Adds a finished call; wakes the loop if there was none waiting.
    fn push(&self, token: i64, reply: Result<Reply, Failure>) {
        let was_empty = {
            let mut done = self.done.lock();
            let Some(done) = &mut *done else { return };
            done.push((token, reply));
            done.len() == 1
        };
        if was_empty {
            self.wakeup.set();
        }
    }
}

/// Where finished async calls wait for a Python event loop.
#[pyclass(frozen, module = "celeriac._core")]
pub(crate) struct Completions {
    pid: u32,
    queue: Arc<Queue>,
}

impl Completions {
    pub(crate) fn queue(&self) -> PyResult<Arc<Queue>> {
        same_process(self.pid, "Completions")?;
        Ok(Arc::clone(&self.queue))
    }
}

#[pymethods]
impl Completions {
    #[new]
    fn new() -> PyResult<Self> {
        let queue =
            Queue { wakeup: Wakeup::new()?, done: Mutex::new(Some(Vec::new())), running: Mutex::default() };
        Ok(Self { pid: own_pid(), queue: Arc::new(queue) })
    }

    /// Becomes readable when the queue was empty and is not any more.
    fn fileno(&self) -> PyResult<i32> {
        same_process(self.pid, "Completions")?;
        Ok(self.queue.wakeup.descriptor())
    }

    /// Empties the queue: (token, result). A result that is an exception instance is to be raised.
    fn drain(&self, py: Python<'_>) -> PyResult<Vec<(i64, Py<PyAny>)>> {
        same_process(self.pid, "Completions")?;
        self.queue.wakeup.clear();
        let taken = self.queue.done.lock().as_mut().map(std::mem::take).unwrap_or_default();
        let convert = |(token, reply): Finished| {
            let value = match reply {
                Ok(reply) => reply.into_py(py)?,
                Err(failure) => failure.into_py(py).into_value(py).into_any(),
            };
            Ok((token, value))
        };
        taken.into_iter().map(convert).collect()
    }

    /// Nobody waits for that call any more: it ends where it is, and reports nothing.
    fn cancel(&self, token: i64) -> PyResult<()> {
        same_process(self.pid, "Completions")?;
        self.queue.cancel(token);
        Ok(())
    }

    /// Forgets what is there and what comes later.
    fn close(&self) {
        *self.queue.done.lock() = None;
    }
}

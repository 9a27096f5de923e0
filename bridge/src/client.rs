//! `Client`: sends, asks and waits for Python.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use celeriac::backend::{GroupRecord, KeptValue};
use celeriac::broker::{ConsumerOptions, DeadFilter, DeadLetter, DeadLimits, Resolution};
use celeriac::client::{self, ClientError, RetryPolicy, Sending};
use celeriac::clock::UnixMillis;
use celeriac::driver::Threading;
use celeriac::keys::{Admission, Admitted, Held, Kind};
use celeriac::protocol::TopicBinding;
use celeriac::report::StoreReport;
use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::arrivals::Arrivals;
use crate::changes::Changes;
use crate::completions::{Completions, Reply};
use crate::connections::Connections;
use crate::consumer::Consumer;
use crate::convert::{maybe_seconds, seconds};
use crate::errors::Failure;
use crate::json::from_json;
use crate::listener::Listener;
use crate::options::Options;
use crate::runtime::{Engine, own_pid, same_process};
use crate::values::{Publication, ResultRecord, properties_to};

/// One broker, one backend, any number of threads and loops.
#[pyclass(frozen, module = "celeriac._core")]
pub(crate) struct Client {
    pid: u32,
    /// None when closed. Locked only while attached, for the time of a clone.
    inner: Mutex<Option<Arc<client::Client>>>,
}

impl Client {
    fn inner(&self) -> PyResult<Arc<client::Client>> {
        same_process(self.pid, "Client")?;
        self.inner.lock().clone().ok_or_else(|| PyRuntimeError::new_err("this Client is closed"))
    }

    /// Runs a call here, with the interpreter released.
    pub(crate) fn now<'a, T: Send, F>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(Arc<client::Client>) -> F,
    ) -> PyResult<T>
    where
        F: Future<Output = Result<T, ClientError>> + Send + 'a,
    {
        let inner = self.inner()?;
        let call = call(inner);
        Engine::current(py)?.wait(py, async { call.await.map_err(Failure::from) })
    }

    /// Runs a call on the engine's threads; its result goes to `completions`.
    fn later<F>(
        &self,
        py: Python<'_>,
        (completions, token): (&Completions, i64),
        call: impl FnOnce(Arc<client::Client>) -> F,
    ) -> PyResult<()>
    where
        F: Future<Output = Result<Reply, ClientError>> + Send + 'static,
    {
        let queue = completions.queue()?;
        let call = call(self.inner()?);
        queue.start(Engine::current(py)?, token, async { call.await.map_err(Failure::from) });
        Ok(())
    }
}

#[pymethods]
impl Client {
    #[new]
    fn new(broker_url: &str, result_backend: Option<&str>, options: &Bound<'_, PyDict>) -> PyResult<Self> {
        let given = Options::new("Client", options)?;
        let connections = Connections::read(&given, Threading::Inline)?;
        given.finish()?;
        let client = client::Client::new(broker_url, result_backend, connections.broker)
            .with_backend_options(connections.backend);
        Ok(Self { pid: own_pid(), inner: Mutex::new(Some(Arc::new(client))) })
    }

    #[expect(clippy::needless_pass_by_value, reason = "PyO3 makes lists, it lends none")]
    #[pyo3(signature = (batch, timeout = None, retry = None, results = false))]
    fn publish(
        &self,
        py: Python<'_>,
        batch: Vec<Py<Publication>>,
        timeout: Option<f64>,
        retry: Option<Retry>,
        results: bool,
    ) -> PyResult<()> {
        let how = sending(timeout, retry, results)?;
        let batch = &batch;
        self.now(py, |client| async move {
            client.publish(|| batch.iter().map(|one| one.get().0.clone()).collect(), how).await
        })
    }

    #[expect(clippy::needless_pass_by_value, reason = "PyO3 makes lists, it lends none")]
    #[expect(clippy::too_many_arguments, reason = "those of `publish`, and where to tell of the end")]
    fn publish_later(
        &self,
        py: Python<'_>,
        batch: Vec<Py<Publication>>,
        timeout: Option<f64>,
        retry: Option<Retry>,
        results: bool,
        completions: &Completions,
        token: i64,
    ) -> PyResult<()> {
        let how = sending(timeout, retry, results)?;
        // Python's objects stay here: engine threads hold none.
        let batch: Vec<_> = batch.iter().map(|one| one.get().0.clone()).collect();
        self.later(py, (completions, token), |client| async move {
            client.publish(|| batch.clone(), how).await?;
            Ok(Reply::Nothing)
        })
    }

    /// Sends a message if its call gets its key; else whose id it gets, and until when its message may be due.
    #[pyo3(signature = (publication, admission, timeout = None, retry = None, results = false))]
    fn publish_admitted(
        &self,
        py: Python<'_>,
        publication: &Bound<'_, Publication>,
        admission: Wanted,
        timeout: Option<f64>,
        retry: Option<Retry>,
        results: bool,
    ) -> PyResult<Option<Other>> {
        let (admission, how) = (wanted(admission), sending(timeout, retry, results)?);
        let publication = &publication.get().0;
        let admitted = self
            .now(py, |client| async move { client.publish_admitted(publication, &admission, how).await })?;
        Ok(other(admitted))
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "those of `publish_admitted`, and where to tell of the end"
    )]
    fn publish_admitted_later(
        &self,
        py: Python<'_>,
        publication: &Bound<'_, Publication>,
        admission: Wanted,
        timeout: Option<f64>,
        retry: Option<Retry>,
        results: bool,
        completions: &Completions,
        token: i64,
    ) -> PyResult<()> {
        let (admission, how) = (wanted(admission), sending(timeout, retry, results)?);
        let publication = publication.get().0.clone();
        self.later(py, (completions, token), |client| async move {
            Ok(Reply::Other(other(client.publish_admitted(&publication, &admission, how).await?)))
        })
    }

    /// Frees keys and locks, each with its token.
    fn free_keys(&self, py: Python<'_>, held: Vec<(String, String)>) -> PyResult<Vec<bool>> {
        let held: Vec<Held> = held.into_iter().map(|(key, token)| Held { key, token, ttl_ms: 0 }).collect();
        self.now(py, |client| async move { client.free_keys(&held).await })
    }

    /// Holds a key or a lock for so many milliseconds from now.
    fn renew_key(&self, py: Python<'_>, key: String, token: String, ttl_ms: u64) -> PyResult<bool> {
        let held = [Held { key, token, ttl_ms }];
        let renewed = self.now(py, |client| async move { client.renew_keys(&held).await })?;
        Ok(renewed.first().copied().unwrap_or(false))
    }

    /// Takes a lock for so many milliseconds; its number, or None when another has it.
    fn lock(&self, py: Python<'_>, key: String, token: String, ttl_ms: u64) -> PyResult<Option<u64>> {
        let lock = Held { key, token, ttl_ms };
        self.now(py, |client| async move { client.lock(&lock).await })
    }

    fn read(&self, py: Python<'_>, task_ids: Vec<String>) -> PyResult<Vec<Option<ResultRecord>>> {
        let records = self.now(py, |client| async move { client.read(&task_ids).await })?;
        Ok(records.into_iter().map(|record| record.map(ResultRecord)).collect())
    }

    fn read_later(
        &self,
        py: Python<'_>,
        task_ids: Vec<String>,
        completions: &Completions,
        token: i64,
    ) -> PyResult<()> {
        self.later(py, (completions, token), |client| async move {
            Ok(Reply::Records(client.read(&task_ids).await?))
        })
    }

    #[pyo3(signature = (task_ids, timeout = None))]
    fn wait(
        &self,
        py: Python<'_>,
        task_ids: Vec<String>,
        timeout: Option<f64>,
    ) -> PyResult<Vec<ResultRecord>> {
        let timeout = maybe_seconds(timeout)?;
        let ready = self.now(py, |client| async move { client.wait_ready(task_ids, timeout).await })?;
        Ok(ready.into_iter().map(ResultRecord).collect())
    }

    fn wait_later(
        &self,
        py: Python<'_>,
        task_ids: Vec<String>,
        timeout: Option<f64>,
        completions: &Completions,
        token: i64,
    ) -> PyResult<()> {
        let timeout = maybe_seconds(timeout)?;
        self.later(py, (completions, token), |client| async move {
            let ready = client.wait_ready(task_ids, timeout).await?;
            Ok(Reply::Records(ready.into_iter().map(Some).collect()))
        })
    }

    fn wait_change(
        &self,
        py: Python<'_>,
        task_id: String,
        state: Option<&str>,
        record: Option<&[u8]>,
        timeout: Option<f64>,
    ) -> PyResult<Option<ResultRecord>> {
        let timeout = maybe_seconds(timeout)?;
        let changed =
            self.now(py, |client| async move { client.wait_change(task_id, state, record, timeout).await })?;
        Ok(changed.map(ResultRecord))
    }

    #[expect(clippy::needless_pass_by_value, reason = "PyO3 makes lists, it lends none")]
    fn store(&self, py: Python<'_>, records: Vec<Py<ResultRecord>>) -> PyResult<()> {
        let records: Vec<_> = records.iter().map(|record| record.get().0.clone()).collect();
        self.now(py, |client| async move { client.store(records).await })
    }

    #[pyo3(signature = (group_id, size, expires_ms = None))]
    fn start_chord(
        &self,
        py: Python<'_>,
        group_id: &str,
        size: u64,
        expires_ms: Option<u64>,
    ) -> PyResult<()> {
        self.now(py, |client| async move { client.start_chord(group_id, size, expires_ms).await })
    }

    fn grow_chord(&self, py: Python<'_>, group_id: &str, by: u64) -> PyResult<()> {
        self.now(py, |client| async move { client.grow_chord(group_id, by).await })
    }

    #[expect(clippy::needless_pass_by_value, reason = "PyO3 makes lists, it lends none")]
    fn guard_chords(
        &self,
        py: Python<'_>,
        group_ids: Vec<String>,
        messages: Vec<Py<Publication>>,
    ) -> PyResult<()> {
        let messages: Vec<_> = messages.iter().map(|message| message.get().0.clone()).collect();
        self.now(py, |client| async move { client.guard_chords(&group_ids, &messages).await })
    }

    fn forget(&self, py: Python<'_>, task_ids: Vec<String>) -> PyResult<()> {
        self.now(py, |client| async move { client.forget(&task_ids).await })
    }

    /// Follows tasks to their ends.
    #[pyo3(signature = (task_ids, before = Vec::new()))]
    fn arrivals(&self, task_ids: Vec<String>, before: Vec<String>) -> PyResult<Arrivals> {
        Ok(Arrivals::new(&self.inner()?, task_ids, before))
    }

    /// Follows tasks, state by state.
    fn changes(&self, task_ids: Vec<String>) -> PyResult<Changes> {
        Ok(Changes::new(&self.inner()?, task_ids))
    }

    #[pyo3(signature = (group_id, record, content_type, expires_ms = None))]
    fn save_group(
        &self,
        py: Python<'_>,
        group_id: String,
        record: &Bound<'_, PyBytes>,
        content_type: String,
        expires_ms: Option<u64>,
    ) -> PyResult<()> {
        let record = Bytes::copy_from_slice(record.as_bytes());
        let group = GroupRecord { group_id, record, content_type, expires_ms };
        self.now(py, |client| async move { client.save_group(group).await })
    }

    /// The stored bytes and their content type.
    fn read_group<'py>(
        &self,
        py: Python<'py>,
        group_id: &str,
    ) -> PyResult<Option<(Bound<'py, PyBytes>, String)>> {
        let group = self.now(py, |client| async move { client.read_group(group_id).await })?;
        Ok(group.map(|group| (PyBytes::new(py, &group.record), group.content_type)))
    }

    fn forget_group(&self, py: Python<'_>, group_id: &str) -> PyResult<()> {
        self.now(py, |client| async move { client.forget_group(group_id).await })
    }

    /// Keeps bytes under a key of ours.
    #[pyo3(signature = (key, value, expires_ms = None))]
    fn put_value(
        &self,
        py: Python<'_>,
        key: String,
        value: &Bound<'_, PyBytes>,
        expires_ms: Option<u64>,
    ) -> PyResult<()> {
        let value = Bytes::copy_from_slice(value.as_bytes());
        self.now(py, |client| async move { client.put_value(KeptValue { key, value, expires_ms }).await })
    }

    /// What is kept under the key.
    fn read_value<'py>(&self, py: Python<'py>, key: &str) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let value = self.now(py, |client| async move { client.read_value(key).await })?;
        Ok(value.map(|value| PyBytes::new(py, &value)))
    }

    fn delete_values(&self, py: Python<'_>, keys: Vec<String>) -> PyResult<()> {
        self.now(py, |client| async move { client.delete_values(&keys).await })
    }

    fn purge(&self, py: Python<'_>, queue: &str) -> PyResult<u64> {
        self.now(py, |client| async move { client.purge(queue).await })
    }

    fn unpark(&self, py: Python<'_>, queue: &str) -> PyResult<u64> {
        self.now(py, |client| async move { client.unpark(queue).await })
    }

    fn queues<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let queues = self.now(py, |client| async move { client.queues().await })?;
        let convert = |queue: celeriac::broker::QueueStatus| {
            let dict = PyDict::new(py);
            dict.set_item("name", queue.name)?;
            dict.set_item("ready", queue.ready)?;
            dict.set_item("claimed", queue.claimed)?;
            dict.set_item("parked", queue.parked)?;
            dict.set_item("dead", queue.dead)?;
            Ok(dict)
        };
        queues.into_iter().map(convert).collect()
    }

    #[pyo3(signature = (queue = None, limit = 100))]
    fn dead_letters<'py>(
        &self,
        py: Python<'py>,
        queue: Option<&str>,
        limit: usize,
    ) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let letters = self.now(py, |client| async move { client.dead_letters(queue, limit).await })?;
        letters.iter().map(|letter| dead_letter(py, letter)).collect()
    }

    /// The dead letters that fit all that the filter names, oldest first.
    fn find_dead<'py>(
        &self,
        py: Python<'py>,
        filter: &Bound<'_, PyDict>,
        limit: usize,
    ) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let given = Options::new("filter", filter)?;
        let filter = DeadFilter {
            ids: given.take("ids")?,
            queue: given.take("queue")?,
            reason: given.take("reason")?,
            task: given.take("task")?,
            since: given.take("since_ms")?.map(UnixMillis),
            until: given.take("until_ms")?.map(UnixMillis),
        };
        given.finish()?;
        let filter = &filter;
        let letters = self.now(py, |client| async move { client.find_dead(filter, limit).await })?;
        letters.iter().map(|letter| dead_letter(py, letter)).collect()
    }

    /// How many there are, and when the oldest died, in ms of Unix time.
    fn dead_stats(&self, py: Python<'_>) -> PyResult<(u64, Option<i64>)> {
        let stats = self.now(py, |client| async move { client.dead_stats().await })?;
        Ok((stats.count, stats.oldest.map(|at| at.0)))
    }

    /// Publishes something in the place of each dead letter, or drops it; tells which were there.
    #[expect(clippy::needless_pass_by_value, reason = "PyO3 makes lists, it lends none")]
    fn resolve_dead(
        &self,
        py: Python<'_>,
        resolutions: Vec<(u64, Option<Py<Publication>>)>,
    ) -> PyResult<Vec<u64>> {
        let resolutions: Vec<Resolution> = resolutions
            .iter()
            .map(|(id, one)| Resolution { id: *id, publication: one.as_ref().map(|one| one.get().0.clone()) })
            .collect();
        let resolutions = &resolutions;
        self.now(py, |client| async move { client.resolve_dead(resolutions).await })
    }

    /// Removes dead letters that are too old, or too many.
    #[pyo3(signature = (max_age = None, max_count = None))]
    fn trim_dead(&self, py: Python<'_>, max_age: Option<f64>, max_count: Option<u64>) -> PyResult<u64> {
        let limits = DeadLimits { max_age: maybe_seconds(max_age)?, max_count };
        let limits = &limits;
        self.now(py, |client| async move { client.trim_dead(limits).await })
    }

    /// Which of these queues are paused.
    #[expect(clippy::needless_pass_by_value, reason = "PyO3 makes lists, it lends none")]
    fn paused(&self, py: Python<'_>, queues: Vec<String>) -> PyResult<Vec<String>> {
        let queues = &queues;
        self.now(py, |client| async move { client.paused(queues).await })
    }

    /// Notes that a queue is paused, or not any more.
    fn set_paused(&self, py: Python<'_>, queue: &str, paused: bool) -> PyResult<()> {
        self.now(py, |client| async move { client.set_paused(queue, paused).await })
    }

    fn broadcast(
        &self,
        py: Python<'_>,
        exchange: &str,
        publication: &Bound<'_, Publication>,
        ttl: f64,
    ) -> PyResult<()> {
        let ttl = seconds(ttl)?.unwrap_or(Duration::MAX);
        let Publication(publication) = publication.get();
        let (key, message) = (&*publication.routing_key, publication.message.clone());
        self.now(py, |client| async move { client.broadcast(exchange, key, message, ttl).await })
    }

    fn listen(&self, py: Python<'_>, exchange: &str) -> PyResult<Listener> {
        let listener = self.now(py, |client| async move { client.listen(exchange).await })?;
        Ok(Listener::new(listener))
    }

    /// Binds a queue to a topic exchange with just these patterns.
    fn bind_topics(
        &self,
        py: Python<'_>,
        exchange: String,
        queue: String,
        patterns: Vec<String>,
    ) -> PyResult<()> {
        let binding = TopicBinding { exchange, queue, patterns };
        self.now(py, |client| async move { client.bind_topics(&binding).await })
    }

    /// Hears what is sent to a topic exchange from now on.
    fn subscribe(
        &self,
        py: Python<'_>,
        exchange: String,
        patterns: Vec<String>,
        most: usize,
    ) -> PyResult<Listener> {
        let listener =
            self.now(py, |client| async move { client.subscribe(&exchange, &patterns, most).await })?;
        Ok(Listener::new(listener))
    }

    /// The cursor of the stream's newest entry; None where the broker keeps no stream.
    fn stream_end(&self, py: Python<'_>) -> PyResult<Option<String>> {
        self.now(py, |client| async move { client.stream_end().await })
    }

    /// Reads the stream of what happens to tasks.
    fn stream(&self, py: Python<'_>, after: Option<String>, most: usize) -> PyResult<Listener> {
        let listener = self.now(py, |client| async move { client.stream(after.as_deref(), most).await })?;
        Ok(Listener::new(listener))
    }

    fn examine_broker<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (report, advice) = self.now(py, |client| async move { client.examine_broker().await })?;
        let dict = store_report(py, report)?;
        dict.set_item("advice", advice)?;
        Ok(dict)
    }

    fn examine_backend<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let report = self.now(py, |client| async move { client.examine_backend().await })?;
        store_report(py, report)
    }

    #[pyo3(signature = (queues, node, lease = 60.0))]
    fn consume(&self, py: Python<'_>, queues: Vec<String>, node: String, lease: f64) -> PyResult<Consumer> {
        let lease = seconds(lease)?.unwrap_or(Duration::MAX);
        let options = ConsumerOptions { queues, node, lease, max_crashes: u32::MAX, results: None };
        let consumer = self.now(py, |client| async move { client.consume(options).await })?;
        Ok(Consumer::new(consumer))
    }

    /// Opens a mailbox for replies.
    fn inbox(&self, py: Python<'_>, exchange: &str, key: &str) -> PyResult<Listener> {
        let listener = self.now(py, |client| async move { client.inbox(exchange, key).await })?;
        Ok(Listener::new(listener))
    }

    /// Without the password.
    fn broker_url(&self, py: Python<'_>) -> PyResult<String> {
        self.now(py, |client| async move { client.display_url().await })
    }

    /// Waits for the calls under way, then disconnects.
    #[pyo3(signature = (timeout = 5.0))]
    fn close(&self, py: Python<'_>, timeout: f64) -> PyResult<()> {
        same_process(self.pid, "Client")?;
        let deadline = Instant::now() + seconds(timeout)?.unwrap_or(Duration::from_secs(3600));
        let Some(inner) = self.inner.lock().take() else { return Ok(()) };
        while Arc::strong_count(&inner) > 1 && Instant::now() < deadline {
            py.detach(|| std::thread::sleep(Duration::from_millis(2)));
            py.check_signals()?;
        }
        py.detach(|| drop(inner));
        Ok(())
    }

    fn __repr__(&self) -> String {
        format!("<Client of process {}>", self.pid)
    }
}

impl Drop for Client {
    /// In a forked child the connections are the parent's: closing them here would release its locks.
    fn drop(&mut self) {
        if own_pid() != self.pid {
            std::mem::forget(self.inner.get_mut().take());
        }
    }
}

/// Attempts after the first, and seconds: before the first of these, more before each, at the most.
pub(crate) type Retry = (Option<u32>, f64, f64, Option<f64>);

/// The key, `d` for debounced or `h`, for how long it may be put off at the most, the id of the message, the token of the
/// call, and for how long the key is held; all times in milliseconds.
type Wanted = (String, String, Option<u64>, String, String, u64);
/// An id, and until when a message may be due.
type Other = (String, Option<i64>);

fn wanted((key, kind, longest, task_id, token, ttl_ms): Wanted) -> Admission {
    let kind = if kind == "d" { Kind::Debounce(longest) } else { Kind::Hold };
    // The client says how long a reservation stands.
    Admission { key, kind, task_id, token, ttl_ms, pending_ms: 0 }
}

fn other(admitted: Admitted) -> Option<Other> {
    match admitted {
        Admitted::Exists(id, limit_ms) => Some((id, limit_ms)),
        Admitted::New | Admitted::Again | Admitted::Pending => None,
    }
}

pub(crate) fn sending(timeout: Option<f64>, retry: Option<Retry>, results: bool) -> PyResult<Sending> {
    let retry = match retry {
        None => RetryPolicy::NEVER,
        Some((max_retries, start, step, longest)) => RetryPolicy {
            max_retries,
            start: seconds(start)?.unwrap_or(Duration::MAX),
            step: seconds(step)?.unwrap_or(Duration::MAX),
            longest: maybe_seconds(longest)?.unwrap_or(Duration::MAX),
        },
    };
    Ok(Sending { timeout: maybe_seconds(timeout)?, retry, results })
}

fn store_report(py: Python<'_>, report: StoreReport) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("version", report.version)?;
    dict.set_item("clock_offset_ms", report.clock_offset_ms)?;
    dict.set_item("workers", report.workers)?;
    dict.set_item("consumers", report.consumers)?;
    dict.set_item("settings", report.settings)?;
    Ok(dict)
}

fn dead_letter<'py>(py: Python<'py>, letter: &DeadLetter) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("id", letter.id)?;
    dict.set_item("queue", &letter.queue)?;
    dict.set_item("reason", &letter.reason)?;
    dict.set_item("detail", &letter.detail)?;
    dict.set_item("traceback", &letter.traceback)?;
    dict.set_item("crashes", letter.crashes)?;
    dict.set_item("died_ms", letter.died.0)?;
    // A letter may be dead because its headers cannot be read.
    dict.set_item("headers", from_json(py, &letter.message.headers, None).ok())?;
    dict.set_item("properties", properties_to(py, &letter.message.properties)?)?;
    dict.set_item("body", PyBytes::new(py, &letter.message.body))?;
    Ok(dict)
}

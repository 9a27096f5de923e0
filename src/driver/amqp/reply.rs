//! Results over a queue (`rpc://`): each state is one message to the queue of whoever sent the task.
//!
//! A process reads one queue, its own, as long as the backend lives. What arrived is kept in memory, also for ids
//! that nobody has asked for yet, and the oldest of it goes when it becomes too much.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::ShortString;
use lapin::{Channel, Consumer as Stream};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::link::{BACKOFF, Link, Live};
use super::publish::Publisher;
use super::{declare, table, wire};
use crate::backend::{BackendError, ResultBackend, Watch};
use crate::backoff::Attempts;
use crate::broker::BrokerError;
use crate::driver::connect::backend_error;
use crate::driver::{ConnectOptions, ReplyOptions};
use crate::protocol::{Arguments, Message, Properties, ResultDocument, ResultRecord};
use crate::url::StoreUrl;

/// Records that are kept at the most, and their bytes.
const KEPT: usize = 50_000;
const KEPT_BYTES: usize = 64 << 20;
/// The state of a record that is not JSON, which only whoever wrote it could read out of it.
const STATE: &str = "celeriac_state";

/// Results over a queue.
pub(super) struct ReplyBackend {
    publisher: Publisher,
    link: Arc<Link>,
    reply: ReplyOptions,
    inbox: Arc<Inbox>,
    /// Made by the first caller that wants results. Locked while it begins.
    reader: tokio::sync::Mutex<Option<AbortHandle>>,
}

/// What has arrived.
struct Inbox {
    kept: Mutex<Kept>,
    /// Grows with every arrival. Written by the reader, awaited by watches.
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct Kept {
    /// With the version in which each came.
    records: HashMap<String, (u64, ResultRecord)>,
    /// Oldest first; an entry whose record came again is skipped.
    order: VecDeque<(u64, String)>,
    bytes: usize,
}

impl ReplyBackend {
    pub(super) fn new(url: &StoreUrl, options: &ConnectOptions) -> Result<Self, BrokerError> {
        Ok(Self {
            publisher: Publisher::new(Link::new(url, options, "celeriac results")?, options),
            link: Arc::new(Link::new(url, options, "celeriac replies")?),
            reply: options.reply.clone(),
            inbox: Arc::new(Inbox { kept: Mutex::default(), version: watch::Sender::new(0) }),
            reader: tokio::sync::Mutex::new(None),
        })
    }

    /// Sees to it that the own queue is there and read.
    async fn read_replies(&self) -> Result<(), BackendError> {
        let Some(queue) = &self.reply.queue else { return Ok(()) };
        let mut reader = self.reader.lock().await;
        if reader.as_ref().is_some_and(|reader| !reader.is_finished()) {
            return Ok(());
        }
        let queue = Queue { name: queue.clone(), expires_ms: self.reply.expires_ms };
        let ear = queue.open(&self.link).await.map_err(backend_error)?;
        let reading = read(self.link.clone(), queue, ear, self.inbox.clone());
        *reader = Some(tokio::spawn(reading).abort_handle());
        Ok(())
    }
}

impl Drop for ReplyBackend {
    fn drop(&mut self) {
        if let Some(reader) = self.reader.get_mut() {
            reader.abort();
        }
    }
}

/// The own queue.
struct Queue {
    name: String,
    expires_ms: Option<u64>,
}

/// It, read.
struct Ear {
    stream: Stream,
    channel: Channel,
    _live: Arc<Live>,
}

impl Queue {
    /// Declares it as Celery does, and reads it.
    async fn open(&self, link: &Link) -> Result<Ear, BrokerError> {
        let (live, channel) = link.channel().await?;
        let mut arguments = Arguments::new();
        if let Some(ms) = self.expires_ms.filter(|ms| *ms > 0) {
            arguments.insert("x-expires".to_owned(), json!(ms));
        }
        let name = declare::name(&link.url, &self.name)?;
        let options =
            QueueDeclareOptions { durable: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(name.clone(), options, table::table(&arguments)).await;
        declared.map_err(|error| link.error(&error))?;
        let options = BasicConsumeOptions::default();
        let stream = channel.basic_consume(name, ShortString::default(), options, super::link::none()).await;
        Ok(Ear { stream: stream.map_err(|error| link.error(&error))?, channel, _live: live })
    }
}

/// Reads replies for as long as the backend lives.
async fn read(link: Arc<Link>, queue: Queue, first: Ear, inbox: Arc<Inbox>) {
    let mut ear = Some(first);
    let mut attempts = Attempts::begun(BACKOFF);
    loop {
        if let Some(mut reading) = ear.take() {
            while let Some(Ok(delivery)) = reading.stream.next().await {
                let received = wire::read(&delivery.properties, delivery.data, false);
                inbox.arrived(record(received.message));
                // One that is not acknowledged comes again, which changes nothing.
                let _ = reading.channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default()).await;
            }
        }
        tokio::time::sleep(attempts.ended()).await;
        match queue.open(&link).await {
            Ok(opened) => {
                attempts.began();
                ear = Some(opened);
            }
            Err(error) => tracing::debug!(%error, "cannot read replies"),
        }
    }
}

/// The record in a reply; none without an id.
fn record(message: Message) -> Option<ResultRecord> {
    let task_id = message.properties.correlation_id?;
    let state = if let Ok(document) = ResultDocument::parse(&message.body) {
        document.status
    } else {
        let headers: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&message.headers).unwrap_or_default();
        headers.get(STATE).and_then(|state| state.as_str()).unwrap_or_default().to_owned()
    };
    Some(ResultRecord {
        task_id,
        state,
        record: message.body,
        content_type: message.properties.content_type,
        expires_ms: None,
        reply_to: None,
        retain: None,
    })
}

/// A reply as Celery writes it.
fn reply(record: &ResultRecord, persistent: bool) -> Message {
    let text = ["application/json", "application/x-yaml", "text/plain"].contains(&&*record.content_type);
    let headers = if record.content_type == "application/json" {
        "{}".to_owned()
    } else {
        json!({ STATE: record.state }).to_string()
    };
    Message {
        headers: headers.into(),
        properties: Properties {
            content_type: record.content_type.clone(),
            content_encoding: if text { "utf-8" } else { "binary" }.to_owned(),
            correlation_id: Some(record.task_id.clone()),
            delivery_mode: if persistent { 2 } else { 1 },
            priority: Some(0),
            ..Properties::default()
        },
        body: record.record.clone(),
    }
}

impl Inbox {
    fn arrived(&self, record: Option<ResultRecord>) {
        let Some(record) = record else { return };
        let mut kept = self.kept.lock();
        let id = record.task_id.clone();
        if kept.records.get(&id).is_some_and(|(_, old)| old.state == "SUCCESS") {
            return;
        }
        let version = *self.version.borrow() + 1;
        kept.remove(&id);
        kept.bytes += record.record.len();
        kept.order.push_back((version, id.clone()));
        kept.records.insert(id, (version, record));
        while kept.records.len() > KEPT || kept.bytes > KEPT_BYTES || kept.order.len() > 2 * KEPT {
            let Some((version, id)) = kept.order.pop_front() else { break };
            if kept.records.get(&id).is_some_and(|(newest, _)| *newest == version) {
                kept.remove(&id);
            }
        }
        drop(kept);
        self.version.send_replace(version);
    }

    /// The newest version, and the records of these ids that came after version `seen` (none: all that there are), in
    /// the order of arrival. Touches only what came since.
    fn news(&self, ids: &HashSet<String>, seen: Option<u64>) -> (u64, Vec<ResultRecord>) {
        let kept = self.kept.lock();
        let last = kept.order.back().map_or(0, |(version, _)| *version);
        let since =
            kept.order.iter().rev().take_while(|(version, _)| seen.is_none_or(|seen| *version > seen));
        let record = |(version, id): &(u64, String)| {
            let (newest, record) = kept.records.get(id)?;
            (newest == version && ids.contains(id)).then(|| record.clone())
        };
        let mut news: Vec<_> = since.filter_map(record).collect();
        news.reverse();
        (last, news)
    }
}

impl Kept {
    fn remove(&mut self, id: &str) {
        if let Some((_, record)) = self.records.remove(id) {
            self.bytes -= record.record.len();
        }
    }
}

#[async_trait]
impl ResultBackend for ReplyBackend {
    /// Sends each record to where its task came from. One that came from nowhere is dropped, as is one whose
    /// sender's queue is gone.
    async fn store(&self, batch: Vec<ResultRecord>) -> Result<(), BackendError> {
        let addressed = batch.iter().filter_map(|record| Some((record, record.reply_to.as_deref()?)));
        let letters = addressed
            .filter(|(_, queue)| !queue.is_empty())
            .map(|(record, queue)| self.publisher.bare("", queue, &reply(record, self.reply.persistent)))
            .collect::<Result<_, _>>()
            .map_err(backend_error)?;
        self.publisher.deliver(letters).await.map_err(backend_error)
    }

    async fn read(&self, task_ids: &[String]) -> Result<Vec<Option<ResultRecord>>, BackendError> {
        self.read_replies().await?;
        let kept = self.inbox.kept.lock();
        Ok(task_ids.iter().map(|id| kept.records.get(id).map(|(_, record)| record.clone())).collect())
    }

    async fn forget(&self, task_ids: &[String]) -> Result<(), BackendError> {
        let mut kept = self.inbox.kept.lock();
        for id in task_ids {
            kept.remove(id);
        }
        Ok(())
    }

    async fn watch(&self, task_ids: Vec<String>) -> Result<Box<dyn Watch>, BackendError> {
        self.read_replies().await?;
        let version = self.inbox.version.subscribe();
        let ids = task_ids.into_iter().collect();
        Ok(Box::new(ReplyWatch { inbox: self.inbox.clone(), ids, seen: None, version }))
    }

    async fn prepare(&self) -> Result<(), BackendError> {
        self.read_replies().await
    }

    fn store_id(&self) -> Option<String> {
        None
    }

    fn display_url(&self) -> String {
        self.link.url.clone()
    }
}

struct ReplyWatch {
    inbox: Arc<Inbox>,
    ids: HashSet<String>,
    /// Up to which version everything was told; none before the first look.
    seen: Option<u64>,
    version: watch::Receiver<u64>,
}

#[async_trait]
impl Watch for ReplyWatch {
    async fn next(&mut self) -> Result<Vec<ResultRecord>, BackendError> {
        loop {
            self.version.borrow_and_update();
            let (seen, news) = self.inbox.news(&self.ids, self.seen);
            self.seen = Some(seen);
            if !news.is_empty() {
                return Ok(news);
            }
            if self.version.changed().await.is_err() {
                return Err(BackendError::Closed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrived(inbox: &Inbox, id: &str, state: &str) {
        let record = format!("{{\"status\": \"{state}\", \"result\": 1, \"task_id\": \"{id}\"}}");
        let sent = ResultRecord {
            task_id: id.into(),
            state: state.into(),
            record: record.into(),
            content_type: "application/json".into(),
            ..ResultRecord::default()
        };
        inbox.arrived(super::record(reply(&sent, false)));
    }

    #[test]
    fn the_inbox_is_bounded_and_drops_the_oldest() {
        let inbox = Inbox { kept: Mutex::default(), version: watch::Sender::new(0) };
        for number in 0..KEPT + 10 {
            arrived(&inbox, &number.to_string(), "STARTED");
            arrived(&inbox, "busy", "PROGRESS");
        }
        let kept = inbox.kept.lock();
        assert_eq!(kept.records.len(), KEPT);
        assert!(kept.order.len() <= 2 * KEPT);
        assert!(kept.records.contains_key("busy") && !kept.records.contains_key("0"));
        assert_eq!(kept.bytes, kept.records.values().map(|(_, record)| record.record.len()).sum::<usize>());
    }

    #[test]
    fn a_watch_hears_in_the_order_of_arrival_and_each_news_once() {
        let inbox = Inbox { kept: Mutex::default(), version: watch::Sender::new(0) };
        let ids = ["a", "b", "c"].map(str::to_owned).into();
        let news = |seen| {
            let (last, records) = inbox.news(&ids, seen);
            (Some(last), records.into_iter().map(|record| record.task_id).collect::<Vec<_>>())
        };
        arrived(&inbox, "c", "SUCCESS");
        arrived(&inbox, "a", "STARTED");
        arrived(&inbox, "other", "SUCCESS");
        arrived(&inbox, "a", "PROGRESS");
        let (seen, told) = news(None);
        assert_eq!(told, ["c", "a"]);

        arrived(&inbox, "b", "SUCCESS");
        arrived(&inbox, "a", "SUCCESS");
        let (seen, told) = news(seen);
        assert_eq!(told, ["b", "a"]);
        assert_eq!(news(seen).1, [""; 0]);
    }

    #[test]
    fn success_is_the_last_word() {
        let inbox = Inbox { kept: Mutex::default(), version: watch::Sender::new(0) };
        for state in ["FAILURE", "SUCCESS", "FAILURE"] {
            arrived(&inbox, "t", state);
        }
        assert_eq!(inbox.kept.lock().records["t"].1.state, "SUCCESS");
    }
}

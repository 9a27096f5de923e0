//! Topics and the stream in the file. Their tables are made by whoever first uses them: a file in which nobody does has
//! none, and stays as older versions know it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Result, params};
use tokio::time::{Instant, timeout_at};

use super::doorbell::Kind;
use super::fault::Fault;
use super::step::Step;
use super::writer::Durability;
use super::{Shared, broadcast, queue};
use crate::broker::{BrokerError, Listener, Rebind};
use crate::driver::routing::{self, Apart, copy_for, stream_message};
use crate::protocol::{Message, Publication, TopicBinding, any_topic_matches};

const TABLES: &str = "
-- Which queues want what of a topic exchange: patterns as a JSON array. Written when a service binds its queue, read
-- with each message to the exchange, in the transaction that publishes it.
CREATE TABLE IF NOT EXISTS topic (
    exchange TEXT NOT NULL,
    queue TEXT NOT NULL,
    patterns TEXT NOT NULL,
    PRIMARY KEY (exchange, queue)
) WITHOUT ROWID;
-- Until when somebody listens to a topic exchange. Written by subscriptions, again and again; one that dies leaves a
-- moment that passes.
CREATE TABLE IF NOT EXISTS topic_ear (exchange TEXT PRIMARY KEY, until_ms INTEGER NOT NULL) WITHOUT ROWID;
-- What happens to tasks. Ids grow by one, so that what is missing is seen; the oldest rows go.
CREATE TABLE IF NOT EXISTS stream (id INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL);
";

/// How long a message to a topic waits for subscriptions that are slow.
const HEARD: Duration = Duration::from_secs(60);
/// A subscription says again that it listens.
const SAY_AGAIN: Duration = Duration::from_secs(30);
/// Entries of the stream that are read at once.
const READ: i64 = 500;

/// Publishes a batch in which some name no queue.
pub(super) fn publish(step: &mut Step<'_>, batch: &[Publication]) -> Result<()> {
    make(step.connection)?;
    let mut queued = Vec::with_capacity(batch.len());
    for publication in batch {
        match routing::apart(publication) {
            None => queued.push(publication.clone()),
            Some(Apart::Stream(most)) => append(step, &publication.message.body, most)?,
            Some(Apart::Topic) => {
                queued.extend(copies(step, publication)?);
                if is_heard(step, &publication.exchange)? {
                    let expires = step.now.after(HEARD);
                    broadcast::send(step, &publication.exchange, &publication.message, expires)?;
                }
            }
        }
    }
    queue::publish_to_queues(step, &queued)
}

fn make(connection: &Connection) -> Result<()> {
    let there = connection.prepare_cached("SELECT 1 FROM sqlite_schema WHERE name = 'stream'")?.exists([])?;
    if there { Ok(()) } else { connection.execute_batch(TABLES) }
}

fn copies(step: &Step<'_>, publication: &Publication) -> Result<Vec<Publication>> {
    let mut found = Vec::new();
    let mut statement = step.sql("SELECT queue, patterns FROM topic WHERE exchange = ?1 ORDER BY queue")?;
    let mut rows = statement.query([&publication.exchange])?;
    while let Some(row) = rows.next()? {
        let patterns: Vec<String> = serde_json::from_str(row.get_ref(1)?.as_str()?).unwrap_or_default();
        if any_topic_matches(&patterns, &publication.routing_key) {
            found.push(copy_for(publication, row.get_ref(0)?.as_str()?));
        }
    }
    if found.is_empty() {
        tracing::debug!(event = publication.routing_key, "no service listens to this event");
    }
    Ok(found)
}

fn is_heard(step: &Step<'_>, exchange: &str) -> Result<bool> {
    step.sql("SELECT 1 FROM topic_ear WHERE exchange = ?1 AND until_ms > ?2")?
        .exists(params![exchange, step.now.0])
}

fn append(step: &mut Step<'_>, body: &Bytes, most: u64) -> Result<()> {
    step.run("INSERT INTO stream (body) VALUES (?1)", &[&&body[..]])?;
    let oldest = step.connection.last_insert_rowid().saturating_sub_unsigned(most);
    step.run("DELETE FROM stream WHERE id <= ?1", &[&oldest])?;
    step.rings.add(Kind::Stream);
    Ok(())
}

fn bind(step: &mut Step<'_>, binding: &TopicBinding, how: Rebind) -> Result<()> {
    make(step.connection)?;
    step.queue(&binding.queue)?;
    let TopicBinding { exchange, queue, patterns } = binding;
    if how == Rebind::Replace && patterns.is_empty() {
        step.run("DELETE FROM topic WHERE exchange = ?1 AND queue = ?2", &[exchange, queue])?;
        return Ok(());
    }
    let sql = match how {
        Rebind::Replace => "INSERT OR REPLACE INTO topic VALUES (?1, ?2, ?3)",
        Rebind::Restore => "INSERT OR IGNORE INTO topic VALUES (?1, ?2, ?3)",
    };
    step.run(sql, &[exchange, queue, &serde_json::Value::from(patterns.clone()).to_string()])?;
    Ok(())
}

fn hear(step: &mut Step<'_>, exchange: &str) -> Result<i64> {
    make(step.connection)?;
    let until = step.now.after(2 * SAY_AGAIN);
    step.run("INSERT OR REPLACE INTO topic_ear VALUES (?1, ?2)", &[&exchange, &until.0])?;
    super::step::last_number(step.connection)
}

fn end(connection: &Connection) -> Result<i64> {
    // What was there may be gone: the numbers go on.
    let last = connection.prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'stream'");
    Ok(last?.query_row([], |row| row.get(0)).optional()?.unwrap_or(0))
}

fn read(connection: &Connection, after: i64) -> Result<VecDeque<(i64, Bytes)>> {
    let mut statement =
        connection.prepare_cached("SELECT id, body FROM stream WHERE id > ?1 ORDER BY id LIMIT ?2")?;
    let entry =
        |row: &rusqlite::Row<'_>| Ok((row.get(0)?, Bytes::copy_from_slice(row.get_ref(1)?.as_bytes()?)));
    statement.query_map([after, READ], entry)?.collect()
}

impl Shared {
    pub(super) async fn bind_topics(&self, binding: &TopicBinding, how: Rebind) -> Result<(), Fault> {
        let binding = binding.clone();
        self.writer.submit(Durability::Durable, move |step| bind(step, &binding, how)).await
    }

    pub(super) async fn subscribe(self: &Arc<Self>, exchange: &str) -> Result<Subscriber, Fault> {
        self.listen_for(Kind::Broadcasts).await?;
        let named = exchange.to_owned();
        let heard = self.writer.submit(Durability::Relaxed, move |step| hear(step, &named)).await?;
        let said = Instant::now();
        Ok(Subscriber { store: self.clone(), exchange: exchange.to_owned(), heard, said })
    }

    pub(super) async fn stream_end(&self) -> Result<i64, Fault> {
        self.writer.submit(Durability::Relaxed, |step| make(step.connection)).await?;
        self.read(end)
    }

    pub(super) async fn stream(self: &Arc<Self>, after: Option<i64>) -> Result<StreamReader, Fault> {
        self.listen_for(Kind::Stream).await?;
        let last = self.stream_end().await?;
        let after = after.unwrap_or(last);
        // Of a file that was there before this one: all of this one is new.
        let (after, gap) = if after > last { (0, true) } else { (after, false) };
        Ok(StreamReader { store: self.clone(), after, gap, waiting: VecDeque::new() })
    }
}

/// Hears what is sent to a topic exchange.
pub(super) struct Subscriber {
    store: Arc<Shared>,
    exchange: String,
    /// The number of the last broadcast that was heard.
    heard: i64,
    /// When it said that it listens.
    said: Instant,
}

impl Subscriber {
    async fn say_again(&mut self) -> Result<(), Fault> {
        if self.said.elapsed() >= SAY_AGAIN {
            let named = self.exchange.clone();
            self.store.writer.submit(Durability::Relaxed, move |step| hear(step, &named)).await?;
            self.said = Instant::now();
        }
        Ok(())
    }
}

#[async_trait]
impl Listener for Subscriber {
    async fn next(&mut self) -> Result<Message, BrokerError> {
        loop {
            // Listens before it looks, so that no change falls in between.
            let store = self.store.clone();
            let mut changed = Box::pin(store.signals.broadcasts.notified());
            changed.as_mut().enable();
            let now = store.clock.now();
            let error = |fault: Fault| fault.broker(store.url());
            let look = |connection: &Connection| broadcast::hear(connection, &self.exchange, self.heard, now);
            if let Some((id, message)) = store.read(look).map_err(error)? {
                self.heard = id;
                return Ok(message);
            }
            self.say_again().await.map_err(error)?;
            store.signals.bells.arm(Kind::Broadcasts, None);
            let _changed_or_time = timeout_at(self.said + SAY_AGAIN, changed).await;
        }
    }
}

/// Reads the stream.
pub(super) struct StreamReader {
    store: Arc<Shared>,
    /// The number of the last entry that was given.
    after: i64,
    gap: bool,
    /// Read, and not given yet.
    waiting: VecDeque<(i64, Bytes)>,
}

#[async_trait]
impl Listener for StreamReader {
    async fn next(&mut self) -> Result<Message, BrokerError> {
        loop {
            if let Some((number, body)) = self.waiting.pop_front() {
                let gap = std::mem::take(&mut self.gap) || number > self.after + 1;
                self.after = number;
                return Ok(stream_message(&number.to_string(), gap, body));
            }
            let store = self.store.clone();
            let mut changed = Box::pin(store.signals.streams.notified());
            changed.as_mut().enable();
            let found = store.read(|connection| read(connection, self.after));
            self.waiting = found.map_err(|fault| fault.broker(store.url()))?;
            if self.waiting.is_empty() {
                store.signals.bells.arm(Kind::Stream, None);
                changed.await;
            }
        }
    }
}

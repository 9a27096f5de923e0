//! Topics and the stream.
//!
//! Who wants what of a topic exchange is a hash of ours: a field for each queue, its patterns as a JSON array. It is
//! written when a service binds its queue, and read with each message to the exchange, before the step that publishes
//! it: another process may bind a queue at any time, so nothing of it is kept. kombu's own bindings are sets of
//! expressions in which `*` goes on over dots, and from which nobody can be replaced in one step.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use redis::{FromRedisValue as _, Value, cmd, pipe};

use super::broker::Shared;
use super::errors::LinkError;
use super::link::Link;
use super::publish::{Step, tag};
use crate::broker::{BrokerError, Listener, Rebind};
use crate::driver::routing::stream_message;
use crate::protocol::{Envelope, Message, Publication, TopicBinding, any_topic_matches};

/// How long the server holds a call that waits for entries.
const BLOCKED: Duration = Duration::from_secs(1);
/// Entries of the stream that are read at once.
const READ: usize = 500;
/// Rests before it reads again after it failed.
const REST: Duration = Duration::from_millis(500);
/// Before all entries.
const START: &str = "0-0";

/// Queues and their patterns by exchange.
pub(super) type Topics = HashMap<String, HashMap<String, String>>;

impl Shared {
    pub(super) async fn bind_topics(&self, binding: &TopicBinding, how: Rebind) -> Result<(), BrokerError> {
        let TopicBinding { exchange, queue, patterns } = binding;
        let key = self.layout.topics(exchange);
        let text = serde_json::Value::from(patterns.clone()).to_string();
        let mut pipeline = pipe();
        pipeline.atomic().cmd("SADD").arg(&self.layout.queues).arg(queue).ignore();
        match how {
            Rebind::Replace if patterns.is_empty() => pipeline.cmd("HDEL").arg(key).arg(queue).ignore(),
            Rebind::Replace => pipeline.cmd("HSET").arg(key).arg(queue).arg(text).ignore(),
            Rebind::Restore => pipeline.cmd("HSETNX").arg(key).arg(queue).arg(text).ignore(),
        };
        self.link.pipeline::<()>(&pipeline).await.map_err(|error| self.failed(error))
    }

    /// Reads who wants what of these exchanges.
    pub(super) async fn topics(&self, exchanges: HashSet<String>) -> Result<Topics, BrokerError> {
        if exchanges.is_empty() {
            return Ok(Topics::new());
        }
        let mut pipeline = pipe();
        for exchange in &exchanges {
            pipeline.cmd("HGETALL").arg(self.layout.topics(exchange));
        }
        let read: Vec<HashMap<String, String>> =
            self.link.pipeline(&pipeline).await.map_err(|error| self.failed(error))?;
        Ok(exchanges.into_iter().zip(read).collect())
    }

    /// A message to a topic: an element for each queue, addressed to that queue alone, so that kombu's restoring puts
    /// it back there and nowhere else; and what subscriptions hear.
    pub(super) fn topic_steps(&self, publication: &Publication, topics: &Topics) -> Vec<Step> {
        let Publication { exchange, routing_key, message, .. } = publication;
        let step = self.layout.step(message.properties.priority.unwrap_or(0));
        let bound = topics.get(exchange).into_iter().flatten();
        let wanting = bound.filter(|(_, patterns)| {
            let patterns: Vec<String> = serde_json::from_str(patterns).unwrap_or_default();
            any_topic_matches(&patterns, routing_key)
        });
        let mut queues: Vec<&String> = wanting.map(|(queue, _)| queue).collect();
        queues.sort_unstable();
        if queues.is_empty() {
            tracing::debug!(event = routing_key, "no service listens to this event");
        }
        let element = |queue: &str| Envelope::encode(message, "", queue, &tag());
        let pushes = queues
            .into_iter()
            .map(|queue| Step::Push { list: self.layout.list(queue, step), element: element(queue) });
        pushes.chain([self.broadcast_step(publication)]).collect()
    }

    pub(super) fn stream_step(&self, publication: &Publication, most: u64) -> Step {
        Step::Append { stream: self.layout.stream.clone(), most, entry: publication.message.body.to_vec() }
    }

    pub(super) async fn stream_end(&self) -> Result<String, BrokerError> {
        let mut command = cmd("XREVRANGE");
        command.arg(&self.layout.stream).arg("+").arg("-").arg("COUNT").arg(1);
        let newest: Value = self.link.query(&command).await.map_err(|error| self.failed(error))?;
        Ok(entries(newest).pop().map_or_else(|| START.to_owned(), |(id, _)| id))
    }

    pub(super) async fn stream(self: &Arc<Self>, after: Option<&str>) -> Result<StreamReader, BrokerError> {
        let after = match after {
            Some(after) if is_id(after) => after.to_owned(),
            Some(after) => {
                return Err(BrokerError::Config(format!(
                    "{after:?} is no cursor of this store: take one from an event that was read here"
                )));
            }
            None => self.stream_end().await?,
        };
        // A call that waits holds up all others of its connection.
        let address = self.address.clone();
        let (connect, answer) = (address.connect_timeout(), address.answer_timeout() + BLOCKED);
        let link = Arc::new(Link::new(address, connect, answer));
        let gap = self.is_behind(&after).await?;
        let (waiting, asked, failed) = (VecDeque::new(), None, false);
        Ok(StreamReader { store: self.clone(), link, after, gap, waiting, asked, failed })
    }

    /// Whether entries after this one are gone: it is gone itself, and others are there.
    async fn is_behind(&self, after: &str) -> Result<bool, BrokerError> {
        if after == START {
            return Ok(false);
        }
        let mut command = cmd("XRANGE");
        command.arg(&self.layout.stream).arg(after).arg(after);
        let there: Value = self.link.query(&command).await.map_err(|error| self.failed(error))?;
        Ok(entries(there).is_empty())
    }
}

fn is_id(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text.split_once('-').is_some_and(|(ms, number)| digits(ms) && digits(number))
}

/// Ids and bodies of a range of a stream.
fn entries(range: Value) -> Vec<(String, Bytes)> {
    type Raw = Vec<(String, Vec<Vec<u8>>)>;
    let raw = Raw::from_redis_value(range).unwrap_or_default();
    raw.into_iter().filter_map(|(id, mut fields)| Some((id, fields.pop()?.into()))).collect()
}

/// Reads the stream.
pub(super) struct StreamReader {
    store: Arc<Shared>,
    /// Its own.
    link: Arc<Link>,
    /// The id of the last entry that was given.
    after: String,
    gap: bool,
    /// Read, and not given yet.
    waiting: VecDeque<(String, Bytes)>,
    /// The call under way: it goes on when whoever waits for it goes away, so that calls do not pile up.
    asked: Option<BoxFuture<'static, Result<Value, LinkError>>>,
    failed: bool,
}

impl StreamReader {
    fn ask(&self) -> BoxFuture<'static, Result<Value, LinkError>> {
        let mut command = cmd("XREAD");
        command.arg("COUNT").arg(READ).arg("BLOCK").arg(BLOCKED.as_millis() as u64);
        command.arg("STREAMS").arg(&self.store.layout.stream).arg(&self.after);
        let (link, failed) = (self.link.clone(), self.failed);
        Box::pin(async move {
            if failed {
                tokio::time::sleep(REST).await;
            }
            link.query(&command).await
        })
    }
}

#[async_trait]
impl Listener for StreamReader {
    async fn next(&mut self) -> Result<Message, BrokerError> {
        loop {
            if let Some((id, body)) = self.waiting.pop_front() {
                self.after.clone_from(&id);
                return Ok(stream_message(&id, std::mem::take(&mut self.gap), body));
            }
            if self.asked.is_none() {
                self.asked = Some(self.ask());
            }
            let Some(asked) = &mut self.asked else { continue };
            let answer = asked.await;
            self.asked = None;
            match answer {
                Ok(read) => {
                    self.failed = false;
                    self.waiting = of_streams(read).into();
                }
                Err(error) => {
                    let error = BrokerError::from(error);
                    if !error.is_transient() {
                        return Err(error);
                    }
                    // The stream keeps what comes meanwhile, so that nothing is missed by waiting.
                    if !std::mem::replace(&mut self.failed, true) {
                        tracing::warn!("the stream of tasks cannot be read: {error}");
                    }
                }
            }
        }
    }
}

/// The entries of an answer to XREAD: an array of streams in protocol 2, a map in protocol 3; nothing at all when the
/// time was over.
fn of_streams(answer: Value) -> Vec<(String, Bytes)> {
    let ranges: Vec<Value> = match answer {
        Value::Map(streams) => streams.into_iter().map(|(_, range)| range).collect(),
        Value::Array(streams) => streams
            .into_iter()
            .filter_map(|stream| match stream {
                Value::Array(mut pair) => pair.pop(),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    ranges.into_iter().flat_map(entries).collect()
}

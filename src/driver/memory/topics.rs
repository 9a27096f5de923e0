//! What the store in memory keeps of topics, and the stream.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::Shared;
use crate::broker::{BrokerError, Listener, Rebind};
use crate::driver::routing::{copy_for, cursor_after, stream_message};
use crate::protocol::{Message, Publication, TopicBinding, any_topic_matches};

#[derive(Default)]
pub(super) struct Topics {
    /// Patterns by exchange and queue.
    bound: BTreeMap<(String, String), Vec<String>>,
    /// By exchange: held by each subscription, so that nothing is kept for nobody.
    ears: HashMap<String, Arc<()>>,
    /// The newest entries, with their numbers.
    stream: VecDeque<(u64, Bytes)>,
    last: u64,
}

impl Topics {
    pub(super) fn bind(&mut self, binding: &TopicBinding, how: Rebind) {
        let key = (binding.exchange.clone(), binding.queue.clone());
        match how {
            Rebind::Replace if binding.patterns.is_empty() => drop(self.bound.remove(&key)),
            Rebind::Replace => drop(self.bound.insert(key, binding.patterns.clone())),
            Rebind::Restore => drop(self.bound.entry(key).or_insert_with(|| binding.patterns.clone())),
        }
    }

    /// What goes into queues of a message to a topic.
    pub(super) fn copies(&self, publication: &Publication) -> Vec<Publication> {
        let bound = self.bound.iter().filter(|((exchange, _), patterns)| {
            *exchange == publication.exchange && any_topic_matches(patterns, &publication.routing_key)
        });
        bound.map(|((_, queue), _)| copy_for(publication, queue)).collect()
    }

    pub(super) fn subscribe(&mut self, exchange: &str) -> Arc<()> {
        self.ears.entry(exchange.to_owned()).or_default().clone()
    }

    pub(super) fn is_heard(&self, exchange: &str) -> bool {
        self.ears.get(exchange).is_some_and(|ear| Arc::strong_count(ear) > 1)
    }

    pub(super) fn append(&mut self, body: Bytes, most: u64) {
        self.last += 1;
        self.stream.push_back((self.last, body));
        while self.stream.len() as u64 > most {
            self.stream.pop_front();
        }
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// The first entry after a number.
    fn read(&self, after: u64) -> Option<(u64, Bytes)> {
        let place = self.stream.partition_point(|(number, _)| *number <= after);
        self.stream.get(place).cloned()
    }
}

/// Reads the stream.
pub(super) struct StreamReader {
    pub(super) store: Arc<Shared>,
    pub(super) after: u64,
}

impl StreamReader {
    pub(super) fn new(store: Arc<Shared>, after: Option<&str>) -> Result<Self, BrokerError> {
        let last = store.state.lock().topics.last();
        let after = after.map_or(Ok(last), cursor_after)?;
        Ok(Self { store, after })
    }
}

#[async_trait]
impl Listener for StreamReader {
    async fn next(&mut self) -> Result<Message, BrokerError> {
        loop {
            let mut changed = Box::pin(self.store.broadcasts.notified());
            changed.as_mut().enable();
            let found = self.store.state.lock().topics.read(self.after);
            if let Some((number, body)) = found {
                let gap = number > self.after + 1;
                self.after = number;
                return Ok(stream_message(&number.to_string(), gap, body));
            }
            changed.await;
        }
    }
}

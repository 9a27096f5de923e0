//! Queues on fanout exchanges: what is published there is nowhere but in the channel, and only who listens gets it.
//!
//! A consumer listens, and puts what it hears into a list of its node's own, from which it is claimed like anything
//! else: so it has leases, parking, crash counts and dead letters. The list is not named like the queue, since several
//! workers may consume from a queue of one name, and each gets every message. kombu hands over what it hears at once, and
//! loses what it has not run when it ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use redis::{PushInfo, Value};
use tokio::task::JoinHandle;

use super::broker::Shared;
use super::keys::LOST;
use super::link::Pushes;
use super::scripts::HEAR;
use crate::broker::BrokerError;
use crate::protocol::{Envelope, Queue};

/// In front of the names of such lists: behind it come the node and the queue.
const HEARD: &str = "celeriac:heard:";
/// For how long a message is remembered, so that it is not kept twice.
const REMEMBERED_MS: &str = "60000";
/// For how long the list of a worker that does not come back is kept.
const LEFT_MS: &str = "3600000";
/// Rests before it tries again what failed.
const REST: Duration = Duration::from_millis(500);
/// How often one message is tried to be kept.
const TRIES: usize = 20;

/// Whether a queue gets its messages by listening.
pub(super) fn is_heard(queue: &Queue) -> bool {
    queue.all_bindings().any(|binding| binding.exchange.kind == "fanout")
}

/// The queue whose lists a consumer takes from: the given one, or what is heard for it.
pub(super) fn list_of(node: &str, queue: &Queue) -> String {
    if is_heard(queue) {
        format!("{HEARD}{}:{}", node.replace(':', "_"), queue.name)
    } else {
        queue.name.clone()
    }
}

/// The queue that a list is for, as users know it.
pub(super) fn shown(list: &Arc<str>) -> Arc<str> {
    let queue = list.strip_prefix(LOST).unwrap_or(list);
    match queue.strip_prefix(HEARD).and_then(|rest| rest.split_once(':')) {
        Some((_, queue)) => queue.into(),
        None if queue.len() == list.len() => list.clone(),
        None => queue.into(),
    }
}

/// What listens for a consumer.
#[derive(Default)]
pub(super) struct Hearing {
    /// Names of lists by exchange. One for each: a worker gets a message once, whatever the number of its queues.
    lists: BTreeMap<String, String>,
    task: Option<JoinHandle<()>>,
}

impl Hearing {
    /// Listens for these queues, and for nothing else. Returns when the server has confirmed it.
    pub(super) async fn change(
        &mut self,
        store: &Arc<Shared>,
        node: &str,
        queues: &[Arc<Queue>],
    ) -> Result<(), BrokerError> {
        let mut lists = BTreeMap::new();
        for queue in queues {
            for binding in queue.all_bindings().filter(|binding| binding.exchange.kind == "fanout") {
                lists.entry(binding.exchange.name).or_insert_with(|| list_of(node, queue));
            }
        }
        if lists == self.lists {
            return Ok(());
        }
        let task = if lists.is_empty() {
            None
        } else {
            let listener = Listener { store: store.clone(), lists: lists.clone() };
            let pushes = listener.connect().await?;
            Some(tokio::spawn(listener.run(pushes)))
        };
        self.stop();
        (self.lists, self.task) = (lists, task);
        Ok(())
    }

    pub(super) fn stop(&mut self) {
        self.lists.clear();
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

impl Drop for Hearing {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Listener {
    store: Arc<Shared>,
    lists: BTreeMap<String, String>,
}

impl Listener {
    /// Listens to all that the exchanges publish: a fanout exchange does not look at routing keys.
    async fn connect(&self) -> Result<Pushes, BrokerError> {
        let layout = &self.store.layout;
        let pushes = self.store.link.pushes().await?;
        let channels: Vec<String> = self.lists.keys().map(|exchange| layout.channel(exchange, "")).collect();
        pushes.connection.subscribe(channels).await?;
        let patterns: Vec<String> =
            self.lists.keys().filter_map(|exchange| layout.channel_pattern(exchange)).collect();
        if !patterns.is_empty() {
            pushes.connection.psubscribe(patterns).await?;
        }
        Ok(pushes)
    }

    async fn run(self, first: Pushes) {
        let mut connected = Some(first);
        loop {
            match &mut connected {
                Some(pushes) => match pushes.receiver.recv().await {
                    Some(push) => self.heard(&push).await,
                    None => connected = None,
                },
                None => match self.connect().await {
                    Ok(pushes) => connected = Some(pushes),
                    Err(error) => {
                        tracing::warn!("cannot listen to broadcasts: {error}");
                        tokio::time::sleep(REST).await;
                    }
                },
            }
        }
    }

    /// Keeps a message. Repeated when the answer is lost: it is kept once.
    async fn heard(&self, push: &PushInfo) {
        let [.., Value::BulkString(channel), Value::BulkString(element)] = &push.data[..] else { return };
        let Some(list) = self.list(&String::from_utf8_lossy(channel)) else { return };
        // What cannot be read is found out by the claim, and is a dead letter then.
        let (priority, tag) = Envelope::decode(element).map_or_else(
            |_| (0, String::new()),
            |envelope| (envelope.message.properties.priority.unwrap_or(0), envelope.delivery_tag),
        );
        let tag = if tag.is_empty() { uuid::Uuid::new_v4().to_string() } else { tag };
        let layout = &self.store.layout;
        let keys = [layout.list(list, layout.step(priority)), layout.list(&format!("{list}:{tag}"), 0)];
        let args: [&[u8]; 3] = [element, REMEMBERED_MS.as_bytes(), LEFT_MS.as_bytes()];
        for _ in 0..TRIES {
            match self.store.link.script(&HEAR, &keys, &args).await {
                Ok(_) => return,
                Err(error) => tracing::warn!("a broadcast cannot be kept yet: {}", BrokerError::from(error)),
            }
            tokio::time::sleep(REST).await;
        }
    }

    /// Where what is published to a channel goes.
    fn list(&self, channel: &str) -> Option<&str> {
        let layout = &self.store.layout;
        let matching = self.lists.iter().find(|(exchange, _)| {
            let rest = channel.strip_prefix(&layout.channel(exchange, ""));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        matching.map(|(_, list)| &**list)
    }
}

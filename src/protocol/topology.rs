//! Queues, exchanges and bindings as an app configures them (kombu's `Queue`, `Exchange`, `binding`).

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

/// Arguments of a declaration, as JSON: `x-max-priority`, `x-queue-type` and so on.
pub type Arguments = serde_json::Map<String, serde_json::Value>;

/// An exchange, as it is declared. The empty name is AMQP's default exchange, which is never declared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Exchange {
    /// Its name.
    pub name: String,
    /// `direct`, `topic`, `fanout` or `headers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// It survives a restart of the broker.
    pub durable: bool,
    /// It goes with its last binding.
    pub auto_delete: bool,
    /// It is expected to be there.
    pub no_declare: bool,
    /// 1 or 2: how messages are sent that say nothing about it.
    pub delivery_mode: Option<u8>,
    /// More.
    pub arguments: Arguments,
}

impl Default for Exchange {
    fn default() -> Self {
        Self {
            name: String::new(),
            kind: "direct".to_owned(),
            durable: true,
            auto_delete: false,
            no_declare: false,
            delivery_mode: None,
            arguments: Arguments::new(),
        }
    }
}

/// One binding of a queue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Binding {
    /// To which exchange.
    pub exchange: Exchange,
    /// With which key or pattern.
    pub routing_key: String,
    /// For `headers` exchanges.
    pub arguments: Arguments,
}

/// A queue, as it is declared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "the flags of queue.declare, each by itself")]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Where it is bound first.
    pub exchange: Exchange,
    /// With which key or pattern.
    pub routing_key: String,
    /// Further bindings.
    pub bindings: Vec<Binding>,
    /// It survives a restart of the broker.
    pub durable: bool,
    /// Of this connection alone.
    pub exclusive: bool,
    /// It goes with its last consumer.
    pub auto_delete: bool,
    /// It is expected to be there.
    pub no_declare: bool,
    /// `x-max-priority`, `x-expires`, `x-queue-type`, `x-dead-letter-exchange` and so on.
    pub arguments: Arguments,
    /// Arguments of the first binding.
    pub binding_arguments: Arguments,
    /// Arguments of `basic.consume`.
    pub consumer_arguments: Arguments,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            name: String::new(),
            exchange: Exchange::default(),
            routing_key: String::new(),
            bindings: Vec::new(),
            durable: true,
            exclusive: false,
            auto_delete: false,
            no_declare: false,
            arguments: Arguments::new(),
            binding_arguments: Arguments::new(),
            consumer_arguments: Arguments::new(),
        }
    }
}

impl Queue {
    /// Every binding, the first one too; none to the default exchange.
    pub fn all_bindings(&self) -> impl Iterator<Item = Binding> {
        let first = Binding {
            exchange: self.exchange.clone(),
            routing_key: self.routing_key.clone(),
            arguments: self.binding_arguments.clone(),
        };
        std::iter::once(first)
            .chain(self.bindings.iter().cloned())
            .filter(|binding| !binding.exchange.name.is_empty())
    }

    /// Whether it is a quorum queue, as far as it says so itself (`x-queue-type`).
    pub fn is_quorum(&self) -> bool {
        self.arguments.get("x-queue-type").and_then(|kind| kind.as_str()) == Some("quorum")
    }
}

/// What an app has configured: `task_queues`, `task_default_*`, `task_create_missing_*`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Topology {
    /// Configured queues by name.
    pub queues: HashMap<String, Arc<Queue>>,
    /// The queue of whoever names none.
    pub default_queue: String,
    /// `x-queue-type` of queues that nobody configured; `classic` is not written.
    pub missing_queue_type: String,
    /// Type of the exchange of queues that nobody configured.
    pub missing_exchange_type: String,
    /// `x-queue-type` of the queues that keep messages for later (`broker_native_delayed_delivery_queue_type`).
    pub delayed_queue_type: String,
    /// `x-max-priority` of queues that nobody configured (`task_queue_max_priority`).
    pub max_priority: Option<u32>,
    /// Queues that were described while the program ran.
    #[serde(skip)]
    pub added: Added,
}

/// Queues that a control command (`add_consumer`) has described. Written by the worker's loop, read by drivers whenever
/// they look a queue up; clones share nothing.
#[derive(Debug, Default)]
pub struct Added(RwLock<HashMap<String, Arc<Queue>>>);

impl Clone for Added {
    fn clone(&self) -> Self {
        Self(RwLock::new(self.0.read().clone()))
    }
}

impl PartialEq for Added {
    fn eq(&self, other: &Self) -> bool {
        *self.0.read() == *other.0.read()
    }
}

impl Default for Topology {
    fn default() -> Self {
        Self {
            queues: HashMap::new(),
            default_queue: "celery".to_owned(),
            missing_queue_type: "classic".to_owned(),
            missing_exchange_type: "direct".to_owned(),
            delayed_queue_type: "quorum".to_owned(),
            max_priority: None,
            added: Added::default(),
        }
    }
}

impl Topology {
    /// Describes a queue that is not configured; configured ones stay as they are.
    pub fn add(&self, queue: Queue) {
        self.added.0.write().insert(queue.name.clone(), Arc::new(queue));
    }

    /// The queue of that name: as configured, else as `task_create_missing_queues` makes it (an exchange and a
    /// routing key of the queue's own name).
    pub fn queue(&self, name: &str) -> Arc<Queue> {
        if let Some(queue) = self.queues.get(name) {
            return queue.clone();
        }
        if let Some(queue) = self.added.0.read().get(name) {
            return queue.clone();
        }
        let mut queue = Queue {
            name: name.to_owned(),
            exchange: Exchange {
                name: name.to_owned(),
                kind: self.missing_exchange_type.clone(),
                ..Exchange::default()
            },
            routing_key: name.to_owned(),
            ..Queue::default()
        };
        if self.missing_queue_type != "classic" {
            queue.arguments.insert("x-queue-type".to_owned(), self.missing_queue_type.clone().into());
        }
        if let Some(highest) = self.max_priority {
            queue.arguments.insert("x-max-priority".to_owned(), highest.into());
        }
        Arc::new(queue)
    }

    /// The queue that a message to the default exchange goes to, or that was given with it; the default queue
    /// for any other exchange, since Celery declares that one then.
    pub fn declared_for(&self, exchange: &str, routing_key: &str) -> Arc<Queue> {
        if exchange.is_empty() { self.queue(routing_key) } else { self.queue(&self.default_queue) }
    }

    /// Whether any configured queue is a quorum queue: Celery then changes its QoS and delays natively.
    pub fn any_quorum(&self) -> bool {
        self.missing_queue_type == "quorum" || self.queues.values().any(|queue| queue.is_quorum())
    }
}

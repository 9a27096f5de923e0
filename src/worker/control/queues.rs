//! Queues that are consumed from: which they are, one more, one less.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::super::consumer::ConsumerLoop;
use super::super::notice::Level;
use super::super::upkeep::Chore;
use super::arguments::{missing, ok, text};
use super::{LOGGER, SEND_WITHIN};
use crate::broker::Consumer;
use crate::clock::UnixMillis;
use crate::protocol::{Arguments, Binding, ControlRequest, Exchange, Queue};

impl ConsumerLoop {
    pub(super) fn inspect_active_queues(&self) -> Value {
        let topology = &self.options.control.topology;
        self.options.queues.iter().map(|name| described(&topology.queue(name))).collect()
    }

    pub(super) fn control_add_consumer(&mut self, request: &ControlRequest) -> Value {
        if let Some(answer) = missing(request, &["queue"]) {
            return answer;
        }
        let Some(name) = text(request, "queue").filter(|name| !name.is_empty()) else {
            return super::arguments::raised("ValueError", "a queue is a name");
        };
        let topology = &self.options.control.topology;
        if !topology.queues.contains_key(name) {
            topology.add(asked_for(&topology.queue(name), request));
        }
        if self.options.queues.iter().any(|known| known == name) {
            self.log.line(Level::Info, LOGGER, || format!("Already consuming from {name:?}"));
        } else {
            self.options.queues.push(name.to_owned());
            self.change_queues();
            self.look_at_pauses();
            self.log.line(Level::Info, LOGGER, || format!("Started consuming from {name}"));
        }
        ok(format!("add consumer {name}"))
    }

    pub(super) fn control_cancel_consumer(&mut self, request: &ControlRequest) -> Value {
        if let Some(answer) = missing(request, &["queue"]) {
            return answer;
        }
        let name = text(request, "queue").unwrap_or_default();
        let before = self.options.queues.len();
        self.options.queues.retain(|known| known != name);
        if self.options.queues.len() < before {
            self.change_queues();
            self.log.line(Level::Info, LOGGER, || format!("Canceling queue {name}"));
        }
        ok(format!("no longer consuming from {name}"))
    }

    /// Nothing is taken from a queue any more, or again: on every worker, and whatever consumes from it later.
    pub(super) fn control_pause(&mut self, request: &ControlRequest, pause: bool) -> Value {
        if let Some(answer) = missing(request, &["queue"]) {
            return answer;
        }
        let Some(name) = text(request, "queue").filter(|name| !name.is_empty()) else {
            return super::arguments::raised("ValueError", "a queue is a name");
        };
        self.pause(name, pause);
        ok(if pause { format!("queue {name} is paused") } else { format!("queue {name} goes on") })
    }

    pub(super) fn inspect_paused(&self) -> Value {
        self.paused_here()
    }

    /// Dead letters of all queues, as this worker knows them, and how many it has made itself.
    pub(super) fn inspect_dead_letters(&self) -> Value {
        let age = |died: UnixMillis| self.clock.now().0.saturating_sub(died.0).max(0) as f64 / 1000.0;
        let last = self.dead.last;
        json!({
            "count": last.map(|stats| stats.count),
            "oldest_age": last.and_then(|stats| stats.oldest).map(age),
            "buried_here": self.stats.buried.value(),
        })
    }

    /// Tells the newest consumer. One that is made later is made with the queues of then.
    pub(in super::super) fn change_queues(&self) {
        let Some(source) = self.sources.last() else { return };
        let (consumer, queues): (Arc<dyn Consumer>, _) = (source.consumer.clone(), self.taken_queues());
        let log = self.log.clone();
        self.chores.push(Box::pin(async move {
            let failed = match timeout(SEND_WITHIN, consumer.set_queues(queues)).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("the broker does not answer".to_owned()),
            };
            if let Some(why) = failed {
                log.line(Level::Error, LOGGER, || {
                    format!(
                        "the queues that are consumed from are not changed: {why}; give the command again"
                    )
                });
            }
            Chore::Answered
        }));
    }
}

/// A queue as a command describes it; `usual` is what a queue of that name would be without.
fn asked_for(usual: &Queue, request: &ControlRequest) -> Queue {
    let mut queue = usual.clone();
    let some = |name| text(request, name).filter(|text| !text.is_empty());
    queue.exchange = Exchange {
        name: some("exchange").unwrap_or(&queue.name).to_owned(),
        kind: some("exchange_type").unwrap_or("direct").to_owned(),
        ..Exchange::default()
    };
    queue.routing_key = some("routing_key").unwrap_or(&queue.name).to_owned();
    let flag =
        |name: &str, usual: bool| request.arguments.get(name).and_then(Value::as_bool).unwrap_or(usual);
    queue.durable = flag("durable", queue.durable);
    queue.exclusive = flag("exclusive", queue.exclusive);
    queue.auto_delete = flag("auto_delete", queue.auto_delete);
    queue.no_declare = flag("no_declare", queue.no_declare);
    if let Some(Value::Object(more)) = request.arguments.get("queue_arguments") {
        queue.arguments.extend(more.clone());
    }
    if let Some(highest) = request.arguments.get("max_priority").filter(|value| value.is_u64()) {
        queue.arguments.insert("x-max-priority".to_owned(), highest.clone());
    }
    queue
}

/// A queue as kombu describes it.
fn described(queue: &Queue) -> Value {
    let bindings: Vec<Value> = queue.bindings.iter().map(binding).collect();
    json!({
        "name": queue.name,
        "exchange": exchange(&queue.exchange),
        "routing_key": queue.routing_key,
        "queue_arguments": maybe(&queue.arguments),
        "binding_arguments": maybe(&queue.binding_arguments),
        "consumer_arguments": maybe(&queue.consumer_arguments),
        "durable": queue.durable,
        "exclusive": queue.exclusive,
        "auto_delete": queue.auto_delete,
        "no_ack": false,
        "alias": null,
        "bindings": bindings,
        "no_declare": if queue.no_declare { Value::Bool(true) } else { Value::Null },
        "expires": null,
        "message_ttl": null,
        "max_length": null,
        "max_length_bytes": null,
        "max_priority": null,
    })
}

fn exchange(exchange: &Exchange) -> Value {
    json!({
        "name": exchange.name,
        "type": exchange.kind,
        "arguments": maybe(&exchange.arguments),
        "durable": exchange.durable,
        "passive": false,
        "auto_delete": exchange.auto_delete,
        "delivery_mode": exchange.delivery_mode,
        "no_declare": exchange.no_declare,
    })
}

fn binding(binding: &Binding) -> Value {
    json!({
        "exchange": exchange(&binding.exchange),
        "routing_key": binding.routing_key,
        "arguments": maybe(&binding.arguments),
        "unbind_arguments": null,
    })
}

fn maybe(arguments: &Arguments) -> Value {
    if arguments.is_empty() { Value::Null } else { Value::Object(arguments.clone()) }
}

//! Mingling: a worker that starts asks the others which tasks are revoked, and answers those that start later.
//!
//! Claims wait for the answers, as Celery's workers do, but no longer than it takes: until nobody has answered for a
//! moment, a second at the most. What comes later in that second is heard too.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, timeout, timeout_at};

use super::super::consumer::ConsumerLoop;
use super::super::notice::Level;
use super::super::upkeep::Chore;
use super::arguments::{missing, text};
use super::properties;
use crate::broker::{Broker, BrokerError, Listener};
use crate::protocol::{ControlReply, ControlRequest, Message, ReplyTo};

/// How long answers are heard, as in Celery.
const HEARD_FOR: Duration = Duration::from_secs(1);
/// Whoever has not answered within this time does not delay the first claim.
const SILENCE: Duration = Duration::from_millis(50);
const LOGGER: &str = "celery.worker.consumer.mingle";

/// Answers that are being waited for.
pub(in crate::worker) struct Meeting {
    inbox: Box<dyn Listener>,
    ticket: String,
    until: Instant,
}

/// A step of a meeting.
pub(in crate::worker) enum Met {
    /// Everybody was asked.
    Asked(Meeting),
    /// Somebody answered.
    Node(Meeting, ControlReply),
    /// It is over; the error is why it did not work.
    Over(Option<String>),
}

impl ConsumerLoop {
    /// Asks all other workers which tasks are revoked.
    pub(in crate::worker) fn mingle(&mut self) {
        if !self.options.control.mingle {
            return;
        }
        let now = self.clock.now();
        self.claim_after = Some(Instant::now() + HEARD_FOR);
        let revoked: Vec<String> = self.revoked.list(now).map(|(id, _)| id.to_owned()).collect();
        let exchange = self.options.control.exchange.clone();
        let (ticket, oid) = (uuid::Uuid::new_v4().to_string(), uuid::Uuid::new_v4().to_string());
        let request = ControlRequest {
            method: "hello".to_owned(),
            arguments: [
                ("from_node".to_owned(), json!(self.options.node)),
                ("revoked".to_owned(), json!(revoked)),
            ]
            .into_iter()
            .collect(),
            ticket: Some(ticket.clone()),
            reply_to: Some(ReplyTo { exchange: format!("reply.{exchange}"), routing_key: oid }),
            ..ControlRequest::default()
        };
        let expires = now.after(HEARD_FOR).0 as f64 / 1000.0;
        let headers = json!({ "clock": self.monitor.lamport.forward(), "expires": expires }).to_string();
        let message =
            Message { headers: headers.into(), properties: properties(2), body: request.to_json().into() };
        let (broker, reply_to) = (self.stores.broker.clone(), request.reply_to.unwrap_or_default());
        self.chores.push(Box::pin(async move {
            let until = Instant::now() + HEARD_FOR;
            let asked = timeout(HEARD_FOR, ask(&*broker, &exchange, &reply_to, message)).await;
            Chore::Met(match asked {
                Ok(Ok(inbox)) => Met::Asked(Meeting { inbox, ticket, until }),
                Ok(Err(error)) => Met::Over(Some(error.to_string())),
                Err(_) => Met::Over(Some("the broker does not answer".to_owned())),
            })
        }));
    }

    /// A step of the meeting was taken; here is the next.
    pub(in crate::worker) fn met(&mut self, met: Met) {
        let waits = self.claim_after.is_some();
        let meeting = match met {
            Met::Over(why) => {
                if let Some(why) = why {
                    self.claim_after = None;
                    self.log.line(Level::Warning, LOGGER, || {
                        format!("mingle: the other workers were not asked for their revoked tasks: {why}")
                    });
                }
                return;
            }
            Met::Asked(meeting) => meeting,
            Met::Node(meeting, reply) => {
                if reply.node != self.options.node && reply.value.is_object() {
                    self.log.line(Level::Info, LOGGER, || format!("mingle: sync with {}", reply.node));
                    self.merge_revoked(reply.value.get("revoked"));
                    self.monitor
                        .lamport
                        .adjust(reply.value.get("clock").and_then(Value::as_u64).unwrap_or(0));
                }
                meeting
            }
        };
        if waits {
            self.claim_after = Some((Instant::now() + SILENCE).min(meeting.until));
        }
        self.chores.push(Box::pin(async move { Chore::Met(meeting.next().await) }));
    }

    /// Another worker has started, and tells what it knows.
    pub(super) fn control_hello(&mut self, request: &ControlRequest) -> Value {
        if let Some(answer) = missing(request, &["from_node"]) {
            return answer;
        }
        let from = text(request, "from_node").unwrap_or_default();
        if from == self.options.node {
            return Value::Null;
        }
        self.log.line(Level::Info, super::LOGGER, || format!("sync with {from}"));
        self.merge_revoked(request.arguments.get("revoked"));
        let (now, clock) = (self.clock.now(), self.monitor.lamport.forward());
        let revoked: Vec<&str> = self.revoked.list(now).map(|(id, _)| id).collect();
        json!({ "revoked": revoked, "clock": clock })
    }

    /// Takes over the ids that another worker knows: a list, or, from older ones, an object by id.
    fn merge_revoked(&mut self, ids: Option<&Value>) {
        let now = self.clock.now();
        match ids {
            Some(Value::Array(ids)) => {
                for id in ids.iter().filter_map(Value::as_str) {
                    self.revoked.add_new(id, now);
                }
            }
            Some(Value::Object(ids)) => {
                for id in ids.keys() {
                    self.revoked.add_new(id, now);
                }
            }
            _ => {}
        }
    }
}

async fn ask(
    broker: &dyn Broker,
    exchange: &str,
    reply_to: &ReplyTo,
    message: Message,
) -> Result<Box<dyn Listener>, BrokerError> {
    let inbox = broker.inbox(&reply_to.exchange, &reply_to.routing_key).await?;
    broker.broadcast(exchange, "", message, HEARD_FOR).await?;
    Ok(inbox)
}

impl Meeting {
    /// Waits for the next answer.
    async fn next(mut self) -> Met {
        loop {
            let Ok(Ok(message)) = timeout_at(self.until, self.inbox.next()).await else {
                self.inbox.close().await;
                return Met::Over(None);
            };
            let headers: Value = serde_json::from_slice(&message.headers).unwrap_or_default();
            let ours =
                headers.get("ticket").and_then(Value::as_str).is_none_or(|ticket| ticket == self.ticket);
            if ours && let Ok(reply) = ControlReply::parse(&message.body) {
                return Met::Node(self, reply);
            }
        }
    }
}

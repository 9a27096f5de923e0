//! What other programs ask of the worker, by broadcast (Celery's pidbox).
//!
//! 1. `listen` hears requests on a task of its own, and gives those that are for this node to the main loop.
//! 2. [`ConsumerLoop::heard`] answers: `inspect` looks, `command` and `revoke` change something, `queues` says what is
//!    consumed from. Nothing of this needs the interpreter, so that a worker whose children are all stuck in C answers.
//! 3. Commands that the app has added go to the program around the worker as a notice with a number, and its answer
//!    comes back by [`super::WorkerHandle::reply`]. What is asked meanwhile is answered meanwhile.
//! 4. Answers are sent beside the main way; one that nobody waits for any more is lost, and nothing else.
//!
//! A command that is to be answered here: its name in `carry_out`, and a method beside its like.

pub(super) mod mingle;

mod arguments;
mod command;
mod inspect;
mod limits;
mod queues;
mod revoke;
mod usage;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::commit::Stores;
use super::consumer::ConsumerLoop;
use super::events;
use super::link::Link;
use super::log::Log;
use super::notice::{Level, Notice};
use super::upkeep::Chore;
use crate::clock::Lamport;
use crate::protocol::{ControlReply, ControlRequest, DecodeError, Message, Properties, ReplyTo};
use arguments::{error, raised};

/// Celery's name for the logger of commands.
pub(super) const LOGGER: &str = "celery.worker.control";
/// Requests and answers that wait for the loop at the most.
pub(super) const WAITING: usize = 64;
/// How long a broker may take to send an answer.
const SEND_WITHIN: Duration = Duration::from_secs(10);
/// How long a worker that starts waits until it hears requests.
const LISTENS_WITHIN: Duration = Duration::from_secs(1);
/// Commands of the app that may wait for their answers.
const PENDING: usize = 64;
/// An answer of the app that took longer is not waited for when there are many.
const PATIENCE: Duration = Duration::from_secs(300);

/// What comes to the main loop from outside.
#[derive(Debug)]
pub(super) enum Heard {
    /// A request for this node.
    Request(ControlRequest),
    /// What a command of the app has answered: its number, and JSON text.
    Answer(u64, String),
}

/// What the loop keeps of remote control.
#[derive(Default)]
pub(super) struct Desk {
    /// Commands that the app has been given and has not answered.
    pending: HashMap<u64, Pending>,
    last: u64,
}

struct Pending {
    since: Instant,
    address: Option<Address>,
}

/// Where an answer goes.
struct Address {
    to: ReplyTo,
    ticket: Option<String>,
}

/// What became of a request.
enum Answer {
    /// This.
    Now(Value),
    /// The app answers.
    Later,
    /// Nothing, as Celery's workers do.
    Silence,
}

/// Listens for as long as it lives.
pub(super) struct Ear {
    task: JoinHandle<()>,
    /// It has begun to listen. Written by the task.
    listening: watch::Receiver<bool>,
}

impl Ear {
    /// Waits until requests are heard: whoever sees that a worker is ready may ask it something at once. Not for
    /// long, since work does not depend on it.
    pub(super) async fn listens(&mut self) {
        let _late_or_gone = timeout(LISTENS_WITHIN, self.listening.wait_for(|listening| *listening)).await;
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts to listen. Requests for other nodes and nonsense are dropped here.
pub(super) fn listen(
    stores: &Stores,
    exchange: String,
    node: String,
    lamport: Arc<Lamport>,
    heard: mpsc::Sender<Heard>,
) -> Ear {
    let (broker, log) = (stores.broker.clone(), stores.log.clone());
    let (listens, listening) = watch::channel(false);
    let task = tokio::spawn(async move {
        let mut link = Link::new("listen for control requests", log.clone());
        loop {
            let error = match broker.listen(&exchange).await {
                Err(error) => error,
                Ok(mut listener) => loop {
                    listens.send_replace(true);
                    match listener.next().await {
                        Err(error) => break error,
                        Ok(message) => {
                            link.worked();
                            events::adjust(&lamport, &message.headers);
                            let Some(request) = for_us(&message, &node, &log) else { continue };
                            if heard.send(Heard::Request(request)).await.is_err() {
                                return;
                            }
                        }
                    }
                },
            };
            tokio::time::sleep(link.failed(&error).max(Duration::from_millis(50))).await;
        }
    });
    Ear { task, listening }
}

fn for_us(message: &Message, node: &str, log: &Log) -> Option<ControlRequest> {
    match ControlRequest::parse(&message.body) {
        Ok(request) => request.addresses(node).then_some(request),
        Err(DecodeError::UnsupportedMatcher) => {
            log.line(Level::Warning, LOGGER, || {
                "a control request chose its workers by a pattern that is no glob; it is not answered"
                    .to_owned()
            });
            None
        }
        Err(_) => None,
    }
}

impl ConsumerLoop {
    /// Deals with what came from outside.
    pub(super) fn heard(&mut self, heard: Heard) {
        match heard {
            Heard::Request(request) => self.asked(request),
            Heard::Answer(number, text) => {
                let Some(pending) = self.desk.pending.remove(&number) else { return };
                let Some(address) = pending.address else { return };
                let value = serde_json::from_str(&text)
                    .unwrap_or_else(|problem| error(format!("the answer is not JSON: {problem}")));
                self.answer(&address, value);
            }
        }
    }

    fn asked(&mut self, mut request: ControlRequest) {
        let ticket = request.ticket.take();
        let address = request.reply_to.take().map(|to| Address { to, ticket });
        self.log.line(Level::Debug, "celery.pidbox", || {
            format!(
                "pidbox received method {} [{}]",
                request.method,
                arguments::dict_repr(&request.arguments)
            )
        });
        let number = self.desk.last + 1;
        match self.carry_out(&request, number) {
            Answer::Now(value) => {
                if let Some(address) = address {
                    self.answer(&address, value);
                }
            }
            Answer::Later => {
                self.desk.last = number;
                self.desk.pending.insert(number, Pending { since: Instant::now(), address });
            }
            Answer::Silence => {}
        }
    }

    /// Carries a request out. What the app has added goes before what is built in, as in Celery.
    fn carry_out(&mut self, request: &ControlRequest, number: u64) -> Answer {
        let method = request.method.as_str();
        if self.options.control.commands.contains(method) {
            return self.ask_app(request, number);
        }
        self.tell_aside(request);
        Answer::Now(match method {
            "ping" => arguments::ok("pong"),
            "active" | "dump_active" => self.inspect_active(request),
            "reserved" | "dump_reserved" => self.inspect_reserved(),
            "scheduled" | "dump_schedule" => self.inspect_scheduled(),
            "revoked" | "dump_revoked" => self.inspect_revoked(),
            "registered" | "dump_tasks" => self.inspect_registered(request),
            "query_task" => self.inspect_query_task(request),
            "stats" => self.inspect_stats(),
            "active_queues" => self.inspect_active_queues(),
            "paused" => self.inspect_paused(),
            "dead_letters" => self.inspect_dead_letters(),
            "conf" | "dump_conf" => self.inspect_conf(request),
            "report" => self.inspect_report(),
            "hello" => self.control_hello(request),
            "memsample" => usage::memory_sample(),
            "memdump" | "objgraph" => raised(
                "NotImplementedError",
                &format!("{method} is for Python's own memory: use a profiler in a child process instead"),
            ),
            "revoke" | "terminate" => self.control_revoke(request),
            "revoke_by_stamped_headers" => self.control_revoke_stamped(request),
            "rate_limit" => self.control_rate_limit(request),
            "limit" => self.control_limit(request),
            "limits" => self.inspect_limits(),
            "time_limit" => self.control_time_limit(request),
            "add_consumer" => self.control_add_consumer(request),
            "pause_queue" | "resume_queue" => self.control_pause(request, method == "pause_queue"),
            "cancel_consumer" => self.control_cancel_consumer(request),
            "pool_grow" => self.control_pool_grow(request),
            "pool_shrink" => self.control_pool_shrink(request),
            "pool_restart" => self.control_pool_restart(request),
            "enable_events" | "disable_events" => self.control_events(method == "enable_events"),
            "heartbeat" => {
                self.send_heartbeat();
                Value::Null
            }
            "clock" => json!({ "clock": self.clock_value() }),
            "autoscale" => self.control_autoscale(request),
            // There is no gossip, as in a Celery worker that was started without it.
            "election" => Value::Null,
            "shutdown" => {
                self.control_shutdown(request);
                return Answer::Silence;
            }
            unknown => {
                let answer = raised("KeyError", unknown);
                self.log.line(Level::Error, "celery.pidbox", || {
                    format!("pidbox command error: KeyError({})", arguments::text_repr(unknown))
                });
                answer
            }
        })
    }

    fn ask_app(&mut self, request: &ControlRequest, number: u64) -> Answer {
        if self.desk.pending.len() >= PENDING {
            self.desk.pending.retain(|_, pending| pending.since.elapsed() < PATIENCE);
        }
        if self.desk.pending.len() >= PENDING {
            return Answer::Now(error(format!(
                "{PENDING} commands of the app wait for their answers already"
            )));
        }
        let arguments = Value::Object(request.arguments.clone()).to_string();
        self.notices.push(Notice::Command { number, method: request.method.clone(), arguments });
        Answer::Later
    }

    /// Sends an answer, beside the main way.
    fn answer(&self, address: &Address, value: Value) {
        let body = ControlReply { node: self.options.node.clone(), value }.to_json();
        let headers =
            json!({ "ticket": address.ticket, "clock": self.monitor.lamport.forward() }).to_string();
        let message = Message { headers: headers.into(), properties: properties(1), body: body.into() };
        let (broker, log, to) = (self.stores.broker.clone(), self.log.clone(), address.to.clone());
        self.chores.push(Box::pin(async move {
            let sending = broker.reply(&to.exchange, &to.routing_key, message);
            let failed = match timeout(SEND_WITHIN, sending).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("the broker does not answer".to_owned()),
            };
            if let Some(why) = failed {
                log.line(Level::Warning, LOGGER, || format!("a control request was not answered: {why}"));
            }
            Chore::Answered
        }));
    }

    fn control_events(&mut self, on: bool) -> Value {
        let state = if on { "enabled" } else { "disabled" };
        let already = if self.set_task_events(on) { "" } else { "already " };
        arguments::ok(format!("task events {already}{state}"))
    }

    /// The worker's logical clock.
    fn clock_value(&self) -> u64 {
        self.monitor.lamport.value()
    }
}

/// Properties of a message of remote control: JSON, 1 transient or 2 persistent.
fn properties(delivery_mode: u8) -> Properties {
    Properties {
        content_type: "application/json".to_owned(),
        content_encoding: "utf-8".to_owned(),
        delivery_mode,
        priority: Some(0),
        ..Properties::default()
    }
}

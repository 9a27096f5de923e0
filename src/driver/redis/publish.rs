//! What publications come to: where kombu would put them, and what is declared before.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use redis::{Cmd, Pipeline, cmd, pipe};

use super::broker::Shared;
use super::errors::LinkError;
use super::hear::is_heard;
use super::keys;
use super::scripts::BIND_EXPIRING;
use super::settle::{Arg, text};
use crate::broker::BrokerError;
use crate::driver::routing::{self, Apart};
use crate::protocol::{Envelope, Publication, Queue};

/// kombu keeps the binding of a queue that expires for this long at least.
const SHORTEST_BINDING_MS: u64 = 3_600_000;

/// One thing that happens to the store when something is published.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Into a list.
    Push { list: String, element: Vec<u8> },
    /// Into a parked set, until it is due.
    Park { parked: String, due_ms: i64, member: Vec<u8> },
    /// To all who listen.
    Broadcast { channel: String, element: Vec<u8> },
    /// A queue that expires is used.
    Expire { list: String, ms: u64 },
    /// One more entry of a stream, of which so many are kept.
    Append { stream: String, most: u64, entry: Vec<u8> },
}

/// What a publication is, for [`Shared::resolve`].
enum Kind {
    /// It goes into queues, which may expire after so many ms.
    Queued(Option<u64>),
    Fanout,
    Topic,
    Stream(u64),
}

impl Step {
    /// As the scripts have it that only publish.
    pub(super) fn into_args<'a>(self) -> Vec<Arg<'a>> {
        match self {
            Self::Push { list, element } => vec![text('l'), text(list), Cow::Owned(element)],
            Self::Park { parked, due_ms, member } => {
                vec![text('z'), text(parked), text(due_ms), Cow::Owned(member)]
            }
            Self::Broadcast { channel, element } => vec![text('f'), text(channel), Cow::Owned(element)],
            Self::Expire { list, ms } => vec![text('x'), text(list), text(ms)],
            Self::Append { stream, most, entry } => {
                vec![text('e'), text(stream), text(most), Cow::Owned(entry)]
            }
        }
    }
}

/// Members of binding sets by exchange, each taken apart.
type Bindings = HashMap<String, Vec<[String; 3]>>;

impl Shared {
    /// Declares what has to be, and says what to do for each publication. A batch with one that goes nowhere is
    /// refused: kombu would drop it without a word.
    pub(super) async fn resolve(&self, publications: &[&Publication]) -> Result<Vec<Vec<Step>>, BrokerError> {
        let mut declare = Vec::new();
        let (mut exchanges, mut topics) = (HashSet::new(), HashSet::new());
        let mut kinds = Vec::with_capacity(publications.len());
        for publication in publications {
            let plain = publication.exchange.is_empty();
            if plain && publication.declare.is_none() && self.is_declared(&publication.routing_key) {
                kinds.push(Kind::Queued(None));
                continue;
            }
            if let Some(apart) = routing::apart(publication) {
                kinds.push(match apart {
                    Apart::Stream(most) => Kind::Stream(most),
                    Apart::Topic => {
                        topics.insert(publication.exchange.clone());
                        Kind::Topic
                    }
                });
                continue;
            }
            let queue = self.declaration(publication);
            if !plain && keys::is_fanout(&self.topology, &queue, &publication.exchange) {
                kinds.push(Kind::Fanout);
                continue;
            }
            if !plain {
                exchanges.insert(publication.exchange.clone());
            }
            kinds.push(Kind::Queued(expires_ms(&queue)));
            if !self.is_declared(&declaration_name(&queue)) {
                declare.push(queue);
            }
        }
        if !declare.is_empty() {
            self.declare(&declare).await?;
        }
        let bindings = if exchanges.is_empty() { Bindings::new() } else { self.bindings(exchanges).await? };
        let topics = self.topics(topics).await?;
        let steps = |(publication, kind): (&&Publication, Kind)| match kind {
            Kind::Queued(expires) => self.steps(publication, &bindings, expires),
            Kind::Fanout => Ok(vec![self.broadcast_step(publication)]),
            Kind::Topic => Ok(self.topic_steps(publication, &topics)),
            Kind::Stream(most) => Ok(vec![self.stream_step(publication, most)]),
        };
        publications.iter().zip(kinds).map(steps).collect()
    }

    fn declaration(&self, publication: &Publication) -> Arc<Queue> {
        let named = || self.topology.declared_for(&publication.exchange, &publication.routing_key);
        publication.declare.clone().unwrap_or_else(named)
    }

    pub(super) fn broadcast_step(&self, publication: &Publication) -> Step {
        let Publication { exchange, routing_key, message, .. } = publication;
        Step::Broadcast {
            channel: self.layout.channel(exchange, routing_key),
            element: Envelope::encode(message, exchange, routing_key, &tag()),
        }
    }

    fn steps(
        &self,
        publication: &Publication,
        bindings: &Bindings,
        expires: Option<u64>,
    ) -> Result<Vec<Step>, BrokerError> {
        let Publication { exchange, routing_key, message, .. } = publication;
        let queues = if exchange.is_empty() {
            vec![&**routing_key]
        } else {
            bound_queues(bindings.get(exchange).into_iter().flatten(), routing_key)
        };
        if queues.is_empty() {
            return Err(self.refused(format!(
                "no queue is bound to exchange {exchange:?} with routing key {routing_key:?}, so nobody would get the \
                 message: start a worker that consumes from such a queue, or name a queue"
            )));
        }
        let step = self.layout.step(message.properties.priority.unwrap_or(0));
        let parked_until = publication.due_ms.filter(|due| self.park && *due > self.now().0);
        let mut steps = Vec::with_capacity(queues.len());
        for queue in queues {
            let element = Envelope::encode(message, exchange, routing_key, &tag());
            let list = self.layout.list(queue, step);
            match parked_until {
                Some(due_ms) => {
                    let mut member = format!("{step}:").into_bytes();
                    member.extend_from_slice(&element);
                    steps.push(Step::Park { parked: self.layout.parked(queue), due_ms, member });
                }
                None => steps.push(Step::Push { list, element }),
            }
            if let Some(ms) = expires {
                let lists = self.layout.lists(queue).into_iter();
                steps.extend(lists.map(|list| Step::Expire { list, ms }));
            }
        }
        Ok(steps)
    }

    /// Carries out what `resolve` said, all of it or nothing.
    pub(super) async fn publish(&self, publications: &[Publication]) -> Result<(), BrokerError> {
        let all: Vec<&Publication> = publications.iter().collect();
        let steps: Vec<Step> = self.resolve(&all).await?.into_iter().flatten().collect();
        // The answer to XADD is more than the one line that `send` reads.
        let one_line = !steps.iter().any(|step| matches!(step, Step::Append { .. }));
        let mut commands = commands(steps);
        let done = match commands.len() {
            0 => Ok(()),
            1 if one_line => self.link.send(&commands.remove(0)).await,
            count => {
                let mut pipeline = Pipeline::with_capacity(count);
                pipeline.atomic();
                for command in commands {
                    pipeline.add_command(command);
                }
                self.link.pipeline::<redis::Value>(&pipeline).await.map(drop)
            }
        };
        done.map_err(|error| self.failed(error))
    }

    /// Binds queues as kombu does, and remembers that.
    pub(super) async fn declare(&self, queues: &[Arc<Queue>]) -> Result<(), BrokerError> {
        let mut pipeline = pipe();
        pipeline.atomic();
        // A queue of one worker on a fanout exchange is nowhere: its name would stay behind.
        for queue in queues.iter().filter(|queue| !(queue.auto_delete && is_heard(queue))) {
            pipeline.cmd("SADD").arg(&self.layout.queues).arg(&queue.name).ignore();
            if queue.no_declare {
                continue;
            }
            let expires = expires_ms(queue);
            for binding in queue.all_bindings() {
                let exchange = &binding.exchange;
                let topic = exchange.kind == "topic";
                let pattern = if topic { keys::topic_pattern(&binding.routing_key) } else { String::new() };
                let member = self.layout.binding_member(&binding.routing_key, &pattern, &queue.name);
                let key = self.layout.binding(&exchange.name);
                if let Some(ms) = expires {
                    let holds = (2 * ms).max(SHORTEST_BINDING_MS).to_string();
                    let keys = [key, self.layout.binding_deadlines()];
                    let args = [&member, &exchange.name, &holds];
                    let bound = self.link.script(&BIND_EXPIRING, &keys, &args).await;
                    bound.map_err(|error| self.failed(error))?;
                } else {
                    pipeline.cmd("SADD").arg(key).arg(&member).ignore();
                    pipeline
                        .cmd("SADD")
                        .arg(self.layout.permanent_binding(&exchange.name))
                        .arg(&member)
                        .ignore();
                }
            }
        }
        if !pipeline.is_empty() {
            self.link.pipeline::<()>(&pipeline).await.map_err(|error| self.failed(error))?;
        }
        let mut declared = self.declared.lock();
        // By its name alone too: that is all that the default exchange needs.
        declared.extend(queues.iter().map(|queue| queue.name.clone()));
        declared.extend(queues.iter().map(|queue| declaration_name(queue)));
        Ok(())
    }

    fn is_declared(&self, declaration: &str) -> bool {
        self.declared.lock().contains(declaration)
    }

    /// Reads the bindings of exchanges. They are not kept: another process may bind a queue at any time.
    async fn bindings(&self, exchanges: HashSet<String>) -> Result<Bindings, BrokerError> {
        let mut pipeline = pipe();
        for exchange in &exchanges {
            pipeline.cmd("SMEMBERS").arg(self.layout.binding(exchange));
        }
        let read: Vec<HashSet<String>> =
            self.link.pipeline(&pipeline).await.map_err(|error| self.failed(error))?;
        let apart = |member: String| {
            let mut parts = member.splitn(3, &self.layout.separator).map(str::to_owned);
            Some([parts.next()?, parts.next()?, parts.next()?])
        };
        Ok(exchanges
            .into_iter()
            .zip(read)
            .map(|(exchange, members)| (exchange, members.into_iter().filter_map(apart).collect()))
            .collect())
    }

    /// The lists that a claim of kombu goes back to.
    pub(super) async fn lists_of(
        &self,
        exchange: &str,
        routing_key: &str,
        priority: u8,
    ) -> Result<Vec<String>, BrokerError> {
        let step = self.layout.step(priority);
        if exchange.is_empty() {
            return Ok(vec![self.layout.list(routing_key, step)]);
        }
        let bindings = self.bindings(HashSet::from([exchange.to_owned()])).await?;
        let queues = bound_queues(bindings.values().flatten(), routing_key);
        Ok(queues.into_iter().map(|queue| self.layout.list(queue, step)).collect())
    }

    /// An error of the link. What was declared may have been lost with the server.
    pub(super) fn failed(&self, error: LinkError) -> BrokerError {
        self.declared.lock().clear();
        error.into()
    }

    fn refused(&self, reason: String) -> BrokerError {
        BrokerError::Refused { url: self.link.url().to_owned(), reason }
    }
}

/// The queues that bindings of one exchange lead to, each once.
fn bound_queues<'a>(bindings: impl Iterator<Item = &'a [String; 3]>, routing_key: &str) -> Vec<&'a str> {
    let matching = bindings.filter(|[key, pattern, _]| {
        if pattern.is_empty() { key == routing_key } else { keys::topic_matches(key, routing_key) }
    });
    let mut queues: Vec<&str> = matching.map(|[_, _, queue]| &**queue).collect();
    queues.sort_unstable();
    queues.dedup();
    queues
}

/// A name that no other message has.
pub(super) fn tag() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// One queue may be declared with several first bindings.
fn declaration_name(queue: &Queue) -> String {
    [&*queue.name, &queue.exchange.name, &queue.routing_key].join("\0")
}

/// `x-expires` of a queue.
pub(super) fn expires_ms(queue: &Queue) -> Option<u64> {
    queue.arguments.get("x-expires").and_then(serde_json::Value::as_u64).filter(|ms| *ms > 0)
}

/// Steps as commands; what goes to one list goes with one.
fn commands(steps: Vec<Step>) -> Vec<Cmd> {
    let mut commands: Vec<Cmd> = Vec::new();
    let mut pushes: HashMap<String, usize> = HashMap::new();
    let mut expires = Vec::new();
    for step in steps {
        match step {
            Step::Push { list, element } => {
                let place = *pushes.entry(list).or_insert_with_key(|list| {
                    let mut command = cmd("LPUSH");
                    command.arg(list);
                    commands.push(command);
                    commands.len() - 1
                });
                commands[place].arg(element);
            }
            Step::Park { parked, due_ms, member } => {
                let mut command = cmd("ZADD");
                command.arg(parked).arg(due_ms).arg(member);
                commands.push(command);
            }
            Step::Broadcast { channel, element } => {
                let mut command = cmd("PUBLISH");
                command.arg(channel).arg(element);
                commands.push(command);
            }
            Step::Expire { list, ms } => {
                let mut command = cmd("PEXPIRE");
                command.arg(list).arg(ms);
                expires.push(command);
            }
            Step::Append { stream, most, entry } => {
                let mut command = cmd("XADD");
                command.arg(stream).arg("MAXLEN").arg("~").arg(most).arg("*").arg("e").arg(entry);
                commands.push(command);
            }
        }
    }
    commands.extend(expires);
    commands
}

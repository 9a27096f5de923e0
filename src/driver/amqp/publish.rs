//! Sending: each batch on a channel of its own for as long as it takes, confirmed by the server.
//!
//! Channels are kept and used again, but never by two batches at a time: the server says that a message came back
//! or was refused only by channel, so that one caller would be told of another's message.
//!
//! AMQP cannot promise "all of a batch or none": after an error some of it may be there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{maybe_done, try_join_all};
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::declare;
use super::delay;
use super::failure;
use super::link::{Link, Live};
use super::wire;
use crate::broker::BrokerError;
use crate::clock::Clock;
use crate::driver::{ConnectOptions, routing};
use crate::protocol::{Message, Publication, Queue, Topology};

/// Messages that wait for their confirmation at the most, and their bytes.
const WINDOW: usize = 1_000;
const WINDOW_BYTES: usize = 16 << 20;
/// Copies that go on one channel, where there are more.
const PART: usize = 250;
/// Batches under way at the most; a server allows about two thousand channels.
const LANES: usize = 256;
/// Channels kept for later.
const IDLE: usize = 16;

/// Sends messages.
pub(super) struct Publisher {
    pub(super) link: Link,
    pub(super) topology: Arc<Topology>,
    pub(super) clock: Clock,
    park: bool,
    timeout: Duration,
    lanes: Semaphore,
    /// Written when a batch is confirmed, read by the next one.
    idle: Mutex<Vec<Lane>>,
}

/// A channel in confirm mode.
struct Lane {
    live: Arc<Live>,
    channel: Channel,
}

/// A message on its way.
pub(super) struct Letter {
    exchange: ShortString,
    key: ShortString,
    mandatory: bool,
    properties: BasicProperties,
    body: Bytes,
    /// What is declared before.
    declare: Option<Arc<Queue>>,
    /// The queue that gets it by way of the delay levels, and how.
    delayed: Option<(Arc<Queue>, delay::Way)>,
}

/// What came back.
struct NoRoute {
    exchange: ShortString,
    key: ShortString,
    reason: String,
}

/// Addresses once more what came back.
type Again<'a> = dyn Fn(&[NoRoute]) -> Result<Vec<Letter>, BrokerError> + Sync + 'a;

impl Publisher {
    pub(super) fn new(link: Link, options: &ConnectOptions) -> Self {
        Self {
            link,
            topology: options.topology.clone(),
            clock: options.clock.clone(),
            park: options.park,
            timeout: options.publish_timeout,
            lanes: Semaphore::new(LANES),
            idle: Mutex::default(),
        }
    }

    /// Sends a batch; returns when the server has confirmed all of it.
    pub(super) async fn publish(&self, batch: &[Publication]) -> Result<(), BrokerError> {
        if batch.is_empty() {
            return Ok(());
        }
        let letters = batch.iter().map(|publication| self.letter(publication)).collect::<Result<_, _>>()?;
        let again = |lost: &[NoRoute]| {
            let returned = |publication: &&Publication| {
                lost.iter().any(|lost| {
                    lost.exchange.as_str() == publication.exchange
                        && lost.key.as_str() == publication.routing_key
                })
            };
            batch.iter().filter(returned).map(|publication| self.letter(publication)).collect()
        };
        self.within(self.send(letters, Some(&again))).await
    }

    /// Sends what was addressed already: copies, which keep no order among each other. A large batch goes on several
    /// channels, which the server works on side by side.
    pub(super) async fn deliver(&self, letters: Vec<Letter>) -> Result<(), BrokerError> {
        if letters.is_empty() {
            return Ok(());
        }
        let mut parts = Vec::new();
        let mut letters = letters.into_iter().peekable();
        while letters.peek().is_some() {
            parts.push(self.send(letters.by_ref().take(PART).collect(), None));
        }
        self.within(async { try_join_all(parts).await.map(drop) }).await
    }

    async fn within(
        &self,
        sending: impl Future<Output = Result<(), BrokerError>>,
    ) -> Result<(), BrokerError> {
        let sent = timeout_at(Instant::now() + self.timeout, sending).await;
        sent.unwrap_or_else(|_| {
            let reason = self.link.blocked_text();
            let reason = reason.as_deref().unwrap_or("it did not confirm the message");
            Err(failure::timeout(&self.link.url, self.timeout, reason))
        })
    }

    /// A message addressed as it says itself.
    fn letter(&self, publication: &Publication) -> Result<Letter, BrokerError> {
        let Publication { exchange, routing_key, message, .. } = publication;
        if let (Some(queue), Some(_)) = (&publication.declare, routing::apart(publication)) {
            // Who is bound the server knows, and nobody is no error.
            let declare = Some(queue.clone());
            return Ok(Letter { declare, ..self.bare(exchange, routing_key, message)? });
        }
        let queue = match &publication.declare {
            Some(queue) => queue.clone(),
            None => self.topology.declared_for(exchange, routing_key),
        };
        let kind = self.kind(exchange, &queue);
        let seconds = publication.due_ms.and_then(|due| delay::seconds(self.clock.now(), due));
        if let Some(seconds) = seconds {
            // Where Celery itself does so, or where the message goes to one queue that is known.
            let native = !exchange.is_empty() && kind != "direct" && self.topology.any_quorum();
            if native && queue.exchange.name == *exchange {
                return self.delayed(seconds, routing_key, message, queue, delay::Way::Exchange);
            }
            if self.park && exchange.is_empty() && queue.name == *routing_key {
                return self.delayed(seconds, routing_key, message, queue, delay::Way::Queue);
            }
        }
        Ok(Letter {
            exchange: declare::name(&self.link.url, exchange)?,
            key: declare::name(&self.link.url, routing_key)?,
            mandatory: kind != "fanout",
            properties: self.properties(message)?,
            body: message.body.clone(),
            declare: Some(queue),
            delayed: None,
        })
    }

    fn kind<'a>(&'a self, exchange: &str, queue: &'a Queue) -> &'a str {
        if exchange.is_empty() || queue.exchange.name == exchange {
            return &queue.exchange.kind;
        }
        let found = self.topology.queues.values().find(|queue| queue.exchange.name == exchange);
        found.map_or("direct", |queue| &queue.exchange.kind)
    }

    /// A message that takes its way through the delay levels.
    fn delayed(
        &self,
        seconds: u64,
        key: &str,
        message: &Message,
        queue: Arc<Queue>,
        way: delay::Way,
    ) -> Result<Letter, BrokerError> {
        // Its own limit would end its stay in the first level, and bring it too early.
        let mut message = message.clone();
        message.properties.expiration_ms = None;
        Ok(Letter {
            exchange: declare::name(&self.link.url, &delay::entrance(seconds))?,
            key: declare::name(&self.link.url, &delay::key(seconds, key))?,
            mandatory: true,
            properties: self.properties(&message)?,
            body: message.body,
            declare: Some(queue.clone()),
            delayed: Some((queue, way)),
        })
    }

    /// A message straight to a queue, which is there; delayed until `due_ms` if that is a second away.
    pub(super) fn to_queue(
        &self,
        queue: &str,
        message: &Message,
        due_ms: Option<i64>,
    ) -> Result<Letter, BrokerError> {
        if let Some(seconds) = due_ms.and_then(|due| delay::seconds(self.clock.now(), due)) {
            return self.delayed(seconds, queue, message, self.topology.queue(queue), delay::Way::Queue);
        }
        let mut letter = self.bare("", queue, message)?;
        letter.mandatory = true;
        Ok(letter)
    }

    /// A message that may reach nobody, and before which nothing is declared.
    pub(super) fn bare(&self, exchange: &str, key: &str, message: &Message) -> Result<Letter, BrokerError> {
        Ok(Letter {
            exchange: declare::name(&self.link.url, exchange)?,
            key: declare::name(&self.link.url, key)?,
            mandatory: false,
            properties: self.properties(message)?,
            body: message.body.clone(),
            declare: None,
            delayed: None,
        })
    }

    fn properties(&self, message: &Message) -> Result<BasicProperties, BrokerError> {
        wire::properties(message).map_err(|reason| failure::refused(&self.link.url, reason))
    }

    async fn send(&self, letters: Vec<Letter>, again: Option<&Again<'_>>) -> Result<(), BrokerError> {
        let _place = self.lanes.acquire().await.map_err(|_| BrokerError::Closed)?;
        let lane = self.lane().await?;
        lane.live.unblocked(&self.link.url, Instant::now() + self.timeout, self.timeout).await?;
        self.declare(&lane.live, &letters).await?;
        let mut lost = self.windows(&lane.channel, letters).await?;
        if let (Some(again), false) = (again, lost.is_empty()) {
            // The queue may have been deleted since it was declared.
            lane.live.forget();
            let letters = again(&lost)?;
            self.declare(&lane.live, &letters).await?;
            lost = self.windows(&lane.channel, letters).await?;
        }
        let mut idle = self.idle.lock();
        if idle.len() < IDLE {
            idle.push(lane);
        }
        match lost.first() {
            None => Ok(()),
            Some(lost) => Err(failure::refused(
                &self.link.url,
                format!(
                    "no queue takes messages of exchange {:?} with key {:?} ({})",
                    lost.exchange.as_str(),
                    lost.key.as_str(),
                    lost.reason
                ),
            )),
        }
    }

    /// A channel that nobody else uses.
    async fn lane(&self) -> Result<Lane, BrokerError> {
        while let Some(lane) = self.take_idle() {
            if lane.live.is_up() && lane.channel.status().connected() {
                return Ok(lane);
            }
        }
        let (live, channel) = self.link.channel().await?;
        let confirmed = channel.confirm_select(ConfirmSelectOptions::default()).await;
        confirmed.map_err(|error| self.link.error(&error))?;
        Ok(Lane { live, channel })
    }

    fn take_idle(&self) -> Option<Lane> {
        self.idle.lock().pop()
    }

    async fn declare(&self, live: &Live, letters: &[Letter]) -> Result<(), BrokerError> {
        for letter in letters {
            if let Some(queue) = &letter.declare {
                declare::for_publishing(&self.link, live, queue).await?;
            }
            if let Some((queue, way)) = &letter.delayed {
                let queue_type = &self.topology.delayed_queue_type;
                delay::prepare(&self.link, live, queue_type, queue, *way).await?;
            }
        }
        Ok(())
    }

    /// Sends letters, a window at a time; gives what came back.
    async fn windows(&self, channel: &Channel, letters: Vec<Letter>) -> Result<Vec<NoRoute>, BrokerError> {
        let mut lost = Vec::new();
        let mut letters = letters.into_iter().peekable();
        while letters.peek().is_some() {
            let (mut window, mut bytes) = (Vec::new(), 0);
            while window.len() < WINDOW && bytes < WINDOW_BYTES {
                let Some(letter) = letters.next() else { break };
                bytes += letter.body.len();
                window.push(letter);
            }
            self.window(channel, window, &mut lost).await?;
        }
        Ok(lost)
    }

    async fn window(
        &self,
        channel: &Channel,
        letters: Vec<Letter>,
        lost: &mut Vec<NoRoute>,
    ) -> Result<(), BrokerError> {
        let error = |error: lapin::Error| self.link.error(&error);
        let mut sends = Vec::with_capacity(letters.len());
        for letter in &letters {
            let options = BasicPublishOptions { mandatory: letter.mandatory, immediate: false };
            let (exchange, key) = (letter.exchange.clone(), letter.key.clone());
            let properties = letter.properties.clone();
            let send = channel.basic_publish(exchange, key, options, &letter.body, properties);
            sends.push(Box::pin(maybe_done(send)));
        }
        // A message is queued when its future is first polled: so they go in order, and none waits for another.
        std::future::poll_fn(|context| {
            for send in &mut sends {
                let _ready_or_not = send.as_mut().poll(context);
            }
            std::task::Poll::Ready(())
        })
        .await;
        let mut confirms = Vec::with_capacity(sends.len());
        for mut send in sends {
            send.as_mut().await;
            if let Some(sent) = send.as_mut().take_output() {
                confirms.push(sent.map_err(error)?);
            }
        }
        let mut refused = None;
        for confirm in confirms {
            match confirm.await.map_err(error)? {
                Confirmation::Nack(_) => refused = Some("it did not take a message: is a queue full?"),
                Confirmation::NotRequested => refused = Some("it confirms no messages"),
                Confirmation::Ack(None) => {}
                Confirmation::Ack(Some(returned)) => lost.push(no_route(&returned)),
            }
        }
        refused.map_or(Ok(()), |reason| Err(failure::unavailable(&self.link.url, reason)))
    }
}

fn no_route(returned: &BasicReturnMessage) -> NoRoute {
    NoRoute {
        exchange: returned.delivery.exchange.clone(),
        key: returned.delivery.routing_key.clone(),
        reason: returned.reply_text.to_string(),
    }
}

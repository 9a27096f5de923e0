//! The broker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lapin::options::{QueueDeclareOptions, QueuePurgeOptions};
use parking_lot::Mutex;

use super::consumer::AmqpConsumer;
use super::link::{Link, none};
use super::listen::{self, AmqpListener};
use super::publish::Publisher;
use super::schedule::Schedules;
use super::{cell, dead, declare, failure};
use crate::broker::{
    Broker, BrokerError, Consumer, ConsumerOptions, DeadFilter, DeadLetter, DeadLimits, DeadReason,
    DeadStats, Fired, Firing, Listener, QueueStatus, Rebind, Resolution, ScheduleLease, ScheduleState,
};
use crate::driver::ConnectOptions;
use crate::protocol::{Message, Publication, TASK_STREAM, TopicBinding};
use crate::report::StoreReport;
use crate::url::StoreUrl;

/// Queues of others that are remembered for their counts.
const REMEMBERED: usize = 1_000;
/// Names of queues that no worker takes from: a cell. Written by whoever pauses and resumes, the new value before the old
/// one goes; workers read it when they start.
const PAUSED: &str = "celeriac.paused";
const PAUSED_LOCK: &str = "celeriac.paused.lock";

/// `RabbitMQ`.
pub(super) struct AmqpBroker {
    publisher: Arc<Publisher>,
    /// The connection of consumers: a server that blocks those who publish does not block it.
    consuming: Arc<Link>,
    /// Queues that were used here. Written by publishing and consuming, read by `queues`.
    used: Mutex<BTreeSet<String>>,
    schedules: Schedules,
    /// One after the other in this process: the lock at the server belongs to the connection.
    pausing: tokio::sync::Mutex<()>,
}

impl AmqpBroker {
    pub(super) fn new(url: &StoreUrl, options: &ConnectOptions) -> Result<Self, BrokerError> {
        Ok(Self {
            publisher: Arc::new(Publisher::new(Link::new(url, options, "celeriac publisher")?, options)),
            consuming: Arc::new(Link::new(url, options, "celeriac consumer")?),
            used: Mutex::default(),
            schedules: Schedules::new(url, options)?,
            pausing: tokio::sync::Mutex::default(),
        })
    }

    fn remember<'a>(&self, queues: impl Iterator<Item = &'a str>) {
        let mut used = self.used.lock();
        for queue in queues {
            if !queue.is_empty() && !used.contains(queue) && used.len() < REMEMBERED {
                used.insert(queue.to_owned());
            }
        }
    }

    /// The queues that are known here: those of the app, and those that were used.
    fn known(&self) -> BTreeSet<String> {
        let mut names = self.used.lock().clone();
        names.extend(self.publisher.topology.queues.keys().cloned());
        names
    }

    /// How many messages wait in a queue, and how many consumers it has; none if there is no such queue.
    async fn count(&self, queue: &str) -> Result<Option<(u32, u32)>, BrokerError> {
        let link = &self.publisher.link;
        // Asking for a queue that is not there ends the channel.
        let (_, channel) = link.channel().await?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        match channel.queue_declare(declare::name(&link.url, queue)?, options, none()).await {
            Ok(found) => Ok(Some((found.message_count(), found.consumer_count()))),
            Err(error) => match link.error(&error) {
                missing if failure::is_missing(&missing) => Ok(None),
                error => Err(error),
            },
        }
    }
}

#[async_trait]
impl Broker for AmqpBroker {
    async fn publish(&self, batch: Vec<Publication>) -> Result<(), BrokerError> {
        let to_queues = batch.iter().filter(|publication| publication.exchange.is_empty());
        self.remember(to_queues.map(|publication| &*publication.routing_key));
        self.publisher.publish(&batch).await
    }

    async fn consume(&self, options: ConsumerOptions) -> Result<Box<dyn Consumer>, BrokerError> {
        self.remember(options.queues.iter().map(String::as_str));
        let consumer = AmqpConsumer::begin(self.publisher.clone(), self.consuming.clone(), options).await?;
        Ok(Box::new(consumer))
    }

    async fn purge(&self, queue: &str) -> Result<u64, BrokerError> {
        let link = &self.publisher.link;
        let (_, channel) = link.channel().await?;
        let name = declare::name(&link.url, queue)?;
        match channel.queue_purge(name, QueuePurgeOptions::default()).await {
            Ok(count) => Ok(u64::from(count)),
            Err(error) => match link.error(&error) {
                missing if failure::is_missing(&missing) => Ok(0),
                error => Err(error),
            },
        }
    }

    /// What is claimed or parked, AMQP does not tell.
    async fn queues(&self) -> Result<Vec<QueueStatus>, BrokerError> {
        let mut statuses = Vec::new();
        for name in self.known() {
            if let Some((ready, _)) = self.count(&name).await? {
                statuses.push(QueueStatus { name, ready: u64::from(ready), ..QueueStatus::default() });
            }
        }
        Ok(statuses)
    }

    async fn examine(&self) -> Result<StoreReport, BrokerError> {
        let mut consumers = BTreeMap::new();
        // An app without queues still wants to know whether the server lets it in.
        drop(self.publisher.link.channel().await?);
        for name in self.known() {
            if let Some((_, count)) = self.count(&name).await? {
                consumers.insert(name, u64::from(count));
            }
        }
        Ok(StoreReport { consumers: Some(consumers), ..StoreReport::default() })
    }

    async fn find_dead(&self, filter: &DeadFilter, limit: usize) -> Result<Vec<DeadLetter>, BrokerError> {
        dead::find(&self.publisher.link, filter, limit).await
    }

    async fn dead_stats(&self) -> Result<DeadStats, BrokerError> {
        dead::stats(&self.publisher.link).await
    }

    async fn resolve_dead(&self, resolutions: Vec<Resolution>) -> Result<Vec<u64>, BrokerError> {
        dead::resolve(&self.publisher, resolutions).await
    }

    async fn trim_dead(&self, limits: &DeadLimits) -> Result<u64, BrokerError> {
        dead::trim(&self.publisher, limits).await
    }

    /// Asks for the cell before it is looked into: on a server where nobody has paused anything, it is not made.
    async fn paused(&self, queues: &[String]) -> Result<Vec<String>, BrokerError> {
        if self.count(PAUSED).await?.is_none() {
            return Ok(Vec::new());
        }
        let _alone = self.pausing.lock().await;
        let locked = cell::lock(&self.publisher.link, PAUSED_LOCK.to_owned()).await?;
        let paused = locked.read::<BTreeSet<String>>(PAUSED).await?.value;
        locked.unlock().await?;
        Ok(queues.iter().filter(|queue| paused.contains(*queue)).cloned().collect())
    }

    async fn set_paused(&self, queue: &str, paused: bool) -> Result<(), BrokerError> {
        let _alone = self.pausing.lock().await;
        let locked = cell::lock(&self.publisher.link, PAUSED_LOCK.to_owned()).await?;
        let note = |queues: &mut BTreeSet<String>| {
            if paused {
                queues.insert(queue.to_owned());
            } else {
                queues.remove(queue);
            }
        };
        locked.change(PAUSED, note).await?;
        locked.unlock().await
    }

    async fn bury(
        &self,
        message: Publication,
        reason: DeadReason,
        detail: String,
    ) -> Result<(), BrokerError> {
        dead::declare(&self.publisher.link).await?;
        let queue = crate::driver::routing::queue(&message);
        let letter = dead::letter(&self.publisher, queue, &message.message, reason, &detail, 0)?;
        self.publisher.deliver(vec![letter]).await
    }

    /// Queues of listeners keep a broadcast as long as Celery's do; `ttl` does not change that.
    async fn broadcast(
        &self,
        exchange: &str,
        routing_key: &str,
        message: Message,
        _ttl: Duration,
    ) -> Result<(), BrokerError> {
        listen::declare(&self.publisher.link, &listen::broadcasts(exchange)).await?;
        let letter = self.publisher.bare(exchange, routing_key, &message)?;
        self.publisher.deliver(vec![letter]).await
    }

    async fn listen(&self, exchange: &str) -> Result<Box<dyn Listener>, BrokerError> {
        Ok(Box::new(AmqpListener::begin(self.consuming.clone(), exchange).await?))
    }

    async fn inbox(&self, exchange: &str, key: &str) -> Result<Box<dyn Listener>, BrokerError> {
        Ok(Box::new(AmqpListener::inbox(self.consuming.clone(), exchange, key).await?))
    }

    async fn reply(&self, exchange: &str, key: &str, message: Message) -> Result<(), BrokerError> {
        listen::declare(&self.publisher.link, &listen::replies(exchange)).await?;
        let letter = self.publisher.bare(exchange, key, &message)?;
        self.publisher.deliver(vec![letter]).await
    }

    /// The server only says that a message was delivered before.
    fn counts_crashes(&self) -> bool {
        false
    }

    fn store_id(&self) -> Option<String> {
        None
    }

    fn display_url(&self) -> String {
        self.consuming.url.clone()
    }

    async fn sweep(&self) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn schedule_lease(
        &self,
        schedule: &str,
        holder: &str,
        _ttl: Duration,
    ) -> Result<ScheduleLease, BrokerError> {
        self.schedules.lease(schedule, holder).await
    }

    async fn schedule_release(&self, schedule: &str, holder: &str) -> Result<(), BrokerError> {
        self.schedules.release(schedule, holder).await
    }

    async fn fire(&self, firing: &Firing) -> Result<Fired, BrokerError> {
        self.schedules.fire(firing).await
    }

    async fn schedule_state(&self, schedule: &str) -> Result<ScheduleState, BrokerError> {
        self.schedules.state(schedule).await
    }

    async fn schedule_change(
        &self,
        schedule: &str,
        entry: &str,
        change: Option<String>,
    ) -> Result<(), BrokerError> {
        self.schedules.change(schedule, entry, change).await
    }

    async fn bind_topics(&self, binding: &TopicBinding, how: Rebind) -> Result<(), BrokerError> {
        self.remember(std::iter::once(&*binding.queue));
        self.publisher.bind_topics(binding, how).await
    }

    async fn subscribe(&self, exchange: &str, patterns: &[String]) -> Result<Box<dyn Listener>, BrokerError> {
        Ok(Box::new(AmqpListener::topic(self.consuming.clone(), exchange, patterns).await?))
    }

    /// Entries come as they happen, and only then.
    async fn stream(&self, after: Option<&str>) -> Result<Box<dyn Listener>, BrokerError> {
        if after.is_some() {
            let url = self.display_url();
            let reason =
                format!("{url} keeps no stream to read on from: what happens to tasks is heard from now on");
            return Err(BrokerError::Config(reason));
        }
        self.subscribe(TASK_STREAM, &["#".to_owned()]).await
    }
}

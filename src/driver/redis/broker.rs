//! The broker contract over kombu's layout.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use redis::{FromRedisValue as _, cmd, pipe};
use tokio::sync::{Notify, OnceCell};

use super::address::Address;
use super::consumer::RedisConsumer;
use super::inbox::RedisInbox;
use super::keys::Layout;
use super::limits::RedisLimits;
use super::link::Link;
use super::listen::RedisListener;
use super::scripts::{BURY, SWEEP, UNPARK};
use crate::broker::{
    Broker, BrokerError, Consumer, ConsumerOptions, DeadFilter, DeadLetter, DeadLimits, DeadReason,
    DeadStats, Fired, Firing, Listener, QueueStatus, Rebind, Resolution, ScheduleLease, ScheduleState,
};
use crate::clock::{Clock, UnixMillis};
use crate::driver::{ConnectOptions, Threading};
use crate::keys::{Admission, Admitted, Keys};
use crate::limits::LimitStore;
use crate::protocol::{Envelope, Message, Publication, TopicBinding, Topology};
use crate::report::StoreReport;
use crate::url::StoreUrl;

/// Clocks that differ by less are taken for the same.
const SAME_CLOCK_MS: i64 = 1000;
/// Parked messages that one step moves back.
const UNPARKED: usize = 1000;

/// A broker on a Redis server. Clones share one connection.
#[derive(Clone)]
pub struct RedisBroker(pub(super) Arc<Shared>);

/// What a broker, its consumers and its listeners share.
pub(super) struct Shared {
    pub(super) address: Arc<Address>,
    pub(super) link: Link,
    pub(super) layout: Layout,
    pub(super) topology: Arc<Topology>,
    /// Messages with a due time are parked by this process.
    pub(super) park: bool,
    /// Queues declared over this connection. Emptied when a call fails: a server that restarted may have lost them.
    pub(super) declared: Mutex<HashSet<String>>,
    /// Rung for claims that wait: the queues changed, the consumer was closed, a test moved the clock.
    pub(super) bell: Notify,
    clock: Clock,
    /// What to add to our clock to get the server's, in ms. Written by `measure_clock`, read by `now`.
    offset: AtomicI64,
    measured: OnceCell<()>,
}

impl RedisBroker {
    /// A broker at a URL; connects when it is first used.
    pub(super) fn open(url: &StoreUrl, options: &ConnectOptions) -> Result<Self, BrokerError> {
        let address = Address::parse(url, options)?;
        let link = Link::new(address.clone(), address.connect_timeout(), address.answer_timeout());
        let link = if options.threading == Threading::Inline { link.inline() } else { link };
        Ok(Self(Arc::new(Shared {
            layout: Layout::read(&options.transport, address.database()),
            address,
            link,
            topology: options.topology.clone(),
            park: options.park,
            declared: Mutex::default(),
            bell: Notify::new(),
            clock: options.clock.clone(),
            offset: AtomicI64::new(0),
            measured: OnceCell::new(),
        })))
    }

    /// As [`crate::driver::connect_broker`], for those who need more than the contract.
    pub fn connect(url: &str, options: &ConnectOptions) -> Result<Self, BrokerError> {
        let url = StoreUrl::parse(url).map_err(|error| BrokerError::Config(error.to_string()))?;
        Self::open(&url, options)
    }

    /// Makes every claim that waits look again; for tests, after they moved a manual clock.
    pub fn wake(&self) {
        self.0.bell.notify_waiters();
    }
}

impl Shared {
    /// Now, by the clock of the server, so that hosts with wrong clocks take no lease for ended.
    pub(super) fn now(&self) -> UnixMillis {
        UnixMillis(self.clock.now().0.saturating_add(self.offset.load(Ordering::Relaxed)))
    }

    /// Compares our clock with the server's, once.
    pub(super) async fn measure_clock(&self) -> Result<(), BrokerError> {
        if !self.clock.is_system() {
            return Ok(());
        }
        let measure = async || {
            let asked = self.clock.now().0;
            let (seconds, micros): (i64, i64) = self.link.query(&cmd("TIME")).await?;
            let ours = i64::midpoint(asked, self.clock.now().0);
            let offset = seconds * 1000 + micros / 1000 - ours;
            if offset.abs() > SAME_CLOCK_MS {
                self.offset.store(offset, Ordering::Relaxed);
            }
            Ok::<(), super::errors::LinkError>(())
        };
        self.measured.get_or_try_init(measure).await.map(drop).map_err(|error| self.failed(error))
    }

    /// Now, by our own clock.
    pub(super) fn our_clock(&self) -> impl Fn() -> UnixMillis + '_ {
        || self.clock.now()
    }

    /// The claim time that kombu keeps: seconds. Whole ones, never too early: the server takes far longer for fractions.
    pub(super) fn score(&self) -> String {
        (self.now().0 + 999).div_euclid(1000).to_string()
    }
}

#[async_trait]
impl Broker for RedisBroker {
    async fn publish(&self, batch: Vec<Publication>) -> Result<(), BrokerError> {
        self.0.publish(&batch).await
    }

    fn keys(&self) -> Option<&dyn Keys> {
        Some(self)
    }

    async fn publish_admitted(
        &self,
        publication: &Publication,
        admission: &Admission,
    ) -> Result<Option<Admitted>, BrokerError> {
        self.0.publish_admitted(publication, admission).await.map(Some)
    }

    async fn consume(&self, options: ConsumerOptions) -> Result<Box<dyn Consumer>, BrokerError> {
        Ok(Box::new(RedisConsumer::start(&self.0, options).await?))
    }

    async fn purge(&self, queue: &str) -> Result<u64, BrokerError> {
        let layout = &self.0.layout;
        let (lists, parked) = (layout.lists(queue), layout.parked(queue));
        let mut pipeline = pipe();
        pipeline.atomic();
        for list in &lists {
            pipeline.cmd("LLEN").arg(list);
        }
        pipeline.cmd("ZCARD").arg(&parked);
        pipeline.cmd("DEL").arg(lists).arg(parked).ignore();
        let counts: Vec<u64> = self.0.link.pipeline(&pipeline).await.map_err(|error| self.0.failed(error))?;
        Ok(counts.iter().sum())
    }

    async fn unpark(&self, queue: &str) -> Result<u64, BrokerError> {
        let layout = &self.0.layout;
        let keys: Vec<String> = std::iter::once(layout.parked(queue)).chain(layout.lists(queue)).collect();
        let steps = layout.steps.iter().map(ToString::to_string);
        let args: Vec<String> = std::iter::once(UNPARKED.to_string()).chain(steps).collect();
        let mut count = cmd("ZCARD");
        count.arg(&keys[0]);
        // No more than there were: a worker of ours that consumes the queue parks them again.
        let there: u64 = self.0.link.query(&count).await.map_err(|error| self.0.failed(error))?;
        let mut moved = 0;
        while moved < there {
            let answer = self.0.link.script(&UNPARK, &keys, &args).await;
            match u64::from_redis_value(answer.map_err(|error| self.0.failed(error))?).unwrap_or(0) {
                0 => break,
                more => moved += more,
            }
        }
        Ok(moved)
    }

    async fn recall(&self, queue: &str) -> Result<u64, BrokerError> {
        self.unpark(queue).await
    }

    fn limits(&self) -> Option<Arc<dyn LimitStore>> {
        Some(RedisLimits::store(self.0.clone(), &self.0.layout.prefix, &self.0.clock))
    }

    fn recalls(&self) -> bool {
        true
    }

    async fn mentions(&self, texts: &[String]) -> Result<Option<Vec<bool>>, BrokerError> {
        self.0.mentions(texts).await
    }

    async fn queues(&self) -> Result<Vec<QueueStatus>, BrokerError> {
        self.0.statuses().await
    }

    async fn find_dead(&self, filter: &DeadFilter, limit: usize) -> Result<Vec<DeadLetter>, BrokerError> {
        self.0.find_dead(filter, limit).await
    }

    async fn dead_stats(&self) -> Result<DeadStats, BrokerError> {
        self.0.dead_stats().await
    }

    async fn resolve_dead(&self, resolutions: Vec<Resolution>) -> Result<Vec<u64>, BrokerError> {
        self.0.resolve_dead(&resolutions).await
    }

    async fn trim_dead(&self, limits: &DeadLimits) -> Result<u64, BrokerError> {
        self.0.measure_clock().await?;
        self.0.trim_dead(limits).await
    }

    async fn paused(&self, queues: &[String]) -> Result<Vec<String>, BrokerError> {
        self.0.paused(queues).await
    }

    async fn set_paused(&self, queue: &str, paused: bool) -> Result<(), BrokerError> {
        self.0.set_paused(queue, paused).await
    }

    async fn bury(
        &self,
        publication: Publication,
        reason: DeadReason,
        detail: String,
    ) -> Result<(), BrokerError> {
        let Publication { exchange, routing_key, message, .. } = &publication;
        let tag = uuid::Uuid::new_v4().to_string();
        let element = Envelope::encode(message, exchange, routing_key, &tag);
        let (now, most) = (self.0.now().0.to_string(), self.0.layout.dead_letters.to_string());
        let queue = if routing_key.is_empty() { exchange } else { routing_key };
        let detail = super::dead::one_field(&detail);
        let args: [&[u8]; 6] = [
            queue.as_bytes(),
            reason.as_str().as_bytes(),
            detail.as_bytes(),
            now.as_bytes(),
            most.as_bytes(),
            &element,
        ];
        let buried = self.0.link.script(&BURY, &self.0.layout.shared, &args).await;
        buried.map(drop).map_err(|error| self.0.failed(error))
    }

    async fn broadcast(
        &self,
        exchange: &str,
        routing_key: &str,
        message: Message,
        _ttl: Duration,
    ) -> Result<(), BrokerError> {
        // Whoever does not listen now does not hear it: the server keeps nothing that could be over.
        let tag = uuid::Uuid::new_v4().to_string();
        let mut command = cmd("PUBLISH");
        let envelope = Envelope::encode(&message, exchange, routing_key, &tag);
        command.arg(self.0.layout.channel(exchange, routing_key)).arg(envelope);
        self.0.link.query::<i64>(&command).await.map(drop).map_err(|error| self.0.failed(error))
    }

    async fn listen(&self, exchange: &str) -> Result<Box<dyn Listener>, BrokerError> {
        Ok(Box::new(RedisListener::start(&self.0, exchange).await?))
    }

    async fn inbox(&self, exchange: &str, key: &str) -> Result<Box<dyn Listener>, BrokerError> {
        Ok(Box::new(RedisInbox::open(&self.0, exchange, key).await?))
    }

    async fn reply(&self, exchange: &str, key: &str, message: Message) -> Result<(), BrokerError> {
        self.0.reply(exchange, key, &message).await
    }

    fn store_id(&self) -> Option<String> {
        Some(self.0.address.server_id())
    }

    fn display_url(&self) -> String {
        self.0.link.url().to_owned()
    }

    async fn advice(&self) -> Result<Vec<String>, BrokerError> {
        self.0.advice().await
    }

    async fn examine(&self) -> Result<StoreReport, BrokerError> {
        self.0.examine().await
    }

    /// Dead leases are left to consumers, who look for them all the time and know how many crashes are allowed.
    async fn sweep(&self) -> Result<(), BrokerError> {
        self.0.measure_clock().await?;
        self.0.restore_foreign().await?;
        let args = [self.0.layout.binding(""), self.0.layout.permanent_binding("")];
        let swept = self.0.link.script(&SWEEP, &[self.0.layout.binding_deadlines()], &args).await;
        swept.map(drop).map_err(|error| self.0.failed(error))
    }

    async fn schedule_lease(
        &self,
        schedule: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<ScheduleLease, BrokerError> {
        self.0.schedule_lease(schedule, holder, ttl).await
    }

    async fn schedule_release(&self, schedule: &str, holder: &str) -> Result<(), BrokerError> {
        self.0.schedule_release(schedule, holder).await
    }

    async fn fire(&self, firing: &Firing) -> Result<Fired, BrokerError> {
        self.0.fire(firing).await
    }

    async fn schedule_state(&self, schedule: &str) -> Result<ScheduleState, BrokerError> {
        self.0.schedule_state(schedule).await
    }

    async fn schedule_change(
        &self,
        schedule: &str,
        entry: &str,
        change: Option<String>,
    ) -> Result<(), BrokerError> {
        self.0.schedule_change(schedule, entry, change).await
    }

    async fn bind_topics(&self, binding: &TopicBinding, how: Rebind) -> Result<(), BrokerError> {
        self.0.bind_topics(binding, how).await
    }

    async fn stream_end(&self) -> Result<Option<String>, BrokerError> {
        self.0.stream_end().await.map(Some)
    }

    async fn stream(&self, after: Option<&str>) -> Result<Box<dyn Listener>, BrokerError> {
        Ok(Box::new(self.0.stream(after).await?))
    }
}

//! The broker contract over the file.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::consumer::SqliteConsumer;
use super::doorbell::Kind;
use super::fault::Fault;
use super::step::{Step, last_number};
use super::writer::Durability;
use super::{Shared, SqliteStore, broadcast, chord, dead, keys, limits, owner, queue, results, schedule};
use crate::broker::{
    Broker, BrokerError, Consumer, ConsumerOptions, DeadFilter, DeadLetter, DeadLimits, DeadReason,
    DeadStats, Fired, Firing, Listener, QueueStatus, Rebind, Resolution, ScheduleLease, ScheduleState,
};
use crate::driver::routing;
use crate::keys::{Admission, Admitted, Keys};
use crate::limits::LimitStore;
use crate::protocol::{Message, Publication, TopicBinding};
use crate::report::StoreReport;

impl SqliteStore {
    pub(super) fn id(&self) -> String {
        format!("sqlite:{}", self.0.path.display())
    }

    fn broker_error(&self) -> impl Fn(Fault) -> BrokerError + '_ {
        |fault| fault.broker(self.0.url())
    }

    async fn write<T, F>(&self, durability: Durability, work: F) -> Result<T, BrokerError>
    where
        F: FnMut(&mut Step<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.0.writer.submit(durability, work).await.map_err(self.broker_error())
    }
}

impl Shared {
    /// Refuses publications over the limit.
    pub(super) fn check_sizes<'p>(
        &self,
        publications: impl IntoIterator<Item = &'p Publication>,
    ) -> Result<(), BrokerError> {
        let limit = self.max_message;
        for publication in publications {
            let size = publication.message.headers.len() + publication.message.body.len();
            if size > limit {
                return Err(BrokerError::TooLarge { size, limit });
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Broker for SqliteStore {
    async fn publish(&self, batch: Vec<Publication>) -> Result<(), BrokerError> {
        self.0.check_sizes(&batch)?;
        self.0
            .writer
            .submit(Durability::Durable, move |step| queue::publish(step, &batch))
            .await
            .map_err(self.broker_error())
    }

    fn keys(&self) -> Option<&dyn Keys> {
        Some(self)
    }

    async fn publish_admitted(
        &self,
        publication: &Publication,
        admission: &Admission,
    ) -> Result<Option<Admitted>, BrokerError> {
        self.0.check_sizes([publication])?;
        let (publication, admission) = (publication.clone(), admission.clone());
        let publish = move |step: &mut Step<'_>| keys::publish(step, &publication, &admission);
        self.write(Durability::Durable, publish).await.map(Some)
    }

    async fn consume(&self, options: ConsumerOptions) -> Result<Box<dyn Consumer>, BrokerError> {
        self.0.listen_for(Kind::Messages).await.map_err(self.broker_error())?;
        Ok(Box::new(SqliteConsumer::start(&self.0, options).await.map_err(self.broker_error())?))
    }

    async fn purge(&self, queue: &str) -> Result<u64, BrokerError> {
        let queue = queue.to_owned();
        self.0
            .writer
            .submit(Durability::Durable, move |step| queue::purge(step, &queue))
            .await
            .map_err(self.broker_error())
    }

    async fn recall(&self, queue: &str) -> Result<u64, BrokerError> {
        let queue = queue.to_owned();
        self.0
            .writer
            .submit(Durability::Relaxed, move |step| queue::recall(step, &queue))
            .await
            .map_err(self.broker_error())
    }

    async fn mentions(&self, texts: &[String]) -> Result<Option<Vec<bool>>, BrokerError> {
        let found = self.0.read(|connection| {
            texts.iter().map(|text| queue::mentions(connection, text)).collect::<rusqlite::Result<_>>()
        });
        found.map(Some).map_err(self.broker_error())
    }

    fn limits(&self) -> Option<Arc<dyn LimitStore>> {
        Some(self.limit_store())
    }

    fn recalls(&self) -> bool {
        true
    }

    async fn queues(&self) -> Result<Vec<QueueStatus>, BrokerError> {
        let now = self.0.clock.now();
        self.0.read(|connection| queue::statuses(connection, now)).map_err(self.broker_error())
    }

    async fn unpark(&self, queue: &str) -> Result<u64, BrokerError> {
        let queue = queue.to_owned();
        self.0
            .writer
            .submit(Durability::Durable, move |step| queue::unpark_all(step, &queue))
            .await
            .map_err(self.broker_error())
    }

    async fn examine(&self) -> Result<StoreReport, BrokerError> {
        let now = self.0.clock.now();
        let workers = self
            .0
            .read(|connection| {
                connection.query_row(
                    "SELECT count(*) FROM (SELECT DISTINCT node, host, pid FROM owner WHERE expires_ms > ?1)",
                    [now.0],
                    |row| row.get::<_, i64>(0),
                )
            })
            .map_err(self.broker_error())?;
        Ok(StoreReport {
            version: Some(rusqlite::version().to_owned()),
            workers: Some(workers as u64),
            ..StoreReport::default()
        })
    }

    async fn find_dead(&self, filter: &DeadFilter, limit: usize) -> Result<Vec<DeadLetter>, BrokerError> {
        self.0.read(|connection| dead::find(connection, filter, limit)).map_err(self.broker_error())
    }

    async fn dead_stats(&self) -> Result<DeadStats, BrokerError> {
        self.0.read(dead::stats).map_err(self.broker_error())
    }

    async fn resolve_dead(&self, resolutions: Vec<Resolution>) -> Result<Vec<u64>, BrokerError> {
        self.0.check_sizes(resolutions.iter().filter_map(|resolution| resolution.publication.as_ref()))?;
        self.write(Durability::Durable, move |step| dead::resolve(step, &resolutions)).await
    }

    async fn trim_dead(&self, limits: &DeadLimits) -> Result<u64, BrokerError> {
        let limits = *limits;
        self.write(Durability::Relaxed, move |step| dead::trim(step, &limits)).await
    }

    async fn paused(&self, queues: &[String]) -> Result<Vec<String>, BrokerError> {
        self.0.read(|connection| dead::paused(connection, queues)).map_err(self.broker_error())
    }

    async fn set_paused(&self, queue: &str, paused: bool) -> Result<(), BrokerError> {
        let queue = queue.to_owned();
        self.write(Durability::Durable, move |step| dead::set_paused(step, &queue, paused)).await
    }

    async fn bury(
        &self,
        message: Publication,
        reason: DeadReason,
        detail: String,
    ) -> Result<(), BrokerError> {
        self.0
            .writer
            .submit(Durability::Durable, move |step| queue::bury_new(step, &message, reason, &detail))
            .await
            .map_err(self.broker_error())
    }

    async fn broadcast(
        &self,
        exchange: &str,
        _routing_key: &str,
        message: Message,
        ttl: Duration,
    ) -> Result<(), BrokerError> {
        let exchange = exchange.to_owned();
        self.0
            .writer
            .submit(Durability::Relaxed, move |step| {
                let expires = step.now.after(ttl);
                broadcast::send(step, &exchange, &message, expires)
            })
            .await
            .map_err(self.broker_error())
    }

    async fn listen(&self, exchange: &str) -> Result<Box<dyn Listener>, BrokerError> {
        self.0.listen_for(Kind::Broadcasts).await.map_err(self.broker_error())?;
        let heard = self.0.read(last_number).map_err(self.broker_error())?;
        Ok(Box::new(SqliteListener { store: self.0.clone(), exchange: exchange.to_owned(), heard }))
    }

    fn store_id(&self) -> Option<String> {
        Some(self.id())
    }

    fn display_url(&self) -> String {
        self.0.url()
    }

    async fn sweep(&self) -> Result<(), BrokerError> {
        while self
            .0
            .writer
            .submit(Durability::Relaxed, |step| Ok(results::sweep(step)? | chord::sweep(step)?))
            .await
            .map_err(self.broker_error())?
        {}
        self.0
            .writer
            .submit(Durability::Relaxed, |step| {
                broadcast::sweep(step)?;
                keys::sweep(step)?;
                limits::sweep(step)?;
                owner::recover(step, 0)
            })
            .await
            .map_err(self.broker_error())?;
        self.0.checkpoint().await.map_err(self.broker_error())
    }

    async fn schedule_lease(
        &self,
        schedule: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<ScheduleLease, BrokerError> {
        let (schedule, holder) = (schedule.to_owned(), holder.to_owned());
        self.write(Durability::Relaxed, move |step| schedule::lease(step, &schedule, &holder, ttl)).await
    }

    async fn schedule_release(&self, schedule: &str, holder: &str) -> Result<(), BrokerError> {
        let (schedule, holder) = (schedule.to_owned(), holder.to_owned());
        self.write(Durability::Relaxed, move |step| schedule::release(step, &schedule, &holder)).await
    }

    async fn fire(&self, firing: &Firing) -> Result<Fired, BrokerError> {
        self.0.check_sizes(&firing.publications)?;
        let firing = firing.clone();
        self.write(Durability::Durable, move |step| schedule::fire(step, &firing)).await
    }

    async fn schedule_state(&self, schedule: &str) -> Result<ScheduleState, BrokerError> {
        let now = self.0.clock.now();
        self.0.read(|connection| schedule::state(connection, schedule, now)).map_err(self.broker_error())
    }

    async fn schedule_change(
        &self,
        schedule: &str,
        entry: &str,
        change: Option<String>,
    ) -> Result<(), BrokerError> {
        let (schedule, entry) = (schedule.to_owned(), entry.to_owned());
        let work = move |step: &mut Step<'_>| schedule::change(step, &schedule, &entry, change.as_deref());
        self.write(Durability::Durable, work).await
    }

    async fn bind_topics(&self, binding: &TopicBinding, how: Rebind) -> Result<(), BrokerError> {
        self.0.bind_topics(binding, how).await.map_err(self.broker_error())
    }

    async fn subscribe(
        &self,
        exchange: &str,
        _patterns: &[String],
    ) -> Result<Box<dyn Listener>, BrokerError> {
        Ok(Box::new(self.0.subscribe(exchange).await.map_err(self.broker_error())?))
    }

    async fn stream_end(&self) -> Result<Option<String>, BrokerError> {
        Ok(Some(self.0.stream_end().await.map_err(self.broker_error())?.to_string()))
    }

    async fn stream(&self, after: Option<&str>) -> Result<Box<dyn Listener>, BrokerError> {
        let after = after.map(routing::cursor_after).transpose()?.map(|after| after as i64);
        Ok(Box::new(self.0.stream(after).await.map_err(self.broker_error())?))
    }
}

impl Shared {
    /// Copies the write-ahead log back and empties it. It may take a while, so it has a thread of its own; writers wait.
    async fn checkpoint(self: &Arc<Self>) -> Result<(), Fault> {
        let writer = self.writer.clone();
        let (done, answer) = tokio::sync::oneshot::channel();
        let work = move || {
            let truncate = |connection: &rusqlite::Connection| {
                connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            };
            drop(done.send(writer.aside(truncate)));
        };
        let thread = std::thread::Builder::new().name("celeriac-checkpoint".to_owned()).spawn(work);
        thread.map_err(|error| Fault::Passing(error.to_string()))?;
        match answer.await {
            // Someone reads: the next sweep will do it.
            Ok(Err(Fault::Locked(_))) => Ok(()),
            Ok(done) => done,
            Err(_) => Err(Fault::Closed),
        }
    }
}

struct SqliteListener {
    store: Arc<Shared>,
    exchange: String,
    /// The number of the last broadcast that was heard.
    heard: i64,
}

#[async_trait]
impl Listener for SqliteListener {
    async fn next(&mut self) -> Result<Message, BrokerError> {
        loop {
            // Listens before it looks, so that no change falls in between.
            let mut changed = Box::pin(self.store.signals.broadcasts.notified());
            changed.as_mut().enable();
            let now = self.store.clock.now();
            let found = self
                .store
                .read(|connection| broadcast::hear(connection, &self.exchange, self.heard, now))
                .map_err(|fault| fault.broker(self.store.url()))?;
            if let Some((id, message)) = found {
                self.heard = id;
                return Ok(message);
            }
            self.store.signals.bells.arm(Kind::Broadcasts, None);
            changed.await;
        }
    }
}

//! The task that holds a consumer's channel: what comes goes into the state, what is wanted goes to the server.
//!
//! It lives as long as the consumer and makes a new channel whenever one is lost. When nobody claims what came, it
//! stops the server from sending, and gives it back: a message must not wait behind a long task while other workers
//! are idle.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{BoxStream, SelectAll, StreamExt};
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::ShortString;
use lapin::{Channel, ErrorKind};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::consumer::{Shared, State};
use super::link::{BACKOFF, Live};
use super::{declare, delay, failure, table, wire};
use crate::backoff::Attempts;
use crate::broker::{BrokerError, Delivery};

/// What nobody claims for this long goes back.
const UNCLAIMED: Duration = Duration::from_millis(100);
/// How often a channel is looked at that is silent.
const LOOK: Duration = Duration::from_secs(1);
/// A server that does not answer for this long is taken for gone.
const ANSWER: Duration = Duration::from_secs(20);
/// Deliveries are quick when all that are wanted at a time came within this.
const QUICK: Duration = Duration::from_secs(1);
/// And when at least so many are wanted at a time: fewer are held by tasks that run.
const MANY: usize = 100;

/// A channel that consumes.
pub(super) struct Session {
    live: Arc<Live>,
    channel: Channel,
    streams: SelectAll<BoxStream<'static, Came>>,
    /// The queues that are consumed, with their consumer tags.
    consuming: HashMap<Arc<str>, ShortString>,
    /// What the server was told last.
    limit: Limit,
    flow: Flow,
}

/// How much the server may send ahead; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Limit {
    /// To the consumer of each queue. Holds from its beginning.
    each: u16,
    /// To the channel. Quorum queues do not know it. Of others, whichever asks first after an acknowledgement may get
    /// all that it freed.
    all: u16,
}

/// Whether deliveries come, and are settled, so quickly that each queue may have the whole limit for itself: then no
/// queue is held up by another one, and what is taken in beyond the credit waits for a moment only.
struct Flow {
    since: Instant,
    count: usize,
    quick: bool,
}

/// One item of the stream of a queue's consumer, which its tag names; none at its end.
type Came = (Arc<str>, ShortString, Option<lapin::Result<lapin::message::Delivery>>);

/// Why a session ended.
enum End {
    Closed,
    Lost(String),
}

/// Opens a channel and declares what is to be consumed. Nothing is sent yet.
pub(super) async fn establish(shared: &Shared) -> Result<Session, BrokerError> {
    let making = async {
        let (live, channel) = shared.link.channel().await?;
        let queues = shared.state.lock().queues.clone();
        for queue in &queues {
            declare_queue(shared, &live, &channel, queue).await?;
        }
        shared.begin(&channel);
        let (streams, limit) = (SelectAll::new(), Limit::default());
        Ok(Session { live, channel, streams, consuming: HashMap::new(), limit, flow: Flow::new() })
    };
    let made = timeout(ANSWER, making).await;
    made.unwrap_or_else(|_| Err(failure::timeout(&shared.link.url, ANSWER, "it does not answer")))
}

async fn declare_queue(
    shared: &Shared,
    live: &Live,
    channel: &Channel,
    name: &str,
) -> Result<(), BrokerError> {
    let topology = &shared.publisher.topology;
    let queue = topology.queue(name);
    declare::queue(&shared.link, channel, &queue).await?;
    declare::remember(live, &queue);
    let topic = !matches!(&*queue.exchange.kind, "direct" | "") && !queue.exchange.name.is_empty();
    if topology.any_quorum() && topic {
        let queue_type = &topology.delayed_queue_type;
        delay::prepare(&shared.link, live, queue_type, &queue, delay::Way::Exchange).await?;
    }
    Ok(())
}

/// Runs until the consumer is closed.
pub(super) async fn run(shared: Arc<Shared>, first: Session) {
    let mut session = Some(first);
    let mut attempts = Attempts::begun(BACKOFF);
    loop {
        if let Some(mut running) = session.take() {
            match pump(&shared, &mut running).await {
                End::Closed => {
                    let closing = running.channel.close(200, "closed".into());
                    let _closed_or_not = timeout(LOOK, closing).await;
                    break;
                }
                End::Lost(why) => {
                    tracing::warn!(why, "the channel to {} was lost", shared.link.url);
                    shared.lose(why);
                }
            }
        }
        if pause(&shared, attempts.ended()).await {
            break;
        }
        match establish(&shared).await {
            Ok(made) => {
                attempts.began();
                session = Some(made);
            }
            Err(error) => shared.failed(error),
        }
    }
    shared.state.lock().channel = None;
    shared.ended.send_replace(true);
}

/// Waits before the next attempt; true if the consumer is closed.
async fn pause(shared: &Shared, delay: Duration) -> bool {
    let until = Instant::now() + delay;
    loop {
        if shared.state.lock().closed {
            return true;
        }
        tokio::select! {
            () = tokio::time::sleep_until(until) => return shared.state.lock().closed,
            () = shared.wake.notified() => {}
        }
    }
}

async fn pump(shared: &Shared, session: &mut Session) -> End {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut unclaimed: Option<Instant> = None;
    loop {
        if shared.state.lock().closed {
            return End::Closed;
        }
        match timeout(ANSWER, session.adjust(shared)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return End::Lost(lost_text(&error)),
            Err(_) => return End::Lost("the server does not answer".to_owned()),
        }
        let give_back = unclaimed;
        tokio::select! {
            biased;
            () = shared.wake.notified() => {}
            Some(came) = session.streams.next() => {
                if let Some(end) = session.came(shared, came) {
                    return end;
                }
            }
            () = until(give_back), if give_back.is_some() => {
                unclaimed = None;
                let claims = shared.state.lock().claimed.is_some_and(|at| at.elapsed() < UNCLAIMED);
                if !claims && let Err(error) = session.stop(shared).await {
                    return End::Lost(lost_text(&error));
                }
            }
            _ = look.tick() => {
                session.flow.came(0, shared.state.lock().wanted, Instant::now());
                if !session.channel.status().connected() || !session.live.is_up() {
                    return End::Lost("the connection was lost".to_owned());
                }
            }
        }
        let state = shared.state.lock();
        let waits = state.buffered() > 0 && state.waiting == 0;
        unclaimed = waits.then(|| unclaimed.unwrap_or_else(|| Instant::now() + UNCLAIMED));
    }
}

async fn until(moment: Option<Instant>) {
    if let Some(moment) = moment {
        tokio::time::sleep_until(moment).await;
    }
}

impl Session {
    /// Takes one item, and all that are there with it; some end if there is nothing more to come.
    fn came(&mut self, shared: &Shared, first: Came) -> Option<End> {
        let mut next = Some(first);
        let mut end = None;
        let mut pushed = 0;
        while let Some((queue, tag, item)) = next {
            match item {
                Some(Ok(delivery)) => {
                    push(shared, queue, delivery);
                    pushed += 1;
                }
                Some(Err(error)) => {
                    end = Some(End::Lost(lost_text(&error)));
                    break;
                }
                // Ended by the server: the queue was deleted. `adjust` declares and consumes it again.
                None if self.consuming.get(&queue) == Some(&tag) => {
                    self.consuming.remove(&queue);
                    self.live.declared.lock().remove(&*queue);
                }
                None => {}
            }
            next = futures_util::FutureExt::now_or_never(self.streams.next()).flatten();
        }
        if pushed > 0 && end.is_none() {
            shared.arrived.notify_waiters();
            self.flow.came(pushed, shared.state.lock().wanted, Instant::now());
        }
        end
    }

    /// Tells the server what has changed: queues, and how much it may send.
    async fn adjust(&mut self, shared: &Shared) -> lapin::Result<()> {
        let (queues, limit, resume) = {
            let mut state = shared.state.lock();
            let resume = state.paused && state.waiting > 0 && state.wanted > 0;
            if resume {
                state.paused = false;
            }
            (state.queues.clone(), self.limit(shared, &state), !state.paused)
        };
        let gone: Vec<_> = self.consuming.keys().filter(|queue| !queues.contains(queue)).cloned().collect();
        for queue in gone {
            self.cancel(&queue).await?;
            self.drain(shared);
            let tags = shared.state.lock().drop_queue(&queue);
            self.give_back(&tags).await?;
        }
        if !resume {
            return Ok(());
        }
        if limit != self.limit {
            self.set_limit(shared, limit).await?;
        }
        for queue in queues {
            if !self.consuming.contains_key(&queue) {
                self.consume(shared, queue).await?;
            }
        }
        Ok(())
    }

    /// What the server may send now.
    fn limit(&self, shared: &Shared, state: &State) -> Limit {
        let wanted = state.wanted.max(1);
        // Each change ends the consumers and begins them anew, so it is for more than is wanted.
        let ahead = wanted.next_power_of_two();
        let queues = state.queues.len();
        let quick = self.flow.quick && queues > 1 && wanted >= MANY && ahead * queues <= state.fitting;
        let number = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
        match (quick, shared.publisher.topology.any_quorum()) {
            (true, _) => Limit { each: number(ahead), all: 0 },
            (false, true) => Limit { each: number(wanted), all: 0 },
            (false, false) => Limit { each: 0, all: number(wanted) },
        }
    }

    async fn set_limit(&mut self, shared: &Shared, limit: Limit) -> lapin::Result<()> {
        let before = std::mem::replace(&mut self.limit, limit);
        if limit.each != before.each {
            let consuming: Vec<_> = self.consuming.keys().cloned().collect();
            for queue in consuming {
                self.cancel(&queue).await?;
            }
            self.drain(shared);
            self.channel.basic_qos(limit.each, BasicQosOptions { global: false }).await?;
        }
        if limit.all != before.all {
            self.channel.basic_qos(limit.all, BasicQosOptions { global: true }).await?;
        }
        let shrinks = match (before.each, limit.each) {
            (0, 0) => limit.all < before.all,
            (0, _) => false,
            (before, now) => now < before,
        };
        if shrinks {
            let tags = shared.state.lock().surplus(false);
            self.give_back(&tags).await?;
        }
        Ok(())
    }

    async fn consume(&mut self, shared: &Shared, queue: Arc<str>) -> lapin::Result<()> {
        let configured = shared.publisher.topology.queue(&queue);
        let declared = self.live.declared.lock().contains_key(&*queue);
        if !declared && let Err(error) = declare_queue(shared, &self.live, &self.channel, &queue).await {
            tracing::warn!(%error, "cannot declare queue {queue:?}");
            return Err(ErrorKind::InvalidChannel(self.channel.id()).into());
        }
        let Ok(name) = ShortString::try_new(&*queue) else { return Ok(()) };
        let tag = ShortString::try_new(format!("{:.150}/{}", shared.node, fastrand::u32(..)));
        let arguments = table::table(&configured.consumer_arguments);
        let consumer = self
            .channel
            .basic_consume(name, tag.unwrap_or_default(), BasicConsumeOptions::default(), arguments)
            .await?;
        let tag = consumer.tag();
        self.consuming.insert(queue.clone(), tag.clone());
        let end = futures_util::stream::once(std::future::ready((queue.clone(), tag.clone(), None)));
        self.streams
            .push(consumer.map(move |item| (queue.clone(), tag.clone(), Some(item))).chain(end).boxed());
        Ok(())
    }

    async fn cancel(&mut self, queue: &Arc<str>) -> lapin::Result<()> {
        if let Some(tag) = self.consuming.remove(queue) {
            self.channel.basic_cancel(tag, BasicCancelOptions::default()).await?;
        }
        Ok(())
    }

    /// Takes in what had been sent before the cancellation.
    fn drain(&mut self, shared: &Shared) {
        while let Some(Some((queue, _, item))) = futures_util::FutureExt::now_or_never(self.streams.next()) {
            if let Some(Ok(delivery)) = item {
                push(shared, queue, delivery);
            }
        }
        shared.arrived.notify_waiters();
    }

    /// Nobody claims: the server sends nothing more, and gets back what came.
    async fn stop(&mut self, shared: &Shared) -> lapin::Result<()> {
        let consuming: Vec<_> = self.consuming.keys().cloned().collect();
        for queue in consuming {
            self.cancel(&queue).await?;
        }
        self.drain(shared);
        let tags = {
            let mut state = shared.state.lock();
            // Someone has come in the meantime.
            if state.waiting > 0 {
                return Ok(());
            }
            state.paused = true;
            state.surplus(true)
        };
        self.flow = Flow::new();
        self.give_back(&tags).await
    }

    async fn give_back(&mut self, tags: &[u64]) -> lapin::Result<()> {
        let options = BasicNackOptions { multiple: false, requeue: true };
        for done in join_all(tags.iter().map(|tag| self.channel.basic_nack(*tag, options))).await {
            done?;
        }
        Ok(())
    }
}

impl Flow {
    fn new() -> Self {
        Self { since: Instant::now(), count: 0, quick: false }
    }

    /// So many came. They were quick when they are as many as are wanted at a time, in little time; slow when they are
    /// fewer after twice that time.
    fn came(&mut self, count: usize, wanted: usize, now: Instant) {
        self.count += count;
        let (enough, took) = (self.count >= wanted.max(MANY), now.duration_since(self.since));
        if enough && took <= QUICK {
            *self = Self { since: now, count: 0, quick: true };
        } else if took > 2 * QUICK {
            *self = Self { since: now, count: 0, quick: self.quick && enough };
        }
    }
}

/// Puts a delivery where claims find it.
fn push(shared: &Shared, queue: Arc<str>, delivery: lapin::message::Delivery) {
    let received = wire::read(&delivery.properties, delivery.data, delivery.redelivered);
    let (mut exchange, mut key) = (delivery.exchange.as_str(), delivery.routing_key.as_str());
    let configured;
    if delay::is_level(exchange)
        && let Some(original) = delay::original(key)
    {
        configured = shared.publisher.topology.queue(&queue);
        (exchange, key) = (delay::meant_for(&configured, original), original);
    }
    let (exchange, routing_key) = (Arc::from(exchange), Arc::from(key));
    let mut state = shared.state.lock();
    let claim = state.claim_id(delivery.delivery_tag);
    state.push(Delivery {
        claim,
        queue,
        exchange,
        routing_key,
        redelivered: received.redelivered,
        crashes: received.crashes,
        message: received.message,
    });
}

/// Why a channel was lost, in words an operator can act upon.
fn lost_text(error: &lapin::Error) -> String {
    let text = failure::text(error);
    if text.contains("delivery acknowledgement") && text.contains("timed out") {
        return format!(
            "the server closed the channel because a task ran longer than its acknowledgement timeout, and delivers \
             everything again that was claimed ({text}); raise consumer_timeout in rabbitmq.conf, or by a policy or \
             the queue argument x-consumer-timeout on servers that know these"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_are_quick_when_all_that_are_wanted_come_within_a_second() {
        let mut flow = Flow::new();
        let start = flow.since;
        let after = |ms| start + Duration::from_millis(ms);

        flow.came(499, 500, after(900));
        assert!(!flow.quick, "not all of them");
        flow.came(1, 500, after(1_000));
        assert!(flow.quick);

        flow.came(600, 500, after(2_500));
        assert!(flow.quick, "slower, but not slow");
        flow.came(0, 500, after(3_100));
        assert!(flow.quick, "as many in twice the time");
        flow.came(499, 500, after(5_200));
        assert!(!flow.quick);
    }

    #[test]
    fn a_few_at_a_time_are_never_quick() {
        let mut flow = Flow::new();
        let since = flow.since;

        flow.came(MANY - 1, 4, since + Duration::from_millis(1));

        assert!(!flow.quick);
    }
}

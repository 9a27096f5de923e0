//! A consumer: what was delivered, what is claimed, and how much the server may send ahead.
//!
//! A task of its own (`pump`) holds the channel; callers of [`Consumer`] meet it in [`State`]. Claims belong to one
//! channel: when that is lost, the server gives them back, whatever becomes of them here, and commits of them are
//! stale. Until the loss has been told by [`Consumer::renew`], nothing is given out, so that a message that comes
//! back is never seen before it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lapin::Channel;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::link::Link;
use super::publish::Publisher;
use super::{failure, pump, settle};
use crate::broker::{
    BrokerError, ClaimId, Commit, Committed, Consumer, ConsumerOptions, Credit, Delivery, Renewal,
};
use crate::driver::routing::{Turns, in_turns};
use crate::protocol::Message;

/// The server counts what it sends ahead with 16 bits.
const MOST: usize = u16::MAX as usize;
/// Saying goodbye takes no longer.
const GOODBYE: Duration = Duration::from_secs(10);
/// Bits of a fence that hold the delivery tag; the others count channels.
const TAG_BITS: u32 = 40;

/// A consumer. Dropped, it takes its channel with it.
pub(super) struct AmqpConsumer {
    shared: Arc<Shared>,
    pump: AbortHandle,
}

/// What the consumer and its task share.
pub(super) struct Shared {
    pub(super) publisher: Arc<Publisher>,
    pub(super) link: Arc<Link>,
    pub(super) node: String,
    pub(super) max_crashes: u32,
    pub(super) state: Mutex<State>,
    /// Rung by the task for claims that wait: a delivery, a loss, the end.
    pub(super) arrived: Notify,
    /// Rung by callers for the task: other queues, more or less to send ahead, the end.
    pub(super) wake: Notify,
    /// True when the task has ended. Written by it, read by `close`.
    pub(super) ended: watch::Sender<bool>,
}

/// What is known. The task writes what the server sends; claims and commits take out of it.
#[derive(Default)]
pub(super) struct State {
    /// The queues to take from. Written by callers, read by the task.
    pub(super) queues: Vec<Arc<str>>,
    /// Delivered and not claimed, by queue.
    buffers: Vec<(Arc<str>, VecDeque<Delivery>)>,
    /// Where the next claim begins.
    turn: usize,
    /// Claimed and not settled, by delivery tag.
    pub(super) held: HashMap<u64, Held>,
    pub(super) tags: Tags,
    /// The channel, while it works.
    pub(super) channel: Option<Channel>,
    /// Grows with every channel.
    incarnation: u64,
    /// How many may be delivered and not settled.
    pub(super) wanted: usize,
    /// How many would be within the bytes of the last credit.
    pub(super) fitting: usize,
    /// When something was claimed last. Written by claims, read by the task, which gives back what nobody claims.
    pub(super) claimed: Option<Instant>,
    /// The server sends nothing until something is wanted again.
    pub(super) paused: bool,
    /// Claims that wait.
    pub(super) waiting: usize,
    /// Why the last channel was lost, until it is told.
    lost: Option<String>,
    /// Why there is no channel now, until it is told.
    pub(super) error: Option<BrokerError>,
    pub(super) closed: bool,
    /// Running average of a message's size.
    average: f64,
}

/// A claim.
pub(super) struct Held {
    pub(super) fence: u64,
    pub(super) queue: Arc<str>,
    pub(super) message: Message,
    pub(super) crashes: u32,
    /// Its copy is in its place already: only the acknowledgement is missing.
    pub(super) copied: bool,
}

impl AmqpConsumer {
    /// Connects, declares, and begins.
    pub(super) async fn begin(
        publisher: Arc<Publisher>,
        link: Arc<Link>,
        options: ConsumerOptions,
    ) -> Result<Self, BrokerError> {
        let queues = options.queues.iter().map(|queue| Arc::from(queue.as_str())).collect();
        let shared = Arc::new(Shared {
            publisher,
            link,
            node: options.node,
            max_crashes: options.max_crashes.max(1),
            state: Mutex::new(State { queues, paused: true, ..State::default() }),
            arrived: Notify::new(),
            wake: Notify::new(),
            ended: watch::Sender::new(false),
        });
        let session = pump::establish(&shared).await?;
        let pump = tokio::spawn(pump::run(shared.clone(), session)).abort_handle();
        Ok(Self { shared, pump })
    }
}

impl Drop for AmqpConsumer {
    fn drop(&mut self) {
        // The last holders of the channel: with them it is closed.
        self.pump.abort();
        self.shared.state.lock().channel = None;
    }
}

/// A claim that waits; counted, so that the task knows whether anyone does.
struct Waiting<'a>(&'a Shared);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.waiting -= 1;
        if state.waiting == 0 && state.buffered() > 0 {
            self.0.wake.notify_one();
        }
    }
}

#[async_trait]
impl Consumer for AmqpConsumer {
    async fn claim(&self, credit: Credit) -> Result<Vec<Delivery>, BrokerError> {
        let shared = &*self.shared;
        shared.state.lock().waiting += 1;
        let _waiting = Waiting(shared);
        loop {
            let mut arrived = std::pin::pin!(shared.arrived.notified());
            arrived.as_mut().enable();
            {
                let mut state = shared.state.lock();
                state.check(shared)?;
                if credit.count == 0 {
                    return Ok(Vec::new());
                }
                if state.want(credit) {
                    shared.wake.notify_one();
                }
                let taken = state.take(credit);
                if !taken.is_empty() {
                    return Ok(taken);
                }
            }
            arrived.await;
        }
    }

    async fn commit(&self, batch: &[Commit]) -> Result<Vec<Committed>, BrokerError> {
        settle::commit(&self.shared, batch).await
    }

    async fn renew(&self) -> Result<Renewal, BrokerError> {
        let mut state = self.shared.state.lock();
        if state.closed {
            return Err(BrokerError::Closed);
        }
        let why = state.lost.take();
        Ok(Renewal { lost: why.is_some(), recovered: 0, why })
    }

    async fn set_queues(&self, queues: Vec<String>) -> Result<(), BrokerError> {
        let mut state = self.shared.state.lock();
        if state.closed {
            return Err(BrokerError::Closed);
        }
        state.queues = queues.iter().map(|queue| Arc::from(queue.as_str())).collect();
        self.shared.wake.notify_one();
        Ok(())
    }

    async fn close(&self) -> Result<(), BrokerError> {
        {
            let mut state = self.shared.state.lock();
            state.closed = true;
            state.buffers.clear();
            state.held.clear();
        }
        self.shared.arrived.notify_waiters();
        self.shared.wake.notify_one();
        let mut ended = self.shared.ended.subscribe();
        // A server that does not answer gives everything back when it notices that we are gone.
        let _ended_or_not = timeout(GOODBYE, ended.wait_for(|ended| *ended)).await;
        Ok(())
    }
}

impl Shared {
    /// The channel is gone, and every claim with it.
    pub(super) fn lose(&self, why: String) {
        {
            let mut state = self.state.lock();
            state.channel = None;
            state.buffers.clear();
            state.held.clear();
            state.paused = true;
            state.lost = Some(why);
        }
        self.arrived.notify_waiters();
    }

    /// A channel works.
    pub(super) fn begin(&self, channel: &Channel) {
        let mut state = self.state.lock();
        state.channel = Some(channel.clone());
        state.incarnation += 1;
        state.tags = Tags::default();
        state.paused = true;
        state.error = None;
    }

    /// There is no channel, and making one failed.
    pub(super) fn failed(&self, error: BrokerError) {
        self.state.lock().error = Some(error);
        self.arrived.notify_waiters();
    }
}

impl State {
    /// What stands in the way of a claim.
    fn check(&mut self, shared: &Shared) -> Result<(), BrokerError> {
        if self.closed {
            return Err(BrokerError::Closed);
        }
        if let Some(why) = &self.lost {
            return Err(failure::unavailable(&shared.link.url, why.clone()));
        }
        self.error.take().map_or(Ok(()), Err)
    }

    /// Sees to it that the server may send as much; true if the task has to tell it. It is told of more at once, and
    /// of less when it is much less: changing it takes a round trip.
    fn want(&mut self, credit: Credit) -> bool {
        let fitting = if self.average > 0.0 { (credit.bytes as f64 / self.average) as usize } else { MOST };
        let needed = (self.held.len() + credit.count.min(fitting.max(1))).min(MOST);
        self.fitting = self.held.len().saturating_add(fitting);
        if self.paused || needed > self.wanted || self.wanted > 2 * needed {
            let changed = self.paused || self.wanted != needed;
            self.wanted = needed;
            return changed;
        }
        false
    }

    /// Claims what is here, with an equal share for each queue.
    fn take(&mut self, credit: Credit) -> Vec<Delivery> {
        let mut taken: Vec<Delivery> = Vec::new();
        let mut bytes = 0_usize;
        let mut turns = Turns::new(self.buffers.len(), self.turn);
        self.turn = self.turn.wrapping_add(1);
        while let Some((place, share)) = turns.next(credit.count - taken.len()) {
            for _ in 0..share {
                let buffer = &mut self.buffers[place].1;
                let Some(next) = buffer.front().map(|delivery| delivery.message.size()) else { break };
                bytes = bytes.saturating_add(next);
                if bytes > credit.bytes && !taken.is_empty() {
                    return self.hold(taken);
                }
                taken.extend(buffer.pop_front());
            }
        }
        self.hold(in_turns(taken))
    }

    fn hold(&mut self, taken: Vec<Delivery>) -> Vec<Delivery> {
        if !taken.is_empty() {
            self.claimed = Some(Instant::now());
        }
        for delivery in &taken {
            let held = Held {
                fence: delivery.claim.fence,
                queue: delivery.queue.clone(),
                message: delivery.message.clone(),
                crashes: delivery.crashes,
                copied: false,
            };
            self.held.insert(delivery.claim.id, held);
        }
        taken
    }

    /// Names a delivery of the present channel.
    pub(super) fn claim_id(&self, tag: u64) -> ClaimId {
        ClaimId { id: tag, fence: self.incarnation << TAG_BITS | tag }
    }

    /// One was delivered.
    pub(super) fn push(&mut self, delivery: Delivery) {
        self.tags.arrived(delivery.claim.id);
        let size = delivery.message.size() as f64;
        self.average = if self.average == 0.0 { size } else { self.average + (size - self.average) / 16.0 };
        match self.buffers.iter_mut().find(|(queue, _)| *queue == delivery.queue) {
            Some((_, buffer)) => buffer.push_back(delivery),
            None => self.buffers.push((delivery.queue.clone(), VecDeque::from([delivery]))),
        }
    }

    /// Delivered and not claimed.
    pub(super) fn buffered(&self) -> usize {
        self.buffers.iter().map(|(_, buffer)| buffer.len()).sum()
    }

    /// Takes out what nobody claimed, all of it or what is beyond `wanted`, the newest first; gives the tags in
    /// their order.
    pub(super) fn surplus(&mut self, all: bool) -> Vec<u64> {
        let kept = if all { 0 } else { self.wanted.saturating_sub(self.held.len()) };
        let mut tags: Vec<u64> = self
            .buffers
            .iter()
            .flat_map(|(_, buffer)| buffer.iter().map(|delivery| delivery.claim.id))
            .collect();
        tags.sort_unstable();
        let surplus = tags.split_off(kept.min(tags.len()));
        let gone: BTreeSet<u64> = surplus.iter().copied().collect();
        for (_, buffer) in &mut self.buffers {
            buffer.retain(|delivery| !gone.contains(&delivery.claim.id));
        }
        for tag in &surplus {
            self.tags.settled(*tag);
        }
        surplus
    }

    /// A queue that is not taken from any more: what it delivered goes back.
    pub(super) fn drop_queue(&mut self, queue: &str) -> Vec<u64> {
        let Some(place) = self.buffers.iter().position(|(name, _)| &**name == queue) else {
            return Vec::new();
        };
        let (_, buffer) = self.buffers.remove(place);
        let tags: Vec<u64> = buffer.iter().map(|delivery| delivery.claim.id).collect();
        for tag in &tags {
            self.tags.settled(*tag);
        }
        tags
    }
}

/// Delivery tags of one channel. They grow by one, but queues hand them over each in its own stream, so that a later
/// one may be seen before an earlier one, which must not be acknowledged along with it.
#[derive(Default)]
pub(super) struct Tags {
    /// All up to here have been seen.
    seen: u64,
    /// Seen beyond a gap.
    beyond: BTreeSet<u64>,
    /// Seen and not settled.
    open: BTreeSet<u64>,
}

impl Tags {
    fn arrived(&mut self, tag: u64) {
        self.open.insert(tag);
        self.beyond.insert(tag);
        while self.beyond.remove(&(self.seen + 1)) {
            self.seen += 1;
        }
    }

    pub(super) fn settled(&mut self, tag: u64) {
        self.open.remove(&tag);
    }

    /// Settles tags (in their order): gives the one up to which everything may be acknowledged at once, and the
    /// others.
    pub(super) fn settle(&mut self, tags: &[u64]) -> (Option<u64>, Vec<u64>) {
        let run =
            self.open.iter().zip(tags).take_while(|(open, tag)| open == tag && **tag <= self.seen).count();
        for tag in tags {
            self.open.remove(tag);
        }
        match run {
            0 | 1 => (None, tags.to_vec()),
            run => (Some(tags[run - 1]), tags[run..].to_vec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(arrived: &[u64]) -> Tags {
        let mut tags = Tags::default();
        for tag in arrived {
            tags.arrived(*tag);
        }
        tags
    }

    #[test]
    fn only_what_is_settled_without_a_gap_is_acknowledged_at_once() {
        assert_eq!(tags(&[1, 2, 3, 4]).settle(&[1, 2, 3]), (Some(3), vec![]));
        assert_eq!(tags(&[1, 2, 3, 4]).settle(&[1, 2, 4]), (Some(2), vec![4]));
        assert_eq!(tags(&[1, 2, 3]).settle(&[2, 3]), (None, vec![2, 3]));
        let mut later = tags(&[1, 2, 3, 4]);
        assert_eq!(later.settle(&[1]), (None, vec![1]));
        assert_eq!(later.settle(&[2, 3, 4]), (Some(4), vec![]));
    }

    #[test]
    fn a_tag_that_was_not_seen_yet_is_not_acknowledged_with_later_ones() {
        let mut tags = tags(&[1, 3, 4]);
        assert_eq!(tags.settle(&[1, 3, 4]), (None, vec![1, 3, 4]));
        tags.arrived(2);
        tags.arrived(5);
        assert_eq!(tags.settle(&[2, 5]), (Some(5), vec![]));
    }
}

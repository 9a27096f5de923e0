//! Where a publication goes, and in which order a claim looks at its queues.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::broker::{BrokerError, Delivery};
use crate::protocol::{Message, Publication};

/// Priorities are 0 to 9.
const HIGHEST: u8 = 9;

/// The queue a publication goes to.
pub(crate) fn queue(publication: &Publication) -> &str {
    if publication.routing_key.is_empty() { &publication.exchange } else { &publication.routing_key }
}

/// A publication that names no queue.
pub(crate) enum Apart {
    /// It goes to all that are bound to its topic exchange, and to whoever listens.
    Topic,
    /// Its body is one more entry of the stream, which keeps so many.
    Stream(u64),
}

/// Whether a publication names no queue, and what it is then.
pub(crate) fn apart(publication: &Publication) -> Option<Apart> {
    let queue = publication.declare.as_deref().filter(|queue| queue.is_exchange())?;
    Some(queue.stream_kept().map_or(Apart::Topic, Apart::Stream))
}

/// A copy of what was sent to a topic, for one of the queues that are bound to it: addressed to that queue alone, so
/// that whoever gives it back gives it back there and nowhere else.
pub(crate) fn copy_for(publication: &Publication, queue: &str) -> Publication {
    Publication {
        exchange: String::new(),
        routing_key: queue.to_owned(),
        due_ms: publication.due_ms,
        declare: None,
        message: publication.message.clone(),
    }
}

/// An entry of the stream, as whoever reads it gets it.
pub(crate) fn stream_message(cursor: &str, gap: bool, body: Bytes) -> Message {
    let gap = if gap { r#", "gap": true"# } else { "" };
    let headers = format!(r#"{{"cursor": "{cursor}"{gap}}}"#).into();
    Message { headers, body, ..Message::default() }
}

/// The number that a cursor stands for, in stores that count entries.
pub(crate) fn cursor_after(cursor: &str) -> Result<u64, BrokerError> {
    cursor.parse().map_err(|_| {
        BrokerError::Config(format!(
            "{cursor:?} is no cursor of this store: take one from an event that was read here"
        ))
    })
}

/// Its priority; none is 0.
pub(crate) fn priority(publication: &Publication) -> u8 {
    publication.message.properties.priority.unwrap_or(0).min(HIGHEST)
}

/// Says how many a claim takes from which queue, so that a busy queue cannot starve the others.
///
/// The first round gives every queue an equal share; the second gives what is left to whoever has more.
/// Each claim starts one queue further.
pub(crate) struct Turns {
    queues: usize,
    start: usize,
    step: usize,
    strict: bool,
}

impl Turns {
    /// Turns over `queues` queues, starting with number `start` (modulo).
    pub(crate) fn new(queues: usize, start: usize) -> Self {
        Self { queues, start, step: 0, strict: false }
    }

    /// One turn over `queues` queues, of which each may be emptied before the next one is looked at.
    pub(crate) fn strict(queues: usize) -> Self {
        Self { queues, start: 0, step: 0, strict: true }
    }

    /// The next queue to look at, and how many of the `left` to take from it at the most.
    pub(crate) fn next(&mut self, left: usize) -> Option<(usize, usize)> {
        let rounds = if self.queues == 1 || self.strict { 1 } else { 2 };
        if left == 0 || self.queues == 0 || self.step == rounds * self.queues {
            return None;
        }
        let index = (self.start + self.step) % self.queues;
        let first_round = self.step < self.queues;
        let share = if first_round && !self.strict { left.div_ceil(self.queues - self.step) } else { left };
        self.step += 1;
        Some((index, share))
    }
}

/// In which order a claim looks at its queues (`queue_order_strategy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueOrder {
    /// Each in turn, with equal shares.
    #[default]
    RoundRobin,
    /// In the order in which they were named: the second when the first is empty.
    Priority,
    /// The same by name.
    Sorted,
}

impl QueueOrder {
    /// What `broker_transport_options` says.
    pub(crate) fn of(options: &Map<String, Value>) -> Self {
        match options.get("queue_order_strategy").and_then(Value::as_str) {
            Some("priority") => Self::Priority,
            Some("sorted") => Self::Sorted,
            _ => Self::RoundRobin,
        }
    }
}

/// Deliveries of several queues, one of each in turn; within a queue their order stays. What is claimed at once is run
/// in this order, so that a queue with little does not wait for the whole share of one with much.
pub(crate) fn in_turns(deliveries: Vec<Delivery>) -> Vec<Delivery> {
    let one_queue = deliveries.windows(2).all(|pair| pair[0].queue == pair[1].queue);
    if one_queue {
        return deliveries;
    }
    let mut all = Vec::with_capacity(deliveries.len());
    let mut queues: Vec<(Arc<str>, VecDeque<Delivery>)> = Vec::new();
    for delivery in deliveries {
        match queues.iter_mut().find(|(name, _)| *name == delivery.queue) {
            Some((_, waiting)) => waiting.push_back(delivery),
            None => queues.push((delivery.queue.clone(), VecDeque::from([delivery]))),
        }
    }
    while !queues.is_empty() {
        all.extend(queues.iter_mut().filter_map(|(_, waiting)| waiting.pop_front()));
        queues.retain(|(_, waiting)| !waiting.is_empty());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::ClaimId;

    fn delivery(queue: &str, id: u64) -> Delivery {
        Delivery {
            claim: ClaimId { id, fence: id },
            queue: queue.into(),
            exchange: "".into(),
            routing_key: queue.into(),
            redelivered: false,
            crashes: 0,
            message: Message::default(),
        }
    }

    #[test]
    fn one_of_each_queue_is_run_in_turn() {
        let claimed = [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("c", 6)];

        let run = in_turns(claimed.iter().map(|(queue, id)| delivery(queue, *id)).collect());

        let ids: Vec<u64> = run.iter().map(|delivery| delivery.claim.id).collect();
        assert_eq!(ids, [1, 4, 5, 2, 6, 3]);
    }

    #[test]
    fn a_strict_order_empties_one_queue_before_the_next() {
        let mut turns = Turns::strict(3);

        assert_eq!(
            [turns.next(9), turns.next(4), turns.next(1), turns.next(1)],
            [Some((0, 9)), Some((1, 4)), Some((2, 1)), None]
        );
    }

    #[test]
    fn every_queue_gets_a_share_before_any_gets_more() {
        let mut turns = Turns::new(3, 4);
        let mut left = 9;
        let mut seen = Vec::new();
        while let Some((index, share)) = turns.next(left) {
            seen.push((index, share));
            // Queue 2 is empty, the others are never short of messages.
            left -= if index == 2 { 0 } else { share };
        }
        assert_eq!(seen, [(1, 3), (2, 3), (0, 6)]);
    }
}

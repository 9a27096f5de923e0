//! Where a publication goes, and in which order a claim looks at its queues.

use crate::protocol::Publication;

/// Priorities are 0 to 9.
const HIGHEST: u8 = 9;

/// The queue a publication goes to.
pub(crate) fn queue(publication: &Publication) -> &str {
    if publication.routing_key.is_empty() { &publication.exchange } else { &publication.routing_key }
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
}

impl Turns {
    /// Turns over `queues` queues, starting with number `start` (modulo).
    pub(crate) fn new(queues: usize, start: usize) -> Self {
        Self { queues, start, step: 0 }
    }

    /// The next queue to look at, and how many of the `left` to take from it at the most.
    pub(crate) fn next(&mut self, left: usize) -> Option<(usize, usize)> {
        let rounds = if self.queues == 1 { 1 } else { 2 };
        if left == 0 || self.queues == 0 || self.step == rounds * self.queues {
            return None;
        }
        let index = (self.start + self.step) % self.queues;
        let first_round = self.step < self.queues;
        let share = if first_round { left.div_ceil(self.queues - self.step) } else { left };
        self.step += 1;
        Some((index, share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

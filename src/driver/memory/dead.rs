//! Dead letters, queues that are paused, and results of which only the newest are kept.

use crate::broker::{DeadFilter, DeadLetter, DeadLimits, DeadStats, Resolution};
use crate::clock::UnixMillis;
use crate::protocol::Retain;

use super::state::State;

impl State {
    pub(super) fn find_dead(&self, filter: &DeadFilter, limit: usize) -> Vec<DeadLetter> {
        self.dead.values().filter(|letter| filter.fits(letter)).take(limit).cloned().collect()
    }

    pub(super) fn dead_stats(&self) -> DeadStats {
        let oldest = self.dead.first_key_value().map(|(_, letter)| letter.died);
        DeadStats { count: self.dead.len() as u64, oldest }
    }

    pub(super) fn resolve_dead(&mut self, resolutions: Vec<Resolution>, now: UnixMillis) -> Vec<u64> {
        let mut resolved = Vec::with_capacity(resolutions.len());
        for Resolution { id, publication } in resolutions {
            if self.dead.remove(&id).is_some() {
                resolved.push(id);
                if let Some(publication) = publication {
                    self.publish(publication, now);
                }
            }
        }
        resolved
    }

    pub(super) fn trim_dead(&mut self, limits: &DeadLimits, now: UnixMillis) -> u64 {
        let before = self.dead.len();
        if let Some(too_old) = limits.too_old(now) {
            self.dead.retain(|_, letter| letter.died >= too_old);
        }
        let most = limits.max_count.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
        while self.dead.len() > most {
            self.dead.pop_first();
        }
        (before - self.dead.len()) as u64
    }

    pub(super) fn set_paused(&mut self, queue: &str, paused: bool) {
        if paused {
            self.paused.insert(queue.to_owned());
        } else {
            self.paused.remove(queue);
        }
    }

    pub(super) fn paused(&self, queues: &[String]) -> Vec<String> {
        queues.iter().filter(|queue| self.paused.contains(*queue)).cloned().collect()
    }

    /// Counts a result that was stored among those of its kind, and removes the oldest beyond their number.
    pub(super) fn retain(&mut self, task_id: &str, retain: &Retain) {
        for list in [&retain.list, &retain.other] {
            if let Some(list) = self.retained.get_mut(list) {
                list.retain(|id| id != task_id);
            }
        }
        let Some(most) = retain.most else { return };
        let list = self.retained.entry(retain.list.clone()).or_default();
        list.push_back(task_id.to_owned());
        let mut gone = Vec::new();
        while list.len() > most as usize {
            gone.extend(list.pop_front());
        }
        for id in gone {
            self.forget(&id);
        }
    }
}

//! Revoked task ids, bounded and expiring.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::clock::UnixMillis;

/// Ids kept at the most, as in Celery.
const MAX_IDS: usize = 50_000;
/// How long an id is kept, as in Celery.
const KEPT_FOR: Duration = Duration::from_secs(3 * 3600);

/// The ids that must not run.
#[derive(Debug, Default)]
pub(crate) struct Revoked {
    /// When each id was added last.
    ids: HashMap<String, UnixMillis>,
    /// The same in the order of adding; an entry whose moment is not the id's last one is spent.
    order: VecDeque<(UnixMillis, String)>,
}

impl Revoked {
    /// Adds an id.
    pub(crate) fn add(&mut self, id: &str, now: UnixMillis) {
        self.forget(now);
        if self.ids.insert(id.to_owned(), now) != Some(now) {
            self.order.push_back((now, id.to_owned()));
        }
        while self.ids.len() > MAX_IDS || self.order.len() > 2 * MAX_IDS {
            self.pop();
        }
    }

    /// Whether the id is revoked.
    pub(crate) fn contains(&self, id: &str, now: UnixMillis) -> bool {
        // Nearly always empty: no hashing of every task's id.
        !self.ids.is_empty() && self.ids.get(id).is_some_and(|added| now < added.after(KEPT_FOR))
    }

    fn forget(&mut self, now: UnixMillis) {
        while self.order.front().is_some_and(|(added, _)| added.after(KEPT_FOR) <= now) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some((added, id)) = self.order.pop_front()
            && self.ids.get(&id) == Some(&added)
        {
            self.ids.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_expire_after_three_hours() {
        let mut revoked = Revoked::default();
        let start = UnixMillis(0);
        revoked.add("a", start);

        assert!(revoked.contains("a", start));
        assert!(!revoked.contains("b", start));
        assert!(!revoked.contains("a", start.after(KEPT_FOR)));
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let mut revoked = Revoked::default();
        let now = UnixMillis(0);
        for number in 0..MAX_IDS + 10 {
            revoked.add(&number.to_string(), now);
        }

        assert_eq!(revoked.ids.len(), MAX_IDS);
        assert!(!revoked.contains("9", now));
        assert!(revoked.contains("10", now));
    }

    #[test]
    fn revoking_one_id_again_and_again_stays_bounded() {
        let mut revoked = Revoked::default();
        for moment in 0..300_000 {
            revoked.add("a", UnixMillis(moment));
        }

        assert!(revoked.order.len() <= 2 * MAX_IDS);
        assert!(revoked.contains("a", UnixMillis(300_000)));
    }
}

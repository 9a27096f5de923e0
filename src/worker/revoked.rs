//! Revoked task ids, and stamps, bounded and expiring.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

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
    /// Counts additions: what is saved is known by it.
    pub(crate) version: u64,
    /// Stamps that must not run.
    pub(crate) stamps: Stamps,
}

/// Stamped headers whose tasks must not run (`revoke_by_stamped_headers`).
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    by_header: HashMap<String, Vec<String>>,
    /// Stamps over all headers.
    count: usize,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Stamped {
    stamps: Option<Map<String, Value>>,
}

impl Revoked {
    /// Adds an id.
    pub(crate) fn add(&mut self, id: &str, now: UnixMillis) {
        self.forget(now);
        self.version += 1;
        if self.ids.insert(id.to_owned(), now) != Some(now) {
            self.order.push_back((now, id.to_owned()));
        }
        while self.ids.len() > MAX_IDS || self.order.len() > 2 * MAX_IDS {
            self.pop();
        }
    }

    /// Adds an id that another worker knows of; one that is known here keeps its moment.
    pub(crate) fn add_new(&mut self, id: &str, now: UnixMillis) {
        if !self.contains(id, now) {
            self.add(id, now);
        }
    }

    /// Whether the id is revoked.
    pub(crate) fn contains(&self, id: &str, now: UnixMillis) -> bool {
        // Nearly always empty: no hashing of every task's id.
        !self.ids.is_empty() && self.ids.get(id).is_some_and(|added| now < added.after(KEPT_FOR))
    }

    /// The ids that are revoked now, oldest first, each with the moment it was added.
    pub(crate) fn list(&mut self, now: UnixMillis) -> impl Iterator<Item = (&str, UnixMillis)> {
        self.forget(now);
        let ids = &self.ids;
        let last = move |(added, id): &&(UnixMillis, String)| ids.get(id) == Some(added);
        self.order.iter().filter(last).map(|(added, id)| (id.as_str(), *added))
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

impl Stamps {
    /// Adds stamps. They are few: above the limit no more are taken.
    pub(crate) fn add(&mut self, headers: &Map<String, Value>) {
        for (header, value) in headers {
            let known = self.by_header.entry(header.clone()).or_default();
            for stamp in stamps_of(value) {
                if self.count < MAX_IDS && !known.contains(&stamp) {
                    known.push(stamp);
                    self.count += 1;
                }
            }
        }
    }

    /// Whether a message has a stamp that is revoked.
    pub(crate) fn any(&self, headers: &[u8]) -> bool {
        // Nearly always empty: headers are not read again for it.
        self.count > 0
            && message_stamps(headers).iter().any(|(header, value)| {
                let known = self.by_header.get(header);
                known.is_some_and(|known| stamps_of(value).iter().any(|stamp| known.contains(stamp)))
            })
    }
}

/// The stamps of a message that are among these: header and stamp.
pub(crate) fn matching(headers: &[u8], wanted: &Map<String, Value>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (header, value) in message_stamps(headers) {
        let Some(wanted) = wanted.get(&header) else { continue };
        let wanted = stamps_of(wanted);
        let same = stamps_of(&value).into_iter().filter(|stamp| wanted.contains(stamp));
        found.extend(same.map(|stamp| (header.clone(), stamp)));
    }
    found
}

fn message_stamps(headers: &[u8]) -> Map<String, Value> {
    serde_json::from_slice::<Stamped>(headers).ok().and_then(|headers| headers.stamps).unwrap_or_default()
}

/// One stamp, or several; what is no text is compared as it is written.
fn stamps_of(value: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match value {
        Value::Null => Vec::new(),
        Value::Array(list) => list.iter().map(text).collect(),
        one => vec![text(one)],
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

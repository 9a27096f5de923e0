//! The keys of the store in memory.

use std::collections::HashMap;

use async_trait::async_trait;

use super::MemoryStore;
use crate::clock::UnixMillis;
use crate::driver::keys::{self, Change, Entry};
use crate::keys::{Admission, Admitted, Arrival, Held, KeyError, Keys, Turn};

/// The entries that have not run out are those that count.
#[derive(Default)]
pub(super) struct Entries(HashMap<String, Entry>);

impl Entries {
    fn find(&self, key: &str, now: UnixMillis) -> Option<Entry> {
        self.0.get(key).filter(|entry| entry.until_ms > now.0).cloned()
    }

    fn change<T>(&mut self, key: &str, (change, answer): (Change, T)) -> T {
        if let Change::Write(entry) = change {
            self.0.insert(key.to_owned(), entry);
        }
        answer
    }

    pub(super) fn admit(&mut self, wanted: &Admission, published: bool, now: UnixMillis) -> Admitted {
        let found = self.find(&wanted.key, now);
        self.change(&wanted.key, keys::admit(found, wanted, published, now))
    }

    fn confirm(&mut self, wanted: &Admission, now: UnixMillis) -> Admitted {
        let found = self.find(&wanted.key, now);
        self.change(&wanted.key, keys::confirm(found, wanted, now))
    }

    fn arrive(&mut self, arrival: &Arrival, now: UnixMillis) -> Turn {
        let found = self.find(&arrival.held.key, now);
        let turn = self.change(&arrival.held.key, keys::arrive(found, arrival, now));
        match (turn, &arrival.turn) {
            (Turn::Run, Some(key)) => {
                let wanted = Held { key: key.clone(), ..arrival.held.clone() };
                if self.take(&wanted, &arrival.task_id, now) { Turn::Run } else { Turn::Wait }
            }
            (turn, _) => turn,
        }
    }

    fn take(&mut self, held: &Held, id: &str, now: UnixMillis) -> bool {
        let found = self.find(&held.key, now);
        let taken = keys::take(found.as_ref(), held, id, now);
        let is_taken = taken.is_some();
        self.0.extend(taken.map(|entry| (held.key.clone(), entry)));
        is_taken
    }

    pub(super) fn free(&mut self, held: &Held, now: UnixMillis) -> bool {
        let holds = self.find(&held.key, now).is_some_and(|entry| entry.token == held.token);
        if holds {
            self.0.remove(&held.key);
        }
        holds
    }

    fn renew(&mut self, held: &Held, now: UnixMillis) -> bool {
        let found = self.0.get_mut(&held.key);
        let found = found.filter(|entry| entry.until_ms > now.0 && entry.token == held.token);
        found.is_some_and(|entry| {
            entry.until_ms = now.0.saturating_add_unsigned(held.ttl_ms);
            true
        })
    }

    pub(super) fn sweep(&mut self, now: UnixMillis) {
        self.0.retain(|_, entry| entry.until_ms > now.0);
    }
}

#[async_trait]
impl Keys for MemoryStore {
    async fn reserve(&self, admission: &Admission) -> Result<Admitted, KeyError> {
        let now = self.0.clock.now();
        Ok(self.0.state.lock().keys.admit(admission, false, now))
    }

    async fn confirm(&self, admission: &Admission) -> Result<Admitted, KeyError> {
        let now = self.0.clock.now();
        Ok(self.0.state.lock().keys.confirm(admission, now))
    }

    async fn arrive(&self, arrival: &Arrival) -> Result<Turn, KeyError> {
        let now = self.0.clock.now();
        Ok(self.0.state.lock().keys.arrive(arrival, now))
    }

    async fn free(&self, held: &[Held]) -> Result<Vec<bool>, KeyError> {
        let now = self.0.clock.now();
        let mut state = self.0.state.lock();
        Ok(held.iter().map(|held| state.keys.free(held, now)).collect())
    }

    async fn renew(&self, held: &[Held]) -> Result<Vec<bool>, KeyError> {
        let now = self.0.clock.now();
        let mut state = self.0.state.lock();
        Ok(held.iter().map(|held| state.keys.renew(held, now)).collect())
    }

    async fn lock(&self, lock: &Held) -> Result<Option<u64>, KeyError> {
        let now = self.0.clock.now();
        let mut state = self.0.state.lock();
        let taken = state.keys.take(lock, "", now);
        Ok(taken.then(|| state.number()))
    }
}

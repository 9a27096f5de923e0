//! Requests that have begun, as the result backend keeps them.

use std::collections::BTreeMap;

use crate::backend::{Keeper, Kept, Left};
use crate::clock::UnixMillis;

/// All keepers, by place and name.
#[derive(Default)]
pub(super) struct Keepers(BTreeMap<(String, String), Held>);

struct Held {
    lease_ends: UnixMillis,
    begun: BTreeMap<String, Kept>,
}

fn key(keeper: &Keeper) -> (String, String) {
    (keeper.place.clone(), keeper.name.clone())
}

impl Keepers {
    pub(super) fn keep(&mut self, keeper: &Keeper, begun: Vec<Kept>, now: UnixMillis) {
        let lease_ends = now.after(keeper.lease);
        let held = self.0.entry(key(keeper)).or_insert(Held { lease_ends, begun: BTreeMap::new() });
        held.lease_ends = lease_ends;
        held.begun.extend(begun.into_iter().map(|kept| (kept.id.clone(), kept)));
    }

    pub(super) fn forget(&mut self, keeper: &Keeper, ids: &[String]) {
        if let Some(held) = self.0.get_mut(&key(keeper)) {
            held.begun.retain(|id, _| !ids.contains(id));
        }
    }

    pub(super) fn renew(&mut self, keeper: &Keeper, now: UnixMillis) -> Left {
        let own = key(keeper);
        let lost = match self.0.get_mut(&own) {
            Some(held) => {
                held.lease_ends = now.after(keeper.lease);
                false
            }
            None => true,
        };
        let ended = |(place, _): &(String, String), held: &Held| *place == own.0 && held.lease_ends <= now;
        let gone: Vec<_> =
            self.0.iter().filter(|(key, held)| ended(key, held)).map(|(key, _)| key.clone()).collect();
        let begun: Vec<Kept> = gone
            .iter()
            .filter_map(|key| self.0.remove(key))
            .flat_map(|held| held.begun.into_values())
            .collect();
        if !begun.is_empty() {
            self.keep(keeper, begun.clone(), now);
        }
        Left { lost, begun }
    }
}

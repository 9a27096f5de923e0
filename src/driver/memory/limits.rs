//! Limits of all workers, where all of them are in this process.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use super::{MemoryStore, Shared};
use crate::clock::UnixMillis;
use crate::driver::limits::{self, Shelf, State};
use crate::limits::{Answers, LimitBell, LimitError, LimitStore, Place, Turns};

/// Everything that is kept of limits.
#[derive(Default)]
pub(super) struct Limits {
    states: HashMap<String, State>,
    holders: HashMap<String, UnixMillis>,
    lines: HashMap<String, Line>,
}

#[derive(Default)]
struct Line {
    last: u64,
    by_id: HashMap<String, u64>,
    in_order: BTreeMap<u64, String>,
}

impl Limits {
    /// Forgets what nobody uses.
    pub(super) fn sweep(&mut self, now: UnixMillis) {
        self.holders.retain(|_, until| *until > now);
        self.states.retain(|_, state| !state.is_spent(now));
        self.lines.retain(|_, line| !line.by_id.is_empty());
    }
}

/// The limits, and the time.
struct Now<'a>(&'a mut Limits, UnixMillis);

impl Shelf for Now<'_> {
    type Error = Infallible;

    fn load(&mut self, place: &str) -> Result<State, Infallible> {
        Ok(self.0.states.get(place).cloned().unwrap_or_default())
    }

    fn save(&mut self, place: &str, state: &State) -> Result<(), Infallible> {
        self.0.states.insert(place.to_owned(), state.clone());
        Ok(())
    }

    fn hold(&mut self, holder: &str, until: Option<UnixMillis>) -> Result<(), Infallible> {
        match until {
            Some(until) => self.0.holders.insert(holder.to_owned(), until),
            None => self.0.holders.remove(holder),
        };
        Ok(())
    }

    fn lives(&mut self, holder: &str) -> Result<bool, Infallible> {
        Ok(self.0.holders.get(holder).is_some_and(|until| *until > self.1))
    }

    fn stand(&mut self, place: &str, id: &str) -> Result<Place, Infallible> {
        let line = self.0.lines.entry(place.to_owned()).or_default();
        if let Some(number) = line.by_id.get(id) {
            let before = line.in_order.range(..number).count() as u64;
            return Ok(Place { before, again: true });
        }
        let before = line.by_id.len() as u64;
        line.last += 1;
        line.by_id.insert(id.to_owned(), line.last);
        line.in_order.insert(line.last, id.to_owned());
        Ok(Place { before, again: false })
    }

    fn leave(&mut self, place: &str, id: &str) -> Result<(), Infallible> {
        if let Some(line) = self.0.lines.get_mut(place)
            && let Some(number) = line.by_id.remove(id)
        {
            line.in_order.remove(&number);
        }
        Ok(())
    }

    fn in_line(&mut self, place: &str) -> Result<u64, Infallible> {
        Ok(self.0.lines.get(place).map_or(0, |line| line.by_id.len() as u64))
    }

    fn clear(&mut self, place: &str) -> Result<(), Infallible> {
        self.0.lines.remove(place);
        Ok(())
    }
}

/// The contract over the store.
pub(super) struct MemoryLimits(pub(super) Arc<Shared>);

impl MemoryStore {
    pub(super) fn limit_store(&self) -> Arc<dyn LimitStore> {
        Arc::new(MemoryLimits(self.0.clone()))
    }
}

#[async_trait]
impl LimitStore for MemoryLimits {
    async fn turns(&self, turns: &Turns) -> Result<Answers, LimitError> {
        let now = self.0.clock.now();
        let Ok((answers, freed)) =
            limits::carry_out(&mut Now(&mut self.0.state.lock().limits, now), turns, now);
        if !freed.is_empty() {
            self.0.turns.send_modify(|version| *version += 1);
        }
        Ok(answers)
    }

    fn bell(&self) -> Box<dyn LimitBell> {
        Box::new(MemoryBell(self.0.turns.subscribe()))
    }
}

struct MemoryBell(watch::Receiver<u64>);

#[async_trait]
impl LimitBell for MemoryBell {
    async fn rung(&mut self) -> Result<Option<Vec<String>>, LimitError> {
        self.0.changed().await.map_err(|_| LimitError("the store is gone".to_owned()))?;
        Ok(None)
    }
}

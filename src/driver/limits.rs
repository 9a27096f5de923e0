//! How stores of our own keep limits of all workers, by the same rules that the script for Redis has (`lua/turns.lua`).
//!
//! The starts of a limit are a log: moment and count. A turn enters it when it is taken, and is moved to the moment at which
//! it was seen to run; until then it never leaves the log. Since a start is in the log from before it happens, and is
//! forgotten only a whole window after it has, no window can have more of them than the log has entries.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::UnixMillis;
use crate::limits::{
    Answers, Ask, Given, LONGEST_WINDOW, LimitUse, LineUp, Place, Told, Turns, Uses, Wait, WindowRate,
};

/// Entries that a log has at the most. Of a limit with a larger count each stands for a part of the window, of which the end
/// counts: so much of the limit may be left unused, and never more than it is used.
pub(super) const ENTRIES: u32 = 200;
/// Starts follow each other at even distances, and by this much closer to make up for what was missed.
pub(super) const CLOSER: f64 = 0.8;
/// A worker may be so much too late, in ms, before a start is missed: half the distance, within these bounds.
pub(super) const LATE_MS: (f64, f64) = (5.0, 50.0);

/// What is kept of one limit and key, its line aside. Written in one step with the answers that follow from it: a crash
/// leaves the state before the call or the one after it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct State {
    /// Starts, by the moment that counts.
    log: BTreeMap<i64, u32>,
    /// When the next start is not too close to the one before.
    next_ms: f64,
    /// Turns that are out, by holder and token; with its entry in the log while it has not begun.
    out: BTreeMap<String, Option<i64>>,
    /// Someone was told that all turns are out, and waits for the bell.
    told_full: bool,
}

impl State {
    fn move_start(&mut self, from: i64, to: i64) {
        if let Some(count) = self.log.get_mut(&from) {
            *count -= 1;
            if *count == 0 {
                self.log.remove(&from);
            }
            *self.log.entry(to).or_default() += 1;
        }
    }

    fn forget_start(&mut self, at: i64) {
        if let Some(count) = self.log.get_mut(&at) {
            *count -= 1;
            if *count == 0 {
                self.log.remove(&at);
            }
        }
    }

    /// Nobody has a turn of it.
    pub(super) fn is_idle(&self) -> bool {
        self.out.is_empty()
    }

    /// It says nothing that a new one would not.
    pub(super) fn is_spent(&self, now: UnixMillis) -> bool {
        let last = self.log.keys().next_back();
        self.is_idle() && last.is_none_or(|last| last + millis(LONGEST_WINDOW) < now.0)
    }
}

/// Where a store keeps all this; one call is one step of the store.
pub(super) trait Shelf {
    /// What can go wrong with it.
    type Error;
    /// What is kept of a place.
    fn load(&mut self, place: &str) -> Result<State, Self::Error>;
    /// Keeps it.
    fn save(&mut self, place: &str, state: &State) -> Result<(), Self::Error>;
    /// Until when a holder's turns are its own; none: it goes.
    fn hold(&mut self, holder: &str, until: Option<UnixMillis>) -> Result<(), Self::Error>;
    /// Whether a holder's lease has not ended.
    fn lives(&mut self, holder: &str) -> Result<bool, Self::Error>;
    /// Stands in line, behind all others if it does not stand there.
    fn stand(&mut self, place: &str, id: &str) -> Result<Place, Self::Error>;
    /// Leaves the line, if it stands there.
    fn leave(&mut self, place: &str, id: &str) -> Result<(), Self::Error>;
    /// How many stand in line.
    fn in_line(&mut self, place: &str) -> Result<u64, Self::Error>;
    /// Empties a line.
    fn clear(&mut self, place: &str) -> Result<(), Self::Error>;
}

/// Carries out a call. Also gives the places of which turns came back that others wait for.
pub(super) fn carry_out<S: Shelf>(
    shelf: &mut S,
    turns: &Turns,
    now: UnixMillis,
) -> Result<(Answers, Vec<String>), S::Error> {
    let mut round = Round { shelf, now: now.0, states: HashMap::new(), freed: BTreeSet::new() };
    round.shelf.hold(&turns.holder, Some(now.after(turns.lease)))?;
    for told in &turns.told {
        round.told(&turns.holder, told)?;
    }
    for place in &turns.cleared {
        round.shelf.clear(place)?;
    }
    let stand = |line: &LineUp| round.shelf.stand(&line.place, &line.id);
    let lines = turns.lines.iter().map(stand).collect::<Result<_, _>>()?;
    let mut left = turns.most;
    let mut given = Vec::with_capacity(turns.asks.len());
    for ask in &turns.asks {
        given.push(round.ask(&turns.holder, ask, &mut left)?);
    }
    if turns.leaves {
        round.shelf.hold(&turns.holder, None)?;
    }
    for (place, state) in &round.states {
        round.shelf.save(place, state)?;
    }
    Ok((Answers { lines, given }, round.freed.into_iter().collect()))
}

struct Round<'a, S> {
    shelf: &'a mut S,
    now: i64,
    states: HashMap<String, State>,
    freed: BTreeSet<String>,
}

impl<S: Shelf> Round<'_, S> {
    fn state(&mut self, place: &str) -> Result<&mut State, S::Error> {
        if !self.states.contains_key(place) {
            let state = self.shelf.load(place)?;
            self.states.insert(place.to_owned(), state);
        }
        Ok(self.states.entry(place.to_owned()).or_default())
    }

    fn told(&mut self, holder: &str, told: &Told) -> Result<(), S::Error> {
        let (now, name) = (self.now, name(holder, told.token));
        for limit in told.uses.iter() {
            let state = self.state(&limit.place)?;
            let Some(granted) = state.out.get(&name).copied() else { continue };
            match (granted, told.began) {
                (Some(granted), Some(ago)) => {
                    let seen = entry(limit.rate, now - millis(ago));
                    state.move_start(granted, seen);
                    state.out.insert(name.clone(), None);
                }
                // It is as if it had not been taken.
                (Some(granted), None) if told.ended => state.forget_start(granted),
                _ => {}
            }
            if told.ended || (limit.most.is_none() && told.began.is_some()) {
                state.out.remove(&name);
                let heard = std::mem::take(&mut state.told_full);
                if heard {
                    self.freed.insert(limit.place.clone());
                }
            }
        }
        Ok(())
    }

    fn ask(&mut self, holder: &str, ask: &Ask, left: &mut usize) -> Result<Given, S::Error> {
        let mut turns = 0;
        let mut wait = None;
        for (token, id) in &ask.requests {
            wait = self.take(&name(holder, *token), &ask.uses, left)?;
            if wait.is_some() {
                break;
            }
            turns += 1;
            self.shelf.leave(&ask.uses[0].place, id)?;
        }
        if wait.is_none() {
            wait = self.blocked(&ask.uses)?;
        }
        let in_line = self.shelf.in_line(&ask.uses[0].place)?;
        Ok(Given { turns, wait: wait.unwrap_or(Wait::Free), in_line })
    }

    /// Takes a turn of each of the limits; says what there is to wait for if not all can be had.
    fn take(&mut self, name: &str, uses: &Uses, left: &mut usize) -> Result<Option<Wait>, S::Error> {
        if self.state(&uses[0].place)?.out.contains_key(name) {
            return Ok(None);
        }
        if *left == 0 {
            return Ok(Some(Wait::Enough));
        }
        if let Some(wait) = self.blocked(uses)? {
            return Ok(Some(wait));
        }
        *left -= 1;
        let now = self.now;
        for limit in uses.iter() {
            let at = entry(limit.rate, now);
            let state = self.state(&limit.place)?;
            if let Some(rate) = limit.rate {
                *state.log.entry(at).or_default() += 1;
                let gap = gap(rate);
                let late = (gap / 2.0).clamp(LATE_MS.0, LATE_MS.1);
                state.next_ms = state.next_ms.max(now as f64 - late) + gap;
            }
            state.out.insert(name.to_owned(), Some(at));
        }
        Ok(None)
    }

    fn blocked(&mut self, uses: &Uses) -> Result<Option<Wait>, S::Error> {
        for limit in uses.iter() {
            if let Some(wait) = self.blocked_by(limit)? {
                return Ok(Some(wait));
            }
        }
        Ok(None)
    }

    fn blocked_by(&mut self, limit: &LimitUse) -> Result<Option<Wait>, S::Error> {
        let now = self.now;
        if let Some(rate) = limit.rate {
            self.forget_old(limit, rate)?;
            let state = self.state(&limit.place)?;
            let first = state.log.keys().next().copied().unwrap_or(now);
            if state.log.values().sum::<u32>() >= rate.count {
                return Ok(Some(Wait::For(wait(first + millis(rate.window) - now))));
            }
            if state.next_ms > now as f64 {
                return Ok(Some(Wait::For(wait((state.next_ms - now as f64).ceil() as i64))));
            }
        }
        let Some(most) = limit.most.map(|most| most as usize) else { return Ok(None) };
        if self.state(&limit.place)?.out.len() >= most {
            self.reap(limit)?;
        }
        let state = self.state(&limit.place)?;
        if state.out.len() < most {
            return Ok(None);
        }
        state.told_full = true;
        Ok(Some(Wait::Full))
    }

    /// Forgets starts that no window from now on can have. What has a turn and has not begun stays.
    fn forget_old(&mut self, limit: &LimitUse, rate: WindowRate) -> Result<(), S::Error> {
        let now = self.now;
        let old = now - millis(rate.window);
        let is_old = |granted: &Option<i64>| granted.is_some_and(|granted| granted <= old);
        if self.state(&limit.place)?.out.values().any(is_old) {
            self.reap(limit)?;
            let at = entry(limit.rate, now);
            let state = self.state(&limit.place)?;
            let waiting: Vec<_> = state
                .out
                .iter()
                .filter(|(_, granted)| is_old(granted))
                .map(|(name, _)| name.clone())
                .collect();
            for name in waiting {
                if let Some(granted) = state.out.insert(name, Some(at)).flatten() {
                    state.move_start(granted, at);
                }
            }
        }
        let state = self.state(&limit.place)?;
        state.log = state.log.split_off(&(old + 1));
        Ok(())
    }

    /// Takes back the turns of holders that are gone. Those that had not begun, as far as is known, may have.
    fn reap(&mut self, limit: &LimitUse) -> Result<(), S::Error> {
        let at = entry(limit.rate, self.now);
        let names: Vec<String> = self.state(&limit.place)?.out.keys().cloned().collect();
        let mut known: HashMap<String, bool> = HashMap::new();
        for name in names {
            let holder = name.rsplit_once('|').map_or("", |(holder, _)| holder);
            let lives = match known.get(holder) {
                Some(lives) => *lives,
                None => self.shelf.lives(holder)?,
            };
            known.insert(holder.to_owned(), lives);
            if lives {
                continue;
            }
            let state = self.state(&limit.place)?;
            if let Some(granted) = state.out.remove(&name).flatten() {
                state.move_start(granted, at);
            }
        }
        Ok(())
    }
}

fn name(holder: &str, token: u64) -> String {
    format!("{holder}|{token}")
}

/// Which entry of the log a moment belongs to: rounded up, since what counts too late is never too early.
fn entry(rate: Option<WindowRate>, moment: i64) -> i64 {
    let step = rate.map_or(1, step);
    (moment + step).div_euclid(step) * step
}

/// What an entry of the log stands for, in ms.
pub(super) fn step(rate: WindowRate) -> i64 {
    if rate.count > ENTRIES { (millis(rate.window) / i64::from(ENTRIES)).max(1) } else { 1 }
}

/// The distance between two starts, in ms.
pub(super) fn gap(rate: WindowRate) -> f64 {
    CLOSER * millis(rate.window) as f64 / f64::from(rate.count.max(1))
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

fn wait(ms: i64) -> Duration {
    Duration::from_millis(ms.max(1).unsigned_abs())
}

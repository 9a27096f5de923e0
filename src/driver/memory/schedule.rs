//! What the store in memory keeps of one schedule of periodic tasks.

use std::collections::BTreeMap;

use crate::broker::{Fired, Firing, LastDue, ScheduleLease, ScheduleState};
use crate::clock::UnixMillis;

#[derive(Default)]
pub(super) struct Schedule {
    /// Who holds it, and until when.
    lease: Option<(String, UnixMillis)>,
    entries: BTreeMap<String, LastDue>,
    changes: BTreeMap<String, String>,
}

impl Schedule {
    fn holder(&self, now: UnixMillis) -> Option<&str> {
        self.lease.as_ref().filter(|(_, until)| *until > now).map(|(holder, _)| &**holder)
    }

    pub(super) fn lease(&mut self, holder: &str, now: UnixMillis, until: UnixMillis) -> ScheduleLease {
        match self.holder(now) {
            Some(other) if other != holder => ScheduleLease::Other(Some(other.to_owned())),
            _ => {
                self.lease = Some((holder.to_owned(), until));
                ScheduleLease::Held
            }
        }
    }

    pub(super) fn release(&mut self, holder: &str) {
        self.lease.take_if(|(held, _)| held == holder);
    }

    /// Notes a moment; whether it is to be sent.
    pub(super) fn fire(&mut self, firing: &Firing, now: UnixMillis) -> Fired {
        if self.holder(now) != Some(&firing.holder) {
            return Fired::NotHolder;
        }
        self.lease = Some((firing.holder.clone(), now.after(firing.lease)));
        if self.entries.get(&firing.entry).is_some_and(|last| last.due_ms >= firing.due_ms) {
            return Fired::Already;
        }
        let last = LastDue { due_ms: firing.due_ms, state: firing.state.clone() };
        self.entries.insert(firing.entry.clone(), last);
        Fired::Sent
    }

    pub(super) fn state(&self, now: UnixMillis) -> ScheduleState {
        ScheduleState {
            entries: self.entries.clone(),
            changes: self.changes.clone(),
            holder: self.holder(now).map(str::to_owned),
        }
    }

    pub(super) fn change(&mut self, entry: &str, change: Option<String>) {
        match change {
            Some(change) => self.changes.insert(entry.to_owned(), change),
            None => self.changes.remove(entry),
        };
    }
}

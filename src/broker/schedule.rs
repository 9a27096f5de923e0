//! What a broker keeps of periodic tasks, so that any number of schedulers (beats) may run and each due moment of an
//! entry is sent at most once.
//!
//! Whoever has the **lease** of a schedule is its holder; the others stand by. The lease alone is not what keeps a moment
//! from being sent twice, since a holder may be stopped for longer than its lease lasts and not know it:
//! [`Broker::fire`](super::Broker::fire) checks **in the store** that the lease is still this holder's and that no
//! moment as late as this one was sent, notes the moment, and publishes. So nobody has to renew in time for the sake of
//! correctness, and no thread renews on behalf of a holder that hangs: one that hangs is to lose its lease.
//!
//! A schedule's names live as long as they are used: entries that nobody configures any more keep one small record.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::protocol::Publication;

/// Who holds a schedule, as far as the store tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScheduleLease {
    /// The one who asked.
    Held,
    /// Another; its name where the store keeps it.
    Other(Option<String>),
}

/// One due moment of an entry.
#[derive(Clone, Debug)]
pub struct Firing {
    /// Name of the schedule.
    pub schedule: String,
    /// Who fires it: must hold the lease.
    pub holder: String,
    /// How long the lease is held from now on.
    pub lease: Duration,
    /// Name of the entry.
    pub entry: String,
    /// The moment, in milliseconds since the epoch: grows from one firing of an entry to the next.
    pub due_ms: i64,
    /// What else is remembered of the entry; no store looks inside.
    pub state: String,
    /// What is sent; nothing where the moment is only noted.
    pub publications: Vec<Publication>,
}

/// What became of a [`Firing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fired {
    /// The moment is noted and sent.
    Sent,
    /// That moment, or a later one, was noted before; nothing happened.
    Already,
    /// The lease is not the holder's: nothing happened. It has to take it again, and to read the state anew.
    NotHolder,
}

impl Fired {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Already => "already",
            Self::NotHolder => "not-holder",
        }
    }
}

/// The last moment of an entry that was noted.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LastDue {
    /// In milliseconds since the epoch.
    pub due_ms: i64,
    /// [`Firing::state`].
    pub state: String,
}

/// All that is kept of a schedule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScheduleState {
    /// The last moments, by entry. Written by the holder.
    pub entries: BTreeMap<String, LastDue>,
    /// What users changed at run time, by entry; no store looks inside. Written by anyone, read by all.
    pub changes: BTreeMap<String, String>,
    /// The holder now, where the store keeps its name.
    pub holder: Option<String>,
}

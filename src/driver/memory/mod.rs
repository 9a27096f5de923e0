//! The store in memory: broker and result backend of one process.
//!
//! - `state`: everything the store holds, and each step as a plain function. No waiting.
//! - `schedule`, `chord`, `keys`, `topics`: what it keeps of periodic tasks, of chords, of calls that are sent once and of topics,
//!   likewise.
//! - `broker`, `backend`: the contracts over it; they lock, take one step, and wait for the next change.
//!
//! One lock guards all; it is never held over an `await`. Nothing survives the process.

mod backend;
mod broker;
mod chord;
mod dead;
mod keep;
mod keys;
mod limits;
mod schedule;
mod state;
mod topics;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::clock::Clock;
use state::State;

/// A broker and result backend in memory. Clones share one store.
#[derive(Clone)]
pub struct MemoryStore(Arc<Shared>);

struct Shared {
    name: String,
    clock: Clock,
    /// Everything. Any thread reads and writes it, for the length of one step.
    state: Mutex<State>,
    /// Rung after a step that may let a waiting claim go on: messages came, came back, or time moved.
    messages: Notify,
    /// Rung after a result was stored.
    results: Notify,
    /// Rung after a broadcast, or what may have been one, and after an entry of the stream.
    broadcasts: Notify,
    /// Counts what came back of limits. Written by whoever gives turns back, watched by their bells.
    turns: watch::Sender<u64>,
}

/// Stores by name. They live as long as the process, as a file would: a client that publishes and goes
/// must not take its messages along.
static NAMED: LazyLock<Mutex<HashMap<String, MemoryStore>>> = LazyLock::new(Mutex::default);

impl MemoryStore {
    /// A new, empty store that nobody else finds.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self::with_name(format!("#{:x}", fastrand::u64(..)), clock)
    }

    /// The store of that name in this process; made (with `clock`) when there is none.
    #[must_use]
    pub fn named(name: &str, clock: &Clock) -> Self {
        let mut stores = NAMED.lock();
        stores
            .entry(name.to_owned())
            .or_insert_with(|| Self::with_name(name.to_owned(), clock.clone()))
            .clone()
    }

    fn with_name(name: String, clock: Clock) -> Self {
        Self(Arc::new(Shared {
            name,
            clock,
            state: Mutex::default(),
            messages: Notify::new(),
            results: Notify::new(),
            broadcasts: Notify::new(),
            turns: watch::Sender::new(0),
        }))
    }

    /// Makes everyone who waits look again; for tests, after they moved a manual clock.
    pub fn wake(&self) {
        self.0.messages.notify_waiters();
        self.0.results.notify_waiters();
        self.0.broadcasts.notify_waiters();
        self.0.turns.send_modify(|version| *version += 1);
    }

    fn id(&self) -> String {
        format!("memory:{}", self.0.name)
    }

    fn url(&self) -> String {
        format!("memory://{}", if self.0.name.starts_with('#') { "" } else { &self.0.name })
    }
}

//! Counters of the worker, and the snapshot that others see.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// One counter. Written by the worker's thread alone, read by any.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Counts. No other thread writes, so that a load and a store do.
    pub(crate) fn add(&self, more: u64) {
        self.set(self.value() + more);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Every counter.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $($(#[doc = $doc])+ pub(crate) $name: Counter,)+
            /// Requests received, by task. The map never changes after the start.
            pub(crate) totals: HashMap<Arc<str>, Counter>,
            /// Process ids of the children. Written when one was replaced.
            pub(crate) pids: Mutex<Vec<u32>>,
        }

        /// What a worker has done so far.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Stats {
            $($(#[doc = $doc])+ pub $name: u64,)+
            /// Requests received, by task; those that were never received are left out.
            pub totals: BTreeMap<String, u64>,
            /// Process ids of the children.
            pub pids: Vec<u32>,
        }

        impl Counters {
            /// The values now.
            pub(crate) fn snapshot(&self) -> Stats {
                let total = |(name, counter): (&Arc<str>, &Counter)| (name.to_string(), counter.value());
                Stats {
                    $($name: self.$name.value(),)+
                    totals: self.totals.iter().map(total).filter(|(_, count)| *count > 0).collect(),
                    pids: self.pids.lock().clone(),
                }
            }
        }
    };
}

counters! {
    /// Deliveries taken from the broker.
    claimed,
    /// Requests that a child has answered.
    finished,
    /// Tasks that returned.
    succeeded,
    /// Tasks that failed.
    failed,
    /// Tasks that will be tried again.
    retried,
    /// Tasks that were revoked, expired or terminated.
    revoked,
    /// Messages refused without a child.
    refused,
    /// Requests whose child was lost.
    lost,
    /// Requests given back unrun.
    released,
    /// Requests parked until their time.
    parked,
    /// Outcomes that came too late: the message is another's by now.
    stale,
    /// Messages that became dead letters because they killed their process too often.
    crashed,
    /// Messages that became dead letters here.
    buried,
    /// Commits carried out.
    committed,
    /// Batches of commits carried out.
    batches,
    /// Children that were replaced.
    replaced,
    /// Times that the broker had to be consumed anew.
    reconnected,
    /// Events sent to monitors.
    events_sent,
    /// Events dropped since the broker did not take them.
    events_dropped,
    /// Requests that wait for a slot now.
    ready,
    /// Requests that wait for their time now.
    held,
    /// Requests that are claimed now.
    outstanding,
    /// Dead letters in the store, as of the last look.
    dead_letters,
    /// When the oldest of them died, in ms of Unix time; 0 when there is none.
    dead_oldest_ms,
}

//! The contract of where results live.

mod chord;
mod error;
mod group;
mod keep;
mod value;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::keys::{KeyError, Keys};
use crate::limits::LimitStore;
use crate::protocol::{ChordPart, ResultRecord};
use crate::report::StoreReport;

pub use crate::protocol::ChordClaim;
pub(crate) use chord::missing;
pub use chord::{Counted, Stalled};
pub(crate) use chord::{NONCE, nonce};
pub use error::BackendError;
pub use group::GroupRecord;
pub use keep::{Keeper, Kept, Left};
pub use value::KeptValue;

/// Where results live. One per process and URL, shared by any number of waiting threads and coroutines.
#[async_trait]
pub trait ResultBackend: Send + Sync {
    /// Stores a batch. A record whose stored state is `SUCCESS` is kept (only SUCCESS is final, as in
    /// Celery); `STARTED`, which is stored a moment after the task has begun, does not cover `ABORTED`. Whoever watches one of the ids is woken.
    async fn store(&self, batch: Vec<ResultRecord>) -> Result<(), BackendError>;

    /// Reads, in the order asked; none where nothing is stored or it has expired.
    async fn read(&self, task_ids: &[String]) -> Result<Vec<Option<ResultRecord>>, BackendError>;

    /// Removes records.
    async fn forget(&self, task_ids: &[String]) -> Result<(), BackendError>;

    /// Saves which results are a group's, over what was saved before.
    async fn save_group(&self, group: GroupRecord) -> Result<(), BackendError> {
        Err(self.keeps_no_groups(&group.group_id))
    }

    /// Reads a saved group; none where nothing is stored or it has expired.
    async fn read_group(&self, group_id: &str) -> Result<Option<GroupRecord>, BackendError> {
        Err(self.keeps_no_groups(group_id))
    }

    /// Removes a saved group, not its members' results.
    async fn forget_group(&self, group_id: &str) -> Result<(), BackendError> {
        Err(self.keeps_no_groups(group_id))
    }

    /// The error of stores that have no place for groups.
    fn keeps_no_groups(&self, group_id: &str) -> BackendError {
        let what = format!("keeping groups (this one is {group_id})");
        BackendError::Unsupported { url: self.display_url(), what }
    }

    /// Keeps a value, over what was kept under its key before.
    async fn put_value(&self, kept: KeptValue) -> Result<(), BackendError> {
        Err(self.keeps_no_values(&kept.key))
    }

    /// Reads a value; none where nothing is kept or it has expired.
    async fn read_value(&self, key: &str) -> Result<Option<Bytes>, BackendError> {
        Err(self.keeps_no_values(key))
    }

    /// Removes values.
    async fn delete_values(&self, keys: &[String]) -> Result<(), BackendError> {
        match keys.first() {
            Some(key) => Err(self.keeps_no_values(key)),
            None => Ok(()),
        }
    }

    /// The error of stores that have no place for values.
    fn keeps_no_values(&self, key: &str) -> BackendError {
        let what = format!("keeping values (this one is {key})");
        BackendError::Unsupported { url: self.display_url(), what }
    }

    /// What the store says of itself, for `doctor`.
    async fn examine(&self) -> Result<StoreReport, BackendError> {
        Ok(StoreReport::default())
    }

    /// Follows ids: the stream first gives what is stored now, then every change. Woken, not polled.
    async fn watch(&self, task_ids: Vec<String>) -> Result<Box<dyn Watch>, BackendError>;

    /// Called before messages are published whose results are wanted: whatever results come back through must be
    /// there by then (the reply queue of `rpc://`).
    async fn prepare(&self) -> Result<(), BackendError> {
        Ok(())
    }

    /// Whether it keeps requests that have begun. Workers ask for it when their broker counts no crash of a whole
    /// worker ([`crate::broker::Broker::counts_crashes`]).
    fn keeps_begun(&self) -> bool {
        false
    }

    /// Keeps requests of members of workflows: they have begun, and are acknowledged as soon as this returns. If their
    /// worker dies, another gets them from [`ResultBackend::renew_begun`] and concludes them.
    async fn keep_begun(&self, _keeper: &Keeper, _begun: &[Kept]) -> Result<(), BackendError> {
        Ok(())
    }

    /// They have ended.
    async fn forget_begun(&self, _keeper: &Keeper, _ids: &[String]) -> Result<(), BackendError> {
        Ok(())
    }

    /// Renews the keeper's lease, if it keeps anything, and takes over what others have left whose leases have ended.
    async fn renew_begun(&self, _keeper: &Keeper) -> Result<Left, BackendError> {
        Ok(Left::default())
    }

    /// Whether it counts the parts of chords. One that does not refuses the calls below.
    fn counts_chords(&self) -> bool {
        false
    }

    /// Says how many parts a chord has, before the first of them is sent. An earlier chord of that id is over with this;
    /// saying it again changes nothing. `expires_ms`: how long it is kept without a part that ends; none: for ever.
    async fn start_chord(
        &self,
        _group_id: &str,
        _size: u64,
        _expires_ms: Option<u64>,
    ) -> Result<(), BackendError> {
        Err(self.counts_no_chords())
    }

    /// Adds parts to a chord that is not complete.
    async fn grow_chord(&self, _group_id: &str, _by: u64) -> Result<(), BackendError> {
        Err(self.counts_no_chords())
    }

    /// Counts parts, each once however often it comes (by task id and index), and answers in their order. The one that
    /// completes its chord claims it, and so does the first that fails, if the chord's size is known by then. A part
    /// that is counted again while it holds the claim gets a new one: its worker may have died in between.
    async fn count_parts(&self, _parts: &[ChordPart]) -> Result<Vec<Counted>, BackendError> {
        Err(self.counts_no_chords())
    }

    /// [`ChordPart::element`] of all that were counted, in the order of the header; or of arrival, where the store is
    /// told to keep that one.
    async fn gather(&self, _group_id: &str) -> Result<Vec<Bytes>, BackendError> {
        Err(self.counts_no_chords())
    }

    /// Makes a claim last for so long from now. False when it is not this holder's any more.
    async fn hold_chord(&self, _claim: &ChordClaim, _long: Duration) -> Result<bool, BackendError> {
        Err(self.counts_no_chords())
    }

    /// The body was called, or ended: removes what was counted, and remembers that it is over
    /// ([`ChordClaim::remembered_ms`]). False when the claim is not this holder's any more; it may have been carried out
    /// by a call whose answer got lost.
    async fn finish_chord(&self, _claim: &ChordClaim) -> Result<bool, BackendError> {
        Err(self.counts_no_chords())
    }

    /// The error of stores that count no chords.
    fn counts_no_chords(&self) -> BackendError {
        BackendError::Unsupported { url: self.display_url(), what: "counting the parts of chords".to_owned() }
    }

    /// Looks after a chord, from its start to its end: [`ResultBackend::stalled_chords`] tells when nothing of it is
    /// counted any more. `message` is one of its messages, in a form of the workers' own.
    async fn guard_chord(&self, _group_id: &str, _message: Bytes) -> Result<(), BackendError> {
        Ok(())
    }

    /// The message of a chord that is looked after.
    async fn guarded_chord(&self, _group_id: &str) -> Result<Option<Bytes>, BackendError> {
        Ok(None)
    }

    /// Chords that are looked after, and of which nothing was counted for `after`. Each is told to one caller, and again
    /// after `again`.
    async fn stalled_chords(&self, _after: Duration, _again: Duration) -> Result<Vec<Stalled>, BackendError> {
        Ok(Vec::new())
    }

    /// Stalled chords that are not lost, as it turned out: they are looked at again as if something had been counted.
    async fn spare_chords(&self, _group_ids: &[String], _after: Duration) -> Result<(), BackendError> {
        Ok(())
    }

    /// Keeps limits of all workers together; none: it cannot.
    fn limits(&self) -> Option<Arc<dyn LimitStore>> {
        None
    }

    /// What keeps keys beside the results, for brokers that keep none.
    fn keys(&self) -> Option<&dyn Keys> {
        None
    }

    /// Where within its store it keeps results (a database and prefix); only the driver of the same store looks
    /// inside.
    fn location(&self) -> String {
        String::new()
    }

    /// The same as [`crate::broker::Broker::store_id`].
    fn store_id(&self) -> Option<String>;

    /// The URL without its password.
    fn display_url(&self) -> String;
}

impl From<BackendError> for KeyError {
    fn from(error: BackendError) -> Self {
        Self { transient: error.is_transient(), reason: error.to_string() }
    }
}

/// Follows the results of some task ids.
#[async_trait]
pub trait Watch: Send {
    /// The records that changed since the last call (on the first call: all that exist); waits until there
    /// is at least one. A state that was overwritten between two calls may be skipped. Cancel-safe.
    async fn next(&mut self) -> Result<Vec<ResultRecord>, BackendError>;
}

//! Requests that have begun, kept for brokers that cannot tell that a whole worker died.

use std::time::Duration;

use bytes::Bytes;

/// Who keeps requests: one worker, under a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keeper {
    /// The broker that the requests came from: only workers of the same one look after each other.
    pub place: String,
    /// Names the worker, newly for every start.
    pub name: String,
    /// How long what it keeps is its own without a renewal.
    pub lease: Duration,
}

/// One request that has begun, and was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Names it among all that are kept.
    pub id: String,
    /// Its message, in a form of the worker's own.
    pub message: Bytes,
}

/// What a renewal found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// The keeper's own lease had ended, and another has taken over what it kept.
    pub lost: bool,
    /// Requests of keepers that are gone; they are this keeper's now, until it forgets them.
    pub begun: Vec<Kept>,
}

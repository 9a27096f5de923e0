//! The contract of what keeps keys: what a call may take so that no other of its kind is sent meanwhile, and locks.
//!
//! Where messages are in a store that keeps keys too, a key is taken in the same step that publishes
//! ([`crate::broker::Broker::publish_admitted`]), and freed in the commit that ends the message. Elsewhere (`RabbitMQ`) keys
//! are kept beside the results, in three steps: [`Keys::reserve`], publish, [`Keys::confirm`]. When the client dies
//!
//! | between | what follows |
//! |---|---|
//! | reserving and publishing | the reservation lapses ([`Admission::pending_ms`]): another call takes the key |
//! | publishing and confirming | the worker that gets the message confirms ([`Keys::arrive`]); if another call has taken the lapsed reservation by then, the message is not run: one of the two is |
//!
//! Whoever meets a reservation that has not lapsed waits for what becomes of it, so that nobody is given the id of a message
//! that never was. A key that nobody frees runs out.

use async_trait::async_trait;

/// Tokens of lapsed reservations that an entry remembers.
pub(crate) const LAPSED: usize = 8;

/// What a call wants a key for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first call has it, until it is freed or runs out; others get the first one's id.
    Hold,
    /// The last call within a time has it: all get one id, and of their messages only the last is run. None: for as long as
    /// calls follow one another; else milliseconds from the first one, after which it is not put off any more.
    Debounce(Option<u64>),
}

/// A call that is sent only if it gets its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The key.
    pub key: String,
    /// What it is wanted for.
    pub kind: Kind,
    /// The id of the message.
    pub task_id: String,
    /// Names this call: one that is repeated, since its answer got lost, has its key already.
    pub token: String,
    /// Milliseconds after which the key is free whatever happened.
    pub ttl_ms: u64,
    /// Milliseconds after which a reservation that was not confirmed lapses. Longer than the call may take.
    pub pending_ms: u64,
}

/// Whether a call got its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// It did.
    New,
    /// It had it already: an attempt of the same call whose answer got lost.
    Again,
    /// Another call has it; with the id of that one. For a debounced call: its message must have that id, and be due until
    /// the given moment (milliseconds since the epoch).
    Exists(String, Option<i64>),
    /// Another call has reserved it, and is about to publish.
    Pending,
}

/// A key that is held, or a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The key.
    pub key: String,
    /// Who holds it.
    pub token: String,
    /// Milliseconds that it is held from now on, where that is asked.
    pub ttl_ms: u64,
}

/// A message that is about to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The key that it was sent under; `held.ttl_ms` is as of its [`Admission`].
    pub held: Held,
    /// The id of the message.
    pub task_id: String,
    /// Its call was debounced.
    pub debounced: bool,
    /// Another key, under which one runs at a time.
    pub turn: Option<String>,
}

/// What is to become of a message that is about to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It runs.
    Run,
    /// A later one with the same id runs instead.
    Superseded,
    /// Its reservation had lapsed before it was confirmed, and the call with this id runs instead.
    Duplicate(String),
    /// Not now: another runs.
    Wait,
}

/// Keeps keys. Each call is one atomic step of the store.
#[async_trait]
pub trait Keys: Send + Sync {
    /// Takes a key for a message that is not published yet.
    async fn reserve(&self, admission: &Admission) -> Result<Admitted, KeyError>;

    /// The message is published. Gives [`Admitted::Exists`] when the reservation had lapsed and is another's now.
    async fn confirm(&self, admission: &Admission) -> Result<Admitted, KeyError>;

    /// A message is about to be run.
    async fn arrive(&self, arrival: &Arrival) -> Result<Turn, KeyError>;

    /// Frees keys that are still their tokens'. Says which were.
    async fn free(&self, held: &[Held]) -> Result<Vec<bool>, KeyError>;

    /// Holds keys for longer that are still their tokens'. Says which are.
    async fn renew(&self, held: &[Held]) -> Result<Vec<bool>, KeyError>;

    /// Takes a lock, unless another has it: a number that grows with every lock that is taken in this store.
    async fn lock(&self, lock: &Held) -> Result<Option<u64>, KeyError>;
}

/// Keys could not be asked for, or refused.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct KeyError {
    /// The store, and what it said. Never holds a password.
    pub reason: String,
    /// The same call may succeed later.
    pub transient: bool,
}

//! The contract of what keeps limits that hold for all workers together.
//!
//! A **turn** is the right to run one request. A request takes it of every limit that it is under, all of them or none,
//! and gives it back when it has ended. What every store guarantees (`tests/conformance/limits.rs`):
//!
//! 1. Of a limit with `most`, no more turns are out at any time than that.
//! 2. Of a limit with a rate, no window of its length has more *starts* than its count, however long a request takes from
//!    its turn to its start: a turn that has not begun counts as one that begins just now, and one that has begun counts
//!    from the moment that its worker saw it run.
//! 3. Turns of a holder that has not been heard of for its lease come back; those that may have begun count as starts of
//!    the moment in which that is found.
//! 4. A call may be repeated: a turn that the holder has already is given again, what is told twice counts once.
//!
//! Time is the store's.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

/// The longest window, and so how long starts are remembered.
pub const LONGEST_WINDOW: Duration = Duration::from_secs(3600);
/// What stands between the name of a limit and the key in [`LimitUse::place`].
pub const KEY_MARK: char = '\x1f';

/// How many may start in any window of a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowRate {
    /// So many.
    pub count: u32,
    /// The window's length.
    pub window: Duration,
}

/// One limit, for one key of it, as a request is under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitUse {
    /// The limit's name, [`KEY_MARK`] and the key: each key has the limit for itself.
    pub place: String,
    /// How many may start.
    pub rate: Option<WindowRate>,
    /// How many may run at the same time.
    pub most: Option<u32>,
}

/// The limits that a request is under: at least one. It stands in the line of the first.
pub type Uses = Arc<[LimitUse]>;

/// What became of a turn that was taken.
#[derive(Clone, Debug)]
pub struct Told {
    /// As they were when it was taken.
    pub uses: Uses,
    /// The holder's name for the turn.
    pub token: u64,
    /// How long ago it was seen to run; none: it does not run, or that was told before.
    pub began: Option<Duration>,
    /// It is given back. If it has not begun, it is as if it had not been taken.
    pub ended: bool,
}

/// Requests under the same limits that ask for turns.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Their limits.
    pub uses: Uses,
    /// The holder's names for the turns, and the ids by which the requests may stand in line; in the order in which they are
    /// to get them. With none the answer tells whether one would get it.
    pub requests: Vec<(u64, String)>,
}

/// A request that is to wait in line.
#[derive(Clone, Debug)]
pub struct LineUp {
    /// [`LimitUse::place`] of the first of its limits.
    pub place: String,
    /// Its id.
    pub id: String,
}

/// All that a worker has to say and to ask, carried out in this order, in one step.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    /// Names the worker, newly for every start.
    pub holder: String,
    /// Its turns are its own for so long after each call.
    pub lease: Duration,
    /// What became of turns.
    pub told: Vec<Told>,
    /// Lines that begin anew: whoever stood there is on the way back.
    pub cleared: Vec<String>,
    /// Who is to stand in line.
    pub lines: Vec<LineUp>,
    /// Who asks for turns.
    pub asks: Vec<Ask>,
    /// Turns that are given in this call at the most.
    pub most: usize,
    /// The worker goes: its lease is over with this.
    pub leaves: bool,
}

/// Why no more turns were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Nobody asked for more; one more could be given.
    Free,
    /// [`Turns::most`] was reached.
    Enough,
    /// The rate: not sooner than after this time.
    For(Duration),
    /// All turns are out. The bell ([`LimitStore::bell`]) tells when that may have changed.
    Full,
}

/// The answer to an [`Ask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// So many of its requests, from the first, have their turns.
    pub turns: usize,
    /// Why not more.
    pub wait: Wait,
    /// How many stand in line, here and in the broker.
    pub in_line: u64,
}

/// The answer to a [`LineUp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// How many stand before it.
    pub before: u64,
    /// It stood there already.
    pub again: bool,
}

/// The answers, in the order asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Of [`Turns::lines`].
    pub lines: Vec<Place>,
    /// Of [`Turns::asks`].
    pub given: Vec<Given>,
}

/// Why a store did not carry out a call. It may have, if the way back was lost; the call may be repeated.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct LimitError(pub String);

/// What keeps limits.
#[async_trait]
pub trait LimitStore: Send + Sync {
    /// Says and asks.
    async fn turns(&self, turns: &Turns) -> Result<Answers, LimitError>;

    /// What tells of turns that came back, from now on.
    fn bell(&self) -> Box<dyn LimitBell>;
}

/// Tells of turns that came back to limits of which someone was told [`Wait::Full`].
#[async_trait]
pub trait LimitBell: Send {
    /// The places of the limits; none: it may be any. Cancel-safe. After an error, and where something may have been missed,
    /// it tells of any.
    async fn rung(&mut self) -> Result<Option<Vec<String>>, LimitError>;
}

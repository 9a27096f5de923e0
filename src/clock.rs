//! The only source of wall time, so that a test can move it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment: milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub i64);

impl UnixMillis {
    /// The moment `duration` after this one (saturating).
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// How long from this moment until `later`; zero when `later` is past.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_millis(later.0.saturating_sub(self.0).max(0) as u64)
    }
}

/// A logical clock (Lamport's): events of programs that know of each other are in order by it.
#[derive(Debug, Default)]
pub struct Lamport(AtomicU64);

impl Lamport {
    /// The time now.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Something happens here: the time moves on. Gives the new time.
    pub fn forward(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Another program said what time it has: ours is later from now on. Gives the new time.
    pub fn adjust(&self, other: u64) -> u64 {
        // Not to be driven to the end of numbers by a nonsense message.
        let other = other.min(u64::MAX / 2);
        let later = |own: u64| own.max(other) + 1;
        let update = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |own| Some(later(own)));
        later(update.unwrap_or_else(|own| own))
    }
}

/// Wall time: the system's, or one that a test sets.
#[derive(Clone, Debug, Default)]
pub struct Clock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    System,
    /// Written by the test, read by everyone who holds the clock.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands still at `start` until [`Clock::advance`] is called.
    pub fn manual(start: UnixMillis) -> Self {
        Self(Source::Manual(Arc::new(AtomicI64::new(start.0))))
    }

    /// Now.
    pub fn now(&self) -> UnixMillis {
        match &self.0 {
            Source::System => {
                #[expect(clippy::disallowed_methods, reason = "this is the one place")]
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
            }
            Source::Manual(now) => UnixMillis(now.load(Ordering::SeqCst)),
        }
    }

    /// Whether it is the system's, and not one that a test sets.
    pub fn is_system(&self) -> bool {
        matches!(self.0, Source::System)
    }

    /// Moves a manual clock forward; does nothing to the system's.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(now) = &self.0 {
            now.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }

    /// Moves a manual clock back, as a correction may do to the system's.
    pub fn step_back(&self, by: Duration) {
        if let Source::Manual(now) = &self.0 {
            now.fetch_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }
}

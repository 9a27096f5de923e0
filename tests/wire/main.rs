//! The codec against what Celery wrote (`tests/golden`), and against anything at all.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

mod control;
mod foreign;
mod golden;
mod messages;
mod random;
#[cfg(feature = "redis")]
mod redis_results;
mod results;

//! Scenarios of the worker: memory driver, scripted pool, stopped clock; and real child processes.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

mod acks;
mod autoscale;
mod batches;
mod brokers;
mod chords;
mod common;
mod control;
mod eta;
mod events;
mod faults;
mod global_limits;
mod health;
mod http;
mod keys;
mod lease;
mod limits;
mod members;
mod policies;
mod process;
mod rate_limit;
mod refuse;
mod revoke;
mod shutdown;
mod stalled;

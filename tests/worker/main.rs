//! Scenarios of the worker: memory driver, scripted pool, stopped clock; and real child processes.

mod acks;
mod common;
mod eta;
mod faults;
mod lease;
mod limits;
mod process;
mod rate_limit;
mod refuse;
mod revoke;
mod shutdown;

//! The implementations of [`crate::broker`] and [`crate::backend`], one folder for each store.
//!
//! - [`memory`]: in one process; tests and eager development.
//! - [`sqlite`]: one file, shared by the processes of a host.
//! - [`connect_broker`], [`connect_backend`]: from a URL to one of them.
//!
//! What both share about routing: there are no bindings. A message goes to the queue that its routing key
//! names; with an empty routing key, to the one its exchange names.

mod connect;
pub mod memory;
mod routing;
#[cfg(feature = "sqlite")]
pub mod sqlite;

pub use connect::{ConnectOptions, Threading, connect_backend, connect_broker};

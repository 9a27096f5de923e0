//! The implementations of [`crate::broker`] and [`crate::backend`], one folder for each store.
//!
//! - [`memory`]: in one process; tests and eager development.
//! - [`sqlite`]: one file, shared by the processes of a host.
//! - [`redis`]: kombu's layout of lists, and Celery's result keys.
//! - [`amqp`]: RabbitMQ, and results over `rpc://`.
//! - [`connect_broker`], [`connect_backend`]: from a URL to one of them.
//!
//! What the first two share about routing: there are no bindings. A message goes to the queue that its routing key
//! names; with an empty routing key, to the one its exchange names.

#[cfg(feature = "amqp")]
pub mod amqp;
mod chords;
mod connect;
mod keys;
mod limits;
pub mod memory;
#[cfg(any(feature = "sqlite", feature = "redis"))]
mod process;
#[cfg(feature = "redis")]
pub mod redis;
mod routing;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(any(feature = "redis", feature = "amqp"))]
mod tls;

pub use connect::{
    ConnectOptions, ReplyOptions, Threading, TlsOptions, TlsVerify, backend_url, connect_backend,
    connect_broker,
};
pub use routing::QueueOrder;

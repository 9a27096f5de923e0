//! The engine of celeriac: Celery's protocol, brokers, result backends and worker. No Python here.
//!
//! Reading order is the life of a message:
//!
//! 1. [`protocol`]: what the bytes mean. No IO. Beside it [`url`], [`backoff`] and [`report`], which need nothing either.
//! 2. [`broker`]: the contract of what moves messages; [`backend`]: of what keeps results; [`keys`]: of what either may
//!    keep besides, so that a call is sent once.
//! 3. [`driver`]: the implementations, one folder for each store (a store that is both is one folder,
//!    because its commit is one transaction).
//! 4. [`client`]: sending, asking, waiting.
//! 5. [`worker`]: claiming, deciding, running, committing.

pub mod backend;
pub mod backoff;
pub mod broker;
pub mod client;
pub mod clock;
pub mod driver;
pub mod keys;
pub mod limits;
mod numbers;
pub mod protocol;
pub mod report;
pub mod url;
pub mod worker;

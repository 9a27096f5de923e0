//! `RabbitMQ`, and results over `rpc://`.
//!
//! What it guarantees, and what AMQP cannot:
//!
//! - A publish that returned was confirmed by the server and routed to a queue. After an error part of the batch may
//!   be there.
//! - Claims have no lease of their own: they belong to a channel, and go back when the server sees it end.
//! - A commit is not atomic. Its order is: follow-ups and copies confirmed, then acknowledgements; what is
//!   interrupted is repeated, never lost.
//! - Requeueing, crashing and parking put a copy in its place, so that counts and times go with it.
//! - A process that dies with all its workers counts no crash.
//!
//! Names of our own begin with `celeriac.`; everything else is declared as Celery does it.

mod address;
mod broker;
mod cell;
mod consumer;
mod dead;
mod declare;
mod delay;
mod failure;
mod link;
mod listen;
mod publish;
mod pump;
mod reply;
mod schedule;
mod settle;
mod table;
mod topics;
mod wire;

use std::sync::Arc;

use super::ConnectOptions;
use crate::backend::{BackendError, ResultBackend};
use crate::broker::{Broker, BrokerError};
use crate::url::StoreUrl;

/// The broker behind a URL. Connects when it is first used.
pub(super) fn broker(url: &StoreUrl, options: &ConnectOptions) -> Result<Arc<dyn Broker>, BrokerError> {
    if url.scheme == "rpc" {
        return Err(BrokerError::Config(
            "rpc:// carries results only: name the broker as amqp://".to_owned(),
        ));
    }
    Ok(Arc::new(broker::AmqpBroker::new(url, options)?))
}

/// The result backend behind a URL. Connects when it is first used.
pub(super) fn backend(
    url: &StoreUrl,
    options: &ConnectOptions,
) -> Result<Arc<dyn ResultBackend>, BackendError> {
    if url.scheme == "rpc" && url.host.is_none() {
        let reason = "results over rpc:// go through the broker, which must be RabbitMQ (amqp://)";
        return Err(BackendError::Config(reason.to_owned()));
    }
    match reply::ReplyBackend::new(url, options) {
        Ok(backend) => Ok(Arc::new(backend)),
        Err(error) => Err(BackendError::Config(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use crate::driver::{ConnectOptions, backend_url, connect_backend};

    #[test]
    fn results_over_rpc_go_through_the_broker() {
        for (backend, broker, reached) in [
            ("rpc://", "amqp://h/x", "amqp://h/x"),
            ("rpc://", "pyamqp://", "pyamqp://"),
            ("rpc://", "redis://h", "rpc://"),
            ("rpc://other", "amqp://h", "rpc://other"),
            ("redis://h", "amqp://h", "redis://h"),
        ] {
            assert_eq!(backend_url(backend, broker), reached);
        }
        assert!(connect_backend("rpc://other", ConnectOptions::default()).is_ok());
        assert!(connect_backend("rpc://", ConnectOptions::default()).is_err());
    }
}

//! Connections: made when first needed, made anew after a loss, each remembering what was declared on it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use lapin::tcp::{AsyncTcpStream, RustlsConnector};
use lapin::types::FieldTable;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties, Event, runtime};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::address::Addresses;
use super::failure;
use crate::backoff::Backoff;
use crate::broker::BrokerError;
use crate::driver::{ConnectOptions, TlsOptions, tls};
use crate::protocol::Queue;
use crate::url::StoreUrl;

/// Channel numbers in a row that cannot be used any more; then the connection is left.
const SPENT_CHANNELS: usize = 16;
/// Between attempts to have again what was lost with a connection.
pub(super) const BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(100), max: Duration::from_secs(2), jitter: 0.5 };

/// A way to the servers, for one purpose.
pub(super) struct Link {
    addresses: Addresses,
    tls: Option<TlsOptions>,
    connect_timeout: Duration,
    /// Shown by the server's own tools.
    name: &'static str,
    /// Without its password.
    pub(super) url: String,
    /// Written by whoever connects. Locked while connecting, so that callers that come together connect once.
    live: tokio::sync::Mutex<Option<Arc<Live>>>,
    /// The address that worked last.
    place: AtomicUsize,
}

/// A connection that works, or did a moment ago.
pub(super) struct Live {
    connection: Connection,
    /// Written after each declaration, read before the next of the same queue. Gone with the connection, so that a
    /// server that lost them hears of them again.
    pub(super) declared: Mutex<HashMap<String, Arc<Queue>>>,
    /// The same for exchanges of broadcasts, and for the bindings of queues to the delays.
    pub(super) noted: Mutex<HashSet<String>>,
    /// Locked while the delay levels are declared; true once they are.
    pub(super) delays: tokio::sync::Mutex<bool>,
    /// Why the server takes no messages; written by a task that hears its notices.
    blocked: watch::Receiver<Option<String>>,
}

impl Link {
    /// A way that has not been taken yet.
    pub(super) fn new(
        url: &StoreUrl,
        options: &ConnectOptions,
        name: &'static str,
    ) -> Result<Self, BrokerError> {
        Ok(Self {
            addresses: Addresses::read(url, options)?,
            tls: options.tls.clone(),
            connect_timeout: options.connect_timeout,
            name,
            url: url.to_string(),
            live: tokio::sync::Mutex::new(None),
            place: AtomicUsize::new(0),
        })
    }

    /// A connection; made now if there is none.
    pub(super) async fn live(&self) -> Result<Arc<Live>, BrokerError> {
        let mut slot = self.live.lock().await;
        if let Some(live) = slot.as_ref().filter(|live| live.is_up()) {
            return Ok(live.clone());
        }
        *slot = None;
        let live = Arc::new(self.connect().await?);
        *slot = Some(live.clone());
        Ok(live)
    }

    /// Why the server takes no messages now, if it says so.
    pub(super) fn blocked_text(&self) -> Option<String> {
        self.live.try_lock().ok()?.as_ref()?.blocked_text()
    }

    /// A channel of a connection.
    ///
    /// lapin never uses the number of a channel again that the server has closed with an error, but gives it out once all
    /// numbers had their turn, and then tells that old error. Such numbers are passed over; a connection with many of
    /// them in a row is left for a new one.
    pub(super) async fn channel(&self) -> Result<(Arc<Live>, Channel), BrokerError> {
        let mut refused = 0;
        loop {
            let live = self.live().await?;
            let opened = timeout(self.connect_timeout, live.connection.create_channel()).await;
            let opened = opened.map_err(|_| {
                failure::timeout(&self.url, self.connect_timeout, "it does not open a channel")
            })?;
            match opened {
                Ok(channel) => return Ok((live, channel)),
                Err(error) if failure::code(&error).is_none() || refused == 2 * SPENT_CHANNELS => {
                    return Err(self.error(&error));
                }
                Err(_) => refused += 1,
            }
            if refused == SPENT_CHANNELS {
                self.leave(&live).await;
            }
        }
    }

    /// Makes the next caller connect anew; whoever uses the connection goes on with it.
    async fn leave(&self, spent: &Arc<Live>) {
        let mut slot = self.live.lock().await;
        if slot.as_ref().is_some_and(|live| Arc::ptr_eq(live, spent)) {
            *slot = None;
        }
    }

    pub(super) fn error(&self, error: &lapin::Error) -> BrokerError {
        failure::classify(&self.url, error)
    }

    /// Tries each address once, first the one that worked last.
    async fn connect(&self) -> Result<Live, BrokerError> {
        let count = self.addresses.uris.len();
        let start = if self.addresses.shuffle {
            fastrand::usize(..count)
        } else {
            self.place.load(Ordering::Relaxed)
        };
        let mut refusal = None;
        for step in 0..count {
            let place = (start + step) % count;
            match self.connect_to(self.addresses.uris[place].clone()).await {
                Ok(live) => {
                    self.place.store(place, Ordering::Relaxed);
                    return Ok(live);
                }
                // A server that is away says less than one that refuses.
                Err(error) => match refusal {
                    Some(BrokerError::Refused { .. }) => {}
                    _ => refusal = Some(error),
                },
            }
        }
        Err(refusal.unwrap_or_else(|| failure::unavailable(&self.url, "no address")))
    }

    async fn connect_to(&self, uri: AMQPUri) -> Result<Live, BrokerError> {
        let tls = match uri.scheme {
            AMQPScheme::AMQPS => Some(self.tls.clone().unwrap_or_default()),
            AMQPScheme::AMQP => None,
        };
        let properties = ConnectionProperties::default()
            .with_client_property("product".into(), "celeriac".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into())
            .with_connection_name(self.name.into());
        // On a thread of the runtime: the library starts one for each connection, which inherits the signals that
        // are blocked there. A caller's own thread would pass on that of Python.
        let mut task = tokio::spawn(async move {
            let connection = open(uri, properties, tls).await?;
            let events: BoxStream<'static, Event> = Box::pin(connection.events_listener());
            Ok::<_, lapin::Error>((connection, events))
        });
        let opened = timeout(self.connect_timeout, &mut task).await;
        let Ok(opened) = opened else {
            task.abort();
            return Err(failure::timeout(&self.url, self.connect_timeout, "it does not answer"));
        };
        let opened = opened.map_err(|error| failure::unavailable(&self.url, error.to_string()))?;
        let (connection, events) = opened.map_err(|error| self.error(&error))?;
        let (notice, blocked) = watch::channel(None);
        tokio::spawn(hear(events, notice));
        Ok(Live {
            connection,
            declared: Mutex::default(),
            noted: Mutex::default(),
            delays: tokio::sync::Mutex::new(false),
            blocked,
        })
    }
}

impl Live {
    pub(super) fn is_up(&self) -> bool {
        self.connection.status().connected()
    }

    /// Forgets what was declared, so that it is declared again.
    pub(super) fn forget(&self) {
        self.declared.lock().clear();
        self.noted.lock().clear();
    }

    /// Waits until the server takes messages.
    pub(super) async fn unblocked(
        &self,
        url: &str,
        until: Instant,
        within: Duration,
    ) -> Result<(), BrokerError> {
        let mut blocked = self.blocked.clone();
        let waiting = tokio::time::timeout_at(until, blocked.wait_for(Option::is_none)).await;
        match waiting {
            // The sender is gone with the connection, which the next step will notice.
            Ok(_) => Ok(()),
            Err(_) => Err(failure::timeout(url, within, &self.blocked_text().unwrap_or_default())),
        }
    }

    /// Why the server takes no messages now, in a sentence.
    pub(super) fn blocked_text(&self) -> Option<String> {
        let why = self.blocked.borrow().clone()?;
        Some(format!(
            "the server blocks everyone who publishes ({why}): it has an alarm for memory or disk space"
        ))
    }
}

/// Passes on what the server says about being blocked, for as long as the connection lives.
async fn hear(mut events: BoxStream<'static, Event>, notice: watch::Sender<Option<String>>) {
    while let Some(event) = events.next().await {
        match event {
            Event::ConnectionBlocked(why) => notice.send_replace(Some(why)),
            Event::ConnectionUnblocked => notice.send_replace(None),
            _ => continue,
        };
    }
}

/// The connection itself, over TLS with our own configuration of it.
async fn open(
    uri: AMQPUri,
    properties: ConnectionProperties,
    tls: Option<TlsOptions>,
) -> Result<Connection, lapin::Error> {
    let tls = match tls {
        Some(options) => {
            let config = tokio::task::spawn_blocking(move || tls::client_config(&options)).await;
            let config = config.map_err(std::io::Error::other)?.map_err(std::io::Error::other)?;
            Some(RustlsConnector::from(config))
        }
        None => None,
    };
    let connect = async move |uri: AMQPUri, runtime| {
        let address = (uri.authority.host.clone(), uri.authority.port);
        let found: Vec<_> = tokio::net::lookup_host(address).await?.collect();
        let stream = AsyncTcpStream::connect(&runtime, found).await?;
        Ok(match &tls {
            Some(tls) => stream.into_rustls(tls, &uri.authority.host).await?,
            None => stream,
        })
    };
    Connection::connector(uri, runtime::default_runtime()?, connect, properties).await
}

/// No arguments.
pub(super) fn none() -> FieldTable {
    FieldTable::default()
}

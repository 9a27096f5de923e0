//! Connections of calls: names are resolved by us, each address is asked of the guard, and that very address is
//! connected to.

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use hyper::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::guard::{Guard, Refusal};

/// The system is asked for so many names at a time: each takes a thread.
const LOOKUPS: usize = 16;
/// What a name resolves to is known for so long, so that many calls to one host ask once.
const KNOWN_FOR: Duration = Duration::from_secs(5);
const MOST_KNOWN: usize = 1_000;
/// Addresses of one name that are tried.
const MOST_TRIED: usize = 4;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// It must not be made.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It cannot be made now.
    #[error("{0}")]
    Failed(String),
}

impl DialError {
    /// Finds it among the causes of an error.
    pub(crate) fn within(error: &(dyn Error + 'static)) -> Option<&Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            cause = error.source();
        }
        None
    }
}

/// Resolves names.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// The addresses of a host.
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// Asks the system, and remembers its answers for a moment.
pub(crate) struct SystemResolver {
    /// Written and read by every lookup; bounded.
    known: Mutex<HashMap<String, (Instant, Vec<IpAddr>)>>,
    room: Semaphore,
}

impl SystemResolver {
    pub(crate) fn new() -> Self {
        Self { known: Mutex::default(), room: Semaphore::new(LOOKUPS) }
    }

    fn known(&self, host: &str) -> Option<Vec<IpAddr>> {
        let known = self.known.lock();
        known.get(host).filter(|(until, _)| *until > Instant::now()).map(|(_, found)| found.clone())
    }
}

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        if let Some(found) = self.known(host) {
            return Ok(found);
        }
        let _room = self.room.acquire().await.map_err(io::Error::other)?;
        // Whoever had the room before may have asked the same.
        if let Some(found) = self.known(host) {
            return Ok(found);
        }
        let found: Vec<_> = tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect();
        let mut known = self.known.lock();
        if known.len() >= MOST_KNOWN {
            let now = Instant::now();
            known.retain(|_, (until, _)| *until > now);
        }
        if known.len() < MOST_KNOWN {
            known.insert(host.to_owned(), (Instant::now() + KNOWN_FOR, found.clone()));
        }
        Ok(found)
    }
}

/// Makes connections.
#[derive(Clone)]
pub(crate) struct Connector(Arc<Parts>);

struct Parts {
    guard: Arc<Guard>,
    resolver: Arc<dyn Resolve>,
    patience: Duration,
    /// Made with the first `https` call: it reads the certificates of the system.
    tls: OnceCell<Arc<ClientConfig>>,
}

impl Connector {
    /// `patience`: how long it may take to connect, all in all.
    pub(crate) fn new(guard: Arc<Guard>, resolver: Arc<dyn Resolve>, patience: Duration) -> Self {
        Self(Arc::new(Parts { guard, resolver, patience, tls: OnceCell::new() }))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let parts = self.0.clone();
        Box::pin(async move {
            match timeout(parts.patience, parts.connect(&uri)).await {
                Ok(connected) => connected.map(TokioIo::new),
                Err(_) => {
                    Err(DialError::Failed(format!("no connection within {} s", parts.patience.as_secs_f64())))
                }
            }
        })
    }
}

impl Parts {
    async fn connect(&self, uri: &Uri) -> Result<Stream, DialError> {
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = self.reach(host, port).await?;
        // A small request must not wait for the answer to the one before.
        let _ = stream.set_nodelay(true);
        if !secure {
            return Ok(Stream(Box::new(stream)));
        }
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| DialError::Failed(format!("{host} is no name that a certificate can have")))?;
        let config = self.tls.get_or_try_init(tls_config).await?.clone();
        let stream = TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(|error| DialError::Failed(format!("TLS with {host}: {error}")))?;
        Ok(Stream(Box::new(stream)))
    }

    /// Resolves once, and connects to one of the addresses that the guard allows.
    async fn reach(&self, host: &str, port: u16) -> Result<TcpStream, DialError> {
        let addresses = match host.parse::<IpAddr>() {
            Ok(literal) => vec![literal],
            Err(_) => self
                .resolver
                .resolve(host)
                .await
                .map_err(|error| DialError::Failed(format!("{host} cannot be resolved: {error}")))?,
        };
        let mut refused = None;
        let mut failed = None;
        let mut tried = 0;
        for address in addresses {
            if let Err(refusal) = self.guard.check(host, address) {
                refused = Some(refusal);
                continue;
            }
            if tried == MOST_TRIED {
                break;
            }
            tried += 1;
            match TcpStream::connect(SocketAddr::new(address, port)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = Some(error),
            }
        }
        Err(match (failed, refused) {
            (Some(error), _) => DialError::Failed(format!("cannot connect to {host}:{port}: {error}")),
            (None, Some(refusal)) => refusal.into(),
            (None, None) => DialError::Failed(format!("{host} has no address")),
        })
    }
}

/// What is trusted: the certificates of the system, or those of `SSL_CERT_FILE`.
async fn tls_config() -> Result<Arc<ClientConfig>, DialError> {
    let made = tokio::task::spawn_blocking(|| {
        let mut roots = RootCertStore::empty();
        // Some of a system's certificates may be unreadable: the others count.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        // The provider is named: another crate of the process may have installed its own.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map(|config| Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
            .map_err(|error| error.to_string())
    });
    match made.await {
        Ok(Ok(config)) => Ok(config),
        Ok(Err(error)) => Err(DialError::Failed(format!("TLS cannot be used: {error}"))),
        Err(error) => Err(DialError::Failed(format!("TLS cannot be set up: {error}"))),
    }
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// A connection, with TLS or without.
pub(crate) struct Stream(Box<dyn Wire>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

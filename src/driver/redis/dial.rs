//! Opens one connection: finds the server (through Sentinel if need be), connects, logs in.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{AsyncPushSender, MultiplexedConnection};
use redis::{AsyncConnectionConfig, FromRedisValue, ProtocolVersion, RedisConnectionInfo, RedisResult};
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::address::{Address, Login, Place, Sentinel};
use super::errors::{Fault, LinkError};
use super::wire::{Blocking, Carrier, Loan, Wire};
use crate::driver::{TlsOptions, tls};

/// A dead peer is noticed after half a minute, also by who only listens.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_COUNT: u32 = 3;
/// Commands that wait to be written. More wait in their callers, each with its deadline.
const PIPELINE: usize = 1024;

/// Receives what the server says unasked.
pub(super) type Pushed = Arc<dyn AsyncPushSender>;

/// What is opened.
#[derive(Clone)]
pub(super) struct Dial<'a> {
    pub(super) address: &'a Address,
    /// For errors.
    pub(super) url: &'a Arc<str>,
    /// Where to connect to, instead of what the address says: the node of a cluster.
    pub(super) node: Option<Place>,
    /// Needs RESP3.
    pub(super) pushed: Option<Pushed>,
    /// Where the wire can be taken back from, when the client library is only to log in.
    pub(super) loan: Option<Loan>,
}

/// An open connection; closed when the last one who uses it lets go.
pub(super) struct Live {
    pub(super) connection: MultiplexedConnection,
    driver: AbortHandle,
}

impl Live {
    /// Whether it is known to have ended.
    pub(super) fn is_over(&self) -> bool {
        self.driver.is_finished()
    }

    /// Ends it for all who use it: what waits for an answer fails.
    pub(super) fn end(&self) {
        self.driver.abort();
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// How to talk to one server, once it is found.
struct Target<'a> {
    place: &'a Place,
    login: &'a Login,
    tls: Option<&'a TlsOptions>,
    database: i64,
}

impl Dial<'_> {
    /// Opens a connection within the time.
    pub(super) async fn open(&self, within: Duration) -> Result<Live, LinkError> {
        timeout(within, self.open_somewhere(within)).await.unwrap_or_else(|_| {
            Err(LinkError::new(self.url, Fault::Timeout(within), "connecting and logging in"))
        })
    }

    /// Opens a connection within the time, for a thread that waits: see [`Wire::into_blocking`].
    pub(super) async fn open_blocking(
        &self,
        within: Duration,
        slice: Duration,
    ) -> Result<Box<dyn Blocking>, LinkError> {
        let loan = Loan::default();
        let lending = Dial { loan: Some(loan.clone()), ..self.clone() };
        let live = lending.open(within).await?;
        // Before the library lets go of its end, which would say good-bye to the server.
        let wire = loan.take_back();
        drop(live);
        let opened = wire.map(|wire| wire.into_blocking(slice));
        let opened = opened.unwrap_or_else(|| Err(io::ErrorKind::NotConnected.into()));
        opened.map_err(|error| LinkError::new(self.url, Fault::Io, error.to_string()))
    }

    async fn open_somewhere(&self, within: Duration) -> Result<Live, LinkError> {
        let Address { endpoints, sentinel, login, .. } = self.address;
        if let Some(node) = &self.node {
            return self.open_server(node, login).await;
        }
        if let Some(sentinel) = sentinel {
            let master = self.find_master(sentinel, within).await?;
            let live = self.open_server(&master, login).await?;
            let (role, ..): (String, redis::Value, redis::Value) =
                self.ask(&live, &redis::cmd("ROLE")).await?;
            if role != "master" {
                let reason = format!(
                    "{master}, which Sentinel calls the master, is a {role} (a failover is going on)"
                );
                return Err(LinkError::new(self.url, Fault::ReadOnly, reason));
            }
            return Ok(live);
        }
        let share = share(within, endpoints.len());
        let mut last = None;
        for endpoint in endpoints {
            match timeout(share, self.open_server(&endpoint.place, &endpoint.login)).await {
                Ok(Ok(live)) => return Ok(live),
                Ok(Err(error)) => last = Some(error),
                Err(_) => {
                    let reason = format!("connecting to {}", endpoint.place);
                    last = Some(LinkError::new(self.url, Fault::Timeout(share), reason));
                }
            }
        }
        Err(last.unwrap_or_else(|| LinkError::new(self.url, Fault::Config, "the URL names no server")))
    }

    async fn open_server(&self, place: &Place, login: &Login) -> Result<Live, LinkError> {
        let tls = self.address.tls.as_ref();
        let live = self.open_at(&Target { place, login, tls, database: self.address.database() }).await?;
        if let Some(name) = &self.address.client_name {
            let mut command = redis::cmd("CLIENT");
            command.arg("SETNAME").arg(name);
            // A server that does not know it, or a name that it dislikes, is no reason to fail.
            if let Err(error) = self.ask::<redis::Value>(&live, &command).await
                && error.ends_connection()
            {
                return Err(error);
            }
        }
        Ok(live)
    }

    /// Asks the Sentinels, one after the other, where the server is.
    async fn find_master(&self, sentinel: &Sentinel, within: Duration) -> Result<Place, LinkError> {
        let share = share(within, self.address.endpoints.len() + 1);
        let mut said = Vec::new();
        for endpoint in &self.address.endpoints {
            let what =
                match timeout(share, self.ask_sentinel(sentinel, &endpoint.place, &endpoint.login)).await {
                    Ok(Ok(Some(place))) => return Ok(place),
                    Ok(Ok(None)) => format!("{} does not know it", endpoint.place),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => format!("{} did not answer", endpoint.place),
                };
            said.push(what);
        }
        let reason = format!("no Sentinel says where {:?} is: {}", sentinel.master, said.join("; "));
        Err(LinkError::new(self.url, Fault::Io, reason))
    }

    async fn ask_sentinel(
        &self,
        sentinel: &Sentinel,
        place: &Place,
        login: &Login,
    ) -> Result<Option<Place>, LinkError> {
        let system = TlsOptions::default();
        let tls = sentinel.tls.then(|| self.address.tls.as_ref().unwrap_or(&system));
        let silent = Dial { pushed: None, loan: None, ..self.clone() };
        let live = silent.open_at(&Target { place, login, tls, database: 0 }).await?;
        let mut command = redis::cmd("SENTINEL");
        command.arg("get-master-addr-by-name").arg(&sentinel.master);
        let found: Option<(String, u16)> = self.ask(&live, &command).await?;
        Ok(found.map(|(host, port)| Place::Tcp(host, port)))
    }

    async fn ask<T: FromRedisValue>(&self, live: &Live, command: &redis::Cmd) -> Result<T, LinkError> {
        let mut connection = live.connection.clone();
        command.query_async(&mut connection).await.map_err(|error| LinkError::read(self.url, &error))
    }

    /// Connects to one place and logs in; in the older protocol where the server has no other.
    async fn open_at(&self, target: &Target<'_>) -> Result<Live, LinkError> {
        let newest = self.log_in(target, ProtocolVersion::RESP3).await?;
        let opened = match newest {
            Err(error) if error.kind() == redis::ErrorKind::RESP3NotSupported && self.pushed.is_none() => {
                self.log_in(target, ProtocolVersion::RESP2).await?
            }
            opened => opened,
        };
        opened.map_err(|error| {
            let read = LinkError::read(self.url, &error);
            // The system's own text has no address.
            match read.fault {
                Fault::Io => LinkError::new(self.url, Fault::Io, format!("{}: {read}", target.place)),
                _ => read,
            }
        })
    }

    /// The outer error is of connecting, the inner one of logging in.
    async fn log_in(
        &self,
        target: &Target<'_>,
        protocol: ProtocolVersion,
    ) -> Result<RedisResult<Live>, LinkError> {
        let connected = self.connect(target).await;
        let wire = connected.map_err(|error| LinkError::connecting(self.url, target.place, &error))?;
        let wire: Box<dyn Carrier> = match &self.loan {
            Some(loan) => Box::new(loan.lend(wire)),
            None => wire,
        };
        let mut info = RedisConnectionInfo::default()
            .set_db(target.database)
            .set_protocol(protocol)
            .set_lib_name("celeriac", env!("CARGO_PKG_VERSION"));
        if let Some(user) = &target.login.user {
            info = info.set_username(user);
        }
        if let Some(password) = &target.login.password {
            info = info.set_password(password);
        }
        // Deadlines are kept by who calls.
        let mut config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_connection_timeout(None)
            .set_pipeline_buffer_size(PIPELINE);
        if let Some(pushed) = &self.pushed {
            config = config.set_push_sender(pushed.clone());
        }
        let opened = MultiplexedConnection::new_with_config(&info, wire, config).await;
        Ok(opened
            .map(|(connection, driver)| Live { connection, driver: tokio::spawn(driver).abort_handle() }))
    }

    async fn connect(&self, target: &Target<'_>) -> io::Result<Box<dyn Wire>> {
        let (host, port) = match target.place {
            Place::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
            Place::Tcp(host, port) => (host, *port),
        };
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        stream.set_nodelay(true)?;
        if self.address.keepalive {
            keep_alive(&stream)?;
        }
        let Some(options) = target.tls else { return Ok(Box::new(stream)) };
        let options = options.clone();
        let config = tokio::task::spawn_blocking(move || tls::client_config(&options))
            .await
            .map_err(io::Error::other)?
            .map_err(|reason| io::Error::new(io::ErrorKind::InvalidInput, reason))?;
        let name = ServerName::try_from(host.clone())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(Box::new(TlsConnector::from(config).connect(name, stream).await?))
    }
}

/// What one of several attempts gets of the time.
fn share(within: Duration, attempts: usize) -> Duration {
    within / u32::try_from(attempts.max(1)).unwrap_or(u32::MAX)
}

fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_COUNT)?;
    Ok(())
}

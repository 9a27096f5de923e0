//! From a URL to a store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{BackendError, ResultBackend};
use crate::broker::{Broker, BrokerError};
use crate::clock::Clock;
use crate::driver::memory::MemoryStore;
use crate::protocol::Topology;
#[cfg(any(feature = "redis", feature = "amqp"))]
use crate::url::StoreUrl;

/// How long one attempt of an inline store may block the thread of its caller.
#[cfg(feature = "sqlite")]
const SLICE: Duration = Duration::from_millis(100);

/// Who does the store's work in this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Threading {
    /// The thread that calls, and for all who call at the same time: no hop to another thread, but the
    /// future blocks the thread that polls it. For clients, which poll on a thread of the caller's.
    #[default]
    Inline,
    /// A thread of the store's own. For workers, whose event loop must not block.
    Dedicated,
}

/// How a process uses its stores. What a store has no use for it does not look at.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Who does the store's work.
    pub threading: Threading,
    /// Where leases and due times come from.
    pub clock: Clock,
    /// How long opening the store may take.
    pub connect_timeout: Duration,
    /// How long one call may take, a publish above all.
    pub publish_timeout: Duration,
    /// `broker_transport_options`, or `result_backend_transport_options` (Celery settings), as JSON.
    pub transport: serde_json::Map<String, serde_json::Value>,
    /// `broker_use_ssl`, or `redis_backend_use_ssl`; none is what the URL's scheme says.
    pub tls: Option<TlsOptions>,
    /// Queues and exchanges of the app.
    pub topology: Arc<Topology>,
    /// Publications with a due time are parked by whoever sends them. Otherwise brokers that stock Celery workers
    /// may consume from deliver them at once, with their `eta` header, and the worker that claims them parks them.
    pub park: bool,
    /// `broker_heartbeat` of AMQP; none is what the server proposes.
    pub heartbeat: Option<Duration>,
    /// Media type of result records, for stores that do not keep it.
    pub result_content_type: String,
    /// How results are sent that a queue carries.
    pub reply: ReplyOptions,
}

/// TLS as Celery's settings have it; paths are of PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// Whom to trust; none is what the system trusts.
    pub ca_certs: Option<PathBuf>,
    /// Our certificate.
    pub certfile: Option<PathBuf>,
    /// Its key.
    pub keyfile: Option<PathBuf>,
    /// What is checked of the server.
    pub verify: TlsVerify,
}

/// What is checked of a TLS server (`ssl_cert_reqs`, `ssl_check_hostname`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVerify {
    /// Its certificate and its name.
    #[default]
    Full,
    /// Its certificate, for any name.
    Certificate,
    /// Nothing (`CERT_NONE`).
    Nothing,
}

/// Results over a queue (`rpc://`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplyOptions {
    /// The queue that this process receives its results on.
    pub queue: Option<String>,
    /// `result_persistent`.
    pub persistent: bool,
    /// `result_expires`: how long an unused queue lasts.
    pub expires_ms: Option<u64>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            threading: Threading::default(),
            clock: Clock::system(),
            connect_timeout: Duration::from_secs(5),
            publish_timeout: Duration::from_secs(5),
            transport: serde_json::Map::new(),
            tls: None,
            topology: Arc::default(),
            park: true,
            heartbeat: None,
            result_content_type: "application/json".to_owned(),
            reply: ReplyOptions::default(),
        }
    }
}

impl ConnectOptions {
    /// An inline store blocks whoever polls it while the store is locked, and can neither be interrupted nor
    /// given a deadline for one call. So it is asked to give up after a moment, and asked again until the
    /// deadline: in between the caller may look for signals.
    #[cfg(feature = "sqlite")]
    fn sliced(mut self) -> Self {
        if self.threading == Threading::Inline {
            self.connect_timeout = self.connect_timeout.min(SLICE);
            self.publish_timeout = self.publish_timeout.min(SLICE);
        }
        self
    }
}

/// The broker behind a URL. The same store asked for twice in a process is opened once.
pub fn connect_broker(url: &str, options: ConnectOptions) -> Result<Arc<dyn Broker>, BrokerError> {
    Ok(match store(url, options)? {
        Store::Memory(store) => Arc::new(store),
        #[cfg(feature = "sqlite")]
        Store::Sqlite(store) => Arc::new(store),
        #[cfg(feature = "redis")]
        Store::Redis(url, options) => super::redis::broker(&url, &options)?,
        #[cfg(feature = "amqp")]
        Store::Amqp(url, options) => super::amqp::broker(&url, &options)?,
    })
}

/// The URL that a result backend is reached by: `rpc://` names no server of its own and is where the broker is.
pub fn backend_url<'a>(backend: &'a str, broker: &'a str) -> &'a str {
    let amqp = ["amqp://", "amqps://", "pyamqp://"].iter().any(|scheme| broker.starts_with(scheme));
    match backend.strip_prefix("rpc://") {
        Some("" | "/") if amqp => broker,
        _ => backend,
    }
}

/// The result backend behind a URL; the same store as the broker's when the URLs name the same.
pub fn connect_backend(url: &str, options: ConnectOptions) -> Result<Arc<dyn ResultBackend>, BackendError> {
    let store = store(url, options).map_err(backend_error)?;
    Ok(match store {
        Store::Memory(store) => Arc::new(store),
        #[cfg(feature = "sqlite")]
        Store::Sqlite(store) => Arc::new(store),
        #[cfg(feature = "redis")]
        Store::Redis(url, options) => super::redis::backend(&url, &options)?,
        #[cfg(feature = "amqp")]
        Store::Amqp(url, options) => super::amqp::backend(&url, &options)?,
    })
}

/// The same error, of a store that is asked for results.
pub(super) fn backend_error(error: BrokerError) -> BackendError {
    match error {
        BrokerError::Config(reason) => BackendError::Config(reason),
        BrokerError::Unavailable { url, reason } => BackendError::Unavailable { url, reason },
        BrokerError::Timeout { url, after, reason } => BackendError::Timeout { url, after, reason },
        BrokerError::Broken { url, reason } => BackendError::Broken { url, reason },
        BrokerError::Refused { url, reason } => BackendError::Refused { url, reason },
        BrokerError::TooLarge { .. } | BrokerError::Closed => BackendError::Closed,
    }
}

enum Store {
    Memory(MemoryStore),
    #[cfg(feature = "sqlite")]
    Sqlite(super::sqlite::SqliteStore),
    /// Each role has connections of its own: made by the caller.
    #[cfg(feature = "redis")]
    Redis(StoreUrl, ConnectOptions),
    #[cfg(feature = "amqp")]
    Amqp(StoreUrl, ConnectOptions),
}

fn store(url: &str, options: ConnectOptions) -> Result<Store, BrokerError> {
    // What is no URL is not shown: it may be one whose beginning was lost, and its password not.
    let (scheme, rest) = url.split_once("://").unwrap_or(("", ""));
    match scheme {
        "memory" => Ok(Store::Memory(MemoryStore::named(rest.trim_start_matches('/'), &options.clock))),
        #[cfg(feature = "sqlite")]
        "sqlite" => file::open(rest, options.sliced()).map(Store::Sqlite),
        #[cfg(feature = "redis")]
        "redis" | "rediss" | "redis+socket" | "sentinel" => Ok(Store::Redis(parse(url)?, options)),
        #[cfg(feature = "amqp")]
        "amqp" | "amqps" | "pyamqp" | "rpc" => Ok(Store::Amqp(parse(url)?, options)),
        _ => Err(BrokerError::Config(format!(
            "unknown store {scheme:?}: known are redis://, rediss://, redis+socket://, sentinel://, amqp://, amqps://, \
             sqlite:/// (a file) and memory:// (in one process)"
        ))),
    }
}

#[cfg(any(feature = "redis", feature = "amqp"))]
fn parse(url: &str) -> Result<StoreUrl, BrokerError> {
    StoreUrl::parse(url).map_err(|error| BrokerError::Config(error.to_string()))
}

/// `sqlite:` URLs.
#[cfg(feature = "sqlite")]
mod file {
    use std::collections::HashMap;
    use std::path::{Path, PathBuf};
    use std::sync::LazyLock;

    use parking_lot::Mutex;

    use super::{BrokerError, ConnectOptions};
    use crate::driver::routing::QueueOrder;
    use crate::driver::sqlite::{SqliteOptions, SqliteStore, WeakStore};

    /// The file when the URL names none.
    const DEFAULT: &str = "celeriac.db";

    /// Open stores: after a fork the child must not use the parent's connection.
    static OPEN: LazyLock<Mutex<HashMap<Key, WeakStore>>> = LazyLock::new(Mutex::default);

    /// Process, path, options.
    type Key = (u32, PathBuf, String);

    /// Opens the file of a URL, of which `rest` is what follows `sqlite://`.
    pub(super) fn open(rest: &str, options: ConnectOptions) -> Result<SqliteStore, BrokerError> {
        let (_, query) = rest.split_once('?').unwrap_or((rest, ""));
        let wanted = read(rest, options)?;
        let path = canonical(&wanted.path);
        let how = format!("{query:?} {:?}", wanted.threading);
        let mut open = OPEN.lock();
        open.retain(|_, store| store.upgrade().is_some());
        let key = (std::process::id(), path, how);
        if let Some(store) = open.get(&key).and_then(WeakStore::upgrade) {
            return Ok(store);
        }
        let store = SqliteStore::open(wanted)?;
        open.insert(key, store.downgrade());
        Ok(store)
    }

    /// Takes the URL apart: `/` names the default file, `/name` one in the working directory, `//name` an absolute one.
    fn read(rest: &str, options: ConnectOptions) -> Result<SqliteOptions, BrokerError> {
        let (name, query) = rest.split_once('?').unwrap_or((rest, ""));
        if name.contains(":memory:") {
            return Err(BrokerError::Config(
                "sqlite://:memory: could not be seen by another process: use memory://, or a file".to_owned(),
            ));
        }
        let Some(name) = name.strip_prefix('/').or(name.is_empty().then_some("")) else {
            let name = name.rsplit('@').next().unwrap_or_default();
            return Err(BrokerError::Config(format!(
                "sqlite://{name} names a host: write sqlite:///{name} for a file in the working directory"
            )));
        };
        let mut read = SqliteOptions {
            threading: options.threading,
            clock: options.clock,
            connect_timeout: options.connect_timeout,
            timeout: options.publish_timeout,
            queue_order: QueueOrder::of(&options.transport),
            ..SqliteOptions::new(if name.is_empty() { DEFAULT } else { name })
        };
        // Later changes of the working directory must not matter.
        if let Ok(path) = std::path::absolute(&read.path) {
            read.path = path;
        }
        for option in query.split('&').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("synchronous", "full")) => read.survive_power_cut = true,
                Some(("synchronous", "normal")) => read.survive_power_cut = false,
                Some(("max_size", bytes)) if bytes.parse::<u64>().is_ok() => {
                    read.max_size = bytes.parse().ok();
                }
                Some(("max_message", bytes)) if bytes.parse::<usize>().is_ok() => {
                    read.max_message = bytes.parse().unwrap_or(read.max_message);
                }
                _ => {
                    return Err(BrokerError::Config(format!(
                        "unknown option {option:?} in the sqlite URL: known are synchronous=full|normal, max_message=BYTES and max_size=BYTES"
                    )));
                }
            }
        }
        Ok(read)
    }

    /// The path with links followed, as far as it exists.
    fn canonical(path: &Path) -> PathBuf {
        if let Ok(path) = path.canonicalize() {
            return path;
        }
        match (path.parent().and_then(|parent| parent.canonicalize().ok()), path.file_name()) {
            (Some(parent), Some(name)) => parent.join(name),
            _ => path.to_owned(),
        }
    }
}

//! What a Redis server or the way to it can do to a call, and what that means to the caller.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::{ErrorKind, RedisError};

use crate::backend::BackendError;
use crate::broker::BrokerError;
use crate::driver::connect::backend_error;

/// Why a call failed. `Display` is the reason alone; it never holds a password.
#[derive(Clone, Debug)]
pub(super) struct LinkError {
    pub(super) fault: Fault,
    /// Without its password.
    url: Arc<str>,
    /// What the server or the system said, and where it helps, what to do.
    reason: String,
}

/// What went wrong, by what can be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The connection could not be made, or broke.
    Io,
    /// No answer in time; the connection was given up.
    Timeout(Duration),
    /// A cluster keeps these keys at another node.
    Moved { host: String, port: u16 },
    /// The server became a replica.
    ReadOnly,
    /// The server, or its cluster, is not ready: `LOADING`, `CLUSTERDOWN`, `MASTERDOWN`.
    NotReady,
    /// Soon: a slot moves (`ASK`, `TRYAGAIN`), or a script of somebody's runs for long (`BUSY`).
    Busy,
    /// No memory left (`OOM`), or it cannot save (`MISCONF`).
    Full,
    /// Wrong or missing password.
    Login,
    /// The user may not do this.
    NoPermission,
    /// TLS found something wrong with the server's certificate, or ours.
    Tls,
    /// A script is not known; [`super::link::Link::script`] deals with it.
    NoScript,
    /// An option is wrong for this server.
    Config,
    /// The server understood and refused: a wrong type of key, an error of a script, an unknown command.
    Response,
}

impl LinkError {
    pub(super) fn new(url: &Arc<str>, fault: Fault, reason: impl Into<String>) -> Self {
        Self { fault, url: url.clone(), reason: reason.into() }
    }

    /// Could not connect; TLS has kinds of system errors of its own.
    pub(super) fn connecting(url: &Arc<str>, place: impl fmt::Display, error: &io::Error) -> Self {
        let fault = match error.kind() {
            io::ErrorKind::InvalidData => Fault::Tls,
            io::ErrorKind::InvalidInput => Fault::Config,
            _ => Fault::Io,
        };
        Self::new(url, fault, format!("{place}: {error}"))
    }

    /// Reads an error of the client library. A command of a pipeline that failed speaks for all of it.
    pub(super) fn read(url: &Arc<str>, error: &RedisError) -> Self {
        let first = error.clone().into_server_errors().and_then(|errors| errors.first().cloned());
        if let Some((_, said)) = first {
            return Self::server(url, said.code(), said.details().unwrap_or_default());
        }
        let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
        let (fault, reason) = match error.kind() {
            ErrorKind::AuthenticationFailed => (Fault::Login, format!("the password is wrong{detail}")),
            ErrorKind::RESP3NotSupported => {
                (Fault::Config, "Redis 6 or a later version is needed (the server has no HELLO)".to_owned())
            }
            ErrorKind::Server(kind) => {
                return Self::server(url, error.code().unwrap_or_default(), &format!("{kind:?}{detail}"));
            }
            ErrorKind::UnexpectedReturnType | ErrorKind::Client | ErrorKind::InvalidClientConfig => {
                (Fault::Response, format!("unexpected answer: {error}"))
            }
            _ => (Fault::Io, error.to_string()),
        };
        Self::new(url, fault, reason)
    }

    /// Reads an error answer.
    pub(super) fn server(url: &Arc<str>, code: &str, details: &str) -> Self {
        let said = format!("{code} {details}");
        let (fault, advice) = match code {
            "READONLY" => (Fault::ReadOnly, ""),
            "LOADING" | "CLUSTERDOWN" | "MASTERDOWN" => (Fault::NotReady, ""),
            "TRYAGAIN" | "ASK" | "BUSY" => (Fault::Busy, ""),
            "MOVED" => (moved(details), ""),
            "OOM" => (
                Fault::Full,
                ": the server is at its maxmemory; raise it, or remove keys, and do not let it evict",
            ),
            "MISCONF" => (Fault::Full, ": the server cannot save to its disk; see its log"),
            "NOAUTH" => (Fault::Login, ": the URL needs a password"),
            "WRONGPASS" => (Fault::Login, ": user name or password of the URL is wrong"),
            "NOPERM" => (Fault::NoPermission, ": the user of the URL may not do this (ACL)"),
            "NOSCRIPT" => (Fault::NoScript, ""),
            "CROSSSLOT" => (Fault::Config, NEEDS_TAG),
            _ => (Fault::Response, ""),
        };
        Self::new(url, fault, format!("{}{advice}", said.trim()))
    }

    /// A cluster, and keys that are not kept together.
    pub(super) fn needs_tag(url: &Arc<str>) -> Self {
        Self::new(url, Fault::Config, format!("the server is one of a cluster{NEEDS_TAG}"))
    }

    /// The command may have been carried out: there was no answer.
    pub(super) fn is_doubtful(&self) -> bool {
        matches!(self.fault, Fault::Io | Fault::Timeout(_))
    }

    /// The connection is of no use any more: the next call makes another.
    pub(super) fn ends_connection(&self) -> bool {
        matches!(
            self.fault,
            Fault::Io
                | Fault::Timeout(_)
                | Fault::Moved { .. }
                | Fault::ReadOnly
                | Fault::NotReady
                | Fault::Login
        )
    }
}

const NEEDS_TAG: &str = ": all keys must be in one slot, so set the transport option global_keyprefix to one with \
     a hash tag, such as \"{celery}:\"";

/// `3999 127.0.0.1:6381`, the slot and the node; of an address without a host, the host asked.
fn moved(details: &str) -> Fault {
    let node = details.split_ascii_whitespace().nth(1).and_then(|node| node.rsplit_once(':'));
    match node.and_then(|(host, port)| Some((host, port.parse().ok()?))) {
        Some((host, port)) => Fault::Moved { host: host.to_owned(), port },
        None => Fault::NotReady,
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for LinkError {}

impl From<LinkError> for BrokerError {
    fn from(error: LinkError) -> Self {
        let LinkError { fault, url, reason } = error;
        let url = url.to_string();
        match fault {
            Fault::Timeout(after) => Self::Timeout { url, after, reason },
            Fault::Login | Fault::Tls => Self::Broken { url, reason },
            Fault::Config => Self::Config(format!("broker {url}: {reason}")),
            Fault::NoPermission | Fault::Response => Self::Refused { url, reason },
            Fault::Io
            | Fault::Moved { .. }
            | Fault::ReadOnly
            | Fault::NotReady
            | Fault::Busy
            | Fault::Full
            | Fault::NoScript => Self::Unavailable { url, reason },
        }
    }
}

impl From<LinkError> for BackendError {
    fn from(error: LinkError) -> Self {
        match error.fault {
            // The one text that names the role.
            Fault::Config => Self::Config(format!("result backend {}: {}", error.url, error.reason)),
            _ => backend_error(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: &str, details: &str) -> LinkError {
        LinkError::server(&"redis://h".into(), code, details)
    }

    #[test]
    fn what_passes_is_transient_and_what_does_not_is_final() {
        for code in
            ["READONLY", "LOADING", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "BUSY", "OOM", "MISCONF", "ASK"]
        {
            let error = said(code, "why");
            assert!(BrokerError::from(error.clone()).is_transient(), "{code}");
            assert!(BackendError::from(error).is_transient(), "{code}");
        }
        for code in ["NOAUTH", "WRONGPASS", "NOPERM", "CROSSSLOT", "WRONGTYPE", "ERR"] {
            let error = said(code, "why");
            assert!(!BrokerError::from(error.clone()).is_transient(), "{code}");
            assert!(!BackendError::from(error).is_transient(), "{code}");
        }
    }

    #[test]
    fn the_reason_of_the_server_is_never_lost() {
        for code in ["READONLY", "OOM", "NOAUTH", "WRONGTYPE", "MOVED", "SOMETHING"] {
            let text = BrokerError::from(said(code, "that is why")).to_string();
            assert!(
                text.contains(code) && text.contains("that is why") && text.contains("redis://h"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_node_of_a_cluster_is_read_with_any_address() {
        let moved = |details| said("MOVED", details).fault;
        let to = |host: &str, port| Fault::Moved { host: host.to_owned(), port };
        assert_eq!(moved("3999 127.0.0.1:6381"), to("127.0.0.1", 6381));
        assert_eq!(moved("3999 ::1:6381"), to("::1", 6381));
        assert_eq!(moved("nonsense"), Fault::NotReady);
    }
}

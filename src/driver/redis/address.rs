//! Where a server is and how to log in: from a URL, transport options and TLS options.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::broker::BrokerError;
use crate::driver::{ConnectOptions, TlsOptions, TlsVerify};
use crate::url::StoreUrl;

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// Where a server is and how to log in. `Display` and `Debug` never show a password.
pub(super) struct Address {
    url: StoreUrl,
    /// The servers, the first one first; of Sentinels, where to ask for the server.
    pub(super) endpoints: Vec<Endpoint>,
    /// How to find the server, where `endpoints` are Sentinels.
    pub(super) sentinel: Option<Sentinel>,
    /// How to log in to the server that Sentinels or a cluster name.
    pub(super) login: Login,
    pub(super) tls: Option<TlsOptions>,
    pub(super) client_name: Option<String>,
    /// TCP keepalive (`socket_keepalive`).
    pub(super) keepalive: bool,
    /// All keys are in one slot, since the prefix has a hash tag.
    pub(super) one_slot: bool,
    database: i64,
    connect_timeout: Duration,
    answer_timeout: Duration,
}

/// One place to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Tcp(String, u16),
    Unix(PathBuf),
}

/// A place, and how to log in there.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) place: Place,
    pub(super) login: Login,
}

#[derive(Clone, Default)]
pub(super) struct Login {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
}

/// How to ask Sentinels.
pub(super) struct Sentinel {
    /// The name that the servers have there.
    pub(super) master: String,
    /// Whether Sentinels themselves speak TLS.
    pub(super) tls: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({})", self.url)
    }
}

impl Address {
    /// Reads a URL and its options, and checks them; connects to nothing.
    pub(super) fn parse(url: &StoreUrl, options: &ConnectOptions) -> Result<Arc<Self>, BrokerError> {
        let transport = &options.transport;
        let is_sentinel = url.scheme == "sentinel";
        let sentinel = is_sentinel.then(|| sentinel(url, transport)).transpose()?;
        let sentinel_login = Login {
            user: sentinel_option(transport, "username"),
            password: sentinel_option(transport, "password"),
        };
        let endpoints = url
            .alternatives()
            .map(|one| Endpoint {
                place: place(one),
                login: if is_sentinel { sentinel_login.clone() } else { login(one) },
            })
            .collect();
        let seconds = |name: &str| {
            let given = url.query.get(name).and_then(|text| text.parse().ok());
            let seconds = given.or_else(|| transport.get(name).and_then(Value::as_f64));
            seconds
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                .filter(|time| !time.is_zero())
        };
        let prefix = transport.get("global_keyprefix").and_then(Value::as_str).unwrap_or_default();
        Ok(Arc::new(Self {
            endpoints,
            sentinel,
            login: url.alternatives().map(login).find(|login| login.password.is_some()).unwrap_or_default(),
            tls: tls(url, options.tls.as_ref())?,
            client_name: url
                .query
                .get("client_name")
                .cloned()
                .or_else(|| Some(transport.get("client_name")?.as_str()?.to_owned())),
            keepalive: transport.get("socket_keepalive").and_then(Value::as_bool).unwrap_or(true),
            one_slot: has_hash_tag(prefix),
            database: database(url)?,
            connect_timeout: seconds("socket_connect_timeout").unwrap_or(options.connect_timeout),
            answer_timeout: seconds("socket_timeout").unwrap_or(options.publish_timeout),
            url: url.clone(),
        }))
    }

    /// `host:port` or the path of a socket, without the database: equal for two databases of one server.
    pub(super) fn server_id(&self) -> String {
        let places: Vec<_> = self.endpoints.iter().map(|endpoint| endpoint.place.to_string()).collect();
        match &self.sentinel {
            Some(sentinel) => format!("{}/{}", places.join(";"), sentinel.master),
            None => places.join(";"),
        }
    }

    pub(super) fn database(&self) -> i64 {
        self.database
    }

    /// How long connecting and logging in may take (`socket_connect_timeout`).
    pub(super) fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// How long an answer may take (`socket_timeout`).
    pub(super) fn answer_timeout(&self) -> Duration {
        self.answer_timeout
    }
}

/// Whether keys behind this prefix are in one slot of a cluster.
fn has_hash_tag(prefix: &str) -> bool {
    prefix.split_once('{').and_then(|(_, rest)| rest.split_once('}')).is_some_and(|(tag, _)| !tag.is_empty())
}

fn place(url: &StoreUrl) -> Place {
    match url.scheme.as_str() {
        "redis+socket" => Place::Unix(url.file()),
        scheme => {
            let port = if scheme == "sentinel" { SENTINEL_PORT } else { PORT };
            let host = url.host.clone().unwrap_or_else(|| "localhost".to_owned());
            Place::Tcp(host, url.port.unwrap_or(port))
        }
    }
}

fn login(url: &StoreUrl) -> Login {
    let password = url.password.clone().or_else(|| url.query.get("password").cloned());
    Login { user: url.user.clone(), password: password.filter(|password| !password.is_empty()) }
}

fn sentinel_option(transport: &Map<String, Value>, name: &str) -> Option<String> {
    Some(transport.get("sentinel_kwargs")?.get(name)?.as_str()?.to_owned())
}

fn sentinel(url: &StoreUrl, transport: &Map<String, Value>) -> Result<Sentinel, BrokerError> {
    let master = transport.get("master_name").and_then(Value::as_str);
    let master = master.filter(|name| !name.is_empty()).map(str::to_owned);
    let tls =
        transport.get("sentinel_kwargs").and_then(|options| options.get("ssl")).and_then(Value::as_bool);
    master.map(|master| Sentinel { master, tls: tls.unwrap_or(false) }).ok_or_else(|| {
        BrokerError::Config(format!(
            "{url} does not say which server: set the transport option master_name to the name that the Sentinels \
             know it by"
        ))
    })
}

/// The number after the host, or `virtual_host` of a socket; of several URLs the first that has one.
fn database(url: &StoreUrl) -> Result<i64, BrokerError> {
    let written = url.alternatives().find_map(|one| {
        let path = if one.scheme == "redis+socket" { "" } else { one.path.trim_matches('/') };
        let option = || one.query.get("virtual_host").or_else(|| one.query.get("db")).map(String::as_str);
        Some(path).filter(|path| !path.is_empty()).or_else(option)
    });
    let Some(written) = written else { return Ok(0) };
    written.trim_start_matches('/').parse().ok().filter(|number| *number >= 0).ok_or_else(|| {
        BrokerError::Config(format!("the database in {url} must be a number from 0, not {written:?}"))
    })
}

/// TLS as the URL's scheme, its query, or the options ask for it; the query counts most.
fn tls(url: &StoreUrl, options: Option<&TlsOptions>) -> Result<Option<TlsOptions>, BrokerError> {
    if url.scheme != "rediss" && options.is_none() {
        return Ok(None);
    }
    let mut tls = options.cloned().unwrap_or_default();
    let path = |name: &str| url.query.get(name).map(PathBuf::from);
    tls.ca_certs = path("ssl_ca_certs").or(tls.ca_certs);
    tls.certfile = path("ssl_certfile").or(tls.certfile);
    tls.keyfile = path("ssl_keyfile").or(tls.keyfile);
    if let Some(wanted) = url.query.get("ssl_cert_reqs") {
        let short = wanted.to_ascii_lowercase();
        tls.verify = match short.strip_prefix("cert_").unwrap_or(&short) {
            // A client that verifies only if there is a certificate: TLS servers always have one.
            "required" | "optional" => TlsVerify::Full,
            "none" => TlsVerify::Nothing,
            _ => {
                return Err(BrokerError::Config(format!(
                    "ssl_cert_reqs in {url} must be required, optional or none, not {wanted:?}"
                )));
            }
        };
    }
    let any_name = url
        .query
        .get("ssl_check_hostname")
        .is_some_and(|text| matches!(text.to_ascii_lowercase().as_str(), "false" | "0" | "no"));
    if any_name && tls.verify == TlsVerify::Full {
        tls.verify = TlsVerify::Certificate;
    }
    Ok(Some(tls))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str, transport: &str) -> Result<Arc<Address>, BrokerError> {
        let transport = serde_json::from_str(transport).unwrap();
        let options = ConnectOptions { transport, ..ConnectOptions::default() };
        Address::parse(&StoreUrl::parse(url).unwrap(), &options)
    }

    fn of(url: &str) -> Arc<Address> {
        parse(url, "{}").unwrap()
    }

    #[test]
    fn what_a_url_leaves_out_is_the_usual() {
        let address = of("redis://");
        assert_eq!((&*address.server_id(), address.database()), ("localhost:6379", 0));
        assert!(address.tls.is_none() && address.login.password.is_none());
    }

    #[test]
    fn the_server_is_the_same_whatever_the_database_and_password() {
        for url in ["redis://h:6379/0", "redis://u:p@h/15", "rediss://h//3", "redis://h?db=2"] {
            assert_eq!(of(url).server_id(), "h:6379", "{url}");
        }
        assert_eq!(of("redis://[::1]:7/1").server_id(), "[::1]:7");
        assert_eq!(of("redis+socket:///run/r.sock?virtual_host=2").server_id(), "/run/r.sock");
    }

    #[test]
    fn a_database_is_a_number() {
        let databases = [
            ("redis://h/5", 5),
            ("redis://h//7/", 7),
            ("redis+socket:///run/0/r.sock", 0),
            ("redis+socket:///r.sock?virtual_host=/4", 4),
        ];
        for (url, database) in databases {
            assert_eq!(of(url).database(), database, "{url}");
        }
        for url in ["redis://h/x", "redis://h/-1", "redis://h/1/2", "redis+socket:///s?virtual_host=x"] {
            assert!(matches!(parse(url, "{}"), Err(BrokerError::Config(_))), "{url}");
        }
    }

    #[test]
    fn sentinels_are_a_list_with_a_name_and_a_login_of_their_own() {
        let url = "sentinel://:master@a:1;sentinel://b;c:3/2";
        let options = r#"{"master_name": "m", "sentinel_kwargs": {"password": "asked", "ssl": true}}"#;
        let address = parse(url, options).unwrap();
        let places: Vec<_> = address.endpoints.iter().map(|endpoint| endpoint.place.to_string()).collect();
        assert_eq!(places, ["a:1", "b:26379", "c:3"]);
        assert!(address.endpoints.iter().all(|one| one.login.password.as_deref() == Some("asked")));
        assert_eq!(address.login.password.as_deref(), Some("master"));
        assert_eq!((&*address.server_id(), address.database()), ("a:1;b:26379;c:3/m", 2));
        let sentinel = address.sentinel.as_ref().unwrap();
        assert_eq!((&*sentinel.master, sentinel.tls), ("m", true));
        assert!(!format!("{address} {address:?}").contains("master@"));
        for options in ["{}", r#"{"master_name": ""}"#] {
            assert!(parse(url, options).unwrap_err().to_string().contains("master_name"));
        }
    }

    #[test]
    fn tls_is_asked_for_by_the_scheme_or_the_options_and_shaped_by_the_query() {
        let tls = |query: &str| of(&format!("rediss://h/0?{query}")).tls.clone().unwrap();
        assert_eq!(tls(""), TlsOptions::default());
        let verify = [
            ("ssl_cert_reqs=required", TlsVerify::Full),
            ("ssl_cert_reqs=CERT_OPTIONAL", TlsVerify::Full),
            ("ssl_cert_reqs=CERT_NONE", TlsVerify::Nothing),
            ("ssl_cert_reqs=none&ssl_check_hostname=false", TlsVerify::Nothing),
            ("ssl_check_hostname=False", TlsVerify::Certificate),
            ("ssl_check_hostname=true", TlsVerify::Full),
        ];
        for (query, expected) in verify {
            assert_eq!(tls(query).verify, expected, "{query}");
        }
        assert_eq!(tls("ssl_ca_certs=/ca.pem").ca_certs, Some("/ca.pem".into()));
        let given = TlsOptions { certfile: Some("/c.pem".into()), ..TlsOptions::default() };
        let options = ConnectOptions { tls: Some(given.clone()), ..ConnectOptions::default() };
        let address = Address::parse(&StoreUrl::parse("redis://h").unwrap(), &options).unwrap();
        assert_eq!(address.tls, Some(given));
    }

    #[test]
    fn times_are_those_of_the_url_then_of_the_options() {
        let seconds = Duration::from_secs;
        let address =
            parse("redis://h?socket_timeout=2.5", r#"{"socket_timeout": 9, "socket_connect_timeout": 3}"#);
        let address = address.unwrap();
        assert_eq!(address.answer_timeout(), Duration::from_millis(2500));
        assert_eq!(address.connect_timeout(), seconds(3));
        let address =
            parse("redis://h", r#"{"socket_timeout": null, "socket_connect_timeout": -1}"#).unwrap();
        assert_eq!((address.answer_timeout(), address.connect_timeout()), (seconds(5), seconds(5)));
    }

    #[test]
    fn a_hash_tag_keeps_all_keys_in_one_slot() {
        for (prefix, one_slot) in [("{a}:", true), ("x{a}", true), ("", false), ("{}", false), ("{a", false)]
        {
            let options = serde_json::json!({"global_keyprefix": prefix}).to_string();
            assert_eq!(parse("redis://h", &options).unwrap().one_slot, one_slot, "{prefix}");
        }
    }
}

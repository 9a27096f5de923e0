//! Broker and backend URLs: parsed, and printed without their passwords.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::PathBuf;

use thiserror::Error;

/// The file of `sqlite:///`: in the working directory.
const DEFAULT_FILE: &str = "celeriac.db";
/// Schemes we speak, as error texts list them.
const SCHEMES: [&str; 10] =
    ["sqlite", "memory", "redis", "rediss", "redis+socket", "sentinel", "amqp", "amqps", "pyamqp", "rpc"];

/// Why a URL cannot be used. The texts never quote the URL: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UrlError {
    /// No `scheme://` at the start.
    #[error("URL has no scheme; known are {}", SCHEMES.join(", "))]
    NoScheme,
    /// A store that we do not speak.
    #[error("URL scheme {scheme:?} is not supported; known are {}", SCHEMES.join(", "))]
    UnknownScheme {
        /// Its scheme.
        scheme: String,
    },
    /// Not a number from 1 to 65535.
    #[error("URL has a port that is not a number from 1 to 65535")]
    Port,
    /// `%` without two hexadecimal digits, or bytes that are no UTF-8.
    #[error("URL has a malformed % escape")]
    Escape,
    /// An IPv6 address that is malformed or not in brackets.
    #[error("URL has a malformed IPv6 address, or one without brackets")]
    Address,
    /// `sqlite://file`, `sqlite://` or `sqlite:///:memory:`.
    #[error("write sqlite:///relative/path or sqlite:////absolute/path; a store in memory is memory://")]
    SqlitePath,
}

/// A URL of a store, taken apart; escapes are resolved. `Display` and `Debug` never show the password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StoreUrl {
    /// In lower case.
    pub scheme: String,
    /// Who logs in.
    pub user: Option<String>,
    /// With what.
    pub password: Option<String>,
    /// Host name or address, without brackets.
    pub host: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// What follows the first `/` after the host: a file name, a virtual host, a database number. It
    /// begins with `/` only if there were two, but for `redis+socket`, where it is always absolute.
    pub path: String,
    /// Options after `?`; the last one of a name counts.
    pub query: BTreeMap<String, String>,
    /// The other URLs of a list separated by `;`, in order: more Sentinels, or brokers to fall back to.
    pub failover: Vec<StoreUrl>,
}

impl StoreUrl {
    /// Parses a URL, or a list of URLs separated by `;` whose later ones may leave out the scheme.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = split_scheme(text.trim())?;
        if matches!(scheme.as_str(), "sqlite" | "memory") {
            return Self::parse_one(scheme, rest);
        }
        let mut parts = rest.split(';').map(str::trim);
        let mut first = Self::parse_one(scheme, parts.next().unwrap_or_default())?;
        for part in parts.filter(|part| !part.is_empty()) {
            let url = if part.contains("://") {
                let (scheme, rest) = split_scheme(part)?;
                Self::parse_one(scheme, rest)?
            } else {
                Self::parse_one(first.scheme.clone(), part)?
            };
            first.failover.push(url);
        }
        Ok(first)
    }

    fn parse_one(scheme: String, rest: &str) -> Result<Self, UrlError> {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, Some(decode(path)?)),
            None => (rest, None),
        };
        let mut url = Self { scheme, query: parse_query(query)?, ..Self::default() };
        url.parse_authority(authority)?;
        match url.scheme.as_str() {
            "sqlite" => {
                let path = path.filter(|path| authority.is_empty() && path != ":memory:");
                let path = path.ok_or(UrlError::SqlitePath)?;
                url.path = if path.is_empty() { DEFAULT_FILE.to_owned() } else { path };
            }
            "redis+socket" => url.path = format!("/{}", path.unwrap_or_default()),
            _ => url.path = path.unwrap_or_default(),
        }
        Ok(url)
    }

    /// `user:password@host:port`, each part optional.
    fn parse_authority(&mut self, authority: &str) -> Result<(), UrlError> {
        let address = match authority.rsplit_once('@') {
            Some((login, address)) => {
                let (user, password) =
                    login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
                self.user = Some(decode(user)?).filter(|user| !user.is_empty());
                self.password = password.map(decode).transpose()?;
                address
            }
            None => authority,
        };
        let (host, port) = if let Some(rest) = address.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or(UrlError::Address)?;
            match rest.strip_prefix(':') {
                None if !rest.is_empty() => return Err(UrlError::Address),
                port => (host, port),
            }
        } else {
            address.rsplit_once(':').map_or((address, None), |(host, port)| (host, Some(port)))
        };
        let host = decode(host)?;
        let in_brackets = address.starts_with('[');
        let plain =
            |c: char| if in_brackets { c.is_ascii_hexdigit() || c == ':' || c == '.' } else { c != ':' };
        if host.contains(['[', ']']) || !host.chars().all(plain) {
            return Err(UrlError::Address);
        }
        self.host = Some(host).filter(|host| !host.is_empty());
        self.port = match port.filter(|port| !port.is_empty()) {
            Some(port) => Some(port.parse().ok().filter(|port| *port > 0).ok_or(UrlError::Port)?),
            None => None,
        };
        Ok(())
    }

    /// The path as a file name, for `sqlite` and `redis+socket`.
    pub fn file(&self) -> PathBuf {
        PathBuf::from(&self.path)
    }

    /// This URL without those to fall back to, then each of them.
    pub fn alternatives(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.failover)
    }

    fn write_one(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme)?;
        if self.user.is_some() || self.password.is_some() {
            encode(f, self.user.as_deref().unwrap_or_default(), "")?;
            f.write_str(if self.password.is_some() { ":**@" } else { "@" })?;
        }
        match &self.host {
            Some(host) if host.contains(':') => write!(f, "[{host}]")?,
            Some(host) => encode(f, host, "")?,
            None => {}
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        if self.scheme == "redis+socket" {
            encode(f, &self.path, "/")?;
        } else if !self.path.is_empty() {
            f.write_char('/')?;
            encode(f, &self.path, "/")?;
        }
        for (place, (name, value)) in self.query.iter().enumerate() {
            f.write_char(if place == 0 { '?' } else { '&' })?;
            encode(f, name, "")?;
            f.write_char('=')?;
            if is_secret(name) { f.write_str("**")? } else { encode(f, value, "/:")? }
        }
        Ok(())
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, url) in self.alternatives().enumerate() {
            if place > 0 {
                f.write_char(';')?;
            }
            url.write_one(f)?;
        }
        Ok(())
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

/// Query options that are passwords by another name.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["pass", "secret", "token"].iter().any(|word| name.contains(word))
}

fn split_scheme(text: &str) -> Result<(String, &str), UrlError> {
    let (scheme, rest) = text.split_once("://").ok_or(UrlError::NoScheme)?;
    let plausible = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    if scheme.is_empty() || scheme.len() > 32 || !scheme.chars().all(plausible) {
        return Err(UrlError::NoScheme);
    }
    let scheme = scheme.to_ascii_lowercase();
    if SCHEMES.contains(&scheme.as_str()) {
        Ok((scheme, rest))
    } else {
        Err(UrlError::UnknownScheme { scheme })
    }
}

fn parse_query(text: &str) -> Result<BTreeMap<String, String>, UrlError> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(&name.replace('+', " "))?, decode(&value.replace('+', " "))?))
        })
        .collect()
}

fn decode(text: &str) -> Result<String, UrlError> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let (Some(high), Some(low)) = (digit(), digit()) else { return Err(UrlError::Escape) };
            out.push((high * 16 + low) as u8);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).map_err(|_| UrlError::Escape)
}

fn encode(f: &mut fmt::Formatter<'_>, text: &str, also_plain: &str) -> fmt::Result {
    for c in text.chars() {
        if c.is_alphanumeric() || "-._~".contains(c) || also_plain.contains(c) {
            f.write_char(c)?;
        } else {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                write!(f, "%{byte:02X}")?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> StoreUrl {
        StoreUrl::parse(text).unwrap()
    }

    #[test]
    fn sqlite_paths_are_relative_with_three_slashes_and_absolute_with_four() {
        assert_eq!(parse("sqlite:///a/b.db").file(), PathBuf::from("a/b.db"));
        assert_eq!(parse("sqlite:////var/a b;c.db").file(), PathBuf::from("/var/a b;c.db"));
        assert_eq!(parse("sqlite:///").file(), PathBuf::from("celeriac.db"));
        let options = parse("sqlite:///?synchronous=normal&x=a+b%2B");
        assert_eq!(options.path, "celeriac.db");
        assert_eq!(options.query["synchronous"], "normal");
        assert_eq!(options.query["x"], "a b+");
        for text in ["sqlite://", "sqlite://file.db", "sqlite:///:memory:"] {
            assert_eq!(StoreUrl::parse(text), Err(UrlError::SqlitePath), "{text}");
        }
        assert_eq!(parse("memory://").scheme, "memory");
    }

    #[test]
    fn every_part_of_a_network_url_is_found() {
        let url = parse("amqp://user:p%40ss@host:5673//vhost?heartbeat=10");
        assert_eq!(url.user.as_deref(), Some("user"));
        assert_eq!(url.password.as_deref(), Some("p@ss"));
        assert_eq!((url.host.as_deref(), url.port), (Some("host"), Some(5673)));
        assert_eq!(url.path, "/vhost");
        assert_eq!(url.query["heartbeat"], "10");
        let redis = parse("REDIS://:secret@[::1]:6380/5");
        assert_eq!((redis.user.as_deref(), redis.password.as_deref()), (None, Some("secret")));
        assert_eq!((redis.host.as_deref(), redis.port), (Some("::1"), Some(6380)));
        assert_eq!(redis.path, "5");
        let socket = parse("redis+socket:///run/redis.sock?virtual_host=3");
        assert_eq!(socket.file(), PathBuf::from("/run/redis.sock"));
        assert_eq!(socket.query["virtual_host"], "3");
        assert_eq!(parse("amqp://").host, None);
    }

    #[test]
    fn a_list_keeps_its_order_and_later_urls_may_leave_out_the_scheme() {
        let url = parse("sentinel://a:26379;:pw@b;sentinel://c/1");
        let hosts: Vec<_> = url.alternatives().map(|url| url.host.as_deref().unwrap()).collect();
        assert_eq!(hosts, ["a", "b", "c"]);
        assert_eq!(url.to_string(), "sentinel://a:26379;sentinel://:**@b;sentinel://c/1");
    }

    #[test]
    fn no_password_is_ever_printed() {
        for text in [
            "redis://user:hunter2@host:1/0",
            "redis://:hunter2@host",
            "redis://a;redis://u:hunter2@b",
            "rediss://h/0?ssl_password=hunter2&Secret=hunter2",
            "amqp://u:hunter2@h/hunter:hunter2@x".trim_end_matches("/hunter:hunter2@x"),
        ] {
            let url = parse(text);
            assert!(!format!("{url} {url:?}").contains("hunter2"), "{text}");
        }
        assert_eq!(parse("redis://user:secret@host").to_string(), "redis://user:**@host");
        for text in ["user:hunter2@host", "redis://u:hunter2@h:port", "redis://u:hunter2%zz@h", "://hunter2"]
        {
            assert!(!StoreUrl::parse(text).unwrap_err().to_string().contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn what_is_printed_parses_to_the_same() {
        for text in [
            "sqlite:///celeriac.db",
            "sqlite:////var/lib/a%20b%25.db?synchronous=normal",
            "amqp://user@host:5673//v%2Fhost",
            "redis+socket:///run/redis.sock?virtual_host=3",
            "redis://[::1]:6380/5",
            "memory://",
        ] {
            let url = parse(text);
            assert_eq!(parse(&url.to_string()), url, "{text}");
        }
    }

    #[test]
    fn an_unknown_scheme_is_told_what_there_is() {
        let error = StoreUrl::parse("sqs://key@host").unwrap_err().to_string();
        assert!(error.contains("\"sqs\"") && error.contains("sqlite, memory, redis"), "{error}");
        assert_eq!(StoreUrl::parse("localhost"), Err(UrlError::NoScheme));
        assert_eq!(StoreUrl::parse("redis://h:0"), Err(UrlError::Port));
        assert_eq!(StoreUrl::parse("redis://h:70000"), Err(UrlError::Port));
        for text in ["redis://[::1", "redis://::1", "redis://[::1]6379", "redis://]::/", "redis://[host]"] {
            assert_eq!(StoreUrl::parse(text), Err(UrlError::Address), "{text}");
        }
        assert_eq!(StoreUrl::parse("redis://h/%f"), Err(UrlError::Escape));
    }
}

//! Where the servers are: URLs with their defaults, in the order in which they are tried.

use std::time::Duration;

use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};

use crate::broker::BrokerError;
use crate::driver::ConnectOptions;
use crate::url::StoreUrl;

const PORT: u16 = 5672;
const TLS_PORT: u16 = 5671;
/// AMQP's short texts hold no more.
pub(super) const SHORT: usize = 255;

/// The servers of one URL, and which of them is next.
#[derive(Clone)]
pub(super) struct Addresses {
    /// Never empty.
    pub(super) uris: Vec<AMQPUri>,
    /// `failover_strategy` is `shuffle` (else round robin).
    pub(super) shuffle: bool,
}

impl Addresses {
    /// Reads a URL with those to fall back to.
    pub(super) fn read(url: &StoreUrl, options: &ConnectOptions) -> Result<Self, BrokerError> {
        let uris = url.alternatives().map(|url| uri(url, options)).collect::<Result<_, _>>()?;
        let strategy = options.transport.get("failover_strategy").and_then(|name| name.as_str());
        Ok(Self { uris, shuffle: strategy == Some("shuffle") })
    }
}

fn uri(url: &StoreUrl, options: &ConnectOptions) -> Result<AMQPUri, BrokerError> {
    let tls = url.scheme == "amqps" || options.tls.is_some();
    let vhost = if url.path.is_empty() { "/" } else { &url.path };
    if vhost.len() > SHORT {
        return Err(BrokerError::Config("the virtual host of the AMQP URL has over 255 bytes".to_owned()));
    }
    let heartbeat = match url.query.get("heartbeat").map(|text| text.parse::<f64>()) {
        Some(Ok(seconds)) if seconds >= 0.0 => Duration::try_from_secs_f64(seconds).ok(),
        Some(_) => return Err(BrokerError::Config("heartbeat in the AMQP URL is not a number".to_owned())),
        None => options.heartbeat,
    };
    let credentials = |own: &Option<String>| own.clone().unwrap_or_else(|| "guest".to_owned());
    Ok(AMQPUri {
        scheme: if tls { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username: credentials(&url.user), password: credentials(&url.password) },
            host: url.host.clone().unwrap_or_else(|| "localhost".to_owned()),
            port: url.port.unwrap_or(if tls { TLS_PORT } else { PORT }),
        },
        vhost: vhost.to_owned(),
        query: AMQPQueryString {
            // A fraction of a second would be none at all, which means the server's.
            heartbeat: heartbeat.map(|every| every.as_secs_f64().ceil().min(f64::from(u16::MAX)) as u16),
            ..AMQPQueryString::default()
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<AMQPUri> {
        let url = StoreUrl::parse(text).unwrap();
        Addresses::read(&url, &ConnectOptions::default()).unwrap().uris
    }

    #[test]
    fn what_a_url_leaves_out_is_guest_on_localhost_at_the_root() {
        let uri = &read("amqp://")[0];
        assert_eq!((&*uri.authority.host, uri.authority.port, &*uri.vhost), ("localhost", 5672, "/"));
        assert_eq!(uri.authority.userinfo.username, "guest");
        assert_eq!(uri.authority.userinfo.password, "guest");
        assert_eq!(read("amqps://h")[0].authority.port, 5671);
        assert_eq!(read("amqps://h")[0].scheme, AMQPScheme::AMQPS);
    }

    #[test]
    fn the_virtual_host_is_what_follows_the_first_slash() {
        for (text, vhost) in [
            ("amqp://h", "/"),
            ("amqp://h/", "/"),
            ("amqp://h//", "/"),
            ("amqp://h/%2F", "/"),
            ("pyamqp://h/name", "name"),
            ("amqp://h//name", "/name"),
        ] {
            assert_eq!(read(text)[0].vhost, vhost, "{text}");
        }
    }

    #[test]
    fn a_list_is_tried_in_its_order() {
        let hosts: Vec<String> =
            read("amqp://a;amqp://b:1/x;c").into_iter().map(|uri| uri.authority.host).collect();
        assert_eq!(hosts, ["a", "b", "c"]);
        assert_eq!(read("amqp://h?heartbeat=0.5")[0].query.heartbeat, Some(1));
    }
}

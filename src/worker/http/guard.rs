//! Where a call may go: which URLs, and which addresses after their names were resolved.
//!
//! 1. The URL is read by the rules of browsers, so that an address in an odd notation (`0x7f.1`, `2130706433`) is
//!    seen as what it is.
//! 2. An address is refused unless it is public, or the allow-list names it or its host.
//! 3. Whoever connects asks here about the very address that it connects to ([`super::connect`]): nothing is resolved
//!    a second time in between.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Position, Url};

/// A longer URL is refused.
const MAX_URL: usize = 8 << 10;

/// Addresses that are in nobody's private network and still answer only to the machine that asks.
const METADATA: [Ipv4Addr; 1] = [Ipv4Addr::new(168, 63, 129, 16)];

/// Why a call may not go there. Shown to users: names the host, never a path, a query or a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not a URL.
    #[error("the URL cannot be read: {0}")]
    Unreadable(String),
    /// Neither HTTP nor HTTPS.
    #[error("the scheme {0:?} is not allowed: only http and https are")]
    Scheme(String),
    /// It holds a user name or a password.
    #[error("the URL of {0} holds a user name or a password: send an Authorization header instead")]
    Userinfo(String),
    /// It names no host.
    #[error("the URL names no host")]
    NoHost,
    /// What it resolves to is not public.
    #[error("{host} is at {address}, which is {what}: name it in http_allow if calls may go there")]
    Address {
        /// The host of the URL.
        host: String,
        /// What it resolves to.
        address: IpAddr,
        /// What kind of address that is.
        what: &'static str,
    },
}

/// A URL that was checked, with what a log may show of it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Without its fragment.
    pub(crate) uri: String,
    /// Scheme, host and port: paths and queries may hold secrets.
    pub(crate) shown: String,
}

/// What is allowed beside public addresses.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    networks: Vec<Network>,
    /// Lower case; one that begins with a dot stands for all below it.
    hosts: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    base: IpAddr,
    bits: u8,
}

impl Guard {
    /// An allow-list of networks (`10.1.0.0/16`), addresses, host names, and domains (`.intranet.example`).
    ///
    /// # Errors
    /// Says in words which entry is none of these.
    pub fn new(allow: &[String]) -> Result<Self, String> {
        let mut guard = Self::default();
        for entry in allow {
            match Network::parse(entry) {
                Some(Ok(network)) => guard.networks.push(network),
                Some(Err(why)) => return Err(format!("{entry:?} is not a network: {why}")),
                None => guard.hosts.push(host_name(entry)?),
            }
        }
        Ok(guard)
    }

    /// Checks all of a URL but its address.
    pub(crate) fn target(&self, text: &str) -> Result<Target, Refusal> {
        if text.len() > MAX_URL {
            return Err(Refusal::Unreadable(format!("it has more than {MAX_URL} bytes")));
        }
        let url = Url::parse(text).map_err(|error| Refusal::Unreadable(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refusal::Scheme(url.scheme().to_owned()));
        }
        let host = url.host().ok_or(Refusal::NoHost)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::Userinfo(host.to_string()));
        }
        let literal = match host {
            Host::Ipv4(address) => Some(IpAddr::V4(address)),
            Host::Ipv6(address) => Some(IpAddr::V6(address)),
            Host::Domain(_) => None,
        };
        if let Some(address) = literal {
            self.check(&host.to_string(), address)?;
        }
        Ok(Target {
            uri: url[..Position::AfterQuery].to_owned(),
            shown: format!(
                "{}{}",
                &url[..Position::BeforePath],
                if url.path() == "/" && url.query().is_none() { "/" } else { "/..." }
            ),
        })
    }

    /// Whether a connection may be made to this address, which the host was resolved to.
    pub(crate) fn check(&self, host: &str, address: IpAddr) -> Result<(), Refusal> {
        let Some(what) = not_public(address) else { return Ok(()) };
        let canonical = address.to_canonical();
        if self.networks.iter().any(|network| network.contains(canonical)) || self.names(host) {
            return Ok(());
        }
        Err(Refusal::Address { host: host.to_owned(), address, what })
    }

    fn names(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.hosts.iter().any(|allowed| {
            if allowed.starts_with('.') { host.ends_with(allowed.as_str()) } else { *allowed == host }
        })
    }
}

fn host_name(entry: &str) -> Result<String, String> {
    let name = entry.trim().trim_end_matches('.').to_ascii_lowercase();
    let plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '.' | '_');
    if name.trim_matches('.').is_empty() || !name.chars().all(plain) {
        return Err(format!("{entry:?} is neither a network nor a host name"));
    }
    Ok(name)
}

impl Network {
    /// None: it does not look like one.
    fn parse(text: &str) -> Option<Result<Self, String>> {
        let text = text.trim();
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let Ok(base) = address.trim_matches(['[', ']']).parse::<IpAddr>() else {
            return bits.map(|_| Err("it does not begin with an address".to_owned()));
        };
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) => match bits.parse::<u8>() {
                Ok(bits) if bits <= most => bits,
                _ => return Some(Err(format!("its length is not a number up to {most}"))),
            },
        };
        Some(Ok(Self { base, bits }))
    }

    fn contains(self, address: IpAddr) -> bool {
        match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                same(u128::from(base.to_bits()), u128::from(address.to_bits()), 32 - self.bits)
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                same(base.to_bits(), address.to_bits(), 128 - self.bits)
            }
            _ => false,
        }
    }
}

/// The same but for the last bits.
fn same(one: u128, other: u128, free: u8) -> bool {
    free >= 128 || one >> free == other >> free
}

/// What keeps an address from being public; none: it is.
fn not_public(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => not_public_v4(address),
        IpAddr::V6(address) => not_public_v6(address),
    }
}

fn not_public_v4(address: Ipv4Addr) -> Option<&'static str> {
    let octets = address.octets();
    Some(match octets {
        _ if METADATA.contains(&address) => "a metadata address",
        [0, ..] => "unspecified",
        [10, ..] | [192, 168, ..] => "private",
        [172, second, ..] if second & 0xf0 == 16 => "private",
        [100, second, ..] if second & 0xc0 == 64 => "shared between customers of a provider",
        [127, ..] => "loopback",
        [169, 254, ..] => "link-local",
        [192, 0, 0, _] | [192, 88, 99, _] => "reserved",
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => "for documentation",
        [198, 18 | 19, ..] => "for benchmarks",
        [first, ..] if first & 0xf0 == 224 => "multicast",
        [first, ..] if first >= 240 => "reserved",
        _ => return None,
    })
}

fn not_public_v6(address: Ipv6Addr) -> Option<&'static str> {
    if let Some(inner) = embedded(address) {
        return not_public_v4(inner);
    }
    let segments = address.segments();
    Some(match segments {
        _ if address.is_unspecified() => "unspecified",
        _ if address.is_loopback() => "loopback",
        [first, ..] if first & 0xff00 == 0xff00 => "multicast",
        [first, ..] if first & 0xffc0 == 0xfe80 => "link-local",
        [first, ..] if first & 0xfe00 == 0xfc00 => "unique-local",
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0x0fff, ..] => "for documentation",
        [0x2001, second, ..] if second < 0x200 => "reserved",
        [first, ..] if first & 0xe000 == 0x2000 => return None,
        _ => "reserved",
    })
}

/// The IPv4 address that this one stands for: mapped, 6to4, NAT64.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(allow: &[&str]) -> Guard {
        let allow: Vec<_> = allow.iter().map(|entry| (*entry).to_owned()).collect();
        Guard::new(&allow).expect("a list")
    }

    #[test]
    fn only_public_addresses_are_called() {
        let refused = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.100.100.200",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.0.1",
            "169.254.169.254",
            "168.63.129.16",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:c0a8:101::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fd12:3456:789a::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ];
        for text in refused {
            let address = text.parse().expect(text);
            assert!(guard(&[]).check("host", address).is_err(), "{text} is called");
        }
        let allowed = [
            "1.1.1.1",
            "8.8.8.8",
            "11.0.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ];
        for text in allowed {
            let address = text.parse().expect(text);
            assert_eq!(guard(&[]).check("host", address), Ok(()), "{text}");
        }
    }

    #[test]
    fn an_address_in_an_odd_notation_is_seen_as_what_it_is() {
        let loopback = [
            "http://127.1/",
            "http://0x7f.1/",
            "http://0x7f000001/",
            "http://2130706433/",
            "http://017700000001/",
            "http://0177.0.0.1/",
            "http://127.0.0.1./",
            "http://①②⑦.0.0.1/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[0:0:0:0:0:ffff:7f00:1]/",
            "http:\\\\127.0.0.1\\",
            "https:127.0.0.1",
        ];
        for url in loopback {
            assert!(
                matches!(guard(&[]).target(url), Err(Refusal::Address { what: "loopback", .. })),
                "{url}: {:?}",
                guard(&[]).target(url)
            );
        }
        assert!(matches!(
            guard(&[]).target("http://0xa9fea9fe/latest/meta-data"),
            Err(Refusal::Address { what: "link-local", .. })
        ));
    }

    #[test]
    fn only_http_is_spoken_and_no_password_is_sent() {
        for url in ["file:///etc/passwd", "gopher://example.com/", "ftp://example.com/"] {
            assert!(matches!(guard(&[]).target(url), Err(Refusal::Scheme(_))), "{url}");
        }
        let refused = guard(&[]).target("https://me:secret@example.com/").expect_err("refused");
        assert!(matches!(refused, Refusal::Userinfo(_)) && !refused.to_string().contains("secret"));
        assert!(guard(&[]).target("https://me@example.com/").is_err());
        for url in ["", "example.com", "http://", "http://exa mple/", "http://example.com:99999/"] {
            assert!(guard(&[]).target(url).is_err(), "{url}");
        }
    }

    #[test]
    fn what_is_shown_of_a_url_is_its_host() {
        let target = guard(&[]).target("HTTPS://Example.com:8443/a?token=secret#top").expect("a URL");
        assert_eq!(target.uri, "https://example.com:8443/a?token=secret");
        assert_eq!(target.shown, "https://example.com:8443/...");
        assert_eq!(guard(&[]).target("http://example.com").expect("a URL").shown, "http://example.com/");
    }

    #[test]
    fn an_allow_list_names_networks_hosts_and_domains() {
        let guard = guard(&["127.0.0.0/8", "fd00:1::/32", "Intranet.example", ".corp.example", "10.0.0.7"]);
        let checks = [
            ("any", "127.3.2.1", true),
            ("any", "::ffff:127.0.0.1", true),
            ("any", "fd00:1:2::3", true),
            ("any", "fd00:2::3", false),
            ("any", "10.0.0.7", true),
            ("any", "10.0.0.8", false),
            ("intranet.example", "10.0.0.8", true),
            ("INTRANET.example.", "10.0.0.8", true),
            ("not-intranet.example", "10.0.0.8", false),
            ("a.corp.example", "10.0.0.8", true),
            ("corp.example", "10.0.0.8", false),
        ];
        for (host, address, allowed) in checks {
            let address = address.parse().expect(address);
            assert_eq!(guard.check(host, address).is_ok(), allowed, "{host} at {address}");
        }
    }

    #[test]
    fn a_wrong_entry_of_the_allow_list_is_told_of() {
        for entry in ["10.0.0.0/33", "x/8", "http://a", "", ".", "10.0.0.0/x"] {
            assert!(Guard::new(&[entry.to_owned()]).is_err(), "{entry}");
        }
    }
}

//! Tells the service manager (systemd) how the worker is: the datagrams of `sd_notify(3)`.
//!
//! They are sent by the main loop itself, so that a watchdog that is fed means a loop that turns. Nothing waits for
//! the manager: its socket is non-blocking, and a datagram that it does not take is lost.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::Instant;

/// Where the service manager listens, and how often it wants to hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceManager {
    /// `$NOTIFY_SOCKET`: a path, or an abstract name after `@`.
    pub socket: OsString,
    /// The worker is taken for dead when it is silent for so long.
    pub watchdog: Option<Duration>,
}

/// The way to the service manager; does nothing where there is none.
#[derive(Debug, Default)]
pub(super) struct Service {
    to: Option<(UnixDatagram, SocketAddr)>,
    /// Half of what the watchdog allows.
    every: Option<Duration>,
    feed_at: Option<Instant>,
}

impl Service {
    /// The way to this manager.
    pub(super) fn new(manager: Option<&ServiceManager>) -> io::Result<Self> {
        let Some(manager) = manager else { return Ok(Self::default()) };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let every = manager.watchdog.map(|watchdog| (watchdog / 2).max(Duration::from_millis(1)));
        Ok(Self { to: Some((socket, address(&manager.socket)?)), every, feed_at: None })
    }

    /// The worker takes work.
    pub(super) fn ready(&mut self, queues: &[String], now: Instant) {
        self.feed_at = self.every.map(|every| now + every);
        self.say(&format!("READY=1\nSTATUS=consuming from {}", one_line(&queues.join(", "))));
    }

    /// The worker takes no more work.
    pub(super) fn stopping(&self, running: usize) {
        self.say(&format!("STOPPING=1\nSTATUS=stopping, tasks that run: {running}"));
    }

    /// When the watchdog is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.feed_at
    }

    /// Feeds the watchdog, when it is due.
    pub(super) fn on_time(&mut self, now: Instant) {
        if self.feed_at.is_some_and(|at| at <= now) {
            self.feed_at = self.every.map(|every| now + every);
            self.say("WATCHDOG=1");
        }
    }

    fn say(&self, text: &str) {
        if let Some((socket, address)) = &self.to {
            // A manager that does not listen has no use for it.
            let _ = socket.send_to_addr(text.as_bytes(), address);
        }
    }
}

fn address(name: &OsStr) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = name.as_bytes().strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt as _;
        return SocketAddr::from_abstract_name(name);
    }
    SocketAddr::from_pathname(name)
}

/// A line break would begin another assignment.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(by: &UnixDatagram) -> String {
        let mut bytes = [0; 512];
        let length = by.recv(&mut bytes).expect("a datagram");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn the_manager_hears_of_start_watchdog_and_stop() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("bound");
        let options =
            ServiceManager { socket: path.into_os_string(), watchdog: Some(Duration::from_secs(10)) };
        let mut service = Service::new(Some(&options)).expect("a way");
        let start = Instant::now();

        service.ready(&["mail".to_owned(), "x\nREADY=0".to_owned()], start);
        assert_eq!(heard(&manager), "READY=1\nSTATUS=consuming from mail, x READY=0");

        service.on_time(start + Duration::from_secs(4));
        service.on_time(start + Duration::from_secs(5));
        assert_eq!(heard(&manager), "WATCHDOG=1");
        assert_eq!(service.next(), Some(start + Duration::from_secs(10)));

        service.stopping(2);
        assert_eq!(heard(&manager), "STOPPING=1\nSTATUS=stopping, tasks that run: 2");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_abstract_socket_is_found() {
        use std::os::linux::net::SocketAddrExt as _;
        let name = format!("celeriac-test-{}", std::process::id());
        let bound = SocketAddr::from_abstract_name(&name).expect("a name");
        let manager = UnixDatagram::bind_addr(&bound).expect("bound");
        let options = ServiceManager { socket: format!("@{name}").into(), watchdog: None };

        Service::new(Some(&options)).expect("a way").ready(&[], Instant::now());

        assert!(heard(&manager).starts_with("READY=1"));
    }

    #[test]
    fn without_a_manager_nothing_is_said_and_nothing_is_due() {
        let mut service = Service::new(None).expect("nothing to go wrong");

        service.ready(&[], Instant::now());
        service.on_time(Instant::now() + Duration::from_secs(60));

        assert_eq!(service.next(), None);
    }
}

//! The health address: `/live`, `/ready` and `/metrics`, answered on the engine's thread.
//!
//! 1. An answer costs no interpreter and no broker: it says what the loop knows.
//! 2. Whoever asks is not trusted: a request is short, comes soon, and there are few at a time.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};

use super::WorkerError;
use super::consumer::ConsumerLoop;
use super::lifecycle::Phase as LifePhase;
use super::metrics::TaskMetrics;
use super::stats::Counters;

/// Requests answered at the same time.
const CONNECTIONS: usize = 32;
/// Bytes of a request at the most.
const MAX_HEAD: usize = 8 << 10;
/// How long a request may take, from its first byte to the last of its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The loop turns every second at least; one that has not for so long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(10);
/// What takes time to count is counted this often.
const COUNT_EVERY: Duration = Duration::from_millis(100);
const TEXT: &str = "text/plain; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// An address to listen on: `HOST:PORT`, or a port on the loopback interface.
///
/// # Errors
/// Says in words what is wrong with it.
pub fn health_address(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or(("127.0.0.1", text));
    let host = if host.is_empty() { "127.0.0.1" } else { host };
    let bare_v6 = host.contains(':') && !host.starts_with('[');
    match port.parse::<u16>() {
        Ok(_) if !bare_v6 => Ok(format!("{host}:{port}")),
        _ => Err(format!("{text:?} is not HOST:PORT or a port (an IPv6 address stands in brackets)")),
    }
}

/// What is told of the worker. Written by the loop, read by answers, all on one thread; the locks are for the types.
pub(super) struct Health {
    node: String,
    state: Mutex<State>,
    stats: Arc<Counters>,
    pub(super) tasks: Mutex<TaskMetrics>,
}

struct State {
    /// When the loop last turned, as of the last count; none before it begins.
    turned: Option<Instant>,
    /// Why no work is taken; none when it is.
    unready: Option<&'static str>,
    active: usize,
}

impl Health {
    pub(super) fn new(node: String, stats: Arc<Counters>) -> Self {
        let state = State { turned: None, unready: Some("the broker is not connected yet"), active: 0 };
        Self { node, state: Mutex::new(state), stats, tasks: Mutex::default() }
    }

    /// Status and body for a path; none when there is no such path.
    fn answer(&self, path: &str) -> Option<(&'static str, &'static str, String)> {
        let verdict = |why: Option<&str>| match why {
            None => ("200 OK", TEXT, "ok\n".to_owned()),
            Some(why) => ("503 Service Unavailable", TEXT, format!("{why}\n")),
        };
        match path {
            "/live" => {
                let stuck = self.state.lock().turned.is_some_and(|turned| turned.elapsed() > STUCK_AFTER);
                Some(verdict(stuck.then_some("the loop does not turn")))
            }
            "/ready" => Some(verdict(self.state.lock().unready)),
            "/metrics" => Some(("200 OK", PROMETHEUS, self.metrics())),
            _ => None,
        }
    }

    fn metrics(&self) -> String {
        let (active, ready) = {
            let state = self.state.lock();
            (state.active, state.unready.is_none())
        };
        super::metrics::render(&self.node, active, ready, &self.stats.snapshot(), &self.tasks.lock())
    }
}

impl ConsumerLoop {
    /// Listens on the health address, if there is one, for as long as the answer lives.
    pub(super) async fn open_health(&mut self) -> Result<Option<Door>, WorkerError> {
        let Some(address) = &self.options.health_address else { return Ok(None) };
        let health = Arc::new(Health::new(self.options.node.clone(), self.stats.clone()));
        let door = open(address, health.clone())
            .await
            .map_err(|error| WorkerError::Health { address: address.clone(), error: Arc::new(error) })?;
        self.monitor.health = Some(health);
        Ok(Some(door))
    }

    /// Says how it goes, as the loop turns.
    pub(super) fn report_health(&self, now: Instant) {
        let Some(health) = self.monitor.health.as_ref().filter(|_| !self.is_aside) else { return };
        let unready = match self.life {
            LifePhase::Running if self.sources.is_empty() => Some("the broker is not connected"),
            LifePhase::Running if !self.claim_link.is_up() => Some("the broker does not answer"),
            LifePhase::Running if !self.renew_link.is_up() => Some("the lease cannot be renewed"),
            LifePhase::Running => None,
            _ => Some("the worker is stopping"),
        };
        let mut state = health.state.lock();
        state.unready = unready;
        if state.turned.is_some_and(|turned| now - turned < COUNT_EVERY) {
            return;
        }
        state.turned = Some(now);
        state.active = self.requests.values().filter(|request| request.phase.has_slot()).count();
    }
}

/// Answers for as long as it lives.
pub(super) struct Door(JoinHandle<()>);

impl Drop for Door {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Listens on an address.
pub(super) async fn open(address: &str, health: Arc<Health>) -> std::io::Result<Door> {
    let listener = TcpListener::bind(address).await?;
    if let Ok(bound) = listener.local_addr() {
        tracing::info!("health is told on http://{bound}/");
    }
    Ok(Door(tokio::spawn(serve(listener, health))))
}

async fn serve(listener: TcpListener, health: Arc<Health>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    // Aborted with this task: answers do not outlive the worker.
    let mut answers = JoinSet::new();
    loop {
        while answers.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let health = health.clone();
                answers.spawn(async move {
                    let _place = place;
                    // Whoever asked and went away is told nothing.
                    let _ = timeout(PATIENCE, converse(stream, &health)).await;
                });
            }
            // Out of descriptors, mostly: others are freed in a while.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn converse(mut stream: TcpStream, health: &Health) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(512);
    let complete = loop {
        if head.windows(4).any(|end| end == b"\r\n\r\n") {
            break true;
        }
        if head.len() >= MAX_HEAD || stream.read_buf(&mut head).await? == 0 {
            break false;
        }
    };
    let (status, kind, body) = if complete { respond(&head, health) } else { refused("400 Bad Request") };
    let with_body = !head.starts_with(b"HEAD ");
    let length = body.len();
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    let mut out = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{allow}Cache-Control: no-store\r\n\
         Connection: close\r\n\r\n"
    );
    if with_body {
        out.push_str(&body);
    }
    stream.write_all(out.as_bytes()).await?;
    stream.shutdown().await
}

fn respond(head: &[u8], health: &Health) -> (&'static str, &'static str, String) {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let Ok(line) = std::str::from_utf8(line) else { return refused("400 Bad Request") };
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["GET" | "HEAD", target, version] if version.starts_with("HTTP/1.") => {
            let path = target.split('?').next().unwrap_or_default();
            health.answer(path).unwrap_or_else(|| refused("404 Not Found"))
        }
        [_, _, version] if version.starts_with("HTTP/1.") => refused("405 Method Not Allowed"),
        _ => refused("400 Bad Request"),
    }
}

fn refused(status: &'static str) -> (&'static str, &'static str, String) {
    (status, TEXT, format!("{status}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_port_is_on_the_loopback_interface() {
        assert_eq!(health_address("8080").as_deref(), Ok("127.0.0.1:8080"));
        assert_eq!(health_address(":8080").as_deref(), Ok("127.0.0.1:8080"));
        assert_eq!(health_address("0.0.0.0:80").as_deref(), Ok("0.0.0.0:80"));
        assert_eq!(health_address("localhost:0").as_deref(), Ok("localhost:0"));
        assert_eq!(health_address("[::1]:8080").as_deref(), Ok("[::1]:8080"));
        for wrong in ["", "host", "host:", "host:99999", "::1", "1:2:3", "-1"] {
            assert!(health_address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn requests_are_answered_by_what_they_ask() {
        let health = Health::new("celery@host".to_owned(), Arc::default());
        let status = |head: &str| respond(head.as_bytes(), &health).0;

        assert_eq!(status("GET /live HTTP/1.1\r\n\r\n"), "200 OK");
        assert_eq!(status("HEAD /live?x=1 HTTP/1.0\r\n\r\n"), "200 OK");
        assert_eq!(status("GET /ready HTTP/1.1\r\n\r\n"), "503 Service Unavailable");
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), "404 Not Found");
        assert_eq!(status("POST /live HTTP/1.1\r\n\r\n"), "405 Method Not Allowed");
        assert_eq!(status("GET /live\r\n\r\n"), "400 Bad Request");
        assert_eq!(status("GET /live SPDY/3\r\n\r\n"), "400 Bad Request");
        assert_eq!(respond(b"GET /\xff HTTP/1.1\r\n\r\n", &health).0, "400 Bad Request");
        assert_eq!(status("\r\n\r\n"), "400 Bad Request");
    }
}

//! The connection to a Redis server: made on first use, shared by any number of callers, made anew when it breaks.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, PushInfo, PushKind, RedisResult, ToRedisArgs};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::address::{Address, Place};
use super::dial::{Dial, Live, Pushed};
use super::direct::{self, Direct};
use super::errors::{Fault, LinkError};
use super::script::Script;
use super::wire::Blocking;

/// How often one call follows a cluster that says the keys are elsewhere.
const HOPS: u32 = 3;
/// What the server said unasked and nobody took yet. Whoever is slower loses the connection, and so knows that
/// something was missed.
const PUSHES: usize = 4096;

/// One connection, shared.
///
/// 1. Connects on first use, and again when the last connection ended; one caller connects, the others wait.
/// 2. Gives every call a deadline. One that is not kept ends the connection: it may be half open.
/// 3. Follows a failover (a server that became a replica is left) and a cluster's `MOVED`.
///
/// It repeats no command that may have been carried out: callers know what may be repeated.
pub(super) struct Link {
    shared: Arc<Shared>,
    connect_timeout: Duration,
    answer_timeout: Duration,
    /// Callers may be blocked: see [`Self::send`].
    inline: bool,
}

/// What a link and the connections made through it have in common.
struct Shared {
    address: Arc<Address>,
    /// For errors; without its password.
    url: Arc<str>,
    /// The connection in use. Written by whoever connected, and by whoever saw it fail.
    live: Mutex<Option<Arc<Live>>>,
    /// The node of a cluster that has our keys. Written by whoever was sent there, or could not get there.
    node: Mutex<Option<Place>>,
    /// Held by who connects.
    dialing: tokio::sync::Mutex<()>,
    /// Ended with every connection in `live` that failed: it is of the same server.
    direct: Arc<Direct>,
}

/// A connection of its own, which the server also says things on unasked.
pub(super) struct Pushes {
    pub(super) connection: PushConnection,
    /// Messages and invalidations. Ends when the connection is lost, or was too slow.
    pub(super) receiver: mpsc::Receiver<PushInfo>,
}

/// The asking side of [`Pushes`]; the connection closes with the last of them.
#[derive(Clone)]
pub(super) struct PushConnection {
    shared: Arc<Shared>,
    live: Arc<Live>,
    answer_timeout: Duration,
}

impl Link {
    pub(super) fn new(address: Arc<Address>, connect_timeout: Duration, answer_timeout: Duration) -> Self {
        let shared = Shared {
            url: address.to_string().into(),
            address,
            live: Mutex::default(),
            node: Mutex::default(),
            dialing: tokio::sync::Mutex::default(),
            direct: Arc::default(),
        };
        Self { shared: Arc::new(shared), connect_timeout, answer_timeout, inline: false }
    }

    /// The same, for callers that may be blocked.
    pub(super) fn inline(self) -> Self {
        Self { inline: true, ..self }
    }

    /// The URL without its password.
    pub(super) fn url(&self) -> &str {
        &self.shared.url
    }

    /// Runs a command.
    pub(super) async fn query<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, LinkError> {
        let mut hops = 0;
        loop {
            let live = self.live().await?;
            let mut connection = live.connection.clone();
            let asked = command.query_async(&mut connection);
            match self.shared.answer(&live, self.answer_timeout, asked).await {
                // It was not carried out there, so it may be repeated.
                Err(error) if matches!(error.fault, Fault::Moved { .. }) && hops < HOPS => hops += 1,
                answer => return answer,
            }
        }
    }

    /// Runs a command whose answer is one line, and only tells that it was done: on the thread that polls, where it may
    /// be blocked and the connection for that is free.
    pub(super) async fn send(&self, command: &redis::Cmd) -> Result<(), LinkError> {
        let blocks = self.inline && direct::may_block();
        if blocks && let Some(turn) = self.shared.direct.take() {
            let packed = command.get_packed_command();
            match turn.ask(&self.shared.url, &packed, self.answer_timeout).await {
                // Nothing was done, and who shares a connection knows what follows from that.
                Err(error) if error.ends_connection() && !error.is_doubtful() => {}
                answer => {
                    if answer.as_ref().is_err_and(|error| matches!(error.fault, Fault::Timeout(_))) {
                        self.shared.give_up();
                    }
                    return answer;
                }
            }
        }
        self.query::<redis::Value>(command).await?;
        if blocks && let Some(opening) = self.shared.direct.count() {
            let (shared, within) = (self.shared.clone(), self.connect_timeout);
            tokio::spawn(async move { opening.finish(shared.dial_blocking(within).await) });
        }
        Ok(())
    }

    /// Runs several commands in one round trip. One that fails fails the call, the others are carried out (all or
    /// none in a transaction).
    pub(super) async fn pipeline<T: FromRedisValue>(
        &self,
        pipeline: &redis::Pipeline,
    ) -> Result<T, LinkError> {
        let live = self.live().await?;
        let mut connection = live.connection.clone();
        let asked = pipeline.query_async(&mut connection);
        self.shared.answer(&live, self.answer_timeout, asked).await
    }

    /// Runs a script.
    pub(super) async fn script<K: AsRef<[u8]> + Sync, A: AsRef<[u8]> + Sync>(
        &self,
        script: &Script,
        keys: &[K],
        args: &[A],
    ) -> Result<redis::Value, LinkError> {
        let call = script.call(keys, args);
        match self.query(&call).await {
            Err(error) if error.fault == Fault::NoScript => {
                self.query::<String>(&script.load()).await?;
                self.query(&call).await
            }
            answer => answer,
        }
    }

    /// Opens a connection of its own for what the server says unasked. Needs Redis 6.
    pub(super) async fn pushes(&self) -> Result<Pushes, LinkError> {
        let (sender, receiver) = mpsc::channel(PUSHES);
        let live = Arc::new(self.shared.dial(Some(forward(sender)), self.connect_timeout).await?);
        let connection =
            PushConnection { shared: self.shared.clone(), live, answer_timeout: self.answer_timeout };
        Ok(Pushes { connection, receiver })
    }

    /// The connection, made if there is none.
    async fn live(&self) -> Result<Arc<Live>, LinkError> {
        if let Some(live) = self.shared.current() {
            return Ok(live);
        }
        let connecting = async {
            let _dialing = self.shared.dialing.lock().await;
            if let Some(live) = self.shared.current() {
                return Ok(live);
            }
            let live = Arc::new(self.shared.dial(None, self.connect_timeout).await?);
            *self.shared.live.lock() = Some(live.clone());
            Ok(live)
        };
        // The time spent waiting for another who connects counts too.
        let within = self.connect_timeout + Duration::from_millis(10);
        timeout(within, connecting).await.unwrap_or_else(|_| {
            Err(LinkError::new(
                &self.shared.url,
                Fault::Timeout(self.connect_timeout),
                "connecting and logging in",
            ))
        })
    }
}

impl Shared {
    fn current(&self) -> Option<Arc<Live>> {
        self.live.lock().clone().filter(|live| !live.is_over())
    }

    /// Lets go of all connections, since there was no answer on one of them.
    fn give_up(&self) {
        let live = self.live.lock().take();
        if let Some(live) = live {
            live.end();
        }
    }

    async fn dial_blocking(&self, within: Duration) -> Result<Box<dyn Blocking>, LinkError> {
        let node = self.node.lock().clone();
        let dial = Dial { address: &self.address, url: &self.url, node, pushed: None, loan: None };
        dial.open_blocking(within, direct::SLICE).await
    }

    async fn dial(&self, pushed: Option<Pushed>, within: Duration) -> Result<Live, LinkError> {
        let node = self.node.lock().clone();
        let through_node = node.is_some();
        let dial = Dial { address: &self.address, url: &self.url, node, pushed, loan: None };
        let opened = dial.open(within).await;
        if opened.is_err() && through_node {
            // The servers of the URL may know where the keys are now.
            *self.node.lock() = None;
        }
        opened
    }

    /// Waits for an answer until the deadline, and draws the conclusions of an error.
    async fn answer<T>(
        &self,
        live: &Arc<Live>,
        within: Duration,
        asked: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, LinkError> {
        let error = match timeout(within, asked).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => LinkError::read(&self.url, &error),
            Err(_) => {
                LinkError::new(&self.url, Fault::Timeout(within), "no answer; the connection was given up")
            }
        };
        if error.ends_connection() {
            live.end();
            self.direct.end();
            let mut current = self.live.lock();
            if current.as_ref().is_some_and(|other| Arc::ptr_eq(other, live)) {
                *current = None;
            }
        }
        if let Fault::Moved { host, port } = &error.fault {
            if !self.address.one_slot {
                return Err(LinkError::needs_tag(&self.url));
            }
            *self.node.lock() = Some(Place::Tcp(host.clone(), *port));
        }
        Err(error)
    }
}

impl PushConnection {
    /// Runs a command on this connection.
    pub(super) async fn query<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, LinkError> {
        let mut connection = self.live.connection.clone();
        let asked = command.query_async(&mut connection);
        self.shared.answer(&self.live, self.answer_timeout, asked).await
    }

    /// Returns when the server has confirmed all channels.
    pub(super) async fn subscribe(&self, channels: impl ToRedisArgs) -> Result<(), LinkError> {
        self.change(async |connection| connection.subscribe(channels).await).await
    }

    /// As [`Self::subscribe`], for patterns.
    pub(super) async fn psubscribe(&self, patterns: impl ToRedisArgs) -> Result<(), LinkError> {
        self.change(async |connection| connection.psubscribe(patterns).await).await
    }

    pub(super) async fn unsubscribe(&self, channels: impl ToRedisArgs) -> Result<(), LinkError> {
        self.change(async |connection| connection.unsubscribe(channels).await).await
    }

    async fn change(
        &self,
        how: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<()>,
    ) -> Result<(), LinkError> {
        let mut connection = self.live.connection.clone();
        self.shared.answer(&self.live, self.answer_timeout, how(&mut connection)).await
    }
}

/// Passes messages and invalidations on; stops for good when there is no room, or the connection ended.
fn forward(sender: mpsc::Sender<PushInfo>) -> Pushed {
    let sender = Mutex::new(Some(sender));
    Arc::new(move |info: PushInfo| -> Result<(), ()> {
        let mut sender = sender.lock();
        let ends = match &info.kind {
            PushKind::Disconnection => true,
            PushKind::Message | PushKind::PMessage | PushKind::Invalidate => {
                sender.as_ref().is_some_and(|sender| sender.try_send(info).is_err())
            }
            _ => false,
        };
        if ends {
            *sender = None;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::ConnectOptions;
    use crate::url::StoreUrl;

    #[tokio::test]
    async fn every_call_can_run_on_any_thread() {
        fn is_send(_: &impl Send) {}
        let url = StoreUrl::parse("redis://127.0.0.1:1").unwrap();
        let address = Address::parse(&url, &ConnectOptions::default()).unwrap();
        let link = Link::new(address, Duration::from_secs(1), Duration::from_secs(1));
        let script = Script::new("return 1");
        let ran = link.script(&script, &["k"], &[b"a"]);
        is_send(&ran);
        is_send(&link.pushes());
        let change = async |pushes: &Pushes| {
            is_send(&pushes.connection.subscribe("c"));
            is_send(&pushes.connection.psubscribe(&["c"][..]));
            is_send(&pushes.connection.unsubscribe(vec!["c"]));
        };
        is_send(&change);
        let error = ran.await.unwrap_err();
        assert_eq!(error.fault, Fault::Io);
        assert!(error.to_string().starts_with("127.0.0.1:1: "), "{error}");
    }

    #[tokio::test]
    async fn whoever_is_too_slow_for_what_is_pushed_is_told_by_the_end() {
        let (sender, mut receiver) = mpsc::channel(2);
        let pushed = forward(sender);
        let message = || PushInfo { kind: PushKind::Message, data: Vec::new() };
        let confirmation = PushInfo { kind: PushKind::Subscribe, data: Vec::new() };
        assert!(pushed.send(confirmation).is_ok());
        for _ in 0..4 {
            assert!(pushed.send(message()).is_ok());
        }
        assert!(receiver.recv().await.is_some_and(|info| info.kind == PushKind::Message));
        assert!(receiver.recv().await.is_some());
        assert!(receiver.recv().await.is_none(), "messages are missing: this is no stream any more");
    }
}

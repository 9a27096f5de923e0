//! Who waits for which results in this process: one subscribed connection serves all.
//!
//! 1. A new watch's keys are subscribed to, and then read: what is stored after that comes as a message.
//! 2. A message is the record; whoever watches its key gets it.
//! 3. Keys that nobody watches any more are unsubscribed from.
//! 4. When the connection is lost, a new one subscribes to everything and reads everything again.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use redis::{PushInfo, Value};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::errors::LinkError;
use super::link::{Link, PushConnection, Pushes};
use super::record::{self, ResultPlace};
use crate::backend::{BackendError, Watch};
use crate::backoff::Backoff;
use crate::protocol::{ResultRecord, state};

/// Keys in one command.
const CHUNK: usize = 1000;
/// A connection that says nothing is asked this often: it may be half open.
const PING: Duration = Duration::from_secs(25);
const BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(20), max: Duration::from_secs(1), jitter: 0.5 };

/// The watches of one backend. The connection closes with the last of this and its watches.
pub(super) struct Watches(Arc<Hub>);

/// Owns the task; [`State`] is what the task works on.
struct Hub {
    state: Arc<State>,
    link: Arc<Link>,
    /// Outages shorter than this are not told to those who wait.
    grace: Duration,
    /// Started by the first watch, and again if its runtime is gone.
    task: Mutex<Option<JoinHandle<()>>>,
}

struct State {
    place: ResultPlace,
    content_type: String,
    registry: Mutex<Registry>,
    /// Rung when the registry changed.
    changed: Notify,
    /// For telling records apart.
    hasher: RandomState,
}

/// Written by watches that come and go, read by the task.
#[derive(Default)]
struct Registry {
    by_key: HashMap<String, Watched>,
    /// Keys that have a new watch: to be subscribed to, and read.
    fresh: Vec<String>,
    /// Keys that lost their last watch: to be unsubscribed from, if they have none still.
    gone: Vec<String>,
    /// How many keys were ever watched.
    entered: u64,
}

/// A task that somebody waits for.
struct Watched {
    task_id: String,
    /// Its place among all that were ever watched.
    place: u64,
    inboxes: Vec<Arc<Inbox>>,
}

/// What came for one watch and was not taken yet: at most one record for each of its ids.
#[derive(Default)]
struct Inbox {
    /// Written by the task, emptied by the watch.
    news: Mutex<News>,
    changed: Notify,
}

#[derive(Default)]
struct News {
    /// With the place of each in the order of arrival.
    records: HashMap<String, (u64, ResultRecord)>,
    arrivals: u64,
    /// Of the last record that came for an id: a fingerprint, and whether it was the last word.
    last: HashMap<String, (u64, bool)>,
    fault: Option<BackendError>,
}

struct RedisWatch {
    hub: Arc<Hub>,
    keys: Vec<String>,
    inbox: Arc<Inbox>,
}

impl Watches {
    pub(super) fn new(link: Arc<Link>, place: ResultPlace, content_type: String, grace: Duration) -> Self {
        let state = State {
            place,
            content_type,
            registry: Mutex::default(),
            changed: Notify::new(),
            hasher: RandomState::new(),
        };
        Self(Arc::new(Hub { state: Arc::new(state), link, grace, task: Mutex::default() }))
    }

    /// Enters a watch. What is stored now, and everything that is stored from then on, comes to it.
    pub(super) fn enter(&self, task_ids: Vec<String>) -> impl Watch + 'static {
        let inbox = Arc::new(Inbox::default());
        let state = &self.0.state;
        let mut keys = Vec::with_capacity(task_ids.len());
        {
            let mut registry = state.registry.lock();
            let Registry { by_key, fresh, entered, .. } = &mut *registry;
            for task_id in task_ids {
                let key = state.place.key(&task_id);
                *entered += 1;
                let place = *entered;
                let watched = by_key.entry(key.clone()).or_insert_with(|| Watched {
                    task_id,
                    place,
                    inboxes: Vec::new(),
                });
                watched.inboxes.push(inbox.clone());
                fresh.push(key.clone());
                keys.push(key);
            }
        }
        self.0.run();
        state.changed.notify_one();
        RedisWatch { hub: self.0.clone(), keys, inbox }
    }
}

impl Hub {
    fn run(&self) {
        let mut task = self.task.lock();
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            let (state, link, grace) = (self.state.clone(), self.link.clone(), self.grace);
            *task = Some(tokio::spawn(async move { state.serve(&link, grace).await }));
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut() {
            task.abort();
        }
    }
}

impl State {
    /// Serves the watches for as long as the backend lasts.
    async fn serve(&self, link: &Link, grace: Duration) {
        // When the server was first found to be away, and how often since.
        let mut outage: Option<(Instant, u32)> = None;
        loop {
            while self.registry.lock().by_key.is_empty() {
                self.changed.notified().await;
            }
            if let Err(error) = self.connected(link, &mut outage).await {
                let error = BackendError::from(error);
                let (since, failures) = outage.get_or_insert_with(|| (Instant::now(), 0));
                if !error.is_transient() || since.elapsed() >= grace {
                    self.fail(&error);
                }
                *failures = failures.saturating_add(1);
            }
            let failures = outage.map_or(0, |(_, failures)| failures);
            tokio::time::sleep(BACKOFF.delay(failures, &mut fastrand::Rng::new())).await;
        }
    }

    /// Serves until the connection is lost, which is no error: the next one is made soon.
    async fn connected(&self, link: &Link, outage: &mut Option<(Instant, u32)>) -> Result<(), LinkError> {
        let Pushes { connection, mut receiver } = link.pushes().await?;
        let mut subscribed = HashSet::new();
        self.again();
        let mut ping = interval_at(Instant::now() + PING, PING);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.follow(&connection, &mut subscribed).await?;
        *outage = None;
        loop {
            tokio::select! {
                biased;
                () = self.changed.notified() => self.follow(&connection, &mut subscribed).await?,
                pushed = receiver.recv() => match pushed {
                    Some(pushed) => self.hear(pushed),
                    None => return Ok(()),
                },
                _ = ping.tick() => connection.query::<String>(&redis::cmd("PING")).await.map(drop)?,
            }
        }
    }

    /// On a new connection everything is new.
    fn again(&self) {
        let mut registry = self.registry.lock();
        let mut all: Vec<_> = registry.by_key.iter().map(|(key, watched)| (watched.place, key)).collect();
        all.sort_unstable();
        registry.fresh = all.into_iter().map(|(_, key)| key.clone()).collect();
        registry.gone.clear();
    }

    /// Does what the registry asks for: subscribes and reads, unsubscribes.
    async fn follow(
        &self,
        connection: &PushConnection,
        subscribed: &mut HashSet<String>,
    ) -> Result<(), LinkError> {
        let (fresh, gone) = self.registry.lock().take(subscribed);
        for keys in gone.chunks(CHUNK) {
            connection.unsubscribe(keys).await?;
            for key in keys {
                subscribed.remove(key);
            }
        }
        for keys in fresh.chunks(CHUNK) {
            let new: Vec<&String> = keys.iter().filter(|key| !subscribed.contains(*key)).collect();
            let mut read = redis::cmd("MGET");
            read.arg(keys);
            let subscribing =
                async { if new.is_empty() { Ok(()) } else { connection.subscribe(&new).await } };
            // On one connection they are carried out in this order.
            let (confirmed, stored) = tokio::join!(
                biased;
                subscribing,
                connection.query::<Vec<Option<Vec<u8>>>>(&read)
            );
            confirmed?;
            let stored = stored?;
            subscribed.extend(new.into_iter().cloned());
            self.present(keys, stored);
        }
        Ok(())
    }

    /// Gives what is stored now to those who watch it.
    fn present(&self, keys: &[String], stored: Vec<Option<Vec<u8>>>) {
        let registry = self.registry.lock();
        for (key, stored) in keys.iter().zip(stored) {
            if let (Some(watched), Some(stored)) = (registry.by_key.get(key), stored) {
                self.tell(watched, stored);
            }
        }
    }

    /// Gives a message to those who watch its key.
    fn hear(&self, pushed: PushInfo) {
        let mut data = pushed.data.into_iter();
        let (Some(Value::BulkString(channel)), Some(Value::BulkString(stored))) = (data.next(), data.next())
        else {
            return;
        };
        let registry = self.registry.lock();
        let watched = std::str::from_utf8(&channel).ok().and_then(|key| registry.by_key.get(key));
        if let Some(watched) = watched {
            self.tell(watched, stored);
        }
    }

    fn tell(&self, watched: &Watched, stored: Vec<u8>) {
        let fingerprint = self.hasher.hash_one(&stored);
        let record = record::found(&watched.task_id, stored, &self.content_type);
        for inbox in &watched.inboxes {
            inbox.put(&record, fingerprint);
        }
    }

    /// Tells everyone that the server cannot be asked.
    fn fail(&self, error: &BackendError) {
        for inbox in self.registry.lock().by_key.values().flat_map(|watched| &watched.inboxes) {
            inbox.news.lock().fault = Some(error.clone());
            inbox.changed.notify_one();
        }
    }
}

impl Registry {
    /// What is to be done: keys to read, and those to unsubscribe from.
    fn take(&mut self, subscribed: &HashSet<String>) -> (Vec<String>, Vec<String>) {
        let mut fresh = std::mem::take(&mut self.fresh);
        // In the order in which they were asked for: that is how what is there already arrives.
        let mut seen = HashSet::with_capacity(fresh.len());
        fresh.retain(|key| self.by_key.contains_key(key) && seen.insert(key.clone()));
        let mut gone = std::mem::take(&mut self.gone);
        gone.sort_unstable();
        gone.dedup();
        gone.retain(|key| subscribed.contains(key) && !self.by_key.contains_key(key));
        (fresh, gone)
    }
}

impl Inbox {
    fn put(&self, record: &ResultRecord, fingerprint: u64) {
        let mut news = self.news.lock();
        let is_last = record.state == state::SUCCESS;
        match news.last.entry(record.task_id.clone()) {
            Entry::Occupied(mut last) => {
                let (before, was_last) = *last.get();
                // What was read may be newer than messages that are still on their way: SUCCESS is never followed
                // by another state.
                if before == fingerprint || (was_last && !is_last) {
                    return;
                }
                last.insert((fingerprint, is_last));
            }
            Entry::Vacant(place) => {
                place.insert((fingerprint, is_last));
            }
        }
        news.arrivals += 1;
        let place = news.arrivals;
        news.records.insert(record.task_id.clone(), (place, record.clone()));
        drop(news);
        self.changed.notify_one();
    }

    fn take(&self) -> Result<Vec<ResultRecord>, BackendError> {
        let mut news = self.news.lock();
        if news.records.is_empty()
            && let Some(fault) = news.fault.take()
        {
            return Err(fault);
        }
        news.fault = None;
        let mut records: Vec<_> = news.records.drain().map(|(_, arrived)| arrived).collect();
        drop(news);
        records.sort_unstable_by_key(|(place, _)| *place);
        Ok(records.into_iter().map(|(_, record)| record).collect())
    }
}

#[async_trait]
impl Watch for RedisWatch {
    async fn next(&mut self) -> Result<Vec<ResultRecord>, BackendError> {
        loop {
            let records = self.inbox.take()?;
            if !records.is_empty() {
                return Ok(records);
            }
            self.inbox.changed.notified().await;
        }
    }
}

impl Drop for RedisWatch {
    fn drop(&mut self) {
        let state = &self.hub.state;
        let mut registry = state.registry.lock();
        let Registry { by_key, gone, .. } = &mut *registry;
        for key in self.keys.drain(..) {
            let Some(watched) = by_key.get_mut(&key) else { continue };
            watched.inboxes.retain(|other| !Arc::ptr_eq(other, &self.inbox));
            if watched.inboxes.is_empty() {
                by_key.remove(&key);
                gone.push(key);
            }
        }
        drop(registry);
        state.changed.notify_one();
    }
}

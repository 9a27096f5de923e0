//! What operators ask: the queues and their counts, and what is wrong with the server.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use redis::{cmd, pipe};

use super::broker::Shared;
use super::errors::LinkError;
use super::keys::LOST;
use super::link::Link;
use crate::broker::{BrokerError, QueueStatus};
use crate::clock::UnixMillis;
use crate::report::StoreReport;

/// Claims of kombu whose queues are looked up; what is over that is not counted.
const FOREIGN_CLAIMS: usize = 1000;

impl Shared {
    /// Queues that celeriac has declared here, and those of the app, if there is anything in them.
    pub(super) async fn statuses(&self) -> Result<Vec<QueueStatus>, BrokerError> {
        let mut first = pipe();
        first.cmd("SMEMBERS").arg(&self.layout.queues);
        first.cmd("ZRANGE").arg(self.layout.unacked_index()).arg(0).arg(-1);
        let (declared, tags): (BTreeSet<String>, Vec<String>) =
            self.link.pipeline(&first).await.map_err(|error| self.failed(error))?;
        let claimed = self.claimed(&tags).await?;
        let mut dead: HashMap<String, u64> = HashMap::new();
        for (_, queue) in self.dead_members().await? {
            *dead.entry(queue).or_default() += 1;
        }
        let mut names = declared;
        names.extend(self.topology.queues.keys().cloned());
        let mut counts = pipe();
        for name in &names {
            for list in self.layout.lists(name) {
                counts.cmd("LLEN").arg(list);
            }
            counts.cmd("LLEN").arg(self.layout.list(&format!("{LOST}{name}"), 0));
            let parked = self.layout.parked(name);
            // What is due counts as ready, though nobody has moved it yet.
            counts.cmd("ZCOUNT").arg(&parked).arg("-inf").arg(self.now().0);
            counts.cmd("ZCARD").arg(&parked);
        }
        let counts: Vec<u64> = self.link.pipeline(&counts).await.map_err(|error| self.failed(error))?;
        let each = self.layout.steps.len() + 3;
        Ok(names
            .into_iter()
            .zip(counts.chunks(each))
            .map(|(name, counts)| {
                let (lists, parked) = counts.split_at(each - 2);
                QueueStatus {
                    ready: lists.iter().sum::<u64>() + parked[0],
                    parked: parked[1] - parked[0].min(parked[1]),
                    claimed: claimed.get(&name).copied().unwrap_or(0),
                    dead: dead.get(&name).copied().unwrap_or(0),
                    name,
                }
            })
            .collect())
    }

    /// Claims by queue: our tags name it, those of kombu are looked up, up to a number.
    async fn claimed(&self, tags: &[String]) -> Result<HashMap<String, u64>, BrokerError> {
        let mut claimed: HashMap<String, u64> = HashMap::new();
        let mut foreign = Vec::new();
        for tag in tags {
            match queue_of(tag) {
                Some(queue) => {
                    let queue = queue.strip_prefix(LOST).unwrap_or(queue);
                    *claimed.entry(queue.to_owned()).or_default() += 1;
                }
                None => foreign.push(tag),
            }
        }
        foreign.truncate(FOREIGN_CLAIMS);
        for page in foreign.chunks(100) {
            let mut command = cmd("HMGET");
            command.arg(self.layout.unacked()).arg(page);
            let values: Vec<Option<Vec<u8>>> =
                self.link.query(&command).await.map_err(|error| self.failed(error))?;
            for value in values.into_iter().flatten() {
                if let Some(claim) = super::recover::ForeignClaim::read(&value) {
                    *claimed.entry(claim.routing_key).or_default() += 1;
                }
            }
        }
        Ok(claimed)
    }

    /// Settings of the server that lose messages, or that we cannot work with.
    pub(super) async fn advice(&self) -> Result<Vec<String>, BrokerError> {
        let mut advice = Vec::new();
        let version = version(&self.link).await.unwrap_or_default();
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
        let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if found != (0, 0) && found < (6, 2) {
            advice.push(format!("Redis {version} is too old: 6.2 or later is needed"));
        }
        let config = settings(&self.link).await;
        let policy = config.get("maxmemory-policy").map_or("noeviction", |policy| policy);
        if policy != "noeviction" {
            advice.push(format!(
                "Redis may throw messages away when its memory is full (maxmemory-policy {policy}): set it to noeviction"
            ));
        }
        let is = |name: &str, value: &str| config.get(name).is_some_and(|set| set == value);
        if is("appendonly", "no") && is("save", "") {
            advice.push(
                "Redis keeps nothing on disk: a restart of it loses all messages (appendonly no and no save points)"
                    .to_owned(),
            );
        }
        Ok(advice)
    }
}

impl Shared {
    /// The server, and the workers of ours that have a lease now.
    pub(super) async fn examine(&self) -> Result<StoreReport, BrokerError> {
        self.measure_clock().await?;
        let mut report = examine(&self.link, self.our_clock()).await.map_err(|error| self.failed(error))?;
        report.workers = Some(self.workers().await.map_err(|error| self.failed(error))?);
        Ok(report)
    }

    /// How many workers have a lease now: each may have several consumers.
    async fn workers(&self) -> Result<u64, LinkError> {
        let mut leases = cmd("ZRANGEBYSCORE");
        leases.arg(self.layout.consumers()).arg(self.now().0).arg("+inf");
        let tokens: Vec<String> = self.link.query(&leases).await?;
        if tokens.is_empty() {
            return Ok(0);
        }
        let mut processes = cmd("HMGET");
        processes.arg(self.layout.processes()).arg(&tokens);
        let processes: Vec<Option<String>> = self.link.query(&processes).await?;
        // Before the blank is what differs between the consumers of one worker.
        let holder = |text: &String| text.split_once(' ').map(|(_, holder)| holder.to_owned());
        let known: HashSet<_> = processes.iter().flatten().filter_map(holder).collect();
        Ok(known.len() as u64)
    }
}

/// What a server says of itself; `now` is our own clock.
pub(super) async fn examine(link: &Link, now: impl Fn() -> UnixMillis) -> Result<StoreReport, LinkError> {
    let asked = now().0;
    let (seconds, micros): (i64, i64) = link.query(&cmd("TIME")).await?;
    let ours = i64::midpoint(asked, now().0);
    Ok(StoreReport {
        version: version(link).await,
        clock_offset_ms: Some(seconds * 1000 + micros / 1000 - ours),
        settings: settings(link).await,
        ..StoreReport::default()
    })
}

/// None where the server does not tell.
async fn version(link: &Link) -> Option<String> {
    let mut info = cmd("INFO");
    info.arg("server");
    let info: String = link.query(&info).await.ok()?;
    info.lines().find_map(|line| line.strip_prefix("redis_version:")).map(|version| version.trim().to_owned())
}

/// The settings that say whether messages may get lost. Hosted servers forbid the question: then there are none.
async fn settings(link: &Link) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    for name in ["maxmemory-policy", "appendonly", "save"] {
        let mut command = cmd("CONFIG");
        command.arg("GET").arg(name);
        let read: HashMap<String, String> = link.query(&command).await.unwrap_or_default();
        settings.extend(read);
    }
    settings
}

/// The queue that a tag of ours names.
pub(super) fn queue_of(tag: &str) -> Option<&str> {
    let mut parts = tag.splitn(4, ':');
    let (_, number, step, queue) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    (number.parse::<u64>().is_ok() && step.parse::<u8>().is_ok()).then_some(queue)
}

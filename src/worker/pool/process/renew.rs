//! Other sizes, and other children: growing, shrinking, restarting, and reloading the app.
//!
//! A reload starts another fork server, which imports the app anew. Until its first child is set up it is only a
//! candidate: an app that cannot be imported any more changes nothing. Then it makes all new children, and the
//! children of earlier generations are replaced one after another. A fork server outlives its last child.

use std::ops::RangeInclusive;
use std::task::Context;
use std::time::Duration;

use tokio::time::Instant;

use super::child::Child;
use super::spawn::{ForkServer, SpawnEvent};
use super::{PoolEvent, ProcessPool, Spawner};

/// How long a fork server may take to import the app and to set up a child.
const CANDIDATE_WAIT: Duration = Duration::from_secs(120);
/// A child whose request has run this long does not hold up the replacement of the others.
const LONG_RUN: Duration = Duration::from_secs(1);
/// How often a restart under way is looked at.
const RENEW_EVERY: Duration = Duration::from_millis(200);

/// A fork server whose children go.
#[derive(Debug)]
pub(super) struct OldServer {
    pub(super) server: ForkServer,
    /// Of its children.
    generations: RangeInclusive<u32>,
}

/// A fork server that is to take over.
#[derive(Debug)]
pub(super) struct Candidate {
    server: ForkServer,
    /// Its first child, which becomes one of the pool's.
    child: Child,
    until: Instant,
}

impl ProcessPool {
    /// Changes how many requests run at the same time: processes, or the slots that all of them have together. What
    /// cannot be shared out evenly is rounded away from the present size, so that something changes.
    pub(super) fn set_size(&mut self, concurrency: usize) -> Result<(), String> {
        if self.is_fixed() {
            return Err("the solo pool runs one task at a time, and cannot change its size".to_owned());
        }
        if concurrency == 0 {
            return Err("a pool cannot have no slots at all; at least one stays".to_owned());
        }
        self.events.push(PoolEvent::SlotFree);
        if let Some(slots) = self.slots {
            let grows = concurrency > slots * self.processes;
            let rounded =
                if grows { concurrency.div_ceil(self.processes) } else { concurrency / self.processes };
            let each = rounded.max(1);
            self.slots = Some(each);
            self.children.iter_mut().for_each(|child| child.resize(each));
            return Ok(());
        }
        self.processes = concurrency;
        let staying = self.children.iter().filter(|child| !child.retiring).count();
        // Those that wait are the first to go, the youngest of them before the others.
        let mut going: Vec<_> = self.children.iter_mut().filter(|child| !child.retiring).collect();
        going.sort_by_key(|child| (!child.is_idle(), std::cmp::Reverse(child.number)));
        going.into_iter().take(staying.saturating_sub(concurrency)).for_each(Child::retire);
        Ok(())
    }

    /// Has all children replaced; with `reload` by children of a new fork server.
    pub(super) fn renew(&mut self, reload: bool) -> Result<(), String> {
        let Spawner::ForkServer(server) = &self.spawner else {
            return Err("the solo pool runs tasks in the worker's own process, which cannot be replaced; \
                        restart the worker, or use --pool prefork"
                .to_owned());
        };
        if self.stopping || self.broken {
            return Err("the worker is ending".to_owned());
        }
        if !reload {
            self.generation += 1;
            self.events.push(PoolEvent::SlotFree);
            return Ok(());
        }
        if self.candidate.is_some() {
            return Err("the app is being reloaded already".to_owned());
        }
        let mut server = server.another().ok_or("there is no command to start another fork server")?;
        let number = self.next_number;
        let stream = server.spawn(number).map_err(|error| format!("cannot start a fork server: {error}"))?;
        self.next_number += 1;
        let now = Instant::now();
        let child = Child::new(number, None, stream).with_slots(self.slots, now);
        self.candidate = Some(Candidate { server, child, until: now + CANDIDATE_WAIT });
        self.events.push(PoolEvent::SlotFree);
        Ok(())
    }

    /// Sees to the fork server that is to take over.
    pub(super) fn poll_candidate(&mut self, cx: &mut Context<'_>, now: Instant) {
        let Some(Candidate { server, child, until }) = &mut self.candidate else { return };
        let mut news = Vec::new();
        server.poll_events(cx, &mut news);
        let mut failed = None;
        for event in news {
            match event {
                SpawnEvent::Made { pid, .. } => child.pid = Some(pid),
                SpawnEvent::Gone => failed = Some("the new fork server has ended".to_owned()),
                SpawnEvent::Exited { status, .. } => {
                    failed = Some(format!("its first child has ended: {}", super::spawn::describe(status)));
                }
                SpawnEvent::Failed { errno, .. } => {
                    failed = Some(format!("fork: {}", std::io::Error::from_raw_os_error(errno)));
                }
            }
        }
        child.poll_write(cx);
        child.poll_read(cx, now, &mut self.events);
        if *until <= now {
            failed = Some(format!("its first child is not set up after {} s", CANDIDATE_WAIT.as_secs()));
        }
        if let Some(why) = failed {
            self.drop_candidate();
            self.events.push(PoolEvent::ReloadFailed(why));
        } else if child.ready && child.pid.is_some() {
            self.take_over();
        }
    }

    pub(super) fn drop_candidate(&mut self) {
        if let Some(mut candidate) = self.candidate.take() {
            candidate.child.kill();
            candidate.server.close();
        }
    }

    fn take_over(&mut self) {
        let Some(Candidate { server, mut child, .. }) = self.candidate.take() else { return };
        if let Spawner::ForkServer(current) = &mut self.spawner {
            let old = std::mem::replace(current, server);
            let generations = self.server_since..=self.generation;
            self.old_servers.push(OldServer { server: old, generations });
        }
        self.generation += 1;
        self.server_since = self.generation;
        child.generation = self.generation;
        self.tells_ready = true;
        self.children.push(child);
        self.events.push(PoolEvent::SlotFree);
    }

    /// Hears how children of old fork servers end, and lets go the servers that have none left.
    pub(super) fn poll_old_servers(&mut self, cx: &mut Context<'_>, news: &mut Vec<SpawnEvent>) {
        let mut old_servers = std::mem::take(&mut self.old_servers);
        for old in &mut old_servers {
            let mut said = Vec::new();
            old.server.poll_events(cx, &mut said);
            if said.contains(&SpawnEvent::Gone) {
                self.orphan_children(old.generations.clone());
            }
            news.extend(said.into_iter().filter(|event| *event != SpawnEvent::Gone));
        }
        let unused = |old: &mut OldServer| {
            let mut all = self.children.iter().chain(&self.leaving);
            !all.any(|child| old.generations.contains(&child.generation))
        };
        for mut old in old_servers.extract_if(.., unused) {
            old.server.close();
        }
        self.old_servers = old_servers;
    }

    /// Sends children of earlier generations away: one at a time, the next when the place of the last is taken.
    pub(super) fn replace_outdated(&mut self, now: Instant) {
        if self.stopping || self.generation == 0 {
            return;
        }
        let generation = self.generation;
        let tells_ready = self.tells_ready;
        let in_change = |child: &Child| {
            let long = child.runs_since().is_some_and(|since| now.duration_since(since) >= LONG_RUN);
            (child.retiring && !long) || child.pid.is_none() || (tells_ready && !child.ready)
        };
        if self.children.len() < self.processes || self.children.iter().any(in_change) {
            return;
        }
        let outdated = |child: &&mut Child| child.generation < generation && !child.retiring;
        let next =
            self.children.iter_mut().filter(outdated).min_by_key(|child| (!child.is_idle(), child.number));
        if let Some(child) = next {
            child.retire();
            let (number, pid) = (child.number, child.pid.unwrap_or(0));
            let why = "the pool is restarted".to_owned();
            self.events.push(PoolEvent::ChildReplaced { number, pid, why, died: false });
        }
    }

    /// When a restart under way has to be looked at.
    pub(super) fn renew_deadline(&self) -> Option<Instant> {
        let outdated = self.children.iter().any(|child| child.generation < self.generation);
        (outdated || self.candidate.is_some()).then(|| Instant::now() + RENEW_EVERY)
    }
}

//! What the store in memory holds, and every step it can take.
//!
//! A message is in exactly one place: ready in its queue, claimed, parked or dead.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::chord::Chords;
use super::keep::Keepers;
use super::keys::Entries;
use super::limits::Limits;
use super::schedule::Schedule;
use super::topics::Topics;
use crate::broker::{
    ClaimId, Commit, Committed, ConsumerOptions, Credit, DeadLetter, DeadReason, Delivery, QueueStatus,
    Settle, apart,
};
use crate::clock::UnixMillis;
use crate::driver::routing::{self, Apart, Turns, in_turns};
use crate::protocol::{Message, Publication, ResultRecord};

/// The state whose record no other may replace.
const SUCCESS: &str = "SUCCESS";
const STARTED: &str = "STARTED";
const ABORTED: &str = "ABORTED";

/// How long a message to a topic waits for subscriptions that are slow.
const HEARD: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct State {
    /// The last number given out: of messages, places in a queue, owners, fences and versions alike.
    last: u64,
    queues: BTreeMap<Arc<str>, Queue>,
    claimed: HashMap<u64, Claim>,
    /// By due time, then place.
    parked: BTreeMap<(i64, u64), Stored>,
    pub(super) dead: BTreeMap<u64, DeadLetter>,
    pub(super) paused: BTreeSet<String>,
    /// Ids of results by the list that they are counted in ([`crate::protocol::Retain`]), oldest first.
    pub(super) retained: HashMap<String, VecDeque<String>>,
    owners: HashMap<u64, Owner>,
    results: HashMap<String, Kept>,
    broadcasts: BTreeMap<u64, Broadcast>,
    schedules: HashMap<String, Schedule>,
    pub(super) chords: Chords,
    pub(super) keepers: Keepers,
    pub(super) topics: Topics,
    pub(super) keys: Entries,
    pub(super) limits: Limits,
}

#[derive(Default)]
struct Queue {
    /// By priority (highest first), then place.
    ready: BTreeMap<(u8, u64), Stored>,
}

/// A message and what is known of it.
#[derive(Clone)]
struct Stored {
    id: u64,
    /// Its place among those of its priority.
    place: u64,
    queue: Arc<str>,
    exchange: Arc<str>,
    routing_key: Arc<str>,
    priority: u8,
    redelivered: bool,
    crashes: u32,
    message: Message,
}

struct Claim {
    owner: u64,
    fence: u64,
    begun: bool,
    /// It must not run again, even if its owner says goodbye.
    once: bool,
    stored: Stored,
}

struct Owner {
    expires: UnixMillis,
    /// Its consumer was dropped without a goodbye, which is as if its process had died.
    gone: bool,
}

struct Kept {
    record: ResultRecord,
    expires: Option<UnixMillis>,
    version: u64,
}

struct Broadcast {
    exchange: String,
    message: Message,
    expires: UnixMillis,
}

/// What [`State::claim`] found.
pub(super) enum Claimed {
    Some(Vec<Delivery>),
    /// Nothing, and nothing will change by itself before that moment.
    NothingUntil(Option<UnixMillis>),
}

impl State {
    pub(super) fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub(super) fn schedule(&mut self, name: &str) -> &mut Schedule {
        self.schedules.entry(name.to_owned()).or_default()
    }

    pub(super) fn publish(&mut self, publication: Publication, now: UnixMillis) {
        match routing::apart(&publication) {
            None => self.put(publication, now),
            Some(Apart::Stream(most)) => self.topics.append(publication.message.body, most),
            Some(Apart::Topic) => {
                for copy in self.topics.copies(&publication) {
                    self.put(copy, now);
                }
                if self.topics.is_heard(&publication.exchange) {
                    self.broadcast(&publication.exchange, publication.message, now.after(HEARD));
                }
            }
        }
    }

    fn put(&mut self, publication: Publication, now: UnixMillis) {
        let due_ms = publication.due_ms;
        let stored = self.stored(publication);
        match due_ms {
            Some(due) if due > now.0 => self.park(stored, due),
            _ => self.make_ready(stored),
        }
    }

    fn queue_name(&mut self, name: &str) -> Arc<str> {
        if let Some((known, _)) = self.queues.get_key_value(name) {
            return known.clone();
        }
        let new: Arc<str> = name.into();
        self.queues.insert(new.clone(), Queue::default());
        new
    }

    pub(super) fn declare(&mut self, queues: &[String]) -> Vec<Arc<str>> {
        queues.iter().map(|name| self.queue_name(name)).collect()
    }

    fn make_ready(&mut self, stored: Stored) {
        let queue = self.queues.entry(stored.queue.clone()).or_default();
        queue.ready.insert((u8::MAX - stored.priority, stored.place), stored);
    }

    fn park(&mut self, stored: Stored, due: i64) {
        self.parked.insert((due, stored.place), stored);
    }

    /// Makes ready what is due.
    fn unpark(&mut self, now: UnixMillis) {
        while let Some(entry) = self.parked.first_entry() {
            if entry.key().0 > now.0 {
                break;
            }
            let stored = entry.remove();
            self.make_ready(stored);
        }
    }

    pub(super) fn register(&mut self, options: &ConsumerOptions, now: UnixMillis) -> u64 {
        let id = self.number();
        let owner = Owner { expires: now.after(options.lease), gone: false };
        self.owners.insert(id, owner);
        id
    }

    pub(super) fn knows(&self, owner: u64) -> bool {
        self.owners.contains_key(&owner)
    }

    pub(super) fn renew(&mut self, owner: u64, lease: Duration, now: UnixMillis) {
        if let Some(own) = self.owners.get_mut(&owner) {
            own.expires = now.after(lease);
        }
    }

    pub(super) fn abandon(&mut self, owner: u64) {
        if let Some(own) = self.owners.get_mut(&owner) {
            own.gone = true;
        }
    }

    /// Gives back the claims of all owners but `but` that are dead; returns how many.
    pub(super) fn recover(&mut self, but: Option<u64>, now: UnixMillis) -> usize {
        let dead: Vec<u64> = self
            .owners
            .iter()
            .filter(|(id, owner)| Some(**id) != but && (owner.gone || owner.expires <= now))
            .map(|(id, _)| *id)
            .collect();
        let mut count = 0;
        for owner in dead {
            self.owners.remove(&owner);
            for mut claim in self.take_claims(owner) {
                count += 1;
                claim.stored.redelivered = true;
                claim.stored.crashes += u32::from(claim.begun);
                self.make_ready(claim.stored);
            }
        }
        count
    }

    /// Ends an owner; its claims go back uncounted.
    pub(super) fn close(&mut self, owner: u64) {
        self.owners.remove(&owner);
        for mut claim in self.take_claims(owner) {
            claim.stored.redelivered = true;
            claim.stored.crashes += u32::from(claim.once);
            self.make_ready(claim.stored);
        }
    }

    fn take_claims(&mut self, owner: u64) -> Vec<Claim> {
        self.claimed.extract_if(|_, claim| claim.owner == owner).map(|(_, claim)| claim).collect()
    }

    fn count_crash(&mut self, mut stored: Stored, max_crashes: u32, now: UnixMillis) -> Committed {
        stored.crashes += 1;
        stored.redelivered = true;
        if stored.crashes >= max_crashes {
            let detail = format!("the process that ran it died {} times", stored.crashes);
            self.bury(stored, DeadReason::Crashed, &detail, now);
            Committed::Dead
        } else {
            self.make_ready(stored);
            Committed::Done
        }
    }

    /// A message that comes into the store.
    fn stored(&mut self, publication: Publication) -> Stored {
        let id = self.number();
        Stored {
            id,
            place: id,
            queue: self.queue_name(routing::queue(&publication)),
            priority: routing::priority(&publication),
            exchange: publication.exchange.into(),
            routing_key: publication.routing_key.into(),
            redelivered: false,
            crashes: 0,
            message: publication.message,
        }
    }

    pub(super) fn bury_new(
        &mut self,
        publication: Publication,
        reason: DeadReason,
        detail: &str,
        now: UnixMillis,
    ) {
        let stored = self.stored(publication);
        self.bury(stored, reason, detail, now);
    }

    fn bury(&mut self, stored: Stored, reason: DeadReason, account: &str, now: UnixMillis) {
        let (id, (detail, traceback)) = (self.number(), apart(account));
        let letter = DeadLetter {
            id,
            queue: stored.queue.to_string(),
            reason: reason.as_str().to_owned(),
            detail,
            traceback,
            crashes: stored.crashes,
            died: now,
            message: stored.message,
        };
        self.dead.insert(id, letter);
    }

    pub(super) fn claim(
        &mut self,
        owner: u64,
        queues: &[Arc<str>],
        start: usize,
        credit: Credit,
        now: UnixMillis,
    ) -> Claimed {
        self.unpark(now);
        self.recover(Some(owner), now);
        let fence = self.number();
        let mut turns = Turns::new(queues.len(), start);
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some((index, share)) = turns.next(credit.count - taken.len()) {
            let Some(queue) = self.queues.get_mut(&queues[index]) else { continue };
            for _ in 0..share {
                let Some(entry) = queue.ready.first_entry() else { break };
                bytes += entry.get().message.size();
                if bytes > credit.bytes && !taken.is_empty() {
                    return Claimed::Some(taken);
                }
                let stored = entry.remove();
                taken.push(delivery(&stored, fence));
                self.claimed.insert(stored.id, Claim { owner, fence, begun: false, once: false, stored });
            }
        }
        if taken.is_empty() {
            Claimed::NothingUntil(self.next_moment(owner))
        } else {
            Claimed::Some(in_turns(taken))
        }
    }

    /// When the next parked message is due or the next lease runs out.
    fn next_moment(&self, but: u64) -> Option<UnixMillis> {
        let due = self.parked.first_key_value().map(|((due, _), _)| UnixMillis(*due));
        let holders: BTreeSet<u64> = self.claimed.values().map(|claim| claim.owner).collect();
        let lease = self.owners.iter().filter(|(id, _)| **id != but && holders.contains(id));
        lease.map(|(_, owner)| owner.expires).chain(due).min()
    }

    pub(super) fn commit(
        &mut self,
        owner: u64,
        max_crashes: u32,
        commit: &Commit,
        now: UnixMillis,
    ) -> Committed {
        if let Some(id) = commit.claim
            && !self.holds(owner, id)
        {
            return Committed::Stale;
        }
        for record in &commit.results {
            self.store(record.clone(), now);
        }
        for publication in &commit.publications {
            self.publish(publication.clone(), now);
        }
        for held in &commit.free_keys {
            self.keys.free(held, now);
        }
        match commit.claim {
            Some(id) => self.settle(id, commit, max_crashes, now),
            None => Committed::Done,
        }
    }

    fn holds(&self, owner: u64, id: ClaimId) -> bool {
        self.claimed.get(&id.id).is_some_and(|claim| claim.owner == owner && claim.fence == id.fence)
    }

    fn settle(&mut self, id: ClaimId, commit: &Commit, max_crashes: u32, now: UnixMillis) -> Committed {
        if matches!(commit.settle, Settle::Keep | Settle::Once) {
            if let Some(claim) = self.claimed.get_mut(&id.id) {
                claim.once |= commit.settle == Settle::Once;
                claim.begun |= commit.begun || claim.once;
            }
            return Committed::Done;
        }
        let Some(Claim { mut stored, .. }) = self.claimed.remove(&id.id) else { return Committed::Stale };
        match &commit.settle {
            Settle::Keep | Settle::Once | Settle::Ack => {}
            Settle::Requeue => {
                stored.place = self.number();
                stored.redelivered = true;
                self.make_ready(stored);
            }
            Settle::Release => {
                stored.redelivered = true;
                self.make_ready(stored);
            }
            Settle::Crashed => return self.count_crash(stored, max_crashes, now),
            Settle::Park(due) if *due > now => self.park(stored, due.0),
            Settle::Park(_) => self.make_ready(stored),
            Settle::Dead(reason, detail) => self.bury(stored, *reason, detail, now),
        }
        Committed::Done
    }

    pub(super) fn purge(&mut self, queue: &str) -> u64 {
        let ready = self.queues.get_mut(queue).map_or(0, |queue| std::mem::take(&mut queue.ready).len());
        let before = self.parked.len();
        self.parked.retain(|_, stored| &*stored.queue != queue);
        (ready + before - self.parked.len()) as u64
    }

    /// Makes what is parked for a queue due now.
    pub(super) fn recall(&mut self, queue: &str, now: UnixMillis) -> u64 {
        let later = self.parked.range((now.0 + 1, 0)..).filter(|(_, stored)| &*stored.queue == queue);
        let keys: Vec<_> = later.map(|(key, _)| *key).collect();
        for key in &keys {
            if let Some(stored) = self.parked.remove(key) {
                self.park(stored, now.0);
            }
        }
        keys.len() as u64
    }

    pub(super) fn statuses(&mut self, now: UnixMillis) -> Vec<QueueStatus> {
        self.unpark(now);
        let status = |name: &Arc<str>, queue: &Queue| QueueStatus {
            name: name.to_string(),
            ready: queue.ready.len() as u64,
            claimed: self.claimed.values().filter(|claim| claim.stored.queue == *name).count() as u64,
            parked: self.parked.values().filter(|stored| stored.queue == *name).count() as u64,
            dead: self.dead.values().filter(|letter| *letter.queue == **name).count() as u64,
        };
        self.queues.iter().map(|(name, queue)| status(name, queue)).collect()
    }

    /// Whether a text may occur in any message that may still be run.
    pub(super) fn mentions(&self, text: &str) -> bool {
        let ready = self.queues.values().flat_map(|queue| queue.ready.values());
        let claimed = self.claimed.values().map(|claim| &claim.stored);
        ready.chain(claimed).chain(self.parked.values()).any(|stored| stored.message.may_mention(text))
    }

    pub(super) fn broadcast(&mut self, exchange: &str, message: Message, expires: UnixMillis) {
        let id = self.number();
        self.broadcasts.insert(id, Broadcast { exchange: exchange.to_owned(), message, expires });
    }

    /// The number after which a new listener listens.
    pub(super) fn now_heard(&self) -> u64 {
        self.last
    }

    /// The first broadcast after number `heard`.
    pub(super) fn hear(&self, exchange: &str, heard: u64, now: UnixMillis) -> Option<(u64, Message)> {
        let mut later = self.broadcasts.range(heard + 1..);
        let found = later.find(|(_, broadcast)| broadcast.exchange == exchange && broadcast.expires > now);
        found.map(|(id, broadcast)| (*id, broadcast.message.clone()))
    }

    pub(super) fn store(&mut self, record: ResultRecord, now: UnixMillis) {
        let version = self.number();
        let stays = |old: &str| old == SUCCESS || old == ABORTED && record.state == STARTED;
        if self.read(&record.task_id, now).is_some_and(|(_, old)| stays(&old.state)) {
            return;
        }
        let expires = record.expires_ms.map(|ms| now.after(Duration::from_millis(ms)));
        if let Some(retain) = record.retain.clone() {
            self.retain(&record.task_id, &retain);
        }
        self.results.insert(record.task_id.clone(), Kept { record, expires, version });
    }

    /// A result that is stored and has not expired, with its version.
    pub(super) fn read(&self, task_id: &str, now: UnixMillis) -> Option<(u64, &ResultRecord)> {
        let kept = self.results.get(task_id)?;
        kept.expires.is_none_or(|expires| expires > now).then_some((kept.version, &kept.record))
    }

    pub(super) fn forget(&mut self, task_id: &str) {
        self.results.remove(task_id);
    }

    pub(super) fn sweep(&mut self, now: UnixMillis) {
        self.results.retain(|_, kept| kept.expires.is_none_or(|expires| expires > now));
        self.chords.sweep(now);
        self.keys.sweep(now);
        self.limits.sweep(now);
        self.broadcasts.retain(|_, broadcast| broadcast.expires > now);
        self.recover(None, now);
    }
}

fn delivery(stored: &Stored, fence: u64) -> Delivery {
    Delivery {
        claim: ClaimId { id: stored.id, fence },
        queue: stored.queue.clone(),
        exchange: stored.exchange.clone(),
        routing_key: stored.routing_key.clone(),
        redelivered: stored.redelivered,
        crashes: stored.crashes,
        message: stored.message.clone(),
    }
}

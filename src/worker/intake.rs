//! What to do with each delivery.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::commit::{Entry, What, nothing};
use super::consumer::ConsumerLoop;
use super::member;
use super::notice::Level;
use super::pool::{Mode, RequestTag};
use super::rate_limit::Turn;
use super::request::{Phase, Request};
use super::strategy::{self, Decision};
use super::told::unread;
use super::unique::RequestKey;
use crate::broker::{BrokerError, ClaimId, Commit, DeadReason, Delivery, Settle};
use crate::clock::UnixMillis;
use crate::protocol::{Message, TaskHeaders};

/// Children get something to do after so many deliveries of a claim: they are quicker than a large one is taken in.
const FED: usize = 64;

/// Keyed once, so that ids cannot be chosen to collide.
static ID_HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl ConsumerLoop {
    /// A claim was answered.
    pub(super) fn claimed(&mut self, source: u32, claimed: Result<Vec<Delivery>, BrokerError>) {
        match claimed {
            Ok(deliveries) => {
                self.claim_link.worked();
                self.strikes = 0;
                self.stats.claimed.add(deliveries.len() as u64);
                let (now, instant) = (self.clock.now(), Instant::now());
                for (place, delivery) in deliveries.into_iter().enumerate() {
                    self.take(source, delivery, now, instant);
                    if place % FED == FED - 1 {
                        self.dispatch();
                    }
                }
            }
            Err(BrokerError::Closed) => self.source_closed(source),
            Err(error) => {
                // Perhaps claims were lost with the connection: that is to be known before they come again.
                self.renew_at = self.renew_at.min(Instant::now());
                self.claim_after = Some(Instant::now() + self.claim_link.failed(&error));
            }
        }
    }

    fn take(&mut self, source: u32, mut delivery: Delivery, now: UnixMillis, instant: Instant) {
        if self.pauses.holds(&delivery.queue) {
            return self.give_back(source, delivery.claim);
        }
        if let Some((reason, detail)) = strategy::refuse(&delivery.message, &self.options) {
            return self.refuse(source, &delivery, reason, detail);
        }
        let message = match std::mem::take(&mut delivery.message).upgrade() {
            Ok(message) => Arc::new(message),
            Err((message, error)) => {
                delivery.message = message;
                return self.refuse(source, &delivery, DeadReason::Malformed, error.to_string());
            }
        };
        let headers = match message.task_headers() {
            Ok(headers) => headers,
            Err(error) => {
                let detail = error.to_string();
                delivery.message = Message::clone(&message);
                return self.refuse(source, &delivery, DeadReason::Malformed, detail);
            }
        };
        if delivery.redelivered
            && let Some(tag) = self.runs_already(&headers.id, delivery.claim, &message)
            && self.adopt(tag, source, delivery.claim, instant)
        {
            return;
        }
        let task = self.tasks.number(&headers.task);
        let revoked =
            self.revoked.contains(&headers.id, now) || self.revoked.stamps.any(&delivery.message.headers);
        let mut request = self.request(source, &delivery, &headers, task, &message);
        if delivery.crashes > 0 {
            self.stream_stalled(&request, "the process or the worker that ran it is gone");
        }
        let ended = task
            .and_then(|_| member::after_crashes(delivery.crashes, self.options.max_crashes, request.member));
        let decision = match ended {
            Some((mode, settle)) => {
                self.stats.crashed.add(u64::from(settle.is_some()));
                request.last = settle;
                Decision::Conclude(mode)
            }
            None => strategy::decide(&headers, task.is_some(), revoked, now),
        };
        if self.limits.is_some() && matches!(decision, Decision::Run | Decision::Hold(_)) {
            request.limit = self.limited(task, &delivery.queue, headers.own.as_deref());
        }
        self.accept(request, decision, now, instant);
    }

    /// The request of a message that comes again: one whose claim is known to be lost, or that was at the same place
    /// in the store, where its claim has ended with this one, or whose early acknowledgement did not get through.
    /// Looked through only for what was delivered before.
    fn runs_already(&self, id: &str, claim: ClaimId, message: &Message) -> Option<RequestTag> {
        let same = |request: &Request| match request.claim {
            Some(old) => old.id == claim.id && old.fence < claim.fence,
            None => request.message.body == message.body,
        };
        let found = || self.requests.iter().find(|(_, request)| request.id == id && same(request));
        self.orphans.get(id).copied().or_else(|| found().map(|(tag, _)| *tag))
    }

    /// A message that comes again while it still runs here, its claim lost: the run goes on with the new claim.
    /// False when it does not run any more.
    fn adopt(&mut self, tag: RequestTag, source: u32, claim: ClaimId, now: Instant) -> bool {
        let has_it = |request: &&mut Request| matches!(request.phase, Phase::Submitted | Phase::Running(_));
        let Some(request) = self.requests.get_mut(&tag).filter(has_it) else { return false };
        (request.consumer, request.claim) = (source, Some(claim));
        (request.stale, request.suspect) = (false, false);
        let request = &self.requests[&tag];
        self.orphans.remove(&request.id);
        self.log.task(Level::Warning, "celery.worker.request", request, || {
            format!(
                "Task {}[{}] was delivered again while it runs here: its run goes on",
                request.name, request.id
            )
        });
        if matches!(request.phase, Phase::Running(_)) && !self.tasks.options(request.task).acks_late {
            self.young.push_back((now, tag));
        }
        true
    }

    fn request(
        &self,
        source: u32,
        delivery: &Delivery,
        headers: &TaskHeaders<'_>,
        task: Option<u32>,
        message: &Arc<Message>,
    ) -> Request {
        let name =
            task.map_or_else(|| Arc::from(&*headers.task), |number| self.tasks.task(number).name.clone());
        let options = self.tasks.options(task);
        let once = headers.own.as_ref().is_some_and(|own| own.once);
        let key = match &headers.own {
            None => None,
            own => RequestKey::of(own.clone(), self.stores.broker.keys().is_none()),
        };
        let waited_for =
            || once || member::is_member(headers, message) || key.as_ref().is_some_and(|key| key.lasts());
        let limit = |header: Option<f64>, own: Option<Duration>, usual: Option<Duration>| {
            header.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).or(own).or(usual)
        };
        let of_queue = self.policies.of_queue(&delivery.queue);
        let (soft, hard) = of_queue.map_or((None, None), |queue| (queue.soft_time_limit, queue.time_limit));
        let buries = self.policies.any && self.policies.buries(options, &delivery.queue);
        Request {
            consumer: source,
            claim: Some(delivery.claim),
            stale: false,
            suspect: false,
            task,
            name,
            id: headers.id.clone().into_owned(),
            message: message.clone(),
            queue: delivery.queue.clone(),
            has_defaults: of_queue.is_some(),
            buries,
            exchange: delivery.exchange.clone(),
            routing_key: delivery.routing_key.clone(),
            redelivered: delivery.redelivered,
            expires_ms: headers.expires_ms,
            soft_limit: limit(
                headers.soft_limit,
                options.soft_time_limit.or(soft),
                self.options.soft_time_limit,
            ),
            hard_limit: limit(headers.hard_limit, options.time_limit.or(hard), self.options.time_limit),
            mode: Mode::Run,
            phase: Phase::Ready,
            terminate: None,
            pid: None,
            crashes: delivery.crashes,
            // One that is to be kept if it fails must not vanish with its worker either.
            member: task.is_some() && !options.acks_late && (buries || waited_for()),
            once: false,
            first: once && !options.acks_late,
            kept: None,
            last: None,
            blind: false,
            limit: None,
            joining: None,
            large: own_payload(headers),
            batch: None,
            key,
        }
    }

    fn accept(&mut self, mut request: Request, decision: Decision, now: UnixMillis, instant: Instant) {
        let tag = self.next_tag;
        self.next_tag += 1;
        match decision {
            Decision::Run => {
                request.phase = Phase::Turn;
                let turn = self.admit(&request, instant);
                if let Turn::Park(at) = turn {
                    return self.park_for_turn(&request, at, now, instant);
                }
                if request.limit.is_some() && turn == Turn::Now && self.is_surplus(&request) {
                    return self.stand_in_line(request);
                }
                self.enter(tag, request);
                if let Turn::Wait(at) = turn {
                    self.held.push(self.rate_moment(at), tag);
                } else {
                    self.make_ready(tag);
                }
            }
            Decision::Conclude(mode) => {
                request.mode = mode;
                request.phase = Phase::Turn;
                self.enter(tag, request);
                self.make_ready(tag);
            }
            Decision::Hold(until) if self.held.has_room() => {
                request.phase = Phase::Eta;
                self.enter(tag, request);
                self.held.push(instant + now.until(until), tag);
            }
            Decision::Hold(until) | Decision::Park(until) => self.park(&request, until),
        }
    }

    /// Puts a request into the table, held for now.
    pub(super) fn enter(&mut self, tag: RequestTag, request: Request) {
        self.log.received(&request);
        self.event_received(&request);
        self.tell_accepted(tag, &request);
        if let Some(total) = self.stats.totals.get(&request.name) {
            total.add(1);
        }
        self.prefetch.bytes += request.message.size();
        self.requests.insert(tag, request);
    }

    /// Lets a held request wait for a slot, and before that for its turn if it is under limits of all workers.
    pub(super) fn make_ready(&mut self, tag: RequestTag) {
        let Some(request) = self.requests.get_mut(&tag) else { return };
        if request.limit.is_some() && request.mode == Mode::Run && self.wait_for_turn(tag) {
            return;
        }
        let Some(request) = self.requests.get_mut(&tag) else { return };
        request.phase = Phase::Ready;
        self.prefetch.count += 1;
        if request.key.is_some() && self.asks_key(tag) {
            return;
        }
        self.line_up(tag);
    }

    /// Lets one wait for a slot, or for others of its batch.
    pub(super) fn line_up(&mut self, tag: RequestTag) {
        let Some(request) = self.requests.get(&tag) else { return };
        if self.tasks.options(request.task).batch.is_none() || !self.gather(tag) {
            self.ready.push_back(tag);
        }
    }

    fn admit(&mut self, request: &Request, now: Instant) -> Turn {
        match (self.tasks.options(request.task).rate_limit, request.task) {
            (Some(limit), Some(task)) if !self.options.disable_rate_limits => {
                self.rates.admit(task, hash(request), limit, self.rate_time(now), self.held.has_room())
            }
            _ => Turn::Now,
        }
    }

    pub(super) fn park(&mut self, request: &Request, until: UnixMillis) {
        self.stats.parked.add(1);
        let settle = Settle::Park(until);
        let free_keys = request.keys_after(&settle);
        let commit = Commit { claim: request.claim, settle, free_keys, ..nothing() };
        self.commit_end(request, commit);
    }

    fn park_for_turn(&mut self, request: &Request, at: u64, now: UnixMillis, instant: Instant) {
        let wait = self.rate_moment(at).duration_since(instant);
        // Rounded up: one that comes back a moment too early would be parked again.
        self.park(request, now.after(wait + Duration::from_millis(1)));
    }

    fn refuse(&mut self, source: u32, delivery: &Delivery, reason: DeadReason, detail: String) {
        self.stats.refused.add(1);
        self.tell_refused(delivery, &detail);
        self.log.line(Level::Error, "celery.worker.consumer.consumer", || {
            let queue = &delivery.queue;
            format!(
                "refused a message from queue {queue:?} ({}): {detail}; it is kept as a dead letter",
                reason.as_str()
            )
        });
        let mode = Mode::Refused(detail.clone());
        let settle = Settle::Dead(reason, detail);
        let Some((id, name)) = member::named(&delivery.message) else {
            self.tell_dead(&settle, || unread(delivery));
            let publications = self.stream_refused(delivery, &settle);
            let commit = Commit { claim: Some(delivery.claim), settle, publications, ..nothing() };
            self.commits.push(Entry {
                consumer: source,
                commit,
                what: What::End,
                suspect: false,
                chord: None,
            });
            return;
        };
        // Whoever waits for it learns of it. Nothing but its headers goes to a child.
        let message = Arc::new(Message { body: Bytes::new(), ..delivery.message.clone() });
        let headers = TaskHeaders { id: id.into(), task: name.into(), ..TaskHeaders::default() };
        let task = self.tasks.number(&headers.task);
        let mut request = self.request(source, delivery, &headers, task, &message);
        request.key = self.stores.key_of(&message);
        (request.mode, request.last, request.phase) = (mode, Some(settle), Phase::Turn);
        let tag = self.next_tag;
        self.next_tag += 1;
        self.prefetch.bytes += message.size();
        self.requests.insert(tag, request);
        self.make_ready(tag);
    }

    /// Requests whose time has come.
    pub(super) fn release_held(&mut self, now: Instant) {
        while let Some(tag) = self.held.pop_due(now) {
            // The ETA has come; now the rate limit is asked.
            let asks = self.requests.get(&tag).is_some_and(|request| request.phase == Phase::Eta);
            self.give_turn(tag, asks, now);
        }
    }

    /// Requests of a task that have been given a turn ask for another one: its rate limit was changed.
    pub(super) fn readmit(&mut self, task: u32) {
        let now = Instant::now();
        let requests = &self.requests;
        let meant = |tag| {
            let found: Option<&Request> = requests.get(&tag);
            found.is_some_and(|request| request.task == Some(task) && request.phase == Phase::Turn)
        };
        for tag in self.held.take(meant) {
            self.give_turn(tag, true, now);
        }
    }

    /// Lets a held request go on as its turn says, which it may have to ask for.
    fn give_turn(&mut self, tag: RequestTag, asks: bool, now: Instant) {
        let Some(mut request) = self.requests.remove(&tag) else { return };
        let turn = if asks { self.admit(&request, now) } else { Turn::Now };
        request.phase = Phase::Turn;
        self.requests.insert(tag, request);
        match turn {
            Turn::Now => self.make_ready(tag),
            Turn::Wait(at) => self.held.push(self.rate_moment(at), tag),
            Turn::Park(at) => {
                if let Some(request) = self.remove(tag) {
                    self.park_for_turn(&request, at, self.clock.now(), now);
                }
            }
        }
    }
}

/// Where the body of a message is kept, if that is elsewhere.
fn own_payload(headers: &TaskHeaders<'_>) -> Option<Box<str>> {
    let large = headers.own.as_ref()?.large.as_ref()?;
    Some(large.reference.as_str().into())
}

fn hash(request: &Request) -> u64 {
    ID_HASHER.hash_one(request.id.as_str())
}

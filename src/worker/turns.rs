//! Asking for turns of limits of all workers, and telling what became of them.
//!
//! 1. One call is under way at a time; what there is to tell and to ask meanwhile goes with the next one. Repeating a call
//!    whose answer was lost changes nothing.
//! 2. Nothing is asked for that could not begin at once: there is a free slot for each turn. While others wait for slots
//!    too, every second one that becomes free is offered.
//! 3. A turn that was given is told of when its request is seen to run, when it ends, and when it is not needed after all.
//! 4. Who stands in line is parked in the broker, as far as about its turn. When a limit is free, nobody waits here and the line
//!    is not empty, the estimate was wrong, or those in line are gone: all that is parked is recalled.
//!
//! A crash between a turn and the start, or the end and its telling, leaves a turn that is out until the worker's lease ends;
//! between the line and the parking, a message whose claim goes back and that has its place in line.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::WorkerError;
use super::consumer::ConsumerLoop;
use super::lifecycle::Phase as LifePhase;
use super::limits::{
    BucketName, InFlight, LimitOptions, Limited, Limits, Lining, Pending, Standing, UNKNOWN_RUN,
};
use super::pool::{Mode, RequestTag};
use super::request::{Phase, Request};
use super::upkeep::link;
use crate::broker::Settle;
use crate::limits::{Answers, Ask, Given, LimitBell, LimitError, LineUp, Place, Turns, Uses, Wait};
use crate::protocol::Own;

/// A store that does not answer for this long is asked again.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A child that was given a request has surely begun it by then, also on a busy machine. A window is in effect so much longer
/// for requests that take longer.
const SURE_AFTER: Duration = Duration::from_millis(40);
/// How long the goodbye may take. Without it turns come back when the lease ends.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);
/// Requests that wait for their place in line. There are more only while the store does not answer; these come back later.
const MAX_LINING: usize = 1_000;
const STORE_AWAY: Duration = Duration::from_secs(10);
/// Whoever is nearer to its turn waits here.
const LEAD: Duration = Duration::from_secs(2);
/// As many wait here however long it takes.
const FIRST: u64 = 2;
/// Parked at the longest, where what is parked can be recalled, and where it cannot.
const LONGEST: Duration = Duration::from_secs(3600);
const LONGEST_WITHOUT_RECALL: Duration = Duration::from_secs(300);
/// An estimate that turns out too short is made so much longer, at the most this much, and not more often than each `LEAD`.
const SLOWER: f64 = 1.5;
const SLOWEST: f64 = 1_000.0;
/// What can begin here within this time, in seconds, is not given back to others.
const SOON: f64 = 0.1;
/// A limit is looked at when nobody has waited for so long, and what is parked is recalled when it was free twice.
const IDLE: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Between two recalls: doubled with each that follows soon.
const RECALL_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_RECALL_PAUSE: Duration = Duration::from_secs(300);

/// The bell, and what it told.
pub(super) type Rung = (Box<dyn LimitBell>, Option<Vec<String>>);

impl ConsumerLoop {
    /// Makes what is needed where anything is limited.
    pub(super) fn open_limits(&mut self) -> Result<(), WorkerError> {
        let limited = self.options.tasks.iter().find(|(_, task)| !task.limit.is_none());
        let queue = self.options.queue_limits.keys().next();
        let what = match (limited, queue) {
            (Some((name, _)), _) => format!("task {name}"),
            (None, Some(name)) => format!("queue {name}"),
            (None, None) => return Ok(()),
        };
        self.make_limits()
            .map_err(|why| WorkerError::Limits(format!("{what} has a limit of all workers, {why}")))
    }

    /// Makes them if they are not there; says why that cannot be.
    pub(super) fn make_limits(&mut self) -> Result<(), String> {
        if self.limits.is_some() {
            return Ok(());
        }
        let of_backend = self.stores.backend.as_ref().and_then(|backend| backend.limits());
        let Some(store) = of_backend.or_else(|| self.stores.broker.limits()) else {
            return Err("and neither the result backend nor the broker keeps such: name a redis:// or sqlite:/// result_backend"
                .to_owned());
        };
        let queues = self.options.queue_limits.clone();
        let way = link("ask for turns of limits", &self.log);
        self.limits = Some(Box::new(Limits::new(store, &self.options.node, queues, way)));
        Ok(())
    }

    /// The limits that a request is under, if it is under any.
    pub(super) fn limited(
        &mut self,
        task: Option<u32>,
        queue: &Arc<str>,
        own: Option<&Own>,
    ) -> Option<Box<Limited>> {
        let limits = self.limits.as_mut()?;
        let of_task = task.map(|task| self.tasks.task(task)).filter(|task| !task.options.limit.is_none());
        let of_queue = limits.queues.contains_key(&**queue).then(|| queue.clone());
        if of_task.is_none() && of_queue.is_none() {
            return None;
        }
        let key = own.and_then(|own| own.limit.as_ref()).map(|limit| limit.key.clone());
        let name = BucketName {
            task: task.filter(|_| of_task.is_some()),
            queue: of_queue,
            key: key.filter(|_| of_task.is_some()).unwrap_or_default(),
        };
        let bucket = limits.number(name, of_task.map(|task| (&*task.name, task.options.limit)));
        Some(Box::new(Limited { bucket, standing: Standing::Apart, taken: None }))
    }

    /// Whether it is to stand in line.
    pub(super) fn is_surplus(&self, request: &Request) -> bool {
        let (Some(limits), Some(limited)) = (&self.limits, &request.limit) else { return false };
        limits.is_surplus(limited.bucket)
    }

    /// Puts it in line.
    pub(super) fn stand_in_line(&mut self, request: Request) {
        let (Some(limits), Some(limited)) = (&mut self.limits, &request.limit) else { return };
        if limits.lining.len() >= MAX_LINING {
            let wait = STORE_AWAY.mul_f64(1.0 + fastrand::f64());
            return self.park(&request, self.clock.now().after(wait));
        }
        limits.lining.push(Lining { bucket: limited.bucket, request });
    }

    /// Lets it wait in its bucket; false when nothing is limited any more.
    pub(super) fn wait_for_turn(&mut self, tag: RequestTag) -> bool {
        let Some(request) = self.requests.get_mut(&tag) else { return false };
        let (Some(limits), Some(limited)) = (&mut self.limits, &mut request.limit) else { return false };
        if limits.bucket(limited.bucket).is_none() {
            return false;
        }
        (request.phase, limited.standing) = (Phase::Turn, Standing::Waits);
        limits.wait(limited.bucket, tag);
        true
    }

    /// How long a request of a bucket usually runs, in seconds.
    fn usual_run(&self, bucket: u64) -> Option<f64> {
        let task = self.limits.as_ref()?.bucket(bucket)?.task();
        task.map_or(self.prefetch.average, |task| self.tasks.task(task).average).seconds()
    }

    /// Slots that a turn could be used for now.
    fn free_for_turns(&self) -> usize {
        let Some(limits) = self.limits.as_ref().filter(|limits| limits.may_ask()) else { return 0 };
        if self.life != LifePhase::Running {
            return 0;
        }
        let short = limits.next_task().is_some_and(|task| self.tasks.task(task).average.is_short());
        let free = self.pool.free(short);
        match (self.ready.is_empty(), limits.served) {
            (true, _) => free,
            (false, false) => free.min(1),
            (false, true) => 0,
        }
    }

    /// Tells and asks, if there is anything and no call is under way.
    pub(super) fn start_turns(&mut self) {
        let free = self.free_for_turns();
        let now = Instant::now();
        if free == 0 && self.takes_work() && self.pool.free(false) == 0 {
            self.hand_back_surplus();
        }
        let lease = self.options.lease;
        let Some(limits) = self.limits.as_mut().filter(|limits| limits.retry_at.is_none()) else { return };
        if self.turning.is_some() {
            return;
        }
        let mut call = InFlight {
            told: std::mem::take(&mut limits.told),
            cleared: std::mem::take(&mut limits.cleared),
            lines: std::mem::take(&mut limits.lining),
            asks: Vec::new(),
            most: free,
        };
        if free > 0 {
            call.asks = self.heads(&call, free);
        }
        let Some(limits) = self.limits.as_mut() else { return };
        for bucket in std::mem::take(&mut limits.looks) {
            if !call.asks.iter().any(|(asked, _)| *asked == bucket) && limits.bucket(bucket).is_some() {
                call.asks.push((bucket, Vec::new()));
            }
        }
        let due = limits.running > 0 && now >= limits.called_at + lease / 3;
        if !due
            && call.told.is_empty()
            && call.cleared.is_empty()
            && call.lines.is_empty()
            && call.asks.is_empty()
        {
            return;
        }
        limits.called_at = now;
        let turns = self.turns(&call, now);
        let Some(limits) = self.limits.as_mut() else { return };
        limits.in_flight = Some(call);
        let store = limits.store.clone();
        self.turning = Some(Box::pin(async move {
            let answer = timeout(ANSWER_WITHIN, store.turns(&turns)).await;
            answer.unwrap_or_else(|_| Err(LimitError("the store does not answer".to_owned())))
        }));
    }

    /// Takes those who ask out of their buckets.
    fn heads(&mut self, call: &InFlight, free: usize) -> Vec<(u64, Vec<RequestTag>)> {
        let Some(limits) = self.limits.as_mut() else { return Vec::new() };
        let requests = &self.requests;
        let waits = |tag| {
            let found: Option<&Request> = requests.get(&tag);
            let limited = found.and_then(|request| request.limit.as_ref());
            limited.is_some_and(|limited| limited.standing == Standing::Waits)
        };
        let mut asks = limits.heads(free, waits);
        asks.retain(|(number, tags)| {
            let Some(bucket) = limits.bucket_mut(*number) else { return false };
            bucket.yielded = !bucket.yielded && call.frees(bucket);
            let (yields, in_line) = (bucket.yielded, bucket.in_line);
            if yields {
                limits.answered(*number, tags, None, in_line);
            }
            !yields
        });
        let mut concluded = false;
        for (number, tags) in &mut asks {
            // Those that must not run are concluded, for which no turn is needed.
            let asked = tags.len();
            tags.retain(|tag| !self.discard_waiting(*tag));
            concluded |= tags.len() < asked;
            let uses = self.limits.as_ref().and_then(|limits| limits.bucket(*number)).map(|b| b.uses.clone());
            for tag in &*tags {
                if let Some(limited) = self.requests.get_mut(tag).and_then(|request| request.limit.as_mut()) {
                    (limited.standing, limited.taken) = (Standing::Asked, uses.clone());
                }
            }
        }
        asks.retain(|(number, tags)| {
            if let Some(limits) = self.limits.as_mut().filter(|_| tags.is_empty()) {
                let in_line = limits.bucket(*number).map_or(0, |bucket| bucket.in_line);
                limits.answered(*number, &[], None, in_line);
            }
            !tags.is_empty()
        });
        if concluded {
            self.dispatch();
        }
        asks
    }

    fn discard_waiting(&mut self, tag: RequestTag) -> bool {
        if !self.discard(tag) {
            return false;
        }
        if let Some(limited) = self.requests.get_mut(&tag).and_then(|request| request.limit.take()) {
            self.left_limit(tag, *limited, false);
        }
        self.make_ready(tag);
        true
    }

    fn turns(&self, call: &InFlight, now: Instant) -> Turns {
        let Some(limits) = &self.limits else { return Turns::default() };
        let id =
            |tag: &RequestTag| self.requests.get(tag).map_or_else(String::new, |request| request.id.clone());
        let none: Uses = Arc::from([]);
        let ask = |(number, tags): &(u64, Vec<RequestTag>)| Ask {
            uses: limits.bucket(*number).map_or_else(|| none.clone(), |bucket| bucket.uses.clone()),
            requests: tags.iter().map(|tag| (*tag, id(tag))).collect(),
        };
        let line = |lining: &Lining| {
            let uses = limits.bucket(lining.bucket).map(|bucket| &bucket.uses);
            let place = uses.and_then(|uses| uses.first()).map(|limit| limit.place.clone());
            LineUp { place: place.unwrap_or_default(), id: lining.request.id.clone() }
        };
        Turns {
            holder: limits.holder.clone(),
            lease: self.options.lease,
            told: call.told.iter().map(|told| told.told(now)).collect(),
            cleared: call.cleared.clone(),
            lines: call.lines.iter().map(line).collect(),
            asks: call.asks.iter().map(ask).collect(),
            most: call.most,
            leaves: false,
        }
    }

    /// The store has answered.
    pub(super) fn turns_answered(&mut self, answer: Result<Answers, LimitError>) {
        let Some(limits) = &mut self.limits else { return };
        let Some(call) = limits.in_flight.take() else { return };
        match answer {
            Ok(Answers { lines, given }) => {
                limits.link.worked();
                for (lining, place) in call.lines.into_iter().zip(lines) {
                    self.lined_up(lining, place);
                }
                let mut granted = Vec::new();
                // Who got nothing since enough was given asks before the others the next time.
                let mut asks: Vec<_> = call.asks.into_iter().zip(given).collect();
                asks.sort_by_key(|(_, given)| given.turns > 0);
                for ((number, tags), given) in asks {
                    self.given(number, tags, given, &mut granted);
                }
                self.begin(&granted);
                self.listen();
            }
            Err(error) => {
                limits.retry_at = Some(Instant::now() + limits.link.failed(&error));
                before(&mut limits.told, call.told);
                before(&mut limits.cleared, call.cleared);
                before(&mut limits.lining, call.lines);
                for (number, tags) in call.asks {
                    self.not_given(number, tags);
                }
            }
        }
    }

    fn given(&mut self, number: u64, tags: Vec<RequestTag>, given: Given, granted: &mut Vec<RequestTag>) {
        let Some(limits) = &mut self.limits else { return };
        let looked = tags.is_empty();
        let mut back = Vec::new();
        for (place, tag) in tags.into_iter().enumerate() {
            let has = place < given.turns;
            let limited = self.requests.get_mut(&tag).and_then(|request| request.limit.as_mut());
            match (limited, limits.bucket_mut(number)) {
                (Some(limited), Some(bucket)) if has => {
                    limited.standing = Standing::Has;
                    bucket.running += 1;
                    limits.running += 1;
                    limits.waits_no_more();
                    granted.push(tag);
                }
                (Some(limited), _) => {
                    (limited.standing, limited.taken) = (Standing::Waits, None);
                    back.push(tag);
                }
                // It was handed back meanwhile.
                (None, Some(bucket)) if has => {
                    let uses = bucket.uses.clone();
                    limits.told.push(Pending { uses, token: tag, began: None, ended: true });
                }
                (None, _) => {}
            }
        }
        if looked {
            self.looked(number, given);
        } else {
            limits.answered(number, &back, Some(given.wait), given.in_line);
        }
    }

    /// No answer: whether they have turns is not known. They ask again, and who is gone gives back what it may have.
    fn not_given(&mut self, number: u64, tags: Vec<RequestTag>) {
        let Some(limits) = &mut self.limits else { return };
        let Some(bucket) = limits.bucket(number) else { return };
        let (uses, in_line) = (bucket.uses.clone(), bucket.in_line);
        let mut back = Vec::new();
        for tag in tags {
            match self.requests.get_mut(&tag).and_then(|request| request.limit.as_mut()) {
                Some(limited) => {
                    limited.standing = Standing::Waits;
                    back.push(tag);
                }
                None => {
                    limits.told.push(Pending { uses: uses.clone(), token: tag, began: None, ended: true });
                }
            }
        }
        limits.answered(number, &back, None, in_line);
    }

    /// They have their turns, and go before everything that has none to lose.
    fn begin(&mut self, granted: &[RequestTag]) {
        if let Some(limits) = &mut self.limits {
            limits.served = !granted.is_empty() && !self.ready.is_empty();
        }
        for tag in granted.iter().rev() {
            if let Some(request) = self.requests.get_mut(tag) {
                let (task, keyed) = (request.task, request.key.is_some());
                request.phase = Phase::Ready;
                self.prefetch.count += 1;
                if keyed && self.asks_key(*tag) {
                    continue;
                }
                if self.tasks.options(task).batch.is_none() || !self.gather(*tag) {
                    self.ready.push_front(*tag);
                }
            }
        }
    }

    /// It stands in line: near its turn it waits here, otherwise in the broker.
    fn lined_up(&mut self, lining: Lining, place: Place) {
        let average = self.usual_run(lining.bucket);
        let now = Instant::now();
        let recalls = self.stores.broker.recalls();
        let Lining { bucket: number, request } = lining;
        let Some(limits) = &mut self.limits else { return };
        let has_room = limits.has_room();
        let Some(bucket) = limits.bucket_mut(number) else { return self.settle(&request, Settle::Release) };
        bucket.in_line = bucket.in_line.max(place.before + 1);
        let wait = Duration::try_from_secs_f64(bucket.interval(average) * place.before as f64);
        let wait = wait.unwrap_or(Duration::MAX);
        if has_room && (wait <= LEAD || place.before < FIRST) {
            let tag = self.next_tag;
            self.next_tag += 1;
            self.enter(tag, request);
            self.wait_for_turn(tag);
            return;
        }
        let longest = if recalls { LONGEST } else { LONGEST_WITHOUT_RECALL };
        if place.again && wait > 2 * LEAD && wait < longest / 2 && now >= bucket.slowed_at + LEAD {
            bucket.slow = (bucket.slow * SLOWER).min(SLOWEST);
            bucket.slowed_at = now;
        }
        let mut wait = wait.saturating_sub(LEAD / 2).max(LEAD / 4);
        if wait > longest {
            // Not all of them in the same moment.
            wait = longest.mul_f64(0.5 + fastrand::f64() / 2.0);
        }
        limits.lined_at = Some(now);
        self.park(&request, self.clock.now().after(wait));
    }

    /// Gives back to others what could begin and finds no slot here for a while, though its limit has room.
    fn hand_back_surplus(&mut self) {
        let slots = self.pool.slots();
        let Some(limits) = &self.limits else { return };
        let mut kept_of = Vec::new();
        for number in limits.askable() {
            let average = self.usual_run(number).unwrap_or(UNKNOWN_RUN).max(1e-6);
            let kept = ((SOON * slots as f64 / average) as usize).max(slots);
            if limits.bucket(number).is_some_and(|bucket| bucket.waits() > 2 * kept) {
                kept_of.push((number, kept));
            }
        }
        for (number, kept) in kept_of {
            let bucket = self.limits.as_mut().and_then(|limits| limits.bucket_mut(number));
            for tag in bucket.map(|bucket| bucket.take_behind(kept)).unwrap_or_default() {
                self.hand_back(tag);
            }
        }
    }

    /// A bucket that nobody waits in was looked at.
    fn looked(&mut self, number: u64, given: Given) {
        let now = Instant::now();
        let Some(limits) = &mut self.limits else { return };
        let Some(bucket) = limits.bucket_mut(number) else { return };
        bucket.in_line = given.in_line;
        bucket.look_at = now + LOOK_EVERY;
        let free = given.wait == Wait::Free && given.in_line > 0 && bucket.is_empty();
        let Some(since) = bucket.idle_since.filter(|_| free) else {
            bucket.idle_since = free.then_some(now);
            return;
        };
        if now < since + IDLE || now < limits.recall_at {
            return;
        }
        if let Some(bucket) = limits.bucket_mut(number) {
            (bucket.idle_since, bucket.in_line, bucket.slow) = (None, 0, 1.0);
            let place = bucket.uses.first().map(|limit| limit.place.clone());
            limits.cleared.extend(place);
        }
        let soon = now < limits.recall_at + 2 * limits.recall_pause;
        let pause = if soon { 2 * limits.recall_pause } else { RECALL_PAUSE };
        limits.recall_pause = pause.clamp(RECALL_PAUSE, LONGEST_RECALL_PAUSE);
        limits.recall_at = now + limits.recall_pause;
        self.recall();
    }

    /// Listens to the bell while someone waits for it.
    fn listen(&mut self) {
        let Some(limits) = self.limits.as_mut().filter(|limits| limits.any_full()) else { return };
        if self.hearing.is_some() {
            return;
        }
        let mut bell = limits.bell.take().unwrap_or_else(|| limits.store.bell());
        self.hearing = Some(Box::pin(async move {
            let rung = if let Ok(rung) = bell.rung().await {
                rung
            } else {
                // Where it cannot be heard, everyone looks again after a while.
                tokio::time::sleep(LOOK_EVERY).await;
                None
            };
            (bell, rung)
        }));
    }

    /// The bell rang.
    pub(super) fn bell_rung(&mut self, (bell, places): Rung) {
        if let Some(limits) = &mut self.limits {
            limits.bell = Some(bell);
            limits.rung(places.as_deref());
        }
        self.listen();
    }

    /// The pool takes it to run. A child may be slow to turn to it, so that is told a little later, or when it has ended.
    pub(super) fn limit_begins(&mut self, tag: RequestTag, now: Instant) {
        if let Some(limits) = &mut self.limits {
            limits.begun.push_back((now + SURE_AFTER, tag));
        }
    }

    /// Requests that surely run by now.
    pub(super) fn limits_on_time(&mut self, now: Instant) {
        let Some(limits) = &mut self.limits else { return };
        limits.on_time(now);
        let due = limits.begun.iter().take_while(|(at, _)| *at <= now).count();
        let begun: Vec<_> = limits.begun.drain(..due).collect();
        for (_, tag) in begun {
            let runs = |request: &Request| matches!(request.phase, Phase::Running(_));
            if self.requests.get(&tag).is_some_and(runs) {
                self.limit_began(tag);
            }
        }
    }

    /// It runs, or has run.
    pub(super) fn limit_began(&mut self, tag: RequestTag) {
        let limited = self.requests.get_mut(&tag).and_then(|request| request.limit.as_mut());
        let (Some(limits), Some(limited)) = (&mut self.limits, limited) else { return };
        if limited.standing == Standing::Has
            && let Some(uses) = limited.taken.clone()
        {
            limited.standing = Standing::Begun;
            limits.told.push(Pending { uses, token: tag, began: Some(Instant::now()), ended: false });
        }
    }

    /// A request is not under its limits any more: it has ended, or goes.
    pub(super) fn left_limit(&mut self, tag: RequestTag, limited: Limited, ran: bool) {
        let Some(limits) = &mut self.limits else { return };
        let has = matches!(limited.standing, Standing::Has | Standing::Begun);
        if has {
            limits.running -= 1;
            if let Some(bucket) = limits.bucket_mut(limited.bucket) {
                bucket.running -= 1;
            }
        } else if limited.standing != Standing::Apart {
            limits.waits_no_more();
        }
        // What is being asked for is dealt with when it is answered.
        if let Some(uses) = limited.taken.filter(|_| limited.standing != Standing::Asked) {
            let began = (ran && limited.standing == Standing::Has).then(Instant::now);
            limits.told.push(Pending { uses, token: tag, began, ended: true });
        }
    }

    /// Once a second.
    pub(super) fn tick_limits(&mut self, now: Instant) {
        let requests = &self.requests;
        let Some(limits) = &mut self.limits else { return };
        let idle = limits
            .buckets()
            .filter(|(_, bucket)| bucket.in_line > 0 && bucket.is_empty() && bucket.look_at <= now)
            .map(|(number, _)| number);
        limits.looks = idle.collect();
        let mut needed = std::collections::HashSet::new();
        needed.extend(requests.values().filter_map(|request| Some(request.limit.as_ref()?.bucket)));
        needed.extend(limits.lining.iter().map(|lining| lining.bucket));
        if let Some(call) = &limits.in_flight {
            needed.extend(call.lines.iter().map(|lining| lining.bucket));
        }
        limits.forget(|number| needed.contains(&number));
    }

    /// The worker stops: who stands in line, or waits, is handed back by whoever calls.
    pub(super) fn stop_limits(&mut self) {
        let Some(limits) = &mut self.limits else { return };
        limits.clear();
        let mut lining = std::mem::take(&mut limits.lining);
        if let Some(call) = &mut limits.in_flight {
            before(&mut lining, std::mem::take(&mut call.lines));
        }
        for Lining { request, .. } in lining {
            self.stats.released.add(1);
            self.settle(&request, Settle::Release);
        }
    }

    /// Says goodbye, and gives back what is left.
    pub(super) async fn leave_limits(&mut self) {
        self.turning = None;
        let Some(limits) = &mut self.limits else { return };
        let mut told = limits.in_flight.take().map(|call| call.told).unwrap_or_default();
        told.append(&mut limits.told);
        let now = Instant::now();
        let turns = Turns {
            holder: limits.holder.clone(),
            lease: self.options.lease,
            told: told.iter().map(|told| told.told(now)).collect(),
            leaves: true,
            ..Turns::default()
        };
        // Where it does not get through, turns come back with the lease.
        let _ = timeout(LEAVE_WITHIN, limits.store.turns(&turns)).await;
    }

    /// Other limits hold for a task from now on.
    pub(super) fn change_limit(&mut self, task: u32, limit: LimitOptions) {
        self.tasks.task_mut(task).options.limit = limit;
        let Some(limits) = &mut self.limits else { return };
        let waiting = limits.disband(task);
        for tag in waiting {
            let Some(request) = self.requests.get_mut(&tag) else { continue };
            if !request.limit.as_ref().is_some_and(|limited| limited.standing == Standing::Waits) {
                continue;
            }
            let message = request.message.clone();
            let mut queue = None;
            if let Some(limited) = request.limit.take() {
                queue = self.limits.as_ref().and_then(|limits| limits.bucket(limited.bucket)?.queue());
                self.left_limit(tag, *limited, false);
            }
            let queue = queue.unwrap_or_default();
            let own = message.task_headers().ok().and_then(|headers| headers.own);
            let limited = self.limited(Some(task), &queue, own.as_deref());
            if let Some(request) = self.requests.get_mut(&tag) {
                request.limit = limited;
            }
            self.make_ready(tag);
        }
        self.recall();
    }

    /// Whether its end counts as one of a run.
    pub(super) fn has_run(request: &Request) -> bool {
        request.phase.has_slot() && request.mode == Mode::Run
    }
}

/// Puts what comes first before what was there.
fn before<T>(list: &mut Vec<T>, mut first: Vec<T>) {
    first.append(list);
    *list = first;
}

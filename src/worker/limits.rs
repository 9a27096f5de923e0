//! Requests that wait for a turn of a limit of all workers.
//!
//! Those under the same limits and of the same key wait in one bucket, first in, first out. Buckets ask in turns, so that a key
//! with many requests is not served before one with a single one. A bucket that was told to wait does not ask before its
//! time, or before the bell rang. Of each bucket a few requests wait here; who comes when there are more, or when others stand
//! in line already, is put in line in the store and parked in the broker until about its turn ([`super::turns`]).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::pool::RequestTag;
use super::rate_limit::RateLimitError;
use super::request::Request;
use crate::limits::{KEY_MARK, LimitBell, LimitStore, LimitUse, Told, Uses, Wait, WindowRate};
use crate::numbers::NumberMap;

/// Requests that wait here at the most, over all buckets.
const MAX_WAITING: usize = 1_000;
/// So many wait in a bucket before others are put in line.
const UNLINED: usize = 2;
/// Who has all turns out is asked again after this time at the latest: a worker may have died with them.
const LOOK_AGAIN: Duration = Duration::from_secs(3);
/// While someone was put in line so lately, so many more are claimed.
const LATELY: Duration = Duration::from_millis(100);
const BEYOND: usize = 50;
/// Buckets that ask in one call.
const MAX_ASKS: usize = 64;
/// A run whose time is not known is taken to be so long, in seconds: short, since who comes back too early is parked anew, and
/// who comes back too late leaves turns unused.
pub(crate) const UNKNOWN_RUN: f64 = 0.05;

/// What holds for a task or a queue, over all workers together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitOptions {
    /// How many may start.
    pub rate: Option<WindowRate>,
    /// How many may run at the same time.
    pub most: Option<u32>,
}

impl LimitOptions {
    /// Nothing is limited.
    pub fn is_none(self) -> bool {
        self.rate.is_none() && self.most.is_none()
    }

    /// The limit of this name, for a key.
    fn of(self, name: &str, key: &str) -> LimitUse {
        LimitUse { place: format!("{name}{KEY_MARK}{key}"), rate: self.rate, most: self.most }
    }
}

/// Reads how many may start in a window: Celery's grammar of rates (`N`, `N/s`, `N/m`, `N/h`), of which the unit is the
/// window. An empty text and zero are no limit; fractions make the window longer or shorter.
pub fn parse_window_rate(text: &str) -> Result<Option<WindowRate>, RateLimitError> {
    let text = text.trim();
    let (number, unit) = text.split_once('/').unwrap_or((text, "s"));
    let number = if text.is_empty() { "0" } else { number.trim() };
    let number: f64 = number.parse().map_err(|_| RateLimitError::Number(text.to_owned()))?;
    let seconds = match unit.trim() {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(RateLimitError::Unit(text.to_owned())),
    };
    if !number.is_finite() || !(0.0..=1e9).contains(&number) {
        return Err(RateLimitError::Number(text.to_owned()));
    }
    if number == 0.0 {
        return Ok(None);
    }
    let count = number.floor().max(1.0);
    let window = Duration::from_secs_f64((seconds * count / number).min(3e9));
    Ok(Some(WindowRate { count: count as u32, window: window.max(Duration::from_millis(1)) }))
}

/// How a request stands to the limits that it is under.
#[derive(Debug)]
pub(crate) struct Limited {
    pub(crate) bucket: u64,
    pub(crate) standing: Standing,
    /// The limits whose turns it has, or may have if an answer was lost.
    pub(crate) taken: Option<Uses>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It waits for something else first.
    Apart,
    /// It waits in its bucket.
    Waits,
    /// A call asks for it.
    Asked,
    /// It has its turns.
    Has,
    /// It was seen to run.
    Begun,
}

/// What a bucket waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    None,
    Until(Instant),
    /// Until the bell rings, or that moment.
    Full(Instant),
}

/// Requests under the same limits and of the same key.
#[derive(Debug)]
pub(crate) struct Bucket {
    name: BucketName,
    pub(crate) uses: Uses,
    /// May hold tags of requests that are gone.
    waiting: VecDeque<RequestTag>,
    block: Block,
    /// It stands among those that may ask.
    queued: bool,
    /// Requests that a call asks for.
    asked: usize,
    /// Turns that are out for it here.
    pub(crate) running: usize,
    /// It let others go first with the last call.
    pub(crate) yielded: bool,
    /// How many stand in line, as last heard.
    pub(crate) in_line: u64,
    /// So many times longer than estimated is the time that a place in line takes.
    pub(crate) slow: f64,
    pub(crate) slowed_at: Instant,
    /// Nobody waits here, others stand in line, and the limit was seen to be free: since when.
    pub(crate) idle_since: Option<Instant>,
    pub(crate) look_at: Instant,
}

/// What tells buckets apart: the task if it is limited, the queue if it is, the key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BucketName {
    pub(crate) task: Option<u32>,
    pub(crate) queue: Option<Arc<str>>,
    pub(crate) key: String,
}

/// What became of a turn, and when it was seen to run.
pub(crate) struct Pending {
    pub(crate) uses: Uses,
    pub(crate) token: RequestTag,
    pub(crate) began: Option<Instant>,
    pub(crate) ended: bool,
}

/// A request that is to stand in line; not among the worker's requests yet.
pub(crate) struct Lining {
    pub(crate) bucket: u64,
    pub(crate) request: Request,
}

/// A call under way: what it says and asks, kept to be repeated.
#[derive(Default)]
pub(crate) struct InFlight {
    pub(crate) told: Vec<Pending>,
    pub(crate) cleared: Vec<String>,
    pub(crate) lines: Vec<Lining>,
    pub(crate) asks: Vec<(u64, Vec<RequestTag>)>,
    /// Slots that are kept free for it.
    pub(crate) most: usize,
}

/// All that wait.
pub(crate) struct Limits {
    pub(crate) store: Arc<dyn LimitStore>,
    pub(crate) holder: String,
    pub(crate) link: super::link::Link,
    pub(crate) queues: HashMap<String, LimitOptions>,
    buckets: NumberMap<Bucket>,
    numbers: HashMap<BucketName, u64>,
    last: u64,
    /// Buckets that may ask, in turns.
    askable: VecDeque<u64>,
    timers: BinaryHeap<Reverse<(Instant, u64)>>,
    waiting: usize,
    /// Turns that are out here, over all buckets.
    pub(crate) running: usize,
    /// Requests that were given to a child, and when they have surely begun.
    pub(crate) begun: VecDeque<(Instant, RequestTag)>,
    /// None while it is listened to, and before.
    pub(crate) bell: Option<Box<dyn LimitBell>>,
    /// To be said and asked with the next call.
    pub(crate) told: Vec<Pending>,
    pub(crate) cleared: Vec<String>,
    pub(crate) lining: Vec<Lining>,
    pub(crate) looks: Vec<u64>,
    pub(crate) in_flight: Option<InFlight>,
    /// The last call was made then.
    pub(crate) called_at: Instant,
    /// The store failed: not before then.
    pub(crate) retry_at: Option<Instant>,
    /// A limited request got a slot that others waited for; one of those is next.
    pub(crate) served: bool,
    /// Someone was put in line then, last.
    pub(crate) lined_at: Option<Instant>,
    pub(crate) recall_at: Instant,
    pub(crate) recall_pause: Duration,
}

impl Limits {
    pub(crate) fn new(
        store: Arc<dyn LimitStore>,
        node: &str,
        queues: HashMap<String, LimitOptions>,
        link: super::link::Link,
    ) -> Self {
        let now = Instant::now();
        Self {
            store,
            holder: format!("{node}:{:016x}", fastrand::u64(..)),
            link,
            queues,
            buckets: NumberMap::default(),
            numbers: HashMap::new(),
            last: 0,
            askable: VecDeque::new(),
            timers: BinaryHeap::new(),
            waiting: 0,
            running: 0,
            begun: VecDeque::new(),
            bell: None,
            told: Vec::new(),
            cleared: Vec::new(),
            lining: Vec::new(),
            looks: Vec::new(),
            in_flight: None,
            called_at: now,
            retry_at: None,
            served: false,
            lined_at: None,
            recall_at: now,
            recall_pause: Duration::ZERO,
        }
    }

    pub(crate) fn bucket(&self, number: u64) -> Option<&Bucket> {
        self.buckets.get(&number)
    }

    pub(crate) fn bucket_mut(&mut self, number: u64) -> Option<&mut Bucket> {
        self.buckets.get_mut(&number)
    }

    pub(crate) fn buckets(&self) -> impl Iterator<Item = (u64, &Bucket)> {
        self.buckets.iter().map(|(number, bucket)| (*number, bucket))
    }

    /// The bucket of that name, made if there is none.
    pub(crate) fn number(&mut self, name: BucketName, task: Option<(&str, LimitOptions)>) -> u64 {
        if let Some(number) = self.numbers.get(&name) {
            return *number;
        }
        let of_task = task.map(|(task, options)| options.of(&format!("task:{task}"), &name.key));
        let queue = name.queue.as_deref();
        let of_queue = queue.and_then(|queue| {
            self.queues.get(queue).map(|options| options.of(&format!("queue:{queue}"), ""))
        });
        let now = Instant::now();
        self.last += 1;
        let bucket = Bucket {
            name: name.clone(),
            uses: of_task.into_iter().chain(of_queue).collect(),
            waiting: VecDeque::new(),
            block: Block::None,
            queued: false,
            asked: 0,
            running: 0,
            yielded: false,
            in_line: 0,
            slow: 1.0,
            slowed_at: now,
            idle_since: None,
            look_at: now,
        };
        self.buckets.insert(self.last, bucket);
        self.numbers.insert(name, self.last);
        self.last
    }

    /// Whether one more is to stand in line before it waits here.
    pub(crate) fn is_surplus(&self, number: u64) -> bool {
        let Some(bucket) = self.buckets.get(&number) else { return false };
        bucket.in_line > 0 || self.waiting >= MAX_WAITING || bucket.waiting.len() >= UNLINED
    }

    /// Whether there is room for one more at all.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting < MAX_WAITING
    }

    /// How many more may be claimed: while most of what comes is put aside, it takes no slots.
    pub(crate) fn beyond(&self) -> usize {
        let lately = self.lined_at.is_some_and(|at| at.elapsed() < LATELY);
        if lately { BEYOND } else { 0 }
    }

    /// One more waits.
    pub(crate) fn wait(&mut self, number: u64, tag: RequestTag) {
        let Some(bucket) = self.buckets.get_mut(&number) else { return };
        bucket.waiting.push_back(tag);
        self.waiting += 1;
        self.enqueue(number);
    }

    /// One that waited here does not any more.
    pub(crate) fn waits_no_more(&mut self) {
        self.waiting -= 1;
    }

    /// Lets a bucket ask, if it has a reason and nothing is against it.
    fn enqueue(&mut self, number: u64) {
        let Some(bucket) = self.buckets.get_mut(&number) else { return };
        let may = bucket.block == Block::None && !bucket.waiting.is_empty() && bucket.asked == 0;
        if may && !bucket.queued {
            bucket.queued = true;
            self.askable.push_back(number);
        }
    }

    pub(crate) fn may_ask(&self) -> bool {
        !self.askable.is_empty()
    }

    /// Buckets that may ask.
    pub(crate) fn askable(&self) -> impl Iterator<Item = u64> + '_ {
        self.askable.iter().copied()
    }

    /// The task whose request asks next.
    pub(crate) fn next_task(&self) -> Option<u32> {
        self.buckets.get(self.askable.front()?)?.name.task
    }

    /// Whether a slot is to be left free for one that may get a turn.
    pub(crate) fn spares_slot(&self) -> bool {
        let asks = self.in_flight.as_ref().is_some_and(|call| call.most > 0) || self.may_ask();
        asks && !self.served && self.retry_at.is_none()
    }

    /// Takes out who asks, in turns, for so many slots; of a bucket that must wait for others `yields`, one call long.
    pub(crate) fn heads(
        &mut self,
        free: usize,
        waits: impl Fn(RequestTag) -> bool,
    ) -> Vec<(u64, Vec<RequestTag>)> {
        let mut asks: Vec<(u64, Vec<RequestTag>)> = Vec::new();
        while asks.len() < MAX_ASKS
            && let Some(number) = self.askable.pop_front()
        {
            let Some(bucket) = self.buckets.get_mut(&number) else { continue };
            bucket.queued = false;
            bucket.waiting.retain(|tag| waits(*tag));
            if bucket.block == Block::None && !bucket.waiting.is_empty() {
                asks.push((number, Vec::new()));
            }
        }
        // One for each, whether there are slots for all or not: some may be full. Then round by round.
        let mut left = free.max(asks.len());
        let mut any = true;
        while left > 0 && any {
            any = false;
            for (number, tags) in &mut asks {
                let Some(bucket) = self.buckets.get_mut(number) else { continue };
                if left > 0
                    && let Some(tag) = bucket.waiting.pop_front()
                {
                    bucket.asked += 1;
                    tags.push(tag);
                    (left, any) = (left - 1, true);
                }
            }
        }
        asks
    }

    /// What a bucket was answered; `back` are those who got no turn.
    pub(crate) fn answered(&mut self, number: u64, back: &[RequestTag], wait: Option<Wait>, in_line: u64) {
        let now = Instant::now();
        let Some(bucket) = self.buckets.get_mut(&number) else { return };
        bucket.asked = 0;
        for tag in back.iter().rev() {
            bucket.waiting.push_front(*tag);
        }
        bucket.in_line = in_line;
        let spread = Duration::from_micros(fastrand::u64(0..1_000));
        bucket.block = match wait {
            Some(Wait::For(left)) => Block::Until(now + left + spread),
            Some(Wait::Full) => Block::Full(now + LOOK_AGAIN + 300 * spread),
            _ => Block::None,
        };
        if let Block::Until(at) | Block::Full(at) = bucket.block {
            self.timers.push(Reverse((at, number)));
        }
        self.enqueue(number);
    }

    /// When a bucket may ask again.
    pub(crate) fn next_moment(&self) -> Option<Instant> {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        let begun = self.begun.front().map(|(at, _)| *at);
        [timer, begun, self.retry_at].into_iter().flatten().min()
    }

    /// Lets those ask whose time has come.
    pub(crate) fn on_time(&mut self, now: Instant) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
        }
        while let Some(Reverse((at, number))) = self.timers.peek().copied() {
            if at > now {
                return;
            }
            self.timers.pop();
            let Some(bucket) = self.buckets.get_mut(&number) else { continue };
            if matches!(bucket.block, Block::Until(until) | Block::Full(until) if until <= now) {
                bucket.block = Block::None;
                self.enqueue(number);
            }
        }
    }

    /// Turns of these limits came back; of any, if that is not known.
    pub(crate) fn rung(&mut self, places: Option<&[String]>) {
        let meant = |bucket: &Bucket| {
            matches!(bucket.block, Block::Full(_))
                && places.is_none_or(|places| bucket.uses.iter().any(|limit| places.contains(&limit.place)))
        };
        let meant: Vec<u64> =
            self.buckets.iter().filter(|(_, bucket)| meant(bucket)).map(|(number, _)| *number).collect();
        for number in meant {
            if let Some(bucket) = self.buckets.get_mut(&number) {
                bucket.block = Block::None;
            }
            self.enqueue(number);
        }
    }

    /// Someone waits for the bell.
    pub(crate) fn any_full(&self) -> bool {
        self.buckets.values().any(|bucket| matches!(bucket.block, Block::Full(_)))
    }

    /// Forgets buckets that nobody needs.
    pub(crate) fn forget(&mut self, needed: impl Fn(u64) -> bool) {
        let unused = |number: &u64, bucket: &Bucket| {
            bucket.waiting.is_empty()
                && bucket.asked == 0
                && bucket.running == 0
                && bucket.in_line == 0
                && !needed(*number)
        };
        let gone: Vec<u64> = self
            .buckets
            .iter()
            .filter(|(number, bucket)| unused(number, bucket))
            .map(|(number, _)| *number)
            .collect();
        for number in gone {
            if let Some(bucket) = self.buckets.remove(&number)
                && self.numbers.get(&bucket.name) == Some(&number)
            {
                self.numbers.remove(&bucket.name);
            }
        }
    }

    /// The buckets of a task begin anew under other limits; gives who waits in them, in the order in which they came.
    pub(crate) fn disband(&mut self, task: u32) -> Vec<RequestTag> {
        let of_task: Vec<u64> = self
            .numbers
            .iter()
            .filter(|(name, _)| name.task == Some(task))
            .map(|(_, number)| *number)
            .collect();
        let mut tags = Vec::new();
        for number in of_task {
            if let Some(bucket) = self.buckets.get_mut(&number) {
                self.numbers.remove(&bucket.name);
                bucket.in_line = 0;
                tags.extend(bucket.waiting.drain(..));
            }
        }
        tags.sort_unstable();
        tags
    }

    /// Nobody waits any more: the worker stops.
    pub(crate) fn clear(&mut self) {
        for bucket in self.buckets.values_mut() {
            bucket.waiting.clear();
        }
        self.askable.clear();
        self.timers.clear();
    }
}

impl Bucket {
    pub(crate) fn task(&self) -> Option<u32> {
        self.name.task
    }

    pub(crate) fn queue(&self) -> Option<Arc<str>> {
        self.name.queue.clone()
    }

    pub(crate) fn waits(&self) -> usize {
        self.waiting.len()
    }

    /// Takes out those who wait behind the first so many.
    pub(crate) fn take_behind(&mut self, kept: usize) -> Vec<RequestTag> {
        self.waiting.split_off(kept.min(self.waiting.len())).into()
    }

    /// Nobody waits here or is asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.asked == 0
    }

    /// The time that a place in line takes, about: by the rate, and by how long runs take of which so many are allowed.
    pub(crate) fn interval(&self, average: Option<f64>) -> f64 {
        let one = |limit: &LimitUse| {
            let rate = limit.rate.map_or(0.0, |rate| rate.window.as_secs_f64() / f64::from(rate.count));
            let most = limit.most.map_or(0.0, |most| average.unwrap_or(UNKNOWN_RUN) / f64::from(most.max(1)));
            rate.max(most)
        };
        self.uses.iter().map(one).fold(0.0, f64::max) * self.slow
    }
}

impl Pending {
    pub(crate) fn told(&self, now: Instant) -> Told {
        let began = self.began.map(|began| now.duration_since(began));
        Told { uses: self.uses.clone(), token: self.token, began, ended: self.ended }
    }
}

impl InFlight {
    /// Whether it says of a limit that a turn of it has ended: others, who are told by the bell, are to have a chance.
    pub(crate) fn frees(&self, bucket: &Bucket) -> bool {
        let same = |place: &String| bucket.uses.iter().any(|limit| limit.place == *place);
        self.told.iter().any(|told| told.ended && told.uses.iter().any(|limit| same(&limit.place)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_count_in_a_window() {
        let read = |text| parse_window_rate(text).unwrap().map(|rate| (rate.count, rate.window.as_millis()));
        assert_eq!(read("100/m"), Some((100, 60_000)));
        assert_eq!(read("7"), Some((7, 1_000)));
        assert_eq!(read("0.5/s"), Some((1, 2_000)));
        assert_eq!(read("2.5/s"), Some((2, 800)));
        assert_eq!(read(""), None);
        assert_eq!(read("0/h"), None);
        assert_eq!(parse_window_rate("1/d"), Err(RateLimitError::Unit("1/d".into())));
        assert_eq!(parse_window_rate("x"), Err(RateLimitError::Number("x".into())));
        assert_eq!(parse_window_rate("-1"), Err(RateLimitError::Number("-1".into())));
    }
}

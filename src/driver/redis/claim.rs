//! One look for deliveries: the script, and what its answer comes to.

use std::borrow::Cow;
use std::sync::Arc;

use redis::Value;

use super::consumer::Inner;
use super::dead::CRASHES;
use super::held::Claim;
use super::keys::Queues;
use super::recover::End;
use super::scripts::{CLAIM, DISOWN};
use crate::broker::{BrokerError, ClaimId, Credit, DeadReason, Delivery};
use crate::clock::UnixMillis;
use crate::driver::routing::{QueueOrder, in_turns};
use crate::protocol::{DecodeError, Envelope, Opened};

/// More is asked for in several looks.
const MOST: usize = 5_000;
/// The largest number that a double, and so Lua, counts to exactly.
const MOST_BYTES: usize = 1 << 53;

/// What a look found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Looked {
    /// Something is kept for whoever asks; whether there was less than the credit.
    Found { less: bool },
    /// Nothing, and it is to be looked again at once.
    Again,
    /// Nothing, and without a change of the queues nothing will be there before that moment.
    NothingUntil(Option<UnixMillis>),
}

/// Ends of leases are asked for this often.
const LEASES_MS: i64 = 1000;

/// The answer of the script, apart.
struct Answer {
    due: Option<i64>,
    lease_end: Option<i64>,
    lease_token: String,
    /// How many elements were no objects and are dead letters now, and of which queue; mostly empty.
    buried: String,
    /// Number of the list, and the elements.
    elements: Vec<(usize, Vec<Value>)>,
}

impl Inner {
    /// Looks once. What it takes is kept for the next claim, whatever becomes of whoever asked.
    pub(super) async fn look(&self, credit: Credit, queues: &Queues) -> Result<Looked, BrokerError> {
        self.disown().await?;
        let count = credit.count.min(MOST);
        let (token, first) = self.reserve(count);
        let now = self.store.now();
        let leases = self.state.lock().leases.are_due(now);
        let called = self.call(&token, first, Credit { count, ..credit }, queues, leases).await;
        let answer = called.inspect_err(|_| self.doubt(&token, first, count))?;
        let answer = match answer {
            Value::Nil => {
                self.register_again(&token).await?;
                return Ok(Looked::Again);
            }
            answer => read(answer),
        };
        let Some(answer) = answer else { return Ok(Looked::Again) };
        let found = answer.elements.iter().map(|(_, elements)| elements.len()).sum::<usize>();
        if leases {
            self.state.lock().leases = Leases { asked: Some(now), end: answer.lease_end.map(UnixMillis) };
        }
        if !answer.buried.is_empty() {
            tracing::error!(
                "refused list elements that are no messages: {}; they are kept as dead letters (malformed)",
                answer.buried
            );
        }
        self.keep(&token, first, answer.elements, queues);
        self.settle_condemned().await?;
        let mut recovered = false;
        let grace = self.grace();
        if answer.lease_end.is_some_and(|end| end <= now.0) && !grace.is_zero() {
            self.state.lock().leases = Leases { asked: Some(now), end: Some(now.after(grace)) };
        } else if answer.lease_end.is_some_and(|end| end <= now.0) {
            let ended =
                self.store.recover(&answer.lease_token, End::Expired, self.options.max_crashes).await?;
            recovered = ended.is_some();
            self.state.lock().leases = Leases::default();
        }
        Ok(if self.has_kept() {
            Looked::Found { less: found < count }
        } else if found > 0 || recovered {
            Looked::Again
        } else {
            let moments = [answer.due.map(UnixMillis), self.state.lock().leases.end];
            Looked::NothingUntil(moments.into_iter().flatten().min())
        })
    }

    async fn call(
        &self,
        token: &str,
        first: u64,
        credit: Credit,
        queues: &Queues,
        leases: bool,
    ) -> Result<Value, BrokerError> {
        let layout = &self.store.layout;
        let fair = layout.order == QueueOrder::RoundRobin;
        let keys: Vec<&str> =
            layout.shared.iter().chain(&queues.parked).chain(&queues.lists).map(String::as_str).collect();
        let mut args: Vec<Cow<'_, str>> = vec![
            token.into(),
            self.store.now().0.to_string().into(),
            self.store.score().into(),
            first.to_string().into(),
            credit.count.to_string().into(),
            credit.bytes.min(MOST_BYTES).to_string().into(),
            queues.names.len().to_string().into(),
            layout.steps.len().to_string().into(),
            if fair { "fair" } else { "fixed" }.into(),
            layout.dead_letters.to_string().into(),
            if leases { "1" } else { "0" }.into(),
        ];
        args.extend(queues.names.iter().map(|name| Cow::Borrowed(&**name)));
        args.extend(queues.json.iter().map(|name| Cow::Borrowed(&**name)));
        args.extend(layout.steps.iter().map(|step| Cow::Owned(step.to_string())));
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        let answer = self.store.link.script(&CLAIM, &keys, &args).await;
        answer.map_err(|error| self.store.failed(error))
    }

    /// A look was not answered: nobody here knows what it took.
    fn doubt(&self, token: &str, first: u64, count: usize) {
        let mut state = self.state.lock();
        if *state.token == *token {
            state.doubtful.push((first, first + count as u64));
        }
    }

    /// Gives back what looks took that were not answered.
    pub(super) async fn disown(&self) -> Result<(), BrokerError> {
        let (token, doubtful) = {
            let mut state = self.state.lock();
            (state.token.clone(), std::mem::take(&mut state.doubtful))
        };
        for (at, (first, behind)) in doubtful.iter().enumerate() {
            let layout = &self.store.layout;
            let (first, behind) = (first.to_string(), behind.to_string());
            let args = [&token, first.as_str(), &behind, &layout.prefix, &layout.separator];
            if let Err(error) = self.store.link.script(&DISOWN, &layout.shared, &args).await {
                let mut state = self.state.lock();
                if state.token == token {
                    state.doubtful.extend_from_slice(&doubtful[at..]);
                }
                return Err(self.store.failed(error));
            }
        }
        Ok(())
    }

    /// Opens what was claimed. What cannot be opened is condemned: it must not come back, and not stop anything.
    fn keep(&self, token: &str, first: u64, lists: Vec<(usize, Vec<Value>)>, queues: &Queues) {
        let mut opened = Vec::new();
        let mut names = Names::default();
        let mut number = first;
        for (list, elements) in lists {
            let Some((queue, step)) = queues.place(&self.store.layout, list) else { continue };
            let shown = super::hear::shown(&queue);
            for element in elements {
                let Value::BulkString(element) = element else { continue };
                let delivery = names.delivery(number, &shown, &element);
                opened.push((number, Claim { queue: queue.clone(), step, marked: false }, delivery));
                number += 1;
            }
        }
        let mut state = self.state.lock();
        if *state.token != *token {
            // The lease was lost meanwhile, and all this with it.
            return;
        }
        let mut good = Vec::with_capacity(opened.len());
        for (number, claim, delivery) in opened {
            state.claims.insert(number, claim);
            match delivery {
                Ok(delivery) => good.push(delivery),
                Err(error) => {
                    let queue = &state.claims[&number].queue;
                    tracing::error!(
                        "refused a message from queue {queue:?} (malformed): {error}; it is kept as a dead letter"
                    );
                    state.condemned.push((number, DeadReason::Malformed, error.to_string()));
                }
            }
        }
        let fair = self.store.layout.order == QueueOrder::RoundRobin;
        state.kept.extend(if fair { in_turns(good) } else { good });
    }
}

/// What a consumer knows of the leases of others.
#[derive(Debug, Default)]
pub(super) struct Leases {
    /// When they were last asked for.
    asked: Option<UnixMillis>,
    /// The next one to end.
    pub(super) end: Option<UnixMillis>,
}

impl Leases {
    /// Whether it is time to ask. Of a consumer that came after the last time is not known.
    fn are_due(&self, now: UnixMillis) -> bool {
        self.asked.is_none_or(|asked| (now.0 - asked.0).abs() >= LEASES_MS)
            || self.end.is_some_and(|end| end <= now)
    }
}

/// The last exchange and routing key: most messages of a claim have the same.
#[derive(Default)]
struct Names {
    exchange: Option<Arc<str>>,
    routing_key: Option<Arc<str>>,
}

impl Names {
    fn delivery(&mut self, number: u64, queue: &Arc<str>, element: &[u8]) -> Result<Delivery, DecodeError> {
        let Opened { mut message, exchange, routing_key, redelivered, .. } = Envelope::open(element)?;
        let crashes = message.properties.other.remove(CRASHES);
        let crashes = crashes.and_then(|count| count.as_u64()).and_then(|count| u32::try_from(count).ok());
        Ok(Delivery {
            claim: ClaimId { id: number, fence: number },
            queue: queue.clone(),
            exchange: same(&mut self.exchange, &exchange),
            routing_key: same(&mut self.routing_key, &routing_key),
            redelivered,
            crashes: crashes.unwrap_or(0),
            message,
        })
    }
}

fn same(last: &mut Option<Arc<str>>, text: &str) -> Arc<str> {
    match last {
        Some(last) if &**last == text => last.clone(),
        _ => last.insert(text.into()).clone(),
    }
}

/// None when there is no answer to read: the numbers were disowned.
fn read(answer: Value) -> Option<Answer> {
    let Value::Array(items) = answer else { return None };
    let mut items = items.into_iter();
    let mut text = || match items.next() {
        Some(Value::BulkString(text)) => String::from_utf8_lossy(&text).into_owned(),
        _ => String::new(),
    };
    let moment = |text: &str| text.parse::<f64>().ok().map(|ms| ms as i64);
    let (due, lease_end, lease_token, buried) = (moment(&text()), moment(&text()), text(), text());
    let mut elements = Vec::new();
    while let (Some(Value::BulkString(list)), Some(Value::Array(of_list))) = (items.next(), items.next()) {
        let list = std::str::from_utf8(&list).ok().and_then(|list| list.parse().ok()).unwrap_or(usize::MAX);
        elements.push((list, of_list));
    }
    Some(Answer { due, lease_end, lease_token, buried, elements })
}

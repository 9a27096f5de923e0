//! The key that a message was sent under: whether it is this message's turn, and when the key is free again.
//!
//! 1. Where the store of the messages keeps keys, they are freed in the commit that ends the message, or marks it as begun.
//!    Elsewhere after that: a crash in between leaves the key until it runs out.
//! 2. A message whose key is in another store, or whose call was debounced, or of which one runs at a time, is asked about
//!    before it may run ([`crate::keys::Keys::arrive`]). It holds its place among the credit meanwhile.
//! 3. Keys of what is here are renewed, so that they run out only when nobody looks after them.
//! 4. An early acknowledgement of a message that holds its key to its end is a mark, as that of a member of a workflow:
//!    should this worker die, another concludes it, and frees the key.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::commit::{ANSWER_WITHIN, Stores, nothing};
use super::consumer::ConsumerLoop;
use super::link::Link;
use super::notice::Level;
use super::pool::{Mode, OutcomeKind, RequestTag};
use super::request::{Phase, Request};
use super::upkeep::Chore;
use crate::broker::{Commit, Settle};
use crate::keys::{Arrival, Held, Keys, Turn};
use crate::protocol::{Message, Own, Unique};

/// A message whose turn has not come is looked at again after this long.
const NEXT_TURN: Duration = Duration::from_secs(1);
/// Keys are renewed this often at the most.
const RENEW_MIN: Duration = Duration::from_secs(1);
/// Between two looks whether there is any to be renewed, at the most.
const LOOK: Duration = Duration::from_secs(10);

/// What a request knows of its key.
#[derive(Debug)]
pub(crate) struct RequestKey {
    sent: Unique,
    /// It has to be asked about before it runs.
    asks: bool,
    /// It was freed before the end.
    freed: bool,
}

impl RequestKey {
    /// `elsewhere`: keys are not in the store of the messages.
    pub(super) fn of(own: Option<Box<Own>>, elsewhere: bool) -> Option<Box<Self>> {
        let sent = own?.unique?;
        let asks = elsewhere || sent.debounced || sent.turn.is_some();
        Some(Box::new(Self { sent, asks, freed: false }))
    }

    /// It is freed by whoever ends the message.
    pub(super) fn lasts(&self) -> bool {
        self.frees_at("finished") || self.sent.turn.is_some()
    }

    fn frees_at(&self, moment: &str) -> bool {
        self.sent.until.as_deref() == Some(moment)
    }

    fn held(&self, key: &str) -> Held {
        Held { key: key.to_owned(), token: self.sent.token.clone(), ttl_ms: self.sent.ttl_ms }
    }

    /// What is freed with the last commit here: all of it when the message has ended for good.
    fn at_end(&self, ended: bool) -> Vec<Held> {
        let frees = ended && self.sent.until.is_some() && !self.freed;
        let key = frees.then_some(&self.sent.key);
        key.into_iter().chain(&self.sent.turn).map(|key| self.held(key)).collect()
    }

    /// What has to be held while the message is here.
    fn renewed(&self) -> Vec<Held> {
        let key = (self.sent.until.is_some() && !self.freed).then_some(&self.sent.key);
        let turn = self.sent.turn.as_ref().filter(|_| !self.asks);
        key.into_iter().chain(turn).map(|key| self.held(key)).collect()
    }
}

impl Request {
    /// Keys that are free when its claim is settled like this.
    pub(super) fn keys_after(&self, settle: &Settle) -> Vec<Held> {
        let Some(key) = &self.key else { return Vec::new() };
        key.at_end(matches!(settle, Settle::Ack | Settle::Dead(..)))
    }

    /// Keys that are free with its outcome.
    pub(super) fn keys_with(&self, kind: OutcomeKind, settle: &Settle) -> Vec<Held> {
        let Some(key) = &self.key else { return Vec::new() };
        let comes_back = matches!(settle, Settle::Requeue | Settle::Release | Settle::Park(_));
        key.at_end(kind != OutcomeKind::Retry && !comes_back)
    }

    /// Keys that are free when it has ended.
    pub(super) fn keys_at_end(&self) -> Vec<Held> {
        self.key.as_ref().map_or_else(Vec::new, |key| key.at_end(true))
    }
}

impl Stores {
    /// Where keys are.
    pub(super) fn keys(&self) -> Option<&dyn Keys> {
        self.broker.keys().or_else(|| self.backend.as_ref()?.keys())
    }

    /// A message's key, as far as its headers can be read.
    pub(super) fn key_of(&self, message: &Message) -> Option<Box<RequestKey>> {
        let own = message.task_headers().ok()?.own;
        RequestKey::of(own, self.broker.keys().is_none())
    }
}

impl ConsumerLoop {
    /// A request with a key may run as far as its time is concerned. True: it waits for what the store says.
    pub(super) fn asks_key(&mut self, tag: RequestTag) -> bool {
        let Some(request) = self.requests.get_mut(&tag).filter(|request| request.mode == Mode::Run) else {
            return false;
        };
        let Some(key) = request.key.as_mut().filter(|key| key.asks) else {
            self.free_early(tag, false);
            return false;
        };
        let arrival = Arrival {
            held: key.held(&key.sent.key),
            task_id: request.id.clone(),
            debounced: key.sent.debounced,
            turn: key.sent.turn.clone(),
        };
        let (stores, log) = (self.stores.clone(), self.log.clone());
        self.chores.push(Box::pin(async move {
            let Some(keys) = stores.keys() else { return Chore::Asked(tag, Turn::Run) };
            let mut link = Link::new("ask for keys", log);
            loop {
                let why = match timeout(ANSWER_WITHIN, keys.arrive(&arrival)).await {
                    Ok(Ok(turn)) => {
                        link.worked();
                        return Chore::Asked(tag, turn);
                    }
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "it does not answer".to_owned(),
                };
                tokio::time::sleep(link.failed(&why)).await;
            }
        }));
        true
    }

    /// The store has said whether it is its turn.
    pub(super) fn key_asked(&mut self, tag: RequestTag, turn: Turn) {
        // It may have been given back meanwhile.
        let Some(request) = self.requests.get_mut(&tag).filter(|request| request.phase == Phase::Ready)
        else {
            return;
        };
        match turn {
            Turn::Run => {
                if let Some(key) = &mut request.key {
                    key.asks = false;
                }
                self.free_early(tag, false);
                self.line_up(tag);
            }
            Turn::Duplicate(id) => {
                request.mode = Mode::Revoked(format!("task {id} has its key"));
                self.line_up(tag);
            }
            Turn::Superseded => {
                let Some(request) = self.remove(tag) else { return };
                self.log.task(Level::Info, "celery.worker.strategy", &request, || {
                    format!("Task {}[{}] is dropped: a later call takes its place", request.name, request.id)
                });
                self.settle(&request, Settle::Ack);
            }
            Turn::Wait => {
                let until = self.clock.now().after(NEXT_TURN);
                if let Some(request) = self.remove(tag) {
                    self.park(&request, until);
                }
            }
        }
    }

    /// Frees a key that is held only until a worker has the message, or until it is begun.
    pub(super) fn free_early(&mut self, tag: RequestTag, begun: bool) {
        let Some(request) = self.requests.get_mut(&tag).filter(|request| !request.stale) else { return };
        let Some(key) = request.key.as_mut().filter(|key| !key.freed) else { return };
        if key.frees_at("queued") || begun && key.frees_at("started") {
            key.freed = true;
            let free_keys = vec![key.held(&key.sent.key)];
            // Without the claim: that it is this message's turn is enough, whoever runs it in the end.
            self.commit_meanwhile(tag, Commit { free_keys, ..nothing() });
        }
    }

    /// Holds the keys of what is here for longer.
    pub(super) fn renew_keys(&mut self, now: Instant) {
        if self.keys_at > now {
            return;
        }
        let keyed = self.requests.values().filter(|request| !request.stale);
        let held: Vec<Held> =
            keyed.filter_map(|request| request.key.as_ref()).flat_map(|key| key.renewed()).collect();
        let Some(shortest) = held.iter().map(|held| held.ttl_ms).min() else {
            self.keys_at = now + LOOK;
            return;
        };
        self.keys_at = now + Duration::from_millis(shortest / 3).clamp(RENEW_MIN, LOOK);
        let stores = self.stores.clone();
        self.chores.push(Box::pin(async move {
            if let Some(keys) = stores.keys() {
                // They run out when it never works, and the next time is soon.
                let _ = timeout(ANSWER_WITHIN, keys.renew(&held)).await;
            }
            Chore::Swept
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(sent: Unique) -> RequestKey {
        let own =
            Own { unique: Some(Unique { key: "k".into(), token: "t".into(), ..sent }), ..Own::default() };
        *RequestKey::of(Some(Box::new(own)), false).unwrap()
    }

    fn until(moment: &str) -> Unique {
        Unique { until: Some(moment.to_owned()), ..Unique::default() }
    }

    #[test]
    fn a_key_is_freed_by_the_end_unless_it_is_not_freed_at_all_or_was_before() {
        assert_eq!(key(until("finished")).at_end(true).len(), 1);
        assert_eq!(key(until("finished")).at_end(false), []);
        assert_eq!(key(Unique::default()).at_end(true), []);
        let freed = RequestKey { freed: true, ..key(until("started")) };
        assert_eq!(freed.at_end(true), []);
        // One that never began is freed all the same.
        assert_eq!(key(until("started")).at_end(true).len(), 1);
    }

    #[test]
    fn a_turn_is_over_whatever_becomes_of_the_message() {
        let turn = Unique { turn: Some("r".into()), ..until("started") };
        assert_eq!(key(turn.clone()).at_end(false)[0].key, "r");
        assert!(key(turn).lasts() && key(until("finished")).lasts() && !key(until("started")).lasts());
    }
}

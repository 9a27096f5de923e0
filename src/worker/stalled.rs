//! Chords whose missing parts are nowhere any more: a queue was purged, a broker came back without its messages, a Celery
//! worker was killed with what it had acknowledged early. Found when nothing of a chord is counted for long, and none of the
//! messages that are left says a word of it, in two looks; and ended with an error that says so.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::chords::{Claimed, broken};
use super::commit::Stores;
use super::consumer::ConsumerLoop;
use super::member;
use super::notice::Level;
use super::pool::Mode;
use super::request::{Phase, Request};
use super::upkeep::Chore;
use crate::backend::{ChordClaim, Stalled};
use crate::protocol::Envelope;

/// A store that does not answer for so long is asked with the next look.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// Between two looks, and between the first time that a chord is found lost and the second: a message that was just on its
/// way from one place to another is seen then.
const LONGEST: Duration = Duration::from_secs(60);
const SHORTEST: Duration = Duration::from_millis(500);
/// Looks without progress and without a message after which a chord is lost.
const TWICE: u32 = 2;
/// How long its claim is held while a child ends it.
const HOLD: Duration = Duration::from_secs(180);

/// When chords are looked at.
#[derive(Debug)]
pub(super) struct StalledLook {
    after: Duration,
    at: Instant,
    looks: bool,
}

impl StalledLook {
    /// None where chords are not looked after: it is turned off, or the store keeps none.
    pub(super) fn new(after: Option<Duration>, stores: &Stores) -> Option<Self> {
        stores.backend.as_ref().filter(|backend| backend.counts_chords())?;
        Some(Self { after: after?, at: Instant::now(), looks: false })
    }

    fn every(&self) -> Duration {
        (self.after / 4).clamp(SHORTEST, LONGEST)
    }
}

impl ConsumerLoop {
    /// Looks for chords without progress.
    pub(super) fn look_for_stalled(&mut self, now: Instant) {
        let takes_work = self.takes_work();
        let Some(look) = self.stalled.as_mut().filter(|look| takes_work && !look.looks && look.at <= now)
        else {
            return;
        };
        (look.looks, look.at) = (true, now + look.every());
        let (after, again) = (look.after, look.every());
        let (stores, log) = (self.stores.clone(), self.log.clone());
        self.chores.push(Box::pin(async move {
            let found = timeout(ANSWER_WITHIN, lost(&stores, after, again)).await;
            let found = found.unwrap_or_else(|_| Err("the stores do not answer".to_owned()));
            // Another worker looks too, and this one will again.
            Chore::Stalled(found.unwrap_or_else(|error| {
                log.line(Level::Warning, "celery.worker.consumer", || {
                    format!("cannot look for chords without progress: {error}")
                });
                Vec::new()
            }))
        }));
    }

    /// These are lost: each is ended, if nobody else does.
    pub(super) fn stalled_found(&mut self, lost: Vec<Stalled>) {
        if let Some(look) = &mut self.stalled {
            look.looks = false;
        }
        for stalled in lost {
            self.end_lost_chord(stalled);
        }
    }

    fn end_lost_chord(&mut self, stalled: Stalled) {
        let why = why(&stalled);
        self.log.line(Level::Error, "celery.worker.request", || {
            format!("Chord {} cannot be completed: {why}", stalled.group_id)
        });
        let opened = Envelope::decode(&stalled.message).ok();
        let Some(Envelope { message, exchange, routing_key, .. }) = opened else { return };
        let Some((id, name)) = member::named(&message) else { return };
        let claim = ChordClaim {
            token: format!("lost:{:016x}", uuid::Uuid::new_v4().as_u64_pair().0),
            group_id: stalled.group_id,
            claim_ms: u64::try_from(HOLD.as_millis()).unwrap_or(u64::MAX),
            expires_ms: None,
            failed: false,
        };
        let join = broken(&claim, &why);
        let request = Request {
            consumer: self.sources.last().map_or(0, |source| source.number),
            claim: None,
            stale: false,
            suspect: false,
            task: self.tasks.number(&name),
            name: name.into(),
            id,
            message: Arc::new(message),
            queue: if routing_key.is_empty() { &*exchange } else { &*routing_key }.into(),
            has_defaults: false,
            buries: false,
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            redelivered: true,
            expires_ms: None,
            soft_limit: None,
            hard_limit: None,
            mode: Mode::Run,
            phase: Phase::Ready,
            terminate: None,
            pid: None,
            crashes: 0,
            member: true,
            once: true,
            first: false,
            kept: None,
            last: None,
            blind: false,
            limit: None,
            joining: None,
            large: None,
            batch: None,
            key: None,
        };
        self.join_lost(request, VecDeque::from([Claimed { claim, join }]));
    }
}

/// Chords that are lost.
async fn lost(stores: &Stores, after: Duration, again: Duration) -> Result<Vec<Stalled>, String> {
    let Some(backend) = &stores.backend else { return Ok(Vec::new()) };
    let stalled = backend.stalled_chords(after, again).await.map_err(|error| error.to_string())?;
    if stalled.is_empty() {
        return Ok(stalled);
    }
    let ids: Vec<String> = stalled.iter().map(|chord| chord.group_id.clone()).collect();
    let mentioned = stores.broker.mentions(&ids).await.map_err(|error| error.to_string())?;
    // A broker that cannot tell may have any of them.
    let mentioned = mentioned.unwrap_or_else(|| vec![true; ids.len()]);
    let (alive, lost): (Vec<_>, Vec<_>) = stalled.into_iter().zip(mentioned).partition(|(_, alive)| *alive);
    let alive: Vec<String> = alive.into_iter().map(|(chord, _)| chord.group_id).collect();
    if !alive.is_empty() {
        backend.spare_chords(&alive, after).await.map_err(|error| error.to_string())?;
    }
    Ok(lost.into_iter().map(|(chord, _)| chord).filter(|chord| chord.times >= TWICE).collect())
}

/// What whoever waits for the body is told.
fn why(stalled: &Stalled) -> String {
    let Stalled { size, counted, missing, .. } = stalled;
    let lost = size.saturating_sub(*counted);
    let mut which: Vec<String> = missing.iter().map(u64::to_string).collect();
    if (which.len() as u64) < lost && !which.is_empty() {
        which.push("...".to_owned());
    }
    let which = if which.is_empty() { String::new() } else { format!(" (index {})", which.join(", ")) };
    format!(
        "{lost} of its {size} parts{which} have not ended and are in no queue any more: their messages were purged, or \
         lost by a broker or by a worker that had acknowledged them early"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_says_which_parts_are_missing() {
        let told = |counted, missing: &[u64]| {
            why(&Stalled { size: 50, counted, missing: missing.to_vec(), ..Stalled::default() })
        };

        assert!(told(48, &[3, 7]).starts_with("2 of its 50 parts (index 3, 7) have not ended"));
        assert!(told(10, &[1, 2]).starts_with("40 of its 50 parts (index 1, 2, ...) have"));
        assert!(told(49, &[]).starts_with("1 of its 50 parts have"));
    }
}

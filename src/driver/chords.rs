//! How stores of our own count: who may end a chord, by the same rules that the script for Redis has.

use crate::backend::{ChordClaim, Counted, NONCE, nonce};
use crate::clock::UnixMillis;
use crate::protocol::ChordPart;

/// What is kept of a chord beside its parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chord {
    /// How many parts it has; none until that was said.
    pub(super) size: Option<u64>,
    /// How many were added since.
    pub(super) grown: u64,
    /// How many were counted.
    pub(super) counted: u64,
    /// Who ends it, and until when.
    pub(super) claim: Option<(String, UnixMillis)>,
    /// It has ended.
    pub(super) over: bool,
    /// When it is forgotten.
    pub(super) expires: Option<UnixMillis>,
}

impl Chord {
    /// Begins anew, or once more: what was counted stays.
    pub(super) fn start(&mut self, size: u64, expires_ms: Option<u64>, now: UnixMillis) {
        (self.size, self.claim, self.over) = (Some(size), None, false);
        self.keep(expires_ms, now);
    }

    pub(super) fn keep(&mut self, expires_ms: Option<u64>, now: UnixMillis) {
        self.expires = expires_ms.map(|ms| UnixMillis(now.0.saturating_add_unsigned(ms)));
    }

    pub(super) fn is_expired(&self, now: UnixMillis) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Someone is at work on its end.
    pub(super) fn is_held(&self, now: UnixMillis) -> bool {
        self.holder(now).is_some()
    }

    fn holder(&self, now: UnixMillis) -> Option<&str> {
        self.claim.as_ref().filter(|(_, until)| *until > now).map(|(token, _)| &**token)
    }

    /// A part was counted, now or before; `failed` is what is kept of it.
    pub(super) fn count(&mut self, part: &ChordPart, failed: bool, now: UnixMillis) -> Counted {
        self.keep(part.expires_ms, now);
        let own = |token: &str| token.len() > NONCE && token[..token.len() - NONCE - 1] == part.member();
        let (mine, held) = self.holder(now).map_or((false, false), |token| (own(token), true));
        let complete = self.size.is_some_and(|size| self.counted >= size + self.grown);
        if !mine && (held || !(complete || failed && self.size.is_some())) {
            return Counted::Waiting;
        }
        let claim = ChordClaim::new(part, &nonce(), failed);
        let until = UnixMillis(now.0.saturating_add_unsigned(part.claim_ms));
        self.claim = Some((claim.token.clone(), until));
        if failed { Counted::Failed(claim) } else { Counted::Complete(claim) }
    }

    /// Whether the claim is held, or can be again; it is until then.
    pub(super) fn hold(&mut self, claim: &ChordClaim, now: UnixMillis, until: UnixMillis) -> bool {
        let free = self.holder(now).is_none() && !self.over && self.size.is_some();
        let held = self.holder(now) == Some(&claim.token) || free;
        if held {
            self.claim = Some((claim.token.clone(), until));
        }
        held
    }

    /// Whether the claim is held.
    pub(super) fn is_held_by(&self, claim: &ChordClaim, now: UnixMillis) -> bool {
        self.holder(now) == Some(&claim.token)
    }

    /// Whether the claim is held: then nothing but that it is over is left.
    pub(super) fn finish(&mut self, claim: &ChordClaim, now: UnixMillis) -> bool {
        let held = self.is_held_by(claim, now);
        if held {
            *self = Self { over: true, ..Self::default() };
            self.keep(claim.remembered_ms(), now);
        }
        held
    }
}

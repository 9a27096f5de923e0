//! Requests that must not run twice: their early acknowledgement is in the store before they begin.
//!
//! A crash before it is stored leaves the message as it was; one after it ends the request as lost, although it may not
//! have begun. Others are acknowledged while they run ([`super::running`]), so that a short one needs one commit.

use super::commit::What;
use super::consumer::ConsumerLoop;
use super::pool::RequestTag;
use super::request::Phase;
use crate::broker::{ClaimId, Committed};

impl ConsumerLoop {
    /// It is its turn: it is marked, and comes back when that is stored.
    pub(super) fn mark_first(&mut self, tag: RequestTag) {
        let Some(request) = self.requests.get_mut(&tag) else { return };
        request.phase = Phase::Marking;
        self.marking.insert(tag);
        self.acknowledge_early(tag);
    }

    /// A batch was carried out, and some are being marked.
    pub(super) fn marked(&mut self, answers: &[(What, Committed)]) {
        for (what, _) in answers {
            if let What::Meanwhile(tag, claim) = what
                && claim.is_some()
                && self.marking.remove(tag)
            {
                self.go_on(*tag, *claim);
            }
        }
    }

    fn go_on(&mut self, tag: RequestTag, marked: Option<ClaimId>) {
        let Some(request) = self.requests.get_mut(&tag) else { return };
        if request.stale && (request.claim.is_none() || request.claim == marked) {
            // Its claim was lost: it runs elsewhere.
            self.remove(tag);
            return;
        }
        (request.phase, request.first) = (Phase::Ready, false);
        let batched = self.tasks.options(request.task).batch.is_some();
        if !batched || !self.gather(tag) {
            self.ready.push_front(tag);
        }
    }
}

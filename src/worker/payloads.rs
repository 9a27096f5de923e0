//! Messages whose bodies are kept elsewhere (`large_payload_store`): the program is told when such a message is settled for
//! good, and deletes what was kept. Never before: whoever gets the message again must find it.

use super::commit::What;
use super::consumer::ConsumerLoop;
use super::counting::PartEnd;
use super::notice::Notice;
use super::request::Request;
use crate::broker::{Commit, Committed, Settle};

impl ConsumerLoop {
    /// What the last commit of a request is for. After an early acknowledgement nothing is left to be settled.
    pub(super) fn end_of(&mut self, request: &Request, commit: &Commit) -> What {
        let what = request.kept.map_or(What::End, What::EndOfKept);
        let Some(reference) = &request.large else { return what };
        if commit.settle != Settle::Ack && (commit.settle != Settle::Keep || commit.claim.is_some()) {
            return what;
        }
        let number = request.kept.unwrap_or(self.next_tag);
        self.next_tag += 1;
        self.payloads.insert(number, reference.clone());
        if request.kept.is_some() { what } else { What::EndOfLarge(number) }
    }

    /// The last commit of such a request was carried out, or its claim was lost: then it is somebody else's. Not the last
    /// one after all, when a chord is still to be ended with the same message.
    pub(super) fn payload_settled(&mut self, number: u64, answer: Committed, joins: &[PartEnd]) {
        let Some(reference) = self.payloads.remove(&number) else { return };
        let goes_on = joins.iter().any(|join| join.request.large.as_ref() == Some(&reference));
        if answer == Committed::Done && !goes_on {
            self.notices.push(Notice::Settled(reference));
        }
    }
}

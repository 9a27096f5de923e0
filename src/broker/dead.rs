//! Dead letters: messages that will not be tried again, kept with the reason.

use std::time::Duration;

use crate::clock::UnixMillis;
use crate::protocol::{Message, Publication};

/// Between what happened and its traceback, where a store has one text for both.
const TRACEBACK: char = '\u{1f}';
/// A traceback is cut to its last so many bytes: its end says what was raised.
const LONGEST_TRACEBACK: usize = 16 << 10;

/// Why a message is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadReason {
    /// It could not be read.
    Malformed,
    /// No task of that name is registered.
    Unknown,
    /// Its content type is not accepted.
    Disallowed,
    /// It is larger than allowed.
    TooLarge,
    /// It killed its process too often.
    Crashed,
    /// The task rejected it.
    Rejected,
    /// The task has failed for good, and asks for that (`dead_letter`).
    Failed,
}

impl DeadReason {
    /// Its name in stores and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Disallowed => "disallowed",
            Self::TooLarge => "too-large",
            Self::Crashed => "crashed",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
        }
    }
}

/// A message that will not be tried again.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Its number in the store, by which it is retried and dropped.
    pub id: u64,
    /// The queue it was in.
    pub queue: String,
    /// The name of its [`DeadReason`].
    pub reason: String,
    /// What happened, in words: of a task that has failed, the repr of its exception.
    pub detail: String,
    /// Where the task raised; empty when it did not.
    pub traceback: String,
    /// How often its process died.
    pub crashes: u32,
    /// When it died.
    pub died: UnixMillis,
    /// The message, exactly.
    pub message: Message,
}

/// What happened and its traceback as the one text that [`super::Settle::Dead`] and the stores take.
pub(crate) fn account(detail: &str, traceback: &str) -> String {
    if traceback.is_empty() {
        return detail.to_owned();
    }
    let mut start = traceback.len().saturating_sub(LONGEST_TRACEBACK);
    while !traceback.is_char_boundary(start) {
        start += 1;
    }
    format!("{}{TRACEBACK}{}", detail.replace(TRACEBACK, " "), &traceback[start..])
}

/// What [`account`] made, without the traceback.
pub(crate) fn without_traceback(account: &str) -> &str {
    account.split_once(TRACEBACK).map_or(account, |(detail, _)| detail)
}

/// Takes apart what [`account`] made.
pub(crate) fn apart(account: &str) -> (String, String) {
    let (detail, traceback) = account.split_once(TRACEBACK).unwrap_or((account, ""));
    (detail.to_owned(), traceback.to_owned())
}

/// Which dead letters are meant: those that fit all that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadFilter {
    /// These numbers.
    pub ids: Option<Vec<u64>>,
    /// From this queue.
    pub queue: Option<String>,
    /// For this reason.
    pub reason: Option<String>,
    /// Of this task.
    pub task: Option<String>,
    /// Died at this moment or later.
    pub since: Option<UnixMillis>,
    /// Died before this moment.
    pub until: Option<UnixMillis>,
}

impl DeadFilter {
    /// All of one queue, or of every queue.
    pub fn of_queue(queue: Option<&str>) -> Self {
        Self { queue: queue.map(str::to_owned), ..Self::default() }
    }

    /// Whether a letter of this number and queue may fit: what a store knows before it reads the letter.
    pub fn may_fit(&self, id: u64, queue: &str) -> bool {
        self.ids.as_ref().is_none_or(|ids| ids.contains(&id))
            && self.queue.as_ref().is_none_or(|wanted| wanted == queue)
    }

    /// Whether it is one of those that are meant.
    pub fn fits(&self, letter: &DeadLetter) -> bool {
        let task = || {
            letter.message.task_headers().is_ok_and(|headers| Some(&*headers.task) == self.task.as_deref())
        };
        self.may_fit(letter.id, &letter.queue)
            && self.reason.as_ref().is_none_or(|wanted| *wanted == letter.reason)
            && self.since.is_none_or(|since| letter.died >= since)
            && self.until.is_none_or(|until| letter.died < until)
            && (self.task.is_none() || task())
    }
}

/// How many dead letters there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeadStats {
    /// All of them.
    pub count: u64,
    /// When the oldest died.
    pub oldest: Option<UnixMillis>,
}

/// What becomes of a dead letter.
#[derive(Clone, Debug)]
pub struct Resolution {
    /// Its number.
    pub id: u64,
    /// What is published in its place; none drops it.
    pub publication: Option<Publication>,
}

/// How long dead letters are kept, and how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeadLimits {
    /// Older ones go.
    pub max_age: Option<Duration>,
    /// Of more than so many, the oldest go.
    pub max_count: Option<u64>,
}

impl DeadLimits {
    /// Whether there is anything to be looked at.
    pub fn any(&self) -> bool {
        self.max_age.is_some() || self.max_count.is_some()
    }

    /// Letters that died before this moment are too old.
    pub(crate) fn too_old(&self, now: UnixMillis) -> Option<UnixMillis> {
        let age = i64::try_from(self.max_age?.as_millis()).unwrap_or(i64::MAX);
        Some(UnixMillis(now.0.saturating_sub(age)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_taken_apart_as_it_was_put_together() {
        for (detail, traceback) in
            [("ValueError('x')", "Traceback ...\nValueError: x\n"), ("refused", ""), ("", "t")]
        {
            assert_eq!(apart(&account(detail, traceback)), (detail.to_owned(), traceback.to_owned()));
        }
    }

    #[test]
    fn of_a_long_traceback_the_end_is_kept() {
        let long = "ä".repeat(LONGEST_TRACEBACK) + "ValueError: x";
        let (_, traceback) = apart(&account("d", &long));
        assert!(traceback.len() <= LONGEST_TRACEBACK && traceback.ends_with("ValueError: x"));
    }

    #[test]
    fn a_filter_means_what_fits_all_of_it() {
        let headers = br#"{"task": "t", "id": "1"}"#.to_vec().into();
        let letter = DeadLetter {
            id: 7,
            queue: "q".to_owned(),
            reason: "failed".to_owned(),
            detail: String::new(),
            traceback: String::new(),
            crashes: 0,
            died: UnixMillis(100),
            message: Message { headers, ..Message::default() },
        };
        let text = |text: &str| Some(text.to_owned());
        let all = DeadFilter {
            ids: Some(vec![7]),
            queue: text("q"),
            reason: text("failed"),
            task: text("t"),
            since: Some(UnixMillis(100)),
            until: Some(UnixMillis(101)),
        };
        assert!(all.fits(&letter) && DeadFilter::default().fits(&letter));
        for other in [
            DeadFilter { ids: Some(vec![8]), ..all.clone() },
            DeadFilter { queue: text("p"), ..all.clone() },
            DeadFilter { reason: text("unknown"), ..all.clone() },
            DeadFilter { task: text("u"), ..all.clone() },
            DeadFilter { since: Some(UnixMillis(101)), ..all.clone() },
            DeadFilter { until: Some(UnixMillis(100)), ..all.clone() },
        ] {
            assert!(!other.fits(&letter), "{other:?}");
        }
    }
}

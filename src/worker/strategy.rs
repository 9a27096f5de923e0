//! What to do with a delivery: run, wait, park, conclude or refuse. Pure.

use std::time::Duration;

use super::options::WorkerOptions;
use super::pool::Mode;
use crate::broker::DeadReason;
use crate::clock::UnixMillis;
use crate::protocol::{Message, TaskHeaders};

/// An ETA this near is waited for in the worker; one farther away is parked in the broker.
pub(crate) const NEAR: Duration = Duration::from_secs(1);

/// What to do with a task message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// Run it, as soon as its rate limit and the slots allow.
    Run,
    /// Wait for its ETA here.
    Hold(UnixMillis),
    /// Let the broker keep it until its ETA.
    Park(UnixMillis),
    /// Have a child conclude it without running it.
    Conclude(Mode),
}

/// Decides what happens to a task message that can be read.
pub(crate) fn decide(headers: &TaskHeaders<'_>, known: bool, revoked: bool, now: UnixMillis) -> Decision {
    if !known {
        return Decision::Conclude(Mode::Unknown);
    }
    if let Some(mode) = discard(revoked, headers.expires_ms, now) {
        return Decision::Conclude(mode);
    }
    match headers.eta_ms.map(UnixMillis) {
        Some(eta) if eta > now.after(NEAR) => Decision::Park(eta),
        Some(eta) if eta > now => Decision::Hold(eta),
        _ => Decision::Run,
    }
}

/// Why a task must not run, if so. Asked when it is received, and again just before it runs.
pub(crate) fn discard(revoked: bool, expires_ms: Option<i64>, now: UnixMillis) -> Option<Mode> {
    if revoked {
        return Some(Mode::Revoked("revoked".to_owned()));
    }
    let expired = expires_ms.is_some_and(|expires| now.0 > expires);
    expired.then(|| Mode::Revoked("expired".to_owned()))
}

/// Refuses what must not reach Python, before anything of it is parsed. The words hold nothing of its content.
pub(crate) fn refuse(message: &Message, options: &WorkerOptions) -> Option<(DeadReason, String)> {
    let size = message.headers.len() + message.body.len();
    if size > options.max_message_bytes {
        let limit = options.max_message_bytes;
        return Some((DeadReason::TooLarge, format!("{size} bytes are over the limit of {limit} bytes")));
    }
    let content_type = &message.properties.content_type;
    if content_type.is_empty() {
        return Some((DeadReason::Disallowed, "it has no content type".to_owned()));
    }
    if !options.accept_content.contains(content_type) {
        let shown: String = content_type.chars().filter(|char| !char.is_control()).take(80).collect();
        return Some((DeadReason::Disallowed, format!("content type {shown:?} is not accepted")));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000_000);

    fn headers(eta_ms: Option<i64>, expires_ms: Option<i64>) -> TaskHeaders<'static> {
        TaskHeaders { eta_ms, expires_ms, ..TaskHeaders::default() }
    }

    #[test]
    fn an_eta_decides_where_to_wait() {
        let decided = |eta| decide(&headers(Some(eta), None), true, false, NOW);

        assert_eq!(decided(999_999), Decision::Run);
        assert_eq!(decided(1_000_000), Decision::Run);
        assert_eq!(decided(1_000_500), Decision::Hold(UnixMillis(1_000_500)));
        assert_eq!(decided(1_001_000), Decision::Hold(UnixMillis(1_001_000)));
        assert_eq!(decided(1_001_001), Decision::Park(UnixMillis(1_001_001)));
    }

    #[test]
    fn revoked_expired_and_unknown_tasks_are_concluded() {
        let revoked = Decision::Conclude(Mode::Revoked("revoked".into()));
        let expired = Decision::Conclude(Mode::Revoked("expired".into()));

        assert_eq!(decide(&headers(None, None), true, true, NOW), revoked);
        assert_eq!(decide(&headers(None, Some(NOW.0 - 1)), true, false, NOW), expired);
        assert_eq!(decide(&headers(Some(NOW.0 + 9_999), Some(NOW.0 - 1)), true, false, NOW), expired);
        assert_eq!(decide(&headers(None, Some(NOW.0)), true, false, NOW), Decision::Run);
        assert_eq!(decide(&headers(None, None), false, true, NOW), Decision::Conclude(Mode::Unknown));
    }

    #[test]
    fn size_and_content_type_are_checked_before_anything_is_read() {
        let options = WorkerOptions { max_message_bytes: 10, ..WorkerOptions::default() };
        let mut message = Message { body: vec![0; 11].into(), ..Message::default() };
        assert_eq!(refuse(&message, &options).map(|refusal| refusal.0), Some(DeadReason::TooLarge));

        message.body = vec![0; 10].into();
        assert_eq!(refuse(&message, &options).map(|refusal| refusal.0), Some(DeadReason::Disallowed));
        message.properties.content_type = "application/x-python-serialize".into();
        assert_eq!(refuse(&message, &options).map(|refusal| refusal.0), Some(DeadReason::Disallowed));
        message.properties.content_type = "application/json".into();
        assert_eq!(refuse(&message, &options), None);
    }
}

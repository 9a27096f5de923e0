//! What an answer, or the lack of one, means: done, try again, or never. Pure.

use std::time::Duration;

use hyper::header::{HeaderMap, RETRY_AFTER};
use jiff::fmt::rfc2822::DateTimeParser;

use super::guard::Refusal;
use crate::backoff::Backoff;
use crate::clock::UnixMillis;

/// The name of the module of our exceptions, as Python finds them.
pub(super) const MODULE: &str = "celeriac.exceptions";
/// Texts of users that are quoted in errors are cut to this.
const MAX_DETAIL: usize = 2_000;

/// What went wrong, as the result record tells it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Problem {
    /// The exception of `celeriac.exceptions`.
    pub(super) class: &'static str,
    /// A sentence without secrets.
    pub(super) text: String,
    /// The status, when there was an answer.
    pub(super) status: Option<u16>,
    /// The beginning of the answer's body, when it is text.
    pub(super) body: Option<String>,
    /// It may go better later.
    pub(super) again: Again,
}

/// Whether to try again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Again {
    /// It would end the same way.
    #[default]
    Never,
    /// Perhaps.
    Later,
    /// The receiver has said when.
    After(Duration),
}

impl Problem {
    /// It was not sent, nor will it be.
    pub(super) fn refused(refusal: &Refusal) -> Self {
        Self { class: "HttpRefused", text: refusal.to_string(), ..Self::default() }
    }

    /// The network failed.
    pub(super) fn network(text: String) -> Self {
        Self { class: "HttpConnectionError", text, again: Again::Later, ..Self::default() }
    }

    /// No answer in time.
    pub(super) fn timeout(text: String) -> Self {
        Self { class: "HttpTimeout", text, again: Again::Later, ..Self::default() }
    }

    /// An answer that is no success. `shown` is what was called, `body` what came back.
    pub(super) fn status(
        shown: &str,
        status: u16,
        headers: &HeaderMap,
        body: &[u8],
        now: UnixMillis,
    ) -> Self {
        let redirect = (300..400).contains(&status);
        let again = match status {
            408 | 409 | 425 | 429 | 500.. => retry_after(headers, now).map_or(Again::Later, Again::After),
            _ => Again::Never,
        };
        let reason = hyper::StatusCode::from_u16(status).ok().and_then(|code| code.canonical_reason());
        let why = if redirect { ", and redirects are not followed" } else { "" };
        Self {
            class: if redirect { "HttpRedirect" } else { "HttpStatusError" },
            text: format!("{shown} answered {status} {}{why}", reason.unwrap_or("(no reason)")),
            status: Some(status),
            body: std::str::from_utf8(body).ok().map(|text| text.chars().take(MAX_DETAIL).collect()),
            again,
        }
    }
}

/// When to try again.
#[derive(Clone, Debug)]
pub(super) enum Plan<'a> {
    /// So often at the most, with delays that grow.
    Backoff(u32, Backoff),
    /// After these delays, one after another.
    Schedule(&'a [Duration]),
}

impl Plan<'_> {
    /// The delay before the next try; none: there is none. `tried` is how often it was tried again before.
    pub(super) fn next(
        &self,
        again: Again,
        tried: u32,
        most: Duration,
        rng: &mut fastrand::Rng,
    ) -> Option<Duration> {
        let asked = match again {
            Again::Never => return None,
            Again::Later => None,
            Again::After(delay) => Some(delay.min(most)),
        };
        let own = match self {
            Plan::Backoff(retries, backoff) => (tried < *retries).then(|| backoff.delay(tried, rng))?,
            Plan::Schedule(delays) => {
                let delay = *delays.get(tried as usize)?;
                // Webhooks of one outage must not all come back in the same moment.
                delay.mul_f64(1.0 + 0.1 * rng.f64())
            }
        };
        // Not before the receiver wants it, nor before we would.
        Some(asked.map_or(own, |asked| asked.max(own)))
    }
}

/// Seconds, or a date (RFC 9110); one that is past means now.
fn retry_after(headers: &HeaderMap, now: UnixMillis) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let at = DateTimeParser::new().relaxed_weekday(true).parse_timestamp(text).ok()?;
    Some(now.until(UnixMillis(at.as_millisecond())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_445_412_480_000); // Wed, 21 Oct 2015 07:28:00 GMT

    fn answered(status: u16, retry_after: Option<&str>) -> Problem {
        let mut headers = HeaderMap::new();
        if let Some(text) = retry_after {
            headers.insert(RETRY_AFTER, text.parse().expect("a header"));
        }
        Problem::status("POST https://a/b", status, &headers, b"why", NOW)
    }

    #[test]
    fn a_status_decides_whether_to_try_again() {
        for status in [408, 409, 425, 429, 500, 501, 502, 503, 504, 599] {
            assert_eq!(answered(status, None).again, Again::Later, "{status}");
        }
        for status in [300, 301, 302, 307, 308, 400, 401, 403, 404, 405, 410, 413, 422, 451] {
            assert_eq!(answered(status, None).again, Again::Never, "{status}");
        }
        assert_eq!(answered(302, None).class, "HttpRedirect");
        assert_eq!(answered(410, None).text, "POST https://a/b answered 410 Gone");
        assert_eq!(answered(500, None).body.as_deref(), Some("why"));
    }

    #[test]
    fn the_receiver_may_say_when() {
        let after = |text| answered(429, Some(text)).again;
        assert_eq!(after("120"), Again::After(Duration::from_secs(120)));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:30 GMT"), Again::After(Duration::from_secs(30)));
        assert_eq!(after("Wed, 21 Oct 2015 07:00:00 GMT"), Again::After(Duration::ZERO));
        for nonsense in ["soon", "-1", ""] {
            assert_eq!(after(nonsense), Again::Later, "{nonsense}");
        }
        assert_eq!(answered(404, Some("1")).again, Again::Never);
    }

    #[test]
    fn delays_grow_and_end() {
        let backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(60), jitter: 0.0 };
        let plan = Plan::Backoff(3, backoff);
        let most = Duration::from_secs(100);
        let mut rng = fastrand::Rng::with_seed(1);
        let mut next = |again, tried| plan.next(again, tried, most, &mut rng).map(|delay| delay.as_secs());

        assert_eq!(
            [next(Again::Later, 0), next(Again::Later, 2), next(Again::Later, 3)],
            [Some(1), Some(4), None]
        );
        assert_eq!(next(Again::Never, 0), None);
        assert_eq!(next(Again::After(Duration::from_secs(30)), 0), Some(30));
        assert_eq!(next(Again::After(Duration::from_secs(9_999)), 0), Some(100));
        assert_eq!(next(Again::After(Duration::ZERO), 1), Some(2));
    }

    #[test]
    fn a_schedule_is_kept_to_but_for_a_tenth() {
        let delays = [Duration::from_secs(5), Duration::from_secs(300)];
        let plan = Plan::Schedule(&delays);
        let mut rng = fastrand::Rng::with_seed(1);
        let mut next = |tried| plan.next(Again::Later, tried, Duration::from_secs(1), &mut rng);

        let first = next(0).expect("a delay");
        assert!((5.0..=5.5).contains(&first.as_secs_f64()), "{first:?}");
        assert!(next(1).expect("a delay") >= Duration::from_secs(300));
        assert_eq!(next(2), None);
    }
}

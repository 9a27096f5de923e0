//! Members of a workflow: requests whose loss would leave others waiting for ever.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::pool::Mode;
use crate::broker::{DeadReason, Settle};
use crate::protocol::{Message, TaskHeaders};

/// How the body of a call ends that nothing hangs on, as Celery and we write it: mostly there is nothing more to look at.
const ALONE: &[u8] = br#", {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#;

/// Headers of a refused message that are longer are not looked into.
const READ_HEADERS: usize = 64 << 10;

/// How a process ended that nobody saw end.
pub(crate) const GONE: &str = "the whole worker that ran it is gone";

/// What follows the end of a task.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Embed<'a> {
    #[serde(borrow)]
    callbacks: Option<&'a RawValue>,
    #[serde(borrow)]
    errbacks: Option<&'a RawValue>,
    #[serde(borrow)]
    chain: Option<&'a RawValue>,
    #[serde(borrow)]
    chord: Option<&'a RawValue>,
}

impl Embed<'_> {
    /// Something is to be done when the task has ended.
    fn follows(&self) -> bool {
        let any = |part: Option<&RawValue>| part.is_some_and(|part| part.get() != "[]");
        [self.callbacks, self.errbacks, self.chain, self.chord].into_iter().any(any)
    }
}

/// Arguments, which nobody looks at here, and what follows.
type Body<'a> = (IgnoredAny, IgnoredAny, Option<Embed<'a>>);

/// Whether others wait for this one: it is part of a group, was sent by another task, or something follows its end. A body
/// that the engine cannot read (compressed, pickled) counts as one that something follows.
pub(crate) fn is_member(headers: &TaskHeaders<'_>, message: &Message) -> bool {
    let roots = headers.root_id.as_ref().is_some_and(|root| *root != headers.id);
    if headers.group.is_some() || headers.parent_id.is_some() || roots {
        return true;
    }
    if message.body.ends_with(ALONE) {
        return false;
    }
    let Ok((_, _, embed)) = serde_json::from_slice::<Body<'_>>(&message.body) else { return true };
    embed.is_some_and(|embed| embed.follows())
}

/// Whether the third part of a body says that something is to be done when the task has ended.
pub(crate) fn follows(embed: &str) -> bool {
    let read = serde_json::from_str::<Option<Embed<'_>>>(embed);
    read.ok().flatten().is_some_and(|embed| embed.follows())
}

/// Id and task of a message that is refused, as far as its headers can be read.
pub(crate) fn named(message: &Message) -> Option<(String, String)> {
    #[derive(Deserialize)]
    struct Named {
        id: String,
        task: String,
    }
    if message.headers.len() > READ_HEADERS {
        return None;
    }
    let named: Named = serde_json::from_slice(&message.headers).ok()?;
    Some((named.id, named.task))
}

/// What to do with a message that comes again after crashes, if it is not to run: how to conclude it, and how to settle it
/// then if not as usual. `once`: it is acknowledged early and was kept only for this.
pub(crate) fn after_crashes(crashes: u32, allowed: u32, once: bool) -> Option<(Mode, Option<Settle>)> {
    if crashes >= allowed.max(1) && !once {
        let how = format!("the process that ran it died {crashes} times");
        return Some((Mode::Lost(how.clone()), Some(Settle::Dead(DeadReason::Crashed, how))));
    }
    (crashes > 0 && once).then(|| (Mode::Lost(GONE.to_owned()), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &str) -> Message {
        Message { body: body.to_owned().into(), ..Message::default() }
    }

    fn headers() -> TaskHeaders<'static> {
        TaskHeaders { id: "a".into(), root_id: Some("a".into()), ..TaskHeaders::default() }
    }

    #[test]
    fn a_call_that_nothing_hangs_on_is_no_member() {
        let bodies = [
            r#"[[1], {"x": 2}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#,
            r#"[[1],{},{"chord":null,"callbacks":[],"chain":null,"errbacks":null}]"#,
            "[[], {}, {}]",
            "[[], {}, null]",
        ];
        for body in bodies {
            assert!(!is_member(&headers(), &message(body)), "{body}");
        }
    }

    #[test]
    fn whatever_follows_a_task_makes_it_a_member() {
        for name in ["callbacks", "errbacks", "chain", "chord"] {
            let body = format!(r#"[[], {{}}, {{"{name}": [{{"task": "t"}}]}}]"#);
            assert!(is_member(&headers(), &message(&body)), "{body}");
        }
        for body in ["\u{80}pickled", "", "[[], {}]", "[[NaN], {}, {}]"] {
            assert!(is_member(&headers(), &message(body)), "{body}");
        }
    }

    #[test]
    fn so_does_where_it_comes_from() {
        let alone = message("[[], {}, {}]");
        let mut grouped = headers();
        grouped.group = Some("g".into());
        let mut sent = headers();
        sent.parent_id = Some("p".into());
        let mut rooted = headers();
        rooted.root_id = Some("r".into());

        assert!([grouped, sent, rooted].iter().all(|headers| is_member(headers, &alone)));
    }

    #[test]
    fn too_many_crashes_end_a_message_and_one_ends_what_may_run_only_once() {
        let ends = |crashes, once| after_crashes(crashes, 3, once).map(|(_, settle)| settle.is_some());

        assert_eq!([ends(0, false), ends(2, false), ends(3, false)], [None, None, Some(true)]);
        assert_eq!([ends(0, true), ends(1, true), ends(3, true)], [None, Some(false), Some(false)]);
    }
}

//! The headers of protocol 2, as far as the engine reads them.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::json::{self, Loose};
use super::{DecodeError, Message, Own, parse_iso_ms};

const PART: &str = "headers";
/// A century. Longer limits are cut, so that every one of them fits the arithmetic of time.
const MAX_LIMIT_SECONDS: f64 = 100.0 * 366.0 * 86_400.0;

/// The order in which Celery writes its headers; others follow.
pub const HEADER_ORDER: [&str; 21] = [
    "lang",
    "task",
    "id",
    "shadow",
    "eta",
    "expires",
    "group",
    "group_index",
    "retries",
    "timelimit",
    "root_id",
    "parent_id",
    "argsrepr",
    "kwargsrepr",
    "origin",
    "ignore_result",
    "replaced_task_nesting",
    "stamped_headers",
    "stamps",
    "compression",
    "celery_beat_task",
];

/// The headers that the engine looks at. Texts are borrowed from the message unless they hold escapes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskHeaders<'a> {
    /// The task's name.
    pub task: Cow<'a, str>,
    /// The task's id; any text.
    pub id: Cow<'a, str>,
    /// Not to be run before, in milliseconds since the epoch.
    pub eta_ms: Option<i64>,
    /// Not to be run after, in milliseconds since the epoch.
    pub expires_ms: Option<i64>,
    /// Seconds after which its process is killed; never negative.
    pub hard_limit: Option<f64>,
    /// Seconds after which `SoftTimeLimitExceeded` is raised; never negative.
    pub soft_limit: Option<f64>,
    /// How often it was tried before.
    pub retries: u32,
    /// Whether its result is wanted; none leaves it to the task.
    pub ignore_result: Option<bool>,
    /// The group it is part of.
    pub group: Option<Cow<'a, str>>,
    /// The first task of its workflow.
    pub root_id: Option<Cow<'a, str>>,
    /// The task that sent it.
    pub parent_id: Option<Cow<'a, str>>,
    /// The name to show instead of its own.
    pub shadow: Option<Cow<'a, str>>,
    /// What options of ours have to say; none in messages of who uses none.
    pub own: Option<Box<Own>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields<'a> {
    #[serde(borrow)]
    task: Loose<'a>,
    id: Loose<'a>,
    eta: Loose<'a>,
    expires: Loose<'a>,
    timelimit: Limits,
    retries: Loose<'a>,
    ignore_result: Loose<'a>,
    group: Loose<'a>,
    root_id: Loose<'a>,
    parent_id: Loose<'a>,
    shadow: Loose<'a>,
    #[serde(borrow, rename = "celeriac")]
    own: Option<&'a RawValue>,
}

impl Message {
    /// Reads what the engine needs of the headers, in one pass; others are skipped.
    ///
    /// Names and texts that only monitors see (`group`, `root_id`, `parent_id`, `shadow`) count as not given
    /// when they are no text, as Celery's worker runs such messages.
    pub fn task_headers(&self) -> Result<TaskHeaders<'_>, DecodeError> {
        match json::object::<Fields<'_>>(&self.headers, PART) {
            Ok(fields) => fields.check(),
            Err(DecodeError::NotObject { .. }) => Err(DecodeError::UnknownMessage),
            // Python's JSON allows words that JSON does not: look again without them.
            Err(error) => {
                let Some(masked) = json::mask_nan(&self.headers) else { return Err(error) };
                Ok(json::object::<Fields<'_>>(&masked, PART)?.check()?.into_owned())
            }
        }
    }
}

impl TaskHeaders<'_> {
    /// The same without borrowing from the message.
    pub fn into_owned(self) -> TaskHeaders<'static> {
        fn owned(text: Cow<'_, str>) -> Cow<'static, str> {
            Cow::Owned(text.into_owned())
        }
        TaskHeaders {
            task: owned(self.task),
            id: owned(self.id),
            group: self.group.map(owned),
            root_id: self.root_id.map(owned),
            parent_id: self.parent_id.map(owned),
            shadow: self.shadow.map(owned),
            eta_ms: self.eta_ms,
            expires_ms: self.expires_ms,
            hard_limit: self.hard_limit,
            soft_limit: self.soft_limit,
            retries: self.retries,
            ignore_result: self.ignore_result,
            own: self.own,
        }
    }
}

impl<'a> Fields<'a> {
    fn check(self) -> Result<TaskHeaders<'a>, DecodeError> {
        let task = self.task.text().ok_or(DecodeError::UnknownMessage)?;
        let id = match self.id {
            Loose::Text(id) => id,
            id if id.is_none() => return Err(DecodeError::Missing { part: PART, field: "id" }),
            _ => return Err(invalid("id", "text")),
        };
        let (hard_limit, soft_limit) = match self.timelimit {
            Limits::Pair(hard, soft) => (hard, soft),
            Limits::Bad => return Err(invalid("timelimit", "[hard, soft] in seconds")),
        };
        let retries = match self.retries {
            Loose::Int(count) => u32::try_from(count).ok(),
            ref none if none.is_none() => Some(0),
            _ => None,
        };
        let ignore_result = match self.ignore_result {
            Loose::Bool(value) => Some(value),
            Loose::Int(number) => Some(number != 0),
            ref none if none.is_none() => None,
            _ => return Err(invalid("ignore_result", "a boolean")),
        };
        Ok(TaskHeaders {
            task,
            id,
            eta_ms: moment(&self.eta, "eta")?,
            expires_ms: moment(&self.expires, "expires")?,
            hard_limit,
            soft_limit,
            retries: retries.ok_or_else(|| invalid("retries", "a count"))?,
            ignore_result,
            group: self.group.text(),
            root_id: self.root_id.text(),
            parent_id: self.parent_id.text(),
            shadow: self.shadow.text(),
            own: self.own.and_then(Own::read),
        })
    }
}

fn invalid(field: &'static str, expected: &'static str) -> DecodeError {
    DecodeError::Invalid { part: PART, field, expected }
}

fn moment(value: &Loose<'_>, field: &'static str) -> Result<Option<i64>, DecodeError> {
    match value {
        Loose::Text(text) => {
            parse_iso_ms(text).map(Some).ok_or_else(|| invalid(field, "an ISO 8601 date and time"))
        }
        none if none.is_none() => Ok(None),
        _ => Err(invalid(field, "an ISO 8601 date and time")),
    }
}

/// `timelimit`: hard first.
enum Limits {
    Pair(Option<f64>, Option<f64>),
    Bad,
}

impl Default for Limits {
    fn default() -> Self {
        Self::Pair(None, None)
    }
}

impl<'de> Deserialize<'de> for Limits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LimitsVisitor)
    }
}

struct LimitsVisitor;

impl<'de> Visitor<'de> for LimitsVisitor {
    type Value = Limits;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Limits, E> {
        Ok(Limits::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Limits, A::Error> {
        let mut limits = [None, None];
        for limit in &mut limits {
            *limit = match seq.next_element::<Loose<'_>>()? {
                Some(Loose::Null) => Some(None),
                Some(Loose::Int(seconds)) => seconds_in_range(seconds as f64),
                Some(Loose::Float(seconds)) => seconds_in_range(seconds),
                _ => None,
            };
        }
        let longer = seq.next_element::<IgnoredAny>()?.is_some();
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(match limits {
            [Some(hard), Some(soft)] if !longer => Limits::Pair(hard, soft),
            _ => Limits::Bad,
        })
    }

    fn visit_bool<E>(self, _: bool) -> Result<Limits, E> {
        Ok(Limits::Bad)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Limits, E> {
        Ok(Limits::Bad)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Limits, E> {
        Ok(Limits::Bad)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Limits, E> {
        Ok(Limits::Bad)
    }

    fn visit_str<E>(self, _: &str) -> Result<Limits, E> {
        Ok(Limits::Bad)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Limits, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Limits::Bad)
    }
}

/// None if it makes no sense.
#[expect(clippy::option_option, reason = "outer: is it valid; inner: is there a limit")]
fn seconds_in_range(seconds: f64) -> Option<Option<f64>> {
    (seconds >= 0.0).then_some(Some(seconds.min(MAX_LIMIT_SECONDS)))
}

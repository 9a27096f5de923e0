//! Names of keys and channels: kombu's, and ours under `celeriac:`. `docs/redis.md` has the table.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::driver::routing::QueueOrder;
use crate::protocol::Topology;

/// Lowest first: it is taken first.
const STEPS: [u8; 4] = [0, 3, 6, 9];
const SEPARATOR: &str = "\x06\x16";
/// Priorities beyond count as this one.
const HIGHEST: u8 = 9;
const VISIBILITY: Duration = Duration::from_secs(3600);
/// Dead letters that are kept; the oldest go.
const DEAD_LETTERS: u64 = 10_000;

/// In front of the name of a queue: what a dead worker had begun and must not run again, and what has crashed too
/// often. Only consumers of ours take from these lists, and end what they take.
pub(super) const LOST: &str = "celeriac:lost:";

/// How kombu and we lay out a database, as the transport options say.
#[derive(Debug)]
pub(super) struct Layout {
    /// `global_keyprefix`, in front of every key and channel.
    pub(super) prefix: String,
    pub(super) separator: String,
    /// Ascending, never empty.
    pub(super) steps: Vec<u8>,
    pub(super) order: QueueOrder,
    /// After which consumers of kombu take a claim for lost.
    pub(super) visibility_timeout: Duration,
    /// Most dead letters.
    pub(super) dead_letters: u64,
    /// In front of the names of fanout exchanges.
    fanout: String,
    /// Routing keys are part of the channels.
    fanout_patterns: bool,
    /// The keys that every script gets, in the order of `lua/shared.lua`.
    pub(super) shared: [String; 8],
    /// Names of queues that celeriac has declared: a set that [`crate::broker::Broker::queues`] reads. Only added
    /// to; a crash between it and a declaration leaves a queue out of that list.
    pub(super) queues: String,
    /// What happens to tasks: a stream, an entry for each event. Added to by workers, with the commit that it is about;
    /// read by anyone; cut by whoever adds.
    pub(super) stream: String,
}

impl Layout {
    pub(super) fn read(options: &Map<String, Value>, database: i64) -> Self {
        let text = |name: &str| options.get(name).and_then(Value::as_str).map(str::to_owned);
        let prefix = text("global_keyprefix").unwrap_or_default();
        let own = |name: &str| format!("{prefix}celeriac:{name}");
        let named = |option, default: &str| prefix.clone() + text(option).as_deref().unwrap_or(default);
        let fanout = match options.get("fanout_prefix") {
            Some(Value::Bool(false) | Value::Null) => String::new(),
            Some(Value::String(prefix)) => prefix.replace("{db}", &database.to_string()),
            _ => format!("/{database}."),
        };
        let seconds = options.get("visibility_timeout").and_then(Value::as_f64);
        let seconds = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        Self {
            separator: text("sep").unwrap_or_else(|| SEPARATOR.to_owned()),
            steps: steps(options.get("priority_steps")),
            order: QueueOrder::of(options),
            visibility_timeout: seconds.filter(|timeout| !timeout.is_zero()).unwrap_or(VISIBILITY),
            dead_letters: options
                .get("celeriac_dead_letters")
                .and_then(Value::as_u64)
                .unwrap_or(DEAD_LETTERS),
            fanout: format!("{prefix}{fanout}"),
            fanout_patterns: options.get("fanout_patterns").and_then(Value::as_bool).unwrap_or(true),
            shared: [
                named("unacked_key", "unacked"),
                named("unacked_index_key", "unacked_index"),
                own("consumers"),
                own("processes"),
                own("begun"),
                own("dead"),
                own("dead:letters"),
                own("dead:id"),
            ],
            queues: own("queues"),
            stream: own("stream"),
            prefix,
        }
    }

    pub(super) fn unacked(&self) -> &str {
        &self.shared[0]
    }

    pub(super) fn unacked_index(&self) -> &str {
        &self.shared[1]
    }

    pub(super) fn consumers(&self) -> &str {
        &self.shared[2]
    }

    /// Who each consumer is: a hash by tokens.
    pub(super) fn processes(&self) -> &str {
        &self.shared[3]
    }

    pub(super) fn dead(&self) -> &str {
        &self.shared[5]
    }

    pub(super) fn letters(&self) -> &str {
        &self.shared[6]
    }

    /// Queues that no worker takes from: a set. Written by whoever pauses and resumes; workers read it when they start,
    /// and every minute: a command that they have not heard counts all the same.
    pub(super) fn paused(&self) -> String {
        format!("{}celeriac:paused", self.prefix)
    }

    /// The step that a priority belongs to.
    pub(super) fn step(&self, priority: u8) -> u8 {
        let above = self.steps.partition_point(|step| *step <= priority.min(HIGHEST));
        self.steps[above.checked_sub(1).unwrap_or(self.steps.len() - 1)]
    }

    /// The list of a queue and a step.
    pub(super) fn list(&self, queue: &str, step: u8) -> String {
        if step == 0 {
            format!("{}{queue}", self.prefix)
        } else {
            format!("{}{queue}{}{step}", self.prefix, self.separator)
        }
    }

    /// All lists of a queue.
    pub(super) fn lists(&self, queue: &str) -> Vec<String> {
        self.steps.iter().map(|step| self.list(queue, *step)).collect()
    }

    /// Messages of a queue that are not due yet: a sorted set by the moment, of `<step>:<element>`.
    pub(super) fn parked(&self, queue: &str) -> String {
        format!("{}celeriac:parked:{queue}", self.prefix)
    }

    /// Which queues want what of a topic exchange of ours: a hash (`topics.rs`).
    pub(super) fn topics(&self, exchange: &str) -> String {
        format!("{}celeriac:topics:{exchange}", self.prefix)
    }

    /// A key that calls take ([`crate::keys`]), or a lock: a hash.
    pub(super) fn own_key(&self, key: &str) -> String {
        own_key(&self.prefix, key)
    }

    pub(super) fn binding(&self, exchange: &str) -> String {
        format!("{}_kombu.binding.{exchange}", self.prefix)
    }

    pub(super) fn permanent_binding(&self, exchange: &str) -> String {
        format!("{}_kombu.binding_permanent.{exchange}", self.prefix)
    }

    pub(super) fn binding_deadlines(&self) -> String {
        format!("{}_kombu.binding_deadlines", self.prefix)
    }

    /// What a binding is in the set of its exchange.
    pub(super) fn binding_member(&self, routing_key: &str, pattern: &str, queue: &str) -> String {
        [routing_key, pattern, queue].join(&self.separator)
    }

    /// Where a fanout exchange publishes.
    pub(super) fn channel(&self, exchange: &str, routing_key: &str) -> String {
        if self.fanout_patterns && !routing_key.is_empty() {
            format!("{}{exchange}/{routing_key}", self.fanout)
        } else {
            format!("{}{exchange}", self.fanout)
        }
    }

    /// What listens to all that a fanout exchange publishes with a routing key; none if that makes no difference.
    pub(super) fn channel_pattern(&self, exchange: &str) -> Option<String> {
        let literal = |text: &str| {
            let mut out = String::with_capacity(text.len());
            for c in text.chars() {
                if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^') {
                    out.push('\\');
                }
                out.push(c);
            }
            out
        };
        self.fanout_patterns.then(|| format!("{}/*", literal(&format!("{}{exchange}", self.fanout))))
    }
}

/// A key that calls take, in a database whose keys begin with `prefix`.
pub(super) fn own_key(prefix: &str, key: &str) -> String {
    format!("{prefix}celeriac:key:{key}")
}

fn steps(option: Option<&Value>) -> Vec<u8> {
    let given = option.and_then(Value::as_array).map(|steps| {
        let mut steps: Vec<u8> = steps.iter().filter_map(|step| u8::try_from(step.as_u64()?).ok()).collect();
        steps.sort_unstable();
        steps.dedup();
        steps
    });
    given.filter(|steps| !steps.is_empty()).unwrap_or_else(|| STEPS.to_vec())
}

/// The queues of a consumer, as its claims name them.
#[derive(Debug)]
pub(super) struct Queues {
    pub(super) names: Vec<Arc<str>>,
    /// The names as JSON texts, for the values of `unacked`.
    pub(super) json: Vec<String>,
    /// The parked sets of the queues.
    pub(super) parked: Vec<String>,
    /// The lists, step by step, in each step queue by queue; then, as if they were another step, those of [`LOST`].
    pub(super) lists: Vec<String>,
}

impl Queues {
    /// In the order in which a claim looks at them: `turn` counts claims.
    pub(super) fn new(layout: &Layout, names: &[Arc<str>], turn: usize) -> Self {
        let mut names = names.to_vec();
        match layout.order {
            QueueOrder::RoundRobin if !names.is_empty() => {
                let first = turn % names.len();
                names.rotate_left(first);
            }
            QueueOrder::Sorted => names.sort(),
            QueueOrder::RoundRobin | QueueOrder::Priority => {}
        }
        Self {
            json: names.iter().map(|name| Value::from(&**name).to_string()).collect(),
            parked: names.iter().map(|name| layout.parked(name)).collect(),
            lists: layout
                .steps
                .iter()
                .flat_map(|step| names.iter().map(|name| layout.list(name, *step)))
                .chain(names.iter().map(|name| layout.list(&format!("{LOST}{name}"), 0)))
                .collect(),
            names,
        }
    }

    /// Queue and step of a list, by its number.
    pub(super) fn place(&self, layout: &Layout, list: usize) -> Option<(Arc<str>, u8)> {
        let names = self.names.len().max(1);
        let name = self.names.get(list % names)?;
        match layout.steps.get(list / names) {
            Some(step) => Some((name.clone(), *step)),
            None if list / names == layout.steps.len() => Some((format!("{LOST}{name}").into(), 0)),
            None => None,
        }
    }
}

/// Whether a message to `exchange` is published to all who listen, and not put into queues.
pub(super) fn is_fanout(topology: &Topology, declared: &crate::protocol::Queue, exchange: &str) -> bool {
    // Both are fanout exchanges on Redis, whatever they are elsewhere.
    if exchange == "celeryev" || exchange == "celery.pidbox" {
        return true;
    }
    let of_queue = |queue: &crate::protocol::Queue| {
        queue
            .all_bindings()
            .find(|binding| binding.exchange.name == exchange)
            .map(|binding| binding.exchange.kind)
    };
    let kind = of_queue(declared).or_else(|| topology.queues.values().find_map(|queue| of_queue(queue)));
    kind.as_deref() == Some("fanout")
}

/// The pattern that kombu keeps for a binding to a topic exchange: a regular expression.
pub(super) fn topic_pattern(routing_key: &str) -> String {
    let word = |word| match word {
        "*" => r".*?[^\.]",
        "#" => ".*?",
        word => word,
    };
    format!("^{}$", routing_key.split('.').map(word).collect::<Vec<_>>().join(r"\."))
}

/// Whether a key matches a binding to a topic exchange, as kombu's expression for it does: `#` is anything, `*`
/// anything that does not end in a dot, and both may go on over dots.
pub(super) fn topic_matches(binding: &str, key: &str) -> bool {
    fn rest(words: &[&str], key: &str) -> bool {
        let Some((word, words)) = words.split_first() else { return key.is_empty() };
        let ends = |text: &str| {
            if words.is_empty() {
                text.is_empty()
            } else {
                text.strip_prefix('.').is_some_and(|text| rest(words, text))
            }
        };
        match *word {
            "#" | "*" => {
                let places = key.char_indices().map(|(at, _)| at).chain([key.len()]);
                places
                    .filter(|at| *word == "#" || !(key[..*at].is_empty() || key[..*at].ends_with('.')))
                    .any(|at| ends(&key[at..]))
            }
            word => key.strip_prefix(word).is_some_and(ends),
        }
    }
    // Bindings with many wildcards would take exponential time; nobody has them.
    let words: Vec<&str> = binding.split('.').collect();
    words.len() <= 32 && rest(&words, key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(options: &str) -> Layout {
        Layout::read(&serde_json::from_str(options).unwrap(), 5)
    }

    #[test]
    fn keys_are_those_of_kombu() {
        let plain = layout("{}");
        assert_eq!(plain.lists("q"), ["q", "q\x06\x163", "q\x06\x166", "q\x06\x169"]);
        assert_eq!([0, 2, 3, 5, 8, 9, 200].map(|priority| plain.step(priority)), [0, 0, 3, 3, 6, 9, 9]);
        assert_eq!(plain.channel("celery.pidbox", ""), "/5.celery.pidbox");
        assert_eq!(plain.channel("celeryev", "worker.online"), "/5.celeryev/worker.online");
        assert_eq!(plain.channel_pattern("celeryev").unwrap(), "/5.celeryev/*");
        assert_eq!(plain.binding_member("celery", "", "celery"), "celery\x06\x16\x06\x16celery");

        let other = layout(
            r#"{"global_keyprefix": "p:", "sep": ":", "priority_steps": [5, 0], "fanout_prefix": false,
                "fanout_patterns": false, "unacked_key": "u", "visibility_timeout": 5}"#,
        );
        assert_eq!(other.lists("q"), ["p:q", "p:q:5"]);
        assert_eq!(other.channel("x", "key"), "p:x");
        assert_eq!((other.unacked(), other.unacked_index()), ("p:u", "p:unacked_index"));
        assert_eq!(other.visibility_timeout, Duration::from_secs(5));
    }

    #[test]
    fn topic_keys_match_as_kombu_matches_them() {
        assert_eq!(topic_pattern("feed.#"), r"^feed\..*?$");
        assert_eq!(topic_pattern("*.mail"), r"^.*?[^\.]\.mail$");
        for (binding, key, matches) in [
            ("feed.#", "feed.a.b", true),
            ("feed.#", "feed.", true),
            ("feed.#", "feed", false),
            ("feed.*", "feed.a", true),
            ("feed.*", "feed.a.b", true),
            ("feed.*", "feed.a.", false),
            ("#", "", true),
            ("*", "", false),
            ("a.*.c", "a.b.c", true),
            ("a.*.c", "a.c", false),
            ("exact", "exact", true),
            ("exact", "exactly", false),
        ] {
            assert_eq!(topic_matches(binding, key), matches, "{binding} {key}");
        }
    }
}

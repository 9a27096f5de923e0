//! Exchanges of ours that lead to no queue of the sender's choice: the topic of events between services, and the
//! stream of what happens to tasks.

use std::sync::Arc;

use super::{Arguments, Exchange, Queue};

/// The topic exchange of events between services.
pub const EVENTS_TOPIC: &str = "celeriac.events";
/// The exchange of what happens to tasks.
pub const TASK_STREAM: &str = "celeriac.stream";
/// How many entries of a stream are kept, as an argument of what stands for its queue.
const KEPT: &str = "celeriac-kept";

/// What a queue wants of a topic exchange.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicBinding {
    /// The topic exchange.
    pub exchange: String,
    /// The queue.
    pub queue: String,
    /// Patterns of routing keys: `*` is one word, `#` any number of them. None: nothing is wanted any more.
    pub patterns: Vec<String>,
}

impl Exchange {
    /// A topic exchange of ours.
    pub fn topic(name: &str) -> Self {
        Self { name: name.to_owned(), kind: "topic".to_owned(), ..Self::default() }
    }
}

impl Queue {
    /// Stands for whatever queues are bound to a topic exchange, which may be none: a publication that is declared by
    /// it goes to all of them, and to whoever listens.
    pub fn of_topic(exchange: &str) -> Self {
        Self { exchange: Exchange::topic(exchange), no_declare: true, ..Self::default() }
    }

    /// Stands for a stream that keeps so many entries: the body of a publication that is declared by it becomes one.
    pub fn of_stream(kept: u64) -> Self {
        let arguments = Arguments::from_iter([(KEPT.to_owned(), kept.into())]);
        Self { arguments, ..Self::of_topic(TASK_STREAM) }
    }

    /// It is no queue, but stands for an exchange.
    pub fn is_exchange(&self) -> bool {
        self.name.is_empty()
    }

    /// How many entries are kept of the stream that it stands for.
    pub fn stream_kept(&self) -> Option<u64> {
        self.arguments.get(KEPT).and_then(serde_json::Value::as_u64)
    }
}

/// Whether a routing key fits a pattern, as AMQP says: words with dots between, `*` is one, `#` any number, also none.
pub fn topic_matches(pattern: &str, key: &str) -> bool {
    let words: Vec<&str> = key.split('.').collect();
    // Whether the pattern, as far as it was looked at, fits so many of the first words.
    let mut fits = vec![false; words.len() + 1];
    fits[0] = true;
    for part in pattern.split('.') {
        if part == "#" {
            let mut any = false;
            for fit in &mut fits {
                any |= *fit;
                *fit = any;
            }
            continue;
        }
        for place in (0..words.len()).rev() {
            fits[place + 1] = fits[place] && (part == "*" || part == words[place]);
        }
        fits[0] = false;
    }
    fits[words.len()]
}

/// Whether a routing key fits one of the patterns.
pub fn any_topic_matches<S: AsRef<str>>(patterns: &[S], key: &str) -> bool {
    patterns.iter().any(|pattern| topic_matches(pattern.as_ref(), key))
}

/// What stands for the topic of events, shared by all publications of a process.
pub fn events_topic() -> Arc<Queue> {
    Arc::new(Queue::of_topic(EVENTS_TOPIC))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_fit_patterns_as_amqp_says() {
        for (pattern, key, fits) in [
            ("order.created", "order.created", true),
            ("order.created", "order.createdx", false),
            ("order.*", "order.created", true),
            ("order.*", "order", false),
            ("order.*", "order.line.added", false),
            ("order.#", "order", true),
            ("order.#", "order.line.added", true),
            ("#", "anything.at.all", true),
            ("#.added", "order.line.added", true),
            ("#.added", "added", true),
            ("#.added", "order.added.later", false),
            ("*.*", "a.b", true),
            ("*.*", "a.b.c", false),
            ("*.#.c", "a.c", true),
            ("*.#.c", "c", false),
            ("#.#.#.#.#.#.#.#.#.x", "a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.y", false),
        ] {
            assert_eq!(topic_matches(pattern, key), fits, "{pattern} {key}");
        }
    }

    #[test]
    fn what_stands_for_an_exchange_is_told_from_a_queue() {
        assert!(Queue::of_topic("x").is_exchange() && Queue::of_topic("x").stream_kept().is_none());
        assert_eq!(Queue::of_stream(7).stream_kept(), Some(7));
        assert!(!Queue { name: "q".to_owned(), ..Queue::default() }.is_exchange());
    }
}

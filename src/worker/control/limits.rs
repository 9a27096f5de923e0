//! Commands about limits of all workers.

use serde_json::{Map, Value, json};

use super::super::consumer::ConsumerLoop;
use super::super::limits::parse_window_rate;
use super::super::notice::Level;
use super::LOGGER;
use super::arguments::{error, missing, ok, text};
use crate::limits::KEY_MARK;
use crate::protocol::ControlRequest;

impl ConsumerLoop {
    /// Changes a task's limit, as far as arguments name it. Each worker has to be told: it is the limit it asks by.
    pub(super) fn control_limit(&mut self, request: &ControlRequest) -> Value {
        if let Some(answer) = missing(request, &["task_name"]) {
            return answer;
        }
        let name = text(request, "task_name").unwrap_or_default();
        let Some(number) = self.tasks.number(name) else {
            self.log.line(Level::Error, LOGGER, || format!("Limit attempt for unknown task {name}"));
            return error("unknown task");
        };
        let mut limit = self.tasks.task(number).options.limit;
        if let Some(given) = request.arguments.get("global_rate_limit").filter(|given| !given.is_null()) {
            let shown = given.as_str().map_or_else(|| given.to_string(), str::to_owned);
            match parse_window_rate(&shown) {
                Ok(rate) => limit.rate = rate,
                Err(why) => return error(format!("Invalid rate limit string: {why}")),
            }
        }
        if let Some(given) = request.arguments.get("max_concurrency").filter(|given| !given.is_null()) {
            match given.as_u64().and_then(|most| u32::try_from(most).ok()) {
                Some(most) => limit.most = Some(most).filter(|most| *most > 0),
                None => return error("max_concurrency is a whole number; 0 is no limit"),
            }
        }
        if let Err(why) = self.make_limits() {
            return error(format!("task {name} cannot have a limit of all workers, {why}"));
        }
        self.change_limit(number, limit);
        self.log.line(Level::Info, LOGGER, || format!("New limit of all workers for tasks of type {name}"));
        ok("new limit set successfully")
    }

    /// What waits and runs here of each limit and key, and how many stand in line, over all workers.
    pub(super) fn inspect_limits(&self) -> Value {
        let mut all = Map::new();
        for (_, bucket) in self.limits.iter().flat_map(|limits| limits.buckets()) {
            for limit in bucket.uses.iter() {
                let (name, key) = limit.place.split_once(KEY_MARK).unwrap_or((limit.place.as_str(), ""));
                let first = bucket.uses.first().is_some_and(|first| first.place == limit.place);
                let in_line = if first { bucket.in_line } else { 0 };
                let keys = all.entry(name).or_insert_with(|| json!({}));
                let told = |what: &str, more: u64| {
                    let known = keys.get(key).and_then(|told| told.get(what)).and_then(Value::as_u64);
                    known.unwrap_or(0) + more
                };
                let told = json!({
                    "running": told("running", bucket.running as u64),
                    "waiting": told("waiting", bucket.waits() as u64),
                    "in_line": told("in_line", in_line),
                });
                keys[key] = told;
            }
        }
        Value::Object(all)
    }
}

//! Commands that change something.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::super::commit::ANSWER_WITHIN;
use super::super::consumer::ConsumerLoop;
use super::super::notice::Level;
use super::super::rate_limit::{RateLimit, RateLimitError};
use super::super::upkeep::Chore;
use super::LOGGER;
use super::arguments::{error, missing, ok, raised, repr, text, text_repr, texts, truth};
use crate::broker::BrokerError;
use crate::protocol::ControlRequest;

impl ConsumerLoop {
    pub(super) fn control_rate_limit(&mut self, request: &ControlRequest) -> Value {
        if let Some(answer) = missing(request, &["task_name", "rate_limit"]) {
            return answer;
        }
        let given = &request.arguments["rate_limit"];
        let limit = match rate(given) {
            Ok(limit) => limit,
            Err(answer) => return answer,
        };
        let name = text(request, "task_name").unwrap_or_default();
        let Some(number) = self.tasks.number(name) else {
            self.log.line(Level::Error, LOGGER, || format!("Rate limit attempt for unknown task {name}"));
            return error("unknown task");
        };
        let shown = given.as_str().map_or_else(|| given.to_string(), str::to_owned);
        let disabled = !truth(request, "rate_limit");
        let task = self.tasks.task_mut(number);
        let old = std::mem::replace(&mut task.options.rate_limit, limit);
        task.changed.insert("rate_limit", (!given.is_null()).then(|| shown.clone()));
        let looser = match (old, limit) {
            (Some(old), Some(limit)) => limit.interval() < old.interval(),
            (old, _) => old.is_some(),
        };
        if looser && self.rates.has_parked(number) {
            self.recall();
        }
        self.rates.change(number, old, limit, self.rate_time(Instant::now()));
        self.readmit(number);
        if disabled {
            self.log.line(Level::Info, LOGGER, || format!("Rate limits disabled for tasks of type {name}"));
            return ok("rate limit disabled successfully");
        }
        self.log.line(Level::Info, LOGGER, || format!("New rate limit for tasks of type {name}: {shown}."));
        ok("new rate limit set successfully")
    }

    /// What was parked until its turn by the old limit comes back, to be given a turn by the new one.
    pub(in super::super) fn recall(&self) {
        let (broker, log) = (self.stores.broker.clone(), self.log.clone());
        let queues = self.options.queues.clone();
        self.chores.push(Box::pin(async move {
            let recalling = async {
                for queue in &queues {
                    broker.recall(queue).await?;
                }
                Ok::<(), BrokerError>(())
            };
            let failed = match timeout(ANSWER_WITHIN, recalling).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("the broker does not answer".to_owned()),
            };
            if let Some(why) = failed {
                log.line(Level::Warning, LOGGER, || {
                    format!("tasks that were parked until their turn go on waiting: {why}")
                });
            }
            Chore::Answered
        }));
    }

    /// Limits of tasks that begin from now on. What a message says of itself stands above them.
    pub(super) fn control_time_limit(&mut self, request: &ControlRequest) -> Value {
        let name = text(request, "task_name").unwrap_or_default();
        let Some(number) = self.tasks.number(name) else {
            self.log
                .line(Level::Error, LOGGER, || format!("Change time limit attempt for unknown task {name}"));
            return error("unknown task");
        };
        let (soft, hard) = match (limit(request, "soft"), limit(request, "hard")) {
            (Ok(soft), Ok(hard)) => (soft, hard),
            (Err(answer), _) | (_, Err(answer)) => return answer,
        };
        if hard.is_some() && !self.pool.keeps_hard_limits() {
            return error(
                "this pool cannot end a task that runs over its hard limit: use the prefork pool, or a soft limit",
            );
        }
        let task = self.tasks.task_mut(number);
        (task.options.soft_time_limit, task.options.time_limit) = (soft, hard);
        for (item, value) in [("soft_time_limit", "soft"), ("time_limit", "hard")] {
            let value = request.arguments.get(value).filter(|value| !value.is_null());
            task.changed.insert(item, value.map(repr));
        }
        for waiting in self.requests.values_mut() {
            if waiting.task != Some(number) || waiting.phase.has_slot() {
                continue;
            }
            let own = waiting.message.task_headers().ok();
            let own = own.map_or((None, None), |headers| (headers.soft_limit, headers.hard_limit));
            if own.0.is_none() {
                waiting.soft_limit = soft.or(self.options.soft_time_limit);
            }
            if own.1.is_none() {
                waiting.hard_limit = hard.or(self.options.time_limit);
            }
        }
        self.log.line(Level::Info, LOGGER, || {
            let shown = |name| request.arguments.get(name).map_or("None".to_owned(), repr);
            format!("New time limits for tasks of type {name}: soft={} hard={}", shown("soft"), shown("hard"))
        });
        ok("time limits set successfully")
    }

    pub(super) fn control_pool_grow(&mut self, request: &ControlRequest) -> Value {
        self.resize(request, 1, "pool will grow")
    }

    pub(super) fn control_pool_shrink(&mut self, request: &ControlRequest) -> Value {
        self.resize(request, -1, "pool will shrink")
    }

    fn resize(&mut self, request: &ControlRequest, sign: i64, done: &str) -> Value {
        if self.autoscale.is_some() {
            let method = &request.method;
            return error(format!(
                "{method} is not supported with autoscale. Adjust autoscale range instead."
            ));
        }
        let by = match request.arguments.get("n") {
            None => 1,
            Some(value) => match value.as_i64() {
                Some(number) => number,
                None => return raised("TypeError", &format!("n must be a number, not {}", repr(value))),
            },
        };
        let wanted =
            i64::try_from(self.pool.slots()).unwrap_or(i64::MAX).saturating_add(by.saturating_mul(sign));
        let Ok(wanted @ 1..) = usize::try_from(wanted) else {
            return raised("ValueError", "a pool has at least one slot");
        };
        match self.pool.resize(wanted) {
            Ok(()) => ok(done),
            Err(why) => error(why),
        }
    }

    pub(super) fn control_autoscale(&mut self, request: &ControlRequest) -> Value {
        let mut bounds = [None, None];
        for (bound, name) in bounds.iter_mut().zip(["max", "min"]) {
            let Some(value) = request.arguments.get(name).filter(|value| !value.is_null()) else { continue };
            let Some(number) = value.as_u64().and_then(|number| usize::try_from(number).ok()) else {
                return raised("TypeError", &format!("{name} must be a number, not {}", repr(value)));
            };
            *bound = Some(number);
        }
        match self.set_autoscale(bounds[0], bounds[1]) {
            Ok((max, min)) => ok(format!("autoscale now max={max} min={min}")),
            Err(why) => raised("ValueError", &why),
        }
    }

    pub(super) fn control_pool_restart(&mut self, request: &ControlRequest) -> Value {
        if !self.options.control.pool_restarts {
            return raised("ValueError", "Pool restarts not enabled");
        }
        // Modules that are named are imported by a new fork server, like all others.
        let reload = truth(request, "reload") || !texts(request.arguments.get("modules")).is_empty();
        match self.pool.restart(reload) {
            Ok(()) => ok("reload started"),
            Err(why) => error(why),
        }
    }

    pub(super) fn control_shutdown(&mut self, request: &ControlRequest) {
        let why = text(request, "msg").unwrap_or("Got shutdown from remote");
        self.log.line(Level::Warning, LOGGER, || why.to_owned());
        self.drain();
    }
}

/// A rate limit as a command gives it: a number of tasks a second, or `N/s`, `N/m`, `N/h`.
fn rate(value: &Value) -> Result<Option<RateLimit>, Value> {
    let invalid =
        |what: &str| Err(error(format!("Invalid rate limit string: ValueError({})", text_repr(what))));
    match value {
        Value::Null | Value::Bool(false) => Ok(None),
        Value::Number(number) => Ok(RateLimit::per_second(number.as_f64().unwrap_or(0.0))),
        Value::String(text) => match RateLimit::parse(text) {
            Ok(limit) => Ok(limit),
            Err(RateLimitError::Unit(_)) => {
                Err(raised("KeyError", text.split_once('/').map_or("", |(_, unit)| unit)))
            }
            Err(RateLimitError::Number(_)) => {
                let number = text.split_once('/').map_or(text.as_str(), |(number, _)| number);
                invalid(&format!("could not convert string to float: {}", text_repr(number)))
            }
        },
        other => {
            Err(raised("TypeError", &format!("a rate limit is a number or a text, not {}", repr(other))))
        }
    }
}

/// A time limit in seconds; the answer when it is none.
fn limit(request: &ControlRequest, name: &str) -> Result<Option<Duration>, Value> {
    match request.arguments.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let seconds = value.as_f64().filter(|seconds| *seconds > 0.0);
            let limit = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            match limit {
                Some(limit) => Ok(Some(limit)),
                None if value.as_f64() == Some(0.0) => Ok(None),
                None => {
                    Err(raised("ValueError", &format!("{name} must be seconds above 0, not {}", repr(value))))
                }
            }
        }
    }
}

//! Commands that only look.

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::super::consumer::ConsumerLoop;
use super::super::pool::RequestTag;
use super::super::request::{Phase, Request};
use super::arguments::{missing, ok, texts, truth};
use super::usage::usage;
use crate::protocol::{ControlRequest, decompress, format_iso_utc};

/// What `registered` tells of a task unless it is asked for something else.
const TASK_ITEMS: [&str; 3] = ["exchange", "routing_key", "rate_limit"];
/// Arguments of a task are shown as they are up to this size, and above it as the message describes them.
const ARGUMENTS_SHOWN: usize = 256 << 10;
/// What Celery's timer gives to all ETAs.
const ETA_PRIORITY: u8 = 6;

/// What Celery calls the state of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Active,
    Reserved,
    Scheduled,
}

impl ConsumerLoop {
    pub(super) fn inspect_active(&self, request: &ControlRequest) -> Value {
        let safe = truth(request, "safe");
        self.at_stage(Stage::Active).map(|request| self.info(request, safe)).collect()
    }

    pub(super) fn inspect_reserved(&self) -> Value {
        self.at_stage(Stage::Reserved).map(|request| self.info(request, false)).collect()
    }

    pub(super) fn inspect_scheduled(&self) -> Value {
        let shown = |request: &Request| {
            let eta = request.message.task_headers().ok().and_then(|headers| headers.eta_ms);
            json!({
                "eta": eta.map(format_iso_utc),
                "priority": ETA_PRIORITY,
                "request": self.info(request, false),
            })
        };
        self.at_stage(Stage::Scheduled).map(shown).collect()
    }

    pub(super) fn inspect_revoked(&mut self) -> Value {
        let now = self.clock.now();
        self.revoked.list(now).map(|(id, _)| Value::from(id)).collect()
    }

    pub(super) fn inspect_query_task(&self, request: &ControlRequest) -> Value {
        if let Some(answer) = missing(request, &["ids"]) {
            return answer;
        }
        let ids = texts(request.arguments.get("ids"));
        let mut found = Map::new();
        for known in self.requests.values().filter(|known| ids.contains(&known.id.as_str())) {
            let state = match stage(known) {
                Stage::Active => "active",
                Stage::Reserved => "reserved",
                Stage::Scheduled => "scheduled",
            };
            found.insert(known.id.clone(), json!([state, self.info(known, false)]));
        }
        Value::Object(found)
    }

    /// Names of tasks, with attributes where they have them.
    pub(super) fn inspect_registered(&self, request: &ControlRequest) -> Value {
        let mut items = texts(request.arguments.get("taskinfoitems"));
        if items.is_empty() {
            items = TASK_ITEMS.to_vec();
        }
        items.retain(|item| !item.starts_with('_'));
        let builtins = truth(request, "builtins");
        let told: Map<String, Value> =
            serde_json::from_str(&self.options.control.about.tasks).unwrap_or_default();
        let mut names: Vec<&str> = self.tasks.names().filter(|name| builtins || !is_builtin(name)).collect();
        names.sort_unstable();
        let described = |name: &str| {
            let attributes = told.get(name).and_then(Value::as_object);
            let changed = self.tasks.number(name).map(|number| self.tasks.task(number).changed.clone());
            let changed = changed.unwrap_or_default();
            let shown = |item: &&str| {
                let value = match changed.get(*item) {
                    Some(value) => value.clone(),
                    None => attributes?.get(*item)?.as_str().map(str::to_owned),
                };
                value.map(|value| format!("{item}={value}"))
            };
            let fields: Vec<String> = items.iter().filter_map(shown).collect();
            if fields.is_empty() { name.to_owned() } else { format!("{name} [{}]", fields.join(" ")) }
        };
        names.into_iter().map(described).collect()
    }

    pub(super) fn inspect_stats(&self) -> Value {
        let control = &self.options.control;
        let pids = self.pool.pids();
        let stats = self.stats.snapshot();
        let seconds = |limit: Option<std::time::Duration>| match limit {
            None => json!(0),
            Some(limit) if limit.subsec_nanos() == 0 => json!(limit.as_secs()),
            Some(limit) => json!(limit.as_secs_f64()),
        };
        let total: u64 = stats.totals.values().sum();
        let average = if total == 0 { 0.0 } else { 1.0 / pids.len().max(1) as f64 };
        json!({
            "total": stats.totals,
            "pid": std::process::id(),
            "clock": self.clock_value().to_string(),
            "uptime": self.born.elapsed().as_secs(),
            "pool": {
                "implementation": control.about.pool,
                "max-concurrency": self.pool.slots(),
                "processes": pids,
                "max-tasks-per-child": control.about.max_tasks_per_child.map_or(json!("N/A"), |most| json!(most)),
                "put-guarded-by-semaphore": false,
                "timeouts": [seconds(self.options.soft_time_limit), seconds(self.options.time_limit)],
                "writes": {
                    "total": total,
                    "avg": format!("{average:.2}"),
                    "all": "",
                    "raw": "",
                    "strategy": "fair",
                    "inqueues": {
                        "total": pids.len(),
                        "active": self.at_stage(Stage::Active).count(),
                    },
                },
            },
            "broker": serde_json::from_str::<Value>(&control.about.broker).unwrap_or(Value::Null),
            "prefetch_count": self.prefetch.target(self.pool.slots()),
            "rusage": usage(),
        })
    }

    pub(super) fn inspect_conf(&self, request: &ControlRequest) -> Value {
        let about = &self.options.control.about;
        let text = if truth(request, "with_defaults") { &about.conf_with_defaults } else { &about.conf };
        serde_json::from_str(text).unwrap_or(Value::Null)
    }

    pub(super) fn inspect_report(&self) -> Value {
        ok(self.options.control.about.report.as_str())
    }

    /// Requests at one stage, in the order in which they came.
    fn at_stage(&self, wanted: Stage) -> impl Iterator<Item = &Request> {
        let mut found: Vec<(RequestTag, &Request)> = self
            .requests
            .iter()
            .filter(|(_, request)| stage(request) == wanted)
            .map(|(tag, request)| (*tag, request))
            .collect();
        found.sort_unstable_by_key(|(tag, _)| *tag);
        found.into_iter().map(|(_, request)| request)
    }

    /// What is told of a request.
    fn info(&self, request: &Request, safe: bool) -> Value {
        let (args, kwargs) = arguments(request, safe);
        let started = match request.phase {
            Phase::Running(began) => {
                let ago = Instant::now().duration_since(began);
                Some(self.clock.now().0 as f64 / 1000.0 - ago.as_secs_f64())
            }
            _ => None,
        };
        json!({
            "id": request.id,
            "name": &*request.name,
            "args": args,
            "kwargs": kwargs,
            "type": &*request.name,
            "hostname": self.options.node,
            "time_start": started,
            "acknowledged": request.claim.is_none() || request.once,
            "delivery_info": {
                "exchange": &*request.exchange,
                "routing_key": &*request.routing_key,
                "priority": request.message.properties.priority,
                "redelivered": request.redelivered,
            },
            "worker_pid": request.pid,
        })
    }
}

fn is_builtin(name: &str) -> bool {
    name.starts_with("celery.") || name.starts_with("celeriac.")
}

fn stage(request: &Request) -> Stage {
    match request.phase {
        Phase::Running(_) => Stage::Active,
        Phase::Eta => Stage::Scheduled,
        Phase::Turn | Phase::Ready | Phase::Marking | Phase::Submitted => Stage::Reserved,
    }
}

/// Arguments of a task: as they are where the body is JSON and not large, else as its headers describe them.
fn arguments(request: &Request, safe: bool) -> (Value, Value) {
    if !safe && let Some(both) = decoded(request) {
        return both;
    }
    let headers: Map<String, Value> = serde_json::from_slice(&request.message.headers).unwrap_or_default();
    let of = |name: &str| headers.get(name).cloned().unwrap_or(Value::Null);
    (of("argsrepr"), of("kwargsrepr"))
}

fn decoded(request: &Request) -> Option<(Value, Value)> {
    let message = &request.message;
    if message.properties.content_type != "application/json" || message.body.len() > ARGUMENTS_SHOWN {
        return None;
    }
    let headers: Map<String, Value> = serde_json::from_slice(&message.headers).ok()?;
    let opened;
    let body: &[u8] = match headers.get("compression").and_then(Value::as_str) {
        None => &message.body,
        Some(how) => {
            opened = decompress(&message.body, how, ARGUMENTS_SHOWN).ok()?;
            &opened
        }
    };
    let parts: Vec<Value> = serde_json::from_slice(body).ok()?;
    let mut parts = parts.into_iter();
    Some((parts.next()?, parts.next()?))
}

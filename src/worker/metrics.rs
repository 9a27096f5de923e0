//! What `/metrics` tells, in Prometheus' text form. Names that `celery-exporter` has are its; others begin with
//! `celeriac_`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use super::pool::{Outcome, OutcomeKind};
use super::stats::Stats;

/// Upper bounds of the buckets of run times, in seconds: those of Prometheus' Python client.
const BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Names that are counted each by itself; what comes beyond counts as `OTHER`. Names of unknown tasks are not ours.
const MAX_NAMES: usize = 1_000;
/// The same for kinds of exceptions of one task.
const MAX_EXCEPTIONS: usize = 50;
const OTHER: &str = "other";

/// Counts by task. There is one only where a health address is.
#[derive(Debug, Default)]
pub(super) struct TaskMetrics(BTreeMap<Arc<str>, Counts>);

#[derive(Debug, Default)]
struct Counts {
    received: u64,
    started: u64,
    succeeded: u64,
    retried: u64,
    revoked: u64,
    rejected: u64,
    /// By class of the exception.
    failed: BTreeMap<String, u64>,
    /// Run times by bucket (the last one is beyond all bounds), and their sum.
    runtimes: [u64; BUCKETS.len() + 1],
    seconds: f64,
}

impl TaskMetrics {
    fn of(&mut self, name: &Arc<str>) -> &mut Counts {
        if self.0.len() >= MAX_NAMES && !self.0.contains_key(name) {
            return self.0.entry(Arc::from(OTHER)).or_default();
        }
        self.0.entry(name.clone()).or_default()
    }

    pub(super) fn received(&mut self, name: &Arc<str>) {
        self.of(name).received += 1;
    }

    pub(super) fn started(&mut self, name: &Arc<str>) {
        self.of(name).started += 1;
    }

    pub(super) fn rejected(&mut self, name: &Arc<str>) {
        self.of(name).rejected += 1;
    }

    /// A child has answered.
    pub(super) fn ended(&mut self, name: &Arc<str>, outcome: &Outcome) {
        let counts = self.of(name);
        match outcome.kind {
            OutcomeKind::Success => {
                counts.succeeded += 1;
                let seconds = outcome.runtime.unwrap_or_default().as_secs_f64();
                let bucket = BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len());
                counts.runtimes[bucket] += 1;
                counts.seconds += seconds;
            }
            OutcomeKind::Retry => counts.retried += 1,
            OutcomeKind::Revoked => counts.revoked += 1,
            OutcomeKind::Failure
            | OutcomeKind::Rejected
            | OutcomeKind::DeadLettered
            | OutcomeKind::Malformed
            | OutcomeKind::Disallowed => {
                let class = exception_class(&outcome.summary);
                let known = counts.failed.len() < MAX_EXCEPTIONS || counts.failed.contains_key(class);
                *counts.failed.entry(if known { class } else { OTHER }.to_owned()).or_default() += 1;
            }
            OutcomeKind::Ignored | OutcomeKind::Requeued => {}
        }
    }
}

/// The class in the repr of an exception: `ValueError` of `ValueError('x')`.
fn exception_class(repr: &str) -> &str {
    let class = repr.split('(').next().unwrap_or_default();
    let named = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    if class.is_empty() || class.len() > 100 || !class.chars().all(named) { OTHER } else { class }
}

/// All of it as text. `node` is `name@host`; as with the exporter, the host is what `hostname` says.
pub(super) fn render(node: &str, active: usize, ready: bool, stats: &Stats, tasks: &TaskMetrics) -> String {
    let host = label(node.split_once('@').map_or(node, |(_, host)| host));
    let mut text = Text(String::with_capacity(4096));
    text.family("celery_worker_up", "gauge", "The worker runs.");
    text.line("celery_worker_up", &format!("hostname=\"{host}\""), 1);
    text.family("celery_worker_tasks_active", "gauge", "Tasks that run now.");
    text.line("celery_worker_tasks_active", &format!("hostname=\"{host}\""), active);
    task_counters(&mut text, &host, tasks);
    runtimes(&mut text, &host, tasks);
    text.family("celeriac_worker_info", "gauge", "Which worker this is.");
    let version = env!("CARGO_PKG_VERSION");
    text.line("celeriac_worker_info", &format!("node=\"{}\",version=\"{version}\"", label(node)), 1);
    text.family("celeriac_worker_ready", "gauge", "Whether it is connected and takes work.");
    text.line("celeriac_worker_ready", "", u8::from(ready));
    own(&mut text, stats);
    text.0
}

fn task_counters(text: &mut Text, host: &str, tasks: &TaskMetrics) {
    type Pick = fn(&Counts) -> u64;
    let families: [(&str, &str, Pick); 6] = [
        ("received", "Tasks that the worker has accepted.", |counts| counts.received),
        ("started", "Tasks that a process has begun.", |counts| counts.started),
        ("succeeded", "Tasks that have returned.", |counts| counts.succeeded),
        ("retried", "Tasks that will be tried again.", |counts| counts.retried),
        ("revoked", "Tasks that were revoked, expired or terminated.", |counts| counts.revoked),
        ("rejected", "Tasks whose message was given back or given up.", |counts| counts.rejected),
    ];
    for (name, help, pick) in families {
        let family = format!("celery_task_{name}_total");
        text.family(&family, "counter", help);
        for (task, counts) in &tasks.0 {
            let labels = format!("name=\"{}\",hostname=\"{host}\"", label(task));
            text.line(&family, &labels, pick(counts));
        }
    }
    text.family(
        "celery_task_failed_total",
        "counter",
        "Tasks that have failed, by the class of the exception.",
    );
    for (task, counts) in &tasks.0 {
        for (class, count) in &counts.failed {
            let labels =
                format!("name=\"{}\",hostname=\"{host}\",exception=\"{}\"", label(task), label(class));
            text.line("celery_task_failed_total", &labels, count);
        }
    }
}

fn runtimes(text: &mut Text, host: &str, tasks: &TaskMetrics) {
    text.family("celery_task_runtime", "histogram", "Seconds that successful tasks ran.");
    for (task, counts) in &tasks.0 {
        let labels = format!("name=\"{}\",hostname=\"{host}\"", label(task));
        let mut below = 0;
        for (bound, count) in BUCKETS.iter().zip(counts.runtimes) {
            below += count;
            text.line("celery_task_runtime_bucket", &format!("{labels},le=\"{bound:?}\""), below);
        }
        below += counts.runtimes[BUCKETS.len()];
        text.line("celery_task_runtime_bucket", &format!("{labels},le=\"+Inf\""), below);
        text.line("celery_task_runtime_sum", &labels, counts.seconds);
        text.line("celery_task_runtime_count", &labels, below);
    }
}

fn own(text: &mut Text, stats: &Stats) {
    let counters = [
        ("claimed", "Deliveries taken from the broker.", stats.claimed),
        ("finished", "Requests that a process has answered.", stats.finished),
        ("refused", "Messages that could not be read.", stats.refused),
        ("lost", "Requests whose process was lost.", stats.lost),
        ("released", "Requests given back unrun.", stats.released),
        ("parked", "Requests parked until their time.", stats.parked),
        ("stale", "Outcomes that came after the message went to another worker.", stats.stale),
        ("crashed", "Messages that killed their process too often.", stats.crashed),
        ("dead_lettered", "Messages that became dead letters here.", stats.buried),
        ("committed", "Commits carried out.", stats.committed),
        ("commit_batches", "Batches of commits carried out.", stats.batches),
        ("processes_replaced", "Processes that were replaced.", stats.replaced),
        ("reconnects", "Times that the broker was consumed anew.", stats.reconnected),
        ("events_sent", "Events sent to monitors.", stats.events_sent),
        ("events_dropped", "Events that the broker did not take in time.", stats.events_dropped),
    ];
    for (name, help, value) in counters {
        let family = format!("celeriac_{name}_total");
        text.family(&family, "counter", help);
        text.line(&family, "", value);
    }
    let gauges = [
        ("requests_waiting", "Requests that wait for a slot.", stats.ready),
        ("requests_held", "Requests that wait for their time.", stats.held),
        (
            "requests_outstanding",
            "Requests that are claimed, or acknowledged and not over.",
            stats.outstanding,
        ),
        ("processes", "Processes that run tasks.", stats.pids.len() as u64),
        ("dead_letters", "Dead letters of all queues, as of the last look.", stats.dead_letters),
        (
            "dead_letters_oldest_timestamp_ms",
            "When the oldest of them died; 0: there is none.",
            stats.dead_oldest_ms,
        ),
    ];
    for (name, help, value) in gauges {
        let family = format!("celeriac_{name}");
        text.family(&family, "gauge", help);
        text.line(&family, "", value);
    }
}

/// A text in a label.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = if labels.is_empty() {
            writeln!(self.0, "{name} {value}")
        } else {
            writeln!(self.0, "{name}{{{labels}}} {value}")
        };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn tasks_are_counted_by_name_and_names_are_bounded() {
        let mut metrics = TaskMetrics::default();
        let name: Arc<str> = Arc::from("proj.\"add\"");
        metrics.received(&name);
        let ran = Outcome { runtime: Some(Duration::from_millis(7)), ..Outcome::default() };
        metrics.ended(&name, &ran);
        let failed = Outcome { kind: OutcomeKind::Failure, summary: "ValueError('x')".into(), ..ran };
        metrics.ended(&name, &failed);
        metrics.ended(&name, &Outcome { summary: "<odd>".into(), ..failed });

        let text = render("celery@host", 1, true, &Stats::default(), &metrics);

        let task = "name=\"proj.\\\"add\\\"\",hostname=\"host\"";
        for line in [
            "celery_worker_up{hostname=\"host\"} 1".to_owned(),
            format!("celery_task_received_total{{{task}}} 1"),
            format!("celery_task_succeeded_total{{{task}}} 1"),
            format!("celery_task_failed_total{{{task},exception=\"ValueError\"}} 1"),
            format!("celery_task_failed_total{{{task},exception=\"other\"}} 1"),
            format!("celery_task_runtime_bucket{{{task},le=\"0.005\"}} 0"),
            format!("celery_task_runtime_bucket{{{task},le=\"0.01\"}} 1"),
            format!("celery_task_runtime_bucket{{{task},le=\"+Inf\"}} 1"),
            "celeriac_worker_ready 1".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
        }
        for number in 0..2 * MAX_NAMES {
            metrics.received(&Arc::from(format!("task-{number}")));
        }
        assert_eq!(metrics.0.len(), MAX_NAMES + 1);
    }
}

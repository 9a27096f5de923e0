//! Revoking: by id, by stamped header, and what runs already.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::super::commit::ANSWER_WITHIN;
use super::super::consumer::ConsumerLoop;
use super::super::notice::Level;
use super::super::pool::RequestTag;
use super::super::request::Phase;
use super::super::upkeep::Chore;
use super::LOGGER;
use super::arguments::{dict_repr, missing, ok, raised, set_repr, text_repr, texts, truth};
use crate::backend::{BackendError, ResultBackend};
use crate::protocol::{ControlRequest, ExceptionText, ResultDocument, state};

const SIGTERM: i32 = 15;
/// States that a revoke replaces at once. Any other says that the task has begun, and is its worker's to change.
const WAITING_STATES: [&str; 4] = [state::PENDING, state::RECEIVED, state::RETRY, state::REJECTED];

impl ConsumerLoop {
    pub(super) fn control_revoke(&mut self, request: &ControlRequest) -> Value {
        if let Some(answer) = missing(request, &["task_id"]) {
            return answer;
        }
        let terminate = request.method == "terminate" || truth(request, "terminate");
        let signal = match signal_of(request) {
            Ok(signal) => signal,
            Err(answer) if terminate => return answer,
            Err(_) => SIGTERM,
        };
        let ids = texts(request.arguments.get("task_id"));
        let found = self.revoke(&ids, terminate.then_some(signal));
        if !terminate {
            return ok(format!("tasks {} flagged as revoked", set_repr(ids)));
        }
        if found.is_empty() {
            return ok("terminate: tasks unknown");
        }
        ok(format!("terminate: {}", found.join(", ")))
    }

    /// Flags ids, and terminates what runs of them if there is a signal; gives those that are here.
    fn revoke(&mut self, ids: &[&str], signal: Option<i32>) -> Vec<String> {
        let now = self.clock.now();
        for id in ids {
            self.revoked.add(id, now);
        }
        if signal.is_none() && !self.is_aside {
            self.log.line(Level::Info, LOGGER, || format!("Tasks flagged as revoked: {}", ids.join(", ")));
        }
        let mut waiting: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        let mut found = Vec::new();
        let tags: Vec<RequestTag> = self
            .requests
            .iter()
            .filter(|(_, request)| ids.contains(&request.id.as_str()))
            .map(|(tag, _)| *tag)
            .collect();
        for tag in tags {
            let Some(request) = self.requests.get(&tag) else { continue };
            if matches!(request.phase, Phase::Running(_) | Phase::Submitted) {
                waiting.retain(|id| *id != request.id);
            }
            if !found.contains(&request.id) {
                found.push(request.id.clone());
            }
            if let Some(signal) = signal {
                self.terminate(tag, signal);
            }
        }
        // One that does not run here may be a call that the second loop makes: it knows which of them wait.
        if !waiting.is_empty() && !self.revoke_aside(&waiting, signal) {
            self.mark_revoked(waiting);
        }
        found
    }

    /// Ends the process that runs a request, now or as soon as it has begun.
    fn terminate(&mut self, tag: RequestTag, signal: i32) {
        // A task that has ended cannot be terminated, and the chord that it has completed is not its own.
        let Some(request) = self.requests.get_mut(&tag).filter(|request| request.joining.is_none()) else {
            return;
        };
        request.terminate = Some(signal);
        self.log.line(Level::Info, LOGGER, || format!("Terminating {} ({signal})", request.id));
        if matches!(request.phase, Phase::Running(_) | Phase::Submitted) {
            self.end_process_of(tag, signal);
        }
    }

    pub(super) fn control_revoke_stamped(&mut self, request: &ControlRequest) -> Value {
        if let Some(answer) = missing(request, &["headers"]) {
            return answer;
        }
        let signal = match signal_of(request) {
            Ok(signal) => signal,
            Err(answer) => return answer,
        };
        let headers = match stamped_headers(&request.arguments["headers"]) {
            Ok(headers) => headers,
            Err(answer) => return answer,
        };
        self.revoked.stamps.add(&headers);
        let shown = dict_repr(&headers);
        if !truth(request, "terminate") {
            return ok(format!("headers {shown} flagged as revoked, but not terminated"));
        }
        let mut ended: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let running: Vec<RequestTag> = self
            .requests
            .iter()
            .filter(|(_, request)| matches!(request.phase, Phase::Running(_) | Phase::Submitted))
            .map(|(tag, _)| *tag)
            .collect();
        for tag in running {
            let Some(running) = self.requests.get(&tag) else { continue };
            let matching = super::super::revoked::matching(&running.message.headers, &headers);
            if !matching.is_empty() {
                self.terminate(tag, signal);
            }
            for (header, stamp) in matching {
                let stamps = ended.entry(header).or_default();
                if !stamps.contains(&stamp) {
                    stamps.push(stamp);
                }
            }
        }
        if ended.is_empty() {
            return ok(format!("headers {shown} were not terminated"));
        }
        let pairs: Vec<String> = ended
            .iter()
            .map(|(header, stamps)| {
                format!("{}: {}", text_repr(header), set_repr(stamps.iter().map(String::as_str)))
            })
            .collect();
        ok(format!("headers defaultdict(<class 'set'>, {{{}}}) revoked", pairs.join(", ")))
    }

    /// Whoever waits for a revoked task that has not begun learns it now, not when its turn has come.
    fn mark_revoked(&self, ids: Vec<String>) {
        let Some(backend) = self.stores.backend.clone() else { return };
        if ids.is_empty() {
            return;
        }
        let (log, now, expires) = (self.log.clone(), self.clock.now().0, self.options.result_expires_ms);
        self.chores.push(Box::pin(async move {
            let marking = store_revoked(&*backend, &ids, now, expires);
            let failed = match tokio::time::timeout(ANSWER_WITHIN, marking).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("the result backend does not answer".to_owned()),
            };
            if let Some(why) = failed {
                log.line(Level::Warning, LOGGER, || {
                    format!("revoked tasks are not marked as such until their turn comes: {why}")
                });
            }
            Chore::Marked
        }));
    }
}

/// Stores `REVOKED` for the ids that wait, as far as is known.
async fn store_revoked(
    backend: &dyn ResultBackend,
    ids: &[String],
    now_ms: i64,
    expires_ms: Option<u64>,
) -> Result<(), BackendError> {
    let exception =
        ExceptionText { class: "TaskRevokedError", arguments: &["revoked"], module: "celery.exceptions" };
    let stored = backend.read(ids).await?;
    let waits = |state: &str| WAITING_STATES.contains(&state);
    let records: Vec<_> = ids
        .iter()
        .zip(stored)
        .filter(|(_, record)| record.as_ref().is_none_or(|record| waits(&record.state)))
        .map(|(id, _)| ResultDocument::raised(id, state::REVOKED, &exception, now_ms).to_record(expires_ms))
        .collect();
    if records.is_empty() { Ok(()) } else { backend.store(records).await }
}

/// The stamps of a command: an object, or a list of `key=value`.
fn stamped_headers(value: &Value) -> Result<Map<String, Value>, Value> {
    match value {
        Value::Object(headers) => Ok(headers.clone()),
        Value::Array(pairs) => {
            let mut headers = Map::new();
            for pair in pairs.iter().filter_map(Value::as_str) {
                let Some((key, value)) = pair.split_once('=') else {
                    return Err(raised("IndexError", "list index out of range"));
                };
                headers.insert(key.to_owned(), value.into());
            }
            Ok(headers)
        }
        other => {
            let class = match other {
                Value::String(_) => "str",
                Value::Null => "NoneType",
                Value::Bool(_) => "bool",
                Value::Number(number) if number.is_f64() => "float",
                _ => "int",
            };
            Err(raised("AttributeError", &format!("'{class}' object has no attribute 'items'")))
        }
    }
}

/// The signal of a command; the answer when there is no such signal.
fn signal_of(request: &ControlRequest) -> Result<i32, Value> {
    match request.arguments.get("signal") {
        None | Some(Value::Null) => Ok(SIGTERM),
        Some(value) => signal_number(value).ok_or_else(|| {
            let name = value.as_str().unwrap_or_default().to_ascii_uppercase();
            let prefix = if name.starts_with("SIG") { "" } else { "SIG" };
            raised("AttributeError", &format!("module 'signal' has no attribute '{prefix}{name}'"))
        }),
    }
}

/// A signal by number or by name, with or without `SIG`.
fn signal_number(value: &Value) -> Option<i32> {
    if let Some(number) = value.as_i64() {
        return i32::try_from(number).ok();
    }
    let name = value.as_str()?.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let number = match name {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "ABRT" => 6,
        "KILL" => 9,
        "USR1" => 10,
        "USR2" => 12,
        "TERM" => SIGTERM,
        other => other.parse().ok()?,
    };
    Some(number)
}

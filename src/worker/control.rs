//! What other programs ask of the worker, by broadcast.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::commit::ANSWER_WITHIN;
use super::commit::Stores;
use super::consumer::ConsumerLoop;
use super::events;
use super::link::Link;
use super::notice::Level;
use super::request::Phase;
use super::upkeep::Chore;
use crate::backend::{BackendError, ResultBackend};
use crate::clock::Lamport;
use crate::protocol::{ControlRequest, ExceptionText, ResultDocument, state};

/// Where control requests are broadcast.
const EXCHANGE: &str = "celery.pidbox";
/// Requests that wait for the loop at the most.
const WAITING: usize = 64;
const SIGTERM: i32 = 15;
/// States that a revoke replaces at once. Any other says that the task has begun, and is its worker's to change.
const WAITING_STATES: [&str; 4] = [state::PENDING, state::RECEIVED, state::RETRY, state::REJECTED];

/// Listens for as long as it lives.
pub(super) struct Ear(JoinHandle<()>);

impl Drop for Ear {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts to listen. Requests for other nodes and nonsense are dropped here.
pub(super) fn listen(
    stores: &Stores,
    node: String,
    lamport: Arc<Lamport>,
) -> (Ear, mpsc::Receiver<ControlRequest>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let (broker, log) = (stores.broker.clone(), stores.log.clone());
    let task = tokio::spawn(async move {
        let mut link = Link::new("listen for control requests", log);
        loop {
            let error = match broker.listen(EXCHANGE).await {
                Err(error) => error,
                Ok(mut listener) => loop {
                    match listener.next().await {
                        Err(error) => break error,
                        Ok(message) => {
                            link.worked();
                            events::adjust(&lamport, &message.headers);
                            let request = ControlRequest::parse(&message.body);
                            let Some(request) = request.ok().filter(|request| request.addresses(&node))
                            else {
                                continue;
                            };
                            if sender.send(request).await.is_err() {
                                return;
                            }
                        }
                    }
                },
            };
            tokio::time::sleep(link.failed(&error).max(Duration::from_millis(50))).await;
        }
    });
    (Ear(task), receiver)
}

impl ConsumerLoop {
    /// Carries out a control request; methods that are not known are not for this version.
    pub(super) fn asked(&mut self, request: &ControlRequest) {
        match request.method.as_str() {
            "enable_events" => _ = self.set_task_events(true),
            "disable_events" => _ = self.set_task_events(false),
            "heartbeat" => self.send_heartbeat(),
            _ => {}
        }
        if request.method == "revoke" || request.method == "terminate" {
            let ids: Vec<&str> = match request.arguments.get("task_id") {
                Some(Value::String(id)) => vec![id],
                Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_str).collect(),
                _ => return,
            };
            let asked = request.arguments.get("terminate").and_then(Value::as_bool).unwrap_or(false);
            let terminate = asked || request.method == "terminate";
            let signal = request.arguments.get("signal").and_then(signal_number).unwrap_or(SIGTERM);
            self.revoke(&ids, terminate.then_some(signal));
        }
    }

    fn revoke(&mut self, ids: &[&str], signal: Option<i32>) {
        let now = self.clock.now();
        for id in ids {
            self.revoked.add(id, now);
        }
        self.log.line(Level::Info, "celery.worker.control", || {
            format!("Tasks flagged as revoked: {}", ids.join(", "))
        });
        let mut waiting: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        for (tag, request) in &mut self.requests {
            if !ids.contains(&request.id.as_str()) {
                continue;
            }
            let begun = matches!(request.phase, Phase::Running(_) | Phase::Submitted);
            if begun {
                waiting.retain(|id| *id != request.id);
            }
            if let Some(signal) = signal {
                request.terminate = Some(signal);
                if begun {
                    self.pool.terminate(*tag, signal);
                }
            }
        }
        self.mark_revoked(waiting);
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
                log.line(Level::Warning, "celery.worker.control", || {
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

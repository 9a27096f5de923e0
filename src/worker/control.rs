//! What other programs ask of the worker, by broadcast.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::consumer::ConsumerLoop;
use super::link::Link;
use super::log::Log;
use super::notice::Level;
use super::request::Phase;
use crate::broker::Broker;
use crate::protocol::ControlRequest;

/// Where control requests are broadcast.
const EXCHANGE: &str = "celery.pidbox";
/// Requests that wait for the loop at the most.
const WAITING: usize = 64;
const SIGTERM: i32 = 15;

/// Listens for as long as it lives.
pub(super) struct Ear(JoinHandle<()>);

impl Drop for Ear {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts to listen. Requests for other nodes and nonsense are dropped here.
pub(super) fn listen(
    broker: Arc<dyn Broker>,
    node: String,
    log: Arc<Log>,
) -> (Ear, mpsc::Receiver<ControlRequest>) {
    let (sender, receiver) = mpsc::channel(WAITING);
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
        let Some(signal) = signal else { return };
        for (tag, request) in &mut self.requests {
            if ids.contains(&request.id.as_str()) {
                request.terminate = Some(signal);
                if matches!(request.phase, Phase::Running(_) | Phase::Submitted) {
                    self.pool.terminate(*tag, signal);
                }
            }
        }
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

//! The end of a call becomes an outcome: a result record, the next try, or a message that lets a child conclude it.
//!
//! What follows a task (links, the next step of a chain, the part of a chord, a webhook) is known to Python alone. A call
//! that something follows is concluded by a task of ours, `celeriac.http_done`, of the same id: its message is the
//! follow-up of this outcome, and carries what the call gave.

use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::HttpOptions;
use super::call::{Response, plain};
use super::rules::{MODULE, Problem};
use crate::clock::UnixMillis;
use crate::protocol::{
    Message, Publication, ResultDocument, ResultRecord, TaskHeaders, format_iso_utc, state,
};
use crate::worker::member::follows;
use crate::worker::pool::{Execution, Outcome, OutcomeKind};

/// The task that concludes a call in a child.
pub(super) const DONE: &str = "celeriac.http_done";

/// How a call ended.
#[derive(Debug)]
pub(super) enum End {
    /// With a success.
    Answered(Response),
    /// With a failure that is final.
    Failed(Problem),
    /// It is tried again after this time.
    Again(Problem, Duration),
    /// It was not made, or not to its end: `revoked`, `expired`, `terminated`.
    Revoked(String),
    /// Its worker failed it: the exception of Celery, and its argument as JSON text.
    Lost(&'static str, String),
    /// Its message cannot be read.
    Malformed(String),
    /// No task of its name is one of ours.
    Unknown,
}

/// What of a message decides how it ends.
pub(super) struct Context<'a> {
    pub(super) execution: &'a Execution,
    pub(super) options: &'a HttpOptions,
    pub(super) now: UnixMillis,
    pub(super) is_webhook: bool,
}

impl Context<'_> {
    pub(super) fn outcome(&self, end: &End) -> Outcome {
        let message = &*self.execution.message;
        let (kind, summary) = self.told(end);
        let mut outcome = Outcome { kind, summary, ..Outcome::default() };
        let Ok(headers) = message.task_headers() else { return outcome };
        match end {
            End::Again(problem, delay) => {
                outcome.publications.extend(self.next_try(headers.retries, *delay));
                outcome.results.extend(self.record(&headers, state::RETRY, &raised(problem)));
            }
            End::Malformed(_) | End::Unknown => match self.concluded_by_child(end) {
                Some(done) => outcome.publications.push(done),
                None => outcome.results.extend(self.last_record(&headers, end)),
            },
            _ => match self.concluded_by_child(end) {
                Some(done) => {
                    // Its end is told, and stored, by whoever concludes it.
                    outcome.kind = OutcomeKind::Ignored;
                    outcome.publications.push(done);
                }
                None => outcome.results.extend(self.last_record(&headers, end)),
            },
        }
        outcome
    }

    fn told(&self, end: &End) -> (OutcomeKind, String) {
        match end {
            End::Answered(response) => (OutcomeKind::Success, response.summary()),
            End::Failed(problem) => {
                // A webhook that cannot be delivered becomes a dead letter.
                let kind = if self.is_webhook { OutcomeKind::Rejected } else { OutcomeKind::Failure };
                (kind, problem.text.clone())
            }
            End::Again(problem, _) => (OutcomeKind::Retry, problem.text.clone()),
            End::Revoked(why) => (OutcomeKind::Revoked, why.clone()),
            End::Lost(class, why) => (OutcomeKind::Failure, format!("{class}({why})")),
            End::Malformed(why) => (OutcomeKind::Malformed, why.clone()),
            End::Unknown => (OutcomeKind::Rejected, "this is no HTTP task".to_owned()),
        }
    }

    fn last_record(&self, headers: &TaskHeaders<'_>, end: &End) -> Option<ResultRecord> {
        let (state, result) = stored(end);
        self.record(headers, state, &result)
    }

    /// None: nobody wants it.
    fn record(&self, headers: &TaskHeaders<'_>, state: &str, result: &str) -> Option<ResultRecord> {
        if headers.ignore_result == Some(true) {
            return None;
        }
        let document = ResultDocument {
            status: state.to_owned(),
            result: result.into(),
            traceback: None,
            children: "[]".into(),
            date_done: state::is_ready(state).then(|| format_iso_utc(self.now.0)),
            group_id: headers.group.as_deref().map(str::to_owned),
            parent_id: headers.parent_id.as_deref().map(str::to_owned),
            task_id: headers.id.clone().into_owned(),
        };
        Some(document.to_record(self.options.result_expires_ms))
    }

    /// The same message, to come again later.
    fn next_try(&self, tried: u32, delay: Duration) -> Option<Publication> {
        let due = self.now.after(delay);
        let mut headers = header_map(&self.execution.message)?;
        headers.insert("retries".to_owned(), (tried + 1).into());
        headers.insert("eta".to_owned(), format_iso_utc(due.0).into());
        Some(Publication {
            exchange: self.execution.exchange.to_string(),
            routing_key: self.execution.routing_key.to_string(),
            due_ms: Some(due.0),
            declare: None,
            message: Message {
                headers: Value::Object(headers).to_string().into(),
                ..Message::clone(&self.execution.message)
            },
        })
    }

    /// The message that lets a child conclude it, if one has to.
    fn concluded_by_child(&self, end: &End) -> Option<Publication> {
        let message = &*self.execution.message;
        let mut headers = header_map(message)?;
        let body = plain(message).ok()?;
        let embed = embed(&body);
        let has_webhook = headers.get("celeriac").is_some_and(|own| own.get("webhook").is_some());
        let follows = has_webhook || embed.is_some_and(|embed| follows(embed.get()));
        let ignored = headers.get("ignore_result") == Some(&Value::Bool(true));
        if !follows && (ignored || !self.options.concludes_in_child) {
            return None;
        }
        headers.insert("task".to_owned(), DONE.into());
        headers.insert("retries".to_owned(), 0.into());
        headers.insert("eta".to_owned(), Value::Null);
        headers.remove("compression");
        if !matches!(end, End::Revoked(_)) {
            // It has ended in time.
            headers.insert("expires".to_owned(), Value::Null);
        }
        let (state, result) = stored(end);
        let embed = embed.map_or("null", RawValue::get);
        let mut properties = message.properties.clone();
        properties.expiration_ms = None;
        "utf-8".clone_into(&mut properties.content_encoding);
        Some(Publication {
            exchange: String::new(),
            routing_key: self.options.done_queue.clone(),
            due_ms: None,
            declare: None,
            message: Message {
                headers: Value::Object(headers).to_string().into(),
                properties,
                body: format!(r#"[["{state}", {result}], {{}}, {embed}]"#).into(),
            },
        })
    }
}

/// State and result, as a record holds them.
fn stored(end: &End) -> (&'static str, String) {
    const CELERY: &str = "celery.exceptions";
    match end {
        End::Answered(response) => (state::SUCCESS, response.to_json()),
        End::Failed(problem) | End::Again(problem, _) => (state::FAILURE, raised(problem)),
        End::Revoked(why) => (state::REVOKED, exception("TaskRevokedError", CELERY, &json!([why]))),
        End::Lost(class, why) => (state::FAILURE, exception(class, CELERY, &json!([why]))),
        End::Malformed(why) => (state::FAILURE, exception("InvalidTaskError", CELERY, &json!([why]))),
        End::Unknown => (state::FAILURE, exception("NotRegistered", CELERY, &json!([]))),
    }
}

fn raised(problem: &Problem) -> String {
    let arguments = match problem.status {
        Some(status) => json!([problem.text, status, problem.body]),
        None => json!([problem.text]),
    };
    exception(problem.class, MODULE, &arguments)
}

fn exception(class: &str, module: &str, arguments: &Value) -> String {
    json!({ "exc_type": class, "exc_message": arguments, "exc_module": module }).to_string()
}

fn header_map(message: &Message) -> Option<Map<String, Value>> {
    serde_json::from_slice(&message.headers).ok()
}

/// The third part of a body.
fn embed(body: &[u8]) -> Option<&RawValue> {
    type Parts<'a> = (serde::de::IgnoredAny, serde::de::IgnoredAny, &'a RawValue);
    serde_json::from_slice::<Parts<'_>>(body).ok().map(|(_, _, embed)| embed)
}

//! What an error of the connection means to the caller.

use std::time::Duration;

use lapin::ErrorKind;

use crate::broker::BrokerError;

/// Reply codes of AMQP.
const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const PRECONDITION_FAILED: u16 = 406;
const CONTENT_TOO_LARGE: u16 = 311;
const INVALID_PATH: u16 = 402;
const NOT_ALLOWED: u16 = 530;
const NOT_IMPLEMENTED: u16 = 540;

/// The reply code, when the server itself refused.
pub(super) fn code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

/// What the server said, or what happened to the connection.
pub(super) fn text(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) => error.get_message().to_string(),
        ErrorKind::IOError(error) => error.to_string(),
        ErrorKind::InvalidConnectionState(_) | ErrorKind::InvalidChannelState(..) => {
            "the connection was lost".to_owned()
        }
        _ => error.to_string(),
    }
}

/// The same name declared with other properties.
pub(super) fn is_declared_otherwise(error: &BrokerError) -> bool {
    matches!(error, BrokerError::Refused { reason, .. } if reason.contains("PRECONDITION_FAILED"))
}

/// It is not there.
pub(super) fn is_missing(error: &BrokerError) -> bool {
    matches!(error, BrokerError::Refused { reason, .. } if reason.contains("NOT_FOUND"))
}

/// What an error means: a refusal is final, everything else may pass.
pub(super) fn classify(url: &str, error: &lapin::Error) -> BrokerError {
    let (url, reason) = (url.to_owned(), text(error));
    // The node that keeps a queue may come back.
    let away = reason.contains("is down or inaccessible") || reason.contains("home node");
    match code(error) {
        Some(
            ACCESS_REFUSED | NOT_FOUND | PRECONDITION_FAILED | CONTENT_TOO_LARGE | INVALID_PATH | NOT_ALLOWED
            | NOT_IMPLEMENTED,
        ) if !away => BrokerError::Refused { url, reason: explain(reason) },
        _ => BrokerError::Unavailable { url, reason },
    }
}

/// Adds what to do, where that is not obvious.
fn explain(reason: String) -> String {
    if reason.contains("inequivalent arg") {
        return format!(
            "{reason}; it exists with other properties: configure it as it is, or delete it so that it is declared anew"
        );
    }
    reason
}

pub(super) fn timeout(url: &str, after: Duration, reason: &str) -> BrokerError {
    BrokerError::Timeout { url: url.to_owned(), after, reason: reason.to_owned() }
}

pub(super) fn refused(url: &str, reason: impl Into<String>) -> BrokerError {
    BrokerError::Refused { url: url.to_owned(), reason: reason.into() }
}

pub(super) fn unavailable(url: &str, reason: impl Into<String>) -> BrokerError {
    BrokerError::Unavailable { url: url.to_owned(), reason: reason.into() }
}

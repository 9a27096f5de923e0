//! What SQLite's errors mean to whoever called.

use std::time::Duration;

use rusqlite::ErrorCode;

use crate::backend::BackendError;
use crate::broker::BrokerError;

/// Why a step failed, before it is told as an error of the broker or of the backend.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// Another process holds the file's lock.
    Locked(Duration),
    /// Someone has to look at the file or the disk.
    Broken(String),
    /// Anything else; may pass.
    Passing(String),
    /// The store was closed.
    Closed,
}

impl Fault {
    pub(super) fn broker(self, url: String) -> BrokerError {
        match self {
            Self::Locked(after) => BrokerError::Timeout { url, after, reason: locked() },
            Self::Broken(reason) => BrokerError::Broken { url, reason },
            Self::Passing(reason) => BrokerError::Unavailable { url, reason },
            Self::Closed => BrokerError::Closed,
        }
    }

    pub(super) fn backend(self, url: String) -> BackendError {
        match self {
            Self::Locked(after) => BackendError::Timeout { url, after, reason: locked() },
            Self::Broken(reason) => BackendError::Broken { url, reason },
            Self::Passing(reason) => BackendError::Unavailable { url, reason },
            Self::Closed => BackendError::Closed,
        }
    }

    /// Whether this came from the one step that was tried, and not from the file: other steps may succeed.
    pub(super) fn is_of_the_step(&self) -> bool {
        matches!(self, Self::Passing(_))
    }
}

fn locked() -> String {
    "the file is locked by another process; look for a backup or a shell that holds a transaction open"
        .to_owned()
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        let Some(code) = error.sqlite_error_code() else {
            return Self::Passing(error.to_string());
        };
        let advice = match code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => return Self::Locked(Duration::ZERO),
            ErrorCode::ReadOnly | ErrorCode::PermissionDenied => {
                "the file or its directory is read-only: give this user the right to write both"
            }
            ErrorCode::DiskFull => {
                "the disk is full, or the file has reached its max_size: make room, nothing that was stored is lost"
            }
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
                "the file is damaged or no database: stop everyone, move it away (with its -wal and -shm), and \
                 recover it with `sqlite3 FILE .recover` or start with a new one"
            }
            ErrorCode::CannotOpen => {
                "the file cannot be opened: check that its directory exists and is writable"
            }
            ErrorCode::SystemIoFailure => "the disk reports errors: check it, and that it is a local one",
            _ => return Self::Passing(error.to_string()),
        };
        Self::Broken(format!("{error}; {advice}"))
    }
}

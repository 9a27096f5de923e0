//! What was malformed, and where. Texts never quote the message: it may hold secrets, and logs are bounded.

use thiserror::Error;

use super::CompressionError;

/// Why bytes from outside are not what the protocol says.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Not JSON, or JSON of another shape.
    #[error("{part}: malformed JSON at line {line}, column {column}")]
    Json {
        /// Which text: `headers`, `body`, `envelope`, ...
        part: &'static str,
        /// Where, from 1.
        line: usize,
        /// Where, from 1.
        column: usize,
    },
    /// JSON, but not an object.
    #[error("{part}: not a JSON object")]
    NotObject {
        /// Which text.
        part: &'static str,
    },
    /// A field that nobody can do without.
    #[error("{part}: {field} is missing")]
    Missing {
        /// Which text.
        part: &'static str,
        /// Its name.
        field: &'static str,
    },
    /// A field that makes no sense.
    #[error("{part}: {field} is not {expected}")]
    Invalid {
        /// Which text.
        part: &'static str,
        /// Its name.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// No task is named: not a task message at all.
    #[error("unknown message: it names no task")]
    UnknownMessage,
    /// Protocol 1 keeps its headers in the body, which must then be readable without Python.
    #[error("protocol 1 message whose body is not JSON")]
    UnsupportedBody,
    /// The body cannot be decompressed.
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// A control request that names its nodes by a regular expression.
    #[error("control request: matcher is not glob, the only one supported")]
    UnsupportedMatcher,
}

impl DecodeError {
    /// Keeps the place of a JSON error and drops its text, which quotes the input.
    pub(super) fn json(part: &'static str, error: &serde_json::Error) -> Self {
        Self::Json { part, line: error.line(), column: error.column() }
    }
}

//! Patterns of topics, for Python.

use celeriac::protocol;
use pyo3::prelude::*;

/// Whether a routing key fits a pattern, as AMQP says: `*` is one word, `#` any number of them.
#[pyfunction]
pub(crate) fn topic_matches(pattern: &str, key: &str) -> bool {
    protocol::topic_matches(pattern, key)
}

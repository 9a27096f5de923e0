//! Result records in JSON, written at once: no document between the values and the bytes.

use std::time::{SystemTime, UNIX_EPOCH};

use celeriac::protocol::{self, format_iso_utc};
use pyo3::prelude::*;

use crate::json::{append_json, append_text};
use crate::values::ResultRecord;

const JSON: &str = "application/json";

/// Celery's result document. `done`: when it ended, as text; True for now, in UTC.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "a whole record, in one call of the hot path")]
pub(crate) fn json_record(
    task_id: String,
    state: String,
    result: &Bound<'_, PyAny>,
    traceback: &Bound<'_, PyAny>,
    children: &Bound<'_, PyAny>,
    done: &Bound<'_, PyAny>,
    group_id: &Bound<'_, PyAny>,
    parent_id: &Bound<'_, PyAny>,
    expires_ms: Option<u64>,
    default: &Bound<'_, PyAny>,
) -> PyResult<ResultRecord> {
    let mut out = Vec::with_capacity(256);
    let default = Some(default);
    out.extend_from_slice(b"{\"status\": ");
    append_text(&state, &mut out);
    for (name, value) in [("result", result), ("traceback", traceback), ("children", children)] {
        append_field(name, value, default, &mut out)?;
    }
    if matches!(done.extract::<bool>(), Ok(true)) {
        out.extend_from_slice(b", \"date_done\": ");
        append_text(&now_utc(), &mut out);
    } else {
        append_field("date_done", done, default, &mut out)?;
    }
    for (name, value) in [("group_id", group_id), ("parent_id", parent_id)] {
        if value.is_truthy()? {
            append_field(name, value, default, &mut out)?;
        }
    }
    out.extend_from_slice(b", \"task_id\": ");
    append_text(&task_id, &mut out);
    out.push(b'}');
    let record = protocol::ResultRecord {
        task_id,
        state,
        record: out.into(),
        content_type: JSON.to_owned(),
        expires_ms,
        reply_to: None,
        retain: None,
    };
    Ok(ResultRecord(record))
}

fn append_field(
    name: &str,
    value: &Bound<'_, PyAny>,
    default: Option<&Bound<'_, PyAny>>,
    out: &mut Vec<u8>,
) -> PyResult<()> {
    out.extend_from_slice(b", \"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\": ");
    append_json(value, default, 1, out)
}

/// As Python's `isoformat` writes it: microseconds, unless there are none.
fn now_utc() -> String {
    #[expect(
        clippy::disallowed_methods,
        reason = "records have microseconds, and the engine's clock has none"
    )]
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    let text = format_iso_utc((micros / 1000) as i64);
    let (second, zone) = (&text[..19], &text[26..]);
    match micros % 1_000_000 {
        0 => format!("{second}{zone}"),
        fraction => format!("{second}.{fraction:06}{zone}"),
    }
}

//! What this process uses, as the kernel tells it.

use serde_json::{Map, Value, json};

use super::arguments::raised;

/// Fields of `getrusage` that Linux does not fill.
const UNUSED: [&str; 7] = ["ixrss", "idrss", "isrss", "nswap", "msgsnd", "msgrcv", "nsignals"];
/// Clock ticks are always told to programs by this rate on Linux.
const TICKS_A_SECOND: f64 = 100.0;

/// What Python's `getrusage` would say; `N/A` where the system does not tell.
pub(super) fn usage() -> Value {
    let Some(stat) = std::fs::read_to_string("/proc/self/stat").ok() else { return "N/A".into() };
    // The name of the program may hold anything but ends with the last bracket.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let field = |place: usize| fields.get(place).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let mut usage = Map::new();
    usage.insert("minflt".to_owned(), json!(field(7) as u64));
    usage.insert("majflt".to_owned(), json!(field(9) as u64));
    usage.insert("utime".to_owned(), json!(field(11) / TICKS_A_SECOND));
    usage.insert("stime".to_owned(), json!(field(12) / TICKS_A_SECOND));
    usage.insert("maxrss".to_owned(), json!(line(&status, "VmHWM:")));
    usage.insert("nvcsw".to_owned(), json!(line(&status, "voluntary_ctxt_switches:")));
    usage.insert("nivcsw".to_owned(), json!(line(&status, "nonvoluntary_ctxt_switches:")));
    usage.insert("inblock".to_owned(), json!(line(&io, "read_bytes:") / 512));
    usage.insert("oublock".to_owned(), json!(line(&io, "write_bytes:") / 512));
    usage.extend(UNUSED.map(|name| (name.to_owned(), json!(0))));
    Value::Object(usage)
}

/// Resident memory of this process, in the words of Celery's `memsample`.
pub(super) fn memory_sample() -> Value {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    match line(&status, "VmRSS:") {
        0 => raised("NotImplementedError", "this system does not tell how much memory a process uses"),
        kib => format!("{:.2}MB", kib as f64 / 1024.0).into(),
    }
}

/// The number behind a name in a file of `/proc`.
fn line(text: &str, name: &str) -> u64 {
    let found = text.lines().find_map(|line| line.strip_prefix(name));
    found.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

//! Which process this is, and whether another one still lives.

use std::sync::LazyLock;

/// A process, as it is named in a store.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Process {
    /// One boot of one machine and one numbering of its processes: only within it a pid means something.
    pub(crate) host: String,
    pub(crate) pid: i64,
    /// When it started, in the system's own unit; tells it from a later one of the same pid. 0: not known.
    pub(crate) started: i64,
}

static HOST: LazyLock<String> = LazyLock::new(|| {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let pids = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let name = rustix::system::uname();
    format!("{}/{}/{}", name.nodename().to_string_lossy(), boot.trim(), pids.display())
});

impl Process {
    pub(crate) fn own() -> Self {
        let pid = i64::from(std::process::id());
        let started = stat(pid).map_or(0, |stat| stat.started);
        Self { host: HOST.clone(), pid, started }
    }

    /// Whether it is seen to be gone. A process of another host never is: only its lease tells.
    pub(crate) fn is_gone(&self) -> bool {
        self.host == *HOST && !lives(self.pid, self.started)
    }
}

#[cfg(target_os = "linux")]
fn lives(pid: i64, started: i64) -> bool {
    match stat(pid) {
        Some(stat) => !stat.is_zombie && (started == 0 || stat.started == started),
        // Without /proc nothing can be said.
        None => !std::path::Path::new("/proc/self/stat").exists(),
    }
}

#[cfg(not(target_os = "linux"))]
fn lives(pid: i64, _started: i64) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

struct Stat {
    is_zombie: bool,
    started: i64,
}

/// Reads `/proc/PID/stat`: the state is field 3, the start time field 22. The name in field 2 may hold
/// anything, so fields are counted from its closing bracket.
fn stat(pid: i64) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    Some(Stat { is_zombie: matches!(state, "Z" | "X"), started })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_one_that_started_at_another_time_is_gone() {
        let own = Process::own();
        assert!(!own.is_gone());

        #[cfg(target_os = "linux")]
        assert!(Process { started: own.started + 1, ..own.clone() }.is_gone());
        assert!(Process { pid: 0, ..own.clone() }.is_gone());
        assert!(!Process { pid: 0, host: "elsewhere".to_owned(), ..own }.is_gone());
    }
}

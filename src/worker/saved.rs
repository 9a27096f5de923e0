//! What a worker knows beyond its life (`worker_state_db`): the revoked tasks, in a file of its own format.
//!
//! JSON, one object a line; the first says what the file is. The file is replaced as a whole, so that a crash leaves
//! the old one. Celery's files (Python's `shelve`) are not read.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::consumer::ConsumerLoop;
use super::notice::Level;
use super::upkeep::Chore;
use crate::clock::UnixMillis;

/// What the first line names.
const KIND: &str = "celeriac worker state";
/// How often it is saved while it changes.
const SAVE_EVERY: Duration = Duration::from_secs(180);
const LOGGER: &str = "celery.worker.state";

#[derive(Serialize, Deserialize)]
struct Head {
    kind: String,
    version: u32,
}

/// One revoked task.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    revoked: String,
    at_ms: i64,
}

/// When was saved what.
#[derive(Debug, Default)]
pub(super) struct Saving {
    /// [`super::revoked::Revoked::version`] of what is in the file.
    version: u64,
    next: Option<Instant>,
}

impl ConsumerLoop {
    /// Reads what an earlier worker has saved.
    pub(super) fn load_state(&mut self) -> Result<(), String> {
        let Some(path) = &self.options.control.state_file else { return Ok(()) };
        let entries = load(path).map_err(|why| format!("worker_state_db {}: {why}", path.display()))?;
        let now = self.clock.now();
        for entry in entries {
            // A clock that was set back must not keep an id for ever.
            self.revoked.add(&entry.revoked, UnixMillis(entry.at_ms.min(now.0)));
        }
        self.saving.version = self.revoked.version;
        Ok(())
    }

    /// Saves, on a thread of its own, if there is something new and it is time.
    pub(super) fn save_when_due(&mut self, now: Instant) {
        let changed = self.saving.version != self.revoked.version;
        if !changed || self.options.control.state_file.is_none() {
            return;
        }
        let next = *self.saving.next.get_or_insert(now + SAVE_EVERY);
        if next > now {
            return;
        }
        self.saving.next = None;
        let (Some(path), log) = (self.options.control.state_file.clone(), self.log.clone()) else { return };
        let entries = self.entries();
        self.chores.push(Box::pin(async move {
            let saved = tokio::task::spawn_blocking(move || save(&path, &entries)).await;
            if let Ok(Err(error)) = saved {
                log.line(Level::Error, LOGGER, || format!("the revoked tasks are not saved: {error}"));
            }
            Chore::Answered
        }));
    }

    /// Saves at the end.
    pub(super) fn save_last(&mut self) {
        let Some(path) = self.options.control.state_file.clone() else { return };
        let entries = self.entries();
        if let Err(error) = save(&path, &entries) {
            self.log.line(Level::Error, LOGGER, || {
                format!("the revoked tasks are not saved in {}: {error}", path.display())
            });
        }
    }

    fn entries(&mut self) -> Vec<Entry> {
        self.saving.version = self.revoked.version;
        let now = self.clock.now();
        self.revoked.list(now).map(|(id, added)| Entry { revoked: id.to_owned(), at_ms: added.0 }).collect()
    }
}

/// Reads a file; one that is not there is empty.
fn load(path: &Path) -> Result<Vec<Entry>, String> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
    };
    let mut lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let head = lines.next().and_then(|line| serde_json::from_slice::<Head>(line).ok());
    match head {
        None if bytes.is_empty() => Ok(Vec::new()),
        Some(head) if head.kind == KIND && head.version == 1 => {
            Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
        }
        _ => Err(
            "this is no state file of celeriac (those of Celery's workers are not read): name another file, \
                  or remove it"
                .to_owned(),
        ),
    }
}

/// Replaces a file.
fn save(path: &Path, entries: &[Entry]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut file = BufWriter::new(File::create(&new)?);
    serde_json::to_writer(&mut file, &Head { kind: KIND.to_owned(), version: 1 })?;
    for entry in entries {
        file.write_all(b"\n")?;
        serde_json::to_writer(&mut file, entry)?;
    }
    file.write_all(b"\n")?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_a_foreign_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        assert_eq!(load(&path), Ok(Vec::new()));
        let entries =
            || vec![Entry { revoked: "a\"\n".into(), at_ms: 5 }, Entry { revoked: "b".into(), at_ms: 6 }];

        save(&path, &entries()).unwrap();
        save(&path, &entries()).unwrap();

        assert_eq!(load(&path), Ok(entries()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        std::fs::write(&path, b"\x13\x57\x9a\xcegdbm").unwrap();
        assert!(load(&path).unwrap_err().contains("name another file"));
    }
}

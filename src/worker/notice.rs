//! What the worker tells the program around it: log lines and milestones, drained in batches.

use std::collections::VecDeque;
use std::sync::OnceLock;

use parking_lot::Mutex;

use super::told::{MOST_TOLD, TaskEvent, TaskNotice, Wanted};
use crate::clock::UnixMillis;

/// Notices kept while nobody drains them.
const CAPACITY: usize = 10_000;

/// How important a log line is; the numbers are Python's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// For developers.
    Debug = 10,
    /// What happens.
    Info = 20,
    /// Should be looked at.
    Warning = 30,
    /// Went wrong.
    Error = 40,
    /// The worker cannot go on.
    Critical = 50,
}

/// One log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// How important.
    pub level: Level,
    /// Name of the logger, as Celery has it.
    pub target: &'static str,
    /// The line.
    pub text: String,
    /// When it happened.
    pub created: UnixMillis,
    /// The task it is about: id and name.
    pub task: Option<(String, String)>,
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// The worker consumes.
    Ready,
    /// A log line.
    Log(LogLine),
    /// A message whose body is kept elsewhere, under this name, is settled for good: what was kept may go.
    Settled(Box<str>),
    /// Something happened to a request.
    Task(Box<TaskNotice>),
    /// A command of the app's own was asked for: carry it out, and answer with its number.
    Command {
        /// For [`super::WorkerHandle::reply`].
        number: u64,
        /// The command.
        method: String,
        /// Its arguments: a JSON object.
        arguments: String,
    },
}

type Hook = Box<dyn Fn() + Send + Sync>;

/// The notices that were not drained yet. Bounded: what does not fit is counted and told of.
pub struct NoticeQueue {
    level: u8,
    /// What the program wants to hear of requests. Written by the program at any time, read by the worker.
    wanted: Wanted,
    /// Rung when the queue was empty and is not any more. Set once by the program, read by the worker.
    hook: OnceLock<Hook>,
    /// Written by the worker, emptied by the program.
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    notices: VecDeque<Notice>,
    dropped: u64,
    /// Notices about requests among them.
    tasks: usize,
}

impl NoticeQueue {
    /// A queue for lines of at least this level (Python's number).
    pub fn new(level: u8) -> Self {
        Self { level, wanted: Wanted::default(), hook: OnceLock::new(), waiting: Mutex::default() }
    }

    /// Calls `hook`, on the worker's thread, whenever the queue was empty and is not any more. The first call counts.
    pub fn on_nonempty(&self, hook: Hook) {
        if self.hook.set(hook).is_ok() && !self.waiting.lock().notices.is_empty() {
            self.ring();
        }
    }

    /// Takes all that waits.
    pub fn drain(&self) -> Vec<Notice> {
        let mut waiting = self.waiting.lock();
        let dropped = std::mem::take(&mut waiting.dropped);
        waiting.tasks = 0;
        let mut notices: Vec<_> = waiting.notices.drain(..).collect();
        if dropped > 0 {
            let created = match notices.last() {
                Some(Notice::Log(line)) => line.created,
                _ => UnixMillis(0),
            };
            notices.push(Notice::Log(LogLine {
                level: Level::Warning,
                target: "celery.worker",
                text: format!(
                    "{dropped} log lines were dropped: they came faster than they could be written"
                ),
                created,
                task: None,
            }));
        }
        notices
    }

    /// Whether a line of that level is wanted; ask before making one.
    pub fn wants(&self, level: Level) -> bool {
        level as u8 >= self.level
    }

    /// Tells of requests from now on when one of these happens to them.
    pub fn want_tasks(&self, events: &[TaskEvent]) {
        self.wanted.set(events);
    }

    /// Whether that is wanted; ask before making one.
    pub(super) fn wants_tasks(&self, event: TaskEvent) -> bool {
        self.wanted.has(event)
    }

    /// Whether so many notices about requests wait that there should not be more for now.
    pub(super) fn is_crowded(&self) -> bool {
        self.wanted.has(TaskEvent::Received) && self.waiting.lock().tasks >= MOST_TOLD
    }

    /// Adds a notice about a request. It always fits: the worker claims no more while it is crowded.
    pub(super) fn push_task(&self, notice: TaskNotice) {
        let mut waiting = self.waiting.lock();
        let was_empty = waiting.notices.is_empty();
        waiting.tasks += 1;
        waiting.notices.push_back(Notice::Task(Box::new(notice)));
        drop(waiting);
        if was_empty {
            self.ring();
        }
    }

    /// Adds a notice.
    pub fn push(&self, notice: Notice) {
        let mut waiting = self.waiting.lock();
        if waiting.notices.len() >= CAPACITY {
            waiting.dropped += 1;
            return;
        }
        let was_empty = waiting.notices.is_empty();
        waiting.notices.push_back(notice);
        drop(waiting);
        if was_empty {
            self.ring();
        }
    }

    fn ring(&self) {
        if let Some(hook) = self.hook.get() {
            hook();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn the_hook_rings_once_for_a_batch() {
        let queue = NoticeQueue::new(20);
        let rung = Arc::new(AtomicU32::new(0));
        let counter = rung.clone();
        queue.on_nonempty(Box::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        }));

        queue.push(Notice::Ready);
        queue.push(Notice::Ready);

        assert_eq!(rung.load(Ordering::SeqCst), 1);
        assert_eq!(queue.drain().len(), 2);
        queue.push(Notice::Ready);
        assert_eq!(rung.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let queue = NoticeQueue::new(20);
        for _ in 0..CAPACITY + 5 {
            queue.push(Notice::Ready);
        }

        let notices = queue.drain();

        assert_eq!(notices.len(), CAPACITY + 1);
        assert!(matches!(notices.last(), Some(Notice::Log(line)) if line.text.starts_with("5 log lines")));
        assert!(queue.drain().is_empty());
    }
}

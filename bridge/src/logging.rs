//! Engine traces become notices of the worker, and Python logs them. Nothing here attaches to Python.

use std::fmt::{Debug, Write as _};
use std::sync::Arc;

use celeriac::clock::Clock;
use celeriac::worker::{Level, LogLine, Notice, NoticeQueue};
use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Where traces go. Set by the worker that runs, taken away when it has ended; read by every thread.
static RECEIVER: Mutex<Option<Arc<NoticeQueue>>> = Mutex::new(None);

/// Sends traces of the engine to this queue from now on; to none.
pub(crate) fn send_to(queue: Option<Arc<NoticeQueue>>) {
    let wanted = queue.is_some();
    *RECEIVER.lock() = queue;
    if wanted {
        // The second worker of a process finds it set.
        let _set_before = tracing::subscriber::set_global_default(ToNotices);
    }
}

/// Writes no spans, only events.
struct ToNotices;

impl Subscriber for ToNotices {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && *metadata.level() <= tracing::Level::DEBUG
            && metadata.target().starts_with("celeriac")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let level = match *event.metadata().level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warning,
            tracing::Level::INFO => Level::Info,
            _ => Level::Debug,
        };
        let Some(queue) = RECEIVER.lock().clone().filter(|queue| queue.wants(level)) else { return };
        let mut line = Line::default();
        event.record(&mut line);
        queue.push(Notice::Log(LogLine {
            level,
            target: event.metadata().target(),
            text: line.message + &line.fields,
            created: Clock::system().now(),
            task: None,
        }));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _infallible = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            let _infallible = write!(self.fields, " {}={value:?}", field.name());
        }
    }
}

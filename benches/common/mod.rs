//! What the benches of stores share: tasks that look like Celery's, and the CPU that they cost.

use std::time::Duration;

use celeriac::broker::ConsumerOptions;
use celeriac::protocol::{Message, Properties, Publication};

/// A task with 800 bytes of headers.
pub(crate) fn publication(number: usize) -> Publication {
    Publication {
        routing_key: "celery".to_owned(),
        message: Message {
            headers: format!("{{\"h\": \"{}\"}}", "h".repeat(791)).into(),
            properties: Properties {
                content_type: "application/json".to_owned(),
                content_encoding: "utf-8".to_owned(),
                correlation_id: Some(id(number)),
                delivery_mode: 2,
                priority: Some(0),
                ..Properties::default()
            },
            body:
                b"[[2, 3], {}, {\"callbacks\": null, \"errbacks\": null, \"chain\": null, \"chord\": null}]"
                    .as_slice()
                    .into(),
        },
        ..Publication::default()
    }
}

/// As random as Celery's ids, which decides how many pages a batch of results touches.
pub(crate) fn id(number: usize) -> String {
    let mixed = (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    format!("{:08x}-{:04x}-4000-8000-{number:012x}", mixed >> 32, mixed & 0xffff)
}

/// How the queue is consumed.
pub(crate) fn options() -> ConsumerOptions {
    ConsumerOptions {
        queues: vec!["celery".to_owned()],
        node: "bench".to_owned(),
        lease: Duration::from_secs(30),
        max_crashes: 3,
        results: None,
    }
}

/// CPU time of this process so far.
pub(crate) fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

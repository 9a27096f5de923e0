//! What the bytes mean. No IO, nothing of ours below it.
//!
//! A [`Message`] is kept as it came: headers stay JSON text, the body stays bytes. The engine looks at
//! a few headers through [`TaskHeaders`]; only serializers (in Python or the bridge) open the body.
//! [`Message::upgrade`] makes protocol 2 of older messages, so that nothing behind it knows of them.

mod chord;
mod compression;
mod control;
mod envelope;
mod error;
mod event;
mod headers;
mod iso;
pub(crate) mod json;
mod large;
mod message;
mod new_task;
mod own;
mod properties;
mod result;
pub mod state;
mod topic;
mod topology;
mod v1;

pub(crate) use chord::NONCE;
pub use chord::{ChordClaim, ChordPart};
pub use compression::{CompressionError, compress, decompress};
pub use control::{ControlReply, ControlRequest, ReplyTo};
pub use envelope::Envelope;
#[cfg(feature = "redis")]
pub(crate) use envelope::Opened;
pub use error::DecodeError;
pub use event::{EVENT_EXCHANGE, EventWriter, ShownTask, event_message, event_routing_key};
pub use headers::{HEADER_ORDER, TaskHeaders};
pub use iso::{format_iso_utc, parse_iso_ms};
pub use large::Large;
pub use message::{Message, Publication};
pub use new_task::NewTask;
pub use own::{Own, OwnLimit, Unique};
pub use properties::Properties;
pub use result::{ExceptionText, ResultDocument, ResultRecord, Retain};
pub use topic::{EVENTS_TOPIC, TASK_STREAM, TopicBinding, any_topic_matches, events_topic, topic_matches};
pub use topology::{Arguments, Binding, Exchange, Queue, Topology};

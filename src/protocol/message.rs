//! One message, whatever broker carries it.

use std::sync::Arc;

use bytes::Bytes;

use super::{Properties, Queue};

/// What is on the wire: headers as JSON text, properties, and a body that the engine does not open.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// The header object as JSON text (`{...}`), exactly as it came: unknown headers survive.
    pub headers: Bytes,
    /// Content type, correlation id, priority and so on.
    pub properties: Properties,
    /// `[args, kwargs, embed]`, serialized and perhaps compressed.
    pub body: Bytes,
}

/// A message and where it is to go.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Publication {
    /// Exchange; empty is AMQP's default exchange, which routes by queue name.
    pub exchange: String,
    /// Routing key; with the default exchange, the queue's name.
    pub routing_key: String,
    /// When it is due, in milliseconds since the epoch, if it has an ETA. The same moment as the `eta`
    /// header, given apart so that drivers can park it without opening the headers.
    pub due_ms: Option<i64>,
    /// The queue that is declared before it is sent; none is what the driver's [`super::Topology`] says
    /// ([`super::Topology::declared_for`]).
    pub declare: Option<Arc<Queue>>,
    /// What to send.
    pub message: Message,
}

impl Message {
    /// Whether a text occurs in it, or may: a compressed body may hold anything.
    pub fn may_mention(&self, text: &str) -> bool {
        contains(&self.headers, text)
            || contains(&self.body, text)
            || contains(&self.headers, "\"compression\": \"")
    }

    /// Bytes that this message keeps in memory, for credit in bytes.
    pub fn size(&self) -> usize {
        self.headers.len() + self.body.len() + 256
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    match std::str::from_utf8(bytes) {
        Ok(bytes) => bytes.contains(text),
        Err(_) => bytes.windows(text.len().max(1)).any(|window| window == text.as_bytes()),
    }
}

//! The properties of a message: what AMQP calls basic properties and Redis keeps in its envelope.

/// Properties of one message (Celery protocol, `compat/protocol.md` 1.4).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Properties {
    /// Media type of the body, such as `application/json`.
    pub content_type: String,
    /// Encoding of the body, such as `utf-8` or `binary`.
    pub content_encoding: String,
    /// The task id, as Celery writes it.
    pub correlation_id: Option<String>,
    /// Where an `rpc://` result goes.
    pub reply_to: Option<String>,
    /// 2 persistent, 1 transient.
    pub delivery_mode: u8,
    /// 0 to 9. Higher is sooner, but on Redis, where Celery has it the other way round.
    pub priority: Option<u8>,
    /// Milliseconds that the message may wait in the broker.
    pub expiration_ms: Option<u64>,
    /// Everything else the sender gave (`message_id`, `user_id`, ...), kept as it came.
    pub other: serde_json::Map<String, serde_json::Value>,
}

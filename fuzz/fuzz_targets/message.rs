//! Everything that is done with bytes from a broker before Python sees them.
#![no_main]

use celeriac::protocol::{Envelope, Message, Properties};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(envelope) = Envelope::decode(data) {
        let written = Envelope::encode(
            &envelope.message,
            &envelope.exchange,
            &envelope.routing_key,
            &envelope.delivery_tag,
        );
        let again = Envelope::decode(&written).expect("what we write can be read");
        assert_eq!(again.message.body, envelope.message.body);
        assert_eq!(again.message.headers, envelope.message.headers);
        receive(envelope.message);
    }
    // Without an envelope, as from RabbitMQ: headers and body, split at the first zero byte.
    let split = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (headers, body) = data.split_at(split);
    receive(Message {
        headers: headers.to_vec().into(),
        properties: Properties { content_type: "application/json".to_owned(), ..Properties::default() },
        body: body.get(1..).unwrap_or_default().to_vec().into(),
    });
});

fn receive(message: Message) {
    let _ = message.task_headers();
    if let Ok(upgraded) = message.upgrade() {
        let _ = upgraded.task_headers();
        assert_eq!(upgraded.clone().upgrade().expect("protocol 2 is left alone"), upgraded);
    }
}

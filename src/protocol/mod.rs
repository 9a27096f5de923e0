//! What the bytes mean. No IO, nothing of ours below it but time stamps' text forms.
//!
//! A [`Message`] is kept as it came: headers stay JSON text, the body stays bytes. The engine looks at
//! a few headers through [`TaskHeaders`]; only serializers (in Python or the bridge) open the body.

mod message;
mod properties;
mod result;

pub use message::{Message, Publication};
pub use properties::Properties;
pub use result::ResultRecord;

//! The member `large` of our header: the body of the message is kept in a store of the app's, and this says where.

use serde::Deserialize;

/// Where a body is. Written by the client that sent the message, read by the child that opens it; the supervisor tells its
/// program when the message is settled, which deletes it then. A crash before that leaves it until it expires.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Large {
    /// The store's name for it.
    #[serde(rename = "ref")]
    pub reference: String,
}

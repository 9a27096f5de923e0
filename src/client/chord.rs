//! Chords: their start and their growth. Workers count them.

use bytes::Bytes;

use super::{Client, ClientError};
use crate::protocol::{Envelope, Publication};

impl Client {
    /// Says how many parts a chord has: to be called before the first of them is sent.
    pub async fn start_chord(
        &self,
        group_id: &str,
        size: u64,
        expires_ms: Option<u64>,
    ) -> Result<(), ClientError> {
        let start = || async { Ok(self.backend()?.start_chord(group_id, size, expires_ms).await?) };
        self.patiently(None, start).await
    }

    /// Has chords looked after that were started: should their parts be lost, a worker ends them. What is kept for that
    /// is the first of the messages that has to do with each.
    pub async fn guard_chords(
        &self,
        group_ids: &[String],
        messages: &[Publication],
    ) -> Result<(), ClientError> {
        for group_id in group_ids {
            let one = messages.iter().find(|publication| publication.message.may_mention(group_id));
            let Some(Publication { exchange, routing_key, message, .. }) = one else { continue };
            let kept = Bytes::from(Envelope::encode(message, exchange, routing_key, ""));
            let guard = || async { Ok(self.backend()?.guard_chord(group_id, kept.clone()).await?) };
            self.patiently(None, guard).await?;
        }
        Ok(())
    }

    /// Adds parts to a chord that is not complete: to be called before they are sent. One try: a second one might count
    /// them twice.
    pub async fn grow_chord(&self, group_id: &str, by: u64) -> Result<(), ClientError> {
        Ok(self.backend()?.grow_chord(group_id, by).await?)
    }
}

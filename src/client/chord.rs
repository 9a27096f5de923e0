//! Chords: their start and their growth. Workers count them.

use super::{Client, ClientError};

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

    /// Adds parts to a chord that is not complete: to be called before they are sent. One try: a second one might count
    /// them twice.
    pub async fn grow_chord(&self, group_id: &str, by: u64) -> Result<(), ClientError> {
        Ok(self.backend()?.grow_chord(group_id, by).await?)
    }
}

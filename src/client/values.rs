//! Kept values.

use bytes::Bytes;

use super::{Client, ClientError};
use crate::backend::KeptValue;

impl Client {
    /// Keeps a value, over what was kept under its key before.
    pub async fn put_value(&self, kept: KeptValue) -> Result<(), ClientError> {
        self.patiently(None, || async { Ok(self.backend()?.put_value(kept.clone()).await?) }).await
    }

    /// Reads a value; none where nothing is kept or it has expired.
    pub async fn read_value(&self, key: &str) -> Result<Option<Bytes>, ClientError> {
        self.patiently(None, || async { Ok(self.backend()?.read_value(key).await?) }).await
    }

    /// Removes values.
    pub async fn delete_values(&self, keys: &[String]) -> Result<(), ClientError> {
        self.patiently(None, || async { Ok(self.backend()?.delete_values(keys).await?) }).await
    }
}

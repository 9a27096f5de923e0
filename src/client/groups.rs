//! Saved groups, for `GroupResult`.

use super::{Client, ClientError};
use crate::backend::GroupRecord;

impl Client {
    /// Saves which results are a group's.
    pub async fn save_group(&self, group: GroupRecord) -> Result<(), ClientError> {
        self.patiently(None, || async { Ok(self.backend()?.save_group(group.clone()).await?) }).await
    }

    /// Reads a saved group.
    pub async fn read_group(&self, group_id: &str) -> Result<Option<GroupRecord>, ClientError> {
        self.patiently(None, || async { Ok(self.backend()?.read_group(group_id).await?) }).await
    }

    /// Removes a saved group.
    pub async fn forget_group(&self, group_id: &str) -> Result<(), ClientError> {
        self.patiently(None, || async { Ok(self.backend()?.forget_group(group_id).await?) }).await
    }
}

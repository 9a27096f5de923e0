//! The records of many tasks, each time one changes: what streams of progress are made of.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::patience::Patience;
use super::result::OUTAGE;
use super::{Client, ClientError, FOREVER};
use crate::backend::Watch;
use crate::protocol::ResultRecord;

/// Follows some tasks. All that follow anything in a process share one subscription of its result backend. Whoever asks
/// seldom misses states that were overwritten meanwhile, and never the last: what waits is one record for each task.
pub struct Changes {
    task_ids: Vec<String>,
    /// None before the first look, and after the backend was away.
    watch: Option<Box<dyn Watch>>,
}

impl Changes {
    /// Of these tasks.
    pub fn new(task_ids: Vec<String>) -> Self {
        Self { task_ids, watch: None }
    }

    /// Waits for records that are new (the first time: for any that are stored). After an outage of the backend, those
    /// that are stored are given again. Cancel-safe.
    pub async fn next(
        &mut self,
        client: &Client,
        timeout: Option<Duration>,
    ) -> Result<Vec<ResultRecord>, ClientError> {
        let deadline = Instant::now() + timeout.unwrap_or(FOREVER).min(FOREVER);
        let mut outage: Option<Patience> = None;
        loop {
            match timeout_at(deadline, self.look(client)).await {
                Err(_) => return Err(ClientError::WaitedTooLong(timeout.unwrap_or(FOREVER))),
                Ok(Ok(records)) => return Ok(records),
                Ok(Err(error)) => {
                    // A watch begins with what is stored, so a new one misses nothing.
                    self.watch = None;
                    let end = deadline.min(Instant::now() + OUTAGE);
                    let patience = outage.get_or_insert_with(|| Patience::until(end));
                    if !error.is_transient() || !patience.pause(&error).await {
                        return Err(error);
                    }
                }
            }
        }
    }

    async fn look(&mut self, client: &Client) -> Result<Vec<ResultRecord>, ClientError> {
        let watch = match &mut self.watch {
            Some(watch) => watch,
            none => none.insert(client.backend()?.watch(self.task_ids.clone()).await?),
        };
        Ok(watch.next().await?)
    }
}

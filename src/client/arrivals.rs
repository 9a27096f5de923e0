//! The final records of many tasks, each as it comes: one watch serves for all of them.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::patience::Patience;
use super::result::{OUTAGE, is_ready};
use super::{Client, ClientError, FOREVER};
use crate::backend::Watch;
use crate::protocol::{ResultRecord, state};

/// Follows some tasks to their ends. Time and memory grow with their number, however they arrive.
pub struct Arrivals {
    /// In the order asked, so that what is stored already comes in that order where the store does not know a better one:
    /// those that only failures are told of come first.
    task_ids: Vec<String>,
    /// Those whose final record was not given yet.
    missing: HashSet<String>,
    /// Those that came before them, and may still fail.
    before: HashSet<String>,
    /// None before the first look, after the backend was away, and when all has come.
    watch: Option<Box<dyn Watch>>,
}

impl Arrivals {
    /// Of these tasks; an id that is there twice counts once. Of those in `before`, whose failure means that these may
    /// never end, only a failure is told.
    pub fn new(task_ids: Vec<String>, before: Vec<String>) -> Self {
        let missing: HashSet<_> = task_ids.iter().cloned().collect();
        let before: Vec<_> = before.into_iter().filter(|id| !missing.contains(id)).collect();
        let task_ids = before.iter().cloned().chain(task_ids).collect();
        Self { task_ids, missing, before: before.into_iter().collect(), watch: None }
    }

    /// Waits for final records that were not given before; none when those of all tasks have been given. Cancel-safe.
    pub async fn next(
        &mut self,
        client: &Client,
        timeout: Option<Duration>,
    ) -> Result<Vec<ResultRecord>, ClientError> {
        let deadline = Instant::now() + timeout.unwrap_or(FOREVER).min(FOREVER);
        let mut outage: Option<Patience> = None;
        while !self.missing.is_empty() {
            match timeout_at(deadline, self.look(client)).await {
                Err(_) => return Err(ClientError::WaitedTooLong(timeout.unwrap_or(FOREVER))),
                Ok(Ok(records)) if records.is_empty() => outage = None,
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
        Ok(Vec::new())
    }

    /// The next change, if it is a final record.
    async fn look(&mut self, client: &Client) -> Result<Vec<ResultRecord>, ClientError> {
        let watch = match &mut self.watch {
            Some(watch) => watch,
            none => {
                self.task_ids.retain(|id| self.missing.contains(id) || self.before.contains(id));
                none.insert(client.backend()?.watch(self.task_ids.clone()).await?)
            }
        };
        let mut records = watch.next().await?;
        records.retain(|record| {
            let id = &record.task_id;
            is_ready(record)
                && (self.missing.remove(id) || (self.before.remove(id) && record.state != state::SUCCESS))
        });
        if self.missing.is_empty() {
            self.watch = None;
        }
        Ok(records)
    }
}

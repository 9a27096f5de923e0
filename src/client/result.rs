//! What the result backend keeps; waiting for one result or many.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::patience::Patience;
use super::{Client, ClientError, FOREVER};
use crate::protocol::ResultRecord;
use crate::report::StoreReport;

/// How long a wait without a limit of its own puts up with a backend that is away.
pub(super) const OUTAGE: Duration = Duration::from_secs(30);

/// Whether a task in this state has ended.
pub(super) fn is_ready(record: &ResultRecord) -> bool {
    matches!(&*record.state, "SUCCESS" | "FAILURE" | "REVOKED")
}

impl Client {
    /// Reads what is stored, in the order asked.
    pub async fn read(&self, task_ids: &[String]) -> Result<Vec<Option<ResultRecord>>, ClientError> {
        self.patiently(None, || async { Ok(self.backend()?.read(task_ids).await?) }).await
    }

    /// Stores records.
    pub async fn store(&self, records: Vec<ResultRecord>) -> Result<(), ClientError> {
        self.patiently(None, || async { Ok(self.backend()?.store(records.clone()).await?) }).await
    }

    /// Removes records.
    pub async fn forget(&self, task_ids: &[String]) -> Result<(), ClientError> {
        self.patiently(None, || async { Ok(self.backend()?.forget(task_ids).await?) }).await
    }

    /// What the backend says of itself. It is asked for a record too, so that a backend that tells nothing is reached.
    pub async fn examine_backend(&self) -> Result<StoreReport, ClientError> {
        let ask = || async {
            self.backend()?.read(&["celeriac-examination".to_owned()]).await?;
            Ok(self.backend()?.examine().await?)
        };
        self.patiently(None, ask).await
    }

    /// Waits until at least one of these is in a final state, and gives those that are.
    pub async fn wait_ready(
        &self,
        task_ids: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<Vec<ResultRecord>, ClientError> {
        if task_ids.is_empty() {
            return Ok(Vec::new());
        }
        let found = self.watch_for(task_ids, timeout, is_ready).await?;
        found.ok_or_else(|| ClientError::WaitedTooLong(timeout.unwrap_or(FOREVER)))
    }

    /// Waits until the stored record differs from the given state and bytes (none: nothing stored); none
    /// when that did not happen in time.
    pub async fn wait_change(
        &self,
        task_id: String,
        state: Option<&str>,
        record: Option<&[u8]>,
        timeout: Option<Duration>,
    ) -> Result<Option<ResultRecord>, ClientError> {
        let differs = |found: &ResultRecord| Some(&*found.state) != state || Some(&*found.record) != record;
        let found = self.watch_for(vec![task_id], timeout, differs).await?;
        Ok(found.and_then(|records| records.into_iter().next()))
    }

    /// Watches until some records satisfy `wanted`; none when the time is over. A backend that goes away is
    /// asked again: a watch begins with what is stored, so nothing is missed.
    async fn watch_for(
        &self,
        task_ids: Vec<String>,
        timeout: Option<Duration>,
        wanted: impl Fn(&ResultRecord) -> bool,
    ) -> Result<Option<Vec<ResultRecord>>, ClientError> {
        let deadline = Instant::now() + timeout.unwrap_or(FOREVER).min(FOREVER);
        let mut outage: Option<Patience> = None;
        loop {
            let watching = async {
                let mut watch = self.backend()?.watch(task_ids.clone()).await?;
                loop {
                    let mut records = watch.next().await?;
                    outage = None;
                    records.retain(&wanted);
                    if !records.is_empty() {
                        return Ok::<_, ClientError>(records);
                    }
                }
            };
            match timeout_at(deadline, watching).await {
                Err(_) => return Ok(None),
                Ok(Ok(records)) => return Ok(Some(records)),
                Ok(Err(error)) => {
                    let end = deadline.min(Instant::now() + OUTAGE);
                    let patience = outage.get_or_insert_with(|| Patience::until(end));
                    if !error.is_transient() || !patience.pause(&error).await {
                        return Err(error);
                    }
                }
            }
        }
    }
}

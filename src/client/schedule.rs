//! Periodic tasks: the lease of a schedule, its moments, and what users changed.

use std::time::Duration;

use super::producer::Sending;
use super::{Client, ClientError};
use crate::broker::{Fired, Firing, ScheduleLease, ScheduleState};

impl Client {
    /// Takes the lease of a schedule for `ttl`, or renews it.
    pub async fn schedule_lease(
        &self,
        schedule: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<ScheduleLease, ClientError> {
        let lease = || async { Ok(self.broker()?.schedule_lease(schedule, holder, ttl).await?) };
        self.patiently(None, lease).await
    }

    /// Gives the lease of a schedule back.
    pub async fn schedule_release(&self, schedule: &str, holder: &str) -> Result<(), ClientError> {
        self.patiently(None, || async { Ok(self.broker()?.schedule_release(schedule, holder).await?) }).await
    }

    /// Sends a due moment of an entry at most once. An attempt whose answer got lost may have been the one that sent
    /// it: the next one then finds it noted, and says [`Fired::Already`].
    pub async fn fire(&self, firing: &Firing, how: Sending) -> Result<Fired, ClientError> {
        let policy = if self.embedded { None } else { Some(how.retry) };
        let prepare = how.results && self.replies;
        let fire = || async {
            if prepare {
                self.backend()?.prepare().await?;
            }
            Ok(self.broker()?.fire(firing).await?)
        };
        self.persistently(how.timeout, policy, fire).await
    }

    /// What is kept of a schedule.
    pub async fn schedule_state(&self, schedule: &str) -> Result<ScheduleState, ClientError> {
        self.patiently(None, || async { Ok(self.broker()?.schedule_state(schedule).await?) }).await
    }

    /// Notes what a user changed of an entry; none takes it back.
    pub async fn schedule_change(
        &self,
        schedule: &str,
        entry: &str,
        change: Option<String>,
    ) -> Result<(), ClientError> {
        let note = || async { Ok(self.broker()?.schedule_change(schedule, entry, change.clone()).await?) };
        self.patiently(None, note).await
    }
}

//! What Redis keeps of periodic tasks: a lease that expires, and hashes of the last moments and of users' changes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use redis::{FromRedisValue as _, cmd, pipe};

use super::broker::Shared;
use super::publish::Step;
use super::scripts::{FIRE, LEASE, RELEASE};
use super::settle::{Arg, text};
use crate::broker::{BrokerError, Fired, Firing, LastDue, ScheduleLease, ScheduleState};
use crate::protocol::Publication;

/// The last moments, the changes, the holder.
type Answer = (BTreeMap<String, String>, BTreeMap<String, String>, Option<String>);

/// The keys of one schedule.
struct Keys {
    lease: String,
    entries: String,
    changes: String,
}

impl Shared {
    fn schedule_keys(&self, schedule: &str) -> Keys {
        let key = |what: &str| format!("{}celeriac:beat:{schedule}:{what}", self.layout.prefix);
        Keys { lease: key("lease"), entries: key("entries"), changes: key("changes") }
    }

    pub(super) async fn schedule_lease(
        &self,
        schedule: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<ScheduleLease, BrokerError> {
        let args = [holder, &ttl.as_millis().max(1).to_string()];
        let answer = self.link.script(&LEASE, &[self.schedule_keys(schedule).lease], &args).await;
        let answer = answer.map_err(|error| self.failed(error))?;
        let held = String::from_redis_value(answer).unwrap_or_default();
        Ok(if held == holder { ScheduleLease::Held } else { ScheduleLease::Other(Some(held)) })
    }

    pub(super) async fn schedule_release(&self, schedule: &str, holder: &str) -> Result<(), BrokerError> {
        let answer = self.link.script(&RELEASE, &[self.schedule_keys(schedule).lease], &[holder]).await;
        answer.map(drop).map_err(|error| self.failed(error))
    }

    pub(super) async fn fire(&self, firing: &Firing) -> Result<Fired, BrokerError> {
        let publications: Vec<&Publication> = firing.publications.iter().collect();
        let steps = self.resolve(&publications).await?;
        let mut args: Vec<Arg<'_>> = vec![
            Cow::Borrowed(firing.holder.as_bytes()),
            text(firing.lease.as_millis().max(1)),
            Cow::Borrowed(firing.entry.as_bytes()),
            text(firing.due_ms),
            Cow::Borrowed(firing.state.as_bytes()),
        ];
        args.extend(steps.into_iter().flatten().flat_map(Step::into_args));
        let keys = self.schedule_keys(&firing.schedule);
        let answer = self.link.script(&FIRE, &[keys.lease, keys.entries], &args).await;
        let answer = answer.map_err(|error| self.failed(error))?;
        Ok(match i64::from_redis_value(answer) {
            Ok(0) => Fired::Sent,
            Ok(1) => Fired::Already,
            _ => Fired::NotHolder,
        })
    }

    pub(super) async fn schedule_state(&self, schedule: &str) -> Result<ScheduleState, BrokerError> {
        let keys = self.schedule_keys(schedule);
        let mut pipeline = pipe();
        pipeline.cmd("HGETALL").arg(keys.entries);
        pipeline.cmd("HGETALL").arg(keys.changes);
        pipeline.cmd("GET").arg(keys.lease);
        let answer: Result<Answer, _> = self.link.pipeline(&pipeline).await;
        let (entries, changes, holder) = answer.map_err(|error| self.failed(error))?;
        // A record that someone else has written there is as good as none.
        let read = |(entry, text): (String, String)| {
            let (due_ms, state) = text.split_once(' ')?;
            Some((entry, LastDue { due_ms: due_ms.parse().ok()?, state: state.to_owned() }))
        };
        Ok(ScheduleState { entries: entries.into_iter().filter_map(read).collect(), changes, holder })
    }

    pub(super) async fn schedule_change(
        &self,
        schedule: &str,
        entry: &str,
        change: Option<String>,
    ) -> Result<(), BrokerError> {
        let key = self.schedule_keys(schedule).changes;
        let command = match change {
            Some(change) => cmd("HSET").arg(key).arg(entry).arg(change).clone(),
            None => cmd("HDEL").arg(key).arg(entry).clone(),
        };
        self.link.query::<i64>(&command).await.map(drop).map_err(|error| self.failed(error))
    }
}

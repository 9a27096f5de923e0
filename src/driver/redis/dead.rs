//! Dead letters as the scripts keep them: `reason`, `detail`, `crashes`, `died` and the element, between NULs.

use redis::{Cmd, FromRedisValue, cmd};

use super::broker::Shared;
use super::publish::Step;
use super::scripts::{RESOLVE, TRIM};
use super::settle::{Arg, text};
use crate::broker::{BrokerError, DeadFilter, DeadLetter, DeadLimits, DeadStats, Resolution, apart};
use crate::clock::UnixMillis;
use crate::protocol::{Envelope, Message};

/// Letters read in one round trip.
const PAGE: usize = 500;
/// Letters that one step removes.
const TRIMMED: usize = 1000;

impl Shared {
    /// Oldest first. One that cannot be opened is given as it is, as a body.
    pub(super) async fn find_dead(
        &self,
        filter: &DeadFilter,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, BrokerError> {
        let mut members = self.dead_members().await?;
        members.retain(|(id, queue)| filter.may_fit(*id, queue));
        let mut letters = Vec::new();
        for page in members.chunks(PAGE.min(limit.max(1))) {
            if letters.len() >= limit {
                break;
            }
            let mut command: Cmd = cmd("HMGET");
            command.arg(self.layout.letters());
            for (id, _) in page {
                command.arg(id);
            }
            let read: Vec<Option<Vec<u8>>> =
                self.link.query(&command).await.map_err(|error| self.failed(error))?;
            let found =
                page.iter().zip(read).filter_map(|((id, queue), letter)| letter_of(*id, queue, &letter?));
            let room = limit - letters.len();
            letters.extend(found.filter(|letter| filter.fits(letter)).take(room));
        }
        Ok(letters)
    }

    pub(super) async fn dead_stats(&self) -> Result<DeadStats, BrokerError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("ZCARD").arg(self.layout.dead());
        pipeline.cmd("ZRANGE").arg(self.layout.dead()).arg(0).arg(0);
        let answer: Result<(u64, Vec<String>), _> = self.link.pipeline(&pipeline).await;
        let (count, first) = answer.map_err(|error| self.failed(error))?;
        let id = first.first().and_then(|member| member.split_once(':')?.0.parse().ok());
        let Some(id) = id else { return Ok(DeadStats { count, oldest: None }) };
        let filter = DeadFilter { ids: Some(vec![id]), ..DeadFilter::default() };
        let oldest = self.find_dead(&filter, 1).await?.first().map(|letter| letter.died);
        Ok(DeadStats { count, oldest })
    }

    /// One step for all of them.
    pub(super) async fn resolve_dead(&self, resolutions: &[Resolution]) -> Result<Vec<u64>, BrokerError> {
        let mut args: Vec<Arg<'_>> = Vec::with_capacity(2 * resolutions.len());
        for Resolution { id, publication } in resolutions {
            let steps = match publication {
                Some(publication) => self.resolve(&[publication]).await?,
                None => Vec::new(),
            };
            let operations: Vec<Arg<'_>> = steps.into_iter().flatten().flat_map(Step::into_args).collect();
            args.extend([text(id), text(operations.len())]);
            args.extend(operations);
        }
        let answer = self.link.script(&RESOLVE, &self.layout.shared, &args).await;
        let taken: Vec<String> = answer
            .map_err(|error| self.failed(error))
            .map(|answer| FromRedisValue::from_redis_value(answer).unwrap_or_default())?;
        Ok(taken.iter().filter_map(|id| id.parse().ok()).collect())
    }

    pub(super) async fn trim_dead(&self, limits: &DeadLimits) -> Result<u64, BrokerError> {
        let maybe = |number: Option<String>| number.unwrap_or_default();
        let args = [
            maybe(limits.max_count.map(|most| most.to_string())),
            maybe(limits.too_old(self.now()).map(|moment| moment.0.to_string())),
            TRIMMED.to_string(),
        ];
        let answer = self.link.script(&TRIM, &self.layout.shared, &args).await;
        Ok(u64::from_redis_value(answer.map_err(|error| self.failed(error))?).unwrap_or(0))
    }

    pub(super) async fn paused(&self, queues: &[String]) -> Result<Vec<String>, BrokerError> {
        let mut command = cmd("SMEMBERS");
        command.arg(self.layout.paused());
        let mut paused: Vec<String> = self.link.query(&command).await.map_err(|error| self.failed(error))?;
        paused.retain(|queue| queues.contains(queue));
        paused.sort();
        Ok(paused)
    }

    pub(super) async fn set_paused(&self, queue: &str, paused: bool) -> Result<(), BrokerError> {
        let mut command = cmd(if paused { "SADD" } else { "SREM" });
        command.arg(self.layout.paused()).arg(queue);
        self.link.query::<i64>(&command).await.map(drop).map_err(|error| self.failed(error))
    }

    /// Numbers and queues of all dead letters, oldest first.
    pub(super) async fn dead_members(&self) -> Result<Vec<(u64, String)>, BrokerError> {
        let mut command = cmd("ZRANGE");
        command.arg(self.layout.dead()).arg(0).arg(-1);
        let members: Vec<String> = self.link.query(&command).await.map_err(|error| self.failed(error))?;
        let apart = |member: String| {
            let (id, queue) = member.split_once(':')?;
            Some((id.parse().ok()?, queue.to_owned()))
        };
        Ok(members.into_iter().filter_map(apart).collect())
    }
}

fn letter_of(id: u64, queue: &str, letter: &[u8]) -> Option<DeadLetter> {
    let mut fields = letter.splitn(5, |byte| *byte == 0);
    let mut text = || fields.next().map(|field| String::from_utf8_lossy(field).into_owned());
    let (reason, detail, crashes, died) = (text()?, text()?, text()?, text()?);
    let element = fields.next()?;
    let as_it_is = || Message { body: element.to_vec().into(), ..Message::default() };
    let mut message = Envelope::decode(element).map_or_else(|_| as_it_is(), |envelope| envelope.message);
    message.properties.other.remove(CRASHES);
    let (detail, traceback) = apart(&detail);
    Some(DeadLetter {
        id,
        queue: queue.to_owned(),
        reason,
        detail,
        traceback,
        crashes: crashes.parse().unwrap_or(0),
        died: UnixMillis(died.parse().unwrap_or(0)),
        message,
    })
}

/// The property that counts crashes, so that the count goes wherever the message goes.
pub(super) const CRASHES: &str = "celeriac_crashes";

/// A text that does not end its field.
pub(super) fn one_field(text: &str) -> String {
    text.replace('\0', " ")
}

//! Whether anything is left of a workflow: looks into every message that may still be run.

use std::collections::BTreeSet;

use redis::{cmd, pipe};

use super::broker::Shared;
use super::keys::LOST;
use super::recover::ForeignClaim;
use crate::broker::BrokerError;
use crate::protocol::Envelope;

/// Where there are more messages, nothing is said.
const MOST: u64 = 50_000;
/// Messages in one answer.
const CHUNK: usize = 500;

/// Texts that are looked for.
struct Wanted<'a> {
    texts: &'a [String],
    found: Vec<bool>,
}

impl Wanted<'_> {
    fn look(&mut self, element: &[u8]) {
        let opened = Envelope::decode(element).ok();
        for (text, found) in self.texts.iter().zip(&mut self.found) {
            // What cannot be read may be anything.
            *found |= opened.as_ref().is_none_or(|envelope| envelope.message.may_mention(text));
        }
    }
}

impl Shared {
    /// See [`crate::broker::Broker::mentions`]. Looked at in the order in which messages move on: what is taken meanwhile
    /// is found among the claims.
    pub(super) async fn mentions(&self, texts: &[String]) -> Result<Option<Vec<bool>>, BrokerError> {
        let names = self.all_queues().await?;
        let lists: Vec<String> = names
            .iter()
            .flat_map(|name| {
                let lost = self.layout.list(&format!("{LOST}{name}"), 0);
                self.layout.lists(name).into_iter().chain([lost])
            })
            .collect();
        let parked: Vec<String> = names.iter().map(|name| self.layout.parked(name)).collect();
        let mut counts = pipe();
        for list in &lists {
            counts.cmd("LLEN").arg(list);
        }
        for set in &parked {
            counts.cmd("ZCARD").arg(set);
        }
        counts.cmd("HLEN").arg(self.layout.unacked());
        let counts: Vec<u64> = self.link.pipeline(&counts).await.map_err(|error| self.failed(error))?;
        if counts.iter().sum::<u64>() > MOST {
            return Ok(None);
        }
        let mut wanted = Wanted { texts, found: vec![false; texts.len()] };
        for (set, _) in parked.iter().zip(&counts[lists.len()..]).filter(|(_, count)| **count > 0) {
            self.each("ZRANGE", set, |member| {
                let at = member.iter().position(|byte| *byte == b':').map_or(0, |at| at + 1);
                wanted.look(&member[at..]);
            })
            .await?;
        }
        for (list, _) in lists.iter().zip(&counts).filter(|(_, count)| **count > 0) {
            self.each("LRANGE", list, |element| wanted.look(element)).await?;
        }
        self.each_claim(&mut wanted).await?;
        Ok(Some(wanted.found))
    }

    /// Every queue that celeriac or kombu has declared here, and those of the app.
    async fn all_queues(&self) -> Result<BTreeSet<String>, BrokerError> {
        let mut command = cmd("SMEMBERS");
        command.arg(&self.layout.queues);
        let mut names: BTreeSet<String> =
            self.link.query(&command).await.map_err(|error| self.failed(error))?;
        names.extend(self.topology.queues.keys().cloned());
        let mut cursor = 0_u64;
        loop {
            let mut command = cmd("SCAN");
            command.arg(cursor).arg("MATCH").arg(self.layout.binding("*")).arg("COUNT").arg(CHUNK);
            let (next, keys): (u64, Vec<String>) =
                self.link.query(&command).await.map_err(|error| self.failed(error))?;
            for key in keys {
                let mut command = cmd("SMEMBERS");
                command.arg(&key);
                let members: Vec<String> =
                    self.link.query(&command).await.map_err(|error| self.failed(error))?;
                let queue =
                    |member: &String| member.rsplit(&*self.layout.separator).next().map(str::to_owned);
                names.extend(members.iter().filter_map(queue));
            }
            cursor = next;
            if cursor == 0 {
                return Ok(names);
            }
        }
    }

    async fn each(
        &self,
        range: &'static str,
        key: &str,
        mut look: impl FnMut(&[u8]),
    ) -> Result<(), BrokerError> {
        let mut from = 0;
        loop {
            let mut command = cmd(range);
            command.arg(key).arg(from).arg(from + CHUNK - 1);
            let elements: Vec<Vec<u8>> =
                self.link.query(&command).await.map_err(|error| self.failed(error))?;
            for element in &elements {
                look(element);
            }
            if elements.len() < CHUNK {
                return Ok(());
            }
            from += CHUNK;
        }
    }

    async fn each_claim(&self, wanted: &mut Wanted<'_>) -> Result<(), BrokerError> {
        let mut cursor = 0_u64;
        loop {
            let mut command = cmd("HSCAN");
            command.arg(self.layout.unacked()).arg(cursor).arg("COUNT").arg(CHUNK);
            let (next, pairs): (u64, Vec<Vec<u8>>) =
                self.link.query(&command).await.map_err(|error| self.failed(error))?;
            for pair in pairs.chunks_exact(2) {
                match ForeignClaim::read(&pair[1]) {
                    Some(claim) => wanted.look(claim.element.as_bytes()),
                    None => wanted.look(b""),
                }
            }
            cursor = next;
            if cursor == 0 {
                return Ok(());
            }
        }
    }
}

//! Dead letters as the scripts keep them: `reason`, `detail`, `crashes`, `died` and the element, between NULs.

use redis::{Cmd, cmd};

use super::broker::Shared;
use crate::broker::{BrokerError, DeadLetter};
use crate::clock::UnixMillis;
use crate::protocol::{Envelope, Message};

/// Letters read in one round trip.
const PAGE: usize = 500;

impl Shared {
    /// Oldest first. One that cannot be opened is given as it is, as a body.
    pub(super) async fn dead_letters(
        &self,
        queue: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, BrokerError> {
        let members = self.dead_members().await?;
        let of_queue = members.into_iter().filter(|(_, of)| queue.is_none_or(|queue| queue == of));
        let wanted: Vec<(u64, String)> = of_queue.take(limit).collect();
        let mut letters = Vec::with_capacity(wanted.len());
        for page in wanted.chunks(PAGE) {
            let mut command: Cmd = cmd("HMGET");
            command.arg(self.layout.letters());
            for (id, _) in page {
                command.arg(id);
            }
            let read: Vec<Option<Vec<u8>>> =
                self.link.query(&command).await.map_err(|error| self.failed(error))?;
            let found =
                page.iter().zip(read).filter_map(|((id, queue), letter)| letter_of(*id, queue, &letter?));
            letters.extend(found);
        }
        Ok(letters)
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
    Some(DeadLetter {
        id,
        queue: queue.to_owned(),
        reason,
        detail,
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

//! A cell: a durable queue of one message, which holds a value. AMQP keeps nothing else.
//!
//! A message that somebody has taken to look at it is seen by nobody else, so a cell is read and changed under a lock of
//! its schedule: an exclusive queue, which goes with the connection that declared it. The holder of a schedule alone
//! writes the cell of the last moments, and does so without the lock: a newer message pushes the older one out, and where
//! both are there for a moment, the higher version counts.

use std::time::Duration;

use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::link::{Link, none};
use super::{declare, failure};
use crate::broker::BrokerError;

/// How long another may hold the lock before we give up.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(30);
/// The server's word for a queue that belongs to another connection.
const RESOURCE_LOCKED: u16 = 405;
/// More messages than there ever should be.
const MOST: usize = 100;

/// What a cell's message holds.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Content<T> {
    /// Grows with each writing.
    pub(super) version: u64,
    pub(super) value: T,
}

/// A lock, and the channel on which its cells are used.
pub(super) struct Locked<'a> {
    link: &'a Link,
    channel: Channel,
    queue: String,
}

/// Takes a lock: the queue of that name.
pub(super) async fn lock(link: &Link, queue: String) -> Result<Locked<'_>, BrokerError> {
    let until = Instant::now() + PATIENCE;
    loop {
        let (_, channel) = link.channel().await?;
        let options =
            QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        match channel.queue_declare(declare::name(&link.url, &queue)?, options, none()).await {
            Ok(_) => {
                confirmed(link, &channel).await?;
                return Ok(Locked { link, channel, queue });
            }
            Err(error) if failure::code(&error) == Some(RESOURCE_LOCKED) => {}
            Err(error) => return Err(link.error(&error)),
        }
        if Instant::now() >= until {
            let reason = format!("another process has been using {queue} for {}s", PATIENCE.as_secs());
            return Err(failure::unavailable(&link.url, reason));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Locked<'_> {
    /// The value of a cell, which stays there.
    pub(super) async fn read<T: Default + DeserializeOwned>(
        &self,
        cell: &str,
    ) -> Result<Content<T>, BrokerError> {
        let (content, tags) = self.take(cell).await?;
        for tag in tags {
            let options = BasicNackOptions { multiple: false, requeue: true };
            self.channel.basic_nack(tag, options).await.map_err(|error| self.link.error(&error))?;
        }
        Ok(content)
    }

    /// Changes a cell. The old message goes when the new one is there.
    pub(super) async fn change<T: Default + Serialize + DeserializeOwned>(
        &self,
        cell: &str,
        change: impl FnOnce(&mut T),
    ) -> Result<(), BrokerError> {
        let (mut content, tags) = self.take(cell).await?;
        change(&mut content.value);
        content.version += 1;
        write(self.link, &self.channel, cell, &content).await?;
        for tag in tags {
            let done = self.channel.basic_ack(tag, BasicAckOptions::default()).await;
            done.map_err(|error| self.link.error(&error))?;
        }
        Ok(())
    }

    /// Gives the lock back. What was looked at is back by then: the server does one thing after the other.
    pub(super) async fn unlock(self) -> Result<(), BrokerError> {
        let queue = declare::name(&self.link.url, &self.queue)?;
        let deleted = self.channel.queue_delete(queue, QueueDeleteOptions::default()).await;
        deleted.map_err(|error| self.link.error(&error))?;
        let closed = self.channel.close(200, "done".into()).await;
        closed.map_err(|error| self.link.error(&error))
    }

    async fn take<T: Default + DeserializeOwned>(
        &self,
        cell: &str,
    ) -> Result<(Content<T>, Vec<u64>), BrokerError> {
        declare(self.link, &self.channel, cell).await?;
        let (mut newest, mut tags) = (Content::<T>::default(), Vec::new());
        while tags.len() < MOST {
            let got = self.channel.basic_get(cell.into(), BasicGetOptions::default()).await;
            let Some(got) = got.map_err(|error| self.link.error(&error))? else { break };
            tags.push(got.delivery.delivery_tag);
            // What cannot be read was put there by someone else, and counts for nothing.
            if let Ok(content) = serde_json::from_slice::<Content<T>>(&got.delivery.data)
                && content.version >= newest.version
            {
                newest = content;
            }
        }
        Ok((newest, tags))
    }
}

/// The queue of a schedule for one purpose.
pub(super) fn name(schedule: &str, purpose: &str) -> String {
    format!("celeriac.beat.{schedule}.{purpose}")
}

/// Declares a cell.
async fn declare(link: &Link, channel: &Channel, cell: &str) -> Result<(), BrokerError> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), 1.into());
    declare::plain(link, channel, cell, arguments).await
}

/// Makes the server confirm what a channel publishes.
pub(super) async fn confirmed(link: &Link, channel: &Channel) -> Result<(), BrokerError> {
    let selected = channel.confirm_select(ConfirmSelectOptions::default()).await;
    selected.map_err(|error| link.error(&error))
}

/// Puts a value into a cell that was declared; returns when the server has it.
pub(super) async fn write<T: Serialize>(
    link: &Link,
    channel: &Channel,
    cell: &str,
    content: &Content<T>,
) -> Result<(), BrokerError> {
    let body = serde_json::to_vec(content).map_err(|error| failure::refused(&link.url, error.to_string()))?;
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let properties =
        BasicProperties::default().with_content_type("application/json".into()).with_delivery_mode(2);
    let queue = declare::name(&link.url, cell)?;
    let sent = channel.basic_publish("".into(), queue, options, &body, properties).await;
    let confirmation = sent.map_err(|error| link.error(&error))?.await.map_err(|error| link.error(&error))?;
    match confirmation {
        Confirmation::Ack(None) => Ok(()),
        _ => Err(failure::unavailable(&link.url, format!("it did not take what belongs into queue {cell}"))),
    }
}

//! Which queue wants what of a topic exchange. The server routes, and keeps the bindings, but tells nobody over AMQP which
//! they are; so what a queue was bound with is kept in a cell beside it, or nothing could be taken away.
//!
//! First the cell gets the old patterns and the new ones, then the queue is bound with the new, then the old are taken
//! away, then the cell gets the new ones alone. A crash in between leaves patterns in the cell that are not bound, or
//! bound ones that are not wanted; the next binding takes them away.

use std::collections::BTreeSet;

use super::cell;
use super::declare;
use super::publish::Publisher;
use crate::broker::{BrokerError, Rebind};
use crate::protocol::{Arguments, Exchange, TopicBinding};

type Patterns = BTreeSet<String>;

impl Publisher {
    pub(super) async fn bind_topics(&self, binding: &TopicBinding, how: Rebind) -> Result<(), BrokerError> {
        let TopicBinding { exchange, queue, patterns } = binding;
        let link = &self.link;
        let (_, channel) = link.channel().await?;
        declare::exchange(link, &channel, &Exchange::topic(exchange)).await?;
        declare::queue(link, &channel, &self.topology.queue(queue)).await?;
        let locked = cell::lock(link, format!("celeriac.bound.{queue}.lock")).await?;
        let cell = format!("celeriac.bound.{queue}");
        let before: Patterns = locked.read::<Patterns>(&cell).await?.value;
        let wanted: Patterns = match how {
            Rebind::Restore if !before.is_empty() => before.clone(),
            _ => patterns.iter().cloned().collect(),
        };
        let change =
            async |value: &Patterns| locked.change(&cell, |held: &mut Patterns| held.clone_from(value)).await;
        if !wanted.is_subset(&before) {
            change(&before.union(&wanted).cloned().collect()).await?;
        }
        for pattern in &wanted {
            declare::bind(link, &channel, queue, exchange, pattern, &Arguments::new()).await?;
        }
        for pattern in before.difference(&wanted) {
            declare::unbind(link, &channel, queue, exchange, pattern).await?;
        }
        if wanted != before {
            change(&wanted).await?;
        }
        locked.unlock().await?;
        let closed = channel.close(200, "bound".into()).await;
        closed.map_err(|error| link.error(&error))
    }
}

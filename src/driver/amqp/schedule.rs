//! Periodic tasks on `RabbitMQ`.
//!
//! **The lease** is a place at a queue with a single active consumer, which the server gives to one connection at a time,
//! and to the next one when that ends. Whoever gets the message that lies in that queue knows that it is the one. (An
//! exclusive queue would do as well, but everyone who asks in vain for one leaves an error in the server's log.) How long
//! a holder is held for alive whose host is gone, the heartbeat of the connection says, not the time that was asked for.
//!
//! **Firing** is two steps: the moment is noted, on the channel of the lease, and confirmed; then the message is published.
//! So a moment is never sent twice: it is lost if the connection breaks between the two.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer as Stream};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::cell::{self, Content};
use super::declare;
use super::link::{Link, Live, none};
use super::publish::Publisher;
use crate::broker::{BrokerError, Fired, Firing, LastDue, ScheduleLease, ScheduleState};
use crate::driver::ConnectOptions;
use crate::url::StoreUrl;

/// A dead holder's host is missed after two of these.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long the server may take to say that the place is ours, the first time and later.
const FIRST_LOOK: Duration = Duration::from_millis(300);
const LOOK: Duration = Duration::from_millis(1);
/// The message of the lease is exchanged this often: the server ends channels that keep one for half an hour.
const REFRESH: Duration = Duration::from_secs(600);

type Entries = BTreeMap<String, LastDue>;
type Changes = BTreeMap<String, String>;

/// All schedules that this process stands in line for.
pub(super) struct Schedules {
    /// On a connection of its own, which is the lease.
    publisher: Publisher,
    /// By schedule. Locked for the length of a call, so that one firing comes after the other.
    places: Mutex<HashMap<String, Place>>,
}

/// Our place in the line for one schedule.
struct Place {
    holder: String,
    live: Arc<Live>,
    channel: Channel,
    stream: Stream,
    /// Tag of the message that says that the place is ours, and since when we have had it.
    token: Option<(u64, Instant)>,
    /// What the cell of last moments holds: read when the place became ours, and written by us alone since.
    last: Content<Entries>,
}

impl Place {
    fn is_up(&self) -> bool {
        self.live.is_up() && self.channel.status().connected()
    }
}

impl Schedules {
    pub(super) fn new(url: &StoreUrl, options: &ConnectOptions) -> Result<Self, BrokerError> {
        let heartbeat = Some(options.heartbeat.map_or(HEARTBEAT, |every| every.min(HEARTBEAT)));
        let options = ConnectOptions { heartbeat, ..options.clone() };
        let publisher = Publisher::new(Link::new(url, &options, "celeriac beat")?, &options);
        Ok(Self { publisher, places: Mutex::default() })
    }

    fn link(&self) -> &Link {
        &self.publisher.link
    }

    pub(super) async fn lease(&self, schedule: &str, holder: &str) -> Result<ScheduleLease, BrokerError> {
        let mut places = self.places.lock().await;
        if places.get(schedule).is_some_and(|place| !place.is_up()) {
            places.remove(schedule);
        }
        let mut look = LOOK;
        if !places.contains_key(schedule) {
            look = FIRST_LOOK;
            places.insert(schedule.to_owned(), self.stand_in_line(schedule, holder).await?);
        }
        let Some(place) = places.get_mut(schedule) else { return Ok(ScheduleLease::Other(None)) };
        if place.holder != holder {
            return Ok(ScheduleLease::Other(Some(place.holder.clone())));
        }
        if place.token.is_none() {
            let Ok(Some(Ok(delivery))) = timeout(look, place.stream.next()).await else {
                return Ok(ScheduleLease::Other(None));
            };
            let locked = cell::lock(self.link(), cell::name(schedule, "lock")).await?;
            place.last = locked.read(&cell::name(schedule, "entries")).await?;
            locked.unlock().await?;
            place.token = Some((delivery.delivery_tag, Instant::now()));
        }
        self.refresh(schedule, place).await?;
        Ok(ScheduleLease::Held)
    }

    /// Waits for the place at the queue of the lease, behind those who came before.
    async fn stand_in_line(&self, schedule: &str, holder: &str) -> Result<Place, BrokerError> {
        let link = self.link();
        let error = |error: lapin::Error| link.error(&error);
        let (live, channel) = link.channel().await?;
        cell::confirmed(link, &channel).await?;
        let queue = cell::name(schedule, "lease");
        let mut arguments = FieldTable::default();
        arguments.insert("x-single-active-consumer".into(), true.into());
        arguments.insert("x-max-length".into(), 1.into());
        declare::plain(link, &channel, &queue, arguments).await?;
        channel.basic_qos(1, BasicQosOptions::default()).await.map_err(error)?;
        // Everyone puts the message there; there is room for one.
        put_token(link, &channel, &queue).await?;
        let name = declare::name(&link.url, &queue)?;
        let consuming =
            channel.basic_consume(name, ShortString::default(), BasicConsumeOptions::default(), none());
        let stream = consuming.await.map_err(error)?;
        Ok(Place { holder: holder.to_owned(), live, channel, stream, token: None, last: Content::default() })
    }

    /// Exchanges a message that we have kept for long.
    async fn refresh(&self, schedule: &str, place: &mut Place) -> Result<(), BrokerError> {
        let Some((tag, _)) = place.token.filter(|(_, since)| since.elapsed() > REFRESH) else {
            return Ok(());
        };
        let link = self.link();
        put_token(link, &place.channel, &cell::name(schedule, "lease")).await?;
        let acked = place.channel.basic_ack(tag, BasicAckOptions::default()).await;
        acked.map_err(|error| link.error(&error))?;
        // The place is ours as long as we consume; the new message only comes to be kept.
        place.token = match timeout(FIRST_LOOK, place.stream.next()).await {
            Ok(Some(Ok(delivery))) => Some((delivery.delivery_tag, Instant::now())),
            _ => None,
        };
        Ok(())
    }

    pub(super) async fn release(&self, schedule: &str, holder: &str) -> Result<(), BrokerError> {
        let mut places = self.places.lock().await;
        if places.get(schedule).is_some_and(|place| place.holder == holder)
            && let Some(place) = places.remove(schedule)
            && place.is_up()
        {
            let closed = place.channel.close(200, "released".into()).await;
            closed.map_err(|error| self.link().error(&error))?;
        }
        Ok(())
    }

    pub(super) async fn fire(&self, firing: &Firing) -> Result<Fired, BrokerError> {
        let mut places = self.places.lock().await;
        let ours =
            |place: &&mut Place| place.holder == firing.holder && place.token.is_some() && place.is_up();
        let Some(place) = places.get_mut(&firing.schedule).filter(ours) else {
            return Ok(Fired::NotHolder);
        };
        let last = &place.last.value;
        if last.get(&firing.entry).is_some_and(|last| last.due_ms >= firing.due_ms) {
            return Ok(Fired::Already);
        }
        let mut next = Content { version: place.last.version + 1, value: last.clone() };
        let noted = LastDue { due_ms: firing.due_ms, state: firing.state.clone() };
        next.value.insert(firing.entry.clone(), noted);
        cell::write(self.link(), &place.channel, &cell::name(&firing.schedule, "entries"), &next).await?;
        place.last = next;
        self.publisher.publish(&firing.publications).await?;
        Ok(Fired::Sent)
    }

    pub(super) async fn state(&self, schedule: &str) -> Result<ScheduleState, BrokerError> {
        let places = self.places.lock().await;
        let held = places.get(schedule).filter(|place| place.token.is_some() && place.is_up());
        let locked = cell::lock(self.link(), cell::name(schedule, "lock")).await?;
        let changes: Content<Changes> = locked.read(&cell::name(schedule, "changes")).await?;
        let entries = match held {
            Some(place) => place.last.value.clone(),
            None => locked.read::<Entries>(&cell::name(schedule, "entries")).await?.value,
        };
        locked.unlock().await?;
        let holder = held.map(|place| place.holder.clone());
        Ok(ScheduleState { entries, changes: changes.value, holder })
    }

    pub(super) async fn change(
        &self,
        schedule: &str,
        entry: &str,
        change: Option<String>,
    ) -> Result<(), BrokerError> {
        // One after the other in this process: the lock at the server belongs to the connection.
        let _places = self.places.lock().await;
        let locked = cell::lock(self.link(), cell::name(schedule, "lock")).await?;
        let apply = |changes: &mut Changes| {
            match change {
                Some(change) => changes.insert(entry.to_owned(), change),
                None => changes.remove(entry),
            };
        };
        locked.change(&cell::name(schedule, "changes"), apply).await?;
        locked.unlock().await
    }
}

/// The message of a lease: there is nothing in it.
#[derive(Serialize)]
struct Token {}

async fn put_token(link: &Link, channel: &Channel, queue: &str) -> Result<(), BrokerError> {
    cell::write(link, channel, queue, &Content { version: 0, value: Token {} }).await
}

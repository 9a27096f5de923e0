//! Waking idle consumers without polling, and without taking anything.
//!
//! The server tells a connection that tracks keys when one of them changes (client-side caching), whoever changed it:
//! so one connection waits for any number of lists, also for pushes of stock Celery.
//!
//! No wake-up is lost: one command, `EXISTS` of all lists, both says whether there is anything and makes the server tell
//! of the next change. What was pushed before it is counted, what is pushed after it rings, and what rings is kept
//! until the wait takes it. Waiting begins only after an `EXISTS` that counted nothing, or after a look behind an
//! `EXISTS` that found nothing; and nothing is read from these rings in between. After a ring the lists are
//! looked at without arming, which costs one round trip; a look that finds less than it might have taken arms anew.

use std::sync::Arc;
use std::time::Duration;

use redis::cmd;

use super::broker::Shared;
use super::errors::{Fault, LinkError};
use super::keys::Queues;
use super::link::{Link, Pushes};

/// How long the server holds a call of the fallback.
const BLOCKED: Duration = Duration::from_secs(1);

/// What is known before a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Armed {
    /// A change between the look and a wait would not ring.
    Not,
    /// It would.
    Yes,
    /// It would, and there is nothing in the lists and nothing parked: no look is needed.
    Empty,
}

/// Waits for a change of a consumer's queues.
#[derive(Default)]
pub(super) struct Alarm {
    way: Way,
    /// The last look found less than it might have taken: it pays to arm before the next one.
    pub(super) hungry: bool,
}

#[derive(Default)]
enum Way {
    /// Not connected.
    #[default]
    None,
    /// The server tells of changes.
    Tracking(Pushes),
    /// The server does not know tracking, or forbids it: a call that blocks until there is something in the first
    /// list, and leaves it as it is.
    Blocking(Link),
}

impl Alarm {
    /// What is known without asking: a blocking call looks by itself.
    pub(super) fn armed(&self) -> Armed {
        if matches!(self.way, Way::Blocking(_)) { Armed::Yes } else { Armed::Not }
    }

    /// Arms for the lists and parked messages of these queues: what changes from now on rings.
    pub(super) async fn arm(&mut self, store: &Shared, queues: &Queues) -> Result<Armed, LinkError> {
        if matches!(self.way, Way::None) {
            self.way = connect(store).await?;
        }
        let Way::Tracking(pushes) = &mut self.way else { return Ok(Armed::Yes) };
        // What rang before is counted by the command that follows.
        while pushes.receiver.try_recv().is_ok() {}
        let mut command = cmd("EXISTS");
        command.arg(&queues.lists).arg(&queues.parked);
        let armed = pushes.connection.query::<i64>(&command).await;
        if armed.is_err() {
            self.way = Way::None;
        }
        armed.map(|there| if there == 0 { Armed::Empty } else { Armed::Yes })
    }

    /// How long may be waited for it before other queues have to be looked at.
    pub(super) fn covers(&self) -> Duration {
        if matches!(self.way, Way::Blocking(_)) { BLOCKED } else { Duration::MAX }
    }

    /// Waits until it rings, or for so long. Cancel-safe.
    pub(super) async fn wait(&mut self, queues: &Arc<Queues>) {
        match &mut self.way {
            Way::None => {}
            Way::Tracking(pushes) => {
                if pushes.receiver.recv().await.is_none() {
                    self.way = Way::None;
                }
            }
            Way::Blocking(link) => {
                let Some(list) = queues.lists.first() else { return std::future::pending().await };
                let mut command = cmd("BLMOVE");
                command.arg(list).arg(list).arg("RIGHT").arg("RIGHT").arg(BLOCKED.as_secs());
                if link.query::<redis::Value>(&command).await.is_err() {
                    tokio::time::sleep(BLOCKED).await;
                }
            }
        }
    }
}

async fn connect(store: &Shared) -> Result<Way, LinkError> {
    let address = &store.address;
    let pushes = match store.link.pushes().await {
        Ok(pushes) => pushes,
        Err(error) if error.fault == Fault::Config => return Ok(blocking(store)),
        Err(error) => return Err(error),
    };
    let mut command = cmd("CLIENT");
    command.arg("TRACKING").arg("ON");
    match pushes.connection.query::<redis::Value>(&command).await {
        Ok(_) => Ok(Way::Tracking(pushes)),
        Err(error) if matches!(error.fault, Fault::Response | Fault::NoPermission) => {
            tracing::info!(
                "{address} does not tell of changes: waiting for the first queue, looking at others every second"
            );
            Ok(blocking(store))
        }
        Err(error) => Err(error),
    }
}

fn blocking(store: &Shared) -> Way {
    let address = store.address.clone();
    let (connect, answer) = (address.connect_timeout(), address.answer_timeout() + BLOCKED);
    Way::Blocking(Link::new(address, connect, answer))
}

//! Calls that are sent only if they get a key, and locks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::producer::Sending;
use super::{Client, ClientError};
use crate::broker::BrokerError;
use crate::keys::{Admission, Admitted, Held, KeyError, Keys};
use crate::protocol::Publication;

/// A reservation lapses so long after its call must have ended, and after the longest call that is reckoned with.
const MARGIN: Duration = Duration::from_secs(5);
const LONGEST_CALL: Duration = Duration::from_secs(60);
/// Between two looks at a reservation of another call.
const LOOK: Duration = Duration::from_millis(5);
const LOOK_LONGEST: Duration = Duration::from_millis(100);

impl Client {
    /// What keeps keys: the broker's store, or that of the results.
    fn keys(&self) -> Result<&dyn Keys, ClientError> {
        let broker = self.broker()?;
        if let Some(keys) = broker.keys() {
            return Ok(keys);
        }
        match self.backend() {
            Ok(backend) => backend.keys().ok_or_else(|| ClientError::NoKeys(broker.display_url())),
            Err(ClientError::NoBackend) => Err(ClientError::NoKeys(broker.display_url())),
            Err(error) => Err(error),
        }
    }

    /// Sends a message if its call gets its key; see [`crate::keys`]. An attempt whose answer got lost may have sent it: the
    /// next one then finds the key to be this call's. How long a reservation stands follows from how long this may take. Never
    /// [`Admitted::Pending`] or [`Admitted::Again`].
    pub async fn publish_admitted(
        &self,
        publication: &Publication,
        admission: &Admission,
        how: Sending,
    ) -> Result<Admitted, ClientError> {
        let policy = if self.embedded { None } else { Some(how.retry) };
        let prepare = how.results && self.replies;
        let published = AtomicBool::new(false);
        let longest = how.timeout.unwrap_or(self.options.publish_timeout).min(LONGEST_CALL);
        let pending_ms = (longest + MARGIN).as_millis().try_into().unwrap_or(u64::MAX);
        let admission = &Admission { pending_ms, ..admission.clone() };
        let send = || async {
            if prepare {
                self.backend()?.prepare().await?;
            }
            match self.broker()?.publish_admitted(publication, admission).await? {
                Some(Admitted::Again) => Ok(Admitted::New),
                Some(admitted) => Ok(admitted),
                None => self.in_steps(publication, admission, &published).await,
            }
        };
        match self.persistently(how.timeout, policy, send).await {
            // The worker that gets the message will confirm: it is sent, whatever the store of the keys says now.
            Err(_) if published.load(Ordering::Relaxed) => Ok(Admitted::New),
            answer => answer,
        }
    }

    /// One attempt where keys and messages are in two stores. What happened before is not done again.
    async fn in_steps(
        &self,
        publication: &Publication,
        admission: &Admission,
        published: &AtomicBool,
    ) -> Result<Admitted, ClientError> {
        let keys = self.keys()?;
        if !published.load(Ordering::Relaxed) {
            match Self::reserve(keys, admission).await? {
                Admitted::New | Admitted::Again => {}
                other => return Ok(other),
            }
            if let Err(error) = self.broker()?.publish(vec![publication.clone()]).await {
                if matches!(error, BrokerError::TooLarge { .. } | BrokerError::Refused { .. }) {
                    // It is nowhere, and never will be. If this fails, the reservation lapses.
                    let _ = keys.free(&[held(admission)]).await;
                }
                return Err(error.into());
            }
            published.store(true, Ordering::Relaxed);
        }
        Ok(keys.confirm(admission).await?)
    }

    /// Waits for what becomes of a reservation of another call: it is confirmed, freed, or lapses.
    async fn reserve(keys: &dyn Keys, admission: &Admission) -> Result<Admitted, KeyError> {
        let mut wait = LOOK;
        loop {
            match keys.reserve(admission).await? {
                Admitted::Pending => tokio::time::sleep(wait).await,
                other => return Ok(other),
            }
            wait = (wait * 2).min(LOOK_LONGEST);
        }
    }

    /// Frees keys and locks that are still their tokens'; says which were.
    pub async fn free_keys(&self, held: &[Held]) -> Result<Vec<bool>, ClientError> {
        self.patiently(None, || async { Ok(self.keys()?.free(held).await?) }).await
    }

    /// Holds keys and locks for longer that are still their tokens'; says which are.
    pub async fn renew_keys(&self, held: &[Held]) -> Result<Vec<bool>, ClientError> {
        self.patiently(None, || async { Ok(self.keys()?.renew(held).await?) }).await
    }

    /// Takes a lock, unless another has it: its number, larger than that of any lock before.
    pub async fn lock(&self, lock: &Held) -> Result<Option<u64>, ClientError> {
        self.patiently(None, || async { Ok(self.keys()?.lock(lock).await?) }).await
    }
}

fn held(admission: &Admission) -> Held {
    let Admission { key, token, ttl_ms, .. } = admission;
    Held { key: key.clone(), token: token.clone(), ttl_ms: *ttl_ms }
}

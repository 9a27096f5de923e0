//! What was claimed and nobody has taken yet: it is kept for the next claim, or given back.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::claim::Looked;
use super::consumer::Inner;
use super::keys::Queues;
use super::settle::settlement;
use crate::broker::{BrokerError, Commit, Credit, Delivery, Settle};
use crate::clock::UnixMillis;

/// Deliveries that nobody took since the claim was dropped go back after this.
const KEPT: Duration = Duration::from_millis(50);

impl Inner {
    pub(super) fn has_kept(&self) -> bool {
        !self.state.lock().kept.is_empty()
    }

    /// What was claimed before and fits.
    pub(super) fn take_kept(&self, credit: Credit) -> Option<Vec<Delivery>> {
        let mut state = self.state.lock();
        let mut bytes = 0;
        let mut count = 0;
        for delivery in state.kept.iter().take(credit.count) {
            bytes += delivery.message.size();
            if bytes > credit.bytes && count > 0 {
                break;
            }
            count += 1;
        }
        (count > 0).then(|| state.kept.drain(..count).collect())
    }

    /// Gives back, unmarked and in order, what was kept and nobody takes.
    fn release_kept_later(self: &Arc<Self>) {
        let Ok(runtime) = Handle::try_current() else { return };
        let inner = Arc::downgrade(self);
        runtime.spawn(async move {
            tokio::time::sleep(KEPT).await;
            let Some(inner) = inner.upgrade() else { return };
            let kept = std::mem::take(&mut inner.state.lock().kept);
            // Parked until a moment that is past: back where it was, and as it was.
            let back = || Settle::Park(UnixMillis(0));
            let commits: Vec<Commit> =
                kept.iter().map(|delivery| settlement(delivery.claim.fence, back())).collect();
            if !commits.is_empty() && inner.carry_out(&commits).await.is_err() {
                // The next claim finds them, or the end of the lease.
                let mut state = inner.state.lock();
                let lost =
                    kept.into_iter().filter(|delivery| state.claims.contains_key(&delivery.claim.fence));
                let lost: Vec<Delivery> = lost.collect();
                for delivery in lost.into_iter().rev() {
                    state.kept.push_front(delivery);
                }
            }
        });
    }

    /// Looks in a task of its own: what the script has taken is kept even if nobody waits for it any more.
    pub(super) async fn look_apart(
        self: &Arc<Self>,
        credit: Credit,
        queues: Arc<Queues>,
    ) -> Result<Looked, BrokerError> {
        let (answer, asked) = oneshot::channel();
        let inner = self.clone();
        tokio::spawn(async move {
            let looked = inner.look(credit, &queues).await;
            if answer.send(looked).is_err() && inner.has_kept() {
                inner.release_kept_later();
            }
        });
        asked.await.unwrap_or(Err(BrokerError::Closed))
    }
}

/// Notices that whoever asked for a claim has gone.
pub(super) struct Asker<'a>(pub(super) &'a Arc<Inner>);

impl Drop for Asker<'_> {
    fn drop(&mut self) {
        if self.0.has_kept() {
            self.0.release_kept_later();
        }
    }
}

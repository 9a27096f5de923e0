//! `--autoscale max,min`: as many slots as there is work for, between two bounds.
//!
//! Celery's rule: grow at once to what is held, shrink when what there is has not been needed for a while
//! (`AUTOSCALE_KEEPALIVE`, 30 s). So that more than the present slots can be held, claims go by the upper bound.

use std::time::Duration;

use tokio::time::Instant;

use super::consumer::ConsumerLoop;
use super::notice::Level;

/// Bounds of the number of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AutoscaleOptions {
    /// Never more; at least 1.
    pub max: usize,
    /// Never fewer; at least 1, and at most `max`.
    pub min: usize,
    /// Slots that were not needed for so long go.
    pub keepalive: Duration,
}

/// Decides how many slots there are to be.
#[derive(Debug)]
pub(super) struct Autoscale {
    options: AutoscaleOptions,
    /// When all slots were needed, or their number changed.
    needed: Instant,
}

impl Autoscale {
    pub(super) fn new(options: AutoscaleOptions, now: Instant) -> Self {
        Self { options, needed: now }
    }

    /// How many slots there are to be, when that is not as many as there are.
    fn wanted(&mut self, slots: usize, held: usize, now: Instant) -> Option<usize> {
        let wanted = held.clamp(self.options.min, self.options.max);
        let keeps = wanted < slots && now.duration_since(self.needed) < self.options.keepalive;
        if wanted >= slots || !keeps {
            self.needed = now;
        }
        (wanted != slots && !keeps).then_some(wanted)
    }
}

impl ConsumerLoop {
    /// Slots that claims are made for.
    pub(super) fn slots_to_fill(&self) -> usize {
        let slots = self.pool.slots();
        self.autoscale.as_ref().map_or(slots, |scale| scale.options.max.max(slots))
    }

    /// Changes the bounds, and the pool where it is outside of them; gives the bounds as they are then (max, min).
    /// An error says, in a sentence, what is wrong.
    pub(super) fn set_autoscale(
        &mut self,
        max: Option<usize>,
        min: Option<usize>,
    ) -> Result<(usize, usize), String> {
        let Some(scale) = &mut self.autoscale else {
            return Err("Autoscale not enabled".to_owned());
        };
        let options = scale.options;
        let (max, min) = (max.unwrap_or(options.max), min.unwrap_or(options.min));
        if min == 0 || max < min {
            return Err(format!("autoscale needs 1 <= min <= max, not max {max} and min {min}"));
        }
        scale.options = AutoscaleOptions { max, min, ..options };
        let slots = self.pool.slots();
        let within = slots.clamp(min, max);
        if within != slots {
            self.pool.resize(within)?;
        }
        Ok((max, min))
    }

    /// Grows or shrinks the pool.
    pub(super) fn scale(&mut self, now: Instant) {
        // A batch takes one slot.
        let held = self.prefetch.count.saturating_sub(self.batches.surplus());
        let slots = self.pool.slots();
        let takes_work = self.takes_work();
        let Some(scale) = self.autoscale.as_mut().filter(|_| takes_work) else { return };
        let Some(wanted) = scale.wanted(slots, held, now) else { return };
        let resized = self.pool.resize(wanted);
        self.log.line(Level::Info, "celery.worker.autoscale", || match resized {
            Ok(()) => format!("Scaling from {slots} to {wanted} slots"),
            Err(why) => format!("Cannot scale from {slots} to {wanted} slots: {why}"),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_follow_the_work_up_at_once_and_down_after_a_while() {
        let now = Instant::now();
        let keepalive = Duration::from_secs(30);
        let mut scale = Autoscale::new(AutoscaleOptions { max: 8, min: 2, keepalive }, now);

        assert_eq!(scale.wanted(2, 0, now), None);
        assert_eq!(scale.wanted(2, 5, now), Some(5));
        assert_eq!(scale.wanted(5, 100, now), Some(8));
        assert_eq!(scale.wanted(8, 3, now + Duration::from_secs(29)), None);
        assert_eq!(scale.wanted(8, 3, now + keepalive), Some(3));
        assert_eq!(scale.wanted(3, 0, now + keepalive), None);
        assert_eq!(scale.wanted(3, 0, now + keepalive * 2), Some(2));
    }
}

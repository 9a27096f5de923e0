//! What the store in memory keeps of chords.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;

use crate::backend::{ChordClaim, Counted, Stalled, missing};
use crate::clock::UnixMillis;
use crate::driver::chords::Chord;
use crate::protocol::ChordPart;

#[derive(Default)]
pub(super) struct Chords(HashMap<String, Kept>);

#[derive(Default)]
struct Kept {
    chord: Chord,
    /// By index, then by arrival.
    elements: BTreeMap<(i64, u64), Bytes>,
    /// Whether the part has failed, by its name.
    members: HashMap<String, bool>,
    /// One of its messages, if it is looked after.
    guard: Option<Guard>,
}

struct Guard {
    message: Bytes,
    /// When it is looked at next.
    look: UnixMillis,
    /// Parts that were counted at the last look.
    counted: Option<u64>,
    /// Looks without progress.
    times: u32,
}

impl Chords {
    fn of(&mut self, group_id: &str, now: UnixMillis) -> &mut Kept {
        let kept = self.0.entry(group_id.to_owned()).or_default();
        if kept.chord.is_expired(now) {
            *kept = Kept::default();
        }
        kept
    }

    pub(super) fn start(&mut self, group_id: &str, size: u64, expires_ms: Option<u64>, now: UnixMillis) {
        self.of(group_id, now).chord.start(size, expires_ms, now);
    }

    pub(super) fn grow(&mut self, group_id: &str, by: u64, now: UnixMillis) {
        self.of(group_id, now).chord.grown += by;
    }

    pub(super) fn count(&mut self, part: &ChordPart, now: UnixMillis) -> Counted {
        let Kept { chord, elements, members, .. } = self.of(&part.group_id, now);
        if chord.over {
            return Counted::Ended;
        }
        let failed = *members.entry(part.member()).or_insert_with(|| {
            let place = (part.group_index.unwrap_or(i64::MAX), chord.counted);
            elements.insert(place, part.element.clone());
            chord.counted += 1;
            part.is_failed()
        });
        chord.count(part, failed, now)
    }

    pub(super) fn gather(&mut self, group_id: &str, now: UnixMillis) -> Vec<Bytes> {
        self.of(group_id, now).elements.values().cloned().collect()
    }

    pub(super) fn hold(&mut self, claim: &ChordClaim, now: UnixMillis, until: UnixMillis) -> bool {
        self.of(&claim.group_id, now).chord.hold(claim, now, until)
    }

    pub(super) fn is_held_by(&mut self, claim: &ChordClaim, now: UnixMillis) -> bool {
        self.of(&claim.group_id, now).chord.is_held_by(claim, now)
    }

    pub(super) fn finish(&mut self, claim: &ChordClaim, now: UnixMillis) -> bool {
        let kept = self.of(&claim.group_id, now);
        let held = kept.chord.finish(claim, now);
        if held {
            kept.guard = None;
            kept.elements.clear();
            kept.members.clear();
        }
        held
    }

    pub(super) fn guard(&mut self, group_id: &str, message: Bytes, now: UnixMillis) {
        self.of(group_id, now).guard = Some(Guard { message, look: now, counted: None, times: 0 });
    }

    pub(super) fn guarded(&mut self, group_id: &str, now: UnixMillis) -> Option<Bytes> {
        self.of(group_id, now).guard.as_ref().map(|guard| guard.message.clone())
    }

    pub(super) fn stalled(&mut self, after: Duration, again: Duration, now: UnixMillis) -> Vec<Stalled> {
        let mut found = Vec::new();
        for (group_id, kept) in &mut self.0 {
            let (chord, members) = (&kept.chord, &kept.members);
            let (Some(guard), Some(size)) = (&mut kept.guard, chord.size) else { continue };
            if guard.look > now {
                continue;
            }
            let stalls = guard.counted == Some(chord.counted) && !chord.is_held(now);
            guard.times = if stalls { guard.times + 1 } else { 0 };
            guard.look = now.after(if stalls { again } else { after });
            guard.counted = Some(chord.counted);
            if stalls {
                let size = size + chord.grown;
                found.push(Stalled {
                    group_id: group_id.clone(),
                    message: guard.message.clone(),
                    size,
                    counted: chord.counted,
                    missing: missing(size, members.keys().map(String::as_str)),
                    times: guard.times,
                });
            }
        }
        found
    }

    pub(super) fn spare(&mut self, group_ids: &[String], after: Duration, now: UnixMillis) {
        for group_id in group_ids {
            if let Some(guard) = &mut self.of(group_id, now).guard {
                (guard.look, guard.times) = (now.after(after), 0);
            }
        }
    }

    pub(super) fn sweep(&mut self, now: UnixMillis) {
        self.0.retain(|_, kept| !kept.chord.is_expired(now));
    }
}

//! Chords: Celery's keys, so that its workers and ours count the same ones together.
//!
//! `celery-taskset-meta-<group>` and behind it: `.s` the size, `.t` parts added since, `.j` the elements, `.d` which parts
//! were counted, `.c` who ends it, or `done`. What a Celery worker writes to `.c` is a random text, which expires; ours
//! names the part that took the claim, so that the same part, delivered again after its worker has died, has it at once.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use redis::{FromRedisValue as _, pipe};

use super::backend::{CHUNK, CHUNK_BYTES, RedisBackend};
use super::record::ResultPlace;
use super::scripts::{COUNT, FINISH_CHORD, HOLD_CHORD};
use super::settle::{Arg, text};
use super::{groups, guard};
use crate::backend::{BackendError, ChordClaim, Counted, nonce};
use crate::protocol::ChordPart;

impl RedisBackend {
    fn chord_key(&self, group_id: &str, what: &str) -> String {
        groups::key(&self.place, group_id) + what
    }

    pub(super) async fn start_chord_here(
        &self,
        group_id: &str,
        size: u64,
        expires_ms: Option<u64>,
    ) -> Result<(), BackendError> {
        let mut both = pipe();
        both.atomic().del(self.chord_key(group_id, ".c")).ignore();
        let command = both.cmd("SET").arg(self.chord_key(group_id, ".s")).arg(size);
        if let Some(ms) = expires_ms {
            command.arg("EX").arg(seconds(ms));
        }
        command.ignore();
        self.link.pipeline::<()>(&both).await?;
        Ok(())
    }

    pub(super) async fn grow_chord_here(&self, group_id: &str, by: u64) -> Result<(), BackendError> {
        let mut command = redis::cmd("INCRBY");
        command.arg(self.chord_key(group_id, ".t")).arg(by);
        self.link.query::<u64>(&command).await?;
        Ok(())
    }

    pub(super) async fn count_chunks(&self, parts: &[ChordPart]) -> Result<Vec<Counted>, BackendError> {
        let mut counted = Vec::with_capacity(parts.len());
        let mut rest = parts;
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(chunk(rest));
            counted.extend(self.count_chunk(chunk).await?);
            rest = after;
        }
        Ok(counted)
    }

    async fn count_chunk(&self, parts: &[ChordPart]) -> Result<Vec<Counted>, BackendError> {
        let batch = Batch::of(parts);
        let keys: Vec<String> = batch
            .chords
            .iter()
            .flat_map(|places| {
                let group = &parts[places[0]].group_id;
                [".j", ".t", ".s", ".d", "", ".c"].map(|what| self.chord_key(group, what))
            })
            .collect();
        let mut args: Vec<Arg<'_>> = vec![text(u8::from(self.ordered))];
        for places in &batch.chords {
            batch.put(parts, places, &mut args);
        }
        let answer = self.link.script(&COUNT, &keys, &args).await?;
        let answers = Vec::<u8>::from_redis_value(answer).unwrap_or_default();
        let mut counted = vec![Counted::Waiting; parts.len()];
        for (place, answer) in batch.chords.iter().flatten().zip(answers) {
            let claim = |failed| ChordClaim::new(&parts[*place], &batch.nonce, failed);
            counted[*place] = match answer {
                1 => Counted::Complete(claim(false)),
                2 => Counted::Failed(claim(true)),
                3 => Counted::Ended,
                _ => Counted::Waiting,
            };
        }
        Ok(counted)
    }

    pub(super) async fn gather_here(&self, group_id: &str) -> Result<Vec<Bytes>, BackendError> {
        let mut gathered: Vec<Bytes> = Vec::new();
        loop {
            let mut range = redis::cmd(if self.ordered { "ZRANGE" } else { "LRANGE" });
            let (from, to) = (gathered.len(), gathered.len() + CHUNK - 1);
            range.arg(self.chord_key(group_id, ".j")).arg(from).arg(to);
            let found: Vec<Vec<u8>> = self.link.query(&range).await?;
            let last = found.len() < CHUNK;
            gathered.extend(found.into_iter().map(Bytes::from));
            if last {
                return Ok(gathered);
            }
        }
    }

    pub(super) async fn hold_chord_here(
        &self,
        claim: &ChordClaim,
        long: Duration,
    ) -> Result<bool, BackendError> {
        let keys = [".c", ".s"].map(|what| self.chord_key(&claim.group_id, what));
        let args = [Cow::Borrowed(claim.token.as_bytes()), text(long.as_millis().max(1))];
        Ok(yes(self.link.script(&HOLD_CHORD, &keys, &args).await?))
    }

    pub(super) async fn finish_chord_here(&self, claim: &ChordClaim) -> Result<bool, BackendError> {
        let (keys, args) = end(&self.place, claim);
        Ok(yes(self.link.script(&FINISH_CHORD, &keys, &args).await?))
    }
}

/// Keys and arguments of the end of a chord.
pub(super) fn end<'a>(place: &ResultPlace, claim: &'a ChordClaim) -> ([String; 7], [Arg<'a>; 3]) {
    let group = &claim.group_id;
    let key = |what: &str| groups::key(place, group) + what;
    let keys = [
        key(".c"),
        key(".j"),
        key(".t"),
        key(".s"),
        key(".d"),
        guard::key(place, group),
        guard::guarded(place),
    ];
    let remembered = text(claim.remembered_ms().map_or(0, seconds));
    (keys, [Cow::Borrowed(claim.token.as_bytes()), remembered, Cow::Borrowed(group.as_bytes())])
}

/// The parts of one script call, by chord.
struct Batch {
    /// For each chord the places of its parts.
    chords: Vec<Vec<usize>>,
    /// What the claims taken by this call end with.
    nonce: String,
}

impl Batch {
    fn of(parts: &[ChordPart]) -> Self {
        let mut chords: Vec<Vec<usize>> = Vec::new();
        let mut known: HashMap<&str, usize> = HashMap::new();
        for (place, part) in parts.iter().enumerate() {
            let chord = *known.entry(&part.group_id).or_insert(chords.len());
            if chord == chords.len() {
                chords.push(Vec::new());
            }
            chords[chord].push(place);
        }
        Self { chords, nonce: nonce() }
    }

    fn put<'a>(&'a self, parts: &'a [ChordPart], places: &[usize], args: &mut Vec<Arg<'a>>) {
        let any = &parts[places[0]];
        args.push(text(any.expires_ms.map_or(0, seconds)));
        args.push(text(any.group_expires_ms.map_or(0, seconds)));
        args.push(text(seconds(any.claim_ms)));
        args.push(text(places.len()));
        for place in places {
            let part = &parts[*place];
            args.push(text(part.member()));
            args.push(text(part.index()));
            args.push(text(u8::from(part.is_failed())));
            args.push(Cow::Borrowed(self.nonce.as_bytes()));
            args.push(Cow::Borrowed(&part.element));
        }
    }
}

/// Whole seconds, as Celery sets them; at least one.
fn seconds(ms: u64) -> u64 {
    (ms / 1000).max(1)
}

fn yes(answer: redis::Value) -> bool {
    matches!(i64::from_redis_value(answer), Ok(1))
}

/// How many of these go into one command: at least one.
fn chunk(parts: &[ChordPart]) -> usize {
    let mut bytes = 0;
    let fits = |part: &&ChordPart| {
        bytes += part.element.len();
        bytes <= CHUNK_BYTES
    };
    parts.iter().take(CHUNK).take_while(fits).count().max(1)
}

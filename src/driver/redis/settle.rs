//! A batch of commits as the arguments of one script, and its answer.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::ops::Range;

use redis::{FromRedisValue, Value};

use super::chord;
use super::consumer::Inner;
use super::dead::one_field;
use super::held::write_tag;
use super::publish::Step;
use super::record::{retention, ttl};
use super::scripts::{COMMIT, COMMIT_BODY};
use crate::broker::{BrokerError, ChordEnd, Commit, Committed, Settle};
use crate::numbers::NumberSet;
use crate::protocol::{ChordClaim, Publication, ResultRecord};

/// Arguments in front of the tags.
const FIXED: usize = 9;
/// What a tag takes, about: room for so much is made at once.
const TAG: usize = 40;

pub(super) type Arg<'a> = Cow<'a, [u8]>;

/// One claim of a batch.
struct Entry<'a> {
    /// Its place among the commits.
    commit: usize,
    number: u64,
    kind: char,
    /// Where its tag is in the text of all tags.
    tag: Range<usize>,
    extras: Vec<Arg<'a>>,
}

/// The claims of a batch, in the order in which the script is to settle them.
struct Entries<'a> {
    list: Vec<Entry<'a>>,
    /// All tags, one behind the other.
    tags: Vec<u8>,
}

impl Entry<'_> {
    /// Goes to the right end of its list. The newest goes first, so that the oldest is next to be taken.
    fn goes_right(&self) -> bool {
        matches!(self.kind.to_ascii_lowercase(), 'r' | 'c' | 'p')
    }

    fn keeps(&self) -> bool {
        matches!(self.kind, 'k' | 'b' | 'o')
    }
}

#[expect(clippy::needless_pass_by_value, reason = "numbers and texts alike")]
pub(super) fn text<'a>(text: impl ToString) -> Arg<'a> {
    Cow::Owned(text.to_string().into_bytes())
}

fn letter(letter: &'static str) -> Arg<'static> {
    Cow::Borrowed(letter.as_bytes())
}

impl Inner {
    /// Carries out a batch in one step.
    pub(super) async fn carry_out(&self, batch: &[Commit]) -> Result<Vec<Committed>, BrokerError> {
        let mut answers = vec![Committed::Done; batch.len()];
        let Entries { list: entries, tags } = self.entries(batch, &mut answers);
        let operations = self.operations(batch, &places(&entries, batch.len()), &answers).await?;
        if entries.is_empty() && operations.is_empty() {
            return Ok(answers);
        }
        let args = self.arguments(&entries, &tags, operations);
        let answer = self.store.link.script(&COMMIT, &self.store.layout.shared, &args).await;
        let answer = answer.map_err(|error| self.store.failed(error))?;
        self.conclude(&entries, answer, &mut answers);
        Ok(answers)
    }

    /// Carries out one commit, and the end of the chord that it ends.
    pub(super) async fn carry_out_body(
        &self,
        commit: &Commit,
        chord: &ChordClaim,
    ) -> Result<ChordEnd, BrokerError> {
        let (batch, mut answers) = (std::slice::from_ref(commit), [Committed::Done]);
        let Entries { list: entries, tags } = self.entries(batch, &mut answers);
        if answers[0] == Committed::Stale {
            return Ok(ChordEnd::Ended(Committed::Stale));
        }
        let operations = self.operations(batch, &places(&entries, 1), &answers).await?;
        let mut args = self.arguments(&entries, &tags, operations);
        let mut keys: Vec<String> = self.store.layout.shared.iter().map(ToString::to_string).collect();
        let (chord_keys, chord_args) = chord::end(&self.results, chord);
        keys.extend(chord_keys);
        args.extend(chord_args);
        let answer = self.store.link.script(&COMMIT_BODY, &keys, &args).await;
        let answer = answer.map_err(|error| self.store.failed(error))?;
        if matches!(answer, Value::Int(0)) {
            return Ok(ChordEnd::NotHeld);
        }
        self.conclude(&entries, answer, &mut answers);
        Ok(ChordEnd::Ended(answers[0]))
    }

    /// What the script is given.
    fn arguments<'a>(&self, entries: &[Entry<'a>], tags: &'a [u8], operations: Vec<Arg<'a>>) -> Vec<Arg<'a>> {
        let kinds: String = entries.iter().map(|entry| entry.kind).collect();
        let layout = &self.store.layout;
        let mut args: Vec<Arg<'_>> = Vec::with_capacity(FIXED + 2 * entries.len() + operations.len());
        args.extend([
            text(self.store.now().0),
            text(self.options.max_crashes),
            text(layout.dead_letters),
            text(&layout.prefix),
            text(&layout.separator),
            text(kinds),
            text(FIXED + entries.len() + operations.len() + 1),
            text(self.store.address.database()),
            text(self.results.database),
        ]);
        args.extend(entries.iter().map(|entry| Cow::Borrowed(&tags[entry.tag.clone()])));
        args.extend(operations);
        args.extend(entries.iter().flat_map(|entry| entry.extras.iter().cloned()));
        args
    }

    /// The claims of a batch, in the order in which the script is to settle them. Those that are known to be lost are
    /// answered here.
    fn entries<'a>(&self, batch: &'a [Commit], answers: &mut [Committed]) -> Entries<'a> {
        let mut settled = NumberSet::default();
        let mut entries = Vec::with_capacity(batch.len());
        let mut tags = Vec::with_capacity(batch.len() * TAG);
        let mut state = self.state.lock();
        let token = state.token.clone();
        for (at, commit) in batch.iter().enumerate() {
            let Some(claim) = commit.claim else { continue };
            let number = claim.fence;
            let Some(held) = state.claims.get_mut(&number).filter(|_| !settled.contains(&number)) else {
                answers[at] = Committed::Stale;
                continue;
            };
            let (mut kind, extras) = kind(commit);
            if matches!(kind, 'b' | 'o') {
                // Marked from now on, as far as anyone can know before the answer.
                held.marked = true;
            } else if kind != 'k' {
                settled.insert(number);
                if held.marked {
                    kind = kind.to_ascii_uppercase();
                }
            }
            let start = tags.len();
            write_tag(&mut tags, &token, number, held);
            let tag = start..tags.len();
            entries.push(Entry { commit: at, number, kind, tag, extras });
        }
        drop(state);
        if entries.iter().any(Entry::goes_right) {
            let order =
                |entry: &Entry<'_>| (entry.goes_right(), entry.goes_right().then_some(Reverse(entry.number)));
            entries.sort_by_key(order);
        }
        Entries { list: entries, tags }
    }

    /// Publications and results, each with the place of its claim.
    async fn operations<'a>(
        &self,
        batch: &'a [Commit],
        places: &[usize],
        answers: &[Committed],
    ) -> Result<Vec<Arg<'a>>, BrokerError> {
        let mut operations: Vec<Arg<'a>> = Vec::new();
        let live = |at: usize| answers[at] != Committed::Stale;
        let (owners, publications): (Vec<usize>, Vec<&Publication>) = batch
            .iter()
            .enumerate()
            .filter(|(at, _)| live(*at))
            .flat_map(|(at, commit)| commit.publications.iter().map(move |publication| (at, publication)))
            .unzip();
        if !publications.is_empty() {
            let resolved = self.store.resolve(&publications).await?;
            for (at, step) in owners
                .into_iter()
                .zip(resolved)
                .flat_map(|(at, steps)| steps.into_iter().map(move |step| (at, step)))
            {
                let claim = places[at];
                match step {
                    Step::Push { list, element } => {
                        operations.extend([letter("l"), text(claim), text(list), Cow::Owned(element)]);
                    }
                    Step::Park { parked, due_ms, member } => {
                        operations.extend([
                            letter("z"),
                            text(claim),
                            text(parked),
                            text(due_ms),
                            Cow::Owned(member),
                        ]);
                    }
                    Step::Broadcast { channel, element } => {
                        operations.extend([letter("f"), text(claim), text(channel), Cow::Owned(element)]);
                    }
                    Step::Expire { list, ms } => {
                        operations.extend([letter("x"), text(claim), text(list), text(ms)]);
                    }
                    Step::Append { stream, most, entry } => {
                        operations.extend([
                            letter("e"),
                            text(claim),
                            text(stream),
                            text(most),
                            Cow::Owned(entry),
                        ]);
                    }
                }
            }
        }
        for (at, commit) in batch.iter().enumerate().filter(|(at, _)| live(*at)) {
            for held in &commit.free_keys {
                let key = self.store.layout.own_key(&held.key);
                operations.extend([
                    letter("u"),
                    text(places[at]),
                    text(key),
                    Cow::Borrowed(held.token.as_bytes()),
                ]);
            }
        }
        let records = batch.iter().enumerate().filter(|(at, _)| live(*at));
        let records =
            records.flat_map(|(at, commit)| commit.results.iter().map(move |record| (places[at], record)));
        self.add_records(&mut operations, &records.collect::<Vec<_>>());
        Ok(operations)
    }

    /// Results, each with the place of its claim. Those of claims in a row that are kept equally long are one operation.
    fn add_records<'a>(&self, operations: &mut Vec<Arg<'a>>, records: &[(usize, &'a ResultRecord)]) {
        let follows = |(place, record): &(usize, &ResultRecord), (next, other): &(usize, &ResultRecord)| {
            let in_a_row = if *place == 0 { *next == 0 } else { *next == place + 1 };
            in_a_row && record.expires_ms == other.expires_ms
        };
        for row in records.chunk_by(follows) {
            let (place, first) = row[0];
            operations.extend([letter("s"), text(place), text(ttl(first)), text(row.len())]);
            for (_, record) in row {
                let key = Cow::Owned(self.results.key(&record.task_id).into_bytes());
                operations.extend([key, Cow::Borrowed(&record.record[..])]);
            }
        }
        for (place, record) in records {
            if let Some(retained) = retention(&self.results, record) {
                operations.extend([letter("t"), text(place)]);
                operations.extend(retained.map(text));
            }
        }
    }

    fn conclude(&self, entries: &[Entry<'_>], answer: Value, answers: &mut [Committed]) {
        let digits = String::from_redis_value(answer).unwrap_or_default();
        let mut state = self.state.lock();
        for (entry, digit) in entries.iter().zip(digits.bytes()) {
            answers[entry.commit] = match digit {
                b'1' => Committed::Done,
                b'2' => Committed::Dead,
                _ => Committed::Stale,
            };
            if !entry.keeps() || digit == b'0' {
                state.claims.remove(&entry.number);
            }
        }
    }

    /// Puts dead letters aside that could not be opened.
    pub(super) async fn settle_condemned(&self) -> Result<(), BrokerError> {
        let condemned = std::mem::take(&mut self.state.lock().condemned);
        if condemned.is_empty() {
            return Ok(());
        }
        let commits: Vec<Commit> = condemned
            .iter()
            .map(|(number, reason, detail)| settlement(*number, Settle::Dead(*reason, detail.clone())))
            .collect();
        if let Err(error) = self.carry_out(&commits).await {
            self.state.lock().condemned.extend(condemned);
            return Err(error);
        }
        Ok(())
    }
}

/// For each commit of a batch the number of its claim in the script's order; 0 for those without.
fn places(entries: &[Entry<'_>], commits: usize) -> Vec<usize> {
    let mut places = vec![0; commits];
    for (at, entry) in entries.iter().enumerate() {
        places[entry.commit] = at + 1;
    }
    places
}

/// A commit that only settles.
pub(super) fn settlement(number: u64, settle: Settle) -> Commit {
    Commit { claim: Some(crate::broker::ClaimId { id: number, fence: number }), settle, ..Commit::default() }
}

/// The letter of a settlement for the script, and what belongs to it.
fn kind(commit: &Commit) -> (char, Vec<Arg<'_>>) {
    match &commit.settle {
        Settle::Keep if commit.begun => ('b', Vec::new()),
        Settle::Keep => ('k', Vec::new()),
        Settle::Once => ('o', Vec::new()),
        Settle::Ack => ('a', Vec::new()),
        Settle::Requeue => ('q', Vec::new()),
        Settle::Release => ('r', Vec::new()),
        Settle::Crashed => ('c', Vec::new()),
        Settle::Park(due) => ('p', vec![text(due.0)]),
        Settle::Dead(reason, detail) => ('d', vec![text(reason.as_str()), text(one_field(detail))]),
    }
}

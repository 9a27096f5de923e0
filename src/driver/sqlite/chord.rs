//! The SQL of chords.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Result, Row, params};

use super::guard;
use super::step::Step;
use crate::backend::{ChordClaim, Counted};
use crate::clock::UnixMillis;
use crate::driver::chords::Chord;
use crate::protocol::ChordPart;

/// Expired chords that one transaction removes at the most.
const SWEEP: i64 = 20;

pub(super) fn start(step: &Step<'_>, group_id: &str, size: u64, expires_ms: Option<u64>) -> Result<()> {
    change(step, group_id, |chord| chord.start(size, expires_ms, step.now))
}

pub(super) fn grow(step: &Step<'_>, group_id: &str, by: u64) -> Result<()> {
    change(step, group_id, |chord| chord.grown += by)
}

pub(super) fn hold(step: &Step<'_>, claim: &ChordClaim, until: UnixMillis) -> Result<bool> {
    change(step, &claim.group_id, |chord| chord.hold(claim, step.now, until))
}

pub(super) fn is_held_by(step: &Step<'_>, claim: &ChordClaim) -> Result<bool> {
    Ok(read(step, &claim.group_id)?.is_held_by(claim, step.now))
}

pub(super) fn finish(step: &Step<'_>, claim: &ChordClaim) -> Result<bool> {
    let held = change(step, &claim.group_id, |chord| chord.finish(claim, step.now))?;
    if held {
        guard::forget(step, &claim.group_id)?;
        forget_parts(step, &claim.group_id)?;
    }
    Ok(held)
}

/// Counts parts, in order.
pub(super) fn count(step: &Step<'_>, parts: &[ChordPart]) -> Result<Vec<Counted>> {
    let mut counted = Vec::with_capacity(parts.len());
    let mut rest = parts;
    // A batch is often of one chord: its row is read and written once for a run of them.
    while let Some(first) = rest.first() {
        let same = rest.iter().take_while(|part| part.group_id == first.group_id).count();
        let (run, after) = rest.split_at(same);
        let mut chord = read(step, &first.group_id)?;
        for part in run {
            counted.push(count_one(step, &mut chord, part)?);
        }
        write(step, &first.group_id, &chord)?;
        rest = after;
    }
    Ok(counted)
}

fn count_one(step: &Step<'_>, chord: &mut Chord, part: &ChordPart) -> Result<Counted> {
    if chord.over {
        return Ok(Counted::Ended);
    }
    let (member, index) = (part.member(), part.group_index.unwrap_or(i64::MAX));
    let new =
        step.sql(
            "INSERT OR IGNORE INTO chord_part (group_id, member, place, number, failed, element)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            part.group_id,
            member,
            index,
            chord.counted as i64,
            part.is_failed(),
            &part.element[..]
        ])? > 0;
    let failed = if new {
        chord.counted += 1;
        part.is_failed()
    } else {
        step.sql("SELECT failed FROM chord_part WHERE group_id = ?1 AND member = ?2")?
            .query_row(params![part.group_id, member], |row| row.get(0))?
    };
    Ok(chord.count(part, failed, step.now))
}

/// The elements, by index and then by arrival.
pub(super) fn gather(connection: &Connection, group_id: &str) -> Result<Vec<Bytes>> {
    connection
        .prepare_cached("SELECT element FROM chord_part WHERE group_id = ?1 ORDER BY place, number")?
        .query_map([group_id], |row| Ok(Bytes::copy_from_slice(row.get_ref(0)?.as_bytes()?)))?
        .collect()
}

/// Removes expired chords; says whether there may be more.
pub(super) fn sweep(step: &Step<'_>) -> Result<bool> {
    let expired: Vec<String> = step
        .sql("SELECT group_id FROM chord WHERE expires_ms <= ?1 LIMIT ?2")?
        .query_map(params![step.now.0, SWEEP], |row| row.get(0))?
        .collect::<Result<_>>()?;
    for group_id in &expired {
        forget_parts(step, group_id)?;
        step.run("DELETE FROM chord WHERE group_id = ?1", &[group_id])?;
    }
    Ok(expired.len() as i64 == SWEEP)
}

fn change<T>(step: &Step<'_>, group_id: &str, how: impl FnOnce(&mut Chord) -> T) -> Result<T> {
    let before = read(step, group_id)?;
    let mut chord = before.clone();
    let answer = how(&mut chord);
    if chord != before {
        write(step, group_id, &chord)?;
    }
    Ok(answer)
}

/// Names of the parts that were counted.
pub(super) fn members(step: &Step<'_>, group_id: &str) -> Result<Vec<String>> {
    step.sql("SELECT member FROM chord_part WHERE group_id = ?1")?
        .query_map([group_id], |row| row.get(0))?
        .collect()
}

pub(super) fn read(step: &Step<'_>, group_id: &str) -> Result<Chord> {
    let found = step
        .sql(
            "SELECT size, grown, counted, claim, claim_until_ms, over, expires_ms FROM chord WHERE group_id = ?1",
        )?
        .query_row([group_id], chord)
        .optional()?;
    match found {
        Some(chord) if chord.is_expired(step.now) => {
            forget_parts(step, group_id)?;
            Ok(Chord::default())
        }
        found => Ok(found.unwrap_or_default()),
    }
}

fn chord(row: &Row<'_>) -> Result<Chord> {
    let number = |value: i64| value.max(0) as u64;
    let claim: Option<String> = row.get(3)?;
    let until: Option<i64> = row.get(4)?;
    Ok(Chord {
        size: row.get::<_, Option<i64>>(0)?.map(number),
        grown: number(row.get(1)?),
        counted: number(row.get(2)?),
        claim: claim.zip(until.map(UnixMillis)),
        over: row.get(5)?,
        expires: row.get::<_, Option<i64>>(6)?.map(UnixMillis),
    })
}

fn write(step: &Step<'_>, group_id: &str, chord: &Chord) -> Result<()> {
    let (claim, until) = chord.claim.as_ref().map(|(token, until)| (token, until.0)).unzip();
    step.sql(
        "INSERT OR REPLACE INTO chord (group_id, size, grown, counted, claim, claim_until_ms, over, expires_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        group_id,
        chord.size.map(|size| size as i64),
        chord.grown as i64,
        chord.counted as i64,
        claim,
        until,
        chord.over,
        chord.expires.map(|expires| expires.0)
    ])?;
    Ok(())
}

fn forget_parts(step: &Step<'_>, group_id: &str) -> Result<()> {
    step.run("DELETE FROM chord_part WHERE group_id = ?1", &[&group_id])?;
    Ok(())
}

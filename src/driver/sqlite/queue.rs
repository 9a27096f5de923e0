//! The SQL of messages: publishing, claiming, settling.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Result, params};

use super::doorbell::Kind;
use super::keys;
use super::owner::{self, Begun};
use super::results;
use super::step::{self, Step};
use super::topics;
use crate::broker::{ClaimId, Commit, Committed, Credit, DeadReason, Delivery, QueueStatus, Settle};
use crate::clock::UnixMillis;
use crate::driver::routing::{self, QueueOrder, Turns, in_turns};
use crate::protocol::Publication;

/// Due messages that one transaction makes ready, so that it does not hold the lock for long.
const UNPARK: i64 = 1000;
/// The highest priority has rank 0.
const LOWEST_RANK: u8 = 9;

/// What stands beside a message wherever it is.
#[derive(Clone, Copy)]
pub(super) struct Standing {
    pub(super) message: i64,
    pub(super) place: i64,
    /// Crashes times two, plus one when it was delivered before.
    history: i64,
}

impl Standing {
    /// Reads the columns `message`, `place`, `history`.
    pub(super) fn read(row: &rusqlite::Row<'_>) -> Result<Self> {
        Ok(Self { message: row.get(0)?, place: row.get(1)?, history: row.get(2)? })
    }

    fn crashes(self) -> u32 {
        (self.history >> 1) as u32
    }

    pub(super) fn delivered(self) -> Self {
        Self { history: self.history | 1, ..self }
    }

    pub(super) fn crashed(self) -> Self {
        Self { history: (self.history + 2) | 1, ..self }
    }
}

/// Publishes; messages whose time has not come are parked.
pub(super) fn publish(step: &mut Step<'_>, batch: &[Publication]) -> Result<()> {
    if batch.iter().any(|publication| routing::apart(publication).is_some()) {
        return topics::publish(step, batch);
    }
    publish_to_queues(step, batch)
}

/// The same where each names its queue.
pub(super) fn publish_to_queues(step: &mut Step<'_>, batch: &[Publication]) -> Result<()> {
    if batch.is_empty() {
        return Ok(());
    }
    let first = step.numbers(batch.len())?;
    for (id, publication) in (first..).zip(batch) {
        let queue = step.queue(routing::queue(publication))?;
        let rank = LOWEST_RANK - routing::priority(publication);
        insert(step, id, queue, rank, publication)?;
        let standing = Standing { message: id, place: id, history: 0 };
        match publication.due_ms {
            Some(due) if due > step.now.0 => park(step, standing, due)?,
            _ => {
                step.run("INSERT INTO ready VALUES (?1, ?2, ?3, ?3, 0)", &[&queue, &rank, &id])?;
            }
        }
    }
    // For parked ones too: whoever waits must know how long.
    step.rings.add(Kind::Messages);
    Ok(())
}

fn insert(step: &Step<'_>, id: i64, queue: i64, rank: u8, publication: &Publication) -> Result<()> {
    let properties = &publication.message.properties;
    step.sql(
        "INSERT INTO message VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
    )?
    .execute(params![
        id,
        queue,
        rank,
        publication.exchange,
        publication.routing_key,
        properties.priority,
        properties.content_type,
        properties.content_encoding,
        properties.correlation_id,
        properties.reply_to,
        properties.delivery_mode,
        properties.expiration_ms.map(|ms| ms as i64),
        step::other(properties),
        &publication.message.headers[..],
        &publication.message.body[..],
    ])?;
    Ok(())
}

fn park(step: &Step<'_>, standing: Standing, due: i64) -> Result<()> {
    let Standing { message, place, history } = standing;
    step.run("INSERT INTO parked VALUES (?1, ?2, ?3, ?4)", &[&due, &message, &place, &history])?;
    Ok(())
}

/// Puts a message that is nowhere back to its place.
pub(super) fn make_ready(step: &mut Step<'_>, standing: Standing) -> Result<()> {
    step.run(
        "INSERT INTO ready SELECT queue, rank, ?2, id, ?3 FROM message WHERE id = ?1",
        &[&standing.message, &standing.place, &standing.history],
    )?;
    step.rings.add(Kind::Messages);
    Ok(())
}

/// Puts a message back whose process died, or buries it when it was the last allowed time.
fn count_crash(step: &mut Step<'_>, standing: Standing, max_crashes: u32) -> Result<Committed> {
    let standing = standing.crashed();
    if standing.crashes() < max_crashes {
        make_ready(step, standing)?;
        return Ok(Committed::Done);
    }
    let detail = format!("the process that ran it died {} times", standing.crashes());
    bury(step, standing, DeadReason::Crashed, &detail)?;
    Ok(Committed::Dead)
}

/// Keeps a message that is not in the store any more as a dead letter.
pub(super) fn bury_new(
    step: &mut Step<'_>,
    publication: &Publication,
    reason: DeadReason,
    detail: &str,
) -> Result<()> {
    let id = step.numbers(1)?;
    let queue = step.queue(routing::queue(publication))?;
    insert(step, id, queue, LOWEST_RANK - routing::priority(publication), publication)?;
    bury(step, Standing { message: id, place: id, history: 0 }, reason, detail)
}

fn bury(step: &Step<'_>, standing: Standing, reason: DeadReason, detail: &str) -> Result<()> {
    step.run(
        "INSERT INTO dead VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        &[&step.numbers(1)?, &standing.message, &reason.as_str(), &detail, &standing.crashes(), &step.now.0],
    )?;
    Ok(())
}

/// Makes ready what is due.
fn unpark(step: &mut Step<'_>) -> Result<()> {
    let last: Option<(i64, i64)> = step
        .sql(
            "SELECT due_ms, message FROM (SELECT due_ms, message FROM parked WHERE due_ms <= ?1
             ORDER BY due_ms, message LIMIT ?2) ORDER BY due_ms DESC, message DESC LIMIT 1",
        )?
        .query_row([step.now.0, UNPARK], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((due, message)) = last else { return Ok(()) };
    step.run(
        "INSERT INTO ready SELECT m.queue, m.rank, p.place, p.message, p.history
         FROM parked p CROSS JOIN message m ON m.id = p.message
         WHERE (p.due_ms, p.message) <= (?1, ?2)",
        &[&due, &message],
    )?;
    step.run("DELETE FROM parked WHERE (due_ms, message) <= (?1, ?2)", &[&due, &message])?;
    step.rings.add(Kind::Messages);
    Ok(())
}

/// Makes what is parked of one queue ready, whenever it is due; returns how many.
pub(super) fn unpark_all(step: &mut Step<'_>, queue: &str) -> Result<u64> {
    let queue = step.queue(queue)?;
    let moved = step.run(
        "INSERT INTO ready SELECT m.queue, m.rank, p.place, p.message, p.history
         FROM parked p CROSS JOIN message m ON m.id = p.message WHERE m.queue = ?1",
        &[&queue],
    )?;
    step.run("DELETE FROM parked WHERE message IN (SELECT message FROM ready WHERE queue = ?1)", &[&queue])?;
    step.rings.add(Kind::Messages);
    Ok(moved as u64)
}

/// What a consumer asks for.
pub(super) struct Order {
    pub(super) owner: i64,
    pub(super) queues: Vec<Arc<str>>,
    /// Which queue comes first (modulo).
    pub(super) start: usize,
    pub(super) strategy: QueueOrder,
    pub(super) credit: Credit,
}

/// What it gets.
pub(super) enum Taken {
    Some(Vec<Delivery>),
    /// Nothing; the next parked message is due then.
    NothingUntil(Option<UnixMillis>),
    /// The owner is not registered any more.
    Unregistered,
}

/// Takes deliveries, each queue in turn.
pub(super) fn claim(step: &mut Step<'_>, order: &Order) -> Result<Taken> {
    if !owner::exists(step, order.owner)? {
        return Ok(Taken::Unregistered);
    }
    unpark(step)?;
    let mut taken = Vec::new();
    let mut left = order.credit;
    let mut fence = None;
    let fair = order.strategy == QueueOrder::RoundRobin;
    let count = order.queues.len();
    let mut turns = if fair { Turns::new(count, order.start) } else { Turns::strict(count) };
    while let Some((index, share)) = turns.next(left.count) {
        let queue = step.queue(&order.queues[index])?;
        let before = taken.len();
        let more = Look { queue, name: &order.queues[index], share }
            .take(step, &mut left, &mut taken, order, &mut fence)?;
        debug_assert!(taken.len() - before <= share);
        if !more {
            break;
        }
    }
    if taken.is_empty() {
        let due = step.sql("SELECT due_ms FROM parked ORDER BY due_ms LIMIT 1")?;
        let due = { due }.query_row([], |row| row.get(0)).optional()?;
        return Ok(Taken::NothingUntil(due.map(UnixMillis)));
    }
    Ok(Taken::Some(if fair { in_turns(taken) } else { taken }))
}

/// One queue's turn within a claim.
struct Look<'a> {
    queue: i64,
    name: &'a Arc<str>,
    share: usize,
}

impl Look<'_> {
    /// Moves the first of the queue to the claimed ones; false when the credit in bytes is used up.
    fn take(
        &self,
        step: &Step<'_>,
        left: &mut Credit,
        taken: &mut Vec<Delivery>,
        order: &Order,
        fence: &mut Option<i64>,
    ) -> Result<bool> {
        let mut statement = step.sql(
            "SELECT r.message, r.place, r.history, r.rank, m.exchange, m.routing_key, m.priority, m.content_type,
                m.content_encoding, m.correlation_id, m.reply_to, m.delivery_mode, m.expiration_ms, m.other,
                m.headers, m.body
             FROM ready r CROSS JOIN message m ON m.id = r.message
             WHERE r.queue = ?1 ORDER BY r.rank, r.place, r.message LIMIT ?2",
        )?;
        let mut rows = statement.query(params![self.queue, self.share as i64])?;
        let mut last = None;
        let mut more = true;
        while let Some(row) = rows.next()? {
            let size = row.get_ref(14)?.as_bytes()?.len() + row.get_ref(15)?.as_bytes()?.len() + 256;
            if size > left.bytes && !taken.is_empty() {
                more = false;
                break;
            }
            left.bytes = left.bytes.saturating_sub(size);
            left.count -= 1;
            let standing = Standing::read(row)?;
            let fence = match *fence {
                Some(fence) => fence,
                None => *fence.insert(step.numbers(1)?),
            };
            last = Some((row.get::<_, i64>(3)?, standing, fence));
            let before = taken.last();
            let exchange = shared(row.get_ref(4)?.as_str()?, before.map(|delivery| &delivery.exchange));
            let routing_key = shared(row.get_ref(5)?.as_str()?, before.map(|delivery| &delivery.routing_key));
            taken.push(Delivery {
                claim: ClaimId { id: standing.message as u64, fence: fence as u64 },
                queue: self.name.clone(),
                exchange,
                routing_key,
                redelivered: standing.history & 1 == 1,
                crashes: standing.crashes(),
                message: step::message(row, 6)?,
            });
        }
        drop(rows);
        if let Some((rank, standing, fence)) = last {
            self.transfer(step, rank, standing, order.owner, fence)?;
        }
        Ok(more)
    }

    /// Everything up to the last one that was taken becomes claimed.
    fn transfer(&self, step: &Step<'_>, rank: i64, last: Standing, owner: i64, fence: i64) -> Result<()> {
        let Standing { message, place, .. } = last;
        step.run(
            "INSERT INTO claimed SELECT message, ?5, ?6, place, history, 0 FROM ready
             WHERE queue = ?1 AND (rank, place, message) <= (?2, ?3, ?4)",
            &[&self.queue, &rank, &place, &message, &owner, &fence],
        )?;
        step.run(
            "DELETE FROM ready WHERE queue = ?1 AND (rank, place, message) <= (?2, ?3, ?4)",
            &[&self.queue, &rank, &place, &message],
        )?;
        Ok(())
    }
}

/// Most messages of a batch have the same exchange and routing key: one text for all.
fn shared(text: &str, before: Option<&Arc<str>>) -> Arc<str> {
    match before {
        Some(before) if **before == *text => before.clone(),
        _ => text.into(),
    }
}

/// Carries out one commit.
pub(super) fn commit(
    step: &mut Step<'_>,
    owner: i64,
    max_crashes: u32,
    commit: &Commit,
) -> Result<Committed> {
    let held = match (commit.claim, &commit.settle) {
        (None, _) => None,
        (Some(claim), Settle::Ack) if acknowledge(step, owner, claim)? => None,
        (Some(_), Settle::Ack) => return Ok(Committed::Stale),
        (Some(claim), settle) => {
            let held = if matches!(settle, Settle::Keep | Settle::Once) {
                keep(step, owner, claim, Begun::of(commit))?
            } else {
                let_go(step, owner, claim)?
            };
            if held.is_none() {
                return Ok(Committed::Stale);
            }
            held
        }
    };
    // Settled first: what an acknowledged message leaves is room for its result where the disk is full.
    let committed = match held {
        Some(standing) => settle(step, standing, &commit.settle, max_crashes)?,
        None => Committed::Done,
    };
    results::store(step, commit.results.iter())?;
    publish(step, &commit.publications)?;
    for held in &commit.free_keys {
        keys::free(step, held)?;
    }
    Ok(committed)
}

/// Ends a claim and its message; false when it is not this owner's any more. The common way, so without
/// `RETURNING`, for which SQLite makes a temporary table.
fn acknowledge(step: &Step<'_>, owner: i64, claim: ClaimId) -> Result<bool> {
    let (message, fence) = (claim.id as i64, claim.fence as i64);
    let ended = step.run(
        "DELETE FROM claimed WHERE message = ?1 AND owner = ?2 AND fence = ?3",
        &[&message, &owner, &fence],
    )?;
    if ended == 1 {
        step.run("DELETE FROM message WHERE id = ?1", &[&message])?;
    }
    Ok(ended == 1)
}

fn keep(step: &Step<'_>, owner: i64, claim: ClaimId, begun: Begun) -> Result<Option<Standing>> {
    step.sql(
        "UPDATE claimed SET begun = max(begun, ?4) WHERE message = ?1 AND owner = ?2 AND fence = ?3
         RETURNING message, place, history",
    )?
    .query_row(params![claim.id as i64, owner, claim.fence as i64, begun as i64], Standing::read)
    .optional()
}

/// Ends a claim, if it is still this owner's.
pub(super) fn let_go(step: &Step<'_>, owner: i64, claim: ClaimId) -> Result<Option<Standing>> {
    step.sql(
        "DELETE FROM claimed WHERE message = ?1 AND owner = ?2 AND fence = ?3
         RETURNING message, place, history",
    )?
    .query_row(params![claim.id as i64, owner, claim.fence as i64], Standing::read)
    .optional()
}

fn settle(step: &mut Step<'_>, standing: Standing, settle: &Settle, max_crashes: u32) -> Result<Committed> {
    match settle {
        // An acknowledgement has been carried out where the claim was looked at.
        Settle::Keep | Settle::Once | Settle::Ack => {}
        Settle::Requeue => {
            let place = step.numbers(1)?;
            make_ready(step, Standing { place, ..standing.delivered() })?;
        }
        Settle::Release => make_ready(step, standing.delivered())?,
        Settle::Crashed => return count_crash(step, standing, max_crashes),
        Settle::Park(due) if *due > step.now => {
            park(step, standing, due.0)?;
            step.rings.add(Kind::Messages);
        }
        Settle::Park(_) => make_ready(step, standing)?,
        Settle::Dead(reason, detail) => bury(step, standing, *reason, detail)?,
    }
    Ok(Committed::Done)
}

/// Removes what is ready or parked; returns how many.
pub(super) fn purge(step: &mut Step<'_>, queue: &str) -> Result<u64> {
    let queue = step.queue(queue)?;
    let mut removed = 0;
    for (messages, places) in [
        (
            "DELETE FROM message WHERE id IN (SELECT message FROM ready WHERE queue = ?1)",
            "DELETE FROM ready WHERE queue = ?1",
        ),
        (
            "DELETE FROM message WHERE queue = ?1 AND id IN (SELECT message FROM parked)",
            "DELETE FROM parked WHERE message NOT IN (SELECT id FROM message) AND ?1 > 0",
        ),
    ] {
        removed += step.run(messages, &[&queue])?;
        step.run(places, &[&queue])?;
    }
    Ok(removed as u64)
}

/// Makes what is parked for a queue due now.
pub(super) fn recall(step: &mut Step<'_>, queue: &str) -> Result<u64> {
    let queue = step.queue(queue)?;
    let moved = step.run(
        "UPDATE parked SET due_ms = ?2
         WHERE due_ms > ?2 AND message IN (SELECT id FROM message WHERE queue = ?1)",
        &[&queue, &step.now.0],
    )?;
    if moved > 0 {
        step.rings.add(Kind::Messages);
    }
    Ok(moved as u64)
}

/// Whether a text may occur in any message that may still be run: a compressed body may hold anything.
pub(super) fn mentions(connection: &Connection, text: &str) -> Result<bool> {
    connection
        .prepare_cached(
            "SELECT 1 FROM message WHERE id NOT IN (SELECT message FROM dead)
             AND (instr(headers, ?1) OR instr(body, ?1) OR instr(headers, ?2)) LIMIT 1",
        )?
        .exists(params![text.as_bytes(), &br#""compression": ""#[..]])
}

/// Counts of every queue. What is due counts as ready, though nobody has moved it yet.
pub(super) fn statuses(connection: &Connection, now: UnixMillis) -> Result<Vec<QueueStatus>> {
    let counts = [
        "SELECT q.name, (SELECT count(*) FROM ready WHERE queue = q.id), 0 FROM queue q WHERE ?1 > 0 ORDER BY q.name",
        "SELECT q.name, count(*), 0 FROM claimed c JOIN message m ON m.id = c.message JOIN queue q ON q.id = m.queue
         WHERE ?1 > 0 GROUP BY q.id",
        "SELECT q.name, count(*), sum(due_ms <= ?1) FROM parked p JOIN message m ON m.id = p.message
         JOIN queue q ON q.id = m.queue GROUP BY q.id",
        "SELECT q.name, count(*), 0 FROM dead d JOIN message m ON m.id = d.message JOIN queue q ON q.id = m.queue
         WHERE ?1 > 0 GROUP BY q.id",
    ];
    let transaction = connection.unchecked_transaction()?;
    let mut statuses: Vec<QueueStatus> = Vec::new();
    for (which, sql) in counts.into_iter().enumerate() {
        let mut statement = transaction.prepare_cached(sql)?;
        let mut rows = statement.query([now.0])?;
        while let Some(row) = rows.next()? {
            let name = row.get_ref(0)?.as_str()?;
            let [count, due] = [row.get::<_, i64>(1)? as u64, row.get::<_, i64>(2)? as u64];
            if which == 0 {
                statuses.push(QueueStatus { name: name.to_owned(), ready: count, ..QueueStatus::default() });
            } else if let Some(status) = statuses.iter_mut().find(|status| status.name == name) {
                match which {
                    1 => status.claimed = count,
                    2 => (status.ready, status.parked) = (status.ready + due, count - due),
                    _ => status.dead = count,
                }
            }
        }
    }
    Ok(statuses)
}

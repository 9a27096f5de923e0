//! The SQL of limits of all workers, and their bell.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Result, params};
use tokio::sync::watch;

use super::doorbell::Kind;
use super::step::Step;
use super::writer::Durability;
use super::{Shared, SqliteStore};
use crate::clock::UnixMillis;
use crate::driver::limits::{self, Shelf, State};
use crate::limits::{Answers, LONGEST_WINDOW, LimitBell, LimitError, LimitStore, Place, Turns};

/// Made when first needed, so that a file without limits is as it was, and older versions can open it.
///
/// `limit_state`: what is kept of a limit and key, as JSON. `limit_holder`: who has turns, and until when. `limit_line`: who
/// waits, in the order of `number`. Not flushed to the disk with each call: after a power cut no turn is out, since no
/// worker is left either.
const TABLES: &str = "
CREATE TABLE IF NOT EXISTS limit_state (
    place TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    idle INTEGER NOT NULL,
    touched_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS limit_line (
    place TEXT NOT NULL,
    id TEXT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (place, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS limit_line_order ON limit_line (place, number);
CREATE TABLE IF NOT EXISTS limit_holder (
    holder TEXT PRIMARY KEY,
    expires_ms INTEGER NOT NULL
) WITHOUT ROWID;
";

fn exist(connection: &Connection) -> Result<bool> {
    connection
        .prepare_cached("SELECT count(*) FROM sqlite_schema WHERE name = 'limit_holder'")?
        .query_row([], |row| Ok(row.get::<_, i64>(0)? > 0))
}

impl Shelf for Step<'_> {
    type Error = rusqlite::Error;

    fn load(&mut self, place: &str) -> Result<State> {
        let found: Option<String> = self
            .sql("SELECT state FROM limit_state WHERE place = ?1")?
            .query_row([place], |row| row.get(0))
            .optional()?;
        // One that cannot be read was written by a version to come: it is as good as none.
        Ok(found.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
    }

    fn save(&mut self, place: &str, state: &State) -> Result<()> {
        let text = serde_json::to_string(state)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        self.sql("INSERT OR REPLACE INTO limit_state VALUES (?1, ?2, ?3, ?4)")?.execute(params![
            place,
            text,
            state.is_idle(),
            self.now.0
        ])?;
        Ok(())
    }

    fn hold(&mut self, holder: &str, until: Option<UnixMillis>) -> Result<()> {
        match until {
            Some(until) => {
                self.run("INSERT OR REPLACE INTO limit_holder VALUES (?1, ?2)", &[&holder, &until.0])
            }
            None => self.run("DELETE FROM limit_holder WHERE holder = ?1", &[&holder]),
        }
        .map(drop)
    }

    fn lives(&mut self, holder: &str) -> Result<bool> {
        self.sql("SELECT count(*) FROM limit_holder WHERE holder = ?1 AND expires_ms > ?2")?
            .query_row(params![holder, self.now.0], |row| Ok(row.get::<_, i64>(0)? > 0))
    }

    fn stand(&mut self, place: &str, id: &str) -> Result<Place> {
        let found: Option<i64> = self
            .sql("SELECT number FROM limit_line WHERE place = ?1 AND id = ?2")?
            .query_row([place, id], |row| row.get(0))
            .optional()?;
        if let Some(number) = found {
            let before = self
                .sql("SELECT count(*) FROM limit_line WHERE place = ?1 AND number < ?2")?
                .query_row(params![place, number], |row| row.get::<_, i64>(0))?;
            return Ok(Place { before: before.unsigned_abs(), again: true });
        }
        let before = self.in_line(place)?;
        self.sql(
            "INSERT INTO limit_line
             SELECT ?1, ?2, coalesce(max(number), 0) + 1 FROM limit_line WHERE place = ?1",
        )?
        .execute([place, id])?;
        Ok(Place { before, again: false })
    }

    fn leave(&mut self, place: &str, id: &str) -> Result<()> {
        self.run("DELETE FROM limit_line WHERE place = ?1 AND id = ?2", &[&place, &id]).map(drop)
    }

    fn in_line(&mut self, place: &str) -> Result<u64> {
        // By the ends of the line, which costs nothing however long it is. Who left it from the middle counts too: most
        // leave at the front.
        let ends = "SELECT (SELECT min(number) FROM limit_line WHERE place = ?1),
                            (SELECT max(number) FROM limit_line WHERE place = ?1)";
        let (first, last): (Option<i64>, Option<i64>) =
            self.sql(ends)?.query_row([place], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(first.zip(last).map_or(0, |(first, last)| (last - first + 1).unsigned_abs()))
    }

    fn clear(&mut self, place: &str) -> Result<()> {
        self.run("DELETE FROM limit_line WHERE place = ?1", &[&place]).map(drop)
    }
}

fn turns(step: &mut Step<'_>, turns: &Turns) -> Result<Answers> {
    if !exist(step.connection)? {
        step.connection.execute_batch(TABLES)?;
    }
    let now = step.now;
    let (answers, freed) = limits::carry_out(step, turns, now)?;
    if !freed.is_empty() {
        step.rings.add(Kind::Turns);
    }
    Ok(answers)
}

/// Forgets workers that are gone, and limits that nobody uses any more.
pub(super) fn sweep(step: &Step<'_>) -> Result<()> {
    if !exist(step.connection)? {
        return Ok(());
    }
    let old = step.now.0 - limits::millis(LONGEST_WINDOW);
    step.run("DELETE FROM limit_holder WHERE expires_ms <= ?1", &[&old])?;
    step.run("DELETE FROM limit_state WHERE idle AND touched_ms <= ?1", &[&old])?;
    Ok(())
}

/// The contract over the file.
struct SqliteLimits(Arc<Shared>);

impl SqliteStore {
    pub(super) fn limit_store(&self) -> Arc<dyn LimitStore> {
        Arc::new(SqliteLimits(self.0.clone()))
    }
}

#[async_trait]
impl LimitStore for SqliteLimits {
    async fn turns(&self, asked: &Turns) -> std::result::Result<Answers, LimitError> {
        let asked = asked.clone();
        let answered = self.0.writer.submit(Durability::Relaxed, move |step| turns(step, &asked)).await;
        answered.map_err(|fault| LimitError(fault.backend(self.0.url()).to_string()))
    }

    fn bell(&self) -> Box<dyn LimitBell> {
        Box::new(SqliteBell { store: self.0.clone(), changes: self.0.signals.turns.subscribe(), hung: false })
    }
}

struct SqliteBell {
    store: Arc<Shared>,
    changes: watch::Receiver<u64>,
    hung: bool,
}

#[async_trait]
impl LimitBell for SqliteBell {
    async fn rung(&mut self) -> std::result::Result<Option<Vec<String>>, LimitError> {
        if !self.hung {
            let hanging = self.store.listen_for(Kind::Turns).await;
            hanging.map_err(|fault| LimitError(fault.backend(self.store.url()).to_string()))?;
            self.hung = true;
            // What came back before it hung was not heard.
            return Ok(None);
        }
        self.store.signals.bells.arm(Kind::Turns, None);
        self.changes.changed().await.map_err(|_| LimitError("the store is closed".to_owned()))?;
        Ok(None)
    }
}

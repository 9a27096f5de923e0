//! The rules of keys ([`crate::keys`]) for stores of our own; Redis has them in `lua/keys.lua`.

use serde::{Deserialize, Serialize};

use crate::clock::UnixMillis;
use crate::keys::{Admission, Admitted, Arrival, Held, Kind, LAPSED, Turn};

/// What a store keeps of a key, or a lock. Written and read in one step each.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(super) struct Entry {
    /// The id that calls get.
    id: String,
    /// Who holds it; of a debounced key the call whose message is to be run, or nobody that is known.
    pub(super) token: String,
    /// Reserved until then, and not known to be published.
    pending_ms: Option<i64>,
    /// Tokens of reservations that lapsed and were taken over, the latest last.
    lapsed: Vec<String>,
    /// Debounced: when the last message may be due at the latest.
    limit_ms: Option<i64>,
    /// Debounced: the message has come.
    closed: bool,
    /// Debounced: id and last token of the time before this one.
    before: (String, String),
    /// When it is free whatever happened.
    pub(super) until_ms: i64,
}

/// What to do with the entry.
pub(super) enum Change {
    Leave,
    Write(Entry),
}

fn after(now: UnixMillis, ms: u64) -> i64 {
    now.0.saturating_add_unsigned(ms)
}

/// A call wants the key. `published`: its message is published in the same step.
pub(super) fn admit(
    found: Option<Entry>,
    wanted: &Admission,
    published: bool,
    now: UnixMillis,
) -> (Change, Admitted) {
    match wanted.kind {
        Kind::Hold => hold(found, wanted, published, now),
        Kind::Debounce(longest) => debounce(found, wanted, longest, published, now),
    }
}

fn hold(found: Option<Entry>, wanted: &Admission, published: bool, now: UnixMillis) -> (Change, Admitted) {
    let mut lapsed = Vec::new();
    if let Some(entry) = found {
        if entry.token == wanted.token {
            return (Change::Leave, Admitted::Again);
        }
        match entry.pending_ms {
            None => return (Change::Leave, Admitted::Exists(entry.id, None)),
            Some(until) if until > now.0 => return (Change::Leave, Admitted::Pending),
            Some(_) => {}
        }
        lapsed = entry.lapsed;
        lapsed.push(entry.token);
        lapsed.drain(..lapsed.len().saturating_sub(LAPSED));
    }
    let entry = Entry {
        id: wanted.task_id.clone(),
        token: wanted.token.clone(),
        pending_ms: (!published).then(|| after(now, wanted.pending_ms)),
        lapsed,
        until_ms: after(now, wanted.ttl_ms),
        ..Entry::default()
    };
    (Change::Write(entry), Admitted::New)
}

fn debounce(
    found: Option<Entry>,
    wanted: &Admission,
    longest: Option<u64>,
    published: bool,
    now: UnixMillis,
) -> (Change, Admitted) {
    let token = if published { wanted.token.clone() } else { String::new() };
    let mut before = (String::new(), String::new());
    if let Some(mut entry) = found {
        if !entry.closed {
            if entry.id != wanted.task_id {
                return (Change::Leave, Admitted::Exists(entry.id, entry.limit_ms));
            }
            if entry.token == wanted.token {
                return (Change::Leave, Admitted::Again);
            }
            if published {
                entry.token = token;
            }
            entry.until_ms = after(now, wanted.ttl_ms);
            return (Change::Write(entry), Admitted::New);
        }
        before = (entry.id, entry.token);
    }
    let entry = Entry {
        id: wanted.task_id.clone(),
        token,
        limit_ms: longest.map(|longest| after(now, longest)),
        before,
        until_ms: after(now, wanted.ttl_ms),
        ..Entry::default()
    };
    (Change::Write(entry), Admitted::New)
}

/// The message of a reservation is published.
pub(super) fn confirm(found: Option<Entry>, wanted: &Admission, now: UnixMillis) -> (Change, Admitted) {
    let Some(mut entry) = found else { return (Change::Leave, Admitted::New) };
    let debounced = matches!(wanted.kind, Kind::Debounce(_));
    if debounced && entry.id == wanted.task_id {
        // Should the one before have come meanwhile, both are run.
        (entry.token, entry.closed) = (wanted.token.clone(), false);
    } else if debounced {
        if entry.before.0 == wanted.task_id {
            entry.before.1.clone_from(&wanted.token);
        }
    } else if entry.token == wanted.token {
        entry.pending_ms = None;
        entry.until_ms = after(now, wanted.ttl_ms);
    } else {
        return (Change::Leave, Admitted::Exists(entry.id, None));
    }
    (Change::Write(entry), Admitted::New)
}

/// A message comes that was sent under the key. Whether its turn has come, if it needs one, is another question.
pub(super) fn arrive(found: Option<Entry>, arrival: &Arrival, now: UnixMillis) -> (Change, Turn) {
    let Some(mut entry) = found else { return (Change::Leave, Turn::Run) };
    let token = &arrival.held.token;
    if arrival.debounced {
        if entry.id == arrival.task_id {
            if !entry.token.is_empty() && entry.token != *token {
                return (Change::Leave, Turn::Superseded);
            }
            (entry.token, entry.closed) = (token.clone(), true);
            return (Change::Write(entry), Turn::Run);
        }
        let old = entry.before.0 == arrival.task_id && entry.before.1 != *token;
        return (Change::Leave, if old { Turn::Superseded } else { Turn::Run });
    }
    if entry.token == *token {
        if entry.pending_ms.is_none() {
            return (Change::Leave, Turn::Run);
        }
        entry.pending_ms = None;
        entry.until_ms = after(now, arrival.held.ttl_ms);
        return (Change::Write(entry), Turn::Run);
    }
    let turn = if entry.lapsed.contains(token) { Turn::Duplicate(entry.id) } else { Turn::Run };
    (Change::Leave, turn)
}

/// Takes a lock, or the turn of those of which one runs at a time: none when another has it.
pub(super) fn take(found: Option<&Entry>, held: &Held, id: &str, now: UnixMillis) -> Option<Entry> {
    match found {
        Some(entry) if entry.token != held.token => None,
        _ => Some(Entry {
            id: id.to_owned(),
            token: held.token.clone(),
            until_ms: after(now, held.ttl_ms),
            ..Entry::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000_000);

    fn call(token: &str) -> Admission {
        Admission {
            key: "k".into(),
            kind: Kind::Hold,
            task_id: format!("id-{token}"),
            token: token.into(),
            ttl_ms: 60_000,
            pending_ms: 1_000,
        }
    }

    fn later(ms: i64) -> UnixMillis {
        UnixMillis(NOW.0 + ms)
    }

    fn arrival(token: &str) -> Arrival {
        let held = Held { key: "k".into(), token: token.into(), ttl_ms: 60_000 };
        Arrival { held, task_id: format!("id-{token}"), debounced: false, turn: None }
    }

    fn step<T>(entry: &mut Option<Entry>, (change, answer): (Change, T)) -> T {
        if let Change::Write(new) = change {
            *entry = Some(new);
        }
        answer
    }

    #[test]
    fn a_reservation_that_lapsed_is_taken_over_and_its_message_is_not_run() {
        let mut entry = None;
        assert_eq!(step(&mut entry, admit(None, &call("a"), false, NOW)), Admitted::New);
        let found = entry.clone();
        assert_eq!(step(&mut entry, admit(found, &call("b"), false, later(999))), Admitted::Pending);
        let found = entry.clone();
        assert_eq!(step(&mut entry, admit(found, &call("b"), false, later(1000))), Admitted::New);

        let found = entry.clone();
        let late = step(&mut entry, confirm(found, &call("a"), later(1001)));
        assert_eq!(late, Admitted::Exists("id-b".into(), None));
        let found = entry.clone();
        let duplicate = Turn::Duplicate("id-b".into());
        assert_eq!(step(&mut entry, arrive(found, &arrival("a"), later(1002))), duplicate);
        let found = entry.clone();
        assert_eq!(step(&mut entry, arrive(found, &arrival("b"), later(1003))), Turn::Run);
    }

    #[test]
    fn a_message_that_comes_before_its_confirmation_confirms_it() {
        let mut entry = None;
        step(&mut entry, admit(None, &call("a"), false, NOW));
        let found = entry.clone();
        assert_eq!(step(&mut entry, arrive(found, &arrival("a"), later(5000))), Turn::Run);
        let found = entry.clone();
        let other = step(&mut entry, admit(found, &call("b"), false, later(5001)));
        assert_eq!(other, Admitted::Exists("id-a".into(), None));
    }

    #[test]
    fn a_message_whose_key_was_freed_and_taken_again_still_runs() {
        let mut entry = None;
        step(&mut entry, admit(None, &call("b"), true, NOW));
        assert_eq!(arrive(entry, &arrival("a"), NOW).1, Turn::Run);
    }

    #[test]
    fn of_debounced_messages_the_last_is_run() {
        let wanted = |token: &str| Admission {
            kind: Kind::Debounce(Some(10_000)),
            task_id: "w".into(),
            ..call(token)
        };
        let arrival = |token: &str| Arrival { debounced: true, task_id: "w".into(), ..arrival(token) };
        let mut entry = None;
        assert_eq!(step(&mut entry, admit(None, &wanted("a"), true, NOW)), Admitted::New);
        let found = entry.clone();
        let other = Admission { task_id: "x".into(), ..wanted("b") };
        let joins = Admitted::Exists("w".into(), Some(NOW.0 + 10_000));
        assert_eq!(step(&mut entry, admit(found, &other, true, NOW)), joins);
        let found = entry.clone();
        assert_eq!(step(&mut entry, admit(found, &wanted("b"), true, NOW)), Admitted::New);

        let found = entry.clone();
        assert_eq!(step(&mut entry, arrive(found, &arrival("a"), NOW)), Turn::Superseded);
        let found = entry.clone();
        assert_eq!(step(&mut entry, arrive(found, &arrival("b"), NOW)), Turn::Run);
        // Delivered again after a crash, and with another time begun.
        let found = entry.clone();
        assert_eq!(step(&mut entry, arrive(found, &arrival("b"), NOW)), Turn::Run);
        let found = entry.clone();
        assert_eq!(step(&mut entry, admit(found, &other, true, NOW)), Admitted::New);
        assert_eq!(arrive(entry.clone(), &arrival("b"), NOW).1, Turn::Run);
        assert_eq!(arrive(entry, &arrival("a"), NOW).1, Turn::Superseded);
    }

    #[test]
    fn a_debounced_call_that_died_before_it_confirmed_does_not_take_the_earlier_one_along() {
        let wanted =
            |token: &str| Admission { kind: Kind::Debounce(None), task_id: "w".into(), ..call(token) };
        let mut entry = None;
        step(&mut entry, admit(None, &wanted("a"), false, NOW));
        let found = entry.clone();
        step(&mut entry, confirm(found, &wanted("a"), NOW));
        let found = entry.clone();
        step(&mut entry, admit(found, &wanted("b"), false, NOW));

        let first = Arrival { debounced: true, task_id: "w".into(), ..arrival("a") };
        assert_eq!(arrive(entry, &first, NOW).1, Turn::Run);
    }
}

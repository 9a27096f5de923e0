//! Limits of all workers: what is never exceeded, and what always comes back.

use std::sync::Arc;
use std::time::Duration;

use celeriac::limits::{
    Answers, Ask, Given, LimitStore, LimitUse, LineUp, Place, Told, Turns, Uses, Wait, WindowRate,
};

use crate::setup::{LEASE, Setup};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn of(place: &str, rate: Option<(u32, Duration)>, most: Option<u32>) -> LimitUse {
    let rate = rate.map(|(count, window)| WindowRate { count, window });
    LimitUse { place: place.to_owned(), rate, most }
}

fn uses(place: &str, rate: Option<(u32, Duration)>, most: Option<u32>) -> Uses {
    Arc::new([of(place, rate, most)])
}

/// A worker that asks.
struct Holder {
    store: Arc<dyn LimitStore>,
    name: &'static str,
}

impl Holder {
    fn new(setup: &Setup, name: &'static str) -> Self {
        Self { store: setup.backend.limits().expect("it keeps limits"), name }
    }

    async fn call(&self, turns: Turns) -> Answers {
        let turns = Turns { holder: self.name.to_owned(), lease: LEASE, ..turns };
        self.store.turns(&turns).await.expect("answers")
    }

    async fn ask(&self, uses: &Uses, tokens: &[u64]) -> Given {
        let requests = tokens.iter().map(|token| (*token, format!("id-{token}"))).collect();
        let asks = vec![Ask { uses: uses.clone(), requests }];
        self.call(Turns { asks, most: 100, ..Turns::default() }).await.given[0]
    }

    async fn tell(&self, uses: &Uses, token: u64, began: Option<Duration>, ended: bool) {
        let told = vec![Told { uses: uses.clone(), token, began, ended }];
        self.call(Turns { told, ..Turns::default() }).await;
    }

    async fn stand(&self, place: &str, ids: &[&str]) -> Vec<Place> {
        let line = |id: &&str| LineUp { place: place.to_owned(), id: (*id).to_owned() };
        self.call(Turns { lines: ids.iter().map(line).collect(), ..Turns::default() }).await.lines
    }
}

pub(crate) async fn no_more_run_than_allowed_and_each_end_lets_one_in(setup: Setup) {
    let (one, other) = (Holder::new(&setup, "one"), Holder::new(&setup, "other"));
    let limit = uses("t\x1f", None, Some(3));
    assert_eq!(one.ask(&limit, &[1, 2]).await, Given { turns: 2, wait: Wait::Free, in_line: 0 });
    assert_eq!(other.ask(&limit, &[1, 2]).await, Given { turns: 1, wait: Wait::Full, in_line: 0 });

    one.tell(&limit, 1, Some(MS), false).await;
    assert_eq!(other.ask(&limit, &[2]).await.turns, 0, "it runs");
    one.tell(&limit, 1, None, true).await;

    assert_eq!(other.ask(&limit, &[2, 3]).await, Given { turns: 1, wait: Wait::Full, in_line: 0 });
}

pub(crate) async fn what_is_said_or_asked_twice_counts_once(setup: Setup) {
    let one = Holder::new(&setup, "one");
    let limit = uses("t\x1f", Some((2, SECOND * 60)), Some(2));
    assert_eq!(one.ask(&limit, &[1]).await.turns, 1);
    assert_eq!(one.ask(&limit, &[1]).await.turns, 1, "its answer may have been lost");
    setup.advance(SECOND * 30);
    assert_eq!(one.ask(&limit, &[2]).await.turns, 1);
    for _ in 0..2 {
        one.tell(&limit, 1, Some(MS), true).await;
    }
    assert_eq!(one.ask(&limit, &[3]).await.turns, 0, "two have started");
    setup.advance(SECOND * 61);
    assert_eq!(one.ask(&limit, &[3, 4]).await.turns, 1, "one still runs");
}

pub(crate) async fn keys_and_limits_are_each_for_themselves(setup: Setup) {
    let one = Holder::new(&setup, "one");
    for place in ["t\x1fa", "t\x1fb", "u\x1fa"] {
        assert_eq!(one.ask(&uses(place, None, Some(1)), &[1, 2]).await.turns, 1, "{place:?}");
    }
}

pub(crate) async fn a_turn_is_of_all_limits_or_of_none(setup: Setup) {
    let one = Holder::new(&setup, "one");
    let both = |key: &str| -> Uses { Arc::new([of(key, None, Some(2)), of("queue\x1f", None, Some(3))]) };
    assert_eq!(one.ask(&both("a"), &[1, 2]).await.turns, 2);
    assert_eq!(one.ask(&both("b"), &[3, 4]).await, Given { turns: 1, wait: Wait::Full, in_line: 0 });

    // What the full queue refused has taken nothing of its own limit.
    one.tell(&both("a"), 1, None, true).await;
    assert_eq!(one.ask(&both("b"), &[4]).await.turns, 1);
}

pub(crate) async fn a_call_gives_no_more_turns_than_it_says(setup: Setup) {
    let one = Holder::new(&setup, "one");
    let ask = |place: &str, tokens: &[u64]| Ask {
        uses: uses(place, None, Some(9)),
        requests: tokens.iter().map(|token| (*token, format!("{token}"))).collect(),
    };
    let asks = vec![ask("a", &[1, 2]), ask("b", &[3, 4]), ask("c", &[5])];

    let given = one.call(Turns { asks, most: 3, ..Turns::default() }).await.given;

    let found: Vec<_> = given.iter().map(|given| (given.turns, given.wait)).collect();
    assert_eq!(found, [(2, Wait::Free), (1, Wait::Enough), (0, Wait::Enough)]);
}

pub(crate) async fn turns_of_a_worker_that_died_come_back_with_its_lease(setup: Setup) {
    let (dead, alive) = (Holder::new(&setup, "dead|er"), Holder::new(&setup, "alive"));
    let limit = uses("t\x1f", None, Some(2));
    assert_eq!(dead.ask(&limit, &[1, 2]).await.turns, 2);
    dead.tell(&limit, 1, Some(MS), false).await;
    setup.advance(LEASE.saturating_sub(SECOND));
    assert_eq!(alive.ask(&limit, &[1]).await.wait, Wait::Full);

    setup.advance(SECOND * 2);

    assert_eq!(alive.ask(&limit, &[1, 2]).await.turns, 2);
}

pub(crate) async fn a_worker_that_is_heard_of_keeps_its_turns(setup: Setup) {
    let (one, other) = (Holder::new(&setup, "one"), Holder::new(&setup, "other"));
    let limit = uses("t\x1f", None, Some(1));
    assert_eq!(one.ask(&limit, &[1]).await.turns, 1);
    for _ in 0..5 {
        setup.advance(LEASE.saturating_sub(SECOND));
        one.call(Turns::default()).await;
        assert_eq!(other.ask(&limit, &[1]).await.wait, Wait::Full);
    }
}

pub(crate) async fn a_worker_that_goes_leaves_its_turns_at_once(setup: Setup) {
    let (one, other) = (Holder::new(&setup, "one"), Holder::new(&setup, "other"));
    let limit = uses("t\x1f", None, Some(1));
    assert_eq!(one.ask(&limit, &[1]).await.turns, 1);

    one.call(Turns { leaves: true, ..Turns::default() }).await;

    assert_eq!(other.ask(&limit, &[1]).await.turns, 1);
}

pub(crate) async fn a_start_that_may_have_happened_counts_when_its_worker_is_gone(setup: Setup) {
    let (dead, alive) = (Holder::new(&setup, "dead"), Holder::new(&setup, "alive"));
    let limit = uses("t\x1f", Some((1, SECOND * 10)), None);
    assert_eq!(dead.ask(&limit, &[1]).await.turns, 1);
    setup.advance(LEASE + SECOND);

    assert_eq!(alive.ask(&limit, &[1]).await.turns, 0);
    setup.advance(SECOND * 11);
    assert_eq!(alive.ask(&limit, &[1]).await.turns, 1);
}

pub(crate) async fn a_turn_given_back_unused_is_no_start(setup: Setup) {
    let one = Holder::new(&setup, "one");
    let limit = uses("t\x1f", Some((1, SECOND * 60)), None);
    assert_eq!(one.ask(&limit, &[1]).await.turns, 1);
    one.tell(&limit, 1, None, true).await;
    setup.advance(SECOND * 50);

    assert_eq!(one.ask(&limit, &[2]).await.turns, 1);
    one.tell(&limit, 2, Some(MS), true).await;
    setup.advance(SECOND * 50);
    assert_eq!(one.ask(&limit, &[3]).await.turns, 0);
}

pub(crate) async fn a_start_counts_from_when_it_was_seen(setup: Setup) {
    let one = Holder::new(&setup, "one");
    let limit = uses("t\x1f", Some((1, SECOND)), None);
    assert_eq!(one.ask(&limit, &[1]).await.turns, 1);
    setup.advance(SECOND * 5);
    assert_eq!(one.ask(&limit, &[2]).await.turns, 0, "the first has not begun: it may at any moment");
    one.tell(&limit, 1, Some(Duration::from_millis(400)), false).await;

    setup.advance(Duration::from_millis(500));
    let Wait::For(left) = one.ask(&limit, &[2]).await.wait else { panic!("too early") };
    assert!(left <= Duration::from_millis(110), "{left:?}");
    setup.advance(left);
    assert_eq!(one.ask(&limit, &[2]).await.turns, 1);
}

/// Four workers that ask whenever they are told to; each start comes a while after its turn, and is told of a while later.
async fn starts(setup: &Setup, count: u32, window: Duration, long: Duration) -> Vec<u64> {
    let limit = uses("t\x1f", Some((count, window)), None);
    let holders = ["a", "b", "c", "d"].map(|name| Holder::new(setup, name));
    let mut random = fastrand::Rng::with_seed(7);
    let mut asks_at = [0_u64; 4];
    // Token and moment of the start, by worker.
    let mut begins: Vec<(u64, usize, u64)> = Vec::new();
    let (mut found, mut token) = (Vec::new(), 0);
    for now in 0..u64::try_from(long.as_millis()).expect("short") {
        for (at, worker, token) in begins.extract_if(.., |(at, ..)| *at <= now) {
            holders[worker].tell(&limit, token, Some(Duration::ZERO), true).await;
            found.push(at);
        }
        for worker in 0..4 {
            if asks_at[worker] > now {
                continue;
            }
            token += 1;
            let given = holders[worker].ask(&limit, &[token]).await;
            if given.turns == 1 {
                begins.push((now + random.u64(0..8), worker, token));
            }
            asks_at[worker] = now
                + random.u64(0..3)
                + match given.wait {
                    Wait::For(left) => u64::try_from(left.as_millis()).expect("short"),
                    _ => 0,
                };
        }
        setup.clock.advance(MS);
    }
    found.sort_unstable();
    found
}

pub(crate) async fn no_window_has_more_starts_and_nearly_all_are_used(setup: Setup) {
    for (count, window) in [(50, SECOND), (3, SECOND), (500, SECOND)] {
        let millis = u64::try_from(window.as_millis()).expect("short");
        let long = window * 3;
        let found = starts(&setup, count, window, long).await;
        for (place, start) in found.iter().enumerate() {
            let within = found[place..].iter().take_while(|other| **other < start + millis).count();
            assert!(within <= count as usize, "{within} starts in the window of {count} from {start}");
        }
        let least = f64::from(count) * long.as_secs_f64() * 0.95 - 1.0;
        assert!(found.len() as f64 >= least, "{} of {count} in {window:?} over {long:?}", found.len());
        // What the next round does must not meet the starts of this one.
        setup.advance(window * 2);
    }
}

pub(crate) async fn a_line_is_kept_in_order_and_who_gets_a_turn_leaves_it(setup: Setup) {
    let (one, other) = (Holder::new(&setup, "one"), Holder::new(&setup, "other"));
    let limit = uses("t\x1f", None, Some(1));
    let place = |before, again| Place { before, again };
    assert_eq!(one.stand("t\x1f", &["id-1", "id-2"]).await, [place(0, false), place(1, false)]);
    let found = other.stand("t\x1f", &["id-3", "id-1", "id-2"]).await;
    assert_eq!(found, [place(2, false), place(0, true), place(1, true)]);

    assert_eq!(one.ask(&limit, &[1, 2]).await, Given { turns: 1, wait: Wait::Full, in_line: 2 });

    assert_eq!(other.stand("t\x1f", &["id-2", "id-3"]).await, [place(0, true), place(1, true)]);
    other.call(Turns { cleared: vec!["t\x1f".to_owned()], ..Turns::default() }).await;
    assert_eq!(other.stand("t\x1f", &["id-3"]).await, [place(0, false)]);
}

pub(crate) async fn who_asks_for_nothing_learns_whether_there_is_something(setup: Setup) {
    let one = Holder::new(&setup, "one");
    let limit = uses("t\x1f", None, Some(1));
    assert_eq!(one.ask(&limit, &[]).await.wait, Wait::Free);
    assert_eq!(one.ask(&limit, &[1]).await.turns, 1);
    assert_eq!(one.ask(&limit, &[]).await.wait, Wait::Full);
}

pub(crate) async fn the_bell_rings_when_a_turn_comes_back_that_someone_waits_for(setup: Setup) {
    let (one, other) = (Holder::new(&setup, "one"), Holder::new(&setup, "other"));
    let limit = uses("t\x1f", None, Some(1));
    let mut bell = other.store.bell();
    // Stores differ in whether the first tells that it listens from now on.
    let _ = tokio::time::timeout(Duration::from_millis(300), bell.rung()).await;
    assert_eq!(one.ask(&limit, &[1]).await.turns, 1);
    assert_eq!(other.ask(&limit, &[1]).await.wait, Wait::Full);
    one.tell(&limit, 1, None, true).await;

    let rung = bell.rung().await.expect("hears");

    assert!(rung.is_none_or(|places| places == ["t\x1f"]));
    assert_eq!(other.ask(&limit, &[1]).await.turns, 1);
}

pub(crate) async fn the_broker_keeps_limits_too(setup: Setup) {
    assert!(setup.broker.limits().is_some());
    assert!(setup.broker.recalls());
}

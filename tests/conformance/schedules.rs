//! Periodic tasks: one holder at a time, and each due moment sent at most once.

use std::time::Duration;

use celeriac::broker::{Broker, Fired, Firing, LastDue, ScheduleLease, ScheduleState};
use futures_util::future::join_all;

use crate::setup::{Setup, names, nothing, publication, take};

const TTL: Duration = Duration::from_secs(5);

fn firing(holder: &str, due_ms: i64, sends: &[&str]) -> Firing {
    Firing {
        schedule: "proj".to_owned(),
        holder: holder.to_owned(),
        lease: TTL,
        entry: "every second".to_owned(),
        due_ms,
        state: format!("{{\"count\": {due_ms}}}"),
        publications: sends.iter().map(|name| publication("q", name)).collect(),
    }
}

async fn lease(broker: &dyn Broker, holder: &str) -> bool {
    broker.schedule_lease("proj", holder, TTL).await.expect("answers") == ScheduleLease::Held
}

/// Asks until it is held.
pub(crate) async fn hold(broker: &dyn Broker, holder: &str) {
    while !lease(broker, holder).await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn fire(broker: &dyn Broker, firing: &Firing) -> Fired {
    broker.fire(firing).await.expect("answers")
}

async fn state(broker: &dyn Broker) -> ScheduleState {
    broker.schedule_state("proj").await.expect("answers")
}

pub(crate) async fn one_at_a_time_holds_a_schedule(setup: Setup) {
    let broker = &*setup.broker;

    hold(broker, "a").await;

    assert!(!lease(broker, "b").await);
    assert!(lease(broker, "a").await, "who holds it renews it");
    assert_eq!(state(broker).await.holder.as_deref(), Some("a"));
    assert_eq!(broker.schedule_lease("other", "b", TTL).await.expect("answers"), ScheduleLease::Held);
    broker.schedule_release("proj", "b").await.expect("nothing happens");
    assert!(!lease(broker, "b").await, "only the holder can give it back");
    broker.schedule_release("proj", "a").await.expect("releases");
    hold(broker, "b").await;
    assert!(!lease(broker, "a").await);
}

pub(crate) async fn a_due_moment_is_sent_once(setup: Setup) {
    let broker = &*setup.broker;
    let consumer = setup.consumer("w@h", &["q"]).await;
    hold(broker, "a").await;

    assert_eq!(fire(broker, &firing("a", 1000, &["first"])).await, Fired::Sent);
    assert_eq!(fire(broker, &firing("a", 1000, &["again"])).await, Fired::Already);
    assert_eq!(fire(broker, &firing("a", 500, &["late"])).await, Fired::Already);
    assert_eq!(fire(broker, &firing("a", 2000, &["second"])).await, Fired::Sent);

    assert_eq!(names(&take(&*consumer, 2).await), ["first", "second"]);
    nothing(&setup, &*consumer).await;
    let last = LastDue { due_ms: 2000, state: "{\"count\": 2000}".to_owned() };
    assert_eq!(
        state(broker).await.entries.into_iter().collect::<Vec<_>>(),
        [("every second".to_owned(), last)]
    );
}

pub(crate) async fn one_of_many_at_once_sends_a_moment(setup: Setup) {
    let broker = &*setup.broker;
    let consumer = setup.consumer("w@h", &["q"]).await;
    hold(broker, "a").await;

    let firings: Vec<Firing> = (0..16).map(|_| firing("a", 1000, &["it"])).collect();
    let fired = join_all(firings.iter().map(|firing| fire(broker, firing))).await;

    assert_eq!(fired.iter().filter(|fired| **fired == Fired::Sent).count(), 1);
    assert_eq!(names(&take(&*consumer, 1).await), ["it"]);
    nothing(&setup, &*consumer).await;
}

pub(crate) async fn only_the_holder_sends(setup: Setup) {
    let broker = &*setup.broker;
    let consumer = setup.consumer("w@h", &["q"]).await;

    assert_eq!(fire(broker, &firing("a", 1000, &["nobody holds it"])).await, Fired::NotHolder);
    hold(broker, "a").await;
    assert_eq!(fire(broker, &firing("b", 1000, &["another holds it"])).await, Fired::NotHolder);
    broker.schedule_release("proj", "a").await.expect("releases");
    assert_eq!(fire(broker, &firing("a", 1000, &["given back"])).await, Fired::NotHolder);

    nothing(&setup, &*consumer).await;
    assert_eq!(state(broker).await.entries.len(), 0);
}

pub(crate) async fn a_moment_may_be_noted_and_nothing_sent(setup: Setup) {
    let broker = &*setup.broker;
    let consumer = setup.consumer("w@h", &["q"]).await;
    hold(broker, "a").await;

    assert_eq!(fire(broker, &firing("a", 1000, &[])).await, Fired::Sent);
    assert_eq!(fire(broker, &firing("a", 1000, &["skipped"])).await, Fired::Already);

    nothing(&setup, &*consumer).await;
}

pub(crate) async fn what_users_change_is_kept_and_taken_back(setup: Setup) {
    let broker = &*setup.broker;
    let change = async |entry: &str, text: Option<&str>| {
        broker.schedule_change("proj", entry, text.map(str::to_owned)).await.expect("notes it");
    };

    assert_eq!(state(broker).await, ScheduleState::default());
    change("a", Some("paused")).await;
    change("b", Some("new")).await;
    change("a", Some("resumed")).await;
    change("gone", None).await;

    let changes = state(broker).await.changes;
    let expected = [("a".to_owned(), "resumed".to_owned()), ("b".to_owned(), "new".to_owned())];
    assert_eq!(changes.into_iter().collect::<Vec<_>>(), expected);
    change("a", None).await;
    assert_eq!(state(broker).await.changes.into_keys().collect::<Vec<_>>(), ["b"]);
}

pub(crate) async fn who_takes_over_finds_the_last_moments(setup: Setup) {
    let broker = &*setup.broker;
    let consumer = setup.consumer("w@h", &["q"]).await;
    hold(broker, "a").await;
    assert_eq!(fire(broker, &firing("a", 1000, &["one"])).await, Fired::Sent);
    broker.schedule_release("proj", "a").await.expect("releases");

    hold(broker, "b").await;

    assert_eq!(state(broker).await.entries["every second"].due_ms, 1000);
    assert_eq!(fire(broker, &firing("b", 1000, &["twice"])).await, Fired::Already);
    assert_eq!(fire(broker, &firing("b", 2000, &["two"])).await, Fired::Sent);
    assert_eq!(names(&take(&*consumer, 2).await), ["one", "two"]);
}

pub(crate) async fn an_old_holder_sends_nothing(setup: Setup) {
    let broker = &*setup.broker;
    let consumer = setup.consumer("w@h", &["q"]).await;
    hold(broker, "a").await;
    assert_eq!(fire(broker, &firing("a", 1000, &["one"])).await, Fired::Sent);

    setup.advance(TTL + Duration::from_millis(1));

    assert_eq!(fire(broker, &firing("a", 2000, &["its lease is over"])).await, Fired::NotHolder);
    hold(broker, "b").await;
    assert_eq!(fire(broker, &firing("a", 3000, &["another holds it"])).await, Fired::NotHolder);
    assert_eq!(fire(broker, &firing("b", 2000, &["two"])).await, Fired::Sent);
    assert_eq!(names(&take(&*consumer, 2).await), ["one", "two"]);
    nothing(&setup, &*consumer).await;
}

pub(crate) async fn firing_renews_the_lease(setup: Setup) {
    let broker = &*setup.broker;
    hold(broker, "a").await;

    for step in 1..4 {
        setup.advance(TTL * 3 / 4);
        assert_eq!(fire(broker, &firing("a", step * 1000, &[])).await, Fired::Sent);
    }

    assert!(!lease(broker, "b").await);
}

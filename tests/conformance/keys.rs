//! Keys: one call of many gets one, in the step that publishes; they are freed with the commit, and run out; locks.

use std::time::Duration;

use celeriac::broker::{Broker, Commit, Committed, Settle};
use celeriac::keys::{Admission, Admitted, Arrival, Held, Keys, Kind, Turn};
use futures_util::future::join_all;

use crate::setup::{Setup, names, nothing, publication, settle, take};

const TTL: u64 = 60_000;

fn call(key: &str, token: &str) -> Admission {
    Admission {
        key: key.to_owned(),
        kind: Kind::Hold,
        task_id: format!("id-{token}"),
        token: token.to_owned(),
        ttl_ms: TTL,
        pending_ms: 10_000,
    }
}

fn debounced(id: &str, token: &str) -> Admission {
    Admission { kind: Kind::Debounce(Some(30_000)), task_id: id.to_owned(), ..call("k", token) }
}

fn held(key: &str, token: &str) -> Held {
    Held { key: key.to_owned(), token: token.to_owned(), ttl_ms: TTL }
}

fn arrival(token: &str) -> Arrival {
    Arrival { held: held("k", token), task_id: format!("id-{token}"), debounced: false, turn: None }
}

fn exists(token: &str) -> Admitted {
    Admitted::Exists(format!("id-{token}"), None)
}

async fn send(broker: &dyn Broker, name: &str, admission: &Admission) -> Admitted {
    let admitted = broker.publish_admitted(&publication("q", name), admission).await.expect("answers");
    admitted.expect("one store has both")
}

fn keys(setup: &Setup) -> &dyn Keys {
    setup.broker.keys().expect("keeps keys")
}

pub(crate) async fn one_of_many_calls_at_once_is_sent(setup: Setup) {
    let broker = &*setup.broker;
    let consumer = setup.consumer("w", &["q"]).await;

    let tokens: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    let calls: Vec<Admission> = tokens.iter().map(|token| call("k", token)).collect();
    let answers = join_all(tokens.iter().zip(&calls).map(|(token, call)| send(broker, token, call))).await;

    let winners: Vec<&String> = tokens
        .iter()
        .zip(&answers)
        .filter(|(_, answer)| **answer == Admitted::New)
        .map(|(token, _)| token)
        .collect();
    assert_eq!(winners.len(), 1, "{answers:?}");
    let others = answers.iter().filter(|answer| **answer == exists(winners[0])).count();
    assert_eq!(others, 19, "{answers:?}");
    assert_eq!(names(&take(&*consumer, 1).await), [winners[0].clone()]);
    nothing(&setup, &*consumer).await;
}

pub(crate) async fn an_attempt_whose_answer_got_lost_is_the_same_call(setup: Setup) {
    let broker = &*setup.broker;
    let consumer = setup.consumer("w", &["q"]).await;

    assert_eq!(send(broker, "a", &call("k", "a")).await, Admitted::New);
    assert_eq!(send(broker, "a", &call("k", "a")).await, Admitted::Again);
    assert_eq!(send(broker, "b", &call("other", "b")).await, Admitted::New);

    assert_eq!(names(&take(&*consumer, 2).await), ["a", "b"]);
    nothing(&setup, &*consumer).await;
}

pub(crate) async fn a_commit_frees_the_key_of_its_call_and_no_other(setup: Setup) {
    let broker = &*setup.broker;
    let consumer = setup.consumer("w", &["q"]).await;
    send(broker, "a", &call("k", "a")).await;
    let taken = take(&*consumer, 1).await;

    let wrong = Commit { free_keys: vec![held("k", "b")], ..settle(&taken[0], Settle::Keep) };
    consumer.commit(&[wrong]).await.expect("commits");
    assert_eq!(send(broker, "b", &call("k", "b")).await, exists("a"));

    let done = Commit { free_keys: vec![held("k", "a")], ..settle(&taken[0], Settle::Ack) };
    assert_eq!(consumer.commit(&[done]).await.expect("commits"), [Committed::Done]);
    assert_eq!(send(broker, "b", &call("k", "b")).await, Admitted::New);
    let unclaimed = Commit { free_keys: vec![held("k", "b")], ..Commit::default() };
    consumer.commit(&[unclaimed]).await.expect("commits");
    assert_eq!(send(broker, "c", &call("k", "c")).await, Admitted::New);
}

pub(crate) async fn a_stale_commit_frees_nothing(setup: Setup) {
    let broker = &*setup.broker;
    let consumer = setup.consumer("w", &["q"]).await;
    send(broker, "a", &call("k", "a")).await;
    let taken = take(&*consumer, 1).await;
    consumer.commit(&[settle(&taken[0], Settle::Requeue)]).await.expect("commits");

    let late = Commit { free_keys: vec![held("k", "a")], ..settle(&taken[0], Settle::Ack) };

    assert_eq!(consumer.commit(&[late]).await.expect("commits"), [Committed::Stale]);
    assert_eq!(send(broker, "b", &call("k", "b")).await, exists("a"));
}

pub(crate) async fn a_key_runs_out_unless_it_is_renewed(setup: Setup) {
    let broker = &*setup.broker;
    send(broker, "a", &call("k", "a")).await;
    setup.advance(Duration::from_millis(TTL - 10_000));
    let both = [held("k", "a"), held("k", "b")];
    assert_eq!(keys(&setup).renew(&both).await.expect("answers"), [true, false]);
    setup.advance(Duration::from_millis(TTL - 10_000));
    assert_eq!(send(broker, "b", &call("k", "b")).await, exists("a"));

    setup.advance(Duration::from_secs(20));

    assert_eq!(send(broker, "c", &call("k", "c")).await, Admitted::New);
    let freed = keys(&setup).free(&[held("k", "a"), held("k", "c")]).await.expect("answers");
    assert_eq!(freed, [false, true]);
}

pub(crate) async fn debounced_calls_share_an_id_and_the_last_is_run(setup: Setup) {
    let broker = &*setup.broker;
    assert_eq!(send(broker, "a", &debounced("w", "a")).await, Admitted::New);
    let Admitted::Exists(id, Some(limit)) = send(broker, "b", &debounced("x", "b")).await else {
        panic!("it has to join the others");
    };
    assert_eq!(id, "w");
    assert_eq!(send(broker, "b", &debounced("w", "b")).await, Admitted::New);
    assert_eq!(
        send(broker, "c", &debounced("x", "c")).await,
        Admitted::Exists("w".into(), Some(limit)),
        "the first one says until when"
    );

    let come = |token: &str| Arrival { task_id: "w".into(), debounced: true, ..arrival(token) };
    let keys = keys(&setup);
    assert_eq!(keys.arrive(&come("a")).await.expect("answers"), Turn::Superseded);
    assert_eq!(keys.arrive(&come("b")).await.expect("answers"), Turn::Run);
    assert_eq!(keys.arrive(&come("b")).await.expect("answers"), Turn::Run, "again, after a crash");
    assert_eq!(send(broker, "c", &debounced("x", "c")).await, Admitted::New, "another time has begun");
    assert_eq!(keys.arrive(&come("a")).await.expect("answers"), Turn::Superseded);
    assert_eq!(keys.arrive(&come("b")).await.expect("answers"), Turn::Run);
}

pub(crate) async fn one_at_a_time_has_the_turn(setup: Setup) {
    let keys = keys(&setup);
    let come = |token: &str| Arrival { turn: Some("turn".into()), ..arrival(token) };

    assert_eq!(keys.arrive(&come("a")).await.expect("answers"), Turn::Run);
    assert_eq!(keys.arrive(&come("b")).await.expect("answers"), Turn::Wait);
    assert_eq!(keys.arrive(&come("a")).await.expect("answers"), Turn::Run);
    keys.free(&[held("turn", "a")]).await.expect("frees");
    assert_eq!(keys.arrive(&come("b")).await.expect("answers"), Turn::Run);
}

/// Keys beside the results, for brokers that keep none.
fn apart(setup: &Setup) -> &dyn Keys {
    setup.backend.keys().expect("keeps keys")
}

pub(crate) async fn a_reservation_keeps_others_waiting_until_it_is_confirmed(setup: Setup) {
    let keys = apart(&setup);
    let reserve = async |token: &str| keys.reserve(&call("k", token)).await.expect("answers");

    assert_eq!(reserve("a").await, Admitted::New);
    assert_eq!(reserve("a").await, Admitted::Again);
    assert_eq!(reserve("b").await, Admitted::Pending);
    assert_eq!(keys.confirm(&call("k", "a")).await.expect("answers"), Admitted::New);
    assert_eq!(reserve("b").await, exists("a"));
    assert_eq!(keys.arrive(&arrival("a")).await.expect("answers"), Turn::Run);

    assert_eq!(keys.free(&[held("k", "a")]).await.expect("frees"), [true]);
    assert_eq!(reserve("b").await, Admitted::New);
    assert_eq!(keys.free(&[held("k", "b")]).await.expect("frees"), [true], "it could not be published");
    assert_eq!(reserve("c").await, Admitted::New);
}

pub(crate) async fn a_message_that_comes_confirms_its_reservation(setup: Setup) {
    let keys = apart(&setup);
    keys.reserve(&call("k", "a")).await.expect("answers");

    assert_eq!(keys.arrive(&arrival("a")).await.expect("answers"), Turn::Run);

    assert_eq!(keys.reserve(&call("k", "b")).await.expect("answers"), exists("a"));
}

pub(crate) async fn a_reservation_that_lapsed_is_taken_over_and_its_message_not_run(setup: Setup) {
    let keys = apart(&setup);
    let short = Admission { pending_ms: 50, ..call("k", "a") };
    assert_eq!(keys.reserve(&short).await.expect("answers"), Admitted::New);

    // The client died before it confirmed.
    loop {
        setup.advance(Duration::from_millis(10));
        match keys.reserve(&call("k", "b")).await.expect("answers") {
            Admitted::New => break,
            Admitted::Pending => tokio::time::sleep(Duration::from_millis(5)).await,
            other => panic!("{other:?}"),
        }
    }

    // It lived after all.
    assert_eq!(keys.confirm(&short).await.expect("answers"), exists("b"));
    assert_eq!(keys.arrive(&arrival("a")).await.expect("answers"), Turn::Duplicate("id-b".into()));
    assert_eq!(keys.confirm(&call("k", "b")).await.expect("answers"), Admitted::New);
    assert_eq!(keys.arrive(&arrival("b")).await.expect("answers"), Turn::Run);
    assert_eq!(keys.reserve(&call("k", "c")).await.expect("answers"), exists("b"));
}

pub(crate) async fn a_message_whose_key_is_another_s_by_now_runs_unless_it_lapsed(setup: Setup) {
    let keys = apart(&setup);
    for token in ["a", "b"] {
        keys.reserve(&call("k", token)).await.expect("answers");
        keys.confirm(&call("k", token)).await.expect("answers");
        if token == "a" {
            keys.free(&[held("k", "a")]).await.expect("frees");
        }
    }

    // It had been freed when it was begun, and comes again after a crash.
    assert_eq!(keys.arrive(&arrival("a")).await.expect("answers"), Turn::Run);
}

pub(crate) async fn a_debounced_call_counts_when_it_is_confirmed(setup: Setup) {
    let keys = apart(&setup);
    let come = |token: &str| Arrival { task_id: "w".into(), debounced: true, ..arrival(token) };
    keys.reserve(&debounced("w", "a")).await.expect("answers");
    keys.confirm(&debounced("w", "a")).await.expect("answers");
    keys.reserve(&debounced("w", "b")).await.expect("answers");

    // Should that client have died, the earlier message is all there is.
    assert_eq!(keys.arrive(&come("a")).await.expect("answers"), Turn::Run);
    // It lives: its message is run as well.
    keys.confirm(&debounced("w", "b")).await.expect("answers");
    assert_eq!(keys.arrive(&come("b")).await.expect("answers"), Turn::Run);
}

pub(crate) async fn one_at_a_time_has_a_lock_and_its_number_grows(setup: Setup) {
    let keys = apart(&setup);
    let lock = async |token: &str| keys.lock(&held("lock", token)).await.expect("answers");

    let first = lock("a").await.expect("it is free");
    assert_eq!(lock("b").await, None);
    assert_eq!(keys.renew(&[held("lock", "a")]).await.expect("answers"), [true]);
    assert_eq!(keys.free(&[held("lock", "b")]).await.expect("answers"), [false]);
    assert_eq!(keys.free(&[held("lock", "a")]).await.expect("answers"), [true]);
    let second = lock("b").await.expect("it is free");
    setup.advance(Duration::from_millis(TTL + 1000));
    assert_eq!(keys.renew(&[held("lock", "b")]).await.expect("answers"), [false], "it ran out");
    let third = lock("c").await.expect("it ran out");

    assert!(first < second && second < third, "{first} {second} {third}");
}

pub(crate) async fn of_many_at_once_one_gets_the_lock(setup: Setup) {
    let keys = apart(&setup);
    let locks: Vec<Held> = (0..20).map(|number| held("lock", &number.to_string())).collect();

    let taken = join_all(locks.iter().map(|lock| keys.lock(lock))).await;

    assert_eq!(taken.into_iter().filter(|taken| taken.as_ref().expect("answers").is_some()).count(), 1);
}

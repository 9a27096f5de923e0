//! Results: the last word of SUCCESS, expiry, watching.

use std::time::Duration;

use celeriac::backend::{GroupRecord, KeptValue, Watch};
use celeriac::broker::{Commit, Settle};
use celeriac::protocol::ResultRecord;

use crate::setup::{Setup, record, settle, take};

const TTL: Duration = Duration::from_secs(3600);

fn expiring(task_id: &str, state: &str) -> ResultRecord {
    ResultRecord { expires_ms: Some(TTL.as_millis() as u64), ..record(task_id, state) }
}

async fn state(setup: &Setup, task_id: &str) -> Option<String> {
    let read = setup.backend.read(&[task_id.to_owned()]).await.expect("reads");
    read.into_iter().next().flatten().map(|record| record.state)
}

/// Waits until the watch tells of this state; states in between may be skipped.
async fn until(watch: &mut Box<dyn Watch>, state: &str) {
    while watch.next().await.expect("watches").iter().all(|record| record.state != state) {}
}

async fn waits(watch: &mut Box<dyn Watch>) {
    let next = tokio::time::timeout(Duration::from_millis(30), watch.next()).await;
    assert!(next.is_err(), "nothing was expected, but {next:?}");
}

pub(crate) async fn a_record_is_read_as_it_was_stored(setup: Setup) {
    let mine = expiring("b", "MY_STATE");
    setup.backend.store(vec![record("a", "FAILURE"), mine.clone()]).await.expect("stores");

    let ids = ["b", "unknown", "a", "b"].map(str::to_owned);
    let mut read = setup.backend.read(&ids).await.expect("reads");

    // Not every store tells when a record expires.
    for found in read.iter_mut().flatten() {
        found.expires_ms = None;
    }
    let mine = ResultRecord { expires_ms: None, ..mine };
    assert_eq!(read, [Some(mine.clone()), None, Some(record("a", "FAILURE")), Some(mine)]);
}

pub(crate) async fn a_record_may_be_of_any_bytes(setup: Setup) {
    let bytes: Vec<u8> = (0..=255).chain([0, 0, 13, 10]).collect();
    let binary = ResultRecord { record: bytes.clone().into(), ..record("b", "FAILURE") };
    let empty = ResultRecord { record: Vec::new().into(), ..record("e", "FAILURE") };
    setup.backend.store(vec![binary.clone(), empty]).await.expect("stores");

    let read = setup.backend.read(&["b".to_owned(), "e".to_owned()]).await.expect("reads");

    let read: Vec<_> = read.into_iter().map(|record| record.expect("it is there").record).collect();
    assert_eq!(read, [bytes, Vec::new()]);
}

pub(crate) async fn success_is_final_and_nothing_else_is(setup: Setup) {
    for (stored, then) in
        [("PENDING", "FAILURE"), ("FAILURE", "RETRY"), ("RETRY", "SUCCESS"), ("SUCCESS", "SUCCESS")]
    {
        setup.backend.store(vec![record("t", stored)]).await.expect("stores");
        setup.backend.store(vec![record("t", then)]).await.expect("stores");
        assert_eq!(state(&setup, "t").await.as_deref(), Some(then));
    }
    setup.backend.store(vec![record("t", "FAILURE")]).await.expect("stores");
    assert_eq!(state(&setup, "t").await.as_deref(), Some("SUCCESS"));
}

pub(crate) async fn a_task_that_was_aborted_has_not_just_started(setup: Setup) {
    for (stored, then, left) in [("ABORTED", "STARTED", "ABORTED"), ("RETRY", "STARTED", "STARTED")] {
        setup.backend.store(vec![record("t", stored)]).await.expect("stores");
        setup.backend.store(vec![record("t", then), record("other", "STARTED")]).await.expect("stores");
        assert_eq!(state(&setup, "t").await.as_deref(), Some(left));
    }
    setup.backend.store(vec![record("t", "ABORTED")]).await.expect("stores");
    setup.backend.store(vec![record("t", "FAILURE")]).await.expect("stores");
    assert_eq!(state(&setup, "t").await.as_deref(), Some("FAILURE"));
}

pub(crate) async fn an_expired_record_is_gone(setup: Setup) {
    setup.backend.store(vec![expiring("t", "SUCCESS"), record("kept", "SUCCESS")]).await.expect("stores");
    // Not to the millisecond: some stores go by their own time, which does not stand still.
    setup.advance(TTL.saturating_sub(Duration::from_secs(60)));
    assert!(state(&setup, "t").await.is_some());

    setup.advance(Duration::from_secs(60));

    assert_eq!(state(&setup, "t").await, None);
    // Its place is free again, before and after it was swept.
    setup.backend.store(vec![expiring("t", "FAILURE")]).await.expect("stores");
    assert_eq!(state(&setup, "t").await.as_deref(), Some("FAILURE"));
    setup.advance(TTL);
    setup.broker.sweep().await.expect("sweeps");
    assert_eq!(state(&setup, "t").await, None);
    assert_eq!(state(&setup, "kept").await.as_deref(), Some("SUCCESS"));
}

pub(crate) async fn a_forgotten_record_is_gone(setup: Setup) {
    setup.backend.store(vec![record("a", "SUCCESS"), record("b", "SUCCESS")]).await.expect("stores");

    setup.backend.forget(&["a".to_owned(), "unknown".to_owned()]).await.expect("forgets");

    assert_eq!(state(&setup, "a").await, None);
    assert_eq!(state(&setup, "b").await.as_deref(), Some("SUCCESS"));
}

pub(crate) async fn a_watch_gives_first_the_present_and_then_changes(setup: Setup) {
    setup.backend.store(vec![record("a", "STARTED"), record("other", "SUCCESS")]).await.expect("stores");
    let mut watch = setup.backend.watch(vec!["a".to_owned(), "b".to_owned()]).await.expect("watches");

    assert_eq!(watch.next().await.expect("watches"), [record("a", "STARTED")]);
    waits(&mut watch).await;

    setup.backend.store(vec![record("b", "SUCCESS"), record("other2", "SUCCESS")]).await.expect("stores");
    assert_eq!(watch.next().await.expect("watches"), [record("b", "SUCCESS")]);
    setup.backend.store(vec![record("a", "PROGRESS")]).await.expect("stores");
    setup.backend.store(vec![record("a", "SUCCESS")]).await.expect("stores");
    until(&mut watch, "SUCCESS").await;
    waits(&mut watch).await;
}

pub(crate) async fn a_watch_sees_what_a_commit_stores(setup: Setup) {
    setup.publish("q", &["a"]).await;
    let consumer = setup.consumer("w", &["q"]).await;
    let taken = take(&*consumer, 1).await;
    let mut watch = setup.backend.watch(vec!["t".to_owned()]).await.expect("watches");
    waits(&mut watch).await;

    let done = Commit { results: vec![record("t", "SUCCESS")], ..settle(&taken[0], Settle::Ack) };
    consumer.commit(&[done]).await.expect("commits");

    assert_eq!(watch.next().await.expect("watches"), [record("t", "SUCCESS")]);
}

pub(crate) async fn two_watches_of_one_id_both_wake(setup: Setup) {
    let mut one = setup.backend.watch(vec!["t".to_owned()]).await.expect("watches");
    let mut two = setup.backend.watch(vec!["t".to_owned()]).await.expect("watches");
    let gone = setup.backend.watch(vec!["t".to_owned()]).await.expect("watches");
    waits(&mut one).await;
    waits(&mut two).await;
    drop(gone);

    setup.backend.store(vec![record("t", "SUCCESS")]).await.expect("stores");

    assert_eq!(one.next().await.expect("watches"), [record("t", "SUCCESS")]);
    assert_eq!(two.next().await.expect("watches"), [record("t", "SUCCESS")]);
}

pub(crate) async fn a_watch_does_not_tell_the_same_twice(setup: Setup) {
    let mut watch = setup.backend.watch(vec!["t".to_owned()]).await.expect("watches");
    // Stored before the first look: it is part of the present, and no change after it.
    setup.backend.store(vec![record("t", "FAILURE")]).await.expect("stores");

    assert_eq!(watch.next().await.expect("watches"), [record("t", "FAILURE")]);

    waits(&mut watch).await;
}

pub(crate) async fn what_is_stored_already_comes_in_the_order_of_storing_or_of_asking(setup: Setup) {
    let ids: Vec<String> = [5, 3, 8, 1, 9, 2].map(|number| format!("t{number}")).into();
    for id in &ids {
        setup.backend.store(vec![record(id, "SUCCESS")]).await.expect("stores");
    }
    let mut watch = setup.backend.watch(ids.clone()).await.expect("watches");

    let told = watch.next().await.expect("watches");

    assert_eq!(told.into_iter().map(|record| record.task_id).collect::<Vec<_>>(), ids);
}

fn group(members: &str) -> GroupRecord {
    GroupRecord {
        group_id: "g".to_owned(),
        record: members.to_owned().into(),
        content_type: "application/json".to_owned(),
        expires_ms: None,
    }
}

async fn members(setup: &Setup) -> Option<String> {
    let group = setup.backend.read_group("g").await.expect("reads")?;
    assert_eq!((&*group.group_id, &*group.content_type), ("g", "application/json"));
    Some(String::from_utf8(group.record.into()).expect("it is text"))
}

pub(crate) async fn a_group_is_read_as_it_was_saved_last(setup: Setup) {
    assert_eq!(members(&setup).await, None);
    // A task of the group's id is something else.
    setup.backend.store(vec![record("g", "SUCCESS")]).await.expect("stores");
    assert_eq!(members(&setup).await, None);

    setup.backend.save_group(group("one")).await.expect("saves");
    assert_eq!(members(&setup).await.as_deref(), Some("one"));
    setup.backend.save_group(group("two")).await.expect("saves");

    assert_eq!(members(&setup).await.as_deref(), Some("two"));
    assert_eq!(state(&setup, "g").await.as_deref(), Some("SUCCESS"));
}

pub(crate) async fn an_expired_group_is_gone(setup: Setup) {
    let expires_ms = Some(TTL.as_millis() as u64);
    setup.backend.save_group(GroupRecord { expires_ms, ..group("one") }).await.expect("saves");
    assert_eq!(members(&setup).await.as_deref(), Some("one"));

    setup.advance(TTL);

    assert_eq!(members(&setup).await, None);
}

pub(crate) async fn a_forgotten_group_is_gone_and_results_stay(setup: Setup) {
    setup.backend.store(vec![record("g", "SUCCESS")]).await.expect("stores");
    setup.backend.save_group(group("one")).await.expect("saves");

    setup.backend.forget_group("g").await.expect("forgets");
    setup.backend.forget_group("unknown").await.expect("forgets");

    assert_eq!(members(&setup).await, None);
    assert_eq!(state(&setup, "g").await.as_deref(), Some("SUCCESS"));
}

fn value(text: &str) -> KeptValue {
    KeptValue { key: "checkpoint:k".to_owned(), value: text.to_owned().into(), expires_ms: None }
}

async fn kept(setup: &Setup) -> Option<String> {
    let kept = setup.backend.read_value("checkpoint:k").await.expect("reads")?;
    Some(String::from_utf8(kept.into()).expect("it is text"))
}

pub(crate) async fn a_value_is_read_as_it_was_kept_last_until_it_is_deleted(setup: Setup) {
    assert_eq!(kept(&setup).await, None);
    // A task of the value's name is something else.
    setup.backend.store(vec![record("checkpoint:k", "SUCCESS")]).await.expect("stores");
    assert_eq!(kept(&setup).await, None);
    setup.backend.put_value(value("one")).await.expect("keeps");
    assert_eq!(kept(&setup).await.as_deref(), Some("one"));
    setup.backend.put_value(value("two")).await.expect("keeps");
    assert_eq!(kept(&setup).await.as_deref(), Some("two"));

    setup.backend.delete_values(&["checkpoint:k".to_owned(), "unknown".to_owned()]).await.expect("deletes");
    setup.backend.delete_values(&[]).await.expect("deletes");

    assert_eq!(kept(&setup).await, None);
    assert_eq!(state(&setup, "checkpoint:k").await.as_deref(), Some("SUCCESS"));
}

pub(crate) async fn an_expired_value_is_gone(setup: Setup) {
    let expires_ms = Some(TTL.as_millis() as u64);
    setup.backend.put_value(KeptValue { expires_ms, ..value("one") }).await.expect("keeps");
    assert_eq!(kept(&setup).await.as_deref(), Some("one"));

    setup.advance(TTL);

    assert_eq!(kept(&setup).await, None);
}

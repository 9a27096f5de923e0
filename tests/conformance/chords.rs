//! Chords: each part counts once, one claims the end, and a failed part ends it at once.

use std::time::Duration;

use celeriac::backend::{ChordClaim, Counted, Stalled};
use celeriac::broker::{ChordEnd, Committed, Settle};
use celeriac::protocol::ChordPart;

use crate::setup::{Setup, names, nothing, publication, record, settle, take};

const TTL: u64 = 86_400_000;
const CLAIM: u64 = 6_000;
const LONG: Duration = Duration::from_secs(180);

fn part(number: i64) -> ChordPart {
    named(number, "SUCCESS", number)
}

fn failed(number: i64) -> ChordPart {
    named(number, "FAILURE", number)
}

fn named(number: i64, state: &str, value: i64) -> ChordPart {
    ChordPart {
        group_id: "g".to_owned(),
        task_id: format!("t{number}"),
        group_index: Some(number),
        state: state.to_owned(),
        element: format!("[1, \"t{number}\", \"{state}\", {value}]").into(),
        expires_ms: Some(TTL),
        group_expires_ms: Some(TTL),
        claim_ms: CLAIM,
    }
}

async fn start(setup: &Setup, size: u64) {
    setup.backend.start_chord("g", size, Some(TTL)).await.expect("starts");
}

async fn count(setup: &Setup, parts: &[ChordPart]) -> Vec<Counted> {
    setup.backend.count_parts(parts).await.expect("counts")
}

async fn count_one(setup: &Setup, part: ChordPart) -> Counted {
    count(setup, &[part]).await.remove(0)
}

async fn completed(setup: &Setup, part: ChordPart) -> ChordClaim {
    match count_one(setup, part).await {
        Counted::Complete(claim) => claim,
        other => panic!("it was to complete the chord: {other:?}"),
    }
}

async fn elements(setup: &Setup) -> Vec<String> {
    let gathered = setup.backend.gather("g").await.expect("gathers");
    gathered.iter().map(|element| String::from_utf8_lossy(element).into_owned()).collect()
}

pub(crate) async fn the_last_part_has_the_claim_and_all_are_gathered_in_order(setup: Setup) {
    start(&setup, 3).await;
    assert_eq!(count(&setup, &[part(2), part(0)]).await, [Counted::Waiting, Counted::Waiting]);
    assert!(setup.backend.counts_chords());

    let claim = completed(&setup, part(1)).await;

    assert_eq!((claim.group_id.as_str(), claim.failed), ("g", false));
    let expected = [0, 1, 2].map(|number| format!("[1, \"t{number}\", \"SUCCESS\", {number}]"));
    assert_eq!(elements(&setup).await, expected);
}

pub(crate) async fn a_part_without_an_index_comes_last(setup: Setup) {
    start(&setup, 2).await;
    let unplaced = ChordPart { group_index: None, ..part(7) };
    assert_eq!(count(&setup, &[unplaced]).await, [Counted::Waiting]);
    completed(&setup, part(3)).await;
    let found = elements(&setup).await;
    assert!(found[0].contains("t3") && found[1].contains("t7"), "{found:?}");
}

pub(crate) async fn parts_of_many_chords_are_counted_in_one_batch(setup: Setup) {
    let of = |group: &str, number| ChordPart { group_id: group.to_owned(), ..part(number) };
    for group in ["a", "b", "c"] {
        setup.backend.start_chord(group, 2, None).await.expect("starts");
    }
    let batch = [of("a", 0), of("b", 0), of("a", 1), of("c", 1), of("b", 1)];

    let counted = count(&setup, &batch).await;

    let claimed: Vec<_> = counted
        .iter()
        .map(|counted| match counted {
            Counted::Complete(claim) => claim.group_id.as_str(),
            Counted::Waiting => "",
            other => panic!("unexpected {other:?}"),
        })
        .collect();
    assert_eq!(claimed, ["", "", "a", "", "b"]);
}

pub(crate) async fn a_part_counts_once_and_as_it_was_first(setup: Setup) {
    start(&setup, 2).await;
    let again = [part(0), part(0), named(0, "SUCCESS", 99), failed(0)];
    assert_eq!(count(&setup, &again).await, vec![Counted::Waiting; 4]);
    assert_eq!(count_one(&setup, failed(0)).await, Counted::Waiting, "it has succeeded");

    completed(&setup, part(1)).await;

    let expected = [0, 1].map(|number| format!("[1, \"t{number}\", \"SUCCESS\", {number}]"));
    assert_eq!(elements(&setup).await, expected);
}

pub(crate) async fn parts_that_come_before_the_size_is_known_are_counted(setup: Setup) {
    assert_eq!(count(&setup, &[part(0), failed(1)]).await, [Counted::Waiting, Counted::Waiting]);
    start(&setup, 3).await;
    completed(&setup, part(2)).await;
    assert_eq!(elements(&setup).await.len(), 3);
}

pub(crate) async fn a_failed_part_ends_the_chord_at_once(setup: Setup) {
    start(&setup, 4).await;
    let counted = count(&setup, &[part(0), failed(1), failed(2)]).await;
    let [Counted::Waiting, Counted::Failed(claim), Counted::Waiting] = &counted[..] else {
        panic!("the first that failed was to have the claim: {counted:?}");
    };
    assert!(claim.failed);
    // Somebody is at it.
    assert_eq!(count_one(&setup, part(3)).await, Counted::Waiting);

    assert!(setup.backend.finish_chord(claim).await.expect("finishes"));

    assert_eq!(count(&setup, &[part(3), failed(1)]).await, [Counted::Ended, Counted::Ended]);
    setup.advance(Duration::from_secs(7200));
    assert_eq!(count_one(&setup, part(3)).await, Counted::Ended, "as long as parts may come");
}

pub(crate) async fn the_part_that_has_the_claim_takes_it_over_from_its_dead_worker(setup: Setup) {
    start(&setup, 2).await;
    count_one(&setup, part(0)).await;
    let old = completed(&setup, part(1)).await;
    assert_eq!(count_one(&setup, part(0)).await, Counted::Waiting, "another part's message is enough");

    // Its message has come again: said to have failed, since its worker is gone.
    let new = completed(&setup, failed(1)).await;

    assert_ne!(old.token, new.token);
    assert!(!setup.backend.hold_chord(&old, LONG).await.expect("answers"), "the old worker lives after all");
    assert!(!setup.backend.finish_chord(&old).await.expect("answers"));
    assert!(setup.backend.hold_chord(&new, LONG).await.expect("answers"));
    assert_eq!(elements(&setup).await.len(), 2);
}

pub(crate) async fn a_failed_part_that_comes_again_still_ends_its_chord(setup: Setup) {
    start(&setup, 3).await;
    let Counted::Failed(_) = count_one(&setup, failed(1)).await else { panic!("it was to fail the chord") };
    let Counted::Failed(_) = count_one(&setup, failed(1)).await else { panic!("its worker has died") };
    setup.advance(Duration::from_millis(CLAIM + 1000));
    let Counted::Failed(_) = count_one(&setup, failed(1)).await else { panic!("after the claim, too") };
}

pub(crate) async fn a_claim_expires_and_can_be_held_longer(setup: Setup) {
    start(&setup, 2).await;
    count_one(&setup, part(0)).await;
    let claim = completed(&setup, part(1)).await;
    assert!(setup.backend.hold_chord(&claim, LONG).await.expect("holds"));
    setup.advance(Duration::from_millis(CLAIM + 1000));
    assert_eq!(count_one(&setup, part(0)).await, Counted::Waiting, "it is held");

    setup.advance(LONG);

    let other = completed(&setup, part(0)).await;
    assert!(!setup.backend.hold_chord(&claim, LONG).await.expect("answers"));
    assert!(setup.backend.finish_chord(&other).await.expect("finishes"));
}

pub(crate) async fn an_expired_claim_that_nobody_took_can_be_held_again(setup: Setup) {
    start(&setup, 1).await;
    let claim = completed(&setup, part(0)).await;
    setup.advance(Duration::from_millis(CLAIM + 1000));
    assert!(setup.backend.hold_chord(&claim, LONG).await.expect("holds"));
    assert!(setup.backend.finish_chord(&claim).await.expect("finishes"));
    assert!(!setup.backend.hold_chord(&claim, LONG).await.expect("answers"), "it is over");
}

pub(crate) async fn what_comes_after_the_end_counts_for_nothing(setup: Setup) {
    start(&setup, 1).await;
    let claim = completed(&setup, part(0)).await;
    assert!(setup.backend.finish_chord(&claim).await.expect("finishes"));
    assert_eq!(count_one(&setup, part(0)).await, Counted::Ended);
    assert!(elements(&setup).await.is_empty());

    // The same chord is sent once more.
    start(&setup, 1).await;
    completed(&setup, named(0, "SUCCESS", 5)).await;
    assert_eq!(elements(&setup).await, ["[1, \"t0\", \"SUCCESS\", 5]"]);
}

pub(crate) async fn a_chord_can_grow(setup: Setup) {
    start(&setup, 1).await;
    setup.backend.grow_chord("g", 2).await.expect("grows");
    assert_eq!(count(&setup, &[part(0), part(1)]).await, [Counted::Waiting, Counted::Waiting]);
    completed(&setup, part(2)).await;
    assert_eq!(elements(&setup).await.len(), 3);
}

pub(crate) async fn saying_the_size_again_changes_nothing(setup: Setup) {
    start(&setup, 2).await;
    count_one(&setup, part(0)).await;
    start(&setup, 2).await;
    completed(&setup, part(1)).await;
}

pub(crate) async fn a_chord_is_forgotten_after_its_time(setup: Setup) {
    start(&setup, 2).await;
    count_one(&setup, part(0)).await;
    setup.advance(Duration::from_millis(TTL));
    setup.broker.sweep().await.expect("sweeps");
    assert_eq!(count_one(&setup, part(1)).await, Counted::Waiting);
    assert_eq!(elements(&setup).await.len(), 1, "the first part is forgotten");
}

pub(crate) async fn a_thousand_parts_are_counted_and_gathered(setup: Setup) {
    start(&setup, 1000).await;
    let parts: Vec<_> = (0..1000).map(part).collect();
    let mut claims = 0;
    for batch in parts.rchunks(170) {
        let counted = count(&setup, batch).await;
        claims += counted.iter().filter(|counted| matches!(counted, Counted::Complete(_))).count();
    }
    assert_eq!(claims, 1);
    let found = elements(&setup).await;
    assert_eq!(found.len(), 1000);
    assert!(found.iter().zip(&parts).all(|(found, part)| found.as_bytes() == part.element));
}

async fn stalled(setup: &Setup) -> Vec<Stalled> {
    setup.backend.stalled_chords(Duration::ZERO, Duration::ZERO).await.expect("looks")
}

pub(crate) async fn a_chord_without_progress_is_told_of_until_something_is_counted(setup: Setup) {
    start(&setup, 4).await;
    setup.backend.guard_chord("g", "a message".into()).await.expect("guards");
    count(&setup, &[part(0), part(2)]).await;
    assert_eq!(stalled(&setup).await, [], "the first look notes what was counted");

    let expected = |times| Stalled {
        group_id: "g".to_owned(),
        message: "a message".into(),
        size: 4,
        counted: 2,
        missing: vec![1, 3],
        times,
    };
    assert_eq!(stalled(&setup).await, [expected(1)]);
    assert_eq!(stalled(&setup).await, [expected(2)]);
    setup.backend.spare_chords(&["g".to_owned()], Duration::ZERO).await.expect("spares");
    assert_eq!(stalled(&setup).await, [expected(1)]);
    count(&setup, &[part(1)]).await;
    assert_eq!(stalled(&setup).await, []);
    assert_eq!((stalled(&setup).await[0].counted, stalled(&setup).await[0].times), (3, 2));
}

pub(crate) async fn a_chord_that_is_being_ended_or_over_is_not_told_of(setup: Setup) {
    start(&setup, 1).await;
    setup.backend.guard_chord("g", "a message".into()).await.expect("guards");
    let claim = completed(&setup, part(0)).await;
    for _ in 0..3 {
        assert_eq!(stalled(&setup).await, []);
    }

    assert!(setup.backend.finish_chord(&claim).await.expect("finishes"));
    for _ in 0..3 {
        assert_eq!(stalled(&setup).await, []);
    }
}

pub(crate) async fn a_chord_that_is_looked_at_is_not_told_of_before_its_next_look(setup: Setup) {
    start(&setup, 2).await;
    setup.backend.guard_chord("g", "a message".into()).await.expect("guards");

    for _ in 0..3 {
        let found = setup.backend.stalled_chords(LONG, LONG).await.expect("looks");
        assert_eq!(found, []);
    }
}

pub(crate) async fn a_body_and_the_end_of_its_chord_are_one_step(setup: Setup) {
    setup.publish("q", &["last"]).await;
    let consumer = setup.consumer("w@h", &["q"]).await;
    let delivery = take(&*consumer, 1).await.remove(0);
    start(&setup, 1).await;
    let old = completed(&setup, part(0)).await;
    let claim = completed(&setup, part(0)).await;
    let mut commit = settle(&delivery, Settle::Ack);
    commit.publications.push(publication("bodies", "body"));
    commit.results.push(record("t0", "SUCCESS"));

    // A claim that is not held: nothing of it happens.
    assert_eq!(consumer.commit_body(&commit, &old).await.expect("answers"), ChordEnd::NotHeld);
    assert_eq!(setup.backend.read(&["t0".to_owned()]).await.expect("reads"), [None]);

    let ended = consumer.commit_body(&commit, &claim).await.expect("commits");

    assert_eq!(ended, ChordEnd::Ended(Committed::Done));
    assert_eq!(count_one(&setup, part(0)).await, Counted::Ended);
    assert!(setup.backend.read(&["t0".to_owned()]).await.expect("reads")[0].is_some());
    let reader = setup.consumer("r@h", &["bodies"]).await;
    assert_eq!(names(&take(&*reader, 1).await), ["body"]);
    // The same once more: its answer was lost.
    let again = consumer.commit_body(&commit, &claim).await.expect("answers");
    assert!(matches!(again, ChordEnd::NotHeld | ChordEnd::Ended(Committed::Stale)), "{again:?}");
    nothing(&setup, &*reader).await;
}

pub(crate) async fn a_lost_claim_of_a_message_ends_no_chord(setup: Setup) {
    setup.publish("q", &["last"]).await;
    let consumer = setup.consumer("w@h", &["q"]).await;
    let delivery = take(&*consumer, 1).await.remove(0);
    start(&setup, 1).await;
    let claim = completed(&setup, part(0)).await;
    let mut commit = settle(&delivery, Settle::Ack);
    commit.publications.push(publication("bodies", "body"));
    consumer.commit(&[settle(&delivery, Settle::Release)]).await.expect("commits");

    let ended = consumer.commit_body(&commit, &claim).await.expect("answers");

    assert_eq!(ended, ChordEnd::Ended(Committed::Stale));
    assert!(matches!(count_one(&setup, part(0)).await, Counted::Complete(_)), "it is still to be ended");
    let queues = setup.broker.queues().await.expect("tells");
    assert!(queues.iter().all(|queue| queue.name != "bodies" || queue.ready == 0));
}

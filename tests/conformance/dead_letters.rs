//! Dead letters, pauses, and results of which only the newest are kept.

use std::sync::Arc;
use std::time::Duration;

use celeriac::broker::{
    Commit, Committed, DeadFilter, DeadLetter, DeadLimits, DeadReason, DeadStats, Resolution, Settle,
};
use celeriac::clock::UnixMillis;
use celeriac::protocol::{Message, Publication, ResultRecord, Retain};

use crate::setup::{Setup, commit, message, names, nothing, publication, record, settle, take};

const MINUTE: Duration = Duration::from_secs(60);

/// Buries these, a minute apart where the clock can be moved; gives what is listed then.
async fn bury(setup: &Setup, names: &[(&str, &str)]) -> Vec<DeadLetter> {
    for (queue, name) in names {
        let headers = format!("{{\"task\": \"t.{name}\", \"id\": \"{name}\"}}").into();
        let letter = Publication {
            routing_key: (*queue).to_owned(),
            message: Message { headers, ..message(name) },
            ..Publication::default()
        };
        let reason = if *name == "a" { DeadReason::Malformed } else { DeadReason::Failed };
        setup.broker.bury(letter, reason, format!("why {name}")).await.expect("buries");
        setup.advance(MINUTE);
    }
    setup.broker.dead_letters(None, 100).await.expect("lists")
}

fn bodies(letters: &[DeadLetter]) -> Vec<&str> {
    letters.iter().map(|letter| std::str::from_utf8(&letter.message.body).expect("names are text")).collect()
}

async fn found(setup: &Setup, filter: DeadFilter) -> Vec<String> {
    let letters = setup.broker.find_dead(&filter, 100).await.expect("lists");
    bodies(&letters).into_iter().map(str::to_owned).collect()
}

pub(crate) async fn dead_letters_are_found_by_all_that_a_filter_names(setup: Setup) {
    let letters = bury(&setup, &[("q", "a"), ("q", "b"), ("p", "c")]).await;
    assert_eq!(bodies(&letters), ["a", "b", "c"]);
    let text = |text: &str| Some(text.to_owned());
    let all = DeadFilter::default;

    assert_eq!(found(&setup, all()).await, ["a", "b", "c"]);
    assert_eq!(found(&setup, DeadFilter { queue: text("q"), ..all() }).await, ["a", "b"]);
    assert_eq!(found(&setup, DeadFilter { reason: text("failed"), ..all() }).await, ["b", "c"]);
    assert_eq!(found(&setup, DeadFilter { task: text("t.c"), ..all() }).await, ["c"]);
    assert_eq!(found(&setup, DeadFilter { task: text("t.c"), queue: text("q"), ..all() }).await, [""; 0]);
    let ids = Some(vec![letters[2].id, letters[0].id]);
    assert_eq!(found(&setup, DeadFilter { ids, ..all() }).await, ["a", "c"]);
    let (second, none) = (letters[1].died, [""; 0]);
    if letters[0].died < second {
        assert_eq!(found(&setup, DeadFilter { since: Some(second), ..all() }).await, ["b", "c"]);
        assert_eq!(found(&setup, DeadFilter { until: Some(second), ..all() }).await, ["a"]);
    }
    let later = Some(UnixMillis(letters[2].died.0 + 1));
    assert_eq!(found(&setup, DeadFilter { since: later, ..all() }).await, none);
    let two = setup.broker.find_dead(&all(), 2).await.expect("lists");
    assert_eq!(bodies(&two), ["a", "b"]);
    assert_eq!((two[0].id, two[1].id), (letters[0].id, letters[1].id), "numbers stay");
}

pub(crate) async fn dead_letters_are_counted_with_the_age_of_the_oldest(setup: Setup) {
    assert_eq!(setup.broker.dead_stats().await.expect("counts"), DeadStats::default());
    let letters = bury(&setup, &[("q", "a"), ("p", "b")]).await;

    let stats = setup.broker.dead_stats().await.expect("counts");

    assert_eq!(stats, DeadStats { count: 2, oldest: Some(letters[0].died) });
}

pub(crate) async fn a_dead_letter_is_published_again_once_and_is_gone(setup: Setup) {
    let letters = bury(&setup, &[("q", "a"), ("q", "b")]).await;
    let again = Resolution { id: letters[0].id, publication: Some(publication("q", "again")) };
    let unknown =
        Resolution { id: letters[0].id + letters[1].id + 1, publication: Some(publication("q", "never")) };

    let first = setup.broker.resolve_dead(vec![again.clone(), unknown]).await.expect("resolves");
    let second = setup.broker.resolve_dead(vec![again]).await.expect("resolves");

    assert_eq!((first, second), (vec![letters[0].id], vec![]));
    assert_eq!(found(&setup, DeadFilter::default()).await, ["b"]);
    let consumer = setup.consumer("w", &["q"]).await;
    assert_eq!(names(&take(&*consumer, 1).await), ["again"]);
    nothing(&setup, &*consumer).await;
}

pub(crate) async fn a_dropped_dead_letter_is_gone(setup: Setup) {
    let letters = bury(&setup, &[("q", "a"), ("q", "b")]).await;

    let gone = Resolution { id: letters[1].id, publication: None };
    assert_eq!(setup.broker.resolve_dead(vec![gone]).await.expect("resolves"), [letters[1].id]);

    assert_eq!(found(&setup, DeadFilter::default()).await, ["a"]);
    let consumer = setup.consumer("w", &["q"]).await;
    nothing(&setup, &*consumer).await;
}

pub(crate) async fn dead_letters_beyond_the_limits_go_the_oldest_first(setup: Setup) {
    let letters = bury(&setup, &[("q", "a"), ("q", "b"), ("q", "c"), ("q", "d")]).await;
    let trim = async |limits| setup.broker.trim_dead(&limits).await.expect("trims");

    assert_eq!(trim(DeadLimits::default()).await, 0);
    assert_eq!(trim(DeadLimits { max_count: Some(4), max_age: Some(MINUTE * 60) }).await, 0);
    assert_eq!(trim(DeadLimits { max_count: Some(3), max_age: None }).await, 1);
    assert_eq!(found(&setup, DeadFilter::default()).await, ["b", "c", "d"]);
    if letters[0].died < letters[1].died {
        // They died one, two and three minutes ago.
        assert_eq!(trim(DeadLimits { max_count: None, max_age: Some(MINUTE * 2) }).await, 1);
        assert_eq!(found(&setup, DeadFilter::default()).await, ["c", "d"]);
    }
    assert!(trim(DeadLimits { max_count: Some(0), max_age: None }).await > 0);
    assert_eq!(setup.broker.dead_stats().await.expect("counts").count, 0);
}

pub(crate) async fn a_failure_is_stored_and_buried_in_one_commit(setup: Setup) {
    setup.publish("q", &["a"]).await;
    let consumer = setup.consumer("w", &["q"]).await;
    let taken = take(&*consumer, 1).await;
    assert_eq!(commit(&*consumer, &taken[0], Settle::Once).await, Committed::Done);
    let dead = Settle::Dead(DeadReason::Failed, "ValueError('x')\u{1f}Traceback\nValueError: x\n".into());
    let end = Commit { results: vec![record("id", "FAILURE")], ..settle(&taken[0], dead) };

    assert_eq!(consumer.commit(&[end]).await.expect("commits"), [Committed::Done]);

    let stored = setup.backend.read(&["id".to_owned()]).await.expect("reads");
    assert_eq!(stored[0].as_ref().map(|record| &*record.state), Some("FAILURE"));
    let [letter] = &setup.broker.dead_letters(Some("q"), 10).await.expect("lists")[..] else {
        panic!("one letter");
    };
    assert_eq!((&*letter.reason, &*letter.detail), ("failed", "ValueError('x')"));
    assert_eq!(letter.traceback, "Traceback\nValueError: x\n");
    assert_eq!((&letter.message, letter.crashes), (&message("a"), 0));
    nothing(&setup, &*consumer).await;
}

pub(crate) async fn a_pause_is_kept_until_it_is_taken_back(setup: Setup) {
    let all = ["a".to_owned(), "b".to_owned()];
    assert_eq!(setup.broker.paused(&all).await.expect("reads"), [""; 0]);

    for _ in 0..2 {
        setup.broker.set_paused("b", true).await.expect("pauses");
        setup.broker.set_paused("c", true).await.expect("pauses");
    }
    assert_eq!(setup.broker.paused(&all).await.expect("reads"), ["b"]);

    setup.broker.set_paused("b", false).await.expect("resumes");
    setup.broker.set_paused("a", false).await.expect("resumes");
    assert_eq!(setup.broker.paused(&all).await.expect("reads"), [""; 0]);
    assert_eq!(setup.broker.paused(&["c".to_owned()]).await.expect("reads"), ["c"]);
}

fn kept(id: &str, state: &str, most: Option<u32>) -> ResultRecord {
    let (own, other) = if state == "SUCCESS" { ("s", "f") } else { ("f", "s") };
    let retain = Retain { list: own.to_owned(), other: other.to_owned(), most };
    ResultRecord { retain: Some(Arc::new(retain)), ..record(id, state) }
}

async fn there(setup: &Setup, ids: &[&str]) -> Vec<String> {
    let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
    let read = setup.backend.read(&ids).await.expect("reads");
    read.into_iter().flatten().map(|record| record.task_id).collect()
}

pub(crate) async fn only_the_newest_results_of_a_kind_are_kept(setup: Setup) {
    let store = async |records: Vec<ResultRecord>| setup.backend.store(records).await.expect("stores");
    store(vec![record("other", "SUCCESS"), kept("s1", "SUCCESS", Some(2)), kept("f1", "FAILURE", Some(1))])
        .await;
    store((2..=4).map(|n| kept(&format!("s{n}"), "SUCCESS", Some(2))).collect()).await;

    assert_eq!(there(&setup, &["other", "s1", "s2", "s3", "s4", "f1"]).await, ["other", "s3", "s4", "f1"]);

    // What had failed and was run again counts as what it is now.
    store(vec![kept("f1", "SUCCESS", Some(2))]).await;
    store(vec![kept("f2", "FAILURE", Some(1)), kept("f3", "FAILURE", Some(1))]).await;
    assert_eq!(there(&setup, &["s3", "s4", "f1", "f2", "f3"]).await, ["s4", "f1", "f3"]);

    // A success stays one, and is not counted among the failures.
    store(vec![kept("f1", "FAILURE", Some(1)), kept("f4", "FAILURE", Some(1)), kept("s5", "SUCCESS", None)])
        .await;
    assert_eq!(there(&setup, &["s4", "f1", "f3", "f4", "s5"]).await, ["s4", "f1", "f4", "s5"]);
}

pub(crate) async fn a_commit_keeps_only_the_newest_results_of_a_kind(setup: Setup) {
    setup.publish("q", &["1", "2", "3", "4"]).await;
    let consumer = setup.consumer("w", &["q"]).await;
    let taken = take(&*consumer, 4).await;
    let commits: Vec<Commit> = taken
        .iter()
        .enumerate()
        .map(|(at, delivery)| {
            let results = vec![kept(&format!("s{at}"), "SUCCESS", Some(2))];
            Commit { results, ..settle(delivery, Settle::Ack) }
        })
        .collect();

    assert_eq!(consumer.commit(&commits).await.expect("commits"), [Committed::Done; 4]);

    assert_eq!(there(&setup, &["s0", "s1", "s2", "s3"]).await, ["s2", "s3"]);
}

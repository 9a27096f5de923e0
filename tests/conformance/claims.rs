//! Claims: credit, leases, fences, commits.

use std::collections::HashSet;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use celeriac::broker::{BrokerError, Commit, Committed, Consumer, Credit, DeadReason, Delivery, Settle};

use crate::setup::{
    LEASE, Setup, commit, credit, name, names, nothing, options, publication, record, settle, take,
};

type Claimed = Result<Vec<Delivery>, BrokerError>;

/// Claims until so many were given; what each claim gave. How many that are is the store's choice: a server that sends
/// messages one after the other may have sent only the first.
async fn claims(consumer: &dyn Consumer, credit: Credit, count: usize) -> Vec<Vec<String>> {
    let mut given: Vec<Vec<String>> = Vec::new();
    while given.iter().map(Vec::len).sum::<usize>() < count {
        given.push(names(&consumer.claim(credit).await.expect("claims")));
    }
    given
}

pub(crate) async fn credit_bounds_the_count(setup: Setup) {
    setup.publish("q", &["a", "b", "c"]).await;
    let consumer = setup.consumer("w", &["q"]).await;

    let given = claims(&*consumer, credit(2), 3).await;

    assert_eq!(given.concat(), ["a", "b", "c"]);
    assert!(given.iter().all(|claim| (1..=2).contains(&claim.len())), "{given:?}");
    assert!(consumer.claim(credit(0)).await.expect("claims").is_empty());
}

pub(crate) async fn credit_bounds_the_bytes_but_gives_at_least_one(setup: Setup) {
    let large = "x".repeat(10_000);
    setup.publish("q", &[&large, "a", "b", &large]).await;
    let consumer = setup.consumer("w", &["q"]).await;

    let given = claims(&*consumer, Credit { count: 10, bytes: 1000 }, 4).await;

    assert_eq!(given.concat(), [&large, "a", "b", &large]);
    let alone = |claim: &Vec<String>| claim.len() == 1 || !claim.contains(&large);
    assert!(given.iter().all(alone), "{:?}", given.iter().map(Vec::len).collect::<Vec<_>>());
}

pub(crate) async fn two_consumers_never_get_the_same_message(setup: Setup) {
    let all: Vec<String> = (0..300).map(|number| number.to_string()).collect();
    let consumers = [setup.consumer("one", &["q"]).await, setup.consumer("two", &["q"]).await];

    let publish = async {
        for chunk in all.chunks(7) {
            setup.publish("q", &chunk.iter().map(String::as_str).collect::<Vec<_>>()).await;
        }
    };
    let seen = parking_lot::Mutex::new(Vec::new());
    let drain = async |consumer: &dyn Consumer| {
        while seen.lock().len() < all.len() {
            let claim = tokio::time::timeout(Duration::from_millis(50), consumer.claim(credit(5))).await;
            let Ok(taken) = claim else { continue };
            let taken = taken.expect("claims");
            seen.lock().extend(names(&taken));
            let acks: Vec<Commit> = taken.iter().map(|delivery| settle(delivery, Settle::Ack)).collect();
            consumer.commit(&acks).await.expect("commits");
        }
    };
    tokio::join!(publish, drain(&*consumers[0]), drain(&*consumers[1]));

    let seen = seen.into_inner();
    assert_eq!(seen.len(), all.len());
    assert_eq!(seen.into_iter().collect::<HashSet<_>>(), all.into_iter().collect());
}

pub(crate) async fn an_expired_lease_gives_claims_back_in_order(setup: Setup) {
    setup.publish("q", &["a", "b", "c", "d"]).await;
    let slow = setup.consumer("slow", &["q"]).await;
    let quick = setup.consumer("quick", &["q"]).await;
    let held = take(&*slow, 3).await;
    assert_eq!(names(&take(&*quick, 1).await), ["d"]);

    setup.advance(LEASE.saturating_sub(Duration::from_millis(1)));
    quick.renew().await.expect("renews");
    nothing(&setup, &*quick).await;
    setup.advance(Duration::from_millis(1));

    let again = take(&*quick, 3).await;
    assert_eq!(names(&again), ["a", "b", "c"]);
    assert!(again.iter().all(|delivery| delivery.redelivered && delivery.crashes == 0));
    assert_eq!(commit(&*slow, &held[0], Settle::Ack).await, Committed::Stale);
    assert_eq!(commit(&*quick, &again[0], Settle::Ack).await, Committed::Done);
}

pub(crate) async fn a_renewed_lease_is_kept(setup: Setup) {
    setup.publish("q", &["a"]).await;
    let slow = setup.consumer("slow", &["q"]).await;
    let quick = setup.consumer("quick", &["q"]).await;
    let held = take(&*slow, 1).await;

    for _ in 0..5 {
        setup.advance(LEASE / 2);
        let renewal = slow.renew().await.expect("renews");
        assert!(!renewal.lost);
        assert_eq!(quick.renew().await.expect("renews").recovered, 0);
    }

    nothing(&setup, &*quick).await;
    assert_eq!(commit(&*slow, &held[0], Settle::Ack).await, Committed::Done);
}

pub(crate) async fn a_lost_lease_is_told_and_its_commits_are_stale(setup: Setup) {
    setup.publish("q", &["a", "b"]).await;
    let slow = setup.consumer("slow", &["q"]).await;
    let quick = setup.consumer("quick", &["q"]).await;
    let held = take(&*slow, 2).await;
    setup.advance(LEASE);
    assert_eq!(quick.renew().await.expect("renews").recovered, 2);

    assert!(slow.renew().await.expect("renews").lost);
    assert!(!slow.renew().await.expect("renews").lost);

    // Even a message that it claims anew is not the one it held before.
    let again = take(&*slow, 2).await;
    assert_eq!(commit(&*slow, &held[0], Settle::Ack).await, Committed::Stale);
    assert_eq!(commit(&*slow, &again[0], Settle::Ack).await, Committed::Done);
}

pub(crate) async fn an_old_fence_is_stale(setup: Setup) {
    setup.publish("q", &["a"]).await;
    let consumer = setup.consumer("w", &["q"]).await;
    let old = take(&*consumer, 1).await;
    commit(&*consumer, &old[0], Settle::Release).await;
    let new = take(&*consumer, 1).await;

    for how in [Settle::Ack, Settle::Keep, Settle::Requeue, Settle::Crashed] {
        assert_eq!(commit(&*consumer, &old[0], how).await, Committed::Stale);
    }

    assert_eq!(commit(&*consumer, &new[0], Settle::Ack).await, Committed::Done);
    assert_eq!(commit(&*consumer, &new[0], Settle::Ack).await, Committed::Stale);
}

pub(crate) async fn a_consumer_dropped_without_goodbye_gives_back_to_its_namesake(setup: Setup) {
    setup.publish("q", &["a", "b"]).await;
    let gone = setup.consumer("w", &["q"]).await;
    take(&*gone, 2).await;
    drop(gone);

    let next = setup.consumer("w", &["q"]).await;

    let taken = take(&*next, 2).await;
    assert_eq!(names(&taken), ["a", "b"]);
    assert!(taken.iter().all(|delivery| delivery.redelivered && delivery.crashes == 0));
}

/// Also when there were too many: the worker that gets it ends it.
pub(crate) async fn a_begun_claim_of_a_dead_consumer_counts_one_crash(setup: Setup) {
    setup.publish("q", &["bomb", "waiting"]).await;
    for crashes in 0..5 {
        let consumer = setup.consumer("w", &["q"]).await;
        let mut taken = take(&*consumer, 2).await;
        taken.sort_by_key(name);
        assert_eq!(names(&taken), ["bomb", "waiting"]);
        assert!(taken.iter().all(|delivery| &*delivery.queue == "q"));
        assert_eq!(taken.iter().map(|delivery| delivery.crashes).collect::<Vec<_>>(), [crashes, 0]);
        let begun = Commit { begun: true, ..settle(&taken[0], Settle::Keep) };
        assert_eq!(consumer.commit(&[begun]).await.expect("commits"), [Committed::Done]);
    }

    let consumer = setup.consumer("w", &["q"]).await;
    let taken = take(&*consumer, 2).await;
    let bomb = taken.iter().find(|delivery| name(delivery) == "bomb").expect("it comes again");
    let dead = settle(bomb, Settle::Dead(DeadReason::Crashed, "often".into()));
    assert_eq!(consumer.commit(&[dead]).await.expect("commits"), [Committed::Done]);
    let letters = setup.broker.dead_letters(Some("q"), 10).await.expect("lists");
    assert_eq!((letters.len(), &*letters[0].reason, letters[0].crashes), (1, "crashed", 5));
}

pub(crate) async fn what_may_run_only_once_comes_again_with_a_crash_however_its_consumer_ends(setup: Setup) {
    setup.publish("q", &["only once", "waiting"]).await;
    for crashes in 0..2 {
        let consumer = setup.consumer("w", &["q"]).await;
        let mut taken = take(&*consumer, 2).await;
        taken.sort_by_key(name);
        assert_eq!(names(&taken), ["only once", "waiting"]);
        assert!(taken.iter().all(|delivery| &*delivery.queue == "q"));
        assert_eq!(taken.iter().map(|delivery| delivery.crashes).collect::<Vec<_>>(), [crashes, 0]);
        assert_eq!(commit(&*consumer, &taken[0], Settle::Once).await, Committed::Done);
        if crashes == 1 {
            consumer.close().await.expect("closes");
        }
    }

    let consumer = setup.consumer("w", &["q"]).await;
    let mut taken = take(&*consumer, 2).await;
    taken.sort_by_key(name);
    assert_eq!(taken.iter().map(|delivery| delivery.crashes).collect::<Vec<_>>(), [2, 0]);
    for delivery in &taken {
        assert_eq!(commit(&*consumer, delivery, Settle::Ack).await, Committed::Done);
    }
    let queues = setup.broker.queues().await.expect("lists");
    let left = queues.iter().map(|queue| queue.ready + queue.claimed + queue.parked).sum::<u64>();
    assert_eq!(left, 0);
}

pub(crate) async fn what_may_run_only_once_can_be_acknowledged_and_given_back(setup: Setup) {
    setup.publish("q", &["a", "b"]).await;
    let consumer = setup.consumer("w", &["q"]).await;
    let taken = take(&*consumer, 2).await;
    for delivery in &taken {
        assert_eq!(commit(&*consumer, delivery, Settle::Once).await, Committed::Done);
    }

    assert_eq!(commit(&*consumer, &taken[0], Settle::Ack).await, Committed::Done);
    assert_eq!(commit(&*consumer, &taken[1], Settle::Release).await, Committed::Done);

    // As if it had never begun.
    let again = take(&*consumer, 1).await;
    assert_eq!((names(&again), again[0].crashes), (vec!["b".to_owned()], 0));
    drop(consumer);
    let next = setup.consumer("w", &["q"]).await;
    assert_eq!(take(&*next, 1).await[0].crashes, 0);
}

pub(crate) async fn closing_gives_back_in_order_and_counts_nothing(setup: Setup) {
    setup.publish("q", &["a", "b", "c"]).await;
    let first = setup.consumer("first", &["q"]).await;
    let second = setup.consumer("second", &["q"]).await;
    let held = take(&*first, 2).await;
    first.commit(&[Commit { begun: true, ..settle(&held[1], Settle::Keep) }]).await.expect("commits");

    first.close().await.expect("closes");

    let taken = take(&*second, 3).await;
    assert_eq!(names(&taken), ["a", "b", "c"]);
    assert!(taken.iter().all(|delivery| delivery.crashes == 0));
}

pub(crate) async fn a_closed_consumer_refuses_and_its_waiting_claim_ends(setup: Setup) {
    let consumer = setup.consumer("w", &["q"]).await;
    let mut claim = consumer.claim(credit(1));
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut claim).await.is_err());

    consumer.close().await.expect("closes");
    consumer.close().await.expect("closes twice");

    assert!(matches!(claim.await, Err(BrokerError::Closed)));
    assert!(matches!(consumer.renew().await, Err(BrokerError::Closed)));
    assert!(matches!(consumer.commit(&[]).await, Err(BrokerError::Closed)));
}

pub(crate) async fn a_commit_publishes_stores_and_settles_together(setup: Setup) {
    setup.publish("q", &["a", "b"]).await;
    let consumer = setup.consumer("w", &["q", "next"]).await;
    let taken = take(&*consumer, 2).await;
    let whole = |number: usize| Commit {
        results: vec![record(&format!("t{number}"), "SUCCESS")],
        publications: vec![publication("next", &format!("after{number}"))],
        ..settle(&taken[number], Settle::Ack)
    };
    // An early-acknowledged request has no claim.
    let unclaimed = Commit { claim: None, settle: Settle::Keep, ..whole(1) };

    let answers = consumer.commit(&[whole(0), unclaimed]).await.expect("commits");

    assert_eq!(answers, [Committed::Done, Committed::Done]);
    assert_eq!(names(&take(&*consumer, 2).await), ["after0", "after1"]);
    let stored = setup.backend.read(&["t0".to_owned(), "t1".to_owned()]).await.expect("reads");
    assert!(stored.iter().all(Option::is_some));
    assert_eq!(setup.broker.store_id(), setup.backend.store_id());
}

pub(crate) async fn a_stale_commit_does_nothing_at_all(setup: Setup) {
    setup.publish("q", &["a", "b"]).await;
    let consumer = setup.consumer("w", &["q", "next"]).await;
    let taken = take(&*consumer, 2).await;
    commit(&*consumer, &taken[0], Settle::Ack).await;
    let whole = |number: usize| Commit {
        results: vec![record(&format!("t{number}"), "SUCCESS")],
        publications: vec![publication("next", &format!("after{number}"))],
        ..settle(&taken[number], Settle::Ack)
    };

    let answers = consumer.commit(&[whole(0), whole(1)]).await.expect("commits");

    assert_eq!(answers, [Committed::Stale, Committed::Done]);
    assert_eq!(names(&take(&*consumer, 1).await), ["after1"]);
    nothing(&setup, &*consumer).await;
    let stored = setup.backend.read(&["t0".to_owned(), "t1".to_owned()]).await.expect("reads");
    assert_eq!(stored.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true]);
}

pub(crate) async fn keep_holds_the_claim(setup: Setup) {
    setup.publish("q", &["a"]).await;
    let consumer = setup.consumer("w", &["q"]).await;
    let taken = take(&*consumer, 1).await;
    let progress = Commit { results: vec![record("t", "PROGRESS")], ..settle(&taken[0], Settle::Keep) };

    assert_eq!(consumer.commit(&[progress]).await.expect("commits"), [Committed::Done]);

    nothing(&setup, &*consumer).await;
    let stored = setup.backend.read(&["t".to_owned()]).await.expect("reads");
    assert_eq!(stored[0].as_ref().map(|record| &*record.state), Some("PROGRESS"));
    assert_eq!(commit(&*consumer, &taken[0], Settle::Ack).await, Committed::Done);
}

/// Polls a claim once.
async fn look(claim: &mut Pin<Box<dyn Future<Output = Claimed> + Send + '_>>) -> Poll<Claimed> {
    std::future::poll_fn(|context| Poll::Ready(claim.as_mut().poll(context))).await
}

pub(crate) async fn a_dropped_claim_loses_nothing(setup: Setup) {
    let consumer = setup.broker.consume(options("w", &["q"])).await.expect("consumes");
    let all: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    let mut seen = Vec::new();
    let mut dropped = 0;
    for message in &all {
        // Published while claims come and go, each dropped after another number of polls.
        let batch = [message.as_str()];
        let publish = setup.publish("q", &batch);
        let claim = async {
            for polls in 0..4 {
                let mut claim = consumer.claim(credit(1));
                for _ in 0..polls {
                    if let Poll::Ready(taken) = look(&mut claim).await {
                        return taken.expect("claims");
                    }
                    tokio::task::yield_now().await;
                }
                dropped += 1;
            }
            Vec::new()
        };
        let ((), taken) = tokio::join!(publish, claim);
        seen.extend(taken);
    }
    assert!(dropped > 0, "no claim was ever dropped");

    seen.extend(take(&*consumer, all.len() - seen.len()).await);

    let seen: HashSet<String> = seen.iter().map(name).collect();
    assert_eq!(seen, all.into_iter().collect());
    nothing(&setup, &*consumer).await;
}

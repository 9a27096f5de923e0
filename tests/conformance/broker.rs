//! Publishing, order, parking, dead letters, broadcasts.

use std::time::Duration;

use celeriac::broker::{Committed, DeadReason, QueueStatus, Settle};
use celeriac::clock::UnixMillis;
use celeriac::protocol::{Exchange, Publication, Queue};

use crate::setup::{
    START, Setup, commit, credit, due, message, names, nothing, prioritized, publication, take,
};

const MINUTE: Duration = Duration::from_secs(60);

pub(crate) async fn a_batch_comes_back_in_order_with_everything_it_had(setup: Setup) {
    let exchange = Exchange { name: "celery".to_owned(), ..Exchange::default() };
    let bound = Queue { name: "q".to_owned(), exchange, routing_key: "q".to_owned(), ..Queue::default() };
    let mut full =
        Publication { exchange: "celery".to_owned(), declare: Some(bound.into()), ..publication("q", "b") };
    let properties = &mut full.message.properties;
    properties.correlation_id = Some("id".to_owned());
    properties.reply_to = Some("reply".to_owned());
    properties.priority = Some(0);
    properties.expiration_ms = Some(5000);
    properties.other.insert("message_id".to_owned(), serde_json::json!({"x": [1, "é"]}));
    full.message.body = vec![0, 255, 10].into();
    setup.broker.publish(vec![publication("q", "a"), full.clone()]).await.expect("publishes");

    let consumer = setup.consumer("w", &["q"]).await;
    let deliveries = take(&*consumer, 2).await;

    assert_eq!(deliveries[0].message, message("a"));
    assert_eq!(deliveries[1].message, full.message);
    assert_eq!((&*deliveries[1].exchange, &*deliveries[1].routing_key), ("celery", "q"));
    assert_eq!(&*deliveries[1].queue, "q");
    assert!(deliveries.iter().all(|delivery| !delivery.redelivered && delivery.crashes == 0));
}

pub(crate) async fn a_higher_priority_comes_first_and_equal_ones_in_order(setup: Setup) {
    // A rank of 9 is the most urgent; which number that is depends on the store.
    let batch = [("low", 0), ("top", 9), ("mid1", 5), ("mid2", 5), ("top2", 9), ("low2", 0)];
    let batch = batch.map(|(name, rank)| prioritized("q", name, (setup.urgent)(rank)));
    setup.broker.publish(batch.to_vec()).await.expect("publishes");
    let consumer = setup.consumer("w", &["q"]).await;
    let first = take(&*consumer, 3).await;
    let rest = take(&*consumer, 3).await;

    assert_eq!(names(&first), ["top", "top2", "mid1"]);
    assert_eq!(names(&rest), ["mid2", "low", "low2"]);

    // None counts as 0, and more than 9 as 9.
    let batch = [("zero", 0), ("beyond", 200), ("nine", 9)];
    let batch = batch.map(|(name, priority)| prioritized("q", name, priority));
    setup.broker.publish(batch.to_vec()).await.expect("publishes");
    let mut none = publication("q", "none");
    none.message.properties.priority = None;
    setup.broker.publish(vec![none]).await.expect("publishes");
    let nine_first = (setup.urgent)(9) == 9;
    let expected =
        if nine_first { ["beyond", "nine", "zero", "none"] } else { ["zero", "none", "beyond", "nine"] };
    assert_eq!(names(&take(&*consumer, 4).await), expected);
}

pub(crate) async fn a_busy_queue_does_not_starve_another(setup: Setup) {
    let many: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    setup.publish("busy", &many.iter().map(String::as_str).collect::<Vec<_>>()).await;
    setup.publish("quiet", &["x", "y"]).await;
    let consumer = setup.consumer("w", &["busy", "quiet"]).await;

    let by_one = [take(&*consumer, 1).await, take(&*consumer, 1).await].concat();
    let in_batch = take(&*consumer, 10).await;

    assert!(names(&by_one).contains(&"x".to_owned()), "{:?}", names(&by_one));
    assert!(names(&in_batch).contains(&"y".to_owned()));
    assert_eq!(in_batch.len(), 10);
}

pub(crate) async fn an_acknowledged_message_is_gone(setup: Setup) {
    setup.publish("q", &["a", "b"]).await;
    let consumer = setup.consumer("w", &["q"]).await;
    let deliveries = take(&*consumer, 2).await;

    assert_eq!(commit(&*consumer, &deliveries[0], Settle::Ack).await, Committed::Done);
    consumer.close().await.expect("closes");

    let next = setup.consumer("w", &["q"]).await;
    assert_eq!(names(&take(&*next, 1).await), ["b"]);
    nothing(&setup, &*next).await;
}

pub(crate) async fn a_requeued_message_goes_behind_everything_of_its_priority(setup: Setup) {
    setup.publish("q", &["a", "b", "c"]).await;
    let consumer = setup.consumer("w", &["q"]).await;
    let taken = take(&*consumer, 2).await;

    // In the order in which they were requeued, not in that of their first publication.
    commit(&*consumer, &taken[1], Settle::Requeue).await;
    commit(&*consumer, &taken[0], Settle::Requeue).await;
    setup.publish("q", &["d"]).await;

    let after = take(&*consumer, 4).await;
    assert_eq!(names(&after), ["c", "b", "a", "d"]);
    assert_eq!(
        after.iter().map(|delivery| delivery.redelivered).collect::<Vec<_>>(),
        [false, true, true, false]
    );
}

pub(crate) async fn a_released_message_comes_back_first(setup: Setup) {
    setup.publish("q", &["a", "b", "c"]).await;
    let consumer = setup.consumer("w", &["q"]).await;
    let taken = take(&*consumer, 2).await;

    commit(&*consumer, &taken[1], Settle::Release).await;
    commit(&*consumer, &taken[0], Settle::Release).await;

    let again = take(&*consumer, 3).await;
    assert_eq!(names(&again), ["a", "b", "c"]);
    assert_eq!(again[0].crashes, 0);
    assert!(again[0].claim.fence > taken[0].claim.fence);
}

pub(crate) async fn a_parked_message_comes_when_it_is_due_and_not_before(setup: Setup) {
    let batch = vec![
        due("q", "late", START.after(2 * MINUTE)),
        due("q", "soon", START.after(MINUTE)),
        due("q", "past", UnixMillis(START.0 - 1)),
    ];
    setup.broker.publish(batch).await.expect("publishes");
    let consumer = setup.consumer("w", &["q"]).await;

    assert_eq!(names(&take(&*consumer, 1).await), ["past"]);
    nothing(&setup, &*consumer).await;
    setup.advance(MINUTE);
    assert_eq!(names(&take(&*consumer, 1).await), ["soon"]);
    nothing(&setup, &*consumer).await;
    setup.advance(MINUTE);
    let late = take(&*consumer, 1).await;
    assert_eq!(names(&late), ["late"]);
    assert!(!late[0].redelivered);
}

pub(crate) async fn a_claim_that_waits_wakes_when_a_parked_message_is_due(setup: Setup) {
    let consumer = setup.consumer("w", &["q"]).await;
    let mut claim = consumer.claim(credit(1));
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut claim).await.is_err());

    setup.broker.publish(vec![due("q", "a", START.after(MINUTE))]).await.expect("publishes");
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut claim).await.is_err());
    setup.advance(MINUTE);

    assert_eq!(names(&claim.await.expect("claims")), ["a"]);
}

pub(crate) async fn a_claimed_message_can_be_parked(setup: Setup) {
    setup.publish("q", &["a", "b"]).await;
    let consumer = setup.consumer("w", &["q"]).await;
    let taken = take(&*consumer, 1).await;

    commit(&*consumer, &taken[0], Settle::Park(START.after(MINUTE))).await;
    let other = take(&*consumer, 1).await;
    commit(&*consumer, &other[0], Settle::Park(UnixMillis(START.0 - 5))).await;

    // What is parked until a moment that is past is ready at once.
    assert_eq!(names(&take(&*consumer, 1).await), ["b"]);
    nothing(&setup, &*consumer).await;
    setup.advance(MINUTE);
    assert_eq!(names(&take(&*consumer, 1).await), ["a"]);
}

pub(crate) async fn a_dead_letter_keeps_its_message_and_its_reason(setup: Setup) {
    setup.publish("q", &["a", "b"]).await;
    setup.publish("other", &["c"]).await;
    let consumer = setup.consumer("w", &["q", "other"]).await;
    for delivery in take(&*consumer, 3).await {
        let how = Settle::Dead(DeadReason::Malformed, format!("of {}", delivery.queue));
        assert_eq!(commit(&*consumer, &delivery, how).await, Committed::Done);
    }

    let all = setup.broker.dead_letters(None, 10).await.expect("lists");
    let of_q = setup.broker.dead_letters(Some("q"), 10).await.expect("lists");
    let first = setup.broker.dead_letters(Some("q"), 1).await.expect("lists");

    assert_eq!(all.len(), 3);
    assert_eq!(of_q.iter().map(|letter| &letter.message).collect::<Vec<_>>(), [&message("a"), &message("b")]);
    assert_eq!((&*of_q[0].reason, &*of_q[0].detail, &*of_q[0].queue), ("malformed", "of q", "q"));
    assert_eq!(of_q[0].died, START);
    assert_eq!(first.len(), 1);
    nothing(&setup, &*consumer).await;
}

pub(crate) async fn a_message_that_is_not_in_the_store_any_more_can_be_buried(setup: Setup) {
    let letter = Publication { routing_key: "q".into(), message: message("a"), ..Publication::default() };

    setup.broker.bury(letter, DeadReason::Malformed, "why".into()).await.expect("buries");

    let [letter] = &setup.broker.dead_letters(Some("q"), 10).await.expect("lists")[..] else {
        panic!("one letter");
    };
    assert_eq!((&letter.message, &*letter.reason, &*letter.detail), (&message("a"), "malformed", "why"));
    assert_eq!((letter.crashes, letter.died), (0, START));
    let consumer = setup.consumer("w", &["q"]).await;
    nothing(&setup, &*consumer).await;
}

pub(crate) async fn a_message_that_crashes_too_often_is_dead(setup: Setup) {
    setup.publish("q", &["bomb", "next"]).await;
    let consumer = setup.consumer("w", &["q"]).await;
    let mut answers = Vec::new();
    for crashes in 0..3 {
        let taken = take(&*consumer, 1).await;
        assert_eq!((&names(&taken)[0][..], taken[0].crashes), ("bomb", crashes));
        assert_eq!(taken[0].redelivered, crashes > 0);
        // Counts survive every other way back.
        commit(&*consumer, &taken[0], Settle::Release).await;
        let taken = take(&*consumer, 1).await;
        answers.push(commit(&*consumer, &taken[0], Settle::Crashed).await);
    }

    assert_eq!(answers, [Committed::Done, Committed::Done, Committed::Dead]);
    assert_eq!(names(&take(&*consumer, 1).await), ["next"]);
    let letters = setup.broker.dead_letters(None, 10).await.expect("lists");
    assert_eq!((letters.len(), &*letters[0].reason, letters[0].crashes), (1, "crashed", 3));
}

pub(crate) async fn purge_removes_ready_and_parked_but_not_claimed(setup: Setup) {
    setup.publish("q", &["held", "a", "b"]).await;
    setup.publish("other", &["o"]).await;
    setup.broker.publish(vec![due("q", "p", START.after(MINUTE))]).await.expect("publishes");
    setup.broker.publish(vec![due("other", "op", START.after(MINUTE))]).await.expect("publishes");
    let consumer = setup.consumer("w", &["q"]).await;
    let held = take(&*consumer, 1).await;

    assert_eq!(setup.broker.purge("q").await.expect("purges"), 3);
    assert_eq!(setup.broker.purge("unknown").await.expect("purges"), 0);

    commit(&*consumer, &held[0], Settle::Release).await;
    consumer.set_queues(vec!["q".to_owned(), "other".to_owned()]).await.expect("sets");
    let mut left = names(&take(&*consumer, 2).await);
    left.sort();
    assert_eq!(left, ["held", "o"]);
    setup.advance(MINUTE);
    assert_eq!(names(&take(&*consumer, 1).await), ["op"]);
}

pub(crate) async fn queues_are_counted(setup: Setup) {
    setup.publish("a", &["1", "2", "3", "4"]).await;
    setup.publish("b", &["5"]).await;
    let batch = vec![due("a", "p", START.after(MINUTE)), due("b", "p", START.after(MINUTE))];
    setup.broker.publish(batch).await.expect("publishes");
    let consumer = setup.consumer("w", &["a"]).await;
    let taken = take(&*consumer, 2).await;
    commit(&*consumer, &taken[0], Settle::Dead(DeadReason::Rejected, String::new())).await;

    let status = |name: &str, ready, claimed, parked, dead| QueueStatus {
        name: name.to_owned(),
        ready,
        claimed,
        parked,
        dead,
    };
    let queues = setup.broker.queues().await.expect("lists");
    assert_eq!(queues, [status("a", 2, 1, 1, 1), status("b", 1, 0, 1, 0)]);
}

pub(crate) async fn a_claim_that_waits_wakes_by_a_publish(setup: Setup) {
    let consumer = setup.consumer("w", &["q"]).await;
    let mut claim = consumer.claim(credit(5));
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut claim).await.is_err());

    setup.publish("elsewhere", &["x"]).await;
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut claim).await.is_err());
    setup.publish("q", &["a", "b"]).await;

    // A broker that sends them one by one may give the first alone.
    let mut taken = claim.await.expect("claims");
    assert!(!taken.is_empty());
    if taken.len() < 2 {
        taken.extend(take(&*consumer, 1).await);
    }
    assert_eq!(names(&taken), ["a", "b"]);
}

pub(crate) async fn set_queues_changes_what_is_taken(setup: Setup) {
    let consumer = setup.consumer("w", &["a"]).await;
    setup.publish("b", &["x"]).await;
    let mut claim = consumer.claim(credit(1));
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut claim).await.is_err());

    consumer.set_queues(vec!["b".to_owned()]).await.expect("sets");
    assert_eq!(names(&claim.await.expect("claims")), ["x"]);

    setup.publish("a", &["y"]).await;
    nothing(&setup, &*consumer).await;
}

pub(crate) async fn a_broadcast_reaches_all_who_listen_and_only_those(setup: Setup) {
    let mut one = setup.broker.listen("pidbox").await.expect("listens");
    let mut two = setup.broker.listen("pidbox").await.expect("listens");
    let mut events = setup.broker.listen("events").await.expect("listens");

    setup.broker.broadcast("pidbox", "", message("first"), MINUTE).await.expect("sends");
    setup.broker.broadcast("pidbox", "", message("second"), MINUTE).await.expect("sends");
    let mut late = setup.broker.listen("pidbox").await.expect("listens");
    setup.broker.broadcast("events", "", message("event"), MINUTE).await.expect("sends");

    for listener in [&mut one, &mut two] {
        assert_eq!(listener.next().await.expect("hears"), message("first"));
        assert_eq!(listener.next().await.expect("hears"), message("second"));
    }
    assert_eq!(events.next().await.expect("hears"), message("event"));
    let mut waiting = late.next();
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut waiting).await.is_err());
    setup.broker.broadcast("pidbox", "", message("third"), MINUTE).await.expect("sends");
    assert_eq!(waiting.await.expect("hears"), message("third"));
}

pub(crate) async fn a_reply_reaches_the_inbox_it_is_for_and_no_other(setup: Setup) {
    let mut one = setup.broker.inbox("reply.celery.pidbox", "one").await.expect("opens");
    let mut two = setup.broker.inbox("reply.celery.pidbox", "two").await.expect("opens");

    setup.broker.reply("reply.celery.pidbox", "one", message("a")).await.expect("sends");
    setup.broker.reply("reply.celery.pidbox", "two", message("b")).await.expect("sends");
    setup.broker.reply("reply.celery.pidbox", "nobody", message("c")).await.expect("is no error");
    setup.broker.reply("reply.celery.pidbox", "one", message("d")).await.expect("sends");

    assert_eq!(one.next().await.expect("hears"), message("a"));
    assert_eq!(one.next().await.expect("hears"), message("d"));
    assert_eq!(two.next().await.expect("hears"), message("b"));
    two.close().await;
    setup.broker.reply("reply.celery.pidbox", "two", message("late")).await.expect("is no error");
}

pub(crate) async fn what_is_recalled_is_due_now(setup: Setup) {
    let later = START.after(MINUTE);
    setup.broker.publish(vec![due("q", "a", later), due("other", "b", later)]).await.expect("publishes");
    let consumer = setup.consumer("w", &["q", "other"]).await;
    nothing(&setup, &*consumer).await;

    assert_eq!(setup.broker.recall("q").await.expect("recalls"), 1);

    assert_eq!(names(&take(&*consumer, 1).await), ["a"]);
    nothing(&setup, &*consumer).await;
}

pub(crate) async fn a_broadcast_that_is_over_is_not_heard(setup: Setup) {
    let mut listener = setup.broker.listen("pidbox").await.expect("listens");
    setup.broker.broadcast("pidbox", "", message("over"), MINUTE).await.expect("sends");
    setup.advance(MINUTE);
    setup.broker.sweep().await.expect("sweeps");

    setup.broker.broadcast("pidbox", "", message("new"), MINUTE).await.expect("sends");

    assert_eq!(listener.next().await.expect("hears"), message("new"));
}

pub(crate) async fn sweep_keeps_what_lives(setup: Setup) {
    setup.publish("q", &["a", "b"]).await;
    setup.broker.publish(vec![due("q", "p", START.after(MINUTE))]).await.expect("publishes");
    setup.backend.store(vec![crate::setup::record("t", "SUCCESS")]).await.expect("stores");
    let consumer = setup.consumer("w", &["q"]).await;
    let held = take(&*consumer, 1).await;

    setup.broker.sweep().await.expect("sweeps");

    assert_eq!(commit(&*consumer, &held[0], Settle::Ack).await, Committed::Done);
    assert_eq!(names(&take(&*consumer, 1).await), ["b"]);
    setup.advance(MINUTE / 2);
    consumer.renew().await.expect("renews");
    setup.advance(MINUTE / 2);
    assert_eq!(names(&take(&*consumer, 1).await), ["p"]);
    assert!(setup.backend.read(&["t".to_owned()]).await.expect("reads")[0].is_some());
}

pub(crate) async fn what_may_still_be_run_is_searched_for_texts(setup: Setup) {
    setup.publish("q", &["claimed-one", "dead-one", "gone-one"]).await;
    let consumer = setup.consumer("w", &["q"]).await;
    let taken = take(&*consumer, 3).await;
    let dead = Settle::Dead(DeadReason::Rejected, "no".into());
    assert_eq!(commit(&*consumer, &taken[1], dead).await, Committed::Done);
    assert_eq!(commit(&*consumer, &taken[2], Settle::Ack).await, Committed::Done);
    setup.publish("q", &["ready-one"]).await;
    setup.broker.publish(vec![due("q", "parked-one", START.after(MINUTE))]).await.expect("publishes");
    let mut headed = publication("q", "x");
    headed.message.headers = r#"{"task": "t", "group": "in-headers"}"#.into();
    setup.broker.publish(vec![headed]).await.expect("publishes");

    let texts = ["claimed-one", "dead-one", "gone-one", "ready-one", "parked-one", "in-headers"];
    let texts = texts.map(ToString::to_string);
    let found = setup.broker.mentions(&texts).await.expect("looks");

    assert_eq!(found, Some(vec![true, false, false, true, true, true]));
}

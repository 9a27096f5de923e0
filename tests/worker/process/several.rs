//! Children with several slots: neighbours, limits, losses.

use super::*;

fn of_many(processes: usize, slots: usize) -> ProcessPool {
    let options = options(processes, roles::server_of_many());
    ProcessPool::new(ProcessPoolOptions { slots: Some(slots), ..options }).unwrap()
}

fn limited(tag: RequestTag, order: &str, millis: u64) -> Execution {
    Execution { hard_limit: Some(Duration::from_millis(millis)), ..execution(tag, order) }
}

fn began(wanted: &[RequestTag]) -> impl Fn(&[PoolEvent]) -> bool {
    move |events| {
        let has = |wanted: &RequestTag| {
            events.iter().any(|event| matches!(event, PoolEvent::Began { tag, .. } if tag == wanted))
        };
        wanted.iter().all(has)
    }
}

fn evicted(events: &[PoolEvent]) -> Vec<RequestTag> {
    let tag = |event: &PoolEvent| match event {
        PoolEvent::Evicted(tag) => Some(*tag),
        _ => None,
    };
    events.iter().filter_map(tag).collect()
}

#[tokio::test]
async fn one_process_runs_as_many_requests_at_a_time_as_it_has_slots() {
    let mut pool = of_many(1, 8);
    assert_eq!(pool.slots(), 8);

    let orders = (1..=8).map(|tag| execution(tag, "wait")).collect();
    let events = play(&mut pool, orders, began(&[1, 2, 3, 4, 5, 6, 7, 8])).await;

    assert_eq!(pool.free(false), 0);
    assert_eq!(pool.pids().len(), 1);
    assert!(ended(&events).is_empty());
    end(pool).await;
}

#[tokio::test]
async fn short_requests_are_read_ahead_and_each_ends_once() {
    let mut pool = of_many(2, 4);

    let events = play(&mut pool, (1..=2000).map(|tag| short(tag, "ok")).collect(), all_ended(2000)).await;

    let finished = events.iter().filter(|event| matches!(event, PoolEvent::Finished(..))).count();
    assert_eq!(finished, 2000);
    end(pool).await;
}

#[tokio::test]
async fn a_request_over_its_hard_limit_is_ended_alone_where_it_can_be() {
    let mut pool = of_many(1, 2);
    let orders = VecDeque::from([limited(1, "wait", 100), execution(2, "sleep 1500")]);

    let events = play(&mut pool, orders, all_ended(2)).await;

    assert_eq!(lost(&events, 1).0, Some(0.1));
    assert_eq!(outcome(&events, 2).kind, OutcomeKind::Success);
    assert!(!events.iter().any(|event| matches!(event, PoolEvent::ChildReplaced { .. })));
    // Its slot is free again.
    let both = VecDeque::from([execution(3, "wait"), execution(4, "wait")]);
    play(&mut pool, both, began(&[3, 4])).await;
    end(pool).await;
}

#[tokio::test]
async fn a_process_with_a_request_that_cannot_be_ended_is_replaced_after_its_neighbours_have_ended() {
    let mut pool = of_many(1, 3);
    let orders = VecDeque::from([limited(1, "hang", 100), execution(2, "sleep 2500")]);
    let replaced = |events: &[PoolEvent]| {
        events.iter().any(|event| matches!(event, PoolEvent::ChildReplaced { died: false, .. }))
    };

    let mut events = play(&mut pool, orders, replaced).await;
    let neighbour_runs = ended(&events).len() == 1;
    events.extend(play(&mut pool, VecDeque::from([execution(3, "ok")]), all_ended(1)).await);
    if !ended(&events).contains_key(&2) {
        events.extend(play(&mut pool, VecDeque::new(), all_ended(1)).await);
    }

    assert!(neighbour_runs, "{events:?}");
    assert_eq!(lost(&events, 1).0, Some(0.1));
    assert_eq!(outcome(&events, 2).kind, OutcomeKind::Success);
    assert_ne!(outcome(&events, 2).summary, outcome(&events, 3).summary, "another process serves meanwhile");
    assert!(evicted(&events).is_empty());
    end(pool).await;
}

#[tokio::test]
async fn all_that_run_in_a_process_are_lost_with_it_and_what_has_not_begun_comes_back() {
    let mut pool = of_many(1, 3);
    let orders = VecDeque::from([execution(1, "wait"), execution(2, "wait")]);
    let mut events = play(&mut pool, orders, began(&[1, 2])).await;

    events.extend(play(&mut pool, VecDeque::from([execution(3, "die")]), all_ended(3)).await);

    for tag in [1, 2, 3] {
        assert_eq!(lost(&events, tag).2, "signal 6 (SIGABRT)");
    }
    let events = play(&mut pool, VecDeque::from([execution(4, "ok")]), all_ended(1)).await;
    assert_eq!(outcome(&events, 4).kind, OutcomeKind::Success);
    end(pool).await;
}

#[tokio::test]
async fn a_terminated_request_is_lost_at_once_and_can_be_concluded_beside_its_old_run() {
    let mut pool = of_many(1, 2);
    play(&mut pool, VecDeque::from([execution(1, "hang")]), began(&[1])).await;

    pool.terminate(1, 15);
    let events = play(&mut pool, VecDeque::new(), all_ended(1)).await;
    let conclusion = Execution { mode: Mode::Revoked("terminated".into()), ..execution(1, "ok") };
    let concluded = play(&mut pool, VecDeque::from([conclusion]), all_ended(1)).await;

    assert!(lost(&events, 1).1);
    assert_eq!(outcome(&concluded, 1).kind, OutcomeKind::Success);
    end(pool).await;
}

#[tokio::test]
async fn slots_are_added_and_taken_away_while_requests_run() {
    let mut pool = of_many(1, 1);
    play(&mut pool, VecDeque::from([execution(1, "sleep 1000")]), began(&[1])).await;
    assert_eq!(pool.free(false), 0);

    pool.resize(3).unwrap();
    let mut events =
        play(&mut pool, VecDeque::from([execution(2, "wait"), execution(3, "wait")]), began(&[2, 3])).await;
    pool.resize(2).unwrap();

    assert_eq!((pool.slots(), pool.free(false)), (2, 0));
    if !ended(&events).contains_key(&1) {
        events = play(&mut pool, VecDeque::new(), all_ended(1)).await;
    }
    assert_eq!(outcome(&events, 1).kind, OutcomeKind::Success);
    assert_eq!(pool.free(false), 0);
    end(pool).await;
}

#[tokio::test]
async fn a_size_is_that_of_all_processes_together() {
    let mut pool = of_many(2, 2);

    let sizes = [5, 5, 1].map(|size| {
        pool.resize(size).unwrap();
        pool.slots()
    });

    assert_eq!(sizes, [6, 4, 2]);
    end(pool).await;
}

#[tokio::test]
async fn a_process_that_has_run_enough_ends_what_it_runs_while_the_next_one_works() {
    let options = options(1, roles::server_of_many());
    let options = ProcessPoolOptions { slots: Some(4), max_tasks_per_child: Some(6), ..options };
    let mut pool = ProcessPool::new(options).unwrap();

    let orders = (1..=30).map(|tag| execution(tag, "sleep 5")).collect();
    let events = play(&mut pool, orders, all_ended(30)).await;

    let mut by_pid = HashMap::<_, u32>::new();
    for tag in 1..=30 {
        *by_pid.entry(outcome(&events, tag).summary.clone()).or_default() += 1;
    }
    assert!(by_pid.len() >= 5 && by_pid.values().all(|count| *count <= 6), "{by_pid:?}");
    end(pool).await;
}

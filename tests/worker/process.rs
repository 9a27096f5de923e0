//! The process pool with real processes and no Python: this test binary plays the fork server and the children.

mod renewal;
mod roles;
mod several;

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use celeriac::protocol::Message;
use celeriac::worker::pool::process::{PoolError, ProcessPool, ProcessPoolOptions, Spawner};
use celeriac::worker::pool::{Execution, Mode, Outcome, OutcomeKind, Pool, PoolEvent, RequestTag};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, timeout};

fn options(concurrency: usize, argv: Vec<OsString>) -> ProcessPoolOptions {
    ProcessPoolOptions {
        processes: concurrency,
        slots: None,
        spawner: Spawner::fork_server(None, Some(argv)),
        max_tasks_per_child: None,
        max_memory_per_child: None,
        hard_limits: true,
    }
}

fn forking(concurrency: usize) -> ProcessPool {
    ProcessPool::new(options(concurrency, roles::server())).unwrap()
}

/// `order` is what the child shall do, see [`roles`].
fn execution(tag: RequestTag, order: &str) -> Execution {
    Execution {
        tag,
        mode: Mode::Run,
        message: Message { body: order.to_owned().into(), ..Message::default() }.into(),
        exchange: "".into(),
        routing_key: "celery".into(),
        queue: None,
        redelivered: false,
        soft_limit: None,
        hard_limit: None,
        short: false,
    }
}

fn short(tag: RequestTag, order: &str) -> Execution {
    Execution { short: true, ..execution(tag, order) }
}

/// Gives executions to the pool as it takes them, and waits until `done` says so of all events.
async fn play(
    pool: &mut ProcessPool,
    mut waiting: VecDeque<Execution>,
    done: impl Fn(&[PoolEvent]) -> bool,
) -> Vec<PoolEvent> {
    let copies: HashMap<_, _> = waiting.iter().map(|execution| (execution.tag, execution.clone())).collect();
    let mut events: Vec<PoolEvent> = Vec::new();
    let all = async {
        let mut seen = 0;
        while !done(&events) {
            // A slow machine makes any request long enough for those behind it to be called back.
            for event in &events[std::mem::replace(&mut seen, events.len())..] {
                if let PoolEvent::Returned(tag) = event {
                    waiting.push_back(copies[tag].clone());
                }
            }
            while let Some(next) = waiting.pop_front() {
                if let Err(back) = pool.submit(next) {
                    waiting.push_front(back);
                    break;
                }
            }
            pool.events(&mut events).await;
        }
    };
    timeout(Duration::from_secs(60), all).await.expect("the pool reports in time");
    events
}

fn ended(events: &[PoolEvent]) -> HashMap<RequestTag, &PoolEvent> {
    let of = |event: &PoolEvent| match event {
        PoolEvent::Finished(tag, _) | PoolEvent::Lost { tag, .. } => Some(*tag),
        _ => None,
    };
    events.iter().filter_map(|event| of(event).map(|tag| (tag, event))).collect()
}

fn all_ended(count: usize) -> impl Fn(&[PoolEvent]) -> bool {
    move |events| ended(events).len() == count
}

fn lost(events: &[PoolEvent], wanted: RequestTag) -> (Option<f64>, bool, String) {
    let find = |event: &PoolEvent| match event {
        PoolEvent::Lost { tag, hard_limit, terminated, how } if *tag == wanted => {
            Some((*hard_limit, *terminated, how.clone()))
        }
        _ => None,
    };
    events.iter().find_map(find).unwrap_or_else(|| panic!("{wanted} is not lost: {events:?}"))
}

fn returned(events: &[PoolEvent]) -> HashSet<RequestTag> {
    let tag = |event: &PoolEvent| match event {
        PoolEvent::Returned(tag) => Some(*tag),
        _ => None,
    };
    events.iter().filter_map(tag).collect()
}

fn outcome(events: &[PoolEvent], wanted: RequestTag) -> &Outcome {
    for event in events {
        match event {
            PoolEvent::Finished(tag, outcome) if *tag == wanted => return outcome,
            _ => {}
        }
    }
    panic!("{wanted} has not finished: {events:?}")
}

async fn end(mut pool: ProcessPool) {
    let pids = pool.pids();
    pool.stop(Duration::ZERO, &mut Vec::new()).await;
    for pid in pids {
        // Reaped by the fork server, which has ended as well.
        let gone = async {
            while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(20), gone).await.expect("children end with the pool");
    }
}

#[tokio::test]
async fn children_run_what_they_are_given_in_parallel_and_in_depth() {
    let mut pool = forking(2);
    let mut made = Vec::new();
    while pool.free(false) < 2 {
        timeout(Duration::from_secs(60), pool.events(&mut made)).await.expect("two children");
    }

    let events = play(&mut pool, (1..=300).map(|tag| short(tag, "ok")).collect(), all_ended(300)).await;

    let pids: HashSet<_> = (1..=300).map(|tag| outcome(&events, tag).summary.clone()).collect();
    assert_eq!(pids.len(), 2);
    end(pool).await;
}

#[tokio::test]
async fn large_requests_and_outcomes_pass_each_other() {
    let mut pool = forking(1);
    let large = format!("echo {}", "x".repeat(4 << 20));

    let events = play(&mut pool, (1..=6).map(|tag| short(tag, &large)).collect(), all_ended(6)).await;

    assert!((1..=6).all(|tag| outcome(&events, tag).results[0].record.len() == large.len()));
    end(pool).await;
}

#[tokio::test]
async fn a_child_over_the_hard_limit_is_killed_and_replaced() {
    let mut pool = forking(1);
    let hangs = Execution { hard_limit: Some(Duration::from_millis(200)), ..execution(1, "hang") };

    let events = play(&mut pool, VecDeque::from([hangs, execution(2, "ok")]), all_ended(2)).await;

    assert_eq!(lost(&events, 1), (Some(0.2), false, "signal 9 (SIGKILL)".into()));
    assert_eq!(outcome(&events, 2).kind, OutcomeKind::Success);
    assert!(events.iter().any(|event| matches!(event, PoolEvent::ChildReplaced { .. })));
    end(pool).await;
}

#[tokio::test]
async fn a_soft_limit_is_told_by_frame_and_by_signal() {
    let mut pool = forking(1);
    let hangs = Execution { soft_limit: Some(Duration::from_millis(100)), ..execution(1, "hang") };

    let events = play(&mut pool, VecDeque::from([hangs]), all_ended(1)).await;

    // The child of this test has no handler for the signal.
    assert_eq!(lost(&events, 1), (None, false, "signal 10 (SIGUSR1)".into()));
    end(pool).await;
}

#[tokio::test]
async fn an_outcome_written_just_before_death_counts() {
    let mut pool = forking(1);
    let replaced =
        |events: &[PoolEvent]| events.iter().any(|event| matches!(event, PoolEvent::ChildReplaced { .. }));

    for tag in 1..=10 {
        let events = play(&mut pool, VecDeque::from([execution(tag, "ok-and-die")]), replaced).await;

        assert_eq!(outcome(&events, tag).kind, OutcomeKind::Success);
        assert!(!events.iter().any(|event| matches!(event, PoolEvent::Lost { .. })));
    }
    end(pool).await;
}

#[tokio::test]
async fn a_death_loses_what_ran_and_returns_what_waited() {
    let mut pool = forking(1);
    let orders = VecDeque::from([short(1, "die"), short(2, "ok"), short(3, "ok")]);

    let events = play(&mut pool, orders, |events| {
        returned(events).is_superset(&HashSet::from([2, 3])) && ended(events).contains_key(&1)
    })
    .await;

    assert_eq!(lost(&events, 1).2, "signal 6 (SIGABRT)");
    end(pool).await;
}

#[tokio::test]
async fn what_waits_behind_a_long_request_is_called_back() {
    let mut pool = forking(1);
    let orders = (1..=20).map(|tag| short(tag, if tag == 3 { "hang" } else { "ok" })).collect();

    // On a slow machine they may be called back from behind the first one already, and are given again.
    let long_runs = |event: &PoolEvent| matches!(event, PoolEvent::Began { tag: 3, .. });
    let events = play(&mut pool, orders, |events| {
        returned(events).is_superset(&(4..=20).collect()) && events.iter().any(long_runs)
    })
    .await;

    assert_eq!(ended(&events).keys().copied().collect::<HashSet<_>>(), HashSet::from([1, 2]));
    let full = async {
        while pool.free(true) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), full).await.expect("nothing is put behind a long request");
    end(pool).await;
}

#[tokio::test]
async fn a_running_request_is_terminated_on_purpose() {
    // Python children take no notice of SIGTERM, so the pool kills instead; other signals go as they are.
    for (tag, signal, seen) in [(1, 15, "signal 9 (SIGKILL)"), (2, 12, "signal 12 (SIGUSR2)")] {
        let mut pool = forking(1);
        let began = |events: &[PoolEvent]| events.iter().any(|event| matches!(event, PoolEvent::Update(..)));
        play(&mut pool, VecDeque::from([execution(tag, "tell-and-hang")]), began).await;

        pool.terminate(tag, signal);
        let events = play(&mut pool, VecDeque::new(), all_ended(1)).await;

        assert_eq!(lost(&events, tag), (None, true, seen.into()));
        end(pool).await;
    }
}

#[tokio::test]
async fn every_request_ends_once_while_children_are_killed_at_random() {
    let mut pool = forking(3);
    let mut waiting: VecDeque<_> = (1..=1_500).map(|tag| short(tag, "ok")).collect();
    let (mut events, mut over) = (Vec::new(), HashMap::<RequestTag, u32>::new());
    let (mut kills, mut next_kill) = (0, Instant::now());
    let deadline = Instant::now() + Duration::from_secs(60);

    while over.len() < 1_500 {
        assert!(Instant::now() < deadline, "{} of 1500 are over after {kills} kills", over.len());
        while let Some(next) = waiting.pop_front() {
            if let Err(back) = pool.submit(next) {
                waiting.push_front(back);
                break;
            }
        }
        if kills < 20
            && Instant::now() >= next_kill
            && let Some(pid) = pool.pids().get(fastrand::usize(0..3))
        {
            kill_process(Pid::from_raw(*pid as i32).unwrap(), Signal::KILL).ok();
            kills += 1;
            next_kill = Instant::now() + Duration::from_millis(fastrand::u64(0..40));
        }
        let _ = timeout(Duration::from_millis(5), pool.events(&mut events)).await;
        for event in events.drain(..) {
            match event {
                PoolEvent::Finished(tag, _) | PoolEvent::Lost { tag, .. } => {
                    *over.entry(tag).or_default() += 1;
                }
                PoolEvent::Returned(tag) => waiting.push_front(short(tag, "ok")),
                PoolEvent::Broken(why) => panic!("{why}"),
                _ => {}
            }
        }
    }

    assert!(kills > 0 && over.values().all(|count| *count == 1));
    end(pool).await;
}

#[tokio::test]
async fn a_child_that_has_run_enough_is_replaced_and_nothing_is_lost() {
    let mut pool =
        ProcessPool::new(ProcessPoolOptions { max_tasks_per_child: Some(4), ..options(1, roles::server()) })
            .unwrap();

    let events = play(&mut pool, (1..=12).map(|tag| short(tag, "ok")).collect(), all_ended(12)).await;

    let mut by_pid = HashMap::<_, u32>::new();
    for tag in 1..=12 {
        *by_pid.entry(outcome(&events, tag).summary.clone()).or_default() += 1;
    }
    assert_eq!(by_pid.values().collect::<Vec<_>>(), [&4, &4, &4]);
    end(pool).await;
}

#[tokio::test]
async fn a_child_that_has_grown_too_large_is_replaced() {
    let mut pool =
        ProcessPool::new(ProcessPoolOptions { max_memory_per_child: Some(1), ..options(1, roles::server()) })
            .unwrap();

    let replaced = |events: &[PoolEvent]| {
        events
            .iter()
            .any(|event| matches!(event, PoolEvent::ChildReplaced { why, .. } if why.contains("memory")))
    };
    play(&mut pool, VecDeque::from([execution(1, "ok")]), replaced).await;
    let events = play(&mut pool, VecDeque::from([execution(2, "ok")]), all_ended(1)).await;

    assert_eq!(outcome(&events, 2).kind, OutcomeKind::Success);
    end(pool).await;
}

#[tokio::test]
async fn another_fork_server_is_started_when_the_first_is_gone() {
    let mut pool = forking(2);
    let events = play(&mut pool, VecDeque::from([execution(1, "parent")]), all_ended(1)).await;
    let server: i32 = outcome(&events, 1).summary.parse().unwrap();

    kill_process(Pid::from_raw(server).unwrap(), Signal::KILL).unwrap();
    let replaced = |events: &[PoolEvent]| {
        events.iter().filter(|event| matches!(event, PoolEvent::ChildReplaced { .. })).count() >= 2
    };
    play(&mut pool, VecDeque::new(), replaced).await;
    let events =
        play(&mut pool, VecDeque::from([execution(2, "ok"), execution(3, "ok")]), all_ended(2)).await;

    assert_eq!(outcome(&events, 3).kind, OutcomeKind::Success);
    end(pool).await;
}

#[tokio::test]
async fn a_pool_that_cannot_make_children_says_so() {
    let mut pool = ProcessPool::new(options(2, vec!["/bin/false".into()])).unwrap();

    let broken = |events: &[PoolEvent]| events.iter().any(|event| matches!(event, PoolEvent::Broken(_)));
    play(&mut pool, VecDeque::new(), broken).await;

    assert_eq!(pool.free(true), 0);
}

#[tokio::test]
async fn a_child_that_sends_nonsense_is_killed() {
    let mut pool = forking(1);

    let events =
        play(&mut pool, VecDeque::from([execution(1, "nonsense"), execution(2, "ok")]), all_ended(2)).await;

    assert!(lost(&events, 1).2.starts_with("it sent"));
    end(pool).await;
}

#[tokio::test]
async fn a_stop_lets_requests_end_until_the_deadline_and_returns_the_rest() {
    let mut pool = forking(2);
    let orders = VecDeque::from([execution(1, "sleep 300"), execution(2, "hang")]);
    let both = |events: &[PoolEvent]| {
        let began =
            |tag| events.iter().any(|event| matches!(event, PoolEvent::Began { tag: of, .. } if *of == tag));
        began(1) && began(2)
    };
    let mut events = play(&mut pool, orders, both).await;

    pool.stop(Duration::from_secs(2), &mut events).await;

    assert_eq!(outcome(&events, 1).kind, OutcomeKind::Success);
    assert_eq!(lost(&events, 2).2, "signal 9 (SIGKILL)");
}

#[tokio::test]
async fn a_fixed_child_runs_requests_and_honours_no_hard_limit() {
    let fixed = || UnixStream::pair().unwrap();
    let with = |stream, concurrency, hard_limits| {
        let options = options(concurrency, Vec::new());
        ProcessPool::new(ProcessPoolOptions { spawner: Spawner::fixed(stream), hard_limits, ..options })
    };
    assert_eq!(with(fixed().0, 1, true).err(), Some(PoolError::HardLimitOnSolo));
    assert_eq!(with(fixed().0, 2, false).err(), Some(PoolError::ConcurrencyOnSolo(2)));
    let (ours, theirs) = fixed();
    let child = std::thread::spawn(move || roles::serve(&theirs));
    let mut pool = with(ours, 1, false).unwrap();

    let events = play(&mut pool, (1..=10).map(|tag| short(tag, "ok")).collect(), all_ended(10)).await;
    pool.stop(Duration::from_secs(1), &mut Vec::new()).await;
    drop(pool);

    child.join().unwrap();
    assert_eq!(outcome(&events, 10).kind, OutcomeKind::Success);
}

//! Growing, shrinking, restarting and reloading, with nothing lost.

use super::*;

/// Keeps a pool busy with requests of a few milliseconds, and changes it in between.
async fn busy_while(pool: &mut ProcessPool, change: impl Fn(&mut ProcessPool, usize)) -> HashSet<String> {
    let mut pids = HashSet::new();
    for round in 0..6 {
        change(pool, round);
        let tags = 1 + 40 * round as u64..=40 * (round as u64 + 1);
        let orders = tags.clone().map(|tag| execution(tag, "sleep 2")).collect();
        let events = play(pool, orders, all_ended(40)).await;
        for tag in tags {
            assert_eq!(outcome(&events, tag).kind, OutcomeKind::Success);
            pids.insert(outcome(&events, tag).summary.clone());
        }
    }
    pids
}

/// Lets the pool do what it has to until it has this many children, all set up.
async fn settle(pool: &mut ProcessPool, children: usize) {
    let idle = async {
        while pool.free(false) != children || pool.pids().len() != children {
            let mut events = Vec::new();
            let _ = timeout(Duration::from_millis(20), pool.events(&mut events)).await;
        }
    };
    timeout(Duration::from_secs(60), idle).await.expect("the pool settles");
}

#[tokio::test]
async fn a_pool_grows_and_shrinks_under_load_and_loses_nothing() {
    let mut pool = forking(2);

    let sizes = [2, 5, 1, 4, 3, 2];
    busy_while(&mut pool, |pool, round| pool.resize(sizes[round]).unwrap()).await;

    assert_eq!(pool.slots(), 2);
    settle(&mut pool, 2).await;
    assert!(pool.resize(0).is_err());
    end(pool).await;
}

#[tokio::test]
async fn a_restart_replaces_every_child_and_loses_nothing() {
    let mut pool = forking(3);
    play(&mut pool, VecDeque::from([execution(1000, "ok")]), all_ended(1)).await;
    settle(&mut pool, 3).await;
    let before: HashSet<_> = pool.pids().into_iter().collect();

    busy_while(&mut pool, |pool, round| {
        if round == 1 {
            pool.restart(false).unwrap();
        }
    })
    .await;
    let replaced = async {
        while pool.pids().iter().any(|pid| before.contains(pid)) {
            let _ = timeout(Duration::from_millis(20), pool.events(&mut Vec::new())).await;
        }
    };
    timeout(Duration::from_secs(60), replaced).await.expect("all are replaced");

    settle(&mut pool, 3).await;
    end(pool).await;
}

#[tokio::test]
async fn a_reload_takes_children_from_another_fork_server_and_lets_a_long_request_end() {
    let mut pool = forking(2);
    let events = play(&mut pool, VecDeque::from([execution(1, "parent")]), all_ended(1)).await;
    let old = outcome(&events, 1).summary.clone();
    let long =
        |events: &[PoolEvent]| events.iter().any(|event| matches!(event, PoolEvent::Began { tag: 2, .. }));
    play(&mut pool, VecDeque::from([execution(2, "sleep 3000")]), long).await;

    pool.restart(true).unwrap();
    assert!(pool.restart(true).is_err(), "one at a time");
    let mut seen = Vec::new();
    let reloaded = async {
        for tag in 3.. {
            let events = play(&mut pool, VecDeque::from([execution(tag, "parent")]), |events| {
                ended(events).contains_key(&tag)
            })
            .await;
            let server = outcome(&events, tag).summary.clone();
            seen.extend(events);
            if server != old {
                break;
            }
        }
    };
    timeout(Duration::from_secs(60), reloaded).await.expect("children of the new server work");
    if !ended(&seen).contains_key(&2) {
        seen.extend(play(&mut pool, VecDeque::new(), |events| ended(events).contains_key(&2)).await);
    }

    assert_eq!(outcome(&seen, 2).kind, OutcomeKind::Success);
    settle(&mut pool, 2).await;
    end(pool).await;
}

#[tokio::test]
async fn a_reload_that_fails_changes_nothing() {
    // The command starts a fork server once, and fails after that.
    let folder = std::env::temp_dir().join(format!("celeriac-reload-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let once = "mkdir \"$0\" 2>/dev/null || exit 1; exec \"$@\"";
    let start = ["sh".into(), "-c".into(), once.into(), folder.join("started").into_os_string()];
    let argv = start.into_iter().chain(roles::server()).collect();
    let mut pool = ProcessPool::new(options(2, argv)).unwrap();
    play(&mut pool, VecDeque::from([execution(1, "ok")]), all_ended(1)).await;
    settle(&mut pool, 2).await;
    let before: HashSet<_> = pool.pids().into_iter().collect();

    pool.restart(true).unwrap();
    let failed =
        |events: &[PoolEvent]| events.iter().any(|event| matches!(event, PoolEvent::ReloadFailed(_)));
    play(&mut pool, VecDeque::new(), failed).await;

    let events = play(&mut pool, VecDeque::from([execution(2, "ok")]), all_ended(1)).await;
    assert_eq!(outcome(&events, 2).kind, OutcomeKind::Success);
    assert_eq!(pool.pids().into_iter().collect::<HashSet<_>>(), before);
    std::fs::remove_dir_all(&folder).unwrap();
    end(pool).await;
}

#[tokio::test]
async fn the_solo_pool_says_why_it_stays_as_it_is() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let options = ProcessPoolOptions { hard_limits: false, ..options(1, Vec::new()) };
    let mut pool = ProcessPool::new(ProcessPoolOptions { spawner: Spawner::fixed(ours), ..options }).unwrap();

    assert!(pool.resize(2).unwrap_err().contains("solo"));
    assert!(pool.restart(false).unwrap_err().contains("--pool prefork"));
}

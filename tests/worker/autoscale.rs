//! Slots that follow the work, and requests that lose their process through no fault of their own.

use std::time::Duration;

use celeriac::worker::pool::Mode;
use celeriac::worker::pool::scripted::{End, Scene, ScriptedPool, usual};
use celeriac::worker::{AutoscaleOptions, Stop, WorkerOptions};
use tokio::time::Instant;

use crate::common::{World, early, late, messages, modes, options, outcome, pause, pool, starts};

#[tokio::test(start_paused = true)]
async fn slots_grow_at_once_with_the_work_and_go_when_they_were_not_needed_for_a_while() {
    let world = World::new();
    let pool = pool(1, Duration::from_secs(1));
    let played = pool.played();
    let keepalive = Duration::from_secs(30);
    let bounds = AutoscaleOptions { max: 5, min: 1, keepalive };
    let worker = world.start(WorkerOptions { autoscale: Some(bounds), ..options(&[("t", early())]) }, pool);
    let scalings = |worker: &crate::common::Running| {
        worker.log().into_iter().filter(|line| line.starts_with("Scaling")).collect::<Vec<_>>()
    };

    let from = Instant::now();
    world.publish(messages("t", 10)).await;
    world.drained().await;
    let grown = scalings(&worker);
    pause(40_000).await;
    let shrunk = scalings(&worker);

    worker.stop(Stop::Warm).await;
    let begun = starts(&played, from);
    let at_once = begun.iter().filter(|(_, millis)| *millis < 500).count();
    assert_eq!((at_once, begun.len()), (5, 10), "{begun:?}");
    assert!(grown.last().is_some_and(|line| line.ends_with("to 5 slots")), "{grown:?}");
    assert_eq!(shrunk, ["Scaling from 5 to 1 slots"]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_lost_its_process_to_a_neighbour_runs_again_only_if_it_is_not_acknowledged() {
    for (task, expected) in [(late(), Some(Mode::Run)), (early(), None)] {
        let world = World::new();
        let mut first = true;
        let pool = ScriptedPool::new(1, move |execution| {
            if std::mem::take(&mut first) {
                return Scene { after: Duration::from_secs(1), end: End::Evicted };
            }
            Scene::outcome(outcome(execution, usual(&execution.mode)))
        });
        let played = pool.played();
        let worker = world.start(options(&[("t", task)]), pool);

        world.publish(messages("t", 1)).await;
        world.drained().await;

        worker.stop(Stop::Warm).await;
        assert!(world.dead().await.is_empty());
        let modes = modes(&played, "t-0");
        assert_eq!(modes.len(), 2, "{modes:?}");
        match expected {
            Some(mode) => assert_eq!(modes[1], mode),
            None => {
                assert!(matches!(&modes[1], Mode::Lost(how) if how.contains("another task")), "{modes:?}");
            }
        }
    }
}

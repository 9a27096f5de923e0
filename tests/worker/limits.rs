//! Time limits: where they come from, and what happens when they pass.

use std::time::Duration;

use celeriac::worker::pool::Mode;
use celeriac::worker::pool::scripted::{Scene, ScriptedPool, usual};
use celeriac::worker::{Stop, TaskOptions};
use serde_json::json;

use crate::common::{World, early, late, message, messages, modes, options, outcome, pool};

#[tokio::test(start_paused = true)]
async fn a_task_over_its_hard_limit_is_concluded_as_timed_out() {
    for (task, again) in
        [(early(), false), (late(), false), (TaskOptions { acks_on_timeout: false, ..late() }, true)]
    {
        let world = World::new();
        let mut hangs = true;
        let pool = ScriptedPool::new(1, move |execution| {
            if execution.mode == Mode::Run && std::mem::take(&mut hangs) {
                return Scene::hangs();
            }
            Scene::outcome(outcome(execution, usual(&execution.mode)))
        });
        let played = pool.played();
        let limited = TaskOptions { time_limit: Some(Duration::from_secs(2)), ..task };
        let worker = world.start(options(&[("t", limited)]), pool);

        world.publish(messages("t", 1)).await;
        world.drained().await;

        worker.stop(Stop::Warm).await;
        let mut expected = vec![Mode::Run, Mode::TimedOut(2.0)];
        if again {
            expected.push(Mode::Run);
        }
        assert_eq!(modes(&played, "t-0"), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn limits_come_from_the_header_then_the_task_then_the_worker() {
    let world = World::new();
    let pool = pool(1, Duration::ZERO);
    let played = pool.played();
    let own = TaskOptions { time_limit: Some(Duration::from_secs(20)), ..early() };
    let mut options = options(&[("own", own), ("none", early())]);
    options.time_limit = Some(Duration::from_secs(30));
    options.soft_time_limit = Some(Duration::from_secs(3));
    let worker = world.start(options, pool);

    world
        .publish(vec![
            message("own", "a", json!({"timelimit": [10, 1.5]})),
            message("own", "b", json!({"timelimit": [null, null]})),
            message("none", "c", json!({})),
        ])
        .await;
    world.drained().await;

    worker.stop(Stop::Warm).await;
    let seconds = |limit: Option<Duration>| limit.unwrap().as_secs_f64();
    let limits: Vec<_> = (played.lock().iter())
        .map(|(_, execution)| (seconds(execution.hard_limit), seconds(execution.soft_limit)))
        .collect();
    assert_eq!(limits, [(10.0, 1.5), (20.0, 3.0), (30.0, 3.0)]);
}

//! Periodic tasks on `RabbitMQ`: the lease goes with its connection.

use std::time::Duration;

use celeriac::broker::{Fired, Firing, ScheduleLease};
use celeriac::driver::ConnectOptions;

use crate::rabbit::shared;
use crate::schedules::hold;
use crate::setup::{in_time, publication};

const TTL: Duration = Duration::from_secs(5);

fn firing(holder: &str, due_ms: i64) -> Firing {
    Firing {
        schedule: "proj".to_owned(),
        holder: holder.to_owned(),
        lease: TTL,
        entry: "e".to_owned(),
        due_ms,
        state: String::new(),
        publications: vec![publication("q", "it")],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_in_line_takes_over_when_the_connection_of_a_holder_is_gone() {
    // Outside: the first test of a run starts the node.
    let host = shared().host();
    in_time(async {
        let (first, second) =
            (host.broker(ConnectOptions::default()), host.broker(ConnectOptions::default()));
        hold(&*first, "a").await;
        assert_eq!(first.fire(&firing("a", 1000)).await.expect("answers"), Fired::Sent);
        let asked = second.schedule_lease("proj", "b", TTL).await.expect("answers");
        assert_eq!(asked, ScheduleLease::Other(None));

        // As when its process is killed: its connections end.
        drop(first);
        hold(&*second, "b").await;

        let state = second.schedule_state("proj").await.expect("answers");
        assert_eq!(state.entries["e"].due_ms, 1000);
        assert_eq!(second.fire(&firing("b", 1000)).await.expect("answers"), Fired::Already);
        assert_eq!(second.fire(&firing("b", 2000)).await.expect("answers"), Fired::Sent);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_whose_connection_the_server_closed_sends_nothing_before_it_has_asked_again() {
    // Outside: the first test of a run starts the node.
    let host = shared().host();
    in_time(async {
        let broker = host.broker(ConnectOptions::default());
        hold(&*broker, "a").await;
        assert_eq!(broker.fire(&firing("a", 1000)).await.expect("answers"), Fired::Sent);

        shared().later(&["close_all_connections", "-p", &host.name, "test"]).await;
        // The first call may be the one that notices.
        let fired = loop {
            if let Ok(fired) = broker.fire(&firing("a", 2000)).await {
                break fired;
            }
        };

        assert_eq!(fired, Fired::NotHolder);
        hold(&*broker, "a").await;
        assert_eq!(broker.fire(&firing("a", 2000)).await.expect("answers"), Fired::Sent);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_that_change_and_read_at_once_lose_no_change() {
    // Outside: the first test of a run starts the node.
    let host = shared().host();
    in_time(async {
        let brokers = [host.broker(ConnectOptions::default()), host.broker(ConnectOptions::default())];
        let change = async |broker: usize| {
            for number in 0..5 {
                let entry = format!("{broker}-{number}");
                let noted = brokers[broker].schedule_change("proj", &entry, Some("paused".to_owned())).await;
                noted.expect("notes it");
                let state = brokers[broker].schedule_state("proj").await.expect("answers");
                assert!(state.changes.contains_key(&entry), "{state:?}");
            }
        };

        tokio::join!(change(0), change(1));

        assert_eq!(brokers[0].schedule_state("proj").await.expect("answers").changes.len(), 10);
    })
    .await;
}

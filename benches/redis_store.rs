//! What the Redis driver takes: `cargo bench --bench redis_store [-- URL]`; without a URL on a server of its own.
//!
//! Tasks look like Celery's (800 bytes of headers, results of 200 bytes). CPU is that of this whole process, and of the
//! server as it counts it itself.

mod common;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use celeriac::broker::{Broker, Commit, Consumer, ConsumerOptions, Credit, Settle};
use celeriac::driver::ConnectOptions;
use celeriac::driver::redis::RedisBroker;
use celeriac::protocol::ResultRecord;
use common::{cpu, id, options, publication};

const BATCH: usize = 100;
const TASKS: usize = 20_000;
const TRIPS: usize = 2_000;

/// A server that ends with this process.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn main() {
    let given = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let port = free_port();
    let (url, _server) = match given {
        Some(url) => (url, None),
        None => (format!("redis://127.0.0.1:{port}/0"), Some(start(port))),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let broker = RedisBroker::connect(&url, &ConnectOptions::default()).expect("the URL is one");
        let mut bench = Bench { url, broker };
        bench.one_by_one().await;
        bench.through(false).await;
        bench.through(true).await;
        bench.trips().await;
    });
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    listener.local_addr().expect("it is bound").port()
}

fn start(port: u16) -> Server {
    let port_text = port.to_string();
    let arguments = ["--port", &port_text, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    let child = Command::new("redis-server").args(arguments).stdout(Stdio::null()).spawn();
    let server = Server(child.expect("there is a redis-server"));
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "the server does not start");
        std::thread::yield_now();
    }
    server
}

/// A moment: wall time, our CPU, the server's CPU and commands.
struct Moment {
    wall: Instant,
    ours: Duration,
    server: f64,
    commands: u64,
}

struct Bench {
    url: String,
    broker: RedisBroker,
}

impl Bench {
    fn now(&self) -> Moment {
        let client = redis::Client::open(self.url.as_str()).expect("the URL is one");
        let mut connection = client.get_connection().expect("connects");
        let info: String = redis::cmd("INFO").arg("everything").query(&mut connection).expect("tells");
        let number = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim().parse::<f64>().ok()).unwrap_or(0.0)
        };
        let calls = |line: &str| {
            line.strip_prefix("cmdstat_")?.split_once("calls=")?.1.split(',').next()?.parse::<u64>().ok()
        };
        Moment {
            wall: Instant::now(),
            ours: cpu(),
            server: number("used_cpu_user:") + number("used_cpu_sys:"),
            commands: info.lines().filter_map(calls).sum(),
        }
    }

    fn report(&self, what: &str, tasks: usize, since: &Moment) {
        let (wall, ours) =
            (since.wall.elapsed().as_secs_f64(), cpu().saturating_sub(since.ours).as_secs_f64());
        let now = self.now();
        let tasks = tasks as f64;
        println!(
            "  {what:<40} {:>8.0}/s {:>6.1} µs CPU here {:>6.1} µs in Redis {:>5.2} commands each",
            tasks / wall,
            ours / tasks * 1e6,
            (now.server - since.server) / tasks * 1e6,
            (now.commands - since.commands) as f64 / tasks
        );
    }

    async fn one_by_one(&mut self) {
        self.broker.publish(vec![publication(0)]).await.expect("publishes");
        let since = self.now();
        for number in 0..TRIPS {
            self.broker.publish(vec![publication(number)]).await.expect("publishes");
        }
        self.report("publish, one by one", TRIPS, &since);
        self.broker.purge("celery").await.expect("purges");
    }

    async fn through(&mut self, with_results: bool) {
        let since = self.now();
        for first in (0..TASKS).step_by(BATCH) {
            self.broker.publish((first..first + BATCH).map(publication).collect()).await.expect("publishes");
        }
        self.report("publish, batches of 100", TASKS, &since);
        let consumer = self
            .broker
            .consume(ConsumerOptions { results: Some("0:".to_owned()), ..options() })
            .await
            .expect("consumes");
        let (mut done, since) = (0, self.now());
        while done < TASKS {
            done += round(&*consumer, done, with_results).await;
        }
        let what =
            if with_results { "claim(100) + commit(100 with result)" } else { "claim(100) + commit(100)" };
        self.report(what, TASKS, &since);
        consumer.close().await.expect("closes");
    }

    /// From the push to the claim of a consumer that waits.
    async fn trips(&mut self) {
        let consumer = self
            .broker
            .consume(ConsumerOptions { results: Some("0:".to_owned()), ..options() })
            .await
            .expect("consumes");
        let since = self.now();
        let mut times = Vec::with_capacity(TRIPS);
        for number in 0..TRIPS {
            let waits = consumer.claim(Credit { count: 10, bytes: usize::MAX });
            let publish = async {
                // It waits by now, or nearly.
                tokio::time::sleep(Duration::from_millis(1)).await;
                let sent = Instant::now();
                self.broker.publish(vec![publication(number)]).await.expect("publishes");
                sent
            };
            let (claimed, sent) =
                tokio::join!(async { (waits.await.expect("claims"), Instant::now()) }, publish);
            times.push(claimed.1.duration_since(sent));
            let acks: Vec<Commit> =
                claimed.0.iter().map(|delivery| done(delivery.claim, Vec::new())).collect();
            consumer.commit(&acks).await.expect("commits");
        }
        self.report("publish, wake, claim, commit", TRIPS, &since);
        times.sort();
        println!("  {:<40} p50 {:?}, p99 {:?}", "push to claim", times[TRIPS / 2], times[TRIPS * 99 / 100]);
    }
}

async fn round(consumer: &dyn Consumer, number: usize, with_results: bool) -> usize {
    let claimed = consumer.claim(Credit { count: BATCH, bytes: usize::MAX }).await.expect("claims");
    let commits = claimed.iter().enumerate().map(|(at, claimed)| {
        let result = ResultRecord {
            task_id: id(number + at),
            state: "SUCCESS".to_owned(),
            record: format!(r#"{{"status": "SUCCESS", "result": "{}"}}"#, "r".repeat(165)).into(),
            content_type: "application/json".to_owned(),
            expires_ms: Some(86_400_000),
            reply_to: None,
            retain: None,
        };
        done(claimed.claim, if with_results { vec![result] } else { Vec::new() })
    });
    let commits: Vec<Commit> = commits.collect();
    consumer.commit(&commits).await.expect("commits");
    commits.len()
}

fn done(claim: celeriac::broker::ClaimId, results: Vec<ResultRecord>) -> Commit {
    Commit { claim: Some(claim), settle: Settle::Ack, results, ..Commit::default() }
}

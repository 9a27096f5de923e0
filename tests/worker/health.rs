//! The health address: who asks gets an answer, whatever the worker does.

use std::time::Duration;

use celeriac::clock::Clock;
use celeriac::driver::memory::MemoryStore;
use celeriac::worker::pool::scripted::ScriptedPool;
use celeriac::worker::{Stop, Worker, WorkerError, WorkerHandle, WorkerOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::common::{early, message, options};

const PATIENCE: Duration = Duration::from_secs(20);

struct Up {
    address: String,
    store: MemoryStore,
    handle: WorkerHandle,
    join: JoinHandle<Result<celeriac::worker::Exit, WorkerError>>,
}

/// A worker with a health address, in the machine's time: sockets do not wait for a stopped clock.
async fn up() -> Up {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let store = MemoryStore::new(Clock::system());
    let options = WorkerOptions { health_address: Some(address.clone()), ..options(&[("t", early())]) };
    let pool = Box::new(ScriptedPool::succeeding(1));
    let shared = std::sync::Arc::new(store.clone());
    let worker = Worker::new(options, shared.clone(), Some(shared), pool, Clock::system());
    let handle = worker.handle();
    let join = tokio::spawn(worker.run());
    Up { address, store, handle, join }
}

impl Up {
    async fn say(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }

    async fn get(&self, path: &str) -> String {
        self.say(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
    }

    /// Asks until the answer has something in it.
    async fn until(&self, path: &str, wanted: &str) -> String {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Ok(stream) = TcpStream::connect(&self.address).await {
                drop(stream);
                let answer = self.get(path).await;
                if answer.contains(wanted) {
                    return answer;
                }
                assert!(tokio::time::Instant::now() < deadline, "{path} never has {wanted:?}:\n{answer}");
            }
            assert!(tokio::time::Instant::now() < deadline, "nobody listens");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn a_worker_that_takes_work_is_live_and_ready_and_counts() {
    let up = up().await;
    assert!(up.until("/ready", "200 OK").await.ends_with("\r\n\r\nok\n"));
    assert!(up.get("/live").await.starts_with("HTTP/1.1 200 OK\r\n"));
    let publication = celeriac::protocol::Publication {
        routing_key: "celery".into(),
        message: message("t", "1", serde_json::json!({})),
        ..Default::default()
    };
    celeriac::broker::Broker::publish(&up.store, vec![publication]).await.unwrap();
    let metrics = up.until("/metrics", "celery_task_succeeded_total{name=\"t\",hostname=\"test\"} 1").await;
    for line in [
        "celery_worker_up{hostname=\"test\"} 1",
        "celery_task_received_total{name=\"t\",hostname=\"test\"} 1",
        "celery_task_started_total{name=\"t\",hostname=\"test\"} 1",
        "celery_task_runtime_count{name=\"t\",hostname=\"test\"} 1",
        "celeriac_worker_ready 1",
        "celeriac_finished_total 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in {metrics}");
    }
    up.handle.stop(Stop::Warm);
    tokio::time::timeout(PATIENCE, up.join).await.unwrap().unwrap().unwrap();
    assert!(TcpStream::connect(&up.address).await.is_err(), "it listens after its end");
}

#[tokio::test]
async fn requests_that_are_too_long_odd_or_never_end_are_refused() {
    let up = up().await;
    up.until("/live", "200 OK").await;

    assert!(up.say("POST /live HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405 "));
    assert!(up.say("GET /nothing HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404 "));
    assert!(
        up.say(&format!("GET /live HTTP/1.1\r\nX: {}", "y".repeat(8192))).await.starts_with("HTTP/1.1 400 ")
    );
    let head = up.say("HEAD /metrics HTTP/1.1\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");

    // Those who connect and say nothing are few at a time, and are sent away in a while.
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(&up.address).await.unwrap());
    }
    assert!(up.get("/live").await.starts_with("HTTP/1.1 200 "));
    up.handle.stop(Stop::Warm);
    tokio::time::timeout(PATIENCE, up.join).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn an_address_in_use_ends_the_worker_with_a_clear_error() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let store = std::sync::Arc::new(MemoryStore::new(Clock::system()));
    let options = WorkerOptions { health_address: Some(address.clone()), ..options(&[]) };
    let pool = Box::new(ScriptedPool::succeeding(1));
    let error = Worker::new(options, store, None, pool, Clock::system()).run().await.unwrap_err();
    assert!(error.to_string().contains(&format!("health address {address}")), "{error}");
}

//! HTTP tasks and webhooks: a worker, real sockets on loopback, names that resolve as the test says.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use celeriac::backoff::Backoff;
use celeriac::broker::{Broker, DeadReason};
use celeriac::protocol::{NewTask, Publication};
use celeriac::worker::http::{Guard, HttpOptions, Resolve, Resolver, Secrets};
use celeriac::worker::pool::scripted::{Scene, ScriptedPool};
use celeriac::worker::{Stop, TaskOptions, WorkerOptions};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::common::{World, messages, until};

/// Answers with one address after another, the last one again and again, and counts how often it is asked.
struct Names {
    answers: Vec<IpAddr>,
    asked: Mutex<usize>,
}

#[async_trait]
impl Resolve for Names {
    async fn resolve(&self, _host: &str) -> io::Result<Vec<IpAddr>> {
        let mut asked = self.asked.lock();
        *asked += 1;
        Ok(vec![self.answers[(*asked - 1).min(self.answers.len() - 1)]])
    }
}

fn names(answers: &[&str]) -> Arc<Names> {
    let answers = answers.iter().map(|address| address.parse().unwrap()).collect();
    Arc::new(Names { answers, asked: Mutex::new(0) })
}

/// Answers every request the same, and keeps their heads.
struct Server {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(address: &str, answers: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let kept = heads.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                    if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                        break;
                    }
                }
                let number = {
                    let mut kept = kept.lock();
                    kept.push(String::from_utf8_lossy(&head).to_ascii_lowercase());
                    kept.len() - 1
                };
                let answer = answers[number.min(answers.len() - 1)];
                let text = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                let _ = stream.write_all(text.as_bytes()).await;
            }
        });
        Self { port, heads }
    }

    fn count(&self) -> usize {
        self.heads.lock().len()
    }
}

fn options(allow: &[&str], resolver: Arc<dyn Resolve>) -> WorkerOptions {
    let allow: Vec<_> = allow.iter().map(|entry| (*entry).to_owned()).collect();
    let http = HttpOptions {
        guard: Arc::new(Guard::new(&allow).unwrap()),
        resolver: Resolver(resolver),
        backoff: Backoff { base: Duration::from_millis(5), max: Duration::from_millis(5), jitter: 0.0 },
        webhook_schedule: vec![Duration::from_millis(5); 2],
        secrets: Secrets::new(&["secret".to_owned()], &BTreeMap::new()),
        ..HttpOptions::default()
    };
    WorkerOptions { http: Some(http), ..WorkerOptions::default() }
}

async fn publish(world: &World, queue: &str, id: &str, kwargs: &str) {
    let message = NewTask::new("celeriac.http", id).message("[]", kwargs);
    let publication = Publication { routing_key: queue.into(), message, ..Publication::default() };
    world.store.publish(vec![publication]).await.unwrap();
}

async fn record(world: &World, id: &str) -> String {
    until("the result is stored", async || {
        world.result(id).await.is_some_and(|record| record.state == "SUCCESS" || record.state == "FAILURE")
    })
    .await;
    String::from_utf8(world.result(id).await.unwrap().record.to_vec()).unwrap()
}

#[tokio::test]
async fn the_address_that_was_checked_is_the_one_that_is_called() {
    let world = World::new();
    let public = Server::start("127.0.0.2:0", &["200 OK"]).await;
    let private = Server::start(&format!("127.0.0.1:{}", public.port), &["200 OK"]).await;
    // Whoever controls the name answers with another address the second time it is asked.
    let names = names(&["127.0.0.2", "127.0.0.1"]);
    let running = world.start(options(&["127.0.0.2"], names.clone()), ScriptedPool::succeeding(1));
    let url = format!(r#"{{"url": "http://rebind.example:{}/"}}"#, public.port);

    publish(&world, "celeriac.http", "first", &url).await;
    assert!(record(&world, "first").await.contains(r#""status": 200"#));
    assert_eq!((*names.asked.lock(), public.count()), (1, 1));

    publish(&world, "celeriac.http", "second", &url).await;
    let refused = record(&world, "second").await;
    assert!(refused.contains("HttpRefused") && refused.contains("loopback"), "{refused}");
    assert_eq!((*names.asked.lock(), public.count(), private.count()), (2, 1, 0));
    running.stop(Stop::Warm).await;
}

#[tokio::test]
async fn a_name_that_resolves_to_a_private_address_is_refused() {
    let world = World::new();
    let server = Server::start("127.0.0.1:0", &["200 OK"]).await;
    let running =
        world.start(options(&["10.0.0.0/8"], names(&["::ffff:127.0.0.1"])), ScriptedPool::succeeding(1));

    publish(
        &world,
        "celeriac.http",
        "a",
        &format!(r#"{{"url": "http://a.example:{}/?token=sesame"}}"#, server.port),
    )
    .await;

    let refused = record(&world, "a").await;
    assert!(refused.contains("HttpRefused") && !refused.contains("sesame"), "{refused}");
    assert_eq!(server.count(), 0);
    running.stop(Stop::Warm).await;
}

#[tokio::test]
async fn a_webhook_is_tried_again_with_the_same_id_and_then_becomes_a_dead_letter() {
    let world = World::new();
    let server = Server::start("127.0.0.1:0", &["503 Busy"]).await;
    let running = world.start(options(&["hook.example"], names(&["127.0.0.1"])), ScriptedPool::succeeding(1));
    let sign = r#""sign": {"id": "msg_7", "webhook": true}"#;
    let url = format!("http://hook.example:{}/", server.port);

    publish(&world, "celeriac.webhooks", "a", &format!(r#"{{"url": "{url}", "payload": 1, {sign}}}"#)).await;

    until("it is a dead letter", async || !world.dead().await.is_empty()).await;
    let letter = world.dead().await.remove(0);
    assert_eq!((letter.reason.as_str(), server.count()), (DeadReason::Rejected.as_str(), 3));
    assert!(letter.detail.contains("503"), "{}", letter.detail);
    for head in server.heads.lock().iter() {
        assert!(head.contains("webhook-id: msg_7") && head.contains("webhook-signature: v1,"), "{head}");
    }
    running.stop(Stop::Warm).await;
}

#[tokio::test]
async fn arguments_that_cannot_be_read_become_a_dead_letter_without_their_content() {
    let world = World::new();
    let running = world.start(options(&[], names(&["127.0.0.1"])), ScriptedPool::succeeding(1));

    publish(&world, "celeriac.http", "a", r#"{"url": ["sesame"]}"#).await;

    until("it is a dead letter", async || !world.dead().await.is_empty()).await;
    let letter = world.dead().await.remove(0);
    assert_eq!(letter.reason, DeadReason::Malformed.as_str());
    assert!(!letter.detail.contains("sesame"), "{}", letter.detail);
    assert!(record(&world, "a").await.contains("InvalidTaskError"));
    running.stop(Stop::Warm).await;
}

#[tokio::test]
async fn calls_take_nothing_from_tasks_and_wait_for_none() {
    let world = World::new();
    let server = Server::start("127.0.0.1:0", &["200 OK"]).await;
    let tasks = HashMap::from([("t".to_owned(), TaskOptions::default())]);
    let options = WorkerOptions { tasks, ..options(&["127.0.0.1"], names(&["127.0.0.1"])) };
    // The only slot never becomes free.
    let hangs = ScriptedPool::new(1, |_| Scene::hangs());
    let running = world.start(options, hangs);
    world.publish(messages("t", 2)).await;

    publish(
        &world,
        "celeriac.http",
        "a",
        &format!(r#"{{"url": "http://127.0.0.1:{}/", "method": "GET"}}"#, server.port),
    )
    .await;

    assert!(record(&world, "a").await.contains(r#""status": 200"#));
    running.stop(Stop::Cold).await;
}

//! The file between real processes: this test's own executable, started again as a helper.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use celeriac::broker::{Broker, Commit, ConsumerOptions, Settle};
use celeriac::clock::Clock;
use celeriac::driver::sqlite::{SqliteOptions, SqliteStore};

use crate::setup::{credit, in_time, name, names, options, publication, settle, take};
use crate::sqlite::open;

/// So long that nothing here comes back by its end.
const LONG: Duration = Duration::from_secs(24 * 60 * 60);
const PUBLISHERS: usize = 4;
const CONSUMERS: usize = 2;
const EACH: usize = 1000;

/// A helper; it is killed when the test is done with it.
struct Helper(Child);

impl Helper {
    fn start(role: &str, file: &Path) -> Self {
        Self::command(&std::env::current_exe().expect("a path"), role, file).into()
    }

    fn command(program: &Path, role: &str, file: &Path) -> Command {
        let mut command = Command::new(program);
        command.args(["--exact", "--ignored", "--nocapture", "sqlite_processes::helper"]);
        command.env("CELERIAC_TEST_ROLE", role).env("CELERIAC_TEST_FILE", file);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }

    /// What it says; ends when it ends.
    fn lines(&mut self) -> impl Iterator<Item = String> + Send + 'static {
        let lines = BufReader::new(self.0.stdout.take().expect("is a pipe")).lines().map_while(Result::ok);
        lines.filter_map(|line| line.split_once("> ").map(|(_, said)| said.to_owned()))
    }

    /// Kills it and leaves it a zombie, as a supervisor does that is slow to collect it.
    fn kill(&mut self) {
        self.0.kill().expect("kills");
    }
}

impl From<Command> for Helper {
    fn from(mut command: Command) -> Self {
        Self(command.spawn().expect("starts"))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "> {what}").and_then(|()| out.flush()).expect("someone listens");
}

/// Not a test by itself: what the helpers run.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by other tests as a process of its own"]
async fn helper() {
    let role = std::env::var("CELERIAC_TEST_ROLE").expect("a role");
    let file = std::env::var("CELERIAC_TEST_FILE").expect("a file");
    let file = Path::new(&file);
    let (role, argument) = role.split_once(' ').unwrap_or((&role, ""));
    match role {
        "claim" => claim(&open(file, &Clock::system()), argument).await,
        "publish" => publish(&open(file, &Clock::system()), argument).await,
        "consume" => consume(&open(file, &Clock::system()), argument).await,
        "open" => match SqliteStore::open(SqliteOptions::new(file)) {
            Ok(_) => say("opened"),
            Err(error) => say(&error.to_string()),
        },
        other => panic!("unknown role {other}"),
    }
}

fn long(node: &str) -> ConsumerOptions {
    ConsumerOptions { lease: LONG, ..options(node, &["q"]) }
}

/// Claims all there is, begins the first, and waits for its end.
async fn claim(store: &SqliteStore, node: &str) {
    let consumer = store.consume(long(node)).await.expect("consumes");
    let taken = consumer.claim(credit(10)).await.expect("claims");
    let begun = Commit { begun: true, ..settle(&taken[0], Settle::Keep) };
    consumer.commit(&[begun]).await.expect("commits");
    say(&format!("claimed {}", taken.len()));
    std::future::pending::<()>().await;
}

async fn publish(store: &SqliteStore, who: &str) {
    for first in (0..EACH).step_by(5) {
        let batch = (first..first + 5).map(|number| publication("q", &format!("{who}-{number}")));
        store.publish(batch.collect()).await.expect("publishes");
    }
    say("published");
}

/// Says what it has acknowledged, until it is killed.
async fn consume(store: &SqliteStore, node: &str) {
    let consumer = store.consume(long(node)).await.expect("consumes");
    loop {
        let taken = consumer.claim(credit(20)).await.expect("claims");
        let acks: Vec<Commit> = taken.iter().map(|delivery| settle(delivery, Settle::Ack)).collect();
        consumer.commit(&acks).await.expect("commits");
        for delivery in &taken {
            say(&name(delivery));
        }
    }
}

async fn said(helper: &mut Helper, wanted: &'static str) {
    let mut lines = helper.lines();
    let found = tokio::task::spawn_blocking(move || lines.find(|line| line == wanted));
    assert!(in_time(found).await.expect("reads").is_some(), "the helper never said {wanted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_gives_its_claims_back_at_once_to_whoever_waits_on_the_host() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("store.db");
    let store = open(&file, &Clock::system());
    store.publish(["a", "b", "c"].map(|name| publication("q", name)).to_vec()).await.expect("publishes");
    let mut helper = Helper::start("claim celery@helper", &file);
    said(&mut helper, "claimed 3").await;
    let consumer = store.consume(long("celery@other")).await.expect("consumes");
    let mut claim = consumer.claim(credit(10));
    assert!(tokio::time::timeout(Duration::from_millis(1500), &mut claim).await.is_err(), "it lives");

    helper.kill();

    let taken = in_time(claim).await.expect("claims");
    assert_eq!(names(&taken), ["a", "b", "c"]);
    assert_eq!(taken.iter().map(|delivery| delivery.crashes).collect::<Vec<_>>(), [1, 0, 0]);
    assert!(taken.iter().all(|delivery| delivery.redelivered));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_starts_again_finds_the_claims_of_the_killed_one() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("store.db");
    let store = open(&file, &Clock::system());
    store.publish(["a", "b"].map(|name| publication("q", name)).to_vec()).await.expect("publishes");
    let mut helper = Helper::start("claim celery@helper", &file);
    said(&mut helper, "claimed 2").await;
    helper.kill();
    helper.0.wait().expect("ends");

    let consumer = store.consume(long("celery@helper")).await.expect("consumes");

    let claimed =
        futures_util::FutureExt::now_or_never(store.queues()).expect("does not wait").expect("lists");
    assert_eq!((claimed[0].ready, claimed[0].claimed), (2, 0));
    assert_eq!(names(&in_time(take(&*consumer, 2)).await), ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn four_processes_publish_and_two_consume_each_message_once() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("store.db");
    let store = open(&file, &Clock::system());
    let (sender, mut receiver) = tokio::sync::mpsc::channel(100);
    let mut consumers: Vec<Helper> =
        (0..CONSUMERS).map(|number| Helper::start(&format!("consume c{number}"), &file)).collect();
    for (number, consumer) in consumers.iter_mut().enumerate() {
        let (lines, sender) = (consumer.lines(), sender.clone());
        std::thread::spawn(move || {
            lines.take_while(|line| sender.blocking_send((number, line.clone())).is_ok()).for_each(drop);
        });
    }
    let mut publishers: Vec<Helper> =
        (0..PUBLISHERS).map(|number| Helper::start(&format!("publish p{number}"), &file)).collect();

    let mut seen: HashMap<String, usize> = HashMap::new();
    let collect = async {
        while seen.len() < PUBLISHERS * EACH {
            let (consumer, message) = receiver.recv().await.expect("consumers live");
            assert_eq!(seen.insert(message.clone(), consumer), None, "{message} came twice");
        }
    };
    tokio::time::timeout(Duration::from_secs(120), collect).await.expect("all come in time");

    for publisher in &mut publishers {
        said(publisher, "published").await;
    }
    let counts = &store.queues().await.expect("lists")[0];
    assert_eq!((counts.ready, counts.claimed, counts.dead), (0, 0, 0));
    assert!(seen.values().any(|consumer| *consumer == 0) && seen.values().any(|consumer| *consumer == 1));
}

#[test]
fn a_read_only_file_is_told_at_once() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("store.db");
    drop(open(&file, &Clock::system()));
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("sets");
    };
    mode(directory.path(), 0o555);
    mode(&file, 0o444);
    let program = std::env::current_exe().expect("a path");
    let mut command = Helper::command(&program, "open", &file);
    if rustix::process::getuid().is_root() {
        // No mode stops root.
        command.uid(65534).gid(65534);
    }

    let said: Vec<String> = Helper::from(command).lines().collect();

    mode(directory.path(), 0o755);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("read-only") || said[0].contains("cannot be opened"), "{said:?}");
}

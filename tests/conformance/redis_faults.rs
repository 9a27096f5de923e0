//! Redis under faults and behind locks: restarts, stalls, failover, passwords, TLS, sockets, clusters.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use celeriac::backend::{BackendError, ResultBackend};
use celeriac::client::Client;
use celeriac::driver::{ConnectOptions, connect_backend};
use celeriac::protocol::ResultRecord;

use crate::redis_backend::{connect, state};
use crate::servers::{Daemon, RedisServer, free_port, require, until};
use crate::setup::{in_time, record};

fn with(url: &str, transport: &serde_json::Value) -> Arc<dyn ResultBackend> {
    let transport = transport.as_object().expect("options are an object").clone();
    let options = ConnectOptions { transport, ..ConnectOptions::default() };
    connect_backend(url, options).expect("the URL is one")
}

async fn store(backend: &dyn ResultBackend, task_id: &str) -> Result<(), BackendError> {
    backend.store(vec![record(task_id, "SUCCESS")]).await
}

/// Stores as a caller does who may try again.
async fn store_in_time(backend: &dyn ResultBackend, task_id: &str) {
    in_time(async {
        while let Err(error) = store(backend, task_id).await {
            assert!(error.is_transient(), "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_outlasts_a_restart_of_the_server() {
    let mut server = RedisServer::start(&[]);
    let url = server.url(0);
    let client = Arc::new(Client::new("memory://restart", Some(&url), ConnectOptions::default()));
    let waits = |ids: &[&str]| {
        let (client, ids) = (client.clone(), ids.iter().map(ToString::to_string).collect());
        tokio::spawn(async move { client.wait_ready(ids, Some(Duration::from_secs(25))).await })
    };
    let (told, found) = (waits(&["message"]), waits(&["stored", "other"]));
    let mut looking = server.connection(0);
    until("both wait", || {
        let count: Vec<(String, u32)> = redis::cmd("PUBSUB")
            .arg("NUMSUB")
            .arg(&["celery-task-meta-message", "celery-task-meta-stored"])
            .query(&mut looking)
            .expect("reads");
        count.iter().all(|(_, count)| *count == 1)
    });
    drop(looking);

    server.stop();
    assert!(server.resume(), "it starts again");

    let backend = connect(&url);
    store_in_time(&*backend, "stored").await;
    store_in_time(&*backend, "message").await;
    let ids =
        |records: Vec<ResultRecord>| records.into_iter().map(|record| record.task_id).collect::<Vec<_>>();
    assert_eq!(ids(in_time(told).await.expect("runs").expect("its result comes")), ["message"]);
    assert_eq!(ids(in_time(found).await.expect("runs").expect("its result comes")), ["stored"]);
}

#[tokio::test]
async fn a_server_that_stalls_costs_a_call_its_deadline_and_no_more() {
    let server = RedisServer::start(&[]);
    let backend =
        with(&server.url(0), &serde_json::json!({"socket_timeout": 0.2, "socket_connect_timeout": 0.2}));
    store(&*backend, "before").await.expect("stores");
    server.pause();

    let error = in_time(store(&*backend, "during")).await.expect_err("nobody answers");
    assert!(
        matches!(error, BackendError::Timeout { after, .. } if after == Duration::from_millis(200)),
        "{error}"
    );
    let error = in_time(store(&*backend, "during")).await.expect_err("nobody lets us in");
    assert!(error.is_transient() && error.to_string().contains("connecting"), "{error}");

    server.unpause();
    store_in_time(&*backend, "after").await;
    assert_eq!(state(&*backend, "after").await.as_deref(), Some("SUCCESS"));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_that_passes() {
    let port = free_port();
    let quick = serde_json::json!({"socket_connect_timeout": 0.2});
    let backend = with(&format!("redis://:hunter2@127.0.0.1:{port}/0"), &quick);
    let error = store(&*backend, "t").await.expect_err("nobody listens");
    assert!(matches!(error, BackendError::Unavailable { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("refused") && text.contains(&port.to_string()) && !text.contains("hunter2"),
        "{text}"
    );
    let mut watch = backend.watch(vec!["t".to_owned()]).await.expect("watches");
    let error = in_time(watch.next()).await.expect_err("nobody listens");
    assert!(error.is_transient(), "{error}");
}

#[tokio::test]
async fn a_server_that_becomes_a_replica_is_left() {
    let server = RedisServer::start(&[]);
    let backend = connect(&server.url(0));
    store(&*backend, "a").await.expect("stores");
    let mut setting = server.connection(0);
    let mut replicate = |host: &str, port: &str| {
        redis::cmd("REPLICAOF").arg(host).arg(port).exec(&mut setting).expect("sets");
    };
    let nobody = free_port().to_string();
    replicate("127.0.0.1", &nobody);

    let error = store(&*backend, "b").await.expect_err("it is read-only");

    assert!(
        matches!(&error, BackendError::Unavailable { reason, .. } if reason.starts_with("READONLY")),
        "{error}"
    );
    replicate("NO", "ONE");
    store(&*backend, "b").await.expect("stores");
}

#[tokio::test]
async fn a_password_is_needed_checked_and_never_told() {
    let server = RedisServer::start(&[
        "--requirepass",
        "hunter2",
        "--user",
        "app",
        "on",
        ">hunter3",
        "~*",
        "&*",
        "+@all",
        "-mget",
    ]);
    let url = |login: &str| format!("redis://{login}127.0.0.1:{}/0", server.port);
    let right = connect(&url(":hunter2@"));
    store(&*right, "t").await.expect("stores");
    assert_eq!(state(&*right, "t").await.as_deref(), Some("SUCCESS"));

    for (login, says) in [(":hunter9@", "password"), ("app:hunter9@", "password"), ("", "password")] {
        let error = store(&*connect(&url(login)), "t").await.expect_err("it is refused");
        assert!(matches!(error, BackendError::Broken { .. }), "{error}");
        assert!(error.to_string().contains(says) && !error.to_string().contains("hunter9"), "{error}");
    }
    let error = connect(&url("app:hunter3@")).read(&["t".to_owned()]).await.expect_err("it may not");
    assert!(matches!(error, BackendError::Refused { .. }), "{error}");
    let mut watch = connect(&url(":hunter9@")).watch(vec!["t".to_owned()]).await.expect("watches");
    let error = in_time(watch.next()).await.expect_err("it is refused");
    assert!(matches!(error, BackendError::Broken { .. }), "told at once: it does not pass: {error}");
}

#[tokio::test]
async fn a_unix_socket_is_as_good() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let socket = directory.path().join("redis.sock");
    let server = RedisServer::start(&["--unixsocket", &socket.display().to_string()]);
    let backend = connect(&format!("redis+socket://{}?virtual_host=3", socket.display()));

    store(&*backend, "t").await.expect("stores");

    assert_eq!(state(&*connect(&server.url(3)), "t").await.as_deref(), Some("SUCCESS"));
}

/// A certificate for `localhost`, and the authority that signed it.
pub(crate) fn make_certificates(directory: &Path) {
    require("openssl", "apt-get install openssl");
    let run = |line: &str| {
        let done = Command::new("openssl")
            .args(line.split(' '))
            .current_dir(directory)
            .output()
            .expect("openssl runs");
        assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    };
    std::fs::write(directory.join("names"), "subjectAltName=DNS:localhost\n").expect("writes");
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    run(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority"));
    run(&format!("req {key} -keyout server.key -out server.csr -subj /CN=server"));
    run(
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile names",
    );
}

/// A server that speaks TLS on the port besides, with the certificates of `file`.
pub(crate) fn tls_server(more: &[&str], file: &dyn Fn(&str) -> String) -> (RedisServer, u16) {
    let port = free_port();
    let [number, certificate, key, ca] =
        [port.to_string(), file("server.pem"), file("server.key"), file("ca.pem")];
    let mut options = vec!["--tls-port", &number, "--tls-cert-file", &certificate];
    options.extend(["--tls-key-file", &key, "--tls-ca-cert-file", &ca]);
    options.extend(more);
    (RedisServer::start(&options), port)
}

#[tokio::test]
async fn tls_checks_what_it_is_asked_to_check() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    make_certificates(directory.path());
    let file = |name: &str| directory.path().join(name).display().to_string();
    let (_server, port) = tls_server(&["--tls-auth-clients", "optional"], &file);
    let ours = format!("ssl_ca_certs={}", file("ca.pem"));
    let with_key = format!("{ours}&ssl_certfile={}&ssl_keyfile={}", file("server.pem"), file("server.key"));
    let good = [
        ("localhost", format!("ssl_cert_reqs=required&{ours}")),
        ("localhost", format!("ssl_cert_reqs=CERT_OPTIONAL&{with_key}")),
        ("127.0.0.1", format!("ssl_check_hostname=false&{ours}")),
        ("127.0.0.1", "ssl_cert_reqs=none".to_owned()),
    ];
    for (host, query) in good {
        let backend = connect(&format!("rediss://{host}:{port}/0?{query}"));
        store(&*backend, "t").await.unwrap_or_else(|error| panic!("{host} {query}: {error}"));
    }
    let bad = [
        ("localhost", "ssl_cert_reqs=required".to_owned(), "UnknownIssuer"),
        ("localhost", "ssl_check_hostname=false".to_owned(), "UnknownIssuer"),
        ("127.0.0.1", ours, "not valid for name"),
    ];
    for (host, query, says) in bad {
        let error =
            store(&*connect(&format!("rediss://{host}:{port}/0?{query}")), "t").await.expect_err("no trust");
        assert!(
            matches!(error, BackendError::Broken { .. }) && error.to_string().contains(says),
            "{query}: {error}"
        );
    }
    let error = store(&*connect(&format!("rediss://localhost:{port}/0?ssl_ca_certs=/none.pem")), "t").await;
    assert!(matches!(&error, Err(BackendError::Config(text)) if text.contains("/none.pem")), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinel_leads_to_the_new_master_after_a_failover() {
    let quick = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"];
    let mut master = RedisServer::start(&quick);
    let of_master = ["--replicaof", &format!("127.0.0.1 {}", master.port)];
    let replica = RedisServer::start(&[&quick[..], &of_master].concat());
    let info = |server: &RedisServer, what: &str| {
        let said: String =
            redis::cmd("INFO").arg("replication").query(&mut server.connection(0)).expect("reads");
        said.contains(what)
    };
    until("the replica follows", || info(&replica, "master_link_status:up"));
    let (sentinel, _running) = start_sentinel(master.port);
    let nobody = free_port();
    let url = format!("sentinel://127.0.0.1:{nobody};sentinel://127.0.0.1:{sentinel}/0");
    let backend = with(&url, &serde_json::json!({"master_name": "mymaster"}));
    let mut watch = backend.watch(vec!["after".to_owned()]).await.expect("watches");
    store(&*backend, "before").await.expect("stores");
    until("the replica has it", || {
        redis::cmd("EXISTS").arg("celery-task-meta-before").query(&mut replica.connection(0)).expect("reads")
    });

    master.stop();

    store_in_time(&*backend, "after").await;
    assert!(info(&replica, "role:master"));
    assert_eq!(state(&*backend, "before").await.as_deref(), Some("SUCCESS"));
    let told = in_time(async {
        loop {
            match watch.next().await {
                Ok(told) => break told,
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
        }
    });
    assert_eq!(told.await, [record("after", "SUCCESS")]);
}

/// One Sentinel that decides alone, and knows the replica.
fn start_sentinel(master: u16) -> (u16, (Daemon, tempfile::TempDir)) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let port = free_port();
    let settings = format!(
        "port {port}\nbind 127.0.0.1\nsentinel monitor mymaster 127.0.0.1 {master} 1\n\
         sentinel down-after-milliseconds mymaster 300\nsentinel failover-timeout mymaster 3000\n"
    );
    let file = directory.path().join("sentinel.conf");
    std::fs::write(&file, settings).expect("writes");
    let args = [file.display().to_string(), "--sentinel".to_owned()];
    let daemon = Daemon::start("redis-server", &args, directory.path());
    until("Sentinel knows the replica", || {
        assert!(daemon.is_alive(), "{}", daemon.output());
        let Ok(client) = redis::Client::open(format!("redis://127.0.0.1:{port}")) else { return false };
        let Ok(mut connection) = client.get_connection() else { return false };
        let known = redis::cmd("SENTINEL").arg("replicas").arg("mymaster").query(&mut connection);
        known.is_ok_and(|known: Vec<redis::Value>| !known.is_empty())
    });
    (port, (daemon, directory))
}

#[tokio::test]
async fn sentinel_that_does_not_know_the_name_says_so() {
    let server = RedisServer::start(&[]);
    let backend =
        with(&format!("sentinel://127.0.0.1:{}/0", server.port), &serde_json::json!({"master_name": "x"}));
    let error = store(&*backend, "t").await.expect_err("it is no Sentinel");
    assert!(error.is_transient() && error.to_string().contains("no Sentinel says where \"x\" is"), "{error}");
}

#[tokio::test]
async fn a_cluster_is_followed_to_the_node_that_has_the_slot() {
    let start =
        || RedisServer::start(&["--cluster-enabled", "yes", "--cluster-port", &free_port().to_string()]);
    let (here, there) = (start(), start());
    let cluster = |server: &RedisServer, words: &[&str]| -> redis::Value {
        redis::cmd("CLUSTER").arg(words).query(&mut server.connection(0)).expect("does it")
    };
    let redis::Value::Int(slot) = cluster(&here, &["KEYSLOT", "{celery}"]) else { panic!("no slot") };
    cluster(&here, &["ADDSLOTSRANGE", "0", &(slot - 1).to_string()]);
    cluster(&there, &["ADDSLOTSRANGE", &slot.to_string(), "16383"]);
    let bus: Vec<String> =
        redis::cmd("CONFIG").arg("GET").arg("cluster-port").query(&mut there.connection(0)).expect("reads");
    cluster(&here, &["MEET", "127.0.0.1", &there.port.to_string(), &bus[1]]);
    let is_up = |server: &RedisServer| {
        let info: String = redis::cmd("CLUSTER").arg("INFO").query(&mut server.connection(0)).expect("reads");
        info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:2")
    };
    until("the cluster is up", || is_up(&here) && is_up(&there));

    let tagged = with(&here.url(0), &serde_json::json!({"global_keyprefix": "{celery}:"}));
    let mut watch = tagged.watch(vec!["b".to_owned()]).await.expect("watches");
    tagged.store(vec![record("a", "SUCCESS"), record("b", "SUCCESS")]).await.expect("stores");
    assert_eq!(in_time(watch.next()).await.expect("watches"), [record("b", "SUCCESS")]);
    let stored: u32 = redis::cmd("DBSIZE").query(&mut there.connection(0)).expect("reads");
    assert_eq!(stored, 2, "both are on the node of their slot");

    for ids in [&["a", "b", "c", "d"][..], &["a"], &["b"], &["c"]] {
        let records = ids.iter().map(|id| record(id, "SUCCESS")).collect();
        if let Err(error) = connect(&here.url(0)).store(records).await {
            assert!(matches!(&error, BackendError::Config(text) if text.contains("hash tag")), "{error}");
            return;
        }
    }
    panic!("no key without a tag was elsewhere");
}

#[test]
fn wrong_urls_and_options_are_told_before_anything_is_connected() {
    let refused = |url: &str| match connect_backend(url, ConnectOptions::default()) {
        Err(BackendError::Config(text)) => text,
        Err(error) => panic!("{url}: {error}"),
        Ok(_) => panic!("{url} was taken"),
    };
    assert!(refused("sentinel://h:26379/0").contains("master_name"));
    assert!(refused("redis://:hunter2@h/main").contains("must be a number"));
    assert!(!refused("redis://:hunter2@h/main").contains("hunter2"));
    assert!(refused("rediss://h/0?ssl_cert_reqs=maybe").contains("ssl_cert_reqs"));
}

//! A private `RabbitMQ` for each test process: on free ports of the loopback interface, in a directory of its own, gone
//! with the process even if that is killed.

use std::io::Read as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use celeriac::backend::{BackendError, ResultBackend, Watch};
use celeriac::broker::Broker;
use celeriac::clock::Clock;
use celeriac::driver::{ConnectOptions, ReplyOptions, connect_backend, connect_broker};
use celeriac::protocol::{Queue, ResultRecord, Topology};

use tokio::sync::{Mutex, MutexGuard};

use crate::setup::{START, Setup};

/// Virtual hosts that are made ahead: each test takes one.
const HOSTS: usize = 96;
const STARTS_WITHIN: Duration = Duration::from_secs(90);
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// A node that all tests share.
static SHARED: LazyLock<Rabbit> = LazyLock::new(|| Rabbit::start(HOSTS));
/// A node for tests that stop it, or change what concerns everyone on it; one at a time.
static ALONE: LazyLock<Mutex<Rabbit>> = LazyLock::new(|| Mutex::new(Rabbit::start(12)));

/// A running node.
pub(crate) struct Rabbit {
    directory: tempfile::TempDir,
    port: u16,
    ports: [u16; 2],
    next_host: AtomicUsize,
    /// Its watchdog, which ends the node when the pipe to it is closed, by us or by our death.
    _watchdog: Child,
    _pipe: ChildStdin,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

/// Starts the node, waits for the end of its input, and ends the node with everything it started.
const WATCHDOG: &str = r#"
"$0" >"$HOME/out" 2>&1 </dev/null &
cat >/dev/null
kill -9 "$(cat "$RABBITMQ_PID_FILE")" $! 2>/dev/null
sleep 0.2
epmd -kill >/dev/null 2>&1
rm -rf "$HOME"
kill -9 -$$
"#;

impl Rabbit {
    fn start(hosts: usize) -> Self {
        assert!(
            Path::new(SERVER).exists(),
            "{SERVER} is missing: install it with `apt-get install rabbitmq-server`, its service may stay off"
        );
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (port, ports) = (free_port(), [free_port(), free_port()]);
        let mut command = Command::new("sh");
        command.args(["-c", WATCHDOG, SERVER]).stdin(Stdio::piped()).stdout(Stdio::null());
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut rabbit = {
            environment(&mut command, directory.path(), port, ports);
            let mut watchdog = command.spawn().expect("a shell starts");
            let pipe = watchdog.stdin.take().expect("it has a pipe");
            let next_host = AtomicUsize::new(0);
            Self { directory, port, ports, next_host, _watchdog: watchdog, _pipe: pipe }
        };
        rabbit.wait_until_up();
        rabbit.ctl(&["eval", &format!(
            "[begin V = list_to_binary(\"t\" ++ integer_to_list(N)), ok = rabbit_vhost:add(V, <<\"test\">>), \
             rabbit_auth_backend_internal:set_permissions(<<\"guest\">>, V, <<\".*\">>, <<\".*\">>, <<\".*\">>, \
             <<\"test\">>) end || N <- lists:seq(1, {hosts})]."
        )]);
        rabbit
    }

    fn wait_until_up(&mut self) {
        let deadline = Instant::now() + STARTS_WITHIN;
        loop {
            if let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", self.port)) {
                // It answers a wrong greeting with its own, once it is ready.
                let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
                let _ = std::io::Write::write_all(&mut stream, b"AMQP\x00\x00\x00\x00");
                let mut greeting = [0; 4];
                if stream.read_exact(&mut greeting).is_ok() && &greeting == b"AMQP" {
                    return;
                }
            }
            let log = || std::fs::read_to_string(self.directory.path().join("out")).unwrap_or_default();
            assert!(Instant::now() < deadline, "RabbitMQ does not start: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Asks the node itself.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("rabbitmqctl runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "rabbitmqctl {arguments:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// The same while the test goes on.
    pub(crate) async fn later(&self, arguments: &[&str]) {
        let mut command = self.command(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().expect("rabbitmqctl runs"));
        let output = output.await.expect("it ends");
        assert!(output.status.success(), "rabbitmqctl: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("/usr/lib/rabbitmq/bin/rabbitmqctl");
        command.arg("-q").args(arguments).stdin(Stdio::null());
        environment(&mut command, self.directory.path(), self.port, self.ports);
        command
    }

    /// A virtual host that no test has used.
    pub(crate) fn host(&self) -> Host {
        let number = self.next_host.fetch_add(1, Ordering::Relaxed) + 1;
        Host { name: format!("t{number}"), url: format!("amqp://127.0.0.1:{}/t{number}", self.port) }
    }
}

fn environment(command: &mut Command, directory: &Path, port: u16, ports: [u16; 2]) {
    let at = |name: &str| directory.join(name);
    command
        .env("HOME", directory)
        .env("RABBITMQ_NODENAME", format!("celeriac{port}@localhost"))
        .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODE_PORT", port.to_string())
        .env("RABBITMQ_DIST_PORT", ports[0].to_string())
        .env("ERL_EPMD_PORT", ports[1].to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_MNESIA_BASE", at("mnesia"))
        .env("RABBITMQ_LOG_BASE", at("log"))
        .env("RABBITMQ_PID_FILE", at("pid"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", at("plugins"))
        .env("RABBITMQ_CONFIG_FILE", at("none"))
        .env("RABBITMQ_CTL_DIST_PORT_MIN", "0")
        .env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none",
        )
        .env("RABBITMQ_CTL_ERL_ARGS", "+S 1:1 +sbwt none");
}

/// The node of all tests.
pub(crate) fn shared() -> &'static Rabbit {
    &SHARED
}

/// The node that a test may stop.
pub(crate) async fn alone() -> MutexGuard<'static, Rabbit> {
    ALONE.lock().await
}

/// A virtual host of one test.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) url: String,
}

impl Host {
    pub(crate) fn broker(&self, options: ConnectOptions) -> Arc<dyn Broker> {
        connect_broker(&self.url, options).expect("the URL is right")
    }

    pub(crate) fn backend(&self, options: ConnectOptions) -> Arc<dyn ResultBackend> {
        connect_backend(&self.url, options).expect("the URL is right")
    }

    /// As the worker of an app with these queues.
    pub(crate) fn worker(&self, queues: Vec<Queue>) -> Arc<dyn Broker> {
        self.broker(options(queues))
    }
}

/// Of an app with these queues.
pub(crate) fn options(queues: Vec<Queue>) -> ConnectOptions {
    let mut topology = Topology { delayed_queue_type: "classic".to_owned(), ..Topology::default() };
    for queue in queues {
        topology.queues.insert(queue.name.clone(), Arc::new(queue));
    }
    ConnectOptions { topology: Arc::new(topology), ..ConnectOptions::default() }
}

/// A store for the suites: results go to a reply queue. The clock stands still for what only this process looks at.
pub(crate) fn setup() -> Setup {
    with_queues(Vec::new())
}

/// The same with a queue of ten priorities.
pub(crate) fn priorities() -> Setup {
    let mut queue = Queue { name: "q".to_owned(), routing_key: "q".to_owned(), ..Queue::default() };
    queue.arguments.insert("x-max-priority".to_owned(), 9.into());
    with_queues(vec![queue])
}

fn with_queues(queues: Vec<Queue>) -> Setup {
    let host = shared().host();
    let clock = Clock::manual(START);
    let broker = host.broker(ConnectOptions { clock: clock.clone(), ..options(queues) });
    let reply =
        ReplyOptions { queue: Some("replies".to_owned()), persistent: true, expires_ms: Some(60_000) };
    let backend = host.backend(ConnectOptions { clock: clock.clone(), reply, ..ConnectOptions::default() });
    Setup::of(broker, Arc::new(Addressed(backend)), clock)
}

/// Stores results for ourselves, as a worker does that was asked by us.
struct Addressed(Arc<dyn ResultBackend>);

#[async_trait::async_trait]
impl ResultBackend for Addressed {
    async fn store(&self, batch: Vec<ResultRecord>) -> Result<(), BackendError> {
        self.0.prepare().await?;
        let address = |record| ResultRecord { reply_to: Some("replies".to_owned()), ..record };
        self.0.store(batch.into_iter().map(address).collect()).await
    }

    async fn read(&self, task_ids: &[String]) -> Result<Vec<Option<ResultRecord>>, BackendError> {
        self.0.read(task_ids).await
    }

    async fn forget(&self, task_ids: &[String]) -> Result<(), BackendError> {
        self.0.forget(task_ids).await
    }

    async fn watch(&self, task_ids: Vec<String>) -> Result<Box<dyn Watch>, BackendError> {
        self.0.watch(task_ids).await
    }

    fn store_id(&self) -> Option<String> {
        self.0.store_id()
    }

    fn display_url(&self) -> String {
        self.0.display_url()
    }
}

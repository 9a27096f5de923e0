//! Private servers for the tests: started on a free port, ended with the test process, however that ends.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use celeriac::clock::Clock;
use celeriac::driver::ConnectOptions;

/// How long a server may take to start, or to do what it was asked for.
const PATIENCE: Duration = Duration::from_secs(20);
/// Ports that were taken by somebody else between our choosing and the server's start.
const TRIES: usize = 5;

/// Ends the server when its standard input ends: on a line from us, and when this process is gone. It goes on in
/// a shell of its own, so that not even a kill of the tests leaves a server behind. Nor its directory, which nobody
/// removes if there was no line: a process ends without running the destructors of its statics.
const WATCHDOG: &str = r#"
"$@" </dev/null >"$OUTPUT" 2>&1 &
server=$!
echo $server
read line
kill -9 $server 2>/dev/null
wait $server 2>/dev/null
[ -n "$line" ] || rm -rf "$DIRECTORY"
"#;

/// A process with a watchdog. Ends when dropped.
pub(crate) struct Daemon {
    shell: Child,
    stdin: Option<ChildStdin>,
    /// The server itself.
    pub(crate) pid: u32,
    output: PathBuf,
}

impl Daemon {
    /// Starts a program; what it says goes to a file in `directory`.
    pub(crate) fn start(program: &str, args: &[String], directory: &Path) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let output = directory.join(format!("output-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let mut shell = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog", program])
            .args(args)
            .env("OUTPUT", &output)
            .env("DIRECTORY", directory)
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let mut line = String::new();
        let stdout = shell.stdout.take().expect("it is a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("the watchdog tells the process id");
        let stdin = shell.stdin.take();
        Self { pid: line.trim().parse().expect("a process id"), stdin, shell, output }
    }

    pub(crate) fn is_alive(&self) -> bool {
        // A process that ended is a zombie until its shell waits for it.
        std::fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
    }

    pub(crate) fn output(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// `STOP` and `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        let done = Command::new("kill").args(["-s", name, &self.pid.to_string()]).status();
        assert!(done.is_ok_and(|status| status.success()), "kill -s {name} {}", self.pid);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut stdin) = self.stdin.take() {
            let _ = stdin.write_all(b"end\n");
        }
        // The shell ends after the server: its port is free when this returns.
        let _ = self.shell.wait();
    }
}

/// A Redis server of one's own.
pub(crate) struct RedisServer {
    pub(crate) port: u16,
    args: Vec<String>,
    daemon: Option<Daemon>,
    pub(crate) directory: tempfile::TempDir,
}

impl RedisServer {
    /// Starts one with further arguments, and waits until it answers.
    pub(crate) fn start(args: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let args = args.iter().map(ToString::to_string).collect();
        let mut server = Self { port: 0, args, daemon: None, directory };
        for _ in 0..TRIES {
            server.port = free_port();
            if server.resume() {
                return server;
            }
        }
        panic!(
            "no redis-server started: {}",
            server.daemon.map(|daemon| daemon.output()).unwrap_or_default()
        );
    }

    /// Starts it again after [`Self::stop`], on the port that it had. Tells whether it did.
    pub(crate) fn resume(&mut self) -> bool {
        require("redis-server", "apt-get install redis-server");
        let fixed = format!(
            "--port {} --bind 127.0.0.1 --save  --appendonly no --databases 1024 --daemonize no --dir",
            self.port
        );
        let mut args: Vec<String> = fixed.split(' ').map(str::to_owned).collect();
        args.push(self.directory.path().display().to_string());
        args.extend(self.args.iter().cloned());
        let daemon = Daemon::start("redis-server", &args, self.directory.path());
        let ours = format!("process_id:{}\r", daemon.pid);
        let deadline = Instant::now() + PATIENCE;
        let mut started = false;
        while !started && daemon.is_alive() && Instant::now() < deadline {
            started = answer(self.port, "INFO server\r\n").is_ok_and(|said| {
                // A server that wants a password says nothing else; nobody but us has such servers.
                said.contains(&ours) || said.starts_with("-NOAUTH")
            });
            if !started {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        self.daemon = Some(daemon);
        started
    }

    /// Kills it.
    pub(crate) fn stop(&mut self) {
        self.daemon = None;
    }

    /// Stops it answering, with its connections open.
    pub(crate) fn pause(&self) {
        self.daemon.as_ref().expect("it runs").signal("STOP");
    }

    pub(crate) fn unpause(&self) {
        self.daemon.as_ref().expect("it runs").signal("CONT");
    }

    pub(crate) fn url(&self, database: u32) -> String {
        format!("redis://127.0.0.1:{}/{database}", self.port)
    }

    /// A connection for looking at it.
    pub(crate) fn connection(&self, database: u32) -> redis::Connection {
        let client = redis::Client::open(self.url(database)).expect("the URL is one");
        client.get_connection().expect("connects")
    }
}

/// What a test gets of the shared server: a database that no other test of this process uses. Channels are shared by
/// all databases: whoever publishes needs the prefix too.
pub(crate) struct Room {
    pub(crate) url: String,
    pub(crate) database: u32,
    pub(crate) port: u16,
    pub(crate) prefix: String,
}

impl Room {
    pub(crate) fn new() -> Self {
        static SERVER: LazyLock<Mutex<RedisServer>> = LazyLock::new(|| Mutex::new(RedisServer::start(&[])));
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let server = SERVER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let database = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { url: server.url(database), database, port: server.port, prefix: format!("test{database}:") }
    }

    /// How a store in this room is connected to.
    pub(crate) fn options(&self, clock: &Clock) -> ConnectOptions {
        let prefix = serde_json::json!({"global_keyprefix": self.prefix});
        let transport = prefix.as_object().cloned().unwrap_or_default();
        ConnectOptions { transport, clock: clock.clone(), ..ConnectOptions::default() }
    }

    /// A connection for looking at it.
    pub(crate) fn connection(&self) -> redis::Connection {
        let client = redis::Client::open(self.url.as_str()).expect("the URL is one");
        client.get_connection().expect("connects")
    }

    /// Lets everything in the database that expires be older by this much.
    pub(crate) fn age(&self, by: Duration) {
        let mut connection = self.connection();
        let script = redis::Script::new(
            "for _, key in ipairs(redis.call('keys', '*')) do
               local left = redis.call('pttl', key)
               if left > 0 then redis.call('pexpire', key, left - ARGV[1]) end
             end",
        );
        script.arg(by.as_millis() as u64).invoke::<()>(&mut connection).expect("ages");
    }
}

/// Sends one inline command, and gives the beginning of the answer.
fn answer(port: u16, command: &str) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(command.as_bytes())?;
    stream.write_all(b"QUIT\r\n")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    listener.local_addr().expect("it is bound").port()
}

/// Fails with a sentence that helps where a program is missing.
pub(crate) fn require(program: &str, install: &str) {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(found.is_ok(), "the tests need {program}, which is not here: {install}");
}

/// Waits until something is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

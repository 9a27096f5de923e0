//! Wake-up across processes without polling.
//!
//! Each process that waits binds a datagram socket for each kind of change it waits for, and names it in the
//! table `listener`. Whoever committed a change sends one byte to every socket of that kind.
//!
//! A bell is *armed* by someone who has looked and found nothing. Only then does the thread of the bells watch
//! the socket, and one ring disarms it: a busy worker is rung for every publish, and must not wake for any. What was
//! rung between the look and the arming waits in the socket, so nothing is missed. When a socket is full,
//! it has been rung already.
//!
//! The net below: while anything is armed, once a second the thread compares SQLite's change counter (a process
//! of another container cannot ring) and looks for dead owners.

use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::{Connection, params};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::driver::process::Process;

/// The net's mesh.
const TICK: Duration = Duration::from_secs(1);
/// Its mesh where no socket can be had.
const TICK_WITHOUT_SOCKET: Duration = Duration::from_millis(50);
/// What a socket's address can hold on every system we know.
const LONGEST_PATH: usize = 100;

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Messages became ready or were parked.
    Messages,
    /// Results were stored.
    Results,
    /// Something was broadcast.
    Broadcasts,
    /// Turns of a limit came back.
    Turns,
    /// The stream has another entry.
    Stream,
}

/// A set of kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rings([bool; Kind::ALL.len()]);

impl Kind {
    pub(super) const ALL: [Self; 5] =
        [Self::Messages, Self::Results, Self::Broadcasts, Self::Turns, Self::Stream];
}

impl Rings {
    pub(super) fn add(&mut self, kind: Kind) {
        self.0[kind as usize] = true;
    }

    fn remove(&mut self, others: Self) {
        for kind in others.kinds() {
            self.0[kind as usize] = false;
        }
    }

    pub(super) fn has(self, kind: Kind) -> bool {
        self.0[kind as usize]
    }

    pub(super) fn kinds(self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(move |kind| self.has(*kind))
    }
}

/// The bells of one process for one file.
pub(super) struct Bells {
    /// Where sockets are made; none when no safe directory was found.
    directory: Option<PathBuf>,
    /// Sends to others' bells.
    sender: Option<UnixDatagram>,
    /// Written by whoever changes the state, read by the thread of the bells.
    nudge: (UnixDatagram, UnixDatagram),
    /// Written by those who wait and by the thread; read by the thread.
    state: Mutex<State>,
    /// How often the thread woke. Written by it, read by tests.
    wakeups: AtomicU64,
}

#[derive(Default)]
struct State {
    bells: [Option<Bell>; Kind::ALL.len()],
    armed: Rings,
    /// When armed for messages: a parked one is due then.
    due: Option<Instant>,
    /// Changes made by this process itself.
    poked: Rings,
    running: bool,
    stopped: bool,
}

#[derive(Clone)]
struct Bell {
    socket: Arc<UnixDatagram>,
    path: PathBuf,
}

/// A bell of another process, or of another store of this one.
pub(super) struct Listener {
    id: i64,
    path: String,
}

/// What the thread tells the store.
pub(super) enum Heard {
    /// These kinds changed, or are due.
    Changed(Rings),
    /// A second has passed; these kinds are armed.
    Tick(Rings),
}

impl Bells {
    pub(super) fn new(file: &Path) -> std::io::Result<Self> {
        let nudge = UnixDatagram::pair()?;
        nudge.0.set_nonblocking(true)?;
        nudge.1.set_nonblocking(true)?;
        let sender = UnixDatagram::unbound().and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        let directory = directory(file);
        if directory.is_none() {
            tracing::warn!(
                "no private directory for wake-up sockets: changes by other processes are polled for"
            );
        }
        Ok(Self {
            directory,
            sender: sender.ok(),
            nudge,
            state: Mutex::default(),
            wakeups: AtomicU64::new(0),
        })
    }

    /// Hangs up the bell of that kind; true when it is new and has to be named in the table.
    pub(super) fn hang(&self, kind: Kind) -> bool {
        let mut state = self.state.lock();
        let Some(directory) = self.directory.as_ref().filter(|_| state.bells[kind as usize].is_none()) else {
            return false;
        };
        let path = directory.join(format!("{}-{:08x}", std::process::id(), fastrand::u32(..)));
        let bound =
            UnixDatagram::bind(&path).and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        match bound {
            Ok(socket) => state.bells[kind as usize] = Some(Bell { socket: Arc::new(socket), path }),
            Err(error) => tracing::warn!(%error, path = %path.display(), "cannot make a wake-up socket"),
        }
        state.bells[kind as usize].is_some()
    }

    /// Starts the thread of the bells, once. It ends when `hear` says so, or by [`Bells::stop`].
    pub(super) fn start(
        self: &Arc<Self>,
        hear: impl Fn(Heard) -> bool + Send + 'static,
    ) -> std::io::Result<()> {
        let mut state = self.state.lock();
        if !state.running {
            let bells = self.clone();
            let thread = std::thread::Builder::new().name("celeriac-bells".to_owned());
            thread.spawn(move || bells.run(&hear))?;
            state.running = true;
        }
        Ok(())
    }

    /// Asks to be told of the next change of that kind, or when `due` has come.
    pub(super) fn arm(&self, kind: Kind, due: Option<Duration>) {
        let due = due.map(|due| Instant::now() + due);
        let mut state = self.state.lock();
        let sooner = due.is_some_and(|due| state.due.is_none_or(|known| due < known));
        if sooner {
            state.due = due;
        }
        if sooner || !state.armed.has(kind) {
            state.armed.add(kind);
            drop(state);
            self.nudge();
        }
    }

    /// Tells the thread of a change that this process made.
    pub(super) fn poke(&self, kind: Kind) {
        self.state.lock().poked.add(kind);
        self.nudge();
    }

    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.stopped = true;
        for bell in state.bells.iter_mut().filter_map(Option::take) {
            drop(std::fs::remove_file(bell.path));
        }
        drop(state);
        self.nudge();
    }

    pub(super) fn wakeups(&self) -> u64 {
        self.wakeups.load(Ordering::Relaxed)
    }

    /// The sockets that hang, with their kinds.
    pub(super) fn hanging(&self) -> Vec<(Kind, String)> {
        let state = self.state.lock();
        let path =
            |kind: Kind| state.bells[kind as usize].as_ref().map(|bell| bell.path.display().to_string());
        Kind::ALL.into_iter().filter_map(|kind| Some((kind, path(kind)?))).collect()
    }

    /// A nudge that does not fit has been given already.
    fn nudge(&self) {
        drop(self.nudge.0.send(&[0]));
    }

    fn run(&self, hear: &dyn Fn(Heard) -> bool) {
        let mut next_tick = Instant::now() + TICK;
        loop {
            let (sockets, armed, due) = {
                let state = self.state.lock();
                let sockets = Kind::ALL.map(|kind| {
                    state.bells[kind as usize]
                        .clone()
                        .filter(|_| state.armed.has(kind))
                        .map(|bell| bell.socket)
                });
                (sockets, state.armed, state.due.filter(|_| state.armed.has(Kind::Messages)))
            };
            let waits = armed != Rings::default();
            let until = waits.then(|| due.map_or(next_tick, |due| due.min(next_tick)));
            let mut rings = self.wait(&sockets, until);
            self.wakeups.fetch_add(1, Ordering::Relaxed);
            let now = Instant::now();
            {
                let mut state = self.state.lock();
                if state.stopped {
                    return;
                }
                for kind in std::mem::take(&mut state.poked).kinds() {
                    rings.add(kind);
                }
                if state.due.is_some_and(|due| due <= now) {
                    rings.add(Kind::Messages);
                }
                if rings.has(Kind::Messages) {
                    state.due = None;
                }
                state.armed.remove(rings);
            }
            if rings != Rings::default() && !hear(Heard::Changed(rings)) {
                return;
            }
            if now >= next_tick {
                let mesh = if self.directory.is_some() { TICK } else { TICK_WITHOUT_SOCKET };
                next_tick = now + mesh;
                if waits && !hear(Heard::Tick(armed)) {
                    return;
                }
            }
        }
    }

    /// Waits for a nudge, a ring or the time; says which bells rang.
    fn wait(&self, sockets: &[Option<Arc<UnixDatagram>>; Kind::ALL.len()], until: Option<Instant>) -> Rings {
        let timeout = until.map(|until| {
            // Rounded up, or the last fraction of a millisecond is waited for in a loop.
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_micros(100);
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        let all = std::iter::once(&self.nudge.1).chain(sockets.iter().flatten().map(|socket| &**socket));
        let mut descriptors: Vec<_> = all.map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
        // An interrupted wait is a wake-up with nothing to tell.
        let _ = poll(&mut descriptors, timeout.as_ref());
        drop(descriptors);
        drain(&self.nudge.1);
        let mut rings = Rings::default();
        for kind in Kind::ALL {
            if sockets[kind as usize].as_ref().is_some_and(|socket| drain(socket)) {
                rings.add(kind);
            }
        }
        rings
    }

    /// Others' bells of these kinds, read within the transaction that changes something: whoever is named later
    /// looks later, and reading them then costs a transaction of its own.
    pub(super) fn listeners(&self, connection: &Connection, rings: Rings) -> rusqlite::Result<Vec<Listener>> {
        let mut found = Vec::new();
        for kind in rings.kinds().filter(|_| self.sender.is_some()) {
            let mut statement = connection.prepare_cached("SELECT id, path FROM listener WHERE kind = ?1")?;
            let mut rows = statement.query([kind as i64])?;
            while let Some(row) = rows.next()? {
                let path = row.get_ref(1)?.as_str()?;
                if !self.is_own(kind, path) {
                    found.push(Listener { id: row.get(0)?, path: path.to_owned() });
                }
            }
        }
        Ok(found)
    }

    /// Rings these bells, after the commit. Those that are gone are taken out of the table.
    pub(super) fn ring(&self, connection: &Connection, listeners: &[Listener]) -> rusqlite::Result<()> {
        let Some(sender) = &self.sender else { return Ok(()) };
        for Listener { id, path } in listeners {
            match sender.send_to(&[1], path).map_err(|error| error.kind()) {
                Err(ErrorKind::ConnectionRefused) => remove(connection, *id, Some(path))?,
                Err(ErrorKind::NotFound) => remove(connection, *id, None)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn is_own(&self, kind: Kind, path: &str) -> bool {
        self.state.lock().bells[kind as usize].as_ref().is_some_and(|bell| bell.path.as_os_str() == path)
    }
}

/// Reads a socket empty; says whether there was anything.
fn drain(socket: &UnixDatagram) -> bool {
    let mut any = false;
    while socket.recv(&mut [0; 8]).is_ok() {
        any = true;
    }
    any
}

/// Takes a bell of this host out of the table. One of another host may be alive behind a path that means nothing here.
fn remove(connection: &Connection, id: i64, file: Option<&String>) -> rusqlite::Result<()> {
    let host = Process::own().host;
    let removed = connection.prepare_cached("DELETE FROM listener WHERE id = ?1 AND host = ?2")?;
    let removed = { removed }.execute(params![id, host])?;
    if let Some(file) = file.filter(|_| removed > 0) {
        drop(std::fs::remove_file(file));
    }
    Ok(())
}

/// A directory of this user's own for the sockets of one file.
fn directory(file: &Path) -> Option<PathBuf> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    file.hash(&mut hasher);
    let name = format!("{:016x}", hasher.finish());
    let uid = rustix::process::getuid().as_raw();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(|path| PathBuf::from(path).join("celeriac"));
    let temporary = [std::env::temp_dir(), PathBuf::from("/tmp")];
    let temporary = temporary.into_iter().map(|path| path.join(format!("celeriac-{uid}")));
    runtime.into_iter().chain(temporary).find_map(|base| {
        let path = base.join(&name);
        let fits = path.as_os_str().len() + "/4194304-00000000".len() <= LONGEST_PATH;
        (fits && private(&base, uid) && private(&path, uid)).then_some(path)
    })
}

/// Makes a directory that only this user can enter; false when it cannot be had or belongs to someone else.
fn private(path: &Path, uid: u32) -> bool {
    let made = std::fs::DirBuilder::new().mode(0o700).create(path);
    match std::fs::symlink_metadata(path) {
        Ok(found) => found.is_dir() && found.uid() == uid && found.mode() & 0o777 == 0o700,
        Err(_) => made.is_ok(),
    }
}

//! A pool that answers from a script: for tests of everything around a pool.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Execution, Mode, Outcome, OutcomeKind, Pool, PoolEvent, RequestTag};

/// What the script says about one execution.
#[derive(Clone, Debug)]
pub struct Scene {
    /// How long it runs.
    pub after: Duration,
    /// How it ends.
    pub end: End,
}

/// How an execution ends.
#[derive(Clone, Debug)]
pub enum End {
    /// With an outcome.
    Outcome(Box<Outcome>),
    /// Its process dies like this.
    Dies(String),
    /// Its process is ended because of another request.
    Evicted,
    /// Never, unless it is terminated or its hard limit passes.
    Hangs,
    /// It was not begun, and comes back.
    Returned,
}

impl Scene {
    /// It ends at once, like this.
    pub fn ends(kind: OutcomeKind) -> Self {
        Self::outcome(Outcome { kind, ..Outcome::default() })
    }

    /// It ends at once with this outcome.
    pub fn outcome(outcome: Outcome) -> Self {
        Self { after: Duration::ZERO, end: End::Outcome(Box::new(outcome)) }
    }

    /// Its process dies at once.
    pub fn dies(how: &str) -> Self {
        Self { after: Duration::ZERO, end: End::Dies(how.to_owned()) }
    }

    /// It never ends by itself.
    pub fn hangs() -> Self {
        Self { after: Duration::ZERO, end: End::Hangs }
    }

    /// The same, but later.
    #[must_use]
    pub fn after(mut self, after: Duration) -> Self {
        self.after = after;
        self
    }
}

/// Decides what happens to an execution.
pub type Script = Box<dyn FnMut(&Execution) -> Scene + Send>;

/// What the pool was given, with the moment it began; written by the pool, read by the test.
pub type Played = Arc<Mutex<Vec<(Instant, Execution)>>>;

/// Runs nothing: each execution takes a slot for as long as the script says.
pub struct ScriptedPool {
    slots: usize,
    script: Script,
    played: Played,
    running: Vec<Running>,
    events: VecDeque<PoolEvent>,
}

struct Running {
    tag: RequestTag,
    /// Those of a batch; all end as the script says of it.
    members: Vec<RequestTag>,
    ends: Option<Instant>,
    hard: Option<(Instant, f64)>,
    end: End,
}

impl ScriptedPool {
    /// A pool of so many slots.
    pub fn new(slots: usize, script: impl FnMut(&Execution) -> Scene + Send + 'static) -> Self {
        Self {
            slots,
            script: Box::new(script),
            played: Played::default(),
            running: Vec::new(),
            events: VecDeque::from([PoolEvent::SlotFree]),
        }
    }

    /// A pool whose tasks all succeed at once; executions that conclude end as their mode says.
    pub fn succeeding(slots: usize) -> Self {
        Self::new(slots, |execution| Scene::ends(usual(&execution.mode)))
    }

    /// What was begun so far.
    pub fn played(&self) -> Played {
        self.played.clone()
    }

    fn take_due(&mut self, now: Instant) {
        let due = |running: &mut Running| {
            running.ends.is_some_and(|at| at <= now) || running.hard.is_some_and(|(at, _)| at <= now)
        };
        let mut ended: Vec<_> = self.running.extract_if(.., due).collect();
        ended.sort_by_key(|running| running.ends);
        for running in ended {
            let tag = running.tag;
            let in_time = running.ends.is_some_and(|at| at <= now);
            if let (true, End::Outcome(outcome)) = (in_time, &running.end) {
                let each = running.members.iter().map(|tag| PoolEvent::Finished(*tag, (**outcome).clone()));
                self.events.extend(each);
            }
            self.events.push_back(match running.end {
                End::Outcome(outcome) if in_time => PoolEvent::Finished(tag, *outcome),
                End::Returned if in_time => PoolEvent::Returned(tag),
                End::Evicted if in_time => PoolEvent::Evicted(tag),
                End::Dies(how) if in_time => lost(tag, None, false, how),
                _ => lost(tag, running.hard.map(|(_, limit)| limit), false, "signal 9 (SIGKILL)".into()),
            });
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let moments = |running: &Running| [running.ends, running.hard.map(|(at, _)| at)];
        self.running.iter().flat_map(moments).flatten().min()
    }
}

/// How an execution of that mode usually ends.
pub fn usual(mode: &Mode) -> OutcomeKind {
    match mode {
        Mode::Run | Mode::Join(_) | Mode::Batch(_) => OutcomeKind::Success,
        Mode::Revoked(_) => OutcomeKind::Revoked,
        Mode::TimedOut(_) | Mode::Lost(_) | Mode::Unknown | Mode::Refused(_) => OutcomeKind::Failure,
    }
}

fn lost(tag: RequestTag, hard_limit: Option<f64>, terminated: bool, how: String) -> PoolEvent {
    PoolEvent::Lost { tag, hard_limit, terminated, how }
}

#[async_trait]
impl Pool for ScriptedPool {
    fn slots(&self) -> usize {
        self.slots
    }

    fn free(&self, _short: bool) -> usize {
        self.slots.saturating_sub(self.running.len())
    }

    fn submit(&mut self, execution: Execution) -> Result<(), Execution> {
        if self.free(execution.short) == 0 {
            return Err(execution);
        }
        let now = Instant::now();
        let scene = (self.script)(&execution);
        let tag = execution.tag;
        if !matches!(scene.end, End::Returned) {
            self.events.push_back(PoolEvent::Began { tag, pid: 1 });
        }
        let members = match &execution.mode {
            Mode::Batch(members) => members.iter().map(|member| member.tag).collect(),
            _ => Vec::new(),
        };
        self.running.push(Running {
            tag,
            members,
            ends: (!matches!(scene.end, End::Hangs)).then(|| now + scene.after),
            hard: execution.hard_limit.map(|limit| (now + limit, limit.as_secs_f64())),
            end: scene.end,
        });
        self.played.lock().push((now, execution));
        Ok(())
    }

    async fn events(&mut self, into: &mut Vec<PoolEvent>) {
        self.take_due(Instant::now());
        while self.events.is_empty() {
            match self.next_due() {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
            self.take_due(Instant::now());
        }
        into.extend(self.events.drain(..));
    }

    fn terminate(&mut self, tag: RequestTag, signal: i32) {
        for _ in self.running.extract_if(.., |running| running.tag == tag) {
            self.events.push_back(lost(tag, None, true, format!("signal {signal}")));
        }
    }

    async fn stop(&mut self, deadline: Duration, into: &mut Vec<PoolEvent>) {
        let deadline = Instant::now() + deadline;
        while let Some(at) = self.next_due().filter(|at| *at <= deadline) {
            tokio::time::sleep_until(at).await;
            self.take_due(at);
        }
        for running in self.running.drain(..) {
            self.events.push_back(lost(running.tag, None, false, "signal 9 (SIGKILL)".into()));
        }
        into.extend(self.events.drain(..));
    }

    fn pids(&self) -> Vec<u32> {
        vec![1; self.slots]
    }

    fn resize(&mut self, concurrency: usize) -> Result<(), String> {
        self.slots = concurrency;
        self.events.push_back(PoolEvent::SlotFree);
        Ok(())
    }
}

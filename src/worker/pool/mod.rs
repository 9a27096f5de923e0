//! The only door to task code: "run this execution, tell me the outcome".
//!
//! The engine ships the pool of child processes (`process`) and a scripted pool for tests. A solo worker
//! is the process pool with one child that happens to be the worker's own main thread.

pub mod process;
pub mod scripted;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::protocol::{ChordPart, Message, Publication, ResultRecord};

/// A number the worker gives to a request; unique in the life of the worker.
pub type RequestTag = u64;

/// What a child is asked to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Execution {
    /// The request.
    pub tag: RequestTag,
    /// Run the task, or conclude a task that will not run (any more).
    pub mode: Mode,
    /// The message, whole.
    pub message: Arc<Message>,
    /// `delivery_info` of the task's context.
    pub exchange: Arc<str>,
    /// As above.
    pub routing_key: Arc<str>,
    /// The queue it came from, if the child has a use for that.
    pub queue: Option<Arc<str>>,
    /// As above.
    pub redelivered: bool,
    /// `SoftTimeLimitExceeded` is raised in the task after this time.
    pub soft_limit: Option<Duration>,
    /// The child is killed after this time.
    pub hard_limit: Option<Duration>,
    /// The running average of this task's run time is short (below a millisecond): the pool may queue it
    /// behind others in one child.
    pub short: bool,
}

/// What to do with an execution. All but `Run` are built-in requests: user code of a task that cannot run
/// any more (its hooks, its record in the user's serializer, its error links) still runs in a child.
#[derive(Clone, Debug, PartialEq)]
pub enum Mode {
    /// Run the task.
    Run,
    /// It ran over its hard limit of that many seconds and its child was killed.
    TimedOut(f64),
    /// Its child died; the text says how (`signal 9 (SIGKILL)`, `exitcode 1`).
    Lost(String),
    /// It must not run: `revoked`, `expired` or `terminated`.
    Revoked(String),
    /// No task of its name is registered.
    Unknown,
    /// Its message is refused, for this reason; it comes without its body.
    Refused(String),
    /// It has ended, and completed a chord or failed it: call the chord's body, or end it.
    Join(Arc<Join>),
    /// Run the task once for all of these. Each is answered under its own tag; the execution itself, which has no
    /// message, is answered when all have been.
    Batch(Arc<[Execution]>),
}

impl Mode {
    /// Code of the task's own is run, and not only what concludes it.
    pub fn runs(&self) -> bool {
        matches!(self, Self::Run | Self::Batch(_))
    }
}

/// A chord that can be ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Join {
    /// Which one: a request may be a part of several.
    pub group_id: String,
    /// Its parts, see [`ChordPart::element`]; of one that failed early that part alone.
    pub elements: Vec<Bytes>,
    /// The saved record of the header's group, if there is one.
    pub group: Option<Bytes>,
    /// Why the body must not be called, though all may have gone well: processes that were to do so have died.
    pub broken: Option<String>,
}

/// What running (or concluding) a request gave. The child has made all bytes ready to send.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// How it ended.
    pub kind: OutcomeKind,
    /// Records to store: the task's own, and those of steps that will never run.
    pub results: Vec<ResultRecord>,
    /// Messages to publish: next in chain, callbacks, error links, the retry.
    pub publications: Vec<Publication>,
    /// How long the task ran.
    pub runtime: Option<Duration>,
    /// Repr of the return value, or of the exception; or why the message is refused.
    pub summary: String,
    /// Where the task raised, for its event; empty when it did not, or when nobody knows.
    pub traceback: String,
    /// Parts of chords that ended with it: its own, and those of steps that will never run.
    pub parts: Vec<ChordPart>,
}

/// How a request ended; decides, with the task's options, what happens to the claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutcomeKind {
    /// The task returned.
    #[default]
    Success,
    /// The task raised, was killed by its hard limit, or lost its process.
    Failure,
    /// The task will be tried again; the new message is among the publications.
    Retry,
    /// `Ignore`: nothing is stored.
    Ignored,
    /// `Reject(requeue=False)`.
    Rejected,
    /// `Reject(requeue=True)`.
    Requeued,
    /// The task wants its message to be a dead letter, however it was acknowledged.
    DeadLettered,
    /// Revoked, expired or terminated.
    Revoked,
    /// The message cannot be read, or its arguments are not what the protocol says.
    Malformed,
    /// The content type is not accepted.
    Disallowed,
}

/// What a pool reports.
#[derive(Clone, Debug, PartialEq)]
pub enum PoolEvent {
    /// A child has begun this request (it may be inferred: the one before it has ended).
    Began {
        /// The request.
        tag: RequestTag,
        /// The process that runs it.
        pid: u32,
    },
    /// A request ended.
    Finished(RequestTag, Outcome),
    /// The task told of a state of its own (`update_state`): store it.
    Update(RequestTag, ResultRecord),
    /// The child that ran this request is gone.
    Lost {
        /// The request.
        tag: RequestTag,
        /// Its hard limit in seconds, when that is why it was killed.
        hard_limit: Option<f64>,
        /// It was terminated on purpose (revoke with terminate).
        terminated: bool,
        /// How the process ended: `signal 9 (SIGKILL)`, `exitcode 1`.
        how: String,
    },
    /// The process that ran this request was ended because of another request in it: it is nobody's fault.
    Evicted(RequestTag),
    /// The request was not begun (its child died, or it was called back): it may be submitted again.
    Returned(RequestTag),
    /// A child is there, or a slot has become free.
    SlotFree,
    /// A child was replaced; for counters and logs.
    ChildReplaced {
        /// The how manieth child it was.
        number: u64,
        /// Process that left.
        pid: u32,
        /// Why, in words: how it ended, or what it has done enough of.
        why: String,
        /// It was not told to leave.
        died: bool,
    },
    /// A restart that was to reload the app has failed; children of the app as it was go on.
    ReloadFailed(String),
    /// No child can be made any more; the worker must stop.
    Broken(String),
}

/// What runs requests.
#[async_trait]
pub trait Pool: Send {
    /// Requests it can run at the same time.
    fn slots(&self) -> usize;

    /// How many executions [`Pool::submit`] takes now; more than the free slots when the tasks are short.
    fn free(&self, short: bool) -> usize;

    /// Gives an execution to a slot; gives it back when there is none.
    fn submit(&mut self, execution: Execution) -> Result<(), Execution>;

    /// Waits for events and appends them, in order. Cancel-safe.
    async fn events(&mut self, into: &mut Vec<PoolEvent>);

    /// Ends the process that runs this request with a signal (revoke with terminate).
    fn terminate(&mut self, tag: RequestTag, signal: i32);

    /// Lets children finish what they run until the deadline, then kills them. Unbegun executions come back
    /// as [`PoolEvent::Returned`], killed ones as [`PoolEvent::Lost`].
    async fn stop(&mut self, deadline: Duration, into: &mut Vec<PoolEvent>);

    /// Process ids of the children that live.
    fn pids(&self) -> Vec<u32>;

    /// Whether a task that runs over its hard limit is ended; otherwise hard limits are refused when they are set.
    fn keeps_hard_limits(&self) -> bool {
        true
    }

    /// Changes how many requests run at the same time: processes where each has one slot, slots elsewhere. What
    /// runs in a child that is to go ends first; what it has not begun comes back as [`PoolEvent::Returned`].
    /// An error says, in a sentence, why this pool stays as it is.
    fn resize(&mut self, concurrency: usize) -> Result<(), String> {
        let _ = concurrency;
        Err("this pool cannot change its size".to_owned())
    }

    /// Replaces all children one after another, each when it has ended what it runs; with `reload` by children
    /// of a new fork server, which imports the app anew. An error says why this pool cannot.
    fn restart(&mut self, reload: bool) -> Result<(), String> {
        let _ = reload;
        Err("this pool cannot replace its processes".to_owned())
    }
}

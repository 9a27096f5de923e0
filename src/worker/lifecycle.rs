//! The start and the end of a worker.
//!
//! Start: consume, listen, be ready. A warm stop: no more claims; what has not begun goes back at once;
//! what runs may end until the deadline; then as a cold stop. A cold stop: what runs is killed, what was
//! not acknowledged goes back with nothing counted, what was is concluded as lost. A soft stop is a cold one
//! that waits for what runs for a while first. All: commits are carried out, children end, the consumer says
//! goodbye.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::WorkerError;
use super::commit::ANSWER_WITHIN;
use super::consumer::{ConsumerLoop, slot};
use super::notice::{Level, Notice};
use super::pool::Mode;
use super::request::Request;
use super::running::is_acknowledged;
use super::upkeep::{Chore, link};
use crate::broker::{Broker, BrokerError, Consumer, ConsumerOptions, Rebind, Settle};
use crate::protocol::TopicBinding;

/// How long killed requests may take to be concluded.
const KILL_WAIT: Duration = Duration::from_secs(5);
/// How long a store may take to carry out the last commits.
const COMMIT_WAIT: Duration = Duration::from_secs(15);
/// How long the goodbye to the broker may take. Without it the claims end with their lease.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
const SIGKILL: i32 = 9;

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Let tasks end, up to the drain deadline.
    Warm,
    /// Let them end for a while ([`super::WorkerOptions::soft_stop`]), then kill them.
    Soft,
    /// Kill them.
    Cold,
}

/// How a worker ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code of the process: 0 after a warm stop, 1 after a cold one, as in Celery.
    pub code: i32,
    /// What went wrong; empty when the worker did as it was told.
    pub text: String,
}

/// Where in its life the worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It takes work.
    Running,
    /// It lets tasks end, until the deadline if there is one.
    Draining,
    /// It has killed them, and waits for them to be concluded.
    Killing,
    /// There is nothing left to wait for.
    Over,
}

/// The course of the end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ending {
    pub(super) deadline: Option<Instant>,
    pub(super) cold: bool,
    /// What was acknowledged runs on after the deadline.
    pub(super) spares: bool,
}

/// Binds what is to be bound, and consumes.
pub(super) async fn consume(
    broker: Arc<dyn Broker>,
    topics: Option<TopicBinding>,
    how: Rebind,
    options: ConsumerOptions,
) -> Result<Box<dyn Consumer>, BrokerError> {
    if let Some(binding) = &topics {
        broker.bind_topics(binding, how).await?;
    }
    broker.consume(options).await
}

impl ConsumerLoop {
    /// Consumes; a broker that cannot be reached is tried until it can, until a stop is asked for, or as often as
    /// the options allow.
    pub(super) async fn connect(&mut self) -> Result<(), WorkerError> {
        let mut link = link("consume from the broker", &self.log);
        let mut attempts = 0;
        loop {
            attempts += 1;
            let options = self.consumer_options();
            let (broker, topics) = (self.stores.broker.clone(), self.options.topics.clone());
            let consuming = async {
                // Known before anything is taken.
                let paused = broker.paused(&options.queues).await?;
                let mut options = options.clone();
                options.queues.retain(|queue| !paused.contains(queue));
                let consumer = consume(broker.clone(), topics, Rebind::Replace, options).await?;
                Ok::<_, BrokerError>((paused, consumer))
            };
            let consumed = tokio::select! {
                consumed = consuming => consumed,
                Ok(()) = self.orders.changed() => {
                    self.ordered();
                    return Ok(());
                }
            };
            match consumed {
                Ok((paused, consumer)) => {
                    link.worked();
                    self.pauses.begin(paused);
                    self.add_source(consumer.into());
                    if !self.is_aside {
                        self.ask_advice();
                    }
                    if let Some(ear) = &mut self.ear {
                        ear.listens().await;
                    }
                    // One that was paused in between was told to nobody here.
                    self.look_at_pauses();
                    self.mingle();
                    self.monitor.start(Instant::now());
                    self.service.ready(&self.options.queues, Instant::now());
                    self.notices.push(Notice::Ready);
                    return Ok(());
                }
                Err(error)
                    if error.is_transient()
                        && self.options.connect_attempts.is_none_or(|limit| attempts < limit) =>
                {
                    let delay = link.failed(&error);
                    tokio::select! {
                        () = tokio::time::sleep(delay) => {}
                        Ok(()) = self.orders.changed() => {
                            self.ordered();
                            return Ok(());
                        }
                    }
                }
                Err(error) => return Err(WorkerError::Broker(error)),
            }
        }
    }

    /// What an operator should know of the broker becomes warnings. Work does not wait for it.
    fn ask_advice(&mut self) {
        let (broker, log) = (self.stores.broker.clone(), self.log.clone());
        self.chores.push(Box::pin(async move {
            // It is asked once; a broker that cannot tell has other things to say soon.
            if let Ok(Ok(sentences)) = timeout(ANSWER_WITHIN, broker.advice()).await {
                for sentence in sentences {
                    log.line(Level::Warning, "celery.worker", || sentence);
                }
            }
            Chore::Advised
        }));
    }

    /// A handle asked for a stop.
    pub(super) fn ordered(&mut self) {
        let order = *self.orders.borrow_and_update();
        match order {
            None => {}
            Some(Stop::Warm) => self.drain(),
            Some(Stop::Soft) => self.soften(),
            Some(Stop::Cold) => self.kill(),
        }
    }

    /// Begins a warm stop.
    pub(super) fn drain(&mut self) {
        if self.life != Phase::Running {
            return;
        }
        self.life = Phase::Draining;
        self.ending.deadline = self.options.drain.and_then(|drain| Instant::now().checked_add(drain));
        self.ending.spares = self.options.drain_spares_acknowledged;
        self.stop_taking();
    }

    /// A cold stop that waits first: with nothing that runs there is nothing to wait for.
    fn soften(&mut self) {
        let patience = self.options.soft_stop;
        let runs = self.requests.values().any(|request| request.mode == Mode::Run && !request.waits());
        if patience.is_zero() || !runs {
            return self.kill();
        }
        if matches!(self.life, Phase::Killing | Phase::Over) {
            return;
        }
        let Some(deadline) = Instant::now().checked_add(patience) else { return };
        self.log.line(Level::Warning, "celery.worker", || {
            format!("Initiating Soft Shutdown, terminating in {} seconds", patience.as_secs_f64())
        });
        if self.life == Phase::Running {
            self.life = Phase::Draining;
            self.stop_taking();
        }
        let earlier = self.ending.deadline.filter(|_| !self.ending.spares);
        self.ending = Ending {
            deadline: Some(earlier.map_or(deadline, |earlier| earlier.min(deadline))),
            cold: true,
            spares: false,
        };
    }

    /// No more claims, and what has not begun goes back at once.
    fn stop_taking(&mut self) {
        self.stop_aside(Stop::Warm);
        self.claiming = None;
        self.held.clear();
        self.stop_limits();
        self.ready.clear();
        self.batches.clear_waiting();
        let mut waiting: Vec<_> = Vec::new();
        for (tag, request) in &self.requests {
            if request.waits() {
                waiting.push((*tag, request.mode == Mode::Run));
            }
        }
        waiting.sort_unstable();
        for (tag, runs) in waiting {
            let handed =
                |request: &Request| request.claim.is_some() && !request.once && request.joining.is_none();
            let claimed = self.requests.get(&tag).is_some_and(|request| request.claim.is_some());
            if runs && claimed || self.requests.get(&tag).is_some_and(handed) {
                self.hand_back(tag);
            } else {
                // It was acknowledged, and its end is not stored yet: this worker alone knows of it. Or it is to call the
                // body of a chord, and elsewhere the task would have to be run again before that.
                self.ready.push_back(tag);
            }
        }
        self.service.stopping(self.requests.len());
    }

    fn kill(&mut self) {
        if matches!(self.life, Phase::Killing | Phase::Over) {
            return;
        }
        self.life = Phase::Killing;
        self.ending = Ending { deadline: Some(Instant::now() + KILL_WAIT), cold: true, spares: false };
        self.stop_taking();
        self.kill_running(false);
    }

    /// Ends the children of what runs; with `spare` only of what can be handed back.
    fn kill_running(&mut self, spare: bool) {
        let killed = |request: &Request| {
            request.mode == Mode::Run
                && !(spare && is_acknowledged(request, self.tasks.options(request.task)))
        };
        let running = self.requests.iter().filter(|(_, request)| killed(request));
        let tags: Vec<_> = running.map(|(tag, _)| *tag).collect();
        for tag in tags {
            self.end_process_of(tag, SIGKILL);
        }
    }

    /// The time for a warm stop is over.
    fn drained_long_enough(&mut self) {
        let spares = self.ending.spares;
        self.log.line(Level::Warning, "celery.worker", || {
            let fate = if spares {
                "; those that were acknowledged run on"
            } else {
                " unless they were acknowledged"
            };
            format!("The time for a warm shutdown is over: tasks that run are killed, and handed back{fate}")
        });
        if spares {
            self.ending.deadline = None;
            self.kill_running(true);
            return;
        }
        // A warm stop that runs out of its time is not an error of the worker.
        let cold = self.ending.cold;
        self.kill();
        self.ending.cold = cold;
    }

    /// The pool cannot make children any more.
    pub(super) fn pool_broken(&mut self, why: String) {
        self.log.line(Level::Critical, "celery.worker", || why.clone());
        self.broken = Some(why);
        self.stop_taking();
        self.life = Phase::Over;
    }

    pub(super) fn life_deadline(&self) -> Option<Instant> {
        self.ending.deadline
    }

    pub(super) fn life_on_time(&mut self, now: Instant) {
        let passed = self.ending.deadline.is_some_and(|deadline| deadline <= now);
        match self.life {
            Phase::Draining if passed => self.drained_long_enough(),
            Phase::Killing if passed => self.life = Phase::Over,
            _ => {}
        }
        let idle = self.requests.is_empty() && !self.commits.any_part();
        if matches!(self.life, Phase::Draining | Phase::Killing) && idle {
            self.life = Phase::Over;
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.life == Phase::Over
    }

    /// Ends everything, in this order: commits, children, what they left, commits, the consumer.
    pub(super) async fn finish(&mut self) -> Result<Exit, WorkerError> {
        self.flush().await;
        let mut events = Vec::new();
        self.pool.stop(Duration::ZERO, &mut events).await;
        self.events = events;
        self.pool_reported();
        let left: Vec<_> = self.requests.keys().copied().collect();
        for tag in left {
            self.give_up(tag);
        }
        self.flush().await;
        self.say_goodbye().await;
        self.leave_limits().await;
        for source in std::mem::take(&mut self.sources) {
            // When the broker cannot be reached the claims end with their lease.
            let _ = timeout(CLOSE_WAIT, source.consumer.close()).await;
        }
        self.save_last();
        match self.broken.take() {
            Some(why) => Err(WorkerError::Pool(why)),
            None => Ok(Exit { code: i32::from(self.ending.cold), text: String::new() }),
        }
    }

    /// Nothing more can be done for a request here.
    fn give_up(&mut self, tag: u64) {
        let Some(request) = self.remove(tag) else { return };
        if request.once {
            // It has begun, and is not given back: when the consumer is closed it goes to whoever concludes it.
            self.log.task(Level::Error, "celery.worker.request", &request, || {
                format!("Task {}[{}] did not end before the worker did", request.name, request.id)
            });
        } else if request.claim.is_some() {
            self.stats.released.add(1);
            self.settle(&request, Settle::Release);
        } else {
            self.log.task(Level::Error, "celery.worker.request", &request, || {
                format!(
                    "Task {}[{}] was acknowledged and did not end before the worker did",
                    request.name, request.id
                )
            });
        }
    }

    /// Carries out what is queued, and keeps the lease meanwhile.
    async fn flush(&mut self) {
        let deadline = Instant::now() + COMMIT_WAIT;
        loop {
            self.start_commit();
            if self.committing.is_none() {
                return;
            }
            self.on_time(Instant::now());
            let wake = self.renew_at.min(deadline);
            tokio::select! {
                done = slot(&mut self.committing) => self.committed(done),
                renewed = slot(&mut self.renewing) => self.renewed(renewed),
                () = tokio::time::sleep_until(wake) => {}
            }
            if Instant::now() >= deadline {
                self.log.line(Level::Error, "celery.worker", || {
                    "the store did not take the last commits in time; their tasks run again after the lease".to_owned()
                });
                return;
            }
        }
    }
}

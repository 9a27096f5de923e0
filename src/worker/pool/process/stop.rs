//! The end of the pool: call back, drain, kill, reap, in that order.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::child::Child;
use super::{ProcessPool, Spawner};

/// How long an idle child may take to end (its own shutdown handlers run), and a killed one to be reaped.
const GOODBYE: Duration = Duration::from_secs(3);

impl ProcessPool {
    /// What has not begun is called back; what runs may end until the deadline, and is killed then; idle
    /// children are told to end, and killed when they do not; the fork server ends.
    pub(super) async fn stop_children(&mut self, deadline: Instant) {
        self.stopping = true;
        self.drop_candidate();
        for child in &mut self.children {
            child.reclaim();
        }
        let all_idle = |pool: &Self| pool.children.iter().chain(&pool.leaving).all(Child::is_idle);
        self.settle(deadline, all_idle).await;
        for child in &mut self.children {
            if child.is_idle() { child.stop(Instant::now()) } else { child.kill() }
        }
        self.leaving.iter().filter(|child| !child.is_idle()).for_each(Child::kill);
        if self.is_fixed() {
            self.settle(Instant::now() + GOODBYE, |pool| pool.children.iter().all(Child::is_flushed)).await;
        } else {
            self.settle(Instant::now() + GOODBYE, |pool| pool.children.is_empty() && pool.leaving.is_empty())
                .await;
        }
        let mut rest = std::mem::take(&mut self.children);
        rest.append(&mut self.leaving);
        for child in rest {
            self.report_end(child);
        }
        if let Spawner::ForkServer(server) = &mut self.spawner {
            server.close();
        }
        self.old_servers.iter_mut().for_each(|old| old.server.close());
    }

    /// Lets things happen until `done`, or until the deadline.
    async fn settle(&mut self, deadline: Instant, done: impl Fn(&Self) -> bool) {
        let mut kept = Vec::new();
        while !done(self) {
            // Not every step makes an event: a child that ends in peace makes none.
            let turn = poll_fn(|cx| {
                let polled = self.poll_events(cx);
                if done(self) { Poll::Ready(()) } else { polled }
            });
            let timed_out = timeout_at(deadline, turn).await.is_err();
            kept.append(&mut self.events);
            if timed_out {
                break;
            }
        }
        self.events = kept;
    }
}

//! Members of workflows where the broker counts no crash of a whole worker: their messages are kept beside the results while
//! they run, by whoever runs them. What a worker leaves that is gone is concluded by another.
//!
//! The order is: kept, then acknowledged, as any early acknowledgement; and forgotten when its end is committed.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::{Instant, timeout};

use super::commit::ANSWER_WITHIN;
use super::consumer::ConsumerLoop;
use super::link::Link;
use super::notice::Level;
use super::pool::{Mode, RequestTag};
use super::request::{Phase, Request};
use super::upkeep::Chore;
use crate::backend::{BackendError, Keeper, Kept, Left, ResultBackend};
use crate::broker::{Commit, Settle};
use crate::protocol::Envelope;

use super::commit::nothing;
use super::member;

/// What is kept of the requests of this worker.
pub(super) struct Keeping {
    backend: Arc<dyn ResultBackend>,
    keeper: Keeper,
    /// Begun, and to be written with the next batch.
    begun: Vec<(RequestTag, Kept)>,
    /// A batch is being written.
    writes: bool,
    /// Under which names requests are kept, by tag: from when they are to be kept until their end is committed.
    names: HashMap<RequestTag, String>,
    /// Ended, and to be forgotten with the next batch.
    ended: Vec<String>,
    forgets: bool,
    renew_at: Instant,
    renews: bool,
    link: Link,
}

impl Keeping {
    /// None where nothing can be kept, or need be: the broker counts crashes, or there is no such backend.
    pub(super) fn new(
        stores: &super::commit::Stores,
        node: &str,
        lease: std::time::Duration,
    ) -> Option<Self> {
        let backend = stores.backend.clone().filter(|backend| backend.keeps_begun())?;
        if stores.broker.counts_crashes() {
            return None;
        }
        let name = format!("{node}:{:016x}", uuid::Uuid::new_v4().as_u64_pair().0);
        let keeper = Keeper { place: stores.broker.display_url(), name, lease };
        let link = Link::new("look after requests of other workers", stores.log.clone());
        Some(Self {
            backend,
            keeper,
            begun: Vec::new(),
            writes: false,
            names: HashMap::new(),
            ended: Vec::new(),
            forgets: false,
            renew_at: Instant::now(),
            renews: false,
            link,
        })
    }
}

impl ConsumerLoop {
    /// A member has begun and is to be kept before it is acknowledged.
    pub(super) fn keep_begun(&mut self, tag: RequestTag) {
        let (Some(request), Some(keeping)) = (self.requests.get_mut(&tag), &mut self.keeping) else { return };
        request.kept = Some(tag);
        let message = Envelope::encode(&request.message, &request.exchange, &request.routing_key, "");
        let id = format!("{}/{tag}", keeping.keeper.name);
        keeping.names.insert(tag, id.clone());
        keeping.begun.push((tag, Kept { id, message: message.into() }));
        self.write_begun();
    }

    fn write_begun(&mut self) {
        let Some(keeping) =
            self.keeping.as_mut().filter(|keeping| !keeping.writes && !keeping.begun.is_empty())
        else {
            return;
        };
        keeping.writes = true;
        let (tags, batch): (Vec<_>, Vec<_>) = std::mem::take(&mut keeping.begun).into_iter().unzip();
        let (backend, keeper, log) = (keeping.backend.clone(), keeping.keeper.clone(), self.log.clone());
        self.chores.push(Box::pin(async move {
            let mut link = Link::new("keep requests that have begun", log);
            loop {
                let kept = timeout(ANSWER_WITHIN, backend.keep_begun(&keeper, &batch)).await;
                match kept.unwrap_or_else(|_| Err(super::commit::backend_timeout())) {
                    Ok(()) => break,
                    Err(error) => tokio::time::sleep(link.failed(&error)).await,
                }
            }
            link.worked();
            Chore::Kept(tags)
        }));
    }

    /// They are kept: now they are acknowledged, if they still run.
    pub(super) fn begun_kept(&mut self, tags: Vec<RequestTag>) {
        if let Some(keeping) = &mut self.keeping {
            keeping.writes = false;
        }
        for tag in tags {
            let Some(request) = self.requests.get_mut(&tag) else { continue };
            if let Some(claim) = request.claim.filter(|_| !request.stale) {
                request.claim = None;
                let ack = Commit { claim: Some(claim), settle: Settle::Ack, begun: true, ..nothing() };
                self.commit_meanwhile(tag, ack);
            } else if self.marking.remove(&tag) {
                // Its claim was lost in between, and it has not begun: it runs elsewhere.
                self.remove(tag);
                self.forget_begun(tag);
            }
        }
        self.write_begun();
    }

    /// The end of a request is committed.
    pub(super) fn forget_begun(&mut self, tag: RequestTag) {
        let Some(keeping) = &mut self.keeping else { return };
        if let Some(id) = keeping.names.remove(&tag) {
            keeping.ended.push(id);
            self.write_ended();
        }
    }

    fn write_ended(&mut self) {
        let Some(keeping) = self.keeping.as_mut().filter(|keeping| !keeping.forgets) else { return };
        // What is still on its way there is forgotten after it has arrived.
        if keeping.ended.is_empty() || keeping.writes {
            return;
        }
        keeping.forgets = true;
        let ids = std::mem::take(&mut keeping.ended);
        let (backend, keeper, log) = (keeping.backend.clone(), keeping.keeper.clone(), self.log.clone());
        self.chores.push(Box::pin(async move {
            let mut link = Link::new("forget requests that have ended", log);
            while let Err(error) = backend.forget_begun(&keeper, &ids).await {
                tokio::time::sleep(link.failed(&error)).await;
            }
            link.worked();
            Chore::Forgotten
        }));
    }

    pub(super) fn begun_forgotten(&mut self) {
        if let Some(keeping) = &mut self.keeping {
            keeping.forgets = false;
        }
        self.write_ended();
    }

    /// Renews the lease of what is kept, and looks for what others have left.
    pub(super) fn renew_begun(&mut self, now: Instant) {
        let every = self.renew_every();
        self.write_ended();
        let takes_work = self.takes_work();
        let Some(keeping) =
            self.keeping.as_mut().filter(|keeping| !keeping.renews && keeping.renew_at <= now)
        else {
            return;
        };
        if !takes_work && keeping.names.is_empty() {
            return;
        }
        (keeping.renews, keeping.renew_at) = (true, now + every);
        let (backend, keeper) = (keeping.backend.clone(), keeping.keeper.clone());
        self.chores.push(Box::pin(async move {
            let left = timeout(ANSWER_WITHIN, backend.renew_begun(&keeper)).await;
            Chore::Left(left.unwrap_or_else(|_| Err(super::commit::backend_timeout())))
        }));
    }

    /// What a renewal found.
    pub(super) fn begun_left(&mut self, left: Result<Left, BackendError>) {
        let Some(keeping) = &mut self.keeping else { return };
        keeping.renews = false;
        match left {
            Ok(left) => {
                keeping.link.worked();
                if left.lost && !keeping.names.is_empty() && left.begun.is_empty() {
                    self.begun_lost();
                }
                for kept in left.begun {
                    self.conclude_left(kept);
                }
            }
            Err(error) => {
                let delay = keeping.link.failed(&error);
                keeping.renew_at = keeping.renew_at.min(Instant::now() + delay);
            }
        }
    }

    /// Another worker took this one for dead, and concludes what it kept: it must not end twice.
    fn begun_lost(&mut self) {
        let Some(keeping) = &mut self.keeping else { return };
        let pending: Vec<RequestTag> = keeping.begun.iter().map(|(tag, _)| *tag).collect();
        let taken: Vec<RequestTag> =
            keeping.names.keys().copied().filter(|tag| !pending.contains(tag)).collect();
        for tag in taken {
            if let Some(request) = self.requests.get_mut(&tag).filter(|request| request.claim.is_none()) {
                request.stale = true;
            }
        }
        self.log.line(Level::Error, "celery.worker.consumer", || {
            "the lease of requests that run ran out before it was renewed: other workers end them as lost"
                .to_owned()
        });
    }

    /// A request of a worker that is gone is concluded here.
    fn conclude_left(&mut self, kept: Kept) {
        let opened = Envelope::decode(&kept.message).ok();
        let Some(Envelope { message, exchange, routing_key, .. }) = opened else { return };
        let Some((id, name)) = member::named(&message) else { return };
        let tag = self.next_tag;
        self.next_tag += 1;
        let task = self.tasks.number(&name);
        let queue: Arc<str> = if routing_key.is_empty() { &*exchange } else { &*routing_key }.into();
        let buries = self.policies.any && self.policies.buries(self.tasks.options(task), &queue);
        let key = self.stores.key_of(&message);
        let request = Request {
            consumer: self.sources.last().map_or(0, |source| source.number),
            claim: None,
            stale: false,
            suspect: false,
            task,
            name: name.into(),
            id,
            message: Arc::new(message),
            queue,
            has_defaults: false,
            buries,
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            redelivered: true,
            expires_ms: None,
            soft_limit: None,
            hard_limit: None,
            mode: Mode::Lost(member::GONE.to_owned()),
            phase: Phase::Turn,
            terminate: None,
            pid: None,
            crashes: 1,
            member: true,
            once: true,
            first: false,
            kept: Some(tag),
            last: None,
            blind: false,
            limit: None,
            joining: None,
            large: None,
            batch: None,
            key,
        };
        self.log.lost(&request);
        if let Some(keeping) = &mut self.keeping {
            keeping.names.insert(tag, kept.id);
        }
        self.prefetch.bytes += request.message.size();
        self.requests.insert(tag, request);
        self.make_ready(tag);
    }
}

//! Keys that calls take, and locks: beside the messages, or beside the results of another broker.

use std::borrow::Cow;

use async_trait::async_trait;
use redis::{FromRedisValue as _, Value};

use super::backend::RedisBackend;
use super::broker::{RedisBroker, Shared};
use super::errors::LinkError;
use super::keys::own_key;
use super::link::Link;
use super::publish::Step;
use super::scripts::{ADMIT, KEY};
use super::settle::{Arg, text};
use crate::broker::BrokerError;
use crate::keys::{Admission, Admitted, Arrival, Held, KeyError, Keys, Kind, Turn};
use crate::protocol::Publication;

/// Where keys are: a database behind a connection, and what its keys begin with.
#[derive(Clone, Copy)]
struct Place<'a> {
    link: &'a Link,
    prefix: &'a str,
}

fn borrowed(text: &str) -> Arg<'_> {
    Cow::Borrowed(text.as_bytes())
}

fn kind(admission: &Admission) -> (&'static str, u64) {
    match admission.kind {
        Kind::Hold => ("h", 0),
        // None at all would be a limit in the past.
        Kind::Debounce(longest) => ("d", longest.map_or(0, |ms| ms.max(1))),
    }
}

fn admitted(answer: Value) -> Admitted {
    let mut parts = Vec::<String>::from_redis_value(answer).unwrap_or_default().into_iter();
    let code = parts.next().unwrap_or_default();
    let id = parts.next().unwrap_or_default();
    match &*code {
        "0" => Admitted::New,
        "2" => Admitted::Pending,
        "3" => Admitted::Again,
        _ => Admitted::Exists(id, parts.next().and_then(|limit| limit.parse().ok())),
    }
}

impl Place<'_> {
    fn key(self, key: &str) -> String {
        own_key(self.prefix, key)
    }

    async fn admission(self, what: &str, wanted: &Admission) -> Result<Admitted, LinkError> {
        let (kind, longest) = kind(wanted);
        let args = [
            borrowed(what),
            borrowed(kind),
            borrowed(&wanted.task_id),
            borrowed(&wanted.token),
            text(wanted.ttl_ms.max(1)),
            text(wanted.pending_ms.max(1)),
            text(longest),
        ];
        Ok(admitted(self.link.script(&KEY, &[self.key(&wanted.key)], &args).await?))
    }

    async fn arrive(self, arrival: &Arrival) -> Result<Turn, LinkError> {
        let keys: Vec<String> =
            std::iter::once(&arrival.held.key).chain(&arrival.turn).map(|key| self.key(key)).collect();
        let args = [
            borrowed("arrive"),
            borrowed(if arrival.debounced { "d" } else { "h" }),
            borrowed(&arrival.task_id),
            borrowed(&arrival.held.token),
            text(arrival.held.ttl_ms.max(1)),
        ];
        let answer = self.link.script(&KEY, &keys, &args).await?;
        let mut parts = Vec::<String>::from_redis_value(answer).unwrap_or_default().into_iter();
        Ok(match parts.next().as_deref() {
            Some("1") => Turn::Superseded,
            Some("2") => Turn::Duplicate(parts.next().unwrap_or_default()),
            Some("3") => Turn::Wait,
            _ => Turn::Run,
        })
    }

    async fn each(self, what: &str, held: &[Held]) -> Result<Vec<bool>, LinkError> {
        if held.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<String> = held.iter().map(|held| self.key(&held.key)).collect();
        let mut args = vec![borrowed(what)];
        for held in held {
            args.extend([borrowed(&held.token), text(held.ttl_ms.max(1))]);
        }
        let answer = self.link.script(&KEY, &keys, &args).await?;
        Ok(Vec::<i64>::from_redis_value(answer).unwrap_or_default().into_iter().map(|one| one == 1).collect())
    }

    async fn lock(self, lock: &Held) -> Result<Option<u64>, LinkError> {
        let keys = [self.key(&lock.key), format!("{}celeriac:fence", self.prefix)];
        let args = [borrowed("lock"), borrowed(&lock.token), text(lock.ttl_ms.max(1))];
        let answer = self.link.script(&KEY, &keys, &args).await?;
        Ok(u64::from_redis_value(answer).ok().filter(|number| *number > 0))
    }
}

impl Shared {
    pub(super) async fn publish_admitted(
        &self,
        publication: &Publication,
        wanted: &Admission,
    ) -> Result<Admitted, BrokerError> {
        let steps = self.resolve(&[publication]).await?;
        let (kind, longest) = kind(wanted);
        let mut args: Vec<Arg<'_>> = vec![
            borrowed(kind),
            borrowed(&wanted.task_id),
            borrowed(&wanted.token),
            text(wanted.ttl_ms.max(1)),
            text(longest),
        ];
        args.extend(steps.into_iter().flatten().flat_map(Step::into_args));
        let answer = self.link.script(&ADMIT, &[self.layout.own_key(&wanted.key)], &args).await;
        Ok(admitted(answer.map_err(|error| self.failed(error))?))
    }
}

macro_rules! keeps_keys {
    ($($store:ident, $error:ty: |$own:ident| $place:expr;)*) => {
        $(#[async_trait]
        impl Keys for $store {
            async fn reserve(&self, admission: &Admission) -> Result<Admitted, KeyError> {
                let $own = self;
                $place.admission("reserve", admission).await.map_err(|error| <$error>::from(error).into())
            }

            async fn confirm(&self, admission: &Admission) -> Result<Admitted, KeyError> {
                let $own = self;
                $place.admission("confirm", admission).await.map_err(|error| <$error>::from(error).into())
            }

            async fn arrive(&self, arrival: &Arrival) -> Result<Turn, KeyError> {
                let $own = self;
                $place.arrive(arrival).await.map_err(|error| <$error>::from(error).into())
            }

            async fn free(&self, held: &[Held]) -> Result<Vec<bool>, KeyError> {
                let $own = self;
                $place.each("free", held).await.map_err(|error| <$error>::from(error).into())
            }

            async fn renew(&self, held: &[Held]) -> Result<Vec<bool>, KeyError> {
                let $own = self;
                $place.each("renew", held).await.map_err(|error| <$error>::from(error).into())
            }

            async fn lock(&self, lock: &Held) -> Result<Option<u64>, KeyError> {
                let $own = self;
                $place.lock(lock).await.map_err(|error| <$error>::from(error).into())
            }
        })*
    };
}

keeps_keys! {
    RedisBroker, BrokerError: |own| Place { link: &own.0.link, prefix: &own.0.layout.prefix };
    RedisBackend, crate::backend::BackendError: |own| Place { link: &own.link, prefix: &own.place.prefix };
}

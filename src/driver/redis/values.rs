//! Kept values: `celeriac:<key>`, behind the user's prefix.

use bytes::Bytes;

use super::errors::LinkError;
use super::link::Link;
use super::record::ResultPlace;
use crate::backend::KeptValue;

pub(super) async fn put(link: &Link, place: &ResultPlace, kept: &KeptValue) -> Result<(), LinkError> {
    let mut set = redis::cmd("SET");
    set.arg(key(place, &kept.key)).arg(&kept.value[..]);
    if let Some(ms) = kept.expires_ms {
        set.arg("PX").arg(ms.max(1));
    }
    link.query::<redis::Value>(&set).await.map(drop)
}

pub(super) async fn read(link: &Link, place: &ResultPlace, name: &str) -> Result<Option<Bytes>, LinkError> {
    let stored: Option<Vec<u8>> = link.query(redis::cmd("GET").arg(key(place, name))).await?;
    Ok(stored.map(Bytes::from))
}

pub(super) async fn delete(link: &Link, place: &ResultPlace, names: &[String]) -> Result<(), LinkError> {
    let mut command = redis::cmd("DEL");
    for name in names {
        command.arg(key(place, name));
    }
    link.query::<u64>(&command).await.map(drop)
}

fn key(place: &ResultPlace, name: &str) -> String {
    [&*place.prefix, "celeriac:", name].concat()
}

//! Saved groups: Celery's key, and its two steps (SET, and PUBLISH of the same to a channel of the key's name).

use bytes::Bytes;

use super::errors::LinkError;
use super::link::Link;
use super::record::ResultPlace;
use crate::backend::GroupRecord;

pub(super) async fn save(link: &Link, place: &ResultPlace, group: &GroupRecord) -> Result<(), LinkError> {
    let key = key(place, &group.group_id);
    let mut both = redis::pipe();
    both.atomic().cmd("SET").arg(&key).arg(&group.record[..]);
    if let Some(ms) = group.expires_ms {
        both.arg("PX").arg(ms);
    }
    both.ignore().cmd("PUBLISH").arg(&key).arg(&group.record[..]).ignore();
    link.pipeline::<()>(&both).await
}

pub(super) async fn read(
    link: &Link,
    place: &ResultPlace,
    group_id: &str,
) -> Result<Option<Bytes>, LinkError> {
    let stored: Option<Vec<u8>> = link.query(redis::cmd("GET").arg(key(place, group_id))).await?;
    Ok(stored.map(Bytes::from))
}

pub(super) async fn forget(link: &Link, place: &ResultPlace, group_id: &str) -> Result<(), LinkError> {
    link.query::<u64>(redis::cmd("DEL").arg(key(place, group_id))).await.map(drop)
}

/// The key of a group's record; what belongs to its chord has more behind it.
pub(super) fn key(place: &ResultPlace, group_id: &str) -> String {
    [&*place.prefix, &*GroupRecord::key(group_id)].concat()
}

//! A client over the store in memory.

use std::time::Duration;

use super::{Changes, Client, ClientError, Sending};
use crate::broker::{BrokerError, ConsumerOptions, Credit};
use crate::driver::ConnectOptions;
use crate::protocol::{Message, Publication, ResultRecord};

fn client(name: &str) -> Client {
    let url = format!("memory://{name}");
    Client::new(&url, Some(&url), ConnectOptions::default())
}

fn record(id: &str, state: &str, body: &'static [u8]) -> ResultRecord {
    ResultRecord {
        task_id: id.to_owned(),
        state: state.to_owned(),
        record: body.into(),
        ..ResultRecord::default()
    }
}

#[tokio::test]
async fn what_is_published_can_be_claimed() {
    let client = client("client-publish");
    let publication =
        Publication { routing_key: "q".into(), message: Message::default(), ..Publication::default() };

    client.publish(|| vec![publication.clone(); 3], Sending::default()).await.unwrap();

    let options = ConsumerOptions {
        queues: vec!["q".into()],
        node: "w@h".into(),
        lease: Duration::from_secs(30),
        max_crashes: 3,
        results: None,
    };
    let consumer = client.broker().unwrap().consume(options).await.unwrap();
    let claimed = consumer.claim(Credit { count: 10, bytes: 1 << 20 }).await.unwrap();
    assert_eq!(claimed.len(), 3);
}

#[tokio::test]
async fn a_wrong_url_fails_at_once_and_not_at_the_deadline() {
    let client = Client::new("nonsense://x", None, ConnectOptions::default());

    let failed = client
        .publish(Vec::new, Sending { timeout: Some(Duration::from_secs(3600)), ..Sending::default() })
        .await;

    assert!(matches!(failed, Err(ClientError::Broker(BrokerError::Config(_)))));
}

#[tokio::test]
async fn a_wait_gives_all_that_is_final_and_passes_over_the_rest() {
    let client = client("client-wait");
    let records =
        vec![record("a", "SUCCESS", b"1"), record("b", "STARTED", b"2"), record("c", "FAILURE", b"3")];
    client.store(records).await.unwrap();

    let ids = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
    let mut ready = client.wait_ready(ids, None).await.unwrap();

    ready.sort_by(|one, other| one.task_id.cmp(&other.task_id));
    assert_eq!(ready.iter().map(|record| &*record.task_id).collect::<Vec<_>>(), ["a", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_wait_is_woken_by_a_store_that_comes_later() {
    let client = client("client-wake");
    let later = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        client.store(vec![record("a", "REVOKED", b"1")]).await.unwrap();
    };

    let (ready, ()) = tokio::join!(client.wait_ready(vec!["a".into()], None), later);

    assert_eq!(ready.unwrap(), [record("a", "REVOKED", b"1")]);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_at_its_time_limit() {
    let failed = client("client-timeout").wait_ready(vec!["a".into()], Some(Duration::from_secs(2))).await;

    assert!(matches!(failed, Err(ClientError::WaitedTooLong(_))));
}

#[tokio::test(start_paused = true)]
async fn a_change_is_a_record_that_differs_from_the_one_known() {
    let client = client("client-change");
    let known = record("a", "PROGRESS", b"1");
    client.store(vec![known.clone()]).await.unwrap();
    let limit = Some(Duration::from_secs(1));

    let first = client.wait_change("a".into(), None, None, limit).await.unwrap();
    let same = client.wait_change("a".into(), Some("PROGRESS"), Some(b"1"), limit).await.unwrap();
    client.store(vec![record("a", "PROGRESS", b"2")]).await.unwrap();
    let changed = client.wait_change("a".into(), Some("PROGRESS"), Some(b"1"), limit).await.unwrap();

    assert_eq!(first, Some(known));
    assert_eq!(same, None);
    assert_eq!(changed, Some(record("a", "PROGRESS", b"2")));
}

#[tokio::test]
async fn without_a_backend_asking_for_results_says_so() {
    let client = Client::new("memory://none", None, ConnectOptions::default());

    assert!(matches!(client.wait_ready(vec!["a".into()], None).await, Err(ClientError::NoBackend)));
}

#[tokio::test(start_paused = true)]
async fn changes_begin_with_what_is_stored_and_keep_the_newest_for_whoever_is_slow() {
    let client = client("client-changes");
    client.store(vec![record("a", "STARTED", b"0")]).await.unwrap();
    let mut changes = Changes::new(["a", "b"].map(str::to_owned).to_vec());

    assert_eq!(changes.next(&client, None).await.unwrap(), [record("a", "STARTED", b"0")]);
    for body in [&b"1"[..], b"2", b"3"] {
        client
            .store(vec![ResultRecord { record: body.into(), ..record("b", "PROGRESS", b"") }])
            .await
            .unwrap();
    }
    client.store(vec![record("a", "SUCCESS", b"end")]).await.unwrap();
    let mut found = Vec::new();
    while found.len() < 2 {
        found.extend(changes.next(&client, None).await.unwrap());
    }
    let waited = changes.next(&client, Some(Duration::from_secs(5))).await;

    found.sort_by(|one, other| one.task_id.cmp(&other.task_id));
    assert_eq!(found, [record("a", "SUCCESS", b"end"), record("b", "PROGRESS", b"3")]);
    assert!(matches!(waited, Err(ClientError::WaitedTooLong(_))));
}

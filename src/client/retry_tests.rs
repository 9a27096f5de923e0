//! Publishing to a broker that fails as a script says.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Client, ClientError, RetryPolicy, Sending};
use crate::backend::{BackendError, ResultBackend, Watch};
use crate::broker::{
    Broker, BrokerError, Consumer, ConsumerOptions, DeadFilter, DeadLetter, DeadReason, Listener, QueueStatus,
};
use crate::driver::ConnectOptions;
use crate::protocol::{Message, Publication, ResultRecord};

/// Celery's default.
const POLICY: RetryPolicy = RetryPolicy {
    max_retries: Some(3),
    start: Duration::ZERO,
    step: Duration::from_millis(200),
    longest: Duration::from_secs(1),
};

#[derive(Clone, Copy)]
enum Answer {
    Taken,
    Away,
    Refused,
    Silence,
}

/// Answers as told; after that, it takes everything.
#[derive(Default)]
struct Scripted {
    script: Mutex<VecDeque<Answer>>,
    /// When each attempt came.
    attempts: Mutex<Vec<Instant>>,
    taken: Mutex<usize>,
}

fn url() -> String {
    "redis://:**@away:6379/0".to_owned()
}

#[async_trait]
impl Broker for Scripted {
    async fn publish(&self, batch: Vec<Publication>) -> Result<(), BrokerError> {
        self.attempts.lock().push(Instant::now());
        let answer = self.script.lock().pop_front().unwrap_or(Answer::Taken);
        match answer {
            Answer::Taken => {
                *self.taken.lock() += batch.len();
                Ok(())
            }
            Answer::Away => {
                Err(BrokerError::Unavailable { url: url(), reason: "connection refused".to_owned() })
            }
            Answer::Refused => {
                Err(BrokerError::Refused { url: url(), reason: "no such exchange".to_owned() })
            }
            Answer::Silence => std::future::pending().await,
        }
    }

    async fn consume(&self, _: ConsumerOptions) -> Result<Box<dyn Consumer>, BrokerError> {
        Err(BrokerError::Closed)
    }

    async fn purge(&self, _: &str) -> Result<u64, BrokerError> {
        Err(BrokerError::Closed)
    }

    async fn queues(&self) -> Result<Vec<QueueStatus>, BrokerError> {
        Err(BrokerError::Closed)
    }

    async fn find_dead(&self, _: &DeadFilter, _: usize) -> Result<Vec<DeadLetter>, BrokerError> {
        Err(BrokerError::Closed)
    }

    async fn bury(&self, _: Publication, _: DeadReason, _: String) -> Result<(), BrokerError> {
        Err(BrokerError::Closed)
    }

    async fn broadcast(&self, _: &str, _: &str, _: Message, _: Duration) -> Result<(), BrokerError> {
        Err(BrokerError::Closed)
    }

    async fn listen(&self, _: &str) -> Result<Box<dyn Listener>, BrokerError> {
        Err(BrokerError::Closed)
    }

    fn store_id(&self) -> Option<String> {
        None
    }

    fn display_url(&self) -> String {
        url()
    }

    async fn sweep(&self) -> Result<(), BrokerError> {
        Err(BrokerError::Closed)
    }
}

/// Counts how often it was prepared.
#[derive(Default)]
struct Replies(Mutex<usize>);

#[async_trait]
impl ResultBackend for Replies {
    async fn store(&self, _: Vec<ResultRecord>) -> Result<(), BackendError> {
        Err(BackendError::Closed)
    }

    async fn read(&self, _: &[String]) -> Result<Vec<Option<ResultRecord>>, BackendError> {
        Err(BackendError::Closed)
    }

    async fn forget(&self, _: &[String]) -> Result<(), BackendError> {
        Err(BackendError::Closed)
    }

    async fn watch(&self, _: Vec<String>) -> Result<Box<dyn Watch>, BackendError> {
        Err(BackendError::Closed)
    }

    async fn prepare(&self) -> Result<(), BackendError> {
        *self.0.lock() += 1;
        Ok(())
    }

    fn store_id(&self) -> Option<String> {
        None
    }

    fn display_url(&self) -> String {
        url()
    }
}

fn client(broker_url: &str, backend_url: Option<&str>, script: &[Answer]) -> (Client, Arc<Scripted>) {
    let options = ConnectOptions { publish_timeout: Duration::from_secs(4), ..ConnectOptions::default() };
    let client = Client::new(broker_url, backend_url, options);
    let broker =
        Arc::new(Scripted { script: Mutex::new(script.iter().copied().collect()), ..Scripted::default() });
    assert!(client.broker.set(broker.clone()).is_ok());
    (client, broker)
}

fn one() -> Vec<Publication> {
    vec![Publication { routing_key: "q".into(), ..Publication::default() }]
}

fn retrying() -> Sending {
    Sending { retry: POLICY, ..Sending::default() }
}

/// Between each attempt and the one before it.
fn waits(broker: &Scripted) -> Vec<u128> {
    broker.attempts.lock().windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_dead_broker_is_tried_as_often_as_the_policy_says_and_named_without_its_password() {
    let (client, broker) = client("redis://:secret@away", None, &[Answer::Away; 9]);

    let error = client.publish(one, retrying()).await.unwrap_err();

    assert_eq!(waits(&broker), [0, 200, 400]);
    let text = error.to_string();
    assert_eq!(
        text,
        "cannot reach broker redis://:**@away:6379/0: connection refused (tried 4 times in 0.6s)"
    );
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_comes_back_gets_the_batch_once() {
    let (client, broker) = client("redis://away", None, &[Answer::Away, Answer::Away]);

    client.publish(one, retrying()).await.unwrap();

    assert_eq!(broker.attempts.lock().len(), 3);
    assert_eq!(*broker.taken.lock(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_retry_there_is_one_attempt() {
    let (client, broker) = client("redis://away", None, &[Answer::Away]);

    let error = client.publish(one, Sending::default()).await.unwrap_err();

    assert_eq!(broker.attempts.lock().len(), 1);
    assert!(!error.to_string().contains("tried"));
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_not_tried_again() {
    let (client, broker) = client("redis://away", None, &[Answer::Refused]);

    let error = client.publish(one, retrying()).await.unwrap_err();

    assert!(matches!(error, ClientError::Broker(BrokerError::Refused { .. })));
    assert_eq!(broker.attempts.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_does_not_answer_is_given_up_at_the_deadline() {
    let (client, _broker) = client("amqp://away", None, &[Answer::Away, Answer::Silence]);
    let start = Instant::now();

    let error = client.publish(one, retrying()).await.unwrap_err();

    assert!(matches!(error, ClientError::Broker(BrokerError::Timeout { .. })));
    assert_eq!(start.elapsed(), Duration::from_secs(4));
    let own = Sending { timeout: Some(Duration::from_secs(1)), ..retrying() };
    assert!(client.publish(one, own).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn attempts_without_a_limit_end_with_the_time() {
    let (client, broker) = client("amqp://away", None, &[Answer::Away; 99]);
    let how = Sending { retry: RetryPolicy { max_retries: None, ..POLICY }, ..Sending::default() };
    let start = Instant::now();

    client.publish(one, how).await.unwrap_err();

    assert!(start.elapsed() <= Duration::from_secs(4));
    assert_eq!(waits(&broker), [0, 200, 400, 600, 800, 1000]);
}

#[tokio::test(start_paused = true)]
async fn a_file_is_tried_until_the_time_is_over_whatever_the_policy() {
    let (client, broker) = client("sqlite:///x.db", None, &[Answer::Away; 5]);

    client.publish(one, Sending::default()).await.unwrap();

    assert_eq!(*broker.taken.lock(), 1);
}

#[tokio::test]
async fn a_reply_queue_is_made_before_messages_whose_results_are_wanted() {
    let (client, _broker) = client("amqp://h", Some("amqp://h"), &[]);
    let replies = Arc::new(Replies::default());
    assert!(client.backend.set(replies.clone()).is_ok());

    client.publish(one, retrying()).await.unwrap();
    assert_eq!(*replies.0.lock(), 0);
    client.publish(one, Sending { results: true, ..retrying() }).await.unwrap();
    assert_eq!(*replies.0.lock(), 1);
}

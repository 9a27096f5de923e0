//! Topics and the stream, for whoever asks by hand.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::{Client, ClientError};
use crate::broker::{BrokerError, Listener, Rebind};
use crate::protocol::{Message, TopicBinding};

/// How long the goodbye of a listener may take.
const GOODBYE: Duration = Duration::from_secs(2);
/// Rests before it listens again after it failed.
const REST: Duration = Duration::from_millis(200);

impl Client {
    /// Binds a queue to a topic exchange, whether anybody consumes it or not.
    pub async fn bind_topics(&self, binding: &TopicBinding) -> Result<(), ClientError> {
        self.patiently(None, || async { Ok(self.broker()?.bind_topics(binding, Rebind::Replace).await?) })
            .await
    }

    /// Hears what is sent to a topic exchange from now on. So many messages wait at the most; of more the oldest are
    /// dropped, and counted ([`Listener::missed`]).
    pub async fn subscribe(
        &self,
        exchange: &str,
        patterns: &[String],
        most: usize,
    ) -> Result<Box<dyn Listener>, ClientError> {
        let listener = self
            .patiently(None, || async { Ok(self.broker()?.subscribe(exchange, patterns).await?) })
            .await?;
        Ok(Box::new(Buffered::new(listener, most)))
    }

    /// The cursor of the stream's newest entry; none where the store keeps no stream.
    pub async fn stream_end(&self) -> Result<Option<String>, ClientError> {
        self.patiently(None, || async { Ok(self.broker()?.stream_end().await?) }).await
    }

    /// Reads the stream after a cursor. Where the store keeps none, so many entries wait at the most.
    pub async fn stream(&self, after: Option<&str>, most: usize) -> Result<Box<dyn Listener>, ClientError> {
        let listener = self.patiently(None, || async { Ok(self.broker()?.stream(after).await?) }).await?;
        Ok(if after.is_some() { listener } else { Box::new(Buffered::new(listener, most)) })
    }
}

/// A listener that is heard all the time, so that nothing piles up in the store or on the way, and what came of it.
struct Buffered {
    waiting: Arc<Waiting>,
    missed: Arc<AtomicU64>,
    task: JoinHandle<()>,
    /// Tells the task to say goodbye.
    leave: Arc<Notify>,
}

/// Written by the task, emptied by whoever listens.
#[derive(Default)]
struct Waiting {
    heard: Mutex<Heard>,
    changed: Notify,
}

#[derive(Default)]
struct Heard {
    messages: VecDeque<Message>,
    /// Why there will be no more.
    end: Option<BrokerError>,
}

impl Buffered {
    fn new(listener: Box<dyn Listener>, most: usize) -> Self {
        let (waiting, missed, leave) = (Arc::<Waiting>::default(), Arc::default(), Arc::<Notify>::default());
        let task = tokio::spawn(hear(listener, most, waiting.clone(), Arc::clone(&missed), leave.clone()));
        Self { waiting, missed, task, leave }
    }
}

async fn hear(
    mut listener: Box<dyn Listener>,
    most: usize,
    waiting: Arc<Waiting>,
    missed: Arc<AtomicU64>,
    leave: Arc<Notify>,
) {
    let mut up = true;
    loop {
        let next = tokio::select! {
            next = listener.next() => next,
            () = leave.notified() => return listener.close().await,
        };
        match &next {
            // What is said meanwhile is not heard; that is what subscriptions are like.
            Err(error) if error.is_transient() => {
                if std::mem::take(&mut up) {
                    tracing::warn!("a subscription does not hear anything: {error}");
                }
                tokio::time::sleep(REST).await;
                continue;
            }
            _ => up = true,
        }
        let mut heard = waiting.heard.lock();
        match next {
            Ok(message) => heard.messages.push_back(message),
            Err(error) => heard.end = Some(error),
        }
        while heard.messages.len() > most {
            heard.messages.pop_front();
            missed.fetch_add(1, Ordering::Relaxed);
        }
        let over = heard.end.is_some();
        drop(heard);
        waiting.changed.notify_one();
        if over {
            return;
        }
    }
}

#[async_trait]
impl Listener for Buffered {
    async fn next(&mut self) -> Result<Message, BrokerError> {
        loop {
            {
                let mut heard = self.waiting.heard.lock();
                if let Some(message) = heard.messages.pop_front() {
                    return Ok(message);
                }
                if let Some(error) = &heard.end {
                    return Err(error.clone());
                }
            }
            self.waiting.changed.notified().await;
        }
    }

    fn missed(&self) -> Option<Arc<AtomicU64>> {
        Some(self.missed.clone())
    }

    async fn close(&mut self) {
        self.leave.notify_one();
        let _closed_or_late = tokio::time::timeout(GOODBYE, &mut self.task).await;
    }
}

impl Drop for Buffered {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives as many messages as there are permits, numbered in their bodies.
    struct Numbers(u64, Arc<tokio::sync::Semaphore>);

    #[async_trait]
    impl Listener for Numbers {
        async fn next(&mut self) -> Result<Message, BrokerError> {
            self.1.acquire().await.unwrap().forget();
            self.0 += 1;
            Ok(Message { body: self.0.to_string().into(), ..Message::default() })
        }
    }

    #[tokio::test]
    async fn whoever_is_slow_misses_the_oldest_and_is_told_how_many() {
        let permits = Arc::new(tokio::sync::Semaphore::new(0));
        let mut listener = Buffered::new(Box::new(Numbers(0, permits.clone())), 3);
        let missed = listener.missed().unwrap();

        permits.add_permits(10);
        while missed.load(Ordering::Relaxed) < 7 {
            tokio::task::yield_now().await;
        }

        let mut heard = Vec::new();
        for _ in 0..3 {
            heard.push(listener.next().await.unwrap().body);
        }
        assert_eq!(heard, ["8", "9", "10"]);
        assert_eq!(missed.load(Ordering::Relaxed), 7);
    }
}

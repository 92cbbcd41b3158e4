//! The bounded queue before one destination, and the task that empties it.
//!
//! In: what workers hand over; what finds the queue full is dropped and counted, so that a slow destination never slows a
//! request. Out: batches, sent again only where that may help. Never waits for a destination at start: one that comes later is
//! found.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::retry::{self, Again};

/// How many items may wait: OpenTelemetry's default for its batch processor.
pub(super) const QUEUE: usize = 2048;
/// How many go in one message: the same.
pub(super) const BATCH: usize = 512;
/// How long an item waits for others.
const LINGER: Duration = Duration::from_secs(1);
/// How long a destination may take: OTLP's default.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often a batch is sent before it is given up.
pub(super) const TRIES: u32 = 5;

/// What brings batches to a destination.
pub trait Carrier: Send + 'static {
    /// What waits in the queue.
    type Item: Send + 'static;
    /// Many of them, as they are sent: once or several times.
    type Batch: Send + Sync;

    /// Makes a batch.
    fn pack(&self, items: Vec<Self::Item>) -> Self::Batch;

    /// Sends it, and says how much of it the destination took and refused.
    fn carry(&mut self, batch: &Self::Batch) -> impl Future<Output = Result<Refused, Failure>> + Send;
}

/// What a destination refused of a batch that it took. It must not be sent again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refused {
    /// How many items.
    pub count: u64,
    /// Why, as it says.
    pub why: String,
}

/// Why a batch did not get there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What happened.
    pub said: String,
    /// Whether another try may help.
    pub again: Again,
}

/// Who is at the other end of a queue.
#[derive(Debug, Clone)]
pub struct Name {
    /// The destination's name, for labels and messages.
    pub destination: String,
    /// What is sent: `spans`.
    pub what: &'static str,
    /// Whether failures are nothing that users are to be told: somebody else tells them.
    pub quiet: bool,
}

/// The way to one destination. Clones lead to the same one.
#[derive(Debug)]
pub struct Queue<T> {
    messages: mpsc::Sender<Message<T>>,
    shared: Arc<Shared>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { messages: self.messages.clone(), shared: self.shared.clone() }
    }
}

#[derive(Debug)]
struct Shared {
    name: Name,
    sent: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Debug)]
enum Message<T> {
    Item(T),
    Flush(oneshot::Sender<()>),
}

impl<T: Send + 'static> Queue<T> {
    /// A queue, and the task that empties it, which ends with the last clone of the queue.
    pub fn start<C: Carrier<Item = T>>(name: Name, carrier: C) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (messages, received) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared { name, sent: AtomicU64::new(0), dropped: AtomicU64::new(0) });
        let emptying = Emptying { carrier, shared: shared.clone(), failing: false };
        (Self { messages, shared }, emptying.run(received))
    }

    /// Hands on what `make` makes, or counts it as dropped without making it. Never waits.
    pub fn offer(&self, make: impl FnOnce() -> T) {
        match self.messages.try_reserve() {
            Ok(room) => room.send(Message::Item(make())),
            Err(_) => self.shared.lose(1),
        }
    }

    /// The destination's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name.destination
    }

    /// How many items the destination took.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// How many items were dropped: there was no room for them, or the destination did not take them.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all that was handed over is sent or dropped.
    pub async fn flush(&self) {
        let (done, sent) = oneshot::channel();
        if self.messages.send(Message::Flush(done)).await.is_ok() {
            // An error says that the task has ended, and with it the waiting.
            drop(sent.await);
        }
    }
}

impl Shared {
    fn lose(&self, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
    }
}

/// What the task has.
struct Emptying<C> {
    carrier: C,
    shared: Arc<Shared>,
    failing: bool,
}

impl<C: Carrier> Emptying<C> {
    async fn run(mut self, mut messages: mpsc::Receiver<Message<C::Item>>) {
        loop {
            let (items, asked) = match next_batch(&mut messages).await {
                Next::Batch(items) => (items, None),
                Next::Asked(items, done) => (items, Some(done)),
                Next::End(items) => {
                    self.export(items).await;
                    return;
                }
            };
            self.export(items).await;
            if let Some(done) = asked {
                // Whoever asked may have stopped waiting.
                let _: Result<(), _> = done.send(());
            }
        }
    }

    async fn export(&mut self, items: Vec<C::Item>) {
        if items.is_empty() {
            return;
        }
        let count = items.len() as u64;
        let batch = self.carrier.pack(items);
        let sent = self.send(&batch).await;
        let Name { destination, what, quiet } = &self.shared.name;
        // Said once, not once a batch.
        match (&sent, self.failing, quiet) {
            (Err(failure), false, false) => {
                tracing::warn!(destination, error = failure.said, "{what} cannot be sent; they are dropped until they can");
            }
            (Err(failure), false, true) => {
                tracing::debug!(destination, error = failure.said, "{what} cannot be sent; they are dropped until they can");
            }
            (Ok(_), true, false) => tracing::info!(destination, "{what} can be sent again"),
            (Ok(_), true, true) => tracing::debug!(destination, "{what} can be sent again"),
            _ => {}
        }
        if let Ok(Refused { count: refused @ 1.., why }) = &sent {
            tracing::warn!(destination, refused, why, "the destination refused {what}");
        }
        self.failing = sent.is_err();
        let dropped = sent.map_or(count, |refused| refused.count.min(count));
        self.shared.lose(dropped);
        self.shared.sent.fetch_add(count - dropped, Ordering::Relaxed);
    }

    /// Sends a batch until the destination takes it or it is of no use to go on.
    async fn send(&mut self, batch: &C::Batch) -> Result<Refused, Failure> {
        let mut tries = 0;
        loop {
            tries += 1;
            let late = || Failure { said: format!("no answer within {} s", TIMEOUT.as_secs()), again: Again::Soon };
            let failure = match timeout(TIMEOUT, self.carrier.carry(batch)).await.unwrap_or_else(|_| Err(late())) {
                Ok(refused) => return Ok(refused),
                Err(failure) => failure,
            };
            match retry::pause(failure.again, tries, fastrand::f64()).filter(|_| tries < TRIES) {
                Some(pause) => sleep(pause).await,
                None => return Err(failure),
            }
        }
    }
}

/// What there is to do.
enum Next<T> {
    /// So many items, or as many as came in time.
    Batch(Vec<T>),
    /// Somebody waits for them.
    Asked(Vec<T>, oneshot::Sender<()>),
    /// The last; nobody sends any more.
    End(Vec<T>),
}

async fn next_batch<T>(messages: &mut mpsc::Receiver<Message<T>>) -> Next<T> {
    let mut items = Vec::new();
    // Until the first item is there it may take as long as it likes.
    let mut due: Option<Instant> = None;
    while items.len() < BATCH {
        let message = match due {
            None => messages.recv().await,
            Some(due) => match timeout_at(due, messages.recv()).await {
                Ok(message) => message,
                Err(_) => break,
            },
        };
        match message {
            Some(Message::Item(item)) => items.push(item),
            Some(Message::Flush(done)) => return Next::Asked(items, done),
            None => return Next::End(items),
        }
        due = due.or_else(|| Some(Instant::now() + LINGER));
    }
    Next::Batch(items)
}

//! Places: at most so many at once, first come, first served.
//!
//! A place that is free is taken by one atomic step. Only who has to wait, and who frees a place while somebody waits, take a lock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Places of which there are at most so many, for all workers.
#[derive(Debug)]
pub struct Places {
    limit: AtomicU32,
    taken: AtomicU32,
    /// How many are in the queue. Counted up before one joins: whoever frees a place after that looks at the queue.
    waiting: AtomicU32,
    /// What each is told by that a place was taken for it.
    queue: Mutex<VecDeque<oneshot::Sender<()>>>,
}

impl Default for Places {
    fn default() -> Self {
        Self { limit: AtomicU32::new(u32::MAX), taken: AtomicU32::new(0), waiting: AtomicU32::new(0), queue: Mutex::default() }
    }
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Place(Arc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::SeqCst);
        self.0.hand_out();
    }
}

impl Place {
    /// Whether somebody waits for one like it.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.0.waiting() > 0
    }
}

impl Places {
    fn queue(&self) -> MutexGuard<'_, VecDeque<oneshot::Sender<()>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how many there may be; none: any number. Where more are taken already, none is given out before enough are free.
    pub fn set(&self, limit: Option<u32>) {
        self.limit.store(limit.unwrap_or(u32::MAX), Ordering::SeqCst);
        self.hand_out();
    }

    /// How many there may be; none: any number.
    #[must_use]
    pub fn limit(&self) -> Option<u32> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|limit| *limit != u32::MAX)
    }

    /// How many are taken.
    #[must_use]
    pub fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }

    /// How many wait for one.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::SeqCst)
    }

    /// A place that is free, if nobody waits for one.
    #[must_use]
    pub fn try_take(self: &Arc<Self>) -> Option<Place> {
        (self.waiting() == 0 && self.count_one()).then(|| Place(self.clone()))
    }

    /// Waits for a place behind those who wait already. Dropped, it leaves the queue.
    pub async fn take(self: &Arc<Self>) -> Place {
        let mut waiter = Waiter::join(self);
        // A sender is only dropped once it has sent.
        match (&mut waiter.told).await {
            Ok(()) => waiter.served = true,
            Err(_) => std::future::pending().await,
        }
        Place(self.clone())
    }

    fn count_one(&self) -> bool {
        let limit = self.limit.load(Ordering::SeqCst);
        self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |taken| (taken < limit).then(|| taken + 1)).is_ok()
    }

    /// Gives what is free to those who wait, in their order.
    fn hand_out(&self) {
        while self.waiting() > 0 {
            let mut queue = self.queue();
            if queue.is_empty() || !self.count_one() {
                return;
            }
            let told = queue.pop_front().is_some_and(|waiter| waiter.send(()).is_ok());
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            if !told {
                // It has gone away meanwhile.
                self.taken.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}

/// Somebody who waits.
struct Waiter<'p> {
    places: &'p Arc<Places>,
    told: oneshot::Receiver<()>,
    served: bool,
}

impl<'p> Waiter<'p> {
    fn join(places: &'p Arc<Places>) -> Self {
        let (sender, told) = oneshot::channel();
        places.waiting.fetch_add(1, Ordering::SeqCst);
        places.queue().push_back(sender);
        let waiter = Self { places, told, served: false };
        places.hand_out();
        waiter
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if self.served {
            return;
        }
        self.told.close();
        self.places.queue().retain(|waiter| {
            if waiter.is_closed() {
                self.places.waiting.fetch_sub(1, Ordering::SeqCst);
            }
            !waiter.is_closed()
        });
        if self.told.try_recv().is_ok() {
            // It was given a place at the very moment that it went away.
            drop(Place(self.places.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    fn places(limit: u32) -> Arc<Places> {
        let places = Arc::new(Places::default());
        places.set(Some(limit));
        places
    }

    #[test]
    fn first_come_first_served() {
        let places = places(1);
        let first = places.try_take().unwrap();
        let (mut second, mut third) = (pin!(places.take()), pin!(places.take()));
        assert!(poll(second.as_mut()).is_none() && poll(third.as_mut()).is_none());
        assert!(first.is_wanted());
        drop(first);
        assert!(places.try_take().is_none(), "it belongs to who waited");
        assert!(poll(third.as_mut()).is_none());
        let second = poll(second.as_mut()).unwrap();
        drop(second);
        let third = poll(third.as_mut()).unwrap();
        assert_eq!((places.taken(), places.waiting()), (1, 0));
        drop(third);
        assert_eq!(places.taken(), 0);
    }

    #[test]
    fn who_goes_away_leaves_the_queue() {
        let places = places(1);
        let first = places.try_take().unwrap();
        let mut last = Box::pin(places.take());
        {
            let mut gone = Box::pin(places.take());
            assert!(poll(gone.as_mut()).is_none() && poll(last.as_mut()).is_none());
            assert_eq!(places.waiting(), 2);
        }
        assert_eq!((places.waiting(), places.queue().len()), (1, 1));
        {
            let mut behind = Box::pin(places.take());
            assert!(poll(behind.as_mut()).is_none());
            drop(first);
            // The place is already its own when `last` goes away.
            drop(last);
            assert!(poll(behind.as_mut()).is_some());
        }
        assert_eq!((places.taken(), places.waiting()), (0, 0));
    }

    #[test]
    fn a_limit_may_change() {
        let places = places(2);
        let (first, second) = (places.try_take().unwrap(), places.try_take().unwrap());
        places.set(Some(1));
        let mut third = pin!(places.take());
        assert!(poll(third.as_mut()).is_none());
        drop(first);
        assert!(poll(third.as_mut()).is_none(), "one is taken");
        drop(second);
        let third = poll(third.as_mut()).unwrap();
        let mut fourth = pin!(places.take());
        assert!(poll(fourth.as_mut()).is_none());
        places.set(None);
        assert!(poll(fourth.as_mut()).is_some());
        drop(third);
    }

    #[test]
    fn threads_never_have_more_places_than_there_are() {
        let (places, most) = (places(3), Arc::new(AtomicU32::new(0)));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    runtime.block_on(async {
                        for _ in 0..2000 {
                            let place = places.take().await;
                            most.fetch_max(places.taken(), Ordering::SeqCst);
                            drop(place);
                        }
                    });
                });
            }
        });
        assert_eq!((places.taken(), places.waiting(), places.queue().len()), (0, 0, 0));
        assert!((1..=3).contains(&most.load(Ordering::SeqCst)));
    }
}

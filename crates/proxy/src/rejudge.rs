//! What is under way, to be judged again: a connection or an exchange asks here to be told when what callers may do has changed.
//!
//! Of a worker alone, so that no exchange takes a lock for it. Who waits is woken at most once a change.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Who waits for what callers may do to change.
#[derive(Debug, Default)]
pub struct Rejudge {
    /// Counted up with each change.
    changes: Cell<u64>,
    waiting: RefCell<Waiting>,
}

/// Places for wakers; free ones are used again.
#[derive(Debug, Default)]
struct Waiting {
    places: Vec<Option<Waker>>,
    free: Vec<usize>,
}

/// A place among those who wait, until it is dropped.
struct Place<'r> {
    rejudge: &'r Rejudge,
    at: usize,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.rejudge.waiting.borrow_mut();
        if let Some(place) = waiting.places.get_mut(self.at) {
            *place = None;
            waiting.free.push(self.at);
        }
    }
}

impl Rejudge {
    /// How often what callers may do has changed.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.get()
    }

    /// What callers may do has changed.
    pub fn change(&self) {
        self.changes.set(self.changes.get() + 1);
        let woken: Vec<Waker> = self.waiting.borrow_mut().places.iter_mut().filter_map(Option::take).collect();
        woken.into_iter().for_each(Waker::wake);
    }

    /// Waits until it has changed more often than `seen`.
    pub async fn changed(&self, seen: u64) {
        let mut place: Option<Place<'_>> = None;
        poll_fn(|context| {
            if self.changes.get() != seen {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            let at = match &place {
                Some(place) => place.at,
                None => {
                    let at = waiting.free.pop().unwrap_or(waiting.places.len());
                    place = Some(Place { rejudge: self, at });
                    at
                }
            };
            if at == waiting.places.len() {
                waiting.places.push(None);
            }
            if let Some(waker) = waiting.places.get_mut(at)
                && !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker()))
            {
                *waker = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::Context;

    #[test]
    fn who_waits_is_woken_by_a_change_and_leaves_no_place_behind() {
        let rejudge = Rejudge::default();
        let mut context = Context::from_waker(Waker::noop());
        {
            let (mut one, mut two) = (pin!(rejudge.changed(0)), pin!(rejudge.changed(0)));
            assert!(one.as_mut().poll(&mut context).is_pending() && two.as_mut().poll(&mut context).is_pending());
            assert_eq!(rejudge.waiting.borrow().places.len(), 2);
            rejudge.change();
            assert!(one.as_mut().poll(&mut context).is_ready() && two.as_mut().poll(&mut context).is_ready());
        }
        assert_eq!(rejudge.waiting.borrow().free.len(), 2);
        let mut again = pin!(rejudge.changed(rejudge.changes()));
        assert!(again.as_mut().poll(&mut context).is_pending());
        assert_eq!(rejudge.waiting.borrow().places.len(), 2, "places are used again");
    }
}

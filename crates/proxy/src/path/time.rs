//! The times of one exchange: when it, or its attempt, must be over, and how long it may be silent.

use std::cell::Cell;
use std::time::Duration;

use lorica_model::reason::Reason;
use lorica_model::snapshot::Timeouts;
use tokio::time::{Instant, sleep_until};

/// The times of one exchange.
#[derive(Debug)]
pub struct Times {
    request: Option<Instant>,
    attempt: Cell<Option<Instant>>,
    backend_request: Option<Duration>,
    idle: Option<Duration>,
    moved: Cell<Instant>,
}

impl Times {
    /// The times of an exchange that begins at `now`.
    #[must_use]
    pub fn begin(timeouts: &Timeouts, now: Instant) -> Self {
        Self {
            request: timeouts.request.map(|request| now + request),
            attempt: Cell::new(None),
            backend_request: timeouts.backend_request,
            idle: timeouts.idle,
            moved: Cell::new(now),
        }
    }

    /// Another attempt begins at `now`.
    pub fn attempt(&self, now: Instant) {
        self.attempt.set(self.backend_request.map(|limit| now + limit));
        self.moved.set(now);
    }

    /// Something moved.
    pub fn moved(&self) {
        self.moved.set(Instant::now());
    }

    /// Whether there is time for another attempt.
    #[must_use]
    pub fn is_left(&self) -> bool {
        self.request.is_none_or(|request| request > Instant::now())
    }

    /// Waits for `pause`; an error where the time for the request is over before.
    ///
    /// # Errors
    /// [`Reason::RequestTimeout`].
    pub async fn pause(&self, pause: Duration) -> Result<(), Reason> {
        let until = Instant::now() + pause;
        match self.request.filter(|request| *request < until) {
            Some(request) => {
                sleep_until(request).await;
                Err(Reason::RequestTimeout)
            }
            None => {
                sleep_until(until).await;
                Ok(())
            }
        }
    }

    /// Waits until one of the times is over, and says which.
    pub async fn over(&self) -> Reason {
        loop {
            let hard = [self.request, self.attempt.get()].into_iter().flatten().min();
            let silent = self.idle.map(|idle| self.moved.get() + idle);
            let Some(next) = [hard, silent].into_iter().flatten().min() else { return std::future::pending().await };
            sleep_until(next).await;
            let now = Instant::now();
            if hard.is_some_and(|hard| hard <= now) {
                return Reason::RequestTimeout;
            }
            if self.idle.is_some_and(|idle| self.moved.get() + idle <= now) {
                return Reason::IdleTimeout;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_time_that_is_over_counts() {
        let seconds = Duration::from_secs;
        let times = Times::begin(
            &Timeouts { request: Some(seconds(10)), backend_request: Some(seconds(3)), idle: Some(seconds(5)), stream: None },
            Instant::now(),
        );
        assert_eq!(times.over().await, Reason::IdleTimeout);
        times.attempt(Instant::now());
        assert_eq!(times.over().await, Reason::RequestTimeout);
        assert!(times.is_left());
        tokio::time::advance(seconds(3)).await;
        assert!(!times.is_left());
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_is_not_idle() {
        let times = Times::begin(&Timeouts { idle: Some(Duration::from_secs(5)), ..Timeouts::default() }, Instant::now());
        let moving = async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(4)).await;
                times.moved();
            }
        };
        tokio::select! {
            reason = times.over() => assert_eq!(reason, Reason::IdleTimeout, "it moved all the time"),
            () = moving => {}
        }
    }
}

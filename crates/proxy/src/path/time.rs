//! The times of one exchange: when it, or its attempt, must be over, and how long it may be silent.

use std::cell::Cell;
use std::time::Duration;

use lorica_model::reason::Reason;
use lorica_model::snapshot::Timeouts;
use tokio::time::{Instant, sleep_until};

/// The times of one exchange.
#[derive(Debug)]
pub struct Times {
    /// When all of it must be over, and why: the earliest of what policy and caller say.
    end: Option<(Instant, Reason)>,
    attempt: Cell<Option<Instant>>,
    backend_request: Option<Duration>,
    idle: Option<Duration>,
    stream: Option<Instant>,
    moved: Cell<Instant>,
}

impl Times {
    /// The times of an exchange that begins at `now`. `deadline`: what its caller gives it.
    #[must_use]
    pub fn begin(timeouts: &Timeouts, deadline: Option<Instant>, now: Instant) -> Self {
        let stream = timeouts.stream.map(|limit| now + limit);
        let ends = [
            timeouts.request.map(|limit| (now + limit, Reason::RequestTimeout)),
            deadline.map(|deadline| (deadline, Reason::DeadlineExceeded)),
            stream.map(|end| (end, Reason::StreamTimeout)),
        ];
        Self {
            end: ends.into_iter().flatten().min_by_key(|(end, _)| *end),
            attempt: Cell::new(None),
            backend_request: timeouts.backend_request,
            idle: timeouts.idle,
            stream,
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

    /// How long the attempt under way may take from `now`; none: as long as it likes.
    #[must_use]
    pub fn left(&self, now: Instant) -> Option<Duration> {
        let end = self.end.map(|(end, _)| end);
        [end, self.attempt.get()].into_iter().flatten().min().map(|end| end.saturating_duration_since(now))
    }

    /// Whether there is time for another attempt.
    ///
    /// # Errors
    /// The reason why there is none.
    pub fn check(&self, now: Instant) -> Result<(), Reason> {
        match self.end {
            Some((end, reason)) if end <= now => Err(reason),
            _ => Ok(()),
        }
    }

    /// Waits for `pause`; an error where the time for the request is over before.
    ///
    /// # Errors
    /// The reason why it is.
    pub async fn pause(&self, pause: Duration) -> Result<(), Reason> {
        let until = Instant::now() + pause;
        match self.end.filter(|(end, _)| *end < until) {
            Some((end, reason)) => {
                sleep_until(end).await;
                Err(reason)
            }
            None => {
                sleep_until(until).await;
                Ok(())
            }
        }
    }

    /// When the stream must end, whatever moves on it.
    #[must_use]
    pub fn stream_end(&self) -> Option<Instant> {
        self.stream
    }

    /// Waits until one of the times is over, and says which.
    pub async fn over(&self) -> Reason {
        loop {
            let attempt = self.attempt.get().map(|end| (end, Reason::RequestTimeout));
            let hard = [self.end, attempt].into_iter().flatten().min_by_key(|(end, _)| *end);
            let silent = self.idle.map(|idle| self.moved.get() + idle);
            let Some(next) = [hard.map(|(end, _)| end), silent].into_iter().flatten().min() else { return std::future::pending().await };
            sleep_until(next).await;
            let now = Instant::now();
            if let Some((_, reason)) = hard.filter(|(end, _)| *end <= now) {
                return reason;
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
        let timeouts =
            Timeouts { request: Some(seconds(10)), backend_request: Some(seconds(3)), idle: Some(seconds(5)), stream: Some(seconds(60)) };
        let times = Times::begin(&timeouts, None, Instant::now());
        let begun = Instant::now();
        times.attempt(begun);
        assert_eq!(times.left(begun), Some(seconds(3)));
        assert_eq!(times.over().await, Reason::RequestTimeout);
        assert_eq!(begun.elapsed(), seconds(3));
        assert_eq!(times.pause(seconds(1)).await, Ok(()));
        assert_eq!(times.pause(seconds(100)).await, Err(Reason::RequestTimeout));
        assert_eq!((begun.elapsed(), times.check(Instant::now())), (seconds(10), Err(Reason::RequestTimeout)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_caller_gives_is_never_exceeded() {
        let seconds = Duration::from_secs;
        let begun = Instant::now();
        let timeouts = Timeouts { request: Some(seconds(10)), ..Timeouts::default() };
        let times = Times::begin(&timeouts, Some(begun + seconds(2)), begun);
        times.attempt(begun);
        assert_eq!(times.left(begun), Some(seconds(2)));
        assert_eq!(times.over().await, Reason::DeadlineExceeded);
        assert_eq!(begun.elapsed(), seconds(2));
        let times = Times::begin(&Timeouts { stream: Some(seconds(4)), ..Timeouts::default() }, None, begun);
        times.attempt(begun);
        assert_eq!(times.over().await, Reason::StreamTimeout);
        assert_eq!(begun.elapsed(), seconds(4));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_counted_from_the_last_move() {
        let times = Times::begin(&Timeouts { idle: Some(Duration::from_secs(5)), ..Timeouts::default() }, None, Instant::now());
        let begun = Instant::now();
        times.attempt(begun);
        tokio::time::sleep(Duration::from_secs(4)).await;
        times.moved();
        assert_eq!(times.over().await, Reason::IdleTimeout);
        assert_eq!(begun.elapsed(), Duration::from_secs(9));
    }
}

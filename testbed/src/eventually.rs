//! Conditions that come true in their own time. In flows a question and a deadline; out flows its first good answer, or the last bad one.

use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep, timeout_at};

/// Between questions: short at first, as most conditions come true within moments.
const FIRST: Duration = Duration::from_millis(2);
const LONGEST: Duration = Duration::from_millis(100);

/// Asks until the answer is `Ok`, and gives that.
///
/// # Errors
/// The deadline passed; the error carries `what` and the last answer.
pub async fn eventually<T, F>(what: &str, within: Duration, mut ask: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let deadline = Instant::now() + within;
    let mut pause = FIRST;
    let mut last = None;
    loop {
        match timeout_at(deadline, ask()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => last = Some(error),
            // A question without an answer is no better than the answer before it.
            Err(_) => {}
        }
        if Instant::now() + pause >= deadline {
            let last = last.unwrap_or_else(|| anyhow::anyhow!("there was no answer"));
            return Err(last).with_context(|| format!("{what}: not within {within:?}"));
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;

    #[tokio::test(start_paused = true)]
    async fn the_first_good_answer_ends_it() {
        let mut asked = 0;
        let ask = || {
            asked += 1;
            let asked = asked;
            async move {
                ensure!(asked >= 5, "only {asked}");
                Ok(asked)
            }
        };
        assert_eq!(eventually("counting", Duration::from_secs(1), ask).await.unwrap(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_bad_answer_is_told() {
        let error =
            eventually("waiting", Duration::from_secs(1), || async { anyhow::Result::<()>::Err(anyhow::anyhow!("no")) }).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "waiting: not within 1s: no");
        let error = eventually("hanging", Duration::from_secs(1), std::future::pending::<anyhow::Result<()>>).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "hanging: not within 1s: there was no answer");
    }
}

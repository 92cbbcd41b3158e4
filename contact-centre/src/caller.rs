//! caller: plays the customers. Calls go to call-routing at a steady rate, and every answer is held against what is
//! expected of it; out comes a report, each second into a file if wanted, and in the end on stdout.
//!
//! The rate does not wait for answers, as customers do not; only the number of calls in flight is bounded. Nothing is
//! sent a second time: a failure that a customer would meet is counted as one.

use std::future::Future;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::address::BaseUrl;
use crate::call_routing::{Call, NewCall};
use crate::customer_history::customer_id;
use crate::flags::Flags;
use crate::http_client::{Answer, Content, HttpClient, Outgoing};
use crate::program::{self, Failure, say};
use crate::report::{Answered, Outcome, Report, Tally};

/// Calls in flight; those due beyond are counted as held back.
const MOST_IN_FLIGHT: usize = 256;
/// How long a customer waits. More than call-routing takes when every service it needs is at its limit.
const PATIENCE: Duration = Duration::from_secs(12);
/// Customers who call: a part of those that customer-history knows.
const CUSTOMERS: u32 = 200;
const SKILLS: [&str; 3] = ["billing", "support", "sales"];
/// Length of the notes of an odd call, in bytes.
const LONG_NOTES: usize = 200 * 1024;
/// Length of a chunk of an odd call that is sent in chunks, in bytes. No power of two, to be odd.
const CHUNK: usize = 3000;

/// How the caller is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// call-routing.
    pub target: BaseUrl,
    /// Calls per second.
    pub rate: f64,
    /// For how long; none: until the shutdown.
    pub duration: Option<Duration>,
    /// Where the report goes every second and in the end.
    pub report: Option<PathBuf>,
    /// Every so many calls one is odd but legal: 200 KiB of notes, every other time sent in chunks. 0: none.
    pub odd_every: u64,
}

/// Calls until the time is over or `shutdown` resolves, then waits for the calls in flight.
///
/// # Errors
/// The report cannot be written. Calls that fail are no error, but in the report.
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send) -> io::Result<Report> {
    let client = Arc::new(HttpClient::new(config.target.clone()));
    let mut tally = Tally::default();
    let mut calls = JoinSet::new();
    let mut due = tokio::time::interval(Duration::from_secs_f64(1.0 / config.rate));
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let over = async {
        match config.duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(shutdown, over);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            () = &mut over => break,
            when = due.tick() => {
                if calls.len() < MOST_IN_FLIGHT {
                    let number = tally.begin();
                    let odd = config.odd_every > 0 && number.is_multiple_of(config.odd_every);
                    let chunked = odd && (number / config.odd_every).is_multiple_of(2);
                    calls.spawn(call(client.clone(), number, when, odd, chunked));
                } else {
                    tally.hold_back();
                }
            }
            Some(ended) = calls.join_next() => tally.end(outcome(ended)),
            _ = seconds.tick() => write(&config, &tally.report()).await?,
        }
    }
    // Each call has a time limit of its own, so this ends.
    while let Some(ended) = calls.join_next().await {
        tally.end(outcome(ended));
    }
    let report = tally.report();
    write(&config, &report).await?;
    Ok(report)
}

pub(crate) fn start(args: impl Iterator<Item = String>) -> Result<(), Failure> {
    let flags = Flags::parse("caller", &["target", "rate", "seconds", "report", "odd-every"], args)?;
    let rate: f64 = flags.get_or("rate", "20")?;
    if !(0.01..=10_000.0).contains(&rate) {
        return Err(Failure::Usage(format!("`--rate {rate}`: expected 0.01 to 10000 calls per second")));
    }
    let config = Config {
        target: flags.get_or("target", "http://call-routing.contact")?,
        rate,
        duration: flags.get("seconds")?.map(Duration::from_secs),
        report: flags.get("report")?,
        odd_every: flags.get_or("odd-every", "100")?,
    };
    let report = program::run(|stop| async move {
        say(&format!("caller calls {} at {rate} calls per second", config.target));
        let place = config.report.clone().unwrap_or_default();
        run(config, stop).await.map_err(|error| Failure::Failed(format!("caller: cannot write `{}`: {error}", place.display())))
    })?;
    let line = serde_json::to_string(&report).map_err(|error| Failure::Failed(format!("caller: {error}")))?;
    writeln!(io::stdout(), "{line}").map_err(|error| Failure::Failed(format!("caller: stdout: {error}")))?;
    if report.is_good() {
        return Ok(());
    }
    Err(Failure::Failed(match report.first_failures.first() {
        Some(first) => {
            format!("caller: {} of {} calls failed; first: call {}: {}", report.failed, report.calls, first.call, first.error)
        }
        None => "caller: no call was made".to_owned(),
    }))
}

async fn write(config: &Config, report: &Report) -> io::Result<()> {
    match &config.report {
        Some(path) => report.write(path).await,
        None => Ok(()),
    }
}

async fn call(client: Arc<HttpClient>, number: u64, due: Instant, odd: bool, chunked: bool) -> Outcome {
    let customer = customer_id(fastrand::u32(1..=CUSTOMERS));
    let skill = fastrand::choice(SKILLS).unwrap_or_default().to_owned();
    let notes = odd.then(|| "It all began when ".chars().cycle().take(LONG_NOTES).collect());
    let new = NewCall { customer, skill, notes };
    let (status, result) = match serde_json::to_vec(&new) {
        Ok(json) => {
            let content = if chunked { Content::JsonInChunks(json, CHUNK) } else { Content::Json(json) };
            match client.send(&Outgoing::post("/calls", content), PATIENCE).await {
                Ok(answer) => (Some(answer.status.as_u16()), check(&new, &answer)),
                Err(error) => (None, Err(error.to_string())),
            }
        }
        Err(error) => (None, Err(error.to_string())),
    };
    Outcome { call: number, status, took: due.elapsed(), result }
}

/// Whether an answer is what the customer expects.
fn check(new: &NewCall, answer: &Answer) -> Result<Answered, String> {
    if answer.status != http::StatusCode::OK {
        return Err(format!("answered {}{}", answer.status, said(answer)));
    }
    let call: Call = serde_json::from_slice(&answer.body).map_err(|error| format!("answered 200, but {error}{}", said(answer)))?;
    if call.call_id.is_empty() {
        return Err("the answer has no call_id".to_owned());
    }
    if call.customer != new.customer {
        return Err(format!("the answer is for customer `{}`, not `{}`", call.customer, new.customer));
    }
    if call.agent.is_none() && call.queue.is_none() {
        return Err("the answer has neither agent nor queue".to_owned());
    }
    Ok(Answered { recorded: call.recorded, counted: call.counted })
}

/// What a body says about an error, for the report.
fn said(answer: &Answer) -> String {
    let text = String::from_utf8_lossy(&answer.body);
    let text = match serde_json::from_str::<Value>(&text) {
        Ok(Value::Object(fields)) => fields.get("error").and_then(Value::as_str).unwrap_or(&text).to_owned(),
        _ => text.into_owned(),
    };
    let text: String = text.chars().take(200).collect();
    if text.is_empty() { text } else { format!(": {}", text.trim()) }
}

fn outcome(ended: Result<Outcome, tokio::task::JoinError>) -> Outcome {
    ended.unwrap_or_else(|error| Outcome {
        call: 0,
        status: None,
        took: Duration::ZERO,
        result: Err(format!("the call was not carried out: {error}")),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http::{HeaderMap, StatusCode};

    #[test]
    fn what_is_expected_of_an_answer() {
        let new = NewCall { customer: "c0001".to_owned(), skill: "sales".to_owned(), notes: None };
        let check = |status: u16, body: &str, expected: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            let answer = Answer { status, headers: HeaderMap::new(), body: body.to_owned().into() };
            let found = super::check(&new, &answer).err().unwrap_or_default();
            assert!(found.contains(expected) && expected.is_empty() == found.is_empty(), "{found:?} for {body}");
        };
        let body = |id: &str, customer: &str, place: &str| {
            format!(
                r#"{{"call_id":"{id}","customer":"{customer}","language":"de",{place}"recorded":true,"recording_version":null,"counted":true,"trace":null}}"#
            )
        };
        check(200, &body("1", "c0001", r#""agent":"a","#), "");
        check(200, &body("1", "c0001", r#""queue":"sales","position":3,"#), "");
        check(200, &body("1", "c0001", ""), "neither agent nor queue");
        check(200, &body("", "c0001", r#""agent":"a","#), "no call_id");
        check(200, &body("1", "c0002", r#""agent":"a","#), "customer `c0002`, not `c0001`");
        check(200, "hello", "hello");
        check(503, r#"{"error":"customer-history failed"}"#, "503 Service Unavailable: customer-history failed");
        check(502, "", "502");
    }
}

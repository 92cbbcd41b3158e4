//! Taps: requests as proxies show them, to who asked. Which proxies are asked, how many requests a second go on, and when it is over is settled here;
//! a reader that is slow loses lines, which are counted and told, and holds nobody up.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lorica_api::explain::{Hop, TAP_SECONDS, TapLine, TapRequest, Tapped};
use lorica_model::cel::Expression;
use lorica_model::name::{GatewayName, ServiceName, WorkloadName};
use lorica_xds::diagnostics::{Asked, Dropped, Tap, TappedOne};
use tokio::sync::mpsc;

use super::{Attending, Diagnostics};

/// The most taps at once.
const MOST_TAPS: usize = 8;
/// How many lines may wait for who reads them.
const WAITING: usize = 256;
/// The highest rate that may be asked for, in requests a second.
pub const HIGHEST_RATE: u32 = 10_000;

/// Why a tap did not begin.
#[derive(Debug, thiserror::Error)]
pub enum NotTapped {
    /// What is asked for makes no sense.
    #[error("{0}")]
    Wrong(String),
    /// There are as many as may be.
    #[error("{MOST_TAPS} taps run already: end one, or wait until one is over")]
    TooMany,
}

/// Whose requests are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Service(ServiceName),
    Workload(WorkloadName),
    /// All workloads whose name is that of the deployment and some more.
    Deploy(ServiceName),
    Gateway(GatewayName),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = text.split_once('/').unwrap_or(("service", text));
        let wrong = |error: &dyn std::fmt::Display| format!("`{text}` is no target: {error}");
        match kind {
            "service" | "svc" => name.parse().map(Self::Service).map_err(|error| wrong(&error)),
            "deploy" | "deployment" => name.parse().map(Self::Deploy).map_err(|error| wrong(&error)),
            "workload" | "pod" => name.parse().map(Self::Workload).map_err(|error| wrong(&error)),
            "gateway" => name.parse().map(Self::Gateway).map_err(|error| wrong(&error)),
            _ => Err(wrong(&"write service/NAME, deploy/NAME, workload/NAME or gateway/NAME")),
        }
    }
}

impl Target {
    fn is(&self, attending: &Attending) -> bool {
        match self {
            Self::Service(service) => attending.metadata.service.as_ref() == Some(service),
            Self::Workload(workload) => attending.name == *workload,
            Self::Deploy(name) => {
                let rest = attending.name.name.as_str().strip_prefix(name.name.as_str());
                attending.name.namespace == name.namespace && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
            }
            Self::Gateway(gateway) => attending.metadata.gateway.as_ref() == Some(gateway),
        }
    }
}

/// A tap that runs.
#[derive(Debug)]
struct Running {
    target: Option<Target>,
    request: TapRequest,
    /// The streams of those that show.
    asked: BTreeSet<u64>,
    /// Requests a second of each.
    each: u32,
    lines: mpsc::Sender<Bytes>,
    /// How many may go on in this second, and when it began.
    leave: (Instant, u32),
    dropped: u64,
    until: Instant,
}

impl Running {
    fn tap(&self, number: u64, now: Instant) -> Tap {
        Tap {
            tap: number,
            filter: self.request.filter.clone().unwrap_or_default(),
            failed: self.request.failed,
            rate: self.each,
            seconds: self.until.saturating_duration_since(now).as_secs() + 1,
        }
    }

    fn line(&mut self, line: &TapLine) -> bool {
        let Ok(mut text) = serde_json::to_vec(line) else { return false };
        text.push(b'\n');
        self.lines.try_send(text.into()).is_ok()
    }

    /// Says how many were dropped, as soon as there is room to say it.
    fn say_dropped(&mut self) {
        if self.dropped > 0 && self.line(&TapLine::Dropped { requests: self.dropped }) {
            self.dropped = 0;
        }
    }

    fn show(&mut self, tapped: Tapped, now: Instant) {
        if now.saturating_duration_since(self.leave.0) >= Duration::from_secs(1) {
            self.leave = (now, self.request.rate);
        }
        if self.leave.1 == 0 {
            self.dropped += 1;
            return;
        }
        self.say_dropped();
        if !self.line(&TapLine::Request(Box::new(tapped))) {
            self.dropped += 1;
            return;
        }
        self.leave.1 -= 1;
    }
}

/// All taps, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Taps(BTreeMap<u64, Running>);

impl Taps {
    /// A proxy has come: it shows what the taps that run are for.
    pub(super) fn attends(&mut self, stream: u64, attending: &Attending) {
        let now = Instant::now();
        for (number, tap) in &mut self.0 {
            let is_meant = tap.target.as_ref().is_none_or(|target| target.is(attending));
            if is_meant && tap.request.percent >= 100 && attending.ask(Asked::Tap(tap.tap(*number, now))) {
                tap.asked.insert(stream);
            }
        }
    }

    /// A proxy shows a request.
    pub(super) fn shown(&mut self, stream: u64, from: &WorkloadName, shown: TappedOne, settle: impl Fn(&mut Hop)) {
        let Some(tap) = self.0.get_mut(&shown.tap).filter(|tap| tap.asked.contains(&stream)) else { return };
        let Ok(mut tapped) = serde_json::from_slice::<Tapped>(&shown.request) else { return };
        tapped.hop.proxy = from.to_string();
        settle(&mut tapped.hop);
        tap.show(tapped, Instant::now());
    }

    /// A proxy did not show so many.
    pub(super) fn dropped(&mut self, stream: u64, dropped: Dropped) {
        if let Some(tap) = self.0.get_mut(&dropped.tap).filter(|tap| tap.asked.contains(&stream)) {
            tap.dropped = tap.dropped.saturating_add(dropped.requests);
        }
    }

    /// Ends all.
    pub(super) fn end_all(&mut self, why: &str) {
        for (_, mut tap) in std::mem::take(&mut self.0) {
            tap.say_dropped();
            tap.line(&TapLine::Ended { why: why.to_owned() });
        }
    }
}

/// A tap for who reads it. Dropped, it ends at the proxies.
pub struct Tapping {
    /// Its lines, each JSON.
    pub lines: mpsc::Receiver<Bytes>,
    _end: End,
}

struct End {
    of: Arc<Diagnostics>,
    number: u64,
}

impl Drop for End {
    fn drop(&mut self) {
        self.of.end_tap(self.number, "its reader has gone");
    }
}

impl Diagnostics {
    /// Begins a tap.
    ///
    /// # Errors
    /// What of it makes no sense, or that there are too many.
    pub fn tap(self: &Arc<Self>, request: TapRequest) -> Result<Tapping, NotTapped> {
        let target = request.target.as_deref().map(str::parse::<Target>).transpose().map_err(NotTapped::Wrong)?;
        if let Some(filter) = &request.filter {
            Expression::parse_of_exchange(filter).map_err(|wrong| {
                let wrong = wrong.iter().map(|wrong| wrong.message.as_str()).collect::<Vec<_>>().join("; ");
                NotTapped::Wrong(format!("the condition `{filter}` is none: {wrong}"))
            })?;
        }
        if request.rate == 0 || request.rate > HIGHEST_RATE {
            return Err(NotTapped::Wrong(format!("a rate is from 1 to {HIGHEST_RATE} requests a second, not {}", request.rate)));
        }
        if request.seconds == 0 || request.seconds > TAP_SECONDS {
            return Err(NotTapped::Wrong(format!("a tap lives from 1 to {TAP_SECONDS} seconds, not {}", request.seconds)));
        }
        if request.percent == 0 || request.percent > 100 {
            return Err(NotTapped::Wrong(format!("a share of the proxies is from 1 to 100 percent, not {}", request.percent)));
        }
        let now = Instant::now();
        let (lines_in, lines) = mpsc::channel(WAITING);
        let mut state = self.state();
        if state.taps.0.len() >= MOST_TAPS {
            return Err(NotTapped::TooMany);
        }
        let number = state.number();
        let mut meant: Vec<u64> = state
            .attending
            .iter()
            .filter(|(_, attending)| target.as_ref().is_none_or(|target| target.is(attending)))
            .map(|(stream, _)| *stream)
            .collect();
        let of = meant.len();
        // Rounded up: one at least, where there is any.
        fastrand::shuffle(&mut meant);
        meant.truncate((of * usize::from(request.percent)).div_ceil(100));
        // Requests are seldom spread evenly: each may show twice its part, and the rate of all is held here.
        let each = (request.rate.saturating_mul(2) / u32::try_from(meant.len().max(1)).unwrap_or(u32::MAX)).clamp(1, request.rate);
        let until = now + Duration::from_secs(request.seconds);
        let leave = (now, request.rate);
        let mut running = Running { target, request, asked: BTreeSet::new(), each, lines: lines_in, leave, dropped: 0, until };
        for stream in meant {
            let tap = running.tap(number, now);
            if state.attending.get(&stream).is_some_and(|attending| attending.ask(Asked::Tap(tap))) {
                running.asked.insert(stream);
            }
        }
        let proxies = running.asked.len();
        running.line(&TapLine::Begun { proxies, of });
        state.taps.0.insert(number, running);
        drop(state);
        tokio::spawn(keep(self.clone(), number));
        Ok(Tapping { lines, _end: End { of: self.clone(), number } })
    }

    fn end_tap(&self, number: u64, why: &str) {
        let mut state = self.state();
        let Some(mut tap) = state.taps.0.remove(&number) else { return };
        for stream in &tap.asked {
            if let Some(attending) = state.attending.get(stream) {
                // One that is not told ends it when its time is over.
                attending.ask(Asked::EndTap(number));
            }
        }
        tap.say_dropped();
        tap.line(&TapLine::Ended { why: why.to_owned() });
    }
}

/// Says what a tap dropped, and ends it when its time is over.
async fn keep(of: Arc<Diagnostics>, number: u64) {
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        second.tick().await;
        let over = {
            let mut state = of.state();
            let Some(tap) = state.taps.0.get_mut(&number) else { return };
            tap.say_dropped();
            Instant::now() >= tap.until
        };
        if over {
            return of.end_tap(number, "its time is over");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn running(rate: u32) -> (Running, mpsc::Receiver<Bytes>) {
        let (lines_in, lines) = mpsc::channel(4);
        let now = Instant::now();
        let request = TapRequest { rate, ..TapRequest::default() };
        let running = Running {
            target: None,
            request,
            asked: BTreeSet::new(),
            each: rate,
            lines: lines_in,
            leave: (now, rate),
            dropped: 0,
            until: now,
        };
        (running, lines)
    }

    fn read(lines: &mut mpsc::Receiver<Bytes>) -> Vec<String> {
        let mut read = Vec::new();
        while let Ok(line) = lines.try_recv() {
            read.push(match serde_json::from_slice::<TapLine>(&line).unwrap() {
                TapLine::Request(_) => "request".to_owned(),
                other => format!("{other:?}"),
            });
        }
        read
    }

    #[test]
    fn the_rate_is_held_and_what_is_over_it_is_counted_and_said() {
        let (mut tap, mut lines) = running(2);
        let begun = tap.leave.0;
        (0..5).for_each(|_| tap.show(Tapped::default(), begun));
        tap.show(Tapped::default(), begun + Duration::from_secs(1));
        assert_eq!(read(&mut lines), ["request", "request", "Dropped { requests: 3 }", "request"]);
    }

    #[test]
    fn a_slow_reader_loses_lines_and_is_told_how_many() {
        let (mut tap, mut lines) = running(100);
        let now = tap.leave.0;
        (0..10).for_each(|_| tap.show(Tapped::default(), now));
        assert_eq!(read(&mut lines), ["request"; 4]);
        tap.show(Tapped::default(), now);
        assert_eq!(read(&mut lines), ["Dropped { requests: 6 }", "request"]);
    }

    #[test]
    fn targets_are_named_as_people_name_them() {
        let target = |text: &str| text.parse::<Target>();
        assert_eq!(target("recording.contact"), target("service/recording.contact"));
        assert!(matches!(target("deploy/recording.contact"), Ok(Target::Deploy(_))));
        assert!(matches!(target("workload/recording-7f3a2c.contact"), Ok(Target::Workload(_))));
        for wrong in ["statefulset/a", "service/A", "service/"] {
            assert!(target(wrong).unwrap_err().contains(wrong));
        }
    }
}

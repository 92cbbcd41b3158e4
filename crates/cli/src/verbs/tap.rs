//! `lorica tap`.

use std::process::ExitCode;

use lorica_api::ApiClient;
use lorica_api::explain::{Side, TapLine, TapRequest, Tapped};

use super::explain::{milliseconds, named};
use crate::args::{Format, TapArgs};
use crate::printer::Printer;

pub(super) async fn tap(client: &ApiClient, arguments: TapArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let TapArgs { target, filter, failed, rate, lifetime, share, count, output } = arguments;
    // Whole seconds, rounded up: half a second is no time to look.
    let seconds = lifetime.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX);
    let request = TapRequest { target, filter, failed, rate, seconds, percent: share };
    let mut left = count;
    let shown = client.tap(&request, |line| {
        let is_request = matches!(line, TapLine::Request(_));
        if output.format == Format::Json {
            // What came as JSON goes out as such.
            printer.data(&serde_json::to_string(&line).unwrap_or_default());
        } else {
            match line {
                TapLine::Request(tapped) => printer.data(&one(&tapped)),
                TapLine::Begun { proxies, of } => printer.note(&begun(proxies, of)),
                TapLine::Dropped { requests } => printer.note(&format!("{requests} more were not shown")),
                TapLine::Ended { why } => printer.note(&format!("the tap has ended: {why}")),
            }
        }
        if let (Some(left), true) = (&mut left, is_request) {
            *left = left.saturating_sub(1);
        }
        left != Some(0)
    });
    shown.await?;
    Ok(ExitCode::SUCCESS)
}

fn begun(proxies: usize, of: usize) -> String {
    match (proxies, of) {
        (0, _) => "no proxy is there that could tell; those that come will".to_owned(),
        (proxies, of) if proxies == of => format!("{proxies} proxies tell of what they pass on; Ctrl-C ends it"),
        (proxies, of) => format!("{proxies} of {of} proxies tell of what they pass on; Ctrl-C ends it"),
    }
}

fn one(tapped: &Tapped) -> String {
    let hop = &tapped.hop;
    let time = i64::try_from(hop.start_us).ok().and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok());
    let time = time.map_or_else(String::new, |time| time.strftime("%H:%M:%S%.3f").to_string());
    let side = match hop.side {
        Side::Source => "out",
        Side::Destination => "in ",
        Side::Gateway => "gw ",
    };
    let mut line = format!(
        "{time} {side} {} → {} {} {} {} {}",
        named(&hop.caller),
        hop.called,
        hop.method,
        hop.path,
        if hop.status == 0 { "-".to_owned() } else { hop.status.to_string() },
        milliseconds(hop.took_us)
    );
    if let Some(reason) = &hop.reason {
        line.push_str(&format!(" {reason}"));
    }
    if hop.attempts.len() > 1 {
        line.push_str(&format!(" {} attempts", hop.attempts.len()));
    }
    line.push_str(&format!(" {}", hop.request_id));
    line
}

#[cfg(test)]
mod tests {
    use lorica_api::explain::{Attempt, Hop, Who};

    use super::*;

    #[test]
    fn a_request_is_a_line() {
        let hop = Hop {
            side: Side::Source,
            start_us: 1_700_000_000_250_000,
            took_us: 12_345,
            method: "GET".to_owned(),
            path: "/list?of=7".to_owned(),
            caller: Who { workload: "routing-1".to_owned(), namespace: "contact".to_owned(), ..Who::default() },
            called: "recording.contact.mesh".to_owned(),
            status: 503,
            reason: Some("no_endpoint".to_owned()),
            attempts: vec![Attempt::default(), Attempt::default()],
            request_id: "4b1d".to_owned(),
            ..Hop::default()
        };
        assert_eq!(
            one(&Tapped { hop, ..Tapped::default() }),
            "22:13:20.250 out routing-1.contact → recording.contact.mesh GET /list?of=7 503 12.3 ms no_endpoint 2 attempts 4b1d"
        );
        assert_eq!(begun(1, 10), "1 of 10 proxies tell of what they pass on; Ctrl-C ends it");
    }
}

//! A small contact centre: five services that work together on customers' calls, and a caller that plays the customers.
//!
//! In flow command lines (one service per process, see [`main`]) and calls over HTTP, gRPC and TCP; out flow answers, one
//! line on stderr when a service starts, and the caller's report. All state is in memory and bounded. Nothing here knows
//! how its calls are carried: services speak to plain host names, as any program would.
//!
//! ```text
//! caller ──HTTP──▶ call-routing ──HTTP──▶ customer-history
//!                       │────────gRPC──▶ agent-assignment
//!                       │────────HTTP──▶ recording
//!                       └────────TCP───▶ analytics
//! ```

pub mod address;
pub mod agent_assignment;
pub mod agents_v1;
pub mod analytics;
pub mod analytics_client;
pub mod call_routing;
pub mod caller;
pub mod customer_history;
pub mod http_client;
pub mod recording;
pub mod report;

mod desk;
mod flags;
mod program;
mod refusal;
mod serving;
mod trace_headers;

use std::process::ExitCode;

use program::Failure;

/// The services that [`main`] starts, by the names it knows them by.
pub const SERVICES: [&str; 6] = ["call-routing", "agent-assignment", "recording", "analytics", "customer-history", "caller"];

/// Runs one service until SIGTERM or SIGINT (the caller also ends by itself, with `--seconds`).
///
/// The first argument is the service's name, the rest its flags as `--name value` pairs; the program's own name is not
/// among them. Exit codes: 0 done, 1 failed, 2 wrong usage.
pub fn main(args: impl IntoIterator<Item = String>) -> ExitCode {
    let mut args = args.into_iter();
    let name = args.next().unwrap_or_default();
    let outcome = match name.as_str() {
        "call-routing" => call_routing::start(args),
        "agent-assignment" => agent_assignment::start(args),
        "recording" => recording::start(args),
        "analytics" => analytics::start(args),
        "customer-history" => customer_history::start(args),
        "caller" => caller::start(args),
        "" => Err(Failure::Usage(format!("no service named\nhint: one of {}", SERVICES.join(", ")))),
        other => Err(Failure::Usage(format!("no service `{other}`\nhint: one of {}", SERVICES.join(", ")))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            program::say(&format!("error: {failure}"));
            failure.exit_code()
        }
    }
}

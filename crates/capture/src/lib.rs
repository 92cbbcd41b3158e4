//! Capture: how an app's traffic reaches the proxy without the app knowing.
//!
//! `lorica run -- APP` is three processes of one binary, and this crate is what they share:
//!
//! ```text
//!   supervisor (the user's pid: terminal, signals, exit code, listening sockets)
//!     ├── proxy   in the host's namespaces; may crash or be replaced; gets every listener again
//!     └── helper  in a user, mount and network namespace of its own; makes sockets there
//!           └── app
//! ```
//!
//! In flows a [`RunSpec`]; out flow listening sockets with labels, sockets to reach the app by,
//! where the app listens, and in the end the app's exit code. [`supervise`] is the supervisor,
//! [`helper_main`] the helper, [`ProxyChannel`] and [`SocketSource`] are what the proxy holds, and
//! [`probe`] says whether this host allows it.
//!
//! The crate is synchronous, runs no other program (neither `nft` nor `ip`), knows nothing of
//! services, routes or policy, and reads no configuration. It is the only one with `unsafe`, and for
//! that alone holds [`release_start_pages`] and [`unacknowledged`], too.
//! Capture is no sandbox: an app can still ask its host through any Unix socket it may open, so
//! nothing rests on it; the callee's mTLS and authorization decide.

mod channel;
mod children;
mod courtesy;
mod helper;
mod interior;
mod kernel;
mod listeners;
mod listening;
mod message;
mod missing;
mod namespace;
mod netlink;
mod probe;
mod processes;
mod program_pages;
mod proxy_end;
mod proxy_environment;
mod rules;
mod rules_netlink;
mod spawn;
mod spec;
mod supervisor;
mod terminal;
mod watch;

pub use helper::helper_main;
pub use kernel::unacknowledged;
pub use listeners::listen;
pub use message::{AppListener, Family, FromProxy, ListenerLabel, ToProxy};
pub use missing::{Missing, Step};
pub use probe::probe;
pub use program_pages::release_start_pages;
pub use proxy_end::{ProxyChannel, SocketBatch, SocketSource, original_destination};
pub use rules::rules_as_text;
pub use spec::{ExitStatusCode, Mode, Publish, PublishError, RunError, RunSpec, Upstream};
pub use supervisor::supervise;

use std::net::Ipv4Addr;

/// The port, in the app's namespace, to which its outbound TCP connections are redirected.
pub const OUTBOUND_PORT: u16 = 15001;

/// The port, in the app's namespace, to which its DNS queries (UDP and TCP) are redirected.
pub const DNS_PORT: u16 = 15053;

/// The mark on the inbound leg's sockets; the redirect lets them pass to the app. The app cannot
/// set it, as that takes CAP_NET_ADMIN in its namespace.
pub const INBOUND_MARK: u32 = 0x4c52_4341;

/// The source address towards the app for callers without a virtual address of their own: the
/// first usable one of 240.0.0.0/12. Never 127.0.0.1, which many programs trust.
pub const ANONYMOUS_CALLER: Ipv4Addr = Ipv4Addr::new(240, 0, 0, 1);

/// The argument by which the binary becomes the helper.
pub const HELPER: &str = "capture-helper";

/// The environment variable that tells a re-executed process the number of its channel's
/// descriptor. It is taken out before the app starts.
pub const CHANNEL_VARIABLE: &str = "LORICA_CHANNEL_FD";

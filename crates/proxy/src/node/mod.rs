//! The agent of a host, or of a pod: it joins the mesh with a token, keeps its identity, and serves the socket that workloads of this host use as
//! they use a control plane's.
//!
//! | module | noun |
//! | --- | --- |
//! | `upstream` | the connection to the control plane, in mutual TLS |
//! | `identity` | the host's SVID: got by joining, kept on disk |
//! | `keeper` | what changes: the SVID is renewed, whom to trust and who may have what are followed |
//! | `view` | what the control plane has told the host |
//! | `relay` | the local socket, whose calls go on to the control plane |
//! | `workloads` | the SPIFFE Workload API: processes of this host, told apart here, given what the control plane lets them have |
//! | `connection` | a connection of either socket |
//!
//! What a workload of this host may be is decided by the control plane, not here. The agent sees no request between services: when it is gone,
//! proxies keep what they have and connect again once it is back.

mod connection;
mod identity;
mod keeper;
mod relay;
mod upstream;
mod view;
mod workloads;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use lorica_identity::Bundle;
use lorica_identity::host_api::HostClient;
use lorica_identity::join_token::JoinToken;
use lorica_model::spiffe::TrustDomain;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::identity::Standing;
use self::keeper::Keeper;
use self::view::{View, Views};
use self::workloads::HostWorkloads;

/// What the agent of a host is told at its start.
#[derive(Debug)]
pub struct NodeConfig {
    /// Where the host's identity is kept.
    pub state_directory: PathBuf,
    /// The Unix socket that it serves.
    pub socket: PathBuf,
    /// The Unix socket of the Workload API, which every user may ask that reaches it.
    pub workload_socket: PathBuf,
    /// Where the control plane is reached; empty: where the token said.
    pub addresses: Vec<String>,
    /// How it proves itself.
    pub proof: Proof,
    /// The address at which other hosts reach the workloads of this one; none: the one from which it reaches the control plane.
    pub advertise: Option<IpAddr>,
}

/// How an agent proves itself to the control plane.
#[derive(Debug)]
pub enum Proof {
    /// As a host: by a token the first time, where it has not joined yet, and by its SVID from then on.
    JoinToken(Option<JoinToken>),
    /// As the service account of a pod: by the token that kubelet puts into a file, each time anew.
    ServiceAccount {
        /// The file.
        token_file: PathBuf,
        /// The roots by which it knows the control plane.
        roots: Bundle,
    },
}

/// What is told once the agent serves.
#[derive(Debug, Clone)]
pub struct Ready {
    /// What it is: `host web-1`, `service account cart.shop`.
    pub member: String,
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
    /// Whether it got its identity just now; otherwise it had one already.
    pub joined: bool,
    /// Whether its token is of no use any more.
    pub used_up: bool,
}

/// Runs the agent until `shutdown`. `ready` is called once it serves.
///
/// # Errors
/// When the host can neither join nor has an identity that holds, or the socket cannot be had.
pub async fn run(config: NodeConfig, ready: impl FnOnce(&Ready), shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    // First the socket: where another has it, no token is used up for nothing.
    let unserved = |socket: &Path| format!("{} cannot be served", socket.display());
    let listener = relay::bind(&config.socket).await.with_context(|| unserved(&config.socket))?;
    let workload_listener = workloads::bind(&config.workload_socket).await.with_context(|| unserved(&config.workload_socket))?;
    let served = serve(&config, listener, workload_listener, ready, shutdown).await;
    for socket in [&config.socket, &config.workload_socket] {
        // A socket without anybody behind it only confuses; one that is gone already is no loss.
        let _: std::io::Result<()> = std::fs::remove_file(socket);
    }
    served
}

async fn serve(
    config: &NodeConfig,
    listener: UnixListener,
    workload_listener: UnixListener,
    ready: impl FnOnce(&Ready),
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let member = identity::member(config).await?;
    let host = member.name.clone();
    let used_up = member.joined && matches!(member.standing, Standing::Host { .. });
    let told = Ready { member: member.word(), trust_domain: member.trust_domain.clone(), joined: member.joined, used_up };
    let token_file = match &member.standing {
        Standing::Host { .. } => None,
        Standing::Pod { token_file, .. } => Some(token_file.clone()),
    };
    let addresses = if config.addresses.is_empty() { member.addresses.clone() } else { config.addresses.clone() };
    let (epochs_in, epochs) = watch::channel(member.epoch.clone());
    let local = Arc::new(upstream::LocalEnd::default());
    let channel = upstream::channel(addresses, epochs, local.clone());
    let client = HostClient::new(channel.clone(), member.trust_domain.clone());
    let views = Arc::new(Views::new(View::before(member.epoch.bundle())));
    let workloads = HostWorkloads::new(client.clone(), views.clone());
    let keeper = tokio::spawn(Keeper::new(member, client, channel.clone(), epochs_in, views).run());
    ready(&told);
    let here = relay::Here { host, advertise: config.advertise, local, token_file };
    let ending = CancellationToken::new();
    let relaying = async {
        relay::serve(listener, channel, here, shutdown).await;
        ending.cancel();
    };
    tokio::join!(relaying, workloads::serve(workload_listener, workloads, ending.clone()));
    keeper.abort();
    Ok(())
}

//! One harness for tests of the real binary: a mesh of its own for each test, with unmodified apps under `lorica run`.
//!
//! In flow the built binary and what the machine allows; out flow processes that can be watched, asked and ended, and at the end the
//! certainty that none is left. It looks at the mesh from outside only: command line, sockets, files, what apps see. It knows nothing of the
//! crates that the binary is made of, except that it asks `lorica-capture` whether this machine lets apps be captured.
//!
//! ```no_run
//! use testbed::{Mesh, Who, can_namespaces, left_out};
//!
//! # async fn test() -> anyhow::Result<()> {
//! if let Err(why) = can_namespaces(Who::Nobody) {
//!     left_out(&format!("calls between captured apps: {why}"));
//!     return Ok(());
//! }
//! let mesh = Mesh::as_nobody().start().await?;
//! let app = mesh.program(testbed::app()?)?;
//! let recording = mesh.service("recording.contact").port("80:8080/http").start([app.as_os_str(), "http".as_ref(), "--listen".as_ref(), "0.0.0.0:8080".as_ref()])?;
//! mesh.announced("recording.contact", 1).await?;
//! let reply = mesh.client().output(["curl", "-s", "http://recording.contact/"]).await?.success()?;
//! assert!(reply.stdout.contains("\"method\":\"GET\""));
//! recording.stop().await?;
//! mesh.finish().await
//! # }
//! ```

mod any_server;
mod binary;
mod connection;
mod echo;
mod envoy;
mod eventually;
mod gateway;
mod http_client;
mod ledger;
mod machine;
mod mesh;
mod network;
mod place;
mod port;
mod process;
mod proxy;
mod resolver;
mod run;
mod tree;

pub use any_server::AnyServer;
pub use binary::{app, lorica};
pub use connection::{Connection, send_raw};
pub use echo::{Echo, EchoServer, TcpEcho, program};
pub use envoy::Envoy;
pub use eventually::eventually;
pub use gateway::{gateway, route, run_gateway, service};
pub use http_client::{HttpConnection, Reply, http_get, http_send, http2_send, https_send};
pub use ledger::{Ledger, Moods, serve as serve_ledger};
pub use machine::{
    Peer, Who, aioquic_path, can_namespaces, jaeger_path, left_out, node_path, own_address, peer, python_path, python_server_path,
    spiffe_path,
};
pub use mesh::{Mesh, MeshOptions};
pub use network::Network;
pub use port::Port;
pub use process::{Output, Running};
pub use proxy::Proxy;
pub use resolver::Resolver;
pub use run::Run;

/// How long anything may take that ought to take moments: a test that waits so long hangs.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

//! A network of its own, in which a test says who is where and what is captured: as in a pod, whose apps' connections are led to Envoy. In flow
//! names and their addresses; out flow processes that run there. It needs no privilege, but namespaces, and programs that most machines have.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, bail};

use crate::process::{Output, Running};
use crate::{Mesh, PATIENCE, Peer, Who, can_namespaces, left_out, peer};

/// Makes the network and stays, so that others can enter it. Everything under 203.0.113.0/24 and 198.51.100.0/24 is there; what comes from
/// [`CAPTURED`] arrives at the port that Envoy has for it, the same way as nftables leads the apps of a pod there.
const SCRIPT: &str = "
set -e
ip link set lo up
ip address add 192.0.2.1/32 dev lo
ip route add local 203.0.113.0/24 dev lo
ip route add local 198.51.100.0/24 dev lo
\"$2\" 'add table ip app; add chain ip app out { type nat hook output priority -100; }; add rule ip app out ip saddr 192.0.2.1 meta l4proto tcp redirect to :15001'
mount --bind \"$1\" /etc/hosts
echo ready
exec sleep infinity
";

/// A network of its own. It ends with its mesh.
#[derive(Debug, Clone)]
pub struct Network {
    holder: Arc<Running>,
}

impl Network {
    /// Whoever calls from this address is captured.
    pub const CAPTURED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    /// Makes one, in which these names have these addresses, and no others are known. None: it cannot be had here, which is said.
    ///
    /// # Errors
    /// It could be had, and was not made.
    pub async fn start(mesh: &Mesh, names: &[(&str, Ipv4Addr)]) -> anyhow::Result<Option<Self>> {
        let missing = |why: &str| left_out(&format!("a network of its own: {why}"));
        let nft = match can_namespaces(Who::Nobody).and_then(|()| peer(Peer::Nft)) {
            Ok(nft) => nft,
            Err(why) => {
                missing(&why);
                return Ok(None);
            }
        };
        let hosts: String = names.iter().map(|(name, address)| format!("{address} {name}\n")).collect();
        let hosts = mesh.write("hosts", format!("127.0.0.1 localhost\n{hosts}"))?;
        let words = ["-Urnm", "sh", "-c", SCRIPT, "sh"].map(OsStr::new);
        let holder = mesh.start_outside("/usr/bin/unshare", words.into_iter().chain([hosts.as_os_str(), nft.as_os_str()]))?;
        if let Err(error) = holder.line("ready").await {
            let said = holder.stderr();
            if ["not found", "not permitted", "Permission denied"].iter().any(|lack| said.contains(lack)) {
                missing(&said);
                return Ok(None);
            }
            return Err(error);
        }
        Ok(Some(Self { holder: Arc::new(holder) }))
    }

    /// Starts a program there.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_inside(
        &self,
        mesh: &Mesh,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> anyhow::Result<Running> {
        let mut words: Vec<_> = self.entering().into_iter().map(Into::into).collect();
        words.push(program.as_ref().to_owned());
        words.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        mesh.start_outside("/usr/bin/nsenter", words)
    }

    /// What curl says of a call that is captured.
    ///
    /// # Errors
    /// It cannot be started, or runs on.
    pub async fn curl(&self, mesh: &Mesh, arguments: &[&str]) -> anyhow::Result<Output> {
        let from = Self::CAPTURED.to_string();
        let own = ["-sS", "--max-time", "10", "--interface", &from];
        self.start_inside(mesh, "curl", own.iter().chain(arguments))?.output(PATIENCE).await
    }

    /// What is got from a server there, past capture.
    pub(crate) async fn get(&self, address: SocketAddr, path: &str) -> anyhow::Result<String> {
        let mut command = Command::new("/usr/bin/nsenter");
        command.args(self.entering()).args(["curl", "-sS", "--fail", "--max-time", "10"]).arg(format!("http://{address}{path}"));
        let output = Running::start("curl", command, None).context("nsenter")?.output(PATIENCE).await?;
        if output.code() == 0 { Ok(output.stdout) } else { bail!("{}", output.stderr) }
    }

    fn entering(&self) -> Vec<String> {
        let target = format!("--target={}", self.holder.pid());
        ["--preserve-credentials", "--user", "--net", "--mount", &target, "--"].map(str::to_owned).to_vec()
    }
}

//! What the agent is in the mesh: a host that joined by a token, with its SVID on disk (0600); or the service account of a pod, whose SVID is in
//! memory alone, as its token gets it another.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail, ensure};
use lorica_identity::ca_api::request_certificate;
use lorica_identity::files::{FileError, IdentityFiles};
use lorica_identity::host_api::{Admitted, HostClient};
use lorica_identity::join_token::{JoinToken, RootPin};
use lorica_identity::service_account::ServiceAccount;
use lorica_identity::{Bundle, CertificateDer, KeyPair, Svid, TlsEpoch};
use lorica_model::name::{Label, WorkloadName};
use lorica_model::spiffe::{SpiffeId, TrustDomain};
use lorica_xds::NodeMetadata;
use serde::{Deserialize, Serialize};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::{NodeConfig, Proof, upstream};

/// The file that says where the control plane is.
const HOST_FILE: &str = "host.json";
/// How long the CA may take to answer.
const ISSUE: Duration = Duration::from_secs(10);
/// The most bytes of a service account's token.
const MAX_TOKEN: usize = lorica_identity::jwt::MAX_TOKEN;

/// What a host remembers of its mesh.
#[derive(Debug, Serialize, Deserialize)]
struct HostFile {
    host: Label,
    trust_domain: TrustDomain,
    addresses: Vec<String>,
    /// The id of the token that it joined with. Another one means that it is to join anew.
    token: String,
}

/// An agent that has an identity.
pub(super) struct Member {
    /// Its host's name, or its account's.
    pub(super) name: Label,
    pub(super) id: SpiffeId,
    pub(super) trust_domain: TrustDomain,
    pub(super) addresses: Vec<String>,
    pub(super) epoch: Arc<TlsEpoch>,
    /// Whether it got its identity just now.
    pub(super) joined: bool,
    pub(super) standing: Standing,
}

/// As what it has its identity, and how it gets the next one.
pub(super) enum Standing {
    /// A host: by the SVID that it has.
    Host { files: IdentityFiles },
    /// A pod: by the token of its service account. It is known to the mesh by a workload's name.
    Pod { token_file: PathBuf, workload: WorkloadName },
}

impl Member {
    /// The words for it.
    pub(super) fn word(&self) -> String {
        match &self.standing {
            Standing::Host { .. } => format!("host {}", self.name),
            Standing::Pod { workload, .. } => format!("service account {}.{}", self.name, workload.namespace),
        }
    }

    /// An epoch of SVID and roots; those of a host are on the disk first.
    pub(super) fn epoch(&self, svid: Arc<Svid>, bundle: Arc<Bundle>) -> anyhow::Result<Arc<TlsEpoch>> {
        match &self.standing {
            Standing::Host { files } => kept_epoch(files, svid, bundle),
            Standing::Pod { .. } => Ok(TlsEpoch::new(svid, bundle)?),
        }
    }

    /// A new SVID.
    ///
    /// # Errors
    /// When the control plane is not reached, or gives none.
    pub(super) async fn renewed(&self, client: &HostClient<Channel>, channel: &Channel) -> anyhow::Result<Svid> {
        let key = KeyPair::generate()?;
        match &self.standing {
            Standing::Host { .. } => {
                let admitted = client.renew(key.request_pem(&self.id)?).await;
                fitting(&admitted.map_err(|status| anyhow::anyhow!("{}", reason(&status)))?.chain, key)
            }
            Standing::Pod { token_file, workload } => {
                proved(channel.clone(), &self.id, workload, &self.name, &token(token_file)?, key).await
            }
        }
    }
}

/// The agent's identity.
///
/// # Errors
/// When there is nothing by which it gets one, or the control plane does not admit it.
pub(super) async fn member(config: &NodeConfig) -> anyhow::Result<Member> {
    match &config.proof {
        Proof::JoinToken(token) => host(config, token.as_ref()).await,
        Proof::ServiceAccount { token_file, roots } => pod(config, token_file, roots).await,
    }
}

/// The identity of a host: the one on disk, else by its token.
async fn host(config: &NodeConfig, token: Option<&JoinToken>) -> anyhow::Result<Member> {
    let files = IdentityFiles::new(&config.state_directory);
    let kept = kept(&files)?;
    let now = SystemTime::now();
    match (kept, token) {
        (Some((member, joined_with)), token)
            if member.epoch.svid().not_after() > now && token.is_none_or(|token| token.id == joined_with) =>
        {
            if token.is_some() {
                tracing::info!(host = %member.name, "this host has joined already; the token is not used");
            }
            Ok(member)
        }
        (_, Some(token)) => joined(config, token, files).await,
        (Some((member, _)), None) => bail!(
            "the identity of the host {} in {} is over, so it must join anew\nhint: lorica token create --host {}, then --token-file FILE",
            member.name,
            files.directory().display(),
            member.name
        ),
        (None, None) => {
            bail!(
                "this host has not joined a mesh\nhint: lorica token create --host NAME beside the control plane, then --token-file FILE here"
            )
        }
    }
}

async fn joined(config: &NodeConfig, token: &JoinToken, files: IdentityFiles) -> anyhow::Result<Member> {
    let addresses = if config.addresses.is_empty() { &token.addresses } else { &config.addresses };
    let id = SpiffeId::of_host(&token.trust_domain, &token.host);
    let key = KeyPair::generate()?;
    let channel = upstream::pinned(token.trust_domain.clone(), vec![token.root], addresses)?;
    let client = HostClient::new(channel, token.trust_domain.clone());
    let joined = client.join(&token.id, &token.secret, key.request_pem(&id)?).await;
    let Admitted { chain, bundle } =
        joined.map_err(|status| anyhow::anyhow!("the control plane did not admit this host: {}", reason(&status)))?;
    let epoch = kept_epoch(&files, Arc::new(fitting(&chain, key)?), Arc::new(bundle))?;
    let told = HostFile {
        host: token.host.clone(),
        trust_domain: token.trust_domain.clone(),
        addresses: addresses.clone(),
        token: token.id.clone(),
    };
    files.save(HOST_FILE, &serde_json::to_string(&told)?)?;
    let HostFile { host: name, trust_domain, addresses, token: _ } = told;
    Ok(Member { name, id, trust_domain, addresses, epoch, joined: true, standing: Standing::Host { files } })
}

/// What is on disk, and the id of the token that it was joined with; none where nothing is.
fn kept(files: &IdentityFiles) -> anyhow::Result<Option<(Member, String)>> {
    let missing = |error: &FileError| error.is_missing();
    let text = match files.load(HOST_FILE) {
        Err(error) if missing(&error) => return Ok(None),
        text => text?,
    };
    let path = files.directory().join(HOST_FILE);
    let HostFile { host: name, trust_domain, addresses, token } =
        serde_json::from_str(&text).with_context(|| format!("{}", path.display()))?;
    let (svid, bundle) = (files.load_svid()?, files.load_bundle(&trust_domain)?);
    let epoch = TlsEpoch::new(Arc::new(svid), Arc::new(bundle))?;
    let id = SpiffeId::of_host(&trust_domain, &name);
    let standing = Standing::Host { files: files.clone() };
    Ok(Some((Member { name, id, trust_domain, addresses, epoch, joined: false, standing }, token)))
}

/// The identity of a pod: that of its service account.
async fn pod(config: &NodeConfig, token_file: &Path, roots: &Bundle) -> anyhow::Result<Member> {
    let text = token(token_file)?;
    let ServiceAccount { namespace, name } =
        ServiceAccount::claimed(&text).with_context(|| format!("--service-account-token-file {}", token_file.display()))?;
    let trust_domain = roots.trust_domain().clone();
    let id = SpiffeId::of_account(&trust_domain, &namespace, &name);
    let stem: String = name.as_str().chars().take(50).collect();
    let own = Label::new(&format!("{}-agent-{:06x}", stem.trim_end_matches('-'), fastrand::u32(..1 << 24)))?;
    let workload = WorkloadName::new(namespace, own);
    let pins = roots.roots().iter().map(|root| RootPin::of(root)).collect::<Result<Vec<_>, _>>();
    let pins = pins.map_err(|why| anyhow::anyhow!("--root-file: {why}"))?;
    let channel = upstream::pinned(trust_domain.clone(), pins, &config.addresses)?;
    let svid = proved(channel, &id, &workload, &name, &text, KeyPair::generate()?).await?;
    let epoch = TlsEpoch::new(Arc::new(svid), Arc::new(roots.clone()))?;
    let standing = Standing::Pod { token_file: token_file.to_owned(), workload };
    Ok(Member { name, id, trust_domain, addresses: config.addresses.clone(), epoch, joined: true, standing })
}

/// An SVID by the token of a service account.
async fn proved(
    channel: Channel,
    id: &SpiffeId,
    workload: &WorkloadName,
    account: &Label,
    token: &str,
    key: KeyPair,
) -> anyhow::Result<Svid> {
    let bearer = bearer(token)?;
    let channel = InterceptedService::new(channel, move |mut request: Request<()>| {
        request.metadata_mut().insert("authorization", bearer.clone());
        Ok(request)
    });
    let metadata = NodeMetadata::client(workload.namespace.clone(), account.clone());
    let node = serde_json::json!({ "id": workload, "metadata": metadata }).to_string();
    let issued = request_certificate(channel, key.request_pem(id)?, &node, None, ISSUE).await;
    let issued = issued.map_err(|status| anyhow::anyhow!("the control plane gives no certificate: {}", reason(&status)))?;
    fitting(&issued.chain, key)
}

fn fitting(chain: &[CertificateDer<'_>], key: KeyPair) -> anyhow::Result<Svid> {
    Svid::new(chain, key).context("the control plane sent a certificate that does not fit")
}

/// The token of the service account as it is now: kubelet replaces it.
pub(super) fn token(file: &Path) -> anyhow::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let most = u64::try_from(MAX_TOKEN).unwrap_or(u64::MAX).saturating_add(2);
    let read = std::fs::File::open(file).and_then(|file| file.take(most).read_to_string(&mut text));
    read.with_context(|| format!("--service-account-token-file {}", file.display()))?;
    let token = text.trim();
    ensure!(!token.is_empty() && token.len() <= MAX_TOKEN, "--service-account-token-file {}: it holds no token", file.display());
    Ok(token.to_owned())
}

/// A token as a call carries it.
fn bearer(token: &str) -> anyhow::Result<MetadataValue<Ascii>> {
    let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().context("the service account's token cannot be sent")?;
    value.set_sensitive(true);
    Ok(value)
}

/// Keeps SVID and roots on the disk, and makes an epoch of them.
fn kept_epoch(files: &IdentityFiles, svid: Arc<Svid>, bundle: Arc<Bundle>) -> anyhow::Result<Arc<TlsEpoch>> {
    // Roots first: an SVID without its roots is of no use, roots with an older SVID are.
    files.save_bundle(&bundle)?;
    files.save_svid(&svid)?;
    Ok(TlsEpoch::new(svid, bundle)?)
}

/// What a status says, with what lies beneath: that nobody answers says little without the address.
pub(super) fn reason(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let error_text = error.to_string();
        if !text.contains(&error_text) {
            text = format!("{text}: {error_text}");
        }
        source = error.source();
    }
    text
}

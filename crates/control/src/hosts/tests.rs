//! Tokens, hosts and what they may claim, over a store of their own.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use lorica_identity::host_api::{Admit, Known};
use lorica_identity::join_token::{JoinToken, Secret};
use lorica_identity::{KeyPair, peer_identity};
use lorica_model::spiffe::{SpiffeId, TrustDomain};
use tonic::{Code, Extensions};

use super::*;
use crate::ca::CaStart;
use crate::store::Embedded;
use crate::workload_api::{HostWorkloads, own_host, token_keys};

fn hosts(directory: &std::path::Path) -> Arc<Hosts> {
    let store: Arc<dyn Store> = Arc::new(Embedded::open(directory).unwrap());
    let ca = CaStart::load(&*store, None, None, SystemTime::now()).unwrap();
    let mesh = Mesh::load(store.clone(), TrustDomain::default(), ca.bundle(SystemTime::now()).unwrap(), 0xfd00_0000_0000_0000).unwrap();
    let ca = ca.of(mesh.clone(), store.clone(), crate::SVID_LIFETIME, std::time::Duration::ZERO);
    Arc::new(Hosts::new(store, mesh, ca, None))
}

fn admission(hosts: &Arc<Hosts>) -> Arc<Admission> {
    let keys = token_keys(&*hosts.store, &TrustDomain::default()).unwrap();
    Admission::new(hosts.clone(), HostWorkloads::new(hosts.mesh.clone(), hosts.ca.clone(), keys))
}

/// A connection of a host, or of any other identity.
fn connection(id: &SpiffeId) -> Extensions {
    let mut connection = Extensions::new();
    connection.insert(Peer::Remote(id.clone()));
    connection
}

fn host_id(name: &str) -> SpiffeId {
    SpiffeId::of_host(&TrustDomain::default(), &label(name))
}

fn label(name: &str) -> Label {
    Label::new(name).unwrap()
}

fn token(hosts: &Hosts, host: &str, services: &[&str]) -> JoinToken {
    let services = services.iter().map(|service| service.parse().unwrap()).collect();
    let made = hosts.create(label(host), services, Duration::from_secs(60), vec!["127.0.0.1:1".to_owned()], SystemTime::now());
    made.unwrap().0
}

fn request(host: &str) -> Vec<u8> {
    KeyPair::generate().unwrap().request(&host_id(host)).unwrap()
}

fn redeem(hosts: &Hosts, token: &JoinToken) -> Result<Label, Status> {
    hosts.redeem(&token.id, &token.secret, &request(token.host.as_str()), SystemTime::now()).map(|(host, _)| host)
}

fn host(hosts: &Hosts, name: &str) -> Result<Claimant, Status> {
    hosts.claimant(Some(&Peer::Remote(host_id(name))))
}

fn workload(service: &str) -> (WorkloadName, NodeMetadata) {
    let (name, namespace) = service.split_once('.').unwrap();
    let node =
        NodeMetadata { service: Some(service.parse().unwrap()), ..NodeMetadata::client(Namespace::new(namespace).unwrap(), label(name)) };
    (format!("{name}-1.{namespace}").parse().unwrap(), node)
}

#[test]
fn a_token_admits_one_host_once() {
    let directory = tempfile::tempdir().unwrap();
    let hosts = hosts(directory.path());
    let token = token(&hosts, "web-1", &["web.shop"]);
    assert!(host(&hosts, "web-1").is_err());
    assert_eq!(redeem(&hosts, &token).unwrap(), label("web-1"));
    assert_eq!(host(&hosts, "web-1").unwrap(), Claimant::Host { name: label("web-1"), services: vec!["web.shop".parse().unwrap()] });
    let again = redeem(&hosts, &token).unwrap_err();
    assert_eq!(again.code(), Code::PermissionDenied);
    assert!(again.message().contains("was used at") && again.message().contains(&token.id), "{}", again.message());
}

#[test]
fn who_has_not_the_secret_learns_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let hosts = hosts(directory.path());
    let token = token(&hosts, "web-1", &[]);
    let guessed = hosts.redeem(&token.id, &Secret::draw().unwrap(), &request("web-1"), SystemTime::now()).unwrap_err();
    let unknown = hosts.redeem("00000000", &token.secret, &request("web-1"), SystemTime::now()).unwrap_err();
    assert_eq!((guessed.code(), guessed.message()), (unknown.code(), unknown.message()));
    // And it is not used up by that.
    redeem(&hosts, &token).unwrap();
}

#[test]
fn a_token_that_is_over_admits_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let hosts = hosts(directory.path());
    let token = token(&hosts, "web-1", &[]);
    let late = SystemTime::now() + Duration::from_secs(61);
    let over = hosts.redeem(&token.id, &token.secret, &request("web-1"), late).unwrap_err();
    assert!(over.message().contains("ended at"), "{}", over.message());
    assert!(host(&hosts, "web-1").is_err());
}

#[test]
fn what_no_token_can_be_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let hosts = hosts(directory.path());
    let create =
        |name: &str, seconds| hosts.create(label(name), Vec::new(), Duration::from_secs(seconds), Vec::new(), SystemTime::now()).map(drop);
    if let Some(own) = own_host() {
        assert!(matches!(create(own.as_str(), 60), Err(TokenError::OwnName(_))));
    }
    assert!(matches!(create("web-1", 0), Err(TokenError::Lifetime)));
    assert!(matches!(create("web-1", 8 * 24 * 3600), Err(TokenError::Lifetime)));
    assert!(matches!(hosts.revoke("00000000"), Err(TokenError::Unknown(_))));
}

#[test]
fn a_host_that_was_let_go_of_is_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let hosts = hosts(directory.path());
    let revocations = hosts.revocations();
    let (used, open) = (token(&hosts, "web-1", &[]), token(&hosts, "web-2", &[]));
    redeem(&hosts, &used).unwrap();
    assert!(hosts.revoke(&used.id).unwrap().1 && !hosts.revoke(&open.id).unwrap().1);
    assert!(revocations.has_changed().unwrap());
    assert_eq!(host(&hosts, "web-1").unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(redeem(&hosts, &open).unwrap_err().code(), Code::Unauthenticated);
    // A host that joined anew keeps its place when its first token goes.
    let (first, second) = (token(&hosts, "web-3", &[]), token(&hosts, "web-3", &[]));
    redeem(&hosts, &first).unwrap();
    redeem(&hosts, &second).unwrap();
    assert!(!hosts.revoke(&first.id).unwrap().1);
    host(&hosts, "web-3").unwrap();
}

#[test]
fn a_host_cannot_take_the_workload_of_another() {
    let directory = tempfile::tempdir().unwrap();
    let hosts = hosts(directory.path());
    for name in ["web-1", "web-2"] {
        redeem(&hosts, &token(&hosts, name, &[])).unwrap();
    }
    let (first, second) = (host(&hosts, "web-1").unwrap(), host(&hosts, "web-2").unwrap());
    let (name, node) = workload("recording.contact");
    hosts.may_be(&first, &name, &node).unwrap();
    hosts.mesh.register(&name, &node).unwrap();
    hosts.may_be(&first, &name, &node).unwrap();
    let stolen = hosts.may_be(&second, &name, &node).unwrap_err();
    assert!(stolen.message().contains("registered already"), "{}", stolen.message());
    // After a restart it is not known any more who claimed it, but what it is.
    hosts.claims.lock().unwrap().clear();
    let (_, other) = workload("billing.contact");
    hosts.may_be(&second, &name, &other).unwrap_err();
}

#[test]
fn an_address_that_shows_wrong_secrets_is_not_listened_to() {
    let directory = tempfile::tempdir().unwrap();
    let hosts = hosts(directory.path());
    let token = token(&hosts, "web-1", &[]);
    let show = |address: &str, secret: &Secret| {
        let shown = hosts.redeem_at(Some(address.parse().unwrap()), &token.id, secret, &request("web-1"), SystemTime::now());
        shown.map(drop).map_err(|status| status.code())
    };
    for _ in 0..10 {
        assert_eq!(show("10.0.0.7", &Secret::draw().unwrap()), Err(Code::Unauthenticated));
    }
    // Even the right one is not looked at from there; from elsewhere it is.
    assert_eq!(show("10.0.0.7", &token.secret), Err(Code::ResourceExhausted));
    assert_eq!(show("10.0.0.8", &token.secret), Ok(()));
}

#[tokio::test]
async fn a_host_gets_and_renews_its_identity() {
    let directory = tempfile::tempdir().unwrap();
    let hosts = hosts(directory.path());
    let token = token(&hosts, "web-1", &[]);
    let admission = admission(&hosts);
    let join = |csr: Vec<u8>| admission.join(Extensions::new(), token.id.clone(), token.secret.clone(), csr);
    // What is no request, or one for another host, uses no token up.
    assert_eq!(join(vec![1, 2, 3]).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(join(request("web-2")).await.unwrap_err().code(), Code::PermissionDenied);
    let admitted = join(request("web-1")).await.unwrap();
    assert_eq!(peer_identity(&admitted.chain).unwrap().id, host_id("web-1"));

    assert_eq!(admission.renew(Extensions::new(), request("web-1")).await.unwrap_err().code(), Code::Unauthenticated);
    admission.renew(connection(&host_id("web-1")), request("web-1")).await.unwrap();
    let denied = async |id: &str, csr: Vec<u8>| {
        let status = admission.renew(connection(&id.parse().unwrap()), csr).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{id}: {status}");
    };
    denied("spiffe://mesh.local/lorica/host/web-1", request("web-2")).await;
    denied("spiffe://mesh.local/ns/contact/sa/recording", request("web-1")).await;
    denied("spiffe://other.example/lorica/host/web-1", request("web-1")).await;
    denied("spiffe://mesh.local/lorica/host/web-2", request("web-2")).await;
}

#[test]
fn a_certificate_from_before_a_host_joined_anew_is_of_another_host() {
    let directory = tempfile::tempdir().unwrap();
    let hosts = hosts(directory.path());
    redeem(&hosts, &token(&hosts, "web-1", &[])).unwrap();
    let with = |id: SpiffeId, before: u64| PeerIdentity {
        id,
        facts: None,
        not_before: SystemTime::now() - Duration::from_secs(before),
        not_after: SystemTime::now() + Duration::from_secs(60),
        certificate_sha256: [0; 32],
    };
    hosts.welcome(&with(host_id("web-1"), 0)).unwrap();
    let stale = hosts.welcome(&with(host_id("web-1"), 60)).unwrap_err();
    assert!(stale.message().contains("joined anew"), "{}", stale.message());
    let workload: SpiffeId = "spiffe://mesh.local/ns/contact/sa/recording".parse().unwrap();
    hosts.welcome(&with(workload.clone(), 60)).unwrap();
    // Who is revoked is of no mesh, host or workload.
    for id in [host_id("web-1"), workload] {
        hosts.ca.revoke(crate::ca::Subject::Identity(id.clone()), "stolen", SystemTime::now()).unwrap();
        let revoked = hosts.welcome(&with(id, 0)).unwrap_err();
        assert!(revoked.message().contains("is revoked"), "{}", revoked.message());
    }
    assert_eq!(hosts.admit(&label("web-1"), &request("web-1"), SystemTime::now()).unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_process_of_a_host_has_what_is_registered_there_and_named_by_the_token() {
    let directory = tempfile::tempdir().unwrap();
    let hosts = hosts(directory.path());
    let admission = admission(&hosts);
    let text = |account: &str, host: &str| {
        format!(
            "apiVersion: lorica.io/v1alpha1\nkind: WorkloadIdentity\nmetadata: {{name: {account}, namespace: contact}}\nspec: {{account: {account}, {host} attributes: {{uid: 7}}}}\n"
        )
    };
    let texts = [("recording", "host: web-1,"), ("billing", "host: web-2,"), ("agents", "")].map(|(account, host)| text(account, host));
    let resources = texts.iter().flat_map(|text| lorica_model::resource::read("mesh.yaml", text).unwrap());
    let new = |mut document: lorica_model::resource::Document| {
        document.resource.metadata.generation = 1;
        document.resource
    };
    hosts.mesh.change(resources.map(new).collect(), &[]).unwrap();
    redeem(&hosts, &token(&hosts, "web-1", &["recording.contact", "billing.contact"])).unwrap();
    redeem(&hosts, &token(&hosts, "web-2", &[])).unwrap();

    let (first, second) = (connection(&host_id("web-1")), connection(&host_id("web-2")));
    let told = async |connection: &Extensions| {
        let view = admission.watch(connection.clone(), Known::default()).await.unwrap();
        view.registered.into_iter().map(|process| process.spiffe_id.rsplit('/').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(told(&first).await, ["recording"]);
    assert_eq!(told(&second).await, ["agents", "billing"]);

    let sign = async |connection: &Extensions, account: &str| {
        let id: SpiffeId = format!("spiffe://mesh.local/ns/contact/sa/{account}").parse().unwrap();
        let csr = KeyPair::generate().unwrap().request(&id).unwrap();
        let signed = admission.sign_svid(connection.clone(), id.clone(), csr).await.map(|chain| peer_identity(&chain).unwrap().id == id);
        let token = admission.sign_token(connection.clone(), id, vec!["ledger".to_owned()]).await;
        assert_eq!(signed.is_ok(), token.is_ok(), "{account}");
        signed.map_err(|status| status.message().to_owned())
    };
    assert_eq!(sign(&first, "recording").await, Ok(true));
    assert!(sign(&first, "agents").await.unwrap_err().contains("joined for recording.contact, billing.contact"));
    // What a stolen SVID of a host may ask for is what that host may have, and nothing of another.
    assert!(sign(&first, "billing").await.unwrap_err().contains("to processes of the host web-1"));
    assert!(sign(&second, "recording").await.unwrap_err().contains("to processes of the host web-2"));
    assert_eq!(sign(&second, "agents").await, Ok(true));
    assert!(sign(&connection(&"spiffe://mesh.local/ns/contact/sa/agents".parse().unwrap()), "agents").await.is_err());
}

#[tokio::test]
async fn a_rotation_of_the_root_waits_for_a_host_until_it_trusts_and_renewed() {
    let directory = tempfile::tempdir().unwrap();
    let hosts = hosts(directory.path());
    let admission = admission(&hosts);
    redeem(&hosts, &token(&hosts, "web-1", &[])).unwrap();
    let connection = connection(&host_id("web-1"));
    let view = admission.watch(connection.clone(), Known::default()).await.unwrap();
    hosts.ca.rotate(None, SystemTime::now()).unwrap();
    let waiting =
        || hosts.ca.status(SystemTime::now()).held_up_by.into_iter().map(|held| (held.workload, held.connected)).collect::<Vec<_>>();
    assert_eq!(waiting(), [("host/web-1".to_owned(), false)]);
    // What it knows is old: it is told the new one at once, and acknowledges by asking again.
    let known = |view: &lorica_identity::host_api::HostView| Known {
        version: view.version.clone(),
        bundle_version: view.bundle_version.clone(),
        workload: String::new(),
    };
    let both = admission.watch(connection.clone(), known(&view)).await.unwrap();
    assert_ne!(both.bundle_version, view.bundle_version);
    assert_eq!(waiting(), [("host/web-1".to_owned(), true)]);
    let asked = tokio::spawn({
        let (admission, connection, known) = (admission.clone(), connection.clone(), known(&both));
        async move { admission.watch(connection, known).await }
    });
    let acknowledged = async {
        while !waiting().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), acknowledged).await.unwrap();
    asked.abort();
    // Whoever is let go of is waited for no more.
    redeem(&hosts, &token(&hosts, "web-2", &[])).unwrap();
    assert_eq!(waiting(), [("host/web-2".to_owned(), false)]);
    let (id, _) = hosts.tokens().unwrap().into_iter().find(|(_, token)| token.host == label("web-2")).unwrap();
    hosts.revoke(&id).unwrap();
    assert!(waiting().is_empty());
}

//! Service accounts at the CA's door: a token proves one identity, whatever else is asked for with it.

#![allow(clippy::unwrap_used)]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lorica_identity::KeyPair;
use lorica_identity::ca_api::{Issue, IssueRequest};
use lorica_model::spiffe::{SpiffeId, TrustDomain};
use serde_json::json;
use tonic::metadata::MetadataMap;
use tonic::{Code, Extensions};

use super::*;
use crate::ca::CaStart;
use crate::issue::Issuer;
use crate::kubernetes::{ClusterKeys, KubernetesConfig};
use crate::store::Embedded;

/// A cluster whose accounts are believed, and the CA's door that believes them.
struct Bench {
    cluster: EcdsaKeyPair,
    issuer: Arc<Issuer>,
    accounts: Arc<ServiceAccounts>,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let cluster = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
        let point = cluster.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..65]));
        let file = directory.path().join("keys.json");
        let keys = json!({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "k", "x": x, "y": y}]});
        std::fs::write(&file, keys.to_string()).unwrap();
        let config = KubernetesConfig { issuer: "cluster".to_owned(), audience: "lorica".to_owned(), keys: ClusterKeys::File(file) };
        let store: Arc<dyn Store> = Arc::new(Embedded::open(directory.path()).unwrap());
        let ca = CaStart::load(&*store, None, None, SystemTime::now()).unwrap();
        let mesh = Mesh::load(store.clone(), TrustDomain::default(), ca.bundle(SystemTime::now()).unwrap(), 0xfd00_0000_0000_0000).unwrap();
        let ca = ca.of(mesh.clone(), store.clone(), crate::SVID_LIFETIME, std::time::Duration::ZERO);
        let accounts = ServiceAccounts::new(config).unwrap();
        let hosts = Arc::new(Hosts::new(store, mesh.clone(), ca.clone(), Some(accounts.clone())));
        Self { cluster, issuer: Issuer::new(mesh, ca, hosts), accounts, _directory: directory }
    }

    fn token(&self, algorithm: &str, account: &str) -> String {
        let now = seconds(SystemTime::now());
        let claims = json!({"iss": "cluster", "aud": ["lorica"], "sub": format!("system:serviceaccount:{account}"), "exp": now + 60});
        let head = URL_SAFE_NO_PAD.encode(json!({"alg": algorithm, "kid": "k"}).to_string());
        let text = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self.cluster.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Asks as the workload `name` of an account for an SVID of `id`.
    async fn ask(&self, peer: Option<&str>, token: Option<&str>, name: &str, account: &str, id: &str) -> Result<(), Code> {
        let id: SpiffeId = id.parse().unwrap();
        let mut extensions = Extensions::new();
        if let Some(peer) = peer {
            extensions.insert(Peer::Remote(peer.parse().unwrap()));
        }
        let mut metadata = MetadataMap::new();
        if let Some(token) = token {
            metadata.insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let name: WorkloadName = name.parse().unwrap();
        let node = NodeMetadata::client(name.namespace.clone(), Label::new(account).unwrap());
        let node = json!({"id": name, "metadata": node}).to_string();
        let csr_der = KeyPair::generate().unwrap().request(&id).unwrap();
        let asked = IssueRequest { csr_der, validity: None, node: Some(node), metadata, extensions };
        self.issuer.issue(asked).await.map(drop).map_err(|status| status.code())
    }
}

const CART: &str = "spiffe://mesh.local/ns/shop/sa/cart";
const LEDGER: &str = "spiffe://mesh.local/ns/shop/sa/ledger";

#[tokio::test]
async fn a_service_account_gets_its_own_identity_and_no_other() {
    let bench = Bench::new();
    let token = bench.token("ES256", "shop:cart");
    let token = Some(token.as_str());
    bench.ask(None, token, "cart-1.shop", "cart", CART).await.unwrap();
    bench.ask(Some(CART), token, "cart-1.shop", "cart", CART).await.unwrap();
    // Another account, another namespace, another identity than the one that it says, another's connection.
    assert_eq!(bench.ask(None, token, "ledger-1.shop", "ledger", LEDGER).await, Err(Code::PermissionDenied));
    assert_eq!(bench.ask(None, token, "cart-1.bank", "cart", "spiffe://mesh.local/ns/bank/sa/cart").await, Err(Code::PermissionDenied));
    assert_eq!(bench.ask(None, token, "cart-1.shop", "cart", LEDGER).await, Err(Code::PermissionDenied));
    assert_eq!(bench.ask(None, token, "cart-1.shop", "cart", "spiffe://mesh.local/lorica/control").await, Err(Code::PermissionDenied));
    assert_eq!(bench.ask(Some(LEDGER), token, "cart-1.shop", "cart", CART).await, Err(Code::PermissionDenied));
}

#[tokio::test]
async fn without_a_token_that_holds_nobody_gets_anything_also_with_an_svid() {
    let bench = Bench::new();
    let ask = |peer, token| bench.ask(peer, token, "cart-1.shop", "cart", CART);
    assert_eq!(ask(None, None).await, Err(Code::Unauthenticated));
    assert_eq!(ask(Some(CART), None).await, Err(Code::Unauthenticated));
    assert_eq!(ask(None, Some("")).await, Err(Code::Unauthenticated));
    let none = bench.token("none", "shop:cart");
    assert_eq!(ask(None, Some(&none)).await, Err(Code::Unauthenticated));
    let other = Bench::new().token("ES256", "shop:cart");
    assert_eq!(ask(None, Some(&other)).await, Err(Code::Unauthenticated));
    let over = SystemTime::now() + std::time::Duration::from_secs(3600);
    let late = bench.token("ES256", "shop:cart");
    assert_eq!(bench.accounts.account(&late, over).unwrap_err().code(), Code::Unauthenticated);
}

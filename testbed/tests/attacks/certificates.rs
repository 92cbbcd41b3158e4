//! Who a caller proves to be, at the inbound side of a sidecar: what is no SVID of the mesh, or not the caller's own, opens nothing.

use std::sync::Arc;

use lorica_identity::CertificateDer;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use testbed::AnyServer;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::ResolvesClientCert;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, ProtocolVersion, SignatureScheme, SupportedProtocolVersion};

use super::doors::{Door, Doors, Identities, text, until_closed};

const CART: &str = "spiffe://mesh.local/ns/shop/sa/cart";

/// A chain and whatever key is used with it.
type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn key_of(pem: &str) -> KeyPair {
    KeyPair::try_from(&PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap()
}

/// A leaf as the mesh's CA makes them.
fn leaf(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// What the mesh's own intermediate would never sign.
fn forged(identities: &Identities, params: &CertificateParams) -> Shown {
    let record = identities.authority.to_record();
    let intermediate = CertificateDer::from_pem_slice(record.intermediate_certificate_pem.as_bytes()).unwrap();
    let issuer = Issuer::from_ca_cert_der(&intermediate, key_of(record.intermediate_key_pem.expose())).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &issuer).unwrap().der().clone();
    (vec![leaf, intermediate], key.into())
}

/// A leaf below an intermediate that the root signed with more extensions.
fn below(identities: &Identities, extensions: Vec<CustomExtension>) -> Shown {
    let record = identities.authority.to_record();
    let root = CertificateDer::from_pem_slice(record.root_certificate_pem.as_bytes()).unwrap();
    let issuer = Issuer::from_ca_cert_der(&root, key_of(record.root_key_pem.as_ref().unwrap().expose())).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "another intermediate");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.custom_extensions = extensions;
    let key = KeyPair::generate().unwrap();
    let intermediate = params.signed_by(&key, &issuer).unwrap().der().clone();
    let issuer = Issuer::from_ca_cert_der(&intermediate, key).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = leaf(&[CART]).signed_by(&key, &issuer).unwrap().der().clone();
    (vec![leaf, intermediate], key.into())
}

/// Name constraints that permit URIs of this host alone.
fn uris_of(host: &str) -> CustomExtension {
    let wrap = |tag: u8, content: &[u8]| [&[tag, u8::try_from(content.len()).unwrap()], content].concat();
    let content = wrap(0x30, &wrap(0xa0, &wrap(0x30, &wrap(0x86, host.as_bytes()))));
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], content);
    extension.set_criticality(true);
    extension
}

/// A client that shows what it is told to, and does not mind who answers.
fn client(shown: Option<Shown>, versions: &[&'static SupportedProtocolVersion], alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap().dangerous();
    let builder = builder.with_custom_certificate_verifier(Arc::new(AnyServer(provider.clone())));
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        // Not asked whether the key is that of the certificate.
        Some((chain, key)) => {
            let key = provider.key_provider.load_private_key(key).unwrap();
            builder.with_client_cert_resolver(Arc::new(Always(Arc::new(CertifiedKey::new(chain, key)))))
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
    fn has_certs(&self) -> bool {
        true
    }
}

/// What came back for `bytes` by a connection of such a client, and which version it had; nothing where no connection came about.
async fn answer(
    doors: &Doors,
    config: Arc<ClientConfig>,
    server_name: &str,
    bytes: &[u8],
) -> anyhow::Result<(String, Option<ProtocolVersion>)> {
    let tcp = TcpStream::connect(doors.proxy(Door::Inbound).address()).await?;
    let name = ServerName::try_from(server_name.to_owned())?;
    let Ok(mut tls) = TlsConnector::from(config).connect(name, tcp).await else { return Ok((String::new(), None)) };
    let version = tls.get_ref().1.protocol_version();
    // A server of TLS 1.3 refuses a certificate after the client took the handshake for done.
    if tls.write_all(bytes).await.is_err() {
        return Ok((String::new(), version));
    }
    Ok((text(&until_closed(&mut tls).await?), version))
}

const NAME: &str = "80.web.shop.mesh";
const REQUEST: &[u8] = b"GET /attack HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\n\r\n";

fn certificates(identities: &Identities) -> Vec<(&'static str, Option<Shown>)> {
    let forged = |change: &dyn Fn(&mut CertificateParams), uris: &[&str]| {
        let mut params = leaf(uris);
        change(&mut params);
        Some(forged(identities, &params))
    };
    let plain = |uris: &[&str]| forged(&|_| {}, uris);
    let svid = identities.svid("admin").unwrap();
    let stranger = Identities::new().unwrap();
    let chain = svid.chain().to_vec();
    // Of somebody whose key the attacker has, used as if it could sign.
    let mine = identities.svid("cart").unwrap();
    let own_key = || key_of(mine.key().to_pem().expose());
    let admin_key = KeyPair::generate().unwrap();
    let by_leaf = {
        let issuer = Issuer::from_ca_cert_der(&mine.chain()[0], own_key()).unwrap();
        let leaf = leaf(&["spiffe://mesh.local/ns/shop/sa/admin"]).signed_by(&admin_key, &issuer).unwrap().der().clone();
        [vec![leaf], mine.chain().to_vec()].concat()
    };
    vec![
        ("nothing", None),
        ("another's certificate with one's own key", Some((chain.clone(), own_key().into()))),
        (
            "another's certificate behind one's own",
            Some(([vec![mine.chain()[0].clone()], chain].concat(), KeyPair::generate().unwrap().into())),
        ),
        ("what one's own certificate signed", Some((by_leaf, admin_key.into()))),
        ("of another authority of the same name", Some((stranger.svid("cart").unwrap().chain().to_vec(), own_key().into()))),
        ("forged by another authority", Some(self::forged(&stranger, &leaf(&[CART])))),
        ("signed by itself", {
            let key = KeyPair::generate().unwrap();
            Some((vec![leaf(&[CART]).self_signed(&key).unwrap().der().clone()], key.into()))
        }),
        (
            "expired",
            forged(
                &|params| (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1)),
                &[CART],
            ),
        ),
        (
            "not yet valid",
            forged(
                &|params| (params.not_before, params.not_after) = (rcgen::date_time_ymd(2090, 1, 1), rcgen::date_time_ymd(2091, 1, 1)),
                &[CART],
            ),
        ),
        ("of another trust domain", plain(&["spiffe://other.example/ns/shop/sa/cart"])),
        ("of a trust domain below", plain(&["spiffe://a.mesh.local/ns/shop/sa/cart"])),
        ("two URIs", plain(&[CART, "spiffe://mesh.local/ns/shop/sa/admin"])),
        ("the same URI twice", plain(&[CART, CART])),
        ("no URI", plain(&[])),
        ("a DNS name alone", forged(&|params| params.subject_alt_names = vec![SanType::DnsName("web.shop".try_into().unwrap())], &[])),
        ("a URI that is no SPIFFE ID", plain(&["https://mesh.local/ns/shop/sa/cart"])),
        ("a SPIFFE ID without a path", plain(&["spiffe://mesh.local"])),
        ("a SPIFFE ID with dot segments", plain(&["spiffe://mesh.local/ns/shop/sa/../sa/cart"])),
        ("a SPIFFE ID with a port", plain(&["spiffe://mesh.local:80/ns/shop/sa/cart"])),
        ("a SPIFFE ID with a user", plain(&["spiffe://a@mesh.local/ns/shop/sa/cart"])),
        ("a SPIFFE ID with a query", plain(&["spiffe://mesh.local/ns/shop/sa/cart?x"])),
        ("a SPIFFE ID with an encoded slash", plain(&["spiffe://mesh.local/ns/shop%2Fsa/cart"])),
        ("CA:TRUE", forged(&|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), &[CART])),
        ("may sign certificates", forged(&|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign), &[CART])),
        ("may sign lists", forged(&|params| params.key_usages.push(KeyUsagePurpose::CrlSign), &[CART])),
        ("for servers only", forged(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth], &[CART])),
        ("for nothing", forged(&|params| params.extended_key_usages.clear(), &[CART])),
        ("by an intermediate for another trust domain", Some(below(identities, vec![uris_of("other.example")]))),
        ("an extension that nobody knows, critical", {
            forged(
                &|params| {
                    let mut unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
                    unknown.set_criticality(true);
                    params.custom_extensions.push(unknown);
                },
                &[CART],
            )
        }),
    ]
}

#[tokio::test]
async fn nobody_passes_for_a_workload() -> anyhow::Result<()> {
    let doors = Doors::open(&[Door::Inbound], "").await?;
    // What refuses the others is what is said of them: forged in the same way, these two are let in.
    let good = [forged(&doors.identities, &leaf(&[CART])), below(&doors.identities, Vec::new())];
    for shown in good {
        let (answer, version) = answer(&doors, client(Some(shown), &[&TLS12, &TLS13], &[b"http/1.1"]), NAME, REQUEST).await?;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(version, Some(ProtocolVersion::TLSv1_3), "the lower of two versions was taken");
        assert_eq!(doors.seen(Door::Inbound).await?.len(), 1);
    }
    let mut wrong = Vec::new();
    for (name, shown) in certificates(&doors.identities) {
        let (answer, _) = answer(&doors, client(shown, &[&TLS13], &[b"http/1.1"]), NAME, REQUEST).await?;
        let seen = doors.seen(Door::Inbound).await?;
        if !answer.is_empty() || !seen.is_empty() {
            wrong.push(format!("{name}: {answer:?}, the app saw {seen:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} got in:\n{}", wrong.len(), wrong.join("\n"));
    doors.mesh.finish().await
}

#[tokio::test]
async fn no_lower_version_no_plaintext_and_no_other_service() -> anyhow::Result<()> {
    let doors = Doors::open(&[Door::Inbound], "").await?;
    let good = || Some(forged(&doors.identities, &leaf(&[CART])));
    for (what, config, name) in [
        ("TLS 1.2", client(good(), &[&TLS12], &[b"http/1.1"]), NAME),
        ("the name of another service", client(good(), &[&TLS13], &[b"http/1.1"]), "80.other.shop.mesh"),
        ("the name of another port", client(good(), &[&TLS13], &[b"http/1.1"]), "81.web.shop.mesh"),
        ("a protocol that nobody speaks", client(good(), &[&TLS13], &[b"ftp"]), NAME),
    ] {
        let (answer, _) = answer(&doors, config, name, REQUEST).await?;
        assert_eq!(answer, "", "{what}");
        assert!(doors.seen(Door::Inbound).await?.is_empty(), "{what}");
    }
    let mut plain = TcpStream::connect(doors.proxy(Door::Inbound).address()).await?;
    plain.write_all(REQUEST).await?;
    let answer = until_closed(&mut plain).await?;
    assert!(!text(&answer).contains("HTTP/1.1 200"), "{}", text(&answer));
    assert!(doors.seen(Door::Inbound).await?.is_empty());
    doors.mesh.finish().await
}

/// What ALPN settled and what is spoken then are two things: whatever is spoken, it is judged, or the connection ends.
#[tokio::test]
async fn what_is_spoken_is_what_was_settled() -> anyhow::Result<()> {
    let policy = "apiVersion: lorica.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: deny, namespace: shop}\nspec: {action: Deny, rules: [{to: [{paths: [/attack]}]}]}\n";
    let doors = Doors::open(&[Door::Inbound], policy).await?;
    let good = || Some(forged(&doors.identities, &leaf(&[CART])));
    let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let bytes: &[u8] = b"\x16\x03\x01 or whatever a database says\r\n\r\n";
    for (alpn, sent) in [
        (vec![&b"h2"[..]], REQUEST),
        (vec![b"http/1.1"], preface),
        (vec![b"http/1.1"], bytes),
        (vec![b"h2"], bytes),
        (vec![], REQUEST),
        (vec![b"ftp", b"http/1.1"], REQUEST),
    ] {
        let (answer, _) = answer(&doors, client(good(), &[&TLS13], &alpn), NAME, sent).await?;
        assert!(!answer.contains(" 200 "), "{alpn:?} {}: {answer}", text(sent));
        assert!(doors.seen(Door::Inbound).await?.is_empty(), "{alpn:?} {}", text(sent));
    }
    doors.mesh.finish().await
}

//! Texts and options in, a snapshot or the sentence that a person reads out.

#![allow(clippy::unwrap_used)]

use lorica_model::snapshot::{Locality, Transport};

use lorica_model::name::Namespace;

use super::*;

const SHOP: &str = "
apiVersion: lorica.io/v1alpha1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{port: 80, appProtocol: http}]}
---
apiVersion: lorica.io/v1alpha1
kind: Service
metadata: {name: web-v2, namespace: shop}
spec: {ports: [{port: 80, appProtocol: http}]}
---
apiVersion: lorica.io/v1alpha1
kind: Service
metadata: {name: other, namespace: shop}
spec: {ports: [{port: 80, appProtocol: http}]}
---
apiVersion: lorica.io/v1alpha1
kind: Workload
metadata: {name: web-1, namespace: shop}
spec: {service: web, address: 127.0.0.1, ports: [{servicePort: 80, port: 8080}], transport: Plaintext}
---
apiVersion: lorica.io/v1alpha1
kind: Workload
metadata: {name: web-2, namespace: shop}
spec: {service: web-v2, account: front, address: 127.0.0.2, ports: [{servicePort: 80, port: 8443}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{kind: Service, name: web}]
  rules: [{backendRefs: [{name: web, port: 80, weight: 9}, {name: web-v2, port: 80, weight: 1}]}]
";

fn asked() -> Asked {
    let own = Own {
        workload: "proxy-1.default".parse().unwrap(),
        namespace: Namespace::default(),
        service: None,
        account: Label::new("default").unwrap(),
        version: None,
        locality: Locality::default(),
    };
    Asked { own, upstreams: Vec::new(), gateway: None, ports: Vec::new(), identity: None, keys: Keys::default(), colours: false }
}

fn calls(port: &str) -> Asked {
    Asked { upstreams: vec![port.parse().unwrap()], ..asked() }
}

fn serves(identity: Option<&str>) -> Asked {
    let mut asked = asked();
    let account = identity.and_then(|id| id.rsplit_once('/')).map_or("web", |(_, account)| account);
    asked.own = Own {
        workload: "web-9.shop".parse().unwrap(),
        namespace: Namespace::new("shop").unwrap(),
        service: Some("web.shop".parse().unwrap()),
        account: Label::new(account).unwrap(),
        version: None,
        locality: Locality::default(),
    };
    asked.ports = vec!["80:8080/http".parse().unwrap()];
    asked.identity = identity.map(|id| (id.parse().unwrap(), "/id/svid.pem".to_owned()));
    asked
}

fn texts(texts: &[&str]) -> Vec<NamedText> {
    let named = |(index, text): (usize, &&str)| NamedText { name: format!("{index}.yaml"), text: (*text).to_owned() };
    texts.iter().enumerate().map(named).collect()
}

fn read(written: &[&str], asked: &Asked) -> Result<Configuration, String> {
    compiled(&texts(written), asked).map_err(|refused| refused.to_string())
}

#[test]
fn an_upstream_brings_what_its_rules_lead_to_and_nothing_else() {
    let snapshot = read(&[SHOP], &calls("web.shop.mesh:80")).unwrap().snapshot;
    let mut ports: Vec<_> = snapshot.outbound.keys().map(ToString::to_string).collect();
    ports.sort();
    assert_eq!(ports, ["web-v2.shop.mesh:80", "web.shop.mesh:80"]);
    let endpoint = |port: &str| snapshot.endpoints[&port.parse().unwrap()].endpoints[0].clone();
    assert_eq!((endpoint("web.shop.mesh:80").address.port(), endpoint("web.shop.mesh:80").transport), (8080, Transport::Plaintext));
    assert_eq!(endpoint("web-v2.shop.mesh:80").transport, Transport::MutualTls);
    let accepted = &snapshot.outbound[&"web-v2.shop.mesh:80".parse().unwrap()].cluster.accepted;
    assert_eq!(accepted.iter().map(ToString::to_string).collect::<Vec<_>>(), ["spiffe://mesh.local/ns/shop/sa/front"]);
    assert!(snapshot.inbound.is_none() && snapshot.names.is_empty() && snapshot.absent.is_empty());
}

#[test]
fn identities_are_of_the_trust_domain_of_the_svid() {
    let mut asked = calls("web-v2.shop.mesh:80");
    asked.identity = Some(("spiffe://shop.example/ns/x/sa/y".parse().unwrap(), String::new()));
    let snapshot = read(&[SHOP], &asked).unwrap().snapshot;
    let accepted = &snapshot.outbound[&"web-v2.shop.mesh:80".parse().unwrap()].cluster.accepted;
    assert_eq!(accepted.first().unwrap().to_string(), "spiffe://shop.example/ns/shop/sa/front");
}

/// The page that tells how, whose example must work.
const PAGE: &str = include_str!("../../../../../docs/static.md");

#[test]
fn the_example_of_the_page_works() {
    let (_, rest) = PAGE.split_once("```yaml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let snapshot = read(&[example], &calls("web.shop.mesh:80")).unwrap().snapshot;
    let set = &snapshot.endpoints[&"web.shop.mesh:80".parse().unwrap()];
    assert_eq!((set.endpoints.len(), set.endpoints[0].transport), (1, Transport::Plaintext));
}

#[test]
fn several_files_are_one_configuration() {
    let (services, rest) = SHOP.split_at(SHOP.find("---\napiVersion: lorica.io/v1alpha1\nkind: Workload").unwrap());
    let both = read(&[services, rest], &calls("web.shop.mesh:80")).unwrap();
    assert_eq!((both.resources, both.snapshot.endpoints.len()), (6, 2));
    let twice = read(&[SHOP, services], &calls("web.shop.mesh:80")).unwrap_err();
    assert!(twice.contains("1.yaml:4:18") && twice.contains("Service web.shop is there twice"), "{twice}");
}

#[test]
fn a_mistake_is_shown_where_it_stands() {
    let wrong = SHOP.replace("service: web-v2", "service: wev-v2");
    let refused = read(&[&wrong], &calls("web.shop.mesh:80")).unwrap_err();
    assert!(refused.contains("0.yaml:25:17") && refused.contains("did you mean `web-v2`?"), "{refused}");
    let refused = read(&["kind: Service\n  metadata: [\n"], &calls("web.shop.mesh:80")).unwrap_err();
    assert!(refused.contains("0.yaml:"), "{refused}");
}

#[test]
fn what_was_typed_and_is_not_there_is_named_with_the_nearest() {
    let refused = read(&[SHOP], &calls("wbe.shop.mesh:80")).unwrap_err();
    assert_eq!(refused, "--upstream wbe.shop:80: no Service `wbe.shop` in 0.yaml\nhint: did you mean `web.shop`?");
    let refused = read(&[SHOP], &calls("nothing.alike.mesh:80")).unwrap_err();
    assert!(refused.ends_with("hint: there is `other.shop`, `web.shop`, `web-v2.shop`"), "{refused}");
    let refused = read(&[SHOP], &calls("web.shop.mesh:81")).unwrap_err();
    assert_eq!(refused, "--upstream web.shop:81: the Service `web.shop` in 0.yaml has no port 81\nhint: it has 80");
    let refused = read(&[""], &calls("web.shop.mesh:80")).unwrap_err();
    assert!(refused.contains("write a resource of kind Service"), "{refused}");
    let mut gone = serves(Some("spiffe://mesh.local/ns/shop/sa/web"));
    gone.own.service = Some("wed.shop".parse().unwrap());
    assert!(read(&[SHOP], &gone).unwrap_err().starts_with("--service wed.shop: no Service `wed.shop`"));
    let mut gone = serves(Some("spiffe://mesh.local/ns/shop/sa/web"));
    gone.ports = vec!["81:8080".parse().unwrap()];
    assert!(read(&[SHOP], &gone).unwrap_err().starts_with("--port 81: the Service `web.shop` in 0.yaml has no port 81"));
}

#[test]
fn an_svid_of_another_service_is_refused() {
    let inbound = read(&[SHOP], &serves(Some("spiffe://any.example/ns/shop/sa/web"))).unwrap().snapshot.inbound.unwrap();
    assert_eq!((inbound.identity.to_string().as_str(), inbound.ports[0].app_port), ("spiffe://any.example/ns/shop/sa/web", 8080));
    let refused = read(&[SHOP], &serves(Some("spiffe://mesh.local/ns/shop/sa/cart"))).unwrap_err();
    assert!(
        refused.starts_with("the SVID in /id/svid.pem is of spiffe://mesh.local/ns/shop/sa/cart, which is none of web.shop"),
        "{refused}"
    );
    assert!(refused.contains("add `accounts: [cart]` to the Service"), "{refused}");
    let refused = read(&[SHOP], &serves(Some("spiffe://mesh.local/ns/elsewhere/sa/web"))).unwrap_err();
    assert!(refused.ends_with("hint: use the identity of spiffe://mesh.local/ns/shop/sa/web"), "{refused}");
    // A service whose accounts are written down takes those and no other.
    let accounts = SHOP.replacen("appProtocol: http}]}", "appProtocol: http}], accounts: [cart]}", 1);
    read(&[&accounts], &serves(Some("spiffe://mesh.local/ns/shop/sa/cart"))).unwrap();
}

#[test]
fn callers_without_proof_are_let_in_only_by_a_policy() {
    let refused = read(&[SHOP], &serves(None)).unwrap_err();
    assert!(refused.starts_with("web.shop takes mutual TLS only, and there is no --identity\nhint: give --identity DIR"), "{refused}");
    let permissive = format!(
        "{SHOP}---\napiVersion: lorica.io/v1alpha1\nkind: AuthenticationPolicy\nmetadata: {{name: open, namespace: shop}}\nspec: {{mtls: {{mode: Permissive}}}}\n"
    );
    let inbound = read(&[&permissive], &serves(None)).unwrap().snapshot.inbound.unwrap();
    assert_eq!(inbound.ports[0].mtls, MtlsMode::Permissive);
}

#[test]
fn the_own_workload_is_no_endpoint() {
    let mut asked = serves(Some("spiffe://mesh.local/ns/shop/sa/web"));
    asked.upstreams = vec!["web.shop.mesh:80".parse().unwrap()];
    let snapshot = read(&[SHOP], &asked).unwrap().snapshot;
    assert_eq!(snapshot.endpoints[&"web.shop.mesh:80".parse().unwrap()].endpoints.len(), 1);
}

//! TrustBundles, and workloads of other meshes.
#![allow(clippy::unwrap_used)]

use super::*;

const ROOT: &str = r#"{"keys": [{"kty": "EC", "use": "x509-svid", "x5c": ["AQID"]}], "spiffe_sequence": 7}"#;

fn bundle(name: &str, spec: &str) -> String {
    format!("---\napiVersion: lorica.io/v1alpha1\nkind: TrustBundle\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

fn wrong(text: &str) -> String {
    super::super::read("x.yaml", text).unwrap_err().iter().map(|found| found.render(text, false)).collect()
}

fn of(text: &str) -> TrustBundle {
    let resource = super::super::read("x.yaml", text).unwrap().remove(0).resource;
    let Spec::TrustBundle(bundle) = resource.spec else { panic!("no TrustBundle") };
    bundle
}

#[test]
fn a_bundle_is_written_or_fetched_or_both() {
    let as_yaml = of(&bundle("bank", &format!("{{trustDomain: bank.example, bundle: {ROOT}}}")));
    let as_text = of(&bundle("bank", &format!("{{trustDomain: bank.example, bundle: '{ROOT}'}}")));
    let pem = "-----BEGIN CERTIFICATE-----\\nAQID\\n-----END CERTIFICATE-----\\n";
    let as_pem = of(&bundle("bank", &format!("{{trustDomain: bank.example, roots: \"{pem}\"}}")));
    for (read, sequence) in [(as_yaml, Some(7)), (as_text, Some(7)), (as_pem, None)] {
        let written = read.written.unwrap();
        assert_eq!((written.roots.clone(), written.sequence, read.endpoint), (vec![vec![1, 2, 3]], sequence, None));
    }
    let web = of(&bundle("bank", "{trustDomain: bank.example, endpoint: {url: 'https://bank.example/', profile: Web}}"));
    assert_eq!(web.endpoint.unwrap().profile, EndpointProfile::Web);
    let spiffe = format!(
        "{{trustDomain: bank.example, bundle: {ROOT}, endpoint: {{url: 'https://10.0.0.1:8443/', profile: Spiffe, spiffeId: 'spiffe://bank.example/lorica/control', allowPrivateAddresses: true}}}}"
    );
    let spiffe = of(&bundle("bank", &spiffe)).endpoint.unwrap();
    assert!(spiffe.allow_private);
    assert_eq!(spiffe.profile, EndpointProfile::Spiffe("spiffe://bank.example/lorica/control".parse().unwrap()));
}

#[test]
fn what_could_let_the_wrong_one_in_is_refused() {
    let id = "spiffeId: 'spiffe://bank.example/x'";
    for (spec, why) in [
        ("{trustDomain: bank.example}".to_owned(), "says which roots are trusted, or where they are fetched"),
        (format!("{{trustDomain: Bank, bundle: {ROOT}}}"), "`Bank` is no trust domain"),
        (format!("{{bundle: {ROOT}}}"), "needs `trustDomain`"),
        ("{trustDomain: bank.example, bundle: {keys: []}}".to_owned(), "has no root"),
        ("{trustDomain: bank.example, bundle: [1]}".to_owned(), "is a bundle of SPIFFE, not a list"),
        ("{trustDomain: bank.example, roots: AQID}".to_owned(), "no certificates in PEM"),
        (format!("{{trustDomain: bank.example, bundle: {ROOT}, roots: AQID}}"), "`bundle` says the roots already"),
        (format!("{{trustDomain: bank.example, bundles: {ROOT}}}"), "did you mean `bundle`?"),
        ("{trustDomain: bank.example, endpoint: {url: 'http://bank.example/', profile: Web}}".to_owned(), "no address of https"),
        ("{trustDomain: bank.example, endpoint: {url: 'https://a@bank.example/', profile: Web}}".to_owned(), "no name or password"),
        ("{trustDomain: bank.example, endpoint: {url: 'https://bank.example/'}}".to_owned(), "needs `profile`"),
        ("{trustDomain: bank.example, endpoint: {url: 'https://bank.example/', profile: web}}".to_owned(), "did you mean `Web`?"),
        (
            format!("{{trustDomain: bank.example, endpoint: {{url: 'https://bank.example/', profile: Web, {id}}}}}"),
            "proves its host, no identity",
        ),
        (
            format!("{{trustDomain: bank.example, bundle: {ROOT}, endpoint: {{url: 'https://bank.example/', profile: Spiffe}}}}"),
            "needs `spiffeId`",
        ),
        (
            format!("{{trustDomain: bank.example, endpoint: {{url: 'https://bank.example/', profile: Spiffe, {id}}}}}"),
            "verified by a bundle that is known already",
        ),
        (
            format!("{{trustDomain: other.example, bundle: {ROOT}, endpoint: {{url: 'https://bank.example/', profile: Spiffe, {id}}}}}"),
            "is of another trust domain than the bundle",
        ),
    ] {
        let text = bundle("bank", &spec);
        let told = wrong(&text);
        assert!(told.contains(why), "{spec}: {told}");
    }
}

fn checked(text: &str) -> Vec<String> {
    let documents = super::super::read("x.yaml", text).unwrap();
    let found = check(&documents, &Resources::default(), Options::default(), |_| text.to_owned());
    found.into_iter().map(|found| found.message).collect()
}

#[test]
fn one_bundle_speaks_for_a_trust_domain_and_is_of_the_whole_mesh() {
    let spec = format!("{{trustDomain: bank.example, bundle: {ROOT}}}");
    assert_eq!(checked(&bundle("bank", &spec)), <[String; 0]>::default());
    let two = checked(&(bundle("bank", &spec) + &bundle("other", &spec)));
    assert_eq!(two, ["the TrustBundle `other` is of bank.example already", "the TrustBundle `bank` is of bank.example already"]);
    let elsewhere = bundle("bank", &spec).replace("name: bank", "name: bank, namespace: shop");
    assert_eq!(checked(&elsewhere), ["a TrustBundle is of the whole mesh, and is kept in the namespace `default`"]);
}

#[test]
fn a_workload_of_another_mesh_has_its_identity_and_nothing_in_plaintext() {
    let service = "---\napiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {name: ledger, namespace: shop}\nspec: {ports: [{port: 80}], knownAs: ledger.core}\n";
    let workload = |more: &str| {
        format!(
            "---\napiVersion: lorica.io/v1alpha1\nkind: Workload\nmetadata: {{name: ledger-1, namespace: shop}}\nspec: {{service: ledger, address: 192.0.2.8, ports: [{{servicePort: 80}}], {more}}}\n"
        )
    };
    let foreign = "identity: spiffe://bank.example/ns/core/sa/ledger";
    let bank = bundle("bank", &format!("{{trustDomain: bank.example, bundle: {ROOT}}}"));
    assert_eq!(checked(&(service.to_owned() + &workload(foreign) + &bank)), <[String; 0]>::default());
    let nobody = checked(&(service.to_owned() + &workload(foreign)));
    assert_eq!(nobody, ["there is no TrustBundle of bank.example: nobody could verify this identity"]);
    for (more, why) in [
        (format!("{foreign}, account: ledger"), "an account of this mesh, or an identity of another"),
        (format!("{foreign}, transport: Plaintext"), "in plaintext nobody proves `identity`"),
        ("identity: ledger".to_owned(), "`ledger` is no SPIFFE ID"),
    ] {
        let told = wrong(&workload(&more));
        assert!(told.contains(why), "{told}");
    }
}

//! The parsers of this crate as fuzzers call them: bytes of anybody's in, nothing out. They may refuse, and do nothing else.
//!
//! Compiled for tests, which run them on bytes by chance, and for `fuzz/` (`cargo xtask fuzz`), which runs them for longer.

#![allow(clippy::panic, clippy::expect_used, reason = "a mistake that is found ends the run")]

use crate::cel::Expression;
use crate::claims::Claims;
use crate::compile::{RegisteredPort, RegisteredWorkload, Registry, VirtualAddresses, World, outbound_ports, snapshot, status};
use crate::log_format::LogFormat;
use crate::name::{GatewayName, Label, Namespace, ServicePort, WorkloadName};
use crate::resource::{Document, Kind, Metadata, Options, Resources, Service, ServicePortSpec, Severity, check, read, stored};
use crate::snapshot::{HostPattern, Locality, PathPattern, Pattern, Reading, Snapshot, Transport, without_port};
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::spiffe_bundle::SpiffeBundle;

/// A name, what is run on bytes, and bytes to begin with.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All of this crate.
pub const TARGETS: [Target; 6] = [
    ("resources", resources, samples),
    ("names", names, name_samples),
    ("json", json, json_samples),
    ("cel", cel, cel_samples),
    ("log_format", log_format, log_format_samples),
    ("spiffe_bundle", spiffe_bundle, spiffe_bundle_samples),
];

/// What users write, as YAML or JSON: read, checked, and compiled to what proxies run where nothing is wrong with it.
pub fn resources(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match read("fuzz.yaml", text) {
        Ok(documents) => drop(compiled(&documents, text)),
        Err(found) => found.iter().for_each(|found| drop(found.render(text, false))),
    }
}

/// What a proxy runs that calls all services, stands beside the first workload and runs the first gateway; none where something is wrong.
#[must_use]
pub fn compiled(documents: &[Document], text: &str) -> Option<Snapshot> {
    let found = check(documents, &Resources::default(), Options { allow_missing: true }, |_| text.to_owned());
    found.iter().for_each(|found| drop(found.render(text, false)));
    if found.iter().any(|found| found.severity == Severity::Error) {
        return None;
    }
    let mut written = Resources::default();
    for document in documents {
        // What is stored is read again after a restart.
        assert!(stored(&document.resource.document).is_ok(), "what was taken cannot be read again: {}", document.resource.document);
        written.insert(document.resource.clone());
    }
    let trust_domain = TrustDomain::default();
    let mut registry = Registry::without_addresses(&written);
    registry.workloads.extend(written.services().next().and_then(beside));
    let world = World { resources: &written, registry: &registry, trust_domain: &trust_domain };
    written.iter().for_each(|resource| drop(status(&world, resource)));
    let ports: Vec<ServicePort> = outbound_ports(&world).collect();
    let workload = registry.workloads.keys().next();
    let gateway = written
        .of_kind(Kind::Gateway)
        .next()
        .map(|gateway| GatewayName::new(gateway.metadata.namespace.clone(), gateway.metadata.name.clone()));
    Some(snapshot(&world, &Namespace::default(), &ports, workload, gateway.as_ref()))
}

/// A workload beside a service's app.
fn beside((metadata, service): (&Metadata, &Service)) -> Option<(WorkloadName, RegisteredWorkload)> {
    let label = metadata.name.label()?;
    let port = |port: &ServicePortSpec| RegisteredPort {
        service_port: port.port,
        app_port: port.port,
        protocol: port.protocol,
        address: ([10, 0, 0, 1], port.port).into(),
        listening: true,
    };
    let workload = RegisteredWorkload {
        service: metadata.service(),
        account: label.clone(),
        version: None,
        weight: 1,
        transport: Transport::Lorica,
        locality: Locality::default(),
        addresses: VirtualAddresses::NONE,
        ports: service.ports.iter().map(port).collect(),
        gateway: None,
        draining: false,
        withdrawn: false,
    };
    Some((WorkloadName::new(metadata.namespace.clone(), label), workload))
}

/// Names, identities and patterns as peers and users say them.
pub fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // What was read is written as it was, so that it means the same to the next reader.
    if let Ok(id) = text.parse::<SpiffeId>() {
        assert_eq!(id.to_string(), text);
        drop(id.account().map(|(namespace, account)| (Namespace::new(namespace), account.parse::<Label>())));
    }
    if let Ok(port) = text.parse::<ServicePort>() {
        assert_eq!(port.to_string().parse(), Ok(port));
    }
    drop(text.parse::<TrustDomain>().map(|domain| domain.uri()));
    drop(text.parse::<WorkloadName>().map(|name| name.to_string()));
    drop(text.parse::<GatewayName>().map(|name| name.account()));
    drop(text.parse::<Locality>());
    let host = without_port(text);
    assert!(text.starts_with(host) && HostPattern::of("*").takes(host));
    let (pattern, path) = text.split_once('\n').unwrap_or((text, text));
    let reading = Reading::of(path);
    if let (Ok(pattern), Reading::Plain) = (pattern.parse::<PathPattern>(), &reading) {
        assert!(!pattern.takes(path, false) || pattern.takes(path, true), "{pattern} takes {path:?} strictly and not loosely");
    }
    if pattern.len() < 64 {
        drop(Pattern::new(pattern).map(|pattern| pattern.matches(path)));
    }
}

/// JSON that people sign, and what claims say.
pub fn json(bytes: &[u8]) {
    if let Ok(claims) = Claims::read(bytes) {
        for path in ["sub", "realm_access.roles", "a.b.c", ""] {
            drop((claims.get(path), claims.texts(path), claims.text(path)));
        }
    }
}

/// A condition.
pub fn cel(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Expression::parse(text) {
        Ok(expression) => {
            let again = Expression::parse(expression.as_str());
            assert!(again.is_ok_and(|again| again.tree() == expression.tree()), "{text} reads otherwise the second time");
        }
        Err(wrong) => wrong.iter().for_each(|wrong| {
            assert!(text.get(wrong.range.clone()).is_some(), "{wrong} is said of no part of {text:?}");
        }),
    }
}

/// Formats of access logs.
pub fn log_format(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match LogFormat::parse(text) {
        Ok(format) => {
            assert!(LogFormat::parse(format.as_str()).is_ok_and(|again| again.parts() == format.parts()), "{text} reads otherwise")
        }
        Err(wrong) => wrong.iter().for_each(|wrong| {
            assert!(text.get(wrong.range.clone()).is_some(), "{wrong} is said of no part of {text:?}");
        }),
    }
}

fn log_format_samples() -> Vec<Vec<u8>> {
    ["[%START_TIME(%s.%3f)%] %REQ(X-A?:PATH):7% %% %CEL(response.code == 200)%\n", "%RESP(a)%%TRAILER(b)%é", "%ENVIRONMENT(A):1%%%"]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}

/// What another mesh says of its roots and keys.
pub fn spiffe_bundle(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    drop(SpiffeBundle::read(text).map(|bundle| bundle.token_keys()));
    drop(SpiffeBundle::of_pem(text));
}

/// Resources of most kinds.
pub const SAMPLE: &str = include_str!("fuzzing/sample.yaml");

fn samples() -> Vec<Vec<u8>> {
    let mut samples: Vec<Vec<u8>> = SAMPLE.split("---\n").map(Into::into).collect();
    samples.push(SAMPLE.into());
    samples
}

fn name_samples() -> Vec<Vec<u8>> {
    let texts = [
        "spiffe://mesh.local/ns/shop/sa/web",
        "web.shop.mesh:80",
        "web-1.shop",
        "eu/west/a",
        "*.shop.example:443",
        "/items/{id}/*\n/items/7//x;y/%61",
    ];
    texts.map(Into::into).into()
}

fn json_samples() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"iss":"https://login.example","sub":"ada","exp":4102444800,"realm_access":{"roles":["a","b"]}}"#,
        r#"{"a":{"b":{"c":[1,-2.5e3,null,true]}}}"#,
    ];
    texts.map(Into::into).into()
}

fn cel_samples() -> Vec<Vec<u8>> {
    let texts = [
        "request.time.getHours('+01:00') >= 8 && !(request.url_path == '/users/' + claims.sub) || 'a' in claims.groups",
        "claims.groups.exists(group, group.startsWith('x')) ? size(request.headers['x-a']) > 3 : request.method.matches('G.T')",
        "duration('1h') < timestamp('2026-01-01T00:00:00Z') - request.time && 0x1f != -7 && b'\\xff' != b'' && [1, 2.5e3][0] == 1",
    ];
    texts.map(Into::into).into()
}

fn spiffe_bundle_samples() -> Vec<Vec<u8>> {
    let keys = r#"{"keys":[{"use":"x509-svid","kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","x5c":["MAA="]},{"use":"jwt-svid","kid":"a","kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}],"spiffe_sequence":1,"spiffe_refresh_hint":300}"#;
    vec![keys.into(), "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n".into()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_break_a_parser(noise in prop::collection::vec(any::<u8>(), 0..200), which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>()) {
            for (_, run, samples) in TARGETS {
                run(&noise);
                let mut bytes = which.get(&samples()).clone();
                let at = at.index(bytes.len());
                let end = (at + noise.len() % 9).min(bytes.len());
                bytes.splice(at..end, noise.iter().copied().take(8));
                run(&bytes);
            }
        }
    }

    #[test]
    fn the_sample_is_taken_whole() {
        let documents = read("sample.yaml", SAMPLE).unwrap_or_else(|found| panic!("{found:#?}"));
        let snapshot = compiled(&documents, SAMPLE).expect("nothing is wrong with it");
        assert!(!snapshot.outbound.is_empty() && snapshot.inbound.is_some() && !snapshot.gateway.is_empty());
    }
}

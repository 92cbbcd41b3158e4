//! Who may depend on whom: the layers of ARCHITECTURE.md, and fences around crates that belong to one place. In flow manifests; out flow
//! breaches. What only tests use is free, but for the contact centre, which is to know nothing of the mesh at all.

use std::path::Path;

use crate::check::Breach;
use crate::metadata::{Dependency, Metadata, Package};

/// A crate of the workspace and those of the workspace that it may use. The lowest layer comes first.
const LAYERS: [(&str, &[&str]); 9] = [
    ("lorica-model", &[]),
    ("lorica-xds", &["lorica-model"]),
    ("lorica-identity", &["lorica-model"]),
    ("lorica-capture", &["lorica-model"]),
    ("lorica-api", &["lorica-model"]),
    ("lorica-observe", &["lorica-model"]),
    ("lorica-proxy", &["lorica-model", "lorica-xds", "lorica-identity", "lorica-capture", "lorica-observe"]),
    ("lorica-control", &["lorica-model", "lorica-xds", "lorica-identity", "lorica-api", "lorica-observe"]),
    ("lorica-cli", &["lorica-model", "lorica-api", "lorica-observe", "lorica-capture"]),
];

/// Crates of the workspace that stand beside the layers. `None`: they may use every crate.
const BESIDE: [(&str, Option<&[&str]>); 5] = [
    ("lorica", None),
    ("lorica-bench", Some(&["lorica-model", "lorica-observe"])),
    ("contact-centre", Some(&[])),
    ("testbed", None),
    ("xtask", Some(&[])),
];

/// Nobody but tests depends on these.
const TOPS: [&str; 4] = ["lorica", "lorica-bench", "testbed", "xtask"];

/// A crate of others, and who alone may name it in a manifest.
const FENCES: [(&str, &[&str], &str); 10] = [
    ("rustls", &["lorica-bench", "lorica-identity"], "TLS configurations are made in one place"),
    ("tokio-rustls", &["lorica-bench", "lorica-control", "lorica-identity", "lorica-proxy"], "TLS configurations are made in one place"),
    ("rcgen", &["lorica-bench", "lorica-identity"], "certificates are made in one place"),
    ("aws-lc-rs", &["lorica-identity"], "keys are handled in one place"),
    ("clap", &["lorica-bench", "lorica-cli", "lorica"], "the command line is read in one place"),
    ("redb", &["lorica-control"], "the store is behind one trait"),
    ("axum", &["lorica-control", "contact-centre"], "handlers of the REST API are in one place"),
    ("envoy-types", &["lorica-xds"], "xDS is an encoding, known in one place"),
    ("quinn", &["lorica-proxy"], "HTTP/3 is spoken in one place"),
    ("hickory-proto", &["lorica-proxy"], "DNS is answered in one place"),
];

pub(crate) fn breaches(metadata: &Metadata) -> Vec<Breach> {
    let ours: Vec<&Package> = metadata.packages.iter().filter(|package| package.ours).collect();
    let names: Vec<&str> = ours.iter().map(|package| package.name.as_str()).collect();
    ours.iter().flat_map(|package| of_package(package, metadata.relative(&package.manifest), &names)).collect()
}

fn of_package(package: &Package, manifest: &Path, ours: &[&str]) -> Vec<Breach> {
    let name = package.name.as_str();
    let layer = LAYERS.iter().find(|(known, _)| *known == name).map(|(_, allowed)| Some(*allowed));
    let Some(allowed) = layer.or_else(|| BESIDE.iter().find(|(known, _)| *known == name).map(|(_, allowed)| *allowed)) else {
        return vec![Breach::new(
            manifest,
            format!("`{name}` has no place in the layers"),
            "put it into ARCHITECTURE.md's picture, and into the table in xtask/src/check/dependencies.rs",
        )];
    };
    let mut breaches: Vec<Breach> =
        package.dependencies.iter().filter_map(|dependency| edge(name, allowed, dependency, manifest, ours)).collect();
    // A crate may be named several times, once a platform.
    breaches.dedup();
    breaches
}

fn edge(
    name: &str,
    allowed: Option<&[&str]>,
    Dependency { name: other, for_tests }: &Dependency,
    manifest: &Path,
    ours: &[&str],
) -> Option<Breach> {
    let other = other.as_str();
    if ours.contains(&other) {
        let permitted = allowed.is_none_or(|allowed| allowed.contains(&other)) && (!TOPS.contains(&other) || name == "testbed");
        if permitted || (*for_tests && name != "contact-centre") {
            return None;
        }
        let may = match allowed {
            None => "every crate but programs of developers".to_owned(),
            Some([]) => "no crate of this workspace".to_owned(),
            Some(allowed) => allowed.join(", "),
        };
        let hint = format!("move what is shared to a layer below both (ARCHITECTURE.md); `{name}` may use {may}");
        return Some(Breach::new(manifest, format!("`{name}` depends on `{other}`"), hint));
    }
    let (_, within, why) = FENCES.iter().find(|(fenced, _, _)| *fenced == other)?;
    if *for_tests || name == "testbed" || within.contains(&name) {
        return None;
    }
    let hint = format!("{why}: use what {} offers, or add what is missing there", within.join(" or "));
    Some(Breach::new(manifest, format!("`{name}` depends on `{other}`"), hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[(&str, bool)]) -> Package {
        let dependency = |(name, for_tests): &(&str, bool)| Dependency { name: (*name).to_owned(), for_tests: *for_tests };
        Package {
            name: name.to_owned(),
            version: "0.1.0".to_owned(),
            license: None,
            manifest: format!("/w/{name}/Cargo.toml").into(),
            ours: true,
            dependencies: dependencies.iter().map(dependency).collect(),
        }
    }

    #[track_caller]
    fn check(name: &str, other: &str, for_tests: bool, allowed: bool) {
        let ours: Vec<&str> = LAYERS.iter().map(|(name, _)| *name).chain(BESIDE.iter().map(|(name, _)| *name)).collect();
        let breaches = of_package(&package(name, &[(other, for_tests)]), Path::new("Cargo.toml"), &ours);
        assert_eq!(breaches.is_empty(), allowed, "{breaches:?}");
    }

    #[test]
    fn crates_depend_on_layers_below_their_own() {
        check("lorica-proxy", "lorica-xds", false, true);
        check("lorica", "lorica-proxy", false, true);
        check("lorica", "contact-centre", false, true);
        check("lorica-model", "lorica-xds", false, false);
        check("lorica-xds", "lorica-identity", false, false);
        check("lorica-cli", "lorica-control", false, false);
        check("lorica-control", "lorica-capture", false, false);
        check("lorica", "testbed", false, false);
        check("lorica-proxy", "testbed", true, true);
        check("contact-centre", "lorica-model", true, false);
        check("testbed", "lorica-capture", false, true);
    }

    #[test]
    fn crates_of_others_stay_behind_their_fences() {
        check("lorica-identity", "rustls", false, true);
        check("lorica-proxy", "tokio-rustls", false, true);
        check("lorica-proxy", "rcgen", false, false);
        check("lorica-proxy", "rcgen", true, true);
        check("lorica-control", "clap", false, false);
        check("contact-centre", "axum", false, true);
        check("lorica-cli", "redb", false, false);
        check("testbed", "rcgen", false, true);
        check("lorica-cli", "serde", false, true);
    }

    #[test]
    fn a_new_crate_needs_a_place() {
        let breaches = of_package(&package("lorica-new", &[]), Path::new("crates/new/Cargo.toml"), &[]);
        assert_eq!(breaches.len(), 1);
        assert!(breaches.iter().all(|breach| breach.to_string().contains("ARCHITECTURE.md")), "{breaches:?}");
    }

    #[test]
    fn each_layer_uses_only_what_comes_before_it() {
        for (place, (name, allowed)) in LAYERS.iter().enumerate() {
            for other in *allowed {
                assert!(LAYERS.iter().take(place).any(|(before, _)| before == other), "{name} → {other}");
            }
        }
    }
}

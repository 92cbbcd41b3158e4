//! The targets of all crates for libFuzzer. A target is named once in its crate's `fuzzing.rs` and has a file of its name here, as cargo-fuzz
//! wants it.

use std::path::Path;

pub use libfuzzer_sys;

/// A name, what is run on bytes, and bytes to begin with.
type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// The variable that names the directory into which a target writes what it begins with.
const SEEDS: &str = "LORICA_FUZZ_SEEDS";

fn all() -> impl Iterator<Item = Target> {
    let (model, xds) = (lorica_model::fuzzing::TARGETS, lorica_xds::fuzzing::TARGETS);
    let (identity, api) = (lorica_identity::fuzzing::TARGETS, lorica_api::fuzzing::TARGETS);
    let observe = lorica_observe::fuzzing::TARGETS;
    model.into_iter().chain(xds).chain(identity).chain(api).chain(observe).chain(lorica_proxy::fuzzing::TARGETS.iter().copied())
}

/// What is run for `name`. Its samples are written first, where somebody asked for them.
#[must_use]
pub fn target(name: &str) -> fn(&[u8]) {
    let found = all().find(|(known, ..)| *known == name);
    let (_, run, samples) = found.unwrap_or_else(|| panic!("no crate has a target `{name}`"));
    if let Some(directory) = std::env::var_os(SEEDS) {
        let directory = Path::new(&directory);
        for (number, sample) in samples().iter().enumerate() {
            let path = directory.join(format!("sample-{number}"));
            std::fs::write(&path, sample).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
    run
}

/// The target of a file.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        static RUN: std::sync::OnceLock<fn(&[u8])> = std::sync::OnceLock::new();
        $crate::libfuzzer_sys::fuzz_target!(
            init: {
                RUN.get_or_init(|| $crate::target($name));
            },
            |bytes: &[u8]| RUN.get_or_init(|| $crate::target($name))(bytes)
        );
    };
}

//! `NO_PROXY` for an app whose environment names an HTTP proxy: calls into the mesh must not go
//! through it. In: the app's environment and the names the mesh answers for. Out: the variables to
//! set and a line for the user. Nothing is set here.

use std::ffi::{OsStr, OsString};

/// Linux takes 128 KiB for one variable; names beyond a quarter of that are left to the suffix.
const NAMES_BYTES: usize = 32 * 1024;
const ALWAYS: [&str; 2] = [".mesh", "240.0.0.0/12"];

/// What to set and what to tell the user, if the environment names an HTTP proxy.
pub(crate) fn no_proxy(variable: impl Fn(&str) -> Option<OsString>, known_names: &[String]) -> Option<(Vec<(OsString, OsString)>, String)> {
    let set = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
        .into_iter()
        .find(|name| variable(name).is_some_and(|value| !value.is_empty()))?;
    // Programs read one of the two spellings, so both get what either has.
    let mut entries: Vec<OsString> = Vec::new();
    for name in ["NO_PROXY", "no_proxy"] {
        let value = variable(name).unwrap_or_default();
        let parts = value.as_encoded_bytes().split(|&byte| byte == b',');
        for part in parts.map(<[u8]>::trim_ascii).filter(|part| !part.is_empty()) {
            let part = std::os::unix::ffi::OsStrExt::from_bytes(part);
            add(&mut entries, part);
        }
    }
    for entry in ALWAYS {
        add(&mut entries, OsStr::new(entry));
    }
    let mut bytes = 0;
    let mut left_out = 0;
    for name in known_names {
        bytes += name.len() + 1;
        if bytes > NAMES_BYTES {
            left_out += 1;
        } else {
            add(&mut entries, OsStr::new(name));
        }
    }
    let value = entries.join(OsStr::new(","));
    let mut line = format!(
        "{set} is set: NO_PROXY gets .mesh, 240.0.0.0/12 and the mesh's names, so that calls into \
         the mesh do not go through that proxy"
    );
    if left_out > 0 {
        line.push_str(&format!("; {left_out} names did not fit: call those services by NAME.NAMESPACE.mesh"));
    }
    let both = ["NO_PROXY", "no_proxy"].map(|name| (OsString::from(name), value.clone()));
    Some((both.to_vec(), line))
}

fn add(entries: &mut Vec<OsString>, entry: &OsStr) {
    if !entries.iter().any(|known| known == entry) {
        entries.push(entry.to_owned());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(environment: &[(&str, &str)], names: &[&str]) -> Option<String> {
        let variable = |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let (set, line) = no_proxy(variable, &names)?;
        assert_eq!(set[0].1, set[1].1);
        assert!(line.contains("_PROXY is set") || line.contains("_proxy is set"), "{line}");
        Some(set[0].1.to_str().unwrap().to_owned())
    }

    #[test]
    fn no_proxy_gets_the_mesh_if_a_proxy_is_set() {
        assert_eq!(check(&[("NO_PROXY", "a")], &[]), None);
        assert_eq!(check(&[("HTTP_PROXY", "")], &[]), None);
        assert_eq!(check(&[("http_proxy", "p")], &["b"]).unwrap(), ".mesh,240.0.0.0/12,b");
        assert_eq!(
            check(&[("HTTPS_PROXY", "p"), ("NO_PROXY", "localhost, .corp"), ("no_proxy", ".corp,x")], &["recording", ".mesh"]).unwrap(),
            "localhost,.corp,x,.mesh,240.0.0.0/12,recording"
        );
    }

    #[test]
    fn names_beyond_what_fits_are_counted() {
        let names: Vec<_> = (0..5000).map(|n| format!("service-{n}")).collect();
        let (set, line) = no_proxy(|name| (name == "HTTP_PROXY").then(|| "p".into()), &names).unwrap();
        assert!(set[0].1.len() < 40_000);
        assert!(line.contains("names did not fit"), "{line}");
    }
}

//! Which processes may have which identity: what is read, and what is refused.

use super::*;
use crate::name::Label;
use crate::process::ProcessAttributes;

fn identity(spec: &str) -> String {
    format!("apiVersion: lorica.io/v1alpha1\nkind: WorkloadIdentity\nmetadata: {{name: recording, namespace: contact}}\nspec: {{{spec}}}\n")
}

#[test]
fn an_identity_is_read_with_all_its_attributes() {
    let hash = "AB".repeat(32);
    let text = identity(&format!(
        "account: recording, host: web-1, attributes: {{uid: 1000, gid: 0, cgroup: /system.slice/, executable: /usr/bin/recording, sha256: {hash}}}"
    ));
    let Spec::WorkloadIdentity(read) = taken(&text).remove(0).spec else { panic!() };
    assert_eq!((read.account.as_str(), read.host.as_ref().map(Label::as_str)), ("recording", Some("web-1")));
    let attributes = ProcessAttributes {
        uid: Some(1000),
        gid: Some(0),
        cgroup: Some("/system.slice/".to_owned()),
        executable: Some("/usr/bin/recording".to_owned()),
        sha256: Some(hash.to_lowercase()),
    };
    assert_eq!(read.attributes, attributes);
}

#[test]
fn what_would_fit_every_process_or_none_is_refused() {
    for (spec, message) in [
        ("account: a", "without an attribute, every process of the host would have this identity"),
        ("account: a, attributes: {}", "without an attribute, every process of the host would have this identity"),
        ("attributes: {uid: 1}", "a WorkloadIdentity's `spec` needs `account`"),
        ("account: a, attributes: {uid: 4294967295}", "`uid` is from 0 to 4294967294, not 4294967295"),
        ("account: a, attributes: {sha256: abc}", "`abc` is no SHA-256"),
        ("account: a, attributes: {cgroup: /}", "`cgroup` is `/`, which is no path that the kernel would tell"),
        ("account: a, attributes: {executable: bin/a}", "`executable` is `bin/a`, which is no path that the kernel would tell"),
        ("account: a, attributes: {executable: /usr/../a}", "`executable` is `/usr/../a`, which is no path that the kernel would tell"),
        ("account: a, attributes: {user: 1}", "`attributes` has no field `user`"),
        ("account: a, host: A_b, attributes: {uid: 1}", "`A_b`"),
    ] {
        let found = found(&identity(spec), Options::default());
        assert!(found.iter().any(|found| found.message.contains(message)), "{spec}: {found:?}");
    }
}

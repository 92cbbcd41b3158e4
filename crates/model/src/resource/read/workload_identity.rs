//! Which processes of a host may have which identity, from its document.

use crate::process::ProcessAttributes;
use crate::resource::kinds::WorkloadIdentity;
use crate::resource::reader::Reader;
use crate::resource::tree::Node;

/// The highest uid or gid: one more means "none" to the kernel.
const HIGHEST_ID: i64 = 0xffff_fffe;
/// The most bytes of a path, as in Linux.
const LONGEST_PATH: usize = 4096;

pub(super) fn identity(node: Node, reader: &mut Reader<'_>) -> Option<WorkloadIdentity> {
    let mut object = reader.object(node, "a WorkloadIdentity's `spec`")?;
    let span = object.span.clone();
    let (account, host, attributes) = (object.need("account", reader), object.take("host"), object.take("attributes"));
    reader.end(object);
    let account = account.and_then(|node| reader.parsed(&node, "`account`"));
    let host = match host {
        Some(node) => Some(reader.parsed(&node, "`host`")?),
        None => None,
    };
    let attributes = match attributes {
        Some(node) => self::attributes(node, reader)?,
        None => ProcessAttributes::default(),
    };
    if attributes == ProcessAttributes::default() {
        let hint = "name what only its processes have, as `attributes: {uid: 1000, executable: /usr/bin/recording}`";
        reader.wrong_with(&span, "without an attribute, every process of the host would have this identity", hint);
        return None;
    }
    Some(WorkloadIdentity { account: account?, host, attributes })
}

fn attributes(node: Node, reader: &mut Reader<'_>) -> Option<ProcessAttributes> {
    let mut object = reader.object(node, "`attributes`")?;
    let (uid, gid, cgroup) = (object.take("uid"), object.take("gid"), object.take("cgroup"));
    let (executable, sha256) = (object.take("executable"), object.take("sha256"));
    reader.end(object);
    let id = |node: Option<Node>, what, reader: &mut Reader<'_>| match node {
        Some(node) => Some(Some(u32::try_from(reader.number(&node, what, 0..=HIGHEST_ID)?).ok()?)),
        None => Some(None),
    };
    let (uid, gid) = (id(uid, "`uid`", reader), id(gid, "`gid`", reader));
    let (cgroup, executable) = (path(cgroup, "`cgroup`", reader), path(executable, "`executable`", reader));
    let sha256 = match sha256 {
        Some(node) => {
            let text = reader.text(&node, "`sha256`")?.to_ascii_lowercase();
            if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                let hint = "write the 64 hexadecimal digits that `sha256sum FILE` prints";
                reader.wrong_with(&node.span, format!("`{text}` is no SHA-256"), hint);
                return None;
            }
            Some(text)
        }
        None => None,
    };
    Some(ProcessAttributes { uid: uid?, gid: gid?, cgroup: cgroup?, executable: executable?, sha256 })
}

/// A path from the root, as the kernel would write it: nothing to resolve in it.
fn path(node: Option<Node>, what: &'static str, reader: &mut Reader<'_>) -> Option<Option<String>> {
    let Some(node) = node else { return Some(None) };
    let text = reader.text(&node, what)?;
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    let inner = text.strip_prefix('/').map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    if text.len() > LONGEST_PATH || !inner.is_some_and(|rest| rest.split('/').all(plain)) {
        let hint = "write it from the root, as /usr/bin/recording: without links, `.`, `..` or `//`, which the kernel resolves";
        reader.wrong_with(&node.span, format!("{what} is `{text}`, which is no path that the kernel would tell"), hint);
        return None;
    }
    Some(Some(text))
}

//! Leaves the host's user, mount and network namespaces for new ones. What they then contain is
//! `interior`'s. The process must have one thread; it comes back not dumpable.

use std::fs;

use rustix::{
    mount::MountPropagationFlags,
    process::DumpableBehavior,
    thread::{CapabilitySet, UnshareFlags},
};

use crate::{
    kernel,
    missing::{Missing, Step},
};

/// Whose capabilities the namespaces are built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Authority {
    /// Those of a user namespace in which only the own user and group are mapped.
    OwnUserNamespace,
    /// The process's own: run by root.
    Root,
}

/// Enters new namespaces.
pub(crate) fn enter() -> Result<Authority, Missing> {
    let authority = authority();
    if authority == Authority::OwnUserNamespace {
        let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
        kernel::unshare(UnshareFlags::NEWUSER).map_err(|errno| Missing::at(Step::UserNamespace, "", errno))?;
        // Files under /proc/self are ours only while the process is dumpable, so the maps come
        // first. Groups must be given up before a group may be mapped without privilege.
        let write = |file: &str, text: String| {
            fs::write(file, &text).map_err(|error| Missing::from_io(Step::MapUser, format!("write `{text}` to {file}"), &error))
        };
        write("/proc/self/setgroups", "deny".to_owned())?;
        write("/proc/self/uid_map", format!("{0} {0} 1", user.as_raw()))?;
        write("/proc/self/gid_map", format!("{0} {0} 1", group.as_raw()))?;
    }
    kernel::unshare(UnshareFlags::NEWNS | UnshareFlags::NEWNET).map_err(|errno| Missing::at(Step::Namespaces, "", errno))?;
    // What the host mounts later still appears inside; what is mounted inside stays inside.
    rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(|errno| Missing::at(Step::PrivateMounts, "", errno))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|errno| Missing::at(Step::Namespaces, "become not dumpable", errno))?;
    Ok(authority)
}

/// Root has what it takes without a user namespace, unless a container took it away.
fn authority() -> Authority {
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN;
    let effective = rustix::thread::capabilities(None).map(|sets| sets.effective);
    if rustix::process::geteuid().is_root() && effective.is_ok_and(|effective| effective.contains(needed)) {
        Authority::Root
    } else {
        Authority::OwnUserNamespace
    }
}

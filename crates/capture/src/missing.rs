//! Why this host does not allow the namespaces: the step that failed, what the kernel answered, the
//! likely cause and the way out. The cause is looked up where the step failed; the text is for the
//! user.

use std::{fmt, io, path::Path};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// What had to be done when the host refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Starting the helper process.
    Helper,
    /// Making a user namespace.
    UserNamespace,
    /// Mapping the own user and group into it.
    MapUser,
    /// Making a mount and a network namespace.
    Namespaces,
    /// Making the mounts private.
    PrivateMounts,
    /// Setting up loopback, addresses and routes.
    Network,
    /// Loading the redirect and reject rules.
    Rules,
    /// Hiding directories from the app.
    Masks,
    /// Opening sockets in the namespace.
    Sockets,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Helper => "start the helper process",
            Self::UserNamespace => "make a user namespace",
            Self::MapUser => "map the user into its namespace",
            Self::Namespaces => "make a mount and a network namespace",
            Self::PrivateMounts => "make the mounts of the namespace private",
            Self::Network => "set up the network of the namespace",
            Self::Rules => "load nf_tables rules in the namespace",
            Self::Masks => "hide Lorica's directories from the app",
            Self::Sockets => "open sockets in the namespace",
        })
    }
}

/// A step that this host does not allow. Its text says what, why as far as can be told, and the
/// way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// The step that failed.
    pub step: Step,
    /// What exactly was asked for, where the step is more than one call; else empty.
    pub detail: String,
    /// The kernel's error number.
    pub errno: i32,
    /// The likely cause.
    pub cause: String,
}

impl std::error::Error for Missing {}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this host does not let the app be captured: cannot {}", self.step)?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        write!(f, ": {}", io::Error::from_raw_os_error(self.errno))?;
        write!(f, "\n  likely cause: {}", self.cause)?;
        write!(
            f,
            "\n  hint: explicit listeners need no privilege: \
             `--upstream NAME:PORT=LOCAL_ADDR` for each service that the app calls"
        )
    }
}

impl Missing {
    /// The step failed with this number; the cause is looked up on the host.
    pub(crate) fn at(step: Step, detail: impl Into<String>, errno: Errno) -> Self {
        let errno = errno.raw_os_error();
        Self { step, detail: detail.into(), errno, cause: likely_cause(step, errno, &Host) }
    }

    pub(crate) fn from_io(step: Step, detail: impl Into<String>, error: &io::Error) -> Self {
        let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
        Self::at(step, detail, errno)
    }
}

/// What the cause depends on.
trait Surroundings {
    /// The content of a file under /proc, without white space around it.
    fn read(&self, path: &str) -> Option<String>;
    fn exists(&self, path: &str) -> bool;
}

struct Host;

impl Surroundings for Host {
    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
    }

    fn exists(&self, path: &str) -> bool {
        Path::new(path).exists()
    }
}

fn likely_cause(step: Step, errno: i32, host: &dyn Surroundings) -> String {
    let is = |path: &str, value: &str| host.read(path).as_deref() == Some(value);
    let denied = errno == libc::EPERM || errno == libc::EACCES;
    let apparmor = is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1");
    if errno == libc::ENOSPC {
        let kinds: &[&str] = match step {
            Step::UserNamespace => &["user"],
            _ => &["net", "mnt"],
        };
        for kind in kinds {
            let file = format!("/proc/sys/user/max_{kind}_namespaces");
            if is(&file, "0") {
                return format!("user.max_{kind}_namespaces is 0: namespaces are switched off");
            }
        }
        return "the limit of namespaces is reached (user.max_*_namespaces), or they are nested 32 deep".to_owned();
    }
    if errno == libc::EMFILE || errno == libc::ENFILE {
        return "too few file descriptors are allowed (`ulimit -n`)".to_owned();
    }
    match step {
        Step::UserNamespace if denied => {
            if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
                "kernel.unprivileged_userns_clone is 0: only root may make user namespaces".to_owned()
            } else if let Some(container) = container(host) {
                format!("this runs in {container}, whose seccomp profile forbids user namespaces")
            } else if seccomp(host) {
                "a seccomp filter on this process forbids user namespaces".to_owned()
            } else if apparmor {
                "AppArmor keeps user namespaces to programs with a profile \
                 (kernel.apparmor_restrict_unprivileged_userns is 1)"
                    .to_owned()
            } else {
                "a security module (SELinux, AppArmor) or a chroot forbids user namespaces".to_owned()
            }
        }
        Step::UserNamespace if errno == libc::EINVAL || errno == libc::ENOSYS => {
            "the kernel was built without user namespaces (CONFIG_USER_NS)".to_owned()
        }
        Step::UserNamespace if errno == libc::EUSERS => "user namespaces are nested too deep".to_owned(),
        Step::Rules if !denied => "the kernel lacks nf_tables, its NAT, redirect or reject parts, or may not load them \
             (modules nf_tables, nft_chain_nat, nft_redir, nft_reject_inet, nft_ct; Linux 5.2 or newer)"
            .to_owned(),
        _ if denied && apparmor => "AppArmor lets the user namespace be made and takes its capabilities \
             (kernel.apparmor_restrict_unprivileged_userns is 1, as Ubuntu sets it)"
            .to_owned(),
        _ if denied => {
            if let Some(container) = container(host) {
                format!("this runs in {container}, which takes the namespace's capabilities")
            } else if seccomp(host) {
                "a seccomp filter on this process forbids it".to_owned()
            } else {
                "a security module (AppArmor, SELinux) takes the namespace's capabilities".to_owned()
            }
        }
        _ => "the kernel does not support it, or a container hides it".to_owned(),
    }
}

fn container(host: &dyn Surroundings) -> Option<&'static str> {
    if host.exists("/.dockerenv") {
        Some("a Docker container")
    } else if host.exists("/run/.containerenv") {
        Some("a Podman container")
    } else if host.exists("/var/run/secrets/kubernetes.io") {
        Some("a Kubernetes pod")
    } else {
        None
    }
}

fn seccomp(host: &dyn Surroundings) -> bool {
    host.read("/proc/self/status")
        .is_some_and(|status| status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|value| value.trim() == "2")))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files(&'static [(&'static str, &'static str)]);

    impl Surroundings for Files {
        fn read(&self, path: &str) -> Option<String> {
            self.0.iter().find(|(known, _)| *known == path).map(|(_, text)| (*text).to_owned())
        }

        fn exists(&self, path: &str) -> bool {
            self.read(path).is_some()
        }
    }

    const APPARMOR: (&str, &str) = ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1");

    #[test]
    fn each_cause_is_told_apart() {
        use Step::{Namespaces, Rules, UserNamespace};
        for (step, errno, files, expected) in [
            (UserNamespace, libc::ENOSPC, &[("/proc/sys/user/max_user_namespaces", "0")][..], "user.max_user_namespaces is 0"),
            (UserNamespace, libc::ENOSPC, &[], "limit of namespaces"),
            (UserNamespace, libc::EPERM, &[("/proc/sys/kernel/unprivileged_userns_clone", "0")], "unprivileged_userns_clone is 0"),
            (UserNamespace, libc::EPERM, &[("/.dockerenv", "")], "a Docker container"),
            (UserNamespace, libc::EPERM, &[("/proc/self/status", "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1")], "a seccomp filter"),
            (UserNamespace, libc::EINVAL, &[], "CONFIG_USER_NS"),
            (Namespaces, libc::EPERM, &[APPARMOR], "as Ubuntu sets it"),
            (Rules, libc::EOPNOTSUPP, &[APPARMOR], "lacks nf_tables"),
            (Rules, libc::EPERM, &[APPARMOR], "as Ubuntu sets it"),
        ] {
            let cause = likely_cause(step, errno, &Files(files));
            assert!(cause.contains(expected), "{step:?} {errno}: {cause}");
        }
    }

    #[test]
    fn the_text_names_step_error_cause_and_way_out() {
        let missing = Missing { step: Step::UserNamespace, detail: String::new(), errno: libc::EPERM, cause: "because".to_owned() };
        assert_eq!(
            missing.to_string(),
            "this host does not let the app be captured: cannot make a user namespace: \
             Operation not permitted (os error 1)\n  likely cause: because\n  hint: explicit \
             listeners need no privilege: `--upstream NAME:PORT=LOCAL_ADDR` for each service that \
             the app calls"
        );
    }
}

//! What tells one process of a host from another, and which of them may have an identity: attributes that were read from the kernel go
//! in, a decision comes out. Nothing here reads them, or believes what a process says of itself.

/// A process, as the kernel describes it. What could not be read is `None`, and fits nothing that asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Process {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// The path of its cgroup, from the root of the hierarchy: `/system.slice/recording.service`.
    pub cgroup: Option<String>,
    /// The path of its executable, where the host has that very file at this path.
    pub executable: Option<String>,
    /// The SHA-256 of its executable, in lower case hexadecimal.
    pub sha256: Option<String>,
}

/// What a process must be. Every attribute that is given must fit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProcessAttributes {
    /// Its user.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
    /// Its cgroup, or one above it.
    pub cgroup: Option<String>,
    /// The path of its executable.
    pub executable: Option<String>,
    /// The SHA-256 of its executable, in lower case hexadecimal.
    pub sha256: Option<String>,
}

impl ProcessAttributes {
    /// Whether a process has all of them. Without any, nothing fits.
    #[must_use]
    pub fn fit(&self, process: &Process) -> bool {
        let Self { uid, gid, cgroup, executable, sha256 } = self;
        let same = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        *self != Self::default()
            && uid.is_none_or(|uid| uid == process.uid)
            && gid.is_none_or(|gid| gid == process.gid)
            && cgroup.as_ref().is_none_or(|wanted| process.cgroup.as_ref().is_some_and(|found| within(found, wanted)))
            && same(executable, &process.executable)
            && same(sha256, &process.sha256)
    }

    /// How closely they describe a process: more is closer. What an attacker finds harder to come by counts for more.
    #[must_use]
    pub fn specificity(&self) -> u32 {
        let Self { uid, gid, cgroup, executable, sha256 } = self;
        let given = [sha256.is_some(), executable.is_some(), cgroup.is_some(), uid.is_some(), gid.is_some()];
        given.into_iter().fold(0, |sum, given| (sum << 1) | u32::from(given))
    }
}

/// Whether a cgroup is another one or below it.
fn within(cgroup: &str, above: &str) -> bool {
    let above = above.trim_end_matches('/');
    cgroup.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process() -> Process {
        Process {
            uid: 1000,
            gid: 100,
            cgroup: Some("/system.slice/recording.service".to_owned()),
            executable: Some("/usr/bin/recording".to_owned()),
            sha256: Some("ab".repeat(32)),
        }
    }

    fn cgroup(path: &str) -> ProcessAttributes {
        ProcessAttributes { cgroup: Some(path.to_owned()), ..ProcessAttributes::default() }
    }

    #[test]
    fn every_attribute_must_fit() {
        let wanted = ProcessAttributes { uid: Some(1000), executable: Some("/usr/bin/recording".to_owned()), ..Default::default() };
        assert!(wanted.fit(&process()));
        assert!(!wanted.fit(&Process { uid: 1001, ..process() }));
        assert!(!wanted.fit(&Process { executable: Some("/usr/bin/recorder".to_owned()), ..process() }));
        assert!(!wanted.fit(&Process { executable: None, ..process() }));
        let hash = ProcessAttributes { sha256: Some("cd".repeat(32)), ..wanted };
        assert!(!hash.fit(&process()));
        assert!(!ProcessAttributes { gid: Some(0), ..Default::default() }.fit(&process()));
        assert!(!ProcessAttributes::default().fit(&process()));
    }

    #[test]
    fn a_cgroup_holds_those_below_it() {
        for fitting in ["/system.slice/recording.service", "/system.slice/recording.service/", "/system.slice", "/"] {
            assert!(cgroup(fitting).fit(&process()), "{fitting}");
        }
        for other in ["/system.slice/rec", "/system.slice/recording.service/a", "/user.slice"] {
            assert!(!cgroup(other).fit(&process()), "{other}");
        }
    }

    #[test]
    fn what_is_harder_to_come_by_is_more_specific() {
        let user = ProcessAttributes { uid: Some(1), gid: Some(1), ..Default::default() };
        let hash = ProcessAttributes { sha256: Some(String::new()), ..Default::default() };
        let both = ProcessAttributes { uid: Some(1), ..hash.clone() };
        assert!(cgroup("/a").specificity() > user.specificity());
        assert!(hash.specificity() > cgroup("/a").specificity() && both.specificity() > hash.specificity());
    }
}

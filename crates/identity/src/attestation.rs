//! Who is at the other end of a Unix socket: a socket goes in, what the kernel says of the process comes out. Nothing that the process says
//! of itself is looked at. It opens no socket; it reads `/proc`.
//!
//! A process is named by its pid, which may be another's a moment later. So the process itself is held by a pidfd (that of the socket, where
//! the kernel has `SO_PEERPIDFD`), and it is asked after every look whether that one still lives. A process may also become another program
//! (`execve`) and keep its sockets: what it ran when it connected is remembered, and one that runs something else since is refused.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest;
use lorica_model::process::Process;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::PidfdFlags;

use crate::certificate::hex;

/// The most bytes of an executable that is hashed.
pub const MAX_EXECUTABLE: u64 = 2 * 1024 * 1024 * 1024;
/// The most executables whose hash is remembered.
const REMEMBERED: usize = 256;
/// The most bytes that are read of a file of `/proc`.
const MAX_PROC: u64 = 64 * 1024;

/// Why nothing can be said of a process.
#[derive(Debug, thiserror::Error)]
pub enum AttestationError {
    /// The kernel did not tell.
    #[error("the process {pid} cannot be looked at: {error}")]
    Io {
        /// Its pid.
        pid: i32,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// It is of a namespace that this process does not see, so it has no pid here.
    #[error("the process has no pid in this namespace")]
    Unseen,
    /// It has ended.
    #[error("the process {pid} has ended")]
    Ended {
        /// The pid that it had.
        pid: i32,
    },
    /// It runs another program than it did when it connected.
    #[error("the process {pid} has become another program since it connected")]
    Became {
        /// Its pid.
        pid: i32,
    },
}

/// The process at the other end of a Unix socket.
#[derive(Debug)]
pub struct PeerProcess {
    pid: i32,
    uid: u32,
    gid: u32,
    held: OwnedFd,
    /// What it ran when it connected; `None` where this process may not see that.
    ran: Option<Image>,
}

/// An executable, as the file system tells it from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Image {
    device: u64,
    inode: u64,
    /// With length and times, so that a file written anew is another one.
    length: u64,
    changed: (i64, i64),
}

impl Image {
    fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino(), length: metadata.len(), changed: (metadata.ctime(), metadata.ctime_nsec()) }
    }

    /// Whether it is the same file, whatever it is named meanwhile: nothing else has its number while it runs.
    fn is(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

impl PeerProcess {
    /// The process that connected to `socket`. To be asked as soon as a connection is accepted.
    ///
    /// # Errors
    /// If it has ended, or the system refuses.
    pub fn of(socket: impl AsFd) -> Result<Self, AttestationError> {
        let credentials =
            rustix::net::sockopt::socket_peercred(&socket).map_err(|error| AttestationError::Io { pid: 0, error: error.into() })?;
        let pid = credentials.pid.as_raw_nonzero().get();
        let ended = |error: io::Error| match error.raw_os_error() {
            Some(code) if code == Errno::SRCH.raw_os_error() => AttestationError::Ended { pid },
            _ => AttestationError::Io { pid, error },
        };
        let held = match nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::PeerPidfd) {
            Ok(held) => held,
            // Before Linux 6.5. A pid that was another's by now is noticed only if that one ended before it was looked at.
            Err(nix::errno::Errno::ENOPROTOOPT) => {
                rustix::process::pidfd_open(credentials.pid, PidfdFlags::empty()).map_err(|error| ended(error.into()))?
            }
            Err(error) => return Err(ended(error.into())),
        };
        let mut process = Self { pid, uid: credentials.uid.as_raw(), gid: credentials.gid.as_raw(), held, ran: None };
        process.ran = process.image()?.map(|(_, image)| image);
        process.lives()?;
        Ok(process)
    }

    /// Its pid, for people.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The user that it was when it connected.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// What the kernel says of it now. The hash of its executable is made only if that is `hashed`, and takes a second for each GiB or two, so
    /// this is no call for a runtime's thread.
    ///
    /// # Errors
    /// If it has ended, or has become another program since it connected.
    pub fn look(&self, hashed: bool, hashes: &Hashes) -> Result<Process, AttestationError> {
        let image = self.image()?;
        self.runs_the_same(image.as_ref())?;
        let cgroup = self.cgroup()?;
        let executable = match &image {
            Some((_, image)) => self.executable(*image)?,
            None => None,
        };
        let sha256 = match image {
            Some((file, image)) if hashed => hashes.of(file, image).map_err(|error| AttestationError::Io { pid: self.pid, error })?,
            _ => None,
        };
        // Whatever was read was its own only if nothing of this happened meanwhile.
        self.runs_the_same(self.image()?.as_ref())?;
        self.lives()?;
        Ok(Process { uid: self.uid, gid: self.gid, cgroup, executable, sha256 })
    }

    /// Whether it runs what it ran when it connected.
    fn runs_the_same(&self, found: Option<&(File, Image)>) -> Result<(), AttestationError> {
        match (&self.ran, found) {
            (None, None) => Ok(()),
            (Some(ran), Some((_, found))) if ran.is(found) => Ok(()),
            _ => self.lives().and(Err(AttestationError::Became { pid: self.pid })),
        }
    }

    /// Whether it still lives: then its pid was its own until now.
    fn lives(&self) -> Result<(), AttestationError> {
        let mut polled = [PollFd::new(&self.held, PollFlags::IN)];
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        match rustix::event::poll(&mut polled, Some(&none)) {
            Ok(0) => Ok(()),
            Ok(_) => Err(AttestationError::Ended { pid: self.pid }),
            Err(error) => Err(AttestationError::Io { pid: self.pid, error: error.into() }),
        }
    }

    fn path(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.pid)
    }

    /// What the system says when it does not tell. `None`: it is not for this process to know.
    fn untold<T>(&self, error: io::Error) -> Result<Option<T>, AttestationError> {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Ok(None),
            io::ErrorKind::NotFound => Err(AttestationError::Ended { pid: self.pid }),
            _ if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Err(AttestationError::Ended { pid: self.pid }),
            _ => Err(AttestationError::Io { pid: self.pid, error }),
        }
    }

    /// The very file that it runs, whatever is at its path.
    fn image(&self) -> Result<Option<(File, Image)>, AttestationError> {
        let opened = File::open(self.path("exe")).and_then(|file| {
            let image = Image::of(&file.metadata()?);
            Ok((file, image))
        });
        match opened {
            Ok(opened) => Ok(Some(opened)),
            Err(error) => self.untold(error),
        }
    }

    /// The path of what it runs, if the host has that very file there. In a mount namespace of its own, a process can have any file at any
    /// path.
    fn executable(&self, image: Image) -> Result<Option<String>, AttestationError> {
        let path = match std::fs::read_link(self.path("exe")) {
            Ok(path) => path,
            Err(error) => return self.untold(error),
        };
        let here = std::fs::metadata(&path).is_ok_and(|metadata| Image::of(&metadata).is(&image));
        Ok(path.into_os_string().into_string().ok().filter(|_| here))
    }

    /// Its cgroup: in the unified hierarchy, or where there is none in systemd's.
    fn cgroup(&self) -> Result<Option<String>, AttestationError> {
        let mut text = String::new();
        match File::open(self.path("cgroup")).and_then(|file| file.take(MAX_PROC).read_to_string(&mut text)) {
            Ok(_) => Ok(cgroup_of(&text)),
            // A path of bytes that are no text fits no policy.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
            Err(error) => self.untold(error),
        }
    }
}

fn cgroup_of(text: &str) -> Option<String> {
    let path = |prefix: &str| text.lines().find_map(|line| line.strip_prefix(prefix)).map(str::to_owned);
    let systemd = || text.lines().find_map(|line| line.split_once(":name=systemd:")).map(|(_, path)| path.to_owned());
    path("0::").filter(|path| path != "/").or_else(systemd).or_else(|| path("0::"))
}

/// The hashes of executables that were seen last.
#[derive(Debug, Default)]
pub struct Hashes(Mutex<BTreeMap<Image, String>>);

impl Hashes {
    /// The hash of an executable in lower case hexadecimal; `None` if it is larger than [`MAX_EXECUTABLE`]. What runs cannot be written to,
    /// so a file that is the same has the same hash.
    fn of(&self, file: File, image: Image) -> io::Result<Option<String>> {
        if image.length > MAX_EXECUTABLE {
            return Ok(None);
        }
        if let Some(known) = self.known().get(&image) {
            return Ok(Some(known.clone()));
        }
        let (mut context, mut file, mut buffer) = (digest::Context::new(&digest::SHA256), file.take(MAX_EXECUTABLE), vec![0; 64 * 1024]);
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => context.update(buffer.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let hash = hex(context.finish().as_ref());
        let mut known = self.known();
        if known.len() >= REMEMBERED {
            known.pop_first();
        }
        known.insert(image, hash.clone());
        Ok(Some(hash))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<Image, String>> {
        // Each insertion is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write as _;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::os::unix::process::CommandExt as _;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// What a child does that [`connected`] starts: it connects, waits for a byte, and becomes `sleep`.
    #[test]
    #[ignore = "it is a part of other tests, which run it as a program of its own"]
    fn a_child_connects_and_becomes_another_program() {
        let mut stream = UnixStream::connect(std::env::var_os("SOCKET").unwrap()).unwrap();
        stream.read_exact(&mut [0]).unwrap();
        panic!("{}", Command::new("/bin/sleep").arg("600").exec());
    }

    fn connected() -> (Child, UnixStream) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--ignored", "--exact", "attestation::tests::a_child_connects_and_becomes_another_program"]);
        let child = child.env("SOCKET", &path).stdout(Stdio::null()).spawn().unwrap();
        (child, listener.accept().unwrap().0)
    }

    #[test]
    fn the_kernel_tells_who_connected() {
        let (mine, other) = UnixStream::pair().unwrap();
        let process = PeerProcess::of(&mine).unwrap();
        drop(other);
        let found = process.look(true, &Hashes::default()).unwrap();
        let executable = std::env::current_exe().unwrap();
        let hash = hex(&crate::certificate::sha256(&std::fs::read(&executable).unwrap()));
        assert_eq!((found.uid, found.gid), (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()));
        assert_eq!((found.executable, found.sha256), (executable.to_str().map(str::to_owned), Some(hash)));
        assert_eq!(found.cgroup, cgroup_of(&std::fs::read_to_string("/proc/self/cgroup").unwrap()));
        let unhashed = process.look(false, &Hashes::default()).unwrap();
        assert_eq!(unhashed.sha256, None);
    }

    #[test]
    fn a_process_that_has_ended_is_nobody() {
        let (mut child, stream) = connected();
        let process = PeerProcess::of(&stream).unwrap();
        process.look(false, &Hashes::default()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(process.look(false, &Hashes::default()), Err(AttestationError::Ended { .. })));
        // Its socket is kept open here; who asks later finds nobody either.
        assert!(matches!(PeerProcess::of(&stream), Err(AttestationError::Ended { .. })));
    }

    #[test]
    fn a_process_that_becomes_another_program_is_refused() {
        let (mut child, mut stream) = connected();
        let process = PeerProcess::of(&stream).unwrap();
        let before = process.look(false, &Hashes::default()).unwrap();
        let own = std::env::current_exe().unwrap();
        assert_eq!(before.executable.as_deref(), own.to_str());
        stream.write_all(b"x").unwrap();
        // When its program changes is not known; for a moment it has none.
        let link = format!("/proc/{}/exe", process.pid());
        while std::fs::read_link(&link).map_or(true, |now| now == own) {
            std::thread::yield_now();
        }
        let error = process.look(false, &Hashes::default()).unwrap_err();
        assert!(matches!(error, AttestationError::Became { .. }), "{error}");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_file_that_only_has_the_name_is_not_the_executable() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("sleep");
        std::fs::copy("/bin/sleep", &program).unwrap();
        let mut child = Command::new(&program).arg("600").spawn().unwrap();
        let held = rustix::process::pidfd_open(rustix::process::Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        let mut process = PeerProcess { pid: child.id().cast_signed(), uid: 0, gid: 0, held, ran: None };
        let image = process.image().unwrap().unwrap().1;
        process.ran = Some(image);
        let path = program.to_str().map(str::to_owned);
        assert_eq!(process.look(false, &Hashes::default()).unwrap().executable, path);
        // An update takes the file away and puts another in its place; the process goes on with the old one.
        std::fs::remove_file(&program).unwrap();
        std::fs::copy("/bin/sleep", &program).unwrap();
        std::fs::copy("/bin/sleep", directory.path().join("sleep (deleted)")).unwrap();
        assert_eq!(process.look(false, &Hashes::default()).unwrap().executable, None);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_cgroup_is_that_of_the_unified_hierarchy_or_of_systemd() {
        for (text, path) in [
            ("0::/system.slice/a.service\n", Some("/system.slice/a.service")),
            ("12:cpu:/x\n1:name=systemd:/system.slice/b.service\n0::/\n", Some("/system.slice/b.service")),
            ("3:cpu:/x\n0::/\n", Some("/")),
            ("", None),
        ] {
            assert_eq!(cgroup_of(text).as_deref(), path, "{text}");
        }
    }
}

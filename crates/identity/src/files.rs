//! SVID and bundle on disk: written so that a crash leaves the old or the new file whole, read back only from
//! files that nobody else could have changed. With them a proxy starts while no control plane answers.
//!
//! Key and chain are one file, since a key with another's chain is of no use.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use lorica_model::spiffe::TrustDomain;

use crate::bundle::{Bundle, BundleError};
use crate::pem::SecretPem;
use crate::svid::{Svid, SvidError};

/// The file with key and chain.
pub const SVID_FILE: &str = "svid.pem";
/// The file with the roots.
pub const BUNDLE_FILE: &str = "bundle.pem";

/// The most bytes of either file: a bundle has at most 64 certificates.
const MAX_FILE: u64 = 512 * 1024;

/// Why a file is not written or not used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// It is a directory, a link, a socket, …
    #[error("{} is no regular file; remove it", .path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// Others could read the key or change the file.
    #[error("{} has mode {mode:03o}, so others could {what} it; run `chmod 600 {}`", .path.display(), .path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// `read` or `change`.
        what: &'static str,
    },
    /// It belongs to somebody else.
    #[error("{} belongs to user {owner}, not to user {user}; remove it or run as its owner", .path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who wanted to read it.
        user: u32,
    },
    /// It is longer than SVIDs and bundles are.
    #[error("{} has {length} bytes; at most {MAX_FILE} are expected", .path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        length: u64,
    },
    /// Its content is no SVID.
    #[error("{}: {error}", .path.display())]
    Svid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        error: SvidError,
    },
    /// Its content is no bundle.
    #[error("{}: {error}", .path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        error: BundleError,
    },
}

impl FileError {
    /// Whether there is simply no such file yet.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }
}

/// The directory of one workload's identity.
#[derive(Debug, Clone)]
pub struct IdentityFiles {
    directory: PathBuf,
}

impl IdentityFiles {
    /// Uses `directory`, which is made (mode 0700) when first written to.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Where they are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes key and chain, mode 0600.
    ///
    /// # Errors
    /// If the system refuses. The former file is then still there, whole.
    pub fn save_svid(&self, svid: &Svid) -> Result<(), FileError> {
        self.write(SVID_FILE, svid.to_pem().expose())
    }

    /// Reads key and chain. Whether they are still valid is the caller's question.
    ///
    /// # Errors
    /// If the file is missing, not this user's alone, or no SVID.
    pub fn load_svid(&self) -> Result<Svid, FileError> {
        let text = SecretPem::new(self.read(SVID_FILE, 0o077, "read or change")?);
        Svid::from_pem(&text).map_err(|error| FileError::Svid { path: self.path(SVID_FILE), error })
    }

    /// Writes the roots, mode 0600.
    ///
    /// # Errors
    /// If the system refuses. The former file is then still there, whole.
    pub fn save_bundle(&self, bundle: &Bundle) -> Result<(), FileError> {
        self.write(BUNDLE_FILE, &bundle.to_pem())
    }

    /// Reads the roots of `trust_domain`.
    ///
    /// # Errors
    /// If the file is missing, could be changed by others, or is no bundle.
    pub fn load_bundle(&self, trust_domain: &TrustDomain) -> Result<Bundle, FileError> {
        let text = self.read(BUNDLE_FILE, 0o022, "change")?;
        Bundle::from_pem(trust_domain.clone(), &text).map_err(|error| FileError::Bundle { path: self.path(BUNDLE_FILE), error })
    }

    /// Writes another file beside them, mode 0600.
    ///
    /// # Errors
    /// If the system refuses. The former file is then still there, whole.
    pub fn save(&self, name: &str, text: &str) -> Result<(), FileError> {
        self.write(name, text)
    }

    /// Reads another file beside them.
    ///
    /// # Errors
    /// If the file is missing, or could be changed by others.
    pub fn load(&self, name: &str) -> Result<String, FileError> {
        self.read(name, 0o022, "change")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), FileError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |error| FileError::Io { path, error }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory).map_err(fail(&self.directory))?;
        // A name that no other writer has; what a crash leaves behind is only ever in the way of the same process id.
        let temporary = self.path(&format!(".{name}.{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        let _ = fs::remove_file(&temporary);
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            // The mode above is cut by the umask, never widened; a umask of 0277 would make it useless.
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, self.path(name))
        })();
        if let Err(error) = written {
            let _ = fs::remove_file(&temporary);
            return Err(fail(&self.path(name))(error));
        }
        // The new name is durable once its directory is.
        File::open(&self.directory).and_then(|directory| directory.sync_all()).map_err(fail(&self.directory))
    }

    fn read(&self, name: &str, forbidden: u32, what: &'static str) -> Result<String, FileError> {
        let path = self.path(name);
        let fail = |error| FileError::Io { path: path.clone(), error };
        // Links are not followed, and a pipe does not block; everything is then asked of the opened file itself.
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let file = match OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(&path) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => return Err(FileError::NotAFile { path }),
            file => file.map_err(fail)?,
        };
        let metadata = file.metadata().map_err(fail)?;
        if !metadata.is_file() {
            return Err(FileError::NotAFile { path });
        }
        let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
        // Root could have put anything anywhere, so its files are as good as one's own.
        if owner != user && owner != 0 {
            return Err(FileError::Owner { path, owner, user });
        }
        let mode = metadata.mode() & 0o777;
        if mode & forbidden != 0 {
            return Err(FileError::Mode { path, mode, what });
        }
        let length = metadata.len();
        if length > MAX_FILE {
            return Err(FileError::TooLong { path, length });
        }
        let mut text = String::new();
        file.take(MAX_FILE).read_to_string(&mut text).map_err(fail)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::SystemTime;

    use super::*;
    use crate::authority::{Authority, Grant};
    use crate::svid::KeyPair;

    fn identity() -> (Svid, Bundle) {
        let now = SystemTime::now();
        let authority = Authority::create(TrustDomain::default(), now).unwrap();
        let key = KeyPair::generate().unwrap();
        let grant = Grant::new("spiffe://mesh.local/ns/contact/sa/recording".parse().unwrap());
        let chain = authority.sign(&key.request(&grant.id).unwrap(), &grant, now).unwrap();
        (Svid::new(&chain, key).unwrap(), authority.bundle().clone())
    }

    #[test]
    fn identity_reads_back_and_leaves_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let files = IdentityFiles::new(directory.path().join("state/recording"));
        assert!(files.load_svid().unwrap_err().is_missing());
        let (svid, bundle) = identity();
        for _ in 0..2 {
            files.save_svid(&svid).unwrap();
            files.save_bundle(&bundle).unwrap();
        }
        let read = files.load_svid().unwrap();
        assert_eq!((read.id(), read.chain(), read.not_after()), (svid.id(), svid.chain(), svid.not_after()));
        assert_eq!(read.key().to_pem(), svid.key().to_pem());
        assert_eq!(files.load_bundle(bundle.trust_domain()).unwrap(), bundle);
        let mut names: Vec<_> = fs::read_dir(files.directory()).unwrap().map(|entry| entry.unwrap()).collect();
        names.sort_by_key(fs::DirEntry::file_name);
        assert_eq!(names.iter().map(fs::DirEntry::file_name).collect::<Vec<_>>(), [BUNDLE_FILE, SVID_FILE]);
        assert!(names.iter().all(|entry| entry.metadata().unwrap().mode() & 0o777 == 0o600));
        assert_eq!(fs::metadata(files.directory()).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn files_that_others_could_have_touched_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let files = IdentityFiles::new(directory.path());
        let (svid, bundle) = identity();
        files.save_svid(&svid).unwrap();
        files.save_bundle(&bundle).unwrap();
        let chmod = |name: &str, mode| fs::set_permissions(directory.path().join(name), fs::Permissions::from_mode(mode)).unwrap();

        chmod(SVID_FILE, 0o640);
        let error = files.load_svid().unwrap_err().to_string();
        assert!(error.contains("mode 640") && error.contains("chmod 600"), "{error}");
        chmod(BUNDLE_FILE, 0o644);
        files.load_bundle(bundle.trust_domain()).unwrap();
        chmod(BUNDLE_FILE, 0o664);
        assert!(matches!(files.load_bundle(bundle.trust_domain()), Err(FileError::Mode { what: "change", .. })));

        chmod(SVID_FILE, 0o600);
        let real = directory.path().join("real");
        fs::rename(directory.path().join(SVID_FILE), &real).unwrap();
        std::os::unix::fs::symlink(&real, directory.path().join(SVID_FILE)).unwrap();
        assert!(matches!(files.load_svid(), Err(FileError::NotAFile { .. })));
        fs::remove_file(directory.path().join(SVID_FILE)).unwrap();
        fs::create_dir(directory.path().join(SVID_FILE)).unwrap();
        assert!(matches!(files.load_svid(), Err(FileError::NotAFile { .. })));
    }

    #[test]
    fn a_broken_file_says_which_and_what() {
        let directory = tempfile::tempdir().unwrap();
        let files = IdentityFiles::new(directory.path());
        files.write(SVID_FILE, "nothing").unwrap();
        let error = files.load_svid().unwrap_err().to_string();
        assert!(error.contains("svid.pem") && error.contains("no private key"), "{error}");
        files.write(SVID_FILE, &"x".repeat(600_000)).unwrap();
        assert!(matches!(files.load_svid(), Err(FileError::TooLong { length: 600_000, .. })));
        let (one, bundle) = identity();
        let (other, _) = identity();
        files.write(SVID_FILE, &(one.key().to_pem().expose().to_owned() + &other.chain_pem())).unwrap();
        assert!(files.load_svid().unwrap_err().to_string().contains("another key"));
        files.write(BUNDLE_FILE, &one.chain_pem()).unwrap();
        assert!(files.load_bundle(bundle.trust_domain()).unwrap_err().to_string().contains("certificate 1"));
    }
}

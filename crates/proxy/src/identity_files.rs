//! An identity that somebody else renews: SVID and roots from a directory, read again when they change.
//!
//! In: a directory's two files. Out: one TLS epoch after another on a watch channel. A pair that cannot be used leaves the
//! epoch before it in force, and is told.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use lorica_identity::TlsEpoch;
use lorica_identity::files::{BUNDLE_FILE, IdentityFiles, SVID_FILE};
use tokio::sync::watch;

/// How often the files are looked at. Certificates are renewed hours before they end; a second is soon enough, and costs two
/// system calls.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Reads a directory's SVID and roots.
///
/// # Errors
/// Where a file is missing or cannot be used, with what to do.
pub fn load(files: &IdentityFiles, now: SystemTime) -> anyhow::Result<Arc<TlsEpoch>> {
    let hint = |error: lorica_identity::files::FileError| {
        let hint = format!(
            "\nhint: {} holds {SVID_FILE} (the key and its certificate chain, mode 600) and {BUNDLE_FILE} (the roots to trust), in PEM",
            files.directory().display()
        );
        let hint = if error.is_missing() { hint } else { String::new() };
        anyhow::anyhow!("{error}{hint}")
    };
    let svid = files.load_svid().map_err(hint)?;
    let bundle = files.load_bundle(svid.id().trust_domain()).map_err(hint)?;
    if svid.not_after() <= now {
        let ago = now.duration_since(svid.not_after()).unwrap_or_default().as_secs();
        bail!("the certificate in {} ended {ago} s ago\nhint: renew it", files.directory().join(SVID_FILE).display());
    }
    TlsEpoch::new(Arc::new(svid), Arc::new(bundle)).with_context(|| format!("{} cannot be used", files.directory().display()))
}

/// The next epoch, of the same identity: what the proxy stands for does not change while it runs.
///
/// # Errors
/// As [`load`], and where the files are another workload's.
fn again(files: &IdentityFiles, present: &TlsEpoch, now: SystemTime) -> anyhow::Result<Arc<TlsEpoch>> {
    let next = load(files, now)?;
    let (before, after) = (present.svid().id(), next.svid().id());
    if before != after {
        bail!("it is now the identity of {after}, not of {before}\nhint: start the proxy again to let it stand for another");
    }
    Ok(next)
}

/// What tells one state of the files from another.
pub type Stamp = [Option<(u64, i64, i64, u64)>; 2];

/// How the two files are now: inode, time of change (seconds and nanoseconds) and length, where they are there.
#[must_use]
pub fn stamp(files: &IdentityFiles) -> Stamp {
    [SVID_FILE, BUNDLE_FILE].map(|name| {
        let metadata = std::fs::symlink_metadata(files.directory().join(name)).ok()?;
        Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.size()))
    })
}

/// Keeps `epochs` as the files are, for ever; `seen` is their stamp from before they were loaded first. `tell` hears what became
/// of each change.
pub async fn follow(
    files: IdentityFiles,
    mut seen: Stamp,
    epochs: watch::Sender<Option<Arc<TlsEpoch>>>,
    tell: impl Fn(Result<&TlsEpoch, &anyhow::Error>),
) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        // Taken before they are read: a change in between is seen the next time.
        let now = stamp(&files);
        if seen != now {
            let present = epochs.borrow().clone();
            if let Some(present) = present {
                match again(&files, &present, SystemTime::now()) {
                    Ok(next) => {
                        tell(Ok(&next));
                        epochs.send_replace(Some(next));
                    }
                    Err(error) => tell(Err(&error)),
                }
            }
        }
        seen = now;
    }
}

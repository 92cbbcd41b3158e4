//! Ports for apps that cannot say which free one they took. In flows nothing; out flow ports that no other test has, below the range from which
//! the system takes its own. A port is another test's again once dropped.

use std::fs::{DirBuilder, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context as _, bail};

const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A port of the loopback, lent to one test.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Held for as long as the port is.
    _lock: File,
}

impl Port {
    /// Borrows a free port.
    ///
    /// # Errors
    /// None is free, or the directory of locks is not to be written to.
    pub fn free() -> anyhow::Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let uid = rustix::process::geteuid().as_raw();
        let locks = std::env::temp_dir().join(format!("lorica-testbed-ports-{uid}"));
        DirBuilder::new().recursive(true).mode(0o700).create(&locks).with_context(|| locks.display().to_string())?;
        // Tests begin far from one another, so that they seldom ask for the same.
        let start = std::process::id().wrapping_mul(37) % u32::from(COUNT);
        for _ in 0..COUNT {
            let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
            let number = FIRST + u16::try_from((start + step) % u32::from(COUNT))?;
            let lock = locks.join(number.to_string());
            let lock = File::create(&lock).with_context(|| lock.display().to_string())?;
            if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _lock: lock });
            }
        }
        bail!("no port from {FIRST} to {} is free", FIRST + COUNT - 1)
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Its address on the loopback.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_lent_once() {
        let (one, two) = (Port::free().unwrap(), Port::free().unwrap());
        assert_ne!(one.number(), two.number());
        TcpListener::bind(one.address()).unwrap();
    }
}

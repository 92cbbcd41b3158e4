//! How many connections each user of a host has: none takes them from the others.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use crate::attestation::PeerProcess;

/// The most connections that a user has at a time.
const CONNECTIONS: usize = 128;

/// How many connections each user has.
#[derive(Debug, Default, Clone)]
pub struct Seats(Arc<Mutex<BTreeMap<u32, usize>>>);

/// One of a user's connections, until it is dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Seats,
    uid: u32,
}

impl Seats {
    /// Lets a connection in: who it is, by the kernel's word, and its seat.
    ///
    /// # Errors
    /// If the kernel does not say who it is, or its user has 128 connections.
    pub fn admit(&self, socket: impl AsFd) -> Result<(PeerProcess, Seat), String> {
        let process = PeerProcess::of(socket).map_err(|error| error.to_string())?;
        let seat = self.seat(process.uid()).ok_or_else(|| format!("user {} has {CONNECTIONS} connections", process.uid()))?;
        Ok((process, seat))
    }

    fn seat(&self, uid: u32) -> Option<Seat> {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = users.entry(uid).or_default();
        if *taken >= CONNECTIONS {
            return None;
        }
        *taken += 1;
        Some(Seat { seats: self.clone(), uid })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut users = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = users.get(&self.uid).map_or(0, |taken| taken.saturating_sub(1));
        if left == 0 {
            users.remove(&self.uid);
        } else {
            users.insert(self.uid, left);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_user_has_so_many_connections_and_takes_none_from_others() {
        let users = Seats::default();
        let seats: Vec<_> = (0..CONNECTIONS).map(|_| users.seat(7).unwrap()).collect();
        assert!(users.seat(7).is_none() && users.seat(8).is_some());
        drop(seats);
        assert!(users.seat(7).is_some() && users.0.lock().unwrap().is_empty());
    }
}

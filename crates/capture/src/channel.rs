//! A channel between two of our processes: JSON values and descriptors over a SOCK_SEQPACKET pair.
//!
//! A datagram is one byte that says where the body is, then the body, or nothing when the body
//! travels as the last descriptor (a memory file), as an app's arguments can be far longer than a
//! datagram. What cannot be read ends in an error, never in a panic. No retry, no order beyond the
//! socket's own.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags},
    fs::MemfdFlags,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, SocketFlags, SocketType,
    },
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{CHANNEL_VARIABLE, kernel};

/// Bodies up to this many bytes travel in the datagram itself.
const INLINE_BYTES: usize = 32 * 1024;
/// No body is longer: more than any argument list Linux takes (a quarter of an 8 MiB stack) with
/// its JSON form, or 100,000 names.
const BODY_BYTES: u64 = 32 * 1024 * 1024;
/// Descriptors per message, a memory file included.
pub(crate) const DESCRIPTORS: usize = 33;
/// How long a full channel may stay full before its reader counts as hung.
const SEND_PATIENCE: Duration = Duration::from_secs(5);

const BODY_INLINE: u8 = b'I';
const BODY_IN_FILE: u8 = b'F';

/// One end.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// What an attempt to read yields.
#[derive(Debug)]
pub(crate) enum Received<T> {
    Message(T, Vec<OwnedFd>),
    Nothing,
    Closed,
}

impl Channel {
    /// Two connected ends, nonblocking and closed on exec.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (one, other) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self(one), Self(other)))
    }

    /// The end that the parent process left for this one, if the environment names one.
    pub(crate) fn from_environment() -> Option<Self> {
        let number: i32 = std::env::var(CHANNEL_VARIABLE).ok()?.parse().ok()?;
        let descriptor = kernel::inherited_channel(number)?;
        Some(Self(descriptor))
    }

    pub(crate) fn from_fd(descriptor: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        Ok(Self(descriptor))
    }

    pub(crate) fn try_clone(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    /// Sends, waiting a while if the other side is slow to read.
    pub(crate) fn send<T: Serialize>(&self, message: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let given_up = Instant::now() + SEND_PATIENCE;
        loop {
            match self.try_send(message, descriptors) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let left = given_up.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(io::Error::new(io::ErrorKind::TimedOut, "the other process does not read its channel"));
                    }
                    let mut polled = [PollFd::new(&self.0, PollFlags::OUT)];
                    kernel::poll(&mut polled, Some(left))?;
                }
                sent => return sent,
            }
        }
    }

    /// Sends, or fails with `WouldBlock`.
    pub(crate) fn try_send<T: Serialize>(&self, message: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let body = serde_json::to_vec(message).map_err(io::Error::other)?;
        let mut all = descriptors.to_vec();
        let file;
        let datagram: [IoSlice<'_>; 2] = if body.len() <= INLINE_BYTES {
            [IoSlice::new(&[BODY_INLINE]), IoSlice::new(&body)]
        } else {
            if body.len() as u64 > BODY_BYTES {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is longer than 32 MiB"));
            }
            file = memory_file(&body)?;
            all.push(file.as_fd());
            [IoSlice::new(&[BODY_IN_FILE]), IoSlice::new(&[])]
        };
        if all.len() > DESCRIPTORS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !all.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&all));
        }
        loop {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match rustix::net::sendmsg(&self.0, &datagram, &mut control, flags) {
                Err(rustix::io::Errno::INTR) => {}
                sent => return sent.map(drop).map_err(io::Error::from),
            }
        }
    }

    /// Takes the next message if one is there.
    pub(crate) fn try_receive<T: DeserializeOwned>(&self) -> io::Result<Received<T>> {
        let mut bytes = vec![0; INLINE_BYTES + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = loop {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            match rustix::net::recvmsg(&self.0, &mut parts, &mut control, flags) {
                Ok(received) => break received,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(Received::Nothing),
                Err(rustix::io::Errno::CONNRESET) => return Ok(Received::Closed),
                Err(error) => return Err(error.into()),
            }
        };
        let mut descriptors = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = part {
                descriptors.extend(some);
            }
        }
        if received.bytes == 0 {
            return Ok(Received::Closed);
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(invalid("a message came cut off (too long, or out of descriptors)"));
        }
        let file_body;
        let body = match bytes.split_first() {
            Some((&BODY_INLINE, rest)) => rest.get(..received.bytes - 1).unwrap_or_default(),
            Some((&BODY_IN_FILE, _)) => {
                let Some(file) = descriptors.pop() else {
                    return Err(invalid("a message came without its body"));
                };
                file_body = read_memory_file(file)?;
                &file_body[..]
            }
            _ => return Err(invalid("a message of an unknown form")),
        };
        let message = serde_json::from_slice(body).map_err(|error| invalid(&format!("a message that cannot be read: {error}")))?;
        Ok(Received::Message(message, descriptors))
    }

    /// Waits for the next message, at most `patience`. A closed channel is an error.
    pub(crate) fn receive<T: DeserializeOwned>(&self, patience: Duration) -> io::Result<(T, Vec<OwnedFd>)> {
        let given_up = Instant::now() + patience;
        loop {
            match self.try_receive()? {
                Received::Message(message, descriptors) => return Ok((message, descriptors)),
                Received::Closed => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other process closed its channel"));
                }
                Received::Nothing => {}
            }
            let left = given_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
            }
            let mut polled = [PollFd::new(&self.0, PollFlags::IN)];
            kernel::poll(&mut polled, Some(left))?;
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn memory_file(body: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create("lorica-message", MemfdFlags::CLOEXEC)?);
    file.write_all(body)?;
    Ok(file.into())
}

fn read_memory_file(file: OwnedFd) -> io::Result<Vec<u8>> {
    let mut file = File::from(file);
    io::Seek::rewind(&mut file)?;
    let mut body = Vec::new();
    file.take(BODY_BYTES).read_to_end(&mut body)?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn receive(channel: &Channel) -> (String, Vec<OwnedFd>) {
        match channel.try_receive::<String>().unwrap() {
            Received::Message(message, descriptors) => (message, descriptors),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn short_and_long_bodies_arrive_whole_with_their_descriptors() {
        let (one, other) = Channel::pair().unwrap();
        for length in [0, 10, INLINE_BYTES - 2, INLINE_BYTES - 1, INLINE_BYTES, 1_000_000] {
            let text = "x".repeat(length);
            one.send(&text, &[other.as_fd(), one.as_fd()]).unwrap();
            let (received, descriptors) = receive(&other);
            assert_eq!((received.len(), descriptors.len()), (length, 2));
        }
        assert!(matches!(other.try_receive::<String>().unwrap(), Received::Nothing));
        drop(one);
        assert!(matches!(other.try_receive::<String>().unwrap(), Received::Closed));
    }

    #[test]
    fn a_message_that_cannot_be_read_is_an_error() {
        let (one, other) = Channel::pair().unwrap();
        for datagram in [&b"X"[..], b"I{", b"Inot json", b"F", b"I5"] {
            rustix::net::send(&one, datagram, SendFlags::empty()).unwrap();
            assert!(other.try_receive::<String>().is_err());
        }
    }

    #[test]
    fn a_full_channel_says_so() {
        let (one, _other) = Channel::pair().unwrap();
        let text = "x".repeat(INLINE_BYTES - 2);
        let refused = (0..1000).find_map(|_| one.try_send(&text, &[]).err()).unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    }
}

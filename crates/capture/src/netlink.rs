//! Netlink: building messages, sending them, reading the kernel's answers. It knows the framing
//! (headers, attributes, acknowledgements), not what the messages mean.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType},
};

use crate::kernel;

pub(crate) const REQUEST: u16 = 0x1;
pub(crate) const ACK: u16 = 0x4;
/// ROOT and MATCH.
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const EXCLUSIVE: u16 = 0x200;
pub(crate) const APPEND: u16 = 0x800;

const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const NESTED: u16 = 0x8000;
/// The kernel answers within the send call; this only keeps a strange kernel from hanging us.
const PATIENCE: Duration = Duration::from_secs(5);

/// Messages being built, one after the other, each aligned to four bytes.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    bytes: Vec<u8>,
    start: usize,
    sequence: u32,
}

impl Messages {
    /// Begins a message; its sequence number counts from 1.
    pub(crate) fn begin(&mut self, kind: u16, flags: u16) -> &mut Self {
        self.start = self.bytes.len();
        self.sequence += 1;
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self
    }

    /// The message's fixed part.
    pub(crate) fn fixed(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.align()
    }

    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.align()
    }

    /// A number in network byte order, as nf_tables wants all of them.
    pub(crate) fn attribute_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// A text with its final zero.
    pub(crate) fn attribute_text(&mut self, kind: u16, text: &str) -> &mut Self {
        self.attribute(kind, &[text.as_bytes(), &[0]].concat())
    }

    pub(crate) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let at = self.bytes.len();
        self.attribute(kind | NESTED, &[]);
        fill(self);
        let length = u16::try_from(self.bytes.len() - at).unwrap_or(u16::MAX);
        self.overwrite(at, &length.to_ne_bytes());
        self
    }

    /// Ends a message.
    pub(crate) fn end(&mut self) -> &mut Self {
        let length = u32::try_from(self.bytes.len() - self.start).unwrap_or(u32::MAX);
        self.overwrite(self.start, &length.to_ne_bytes());
        self
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn overwrite(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    fn align(&mut self) -> &mut Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }
}

/// A netlink socket.
pub(crate) struct Netlink(OwnedFd);

/// A refusal: which message of those sent, and why.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Counted from 1; 0 when none can be named.
    pub sequence: u32,
    pub errno: Errno,
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        Self { sequence: 0, errno }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Errno::from_io_error(&error).unwrap_or(Errno::IO).into()
    }
}

impl Netlink {
    /// None is NETLINK_ROUTE, whose number is 0.
    pub(crate) fn open(protocol: Option<Protocol>) -> Result<Self, Errno> {
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol).map(Self)
    }

    /// Sends the messages and waits for `acknowledged` acknowledgements, or the first refusal.
    pub(crate) fn ask(&self, messages: &Messages, acknowledged: u32) -> Result<(), Refused> {
        rustix::net::send(&self.0, messages.bytes(), SendFlags::empty())?;
        let mut left = acknowledged;
        while left > 0 {
            for answer in Answers(&self.receive()?) {
                if answer.kind != ERROR {
                    continue;
                }
                match error_of(answer.body) {
                    0 => left = left.saturating_sub(1),
                    number => {
                        let errno = Errno::from_raw_os_error(number);
                        return Err(Refused { sequence: answer.sequence, errno });
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends one dump request and hands the body of each answer to `each`.
    pub(crate) fn dump(&self, messages: &Messages, mut each: impl FnMut(&[u8])) -> Result<(), Errno> {
        rustix::net::send(&self.0, messages.bytes(), SendFlags::empty())?;
        loop {
            let bytes = self.receive().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            for answer in Answers(&bytes) {
                match answer.kind {
                    DONE => return Ok(()),
                    ERROR => return Err(Errno::from_raw_os_error(error_of(answer.body))),
                    _ => each(answer.body),
                }
            }
        }
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut polled = [PollFd::new(&self.0, PollFlags::IN)];
        if kernel::poll(&mut polled, Some(PATIENCE))? == 0 {
            return Err(Errno::TIMEDOUT.into());
        }
        let mut bytes = vec![0; 32 * 1024];
        let (length, _) = rustix::net::recv(&self.0, &mut bytes[..], RecvFlags::DONTWAIT)?;
        bytes.truncate(length);
        Ok(bytes)
    }
}

fn error_of(body: &[u8]) -> i32 {
    body.first_chunk::<4>().map_or(libc::EIO, |number| i32::from_ne_bytes(*number).saturating_neg())
}

struct Answer<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

/// The messages in what was read.
struct Answers<'a>(&'a [u8]);

impl<'a> Iterator for Answers<'a> {
    type Item = Answer<'a>;

    fn next(&mut self) -> Option<Answer<'a>> {
        let header = self.0.first_chunk::<HEADER>()?;
        let [l0, l1, l2, l3, k0, k1, _, _, s0, s1, s2, s3, ..] = *header;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let body = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Answer { kind: u16::from_ne_bytes([k0, k1]), sequence: u32::from_ne_bytes([s0, s1, s2, s3]), body })
    }
}

/// The attributes in a message's body, after its fixed part.
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let [l0, l1, k0, k1] = *self.0.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & !NESTED, value))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_built_can_be_taken_apart() {
        let mut messages = Messages::default();
        messages.begin(16, REQUEST).fixed(&[1, 2, 3]).attribute_text(5, "lo");
        messages.nested(6, |inner| {
            inner.attribute_be32(1, 0x0102_0304);
        });
        messages.end();
        messages.begin(17, REQUEST | ACK).end();

        let answers: Vec<_> = Answers(messages.bytes()).collect();
        assert_eq!(answers.len(), 2);
        assert_eq!((answers[0].kind, answers[0].sequence), (16, 1));
        assert_eq!((answers[1].kind, answers[1].sequence), (17, 2));
        let attributes: Vec<_> = Attributes(&answers[0].body[4..]).collect();
        assert_eq!(attributes[0], (5, &b"lo\0"[..]));
        assert_eq!(attributes[1].0, 6);
        assert_eq!(Attributes(attributes[1].1).next().unwrap(), (1, &[1, 2, 3, 4][..]));
    }

    #[test]
    fn cut_off_answers_end_the_reading() {
        let mut messages = Messages::default();
        messages.begin(16, 0).fixed(&[0; 8]).end();
        for length in 0..messages.bytes().len() {
            assert_eq!(Answers(&messages.bytes()[..length]).count(), 0);
        }
        // A length shorter than the header.
        assert_eq!(Answers(&[0; 32]).count(), 0);
        assert_eq!(Attributes(&[2, 0, 0, 0, 9, 9]).count(), 0);
    }
}

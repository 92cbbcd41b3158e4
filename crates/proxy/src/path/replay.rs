//! replay: a request's body, kept as far as it may have to be sent again.
//!
//! In: the body as the caller sends it. Out: the same frames for each attempt, as long as at most
//! [`REPLAY_BYTES`](crate::config::REPLAY_BYTES) have come; beyond, only the attempt under way can have it.

use lorica_model::head::Fields;

use super::clean;
use super::grpc_web::Decoder;
use crate::config::REPLAY_BYTES;
use crate::wire::{Body, Frame, WireError};

/// The most frames that are kept.
const MOST_FRAMES: usize = 1024;

/// A body that can be read more than once, up to a bound.
pub struct Replay {
    source: Body,
    kept: Vec<bytes::Bytes>,
    kept_bytes: usize,
    trailers: Option<Fields>,
    ended: bool,
    overflowed: bool,
    /// Which of the kept frames the attempt under way gets next.
    next: usize,
    trailers_given: bool,
    /// All bytes of the body so far, for the record.
    pub received: u64,
    /// Whether somebody looks at it before it goes on: what is read then is kept in any case.
    looks: bool,
    /// What reads bytes out of the text in which they come, where they come so.
    decoder: Option<Decoder>,
    /// Names of trailers that do not go on, beside those that never do.
    barred: Vec<String>,
}

/// The beginning of a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Looked {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Whether that is all of it.
    pub whole: bool,
}

impl Replay {
    /// Nothing read yet.
    #[must_use]
    pub fn new(source: Body) -> Self {
        let ended = source.is_end();
        Self {
            source,
            kept: Vec::new(),
            kept_bytes: 0,
            trailers: None,
            ended,
            overflowed: false,
            next: 0,
            trailers_given: false,
            received: 0,
            looks: false,
            decoder: None,
            barred: Vec::new(),
        }
    }

    /// Has the body read through `decoder`. Only before anything of it was read.
    pub fn decode(&mut self, decoder: Decoder) {
        self.decoder = Some(decoder);
    }

    /// Leaves trailers of these names out, too.
    pub fn bar<'n>(&mut self, names: impl Iterator<Item = &'n str>) {
        self.barred.extend(names.map(str::to_owned));
    }

    /// Whether another attempt could have the whole of it.
    #[must_use]
    pub fn is_replayable(&self) -> bool {
        !self.overflowed
    }

    /// Whether no frame is left for the attempt under way.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.next == self.kept.len() && self.ended && (self.trailers.is_none() || self.trailers_given)
    }

    /// Whether the caller has sent all of it.
    #[must_use]
    pub fn is_received(&self) -> bool {
        self.ended
    }

    /// Its length, where it is known: as declared, or because all of it is here.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        match &self.decoder {
            _ if self.ended && !self.overflowed && self.trailers.is_none() => Some(self.kept_bytes as u64),
            // The text's length says little of the bytes'.
            Some(_) => None,
            None => self.source.length(),
        }
    }

    /// What the caller goes on to send, where the exchange becomes a tunnel.
    #[must_use]
    pub fn take_source(&mut self) -> Body {
        std::mem::replace(&mut self.source, Body::Empty)
    }

    /// All of it, where it has come in whole and was kept; trailers are left out.
    #[must_use]
    pub fn whole(&self) -> Option<Vec<bytes::Bytes>> {
        (self.ended && !self.overflowed).then(|| self.kept.clone())
    }

    /// Reads ahead until `most` bytes have come, or all of it; unless the beginning is `enough`, until it is known whether more follow.
    /// What is read is kept for whoever is sent it, in however many frames it comes: a body of tiny ones is no way around who looks at it.
    ///
    /// # Errors
    /// When the caller broke off or sent no valid body.
    pub async fn look(&mut self, most: usize, enough: bool) -> Result<Looked, WireError> {
        self.looks = true;
        while !self.ended && (self.kept_bytes < most || (self.kept_bytes == most && !enough)) {
            self.frame().await?;
        }
        self.looks = false;
        self.rewind();
        let mut bytes = Vec::with_capacity(self.kept_bytes.min(most));
        for frame in &self.kept {
            let room = most - bytes.len();
            bytes.extend_from_slice(frame.get(..room).unwrap_or(frame));
        }
        let ends = self.ended || self.length() == Some(self.kept_bytes as u64);
        Ok(Looked { bytes, whole: ends && self.kept_bytes <= most })
    }

    /// Begins again, for another attempt. Only while [`Self::is_replayable`].
    pub fn rewind(&mut self) {
        self.next = 0;
        self.trailers_given = false;
    }

    /// The next frame for the attempt under way; `None` at the end. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// When the caller broke off or sent no valid body.
    pub async fn frame(&mut self) -> Result<Option<Frame>, WireError> {
        if let Some(data) = self.kept.get(self.next) {
            self.next += 1;
            return Ok(Some(Frame::Data(data.clone())));
        }
        while !self.ended {
            match self.source.frame().await {
                Some(Ok(Frame::Data(data))) => {
                    self.received += data.len() as u64;
                    let data = match &mut self.decoder {
                        Some(decoder) => decoder.read(&data)?,
                        None => data,
                    };
                    if !data.is_empty() {
                        return Ok(Some(Frame::Data(self.keep(data))));
                    }
                }
                Some(Ok(Frame::Trailers(trailers))) => {
                    self.end()?;
                    self.trailers = Some(clean::trailers(&trailers, &self.barred));
                }
                Some(Err(error)) => return Err(error),
                None => self.end()?,
            }
        }
        if self.trailers_given {
            return Ok(None);
        }
        self.trailers_given = true;
        Ok(self.trailers.clone().map(Frame::Trailers))
    }

    fn end(&mut self) -> Result<(), WireError> {
        self.ended = true;
        self.decoder.as_ref().map_or(Ok(()), Decoder::end)
    }

    fn keep(&mut self, data: bytes::Bytes) -> bytes::Bytes {
        if !self.overflowed {
            self.kept_bytes += data.len();
            // Frames count too: a thousand tiny ones are no small body.
            if self.looks && self.kept.len() >= MOST_FRAMES {
                self.kept = vec![self.kept.concat().into()];
            }
            if self.looks || (self.kept_bytes <= REPLAY_BYTES && self.kept.len() < MOST_FRAMES) {
                self.kept.push(data.clone());
                self.next = self.kept.len();
            } else {
                self.overflowed = true;
                self.kept = Vec::new();
                self.next = 0;
            }
        }
        data
    }
}

//! What a client says beside its requests: its settings, and what QPACK would need a table for.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::rc::Rc;

use quinn::RecvStream;
use tokio::task::spawn_local;

use super::super::error::WireError;
use super::super::http2::prefixed_number;
use super::frame::{code, is_of_http2, kind, stream, take_number};
use super::incoming::Incoming;
use super::shared::Shared;

/// The most bytes of a frame of control: a handful of settings.
const MAX_CONTROL: u64 = 4096;

/// Reads all one-way streams of a client until the connection ends.
pub(super) async fn read(shared: Rc<Shared>) {
    let seen = Rc::new(RefCell::new(BTreeSet::new()));
    while let Ok(stream) = shared.connection.accept_uni().await {
        let (shared, seen) = (shared.clone(), seen.clone());
        spawn_local(async move {
            // What breaks the connection has been told to the client already.
            drop(one(&shared, &seen, stream).await);
        });
    }
}

async fn one(shared: &Rc<Shared>, seen: &RefCell<BTreeSet<u64>>, receive: RecvStream) -> Result<(), WireError> {
    let mut incoming = Incoming::new(shared.clone(), receive);
    let Some(kind) = poll_fn(|cx| incoming.poll_number(cx)).await? else { return Ok(()) };
    if matches!(kind, stream::CONTROL | stream::QPACK_ENCODER | stream::QPACK_DECODER) && !seen.borrow_mut().insert(kind) {
        return Err(shared.broken(code::STREAM_CREATION_ERROR, "a stream that there is one of is opened twice"));
    }
    let read = match kind {
        stream::CONTROL => control(shared, &mut incoming).await,
        stream::QPACK_ENCODER => encoder(shared, &mut incoming).await,
        stream::QPACK_DECODER => decoder(shared, &mut incoming).await,
        stream::PUSH => return Err(shared.broken(code::STREAM_CREATION_ERROR, "a client pushes")),
        _ => {
            incoming.stop(code::STREAM_CREATION_ERROR);
            return shared.idle_frame();
        }
    };
    match read {
        // It ended, or was reset.
        Ok(()) | Err(WireError::Reset(_)) => Err(shared.broken(code::CLOSED_CRITICAL_STREAM, "a stream that must stay open is closed")),
        Err(error) => Err(error),
    }
}

/// Settings, and what may follow them.
async fn control(shared: &Shared, incoming: &mut Incoming) -> Result<(), WireError> {
    let mut settled = false;
    while let Some(kind) = poll_fn(|cx| incoming.poll_frame(cx)).await? {
        match kind {
            kind::SETTINGS if !settled => {}
            _ if !settled => return Err(shared.broken(code::MISSING_SETTINGS, "the settings do not come first")),
            kind::DATA | kind::HEADERS | kind::PUSH_PROMISE | kind::SETTINGS => {
                return Err(shared.broken(code::FRAME_UNEXPECTED, "the control stream has a frame of another"));
            }
            _ if is_of_http2(kind) => return Err(shared.broken(code::FRAME_UNEXPECTED, "a frame is one of HTTP/2")),
            _ => shared.idle_frame()?,
        }
        let known = matches!(kind, kind::SETTINGS | kind::GOAWAY | kind::MAX_PUSH_ID | kind::CANCEL_PUSH);
        if !known {
            poll_fn(|cx| incoming.poll_skip(cx)).await?;
            continue;
        }
        if incoming.left() > MAX_CONTROL {
            return Err(shared.broken(code::EXCESSIVE_LOAD, "a frame of control is larger than any need be"));
        }
        let mut payload = Vec::new();
        poll_fn(|cx| incoming.poll_whole(cx, &mut payload)).await?;
        let mut rest = payload.as_slice();
        match kind {
            kind::SETTINGS => {
                settled = true;
                let mut said = BTreeSet::new();
                while !rest.is_empty() {
                    let pair = take_number(&mut rest).zip(take_number(&mut rest));
                    let (name, _) = pair.ok_or_else(|| shared.broken(code::FRAME_ERROR, "the settings are cut off"))?;
                    // Nothing that a client sets concerns us: we send no table, and our heads are small.
                    if matches!(name, 0x2..=0x5) || !said.insert(name) {
                        return Err(shared.broken(code::SETTINGS_ERROR, "a setting is one of HTTP/2, or stands twice"));
                    }
                }
            }
            kind::CANCEL_PUSH => return Err(shared.broken(code::ID_ERROR, "nothing was pushed")),
            _ if take_number(&mut rest).is_some() && rest.is_empty() => {}
            _ => return Err(shared.broken(code::FRAME_ERROR, "a frame of control is not one number")),
        }
    }
    Ok(())
}

/// The client may only say that its table, of which we hold nothing, is empty.
async fn encoder(shared: &Shared, incoming: &mut Incoming) -> Result<(), WireError> {
    const CAPACITY_NONE: u8 = 0x20;
    while poll_fn(|cx| incoming.poll_more(cx)).await? {
        shared.idle_frame()?;
        if incoming.take().iter().any(|byte| *byte != CAPACITY_NONE) {
            return Err(shared.broken(code::ENCODER_STREAM_ERROR, "a table is used that was not offered"));
        }
    }
    Ok(())
}

/// The client may only say which streams it does not read on.
async fn decoder(shared: &Shared, incoming: &mut Incoming) -> Result<(), WireError> {
    let mut said = Vec::new();
    while poll_fn(|cx| incoming.poll_more(cx)).await? {
        shared.idle_frame()?;
        said.extend_from_slice(&incoming.take());
        let mut rest = said.as_slice();
        while let Some(first) = rest.first().copied() {
            if first >> 6 != 1 {
                return Err(shared.broken(code::DECODER_STREAM_ERROR, "a table is spoken of that was not used"));
            }
            let mut after = rest;
            match prefixed_number(&mut after, 6) {
                Some(_) => rest = after,
                None if rest.len() < 5 => break,
                None => return Err(shared.broken(code::DECODER_STREAM_ERROR, "a number has no end")),
            }
        }
        said = rest.to_vec();
    }
    Ok(())
}

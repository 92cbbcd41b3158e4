//! Messages as gRPC frames them in a body, for calls that a proxy makes over its own connections.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

/// What gRPC puts before a message: whether it is compressed, and its length.
pub(crate) const PREFIX: usize = 5;

/// The body of a call with one message.
pub(crate) fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut body = BytesMut::with_capacity(length + PREFIX);
    body.put_u8(0);
    body.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    body.extend_from_slice(&message.encode_to_vec());
    body.freeze()
}

/// The one message of a body; none where it is not one whole message, uncompressed.
pub(crate) fn unframed<M: Message + Default>(body: &[u8]) -> Option<M> {
    let (prefix, message) = body.split_at_checked(PREFIX)?;
    let length = u32::from_be_bytes(prefix.get(1..)?.try_into().ok()?);
    if prefix.first() != Some(&0) || usize::try_from(length).ok()? != message.len() {
        return None;
    }
    M::decode(message).ok()
}

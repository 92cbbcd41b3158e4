//! Whether a request that got no byte of an answer was certainly not processed, though it was written: then it may be sent again whatever its
//! method, and the classic 503 on a connection that its server closed while idle does not happen.
//!
//! A server that closes an idle connection and a request that sets out on it cross each other. What is known of that afterwards, in TCP as Linux
//! has it:
//!
//! - **Nothing was written.** A connection is read before it is written to. Where that finds its end, or the first write fails, whatever the
//!   error, no byte has left.
//! - **The server's end came, and nothing of the request was acknowledged.** Whatever the server's kernel sends acknowledges all that it has
//!   received until then; its FIN, sent when the program closed or at any time after, thus acknowledges all that the program can have read. The
//!   kernel handles an acknowledgement before it tells of the end that came with it. So if, after the end was read, all bytes of the request
//!   are unacknowledged, none had arrived when the program closed. Those that arrive later meet a closed socket, whose kernel answers with a
//!   reset; it is no acknowledgement, and leaves the count as it was. This looks at the count only after the end: acknowledgements that came
//!   between (of a server that ended its side and reads on, to throw away) take the proof away and never make one up.
//! - **A reset without an end before it proves nothing.** A program that is killed, or closes, with bytes unread resets, and may have read
//!   and processed those before; its kernel delays acknowledgements by up to 40 ms, so that even none having come says nothing. The same holds
//!   for a program that closes by a reset. Only requests that are safe to repeat are repeated then.
//! - **The end that is read must be the server's.** After a reset, one call gets the error and every later read finds an end. So a connection
//!   remembers whether any of its calls met a reset. A broken pipe is what writing meets after an end, and is none.
//!
//! What is taken for granted: a program that ended only its own side does not go on to process requests, which it could not answer
//! (RFC 9112, 9.6, wants it to throw them away). What is still on its way when the proof is made is called back by a reset.
//!
//! In TLS it is not known which bytes on the wire are the request's; what was written is not repeated there. A stream between two Lorica
//! proxies ends only when the other one, which has taken no request on it since the last answer, leaves; where it fails, it is reset.
//!
//! `wire/tests/untaken.rs` holds all of this against real sockets.

use std::os::fd::AsFd;

use crate::stream::Stream;

/// Whether the peer certainly had none of the `written` last bytes when it closed. `ended`: its end was read, and no call met a reset.
pub(super) fn is_untaken(stream: Option<&Stream>, written: u64, ended: bool) -> bool {
    match stream {
        _ if written == 0 => true,
        _ if !ended => false,
        Some(Stream::Plain(tcp)) => {
            let untaken = lorica_capture::unacknowledged(tcp.as_fd()).is_ok_and(|count| count >= written);
            if untaken && let Some(stream) = stream {
                stream.reset_on_close();
            }
            untaken
        }
        Some(Stream::Carried(_)) => true,
        Some(Stream::Tls(_) | Stream::Peer(_)) | None => false,
        #[cfg(any(test, fuzzing))]
        Some(Stream::Memory(_)) => false,
    }
}

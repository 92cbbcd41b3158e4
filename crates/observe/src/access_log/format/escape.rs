//! Values in a line of text: whatever a client sends, a line stays one line, and what stands in quotes stays there.

use std::fmt::Write as _;

/// The first `most` bytes, and none of a character that would be broken.
pub(super) fn cut(bytes: &[u8], most: usize) -> &[u8] {
    let Some(kept) = bytes.get(..most) else { return bytes };
    // The rest of a character that begins within stays out.
    let broken = bytes.get(most).is_some_and(|next| is_continued(*next));
    let end = if broken { kept.iter().rposition(|byte| !is_continued(*byte)).unwrap_or_default() } else { kept.len() };
    kept.get(..end).unwrap_or_default()
}

/// Whether a byte continues a character of UTF-8.
fn is_continued(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

/// Appends `bytes`. Quotes and backslashes get a backslash; control characters, line separators and bytes that are no text are written as `\xNN`.
pub(super) fn into(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.iter().all(|byte| matches!(byte, 0x20..=0x7e) && !matches!(byte, b'"' | b'\\')) {
        return out.extend_from_slice(bytes);
    }
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            let mut buffer = [0; 4];
            let encoded = letter.encode_utf8(&mut buffer).as_bytes();
            match letter {
                '"' | '\\' => out.extend_from_slice(&[b'\\', encoded.first().copied().unwrap_or_default()]),
                '\u{2028}' | '\u{2029}' => hexadecimal(out, encoded),
                _ if letter.is_control() => hexadecimal(out, encoded),
                _ => out.extend_from_slice(encoded),
            }
        }
        hexadecimal(out, chunk.invalid());
    }
}

/// The same as a text.
pub(super) fn text(bytes: &[u8]) -> String {
    let mut out = Vec::new();
    into(&mut out, bytes);
    String::from_utf8_lossy(&out).into_owned()
}

fn hexadecimal(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut text = String::with_capacity(bytes.len() * 4);
    for byte in bytes {
        // Writing to memory does not fail.
        let _: Result<(), std::fmt::Error> = write!(text, "\\x{byte:02x}");
    }
    out.extend_from_slice(text.as_bytes());
}

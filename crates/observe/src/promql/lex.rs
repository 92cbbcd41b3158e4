//! The words of a question.

use super::ast::Milliseconds;
use super::parse::ParseError;

/// A word.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Name(String),
    Number(f64),
    Duration(Milliseconds),
    Text(String),
    /// A sign of one or two characters.
    Sign(&'static str),
    End,
}

/// Signs, longest first.
const SIGNS: [&str; 24] =
    ["==", "!=", ">=", "<=", "=~", "!~", "+", "-", "*", "/", "%", "^", "=", ">", "<", "(", ")", "{", "}", "[", "]", ",", ":", "@"];

/// The words of a text, each with the byte at which it begins.
pub(super) fn lex(text: &str) -> Result<Vec<(usize, Token)>, ParseError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    // Within braces a colon is no part of a name, and within brackets it divides.
    let mut brackets = 0_usize;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let length = match first {
            c if c.is_whitespace() => {
                at += c.len_utf8();
                continue;
            }
            '#' => {
                at += rest.find('\n').unwrap_or(rest.len());
                continue;
            }
            '"' | '\'' | '`' => {
                let (value, length) = quoted(rest, first).map_err(|message| ParseError::new(text, at, message))?;
                tokens.push((at, Token::Text(value)));
                length
            }
            c if c.is_ascii_digit() || (c == '.' && rest[1..].starts_with(|next: char| next.is_ascii_digit())) => {
                let (token, length) = number(rest).map_err(|message| ParseError::new(text, at, message))?;
                tokens.push((at, token));
                length
            }
            c if c.is_ascii_alphabetic() || c == '_' || (c == ':' && brackets == 0) => {
                let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || (c == ':' && brackets == 0);
                let length = rest.find(|c| !part(c)).unwrap_or(rest.len());
                tokens.push((at, word(&rest[..length])));
                length
            }
            c => {
                let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign));
                let sign = sign.ok_or_else(|| ParseError::new(text, at, format!("unexpected character: {c:?}")))?;
                match sign {
                    "[" => brackets += 1,
                    "]" => brackets = brackets.saturating_sub(1),
                    _ => {}
                }
                tokens.push((at, Token::Sign(sign)));
                sign.len()
            }
        };
        at += length;
    }
    tokens.push((text.len(), Token::End));
    Ok(tokens)
}

fn word(word: &str) -> Token {
    match word.to_ascii_lowercase().as_str() {
        "inf" => Token::Number(f64::INFINITY),
        "nan" => Token::Number(f64::NAN),
        _ => Token::Name(word.to_owned()),
    }
}

/// A number, or a duration where a unit follows, with how long it is.
fn number(rest: &str) -> Result<(Token, usize), String> {
    if let Some(digits) = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X")) {
        let length = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
        let value = u64::from_str_radix(&digits[..length], 16).map_err(|_| format!("bad number: {:?}", &rest[..length + 2]))?;
        #[allow(clippy::cast_precision_loss, reason = "a number is a float")]
        return Ok((Token::Number(value as f64), length + 2));
    }
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    if rest[digits..].starts_with(['m', 's', 'h', 'd', 'w', 'y']) {
        let length = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let value = duration(&rest[..length]).ok_or_else(|| format!("bad duration: {:?}", &rest[..length]))?;
        return Ok((Token::Duration(value), length));
    }
    let mut length = digits;
    let digits_from = |from: usize| rest[from..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - from);
    if rest[length..].starts_with('.') {
        length += 1 + digits_from(length + 1);
    }
    if rest[length..].starts_with(['e', 'E']) {
        let sign = usize::from(rest[length + 1..].starts_with(['+', '-']));
        length += 1 + sign + digits_from(length + 1 + sign);
    }
    if rest[length..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.') {
        return Err(format!("bad number or duration: {:?}", &rest[..=length]));
    }
    let value = rest[..length].parse().map_err(|_| format!("bad number: {:?}", &rest[..length]))?;
    Ok((Token::Number(value), length))
}

/// A duration as Prometheus writes it: `1h30m`, `500ms`. Units go from large to small, each at most once.
pub(super) fn duration(text: &str) -> Option<Milliseconds> {
    const UNITS: [(&str, i64); 7] =
        [("y", 31_536_000_000), ("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    let mut units = UNITS.into_iter();
    let (mut rest, mut sum) = (text, 0_i64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let count: i64 = rest[..digits].parse().ok()?;
        let end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let (_, factor) = units.find(|(unit, _)| *unit == &rest[digits..end])?;
        sum = sum.checked_add(count.checked_mul(factor)?)?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(sum)
}

/// A text in quotes, with how long it is with them.
fn quoted(rest: &str, quote: char) -> Result<(String, usize), String> {
    let mut value = String::new();
    let mut characters = rest.char_indices().skip(1);
    while let Some((at, c)) = characters.next() {
        match c {
            c if c == quote => return Ok((value, at + 1)),
            '\\' if quote != '`' => {
                let (_, escaped) = characters.next().ok_or("unterminated quoted string")?;
                let mut code = |digits: usize, base: u32| -> Result<u32, String> {
                    let text: String = characters.by_ref().take(digits).map(|(_, c)| c).collect();
                    let read = u32::from_str_radix(&text, base).ok().filter(|_| text.chars().count() == digits);
                    read.ok_or_else(|| format!("unknown escape sequence: \\{escaped}{text}"))
                };
                let value_of =
                    |code: u32| char::from_u32(code).ok_or_else(|| "escape sequence is an invalid Unicode code point".to_owned());
                value.push(match escaped {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    'a' => '\x07',
                    'b' => '\x08',
                    'f' => '\x0c',
                    'v' => '\x0b',
                    '\\' => '\\',
                    c if c == quote => c,
                    'x' => value_of(code(2, 16)?)?,
                    'u' => value_of(code(4, 16)?)?,
                    'U' => value_of(code(8, 16)?)?,
                    other => return Err(format!("unknown escape sequence: \\{other}")),
                });
            }
            '\n' if quote != '`' => break,
            c => value.push(c),
        }
    }
    Err("unterminated quoted string".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_prometheus_reads_them() {
        for (text, expected) in [
            ("5m", Some(300_000)),
            ("1h30m", Some(5_400_000)),
            ("500ms", Some(500)),
            ("1d", Some(86_400_000)),
            ("1w2d", Some(777_600_000)),
            ("1m1h", None),
            ("5", None),
            ("", None),
            ("m", None),
            ("5x", None),
            ("99999999999999999y", None),
        ] {
            assert_eq!(duration(text), expected, "{text}");
        }
    }

    #[test]
    fn texts_have_escapes() {
        for (text, expected) in [
            (r#""a\"b""#, Ok("a\"b")),
            (r"'it\'s'", Ok("it's")),
            (r"`a\d`", Ok(r"a\d")),
            (r#""\u00e9\x41\n""#, Ok("éA\n")),
            (r#""\d""#, Err(())),
            (r#""a"#, Err(())),
            ("\"a\nb\"", Err(())),
            (r#""\u12"#, Err(())),
        ] {
            let read = quoted(text, text.chars().next().unwrap_or_default());
            assert_eq!(read.as_ref().map(|(value, _)| value.as_str()).map_err(|_| ()), expected, "{text}");
        }
    }
}

//! The words of an expression: in goes text, out come tokens, each with its place.

use std::ops::Range;

use super::Wrong;

/// A word.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Word<'t> {
    /// `12`, `0x1f`: without the sign, which stands before it.
    Int(u64),
    /// `12u`
    Uint(u64),
    /// `1.5`, `1e3`
    Double(f64),
    /// `'…'`, `"…"`, `'''…'''`, `r'…'`
    Text(String),
    /// `b'…'`
    Bytes(Vec<u8>),
    /// A name, or a word of the language such as `in` and `true`.
    Name(&'t str),
    /// An operator or a bracket.
    Symbol(&'static str),
    /// Nothing follows.
    End,
}

/// A word and its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token<'t> {
    pub(super) word: Word<'t>,
    pub(super) range: Range<usize>,
}

/// Longer ones first.
const SYMBOLS: [&str; 25] =
    ["&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "+", "-", "*", "/", "%", "?", ":", ".", ",", "(", ")", "[", "]", "{", "}", "="];

/// The words of `text`, with [`Word::End`] behind the last.
pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, Wrong> {
    let mut lexer = Lexer { text, at: 0 };
    let mut found = Vec::new();
    loop {
        let token = lexer.token()?;
        let ended = token.word == Word::End;
        found.push(token);
        if ended {
            return Ok(found);
        }
    }
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Lexer<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn take(&mut self, wanted: &str) -> bool {
        let found = self.rest().starts_with(wanted);
        self.at += if found { wanted.len() } else { 0 };
        found
    }

    fn take_while(&mut self, mut wanted: impl FnMut(char) -> bool) -> &'t str {
        let rest = self.rest();
        let end = rest.find(|letter| !wanted(letter)).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    fn wrong(&self, start: usize, message: impl Into<String>) -> Wrong {
        Wrong::new(start..self.at, message)
    }

    fn token(&mut self) -> Result<Token<'t>, Wrong> {
        loop {
            self.take_while(|letter| matches!(letter, ' ' | '\t' | '\n' | '\r' | '\x0c'));
            if !self.take("//") {
                break;
            }
            self.take_while(|letter| letter != '\n');
        }
        let start = self.at;
        let word = self.word()?;
        Ok(Token { word, range: start..self.at })
    }

    fn word(&mut self) -> Result<Word<'t>, Wrong> {
        let (start, rest) = (self.at, self.rest());
        let Some(first) = rest.chars().next() else { return Ok(Word::End) };
        let next_is_digit = rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
        if first.is_ascii_digit() || (first == '.' && next_is_digit) {
            return self.number();
        }
        if let Some(quoted) = self.quoted()? {
            return Ok(quoted);
        }
        if first.is_ascii_alphabetic() || first == '_' {
            return Ok(Word::Name(self.take_while(|letter| letter.is_ascii_alphanumeric() || letter == '_')));
        }
        if let Some(symbol) = SYMBOLS.into_iter().find(|symbol| self.take(symbol)) {
            let wrong = |message: &str, hint: &str| Err(self.wrong(start, message).hint(hint));
            return if symbol == "=" { wrong("`=` is no operator", "`==` compares") } else { Ok(Word::Symbol(symbol)) };
        }
        self.at += first.len_utf8();
        let wrong = self.wrong(start, format!("`{}` means nothing here", first.escape_debug()));
        Err(match first {
            '&' => wrong.hint("`&&` is the operator"),
            '|' => wrong.hint("`||` is the operator"),
            _ => wrong,
        })
    }

    fn number(&mut self) -> Result<Word<'t>, Wrong> {
        let start = self.at;
        let (digits, radix) = if self.take("0x") || self.take("0X") {
            (self.take_while(|letter| letter.is_ascii_hexdigit()), 16)
        } else {
            (self.take_while(|letter| letter.is_ascii_digit()), 10)
        };
        if radix == 10 && self.fraction() {
            let written = self.text.get(start..self.at).unwrap_or_default();
            let value = written.parse().ok().filter(|value: &f64| value.is_finite());
            let value = value.ok_or_else(|| self.wrong(start, format!("`{written}` is no number that a double holds")))?;
            self.no_letter_follows(start)?;
            return Ok(Word::Double(value));
        }
        let unsigned = self.take("u") || self.take("U");
        let value = u64::from_str_radix(digits, radix);
        let value = value.map_err(|_| self.wrong(start, "the number is no integer of 64 bits"))?;
        self.no_letter_follows(start)?;
        Ok(if unsigned { Word::Uint(value) } else { Word::Int(value) })
    }

    /// Takes what makes a number one with a fraction; nothing where there is none.
    fn fraction(&mut self) -> bool {
        let before = self.at;
        let bytes = self.rest().as_bytes();
        if bytes.first() == Some(&b'.') && bytes.get(1).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
            self.take_while(|letter| letter.is_ascii_digit());
        }
        let exponent = self.at;
        if self.take("e") || self.take("E") {
            let _signed = self.take("+") || self.take("-");
            if self.take_while(|letter| letter.is_ascii_digit()).is_empty() {
                self.at = exponent;
            }
        }
        self.at > before
    }

    fn no_letter_follows(&mut self, start: usize) -> Result<(), Wrong> {
        if self.take_while(|letter| letter.is_ascii_alphanumeric() || letter == '_').is_empty() {
            return Ok(());
        }
        let written = self.text.get(start..self.at).unwrap_or_default();
        Err(self.wrong(start, format!("`{written}` is no number")))
    }

    /// A text or bytes, with what stands before their quotes.
    fn quoted(&mut self) -> Result<Option<Word<'t>>, Wrong> {
        let start = self.at;
        let (mut raw, mut bytes) = (false, false);
        loop {
            if !raw && (self.take("r") || self.take("R")) {
                raw = true;
            } else if !bytes && (self.take("b") || self.take("B")) {
                bytes = true;
            } else {
                break;
            }
        }
        let Some(quote) = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quote| self.take(quote)) else {
            self.at = start;
            return Ok(None);
        };
        let mut text = Quoted { text: String::new(), bytes: Vec::new(), of_bytes: bytes };
        loop {
            if self.take(quote) {
                break;
            }
            let Some(letter) = self.rest().chars().next() else {
                return Err(self.wrong(start, format!("the text does not end: `{quote}` is missing")));
            };
            if quote.len() == 1 && matches!(letter, '\n' | '\r') {
                return Err(self.wrong(start, "a text between single quotes ends on its line").hint("three quotes hold several lines"));
            }
            if letter == '\\' && !raw {
                self.escape(&mut text)?;
            } else {
                self.at += letter.len_utf8();
                text.letter(letter);
            }
        }
        Ok(Some(if bytes { Word::Bytes(text.bytes) } else { Word::Text(text.text) }))
    }

    fn escape(&mut self, into: &mut Quoted) -> Result<(), Wrong> {
        let start = self.at;
        self.at += 1;
        let letter = self.rest().chars().next().unwrap_or('\\');
        self.at += self.rest().chars().next().map_or(0, char::len_utf8);
        let simple = match letter {
            'a' => Some('\x07'),
            'b' => Some('\x08'),
            'f' => Some('\x0c'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\x0b'),
            '\\' | '?' | '"' | '\'' | '`' => Some(letter),
            _ => None,
        };
        if let Some(simple) = simple {
            into.letter(simple);
            return Ok(());
        }
        let (digits, radix) = match letter {
            'x' | 'X' => (2, 16),
            'u' if !into.of_bytes => (4, 16),
            'U' if !into.of_bytes => (8, 16),
            '0'..='3' => {
                self.at -= 1;
                (3, 8)
            }
            _ => {
                return Err(self
                    .wrong(start, "the backslash begins no escape")
                    .hint("a backslash of its own is `\\\\`, or the text is raw: `r'…'`"));
            }
        };
        let written = self.rest().get(..digits).unwrap_or_default();
        // Signs are no digits, though the library takes them.
        let number = written.chars().all(|digit| digit.is_digit(radix)).then(|| u32::from_str_radix(written, radix).ok()).flatten();
        let number = number.ok_or_else(|| self.wrong(start, format!("`\\{letter}` wants {digits} digits")))?;
        self.at += digits;
        match (into.of_bytes, u8::try_from(number), char::from_u32(number)) {
            (true, Ok(byte), _) => into.bytes.push(byte),
            (false, _, Some(letter)) => into.letter(letter),
            _ => return Err(self.wrong(start, "the escape is no letter of Unicode")),
        }
        Ok(())
    }
}

/// What was read between quotes.
struct Quoted {
    text: String,
    bytes: Vec<u8>,
    of_bytes: bool,
}

impl Quoted {
    fn letter(&mut self, letter: char) {
        if self.of_bytes {
            self.bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            self.text.push(letter);
        }
    }
}

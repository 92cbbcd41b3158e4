//! Expressions made by chance: no text makes a panic.

use proptest::prelude::*;

use super::super::Expression;
use super::{NOTHING, Request};

/// Words in an order that often makes sense.
fn words() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "request",
        "source",
        "claims",
        ".",
        "path",
        "headers",
        "method",
        "[",
        "]",
        "(",
        ")",
        "{",
        "}",
        "'a'",
        "b'\\xff'",
        "r'\\'",
        "1",
        "-",
        "2u",
        "0.5",
        "1e400",
        "true",
        "null",
        "in",
        "==",
        "<",
        "&&",
        "||",
        "!",
        "?",
        ":",
        ",",
        "+",
        "%",
        "/",
        "0",
        "has",
        "size",
        "exists",
        "map",
        "x",
        "int",
        "string",
        "type",
        "dyn",
        "timestamp",
        "duration",
        "'1h'",
        "matches",
        "'('",
        "getHours",
        "sub",
        "groups",
        " ",
        "\n",
        "é",
        "9223372036854775808",
        "\\",
    ]);
    prop::collection::vec(word, 0..40).prop_map(|words| words.concat())
}

fn survives(text: &str) {
    match Expression::parse(text) {
        Ok(expression) => {
            let _ = expression.evaluate(&Request::new().attributes());
            let _ = expression.evaluate(&NOTHING);
        }
        Err(wrong) => {
            assert!(!wrong.is_empty());
            wrong.iter().for_each(|wrong| assert!(text.get(wrong.range.clone()).is_some(), "{text:?} {wrong:?}"));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_text_makes_a_panic(text in ".{0,60}") {
        survives(&text);
    }

    #[test]
    fn no_bytes_make_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        survives(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_words_make_a_panic(text in words()) {
        survives(&text);
    }
}

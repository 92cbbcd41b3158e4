//! What is refused, with its place and what to do.

use super::super::{Expression, MOST_BYTES};

fn refused(text: &str) -> Vec<String> {
    let wrong = Expression::parse(text).expect_err(text);
    wrong.iter().map(|wrong| format!("{} | {wrong}", text.get(wrong.range.clone()).expect("a place within the text"))).collect()
}

#[test]
fn mistakes_are_told_with_their_places() {
    for (text, told) in [
        ("request.methd == 'GET'", "request.methd | there is no attribute `request.methd` (hint: did you mean `request.method`?)"),
        ("reqest.method == 'GET'", "reqest | `reqest` is not known (hint: did you mean `request`?)"),
        ("user == 'a'", "user | `user` is not known (hint: there are `request`, `source`, `connection` and `claims`)"),
        (
            "source.namespace == 'a'",
            "source.namespace | there is no attribute `source.namespace` (hint: `source.identity` is `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`)",
        ),
        (
            "source == 'a'",
            "source | `source` is no value of its own (hint: name one of `source.address`, `source.port`, `source.identity`)",
        ),
        ("request.method == 1", "request.method == 1 | `==` does not take a string and an int"),
        (
            "1 == 1u",
            "1 == 1u | `==` does not take an int and a uint (hint: make one of them the other's type: `int(…)`, `uint(…)`, `double(…)`)",
        ),
        ("request.method", "request.method | the expression gives a string, and a condition is true or false"),
        ("request.method && true", "request.method | a string stands where true or false is needed"),
        ("!request.method", "!request.method | `!` does not take a string"),
        ("request.path.startswith('/a')", "startswith | there is no function `startswith` (hint: did you mean `startsWith`?)"),
        (
            "startsWith(request.path, '/a')",
            "startsWith | `startsWith` is not called so (hint: it stands behind its text: `….startsWith(…)`)",
        ),
        ("request.path.startsWith()", "startsWith | `startsWith` takes 1 arguments, and 0 are given"),
        ("request.path.startsWith(1)", "startsWith | `startsWith` does not take a string and an int"),
        (
            "request.time.getHours('Mars') == 1",
            "'Mars' | `Mars` is no zone that is known (hint: write `UTC` or the difference to it, for example `+01:00`)",
        ),
        ("request.path.method == 'a'", "request.path.method | a string has no field `method`"),
        ("'a' in 'abc'", "'a' in 'abc' | a string is never in a string (hint: whether a text is within another asks `text.contains('…')`)"),
        ("1 in ['a']", "1 in ['a'] | an int is never in a list(string)"),
        (
            "size(request.headers) > 3",
            "request.headers | header fields can only be asked for by name (hint: `request.headers['x-name']` is one, and `'x-name' in request.headers` asks whether there is one)",
        ),
        (
            "request.headers[request.path] == 'a'",
            "request.path | this is no name of a header field (hint: write it as a text: `request.headers['x-name']`; path, method and host are `request.path`, `request.method` and `request.host`)",
        ),
        ("destination.port == 80", "destination | `destination` is not known (hint: the port that is called is for `ports` of `to`)"),
        (
            "request.path.matches(request.query)",
            "request.query | the pattern of `matches` must be a literal (hint: it is compiled once, not for each request)",
        ),
        ("request.path.matches('a(')", "'a(' | the pattern is no regular expression: unclosed group"),
        ("true ? 1 : 'a'", "true ? 1 : 'a' | the choice is between an int and a string: both must be of one type"),
        ("{1.5: 1} == {}", "1.5 | a double is no key of a map (hint: keys are strings, integers or bools)"),
        ("[1].all(2, true)", "2 | the first argument of `all` is a name for an element"),
        (
            "[1].all(x)",
            "all | `all` takes 2 arguments, and 1 are given (hint: the first names an element: `list.all(element, element != '')`)",
        ),
        (
            "has(claims)",
            "has(claims) | `has` asks for a field of something (hint: for example `has(claims.email)`; of headers ask `'x-name' in request.headers`)",
        ),
        ("request.method = 'GET'", "= | `=` is no operator (hint: `==` compares)"),
        ("true & false", "& | `&` means nothing here (hint: `&&` is the operator)"),
        ("true &&", " | the expression ends where a value should be"),
        ("(true", " | the expression ends where `)` should be"),
        ("true true", "true | `true` stands where an operator or the end should be"),
        ("'abc", "'abc | the text does not end: `'` is missing"),
        (r"'\q' == ''", r"\q | the backslash begins no escape (hint: a backslash of its own is `\\`, or the text is raw: `r'…'`)"),
        (r"'\ud800' == ''", r"\ud800 | the escape is no letter of Unicode"),
        ("9223372036854775808 > 0", "9223372036854775808 | the number is no integer of 64 bits"),
        ("-9223372036854775809 < 0", "-9223372036854775809 | the number is no integer of 64 bits"),
        ("1e999 > 0.0", "1e999 | `1e999` is no number that a double holds"),
        ("12abc == 1", "12abc | `12abc` is no number"),
        ("package == 1", "package | `package` is a word of the language, and no name"),
        ("Message{a: 1} == 1", "{ | messages cannot be made in an expression (hint: a map is `{'key': value}`)"),
        ("", " | the expression ends where a value should be"),
    ] {
        assert_eq!(refused(text), [told], "{text}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let told = refused("request.methd == 'GET' && source.prot == 80 && size(1) == 2");
    assert_eq!(told.len(), 3, "{told:?}");
}

#[test]
fn what_only_requests_have_is_known() {
    for (text, is_of_http) in [
        ("source.port > 1024 && connection.mtls", false),
        ("connection.mtls || request.path == 'a'", true),
        ("'x-a' in request.headers", true),
        ("has(claims.sub)", true),
    ] {
        assert_eq!(Expression::parse(text).map(|found| found.is_of_http()), Ok(is_of_http), "{text}");
    }
}

#[test]
fn no_expression_is_deep_or_long() {
    let deep = |open: &str, close: &str| format!("{}true{}", open.repeat(300), close.repeat(300));
    for text in [
        deep("(", ")"),
        deep("!", ""),
        deep("[", "]"),
        format!("{}1 == 1", "-".repeat(2000)),
        deep("true?true:", ""),
        deep("{1:", "}"),
        format!("1{} == 1", " + 1".repeat(900)),
        format!("claims{} == 1", ".a".repeat(1500)),
        format!("claims{} == 1", "[0]".repeat(1000)),
        format!("{}'a' == ''", "size(".repeat(700)),
        format!("[1]{} == 1", ".map(x,x)".repeat(400)),
    ] {
        assert!(text.len() <= MOST_BYTES, "{}", text.len());
        let told = refused(&text);
        assert!(told[0].contains("parts stand within each other here"), "{told:?}");
    }
    let long = format!("true{}", " ".repeat(MOST_BYTES));
    assert!(refused(&long)[0].contains("an expression has at most 4096 bytes, and this one 4100"));
    // As deep as the language asks for.
    for text in [format!("1{} == 25", " + 1".repeat(24)), format!("{}true", "false ? false : ".repeat(24))] {
        assert!(Expression::parse(&text).is_ok(), "{text}");
    }
    // Conditions in a row are not deep.
    assert!(Expression::parse(&format!("true{}", " && true".repeat(400))).is_ok());
}

//! What expressions mean: the cases of the language's own tests, in words of ours.

use super::super::{Expression, Failure};
use super::{NOTHING, Request, all_fail, all_hold, evaluated, parsed};

#[test]
fn a_request_is_asked_by_envoys_names() {
    all_hold(&[
        "request.path == '/recordings/42?part=1&of=2#end'",
        "request.url_path == '/recordings/42'",
        "request.query == 'part=1&of=2'",
        "request.host == 'recording.contact.mesh:80'",
        "request.method == 'GET' && request.protocol == 'HTTP/2'",
        "request.headers['x-tier'] == 'gold' && request.headers['X-Tier'] == 'gold'",
        "request.headers['host'] == request.host && request.headers.host == request.host",
        "'x-tier' in request.headers && !('x-none' in request.headers)",
        "request.headers.via == '' || !has(request.headers.via)",
        "request.headers['x-empty'] == '' && request.headers['x-many'] == 'a,b'",
        "request.time > timestamp('2026-11-30T00:00:00Z') && request.time.getDayOfWeek() == 1",
        "source.address == '240.0.0.7:40123' && source.port == 40123",
        "connection.mtls && connection.requested_server_name.startsWith('80.')",
        "connection.uri_san_peer_certificate == source.identity",
        "source.identity.startsWith('spiffe://mesh.example/ns/contact/') && source.identity.matches('/sa/call-[a-z]+$')",
        "claims.sub == 'alice' && claims['sub'] == claims.sub && has(claims.sub) && !has(claims.email)",
        "claims.level >= 3 && claims.level == 3 && claims.level < 3.5 && claims['level'] + 1.0 == 4.0",
        "'agents' in claims.groups && claims.groups.exists(group, group.startsWith('lead')) && size(claims.groups) == 2",
        "claims.org.name == 'contact' && claims.org.floors[1] == 2 && claims.org == {'name': 'contact', 'floors': [1, 2]}",
        "!claims.admin && claims.none == null && type(claims.level) == double && type(claims.org) == map",
        "claims.exists(name, name == 'sub') && 'sub' in claims",
    ]);
}

#[test]
fn what_is_not_there_neither_holds_nor_not() {
    all_fail(&[
        ("request.headers['x-bytes'] == 'a'", Failure::Conversion),
        ("request.headers['x-bytes'] != 'a'", Failure::Conversion),
        ("request.headers['x-none'] != 'a'", Failure::NoKey),
        ("claims.email == ''", Failure::NoKey),
        ("has(claims.email.domain)", Failure::NoKey),
        ("claims.sub.name == ''", Failure::WrongType),
        ("claims.level.startsWith('3')", Failure::WrongType),
        ("claims.sub", Failure::WrongType),
        ("!claims.sub", Failure::WrongType),
        ("claims.groups[2] == ''", Failure::OutOfRange),
        ("claims.groups[-1] == ''", Failure::OutOfRange),
        ("claims.groups[0.5] == ''", Failure::OutOfRange),
        ("claims.sub < 3", Failure::WrongType),
    ]);
    for text in [
        "request.path == ''",
        "request.url_path == ''",
        "request.query == ''",
        "request.time != timestamp(0)",
        "source.identity != 'a'",
        "has(claims.sub)",
        "request.headers['host'] != ''",
        "!(source.identity == 'a')",
    ] {
        let found = parsed(text).evaluate(&NOTHING).map_err(|error| error.failure);
        assert!(matches!(found, Err(Failure::NoAttribute | Failure::NoKey)), "{text} {found:?}");
    }
    assert_eq!(parsed("!connection.mtls && connection.requested_server_name == '' && !has(source.identity)").evaluate(&NOTHING), Ok(true));
}

#[test]
fn an_error_tells_its_place() {
    let text = "request.method == 'GET' && 1 / int(claims.level - 3.0) == 1";
    let error = evaluated(text).unwrap_err();
    assert_eq!((error.failure, &text[error.range()]), (Failure::DivisionByZero, "1 / int(claims.level - 3.0)"));
    assert_eq!(error.to_string(), "it divides by nought (bytes 27 to 54 of the expression)");
}

#[test]
fn what_decides_outweighs_what_fails() {
    all_hold(&[
        "true || 1 / 0 == 1",
        "1 / 0 == 1 || true",
        "!(false && 1 / 0 == 1)",
        "!(1 / 0 == 1 && false)",
        "request.headers['x-bytes'] == 'a' || request.headers['x-none'] == 'b' || request.method == 'GET'",
        "true ? true : 1 / 0 == 1",
        "false ? 1 / 0 == 1 : true",
        "[1, 2, 3].exists(e, 6 / (2 - e) == 6)",
        "![1, 2, 3].all(e, 6 / (2 - e) == 6)",
        "dyn('a') || true",
    ]);
    all_fail(&[
        ("true && 1 / 0 == 1", Failure::DivisionByZero),
        ("1 / 0 == 1 || false", Failure::DivisionByZero),
        ("1 / 0 == 1 ? true : true", Failure::DivisionByZero),
        ("dyn('less') && dyn('great')", Failure::WrongType),
        ("[1, 2, 3].exists(e, e / 0 == 17)", Failure::DivisionByZero),
        ("[1, 2, 3].all(e, e / 0 != 17)", Failure::DivisionByZero),
        ("[3, 2, 1, 0].exists_one(n, 12 / n > 1)", Failure::DivisionByZero),
        ("[3, 2, 1, 0].filter(n, 12 / n > 4) == [1]", Failure::DivisionByZero),
        ("[2, 1, 0].map(n, 4 / n) == [1]", Failure::DivisionByZero),
    ]);
}

#[test]
fn operators_bind_as_in_the_language() {
    all_hold(&[
        "1 + 2 * 3 == 7",
        "(1 + 2) * 3 == 9",
        "10 - 2 - 3 == 5",
        "100 / 10 / 2 == 5",
        "7 % 4 * 2 == 6",
        "true || false && false",
        "!(true && false) == true",
        "!false && !!true",
        "-2 * -3 == 6 && - (2) == -2 && --2 == 2",
        "1 < 2 == true",
        "false ? true : false ? false : true",
        "1 in [1] == true",
        "2 - -1 == 3 && 2-1 == 1",
        "[1, 2,][1] == 2 && {'a': 1,}.a == 1",
        "{'a': [1, {'b': 'c'}]}['a'][1] == {'b': 'c'}",
        "true // and nothing more",
        "1 // one\n == 1",
    ]);
}

#[test]
fn literals_are_read_as_the_language_says() {
    all_hold(&[
        r#""it's" == 'it\'s' && 'a' + "b" == 'ab'"#,
        r"r'\n' == '\\n' && R'\' == '\\'",
        r"'\x41\u00e9\U0001F600\101' == 'Aé😀A'",
        r"'\a\b\f\n\r\t\v\?\`' == '\x07\x08\x0c\x0a\x0d\x09\x0b?`'",
        "'''two\nlines''' == 'two\\nlines' && \"\"\"a\"b\"\"\" == 'a\"b'",
        r"b'\xff\377' == b'\377\xFF' && b'é' == b'\303\251' && br'\x' == b'\\x' && rb'a' == b'a'",
        r"bytes('\377') != b'\377' && bytes('ÿ') == b'\303\277'",
        "0x1F == 31 && 0XffU == 255u && 18446744073709551615u > 0u",
        "-9223372036854775808 < 9223372036854775807 && -0x8000000000000000 == -9223372036854775808",
        "1e3 == 1000.0 && .5 == 0.5 && 1.5e-1 == 0.15 && 1E+2 == 100.0",
        "size('aé😀') == 3 && 'aé'.size() == 2 && size(b'é') == 2 && size([]) == 0 && {'a': 1}.size() == 1",
        "null == null && [] == [] && {} == {} && [null] != []",
    ]);
}

#[test]
fn numbers_do_not_wrap() {
    all_fail(&[
        ("9223372036854775807 + 1 > 0", Failure::Overflow),
        ("-9223372036854775808 - 1 < 0", Failure::Overflow),
        ("-(-9223372036854775808) > 0", Failure::Overflow),
        ("9223372036854775807 * 2 > 0", Failure::Overflow),
        ("-9223372036854775808 / -1 > 0", Failure::Overflow),
        ("-9223372036854775808 % -1 == 0", Failure::Overflow),
        ("0u - 1u > 0u", Failure::Overflow),
        ("18446744073709551615u + 1u > 0u", Failure::Overflow),
        ("5000000000u * 5000000000u > 0u", Failure::Overflow),
        ("1 / 0 == 1", Failure::DivisionByZero),
        ("1u % 0u == 1u", Failure::DivisionByZero),
    ]);
    all_hold(&[
        "1.0 / 0.0 > 1e308 && -1.0 / 0.0 < -1e308",
        "double('NaN') != double('NaN') && !(double('NaN') < 1.0) && !(double('NaN') >= 1.0)",
        "7 / -2 == -3 && -7 % 3 == -1 && 7u / 2u == 3u",
        "0.0 == -0.0",
        // Whatever their types, numbers are compared by what they count.
        "1 < 2u && 1u <= 1.0 && 2.5 > 2 && -1 < 0u && 1e30 > 9223372036854775807 && -0.5 < 0",
        "dyn(1) == 1u && dyn(1.0) == 1 && dyn(9007199254740993) != 9007199254740992.0 && dyn(1) != 'a' && dyn(1) in [1.0]",
        "{1: 'a'}[dyn(1u)] == 'a' && dyn(1.0) in {1: 2}",
    ]);
}

#[test]
fn values_are_converted_and_out_of_bounds_is_an_error() {
    all_hold(&[
        "int(42u) == 42 && int(-7.9) == -7 && int('987') == 987 && int(timestamp('2004-09-16T23:59:59Z')) == 1095379199",
        "int(timestamp('1969-12-31T23:59:59.5Z')) == -1",
        "uint(3.14) == 3u && uint(1e19) == 10000000000000000000u && uint('300') == 300u && uint(1729) == 1729u",
        "double(9223372036854775807) == 9.223372036854775807e18 && double('-5.43e-21') == -5.43e-21 && double(3u) == 3.0",
        "string(123) == '123' && string(-456) == '-456' && string(9876u) == '9876' && string(true) == 'true' && string('a') == 'a'",
        "string(123.456) == '123.456' && string(-4.5e-3) == '-0.0045' && string(1e30) == '1e+30' && string(0.00001) == '1e-05' && string(1000000.0) == '1e+06' && string(999999.0) == '999999'",
        r"string(b'abc') == 'abc' && string(b'\303\277') == 'ÿ'",
        "string(timestamp('9999-12-31T23:59:59.999999999Z')) == '9999-12-31T23:59:59.999999999Z' && string(timestamp(0)) == '1970-01-01T00:00:00Z'",
        "string(duration('1000000s')) == '1000000s' && string(duration('1m0.5s')) == '60.500s' && string(duration('-500100us')) == '-0.500100s'",
        "bool('true') && !bool('f') && bool(true)",
        "type(1) == int && type(1u) == uint && type('') == string && type(int) == type && type(null) == null_type && type([1]) == list",
        "type(b'') == bytes && type(true) == bool && type(0.0) != type(0)",
        "'TacoCÆt'.lowerAscii() == 'tacocÆt' && 'tacoCæt'.upperAscii() == 'TACOCæT'",
    ]);
    all_fail(&[
        ("int(18446744073709551615u) > 0", Failure::Overflow),
        ("int(1e99) > 0", Failure::Overflow),
        ("int(9223372036854775808.0) > 0", Failure::Overflow),
        ("int(double('NaN')) > 0", Failure::Overflow),
        ("int('1.5') > 0", Failure::Conversion),
        ("int('1 1') > 0", Failure::Conversion),
        ("bool('T')", Failure::Conversion),
        ("uint(-1) > 0u", Failure::Overflow),
        ("uint(-1.5) > 0u", Failure::Overflow),
        ("uint('-1') > 0u", Failure::Conversion),
        ("uint(6.022e23) > 0u", Failure::Overflow),
        ("bool('yes')", Failure::Conversion),
        (r"string(b'\000\xff') == ''", Failure::Conversion),
    ]);
}

#[test]
fn texts_are_looked_into() {
    all_hold(&[
        "'hello'.startsWith('he') && !'hello'.startsWith('lo') && 'hello'.startsWith('')",
        "'hello'.endsWith('lo') && !'hello'.endsWith('hell') && ''.endsWith('')",
        "'hello'.contains('ll') && !'hello'.contains('x')",
        "'hello'.matches('l+') && matches('hello', '^h.*o$') && !'hello'.matches('^l')",
        r"'abc123'.matches(r'\d{3}$') && !'abc٣'.matches('\\d') && '/Café'.matches('(?i)/café')",
        "'a' < 'b' && 'a' < 'aa' && 'B' < 'a' && b'a' < b'b' && false < true",
    ]);
}

#[test]
fn macros_go_through_lists_and_keys() {
    all_hold(&[
        "[1, 2, 3].all(e, e > 0) && [].all(e, e > 0) && ![1, 2, 3].all(e, e == 2)",
        "[1, 2, 3].exists(e, e == 2) && ![].exists(e, e == 2)",
        "{'key1': 1, 'key2': 2}.exists(k, k == 'key2') && !{'a': 1}.all(k, k == 'b')",
        "[6, 7, 8].exists_one(foo, foo % 5 == 2) && ![0, 1, 2, 3, 4].exists_one(n, n % 2 == 1) && ![].exists_one(a, a == 7)",
        "[0, 1, 2, 3, 4].filter(x, x % 2 == 1) == [1, 3] && {0: 10, 1: 11}.filter(x, x > 0) == [1] && [].filter(n, n == 0) == []",
        "[2, 4, 6].map(n, n / 2) == [1, 2, 3] && {1: 1, 2: 4}.map(x, x * x) == [1, 4] && [1, 2, 3].map(n, n > 1, n * n) == [4, 9]",
        // An inner name hides an outer one, and an attribute.
        "[1].all(x, [2].all(x, x == 2) && x == 1)",
        "['a', 'b'].exists(x, ['b', 'c'].exists(y, x == y))",
        "[{'path': 'a'}].all(request, request.path == 'a')",
        "[1, 2].map(x, [x].map(y, x + y)) == [[2], [4]]",
    ]);
}

#[test]
fn time_is_taken_apart() {
    all_hold(&[
        "timestamp('2009-02-13T23:31:30Z').getFullYear() == 2009 && timestamp('2009-02-13T23:31:30Z').getMonth() == 1",
        "timestamp('2009-02-13T23:31:30Z').getDate() == 13 && timestamp('2009-02-13T23:31:30Z').getDayOfMonth() == 12",
        "timestamp('2009-02-13T23:31:30Z').getDayOfWeek() == 5 && timestamp('2009-02-13T23:31:30Z').getDayOfYear() == 43",
        "timestamp('2009-02-15T00:00:00Z').getDayOfWeek() == 0",
        "timestamp('2009-02-13T23:31:30Z').getHours() == 23 && timestamp('2009-02-13T23:31:30Z').getMinutes() == 31",
        "timestamp('2009-02-13T23:31:20.123456789Z').getMilliseconds() == 123 && timestamp(1234567890).getSeconds() == 30",
        "timestamp('2009-02-13T23:31:30Z').getDayOfMonth('+11:00') == 13 && timestamp('2009-02-13T02:00:00Z').getDayOfMonth('-02:30') == 11",
        "timestamp('2009-02-13T23:31:30Z').getHours('02:00') == 1 && timestamp('2009-02-13T23:31:30Z').getMonth('UTC') == 1",
        "timestamp('2009-02-14T01:31:30+02:00') == timestamp('2009-02-13t23:31:30z')",
        "timestamp('2009-02-13T23:00:00Z') + duration('240s') == timestamp('2009-02-13T23:04:00Z')",
        "duration('120s') + timestamp('2009-02-13T23:01:00Z') == timestamp('2009-02-13T23:03:00Z')",
        "timestamp('2009-02-13T23:31:00Z') - timestamp('2009-02-13T23:29:00Z') == duration('2m')",
        "timestamp('0001-01-01T00:00:01.000000001Z') + duration('-999999999ns') == timestamp('0001-01-01T00:00:00.000000002Z')",
        "duration('1h2m3.5s') == duration('3723500ms') && duration('0') == duration('0s') && duration('1us') == duration('1000ns')",
        "duration('900s') - duration('42s') == duration('858s') && duration('200s') < duration('300s')",
        "duration('10000s').getHours() == 2 && duration('3730s').getMinutes() == 62 && duration('3730s').getSeconds() == 3730",
        "duration('123.321456789s').getMilliseconds() == 321",
    ]);
    all_fail(&[
        ("timestamp('0000-01-01T00:00:00Z') == timestamp(0)", Failure::Overflow),
        ("timestamp('10000-01-01T00:00:00Z') == timestamp(0)", Failure::Conversion),
        ("timestamp('2009-02-30T00:00:00Z') == timestamp(0)", Failure::Conversion),
        ("timestamp('2009-02-13 23:31:30Z') == timestamp(0)", Failure::Conversion),
        ("timestamp('2009-02-13T23:31:30') == timestamp(0)", Failure::Conversion),
        ("timestamp(9223372036854775807) == timestamp(0)", Failure::Overflow),
        ("timestamp('0001-01-01T00:00:00Z') + duration('-1ns') == timestamp(0)", Failure::Overflow),
        ("timestamp('9999-12-31T23:59:59Z') + duration('1s') == timestamp(0)", Failure::Overflow),
        ("duration('320000000000s') == duration('0')", Failure::Overflow),
        ("duration('200000000000s') + duration('200000000000s') == duration('0')", Failure::Overflow),
        ("duration('1') == duration('0')", Failure::Conversion),
        ("duration('') == duration('0')", Failure::Conversion),
        ("duration('1x') == duration('0')", Failure::Conversion),
        ("duration('.s') == duration('0')", Failure::Conversion),
        ("timestamp(0).getHours(claims.sub) == 0", Failure::Conversion),
    ]);
}

#[test]
fn a_map_has_a_key_once() {
    all_fail(&[("{'a': 1, 'a': 2}.a == 1", Failure::RepeatedKey), ("{dyn(1): 1, dyn(1u): 2} == {}", Failure::RepeatedKey)]);
    all_fail(&[("{dyn(1.5): 1} == {}", Failure::WrongType)]);
}

#[test]
fn no_evaluation_takes_long() {
    let list = "[0,1,2,3,4,5,6,7,8,9]";
    let nested = format!("{list}.all(a, {list}.all(b, {list}.all(c, {list}.all(d, a + b + c + d >= 0))))");
    // Each list holds the one before twice.
    let doubled = format!("size({}) == 2", (0..9).fold("[1]".to_owned(), |list, _| format!("[{list}].map(x, [x, x])[0]")));
    let compared = format!("[[1]].exists(z, {0} == {0})", (0..14).fold("z".to_owned(), |list, _| format!("[{list}].map(x, [x, x])")));
    let grown = (0..9).fold("'aaaaaaaaaaaaaaaa'".to_owned(), |text, _| format!("[{text}].map(x, x + x + x + x)[0]"));
    for text in [nested, compared, format!("{grown} == ''")] {
        assert_eq!(evaluated(&text).map_err(|error| error.failure), Err(Failure::TooCostly), "{text}");
    }
    // Deep, but cheap.
    assert_eq!(evaluated(&doubled), Ok(true));
    // What decides does not outweigh that it takes too long.
    let nested = format!("{list}.all(a, {list}.all(b, {list}.all(c, {list}.all(d, true)))) || true");
    assert_eq!(evaluated(&nested).map_err(|error| error.failure), Err(Failure::TooCostly));
}

#[test]
fn an_expression_is_kept_as_its_text() {
    let expression = parsed("request.method  ==  'GET' // only");
    let written = serde_json::to_string(&expression).unwrap();
    assert_eq!(written, r#""request.method  ==  'GET' // only""#);
    let read: Expression = serde_json::from_str(&written).unwrap();
    assert_eq!(read, expression);
    assert_eq!(read.evaluate(&Request::new().attributes()), Ok(true));
    assert!(serde_json::from_str::<Expression>(r#""request.methd == 'GET'""#).unwrap_err().to_string().contains("did you mean"));
}

//! Canonical JSON text: the grammar, its limits, and what lenient parsing lets through.
#![allow(clippy::unwrap_used, reason = "tests")]

use canonical::{MAX_DEPTH, Numbers, parse};

fn canonical(text: &str, numbers: Numbers) -> Result<String, String> {
    match parse(text.as_bytes(), numbers) {
        Ok(value) => Ok(String::from_utf8(value.to_bytes()).unwrap()),
        Err(error) => Err(error.to_string()),
    }
}

#[track_caller]
fn both(text: &str, expected: &str) {
    assert_eq!(canonical(text, Numbers::Strict).as_deref(), Ok(expected));
    assert_eq!(canonical(text, Numbers::Lenient).as_deref(), Ok(expected));
}

#[track_caller]
fn neither(text: &str, reason: &str) {
    for numbers in [Numbers::Strict, Numbers::Lenient] {
        let error = canonical(text, numbers).unwrap_err();
        assert!(error.contains(reason), "{text:?}: {error:?} is not {reason:?}");
    }
}

#[track_caller]
fn only_lenient(text: &str, expected: &str) {
    assert!(canonical(text, Numbers::Strict).is_err(), "{text:?}");
    assert_eq!(canonical(text, Numbers::Lenient).as_deref(), Ok(expected));
}

#[test]
fn text_is_shortened_and_keys_are_sorted_by_code_point() {
    both(" { \"b\" : [ 1 , true ,\tfalse,\r\nnull ] , \"a\" : { } } ", r#"{"a":{},"b":[1,true,false,null]}"#);
    both(
        r#"{"\uffff":1,"\ud83d\ude00":2,"Z":3,"a":4,"":5}"#,
        "{\"\":5,\"Z\":3,\"a\":4,\"\u{ffff}\":1,\"\u{1f600}\":2}",
    );
    both("[[],{}]", "[[],{}]");
}

#[test]
fn the_last_of_duplicate_keys_wins() {
    both(r#"{"a":1,"a":2}"#, r#"{"a":2}"#);
    both(r#"{"a":1,"b":2,"a":3,"a":4,"b":5,"\u0061":6}"#, r#"{"a":6,"b":5}"#);
}

#[test]
fn strings_have_only_the_escapes_of_the_grammar() {
    both(
        r#""\u0000\u001F\u007f\u00e9\/\"\\\b\f\n\r\t""#,
        "\"\\u0000\\u001f\u{7f}\u{e9}/\\\"\\\\\\b\\f\\n\\r\\t\"",
    );
    both("\" a ! \"", "\" a ! \"");
    neither("\"\n\"", "not escaped");
    neither("\"\u{1f}\"", "not escaped");
    neither(r#""\x""#, "escape");
    neither(r#""\u12g4""#, "hexadecimal");
    neither("\"abc", "ends inside");
    neither("\"abc\\", "escape");
}

#[test]
fn lone_surrogates_are_errors() {
    for text in [
        r#""\ud800""#,
        r#""\udc00""#,
        r#""\ud800\ud800""#,
        r#""\ud800x""#,
        r#""\ud800\n""#,
        r#"{"\udfff":1}"#,
    ] {
        neither(text, "surrogate");
    }
    both(r#""\ud800\udc00\udbff\udfff""#, "\"\u{10000}\u{10ffff}\"");
    assert!(parse(b"\"\xed\xa0\x80\"", Numbers::Lenient).is_err());
}

#[test]
fn integers_end_at_two_to_the_53() {
    both("[9007199254740991,-9007199254740991,0]", "[9007199254740991,-9007199254740991,0]");
    only_lenient("9007199254740992", "9007199254740992");
    only_lenient("-9007199254740992", "-9007199254740992");
    only_lenient("9223372036854775808", "9223372036854775808");
    only_lenient("123456789012345678901234567890", "123456789012345678901234567890");
}

#[test]
fn lenient_numbers_keep_their_text_but_for_two_forms() {
    only_lenient("-0", "0");
    only_lenient("1e10", "10000000000");
    only_lenient("-1.5E+1", "-15");
    only_lenient("9007199254740991e0", "9007199254740991");
    only_lenient("9007199254740992e0", "9007199254740992e0");
    only_lenient("1.0", "1.0");
    only_lenient("50.57", "50.57");
    only_lenient("1e-7", "1e-7");
    only_lenient("1e+16", "1e+16");
    only_lenient("1e999", "1e999");
    only_lenient("-0.0", "-0.0");
    only_lenient("-0e1", "-0e1");
}

#[test]
fn what_is_not_json_is_an_error() {
    for text in [
        "",
        " ",
        "01",
        "-",
        "+1",
        ".5",
        "1.",
        "1e",
        "1e+",
        "0x1",
        "NaN",
        "Infinity",
        "-Infinity",
        "nul",
        "truee",
        "{",
        "[",
        "[1",
        "[1,",
        "[1,]",
        "[1 2]",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1",
        "{\"a\":1,",
        "{\"a\":1,}",
        "{a:1}",
        "{1:1}",
        "{\"a\" 1}",
        "1 2",
        "\u{feff}1",
        "'a'",
        "]",
        "}",
        ",",
        "/* */1",
    ] {
        neither(text, "");
    }
    assert!(parse(b"\"\xff\"", Numbers::Strict).is_err());
    assert!(canonical(&"9".repeat(2000), Numbers::Lenient).is_err());
}

#[test]
fn nesting_is_limited() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    both(&nested(MAX_DEPTH), &nested(MAX_DEPTH));
    neither(&nested(MAX_DEPTH + 1), "too deeply");
    neither(&"[".repeat(1_000_000), "too deeply");
    neither(&"{\"a\":".repeat(1_000_000), "too deeply");
}

//! Canonical JSON text out of values.

use crate::value::{Object, Value};

/// Append a value.
pub fn value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int(number) => int(out, *number),
        Value::Number(text) => out.extend_from_slice(text.as_bytes()),
        Value::String(text) => string(out, text),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                self::value(out, item);
            }
            out.push(b']');
        }
        Value::Object(entries) => object(out, entries, |_| true),
    }
}

/// Append an object with those of its keys that are wanted.
pub fn object(out: &mut Vec<u8>, entries: &Object, wanted: impl Fn(&str) -> bool) {
    out.push(b'{');
    let mut first = true;
    for (key, item) in entries.iter().filter(|(key, _)| wanted(key)) {
        if !first {
            out.push(b',');
        }
        first = false;
        string(out, key);
        out.push(b':');
        value(out, item);
    }
    out.push(b'}');
}

/// Append a whole number.
pub fn int(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(number.to_string().as_bytes());
}

/// Append a string with the escapes of the canonical grammar and no others.
pub fn string(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(length) = rest.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        let (plain, from_special) = rest.split_at(length);
        out.extend_from_slice(plain);
        if let [special, after @ ..] = from_special {
            match special {
                b'"' => out.extend_from_slice(b"\\\""),
                b'\\' => out.extend_from_slice(b"\\\\"),
                0x08 => out.extend_from_slice(b"\\b"),
                b'\t' => out.extend_from_slice(b"\\t"),
                b'\n' => out.extend_from_slice(b"\\n"),
                0x0c => out.extend_from_slice(b"\\f"),
                b'\r' => out.extend_from_slice(b"\\r"),
                control => {
                    out.extend_from_slice(b"\\u00");
                    for nibble in [control >> 4, control & 15] {
                        out.extend(HEX.get(usize::from(nibble)));
                    }
                }
            }
            rest = after;
        }
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

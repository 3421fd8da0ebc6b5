//! JSON text into values, strictly (room versions 6 and later) or leniently (1 to 5).
//!
//! In both modes the text must be JSON in UTF-8, a lone surrogate is an error rather than replaced,
//! nesting is limited, and of duplicate keys the last one wins.

use crate::error::JsonError;
use crate::value::{Object, Value};

/// How deeply arrays and objects may be nested.
pub const MAX_DEPTH: usize = 100;
/// The largest integer of canonical JSON, 2^53 - 1.
pub const MAX_INT: i64 = (1 << 53) - 1;
/// How long the text of one number may be; only lenient parsing gets near it.
const MAX_NUMBER_LENGTH: usize = 1024;

/// Which numbers are let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// Only integers in ±(2^53 - 1), without fraction, exponent or negative zero.
    Strict,
    /// Any number of JSON, its text kept as it is. Two forms are rewritten as the specification's examples
    /// show: `-0` becomes `0`, and an exponent form of an integer in ±(2^53 - 1) becomes that integer.
    Lenient,
}

/// Parse a whole JSON text.
pub fn parse(raw: &[u8], numbers: Numbers) -> Result<Value, JsonError> {
    let text = std::str::from_utf8(raw)
        .map_err(|error| JsonError::at("the text is not valid UTF-8", error.valid_up_to()))?;
    let mut parser = Parser { text, at: 0, numbers };
    let value = parser.value(0)?;
    parser.blanks();
    if parser.at < text.len() {
        return Err(parser.error("there is more text after the end of the value"));
    }
    Ok(value)
}

/// Parse a whole JSON text that must be an object.
pub fn parse_object(raw: &[u8], numbers: Numbers) -> Result<Object, JsonError> {
    match parse(raw, numbers)? {
        Value::Object(object) => Ok(object),
        _ => Err(JsonError::new("the text is not a JSON object")),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    numbers: Numbers,
}

impl<'a> Parser<'a> {
    fn error(&self, reason: &'static str) -> JsonError {
        JsonError::at(reason, self.at)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    fn slice(&self, from: usize) -> &'a str {
        self.text.get(from..self.at).unwrap_or_default()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn word(&mut self, word: &'static str, value: Value) -> Result<Value, JsonError> {
        if !self.rest().starts_with(word.as_bytes()) {
            return Err(self.error("this is not a JSON value"));
        }
        self.at += word.len();
        Ok(value)
    }

    /// A value inside of `depth` arrays and objects.
    fn value(&mut self, depth: usize) -> Result<Value, JsonError> {
        self.blanks();
        match self.peek() {
            Some(b'"') => Ok(Value::String(self.string()?)),
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(_) => Err(self.error("this is not a JSON value")),
            None => Err(self.error("the text ends where a value should be")),
        }
    }

    fn descend(&mut self, depth: usize) -> Result<(), JsonError> {
        if depth > MAX_DEPTH {
            return Err(self.error("values are nested too deeply"));
        }
        self.at += 1;
        self.blanks();
        Ok(())
    }

    fn array(&mut self, depth: usize) -> Result<Value, JsonError> {
        self.descend(depth)?;
        let mut items = Vec::new();
        if self.take(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value(depth)?);
            self.blanks();
            if self.take(b']') {
                return Ok(Value::Array(items));
            }
            if !self.take(b',') {
                return Err(self.error("a comma or the end of the array is missing"));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, JsonError> {
        self.descend(depth)?;
        let mut entries = Vec::new();
        if self.take(b'}') {
            return Ok(Value::Object(Object::new()));
        }
        loop {
            self.blanks();
            if self.peek() != Some(b'"') {
                return Err(self.error("a key in double quotes is missing"));
            }
            let key = self.string()?;
            self.blanks();
            if !self.take(b':') {
                return Err(self.error("a colon is missing after a key"));
            }
            entries.push((key, self.value(depth)?));
            self.blanks();
            if self.take(b'}') {
                return Ok(Value::Object(Object::from_entries(entries)));
            }
            if !self.take(b',') {
                return Err(self.error("a comma or the end of the object is missing"));
            }
        }
    }

    fn string(&mut self) -> Result<String, JsonError> {
        self.at += 1;
        let mut text = String::new();
        loop {
            let start = self.at;
            let length = self
                .rest()
                .iter()
                .position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\')
                .ok_or_else(|| JsonError::at("the text ends inside of a string", start))?;
            self.at += length;
            let plain = self.slice(start);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    if text.is_empty() {
                        return Ok(plain.to_owned());
                    }
                    text.push_str(plain);
                    return Ok(text);
                }
                Some(b'\\') => {
                    text.push_str(plain);
                    text.push(self.escape()?);
                }
                _ => return Err(self.error("a control character in a string is not escaped")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        let start = self.at;
        self.at += 1;
        let kind = self.peek();
        self.at += 1;
        Ok(match kind {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let lone = JsonError::at("a string contains a lone surrogate", start);
                let unit = self.hex()?;
                match unit {
                    0xd800..=0xdbff => {
                        if !self.rest().starts_with(b"\\u") {
                            return Err(lone);
                        }
                        self.at += 2;
                        let low = self.hex()?;
                        if !(0xdc00..=0xdfff).contains(&low) {
                            return Err(lone);
                        }
                        let code = 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                        char::from_u32(code).ok_or(lone)?
                    }
                    _ => char::from_u32(unit).ok_or(lone)?,
                }
            }
            _ => return Err(JsonError::at("this escape does not exist in JSON", start)),
        })
    }

    fn hex(&mut self) -> Result<u32, JsonError> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            unit = unit * 16 + digit.ok_or_else(|| self.error("an escape needs four hexadecimal digits"))?;
            self.at += 1;
        }
        Ok(unit)
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.error("a digit is missing in a number")) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<Value, JsonError> {
        let start = self.at;
        let strict = self.numbers == Numbers::Strict;
        self.take(b'-');
        if self.take(b'0') {
            if matches!(self.peek(), Some(b'0'..=b'9')) {
                return Err(JsonError::at("a number begins with a needless zero", start));
            }
        } else {
            self.digits()?;
        }
        let mut fraction = false;
        let mut exponent = false;
        if self.take(b'.') {
            fraction = true;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            exponent = true;
            self.at += 1;
            if !self.take(b'+') {
                self.take(b'-');
            }
            self.digits()?;
        }
        let text = self.slice(start);
        if strict {
            if fraction || exponent {
                return Err(JsonError::at("a number has a fraction or an exponent", start));
            }
            if text == "-0" {
                return Err(JsonError::at("a number is negative zero", start));
            }
            return match text.parse::<i64>() {
                Ok(number) if (-MAX_INT..=MAX_INT).contains(&number) => Ok(Value::Int(number)),
                _ => Err(JsonError::at("an integer is outside of the range of canonical JSON", start)),
            };
        }
        if text.len() > MAX_NUMBER_LENGTH {
            return Err(JsonError::at("a number is too long", start));
        }
        if !fraction && !exponent {
            // `-0` parses as 0.
            if let Ok(number) = text.parse::<i64>() {
                return Ok(Value::Int(number));
            }
        } else if exponent && let Some(number) = exact_int(text) {
            return Ok(Value::Int(number));
        }
        Ok(Value::Number(text.into()))
    }
}

/// The integer that a number in exponent form stands for, if it is one within ±(2^53 - 1).
fn exact_int(text: &str) -> Option<i64> {
    let number: f64 = text.parse().ok()?;
    #[allow(clippy::cast_precision_loss, reason = "2^53 - 1 has an exact double")]
    let largest = MAX_INT as f64;
    if number.fract() != 0.0 || number.abs() > largest || (number == 0.0 && text.starts_with('-')) {
        return None;
    }
    #[allow(clippy::cast_possible_truncation, reason = "whole and in range, as checked above")]
    Some(number as i64)
}

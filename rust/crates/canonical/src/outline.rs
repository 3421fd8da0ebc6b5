//! What JSON text consists of, found without making values of it: they take many times the room of the text.

use crate::error::JsonError;

/// How many values the text holds: not fewer, if it is JSON, and hardly more.
#[must_use]
pub fn count_values(raw: &[u8]) -> usize {
    let mut outside = Outside::default();
    1 + raw.iter().filter(|&&byte| outside.is(byte) && matches!(byte, b',' | b'[' | b'{')).count()
}

/// The texts of the items of an array; `None` if there are more than `most`.
///
/// # Errors
///
/// If the text is no array. Whether its items are JSON is not looked at.
pub fn items(raw: &[u8], most: usize) -> Result<Option<Vec<&[u8]>>, JsonError> {
    let text = raw.trim_ascii();
    let inner = text.strip_prefix(b"[").and_then(|text| text.strip_suffix(b"]"));
    let inner = inner.ok_or_else(|| JsonError::new("the text is not a JSON array"))?;
    if inner.trim_ascii().is_empty() {
        return Ok(Some(Vec::new()));
    }
    let mut outside = Outside::default();
    let mut depth = 0_usize;
    let mut found = Vec::new();
    for item in inner.split(|&byte| {
        if outside.is(byte) {
            match byte {
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => return byte == b',' && depth == 0,
            }
        }
        false
    }) {
        if found.len() == most {
            return Ok(None);
        }
        found.push(item.trim_ascii());
    }
    Ok(Some(found))
}

/// Tells of bytes, one after the other, whether they are outside of strings.
#[derive(Default)]
struct Outside {
    in_string: bool,
    is_escaped: bool,
}

impl Outside {
    fn is(&mut self, byte: u8) -> bool {
        if self.is_escaped {
            self.is_escaped = false;
        } else if self.in_string && byte == b'\\' {
            self.is_escaped = true;
        } else if byte == b'"' {
            self.in_string = !self.in_string;
        } else {
            return !self.in_string;
        }
        false
    }
}

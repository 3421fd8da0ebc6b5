//! Glob patterns, matched without regard to case (appendices, "Glob-style matching").
//!
//! The pieces between the stars are looked for one after the other, each as early as possible. That is enough, and
//! unlike going back and trying again it never takes for ever.

use std::borrow::Cow;

/// The text in lower case, character by character, so that what stands around a character does not matter.
pub fn fold(text: &str) -> Cow<'_, str> {
    if !text.is_ascii() {
        Cow::Owned(text.chars().flat_map(char::to_lowercase).collect())
    } else if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

/// Whether a word may begin or end here: at the start or end of the text, or beside a character that is in no word.
fn is_boundary(text: &str, at: usize) -> bool {
    let is_word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let bytes = text.as_bytes();
    !(is_word(at.checked_sub(1).and_then(|before| bytes.get(before))) && is_word(bytes.get(at)))
}

/// What stands between two stars.
#[derive(Clone, Debug)]
enum Piece {
    Literal(String),
    /// Where `None` is, any character may be.
    Characters(Vec<Option<char>>),
}

impl Piece {
    fn new(piece: &str) -> Self {
        if piece.contains('?') {
            Self::Characters(piece.chars().map(|char| (char != '?').then_some(char)).collect())
        } else {
            Self::Literal(piece.to_owned())
        }
    }

    /// Where the piece ends if it stands here.
    fn end_at(&self, text: &str, start: usize) -> Option<usize> {
        let rest = text.get(start..)?;
        match self {
            Self::Literal(literal) => rest.starts_with(literal.as_str()).then(|| start + literal.len()),
            Self::Characters(wanted) => {
                let mut chars = rest.chars();
                for wanted in wanted {
                    let char = chars.next()?;
                    if wanted.is_some_and(|wanted| wanted != char) {
                        return None;
                    }
                }
                Some(text.len() - chars.as_str().len())
            }
        }
    }

    /// The start and end of the first place, from here on, where the piece stands and which is accepted.
    fn find(&self, text: &str, from: usize, accept: impl Fn(usize, usize) -> bool) -> Option<(usize, usize)> {
        let mut start = from;
        loop {
            if let Self::Literal(literal) = self {
                start += text.get(start..)?.find(literal.as_str())?;
            }
            if let Some(end) = self.end_at(text, start)
                && accept(start, end)
            {
                return Some((start, end));
            }
            start += text.get(start..)?.chars().next()?.len_utf8();
        }
    }

    /// Whether the text from here on ends with the piece.
    fn is_end(&self, text: &str, from: usize) -> bool {
        match self {
            Self::Literal(literal) => text.get(from..).is_some_and(|rest| rest.ends_with(literal.as_str())),
            Self::Characters(_) => self.find(text, from, |_, end| end == text.len()).is_some(),
        }
    }
}

/// A pattern: `*` is any run of characters, `?` any one.
#[derive(Clone, Debug)]
pub struct Glob {
    first: Piece,
    /// The pieces in the middle and the last one; none without a star.
    others: Option<(Vec<Piece>, Piece)>,
}

impl Glob {
    /// The pattern of this text.
    pub fn new(pattern: &str) -> Self {
        let pattern = fold(pattern);
        let mut pieces: Vec<Piece> = pattern.split('*').map(Piece::new).collect();
        let last = if pieces.len() > 1 { pieces.pop() } else { None };
        let mut pieces = pieces.into_iter();
        let first = pieces.next().unwrap_or_else(|| Piece::Literal(String::new()));
        Self { first, others: last.map(|last| (pieces.collect(), last)) }
    }

    /// The pattern that stands for this text only.
    pub fn literal(text: &str) -> Self {
        Self { first: Piece::Literal(fold(text).into_owned()), others: None }
    }

    fn after_middle(middle: &[Piece], text: &str, from: usize) -> Option<usize> {
        middle.iter().try_fold(from, |at, piece| piece.find(text, at, |_, _| true).map(|(_, end)| end))
    }

    /// Whether all of the text matches, which was folded before.
    pub fn matches_all(&self, folded: &str) -> bool {
        let Some(at) = self.first.end_at(folded, 0) else {
            return false;
        };
        match &self.others {
            None => at == folded.len(),
            Some((middle, last)) => {
                Self::after_middle(middle, folded, at).is_some_and(|at| last.is_end(folded, at))
            }
        }
    }

    /// Whether a part of the text matches that begins and ends where words do. The text was folded before.
    pub fn matches_words(&self, folded: &str) -> bool {
        let begins = |start| is_boundary(folded, start);
        let ends = |end| is_boundary(folded, end);
        let Some((middle, last)) = &self.others else {
            return self.first.find(folded, 0, |start, end| begins(start) && ends(end)).is_some();
        };
        self.first
            .find(folded, 0, |start, _| begins(start))
            .and_then(|(_, at)| Self::after_middle(middle, folded, at))
            .is_some_and(|at| last.find(folded, at, |_, end| ends(end)).is_some())
    }
}

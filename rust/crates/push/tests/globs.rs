//! Globs against a slow matcher that tries everything.

use push::{Glob, fold};

fn matches(pattern: &[char], text: &[char]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some(('*', rest)) => {
            (0..=text.len()).any(|skipped| matches(rest, text.get(skipped..).unwrap_or(&[])))
        }
        Some((wanted, rest)) => text
            .split_first()
            .is_some_and(|(first, text)| (*wanted == '?' || wanted == first) && matches(rest, text)),
    }
}

fn is_word(char: Option<&char>) -> bool {
    char.is_some_and(|char| char.is_ascii_alphanumeric() || *char == '_')
}

fn is_boundary(text: &[char], at: usize) -> bool {
    !(is_word(at.checked_sub(1).and_then(|before| text.get(before))) && is_word(text.get(at)))
}

fn matches_words(pattern: &[char], text: &[char]) -> bool {
    (0..=text.len()).any(|start| {
        (start..=text.len()).any(|end| {
            is_boundary(text, start)
                && is_boundary(text, end)
                && matches(pattern, text.get(start..end).unwrap_or(&[]))
        })
    })
}

/// All texts of up to this length.
fn texts(alphabet: &[char], length: usize) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut longest = all.clone();
    for _ in 0..length {
        longest = longest
            .iter()
            .flat_map(|text| alphabet.iter().map(move |char| format!("{text}{char}")))
            .collect();
        all.extend(longest.clone());
    }
    all
}

#[test]
fn short_patterns_match_as_the_slow_matcher_says() {
    let bodies = texts(&['a', 'b', ' ', 'é'], 5);
    for pattern in texts(&['a', 'b', '*', '?', ' '], 4) {
        let glob = Glob::new(&pattern);
        let wanted: Vec<char> = pattern.chars().collect();
        for body in &bodies {
            let chars: Vec<char> = body.chars().collect();
            assert_eq!(glob.matches_all(body), matches(&wanted, &chars), "{pattern:?} is all of {body:?}");
            let words = matches_words(&wanted, &chars);
            assert_eq!(glob.matches_words(body), words, "{pattern:?} is in {body:?}");
        }
    }
}

#[test]
fn case_does_not_matter() {
    for (pattern, text) in [("ÀÉ*", "àéx"), ("straße", "STRAßE"), ("ΣΑΣ", "σασ"), ("x", "X")] {
        assert!(Glob::new(pattern).matches_all(&fold(text)), "{pattern} is {text}");
    }
    assert!(Glob::literal("A*").matches_words("a*") && !Glob::literal("A*").matches_words("ab"));
}

//! Compares output with what a story expects: `[..]` stands for anything within a line, `...` for any lines,
//! `<name>` for a word that is the same wherever the story says `<name>` again.

use std::collections::BTreeMap;

pub(crate) type Names = BTreeMap<String, String>;

/// Whether the lines fit; names that the story used for the first time are known from then on.
pub(crate) fn fits(expected: &[&str], actual: &[&str], names: &mut Names) -> bool {
    let Some((first, rest)) = expected.split_first() else { return actual.is_empty() };
    if *first == "..." {
        return (0..=actual.len()).any(|skipped| {
            let mut tried = names.clone();
            let fit = fits(rest, &actual[skipped..], &mut tried);
            if fit {
                *names = tried;
            }
            fit
        });
    }
    let Some((line, below)) = actual.split_first() else { return false };
    let mut tried = names.clone();
    let fit = line_fits(first, line, &mut tried) && fits(rest, below, &mut tried);
    if fit {
        *names = tried;
    }
    fit
}

fn line_fits(expected: &str, actual: &str, names: &mut Names) -> bool {
    if let Some(rest) = expected.strip_prefix("[..]") {
        return starts(actual).any(|start| line_fits(rest, &actual[start..], names));
    }
    if let Some((name, rest)) = name(expected) {
        if let Some(word) = names.get(name) {
            return actual.strip_prefix(word.as_str()).is_some_and(|after| line_fits(rest, after, names));
        }
        let longest = actual.find(char::is_whitespace).unwrap_or(actual.len());
        let ends: Vec<usize> = starts(&actual[..longest]).filter(|end| *end > 0).collect();
        for end in ends.into_iter().rev() {
            let mut tried = names.clone();
            tried.insert(name.into(), actual[..end].into());
            if line_fits(rest, &actual[end..], &mut tried) {
                *names = tried;
                return true;
            }
        }
        return false;
    }
    match (expected.chars().next(), actual.chars().next()) {
        (None, None) => true,
        (Some(a), Some(b)) if a == b => line_fits(&expected[a.len_utf8()..], &actual[b.len_utf8()..], names),
        _ => false,
    }
}

/// Every place where the rest of the text can start.
fn starts(text: &str) -> impl Iterator<Item = usize> {
    text.char_indices().map(|(at, _)| at).chain([text.len()])
}

/// `<name>` at the start of a text, and what follows it.
pub(crate) fn name(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = text.strip_prefix('<')?.split_once('>')?;
    let word =
        !name.is_empty() && name.chars().all(|char| char.is_ascii_lowercase() || char.is_ascii_digit());
    word.then_some((name, rest))
}

#[test]
fn expectations_are_as_strict_as_they_look() {
    let mut names = Names::new();
    assert!(fits(&["draft <d> changes [..] tensors"], &["draft abc changes 2 of 5 tensors"], &mut names));
    assert_eq!(names["d"], "abc");
    assert!(fits(&["...", "at <d>"], &["one", "two", "at abc"], &mut names));
    assert!(!fits(&["at <d>"], &["at abd"], &mut names));
    assert!(!fits(&["at <d>"], &["at abc", "more"], &mut names));
    assert!(!fits(&["at <e>"], &["at a word"], &mut names));
    assert!(!names.contains_key("e"));
}

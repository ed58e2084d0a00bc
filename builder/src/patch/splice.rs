//! Replacing byte ranges of a text: the only way anything here changes a file.

use std::ops::Range;

/// One replacement. An empty range inserts, an empty text deletes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    pub range: Range<usize>,
    pub text: String,
}

impl Edit {
    pub fn insert(at: usize, text: impl Into<String>) -> Self {
        Self { range: at..at, text: text.into() }
    }

    pub fn delete(range: Range<usize>) -> Self {
        Self { range, text: String::new() }
    }
}

/// The text with all edits done. Their ranges speak of the text as it was; insertions at one place keep their order.
///
/// None when two ranges overlap, or one is not in the text: then an edit was computed wrongly, and nothing is changed.
pub fn apply(text: &str, edits: &[Edit]) -> Option<String> {
    let mut order: Vec<&Edit> = edits.iter().collect();
    order.sort_by_key(|edit| edit.range.start);
    let growth: usize = edits.iter().map(|edit| edit.text.len()).sum();
    let mut out = String::with_capacity(text.len() + growth);
    let mut done = 0;
    for edit in order {
        out.push_str(text.get(done..edit.range.start)?);
        out.push_str(&edit.text);
        done = edit.range.end;
        if edit.range.end < edit.range.start {
            return None;
        }
    }
    out.push_str(text.get(done..)?);
    Some(out)
}

/// Deletions of whole lines at the end of a text without a final line break: the last one takes the break before it
/// along, so the ones above it must each take theirs too, and leave the one behind.
pub fn settle_end(text: &str, edits: &mut [Edit]) {
    edits.sort_by_key(|edit| edit.range.start);
    let mut next: Option<usize> = None;
    for edit in edits.iter_mut().rev() {
        let length = match next {
            Some(start) if edit.text.is_empty() && edit.range.end > start => edit.range.end - start,
            None if edit.text.is_empty() && edit.range.end == text.len() => 0,
            _ => break,
        };
        edit.range.start = edit.range.start.saturating_sub(length);
        edit.range.end -= length;
        next = Some(edit.range.start);
    }
}

/// Where a byte of the edited text was before the edits. Inserted bytes are at the place of their insertion.
pub fn origin(edits: &[Edit], offset: usize) -> usize {
    let mut order: Vec<&Edit> = edits.iter().collect();
    order.sort_by_key(|edit| edit.range.start);
    // `before` and `after` are the same place in the two texts.
    let (mut before, mut after) = (0, 0);
    for edit in order {
        let start = after + edit.range.start.saturating_sub(before);
        if offset < start {
            break;
        }
        if offset < start + edit.text.len() {
            return edit.range.start;
        }
        before = edit.range.end;
        after = start + edit.text.len();
    }
    before + offset.saturating_sub(after)
}

/// The line break that a text uses: that of its first line.
pub fn line_break(text: &str) -> &'static str {
    match text.find('\n') {
        Some(at) if text.get(..at).is_some_and(|line| line.ends_with('\r')) => "\r\n",
        _ => "\n",
    }
}

/// The start of the line that holds `offset`.
pub fn line_start(text: &str, offset: usize) -> usize {
    text.get(..offset).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1)
}

/// The start of the line after the one that holds `offset`, or the end of the text.
pub fn next_line(text: &str, offset: usize) -> usize {
    text.get(offset..).and_then(|rest| rest.find('\n')).map_or(text.len(), |at| offset + at + 1)
}

/// What is before `offset` on its line. A byte order mark is not on any line.
pub fn line_prefix(text: &str, offset: usize) -> &str {
    let prefix = text.get(line_start(text, offset)..offset).unwrap_or_default();
    prefix.strip_prefix('\u{feff}').unwrap_or(prefix)
}

pub fn is_blank(text: &str) -> bool {
    text.bytes().all(|byte| byte == b' ' || byte == b'\t' || byte == b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_keep_what_is_around_them() {
        let edits = [Edit { range: 4..5, text: "X".into() }, Edit::insert(0, "a"), Edit::insert(0, "b")];
        assert_eq!(apply("01234", &edits).as_deref(), Some("ab0123X"));
    }

    #[test]
    fn overlapping_edits_are_refused() {
        assert_eq!(apply("01234", &[Edit::delete(0..3), Edit::delete(2..4)]), None);
        assert_eq!(apply("01234", &[Edit::delete(4..9)]), None);
    }

    #[test]
    fn neighbouring_lines_at_the_end_are_deleted_with_the_breaks_before_them() {
        let text = "a\nb\nc";
        let mut edits = [Edit::delete(2..4), Edit::delete(3..5)];
        settle_end(text, &mut edits);
        assert_eq!(apply(text, &edits).as_deref(), Some("a"));
    }

    #[test]
    fn origin_is_the_inverse_of_apply() {
        let edits = [Edit::delete(1..3), Edit::insert(4, "xy")];
        assert_eq!(apply("01234", &edits).as_deref(), Some("03xy4"));
        let origins: Vec<_> = (0..5).map(|offset| origin(&edits, offset)).collect();
        assert_eq!(origins, [0, 3, 4, 4, 4]);
    }
}

//! A scalar's own text, and where each of its bytes stands in the file: what makes it possible to edit an `envoy.yaml`
//! inside a ConfigMap without touching the rest of the scalar.
//!
//! The parser has already decoded the scalar. Here it is decoded again, keeping positions; the two must agree, or the
//! scalar is not edited. Plain scalars are not covered: no Envoy configuration fits into one.

use std::ops::Range;

use granit_parser::ScalarStyle;

use super::splice::{Edit, is_blank, line_break, line_start};

/// A decoded scalar with its positions.
#[derive(Debug)]
pub struct Decoded {
    pub text: String,
    /// For every byte of `text`, and for its end: the byte of the file where its source begins.
    map: Vec<usize>,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Block {
        /// What begins every line.
        indent: String,
        newline: &'static str,
        /// Bytes of `text` that begin a line, and the begin of that line in the file, indentation included.
        lines: Vec<(usize, usize)>,
    },
    Double,
    Single,
}

impl Decoded {
    /// Decodes the scalar at `span`, whose value the parser says is `value`. None if this module reads it otherwise,
    /// or does not cover its style.
    pub fn new(file: &str, span: &Range<usize>, style: ScalarStyle, value: &str) -> Option<Self> {
        let decoded = match style {
            ScalarStyle::Literal => block(file, span, value, false)?,
            ScalarStyle::Folded => block(file, span, value, true)?,
            ScalarStyle::DoubleQuoted => quoted(file, span, true)?,
            ScalarStyle::SingleQuoted => quoted(file, span, false)?,
            _ => return None,
        };
        (decoded.text == value && decoded.map.len() == value.len() + 1).then_some(decoded)
    }

    /// Whether inserted text may hold line breaks.
    pub fn takes_lines(&self) -> bool {
        !matches!(self.form, Form::Single)
    }

    /// Where a byte of the decoded text stands in the file.
    pub fn outer(&self, offset: usize) -> usize {
        self.map.get(offset).or(self.map.last()).copied().unwrap_or_default()
    }

    /// The edit of the file that does this edit of the decoded text. None where the style cannot express it.
    pub fn translate(&self, file: &str, edit: &Edit) -> Option<Edit> {
        match &self.form {
            Form::Block { indent, newline, lines } => {
                self.translate_block(edit, indent, newline, lines, file)
            }
            Form::Double => {
                let range = self.outer(edit.range.start)..self.outer(edit.range.end);
                Some(Edit { text: escape(&edit.text, is_blank(prefix(file, range.start))), range })
            }
            Form::Single => {
                if edit.text.contains('\n') {
                    return None;
                }
                let range = self.outer(edit.range.start)..self.outer(edit.range.end);
                Some(Edit { text: edit.text.replace('\'', "''"), range })
            }
        }
    }

    fn translate_block(
        &self,
        edit: &Edit,
        indent: &str,
        newline: &str,
        lines: &[(usize, usize)],
        file: &str,
    ) -> Option<Edit> {
        let begins = |offset: usize| {
            lines.iter().find(|(inner, _)| *inner == offset).map(|(_, outer)| *outer).or_else(|| {
                // Behind the last line break: the line after the content.
                (offset == self.text.len() && self.text.ends_with('\n')).then(|| self.outer(offset))
            })
        };
        let at_line = |offset: usize| {
            offset == 0 || self.text.as_bytes().get(offset.wrapping_sub(1)).is_some_and(|byte| *byte == b'\n')
        };
        let whole_lines = at_line(edit.range.start)
            && at_line(edit.range.end)
            && (edit.text.is_empty() || edit.text.ends_with('\n'));
        if whole_lines {
            let (start, end) = (begins(edit.range.start)?, begins(edit.range.end)?);
            let mut text = String::new();
            for line in edit.text.lines() {
                if !line.is_empty() {
                    text.push_str(indent);
                    text.push_str(line);
                }
                text.push_str(newline);
            }
            // The file may end without a line break, which the decoded text has nevertheless.
            if end == file.len() && !file.ends_with('\n') {
                if edit.range.is_empty() {
                    let body = text.strip_suffix(newline).unwrap_or(&text);
                    return Some(Edit::insert(end, format!("{newline}{body}")));
                }
                let before = file.get(..start)?;
                let start =
                    before.strip_suffix('\n').map_or(start, |b| b.strip_suffix('\r').unwrap_or(b).len());
                let body = text.strip_suffix(newline).unwrap_or(&text);
                let text = if body.is_empty() { String::new() } else { format!("{newline}{body}") };
                return Some(Edit { range: start..end, text });
            }
            return Some(Edit { range: start..end, text });
        }
        let range = self.outer(edit.range.start)..self.outer(edit.range.end);
        Some(Edit { text: edit.text.replace('\n', &format!("{newline}{indent}")), range })
    }
}

fn prefix(file: &str, offset: usize) -> &str {
    file.get(line_start(file, offset)..offset).unwrap_or_default()
}

/// Text as it is written between double quotes. A space at the begin of a line of the file would be taken for
/// indentation, so it is escaped there.
fn escape(text: &str, begins_line: bool) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for (at, c) in text.char_indices() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' ' if at == 0 && begins_line => out.push_str("\\ "),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// Literal and folded scalars.
fn block(file: &str, span: &Range<usize>, value: &str, folded: bool) -> Option<Decoded> {
    let newline = line_break(file.get(..span.start)?);
    let mut decoded = String::with_capacity(value.len());
    let mut map = Vec::with_capacity(value.len() + 1);
    let mut lines = Vec::new();
    // The content begins behind the header's line; leading blank lines are before the parser's span.
    let header_end = file.get(..span.start)?.trim_end().len();
    let mut at = super::splice::next_line(file, header_end);
    // How deep the content is, is told by its first line that is not blank.
    let first = value.split('\n').find(|line| !line.is_empty())?;
    let first_raw = file.get(at..)?.lines().find(|line| !is_blank(line))?;
    let spaces = |line: &str| line.len() - line.trim_start_matches(' ').len();
    let indent = " ".repeat(spaces(first_raw).checked_sub(spaces(first))?);
    let (mut deep_before, mut empties): (bool, Vec<usize>) = (true, Vec::new());
    let mut first_line = true;
    while decoded.len() < value.trim_end_matches('\n').len() {
        let end = super::splice::next_line(file, at);
        let raw = file.get(at..end)?;
        if raw.is_empty() {
            return None;
        }
        let line = raw.strip_suffix('\n').unwrap_or(raw);
        let line = line.strip_suffix('\r').unwrap_or(line);
        let content = line.strip_prefix(indent.as_str()).unwrap_or_default();
        if content.is_empty() && is_blank(line) {
            if folded {
                empties.push(at);
            } else {
                lines.push((decoded.len(), at));
                decoded.push('\n');
                map.push(at);
            }
            at = end;
            continue;
        }
        let content_at = at + indent.len();
        if folded {
            let deep = content.starts_with([' ', '\t']);
            // The break before this line, unless it is the first, and one for each blank line between.
            if !first_line {
                let before = map.last().copied()? + 1;
                if deep || deep_before {
                    decoded.push('\n');
                    map.push(before);
                } else if empties.is_empty() {
                    decoded.push(' ');
                    map.push(before);
                }
            }
            for empty in empties.drain(..) {
                decoded.push('\n');
                map.push(empty);
            }
            deep_before = deep;
        }
        first_line = false;
        lines.push((decoded.len(), at));
        decoded.push_str(content);
        map.extend(content_at..content_at + content.len());
        if !folded {
            decoded.push('\n');
            map.push(content_at + content.len());
        }
        at = end;
    }
    // How the scalar ends, by its chomping: what the parser says, checked by the comparison of the caller.
    let (trimmed, tail) = value.split_at(value.trim_end_matches('\n').len());
    decoded.truncate(trimmed.len());
    map.truncate(trimmed.len());
    lines.retain(|(inner, _)| *inner <= trimmed.len());
    let mut end = map.last().copied()? + 1;
    for _ in tail.chars() {
        decoded.push('\n');
        map.push(end);
        end = super::splice::next_line(file, end);
    }
    map.push(end);
    Some(Decoded { text: decoded, map, form: Form::Block { indent, newline, lines } })
}

/// Scalars between quotes.
fn quoted(file: &str, span: &Range<usize>, double: bool) -> Option<Decoded> {
    let body = span.start + 1..span.end.checked_sub(1)?;
    let source = file.get(body.clone())?;
    let mut text = String::with_capacity(source.len());
    let mut map = Vec::with_capacity(source.len() + 1);
    let mut put = |text: &mut String, c: char, at: usize| {
        text.push(c);
        map.extend(std::iter::repeat_n(at, c.len_utf8()));
    };
    let mut chars = source.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let here = body.start + at;
        match c {
            '\'' if !double => {
                chars.next_if(|(_, next)| *next == '\'')?;
                put(&mut text, '\'', here);
            }
            '\\' if double => match chars.next()?.1 {
                '\r' | '\n' => {
                    // An escaped break and the indentation behind it stand for nothing; blank lines for themselves.
                    let mut rest = source.get(at + 1..)?;
                    rest = rest.strip_prefix("\r\n").or_else(|| rest.strip_prefix('\n'))?;
                    let folded = fold(rest);
                    for _ in 0..folded.lines {
                        put(&mut text, '\n', here);
                    }
                    let behind = source.len() - rest.len() + folded.length;
                    while chars.next_if(|(next, _)| *next < behind).is_some() {}
                }
                escape => {
                    let length = match escape {
                        'x' => 2,
                        'u' => 4,
                        'U' => 8,
                        _ => 0,
                    };
                    let mut code = 0;
                    for _ in 0..length {
                        code = code * 16 + chars.next()?.1.to_digit(16)?;
                    }
                    if (0xd800..0xdc00).contains(&code) {
                        // JSON writes what is above U+FFFF as a pair.
                        (chars.next()?.1 == '\\' && chars.next()?.1 == 'u').then_some(())?;
                        let mut low = 0;
                        for _ in 0..4 {
                            low = low * 16 + chars.next()?.1.to_digit(16)?;
                        }
                        code = 0x10000 + ((code - 0xd800) << 10) + low.checked_sub(0xdc00)?;
                    }
                    put(
                        &mut text,
                        if length == 0 { simple_escape(escape)? } else { char::from_u32(code)? },
                        here,
                    );
                }
            },
            ' ' | '\t' | '\r' | '\n' => {
                let folded = fold(source.get(at..)?);
                let behind = at + folded.length;
                if folded.lines == 0 {
                    put(&mut text, c, here);
                    while let Some((at, c)) = chars.next_if(|(next, _)| *next < behind) {
                        put(&mut text, c, body.start + at);
                    }
                    continue;
                }
                // Of the first break a space is left, of the others themselves.
                if folded.lines == 1 {
                    put(&mut text, ' ', here);
                }
                for _ in 1..folded.lines {
                    put(&mut text, '\n', here);
                }
                while chars.next_if(|(next, _)| *next < behind).is_some() {}
            }
            c => put(&mut text, c, here),
        }
    }
    map.push(body.end);
    Some(Decoded { text, map, form: if double { Form::Double } else { Form::Single } })
}

struct Fold {
    /// Bytes of white space, line breaks included.
    length: usize,
    /// Line breaks in it.
    lines: usize,
}

/// The white space at the begin of `rest`, as YAML folds it in quoted scalars.
fn fold(rest: &str) -> Fold {
    let length = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
    let lines = rest.get(..length).unwrap_or_default().matches('\n').count();
    Fold { length, lines }
}

fn simple_escape(c: char) -> Option<char> {
    Some(match c {
        '0' => '\0',
        'a' => '\u{7}',
        'b' => '\u{8}',
        't' | '\t' => '\t',
        'n' => '\n',
        'v' => '\u{b}',
        'f' => '\u{c}',
        'r' => '\r',
        'e' => '\u{1b}',
        ' ' | '"' | '/' | '\\' => c,
        'N' => '\u{85}',
        '_' => '\u{a0}',
        'L' => '\u{2028}',
        'P' => '\u{2029}',
        _ => return None,
    })
}

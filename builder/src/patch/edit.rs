//! Adding to and taking from the collections of a text, in the collection's own style.
//!
//! INVARIANT: taking away what was added gives the bytes from before. So a later removal needs no record, as long as
//! the added text itself was not changed. `None` everywhere means: written in a way that cannot be edited safely.

use serde_json::Value;

use super::emit::{self, Layout};
use super::splice::{Edit, is_blank, line_break, line_prefix, line_start, next_line};
use super::tree::{Kind, NodeId, Tree};

/// A text and its tree, to be edited.
#[derive(Clone, Copy, Debug)]
pub struct Editor<'a> {
    pub text: &'a str,
    pub tree: &'a Tree,
    /// Whether the text may get more lines: not inside a single-quoted scalar.
    pub takes_lines: bool,
}

impl Editor<'_> {
    /// Puts items into a sequence so that the first of them has this index.
    pub fn insert_items(&self, sequence: NodeId, index: usize, values: &[Value]) -> Option<Edit> {
        let sequence = self.tree.resolve(sequence);
        let Kind::Sequence { flow, items } = &self.tree.node(sequence).kind else { return None };
        if *flow {
            let written = |layout: &Layout| values.iter().map(|value| emit::flow(value, layout)).collect();
            return self.insert_flow(sequence, items, index, written);
        }
        if !self.takes_lines {
            return None;
        }
        let lines = emit::block_items(values)?;
        if index < items.len() {
            self.lines_before(self.dash(sequence, index)?, &lines)
        } else {
            let column = line_prefix(self.text, self.dash(sequence, 0)?).chars().count();
            self.lines_after(self.tree.node(sequence).span.end, column, &lines)
        }
    }

    /// Takes items out of a sequence again: the inverse of [`Self::insert_items`].
    pub fn remove_items(&self, sequence: NodeId, range: std::ops::Range<usize>) -> Option<Edit> {
        let sequence = self.tree.resolve(sequence);
        let Kind::Sequence { flow, items } = &self.tree.node(sequence).kind else { return None };
        if *flow {
            return self.remove_flow(sequence, items, range);
        }
        let dash = self.dash(sequence, range.start)?;
        if is_blank(line_prefix(self.text, dash)) {
            let last = *items.get(range.end.checked_sub(1)?)?;
            return Some(self.remove_lines(dash, self.tree.node(last).span.end));
        }
        (range.end < items.len()).then_some(())?;
        Some(Edit::delete(dash..self.dash(sequence, range.end)?))
    }

    /// Makes a list of a single mapping that stands where a list is meant, and puts items before it.
    pub fn wrap_single(&self, key: NodeId, mapping: NodeId, values: &[Value]) -> Option<Vec<Edit>> {
        let node = self.tree.node(mapping);
        match &node.kind {
            Kind::Mapping { flow: true, .. } | Kind::Alias(_) => {
                let layout = if self.compact(mapping) { Layout::Compact } else { Layout::OneLine };
                let mut text = "[".to_owned();
                for value in values {
                    text.push_str(&emit::flow(value, &layout)?);
                    text.push_str(&layout.separator());
                }
                Some(vec![Edit::insert(node.start, text), Edit::insert(node.span.end, "]")])
            }
            // The anchor would then be the list's.
            Kind::Mapping { flow: false, .. } if !node.anchored && self.takes_lines => {
                let first = line_prefix(self.text, node.span.start);
                let outer = line_prefix(self.text, self.tree.node(key).start).chars().count();
                (is_blank(first) && first.len() > outer).then_some(())?;
                // A dash alone on its line turns the mapping below it into an item.
                let mut lines = emit::block_items(values)?;
                lines.push("-".to_owned());
                let column = if first.len() >= outer + 2 { first.len() - 2 } else { outer };
                Some(vec![Edit::insert(line_start(self.text, node.span.start), self.join(column, &lines))])
            }
            _ => None,
        }
    }

    /// The inverse of [`Self::wrap_single`]: takes the first `count` items away, and the list around the one behind.
    pub fn unwrap_single(&self, sequence: NodeId, count: usize) -> Option<Vec<Edit>> {
        let node = self.tree.node(sequence);
        let Kind::Sequence { flow, items } = &node.kind else { return None };
        (items.len() == count + 1).then_some(())?;
        let single = self.tree.node(*items.get(count)?);
        if *flow {
            return Some(vec![
                Edit::delete(node.span.start..single.start),
                Edit::delete(single.span.end..node.span.end),
            ]);
        }
        let (start, end) = (node.span.start, single.span.start);
        Some(vec![Edit::delete(line_start(self.text, start)..line_start(self.text, end))])
    }

    /// Puts entries into a mapping so that the first of them has this index.
    pub fn insert_entries(&self, mapping: NodeId, index: usize, new: &[(&str, Value)]) -> Option<Edit> {
        let mapping = self.tree.resolve(mapping);
        let Kind::Mapping { flow, entries } = &self.tree.node(mapping).kind else { return None };
        if *flow {
            let keys: Vec<NodeId> = entries.iter().map(|(key, _)| *key).collect();
            return self.insert_flow_entry(mapping, &keys, entries, index, |layout| {
                let colon = if *layout == Layout::Compact { ":" } else { ": " };
                let written = |(key, value): &(&str, Value)| {
                    let key = emit::flow(&Value::from(*key), &Layout::Compact)?;
                    Some(format!("{key}{colon}{}", emit::flow(value, layout)?))
                };
                new.iter().map(written).collect()
            });
        }
        if !self.takes_lines {
            return None;
        }
        let mut lines = Vec::new();
        for (key, value) in new {
            lines.extend(emit::block_entry(key, value)?);
        }
        match entries.get(index) {
            Some((next, _)) => self.lines_before(self.tree.node(*next).start, &lines),
            None => {
                let column = line_prefix(self.text, self.tree.node(mapping).span.start).chars().count();
                self.lines_after(self.tree.node(mapping).span.end, column, &lines)
            }
        }
    }

    /// Puts a line of ours into a block mapping, before the entry of this index or at its end.
    pub fn insert_line(&self, mapping: NodeId, index: usize, line: &str) -> Option<Edit> {
        let mapping = self.tree.resolve(mapping);
        let Kind::Mapping { flow: false, entries } = &self.tree.node(mapping).kind else { return None };
        self.takes_lines.then_some(())?;
        let lines = [line.to_owned()];
        match entries.get(index) {
            Some((next, _)) => self.lines_before(self.tree.node(*next).start, &lines),
            None => {
                let column = line_prefix(self.text, self.tree.node(mapping).span.start).chars().count();
                self.lines_after(self.tree.node(mapping).span.end, column, &lines)
            }
        }
    }

    /// The inverse of [`Self::insert_line`], for the line that holds `offset`.
    pub fn remove_line(&self, offset: usize) -> Edit {
        self.remove_lines(offset, offset)
    }

    /// Takes entries out of a mapping again: the inverse of [`Self::insert_entries`].
    pub fn remove_entries(&self, mapping: NodeId, range: std::ops::Range<usize>) -> Option<Edit> {
        let mapping = self.tree.resolve(mapping);
        let Kind::Mapping { flow, entries } = &self.tree.node(mapping).kind else { return None };
        let start = self.tree.node(entries.get(range.start)?.0).start;
        let end = self.tree.node(entries.get(range.end.checked_sub(1)?)?.1).span.end;
        if !*flow {
            is_blank(line_prefix(self.text, start)).then_some(())?;
            return Some(self.remove_lines(start, end));
        }
        let before = range.start.checked_sub(1).and_then(|before| entries.get(before));
        Some(match (before, entries.get(range.end)) {
            (_, Some((next, _))) => Edit::delete(start..self.tree.node(*next).start),
            (Some((_, before)), None) => Edit::delete(self.tree.node(*before).span.end..end),
            (None, None) => Edit::delete(self.tree.node(mapping).span.start + 1..end),
        })
    }

    /// Gives a key that has no value (`annotations:`) a mapping or list of its own, in block style.
    pub fn fill(&self, key: NodeId, value: &Value) -> Option<Edit> {
        let start = self.tree.node(key).start;
        let column = line_prefix(self.text, start).chars().count();
        let (lines, deeper) = match value {
            Value::Array(items) => (emit::block_items(items)?, 0),
            Value::Object(entries) => {
                let mut lines = Vec::new();
                for (key, value) in entries {
                    lines.extend(emit::block_entry(key, value)?);
                }
                (lines, 2)
            }
            _ => return None,
        };
        self.takes_lines.then_some(())?;
        self.lines_after(self.tree.node(key).span.end, column + deeper, &lines)
    }

    /// The inverse of [`Self::fill`].
    pub fn empty(&self, collection: NodeId) -> Option<Edit> {
        let node = self.tree.node(collection);
        is_blank(line_prefix(self.text, node.span.start)).then_some(())?;
        Some(self.remove_lines(node.span.start, node.span.end))
    }

    /// Whether the text ends in a literal or folded scalar without a line break: one behind it would change its value.
    pub fn ends_open(&self) -> bool {
        !self.text.ends_with('\n') && self.tree.ends_in_block_scalar(self.text.trim_end().len())
    }

    /// Where the dash of a block sequence's item is.
    fn dash(&self, sequence: NodeId, index: usize) -> Option<usize> {
        let items = self.tree.items(sequence);
        let mut at = match index.checked_sub(1) {
            None => self.tree.node(sequence).span.start,
            Some(before) => self.tree.node(*items.get(before)?).span.end,
        };
        loop {
            match self.text.as_bytes().get(at)? {
                b'-' => return Some(at),
                b'#' => at = next_line(self.text, at),
                b' ' | b'\t' | b'\r' | b'\n' => at += 1,
                _ => return None,
            }
        }
    }

    fn newline(&self) -> &'static str {
        line_break(self.text)
    }

    /// Whole lines at a column, each with its line break.
    fn join(&self, column: usize, lines: &[String]) -> String {
        let indent = " ".repeat(column);
        let newline = self.newline();
        lines.iter().map(|line| format!("{indent}{line}{newline}")).collect()
    }

    /// Lines before what begins at `at`, and before the comments that belong to it.
    fn lines_before(&self, at: usize, lines: &[String]) -> Option<Edit> {
        let prefix = line_prefix(self.text, at);
        let column = prefix.chars().count();
        if !is_blank(prefix) {
            // `- - x`: the first item of a list that begins in the middle of a line.
            let text = self.join(column, lines);
            let text = format!("{}{}", text.trim_start(), " ".repeat(column));
            return Some(Edit::insert(at, text));
        }
        let mut line = line_start(self.text, at);
        while let Some(above) = line.checked_sub(1).map(|end| line_start(self.text, end)) {
            let content = self.text.get(above..line)?;
            let indent = content.len() - content.trim_start_matches(' ').len();
            let is_comment =
                self.tree.comments().binary_search_by_key(&(above + indent), |c| c.start).is_ok();
            if !is_comment || indent > column {
                break;
            }
            line = above;
        }
        // A byte order mark stays first.
        let mark = if self.text.get(line..).is_some_and(|rest| rest.starts_with('\u{feff}')) { 3 } else { 0 };
        Some(Edit::insert(line + mark, self.join(column, lines)))
    }

    /// Lines behind the line that holds `end`.
    fn lines_after(&self, end: usize, column: usize, lines: &[String]) -> Option<Edit> {
        let at = next_line(self.text, end);
        let text = self.join(column, lines);
        if at == self.text.len() && !self.text.ends_with('\n') {
            let newline = self.newline();
            return Some(Edit::insert(at, format!("{newline}{}", text.strip_suffix(newline)?)));
        }
        Some(Edit::insert(at, text))
    }

    /// The whole lines from the one that holds `start` to the one that holds `end`.
    fn remove_lines(&self, start: usize, end: usize) -> Edit {
        let mut start = line_start(self.text, start);
        let end = next_line(self.text, end);
        if end == self.text.len() && !self.text.ends_with('\n') {
            let before = self.text.get(..start).unwrap_or_default();
            let before = before.strip_suffix('\n').map_or(before, |b| b.strip_suffix('\r').unwrap_or(b));
            start = before.len();
        }
        Edit::delete(start..end)
    }

    fn insert_flow(
        &self,
        collection: NodeId,
        items: &[NodeId],
        index: usize,
        written: impl Fn(&Layout) -> Option<Vec<String>>,
    ) -> Option<Edit> {
        let place = match items.get(index) {
            Some(next) => Place::Before(self.tree.node(*next).start),
            None => match items.last() {
                Some(last) => Place::After(self.tree.node(*last).span.end),
                None => Place::Alone(self.tree.node(collection).span.start + 1),
            },
        };
        let neighbour = items.get(index).or(items.last()).copied();
        self.write_flow(collection, neighbour, &place, written)
    }

    fn insert_flow_entry(
        &self,
        collection: NodeId,
        keys: &[NodeId],
        entries: &[(NodeId, NodeId)],
        index: usize,
        written: impl Fn(&Layout) -> Option<Vec<String>>,
    ) -> Option<Edit> {
        let place = match (keys.get(index), entries.last()) {
            (Some(next), _) => Place::Before(self.tree.node(*next).start),
            (None, Some((_, last))) => Place::After(self.tree.node(*last).span.end),
            (None, None) => Place::Alone(self.tree.node(collection).span.start + 1),
        };
        let neighbour = keys.get(index).or(keys.last()).copied();
        self.write_flow(collection, neighbour, &place, written)
    }

    fn write_flow(
        &self,
        collection: NodeId,
        neighbour: Option<NodeId>,
        place: &Place,
        written: impl Fn(&Layout) -> Option<Vec<String>>,
    ) -> Option<Edit> {
        let layout = self.flow_layout(collection, neighbour);
        let values = written(&layout)?;
        let separator = layout.separator();
        Some(match place {
            Place::Before(at) => Edit::insert(
                *at,
                values.iter().fold(String::new(), |mut text, value| {
                    text.push_str(value);
                    text.push_str(&separator);
                    text
                }),
            ),
            Place::After(at) => Edit::insert(
                *at,
                values.iter().fold(String::new(), |mut text, value| {
                    text.push_str(&separator);
                    text.push_str(value);
                    text
                }),
            ),
            Place::Alone(at) => Edit::insert(*at, values.join(&separator)),
        })
    }

    fn remove_flow(&self, sequence: NodeId, items: &[NodeId], range: std::ops::Range<usize>) -> Option<Edit> {
        let start = self.tree.node(*items.get(range.start)?).start;
        let end = self.tree.node(*items.get(range.end.checked_sub(1)?)?).span.end;
        let before = range.start.checked_sub(1).and_then(|before| items.get(before));
        Some(match (before, items.get(range.end)) {
            (_, Some(next)) => Edit::delete(start..self.tree.node(*next).start),
            (Some(before), None) => Edit::delete(self.tree.node(*before).span.end..end),
            (None, None) => Edit::delete(self.tree.node(sequence).span.start + 1..end),
        })
    }

    /// How a flow collection is laid out, seen at one of its items (or keys).
    fn flow_layout(&self, collection: NodeId, neighbour: Option<NodeId>) -> Layout {
        let one_line = if self.compact(collection) { Layout::Compact } else { Layout::OneLine };
        let Some(neighbour) = neighbour.filter(|_| self.takes_lines) else { return one_line };
        let indent = line_prefix(self.text, self.tree.node(neighbour).start);
        if !is_blank(indent) || line_start(self.text, self.tree.node(neighbour).start) == 0 {
            return one_line;
        }
        let line =
            self.text.get(line_start(self.text, self.tree.node(collection).start)..).unwrap_or_default();
        let outer = line.len() - line.trim_start_matches([' ', '\t']).len();
        let unit = indent.get(outer..).filter(|unit| !unit.is_empty()).unwrap_or("  ");
        Layout::Lines { indent: indent.to_owned(), unit: unit.to_owned(), newline: self.newline() }
    }

    /// Nothing but a colon between the first key and its value, or a comma between two items: a minified text.
    fn compact(&self, collection: NodeId) -> bool {
        let node = self.tree.node(collection);
        let inside = self.text.get(node.span.clone()).unwrap_or_default();
        !inside.is_empty() && !inside.contains([' ', '\n']) && inside.len() > 2
    }
}

enum Place {
    Before(usize),
    After(usize),
    /// In an empty collection.
    Alone(usize),
}

impl Layout {
    fn separator(&self) -> String {
        match self {
            Self::Compact => ",".to_owned(),
            Self::OneLine => ", ".to_owned(),
            Self::Lines { indent, newline, .. } => format!(",{newline}{indent}"),
        }
    }
}

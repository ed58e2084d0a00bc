//! A YAML or JSON text as a tree of nodes that know their bytes.
//!
//! The parser is granit's; here its events become nodes with byte spans, so that an edit can be spliced into the text
//! and everything else stays as it was written. Nothing is resolved or converted: scalars are text, aliases point to
//! their anchor's node, duplicate keys are kept in order.

use std::collections::HashMap;
use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle, Span, StructureStyle};

/// Why a text could not be read.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{message}")]
pub struct SyntaxError {
    pub message: String,
    /// Byte offset of the place.
    pub offset: usize,
}

/// A node's number in its [`Tree`]. Numbers of one tree mean nothing in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(usize);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Scalar { value: String, style: ScalarStyle },
    Sequence { flow: bool, items: Vec<NodeId> },
    Mapping { flow: bool, entries: Vec<(NodeId, NodeId)> },
    Alias(NodeId),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub kind: Kind,
    /// The content alone. A block collection begins at its first dash or key and ends with its last child; a block
    /// scalar begins at its first content line.
    pub span: Range<usize>,
    /// Where the node begins with its anchor and tag.
    pub start: usize,
    /// It has an anchor, so that others may point to it.
    pub anchored: bool,
    pub tag: Option<String>,
}

impl Node {
    /// The text of a scalar; empty for others.
    pub fn text(&self) -> &str {
        match &self.kind {
            Kind::Scalar { value, .. } => value,
            _ => "",
        }
    }
}

/// All documents of one text.
#[derive(Debug, Default)]
pub struct Tree {
    nodes: Vec<Node>,
    documents: Vec<NodeId>,
    comments: Vec<Range<usize>>,
}

/// What stands for a node that is not there. Its value is YAML's null.
static NOTHING: Node = Node {
    kind: Kind::Scalar { value: String::new(), style: ScalarStyle::Plain },
    span: 0..0,
    start: 0,
    anchored: false,
    tag: None,
};

impl Tree {
    /// Reads every document of a text.
    ///
    /// # Errors
    /// The first syntax error, with its byte offset.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        Builder::new(text).run().or_else(|error| {
            // Envoy takes tabs as indentation between brackets, which granit does not. Spaces are as many bytes, and
            // what reads otherwise by it (tabs inside a scalar) is found by the comparisons of every edit.
            let spaced = spaces_for_tabs(text).ok_or_else(|| error.clone())?;
            Builder::new(&spaced).run().map_err(|_| error)
        })
    }

    pub fn node(&self, id: NodeId) -> &Node {
        self.nodes.get(id.0).unwrap_or(&NOTHING)
    }

    /// The node, or what its alias points to.
    pub fn resolve(&self, id: NodeId) -> NodeId {
        match self.node(id).kind {
            // An alias cannot point to an alias: it has no anchor of its own.
            Kind::Alias(target) => target,
            _ => id,
        }
    }

    /// Whether a collection is in several places, by an alias of it or of what it is in.
    pub fn is_shared(&self, id: NodeId) -> bool {
        let span = &self.node(self.resolve(id)).span;
        let within = |target: &Node| target.span.start <= span.start && span.end <= target.span.end;
        self.nodes.iter().any(|node| match node.kind {
            Kind::Alias(target) => target == self.resolve(id) || within(self.node(target)),
            _ => false,
        })
    }

    /// The root node of each document.
    pub fn documents(&self) -> &[NodeId] {
        &self.documents
    }

    /// The comments, in the order of the text, each from its `#` to the end of its line.
    pub fn comments(&self) -> &[Range<usize>] {
        &self.comments
    }

    /// The text of a scalar, through an alias; none for collections.
    pub fn text(&self, id: NodeId) -> Option<&str> {
        match &self.node(self.resolve(id)).kind {
            Kind::Scalar { value, .. } => Some(value),
            _ => None,
        }
    }

    /// The entries of a mapping, through an alias; none for others. Keys tagged `!ignore` are not there for Envoy, and
    /// are left out.
    pub fn entries(&self, id: NodeId) -> impl Iterator<Item = (NodeId, NodeId)> + '_ {
        let entries = match &self.node(self.resolve(id)).kind {
            Kind::Mapping { entries, .. } => entries.as_slice(),
            _ => &[],
        };
        entries.iter().copied().filter(|(key, _)| self.node(*key).tag.as_deref() != Some("!ignore"))
    }

    /// The entry of this exact key. Of a key written twice the last counts, as for Envoy and Kubernetes.
    pub fn entry(&self, id: NodeId, key: &str) -> Option<(NodeId, NodeId)> {
        self.entries(id).filter(|(k, _)| self.text(*k) == Some(key)).last()
    }

    pub fn value(&self, id: NodeId, key: &str) -> Option<NodeId> {
        self.entry(id, key).map(|(_, value)| value)
    }

    /// The text under a key.
    pub fn text_at(&self, id: NodeId, key: &str) -> Option<&str> {
        self.text(self.value(id, key)?)
    }

    /// The items of a sequence, through an alias; nothing for others.
    pub fn items(&self, id: NodeId) -> &[NodeId] {
        match &self.node(self.resolve(id)).kind {
            Kind::Sequence { items, .. } => items,
            _ => &[],
        }
    }

    pub fn is_mapping(&self, id: NodeId) -> bool {
        matches!(self.node(self.resolve(id)).kind, Kind::Mapping { .. })
    }

    pub fn is_sequence(&self, id: NodeId) -> bool {
        matches!(self.node(self.resolve(id)).kind, Kind::Sequence { .. })
    }

    /// Nothing written, or one of YAML's words for null, unquoted.
    pub fn is_null(&self, id: NodeId) -> bool {
        match &self.node(self.resolve(id)).kind {
            Kind::Scalar { value, style: ScalarStyle::Plain } => {
                matches!(value.as_str(), "" | "~" | "null" | "Null" | "NULL")
            }
            _ => false,
        }
    }

    /// The bytes of the last scalar that is on the line of `offset` and before it.
    pub fn scalar_on_line(&self, text: &str, offset: usize) -> Option<Range<usize>> {
        let line = super::splice::line_start(text, offset);
        let scalars = self.nodes.iter().filter(|node| matches!(node.kind, Kind::Scalar { .. }));
        let spans = scalars.map(|node| &node.span).filter(|span| span.start >= line && span.end <= offset);
        spans.max_by_key(|span| span.end).cloned()
    }

    /// Whether a literal or folded scalar goes on to `end`, where nothing but white space follows.
    pub fn ends_in_block_scalar(&self, end: usize) -> bool {
        self.nodes.iter().rev().any(|node| {
            let block =
                matches!(node.kind, Kind::Scalar { style: ScalarStyle::Literal | ScalarStyle::Folded, .. });
            block && node.span.end >= end
        })
    }

    /// The node as a text that two trees can be compared by: values, tags and aliases, not spelling.
    ///
    /// `skip` says which items of sequences, and which keys of mappings, are left out; a sequence in which `unwrap` says so is written as the one
    /// item that is left.
    pub fn fingerprint(
        &self,
        id: NodeId,
        skip: &dyn Fn(NodeId) -> bool,
        unwrap: &dyn Fn(NodeId) -> bool,
    ) -> String {
        let mut out = String::new();
        self.write_fingerprint(id, skip, unwrap, &mut out);
        out
    }

    fn write_fingerprint(
        &self,
        id: NodeId,
        skip: &dyn Fn(NodeId) -> bool,
        unwrap: &dyn Fn(NodeId) -> bool,
        out: &mut String,
    ) {
        let node = self.node(id);
        let list = matches!(node.kind, Kind::Sequence { .. }) && !unwrap(id);
        if let Some(tag) = &node.tag {
            out.push_str(tag);
            out.push(' ');
        }
        match &node.kind {
            Kind::Scalar { value, style } => {
                // `1` and `"1"` are two values; how the second is quoted does not matter.
                out.push(if matches!(style, ScalarStyle::Plain) { 'p' } else { 'q' });
                // The length keeps values apart, whatever is in them.
                out.push_str(&value.len().to_string());
                out.push(':');
                out.push_str(value);
            }
            Kind::Sequence { items, .. } => {
                if list {
                    out.push('[');
                }
                for item in items.iter().filter(|item| !skip(self.resolve(**item))) {
                    self.write_fingerprint(*item, skip, unwrap, out);
                }
                if list {
                    out.push(']');
                }
            }
            Kind::Mapping { entries, .. } => {
                out.push('{');
                for (key, value) in entries.iter().filter(|(key, _)| !skip(*key)) {
                    self.write_fingerprint(*key, skip, unwrap, out);
                    self.write_fingerprint(*value, skip, unwrap, out);
                }
                out.push('}');
            }
            // What it points to is written where the anchor is.
            Kind::Alias(_) => out.push('*'),
        }
    }
}

enum Frame {
    Sequence { id: NodeId, items: Vec<NodeId> },
    Mapping { id: NodeId, entries: Vec<(NodeId, NodeId)>, key: Option<NodeId> },
}

struct Builder<'t> {
    text: &'t str,
    tree: Tree,
    frames: Vec<Frame>,
    anchors: HashMap<usize, NodeId>,
}

impl<'t> Builder<'t> {
    fn new(text: &'t str) -> Self {
        Self { text, tree: Tree::default(), frames: Vec::new(), anchors: HashMap::new() }
    }

    fn run(mut self) -> Result<Tree, SyntaxError> {
        let options = granit_parser::options! {
            emit_anchor_events: true,
            // The text is in memory already: comments cost no more than it does.
            max_buffered_comment_events: usize::MAX,
        };
        let mut last = None;
        for next in Parser::new_from_str_with_options(self.text, options) {
            let (event, span) = next.map_err(|error| SyntaxError {
                message: error.info().to_owned(),
                offset: error.marker().byte_offset().unwrap_or(self.text.len()),
            })?;
            let range = byte_range(&span);
            let start = span.tag_span().and_then(|tag| tag.byte_range()).map_or(range.start, |tag| tag.start);
            match event {
                Event::Comment(..) => self.tree.comments.push(range),
                Event::Anchor(..) => {
                    if let Some(node) = last.and_then(|NodeId(id)| self.tree.nodes.get_mut(id)) {
                        node.start = node.start.min(range.start);
                        node.anchored = true;
                    }
                }
                Event::Scalar(value, style, anchor, tag) => {
                    let span = scalar_span(self.text, style, range);
                    // granit reports an absent value as `~` with an empty span.
                    let value = if span.is_empty() && matches!(style, ScalarStyle::Plain) {
                        String::new()
                    } else {
                        value.into_owned()
                    };
                    let tag = tag.map(|tag| tag.to_string());
                    last = Some(self.add(Kind::Scalar { value, style }, span, start, tag, anchor));
                }
                Event::Alias(anchor) => {
                    let target = self.anchors.get(&anchor).copied().unwrap_or(NodeId(usize::MAX));
                    last = Some(self.add(Kind::Alias(target), range, start, None, 0));
                }
                Event::SequenceStart(style, anchor, tag) => {
                    let flow = matches!(style, StructureStyle::Flow);
                    let kind = Kind::Sequence { flow, items: Vec::new() };
                    let id = self.add(kind, range, start, tag.map(|tag| tag.to_string()), anchor);
                    self.frames.push(Frame::Sequence { id, items: Vec::new() });
                    last = Some(id);
                }
                Event::MappingStart(style, anchor, tag) => {
                    let flow = matches!(style, StructureStyle::Flow);
                    let kind = Kind::Mapping { flow, entries: Vec::new() };
                    let id = self.add(kind, range, start, tag.map(|tag| tag.to_string()), anchor);
                    self.frames.push(Frame::Mapping { id, entries: Vec::new(), key: None });
                    last = Some(id);
                }
                Event::SequenceEnd | Event::MappingEnd => self.close(range),
                _ => {}
            }
        }
        Ok(self.tree)
    }

    fn add(
        &mut self,
        kind: Kind,
        span: Range<usize>,
        start: usize,
        tag: Option<String>,
        anchor: usize,
    ) -> NodeId {
        let id = NodeId(self.tree.nodes.len());
        let start = start.min(span.start);
        self.tree.nodes.push(Node { kind, span, start, anchored: anchor != 0, tag });
        if anchor != 0 {
            self.anchors.insert(anchor, id);
        }
        match self.frames.last_mut() {
            None => self.tree.documents.push(id),
            Some(Frame::Sequence { items, .. }) => items.push(id),
            Some(Frame::Mapping { entries, key, .. }) => match key.take() {
                None => *key = Some(id),
                Some(key) => entries.push((key, id)),
            },
        }
        id
    }

    fn close(&mut self, end: Range<usize>) {
        let Some(frame) = self.frames.pop() else { return };
        let (id, last) = match &frame {
            Frame::Sequence { id, items } => (*id, items.last().copied()),
            Frame::Mapping { id, entries, .. } => (*id, entries.last().map(|(_, value)| *value)),
        };
        let last_end = last.map(|last| self.tree.node(last).span.end);
        let first_dash = match &frame {
            Frame::Sequence { items, .. } => items.first().and_then(|first| self.dash_behind(id, *first)),
            Frame::Mapping { .. } => None,
        };
        let Some(node) = self.tree.nodes.get_mut(id.0) else { return };
        match (&mut node.kind, frame) {
            (Kind::Sequence { flow, items: own }, Frame::Sequence { items, .. }) => {
                node.span.end = if *flow { end.end } else { last_end.unwrap_or(node.span.end) };
                if let Some(dash) = first_dash.filter(|_| !*flow) {
                    node.span.start = dash;
                    node.start = node.start.min(dash);
                }
                *own = items;
            }
            (Kind::Mapping { flow, entries: own }, Frame::Mapping { entries, .. }) => {
                node.span.end = if *flow { end.end } else { last_end.unwrap_or(node.span.end) };
                *own = entries;
            }
            _ => {}
        }
    }
}

impl Builder<'_> {
    /// The first dash of a sequence that is not indented more than its key: the parser reports such a sequence from
    /// its first item on.
    fn dash_behind(&self, sequence: NodeId, first: NodeId) -> Option<usize> {
        let start = self.tree.node(sequence).span.start;
        // Of a dash alone on its line, it reports what is behind it.
        if self.tree.node(first).start > start && self.text.as_bytes().get(start) == Some(&b'-') {
            return None;
        }
        let mut before = self.text.get(..start.min(self.tree.node(first).start))?.trim_end();
        let mut comments =
            self.tree.comments.iter().rev().skip_while(|comment| comment.start >= before.len());
        while let Some(comment) = comments.next().filter(|comment| comment.end >= before.len()) {
            before = self.text.get(..comment.start)?.trim_end();
        }
        before.ends_with('-').then(|| before.len() - 1)
    }
}

/// The text with a space for every tab that indents a line; none if no tab does.
fn spaces_for_tabs(text: &str) -> Option<String> {
    let mut any = false;
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let content = line.trim_start_matches([' ', '\t']);
        let indent = line.get(..line.len() - content.len()).unwrap_or_default();
        any |= indent.contains('\t');
        out.push_str(&indent.replace('\t', " "));
        out.push_str(content);
    }
    any.then_some(out)
}

fn byte_range(span: &Span) -> Range<usize> {
    span.byte_range().unwrap_or(0..0)
}

/// The bytes of a scalar. A block scalar's span runs on into the blank lines (and the next line's indentation) behind
/// it; only `+` makes those its own.
fn scalar_span(text: &str, style: ScalarStyle, range: Range<usize>) -> Range<usize> {
    if !matches!(style, ScalarStyle::Literal | ScalarStyle::Folded) {
        return range;
    }
    let raw = text.get(range.clone()).unwrap_or_default();
    // The header (`|+2  # why`) is on the line before the content.
    let header = block_header(text, range.start);
    let keep = header.split('#').next().is_some_and(|indicators| indicators.contains('+'));
    let content = if keep {
        // Back to the last line break, and before it.
        let lines = raw.rfind('\n').map_or(raw, |at| raw.get(..at).unwrap_or_default());
        if raw.ends_with(|c: char| c != '\n' && c != ' ') {
            raw
        } else {
            lines.strip_suffix('\r').unwrap_or(lines)
        }
    } else {
        raw.trim_end()
    };
    range.start..range.start + content.len()
}

/// What follows the `|` or `>` of the block scalar whose content begins at `content`.
fn block_header(text: &str, content: usize) -> &str {
    let before = text.get(..content).unwrap_or_default().trim_end();
    let line = before.rsplit('\n').next().unwrap_or_default();
    // A comment behind the header may hold these signs too; the header's own comes first after the key.
    let code = line.split(" #").next().unwrap_or(line);
    code.rsplit(['|', '>']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_know_their_bytes() {
        let text = "a: &x\n  - b: 1 # c\n  - |\n    foo\n\n    # no comment\n# c\nz: {k: \"v\"}\n";
        let tree = Tree::parse(text).unwrap();
        let root = tree.documents()[0];
        let list = tree.value(root, "a").unwrap();
        assert_eq!(&text[tree.node(list).start..tree.node(list).start + 2], "&x");
        let items = tree.items(list);
        assert_eq!(&text[tree.node(items[0]).span.clone()], "b: 1");
        assert_eq!(&text[tree.node(items[1]).span.clone()], "foo\n\n    # no comment");
        let z = tree.value(root, "z").unwrap();
        assert_eq!(&text[tree.node(z).span.clone()], "{k: \"v\"}");
        assert_eq!(tree.comments().len(), 2);
    }

    #[test]
    fn the_last_of_two_equal_keys_counts_and_an_ignored_one_does_not() {
        let tree = Tree::parse("a: 1\na: 2\n!ignore b: 3\n").unwrap();
        let root = tree.documents()[0];
        assert_eq!(tree.text_at(root, "a"), Some("2"));
        assert_eq!(tree.text_at(root, "b"), None);
    }

    #[test]
    fn a_list_begins_at_its_first_dash() {
        for text in ["h:\n-\n  n: 1\n", "h:\n- # why\n  n: 1\n", "h:\n  -\n    n: 1\n", "h:\n-  \n  - 1\n"] {
            let tree = Tree::parse(text).unwrap();
            let list = tree.value(tree.documents()[0], "h").unwrap();
            assert_eq!(tree.node(list).span.start, text.find('-').unwrap(), "{text:?}");
        }
    }

    #[test]
    fn tabs_between_brackets_are_read() {
        let text = "a:\n  b: {\n\t\tc: 1,\n\td: [2]\n  }\n";
        let tree = Tree::parse(text).unwrap();
        let b = tree.value(tree.value(tree.documents()[0], "a").unwrap(), "b").unwrap();
        assert_eq!(tree.text_at(b, "c"), Some("1"));
        let d = tree.value(b, "d").unwrap();
        assert_eq!(&text[tree.node(d).span.clone()], "[2]");
    }

    #[test]
    fn a_kept_block_scalar_owns_its_blank_lines() {
        let text = "a: |+\n  x\n\n\nb: 1\n";
        let tree = Tree::parse(text).unwrap();
        let a = tree.value(tree.documents()[0], "a").unwrap();
        assert_eq!(&text[tree.node(a).span.clone()], "x\n\n");
    }
}

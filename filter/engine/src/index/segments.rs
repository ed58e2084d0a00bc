//! Patterns by segments in a tree: path templates, SPIFFE patterns, and prefixes, which end within a segment.
//!
//! A node is reached in one way only, so a value visits each node at most once, whatever a caller sends; the depth is
//! that of the patterns (a template has at most 256 bytes) and not that of the value.

use alloc::vec::Vec;
use core::cell::Cell;

use super::affix::{AffixSet, End};
use super::table::{Table, hash};
use crate::pattern::is_template_byte;

const NONE: u32 = u32::MAX;

/// See the module.
#[derive(Debug)]
pub struct SegmentTree {
    nodes: Vec<Node>,
    /// From a node by a literal segment to a node.
    edges: Vec<Edge>,
    edge_table: Table,
    /// Texts of edges that are too long to stand in them.
    texts: Vec<u8>,
    prefixes: Vec<AffixSet>,
    tails: Vec<AffixSet>,
    /// Longest literal segment; a longer one of a value need not be looked up.
    longest: usize,
    /// Where an empty segment leads from the root, as in all paths.
    behind_slash: u32,
}

#[derive(Debug)]
struct Node {
    /// Where any one segment leads.
    star: u32,
    /// Pattern that ends here.
    end: u32,
    /// Number of the prefixes that end within the next segment.
    prefixes: u32,
    /// Number of the tails behind a `{**}` that stands here.
    tails: u32,
}

#[derive(Debug)]
struct Edge {
    from: u32,
    to: u32,
    length: u32,
    /// The text, or where it starts in `texts` if it is longer.
    text: [u8; INLINE],
}

/// Longest text of an edge that stands in it, in bytes: with it an edge has 32.
const INLINE: usize = 20;

/// Collects patterns for a [`SegmentTree`].
#[derive(Debug)]
pub struct Builder {
    tree: SegmentTree,
    /// For each node, as they will stand in the tree.
    prefixes: Vec<Vec<(Vec<u8>, u32)>>,
    tails: Vec<Vec<(Vec<u8>, u32)>>,
}

impl Builder {
    /// Without patterns.
    pub fn new() -> Self {
        let tree = SegmentTree {
            nodes: Vec::new(),
            edges: Vec::new(),
            edge_table: Table::default(),
            texts: Vec::new(),
            prefixes: Vec::new(),
            tails: Vec::new(),
            longest: 0,
            behind_slash: NONE,
        };
        let mut builder = Self { tree, prefixes: Vec::new(), tails: Vec::new() };
        builder.node();
        builder
    }

    fn node(&mut self) -> u32 {
        let number = u32::try_from(self.tree.nodes.len()).unwrap_or(NONE);
        self.tree.nodes.push(Node { star: NONE, end: NONE, prefixes: NONE, tails: NONE });
        number
    }

    /// A template (`star` is `{*}`, and `{**}` may stand in it) or a SPIFFE pattern (`star` is `*`).
    pub fn pattern(&mut self, text: &[u8], star: &[u8], value: u32) {
        let mut at = 0;
        let mut rest = Some(text);
        while let Some(text) = rest {
            let (segment, after) = split(text);
            if segment == b"{**}" {
                let tail =
                    after.map_or(&[][..], |after| text.get(text.len() - after.len() - 1..).unwrap_or(&[]));
                if let Some(node) = self.tree.nodes.get_mut(at as usize) {
                    add(&mut self.tails, &mut node.tails, tail, value);
                }
                return;
            }
            at = if segment == star { self.star(at) } else { self.literal(at, segment) };
            rest = after;
        }
        if let Some(node) = self.tree.nodes.get_mut(at as usize) {
            node.end = value;
        }
    }

    /// A prefix: whole segments, and the beginning of one.
    pub fn prefix(&mut self, text: &[u8], value: u32) {
        let (mut at, mut rest) = (0, text);
        while let (segment, Some(after)) = split(rest) {
            at = self.literal(at, segment);
            rest = after;
        }
        if let Some(node) = self.tree.nodes.get_mut(at as usize) {
            add(&mut self.prefixes, &mut node.prefixes, rest, value);
        }
    }

    /// The tree, if it has any pattern.
    pub fn build(mut self) -> Option<SegmentTree> {
        let only_root_without_anything =
            self.tree.nodes.len() == 1 && self.prefixes.is_empty() && self.tails.is_empty();
        let sets = |end, sets: &[Vec<_>]| sets.iter().map(|set| AffixSet::new(end, set)).collect();
        self.tree.behind_slash = self.tree.literal(0, b"").unwrap_or(NONE);
        self.tree.prefixes = sets(End::Start, &self.prefixes);
        self.tree.tails = sets(End::Tail, &self.tails);
        (!only_root_without_anything).then_some(self.tree)
    }

    fn star(&mut self, at: u32) -> u32 {
        match self.tree.nodes.get(at as usize) {
            Some(node) if node.star != NONE => node.star,
            _ => {
                let new = self.node();
                if let Some(node) = self.tree.nodes.get_mut(at as usize) {
                    node.star = new;
                }
                new
            }
        }
    }

    fn literal(&mut self, from: u32, segment: &[u8]) -> u32 {
        if let Some(to) = self.tree.literal(from, segment) {
            return to;
        }
        let to = self.node();
        let tree = &mut self.tree;
        let edge = Edge::new(from, to, segment, &mut tree.texts);
        tree.longest = tree.longest.max(segment.len());
        tree.edge_table.insert(hash(from, segment), super::count(tree.edges.len()));
        tree.edges.push(edge);
        to
    }
}

/// Adds to the set with this number, which is made when there is none.
fn add(sets: &mut Vec<Vec<(Vec<u8>, u32)>>, number: &mut u32, text: &[u8], value: u32) {
    if *number == NONE {
        *number = u32::try_from(sets.len()).unwrap_or(NONE);
        sets.push(Vec::new());
    }
    if let Some(set) = sets.get_mut(*number as usize) {
        set.push((text.to_vec(), value));
    }
}

impl Edge {
    fn new(from: u32, to: u32, segment: &[u8], texts: &mut Vec<u8>) -> Self {
        let mut text = [0; INLINE];
        if segment.len() <= INLINE {
            text.iter_mut().zip(segment).for_each(|(slot, byte)| *slot = *byte);
        } else {
            let start = u32::try_from(texts.len()).unwrap_or(NONE).to_le_bytes();
            text.iter_mut().zip(start).for_each(|(slot, byte)| *slot = byte);
            texts.extend_from_slice(segment);
        }
        Self { from, to, length: u32::try_from(segment.len()).unwrap_or(NONE), text }
    }

    fn text<'t>(&'t self, texts: &'t [u8]) -> &'t [u8] {
        let length = self.length as usize;
        if let Some(text) = self.text.get(..length) {
            return text;
        }
        let start = self.text.first_chunk().map_or(0, |start| u32::from_le_bytes(*start)) as usize;
        texts.get(start..start + length).unwrap_or(&[])
    }
}

/// A value, and where in it are bytes that no `{*}` and `{**}` match.
struct Subject<'v> {
    value: &'v [u8],
    /// The first odd byte, and one behind the last. Looked for when first asked for, since few values need it.
    odd: Cell<Option<(usize, usize)>>,
}

/// A segment up to here is looked at each time that a `{*}` is tried on it; longer ones, which only a caller makes, never
/// twice.
const SHORT: usize = 32;

impl SegmentTree {
    /// Calls `found` for every pattern that matches.
    pub fn of(&self, value: &[u8], found: &mut dyn FnMut(u32)) {
        let subject = Subject { value, odd: Cell::new(None) };
        match (value.first(), self.nodes.first()) {
            // One look-up less for what all paths begin with, if nothing else begins at the root.
            (Some(b'/'), Some(Node { prefixes: NONE, tails: NONE, .. })) => {
                self.visit(self.behind_slash, 1, &subject, found);
            }
            _ => self.visit(0, 0, &subject, found),
        }
    }

    /// At a node, with the value's part from `start` to go.
    fn visit(&self, at: u32, start: usize, subject: &Subject, found: &mut dyn FnMut(u32)) {
        let Some(node) = self.nodes.get(at as usize) else { return };
        let rest = subject.value.get(start..).unwrap_or(&[]);
        if let Some(prefixes) = self.prefixes.get(node.prefixes as usize) {
            prefixes.of(rest, found);
        }
        // What stands before a tail has no odd byte; a tail never has one.
        if let Some(tails) = self.tails.get(node.tails as usize)
            && subject.odd().1 <= start
        {
            tails.of(rest, found);
        }
        let (segment, after) = split(rest);
        if segment.len() <= self.longest
            && let Some(to) = self.literal(at, segment)
        {
            self.arrive(to, after.map(|after| subject.value.len() - after.len()), subject, found);
        }
        if node.star != NONE && !segment.is_empty() && subject.is_plain(start, segment) {
            self.arrive(node.star, after.map(|after| subject.value.len() - after.len()), subject, found);
        }
    }

    /// At a node behind a segment: the value goes on at `start`, or is at its end.
    fn arrive(&self, at: u32, start: Option<usize>, subject: &Subject, found: &mut dyn FnMut(u32)) {
        match (start, self.nodes.get(at as usize)) {
            (Some(start), _) => self.visit(at, start, subject, found),
            (None, Some(node)) if node.end != NONE => found(node.end),
            _ => {}
        }
    }

    fn literal(&self, from: u32, segment: &[u8]) -> Option<u32> {
        let is_it = |edge: &Edge| edge.from == from && edge.text(&self.texts) == segment;
        let number = self
            .edge_table
            .find(hash(from, segment), &mut |number| self.edges.get(number as usize).is_some_and(is_it))?;
        self.edges.get(number as usize).map(|edge| edge.to)
    }
}

impl Subject<'_> {
    /// The first odd byte, and one behind the last.
    fn odd(&self) -> (usize, usize) {
        self.odd.get().unwrap_or_else(|| {
            let is_odd = |byte: &u8| *byte != b'/' && !is_template_byte(*byte);
            let first = self.value.iter().position(is_odd).unwrap_or(self.value.len());
            let odd = (first, self.value.iter().rposition(is_odd).map_or(0, |last| last + 1));
            self.odd.set(Some(odd));
            odd
        })
    }

    /// Whether a segment has no odd byte.
    fn is_plain(&self, start: usize, segment: &[u8]) -> bool {
        let is_plain = |segment: &[u8]| segment.iter().all(|byte| is_template_byte(*byte));
        if segment.len() <= SHORT {
            return is_plain(segment);
        }
        let (first, end) = self.odd();
        start + segment.len() <= first || start >= end || is_plain(segment)
    }
}

/// The first segment, and what follows the `/` behind it.
fn split(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    match slash(text) {
        Some(at) => (text.get(..at).unwrap_or(&[]), text.get(at + 1..)),
        None => (text, None),
    }
}

/// Where the first `/` is, found eight bytes at a time.
fn slash(text: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    let (words, rest) = text.as_chunks();
    for (number, word) in words.iter().enumerate() {
        // Zero where a `/` was; the lowest bit of `marks` belongs to the first zero byte.
        let zeroes = u64::from_le_bytes(*word) ^ u64::from_le_bytes([b'/'; 8]);
        let marks = zeroes.wrapping_sub(ONES) & !zeroes & (ONES << 7);
        if marks != 0 {
            return Some(8 * number + marks.trailing_zeros() as usize / 8);
        }
    }
    rest.iter().position(|byte| *byte == b'/').map(|at| 8 * words.len() + at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::Pattern;

    fn tree(patterns: &[Pattern]) -> SegmentTree {
        let mut builder = Builder::new();
        for (number, pattern) in (0..).zip(patterns) {
            match pattern {
                Pattern::Template(text) => builder.pattern(text.as_bytes(), b"{*}", number),
                Pattern::Segments(text) => builder.pattern(text.as_bytes(), b"*", number),
                Pattern::Prefix(text) => builder.prefix(text.as_bytes(), number),
                other => panic!("{other:?}"),
            }
        }
        builder.build().unwrap()
    }

    fn found(tree: &SegmentTree, value: &str) -> Vec<u32> {
        let mut found = Vec::new();
        tree.of(value.as_bytes(), &mut |number| found.push(number));
        found.sort_unstable();
        found
    }

    #[test]
    fn it_finds_what_comparing_each_finds() {
        let mut patterns = Vec::new();
        let parts = ["{*}", "a", "{**}", "b"];
        for one in parts {
            for two in parts {
                for three in parts {
                    for end in ["", "/"] {
                        let text = format!("/{one}/{two}/{three}{end}");
                        if crate::pattern::check_template(&text).is_ok() {
                            patterns.push(Pattern::Template(text.into()));
                        }
                    }
                }
            }
        }
        for prefix in ["/", "/a", "/a/", "/a/b", "a", "/ab", "/a/b/a/"] {
            patterns.push(Pattern::Prefix(prefix.into()));
        }
        for segments in ["td/ns/*/sa/a", "*/ns/a/sa/*", "td/*", "td"] {
            patterns.push(Pattern::Segments(segments.into()));
        }
        let tree = tree(&patterns);
        let pieces = ["", "a", "b", "ab", "a|", "|", "é"];
        let mut values =
            vec!["td/ns/a/sa/a".to_owned(), "td/ns/a/sa".to_owned(), "td".to_owned(), String::new()];
        for one in pieces {
            values.push(format!("/{one}"));
            for two in pieces {
                values.push(format!("/{one}/{two}"));
                for three in pieces {
                    values.push(format!("/{one}/{two}/{three}"));
                    values.push(format!("/{one}/{two}/{three}/"));
                    values.push(format!("/{one}/{two}/{three}/a"));
                }
            }
        }
        for value in values {
            let expected: Vec<u32> = (0..)
                .zip(&patterns)
                .filter(|(_, one)| one.matches(value.as_bytes()))
                .map(|(at, _)| at)
                .collect();
            assert_eq!(found(&tree, &value), expected, "{value}");
        }
    }

    #[test]
    fn the_first_slash_is_found_wherever_it_is() {
        for length in 0..20 {
            for at in 0..=length {
                let mut text = vec![b'.'; length];
                text.iter_mut().skip(at).for_each(|byte| *byte = b'/');
                assert_eq!(slash(&text), (at < length).then_some(at), "{text:?}");
                // What differs in a single bit, high or low, is none.
                assert_eq!(slash(&[b'/' ^ 0x80, b'/' ^ 1, b'/' ^ 0x80, 0, 0xff, b'.', b'0', b'/']), Some(7));
            }
        }
    }

    #[test]
    fn a_value_of_many_segments_ends_where_the_patterns_end() {
        let tree = tree(&[Pattern::Template("/a/{*}/{**}/b".into())]);
        let long = format!("/a{}/b", "/a".repeat(1000));
        assert_eq!(found(&tree, &long), [0]);
        assert_eq!(found(&tree, &long[..long.len() - 2]), [0; 0]);
    }
}

//! All patterns that policies compare one attribute with, and those of them that a value matches.
//!
//! The cost follows the value and what it matches, not the number of patterns: exact ones by hash, prefixes and
//! templates by segment, suffixes by bisection, address blocks by hash, once per length of prefix that occurs.

use alloc::vec::Vec;
use core::net::IpAddr;

use super::affix::{AffixSet, End};
use super::segments::{self, SegmentTree};
use super::table::{Table, hash};
use super::value::Value;
use crate::pattern::Pattern;

/// See the module. What it finds are positions in the table of patterns that it was built from.
#[derive(Debug)]
pub struct Keys {
    any: Option<u32>,
    /// Where in `texts` an exact text is.
    exact: Table,
    /// Position of the pattern, length of the text, text; one after the other, so that all of it is in one place.
    texts: Vec<u8>,
    /// Service accounts, ports and (masked) address blocks.
    others: Table,
    tree: Option<SegmentTree>,
    suffixes: AffixSet,
    /// Compared one by one: a `*` in the middle is rare.
    globs: Vec<u32>,
    /// Lengths of address prefixes that occur; `true` for IPv4.
    blocks: Vec<(bool, u8)>,
}

impl Keys {
    /// Of the patterns with these positions in the table.
    pub fn new(table: &[Pattern], positions: &[u32]) -> Self {
        let mut keys = Self {
            any: None,
            exact: Table::default(),
            texts: Vec::new(),
            others: Table::default(),
            tree: None,
            suffixes: AffixSet::new(End::Tail, &[]),
            globs: Vec::new(),
            blocks: Vec::new(),
        };
        // One that grows takes up to four times the memory.
        let lengths = positions.iter().map(|at| match pattern(table, *at) {
            Pattern::Exact(text) => EXACT_HEAD + text.len(),
            _ => 0,
        });
        keys.texts.reserve_exact(lengths.sum());
        let mut tree = segments::Builder::new();
        let mut suffixes = Vec::new();
        for at in positions {
            match pattern(table, *at) {
                Pattern::Any => keys.any = Some(*at),
                Pattern::Prefix(text) => tree.prefix(text.as_bytes(), *at),
                Pattern::Template(text) => tree.pattern(text.as_bytes(), b"{*}", *at),
                Pattern::Segments(text) => tree.pattern(text.as_bytes(), b"*", *at),
                Pattern::Suffix(text) => suffixes.push((text.as_bytes().to_vec(), *at)),
                Pattern::Glob(_) => keys.globs.push(*at),
                Pattern::Exact(text) => keys.insert_text(text.as_bytes(), *at),
                Pattern::ServiceAccount { namespace, name } => {
                    keys.others.insert(hash_of(&Value::Account(namespace, name), 0), *at);
                }
                Pattern::Port(port) => keys.others.insert(hash_of(&Value::Port(*port), 0), *at),
                Pattern::Cidr { address, prefix } => {
                    let block = (address.is_ipv4(), *prefix);
                    if !keys.blocks.contains(&block) {
                        keys.blocks.push(block);
                    }
                    keys.others.insert(hash_of(&Value::Address(*address), *prefix), *at);
                }
            }
        }
        keys.tree = tree.build();
        keys.suffixes = AffixSet::new(End::Tail, &suffixes);
        keys
    }

    /// Calls `found` with the position of every pattern that matches, each once.
    pub fn of(&self, table: &[Pattern], value: &Value, found: &mut dyn FnMut(u32)) {
        match value {
            Value::Bytes(bytes) => {
                self.any.into_iter().for_each(&mut *found);
                if !self.exact.is_empty() {
                    let is_it = &mut |at| self.exact_at(at).is_some_and(|(_, text)| text == *bytes);
                    let at = self.exact.find(hash(0, bytes), is_it);
                    at.and_then(|at| self.exact_at(at)).into_iter().for_each(|(pattern, _)| found(pattern));
                }
                if let Some(tree) = &self.tree {
                    tree.of(bytes, found);
                }
                if !self.suffixes.is_empty() {
                    self.suffixes.of(bytes, found);
                }
                for at in &self.globs {
                    if pattern(table, *at).matches(bytes) {
                        found(*at);
                    }
                }
            }
            Value::Account(..) | Value::Port(_) => {
                let is_it = &mut |at| value.matches(pattern(table, at));
                self.others.find(hash_of(value, 0), is_it).into_iter().for_each(found);
            }
            Value::Address(address) => {
                for (is_v4, prefix) in &self.blocks {
                    if *is_v4 == address.is_ipv4() {
                        let is_it = &mut |at| {
                            let block = pattern(table, at);
                            matches!(block, Pattern::Cidr { prefix: of, .. } if of == prefix)
                                && value.matches(block)
                        };
                        self.others.find(hash_of(value, *prefix), is_it).into_iter().for_each(&mut *found);
                    }
                }
            }
        }
    }

    fn exact_at(&self, at: u32) -> Option<(u32, &[u8])> {
        let (pattern, rest) = self.texts.get(at as usize..)?.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        Some((u32::from_le_bytes(*pattern), rest.get(..u32::from_le_bytes(*length) as usize)?))
    }

    fn insert_text(&mut self, text: &[u8], pattern: u32) {
        self.exact.insert(hash(0, text), super::count(self.texts.len()));
        self.texts.extend_from_slice(&pattern.to_le_bytes());
        self.texts.extend_from_slice(&super::count(text.len()).to_le_bytes());
        self.texts.extend_from_slice(text);
    }
}

/// Bytes in front of an exact text: the pattern's position, the text's length.
const EXACT_HEAD: usize = 8;

/// Hash of what is no text; of an address, of the first `prefix` bits.
fn hash_of(value: &Value, prefix: u8) -> u32 {
    match value {
        Value::Bytes(bytes) => hash(0, bytes),
        Value::Account(namespace, name) => hash(hash(0, namespace.as_bytes()), name.as_bytes()),
        Value::Port(port) => hash(0, &port.to_le_bytes()),
        Value::Address(address) => hash(u32::from(prefix), &masked(*address, prefix).to_le_bytes()),
    }
}

fn pattern(table: &[Pattern], at: u32) -> &Pattern {
    table.get(at as usize).unwrap_or(&Pattern::Any)
}

/// The bits that count.
fn masked(address: IpAddr, prefix: u8) -> u128 {
    let (bits, width) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    bits.checked_shr(width - u32::from(prefix).min(width)).unwrap_or(0)
}

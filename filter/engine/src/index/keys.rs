//! All patterns that policies compare one attribute with, and those of them that a value matches.
//!
//! The cost follows the value and what it matches, not the number of patterns: exact ones by hash, prefixes and
//! templates by segment, suffixes by bisection, address blocks by hash, once per length of prefix that occurs.

use core::hash::BuildHasher;
use core::net::IpAddr;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::affix::{AffixSet, End};
use super::count;
use super::segments::{self, SegmentTree};
use super::value::Value;
use crate::pattern::Pattern;

/// See the module. What it finds are positions in the table of patterns that it was built from.
#[derive(Debug)]
pub struct Keys {
    hasher: FixedState,
    any: Option<u32>,
    exact: HashTable<Exact>,
    /// Texts of `exact`, in one piece of memory.
    texts: Vec<u8>,
    /// Service accounts, ports and (masked) address blocks.
    others: HashTable<u32>,
    tree: Option<SegmentTree>,
    suffixes: AffixSet,
    /// Compared one by one: a `*` in the middle is rare.
    globs: Vec<u32>,
    /// Lengths of address prefixes that occur; `true` for IPv4.
    blocks: Vec<(bool, u8)>,
}

/// An exact text.
#[derive(Debug)]
struct Exact {
    start: u32,
    length: u32,
    pattern: u32,
}

impl Exact {
    fn text<'t>(&self, texts: &'t [u8]) -> &'t [u8] {
        let (start, length) = (self.start as usize, self.length as usize);
        texts.get(start..start + length).unwrap_or(&[])
    }
}

impl Keys {
    /// Of the patterns with these positions in the table.
    pub fn new(table: &[Pattern], positions: &[u32]) -> Self {
        let mut keys = Self {
            hasher: FixedState::default(),
            any: None,
            exact: HashTable::new(),
            texts: Vec::new(),
            others: HashTable::new(),
            tree: None,
            suffixes: AffixSet::new(End::Tail, Vec::new()),
            globs: Vec::new(),
            blocks: Vec::new(),
        };
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
                Pattern::ServiceAccount { .. } | Pattern::Port(_) => keys.insert(table, *at),
                Pattern::Cidr { address, prefix } => {
                    let block = (address.is_ipv4(), *prefix);
                    if !keys.blocks.contains(&block) {
                        keys.blocks.push(block);
                    }
                    keys.insert(table, *at);
                }
            }
        }
        keys.tree = tree.build();
        keys.suffixes = AffixSet::new(End::Tail, suffixes);
        keys
    }

    /// Calls `found` with the position of every pattern that matches, each once.
    pub fn of(&self, table: &[Pattern], value: &Value, found: &mut dyn FnMut(u32)) {
        match value {
            Value::Bytes(bytes) => {
                self.any.into_iter().for_each(&mut *found);
                if !self.exact.is_empty() {
                    let same = |exact: &Exact| exact.text(&self.texts) == *bytes;
                    let exact = self.exact.find(self.hasher.hash_one(*bytes), same);
                    exact.into_iter().for_each(|exact| found(exact.pattern));
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
            Value::Account(namespace, name) => {
                let hash = self.hasher.hash_one((namespace.as_bytes(), name.as_bytes()));
                let same = |at: &u32| value.matches(pattern(table, *at));
                self.others.find(hash, same).into_iter().for_each(|at| found(*at));
            }
            Value::Port(port) => {
                let same = |at: &u32| value.matches(pattern(table, *at));
                self.others.find(self.hasher.hash_one(*port), same).into_iter().for_each(|at| found(*at));
            }
            Value::Address(address) => {
                for (is_v4, prefix) in &self.blocks {
                    if *is_v4 == address.is_ipv4() {
                        let same = |at: &u32| {
                            let block = pattern(table, *at);
                            matches!(block, Pattern::Cidr { prefix: of, .. } if of == prefix)
                                && value.matches(block)
                        };
                        let hash = self.hasher.hash_one(masked(*address, *prefix));
                        self.others.find(hash, same).into_iter().for_each(|at| found(*at));
                    }
                }
            }
        }
    }

    fn insert_text(&mut self, text: &[u8], pattern: u32) {
        let entry = Exact { start: count(self.texts.len()), length: count(text.len()), pattern };
        self.texts.extend_from_slice(text);
        let (hasher, texts) = (&self.hasher, &self.texts);
        self.exact.insert_unique(hasher.hash_one(text), entry, |exact| hasher.hash_one(exact.text(texts)));
    }

    fn insert(&mut self, table: &[Pattern], at: u32) {
        let hasher = &self.hasher;
        let hash_of = |at: &u32| match pattern(table, *at) {
            Pattern::ServiceAccount { namespace, name } => {
                hasher.hash_one((namespace.as_bytes(), name.as_bytes()))
            }
            Pattern::Port(port) => hasher.hash_one(*port),
            Pattern::Cidr { address, prefix } => hasher.hash_one(masked(*address, *prefix)),
            _ => 0,
        };
        self.others.insert_unique(hash_of(&at), at, hash_of);
    }
}

fn pattern(table: &[Pattern], at: u32) -> &Pattern {
    table.get(at as usize).unwrap_or(&Pattern::Any)
}

/// The bits that count, with the length of the prefix.
fn masked(address: IpAddr, prefix: u8) -> (u128, u8) {
    let (bits, width) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    (bits.checked_shr(width - u32::from(prefix).min(width)).unwrap_or(0), prefix)
}

//! How many requests are in flight, for all workers together, in counters that cannot leak.
//!
//! A VM that traps gets no further callbacks for its streams, so a plain counter would stay too high for ever. Here
//! every worker's VM is a *member* with a number of its own, and counts its requests in records of its own. It says that it
//! is alive every [`BEAT`]; a member that was not heard of for [`LEASE`] is gone, and what it counted with it. So
//! after a trap the counters are right again within [`LEASE`] and a beat, and until then they refuse more, never less.
//! A record with nothing in flight is removed: memory is bounded by the requests in flight.
//!
//! Deliberately absent: queues. What does not fit is refused at once.

use alloc::vec::Vec;

use crate::rate_limit::Nanoseconds;
use crate::shared_words::{Region, SharedWords, Slot, Unavailable, Write, bytes, update};

/// How often [`Member::beat`] must be called, in nanoseconds.
pub const BEAT: Nanoseconds = 2_000_000_000;
/// A member that did not beat for so long is gone.
pub const LEASE: Nanoseconds = 10_000_000_000;
/// Records of one slot. Beyond it a new key is refused: some 32,000 keys must be in flight at once for that.
const MAX_RECORDS: usize = 128;
/// Bytes of a record: the key's print, the member, the count.
const RECORD_BYTES: usize = 16;
/// Bytes of a member: its number, a reserve, its last beat. In front of all is the last number that was given.
const MEMBER_BYTES: usize = 16;

/// One worker's VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    number: u32,
    /// Who was alive at the last beat, and the last number given by then: who has a greater one is new, not gone.
    alive: Vec<u32>,
    last_given: u32,
}

/// Which counter, as a hash with a seed that callers do not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    slot: Slot,
    print: u64,
}

impl Key {
    /// From a hash of all that makes this counter another one.
    #[must_use]
    pub fn new(hash: u64) -> Self {
        Self { slot: Slot::of(Region::InFlight, hash >> 48), print: hash }
    }
}

/// One request in flight. It must be given to [`leave`] once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    key: Key,
    member: u32,
}

impl Member {
    /// A new member.
    pub fn join(words: &dyn SharedWords, now: Nanoseconds) -> Result<Self, Unavailable> {
        let mut member = Self { number: 0, alive: Vec::new(), last_given: 0 };
        member.beat(words, now)?;
        Ok(member)
    }

    /// Says that it is alive, and learns who else is. A member that is taken for gone (its worker stood still for
    /// longer than [`LEASE`]) becomes a new one; what it had counted is not counted any more.
    pub fn beat(&mut self, words: &dyn SharedWords, now: Nanoseconds) -> Result<(), Unavailable> {
        *self = update(words, Slot::of(Region::Members, 0), |word| {
            let last_given = bytes::u32_at(word, 0);
            let mut members: Vec<(u32, Nanoseconds)> = word
                .get(MEMBER_BYTES..)
                .unwrap_or_default()
                .chunks_exact(MEMBER_BYTES)
                .map(|record| (bytes::u32_at(record, 0), bytes::u64_at(record, 8)))
                // A beat of the future is of a clock that went back.
                .filter(|(_, beat)| now.saturating_sub(*beat) < LEASE)
                .collect();
            let (number, last_given) = match members.iter_mut().find(|(number, _)| *number == self.number) {
                Some((number, beat)) => {
                    *beat = now;
                    (*number, last_given)
                }
                None => {
                    let number = last_given.wrapping_add(1).max(1);
                    members.push((number, now));
                    (number, number)
                }
            };
            word.clear();
            word.extend_from_slice(&u64::from(last_given).to_le_bytes());
            word.extend_from_slice(&[0; 8]);
            for (number, beat) in &members {
                word.extend_from_slice(&u64::from(*number).to_le_bytes());
                word.extend_from_slice(&beat.to_le_bytes());
            }
            let alive = members.iter().map(|(number, _)| *number).collect();
            (Self { number, alive, last_given }, Write::Replace)
        })?;
        Ok(())
    }

    fn counts(&self, other: u32) -> bool {
        other > self.last_given || self.alive.contains(&other)
    }
}

/// Enters if fewer than `limit` are in flight under the key. `None`: refused.
pub fn enter(
    words: &dyn SharedWords,
    member: &Member,
    key: Key,
    limit: u32,
) -> Result<Option<Place>, Unavailable> {
    update(words, key.slot, |word| {
        let mut records = read(word);
        records.retain(|record| member.counts(record.member));
        let there: u64 = records
            .iter()
            .filter(|record| record.print == key.print)
            .map(|record| u64::from(record.count))
            .sum();
        if there >= u64::from(limit) {
            return (None, Write::Keep);
        }
        let full = records.len() >= MAX_RECORDS;
        match records.iter_mut().find(|record| record.print == key.print && record.member == member.number) {
            Some(record) => record.count = record.count.saturating_add(1),
            None if full => return (None, Write::Keep),
            None => records.push(Record { print: key.print, member: member.number, count: 1 }),
        }
        write(word, &records);
        (Some(Place { key, member: member.number }), Write::Replace)
    })
}

/// Leaves. A record that is gone because its member was taken for gone is fine.
pub fn leave(words: &dyn SharedWords, place: Place) -> Result<(), Unavailable> {
    update(words, place.key.slot, |word| {
        let mut records = read(word);
        let own = |record: &&mut Record| record.print == place.key.print && record.member == place.member;
        let Some(record) = records.iter_mut().find(own) else { return ((), Write::Keep) };
        record.count = record.count.saturating_sub(1);
        records.retain(|record| record.count > 0);
        write(word, &records);
        ((), Write::Replace)
    })
}

/// How many are in flight under the key, as this member sees it.
#[must_use]
pub fn in_flight(words: &dyn SharedWords, member: &Member, key: Key) -> u64 {
    let Some((word, _)) = words.load(key.slot) else { return 0 };
    let counted = |record: &Record| record.print == key.print && member.counts(record.member);
    read(&word).iter().filter(|record| counted(record)).map(|record| u64::from(record.count)).sum()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    print: u64,
    member: u32,
    count: u32,
}

fn read(word: &[u8]) -> Vec<Record> {
    let record = |bytes: &[u8]| Record {
        print: bytes::u64_at(bytes, 0),
        member: bytes::u32_at(bytes, 8),
        count: bytes::u32_at(bytes, 12),
    };
    word.chunks_exact(RECORD_BYTES).map(record).collect()
}

fn write(word: &mut Vec<u8>, records: &[Record]) {
    word.clear();
    for record in records {
        word.extend_from_slice(&record.print.to_le_bytes());
        word.extend_from_slice(&record.member.to_le_bytes());
        word.extend_from_slice(&record.count.to_le_bytes());
    }
}

#[cfg(test)]
mod tests;

//! Counters of several members, some of which die.

use proptest::prelude::*;

use super::*;
use crate::shared_words::Memory;

const SECOND: u64 = 1_000_000_000;

fn keys() -> [Key; 3] {
    [Key::new(1), Key::new(2), Key::new(3 << 48)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// As long as everybody beats: never more than the limit in flight, never fewer admitted, and zero at the end.
    #[test]
    fn counts_are_exact(
        steps in prop::collection::vec((0..4usize, 0..3usize, any::<bool>()), 1..400),
        limit in 1..6u32,
    ) {
        let words = Memory::default();
        let members: Vec<Member> = (0..4).map(|_| Member::join(&words, SECOND).unwrap()).collect();
        let mut inside: [Vec<Place>; 3] = Default::default();
        for (member, key, enters) in steps {
            if enters {
                let place = enter(&words, &members[member], keys()[key], limit).unwrap();
                prop_assert_eq!(place.is_some(), inside[key].len() < limit as usize);
                inside[key].extend(place);
            } else if let Some(place) = inside[key].pop() {
                leave(&words, place).unwrap();
            }
            prop_assert_eq!(in_flight(&words, &members[0], keys()[key]), inside[key].len() as u64);
        }
        for place in inside.into_iter().flatten() {
            leave(&words, place).unwrap();
        }
        for key in keys() {
            let (word, _) = words.load(key.slot).unwrap();
            prop_assert!(word.is_empty(), "nothing in flight, nothing stored");
        }
    }

    /// Members die with requests in flight and new ones come: a lease later only the living count.
    #[test]
    fn what_a_dead_member_counted_is_forgotten(
        held in prop::collection::vec(0..3usize, 1..30),
        dead in 1..4usize,
    ) {
        let words = Memory::default();
        let mut members: Vec<Member> = (0..4).map(|_| Member::join(&words, SECOND).unwrap()).collect();
        for (number, key) in held.iter().enumerate() {
            prop_assert!(enter(&words, &members[number % 4], keys()[*key], 100).unwrap().is_some());
        }
        let mut now = SECOND;
        while now <= SECOND + LEASE + BEAT {
            now += BEAT;
            for member in members.iter_mut().skip(dead) {
                member.beat(&words, now).unwrap();
            }
        }
        for (index, key) in keys().into_iter().enumerate() {
            let living = held.iter().enumerate().filter(|(number, of)| **of == index && number % 4 >= dead).count();
            prop_assert_eq!(in_flight(&words, &members[3], key), living as u64);
        }
    }
}

#[test]
fn a_newcomer_is_not_taken_for_gone_by_those_who_have_not_heard_of_it() {
    let words = Memory::default();
    let old = Member::join(&words, SECOND).unwrap();
    let new = Member::join(&words, SECOND).unwrap();
    assert!(enter(&words, &new, Key::new(1), 1).unwrap().is_some());
    assert_eq!(enter(&words, &old, Key::new(1), 1).unwrap(), None);
}

#[test]
fn a_member_that_stood_still_comes_back_as_another() {
    let words = Memory::default();
    let (mut still, mut other) = (Member::join(&words, 0).unwrap(), Member::join(&words, 0).unwrap());
    let place = enter(&words, &still, Key::new(1), 1).unwrap().unwrap();
    other.beat(&words, LEASE).unwrap();
    let second = enter(&words, &other, Key::new(1), 1).unwrap();
    assert!(second.is_some(), "the first is not counted any more");
    still.beat(&words, LEASE + 1).unwrap();
    leave(&words, place).unwrap();
    assert_eq!(
        enter(&words, &still, Key::new(1), 1).unwrap(),
        None,
        "leaving late did not free another's place"
    );
}

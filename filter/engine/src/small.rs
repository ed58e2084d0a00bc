//! A sort that costs little code: the standard library's is 8 kB of module for every type that it is used with, and what
//! is sorted here is configuration, once.

/// Sorts by heap: never worse than n log n, in place, a few hundred bytes of code. Equal items keep no order, but the
/// same input always gives the same output.
pub fn sort_by<T>(items: &mut [T], less: impl Fn(&T, &T) -> bool) {
    let length = items.len();
    for root in (0..length / 2).rev() {
        sift(items, root, length, &less);
    }
    for end in (1..length).rev() {
        items.swap(0, end);
        sift(items, 0, end, &less);
    }
}

/// Sinks the item at `root` until nothing below it in the heap of `end` items is greater.
fn sift<T>(items: &mut [T], mut root: usize, end: usize, less: &impl Fn(&T, &T) -> bool) {
    let is_less = |items: &[T], a: usize, b: usize| match (items.get(a), items.get(b)) {
        (Some(a), Some(b)) => less(a, b),
        _ => false,
    };
    loop {
        let mut child = root * 2 + 1;
        if child >= end {
            return;
        }
        if child + 1 < end && is_less(items, child, child + 1) {
            child += 1;
        }
        if !is_less(items, root, child) {
            return;
        }
        items.swap(root, child);
        root = child;
    }
}

#[cfg(test)]
mod tests {
    use super::sort_by;

    #[test]
    fn it_sorts() {
        for length in 0..200u32 {
            let mut items: Vec<u32> = (0..length).map(|item| item.wrapping_mul(2_654_435_761) % 50).collect();
            let mut expected = items.clone();
            expected.sort_unstable();
            sort_by(&mut items, |a, b| a < b);
            assert_eq!(items, expected);
        }
    }
}

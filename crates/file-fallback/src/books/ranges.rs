//! A set of record numbers, as ranges.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Sorted, disjoint, not touching, not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub(crate) struct Ranges(Vec<Range<u64>>);

impl Ranges {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().cloned()
    }

    /// Whether it has all of `0..end`.
    pub(crate) fn covers_to(&self, end: u64) -> bool {
        end == 0 || self.0.first().is_some_and(|range| range.start == 0 && range.end >= end)
    }

    /// If it has `record`, the first record after it that it does not have.
    pub(crate) fn end_of(&self, record: u64) -> Option<u64> {
        let index = self.0.partition_point(|range| range.end <= record);
        self.0.get(index).filter(|range| range.start <= record).map(|range| range.end)
    }

    pub(crate) fn contains_all(&self, wanted: &Range<u64>) -> bool {
        wanted.is_empty() || self.end_of(wanted.start).is_some_and(|end| end >= wanted.end)
    }

    pub(crate) fn insert(&mut self, mut added: Range<u64>) {
        if added.is_empty() {
            return;
        }
        let first = self.0.partition_point(|range| range.end < added.start);
        let last = self.0.partition_point(|range| range.start <= added.end);
        if first < last {
            added.start = added.start.min(self.0[first].start);
            added.end = added.end.max(self.0[last - 1].end);
        }
        self.0.splice(first..last, [added]);
    }

    pub(crate) fn remove(&mut self, removed: &Range<u64>) {
        if removed.is_empty() {
            return;
        }
        let first = self.0.partition_point(|range| range.end <= removed.start);
        let last = self.0.partition_point(|range| range.start < removed.end);
        if first >= last {
            return;
        }
        let head = self.0[first].start..removed.start;
        let tail = removed.end..self.0[last - 1].end;
        self.0.splice(first..last, [head, tail].into_iter().filter(|range| !range.is_empty()));
    }
}

impl From<Ranges> for Vec<(u64, u64)> {
    fn from(ranges: Ranges) -> Self {
        ranges.0.into_iter().map(|range| (range.start, range.end)).collect()
    }
}

impl TryFrom<Vec<(u64, u64)>> for Ranges {
    type Error = &'static str;

    fn try_from(pairs: Vec<(u64, u64)>) -> Result<Self, Self::Error> {
        let mut ranges = Self::default();
        for (start, end) in pairs {
            if start >= end {
                return Err("a range of records that is empty or goes backwards");
            }
            ranges.insert(start..end);
        }
        Ok(ranges)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_hold_the_same_numbers_as_a_set(
            script in prop::collection::vec((any::<bool>(), 0..40_u64, 0..12_u64), 0..60),
        ) {
            let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
            for (insert, start, len) in script {
                let range = start..start + len;
                if insert {
                    ranges.insert(range.clone());
                    model.extend(range);
                } else {
                    ranges.remove(&range);
                    model.retain(|record| !range.contains(record));
                }
                for pair in ranges.0.windows(2) {
                    prop_assert!(pair[0].end < pair[1].start);
                }
                for record in 0..60 {
                    prop_assert_eq!(ranges.end_of(record).is_some(), model.contains(&record));
                    prop_assert_eq!(ranges.covers_to(record), (0..record).all(|below| model.contains(&below)));
                }
                prop_assert_eq!(ranges.is_empty(), model.is_empty());
                let text = serde_json::to_string(&ranges).expect("numbers");
                prop_assert_eq!(&serde_json::from_str::<Ranges>(&text).expect("as written"), &ranges);
            }
        }
    }
}

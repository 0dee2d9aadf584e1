//! The failed attempts of the records of one file.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::books::ranges::Ranges;
use crate::outcome::{Attempts, NOTE};

/// The attempts of the records that are not settled and not as new, by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tried(BTreeMap<u64, Attempts>);

impl Tried {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn get(&self, record: u64) -> Attempts {
        self.0.get(&record).copied().unwrap_or_default()
    }

    /// Returns whether the attempts of the record are others now.
    pub(crate) fn set(&mut self, record: u64, attempts: Attempts) -> bool {
        let before =
            if attempts == Attempts::default() { self.0.remove(&record) } else { self.0.insert(record, attempts) };
        before.unwrap_or_default() != attempts
    }

    pub(crate) fn remove(&mut self, record: u64) {
        self.0.remove(&record);
    }

    /// The fewest failed attempts above `level` of a record that is not in `out`.
    pub(crate) fn next_above(&self, level: u32, out: &Ranges) -> Option<u32> {
        let waiting = self.0.iter().filter(|(record, _)| out.end_of(**record).is_none());
        waiting.map(|(_, attempts)| attempts.failed).filter(|failed| *failed > level).min()
    }

    /// At most `most` of them, those with the most failed attempts.
    pub(crate) fn worst(&self, most: usize) -> Self {
        if self.0.len() <= most {
            return self.clone();
        }
        let mut all = self.0.iter().map(|(record, attempts)| (*record, *attempts)).collect::<Vec<_>>();
        all.sort_by_key(|(record, attempts)| (std::cmp::Reverse(attempts.failed), *record));
        Self(all.into_iter().take(most).collect())
    }
}

/// One list of numbers a record: its own number, the failed attempts, the note.
impl Serialize for Tried {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let row = |(record, attempts): (&u64, &Attempts)| {
            let note = attempts.note.iter().map(|number| u64::from(*number));
            [*record, u64::from(attempts.failed)].into_iter().chain(note).collect::<Vec<_>>()
        };
        serializer.collect_seq(self.0.iter().map(row))
    }
}

/// A list of another length or with numbers out of range is skipped: the settled records of the same mark count all the
/// same.
impl<'de> Deserialize<'de> for Tried {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let rows = serde_json::Value::deserialize(deserializer)?;
        let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
        let small = |value: &serde_json::Value| u32::try_from(value.as_u64()?).ok();
        let parsed = rows.iter().filter_map(|row| {
            let [record, failed, note @ ..] = row.as_array()?.as_slice() else { return None };
            let note = note.iter().map(small).collect::<Option<Vec<_>>>()?;
            let note = <[u32; NOTE]>::try_from(note).ok()?;
            Some((record.as_u64()?, Attempts { failed: small(failed)?, note }))
        });
        Ok(Self(parsed.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts(failed: u32) -> Attempts {
        Attempts { failed, note: [0, 1, 2, 3, 4, failed] }
    }

    #[test]
    fn records_come_by_their_level_unless_they_are_handed_out() {
        let (mut tried, mut out) = (Tried::default(), Ranges::default());
        for (record, failed) in [(3, 2), (4, 1), (9, 5)] {
            assert!(tried.set(record, attempts(failed)));
            assert!(!tried.set(record, attempts(failed)), "the same");
        }
        assert_eq!([0, 1, 2, 5].map(|level| tried.next_above(level, &out)), [Some(1), Some(2), Some(5), None]);
        out.insert(3..5);
        assert_eq!(tried.next_above(0, &out), Some(5));
        assert_eq!(tried.worst(2).0.keys().collect::<Vec<_>>(), [&3, &9]);
        assert!(tried.set(9, Attempts::default()) && tried.next_above(0, &out).is_none());
    }

    #[test]
    fn rows_that_this_version_does_not_know_are_skipped() {
        let mut tried = Tried::default();
        tried.set(7, attempts(3));
        let text = serde_json::to_string(&tried).expect("numbers");
        assert_eq!(text, "[[7,3,0,1,2,3,4,3]]");
        assert_eq!(serde_json::from_str::<Tried>(&text).expect("as written"), tried);
        for other in ["{}", "null", "\"x\"", "[[1],[],3,[1,2,3],[1,-2,0,0,0,0,0,0],[1,4294967296,0,0,0,0,0,0]]"] {
            assert_eq!(serde_json::from_str::<Tried>(other).expect("any JSON"), Tried::default(), "{other}");
        }
    }
}

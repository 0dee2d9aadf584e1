//! Items by their age.

use std::time::{Duration, SystemTime};

use crate::payload::{BatchId, Payload};
use crate::tree::Tree;
use crate::walk::for_each_item;
use crate::wire::{Fields, Value};

/// The two parts of a batch that [`Payload::separate_ended_before`] made.
#[derive(Clone, Debug)]
pub struct Aged {
    /// The items that ended before the time; `None` if there are none.
    pub old: Option<Payload>,
    /// All others; `None` if there are none.
    pub young: Option<Payload>,
}

impl Payload {
    /// Takes the items that ended before `time` out of the batch. The start counts for an item without an end; an item
    /// without both, or with fields that cannot be read, has no age and is young.
    ///
    /// Both parts keep the order of their items, `created`, and the fields that this crate does not know. If all items
    /// belong to one part, that part is this batch under its own name, and `next_id` is not asked. Otherwise `next_id`
    /// names the old ones first. `None` when the batch has no items or its bytes are no readable request. Cost: one
    /// walk over the fields of all items, and the bytes of both parts where there are two.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    ///
    /// use otlp_payload::{Aged, BatchId, Payload};
    ///
    /// // One resource, one scope, two spans that ended 1 ns and 3 ns after the beginning of 1970.
    /// let request = b"\x0a\x18\x12\x16\x12\x09\x41\x01\0\0\0\0\0\0\0\x12\x09\x41\x03\0\0\0\0\0\0\0";
    /// let id = |seq| BatchId { incarnation: 1, seq };
    /// let batch = Payload::from_bytes(id(0), SystemTime::UNIX_EPOCH, request[..].into())?;
    /// let mut names = (1..).map(id);
    ///
    /// let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(3);
    /// let Aged { old, young } = batch.separate_ended_before(time, || names.next().unwrap()).expect("has spans");
    /// assert_eq!([old, young].map(|part| part.map(|part| part.item_count())), [Some(1), Some(1)]);
    /// # Ok::<(), otlp_payload::DecodeError>(())
    /// ```
    #[must_use]
    pub fn separate_ended_before(&self, time: SystemTime, mut next_id: impl FnMut() -> BatchId) -> Option<Aged> {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let before = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let mut is_old = Vec::new();
        let times = self.signal().times();
        let mut visit = |item: &[u8], _| is_old.push(time_of(item, times).is_some_and(|time| time < before));
        for_each_item(self.signal(), self.bytes(), &mut visit).ok()?;
        let old = is_old.iter().filter(|old| **old).count();
        match (is_old.len(), old) {
            (0, _) => return None,
            (_, 0) => return Some(Aged { old: None, young: Some(self.clone()) }),
            (all, old) if all == old => return Some(Aged { old: Some(self.clone()), young: None }),
            _ => {}
        }
        let tree = Tree::read(self.signal(), self.bytes()).ok()?;
        let mut part = |wanted: bool, count| {
            let bytes = tree.pick(&tree.numbers, &|number| is_old[number] == wanted);
            Some(Payload::of(self.signal(), next_id(), self.created(), count, bytes))
        };
        Some(Aged { old: part(true, old), young: part(false, is_old.len() - old) })
    }
}

impl Payload {
    /// The time of the youngest item: the latest end of a span, or its start where it has no end. `None` if no item has
    /// a time, or if the bytes are no readable request. Costs nothing for a batch of this crate's encoders, whose
    /// clones keep the time. Others, and pieces, cost a walk over the fields of each item up to its end time, which
    /// stands before the attributes in requests of usual encoders.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    ///
    /// use otlp_payload::{BatchId, Payload};
    ///
    /// // One resource, one scope, two spans that ended 3 ns and 1 ns after the beginning of 1970.
    /// let request = b"\x0a\x18\x12\x16\x12\x09\x41\x03\0\0\0\0\0\0\0\x12\x09\x41\x01\0\0\0\0\0\0\0";
    /// let id = BatchId { incarnation: 1, seq: 0 };
    /// let batch = Payload::from_bytes(id, SystemTime::UNIX_EPOCH, request[..].into())?;
    /// assert_eq!(batch.newest(), Some(SystemTime::UNIX_EPOCH + Duration::from_nanos(3)));
    /// # Ok::<(), otlp_payload::DecodeError>(())
    /// ```
    #[must_use]
    pub fn newest(&self) -> Option<SystemTime> {
        let mut newest = self.seen_newest().unwrap_or_default();
        if newest == 0 {
            let times = self.signal().times();
            let mut visit = |item: &[u8], _| newest = time_of(item, times).map_or(newest, |time| time.max(newest));
            for_each_item(self.signal(), self.bytes(), &mut visit).ok()?;
        }
        (newest > 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_nanos(newest))
    }

    /// The time of the oldest item: the earliest end of a span, or its start where it has no end. No item is
    /// [separated](Self::separate_ended_before) by a time up to this one. `None` if no item has a time, or if the bytes
    /// are no readable request. Costs a walk over the fields of each item up to its end time.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    ///
    /// use otlp_payload::{BatchId, Payload};
    ///
    /// // One resource, one scope, two spans that ended 3 ns and 1 ns after the beginning of 1970.
    /// let request = b"\x0a\x18\x12\x16\x12\x09\x41\x03\0\0\0\0\0\0\0\x12\x09\x41\x01\0\0\0\0\0\0\0";
    /// let id = BatchId { incarnation: 1, seq: 0 };
    /// let batch = Payload::from_bytes(id, SystemTime::UNIX_EPOCH, request[..].into())?;
    /// assert_eq!(batch.oldest(), Some(SystemTime::UNIX_EPOCH + Duration::from_nanos(1)));
    /// # Ok::<(), otlp_payload::DecodeError>(())
    /// ```
    #[must_use]
    pub fn oldest(&self) -> Option<SystemTime> {
        let (mut oldest, times) = (None::<u64>, self.signal().times());
        let mut visit = |item: &[u8], _| {
            oldest = time_of(item, times).into_iter().chain(oldest).min();
        };
        for_each_item(self.signal(), self.bytes(), &mut visit).ok()?;
        oldest.map(|nanos| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos))
    }
}

/// The time of an item, in nanoseconds since 1970: the first of these fields that is not 0.
fn time_of(item: &[u8], fields: [u32; 2]) -> Option<u64> {
    let mut times = [0; 2];
    for field in Fields::new(item, 0) {
        let field = field.ok()?;
        if let (Some(at), Value::Fixed64(nanos)) = (fields.iter().position(|of| *of == field.number), field.value) {
            times[at] = nanos;
            if at == 0 && nanos > 0 {
                break;
            }
        }
    }
    times.into_iter().find(|nanos| *nanos > 0)
}

//! The buffer against a slow and simple list, over random histories.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use span_buffer::{Buffer, Entry, Limits, Size};

const LIMITS: Limits = Limits { max_count: 100, max_bytes: 1_000, max_age: Duration::from_secs(60) };

#[derive(Clone, Debug)]
enum Step {
    Push(Size),
    PushBeside(Size, Size),
    Take,
    TakeNth(usize),
    GiveBack(usize),
    Finish(usize),
    Resize(usize, Size),
    Expire,
    Wait(Duration),
    Drain,
}

fn size() -> impl Strategy<Value = Size> {
    prop_oneof![
        8 => (0..30_usize, 0..300_usize),
        1 => (90..120_usize, 0..10_usize),
        1 => (0..10_usize, 900..1_200_usize),
        1 => Just((usize::MAX, usize::MAX)),
    ]
    .prop_map(|(count, bytes)| Size { count, bytes })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => size().prop_map(Step::Push),
        2 => (size(), size()).prop_map(|(size, away)| Step::PushBeside(size, away)),
        2 => Just(Step::Take),
        1 => (0..8_usize).prop_map(Step::TakeNth),
        2 => (0..4_usize).prop_map(Step::GiveBack),
        1 => (0..4_usize).prop_map(Step::Finish),
        2 => (0..8_usize, 0..30_usize, 0..300_usize)
            .prop_map(|(index, count, bytes)| Step::Resize(index, Size { count, bytes })),
        1 => Just(Step::Expire),
        2 => (0..40_u64).prop_map(|seconds| Step::Wait(Duration::from_secs(seconds))),
        1 => Just(Step::Drain),
    ]
}

/// All waiting entries, oldest first; each sum is computed from them.
#[derive(Default)]
struct Model(Vec<Entry<u32>>);

impl Model {
    fn sum(&self) -> (u128, u128) {
        self.0
            .iter()
            .fold((0, 0), |(count, bytes), entry| (count + entry.size.count as u128, bytes + entry.size.bytes as u128))
    }

    fn push(&mut self, item: u32, size: Size, away: Size, now: Instant) -> Vec<Entry<u32>> {
        let entry = Entry { item, size, accepted: now, calls: 0 };
        let with_all = |model: &Self| {
            let (count, bytes) = model.sum();
            (count + size.count as u128 + away.count as u128, bytes + size.bytes as u128 + away.bytes as u128)
        };
        let alone = with_all(&Self::default());
        if alone.0 > 100 || alone.1 > 1_000 {
            return vec![entry];
        }
        let (too_many, too_large) = (with_all(self).0 > 100, with_all(self).1 > 1_000);
        let mut leaving = Vec::new();
        while !self.0.is_empty() && ((too_many && with_all(self).0 > 75) || (too_large && with_all(self).1 > 750)) {
            leaving.push(self.0.remove(0));
        }
        self.0.push(entry);
        leaving
    }

    fn give_back(&mut self, entry: Entry<u32>) {
        let index = self.0.iter().position(|other| other.accepted >= entry.accepted).unwrap_or(self.0.len());
        self.0.insert(index, entry);
    }

    fn expire(&mut self, now: Instant) -> Vec<Entry<u32>> {
        let (old, young) = self.0.drain(..).partition(|entry| now - entry.accepted >= LIMITS.max_age);
        self.0 = young;
        old
    }
}

#[expect(clippy::disallowed_methods, reason = "any start will do")]
fn start() -> Instant {
    Instant::now()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_buffer_does_what_the_list_does(script in prop::collection::vec(step(), 0..120)) {
        let (mut buffer, mut model, mut now) = (Buffer::new(LIMITS), Model::default(), start());
        let mut taken: Vec<Entry<u32>> = Vec::new();
        let mut next_item = 0;
        for step in script {
            next_item += 1;
            match step {
                Step::Push(size) => {
                    prop_assert_eq!(
                        buffer.push(next_item, size, now),
                        model.push(next_item, size, Size::default(), now)
                    );
                }
                Step::PushBeside(size, away) => {
                    let left = buffer.push_beside(next_item, size, away, now);
                    prop_assert_eq!(left, model.push(next_item, size, away, now));
                }
                Step::Take => {
                    let entry = buffer.take();
                    prop_assert_eq!(entry, (!model.0.is_empty()).then(|| model.0.remove(0)));
                    taken.extend(entry);
                }
                Step::TakeNth(index) => {
                    let wanted = model.0.get(index).map(|entry| entry.item);
                    let entry = buffer.take_where(|entry| Some(entry.item) == wanted);
                    prop_assert_eq!(entry, wanted.map(|_| model.0.remove(index)));
                    taken.extend(entry);
                }
                Step::GiveBack(index) if index < taken.len() => {
                    let mut entry = taken.swap_remove(index);
                    entry.calls += 1;
                    model.give_back(entry);
                    buffer.give_back(entry);
                }
                Step::Finish(index) if index < taken.len() => drop(taken.swap_remove(index)),
                Step::GiveBack(_) | Step::Finish(_) => {}
                Step::Resize(index, size) => {
                    let wanted = model.0.get(index).map(|entry| entry.item);
                    buffer.resize(|item, before| if Some(*item) == wanted { size } else { before });
                    model.0.iter_mut().skip(index).take(1).for_each(|entry| entry.size = size);
                }
                Step::Expire => prop_assert_eq!(buffer.expire(now), model.expire(now)),
                Step::Wait(time) => now += time,
                Step::Drain => prop_assert_eq!(buffer.drain(), std::mem::take(&mut model.0)),
            }
            prop_assert_eq!(buffer.iter().copied().collect::<Vec<_>>(), &model.0[..]);
            let snapshot = buffer.snapshot(now);
            let (count, bytes) = model.sum();
            prop_assert_eq!((snapshot.count as u128, snapshot.bytes as u128), (count, bytes));
            prop_assert_eq!(snapshot.batches, model.0.len());
            let oldest = model.0.iter().map(|entry| entry.accepted).min();
            prop_assert_eq!(snapshot.oldest_age, oldest.map(|oldest| now - oldest));
            prop_assert_eq!(buffer.next_expiry(), oldest.map(|oldest| oldest + LIMITS.max_age));
        }
    }
}

#[test]
fn a_push_that_fits_exactly_evicts_nothing() {
    let (mut buffer, now) = (Buffer::new(LIMITS), start());
    for item in 0..4 {
        assert_eq!(buffer.push(item, Size { count: 25, bytes: 250 }, now), []);
    }
    assert_eq!(buffer.total(), Size { count: 100, bytes: 1_000 });
    let left = buffer.push(4, Size { count: 1, bytes: 1 }, now);
    assert_eq!(left.iter().map(|entry| entry.item).collect::<Vec<_>>(), [0, 1], "76 and 751 are above 75 %");
}

#[test]
fn an_item_larger_than_the_buffer_leaves_alone() {
    let (mut buffer, now) = (Buffer::new(LIMITS), start());
    assert_eq!(buffer.push("small", Size { count: 1, bytes: 1 }, now), []);
    let left = buffer.push("large", Size { count: 1, bytes: 1_001 }, now);
    assert_eq!(left.iter().map(|entry| entry.item).collect::<Vec<_>>(), ["large"]);
    let left = buffer.push_beside("beside", Size { count: 1, bytes: 1 }, Size { count: 100, bytes: 0 }, now);
    assert_eq!(left.iter().map(|entry| entry.item).collect::<Vec<_>>(), ["beside"]);
    assert_eq!(buffer.len(), 1);
}

#[test]
fn a_clock_that_goes_back_keeps_the_queue_sorted() {
    let (mut buffer, now) = (Buffer::new(LIMITS), start() + Duration::from_secs(100));
    assert_eq!(buffer.push(1, Size::default(), now), []);
    assert_eq!(buffer.push(2, Size::default(), now - Duration::from_secs(50)), []);
    assert_eq!(buffer.expire(now + Duration::from_secs(59)), []);
    assert_eq!(buffer.expire(now + Duration::from_secs(60)).len(), 2);
}

#[test]
fn no_limit_of_age_means_never() {
    let now = start();
    let mut buffer = Buffer::new(Limits { max_age: Duration::MAX, ..LIMITS });
    assert_eq!(buffer.push(1, Size::default(), now), []);
    assert_eq!(buffer.next_expiry(), None);
    assert_eq!(buffer.expire(now + Duration::from_secs(1 << 32)), []);
}

#[test]
fn an_item_that_grows_stays_until_the_next_push() {
    let (mut buffer, now) = (Buffer::new(LIMITS), start());
    assert_eq!(buffer.push(1, Size { count: 1, bytes: 10 }, now), []);
    assert_eq!(buffer.push(2, Size { count: 2, bytes: 20 }, now), []);
    let mut seen = Vec::new();
    buffer.resize(|item, size| {
        seen.push((*item, size.bytes));
        Size { bytes: size.bytes * 50, ..size }
    });
    assert_eq!((seen, buffer.total()), (vec![(1, 10), (2, 20)], Size { count: 3, bytes: 1_500 }));
    let left = buffer.push(3, Size { count: 0, bytes: 0 }, now);
    assert_eq!(left.iter().map(|entry| entry.item).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn limits_of_zero_hold_nothing() {
    let mut buffer = Buffer::new(Limits { max_count: 0, max_bytes: 0, max_age: Duration::ZERO });
    assert_eq!(buffer.push(1, Size { count: 1, bytes: 0 }, start()).len(), 1);
    assert!(buffer.is_empty());
}

#[test]
fn taking_all_of_a_kind_asks_each_entry_once_and_keeps_order_and_totals() {
    for kind in 0..4 {
        let (mut buffer, now) = (Buffer::new(LIMITS), start());
        for item in 0..9 {
            assert!(buffer.push(item, Size { count: item, bytes: 10 }, now).is_empty());
        }
        let mut asked = Vec::new();
        let taken = buffer.take_all_where(|entry| {
            asked.push(entry.item);
            entry.item % 3 == kind
        });
        assert_eq!(asked, (0..9).collect::<Vec<_>>());
        let (of_kind, others): (Vec<_>, Vec<_>) = (0..9).partition(|item| item % 3 == kind);
        assert_eq!(taken.iter().map(|entry| entry.item).collect::<Vec<_>>(), of_kind);
        assert_eq!(buffer.iter().map(|entry| entry.item).collect::<Vec<_>>(), others);
        assert_eq!(buffer.total(), Size { count: others.iter().sum(), bytes: 10 * others.len() });
    }
}

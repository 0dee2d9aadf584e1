//! The parts on their own: single threads by hand, several by the model checker.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::locks::Mutex;
use crate::seams::clock::{Clock as _, SystemClock};

const ROOM: usize = 4;
const DELAY: Duration = Duration::from_secs(5);

/// The spans of a part are numbers.
#[derive(Default)]
struct Numbers {
    staged: Vec<u32>,
    room: usize,
}

impl Content for Numbers {
    fn len(&self) -> usize {
        self.staged.len()
    }

    fn is_full(&self) -> bool {
        self.staged.len() >= self.room
    }

    fn join(&mut self, other: &mut Self) {
        if self.staged.len() + other.staged.len() <= self.room {
            self.staged.append(&mut other.staged);
        }
    }

    fn clear(&mut self) {
        self.staged.clear();
    }
}

fn numbers(parts: usize, room: usize) -> impl Iterator<Item = Numbers> {
    (0..parts).map(move |_| Numbers { staged: Vec::new(), room })
}

/// A core for one thread.
#[derive(Default)]
struct Books {
    batches: RefCell<Vec<Vec<u32>>>,
    open: Cell<i32>,
    moments: Cell<u32>,
    is_child: Cell<bool>,
}

impl Keeper<Numbers> for Books {
    type Moment = u32;

    fn moment(&self) -> u32 {
        self.moments.update(|moments| moments + 1);
        self.moments.get()
    }

    fn is_child(&self) -> bool {
        self.is_child.get()
    }

    fn on_opened(&self) {
        self.open.update(|open| open + 1);
    }

    fn on_released(&self) {
        self.open.update(|open| open - 1);
    }

    fn seal(&self, content: &mut Numbers, _: u32) {
        assert!(!content.staged.is_empty());
        self.batches.borrow_mut().push(std::mem::take(&mut content.staged));
    }
}

type Single = Shards<Numbers, Mutex<Part<Numbers>>>;

/// Parts, their core, and the time.
struct World {
    shards: Single,
    books: Books,
    now: Cell<Instant>,
    next: Cell<u32>,
}

impl World {
    fn new(parts: usize) -> Self {
        Self {
            shards: Single::new(numbers(parts, ROOM), DELAY),
            books: Books::default(),
            now: Cell::new(SystemClock.now()),
            next: Cell::new(0),
        }
    }

    fn pass(&self, seconds: u64) {
        self.now.set(self.now.get() + Duration::from_secs(seconds));
    }

    fn stage(&self, first: usize) -> Staged {
        let number = self.next.get();
        self.next.set(number + 1);
        self.shards.stage(first, || self.now.get(), &self.books, |numbers| numbers.staged.push(number))
    }

    fn stage_many(&self, first: usize, spans: usize) -> Vec<Staged> {
        (0..spans).map(|_| self.stage(first)).collect()
    }

    fn seal_due(&self) -> Option<Duration> {
        let next = self.shards.seal_due(self.now.get(), &self.books);
        next.map(|next| next.saturating_duration_since(self.now.get()))
    }

    fn staged(&self) -> Vec<usize> {
        self.shards.lock_all().iter().map(|part| part.content().len()).collect()
    }

    fn batches(&self) -> Vec<Vec<u32>> {
        self.books.batches.take()
    }
}

#[test]
fn a_full_part_is_sealed_by_the_thread_that_fills_it() {
    let world = World::new(2);
    assert_eq!(world.stage(0), Staged::Here { part: 0, is_news: true }, "the part was idle");
    for _ in 1..ROOM - 1 {
        assert_eq!(world.stage(0), Staged::Here { part: 0, is_news: false });
    }
    assert!(world.batches().is_empty());
    assert_eq!(world.stage(0), Staged::Here { part: 0, is_news: true }, "a batch");
    assert_eq!((world.batches(), world.staged()), (vec![vec![0, 1, 2, 3]], vec![0, 0]));
    assert_eq!(world.books.open.get(), 1, "the next span is likely");
}

#[test]
fn spans_stay_for_the_delay_at_most_and_an_idle_part_wakes_no_thread() {
    let world = World::new(2);
    assert_eq!(world.seal_due(), None);
    world.stage(0);
    world.pass(3);
    world.stage(0);
    assert_eq!(world.seal_due(), Some(Duration::from_secs(2)), "the first span counts");
    world.pass(2);
    assert_eq!((world.seal_due(), world.batches()), (None, vec![vec![0, 1]]));
    assert_eq!((world.books.open.get(), world.staged()), (0, vec![0, 0]), "no room is kept for it");
    assert_eq!(world.stage(0), Staged::Here { part: 0, is_news: true });
    assert_eq!(world.seal_due(), Some(DELAY));
}

#[test]
fn a_part_that_was_sealed_full_is_idle_after_the_delay() {
    let world = World::new(1);
    world.stage_many(0, ROOM);
    assert_eq!((world.seal_due(), world.books.open.get()), (Some(DELAY), 1));
    world.pass(4);
    world.stage(0);
    world.pass(1);
    assert_eq!(world.seal_due(), Some(Duration::from_secs(4)), "the delay of the second batch");
    assert_eq!(world.batches().len(), 1);
    world.pass(4);
    assert_eq!((world.seal_due(), world.books.open.get(), world.batches()), (None, 0, vec![vec![4]]));
}

#[test]
fn a_part_that_is_held_is_passed_over_and_the_thread_stays_with_the_next() {
    let world = World::new(3);
    let held = world.shards.parts[1].lock();
    assert_eq!(world.stage(1), Staged::Here { part: 2, is_news: true });
    let also_held = world.shards.parts[2].lock();
    assert_eq!(world.stage(1), Staged::Here { part: 0, is_news: true });
    drop((held, also_held));
    assert_eq!(world.staged(), [1, 0, 1]);
    assert_eq!(world.stage(7), Staged::Here { part: 1, is_news: true }, "a number of another area's part");
}

#[test]
fn small_parts_are_sealed_together_as_far_as_they_fit() {
    let world = World::new(3);
    for (part, spans) in [(0, 2), (1, 3), (2, 2)] {
        world.stage_many(part, spans);
    }
    world.pass(5);
    assert_eq!(world.seal_due(), None);
    assert_eq!(world.batches(), [vec![0, 1, 5, 6], vec![2, 3, 4]]);
    assert_eq!(world.books.open.get(), 0);
}

#[test]
fn a_closed_area_has_sealed_all_and_takes_nothing() {
    let world = World::new(2);
    world.stage(0);
    world.stage(1);
    world.shards.seal_all(&world.books, false);
    assert_eq!((world.batches(), world.books.open.get()), (vec![vec![0, 1]], 0));
    world.stage(1);
    world.shards.seal_all(&world.books, true);
    assert_eq!((world.batches(), world.books.open.get()), (vec![vec![2]], 0));
    assert_eq!((world.stage(0), world.staged()), (Staged::Closed, vec![0, 0]));
    world.shards.seal_all(&world.books, true);
    assert_eq!((world.batches(), world.seal_due()), (vec![], None));
}

#[test]
fn a_child_refuses_its_own_spans_and_sends_none_of_its_parent() {
    let world = World { shards: Single::new(numbers(1, 100), DELAY), ..World::new(1) };
    world.stage_many(0, VERIFY_EVERY + 5);
    world.books.is_child.set(true);
    let staged = world.stage_many(0, 100);
    let refused = staged.iter().map(|staged| if let Staged::Child(spans) = staged { *spans } else { 0 });
    // Five spans between the last look and the fork are taken for the child's.
    let (count, refused) = (staged.len(), refused.sum::<usize>());
    let pending = world.staged()[0];
    assert!(refused + pending >= count && refused <= count + 5, "{refused} of {count}, {pending} wait");
    assert!(world.batches().is_empty());
}

#[test]
fn a_child_waits_for_no_lock_that_another_thread_held() {
    let world = World::new(2);
    let _held = world.shards.lock_all();
    world.books.is_child.set(true);
    assert_eq!(world.stage(0), Staged::Child(1));
}

#[test]
fn the_clocks_are_read_once_a_batch_and_before_the_lock() {
    let world = World::new(1);
    world.stage_many(0, 3 * ROOM);
    assert_eq!((world.books.moments.get(), world.batches().len()), (3, 3));
}

// Several threads, in all orders.

/// A core behind a mutex of the model checker.
struct SharedBooks(loom::sync::Mutex<Vec<u32>>);

impl Keeper<Numbers> for SharedBooks {
    type Moment = ();

    fn moment(&self) {
        // A user's clock may be slow.
        loom::thread::yield_now();
    }

    fn is_child(&self) -> bool {
        false
    }

    fn on_opened(&self) {}

    fn on_released(&self) {}

    fn seal(&self, content: &mut Numbers, (): ()) {
        assert!(content.staged.len() <= content.room, "{:?} are too many", content.staged);
        self.0.lock().expect("not poisoned").append(&mut content.staged);
    }
}

impl<T> Lock<T> for loom::sync::Mutex<T> {
    type Guard<'a>
        = loom::sync::MutexGuard<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        Self::new(value)
    }

    fn lock(&self) -> Self::Guard<'_> {
        self.lock().expect("not poisoned")
    }

    fn try_lock(&self) -> Option<Self::Guard<'_>> {
        self.try_lock().ok()
    }
}

struct Model {
    shards: Shards<Numbers, loom::sync::Mutex<Part<Numbers>>>,
    books: SharedBooks,
    start: Instant,
}

impl Model {
    fn new(parts: usize, room: usize) -> Arc<Self> {
        let books = SharedBooks(loom::sync::Mutex::new(Vec::new()));
        Arc::new(Self { shards: Shards::new(numbers(parts, room), DELAY), books, start: SystemClock.now() })
    }

    fn stage(&self, number: u32) -> Staged {
        self.shards.stage(0, || self.start, &self.books, |numbers| numbers.staged.push(number))
    }

    fn stage_all(&self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            self.stage(number);
        }
    }

    /// Staged and sealed spans of one instant.
    fn snapshot(&self) -> (usize, usize) {
        let parts = self.shards.lock_all();
        let staged = parts.iter().map(|part| part.content().len()).sum();
        let sealed = self.books.0.lock().expect("not poisoned").len();
        (staged, sealed)
    }

    fn sealed(&self) -> Vec<u32> {
        let mut sealed = self.books.0.lock().expect("not poisoned").clone();
        sealed.sort_unstable();
        sealed
    }
}

fn explore(run: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    // Three preemptions find the bugs that were planted here, and end in seconds.
    model.preemption_bound = Some(3);
    model.check(run);
}

#[test]
fn no_order_of_two_producers_and_a_flush_loses_a_span_or_seals_it_twice() {
    explore(|| {
        let model = Model::new(2, 2);
        let producers = [0, 10].map(|first| {
            let model = Arc::clone(&model);
            loom::thread::spawn(move || model.stage_all(first..first + 2))
        });
        model.shards.seal_all(&model.books, false);
        producers.into_iter().for_each(|producer| producer.join().expect("no panic"));
        model.shards.seal_all(&model.books, false);
        assert_eq!(model.sealed(), [0, 1, 10, 11]);
    });
}

#[test]
fn no_order_of_two_flushes_ends_one_before_the_spans_that_the_other_moves_are_sealed() {
    explore(|| {
        let model = Model::new(2, 3);
        // Together they do not fit: the first flush leaves the second part to its own turn, and the other moves it.
        model.stage_all(0..2);
        let held = model.shards.hold(0);
        model.stage_all(2..4);
        drop(held);
        let flushes = [(); 2].map(|()| {
            let model = Arc::clone(&model);
            loom::thread::spawn(move || {
                model.shards.seal_all(&model.books, false);
                assert_eq!(model.sealed(), [0, 1, 2, 3]);
            })
        });
        flushes.into_iter().for_each(|flush| flush.join().expect("no panic"));
    });
}

#[test]
fn no_order_shows_a_snapshot_with_a_span_twice_or_one_that_went_back() {
    explore(|| {
        let model = Model::new(2, 2);
        let producer = {
            let model = Arc::clone(&model);
            loom::thread::spawn(move || model.stage_all(0..3))
        };
        let mut seen = 0;
        for _ in 0..2 {
            let (staged, sealed) = model.snapshot();
            assert!(staged + sealed >= seen && staged + sealed <= 3, "{staged} and {sealed} after {seen}");
            seen = staged + sealed;
        }
        producer.join().expect("no panic");
        assert_eq!(model.snapshot(), (1, 2));
    });
}

#[test]
fn no_order_of_producers_and_the_end_leaves_a_span_in_the_area() {
    explore(|| {
        let model = Model::new(2, 3);
        let producers = [0, 10].map(|number| {
            let model = Arc::clone(&model);
            loom::thread::spawn(move || model.stage(number) == Staged::Closed)
        });
        model.shards.seal_all(&model.books, true);
        let closed = producers.map(|producer| producer.join().expect("no panic"));
        let refused = closed.into_iter().filter(|closed| *closed).count();
        assert_eq!((model.sealed().len() + refused, model.snapshot().0), (2, 0));
    });
}

#[test]
fn no_order_of_the_end_of_the_delay_and_producers_misses_a_span() {
    explore(|| {
        let model = Model::new(2, 2);
        model.stage(0);
        let producer = {
            let model = Arc::clone(&model);
            loom::thread::spawn(move || model.stage_all(1..3))
        };
        model.shards.seal_due(model.start + DELAY, &model.books);
        producer.join().expect("no panic");
        model.shards.seal_due(model.start + DELAY, &model.books);
        assert_eq!(model.sealed(), [0, 1, 2]);
    });
}

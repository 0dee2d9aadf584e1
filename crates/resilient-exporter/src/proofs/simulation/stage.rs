//! The processor in front of the core: up to eight producers, each of which now and then finds a part of the staging
//! area held by another one. Threads and their orders are the model checker's (`shell/staging/shards/tests.rs`); time,
//! flushes, kills and shutdowns are here.

use std::cell::RefCell;
use std::collections::HashSet;
use std::time::{Duration, Instant};

use otlp_payload::ValueLimits;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use span_buffer::{Limits, Size};

use super::replicas::{Replica, Reply};
use super::world::{MINUTE, World, ms, secs};
use super::{Setup, Simulation, numbers, spans};
use crate::locks::Mutex;
use crate::seams::clock::{Clock as _, SystemClock};
use crate::shell::staging::shards::{Keeper, Part, Shards, Staged};
use crate::shell::staging::{Area, StagingSettings, areas};

/// The staging area of a process.
pub(super) struct Stage {
    pub(super) settings: StagingSettings,
    producers: usize,
    shards: Shards<Area, Mutex<Part<Area>>>,
    /// The part that each producer tries first.
    first: Vec<usize>,
    chance: SmallRng,
    /// The spans in the area.
    waiting: HashSet<u64>,
    /// The time of the next seal.
    next: Option<Instant>,
    /// The spans of the largest batch.
    largest: usize,
    pub(super) batches: usize,
}

impl Stage {
    pub(super) fn new(settings: StagingSettings, producers: usize, seed: u64) -> Self {
        let (areas, _) = areas(&settings);
        Self {
            settings,
            producers,
            shards: Shards::new(areas, settings.delay),
            first: vec![0; producers],
            chance: SmallRng::seed_from_u64(seed),
            waiting: HashSet::new(),
            next: None,
            largest: 0,
            batches: 0,
        }
    }

    /// A new process.
    fn anew(&mut self) {
        *self = Self::new(self.settings, self.producers, self.chance.random());
    }

    pub(super) fn waiting(&self) -> &HashSet<u64> {
        &self.waiting
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }
}

/// The core as the area sees it.
struct Desk<'a> {
    simulation: RefCell<&'a mut Simulation>,
    sealed: RefCell<Vec<HashSet<u64>>>,
    room: Size,
}

impl<'a> Desk<'a> {
    fn new(simulation: &'a mut Simulation, room: Size) -> Self {
        Self { simulation: RefCell::new(simulation), sealed: RefCell::default(), room }
    }
}

impl Keeper<Area> for Desk<'_> {
    type Moment = Instant;

    fn moment(&self) -> Instant {
        self.simulation.borrow().now
    }

    fn is_child(&self) -> bool {
        false
    }

    fn on_opened(&self) {
        self.simulation.borrow_mut().core.on_staging_opened(self.room);
    }

    fn on_released(&self) {
        self.simulation.borrow_mut().core.on_staging_released(self.room);
    }

    fn seal(&self, area: &mut Area, now: Instant) {
        let mut simulation = self.simulation.borrow_mut();
        let id = simulation.core.next_id();
        let payload = area.finish(&simulation.encoder, id, SystemClock.wall());
        simulation.made.extend(super::span_ids(payload.bytes()));
        self.sealed.borrow_mut().push(numbers(&payload).collect());
        simulation.report(|core| core.on_sealed(payload, now, ms(100)));
    }
}

impl Stage {
    /// Runs an operation on the area and takes note of the batches that it seals.
    fn with<T>(&mut self, simulation: &mut Simulation, run: impl FnOnce(&mut Self, &Desk<'_>) -> T) -> T {
        let (_, room) = areas(&self.settings);
        let desk = Desk::new(simulation, room);
        let result = run(self, &desk);
        for batch in desk.sealed.take() {
            assert!(batch.iter().all(|span| self.waiting.remove(span)), "{batch:?} has a span twice or a foreign one");
            self.largest = self.largest.max(batch.len());
            self.batches += 1;
        }
        assert!(self.largest <= room.count, "a batch of {} spans, {} are allowed", self.largest, room.count);
        let staged = self.shards.lock_all().iter().map(|part| part.content().size().count).sum::<usize>();
        assert_eq!(staged, self.waiting.len(), "the area counts other spans than it has");
        result
    }

    /// A producer ends a span while others hold some of the parts. Returns whether the area took it.
    fn end(&mut self, simulation: &mut Simulation, number: u64) -> bool {
        let now = simulation.now;
        let producer = self.chance.random_range(0..self.producers);
        let parts = self.shards.lock_all().len();
        let is_held = (0..parts).map(|_| self.chance.random_bool(0.2)).collect::<Vec<_>>();
        let span = spans(number, 1).remove(0);
        self.waiting.insert(number);
        let staged = self.with(simulation, |stage, desk| {
            // A free one is left: otherwise this producer would wait.
            let held = (0..parts).filter(|part| is_held[*part]).take(parts - 1);
            let held = held.map(|part| stage.shards.hold(part)).collect::<Vec<_>>();
            let staged = stage.shards.stage(stage.first[producer], || now, desk, |area| area.push(&span));
            drop(held);
            if staged == Staged::Closed {
                stage.waiting.remove(&number);
            }
            staged
        });
        match staged {
            Staged::Here { part, is_news } => {
                self.first[producer] = part;
                if is_news {
                    self.seal_due(simulation);
                }
                true
            }
            Staged::Closed => false,
            Staged::Child(_) => unreachable!("no process forks here"),
        }
    }

    /// The net thread looks for batches whose time is over.
    fn seal_due(&mut self, simulation: &mut Simulation) {
        let now = simulation.now;
        self.next = self.with(simulation, |stage, desk| stage.shards.seal_due(now, desk));
        let late = self.next.filter(|next| *next <= now);
        assert_eq!(late, None, "a batch stays over its time");
    }

    fn seal_all(&mut self, simulation: &mut Simulation, close: bool) {
        self.with(simulation, |stage, desk| stage.shards.seal_all(desk, close));
        assert!(self.waiting.is_empty(), "spans are left in the area: {:?}", self.waiting);
        self.next = None;
    }
}

impl World {
    /// With a processor of so many producers.
    pub(super) fn stage(&mut self, settings: StagingSettings, producers: usize) {
        self.stage = Some(Stage::new(settings, producers, self.simulation.setup.seed));
    }

    /// The producers end the spans of a load.
    pub(super) fn end_spans(&mut self, count: usize) -> Vec<u64> {
        let Some(mut stage) = self.stage.take() else { return self.offer(count) };
        let first = self.simulation.next_span;
        let ended = (first..first + count as u64).collect::<Vec<_>>();
        for &number in &ended {
            self.simulation.now += Duration::from_micros(1);
            self.simulation.next_span += 1;
            assert!(stage.end(&mut self.simulation, number), "the process runs");
            self.note_offered(number);
            let (staged, held) = (stage.waiting.len(), self.simulation.core.memory.held_size().count);
            let most = self.simulation.setup.limits.max_count;
            assert!(staged + held <= most, "{staged} staged and {held} in batches, {most} are allowed");
        }
        self.stage = Some(stage);
        self.settle();
        ended
    }

    pub(super) fn seal_due(&mut self) {
        if let Some(stage) = &mut self.stage {
            stage.seal_due(&mut self.simulation);
        }
    }

    /// The beginning of a flush, and with `close` of a shutdown.
    pub(super) fn seal_all(&mut self, close: bool) {
        if let Some(stage) = &mut self.stage {
            stage.seal_all(&mut self.simulation, close);
        }
    }

    /// The spans in the area.
    pub(super) fn staged(&self) -> HashSet<u64> {
        self.stage.as_ref().map(|stage| stage.waiting().clone()).unwrap_or_default()
    }

    /// A new process has a new area. Returns the spans that were in the old one.
    pub(super) fn stage_anew(&mut self) -> HashSet<u64> {
        let left = self.staged();
        self.stage.iter_mut().for_each(Stage::anew);
        left
    }
}

/// Small batches, of an area in `parts`.
pub(super) fn settings(setup: &Setup, parts: usize, delay: Duration) -> StagingSettings {
    let Limits { max_count, max_bytes, .. } = setup.limits;
    let batch = Size { count: max_count / 4 / parts, bytes: max_bytes };
    StagingSettings { batch, buffer: setup.limits, delay, parallelism: parts, values: ValueLimits::default() }
}

fn world(reply: Reply, producers: usize) -> World {
    let setup = Setup::usual();
    let settings = settings(&setup, 4, secs(5));
    let mut world = World::new(vec![Replica::new(reply)], setup);
    world.stage(settings, producers);
    world
}

#[test]
fn spans_of_many_producers_are_delivered_within_the_delay() {
    let mut world = world(Reply::Accept, 8);
    let ended = world.end_spans(700);
    assert!(!world.staged().is_empty() && world.stage.as_ref().is_some_and(|stage| stage.batches > 2));
    world.run_to("all of them", secs(6), |world| world.is_delivered(&ended));
    let slowest = ended.iter().filter_map(|span| world.delay(*span)).max();
    assert!(slowest <= Some(secs(5) + ms(100)), "{slowest:?}");
    world.run(MINUTE);
    assert_eq!(world.stage.as_ref().and_then(Stage::next), None, "an idle area wakes no thread");
    assert_eq!(world.simulation.core.memory.reserved_size(), Size::default());
}

#[test]
fn a_flush_takes_staged_spans_along() {
    let mut world = world(Reply::Accept, 3);
    world.end_spans(70);
    let flushed = world.flush(secs(30), false);
    assert!(flushed.is_ok && flushed.took < secs(1), "{flushed:?}");
    world.assert_nothing_missing();
}

#[test]
fn a_shutdown_takes_staged_spans_along_and_the_next_process_has_an_area_of_its_own() {
    let mut world = world(Reply::ConnectionRefused, 3);
    world.end_spans(70);
    world.shut_down(secs(3));
    assert_eq!((world.lost(), world.ledger().in_fallback), (0, 70), "{}", world.state());
    world.peer.replicas[0].reply = Reply::Accept;
    world.end_spans(7);
    world.run_to("both", 2 * MINUTE, |world| world.waiting() == 0 && world.staged().is_empty());
    world.assert_nothing_missing();
}

#[test]
fn a_kill_takes_the_staged_spans_of_the_delay_alone() {
    let mut world = world(Reply::Accept, 3);
    let old = world.end_spans(70);
    world.run(secs(6));
    let young = world.end_spans(3);
    world.kill();
    assert!(world.is_delivered(&old) && young.iter().all(|span| world.killed.contains(span)));
    world.assert_nothing_missing();
}

#[test]
fn where_memory_is_full_room_is_made_for_staged_spans() {
    let mut world =
        World::new(vec![Replica::new(Reply::ConnectionRefused)], Setup { fallback: false, ..Setup::usual() });
    while world.simulation.core.memory.held_size().count < 2_000 {
        world.offer(100);
    }
    let room = Size { count: 150, bytes: 0 };
    world.simulation.core.on_staging_opened(room);
    world.settle();
    assert_eq!((world.simulation.core.memory.held_size().count, world.lost()), (1_800, 200), "{}", world.state());
    world.simulation.core.on_staging_released(room);
    world.check_ledger();
}

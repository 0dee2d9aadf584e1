//! The numbers in the record of an outage, and the times at which the disk thread keeps it.

use std::time::{Duration, Instant, SystemTime};

use otlp_transport::{Cause, Outcome};

use super::refusals::World;
use super::spans::spans;
use crate::core::{Call, Effect};
use crate::report::events::Event;
use crate::report::outage_records::OutageRecord;
use crate::seams::clock::{Clock as _, SystemClock};

const SECOND: Duration = Duration::from_secs(1);

/// A world whose disk keeps records, with a wall clock that an operator can set.
struct Kept {
    world: World,
    start: Instant,
    wall: SystemTime,
    events: Vec<Event>,
}

impl Kept {
    fn new() -> Self {
        let mut world = World::new();
        world.core.keep_outages();
        let start = world.now;
        Self { world, start, wall: SystemClock.wall(), events: Vec::new() }
    }

    fn wall(&self) -> SystemTime {
        self.wall + (self.world.now - self.start)
    }

    fn answer(&mut self, call: &Call, outcome: Outcome) {
        let wall = self.wall();
        self.world.core.on_answered(call.id, outcome, SECOND, self.world.now, wall);
    }

    /// Sends the next batch, which fails.
    fn fail(&mut self) {
        let (call, _) = self.world.call_within(120);
        let cause = Cause::Connect("refused".to_owned());
        self.answer(&call, Outcome::Retryable { after: None, cause, possible_duplicate: false });
    }

    /// Sends the next batch, which is delivered so late.
    fn deliver(&mut self, lateness: Duration) {
        let (call, _) = self.world.call_within(120);
        self.world.core.on_delivered(lateness, self.world.now);
        self.answer(&call, Outcome::Delivered { rejected: 0, message: None });
    }

    /// Polls after this time, and returns how often the disk thread is asked to keep the records since the last look.
    fn asked_after(&mut self, time: Duration) -> usize {
        self.world.now += time;
        let calls = self.world.core.poll_calls(self.world.now);
        assert!(calls.is_empty(), "{calls:?}");
        self.asked()
    }

    fn asked(&mut self) -> usize {
        let mut asked = 0;
        while let Some(effect) = self.world.core.poll_effect() {
            match effect {
                Effect::KeepOutages => asked += 1,
                Effect::Publish(event) => self.events.push(event),
                _ => {}
            }
        }
        asked
    }

    fn last(&self) -> OutageRecord {
        self.world.core.outages().pop().expect("an outage").of("collector")
    }
}

#[test]
fn a_record_has_the_wall_clock_of_the_moment_the_peaks_and_the_lateness() {
    let mut kept = Kept::new();
    kept.world.offer(40);
    let begin = kept.wall();
    kept.fail();
    // The clock is set while the outage lasts.
    kept.wall += 86_400 * SECOND;
    for bytes in [(3_000, 500), (20_000, 500), (10, 0)] {
        kept.world.core.on_files_size(bytes.0);
        kept.world.core.on_journal_size(bytes.1);
    }
    kept.world.offer(60);
    let held = kept.world.core.memory.held_size().bytes as u64;
    for _ in 0..5 {
        kept.fail();
    }
    let lasting = kept.last();
    assert_eq!((lasting.from, lasting.to, lasting.lateness), (Some(begin), None, None));
    assert_eq!((lasting.waited, lasting.peak_disk_bytes, lasting.peak_memory_bytes), (100, 20_500, held));
    kept.deliver(70 * SECOND);
    let end = kept.wall();
    kept.wall += 3_600 * SECOND;
    kept.deliver(65 * SECOND);
    kept.asked_after(Duration::ZERO);
    let over = kept.last();
    assert_eq!((over.from, over.to, over.lateness), (Some(begin), Some(end), Some(70 * SECOND)));
    assert_eq!((over.waited, over.peak_disk_bytes, over.peak_memory_bytes), (100, 20_500, held));
    let ended = kept.events.iter().find_map(|event| match event {
        Event::OutageEnded { from, to, cause, lateness, peak_memory_bytes, peak_disk_bytes, .. } => {
            Some((*from, *to, cause.clone(), *lateness, *peak_memory_bytes, *peak_disk_bytes))
        }
        _ => None,
    });
    let cause = over.cause.clone();
    assert_eq!(ended, Some((over.from, over.to, cause, over.lateness, over.peak_memory_bytes, over.peak_disk_bytes)));
    // A batch of the outage comes from a file.
    kept.world.core.on_delivered(90 * SECOND, kept.world.now);
    assert_eq!(kept.last().lateness, Some(90 * SECOND));
}

#[test]
fn the_disk_keeps_a_record_at_its_begin_each_minute_at_its_end_and_at_the_last_batch() {
    let mut kept = Kept::new();
    kept.world.offer(10);
    kept.fail();
    assert_eq!(kept.asked(), 0, "no outage yet");
    for _ in 0..5 {
        kept.fail();
    }
    assert_eq!((kept.asked(), kept.world.core.outages().len()), (1, 1), "it has begun");
    for _ in 0..2 {
        kept.fail();
    }
    assert_eq!(kept.asked(), 0, "the disk hangs: one at a time");
    kept.world.core.on_outages_kept(true);
    kept.fail();
    assert_eq!(kept.asked(), 1, "a minute has passed");
    kept.world.core.on_outages_kept(true);
    kept.world.offer(10);
    kept.world.offer(10);
    for _ in 0..2 {
        kept.deliver(SECOND);
        assert_eq!(kept.asked(), 1, "another minute has passed, before the probe and after it");
        kept.world.core.on_outages_kept(true);
    }
    assert_eq!(kept.asked_after(Duration::ZERO), 1, "it has ended");
    kept.world.core.on_outages_kept(true);
    assert_eq!(kept.asked_after(SECOND), 0);
    kept.world.core.on_delivered(500 * SECOND, kept.world.now);
    assert_eq!(kept.asked_after(Duration::ZERO), 1, "nothing waits: the lateness is final");
    kept.world.core.on_outages_kept(true);
    kept.world.core.on_delivered(600 * SECOND, kept.world.now);
    assert_eq!(kept.asked_after(Duration::ZERO), 1);
    kept.world.core.on_outages_kept(false);
    assert_eq!(kept.asked_after(59 * SECOND), 0, "the disk is full, and is not asked all the time");
    assert_eq!(kept.asked_after(SECOND), 1);
    kept.world.core.on_outages_kept(true);
    kept.world.core.stop(kept.world.now);
    assert_eq!(kept.asked(), 0, "the disk has all");
}

#[test]
fn a_shutdown_in_an_outage_keeps_its_record_before_the_disk_thread_ends() {
    let mut kept = Kept::new();
    kept.world.offer(10);
    for _ in 0..6 {
        kept.fail();
    }
    assert_eq!(kept.asked(), 1);
    kept.world.core.stop(kept.world.now);
    let mut effects = Vec::new();
    while let Some(effect) = kept.world.core.poll_effect() {
        effects.push(effect);
    }
    let at = |wanted: fn(&Effect) -> bool| effects.iter().position(wanted).expect("queued");
    assert!(at(|effect| matches!(effect, Effect::KeepOutages)) < at(|effect| matches!(effect, Effect::Stop)));
}

#[test]
fn without_a_state_directory_the_disk_thread_is_not_asked() {
    let mut kept = Kept { world: World::new(), ..Kept::new() };
    kept.start = kept.world.now;
    kept.world.offer(10);
    for _ in 0..6 {
        kept.fail();
    }
    kept.world.core.stop(kept.world.now);
    assert_eq!((kept.asked(), kept.world.core.outages().len()), (0, 1));
}

#[test]
fn a_span_of_its_own_is_counted_while_the_pipeline_runs_and_not_offered_once_it_ends() {
    let mut world = World::new();
    let payload = |world: &mut World| {
        let id = world.core.next_id();
        world.encoder.encode(id, SystemClock.wall(), &spans(1, 1))
    };
    let own = payload(&mut world);
    world.core.on_own_span(own, world.now, SECOND);
    assert_eq!((world.core.ledger().offered, world.core.ledger().buffered), (1, 1));
    world.core.drain(world.now + 5 * SECOND, SECOND, world.now);
    let own = payload(&mut world);
    world.core.on_own_span(own, world.now, SECOND);
    assert_eq!((world.core.ledger().offered, world.core.ledger().lost()), (1, 0));
}

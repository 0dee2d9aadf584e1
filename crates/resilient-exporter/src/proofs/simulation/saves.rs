//! Flushes and checkpoints: each batch that was accepted before one is answered, or is safe on the disk when it ends
//! well.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::numbers;
use super::replicas::{Replica, Reply};
use super::world::{Load, MINUTE, World, ms, secs};
use super::{Disturbance, Setup};
use crate::core::{Effect, Flush};

/// The shell looks so often whether the endpoint has become unwilling.
const LOOK: Duration = ms(50);

/// The disk thread takes 2 ms for an effect.
const DISK: Duration = ms(20);

/// A flush as it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Flushed {
    pub(super) is_ok: bool,
    pub(super) took: Duration,
}

impl World {
    /// A flush as the shell makes it, on a thread that blocks: with `attempts` a checkpoint.
    pub(super) fn flush(&mut self, timeout: Duration, attempts: bool) -> Flushed {
        self.seal_all(false);
        let since = self.now();
        let before = self.simulation.next_span;
        let has_safe_place = self.simulation.core.has_safe_place();
        if attempts {
            self.simulation.report(crate::core::Core::attempt_now);
        }
        let until = since + if has_safe_place { timeout / 2 } else { timeout };
        let flush = Flush { since, until, attempts };
        let is_answered = |world: &Self| !world.simulation.core.has_unanswered_since(since);
        let no_answer = |world: &Self| has_safe_place && world.simulation.core.is_hopeless(flush, world.now());
        self.go_on(until, |world| is_answered(world) || no_answer(world));
        if !is_answered(self) && has_safe_place {
            let now = self.now();
            self.simulation.report(|core| core.save(since, now));
            self.simulation.note_abandoned();
            self.go_on(since + timeout, |world| !world.simulation.core.has_unsafe_since(since));
        }
        let is_safe = has_safe_place && !self.simulation.core.has_unsafe_since(since);
        let flushed = Flushed { is_ok: is_answered(self) || is_safe, took: self.now() - since };
        if flushed.is_ok {
            let held = self.held();
            let left = held.iter().filter(|span| **span < before).count();
            assert_eq!(left, 0, "spans are in memory after a flush that ended well; {}", self.state());
        }
        self.check_ledger();
        flushed
    }

    /// Runs until the condition holds at an event or a look, or until `end`.
    fn go_on(&mut self, end: Instant, is_reached: impl Fn(&Self) -> bool) {
        loop {
            let look = (self.now() + LOOK).min(end);
            self.run_until(look, &is_reached);
            if is_reached(self) || self.now() >= end {
                return;
            }
            self.simulation.now = look;
            self.settle();
        }
    }

    /// The spans in memory, counted from the batches themselves: those that wait, are in calls, or are to be written.
    fn held(&self) -> HashSet<u64> {
        let simulation = &self.simulation;
        let at_hand = simulation.core.at_hand().flat_map(|entry| numbers(&entry.item.payload.request()));
        let out = simulation.calls.iter().filter(|call| simulation.core.is_live(call.id));
        let writing = simulation.effects.iter().flat_map(|effect| match effect {
            Effect::Spill(spill) => spill.entries.iter().map(|entry| &entry.item.payload).collect(),
            Effect::StoreDeadLetters(letters) => {
                letters.iter().flat_map(|letter| &letter.pieces).map(|entry| &entry.item.payload).collect()
            }
            _ => Vec::new(),
        });
        let staged = self.staged();
        at_hand
            .chain(staged)
            .chain(out.flat_map(|call| numbers(&call.payload.request())))
            .chain(writing.flat_map(|content| numbers(&content.request())))
            .collect()
    }
}

fn world(reply: Reply) -> World {
    World::new(vec![Replica::new(reply)], Setup::usual())
}

const HUNG: Reply = Reply::TimeOut { stored: true };

#[test]
fn a_flush_waits_for_answers_and_writes_no_file_while_the_collector_takes_batches() {
    let mut world = world(Reply::Accept);
    world.peer.replicas[0].latency = ms(300);
    (0..20).for_each(|_| drop(world.offer(10)));
    let flushed = world.flush(secs(30), false);
    assert!(flushed.is_ok && flushed.took >= ms(300), "{flushed:?}: {}", world.state());
    assert_eq!((world.ledger().delivered, world.simulation.disk.usage().files), (200, 0));
    let flushed = world.flush(secs(30), false);
    assert!(flushed.is_ok && flushed.took.is_zero(), "nothing waits: {flushed:?}");
}

#[test]
fn batches_of_a_collector_that_hangs_are_safe_within_half_of_the_bound_and_sent_again() {
    for (bound, at_most) in [(secs(2), secs(1)), (secs(30), ms(1_500) + LOOK)] {
        let mut world = world(HUNG);
        (0..20).for_each(|_| drop(world.offer(10)));
        let flushed = world.flush(bound, false);
        assert!(flushed.is_ok && flushed.took <= at_most + DISK, "{flushed:?} of {bound:?}: {}", world.state());
        let ledger = world.ledger();
        assert_eq!((ledger.in_fallback, ledger.buffered, ledger.in_flight), (200, 0, 0), "{}", world.state());
        world.peer.replicas[0].reply = Reply::Accept;
        world.run_to("the files", 2 * MINUTE, |world| world.ledger().in_fallback == 0);
        world.assert_nothing_missing();
        assert_eq!(world.simulation.duplicates, 10, "the call that was out, which `check_ledger` finds counted");
    }
}

/// While the breaker is open a flush makes no call, and a checkpoint makes one.
#[test]
fn a_flush_in_an_outage_goes_to_the_disk_at_once_and_a_checkpoint_after_one_attempt() {
    for (attempts, reply, calls) in [
        (false, Reply::ConnectionRefused, 0),
        (true, Reply::ConnectionRefused, 1),
        (true, HUNG, 1),
        (true, Reply::Status(401), 1),
    ] {
        let mut world = world(Reply::ConnectionRefused);
        world.load = Some(Load { spans: 5, every: secs(1) });
        world.run(30 * MINUTE);
        world.load = None;
        assert_eq!(world.simulation.core.breaker_state(), breaker::State::Open, "{}", world.state());
        (0..5).for_each(|_| drop(world.offer(10)));
        world.peer.replicas[0].reply = reply;
        let before = world.sent.len();
        let flushed = world.flush(secs(4), attempts);
        let at_most = if reply == HUNG { secs(2) } else { ms(50) };
        assert!(flushed.is_ok && flushed.took <= at_most + DISK, "{flushed:?} {reply:?}: {}", world.state());
        assert_eq!(world.sent.len() - before, calls, "{reply:?}: {}", world.state());
        assert_eq!(world.lost(), 0);
    }
}

#[test]
fn a_checkpoint_delivers_past_an_open_breaker_when_the_collector_is_back() {
    let mut world = world(Reply::ConnectionRefused);
    world.load = Some(Load { spans: 5, every: secs(1) });
    world.run(30 * MINUTE);
    world.load = None;
    let last = (0..5).flat_map(|_| world.offer(10)).collect::<Vec<_>>();
    world.peer.replicas[0].reply = Reply::Accept;
    let flushed = world.flush(secs(4), true);
    assert!(flushed.is_ok && flushed.took < secs(1), "{flushed:?}: {}", world.state());
    assert!(world.is_delivered(&last), "{}", world.state());
}

#[test]
fn a_flush_waits_for_a_retry_within_half_of_its_bound_and_for_no_later_one() {
    for (bound, is_file) in [(secs(20), false), (ms(300), true)] {
        let mut world = world(Reply::Status(503));
        let spans = world.offer(10);
        world.run(ms(100));
        world.peer.replicas[0].reply = Reply::Accept;
        let flushed = world.flush(bound, false);
        assert!(flushed.is_ok, "{flushed:?}: {}", world.state());
        assert_eq!((world.is_delivered(&spans), world.ledger().in_fallback > 0), (!is_file, is_file), "{bound:?}");
    }
}

#[test]
fn neither_passes_a_pause_that_the_collector_asked_for() {
    for attempts in [false, true] {
        let mut world = world(Reply::Throttle(secs(60)));
        world.offer(10);
        world.run(ms(500));
        let before = world.sent.len();
        let flushed = world.flush(secs(4), attempts);
        assert!(flushed.is_ok && flushed.took <= DISK, "{flushed:?}: {}", world.state());
        assert_eq!((world.sent.len() - before, world.ledger().in_fallback), (0, 10), "{}", world.state());
    }
}

#[test]
fn a_flush_tries_a_disk_in_trouble_again_and_fails_if_that_lasts() {
    for (failures, is_ok) in [(1, true), (usize::MAX, false)] {
        let mut world = world(Reply::ConnectionRefused);
        world.offer(10);
        let mut left = failures;
        world.disturbance = Box::new(move |_| {
            let fails = left > 0;
            left = left.saturating_sub(1);
            if fails { Disturbance::Failure } else { Disturbance::None }
        });
        let flushed = world.flush(secs(4), false);
        assert_eq!((flushed.is_ok, world.ledger().in_fallback), (is_ok, if is_ok { 10 } else { 0 }), "{flushed:?}");
        assert_eq!(flushed.took >= secs(4), !is_ok, "{flushed:?}");
        // The collector comes back: nothing was lost by the attempts.
        world.disturbance = Box::new(|_| Disturbance::None);
        world.peer.replicas[0].reply = Reply::Accept;
        world.run(5 * MINUTE);
        world.assert_nothing_missing();
    }
}

#[test]
fn a_flush_without_a_place_on_the_disk_waits_for_answers_for_its_whole_time() {
    let mut world =
        World::new(vec![Replica::new(Reply::ConnectionRefused)], Setup { fallback: false, ..Setup::usual() });
    world.offer(10);
    let flushed = world.flush(secs(2), false);
    assert_eq!(flushed, Flushed { is_ok: false, took: secs(2) }, "{}", world.state());
    assert_eq!((world.ledger().buffered, world.lost()), (10, 0));
    world.peer.replicas[0].reply = Reply::Accept;
    let flushed = world.flush(2 * MINUTE, false);
    assert!(flushed.is_ok && flushed.took < 2 * MINUTE, "{flushed:?}: {}", world.state());
    world.assert_nothing_missing();
}

/// Batches that arrive while a flush waits are none of its.
#[test]
fn a_flush_under_load_ends_and_leaves_later_batches_in_memory() {
    let mut world = world(HUNG);
    world.offer(10);
    world.load = Some(Load { spans: 2, every: ms(10) });
    let flushed = world.flush(secs(2), false);
    assert!(flushed.is_ok && flushed.took <= secs(1) + DISK, "{flushed:?}: {}", world.state());
    assert_eq!(world.ledger().in_fallback, 10, "the first batch and no other: {}", world.state());
    assert!(world.ledger().buffered > 100, "{}", world.state());
}

/// A disk in trouble is tried again each second: that must not take the answers from calls that are slower.
#[test]
fn a_flush_that_the_disk_fails_leaves_later_calls_their_answers() {
    let mut world = world(Reply::Accept);
    world.peer.replicas[0].latency = secs(2);
    world.disturbance = Box::new(|_| Disturbance::Failure);
    let spans = world.offer(10);
    let flushed = world.flush(secs(1), false);
    assert!(!flushed.is_ok, "{flushed:?}");
    world.run(MINUTE);
    assert!(world.is_delivered(&spans) && world.sent.len() == 3, "{} calls: {}", world.sent.len(), world.state());
}

/// The same for a program that flushes more often than the collector answers.
#[test]
fn flushes_in_a_row_that_the_disk_fails_leave_later_calls_their_answers() {
    let mut world = world(Reply::Accept);
    world.peer.replicas[0].latency = secs(3);
    world.disturbance = Box::new(|_| Disturbance::Failure);
    let spans = world.offer(10);
    for _ in 0..20 {
        world.flush(secs(1), false);
    }
    assert!(world.is_delivered(&spans) && world.sent.len() <= 4, "{} calls: {}", world.sent.len(), world.state());
}

/// A batch that no file takes waits for a minute before its next attempt.
#[test]
fn a_flush_gives_up_no_call_of_a_batch_that_no_file_takes() {
    let mut world = world(Reply::Accept);
    world.peer.replicas[0].latency = secs(2);
    let spans = world.offer(1);
    let now = world.now();
    world.simulation.report(|core| core.save(now, now));
    world.simulation.note_abandoned();
    let spill = world.simulation.take_effect(|effect| matches!(effect, Effect::Spill(_)));
    let Some(Effect::Spill(spill)) = spill else { panic!("a file") };
    world.simulation.report(|core| core.on_spill_refused(spill.entries, "too large for a file", now));
    // Each of these batches is a poll.
    world.load = Some(Load { spans: 1, every: ms(100) });
    world.run(secs(3));
    let calls = world.sent.iter().filter(|sent| sent.holds(spans[0])).count();
    assert!(world.is_delivered(&spans) && calls == 2, "{calls} calls: {}", world.state());
}

//! Another program removes a part of the journal while an exporter runs; and a journal of a user's own that loses
//! batches.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use futures_util::FutureExt as _;
use mock_collector::MockCollector;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use otlp_payload::{BatchId, Payload};
use resilient_exporter::{
    Builder, Event, Handle, Journal, JournalError, JournalUsage, Lost, Recovered, ResilientSpanExporter, Vanished,
};

use crate::support::{PATIENCE, copy, eventually, http, in_processes, quick, some_spans};

/// The number of the first span: no other bytes of a segment look like it.
const FIRST: u64 = 0x5eed_f00d_5eed_0001;

/// Spans of a batch, whose names together have half a megabyte: a segment holds about 15 batches.
const BATCH: u64 = 8;

fn durable(collector: &MockCollector) -> Builder {
    quick(ResilientSpanExporter::builder().with_primary(http(collector)))
        .with_fallback_enabled(false)
        .with_journal_enabled(true)
        .with_journal_sync_timeout(PATIENCE)
}

fn large_spans(first: u64) -> Vec<SpanData> {
    let name = "n".repeat(64 << 10);
    let mut spans = some_spans(BATCH);
    for (span, number) in spans.iter_mut().zip(first..) {
        let (trace, id) = (TraceId::from(u128::from(number)), SpanId::from(number));
        span.span_context = SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::default());
        span.name = name.clone().into();
    }
    spans
}

fn export(exporter: &ResilientSpanExporter, batches: std::ops::Range<u64>) {
    for batch in batches {
        exporter.export(large_spans(FIRST + batch * BATCH)).now_or_never().expect("ready").expect("accepted");
    }
}

fn segments(state: &Path) -> Vec<PathBuf> {
    let journals = in_processes(state, "journal");
    let entries = journals.iter().flat_map(|journal| fs::read_dir(journal).expect("readable"));
    let paths = entries.map(|entry| entry.expect("readable").path());
    let mut segments = paths.filter(|path| path.to_string_lossy().ends_with(".seg")).collect::<Vec<_>>();
    segments.sort();
    segments
}

fn numbers_in(file: &Path) -> BTreeSet<u64> {
    let content = fs::read(file).expect("readable");
    let ids = content.windows(16).map(|id| u128::from_be_bytes(id.try_into().expect("16 bytes")));
    let numbers = ids.filter_map(|id| u64::try_from(id).ok());
    numbers.filter(|number| (FIRST..FIRST + 10_000).contains(number)).collect()
}

/// The spans of these batches that the collector has.
fn received(collector: &MockCollector, batches: u64) -> BTreeSet<u64> {
    let has = |number: &u64| collector.contains(u128::from(*number).to_be_bytes(), number.to_be_bytes());
    (FIRST..FIRST + batches * BATCH).filter(has).collect()
}

fn vanished(handle: &Handle) -> u64 {
    let ledger = handle.ledger();
    let vanished = ledger.dropped.get("vanished").copied().unwrap_or(0);
    assert_eq!((ledger.lost(), ledger.imbalance()), (vanished, 0), "{ledger:?}");
    vanished
}

/// Forty batches, of which memory holds about half; another program then harms the journal. `harm` returns the spans
/// that it takes away.
fn lost_batches_are_counted_and_no_other_is_lost(harm: impl FnOnce(&Path) -> BTreeSet<u64>) {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let scratch = tempfile::tempdir().expect("temp dir");
    let (state, after) = (scratch.path().join("state"), scratch.path().join("after"));
    let exporter = durable(&collector).with_state_dir(&state).build().expect("valid");
    let handle = exporter.handle();
    let events = handle.subscribe();
    export(&exporter, 0..40);
    let ledger = handle.ledger();
    assert!(ledger.in_journal > 15 * BATCH && ledger.in_journal < 25 * BATCH && ledger.lost() == 0, "{ledger:?}");
    let removed = harm(&state);
    eventually("the journal thread learns of it", || vanished(&handle) > 0);
    // The event follows the ledger: it is published without the lock.
    let told = std::iter::from_fn(|| events.recv_timeout(PATIENCE).ok()).find_map(|event| match event {
        Event::JournalVanished { spans } => Some(spans as u64),
        _ => None,
    });
    assert_eq!(told, Some(vanished(&handle)));
    let health = handle.health();
    assert!(health.issues.iter().any(|issue| issue.contains("removed while the process runs")), "{:?}", health.issues);
    // The export is committed after those that are appended again.
    export(&exporter, 40..41);
    let all = (FIRST..FIRST + 41 * BATCH).collect::<BTreeSet<_>>();

    // A kill at this moment, and a restart.
    copy(&state, &after);
    let next_collector = MockCollector::start().expect("loopback");
    let next_exporter = durable(&next_collector).with_state_dir(&after).build().expect("valid");
    let next = next_exporter.handle();
    next.settled(PATIENCE).expect("delivered");
    let lost = &all - &received(&next_collector, 41);
    assert_eq!((lost.len() as u64, vanished(&next)), (vanished(&handle), 0));
    assert!(lost.is_subset(&removed), "the others are delivered");

    collector.start_again().expect("the same ports");
    handle.settled(PATIENCE).expect("delivered");
    assert_eq!(&all - &received(&collector, 41), lost);
    assert_eq!(handle.ledger().delivered, 41 * BATCH - lost.len() as u64);
}

#[test]
fn of_one_removed_segment_the_batches_that_the_journal_alone_held_are_lost() {
    lost_batches_are_counted_and_no_other_is_lost(|state| {
        let segments = segments(state);
        assert!(segments.len() >= 3, "{segments:?}");
        let numbers = numbers_in(&segments[0]);
        fs::remove_file(&segments[0]).expect("there");
        numbers
    });
}

#[test]
fn of_a_removed_directory_the_batches_that_the_journal_alone_held_are_lost() {
    lost_batches_are_counted_and_no_other_is_lost(|state| {
        let numbers = segments(state).iter().flat_map(|segment| numbers_in(segment)).collect();
        for journal in in_processes(state, "journal") {
            fs::remove_dir_all(journal).expect("there");
        }
        numbers
    });
}

#[test]
fn of_a_directory_that_is_moved_away_the_batches_that_the_journal_alone_held_are_lost() {
    lost_batches_are_counted_and_no_other_is_lost(|state| {
        let numbers = segments(state).iter().flat_map(|segment| numbers_in(segment)).collect();
        for journal in in_processes(state, "journal") {
            fs::rename(journal, state.with_file_name("elsewhere")).expect("there");
        }
        numbers
    });
}

/// The batches of a user's journal, and those that it is about to lose.
#[derive(Default)]
struct Shelf {
    batches: BTreeMap<BatchId, Payload>,
    vanished: Vanished,
}

/// A user's own journal, which reads batches back.
struct OwnJournal(Arc<Mutex<Shelf>>);

impl OwnJournal {
    fn shelf(&self) -> std::sync::MutexGuard<'_, Shelf> {
        self.0.lock().expect("no panic")
    }
}

impl Journal for OwnJournal {
    fn incarnation(&self) -> u64 {
        7
    }

    fn append(&mut self, batch: &Payload) -> Result<(), JournalError> {
        let earlier = self.shelf().batches.insert(batch.id(), batch.clone());
        assert!(earlier.is_none(), "a batch that is here is not appended again");
        Ok(())
    }

    fn done(&mut self, ids: &[BatchId]) -> Result<(), JournalError> {
        self.shelf().batches.retain(|id, _| !ids.contains(id));
        Ok(())
    }

    fn announce(&mut self, _file: &str, _ids: &[BatchId]) -> Result<(), JournalError> {
        Ok(())
    }

    fn take_back(&mut self, _ids: &[BatchId]) -> Result<(), JournalError> {
        Ok(())
    }

    fn sync(&mut self) -> Result<(), JournalError> {
        Ok(())
    }

    fn found(&mut self) -> u64 {
        0
    }

    fn next_recovered(&mut self, _now: SystemTime) -> Recovered {
        Recovered::End
    }

    fn read(&mut self, id: BatchId, _now: SystemTime) -> Recovered {
        self.shelf().batches.get(&id).cloned().map_or(Recovered::End, Recovered::Batch)
    }

    fn can_read(&self) -> bool {
        true
    }

    fn take_vanished(&mut self) -> Vanished {
        std::mem::take(&mut self.shelf().vanished)
    }

    fn maintain(&mut self, _: &mut dyn FnMut(&str) -> std::io::Result<bool>) -> Result<(), JournalError> {
        Ok(())
    }

    fn usage(&self) -> JournalUsage {
        JournalUsage { batches: self.shelf().batches.len() as u64, ..JournalUsage::default() }
    }
}

#[test]
fn a_user_s_journal_names_the_batches_that_it_has_lost_or_says_all() {
    // The oldest batch left memory, and the newest is there. The second one is another process's from now on.
    for loses_all in [false, true] {
        let collector = MockCollector::start().expect("loopback");
        collector.stop();
        let shelf = Arc::new(Mutex::new(Shelf::default()));
        let builder = durable(&collector).with_journal(OwnJournal(Arc::clone(&shelf)));
        let exporter = builder.build().expect("valid");
        let handle = exporter.handle();
        export(&exporter, 0..40);
        let in_journal = handle.ledger().in_journal;
        assert!(in_journal > 15 * BATCH);
        let newest = {
            let mut shelf = shelf.lock().expect("no panic");
            let ids = shelf.batches.keys().copied().collect::<Vec<_>>();
            assert_eq!(ids.len(), 40);
            shelf.vanished = if loses_all {
                shelf.batches.clear();
                Vanished::All
            } else {
                let lost = Lost { batches: vec![ids[0], ids[39]], unread: 0 };
                let taken_over = Lost { batches: vec![ids[1]], unread: 0 };
                shelf.batches.retain(|id, _| ![ids[0], ids[1], ids[39]].contains(id));
                Vanished::Batches { lost, taken_over }
            };
            ids[39]
        };
        let lost = if loses_all { in_journal } else { BATCH };
        eventually("the journal thread asks", || vanished(&handle) == lost);
        eventually("the batch in memory is appended again", || {
            shelf.lock().expect("no panic").batches.contains_key(&newest)
        });
        collector.start_again().expect("the same ports");
        handle.settled(PATIENCE).expect("delivered");
        let ledger = handle.ledger();
        let taken_over = if loses_all { 0 } else { BATCH };
        assert_eq!((vanished(&handle), ledger.taken_over), (lost, taken_over), "{ledger:?}");
        assert_eq!(ledger.delivered, 40 * BATCH - lost - taken_over);
        assert_eq!(received(&collector, 40).len() as u64, ledger.delivered, "none that counts as lost is delivered");
        eventually("each batch is marked", || shelf.lock().expect("no panic").batches.is_empty());
    }
}

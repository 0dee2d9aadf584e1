//! Durable mode: what was accepted survives the process, and a journal in trouble harms nobody.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use mock_collector::MockCollector;
use opentelemetry_sdk::trace::SpanExporter as _;
use otlp_payload::{BatchId, Payload};
use resilient_exporter::{
    BuildError, Builder, Event, Journal, JournalError, JournalUsage, Recovered, ResilientSpanExporter, Status,
    SyncPolicy,
};

use crate::support::{App, PATIENCE, eventually, http, now, quick, some_spans};

fn durable(collector: &MockCollector, state: &Path) -> Builder {
    quick(ResilientSpanExporter::builder().with_primary(http(collector)))
        .with_state_dir(state)
        .with_journal_enabled(true)
        // These machines are busy at times; what is late is tested below.
        .with_journal_sync_timeout(PATIENCE)
}

/// What `kill -9` would leave at this moment.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a place to copy to");
    fs::set_permissions(to, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("our own directory");
    for entry in fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("known").is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("copied")),
        }
    }
}

#[test]
fn what_was_accepted_survives_the_end_of_the_process_by_every_policy() {
    for policy in [SyncPolicy::Batch, SyncPolicy::Interval(Duration::from_millis(30)), SyncPolicy::Never] {
        let collector = MockCollector::start().expect("loopback");
        collector.stop();
        let scratch = tempfile::tempdir().expect("temp dir");
        let (state, left) = (scratch.path().join("state"), scratch.path().join("left"));
        let mut first = App::new(durable(&collector, &state).with_journal_sync(policy).build().expect("valid"));
        first.trace(1_700);
        let health = first.handle.health();
        // One batch may be on its way to the collector that is not there.
        let waits = health.ledger.buffered + health.ledger.in_flight;
        assert_eq!((waits, health.accepted_not_durable), (1_700, Some(0)), "{health:?}");
        copy(&state, &left);

        // The first goes on, with a collector that stays away: as if it had been killed.
        let collector = MockCollector::start().expect("loopback");
        let mut second = App::new(durable(&collector, &left).build().expect("valid"));
        assert_eq!(second.handle.ledger().recovered, 1_700);
        second.trace(300);
        second.assert_delivered(&collector);
        assert_eq!(first.missing(&[&collector]), 0, "{policy:?}");
        assert_eq!(collector.received().duplicates, 0);
        second.wait_until("what was delivered is marked", |handle| handle.health().journal_batches == Some(0));
        second.shutdown().expect("nothing waits");
        let third = App::new(durable(&collector, &left).build().expect("valid"));
        assert_eq!(third.handle.ledger().recovered, 0, "what was delivered does not come back");
    }
}

#[test]
fn a_batch_is_in_the_journal_or_in_a_file_and_never_in_both() {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let scratch = tempfile::tempdir().expect("temp dir");
    let (state, left) = (scratch.path().join("state"), scratch.path().join("left"));
    let mut first = App::new(durable(&collector, &state).with_buffer_size(2_000).build().expect("valid"));
    for _ in 0..30 {
        first.trace(300);
        // Above 7/8 of the buffer the disk is at work.
        first.wait_until("the disk keeps up", |handle| handle.ledger().buffered <= 1_750);
    }
    let ledger = first.handle.ledger();
    assert!(ledger.lost() == 0 && ledger.in_fallback > 5_000 && ledger.buffered > 0, "{ledger:?}");
    copy(&state, &left);
    let collector = MockCollector::start().expect("loopback");
    let second = App::new(durable(&collector, &left).build().expect("valid"));
    assert_eq!(second.handle.ledger().recovered, 9_000, "each once");
    second.assert_delivered(&collector);
    assert_eq!((first.missing(&[&collector]), collector.received().duplicates), (0, 0));
}

#[test]
fn a_shutdown_without_a_fallback_leaves_the_rest_in_the_journal() {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let state = tempfile::tempdir().expect("temp dir");
    let state = state.path().join("state");
    let build = || durable(&collector, &state).with_fallback_enabled(false).build().expect("valid");
    let mut first = App::new(build());
    first.trace(600);
    first.shutdown().expect("nothing is lost");
    assert_eq!((first.handle.ledger().lost(), first.handle.ledger().buffered), (0, 600));
    collector.start_again().expect("the same ports");
    let second = App::new(build());
    second.assert_delivered(&collector);
    assert_eq!(second.handle.ledger().recovered, 600);
    assert_eq!(first.missing(&[&collector]), 0);
}

#[test]
fn a_shutdown_with_a_fallback_hands_the_rest_over_to_files() {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let state = tempfile::tempdir().expect("temp dir");
    let state = state.path().join("state");
    let mut first = App::new(durable(&collector, &state).build().expect("valid"));
    first.trace(600);
    first.shutdown().expect("nothing is lost");
    let health = first.handle.health();
    assert_eq!((health.ledger.in_fallback, health.journal_batches), (600, Some(0)), "{health:?}");
    let segments = fs::read_dir(state.join("journal")).expect("is there");
    let segments = segments.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().extension().is_some()));
    assert!(segments.count() <= 1, "nothing but the segment that was written last");
}

#[test]
fn a_second_process_has_a_journal_of_its_own_which_is_taken_over_when_it_ends() {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let state = tempfile::tempdir().expect("temp dir");
    let (state, left) = (state.path().join("state"), state.path().join("left"));
    let build = |state: &Path| App::new(durable(&collector, state).build().expect("valid"));
    let (mut first, mut second) = (build(&state), build(&state));
    first.trace(100);
    second.trace(200);
    assert!(state.join("journal/process-1").is_dir());
    copy(&state, &left);

    let collector = MockCollector::start().expect("loopback");
    let heir = App::new(durable(&collector, &left).build().expect("valid"));
    heir.wait_until("both are found", |handle| handle.ledger().recovered == 300);
    heir.assert_delivered(&collector);
    assert_eq!((first.missing(&[&collector]), second.missing(&[&collector])), (0, 0));
    eventually("nothing is left of it", || !left.join("journal/process-1").exists());
}

#[test]
fn a_journal_that_cannot_be_taken_over_holds_up_no_other() {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let state = tempfile::tempdir().expect("temp dir");
    let (state, left) = (state.path().join("state"), state.path().join("left"));
    let apps = [100, 10, 20, 30].map(|spans| {
        let mut app = App::new(durable(&collector, &state).build().expect("valid"));
        app.trace(spans);
        app
    });
    copy(&state, &left);
    for process in ["process-1", "process-3"] {
        let lock = left.join("journal").join(process).join(".lock");
        fs::remove_file(&lock).expect("is there");
        fs::create_dir(&lock).expect("made");
    }
    let collector = MockCollector::start().expect("loopback");
    let heir = App::new(durable(&collector, &left).build().expect("valid"));
    heir.wait_until("both are found", |handle| handle.ledger().recovered == 120);
    heir.assert_delivered(&collector);
    assert_eq!((apps[0].missing(&[&collector]), apps[2].missing(&[&collector])), (0, 0));
}

#[test]
fn a_wait_that_no_clock_can_tell_is_for_ever_and_harms_nobody() {
    let collector = MockCollector::start().expect("loopback");
    let scratch = tempfile::tempdir().expect("temp dir");
    let builder = durable(&collector, &scratch.path().join("state")).with_journal_sync_timeout(Duration::MAX);
    let mut app = App::new(builder.build().expect("valid"));
    app.trace(10);
    app.assert_delivered(&collector);
    assert_eq!(app.handle.health().accepted_not_durable, Some(0));
}

#[test]
fn a_journal_without_a_directory_or_in_an_unsafe_one_is_an_error() {
    let collector = MockCollector::start().expect("loopback");
    let builder = || ResilientSpanExporter::builder().with_primary(http(&collector)).with_journal_enabled(true);
    assert!(matches!(builder().build(), Err(BuildError::NoJournalDirectory)));
    let scratch = tempfile::tempdir().expect("temp dir");
    fs::write(scratch.path().join("journal"), "a file").expect("written");
    let refused = builder().with_state_dir(scratch.path()).build();
    assert!(matches!(refused, Err(BuildError::Journal(_))), "{refused:?}");
    let short = builder().with_state_dir(scratch.path()).with_journal_sync_timeout(Duration::ZERO).build();
    assert!(matches!(short, Err(BuildError::InvalidSetting { field: "journal.sync_timeout", .. })), "{short:?}");
}

/// A journal of the user's own, which asks somebody before each append.
struct Asking {
    ask: Sender<()>,
    answer: Receiver<Result<(), JournalError>>,
    kept: Vec<BatchId>,
    maintained: Arc<AtomicUsize>,
}

impl Journal for Asking {
    fn incarnation(&self) -> u64 {
        7
    }

    fn append(&mut self, batch: &Payload) -> Result<(), JournalError> {
        let _ = self.ask.send(());
        self.answer.recv().unwrap_or(Ok(()))?;
        self.kept.push(batch.id());
        Ok(())
    }

    fn done(&mut self, ids: &[BatchId]) -> Result<(), JournalError> {
        self.kept.retain(|id| !ids.contains(id));
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

    fn maintain(&mut self, _: &mut dyn FnMut(&str) -> std::io::Result<bool>) -> Result<(), JournalError> {
        self.maintained.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn usage(&self) -> JournalUsage {
        JournalUsage { batches: self.kept.len() as u64, bytes: 0 }
    }
}

fn asking() -> (Asking, Receiver<()>, Sender<Result<(), JournalError>>) {
    let ((ask, asked), (reply, answer)) = (channel(), channel());
    (Asking { ask, answer, kept: Vec::new(), maintained: Arc::default() }, asked, reply)
}

#[test]
fn a_disk_that_hangs_costs_one_wait_and_the_spans_are_delivered() {
    let collector = MockCollector::start().expect("loopback");
    let (journal, asked, reply) = asking();
    let exporter = quick(ResilientSpanExporter::builder().with_primary(http(&collector)))
        .with_fallback_enabled(false)
        .with_journal_enabled(true)
        .with_journal(journal)
        .with_journal_sync_timeout(Duration::from_millis(500))
        .build()
        .expect("valid");
    let handle = exporter.handle();
    let export = |spans| exporter.export(some_spans(spans)).now_or_never().expect("ready").expect("accepted");
    let start = now();
    export(10);
    assert!(start.elapsed() >= Duration::from_millis(500), "it waited for the disk");
    asked.recv_timeout(PATIENCE).expect("the disk thread hangs in it");
    // Nobody waits while the disk has not answered: these would take 20 s otherwise.
    (0..40).for_each(|_| export(10));
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    eventually("the collector has them", || handle.ledger().delivered == 410);
    let health = handle.health();
    assert_eq!((health.status, health.accepted_not_durable), (Status::Degraded, Some(410)), "{health:?}");
    assert!(health.issues.iter().any(|issue| issue.contains("before they were durable")), "{:?}", health.issues);
    eventually("health knows that the disk hangs", || handle.health().issues.iter().any(|issue| issue.contains("2 s")));

    drop((reply, asked));
    // What was delivered meanwhile is not written any more, and what was being written is marked.
    eventually("the disk is back", || handle.health().journal_batches == Some(0));
    export(10);
    assert_eq!(handle.health().accepted_not_durable, Some(410), "from now on it is durable again");
}

#[test]
fn a_journal_that_fails_is_told_of_and_returns_by_itself() {
    let collector = MockCollector::start().expect("loopback");
    let (journal, _asked, reply) = asking();
    let maintained = Arc::clone(&journal.maintained);
    let exporter = quick(ResilientSpanExporter::builder().with_primary(http(&collector)))
        .with_fallback_enabled(false)
        .with_journal_enabled(true)
        .with_journal(journal)
        .with_journal_sync_timeout(PATIENCE)
        .build()
        .expect("valid");
    let handle = exporter.handle();
    let events = handle.subscribe();
    let export = |spans| exporter.export(some_spans(spans)).now_or_never().expect("ready").expect("accepted");
    reply.send(Err(JournalError::new("no space left on device"))).expect("it listens");
    export(10);
    let told = std::iter::from_fn(|| events.recv_timeout(PATIENCE).ok());
    let told =
        told.filter_map(|event| if let Event::JournalTrouble { error } = event { Some(error) } else { None }).next();
    assert_eq!(told.as_deref(), Some("no space left on device"));
    assert_eq!(handle.health().accepted_not_durable, Some(10));
    // That marks are written, and that clearing up works, says nothing of it.
    let trouble = || handle.health().issues.iter().any(|issue| issue.contains("no space left"));
    handle.flush(PATIENCE).expect("delivered");
    let before = maintained.load(Ordering::Relaxed);
    eventually("it was cleared up", || maintained.load(Ordering::Relaxed) >= before + 2);
    assert!(trouble(), "{:?}", handle.health().issues);
    reply.send(Ok(())).expect("it listens");
    export(20);
    assert_eq!(handle.health().accepted_not_durable, Some(10));
    eventually("the trouble is over", || !trouble());
    handle.flush(PATIENCE).expect("delivered");
    assert_eq!(handle.ledger().delivered, 30);
}

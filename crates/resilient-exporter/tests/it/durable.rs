//! Durable mode: accepted spans survive the end of the process, and a failing or hanging journal stops no delivery.

use std::ffi::OsString;
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
    BuildError, Builder, Event, Handle, Journal, JournalError, JournalUsage, Recovered, ResilientSpanExporter, Status,
    SyncPolicy,
};

use crate::support::{App, PATIENCE, copy, eventually, http, in_processes, now, processes, quick, some_spans};

fn durable(collector: &MockCollector, state: &Path) -> Builder {
    quick(ResilientSpanExporter::builder().with_primary(http(collector)))
        .with_state_dir(state)
        .with_journal_enabled(true)
        // A busy machine must not make a commit late here. Tests below make commits late on purpose.
        .with_journal_sync_timeout(PATIENCE)
}

#[test]
fn accepted_spans_survive_a_kill_under_every_sync_policy() {
    for policy in [SyncPolicy::Batch, SyncPolicy::Interval(Duration::from_millis(30)), SyncPolicy::Never] {
        let collector = MockCollector::start().expect("loopback");
        collector.stop();
        let scratch = tempfile::tempdir().expect("temp dir");
        let (state, left) = (scratch.path().join("state"), scratch.path().join("left"));
        let mut first = App::new(durable(&collector, &state).with_journal_sync(policy).build().expect("valid"));
        first.trace(1_700);
        let health = first.handle.health();
        // One batch may be in a call to the stopped collector.
        let waits = health.ledger.buffered + health.ledger.in_flight;
        assert_eq!((waits, health.accepted_not_durable), (1_700, Some(0)), "{health:?}");
        copy(&state, &left);

        // The first exporter stays alive, but its collector stays stopped: the second one starts as after a kill.
        let collector = MockCollector::start().expect("loopback");
        let mut second = App::new(durable(&collector, &left).build().expect("valid"));
        assert_eq!(second.handle.ledger().recovered, 1_700);
        second.trace(300);
        second.assert_delivered(&collector);
        assert_eq!(first.missing(&[&collector]), 0, "{policy:?}");
        assert_eq!(collector.received().duplicates, 0);
        second.wait_until("the delivered batches are marked", |handle| handle.health().journal_batches == Some(0));
        second.shutdown().expect("nothing waits");
        let third = App::new(durable(&collector, &left).build().expect("valid"));
        assert_eq!(third.handle.ledger().recovered, 0, "no delivered batch is recovered");
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
        // Above 7/8 of the buffer the disk thread writes files. A batch in a call takes memory too.
        let held = |handle: &Handle| handle.ledger().buffered + handle.ledger().in_flight;
        first.wait_until("the disk thread writes the surplus", |handle| held(handle) <= 1_750);
    }
    let ledger = first.handle.ledger();
    assert!(ledger.lost() == 0 && ledger.in_fallback > 5_000 && ledger.buffered > 0, "{ledger:?}");
    copy(&state, &left);
    let collector = MockCollector::start().expect("loopback");
    let second = App::new(durable(&collector, &left).build().expect("valid"));
    assert_eq!(second.handle.ledger().recovered, 9_000, "each span once");
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
    assert_eq!((first.handle.ledger().lost(), first.handle.ledger().in_journal), (0, 600));
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
    assert!(in_processes(&state, "journal").is_empty(), "no batch is left in the journal, and no journal");
}

#[test]
fn each_process_has_its_own_journal_which_another_one_adopts_when_it_ends() {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let state = tempfile::tempdir().expect("temp dir");
    let (state, left) = (state.path().join("state"), state.path().join("left"));
    let build = |state: &Path| App::new(durable(&collector, state).build().expect("valid"));
    let (mut first, mut second) = (build(&state), build(&state));
    first.trace(100);
    second.trace(200);
    assert_eq!(in_processes(&state, "journal/.lock").len(), 2, "{:?}", processes(&state));
    copy(&state, &left);

    let collector = MockCollector::start().expect("loopback");
    let adopter = App::new(durable(&collector, &left).build().expect("valid"));
    assert_eq!(adopter.handle.ledger().recovered, 300, "both journals are read at the start");
    adopter.assert_delivered(&collector);
    assert_eq!((first.missing(&[&collector]), second.missing(&[&collector])), (0, 0));
    eventually("the directories of the ended processes are removed", || processes(&left).len() == 1);
}

#[test]
fn a_journal_that_cannot_be_adopted_delays_no_other() {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let state = tempfile::tempdir().expect("temp dir");
    let (state, left) = (state.path().join("state"), state.path().join("left"));
    let mut names = Vec::<OsString>::new();
    let apps = [100, 10, 20, 30].map(|spans| {
        let mut app = App::new(durable(&collector, &state).build().expect("valid"));
        app.trace(spans);
        let all = processes(&state).into_iter().map(|path| path.file_name().expect("a name").to_owned());
        names.extend(all.filter(|name| !names.contains(name)).collect::<Vec<_>>());
        app
    });
    copy(&state, &left);
    // Of one process neither the directory can be locked, of the other not the journal in it.
    for lock in [left.join(&names[1]).join(".lock"), left.join(&names[3]).join("journal/.lock")] {
        fs::remove_file(&lock).expect("is there");
        fs::create_dir(&lock).expect("made");
    }
    let collector = MockCollector::start().expect("loopback");
    let adopter = App::new(durable(&collector, &left).build().expect("valid"));
    adopter.wait_until("the batches of the readable journals are recovered", |handle| handle.ledger().recovered == 120);
    adopter.assert_delivered(&collector);
    assert_eq!((apps[0].missing(&[&collector]), apps[2].missing(&[&collector])), (0, 0));
    for (number, spans) in [(1, 10), (3, 30)] {
        assert_eq!(apps[number].missing(&[&collector]), spans, "they stay in their journal");
    }
    eventually("the journals that were read are removed", || in_processes(&left, "journal").len() == 3);
}

#[test]
fn a_sync_timeout_beyond_the_clock_waits_without_limit() {
    let collector = MockCollector::start().expect("loopback");
    let scratch = tempfile::tempdir().expect("temp dir");
    let builder = durable(&collector, &scratch.path().join("state")).with_journal_sync_timeout(Duration::MAX);
    let mut app = App::new(builder.build().expect("valid"));
    app.trace(10);
    app.assert_delivered(&collector);
    assert_eq!(app.handle.health().accepted_not_durable, Some(0));
}

#[test]
fn a_journal_without_a_directory_or_in_an_unsafe_one_is_off_or_an_error_where_it_is_required() {
    let collector = MockCollector::start().expect("loopback");
    let builder = || quick(ResilientSpanExporter::builder().with_primary(http(&collector))).with_journal_enabled(true);
    let required = || builder().with_state_dir_required(true);
    assert!(matches!(required().build(), Err(BuildError::NoJournalDirectory)));
    let scratch = tempfile::tempdir().expect("temp dir");
    let file = scratch.path().join("a-file");
    fs::write(&file, "text").expect("written");
    let refused = required().with_state_dir(&file).build();
    assert!(matches!(&refused, Err(BuildError::StateDir { path, .. }) if *path == file), "{refused:?}");
    for (builder, cause) in [(builder(), "no directory"), (builder().with_state_dir(&file), "a-file")] {
        let mut app = App::new(builder.build().expect("telemetry stops no program"));
        app.trace(10);
        app.assert_delivered(&collector);
        let health = app.handle.health();
        assert_eq!(health.status, Status::Degraded, "{health:?}");
        let names_it = |issue: &&String| issue.contains("durable mode is off") && issue.contains(cause);
        assert_eq!(health.issues.iter().filter(names_it).count(), 1, "{:?}", health.issues);
    }
    assert_eq!(fs::read(&file).expect("there"), b"text");
    let short = builder().with_state_dir(scratch.path()).with_journal_sync_timeout(Duration::ZERO).build();
    assert!(matches!(short, Err(BuildError::InvalidSetting { field: "journal.sync_timeout", .. })), "{short:?}");
}

/// A user's own journal, which blocks in each append until the test answers.
struct AskingJournal {
    ask: Sender<()>,
    answer: Receiver<Result<(), JournalError>>,
    batches: Vec<BatchId>,
    maintained: Arc<AtomicUsize>,
}

impl Journal for AskingJournal {
    fn incarnation(&self) -> u64 {
        7
    }

    fn append(&mut self, batch: &Payload) -> Result<(), JournalError> {
        let _ = self.ask.send(());
        self.answer.recv().unwrap_or(Ok(()))?;
        self.batches.push(batch.id());
        Ok(())
    }

    fn done(&mut self, ids: &[BatchId]) -> Result<(), JournalError> {
        self.batches.retain(|id| !ids.contains(id));
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
        JournalUsage { batches: self.batches.len() as u64, ..JournalUsage::default() }
    }
}

fn asking_journal() -> (AskingJournal, Receiver<()>, Sender<Result<(), JournalError>>) {
    let ((ask, asked), (reply, answer)) = (channel(), channel());
    (AskingJournal { ask, answer, batches: Vec::new(), maintained: Arc::default() }, asked, reply)
}

#[test]
fn a_disk_that_hangs_costs_one_wait_and_the_spans_are_delivered() {
    let collector = MockCollector::start().expect("loopback");
    let (journal, asked, reply) = asking_journal();
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
    assert!(start.elapsed() >= Duration::from_millis(500), "`export` waits until the timeout");
    asked.recv_timeout(PATIENCE).expect("the disk thread blocks in the append");
    // No further `export` call waits until the disk thread answers: 40 waits would take 20 s.
    (0..40).for_each(|_| export(10));
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    eventually("the collector has them", || handle.ledger().delivered == 410);
    let health = handle.health();
    assert_eq!((health.status, health.accepted_not_durable), (Status::Degraded, Some(410)), "{health:?}");
    assert!(health.issues.iter().any(|issue| issue.contains("before they were durable")), "{:?}", health.issues);
    eventually("health knows that the disk hangs", || handle.health().issues.iter().any(|issue| issue.contains("2 s")));

    drop((reply, asked));
    // The disk thread appends none of the batches that were delivered meanwhile, and marks the one that it was
    // appending.
    eventually("the disk thread answers again", || handle.health().journal_batches == Some(0));
    export(10);
    assert_eq!(handle.health().accepted_not_durable, Some(410), "batches are durable again");
}

#[test]
fn a_failing_journal_is_published_and_recovers_by_itself() {
    let collector = MockCollector::start().expect("loopback");
    let (journal, _asked, reply) = asking_journal();
    let maintained = Arc::clone(&journal.maintained);
    let exporter = quick(ResilientSpanExporter::builder().with_primary(http(&collector)))
        .with_fallback_enabled(false)
        .with_journal_enabled(true)
        .with_journal(journal)
        .with_journal_max_bytes(1) // does not apply to a user's own journal
        .with_journal_sync_timeout(PATIENCE)
        .build()
        .expect("valid");
    let handle = exporter.handle();
    let events = handle.subscribe();
    let export = |spans| exporter.export(some_spans(spans)).now_or_never().expect("ready").expect("accepted");
    reply.send(Err(JournalError::new("no space left on device"))).expect("the journal waits for the answer");
    export(10);
    let published = std::iter::from_fn(|| events.recv_timeout(PATIENCE).ok());
    let error = published
        .filter_map(|event| if let Event::JournalTrouble { error } = event { Some(error) } else { None })
        .next();
    assert_eq!(error.as_deref(), Some("no space left on device"));
    assert_eq!(handle.health().accepted_not_durable, Some(10));
    // Marks and maintenance succeed meanwhile, which does not end the trouble: only an append does.
    let trouble = || handle.health().issues.iter().any(|issue| issue.contains("no space left"));
    handle.settled(PATIENCE).expect("delivered");
    let before = maintained.load(Ordering::Relaxed);
    eventually("the journal was maintained twice", || maintained.load(Ordering::Relaxed) >= before + 2);
    assert!(trouble(), "{:?}", handle.health().issues);
    reply.send(Ok(())).expect("the journal waits for the answer");
    export(20);
    assert_eq!(handle.health().accepted_not_durable, Some(10));
    eventually("the trouble is over", || !trouble());
    handle.settled(PATIENCE).expect("delivered");
    assert_eq!(handle.ledger().delivered, 30);
}

//! Several processes on one state directory, each of them an exporter: every process takes over the content that any
//! other one of its service leaves, and touches nothing of another service or of a newer version.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use mock_collector::{Answer, Behavior, MockCollector};
use resilient_exporter::{BuildError, Builder, Clock, Refused, ResilientSpanExporter, Status, SystemClock};

use crate::log;
use crate::support::{App, PATIENCE, ended_process, eventually, http, in_processes, now, processes, quick};

/// A process that other work wakes looks for ended ones every 5 s, and has their spans 1 s later. This bound allows for
/// a busy machine, and is half of the time after which a process without other work looks.
const ADOPTED_WITHIN: Duration = Duration::from_secs(15);

fn builder(collector: &MockCollector, state: &Path) -> Builder {
    quick(ResilientSpanExporter::builder().with_primary(http(collector))).with_state_dir(state)
}

fn durable(builder: Builder) -> Builder {
    // A busy machine must not make a commit late.
    builder.with_journal_enabled(true).with_journal_sync_timeout(PATIENCE)
}

fn start(builder: Builder) -> App {
    App::new(builder.build().expect("valid"))
}

/// A state directory with two processes at the same time, one of which ends.
struct HandOver {
    name: String,
    /// The process that stays is in durable mode.
    is_durable: bool,
    scratch: tempfile::TempDir,
    ends: App,
    stays: App,
}

impl HandOver {
    /// The process that ends leaves its spans in a journal, or in files.
    fn new(collector: &MockCollector, first_ends: bool, leaves_journal: bool, adopter_is_durable: bool) -> Self {
        let scratch = tempfile::tempdir().expect("temp dir");
        let new = || builder(collector, &scratch.path().join("state"));
        let ends = || start(if leaves_journal { durable(new()).with_fallback_enabled(false) } else { new() });
        let stays = || {
            // A small buffer: some of its spans are in files, and memory has no room for those of the other one.
            let new = new().with_buffer_size(60);
            start(if adopter_is_durable { durable(new) } else { new })
        };
        let (ends, stays) = if first_ends {
            let ends = ends();
            (ends, stays())
        } else {
            let stays = stays();
            (ends(), stays)
        };
        let name = format!("first ends: {first_ends}, journal: {leaves_journal}, durable: {adopter_is_durable}");
        Self { name, is_durable: adopter_is_durable, scratch, ends, stays }
    }

    fn state(&self) -> PathBuf {
        self.scratch.path().join("state")
    }
}

/// Rolling restarts, and the hand-over of a socket with `SO_REUSEPORT`: the process that stays may have started first
/// or second, with or without durable mode.
#[test]
fn the_process_that_stays_takes_over_everything_that_the_other_leaves() {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let both = [false, true];
    let mut worlds = Vec::new();
    for first_ends in both {
        for leaves_journal in both {
            for adopter_is_durable in both {
                worlds.push(HandOver::new(&collector, first_ends, leaves_journal, adopter_is_durable));
            }
        }
    }
    for world in &mut worlds {
        world.ends.trace(40);
        for _ in 0..8 {
            world.stays.trace(10);
            let held = |ledger: resilient_exporter::Ledger| ledger.buffered + ledger.in_flight;
            world.stays.wait_until("room in memory", |handle| held(handle.ledger()) <= 50 || world.is_durable);
        }
        let has_work = world.is_durable || world.stays.handle.ledger().in_fallback > 0;
        assert!(has_work, "{}: {:?}", world.name, world.stays.handle.ledger());
        assert_eq!(processes(&world.state()).len(), 2, "{}", world.name);
    }
    for world in &worlds {
        world.ends.shutdown().unwrap_or_else(|error| panic!("{}: {error}", world.name));
    }
    let ended = now();
    for world in &worlds {
        let adopted = format!("adoption ({})", world.name);
        world.stays.wait_until(&adopted, |handle| handle.ledger().recovered == 40);
    }
    assert!(ended.elapsed() < ADOPTED_WITHIN, "the last adoption came after {:?}", ended.elapsed());
    collector.start_again().expect("the same ports");
    for HandOver { name, ends, stays, .. } in &worlds {
        stays.wait_until(name, |handle| handle.ledger().delivered == 120);
        let ledger = stays.handle.ledger();
        assert_eq!((ledger.recovered, ledger.lost(), ledger.imbalance()), (40, 0, 0), "{name}: {ledger:?}");
        assert_eq!((ends.missing(&[&collector]), stays.missing(&[&collector])), (0, 0), "{name}");
    }
    assert_eq!(collector.received().duplicates, 0);
    for world in &worlds {
        let emptied = format!("only the directory of the process that stays is left ({})", world.name);
        eventually(&emptied, || processes(&world.state()).len() == 1);
    }
}

/// A durable process whose spans are all delivered leaves neither a directory nor a journal of spent batches.
#[test]
fn a_process_that_ends_with_nothing_left_removes_its_journal_and_its_directory() {
    let collector = MockCollector::start().expect("loopback");
    let scratch = tempfile::tempdir().expect("temp dir");
    let state = scratch.path().join("state");
    let mut app = start(durable(builder(&collector, &state)));
    app.trace(40);
    app.wait_until("delivery", |handle| handle.ledger().delivered == 40);
    assert!(tree(&state).keys().any(|path| path.extension().is_some_and(|extension| extension == "seg")), "a journal");
    app.shutdown().expect("everything is delivered");
    assert!(processes(&state).is_empty(), "{:?}", tree(&state).keys());
}

/// A program that builds its exporter anew, such as for other settings: each one has the spans of all before it.
#[test]
fn an_exporter_that_is_built_again_has_the_spans_of_those_before() {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let scratch = tempfile::tempdir().expect("temp dir");
    let state = scratch.path().join("state");
    let mut before = Vec::new();
    for generation in 0..6 {
        let new = builder(&collector, &state);
        let mut app = start(if generation % 2 == 0 { durable(new) } else { new });
        let ledger = app.handle.ledger();
        assert_eq!((ledger.recovered, ledger.imbalance()), (10 * generation, 0), "{ledger:?}");
        app.trace(10);
        app.shutdown().expect("the spans are in files");
        before.push(app);
    }
    collector.start_again().expect("the same ports");
    let last = start(builder(&collector, &state));
    last.wait_until("delivery", |handle| handle.ledger().delivered == 60);
    assert_eq!(before.iter().map(|app| app.missing(&[&collector])).sum::<usize>(), 0);
    assert_eq!((collector.received().duplicates, last.handle.ledger().imbalance()), (0, 0));
}

/// The system's clocks, ahead by as many milliseconds as a test says.
#[derive(Clone, Default)]
struct Ahead(Arc<AtomicU64>);

impl Ahead {
    fn by(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }

    /// The next look for ended processes is due.
    fn pass_a_round(&self) {
        self.0.fetch_add(6_000, Ordering::Relaxed);
    }
}

impl Clock for Ahead {
    fn now(&self) -> Instant {
        SystemClock.now() + self.by()
    }

    fn wall(&self) -> SystemTime {
        SystemClock.wall() + self.by()
    }
}

/// Two processes that live find one that has ended. One of them takes it over and keeps it, while both go on looking.
#[test]
fn living_processes_do_not_pass_an_ended_one_to_and_fro() {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let scratch = tempfile::tempdir().expect("temp dir");
    let (state, clock) = (scratch.path().join("state"), Ahead::default());
    let build = || start(durable(builder(&collector, &state)).with_clock(clock.clone()));
    let (mut first, mut second) = (build(), build());
    let lives = processes(&state);
    let mut ended = start(durable(builder(&collector, &state)).with_fallback_enabled(false));
    ended.trace(20);
    // Batches wait in the journals: both processes have work.
    first.trace(5);
    second.trace(5);
    ended.shutdown().expect("in the journal");

    let recovered = |app: &App| app.handle.ledger().recovered;
    clock.pass_a_round();
    eventually("one of them takes it over", || recovered(&first) + recovered(&second) == 20);
    let names = processes(&state);
    assert_eq!(names.len(), 3, "the adopted directory stays while its batches wait: {names:?}");
    let shown = || lives.iter().map(|path| fs::metadata(path.join(".lock")).and_then(|file| file.modified()).ok());
    for _ in 0..3 {
        let before = shown().collect::<Vec<_>>();
        clock.pass_a_round();
        eventually("a round of both", || shown().zip(&before).all(|(now, before)| now != *before));
        assert_eq!(processes(&state), names);
    }
    assert_eq!(recovered(&first) + recovered(&second), 20);
    let (leaves, stays) = if recovered(&first) == 20 { (&first, &second) } else { (&second, &first) };
    leaves.shutdown().expect("everything is in files");
    clock.pass_a_round();
    // The journal of the ended process went to files as well.
    stays.wait_until("adoption of both", |handle| handle.ledger().recovered == 25);
    collector.start_again().expect("the same ports");
    stays.wait_until("delivery", |handle| handle.ledger().delivered == 30);
    for app in [&first, &second, &ended] {
        assert_eq!(app.missing(&[&collector]), 0);
    }
    assert_eq!((collector.received().duplicates, stays.handle.ledger().imbalance()), (0, 0));
}

/// The disk thread of the process that stays has no work, and no time at which it would look: the journal thread, which
/// finds the files, wakes it.
#[test]
fn the_thread_that_finds_content_wakes_the_thread_that_the_content_is_for() {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let scratch = tempfile::tempdir().expect("temp dir");
    let (state, clock) = (scratch.path().join("state"), Ahead::default());
    let mut stays = start(durable(builder(&collector, &state)).with_clock(clock.clone()));
    stays.trace(5);
    let mut ends = start(builder(&collector, &state));
    ends.trace(20);
    ends.shutdown().expect("in files");
    clock.pass_a_round();
    stays.wait_until("adoption", |handle| handle.ledger().recovered == 20);
    assert_eq!(stays.handle.ledger().in_fallback, 20);
}

#[test]
fn a_process_that_has_delivered_everything_leaves_no_directory() {
    let collector = MockCollector::start().expect("loopback");
    let scratch = tempfile::tempdir().expect("temp dir");
    for (number, is_durable) in [false, true].into_iter().enumerate() {
        let state = scratch.path().join(number.to_string());
        let new = builder(&collector, &state);
        let mut app = start(if is_durable { durable(new) } else { new });
        app.trace(20);
        app.assert_delivered(&collector);
        assert_eq!(processes(&state).len(), 1);
        app.shutdown().expect("nothing waits");
        assert!(processes(&state).is_empty(), "durable: {is_durable}: {:?}", processes(&state));
    }
}

/// More processes than the earlier layout had directories for. Half of them are in durable mode.
#[test]
fn seventy_processes_start_at_once_and_the_last_one_delivers_everything() {
    const PROCESSES: usize = 70;
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let scratch = tempfile::tempdir().expect("temp dir");
    let state = scratch.path().join("state");
    let mut apps = std::thread::scope(|scope| {
        let starts = (0..PROCESSES).map(|number| {
            let (collector, state) = (&collector, &state);
            scope.spawn(move || {
                let new = builder(collector, state);
                let mut app = start(if number % 2 == 1 { durable(new) } else { new });
                app.trace(3);
                app
            })
        });
        let starts = starts.collect::<Vec<_>>();
        starts.into_iter().map(|start| start.join().expect("no panic")).collect::<Vec<_>>()
    });
    assert_eq!(processes(&state).len(), PROCESSES);
    for app in &apps {
        assert_eq!(app.handle.health().issues.iter().find(|issue| issue.contains("memory only")), None);
    }
    let last = apps.pop().expect("70");
    std::thread::scope(|scope| {
        for app in &apps {
            scope.spawn(|| app.shutdown().expect("the spans are in files"));
        }
    });
    // Its own batch waits in its journal: it has other work.
    let recovered = 3 * (PROCESSES as u64 - 1);
    last.wait_until("adoption", |handle| handle.ledger().recovered == recovered);
    collector.start_again().expect("the same ports");
    last.wait_until("delivery", |handle| handle.ledger().delivered == recovered + 3);
    assert_eq!((collector.received().duplicates, last.handle.ledger().imbalance()), (0, 0));
    for app in apps.iter().chain([&last]) {
        assert_eq!(app.missing(&[&collector]), 0);
    }
    eventually("the directories of the ended ones are removed", || processes(&state).len() == 1);
}

#[test]
fn dead_letters_of_a_process_that_has_ended_are_listed_by_another() {
    let collector = MockCollector::start().expect("loopback");
    let scratch = tempfile::tempdir().expect("temp dir");
    let (state, clock) = (scratch.path().join("state"), Ahead::default());
    let build = || start(builder(&collector, &state).with_refused(Refused::DeadLetter).with_clock(clock.clone()));
    let refuse = |app: &mut App, spans| {
        collector.set(Behavior::answer(Answer::http(400).with_message("no such tenant")));
        app.trace(spans);
        app.wait_until("a dead letter", |handle| handle.ledger().dead_lettered > 0);
    };
    let ids = |app: &App| app.handle.dead_letter_ids().expect("there is a disk");
    let mut oldest = build();
    refuse(&mut oldest, 4);
    // One that started earlier lists letters of one that started later, and the other way round.
    let mut later = build();
    refuse(&mut later, 5);
    later.shutdown().expect("nothing waits");
    clock.pass_a_round();
    eventually("the letter of the ended process", || ids(&oldest).len() == 2);
    let before = ids(&oldest);
    oldest.shutdown().expect("nothing waits");
    let newest = build();
    assert_eq!(ids(&newest), before, "at the start, under the same names");
    collector.set(Behavior::accept());
    let report = newest.handle.redrive_all();
    assert_eq!((report.letters, report.spans, report.left), (2, 9, 0), "{report:?}");
    newest.wait_until("delivery", |handle| handle.ledger().delivered == 9);
    assert_eq!((oldest.missing(&[&collector]), later.missing(&[&collector])), (0, 0));
    assert_eq!(in_processes(&state, "dead-letters").len(), 1, "{:?}", processes(&state));
}

/// The bytes of each file in a directory, and the directories themselves.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.append(&mut tree(&path));
            found.insert(path, None);
        } else {
            let bytes = fs::read(&path).expect("readable");
            found.insert(path, Some(bytes));
        }
    }
    found
}

/// The exporter works in memory only, says why in health, and changes nothing in the directory. Where storage is
/// required it is not built.
#[track_caller]
fn assert_left_alone(state: &Path, new: impl Fn(&MockCollector) -> Builder, cause: &str) {
    let collector = MockCollector::start().expect("loopback");
    let before = tree(state);
    for new in [&new as &dyn Fn(&MockCollector) -> Builder, &|collector| durable(new(collector))] {
        let mut app = start(new(&collector));
        app.trace(10);
        app.assert_delivered(&collector);
        let health = app.handle.health();
        assert_eq!((health.status, health.ledger.recovered), (Status::Degraded, 0), "{health:?}");
        let names_it = |issue: &&String| issue.contains("memory only") && issue.contains(cause);
        assert_eq!(health.issues.iter().filter(names_it).count(), 1, "{:?}", health.issues);
        app.shutdown().expect("nothing waits");
        let refused = new(&collector).with_state_dir_required(true).build().expect_err("required");
        let BuildError::StateDir { path, error } = &refused else { panic!("{refused:?}") };
        assert!(path == state && error.to_string().contains(cause), "{error}");
    }
    assert_eq!(collector.received().unique, 20, "its own spans alone");
    assert_eq!(tree(state), before);
}

#[test]
fn the_directory_of_another_service_is_left_alone() {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let scratch = tempfile::tempdir().expect("temp dir");
    let state = scratch.path().join("state");
    let shop = || builder(&collector, &state).with_state_service("shop");
    let (mut ended, mut lives) = (start(shop()), start(durable(shop()).with_fallback_enabled(false)));
    ended.trace(30);
    lives.trace(7);
    ended.shutdown().expect("in files");
    lives.shutdown().expect("in the journal");
    let bank = |collector: &MockCollector| builder(collector, &state).with_state_service("bank");
    assert_left_alone(&state, bank, "belongs to the service \"shop\", not to \"bank\"");
    collector.start_again().expect("the same ports");
    let next = start(shop());
    next.wait_until("delivery", |handle| handle.ledger().delivered == 37);
    assert_eq!((ended.missing(&[&collector]), lives.missing(&[&collector])), (0, 0));
}

#[test]
fn the_directory_of_a_newer_version_is_left_alone() {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let scratch = tempfile::tempdir().expect("temp dir");
    let state = scratch.path().join("state");
    let mut ended = start(builder(&collector, &state));
    ended.trace(30);
    ended.shutdown().expect("in files");
    fs::write(state.join("layout"), "holdfast-state 3 shop in a form of the future\n").expect("ours");
    let new = |collector: &MockCollector| builder(collector, &state).with_state_service("shop");
    assert_left_alone(&state, new, "layout 3 of a newer version");
}

#[test]
fn an_unreadable_layout_is_written_anew_and_the_spans_are_delivered() {
    for text in ["", "holdfast-state 2 sh", "\0\0\0\0\0\0\0\0", "a note of an operator\n"] {
        let collector = MockCollector::start().expect("loopback");
        collector.stop();
        let scratch = tempfile::tempdir().expect("temp dir");
        let state = scratch.path().join("state");
        let new = || builder(&collector, &state).with_state_service("shop");
        let mut ended = start(new());
        ended.trace(30);
        ended.shutdown().expect("in files");
        let layout = state.join("layout");
        let before = fs::read(&layout).expect("written at the start");
        fs::write(&layout, text).expect("ours");
        collector.start_again().expect("the same ports");
        let next = start(new());
        next.wait_until("delivery", |handle| handle.ledger().delivered == 30);
        assert_eq!((ended.missing(&[&collector]), fs::read(&layout).expect("there")), (0, before));
        let lines = log::warnings_about(scratch.path().to_str().expect("UTF-8"));
        let about_layout = lines.iter().filter(|line| line.contains("\"layout\"")).count();
        assert_eq!(about_layout, 1, "{text:?}: {lines:?}");
    }
}

/// A file system can bring such entries back after a fault, and an operator can make them.
#[test]
fn a_directory_of_an_ended_process_without_a_lock_or_with_foreign_content_is_taken_over() {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let scratch = tempfile::tempdir().expect("temp dir");
    let state = scratch.path().join("state");
    let mut ended = start(builder(&collector, &state));
    ended.trace(30);
    ended.shutdown().expect("in files");
    let [left] = &processes(&state)[..] else { panic!("one process") };
    fs::remove_file(left.join(".lock")).expect("there");
    fs::write(left.join("notes.txt"), "of an operator").expect("ours");
    fs::create_dir(left.join("more")).expect("ours");
    fs::rename(left, ended_process(&state)).expect("ours");
    collector.start_again().expect("the same ports");
    let next = start(builder(&collector, &state));
    next.wait_until("delivery", |handle| handle.ledger().delivered == 30);
    assert_eq!(ended.missing(&[&collector]), 0);
    let [notes] = &in_processes(&state, "notes.txt")[..] else { panic!("{:?}", tree(&state)) };
    assert_eq!(fs::read(notes).expect("there"), b"of an operator");
}

/// Clocks that stand still.
struct Still(Instant);

impl Clock for Still {
    fn now(&self) -> Instant {
        self.0
    }

    fn wall(&self) -> SystemTime {
        SystemClock.wall()
    }
}

/// A clean-up each second moved 256 files: the spans of an ended process with 10,000 files took most of a minute.
#[test]
fn thousands_of_files_are_taken_over_in_one_go() {
    const FILES: u64 = 2_000;
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let scratch = tempfile::tempdir().expect("temp dir");
    let state = scratch.path().join("state");
    let files = ended_process(&state).join("fallback");
    fs::create_dir_all(&files).expect("made");
    for number in 1..=FILES {
        // Only their names are read here.
        fs::write(files.join(format!("traces-20260208T000000.000Z-{number:08}-n1.jsonl")), "\n").expect("written");
    }
    let builder = builder(&collector, &state).with_fallback_max_age(Duration::from_secs(100 * 365 * 24 * 3_600));
    let exporter = builder.with_clock(Still(now())).build().expect("valid");
    assert_eq!(exporter.handle().ledger().recovered, FILES, "{:?}", in_processes(&state, "fallback"));
}

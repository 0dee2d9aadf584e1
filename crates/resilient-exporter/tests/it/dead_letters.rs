//! Dead letters are listed, read, redriven and removed.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use file_fallback::Record;
use file_fallback::dead_letters::{DeadLetters, Letter};
use mock_collector::{Answer, Behavior, MockCollector};
use resilient_exporter::{
    Builder, Clock as _, Compression, DeadLetterError, DeadLetterFilter, Event, FallbackFormat, Refused,
    ResilientSpanExporter, SystemClock,
};

use crate::support::{App, PATIENCE, ended_process, http, only_process, quick};

/// An exporter of which each refused batch is a dead letter at once.
fn strict(collector: &MockCollector) -> Builder {
    quick(ResilientSpanExporter::builder().with_primary(http(collector))).with_refused(Refused::DeadLetter)
}

/// Exports a batch of each of these sizes; the collector refuses each for good.
fn refuse(app: &mut App, collector: &MockCollector, batches: &[usize]) {
    collector.set(Behavior::answer(Answer::http(400).with_message("no such tenant")));
    for spans in batches {
        let before = app.handle.ledger().dead_lettered;
        app.trace(*spans);
        app.wait_until("dead letters", |handle| handle.ledger().dead_lettered == before + *spans as u64);
    }
}

#[test]
fn letters_are_listed_inspected_and_delivered_once_the_collector_is_repaired() {
    for format in [FallbackFormat::Json, FallbackFormat::Protobuf] {
        let collector = MockCollector::start().expect("loopback");
        let state = tempfile::tempdir().expect("temp dir");
        let builder = strict(&collector);
        let builder = builder.with_state_dir(state.path().join("state")).with_fallback_format(format);
        let mut app = App::new(builder.build().expect("valid"));
        assert_eq!(app.handle.dead_letters(10).expect("there is a disk"), []);
        refuse(&mut app, &collector, &[7, 40, 300]);

        let listed = app.handle.dead_letters(2).expect("there are three");
        assert_eq!(listed.iter().map(|letter| letter.spans).collect::<Vec<_>>(), [300, 40], "the newest first");
        let letter = &listed[1];
        assert_eq!((letter.signal.as_str(), letter.status.as_str(), letter.attempts), ("traces", "HTTP 400", 1));
        assert!(letter.reason.contains("no such tenant"), "{letter:?}");
        assert_eq!(letter.endpoint, app.handle.health().endpoint);
        assert!(letter.accepted <= letter.refused && letter.bytes > 1_000, "{letter:?}");
        let json = serde_json::to_value(letter).expect("serializes");
        assert_eq!((json["spans"].as_u64(), json["id"].as_str()), (Some(40), Some(letter.id.as_str())));
        assert!(json["refused"].as_str().is_some_and(|time| time.ends_with('Z')), "{json}");

        let (inspected, lines) = app.handle.dead_letter(&letter.id).expect("it was listed");
        assert_eq!(&inspected, letter);
        let spans = lines.iter().map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            line["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().expect("spans").len()
        });
        assert_eq!(spans.sum::<usize>(), 40);
        assert_eq!(collector.received().unique, 0);

        collector.set(Behavior::accept());
        let events = app.handle.subscribe();
        let report = app.handle.redrive_all();
        assert_eq!((report.letters, report.spans, report.failed.len(), report.left), (3, 347, 0, 0), "{report:?}");
        app.handle.settled(PATIENCE).expect("delivered");
        assert_eq!(app.missing(&[&collector]), 0);
        assert_eq!(collector.received().duplicates, 0);
        let ledger = app.handle.ledger();
        assert_eq!((ledger.redriven, ledger.dead_lettered, ledger.delivered), (347, 347, 347), "{ledger:?}");
        assert_eq!((ledger.imbalance(), ledger.lost()), (0, 0));
        assert_eq!(app.handle.dead_letter_ids().expect("there is a disk"), Vec::<String>::new());
        let published = events.try_iter().filter(|event| matches!(event, Event::Redriven { .. })).count();
        assert_eq!(published, 3);
    }
}

#[test]
fn a_redriven_letter_that_is_refused_again_becomes_a_new_letter() {
    let collector = MockCollector::start().expect("loopback");
    let state = tempfile::tempdir().expect("temp dir");
    let builder = strict(&collector);
    let mut app = App::new(builder.with_state_dir(state.path().join("state")).build().expect("valid"));
    refuse(&mut app, &collector, &[9]);
    let first = app.handle.dead_letter_ids().expect("there is a disk");
    let report = app.handle.redrive_all();
    assert_eq!((report.letters, report.spans), (1, 9), "{report:?}");
    app.wait_until("the same answer", |handle| handle.ledger().dead_lettered == 18);
    let ledger = app.handle.ledger();
    assert_eq!((ledger.redriven, ledger.in_fallback, ledger.imbalance()), (9, 0, 0), "{ledger:?}");
    let second = app.handle.dead_letter_ids().expect("there is a disk");
    assert_eq!(second.len(), 1);
    assert_ne!(first, second);
    collector.set(Behavior::accept());
    assert_eq!(app.handle.redrive(&second[0]).expect("there is room"), 9);
    app.handle.settled(PATIENCE).expect("delivered");
    assert_eq!(app.missing(&[&collector]), 0);
}

#[test]
fn a_letter_for_which_there_is_no_room_stays_and_no_stored_span_is_dropped_for_it() {
    let collector = MockCollector::start().expect("loopback");
    let state = tempfile::tempdir().expect("temp dir");
    let build = || {
        let builder = strict(&collector);
        let builder = builder.with_state_dir(state.path().join("state")).with_fallback_max_bytes(60_000);
        App::new(builder.with_fallback_compression(Compression::Never).build().expect("valid"))
    };
    let mut first = build();
    refuse(&mut first, &collector, &[80, 90]);
    collector.stop();
    first.trace(200);
    first.shutdown().expect("in a file");
    let app = build();
    let report = app.handle.redrive_all();
    assert_eq!((report.letters, report.left, report.failed.len()), (0, 1, 1), "{report:?}");
    let (id, error) = &report.failed[0];
    assert!(matches!(error, DeadLetterError::NoRoom(_)), "{error:?}");
    assert!(error.to_string().contains("raise max_bytes"), "{error}");
    let ledger = app.handle.ledger();
    assert_eq!((ledger.in_fallback, ledger.lost(), ledger.imbalance()), (200, 0, 0), "{ledger:?}");
    assert!(app.handle.dead_letter_ids().expect("there is a disk").contains(id));
    // The stored spans are delivered, which makes room for a letter.
    collector.set(Behavior::accept());
    collector.start_again().expect("the same ports");
    app.handle.settled(PATIENCE).expect("delivered");
    let rest = app.handle.redrive_all();
    assert!(rest.letters >= 1, "{rest:?}");
    app.handle.settled(PATIENCE).expect("delivered");
    // The limit may not have had room for both letters at once.
    let last = app.handle.redrive_all();
    assert_eq!((last.failed.len(), rest.letters + last.letters), (0, 2), "{last:?}");
    app.handle.settled(PATIENCE).expect("delivered");
    assert_eq!((first.missing(&[&collector]), collector.received().duplicates), (0, 0));
}

/// The process is killed after it has stored the letter's spans and before it has removed the letter.
#[test]
fn a_crash_during_a_redrive_sends_spans_twice_and_loses_none() {
    let collector = MockCollector::start().expect("loopback");
    let state = tempfile::tempdir().expect("temp dir");
    let state = state.path().join("state");
    let build = || {
        let builder = strict(&collector);
        App::new(builder.with_state_dir(&state).build().expect("valid"))
    };
    let mut first = build();
    refuse(&mut first, &collector, &[9, 12]);
    collector.stop();
    let ids = first.handle.dead_letter_ids().expect("there is a disk");
    let letter = only_process(&state).join("dead-letters").join(&ids[0]);
    let bytes = fs::read(&letter).expect("it was listed");
    assert_eq!(first.handle.redrive(&ids[0]).expect("there is room"), 9);
    assert!(!letter.exists());
    first.shutdown().expect("in a file");
    fs::write(&letter, bytes).expect("as if it had not been removed");

    let second = build();
    assert_eq!(second.handle.ledger().recovered, 9);
    assert_eq!(second.handle.dead_letter_ids().expect("there is a disk"), ids);
    collector.set(Behavior::accept());
    collector.start_again().expect("the same ports");
    let report = second.handle.redrive_all();
    assert_eq!((report.letters, report.spans), (2, 21), "{report:?}");
    second.handle.settled(PATIENCE).expect("delivered");
    let received = collector.received();
    assert_eq!((first.missing(&[&collector]), received.unique, received.duplicates), (0, 21, 9));
    let ledger = second.handle.ledger();
    assert_eq!((ledger.redriven, ledger.delivered, ledger.imbalance()), (21, 30, 0), "{ledger:?}");
}

#[test]
fn errors_name_a_letter_that_is_removed_or_damaged_or_unknown() {
    let collector = MockCollector::start().expect("loopback");
    let state = tempfile::tempdir().expect("temp dir");
    let state = state.path().join("state");
    let builder = strict(&collector);
    let mut app = App::new(builder.with_state_dir(&state).build().expect("valid"));
    refuse(&mut app, &collector, &[3, 4, 5, 6]);
    let ids = app.handle.dead_letter_ids().expect("there is a disk");
    let letters = only_process(&state).join("dead-letters");
    let path = |id: &str| letters.join(id);

    assert_eq!(app.handle.remove_dead_letter(&ids[0]).expect("it was listed"), 3);
    assert!(!path(&ids[0]).exists());
    let far = "x".repeat(10_000);
    for id in [ids[0].as_str(), "", "../fallback/.lock", &far] {
        for error in [
            app.handle.remove_dead_letter(id).expect_err("unknown"),
            app.handle.dead_letter(id).map(drop).expect_err("unknown"),
            app.handle.redrive(id).expect_err("unknown"),
        ] {
            assert!(matches!(error, DeadLetterError::Unknown { .. }) && error.to_string().len() < 200, "{error}");
        }
    }

    // One letter loses its header, one its spans.
    fs::write(path(&ids[1]), "{}\n").expect("written");
    let text = fs::read_to_string(path(&ids[2])).expect("it was listed");
    fs::write(path(&ids[2]), text.replace("traceId", "trace")).expect("written");
    let listed = app.handle.dead_letters(10).expect("there is a disk");
    assert_eq!(listed.iter().map(|letter| letter.spans).collect::<Vec<_>>(), [6, 5]);
    assert!(letters.join("quarantine").join(&ids[1]).exists());
    fs::write(path(&ids[2]), text.lines().next().expect("a header").to_owned() + "\nno JSON\n").expect("written");
    collector.set(Behavior::accept());
    let report = app.handle.redrive_all();
    assert_eq!((report.letters, report.spans, report.left), (1, 6, 0), "{report:?}");
    let [(id, DeadLetterError::Damaged { .. })] = &report.failed[..] else { panic!("{report:?}") };
    assert_eq!(id, &ids[2]);
    app.handle.settled(PATIENCE).expect("delivered");
    assert_eq!(collector.received().unique, 6);

    app.shutdown().expect("nothing waits");
    let error = app.handle.dead_letters(1).expect_err("the exporter has ended");
    assert!(matches!(error, DeadLetterError::Unavailable), "{error}");
}

/// Two threads redrive all letters while live spans are exported: each span arrives once.
#[test]
fn letters_are_redriven_beside_live_spans() {
    let collector = MockCollector::start().expect("loopback");
    let state = tempfile::tempdir().expect("temp dir");
    let builder = strict(&collector);
    let mut app = App::new(builder.with_state_dir(state.path().join("state")).build().expect("valid"));
    refuse(&mut app, &collector, &[50; 8]);
    collector.set(Behavior::accept());
    let handle = app.handle.clone();
    let threads = [(); 2].map(|()| {
        let handle = handle.clone();
        std::thread::spawn(move || handle.redrive_all())
    });
    for _ in 0..10 {
        app.trace(100);
    }
    let reports = threads.map(|thread| thread.join().expect("no panic"));
    assert_eq!(reports.iter().map(|report| report.spans).sum::<u64>(), 400, "{reports:?}");
    assert!(reports.iter().all(|report| report.failed.is_empty()), "{reports:?}");
    app.handle.settled(PATIENCE).expect("delivered");
    assert_eq!((app.missing(&[&collector]), collector.received().duplicates), (0, 0));
    let ids = app.handle.dead_letter_ids().expect("there is a disk").into_iter().collect::<HashSet<_>>();
    assert_eq!(ids.len(), 0);
    assert_eq!(app.handle.ledger().imbalance(), 0);
}

#[test]
fn without_a_fallback_there_are_no_letters() {
    let collector = MockCollector::start().expect("loopback");
    let builder = ResilientSpanExporter::builder().with_primary(http(&collector)).with_fallback_enabled(false);
    let app = App::new(builder.build().expect("valid"));
    assert!(matches!(app.handle.dead_letters(1), Err(DeadLetterError::Unavailable)));
    assert!(matches!(app.handle.redrive_all().failed[..], [(_, DeadLetterError::Unavailable)]));
}

#[test]
fn letters_that_their_limit_removes_are_counted_beside_the_ledger() {
    let collector = MockCollector::start().expect("loopback");
    let state = tempfile::tempdir().expect("temp dir");
    let builder = strict(&collector);
    let builder = builder.with_state_dir(state.path().join("state")).with_dead_letter_max_bytes(30_000);
    let mut app = App::new(builder.build().expect("valid"));
    refuse(&mut app, &collector, &[50, 51, 52, 53]);
    let stored = app.handle.dead_letters(9).expect("there is a disk").iter().map(|letter| letter.spans).sum::<u64>();
    assert!((53..206).contains(&stored), "{stored}");
    app.wait_until("the count of removed spans", |handle| handle.health().dead_letters_evicted == 206 - stored);
    let ledger = app.handle.ledger();
    assert_eq!((ledger.dead_lettered, ledger.lost(), ledger.imbalance()), (206, 0, 0), "{ledger:?}");
}

/// Three causes and two endpoints: the letters of one of them are redriven once it is repaired, the others stay.
#[test]
fn letters_of_one_cause_are_redriven_and_the_others_stay() {
    let collector = MockCollector::start().expect("loopback");
    let state = tempfile::tempdir().expect("temp dir");
    let dir = ended_process(&state.path().join("state")).join("dead-letters");
    let now = SystemClock.wall();
    let mut letters = DeadLetters::open(DeadLetters::config(&dir).build().expect("valid")).expect("a new directory");
    let mut ids = Vec::new();
    for (index, (status, reason, endpoint)) in [
        ("HTTP 400", "HTTP status 400: No Such Tenant \"a\"", "first"),
        ("HTTP 400", "HTTP status 400: span name is empty", "first"),
        ("gRPC 3", "gRPC status 3: no such tenant", "second"),
        ("HTTP 400", "HTTP status 400: no such tenant", "second"),
        ("none", "connection reset", "second"),
    ]
    .into_iter()
    .enumerate()
    {
        let [status, reason, endpoint] = [status, reason, endpoint].map(str::to_owned);
        let letter =
            Letter { signal: "traces".into(), status, reason, endpoint, attempts: 1, accepted: now, refused: now };
        // Letter 0 has one span, letter 1 two of them, and so on.
        let records = (0..=index).map(|span| {
            let id = format!("{:016x}", 1 + 16 * index + span);
            let text = format!(
                r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{"traceId":"{id}{id}","spanId":"{id}","name":"s"}}]}}]}}]}}"#
            );
            Record { bytes: text.into_bytes(), count: 1 }
        });
        ids.push(letters.add(&letter, &records.collect::<Vec<_>>(), now).expect("room").name);
    }
    drop(letters);

    let builder = strict(&collector);
    let app = App::new(builder.with_state_dir(state.path().join("state")).build().expect("valid"));
    let redrive = |filter: DeadLetterFilter| {
        let report = app.handle.redrive_matching(&filter);
        assert_eq!((report.failed.len(), report.left), (0, 0), "{report:?}");
        (report.letters, report.spans)
    };
    let filter = DeadLetterFilter::default;
    assert_eq!(redrive(filter().with_status("HTTP 40")), (0, 0), "the whole status");
    assert_eq!(redrive(filter().with_reason("no such tenant").with_endpoint("third")), (0, 0));
    assert_eq!(redrive(filter().with_status("http 400").with_reason("no such tenant")), (2, 1 + 4));
    let left = [&ids[1], &ids[2], &ids[4]].map(String::clone);
    assert_eq!(app.handle.dead_letter_ids().expect("there is a disk"), left);
    assert_eq!(redrive(filter().with_endpoint("second").with_status("none")), (1, 5));

    // A letter whose description is damaged is reported, and holds up none of the others.
    let path = only_process(&state.path().join("state")).join("dead-letters").join(&ids[1]);
    fs::write(&path, fs::read_to_string(&path).expect("text").replacen('{', "<", 1)).expect("written");
    let report = app.handle.redrive_matching(&filter().with_reason("TENANT"));
    assert_eq!((report.letters, report.spans, report.failed.len()), (1, 3, 1), "{report:?}");
    assert!(matches!(&report.failed[0], (id, DeadLetterError::Damaged { .. }) if *id == ids[1]), "{report:?}");
    app.handle.settled(PATIENCE).expect("delivered");
    let received = collector.received();
    assert_eq!((received.unique, received.duplicates), (1 + 4 + 5 + 3, 0));
    assert_eq!((app.handle.ledger().redriven, app.handle.ledger().imbalance()), (13, 0));
}

#[test]
fn health_names_the_collector_and_the_storage_with_its_limits() {
    let collector = MockCollector::start().expect("loopback");
    let state = tempfile::tempdir().expect("temp dir");
    let builder = strict(&collector).with_state_dir(state.path().join("state"));
    let builder = builder.dead_letter(|letters| letters.max_bytes = 1 << 20).circuit_breaker(|breaker| {
        (breaker.failure_threshold, breaker.recovery_timeout) = (1, Duration::from_secs(600));
    });
    let mut app = App::new(builder.build().expect("valid"));
    refuse(&mut app, &collector, &[7]);
    app.wait_until("a counted letter", |handle| handle.health().storage.dead_letters.is_some_and(|it| it.files == 1));
    let health = app.handle.health();
    let letters = health.storage.dead_letters.expect("there is a fallback");
    assert_eq!((letters.spans, letters.max_bytes), (7, 1 << 20));
    assert!(letters.bytes > 0 && health.storage.fallback.is_some_and(|files| files.max_bytes == 1 << 30), "{health:?}");
    assert_eq!(health.storage.journal, None);
    let [one] = health.collectors.as_slice() else { panic!("{health:?}") };
    assert_eq!((&one.endpoint, one.next_attempt), (&health.endpoint, None));

    collector.stop();
    app.trace(3);
    app.wait_until("an open breaker", |handle| handle.health().metrics.circuit_breaker_trips == 1);
    let health = app.handle.health();
    let one = &health.collectors[0];
    assert_eq!((one.breaker.to_string().as_str(), one.pause_until), ("open", None));
    let next = one.next_attempt.expect("the breaker lets a probe out").duration_since(SystemClock.wall());
    assert!(next.is_ok_and(|time| time > Duration::from_secs(500)), "{health:?}");
}

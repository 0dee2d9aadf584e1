//! Content of ended processes on its way to the stores of this one.

use super::*;

#[test]
fn a_process_without_durable_mode_takes_journals_from_the_state_directory_too() {
    let (state, files, clock) = (Disk::new(), Disk::new(), Clocks::new());
    let before = home(&state, 1);
    let mut durable = journal(&before, &clock);
    durable.append(&batch(1, 3)).expect("room");
    durable.sync().expect("durable");
    drop((durable, before));
    let (state_home, files_home) = (home(&state, 2), home(&files, 2));
    let mut store = store(&files_home, &state_home, &clock);
    let ReadBack::Group(batches) = store.read(Order::FewestFailures, 1 << 20).expect("readable") else {
        panic!("a batch")
    };
    assert_eq!(batches.iter().map(|batch| batch.spans).sum::<usize>(), 3);
    for _ in 0..3 {
        clock.pass(ROUND_EVERY);
        store.clean_up(clock.wall());
    }
    assert_eq!(names(&state), ["0000000000000002"]);
}

#[test]
fn a_process_without_durable_mode_counts_the_spans_of_a_segment_that_another_program_removes() {
    let (disk, clock) = (Disk::new(), Clocks::new());
    let before = home(&disk, 1);
    let mut durable = journal(&before, &clock);
    for seq in 0..60 {
        durable.append(&batch(seq, 40)).expect("room");
    }
    durable.sync().expect("durable");
    let own = home(&disk, 2);
    let mut store = store(&own, &own, &clock);
    drop((durable, before));
    // The journal is opened, and none of its batches becomes a file.
    disk.set_capacity(Some(0));
    let mut clean_up = || {
        clock.pass(ROUND_EVERY);
        store.clean_up(clock.wall());
        (store.usage().spans, store.changes())
    };
    assert_eq!(clean_up(), (0, vec![]));
    let ended = disk.root().existing_subdirectory("0000000000000002+1").expect("ours").expect("adopted");
    let journal = ended.existing_subdirectory("journal").expect("ours").expect("there");
    let segments = journal.list().expect("readable").into_iter().filter_map(|entry| entry.name.into_string().ok());
    let first = segments.filter(|name| name.starts_with("journal-")).min().expect("a segment");
    journal.remove(&first).expect("there");
    disk.set_capacity(None);
    let (mut recovered, mut dropped, mut stored) = (0, 0, 0);
    for _ in 0..4 {
        let (spans, changes) = clean_up();
        stored = spans;
        for change in changes {
            match change {
                Change::Recovered { spans } => recovered += spans,
                Change::Dropped { spans, reason: DropReason::Vanished } => dropped += spans,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!((recovered, stored + dropped), (60 * 40, 60 * 40));
    assert!(dropped > 0 && stored > 0, "{dropped} of them were in the segment");
    assert_eq!(names(&disk), ["0000000000000002"]);
}

#[test]
fn a_process_without_durable_mode_keeps_damaged_segments_of_a_journal() {
    let (disk, clock) = (Disk::new(), Clocks::new());
    let before = home(&disk, 1);
    let mut durable = journal(&before, &clock);
    for seq in 0..4 {
        durable.append(&batch(seq, 3)).expect("room");
    }
    durable.sync().expect("durable");
    drop((durable, before));
    let dir = disk.root().existing_subdirectory("0000000000000001").expect("ours").expect("there");
    let segments = dir.existing_subdirectory("journal").expect("ours").expect("there").list().expect("readable");
    let segment = segments.into_iter().filter_map(|entry| entry.name.into_string().ok());
    let segment = segment.filter(|name| name.starts_with("journal-")).min().expect("a segment");
    assert!(disk.tamper(&format!("0000000000000001/journal/{segment}"), |bytes| bytes[300] ^= 1));
    let own = home(&disk, 2);
    let mut store = store(&own, &own, &clock);
    let (mut recovered, mut dropped) = (0, 0);
    for _ in 0..3 {
        for change in store.changes() {
            match change {
                Change::Recovered { spans } => recovered += spans,
                Change::Dropped { spans, reason: DropReason::Corrupt } => dropped += spans,
                other => panic!("{other:?}"),
            }
        }
        clock.pass(ROUND_EVERY);
        store.clean_up(clock.wall());
    }
    // Those of the files are in the first usage of the store.
    assert_eq!((recovered, dropped, store.usage().spans), (3, 3, 9));
    assert_eq!(names(&disk), ["0000000000000002"], "the directory of the ended process is removed");
    let journal = own.own(Part::Journal).expect("ours").0;
    let kept = journal.existing_subdirectory("quarantine").expect("ours").expect("there").list().expect("readable");
    assert_eq!(kept.len(), 1);
}

#[test]
fn of_damaged_segments_of_many_ended_processes_the_last_hundred_stay() {
    let (disk, clock) = (Disk::new(), Clocks::new());
    for process in 0x100..0x100 + 104 {
        let shared = SharedDir::claim(disk.root(), machine(0), process).expect("room");
        let journal = shared.own().subdirectory("journal").expect("room").subdirectory("quarantine").expect("room");
        publish(&journal, &format!("journal-{process}"), |file| file.write_all(b"x")).expect("room");
    }
    let own = home(&disk, 2);
    let mut durable = journal(&own, &clock);
    for _ in 0..8 {
        clock.pass(ROUND_EVERY);
        durable.maintain(&mut |_| Ok(false)).expect("a well disk");
    }
    assert_eq!(names(&disk), ["0000000000000002"]);
    let journal = own.own(Part::Journal).expect("ours").0;
    let kept = journal.existing_subdirectory("quarantine").expect("ours").expect("there").list().expect("readable");
    assert_eq!(kept.len(), 100);
}

/// The directory of the files, or the one of all others, was not set before: another one held all.
#[test]
fn content_of_a_process_with_other_settings_of_the_directories_moves_here() {
    for (was_durable, is_durable, had_state) in
        [(false, false, true), (false, false, false), (true, true, false), (true, true, true), (true, false, false)]
    {
        let (disk, other, clock) = (Disk::new(), Disk::new(), Clocks::new());
        let before = home(&disk, 1);
        let durable = was_durable.then(|| {
            let mut durable = journal(&before, &clock);
            durable.append(&batch(1, 5)).expect("room");
            durable.append(&batch(2, 3)).expect("room");
            durable
        });
        let mut first = store(&before, &before, &clock);
        let stored = first.store(&[batch(2, 3)], clock.wall()).expect("room");
        // The process dies before it marks the batch that is in the file.
        let durable = durable.map(|mut durable| {
            durable.announce(&stored.name, &[batch(2, 3).id()]).expect("room");
            durable.sync().expect("durable");
            durable
        });
        assert_eq!(first.store_dead_letters(&[refusal(&batch(3, 2))], "endpoint", clock.wall()), Some(1));
        drop((durable, first, before));

        let (own, new) = (home(&disk, 2), home(&other, 2));
        let (state, files) = if had_state { (own, new) } else { (new, own) };
        let mut durable = is_durable.then(|| journal(&state, &clock));
        let journal = durable.as_ref().map(|_| Arc::clone(&state));
        let place = Place { files, letters: state, journal, clock: Arc::clone(&clock) as _ };
        let mut store = FileStore::open(place, &Files::default(), &DeadLetters::default(), 0).expect("room");
        for _ in 0..4 {
            clock.pass(ROUND_EVERY);
            store.clean_up(clock.wall());
        }
        let in_journal = durable.as_mut().map_or(0, |durable| durable.found());
        let all = if was_durable { 8 } else { 3 };
        let case = format!("{was_durable} {is_durable} {had_state}");
        assert_eq!(store.usage().spans + in_journal, all, "{case}");
        assert_eq!(store.dead_letter_ids().expect("a well disk").len(), 1, "{case}");
        if in_journal == 0 {
            assert_eq!(names(&disk), ["0000000000000002"], "{case}");
        }
    }
}

/// The directory of the state vanishes, the one of the files does not.
#[test]
fn a_state_directory_that_vanishes_takes_no_content_of_the_other_one_along() {
    let (state, files, clock) = (Disk::new(), Disk::new(), Clocks::new());
    let before = home(&files, 1);
    let mut durable = journal(&before, &clock);
    durable.append(&batch(1, 5)).expect("room");
    durable.sync().expect("durable");
    drop((durable, before));
    // The journal is opened, and its batch becomes no file.
    files.set_capacity(Some(0));
    let (state_home, files_home) = (home(&state, 2), home(&files, 2));
    let mut store = store(&files_home, &state_home, &clock);
    assert!(state.remove_tree("0000000000000002"));
    for _ in 0..3 {
        clock.pass(ROUND_EVERY);
        store.clean_up(clock.wall());
        files.set_capacity(None);
    }
    assert_eq!(store.usage().spans, 5);
    assert_eq!(names(&state), ["0000000000000003"]);
}

/// Two processes write files in the same millisecond. One is killed between the announcement of its file and the file.
#[test]
fn a_file_of_another_process_is_not_the_one_that_was_announced() {
    let (disk, clock) = (Disk::new(), Clocks::new());
    let (dying, own) = (home(&disk, 1), home(&disk, 2));
    let mut journal_of_dead = journal(&dying, &clock);
    journal_of_dead.append(&batch(1, 3)).expect("room");
    let mut durable = journal(&own, &clock);
    let file_store = |home: &Arc<Home<MemoryDir>>| {
        let (files, letters, journal) = (Arc::clone(home), Arc::clone(home), Some(Arc::clone(home)));
        let place = Place { files, letters, journal, clock: Arc::clone(&clock) as _ };
        FileStore::open(place, &Files::default(), &DeadLetters::default(), 0).expect("room")
    };
    let (mut files, mut files_of_dead) = (file_store(&own), file_store(&dying));
    let announced = files_of_dead.store(&[batch(1, 3)], clock.wall()).expect("room").name;
    disk.root()
        .existing_subdirectory("0000000000000001")
        .expect("ours")
        .expect("there")
        .existing_subdirectory("fallback")
        .expect("ours")
        .expect("there")
        .remove(&announced)
        .expect("there");
    journal_of_dead.announce(&announced, &[batch(1, 3).id()]).expect("room");
    journal_of_dead.sync().expect("durable");
    files.store(&[batch(2, 3)], clock.wall()).expect("room");
    drop((files_of_dead, journal_of_dead, dying));
    clock.pass(ROUND_EVERY);
    durable.maintain(&mut |_| Ok(false)).expect("a well disk");
    assert_eq!(durable.found(), 3, "the batch is in no file");
}

#[test]
fn a_process_that_stores_letters_alone_shows_other_machines_that_it_is_alive() {
    let (disk, clock) = (Disk::new(), Clocks::new());
    disk.set_reach(Reach::NetworkWithLocalLocks);
    let mut seconds = 1_000;
    let mut pass = |time: Duration| {
        seconds += time.as_secs();
        disk.set_now(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        clock.pass(time);
    };
    pass(Duration::ZERO);
    let own = home_on(&disk, 0, 1);
    let mut store = store(&own, &own, &clock);
    assert_eq!(store.next_clean_up(), None, "it sleeps");
    pass(Duration::from_secs(3_600));
    assert_eq!(store.store_dead_letters(&[refusal(&batch(1, 2))], "endpoint", clock.wall()), Some(1));
    let other = home_on(&disk, 1, 2);
    for _ in 0..6 {
        assert_eq!(round(&other, clock.now()), 0, "its process is alive");
        let due = store.next_clean_up().expect("letters are stored");
        assert!(due <= BEAT_EVERY, "{due:?}");
        pass(due);
        store.clean_up(clock.wall());
    }
    assert_eq!(store.dead_letter_ids().expect("a well disk").len(), 1);
    pass(HEARTBEAT_TIMEOUT + Duration::from_secs(1));
    assert_eq!(round(&other, clock.now()), 1, "it shows no life any more");
}

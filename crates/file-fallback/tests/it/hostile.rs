//! Files that other programs may have put into the directory.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;

use file_fallback::{Damage, FileFallback, Next, Notice, Stored};

use crate::{at, config, data_files, drain, ended, line, lines, missing, once, open, scratch, take_over, units};

fn name(seq: u32, extension: &str) -> String {
    format!("traces-20260201T000000.000Z-{seq:08}-n5{extension}")
}

#[test]
fn links_pipes_and_directories_with_our_names_are_set_aside() {
    let (scratch, outside) = (scratch(), scratch());
    let secret = outside.path().join("secret");
    fs::write(&secret, "{\"id\":1}\n").expect("written");
    let at_name = |seq| scratch.path().join(name(seq, ".jsonl"));
    symlink(&secret, at_name(1)).expect("linked");
    fs::hard_link(&secret, at_name(2)).expect("linked");
    assert!(Command::new("mkfifo").arg(at_name(3)).status().expect("coreutils").success());
    fs::create_dir(at_name(4)).expect("made");
    let mut store = open(config(scratch.path()));
    assert_eq!((store.stored().files, store.stored().count), (0, 0));
    let notices = store.take_notices();
    assert_eq!(notices.len(), 4);
    for notice in notices {
        assert!(
            matches!(
                notice,
                Notice::SetAside { moved_to: Some(_), damage: Damage::NotOurs, count: 0, promised: 5, .. }
            ),
            "{notice:?}"
        );
    }
    drop(store.spill(&lines(0..2, 50), at(0)).expect("room"));
    assert_eq!(drain(&mut store, 1_000), (once(0..2), 0));
    assert_eq!(fs::read(&secret).expect("there"), b"{\"id\":1}\n");
    assert_eq!(data_files(scratch.path()), Vec::<String>::new());
}

#[test]
fn a_file_that_is_replaced_by_a_link_while_the_store_is_open_is_not_followed() {
    let (scratch, outside) = (scratch(), scratch());
    let secret = outside.path().join("secret");
    fs::write(&secret, "{\"id\":1}\n").expect("written");
    let mut store = open(config(scratch.path()));
    let spilled = store.spill(&lines(0..2, 50), at(0)).expect("room");
    drop(store.spill(&lines(2..4, 50), at(0)).expect("room"));
    fs::remove_file(scratch.path().join(&spilled.name)).expect("there");
    symlink(&secret, scratch.path().join(&spilled.name)).expect("linked");
    assert_eq!(drain(&mut store, 1_000), (once(2..4), 0));
    assert_eq!(missing(&store.take_notices()), 3);
    assert!(secret.exists());
}

#[test]
fn foreign_files_stay_untouched() {
    let scratch = scratch();
    let foreign = [
        "notes.txt",
        "traces.jsonl",
        "logs-20260201T000000.000Z-00000001-n5.jsonl",
        "traces-20260201T000000.000Z-00000001-n5.jsonl.bak",
        "traces-20260201T000000.000Z-00000001-n5.pb",
        "Traces-20260201T000000.000Z-00000001-n5.jsonl",
        "\u{feff}traces-20260201T000000.000Z-00000001-n5.jsonl",
    ];
    for name in foreign {
        fs::write(scratch.path().join(name), name).expect("written");
    }
    let mut store = open(config(scratch.path()).with_max_files(1));
    for id in 0..3 {
        drop(store.spill(&lines([id], 50), at(0)).expect("room"));
    }
    drop(store.clean_up(at(30 * 24 * 3_600)));
    drop(drain(&mut store, 1_000));
    for name in foreign {
        assert_eq!(fs::read(scratch.path().join(name)).expect("there"), name.as_bytes());
    }
    assert_eq!(store.take_notices(), []);
}

#[test]
fn names_with_the_largest_counts_and_numbers_do_not_overflow() {
    let scratch = scratch();
    for seq in 1..20 {
        let name = format!("traces-20260201T000000.000Z-{seq:08}-n1000000000000.jsonl");
        fs::write(scratch.path().join(name), "{\"id\":0}\n").expect("written");
    }
    let last = "traces-20260201T000000.000Z-1000000000000000000-n1.jsonl";
    fs::write(scratch.path().join(last), "{\"id\":0}\n").expect("written");
    let mut store = open(config(scratch.path()));
    assert_eq!(store.stored().count, 19_000_000_000_001);
    let spilled = store.spill(&lines(1..2, 50), at(0)).expect("numbers go on");
    assert!(spilled.name.contains("-00000020-"));
    let (ids, _) = drain(&mut store, 1_000);
    assert_eq!(ids.into_iter().collect::<Vec<_>>(), [(0, 20), (1, 1)]);
    assert_eq!(store.stored().count, 0);
}

#[test]
fn two_files_of_one_name_are_both_in_the_quarantine() {
    let scratch = scratch();
    let name = name(1, ".jsonl");
    for copy in ["no json", "nor this"] {
        fs::write(scratch.path().join(&name), copy).expect("written");
        assert_eq!(drain(&mut open(config(scratch.path())), 1_000), (once(0..0), 1));
    }
    let quarantine = scratch.path().join("quarantine");
    let written = |name: &str| fs::read_to_string(quarantine.join(name)).expect("written");
    assert_eq!((written(&name), written(&format!("{name}.1"))), ("no json".to_owned(), "nor this".to_owned()));
    assert_eq!(data_files(scratch.path()), Vec::<String>::new());
}

/// Runs in a process of its own, whose peak of memory it measures.
#[cfg(feature = "zstd")]
#[test]
fn sparse_giants_and_bombs_end_quickly() {
    if std::env::var_os(ALONE).is_none() {
        let child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "hostile::sparse_giants_and_bombs_end_quickly"])
            .env(ALONE, "1")
            .output()
            .expect("started");
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        return;
    }
    let scratch = scratch();
    // Larger than the store may be: not opened.
    let giant = fs::File::create(scratch.path().join(name(1, ".jsonl"))).expect("made");
    giant.set_len(1 << 40).expect("sparse");
    // One line of zeros: read to its end and skipped.
    let long = fs::File::create(scratch.path().join(name(2, ".jsonl"))).expect("made");
    long.set_len(100 << 20).expect("sparse");
    // Many parts that each unpack to many blank lines: together more text than a file may hold.
    let part = zstd_of(&vec![b'\n'; 16 << 20]);
    fs::write(scratch.path().join(name(3, ".jsonl.zst")), part.repeat(17)).expect("written");
    // The same as framed records: the length of zeros is impossible; the last file unpacks to many records.
    let giant = fs::File::create(scratch.path().join(name(4, ".binpb"))).expect("made");
    giant.set_len(1 << 40).expect("sparse");
    let long = fs::File::create(scratch.path().join(name(5, ".binpb"))).expect("made");
    long.set_len(100 << 20).expect("sparse");
    let part = zstd_of(&[&1_000_000_u32.to_be_bytes()[..], &vec![0; 1_000_000]].concat());
    fs::write(scratch.path().join(name(6, ".binpb.zst")), part.repeat(300)).expect("written");
    let mut store = open(config(scratch.path()));
    drop(store.spill(&lines(0..2, 50), at(0)).expect("room"));
    assert_eq!(drain(&mut store, 1_000), (once(0..2), 268));
    let damages: Vec<_> = store
        .take_notices()
        .into_iter()
        .filter_map(|notice| match notice {
            Notice::SetAside { damage, .. } => Some(damage),
            _ => None,
        })
        .collect();
    let too_large = [Damage::FileTooLarge, Damage::FileTooLarge];
    assert_eq!(damages[..2], too_large, "not opened");
    assert_eq!(damages[2..], [Damage::RecordTooLong, Damage::TextTooLarge, Damage::BadLength, Damage::Rejected]);
    let peak = peak_memory_kib();
    // The test itself holds up to 16 MiB of text and 1 MiB of framed text.
    assert!(peak < 64 << 10, "{peak} KiB at most");
}

#[test]
fn thousands_of_strangers_are_moved_a_few_at_a_time_and_named_once() {
    let scratch = scratch();
    for seq in 1..=1_500 {
        symlink("/dev/zero", scratch.path().join(name(seq, ".jsonl"))).expect("linked");
    }
    let mut store = open(config(scratch.path()));
    let mut named = Vec::new();
    let mut take = |store: &mut FileFallback| {
        for notice in store.take_notices() {
            if let Notice::SetAside { name, moved_to: Some(_), damage: Damage::NotOurs, count: 0, .. } = notice {
                named.push(name);
            }
        }
        named.len()
    };
    assert_eq!(take(&mut store), 100);
    drop(store.spill(&lines(0..2, 50), at(0)).expect("room"));
    assert_eq!(drain(&mut store, 1_000), (once(0..2), 0));
    drop(store.clean_up(at(1)));
    assert_eq!(take(&mut store), 1_100);
    drop(store.clean_up(at(2)));
    assert_eq!(take(&mut store), 1_500);
    named.sort();
    named.dedup();
    assert_eq!((named.len(), data_files(scratch.path())), (1_500, Vec::new()));
}

/// A file in the directory of an ended process that is larger than the store may be pushes no file out.
#[test]
fn a_giant_is_not_taken_over() {
    let scratch = scratch();
    let mut store = open(config(&scratch.path().join("own")));
    drop(store.spill(&lines(0..2, 50), at(0)).expect("room"));
    let dead = scratch.path().join("dead");
    fs::create_dir(&dead).expect("made");
    fs::set_permissions(&dead, fs::Permissions::from_mode(0o700)).expect("ours");
    fs::File::create(dead.join(name(7, ".jsonl"))).expect("made").set_len(1 << 40).expect("sparse");
    symlink("/dev/zero", dead.join(name(8, ".jsonl"))).expect("linked");
    fs::write(dead.join(name(9, ".jsonl")), [line(2, 50).bytes, b"\n".to_vec()].concat()).expect("written");
    assert_eq!(take_over(&mut store, &ended(&dead).dir), (1, 5));
    assert_eq!(store.clean_up(at(1)), []);
    assert_eq!(drain(&mut store, 1_000), (once(0..3), 0));
    let damages = store.take_notices().into_iter().filter_map(|notice| match notice {
        Notice::SetAside { damage, count: 0, moved_to: Some(_), .. } => Some(damage),
        _ => None,
    });
    let mut damages = damages.map(Damage::as_str).collect::<Vec<_>>();
    damages.sort_unstable();
    assert_eq!(damages, [Damage::FileTooLarge.as_str(), Damage::NotOurs.as_str()]);
    assert_eq!(data_files(&dead), [""; 0]);
}

/// A file of much text without a record, and many files of one blank line.
#[test]
fn files_without_a_record_to_deliver_are_read_with_pauses() {
    let scratch = scratch();
    fs::File::create(scratch.path().join(name(1, ".jsonl"))).expect("made").set_len(200 << 20).expect("sparse");
    for seq in 2..=200 {
        fs::write(scratch.path().join(name(seq, ".jsonl")), "\n").expect("written");
    }
    let mut store = open(config(scratch.path()));
    drop(store.spill(&lines(0..2, 50), at(0)).expect("room"));
    let mut pauses = 0;
    let group = loop {
        match store.next_group(1_000).expect("readable") {
            Next::Group(group) => break group,
            Next::Pause => pauses += 1,
            Next::Empty => panic!("two records are in the last file"),
        }
    };
    // After each 8 MiB of the 200, and after each 16th file of the 199.
    assert_eq!(pauses, 25 + 12);
    assert_eq!(store.acknowledge(group, units).expect("durable").count, 3);
    assert_eq!(missing(&store.take_notices()), 5 * 200);
    assert_eq!(store.stored(), Stored::default());
}

/// Each magic number begins a part that does not decode.
#[cfg(all(feature = "zstd", feature = "gzip"))]
#[test]
fn a_file_of_nothing_but_magic_numbers_gives_no_record_and_its_spans_are_missing() {
    for magic in [&[0x28, 0xb5, 0x2f, 0xfd][..], &[0x1f, 0x8b, 8, 0]] {
        let scratch = scratch();
        let extension = if magic[0] == 0x28 { ".jsonl.zst" } else { ".jsonl.gz" };
        fs::write(scratch.path().join(name(1, extension)), magic.repeat(2 << 20)).expect("written");
        let mut store = open(config(scratch.path()));
        assert_eq!(drain(&mut store, 1_000), (once(0..0), 0));
        assert_eq!(missing(&store.take_notices()), 5);
    }
}

/// Behind a thousand damaged parts the rest of the file is skipped.
#[cfg(feature = "zstd")]
#[test]
fn damaged_parts_are_stepped_over_until_they_are_too_many() {
    for (parts, found) in [(500, 1), (2_000, 0)] {
        let scratch = scratch();
        let good = lines([7], 50).remove(0).bytes;
        let text = [[0x28, 0xb5, 0x2f, 0xfd].repeat(parts), zstd_of(&[&good, &b"\n"[..]].concat())].concat();
        fs::write(scratch.path().join(name(1, ".jsonl.zst")), text).expect("written");
        let (seen, rejected) = drain(&mut open(config(scratch.path())), 1_000);
        assert_eq!((seen, rejected), (once([7].into_iter().take(found)), 0), "{parts} damaged parts");
    }
}

#[cfg(feature = "zstd")]
const ALONE: &str = "FILE_FALLBACK_TEST_ALONE";

#[cfg(feature = "zstd")]
fn zstd_of(text: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut bytes = Vec::new();
    let mut encoder = zstd::stream::write::Encoder::new(&mut bytes, 1).expect("memory");
    encoder.write_all(text).expect("memory");
    encoder.finish().expect("memory");
    bytes
}

#[cfg(feature = "zstd")]
fn peak_memory_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

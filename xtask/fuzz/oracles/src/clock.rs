//! The file `clock` of a directory of files: any content.

use std::io::{Read as _, Write as _};
use std::time::{Duration, SystemTime};

use file_fallback::{ClockFile, Remembered};
use safe_dir::Directory as _;
use safe_dir::sim::{Disk, MemoryDir};

use crate::feed::Feed;
use crate::{Seed, memory};

/// A time that is read stays while it is not due, and a newer one replaces it; content that is no time is replaced with
/// the next time. In between the file is one or the other, and no other name is left.
///
/// The input: six bytes of a time, in seconds since 1970, then the content.
pub(crate) fn check(input: &[u8]) {
    let mut feed = Feed(input);
    let seconds = feed.bytes(6).iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds % LATEST);
    let content = feed.bytes(usize::MAX);
    let disk = Disk::new();
    let dir = disk.root();
    dir.create(NAME).expect("new").write_all(content).expect("there is space");
    let before = memory::within(4_096, "a time", || ClockFile::read(&dir));
    assert_ne!(before, Remembered::Nothing);
    let mut clock = ClockFile::new(1);
    if let Remembered::Time(time) = before {
        assert!(content.ends_with(b"\n") && content.len() <= 64, "{content:?}");
        assert!(!clock.note(&dir, time).expect("the disk works"), "it is no newer");
        assert_eq!(text(&dir), content);
    }
    let is_due = before.time().is_none_or(|there| match now.duration_since(there) {
        Ok(newer) => newer >= MINUTE,
        Err(older) => older.duration() > 24 * 60 * MINUTE,
    });
    assert_eq!(ClockFile::new(2).note(&dir, now).expect("the disk works"), is_due, "{before:?}, then {now:?}");
    let after = ClockFile::read(&dir);
    assert_eq!(after, if is_due { Remembered::Time(now) } else { before });
    assert!(is_due || text(&dir) == content);
    assert_eq!(dir.list().expect("readable").len(), 1);
    // A time that was written survives a power cut.
    disk.crash(safe_dir::sim::Crash::Worst);
    assert_eq!(ClockFile::read(&disk.root()), if is_due { after } else { Remembered::Nothing }, "durable");
}

pub(crate) fn seeds() -> Vec<Seed> {
    let contents: [(&str, &[u8]); 9] = [
        ("nothing", b""),
        ("whole", b"2026-11-28T08:00:00Z\n"),
        ("torn", b"2026-11-28T08:0"),
        ("without-end", b"2026-11-28T08:00:00Z"),
        ("ahead", b"9999-12-30T21:59:59Z\n"),
        ("before-1970", b"-009999-01-02T01:59:59Z\n"),
        ("fraction", b"2026-11-28T08:00:00.123456789+05:30[Asia/Kolkata]\n"),
        ("long", &[b'2'; 100]),
        ("no-text", b"\xff\xfe\0\n"),
    ];
    let now = 1_795_852_800_u64.to_be_bytes();
    contents.map(|(name, content)| (name.to_owned(), [&now[2..], content].concat())).into()
}

fn text(dir: &MemoryDir) -> Vec<u8> {
    let mut text = Vec::new();
    dir.open_read(NAME).expect("there").read_to_end(&mut text).expect("readable");
    text
}

const NAME: &str = "clock";

const MINUTE: Duration = Duration::from_secs(60);

/// The year 6000: the longest time that is written has four digits for the year.
const LATEST: u64 = 4_030 * 365 * 24 * 3_600;

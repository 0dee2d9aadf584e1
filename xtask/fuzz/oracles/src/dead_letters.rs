//! Dead letters, read: any files.

use std::time::{Duration, SystemTime};

use file_fallback::dead_letters::{DeadLetters, Letter, LetterError};
use file_fallback::{Notice, Record};
use safe_dir::sim::{Disk, MemoryDir};

use crate::feed::{Feed, Recipe};
use crate::files::{self, Given, Readings, SEPARATOR, content};
use crate::{Seed, memory};

/// Each letter is read completely or set aside unchanged; every line that is read stood in the file, and can be written
/// again; the neighbouring letter is read.
///
/// The input: up to four files (see [`Given::read`]).
pub(crate) fn check(input: &[u8]) {
    let (disk, mut feed, mut given) = (Disk::new(), Feed(input), Vec::new());
    for number in 1..=4 {
        if number > 1 && feed.is_empty() {
            break;
        }
        let file = Given::read(&mut feed);
        let name = format!("traces-20260201T000000.000Z-{number:08}-n{}{}", file.promised, file.extension);
        assert!(file.put(&disk, &name));
        given.push((name, Readings::of(&file), file));
    }
    let mut letters = open(&disk);
    let neighbour = letters.add(&letter(), &[record("{}")], letter().refused).expect("there is space").name;
    assert_eq!(letters.list().len(), given.len() + 1);
    for (name, readings, file) in given {
        let limit = PEAK_PER_BYTE * file.bytes.len() + PEAK_AT_LEAST;
        match memory::within(limit, "a letter", || letters.read(&name)) {
            Ok((letter, lines)) => {
                for line in &lines {
                    let invented = readings.as_ref().is_some_and(|readings| !readings.have(line));
                    assert!(!invented, "invented: {}", line.escape_ascii());
                }
                is_written_again(&letter, lines);
                assert_eq!(letters.remove(&name).expect("it was read"), u64::from(file.promised));
            }
            Err(LetterError::Damaged { .. }) => {
                let notices = letters.take_notices();
                let [Notice::SetAside { moved_to: Some(moved_to), count, .. }] = &notices[..] else {
                    panic!("not set aside: {notices:?}")
                };
                assert_eq!(*count, u64::from(file.promised));
                let set_aside = content(&disk, Some("quarantine"), moved_to);
                assert_eq!(set_aside.as_deref(), Some(&file.bytes[..]), "it is set aside unchanged");
            }
            Err(error) => panic!("a well disk: {error}"),
        }
        assert!(matches!(letters.read(&name), Err(LetterError::Unknown { .. })), "{name} is gone");
    }
    drop(letters);
    let mut letters = open(&disk);
    assert_eq!(letters.stored().files, 1);
    assert_eq!(letters.read(&neighbour).expect("whole"), (letter(), vec![b"{}".to_vec()]));
}

/// A letter that was read can be stored again, and reads the same from then on.
fn is_written_again(letter: &Letter, lines: Vec<Vec<u8>>) {
    let records: Vec<Record> = lines.iter().map(|line| Record { bytes: line.clone(), count: 1 }).collect();
    if records.is_empty() {
        return;
    }
    let mut letters = open(&Disk::new());
    let mut again = |letter: &Letter| {
        let name = letters.add(letter, &records, letter.refused).expect("there is space").name;
        letters.read(&name).expect("we wrote it")
    };
    let (once, read) = again(letter);
    assert_eq!(read, lines);
    // Long texts are cut, and times to the microsecond, by the first writing.
    assert_eq!(again(&once).0, once);
}

fn open(disk: &Disk) -> DeadLetters<MemoryDir> {
    let config = DeadLetters::config("unused").with_free_space_reserve(0).build().expect("in range");
    DeadLetters::open_in(config, disk.root()).expect("a well disk")
}

fn letter() -> Letter {
    let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000 + seconds);
    Letter {
        signal: "traces".to_owned(),
        status: "HTTP 400".to_owned(),
        reason: "span name is empty".to_owned(),
        endpoint: "http://localhost:4318/v1/traces".to_owned(),
        attempts: 1,
        accepted: at(0),
        refused: at(1),
    }
}

fn record(text: &str) -> Record {
    Record { bytes: text.as_bytes().to_vec(), count: 1 }
}

const PEAK_PER_BYTE: usize = 1_000;

/// A compressed part as it is read, and the windows of the readers.
const PEAK_AT_LEAST: usize = 16 << 20;

/// Letters as we write them, with harm, and of other forms.
pub(crate) fn seeds() -> Vec<Seed> {
    let disk = Disk::new();
    let name = open(&disk).add(&letter(), &[record("{\"id\":1}"), record("{}")], letter().refused).expect("room").name;
    let whole = content(&disk, None, &name).expect("just written");
    let text = String::from_utf8(whole.clone()).expect("a letter is text");
    let seed = |form: u8, chunk: &[u8]| Recipe::default().byte(form).byte(2).chunk(chunk);
    let in_parts: Vec<u8> =
        whole.iter().flat_map(|byte| if *byte == b'\n' { vec![*byte, SEPARATOR] } else { vec![*byte] }).collect();
    let seeds = [
        ("whole", seed(0, &whole)),
        ("zstd", seed(0b1001, &in_parts)),
        ("gzip", seed(0b1110, &in_parts)),
        ("flipped", seed(0b01_1001, &in_parts).byte(0).short(30).byte(4)),
        ("torn", seed(0, &whole[..60])),
        ("newer", seed(0, text.replace("\"dead_letter\":1", "\"dead_letter\":2").as_bytes())),
        ("another-time", seed(0, text.replace("2026-", "-009999-").as_bytes())),
        ("last-time", seed(0, text.replace("2026-", "9999-").as_bytes())),
        ("no-header", seed(0, b"{\"id\":1}\n")),
        ("nothing", seed(0, b"")),
        ("raw-zstd", seed(1, &files::zstd_frame(&whole))),
    ];
    seeds.into_iter().map(|(name, recipe)| (name.to_owned(), recipe.0)).collect()
}

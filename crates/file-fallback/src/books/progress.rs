//! The log of settled records beside the files: one mark a line, each with its CRC-32C.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use safe_dir::{Directory, FileError};
use serde::{Deserialize, Serialize};

use crate::books::ranges::Ranges;
use crate::books::tried::Tried;

/// The state of one file of which records are settled or were tried. A version of this crate that does not know a field
/// skips it: new fields come at the end, and the settled records count without them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) file: String,
    /// The file's length: the mark does not count for a file of another length.
    pub(crate) bytes: u64,
    /// The records, from 0, that need not be read again.
    #[serde(rename = "lines")]
    pub(crate) records: Ranges,
    /// The units that were settled with them.
    pub(crate) count: u64,
    /// The caller could not decode one of them.
    #[serde(default)]
    pub(crate) rejected: bool,
    /// The failed attempts of records that are not settled.
    #[serde(default, skip_serializing_if = "Tried::is_empty")]
    pub(crate) tried: Tried,
    /// The processes in a row that died while they read the file.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) deaths: u32,
    /// The time from which the file ages, where its name has a time far ahead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<u64>,
    /// The units of each record, as its writer counted them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) counts: Vec<u64>,
}

/// The log, and the last mark of each file.
#[derive(Debug)]
pub(crate) struct Progress<F> {
    marks: BTreeMap<String, Mark>,
    /// Open for appending; none before the first mark and after a failure.
    log: Option<F>,
    len: u64,
    /// The log is written anew once it is longer than this.
    compact_above: u64,
    /// Names with a mark in the log on the disk whose files do not exist any more.
    stale: BTreeSet<String>,
}

impl<F: safe_dir::File> Progress<F> {
    /// Reads the log, if there is one; returns the number of its damaged marks too. A log that cannot be read at all is
    /// one damaged mark: the next mark replaces it.
    pub(crate) fn load<D: Directory<File = F>>(dir: &D) -> (Self, u64) {
        let (marks, stale) = (BTreeMap::new(), BTreeSet::new());
        let empty = Self { marks, log: None, len: 0, compact_above: COMPACT_ABOVE, stale };
        let mut text = Vec::new();
        let read = match dir.open_read(LOG) {
            Ok(file) => file.take(MAX_LOG + 1).read_to_end(&mut text),
            Err(error) if error.is_not_found() => return (empty, 0),
            Err(_) => return (empty, 1),
        };
        if read.is_err() || text.len() as u64 > MAX_LOG {
            return (empty, 1);
        }
        let (marks, damaged) = parse(&text);
        (Self { marks, ..empty }, damaged)
    }

    /// The mark of a file, if it was written for a file of this length.
    pub(crate) fn claim(&mut self, file: &str, bytes: u64) -> Option<Mark> {
        self.marks.get(file).filter(|mark| mark.bytes == bytes).cloned()
    }

    /// Forgets the marks of files that are not `known`.
    pub(crate) fn retain(&mut self, known: impl Fn(&str) -> bool) {
        let stale = self.marks.keys().filter(|file| !known(file)).cloned();
        self.stale.extend(stale);
        self.marks.retain(|file, _| known(file));
    }

    /// Forgets the mark of a file that was removed. Needs no write: a mark without a file is ignored.
    pub(crate) fn forget(&mut self, file: &str) {
        if self.marks.remove(file).is_some() {
            self.stale.insert(file.to_owned());
        }
    }

    /// The highest number that a name in the log has, by `seq_of`.
    pub(crate) fn highest(&self, seq_of: impl Fn(&str) -> Option<u64>) -> Option<u64> {
        self.marks.keys().chain(&self.stale).filter_map(|file| seq_of(file)).max()
    }

    /// Writes the marks, durable when this returns. After a failure they stay in memory, and the next call writes all
    /// marks to a new log: no sync of the old one counts any more.
    pub(crate) fn save<D: Directory<File = F>>(&mut self, dir: &D, marks: Vec<Mark>) -> Result<(), FileError> {
        let lines: Vec<u8> = marks.iter().flat_map(line).collect();
        self.marks.extend(marks.into_iter().map(|mark| (mark.file.clone(), mark)));
        let len = self.len + lines.len() as u64;
        match self.log.take() {
            Some(mut log) if len <= self.compact_above => {
                let failed = |source| FileError::Io { path: dir.path().join(LOG), action: "write", source };
                log.write_all(&lines).and_then(|()| log.sync()).map_err(failed)?;
                self.len = len;
                self.log = Some(log);
                Ok(())
            }
            _ => self.rewrite(dir),
        }
    }

    fn rewrite<D: Directory<File = F>>(&mut self, dir: &D) -> Result<(), FileError> {
        let mut text: Vec<u8> = self.marks.values().flat_map(line).collect();
        if text.len() as u64 > MAX_WITH_TRIED {
            // Settled records must be in the log; attempts decide about the order alone, and counts serve the caller.
            for mark in self.marks.values_mut() {
                (mark.tried, mark.counts) = (Tried::default(), Vec::new());
            }
            self.marks.retain(|_, mark| mark.holds_more_than_attempts());
            text = self.marks.values().flat_map(line).collect();
        }
        safe_dir::replace(dir, LOG, |log| log.write_all(&text))?;
        self.stale.clear();
        self.len = text.len() as u64;
        self.compact_above = (self.len * 2).clamp(COMPACT_ABOVE, MAX_LOG);
        self.log = Some(dir.open_append(LOG)?);
        Ok(())
    }
}

impl Mark {
    fn holds_more_than_attempts(&self) -> bool {
        !self.records.is_empty() || self.rejected || self.deaths > 0 || self.since.is_some()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn line(mark: &Mark) -> Vec<u8> {
    let json = serde_json::to_string(mark).expect("strings and numbers have a JSON form");
    format!("{:08x} {json}\n", crc32c::crc32c(json.as_bytes())).into_bytes()
}

/// The last good mark of each file, and the number of lines that are none. A torn last line is not counted: a crash
/// leaves one.
fn parse(text: &[u8]) -> (BTreeMap<String, Mark>, u64) {
    let (mut marks, mut damaged) = (BTreeMap::new(), 0);
    let mut lines = text.split(|&byte| byte == b'\n').peekable();
    while let Some(line) = lines.next() {
        match parse_line(line) {
            Some(mark) => drop(marks.insert(mark.file.clone(), mark)),
            None => damaged += u64::from(lines.peek().is_some()),
        }
    }
    (marks, damaged)
}

fn parse_line(line: &[u8]) -> Option<Mark> {
    let (sum, json) = line.split_at_checked(8)?;
    let json = json.strip_prefix(b" ")?;
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    (crc32c::crc32c(json) == sum).then(|| serde_json::from_slice(json).ok())?
}

/// The name of the log.
pub const LOG: &str = "progress.log";

/// A log that is longer than this, and twice as long as when it was new, is replaced by one with the present marks; at
/// [`MAX_LOG`] in any case.
const COMPACT_ABOVE: u64 = 64 << 10;

/// A new log that would be longer than this holds neither attempts nor counts: so they never bring a log to
/// [`MAX_LOG`].
const MAX_WITH_TRIED: u64 = 1 << 20;

/// A longer log was not written by this crate.
const MAX_LOG: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(file: &str, end: u64) -> Mark {
        let mut records = Ranges::default();
        records.insert(0..end);
        Mark { file: file.to_owned(), bytes: 9, records, count: end * 10, ..Mark::default() }
    }

    #[test]
    fn the_last_good_mark_of_a_file_counts() {
        let text = [line(&mark("a", 1)), line(&mark("b", 1)), line(&mark("a", 2))].concat();
        let (marks, damaged) = parse(&text);
        assert_eq!((marks["a"].count, marks["b"].count, damaged), (20, 10, 0));
    }

    #[test]
    fn a_log_of_many_marks_is_never_longer_than_one_that_is_read() {
        let temp = tempfile::tempdir().expect("tempdir");
        let dir = safe_dir::SafeDir::open(temp.path().join("dir")).expect("a directory");
        let (mut progress, _) = Progress::load(&dir);
        let marks = (0..30_000).map(|file| mark(&format!("file-{file:06}"), 1)).collect::<Vec<_>>();
        let per_save = marks.iter().map(|mark| line(mark).len() as u64).sum::<u64>();
        assert!(per_save * 2 > MAX_LOG && per_save < MAX_LOG, "{per_save}");
        for _ in 0..3 {
            progress.save(&dir, marks.clone()).expect("saved");
            let (read, damaged) = Progress::load(&dir);
            assert_eq!((read.marks.len(), damaged), (marks.len(), 0));
        }
    }

    #[test]
    fn neither_attempts_nor_counts_push_settled_records_out_of_the_log() {
        let temp = tempfile::tempdir().expect("tempdir");
        let dir = safe_dir::SafeDir::open(temp.path().join("dir")).expect("a directory");
        let (mut progress, _) = Progress::load(&dir);
        let counted = |file: u64| Mark { counts: vec![512; 1_000], ..mark(&format!("file-{file:06}"), 1) };
        progress.save(&dir, (0..2_000).map(counted).collect()).expect("saved");
        let since = Mark { file: "since".to_owned(), bytes: 9, since: Some(7), ..Mark::default() };
        progress.save(&dir, vec![since]).expect("saved");
        let (mut read, damaged) = Progress::load(&dir);
        assert_eq!((read.marks.len(), damaged), (2_001, 0));
        assert_eq!(read.claim("file-000007", 9).map(|mark| mark.count), Some(10));
        assert_eq!(read.claim("since", 9).and_then(|mark| mark.since), Some(7));
    }

    #[test]
    fn every_single_damaged_byte_is_noticed() {
        let whole = [line(&mark("a", 1)), line(&mark("a", 2))].concat();
        let first = line(&mark("a", 1)).len();
        for index in first..whole.len() - 1 {
            for flip in [1, 0x20, 0x80] {
                let mut text = whole.clone();
                text[index] ^= flip;
                let upper_case = text[..whole.len()].eq_ignore_ascii_case(&whole) && index < first + 8;
                let (marks, damaged) = parse(&text);
                assert!(upper_case || (marks["a"].count, damaged >= 1) == (10, true), "byte {index} ^ {flip}");
            }
        }
        for len in 0..whole.len() {
            let (marks, damaged) = parse(&whole[..len]);
            let expected = if len + 1 >= whole.len() { Some(20) } else { (len + 1 >= first).then_some(10) };
            assert_eq!((marks.get("a").map(|mark| mark.count), damaged), (expected, 0), "cut to {len}");
        }
    }
}

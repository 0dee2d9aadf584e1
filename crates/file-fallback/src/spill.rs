//! Writing lines away: one call, one file.

use std::io;
use std::time::SystemTime;

use safe_dir::{Directory, Draft, FileError};

use crate::encode::{self, Encoded};
use crate::error::{LineProblem, SpillError};
use crate::name::FileName;
use crate::read::{MAX_FILE_LINES, MAX_FILE_TEXT};
use crate::store::{Evicted, FileFallback, Key, Reason, StoredFile};

/// One line to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The text, without a line feed in it or at its end. The store does not look into it.
    pub text: Vec<u8>,
    /// How much is in it, such as spans; the caller's own unit.
    pub count: usize,
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "files may have been removed to make room"]
pub struct Spilled {
    /// Its name in the store's directory.
    pub name: String,
    /// The sum over its lines.
    pub count: u64,
    /// Its length on disk.
    pub bytes: u64,
    /// Older files that were removed to keep the limits.
    pub evicted: Vec<Evicted>,
}

impl<D: Directory> FileFallback<D> {
    /// Writes the lines to one new file, durable when this returns; compressed, if the text is longer than `compress_above`.
    ///
    /// Older files go, oldest first, where a limit asks for it; a file with a group that is handed out stays. Blocks on the
    /// disk: two or three syncs.
    ///
    /// # Errors
    ///
    /// If the lines cannot be kept, there is no room, or the file system refuses: then no file of theirs is left, and the
    /// caller still has them. What was removed before that is in [`SpillError::evicted`].
    pub fn spill(&mut self, lines: &[Line], now: SystemTime) -> Result<Spilled, SpillError> {
        if self.is_forked() {
            return Err(SpillError::Forked);
        }
        self.check_lines(lines)?;
        let text = encode::text_len(lines);
        if text > MAX_FILE_TEXT || lines.len() as u64 > MAX_FILE_LINES {
            return Err(SpillError::TooLarge { bytes: text, max_bytes: MAX_FILE_TEXT });
        }
        let failed = |error| SpillError::File { source: self.failed("compress", error), evicted: Vec::new() };
        let encoded = Encoded::new(lines, &self.config).map_err(failed)?;
        let bytes = encoded.len();
        if bytes > self.config.max_bytes {
            return Err(SpillError::TooLarge { bytes, max_bytes: self.config.max_bytes });
        }
        let spilled = self.spill_encoded(lines, &encoded, now);
        if let Err(error) = &spilled
            && !error.evicted().is_empty()
        {
            // What is said to be gone shall not come back with a power cut.
            drop(self.dir.sync());
        }
        spilled
    }

    fn spill_encoded(&mut self, lines: &[Line], encoded: &Encoded<'_>, now: SystemTime) -> Result<Spilled, SpillError> {
        let bytes = encoded.len();
        let born = self.clock.read(now);
        let count = lines.iter().map(|line| line.count as u64).fold(0, u64::saturating_add);
        let mut evicted = Vec::new();
        self.make_free_space(bytes, &mut evicted)?;
        let mut attempts = 1;
        let (name, text_name) = loop {
            let name = FileName { time: now, seq: self.next_seq, count, extension: encoded.extension };
            // Also after a failure: a file that could not be removed again keeps its number.
            self.next_seq += 1;
            let text_name = name.format(&self.config.signal);
            match self.write(&text_name, encoded, &mut evicted) {
                Ok(()) => break (name, text_name),
                // Somebody has put a file there since the start.
                Err(source) if source.is_already_exists() && attempts < MAX_ATTEMPTS => attempts += 1,
                Err(source) => return Err(SpillError::File { source, evicted }),
            }
        };
        self.rate.note(born, bytes);
        self.insert(Key { seq: name.seq, name: text_name.clone() }, StoredFile::new(&name, bytes, born));
        Ok(Spilled { name: text_name, count, bytes, evicted })
    }

    fn check_lines(&self, lines: &[Line]) -> Result<(), SpillError> {
        if lines.is_empty() {
            return Err(SpillError::Empty);
        }
        let max_line_bytes = self.config.max_line_bytes;
        for (index, line) in lines.iter().enumerate() {
            let problem = if line.text.iter().all(u8::is_ascii_whitespace) {
                LineProblem::Empty
            } else if line.text.contains(&b'\n') {
                LineProblem::LineFeed
            } else if line.text.len() > max_line_bytes {
                LineProblem::TooLong { bytes: line.text.len(), max_line_bytes }
            } else {
                continue;
            };
            return Err(SpillError::Line { index, problem });
        }
        Ok(())
    }

    /// Writes and publishes. Where the disk or a quota says that it is full, older files go, up to twice the room that is
    /// needed: if that does not help, somebody else takes the room.
    fn write(&mut self, name: &str, encoded: &Encoded<'_>, evicted: &mut Vec<Evicted>) -> Result<(), FileError> {
        let enough = encoded.len().saturating_mul(2).saturating_add(SMALL_CHANGE);
        let mut freed = 0;
        loop {
            let source = match self.write_once(name, encoded, evicted) {
                Ok(()) => return Ok(()),
                Err(source) => source,
            };
            let full = matches!(
                source.io().map(io::Error::kind),
                Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            );
            match self.oldest_evictable() {
                Some(key) if full && freed < enough => match self.evict(&key, Reason::FreeSpace) {
                    Ok(removed) => {
                        freed = freed.saturating_add(removed.bytes);
                        evicted.push(removed);
                    }
                    Err(_) => return Err(source),
                },
                _ => return Err(source),
            }
        }
    }

    fn write_once(&mut self, name: &str, encoded: &Encoded<'_>, evicted: &mut Vec<Evicted>) -> Result<(), FileError> {
        let draft = Draft::write(&self.dir, name, |file| encoded.write_to(file))?;
        // Only now, as the draft could have failed, and before it is published, so that the limits hold at every moment.
        match self.make_room(encoded.len(), evicted) {
            Ok(()) => draft.publish(&self.dir),
            Err(error) => {
                // If this fails too, the next start removes it.
                drop(draft.discard(&self.dir));
                Err(error)
            }
        }
    }
}

/// Names that are tried.
const MAX_ATTEMPTS: u32 = 16;

/// Room that counts as found besides twice the size of a file, for the file system's own blocks.
const SMALL_CHANGE: u64 = 64 << 10;

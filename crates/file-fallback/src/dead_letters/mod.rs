//! Records that a receiver refused for good: stored with the reason, never sent again without a call.
//!
//! A dead letter is a file of its own, named and limited as all files of this crate: its first record holds the reason,
//! the others are the refused records. `jq` reads it.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `mod` | [`DeadLetters`]: adds, lists, reads, redrives and removes letters |
//! | `letter` | a letter, and its first record |
//! | `error` | errors of each operation |
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use file_fallback::Record;
//! use file_fallback::dead_letters::{DeadLetters, Letter};
//!
//! # let scratch = tempfile::tempdir()?;
//! # let dir = scratch.path().join("dead-letters");
//! # let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_904_000);
//! let mut letters = DeadLetters::open(DeadLetters::config(dir).build()?)?;
//! let letter = Letter {
//!     signal: "traces".into(),
//!     status: "HTTP 400".into(),
//!     reason: "span name is empty".into(),
//!     endpoint: "http://localhost:4318/v1/traces".into(),
//!     attempts: 1,
//!     accepted: now,
//!     refused: now,
//! };
//! let added = letters.add(&letter, &[Record { bytes: b"{}".to_vec(), count: 3 }], now)?;
//!
//! let listed = letters.list();
//! assert_eq!((listed.len(), listed[0].count), (1, 3));
//! let (read, records) = letters.read(&added.name)?;
//! assert_eq!((read, records), (letter, vec![b"{}".to_vec()]));
//! letters.remove(&added.name)?; // once the records are stored elsewhere
//! assert_eq!(letters.stored().count, 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod letter;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use safe_dir::{Directory, FileError, Locked, SafeDir};

use crate::books::catalog::Key;
use crate::config::{Builder, Config};
use crate::error::{AdoptError, OpenError, SpillError};
use crate::form::format::Format;
use crate::form::record::Record;
use crate::notice::{Damage, Notice};
use crate::outcome::{Evicted, Spilled, Stored, TakenOver};
use crate::read::reader::OpenFile;
use crate::read::records::Item;
use crate::store::FileFallback;

pub use error::{LetterError, RedriveError};
pub use letter::{Letter, Listed};

/// Dead letters in a directory of their own.
#[derive(Debug)]
pub struct DeadLetters<D: Directory = SafeDir> {
    store: FileFallback<D>,
}

/// A letter whose records were written to a store.
#[derive(Debug)]
#[must_use = "the letter may still be there"]
pub struct Redriven {
    /// The file that holds the records now. No other file was removed for it.
    pub spilled: Spilled,
    /// Whether the letter was removed, durably. If not, it is not listed any more, and [`DeadLetters::clean_up`]
    /// removes it; after a crash before that it is listed again, and its records are in both places.
    pub removed: Result<(), LetterError>,
}

/// How much of a letter is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Its first record.
    Header,
    All,
}

/// A letter and its records.
type Contents = (Letter, Vec<Vec<u8>>);

impl DeadLetters {
    /// Settings with the defaults of dead letters: 64 MiB, 30 days, 10,000 files.
    pub fn config(dir: impl Into<PathBuf>) -> Builder {
        Config::builder(dir)
            .with_max_bytes(64 << 20)
            .with_max_age(Duration::from_secs(30 * 24 * 3600))
            .with_max_files(10_000)
    }

    /// Opens the directory, by name alone as [`FileFallback::open`] does. Letters are lines, also where the settings
    /// name another format.
    ///
    /// # Errors
    ///
    /// If the directory is not safe, is in use, or cannot be read.
    pub fn open(config: Config) -> Result<Self, OpenError> {
        FileFallback::open(config.of_lines()).map(|store| Self { store })
    }
}

impl<D: Directory> DeadLetters<D> {
    /// [`open`](DeadLetters::open) in a directory that the caller has opened.
    ///
    /// # Errors
    ///
    /// If the directory is in use or cannot be read.
    pub fn open_in(config: Config, dir: D) -> Result<Self, OpenError> {
        FileFallback::open_in(config.of_lines(), dir).map(|store| Self { store })
    }

    /// [`FileFallback::open_locked`] for letters.
    ///
    /// # Errors
    ///
    /// If the directory cannot be read.
    pub fn open_locked(config: Config, locked: Locked<D>) -> Result<Self, OpenError> {
        FileFallback::open_locked(config.of_lines(), locked).map(|store| Self { store })
    }

    /// [`FileFallback::take_over`] for letters.
    ///
    /// # Errors
    ///
    /// The first failure to move a letter.
    pub fn take_over(&mut self, from: &D, now: SystemTime) -> Result<TakenOver, AdoptError> {
        self.store.take_over(from, now)
    }

    /// [`FileFallback::is_vanished`] for letters.
    #[must_use]
    pub fn is_vanished(&self) -> bool {
        self.store.is_vanished()
    }

    /// [`FileFallback::dir`] for letters.
    #[must_use]
    pub fn dir(&self) -> &D {
        self.store.dir()
    }

    /// [`FileFallback::renew`] for letters.
    ///
    /// # Errors
    ///
    /// If the new directory cannot be read.
    pub fn renew(&mut self, dir: D, lock: D::Lock) -> Result<(), OpenError> {
        self.store.renew(dir, lock)
    }

    /// [`FileFallback::set_max_bytes`] for letters.
    pub fn set_max_bytes(&mut self, max_bytes: u64) {
        self.store.set_max_bytes(max_bytes);
    }

    /// Stores a letter, durably; the oldest letters are removed where a limit demands it.
    ///
    /// # Errors
    ///
    /// As [`FileFallback::spill`]; `index` counts the records from 1, as the letter itself is record 0.
    pub fn add(&mut self, letter: &Letter, records: &[Record], now: SystemTime) -> Result<Spilled, SpillError> {
        if records.is_empty() {
            return Err(SpillError::Empty);
        }
        let bytes: u64 = records.iter().map(|record| record.bytes.len() as u64).sum();
        if bytes > MAX_LETTER_TEXT {
            return Err(SpillError::TooLarge { bytes, max_bytes: MAX_LETTER_TEXT });
        }
        let mut all = Vec::with_capacity(records.len() + 1);
        all.push(Record { bytes: letter.to_record(), count: 0 });
        all.extend_from_slice(records);
        self.store.spill(&all, now)
    }

    /// All letters, oldest first. Reads no file.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        let files = self.store.files();
        let listed = files.catalog().iter().filter_map(|(key, file)| {
            let time = files.time_of(key)?;
            Some(Listed { name: key.name.clone(), time, count: file.promised(), bytes: file.bytes() })
        });
        listed.collect()
    }

    /// Reads a letter and its records; the letter stays. Memory: the whole letter, 64 MiB at most.
    ///
    /// # Errors
    ///
    /// If there is no such letter, or it cannot be read. A damaged letter is set aside, and its units have left the
    /// store.
    pub fn read(&mut self, name: &str) -> Result<(Letter, Vec<Vec<u8>>), LetterError> {
        self.read_part(name, Part::All)
    }

    /// Reads the first record of a letter alone: memory and time do not depend on the others.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn describe(&mut self, name: &str) -> Result<Letter, LetterError> {
        self.read_part(name, Part::Header).map(|(letter, _)| letter)
    }

    /// The units in a letter, and its length on disk. Reads no file.
    ///
    /// # Errors
    ///
    /// If there is no such letter.
    pub fn size(&self, name: &str) -> Result<(u64, u64), LetterError> {
        let key = self.key(name)?;
        Ok(self.store.files().catalog().get(&key).map_or((0, 0), |file| (file.promised(), file.bytes())))
    }

    /// Moves the records of a letter to a store that sends them again: `records` converts the letter's lines to records
    /// of the store, the store writes them to a file of its own (see [`FileFallback::spill_beside`]), and then the
    /// letter is removed.
    ///
    /// A crash in between leaves the records in both places, never in neither.
    ///
    /// # Errors
    ///
    /// The letter stays, and the store has no record of it.
    pub fn redrive<S: Directory, E>(
        &mut self,
        name: &str,
        store: &mut FileFallback<S>,
        now: SystemTime,
        records: impl FnOnce(&Letter, Vec<Vec<u8>>) -> Result<Vec<Record>, E>,
    ) -> Result<Redriven, RedriveError<E>> {
        let (letter, lines) = self.read(name).map_err(RedriveError::Letter)?;
        let records = records(&letter, lines).map_err(RedriveError::Unusable)?;
        let spilled = store.spill_beside(&records, now).map_err(RedriveError::Store)?;
        let removed = match self.remove(name) {
            Ok(_) => Ok(()),
            Err(error) => {
                // The store has the records: the letter must not be redriven once more.
                if let Ok(key) = self.key(name) {
                    self.store.files_mut().remove_later(key);
                }
                Err(error)
            }
        };
        Ok(Redriven { spilled, removed })
    }

    /// Removes a letter, durably; returns the units in it.
    ///
    /// # Errors
    ///
    /// If there is no such letter, or the file system refuses.
    pub fn remove(&mut self, name: &str) -> Result<u64, LetterError> {
        let key = self.key(name)?;
        let files = self.store.files_mut();
        files.check_directory().map_err(LetterError::File)?;
        let removed = files.remove(&key).map_err(LetterError::File)?;
        files.dir().sync().map_err(LetterError::File)?;
        Ok(removed.map_or(0, |file| file.remaining()))
    }

    /// The present contents. O(1).
    #[must_use]
    pub const fn stored(&self) -> Stored {
        self.store.stored()
    }

    /// [`FileFallback::clean_up`] for letters.
    #[must_use = "the letters that are returned are removed"]
    pub fn clean_up(&mut self, now: SystemTime) -> Vec<Evicted> {
        self.store.clean_up(now)
    }

    /// [`FileFallback::take_notices`] for letters.
    #[must_use = "notices are given once"]
    pub fn take_notices(&mut self) -> Vec<Notice> {
        self.store.take_notices()
    }

    fn key(&self, name: &str) -> Result<Key, LetterError> {
        if self.store.is_forked() {
            return Err(LetterError::Forked);
        }
        self.store.files().find(name).ok_or_else(|| LetterError::Unknown { name: name.to_owned() })
    }

    fn read_part(&mut self, name: &str, part: Part) -> Result<Contents, LetterError> {
        let key = self.key(name)?;
        match self.read_file(&key, part) {
            Ok(Ok(contents)) => Ok(contents),
            Ok(Err(damage)) => {
                self.store.files_mut().set_aside(&key, damage);
                Err(LetterError::Damaged { name: key.name, damage })
            }
            Err(error) if error.is_not_found() => {
                self.store.files_mut().check_directory().map_err(LetterError::File)?;
                self.store.files_mut().note_vanished(&key);
                Err(LetterError::Unknown { name: key.name })
            }
            Err(error) => Err(LetterError::File(error)),
        }
    }

    fn read_file(&mut self, key: &Key, part: Part) -> Result<Result<Contents, Damage>, FileError> {
        let path = self.store.path().join(&key.name);
        self.store.files_mut().read_alone(key, |open| Self::read_open(open, path, part))
    }

    fn read_open(
        open: &mut OpenFile<D::File>,
        path: PathBuf,
        part: Part,
    ) -> Result<Result<Contents, Damage>, FileError> {
        if open.format != Format::Lines {
            return Ok(Err(Damage::Rejected));
        }
        let reader = &mut open.records;
        let failed = |source| FileError::Io { path: path.clone(), action: "read", source };
        let (mut letter, mut records, mut bytes) = (None, Vec::new(), 0);
        loop {
            match reader.next().map_err(failed)? {
                Item::Record(record) if letter.is_none() => match Letter::parse(reader.text(&record)) {
                    Some(parsed) if part == Part::Header => return Ok(Ok((parsed, records))),
                    Some(parsed) => letter = Some(parsed),
                    None => return Ok(Err(Damage::Rejected)),
                },
                Item::Record(record) => {
                    bytes += record.len() as u64;
                    if bytes > MAX_LETTER_TEXT {
                        return Ok(Err(Damage::TextTooLarge));
                    }
                    records.push(reader.text(&record).to_vec());
                }
                Item::Skipped(None) => {}
                Item::Skipped(Some(damage)) | Item::Damage(damage) => return Ok(Err(damage)),
                Item::Pause => {}
                Item::End => return Ok(letter.map(|letter| (letter, records)).ok_or(Damage::Torn)),
            }
        }
    }
}

/// The largest request that OTLP recommends to accept.
const MAX_LETTER_TEXT: u64 = 64 << 20;

//! What was refused for good: kept with its reason, never sent again by itself.
//!
//! A dead letter is a file of its own, named and limited as all files of this crate: its first record says what happened, the
//! others are the records that were refused. `jq` reads it; so does whoever wants to send it again.
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
//! letters.remove(&added.name)?; // once somebody else has it
//! assert_eq!(letters.stored().count, 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use safe_dir::{Directory, FileError, SafeDir};
use serde::{Deserialize, Serialize};

use crate::config::{Builder, Config, SecondProcess};
use crate::error::{OpenError, SpillError};
use crate::form::format::Format;
use crate::form::name::FileName;
use crate::notice::{Damage, Notice};
use crate::read::records::Item;
use crate::store::{Evicted, FileFallback, Key, Stored};
use crate::write::writer::{Record, Spilled};

/// Dead letters in a directory of their own.
#[derive(Debug)]
pub struct DeadLetters<D: Directory = SafeDir> {
    store: FileFallback<D>,
}

/// What happened to the records of one dead letter. Text is cut to 2,000 characters each; it should hold no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// What the records are, such as `traces`.
    pub signal: String,
    /// What the peer answered, such as `HTTP 400` or `INVALID_ARGUMENT`.
    pub status: String,
    /// Why, as far as the peer said.
    pub reason: String,
    /// Who refused it.
    pub endpoint: String,
    /// How many calls were made for it.
    pub attempts: u32,
    /// When the records were accepted; to the microsecond.
    pub accepted: SystemTime,
    /// When they were refused; to the microsecond.
    pub refused: SystemTime,
}

/// A dead letter by its name alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name, for [`DeadLetters::read`] and [`DeadLetters::remove`].
    pub name: String,
    /// When it was written.
    pub time: SystemTime,
    /// What is in it, in the caller's unit.
    pub count: u64,
    /// Its length on disk.
    pub bytes: u64,
}

/// Why a dead letter was not read or removed.
#[derive(Debug)]
#[non_exhaustive]
pub enum LetterError {
    /// There is none of that name.
    Unknown {
        /// As it was given.
        name: String,
    },
    /// It is damaged, and was set aside.
    Damaged {
        /// Its name.
        name: String,
        /// What is wrong with it.
        damage: Damage,
    },
    /// The file system refused.
    File(FileError),
    /// This process is a child, by `fork`, of the one that opened the store, which alone may use it.
    Forked,
}

/// A letter that was put back on its way.
#[derive(Debug)]
#[must_use = "the letter may still be there"]
pub struct Redriven {
    /// The file that has it now. No other file went for it.
    pub spilled: Spilled,
    /// Whether the letter went, durably. If not, this store does not list it any more, and [`DeadLetters::clean_up`] removes it; after a
    /// crash before that it is back, and what is in it is in both places.
    pub removed: Result<(), LetterError>,
}

/// Why a letter was not put back on its way. It stays.
#[derive(Debug)]
#[non_exhaustive]
pub enum RedriveError<E> {
    /// It was not read.
    Letter(LetterError),
    /// The caller can make nothing of its lines.
    Unusable(E),
    /// The store did not take it.
    Store(SpillError),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Letter,
    Whole,
}

/// A letter and its records.
type Whole = (Letter, Vec<Vec<u8>>);

/// The first record of the file.
#[derive(Serialize, Deserialize)]
struct Header {
    /// The version of this form.
    dead_letter: u32,
    signal: String,
    status: String,
    reason: String,
    endpoint: String,
    attempts: u32,
    accepted: String,
    refused: String,
}

impl DeadLetters {
    /// Settings with the defaults of dead letters: 64 MiB, 30 days, 10,000 files, and no second process.
    pub fn config(dir: impl Into<PathBuf>) -> Builder {
        Config::builder(dir)
            .with_max_bytes(64 << 20)
            .with_max_age(Duration::from_secs(30 * 24 * 3600))
            .with_max_files(10_000)
            .with_second_process(SecondProcess::Refuse)
    }

    /// Opens the directory, by name alone as [`FileFallback::open`] does. Letters are lines, whatever the format in the settings.
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

    /// Keeps a letter, durably; the oldest go where a limit asks for it.
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
        all.push(Record { bytes: Header::new(letter).to_record(), count: 0 });
        all.extend_from_slice(records);
        self.store.spill(&all, now)
    }

    /// All letters, oldest first. Reads nothing.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        let signal = &self.store.config.signal;
        let listed = self.store.files.iter().filter_map(|(key, file)| {
            let time = FileName::parse(signal, &key.name)?.time;
            Some(Listed { name: key.name.clone(), time, count: file.promised, bytes: file.bytes })
        });
        listed.collect()
    }

    /// Reads a letter and its records; it stays. Memory: the whole letter, 64 MiB at most.
    ///
    /// # Errors
    ///
    /// If there is none, or it cannot be read. One that is damaged is set aside, and its count has left.
    pub fn read(&mut self, name: &str) -> Result<(Letter, Vec<Vec<u8>>), LetterError> {
        self.read_whole_or(name, Part::Whole)
    }

    fn read_whole_or(&mut self, name: &str, part: Part) -> Result<Whole, LetterError> {
        let key = self.key(name)?;
        match self.read_records(&key, part) {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(damage)) => {
                if let Some(file) = self.store.forget(&key) {
                    self.store.set_aside(&key, damage, file.remaining(), file.promised);
                }
                Err(LetterError::Damaged { name: key.name, damage })
            }
            Err(error) if error.is_not_found() => {
                self.store.vanished(&key);
                Err(LetterError::Unknown { name: key.name })
            }
            Err(error) => Err(LetterError::File(error)),
        }
    }

    /// What is known of a letter, by its beginning alone: memory and time do not depend on what else is in it.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn describe(&mut self, name: &str) -> Result<Letter, LetterError> {
        self.read_whole_or(name, Part::Letter).map(|(letter, _)| letter)
    }

    /// What is in a letter, in the caller's unit, and its length on disk. Reads nothing.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn size(&self, name: &str) -> Result<(u64, u64), LetterError> {
        let key = self.key(name)?;
        Ok(self.store.files.get(&key).map_or((0, 0), |file| (file.promised, file.bytes)))
    }

    /// Moves a letter to where its records are sent from: `records` makes of its lines what the store keeps, the store writes that
    /// to a file of its own beside what it has (see [`FileFallback::spill_beside`]), and only then the letter goes.
    ///
    /// A crash in between leaves it in both, never in neither.
    ///
    /// # Errors
    ///
    /// The letter stays, and the store has nothing of it.
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
                // It is elsewhere now, and must not go there once more.
                if let Ok(key) = self.key(name) {
                    self.store.forget(&key);
                    self.store.leftovers.push(key.name);
                }
                Err(error)
            }
        };
        Ok(Redriven { spilled, removed })
    }

    /// Removes a letter, durably; says what was in it.
    ///
    /// # Errors
    ///
    /// If there is none, or the file system refuses.
    pub fn remove(&mut self, name: &str) -> Result<u64, LetterError> {
        let key = self.key(name)?;
        match self.store.dir.remove(&key.name) {
            Err(error) if !error.is_not_found() => return Err(LetterError::File(error)),
            Ok(()) | Err(_) => {}
        }
        let count = self.store.forget(&key).map_or(0, |file| file.remaining());
        self.store.dir.sync().map_err(LetterError::File)?;
        Ok(count)
    }

    /// What is kept now. O(1).
    #[must_use]
    pub const fn stored(&self) -> Stored {
        self.store.stored()
    }

    /// [`FileFallback::clean_up`] for letters.
    #[must_use = "what is returned is gone"]
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
        let unknown = || LetterError::Unknown { name: name.to_owned() };
        let seq = FileName::parse(&self.store.config.signal, name).ok_or_else(unknown)?.seq;
        let key = Key { seq, name: name.to_owned() };
        if self.store.files.contains_key(&key) { Ok(key) } else { Err(unknown()) }
    }

    fn read_records(&self, key: &Key, part: Part) -> Result<Result<Whole, Damage>, FileError> {
        let reader = self.store.open_reader(key)?;
        if reader.format != Format::Lines {
            return Ok(Err(Damage::Rejected));
        }
        let mut reader = reader.records;
        let failed = |source| FileError::Io { path: self.store.path().join(&key.name), action: "read", source };
        let (mut letter, mut records, mut bytes) = (None, Vec::new(), 0);
        loop {
            match reader.next().map_err(failed)? {
                Item::Record(record) if letter.is_none() => match Header::parse(reader.text(&record)) {
                    Some(parsed) if part == Part::Letter => return Ok(Ok((parsed, records))),
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

impl Header {
    fn new(letter: &Letter) -> Self {
        let cut = |text: &str| text.chars().take(MAX_TEXT).collect();
        let time = |time: SystemTime| {
            let micros = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
            let time = i64::try_from(micros).ok().and_then(|micros| Timestamp::from_microsecond(micros).ok());
            time.unwrap_or(Timestamp::MAX).to_string()
        };
        Self {
            dead_letter: VERSION,
            signal: cut(&letter.signal),
            status: cut(&letter.status),
            reason: cut(&letter.reason),
            endpoint: cut(&letter.endpoint),
            attempts: letter.attempts,
            accepted: time(letter.accepted),
            refused: time(letter.refused),
        }
    }

    fn to_record(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers have a JSON form")
    }

    fn parse(record: &[u8]) -> Option<Letter> {
        let header: Self = serde_json::from_slice(record).ok()?;
        let time = |text: &str| text.parse::<Timestamp>().ok().map(SystemTime::from);
        (header.dead_letter == VERSION).then_some(())?;
        Some(Letter {
            accepted: time(&header.accepted)?,
            refused: time(&header.refused)?,
            signal: header.signal,
            status: header.status,
            reason: header.reason,
            endpoint: header.endpoint,
            attempts: header.attempts,
        })
    }
}

impl fmt::Display for LetterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name } => {
                let shown: String = name.chars().take(MAX_TEXT).collect();
                write!(f, "there is no dead letter {shown:?}: list them")
            }
            Self::Damaged { name, damage } => {
                write!(f, "dead letter {name:?} was set aside in the quarantine: {}", damage.as_str())
            }
            Self::File(_) => f.write_str("the dead letter cannot be read or removed now"),
            Self::Forked => f.write_str("this process was forked from the one that opened the dead letters"),
        }
    }
}

impl std::error::Error for LetterError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File(error) => Some(error),
            Self::Unknown { .. } | Self::Damaged { .. } | Self::Forked => None,
        }
    }
}

impl<E: fmt::Display> fmt::Display for RedriveError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Letter(error) => error.fmt(f),
            Self::Unusable(error) => write!(f, "the dead letter cannot be used: {error}"),
            Self::Store(_) => f.write_str("the dead letter stays, as the store did not take it"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for RedriveError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Letter(error) => error.source(),
            Self::Unusable(error) => error.source(),
            Self::Store(error) => Some(error),
        }
    }
}

/// Of the first record. A letter of another version is set aside, not guessed at.
const VERSION: u32 = 1;

/// The largest request that OTLP recommends to accept.
const MAX_LETTER_TEXT: u64 = 64 << 20;

/// The most characters of each text.
const MAX_TEXT: usize = 2_000;

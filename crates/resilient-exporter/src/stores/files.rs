//! Fallback files of spans: where `file-fallback`, which knows records, meets `otlp-payload`, which knows spans.

mod dead_letters;

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use bytes::Bytes;
use file_fallback::dead_letters::DeadLetters;
use file_fallback::{
    Config, Evicted, FileFallback, Next, Notice, Reason, SecondProcess, SettleError, SpillError, Verdict,
};
use otlp_payload::Payload;
use safe_dir::{Directory, SafeDir};

use crate::report::ledger::DropReason;
use crate::seams::dead_letters::{DeadLetter, DeadLetterError, Redriven};
use crate::seams::fallback::{Change, Fallback, FallbackError, Kept, Stored};
use crate::seams::fates::{Fate, Refusal};
use crate::seams::settings::{self, FallbackFormat, Files};
use crate::stores::records::{self, MAX_RECORD_BYTES};

/// So many groups without a span, or so many bytes of them, are read at a time: then somebody else gets the disk.
const MAX_GROUPS_IN_VAIN: usize = 16;
const MAX_BYTES_IN_VAIN: usize = 8 * 1_024 * 1_024;

/// Clean-ups, of which there is about one a second, between two looks for files of processes that have ended.
const ADOPT_EVERY: u32 = 5;

/// The settings of `file-fallback` for fallback files in `dir`.
fn files_config(files: &Files, dir: PathBuf) -> Result<Config, FileStoreError> {
    let config = Config::builder(dir)
        .with_signal("traces")
        .with_max_bytes(files.max_bytes)
        .with_max_age(files.max_age)
        .with_format(files.format.of_files())
        .with_compression(files.compression)
        .with_compress_above(files.compress_above)
        .with_max_record_bytes(MAX_RECORD_BYTES);
    config.build().map_err(FileStoreError::Settings)
}

/// The settings of `file-fallback` for dead letters in `dir`.
fn letters_config(letters: &settings::DeadLetters, dir: PathBuf) -> Result<Config, FileStoreError> {
    let config = DeadLetters::config(dir)
        .with_max_bytes(letters.max_bytes)
        .with_max_age(letters.max_age)
        .with_max_record_bytes(MAX_RECORD_BYTES)
        .with_second_process(SecondProcess::Subdirectory);
    config.build().map_err(FileStoreError::Settings)
}

/// What a record of the group that was read last came to.
enum State {
    /// It is batch number so of what `read` returned.
    Batch,
    /// It holds no span.
    Empty,
    /// It is no OTLP.
    Garbage,
}

pub(crate) struct FileStore<D: Directory = SafeDir> {
    files: FileFallback<D>,
    format: FallbackFormat,
    /// Opened with the first letter or question: on good days there is no such directory.
    letters: Option<DeadLetters<D>>,
    open_letters: OpenLetters<D>,
    letters_config: Config,
    clean_ups: u32,
    /// What is wrong with the first record of a file that cannot be used, to be told when the file is set aside.
    garbage: BTreeMap<String, String>,
    /// The last reading stopped for the sake of others.
    gave_way: bool,
    reading: Option<(file_fallback::Group, Vec<State>)>,
    changes: Vec<Change>,
}

/// Opens the directory of the dead letters.
type OpenLetters<D> = Box<dyn Fn() -> Result<D, safe_dir::OpenError> + Send>;

/// Why a store of fallback files could not be opened.
#[derive(Debug)]
pub(crate) enum FileStoreError {
    /// A setting is out of range.
    Settings(file_fallback::InvalidConfig),
    /// The directory cannot be used, or is not safe to use.
    Open(file_fallback::OpenError),
}

impl FileStore {
    pub(crate) fn open(
        dir: PathBuf,
        files: &Files,
        letters_dir: PathBuf,
        letters: &settings::DeadLetters,
    ) -> Result<Self, FileStoreError> {
        let opened = FileFallback::open(files_config(files, dir)?).map_err(FileStoreError::Open)?;
        let config = letters_config(letters, letters_dir.clone())?;
        let open_letters = Box::new(move || SafeDir::open(&letters_dir));
        Ok(Self::new(opened, files.format, open_letters, config))
    }
}

impl<D: Directory> FileStore<D> {
    /// In directories that the caller opens.
    #[cfg(test)]
    pub(crate) fn open_in(dir: D, open_letters: OpenLetters<D>, files: &Files) -> Result<Self, FileStoreError> {
        let config = files_config(files, dir.path().to_owned())?;
        let opened = FileFallback::open_in(config, dir).map_err(FileStoreError::Open)?;
        let letters = letters_config(&settings::DeadLetters::default(), PathBuf::from("dead-letters"))?;
        Ok(Self::new(opened, files.format, open_letters, letters))
    }

    fn new(
        files: FileFallback<D>,
        format: FallbackFormat,
        open_letters: OpenLetters<D>,
        letters_config: Config,
    ) -> Self {
        let mut store = Self {
            files,
            format,
            letters: None,
            open_letters,
            letters_config,
            clean_ups: 0,
            garbage: BTreeMap::new(),
            gave_way: false,
            reading: None,
            changes: Vec::new(),
        };
        // What was found while opening is in the first count already.
        store.log_notices();
        store
    }

    fn log_notices(&mut self) -> Vec<Notice> {
        let notices = self.files.take_notices();
        for notice in &notices {
            match notice {
                Notice::SetAside { name, moved_to, damage, count, .. } => {
                    let (damage, moved_to) = (damage.as_str(), moved_to.as_deref().unwrap_or("not moved"));
                    let detail = self.garbage.remove(name).unwrap_or_default();
                    tracing::warn!(name, damage, detail, moved_to, count, "a fallback file was set aside");
                }
                Notice::Missing { name, count } => {
                    tracing::warn!(name, count, "a fallback file held fewer spans than its name says");
                }
                Notice::Vanished { name, count } => {
                    self.garbage.remove(name);
                    tracing::warn!(name, count, "a fallback file was taken away");
                }
                other => tracing::info!(notice = ?other, "fallback files"),
            }
        }
        notices
    }

    fn note(&mut self) {
        for notice in self.log_notices() {
            let change = match notice {
                Notice::SetAside { count, .. } | Notice::Missing { count, .. } => {
                    Change::Dropped { spans: count, reason: DropReason::Corrupt }
                }
                Notice::Vanished { count, .. } => Change::TakenOver { spans: count },
                Notice::Adopted { count, .. } => Change::Recovered { spans: count },
                _ => continue,
            };
            self.changes.push(change);
        }
    }

    fn evicted(&mut self, evicted: &[Evicted]) {
        for file in evicted {
            self.garbage.remove(&file.name);
        }
        self.changes.extend(evicted.iter().map(|file| Change::Dropped {
            spans: file.count,
            reason: match file.reason {
                Reason::MaxAge => DropReason::FallbackAge,
                _ => DropReason::FallbackFull,
            },
        }));
    }

    /// Tells the files what became of the records of a group.
    fn settle(&mut self, group: file_fallback::Group, states: &[State], fates: &[Fate]) -> Result<(), FallbackError> {
        let mut fates = fates.iter();
        let verdicts = states.iter().map(|state| match state {
            State::Empty => Verdict::Done(0),
            State::Garbage => Verdict::Rejected,
            State::Batch => match fates.next() {
                Some(Fate::Finished { delivered, rejected, refused }) => {
                    let refused = refused.iter().map(|refusal| refusal.payload.span_count()).sum::<usize>();
                    Verdict::Done((delivered + rejected + refused) as u64)
                }
                Some(Fate::Kept) | None => Verdict::Keep,
            },
        });
        let verdicts = verdicts.collect::<Vec<_>>();
        let result = self.files.settle(group, &verdicts);
        if let Ok(settled) | Err(SettleError::NotDurable { settled, .. }) = &result
            && settled.surplus > 0
        {
            self.changes.push(Change::Recovered { spans: settled.surplus });
        }
        self.note();
        result.map(drop).map_err(told)
    }
}

impl<D: Directory + 'static> Fallback for FileStore<D>
where
    D::File: 'static,
    D::Lock: 'static,
{
    fn kept(&self) -> Kept {
        let stored = self.files.stored();
        Kept { files: stored.files, spans: stored.count, bytes: stored.bytes }
    }

    fn keep(&mut self, batches: &[Payload], now: SystemTime) -> Result<Stored, FallbackError> {
        self.keep_announced(batches, now, &mut |_| {})
    }

    fn holds(&mut self, name: &str) -> io::Result<bool> {
        self.files.holds(name).map_err(|error| io::Error::other(told(error).to_string()))
    }

    fn keep_announced(
        &mut self,
        batches: &[Payload],
        now: SystemTime,
        announce: &mut dyn FnMut(&str),
    ) -> Result<Stored, FallbackError> {
        let mut records = Vec::new();
        for batch in batches {
            records.append(&mut self.format.records(batch).map_err(FallbackError::of_batches)?);
        }
        let result = self.files.spill_announced(&records, now, announce);
        match &result {
            Ok(spilled) => self.evicted(&spilled.evicted),
            Err(error) => self.evicted(error.evicted()),
        }
        self.note();
        result.map(|spilled| Stored { name: spilled.name }).map_err(|error| match error {
            SpillError::TooLarge { .. } | SpillError::Record { .. } => FallbackError::of_batches(error),
            error => told(error),
        })
    }

    fn read(&mut self, max_bytes: usize) -> Result<Vec<(Bytes, usize)>, FallbackError> {
        self.gave_way = false;
        let mut bytes_in_vain = 0;
        for _ in 0..MAX_GROUPS_IN_VAIN {
            let next = self.files.next_group(max_bytes);
            self.note();
            let mut group = match next.map_err(told)? {
                Next::Group(group) => group,
                Next::Pause => break,
                Next::Empty => return Ok(Vec::new()),
            };
            bytes_in_vain += group.bytes();
            let (mut batches, mut first_error) = (Vec::new(), None);
            // The group keeps their number, for the marks; their bytes are in the batches.
            let format = group.format();
            let read = group.records.iter_mut().map(|record| records::request(std::mem::take(record), format));
            let read = read.collect::<Vec<_>>();
            let states = read.into_iter().map(|request| match request {
                Ok((_, 0)) => State::Empty,
                Ok(batch) => {
                    batches.push(batch);
                    State::Batch
                }
                Err(error) => {
                    first_error.get_or_insert(error);
                    State::Garbage
                }
            });
            let states = states.collect::<Vec<_>>();
            if let Some(error) = first_error {
                self.garbage.entry(group.file().to_owned()).or_insert(error);
            }
            if !batches.is_empty() {
                self.reading = Some((group, states));
                return Ok(batches);
            }
            self.settle(group, &states, &[])?;
            if bytes_in_vain > MAX_BYTES_IN_VAIN {
                break;
            }
        }
        self.gave_way = true;
        Ok(Vec::new())
    }

    fn gave_way(&self) -> bool {
        self.gave_way
    }

    fn finish(&mut self, fates: &[Fate]) -> Result<(), FallbackError> {
        match self.reading.take() {
            Some((group, states)) => self.settle(group, &states, fates),
            None => Ok(()),
        }
    }

    fn clean_up(&mut self, now: SystemTime) {
        // Files of a further process on this directory that has ended meanwhile: a look into the directory now and then.
        self.clean_ups = self.clean_ups.wrapping_add(1);
        if self.clean_ups.is_multiple_of(ADOPT_EVERY)
            && let Err(error) = self.files.adopt()
        {
            tracing::warn!(error = told(error).to_string(), "files of a process that has ended were not taken over");
        }
        let evicted = self.files.clean_up(now);
        self.evicted(&evicted);
        self.note();
        self.clean_up_letters(now);
    }

    fn changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    fn dead_letter_ids(&mut self) -> Result<Vec<String>, DeadLetterError> {
        Ok(self.letters()?.list().into_iter().map(|listed| listed.name).collect())
    }

    fn describe_dead_letter(&mut self, id: &str) -> Result<DeadLetter, DeadLetterError> {
        self.letter_described(id)
    }

    fn dead_letter(&mut self, id: &str) -> Result<(DeadLetter, Vec<String>), DeadLetterError> {
        self.letter_read(id)
    }

    fn redrive(&mut self, id: &str, now: SystemTime) -> Result<Redriven, DeadLetterError> {
        self.letter_redriven(id, now)
    }

    fn remove_dead_letter(&mut self, id: &str) -> Result<u64, DeadLetterError> {
        self.letter_removed(id)
    }

    fn bury(&mut self, refusals: &[Refusal], endpoint: &str, now: SystemTime) -> bool {
        let kept = refusals.iter().try_for_each(|refusal| self.keep_letter(refusal, endpoint, now));
        if let Err(error) = &kept {
            tracing::warn!(error = error.to_string(), "a dead letter was not kept");
        }
        kept.is_ok()
    }
}

/// The whole story in one line: `health` shows it to a person.
fn told(error: impl Error + Send + Sync + 'static) -> FallbackError {
    FallbackError::new(whole_story(&error))
}

fn whole_story(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

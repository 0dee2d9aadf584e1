//! Fallback files of spans: `file-fallback` stores records, `otlp-payload` turns batches into records and back.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use file_fallback::dead_letters::DeadLetters;
use file_fallback::{
    Config, Damage, Evicted, FileFallback, Group, Notice, Reason, Remembered, SettleError, SpillError, Verdict,
};
use otlp_payload::{Payload, Signal};
use safe_dir::{Directory, SafeDir};

use self::ahead::{Ahead, Found};
use self::oldest::Spilled;
pub(crate) use self::upkeep::Place;
use self::upkeep::Upkeep;
use super::dead_letters::DeadLetterStore;
use super::home::Part;
use super::log::StoreLog;
use super::marks;
use super::records::{self, MAX_RECORD_BYTES};
use super::{in_one_line, place_of};
use crate::report::ledger::DropReason;
use crate::report::log;
use crate::report::warnings::Kind;
use crate::seams::dead_letters::{DeadLetter, DeadLetterError, Redriven};
use crate::seams::fallback::{Change, Fallback, FallbackError, Order, ReadBack, SetAside, Stored, StoredBatch, Usage};
use crate::seams::fates::{Fate, Refusal};
use crate::seams::settings::{self, FallbackFormat, Files};

/// Clean-ups between two counts of the files that were set aside, which an operator may remove.
const COUNT_ASIDE_EVERY: u32 = 30;

/// Each process begins to number its files somewhere below this number, so that no two files have one name, although
/// two processes may write in the same millisecond: a journal asks for the file of a spill by its name.
const FIRST_NUMBERS: u64 = 10_000_000;

mod ahead;
mod convert;
mod oldest;
mod upkeep;

/// The settings of `file-fallback` for fallback files in `dir`, of a signal and a process by its incarnation.
fn files_config(
    files: &Files,
    reserve: u64,
    newest: Option<SystemTime>,
    of: (Signal, u64),
    dir: PathBuf,
) -> Result<Config, FileStoreError> {
    let (signal, incarnation) = of;
    let config = Config::builder(dir)
        .with_signal(signal.as_str())
        .with_first_number(incarnation % FIRST_NUMBERS + 1)
        .with_free_space_reserve(reserve)
        .with_newest_time(newest)
        .with_max_bytes(files.max_bytes)
        .with_max_age(files.max_age)
        .with_format(files.format.of_files())
        .with_compression(files.compression)
        .with_compress_above(files.compress_above)
        .with_max_record_bytes(MAX_RECORD_BYTES);
    config.build().map_err(FileStoreError::Settings)
}

/// The settings of `file-fallback` for dead letters in `dir`.
fn letters_config(
    letters: &settings::DeadLetters,
    reserve: u64,
    newest: Option<SystemTime>,
    dir: PathBuf,
) -> Result<Config, FileStoreError> {
    let config = DeadLetters::config(dir)
        .with_max_bytes(letters.max_bytes)
        .with_max_age(letters.max_age)
        .with_free_space_reserve(reserve)
        .with_newest_time(newest)
        .with_max_record_bytes(MAX_RECORD_BYTES);
    config.build().map_err(FileStoreError::Settings)
}

/// The content of one record of the group that was read last.
enum Content {
    /// The next batch of the group that `read` returned.
    Batch,
    /// A request without a span.
    Empty,
    /// No OTLP.
    Garbage,
}

pub(crate) struct FileStore<D: Directory = SafeDir> {
    files: FileFallback<D>,
    format: FallbackFormat,
    /// The limit of the settings, for the journals and files of all processes together.
    max_bytes: u64,
    upkeep: Upkeep<D>,
    dead_letters: DeadLetterStore<D>,
    clean_ups: u32,
    spilled: Spilled,
    /// The files in quarantine as of the last count.
    set_aside: SetAside,
    /// The error in the first unreadable record of a file, by the file's name; logged when the file is set aside.
    garbage: BTreeMap<String, String>,
    reading: Option<(Group, Vec<Content>)>,
    ahead: Option<Ahead>,
    changes: Vec<Change>,
    log: StoreLog,
}

/// Why a store of fallback files could not be opened.
#[derive(Debug)]
pub(crate) enum FileStoreError {
    /// A setting is out of range.
    Settings(file_fallback::InvalidConfig),
    /// The directory cannot be used, or is not safe to use.
    Directory(safe_dir::OpenError),
    /// The directory cannot be opened as a store.
    Open(file_fallback::OpenError),
}

impl<D: Directory> FileStore<D> {
    /// Opens new stores in the directory of this process, and moves files of processes that have ended there. Of each
    /// process with a journal the journal must be open, if this process has durable mode.
    pub(crate) fn open(
        place: Place<D>,
        files: &Files,
        letters: &settings::DeadLetters,
        free_space_reserve: u64,
    ) -> Result<Self, FileStoreError> {
        let (dir, generation) = place.files.own(Part::Files).map_err(FileStoreError::Directory)?;
        let remembered = place.files.remembered_time();
        let newest = remembered.time();
        let of = (place.files.signal(), place.files.incarnation());
        let config = files_config(files, free_space_reserve, newest, of, dir.path().to_owned())?;
        let letters_dir = place.letters.path().join(Part::Letters.name());
        let letters_config = letters_config(letters, free_space_reserve, newest, letters_dir)?;
        let opened = FileFallback::open_in(config, dir).map_err(FileStoreError::Open)?;
        let dead_letters = DeadLetterStore::new(Arc::clone(&place.letters), letters_config);
        let (garbage, changes, log) = (BTreeMap::new(), Vec::new(), StoreLog::default());
        let (clean_ups, set_aside, reading) = (0, SetAside::default(), None);
        let now = place.clock.wall();
        let mut store = Self {
            files: opened,
            format: files.format,
            max_bytes: files.max_bytes,
            upkeep: Upkeep::new(place, generation),
            dead_letters,
            clean_ups,
            spilled: Spilled::default(),
            set_aside,
            garbage,
            reading,
            ahead: None,
            changes,
            log,
        };
        if remembered == Remembered::Unreadable {
            store.log.warn(Kind::ClockUnreadable, 0, &store.upkeep.path());
        }
        // Whether the wall clock is believed is known from the start.
        store.files.set_time(now);
        store.take_over(now);
        store.share_limits();
        store.count_aside();
        store.note_changes();
        store.leave_out_first_usage();
        if newest.is_none() {
            // A process that ends within a second has told the next one the time too.
            store.remember(now);
        }
        Ok(store)
    }

    /// Files that were found while opening, and are still here, are in the first usage already.
    fn leave_out_first_usage(&mut self) {
        self.changes.retain(|change| !matches!(change, Change::Recovered { .. }));
        let left = self.changes.iter().map(|change| match change {
            Change::Dropped { spans, .. } | Change::TakenOver { spans } => *spans,
            Change::DeadLettersEvicted { .. } | Change::Recovered { .. } => 0,
        });
        let spans = left.sum();
        if spans > 0 {
            self.changes.insert(0, Change::Recovered { spans });
        }
    }

    /// The directory of the files.
    #[cfg(test)]
    pub(crate) fn path(&self) -> &std::path::Path {
        self.files.path()
    }

    /// A new process, without durable mode, opens the stores in a state directory.
    #[cfg(test)]
    pub(crate) fn open_in(
        root: super::home::OpenRoot<D>,
        files: &Files,
        letters: &settings::DeadLetters,
    ) -> Result<Self, FileStoreError> {
        let machine = safe_dir::Machine { boot_id: "boot".to_owned(), host: "host".to_owned() };
        let old = super::old_layout::OldLayout::new(Vec::new(), None);
        let home = super::home::Home::open(root, "test".to_owned(), machine, 1, files.max_bytes, old);
        let home = Arc::new(home.expect("a state directory").0);
        let clock = Arc::new(crate::seams::clock::SystemClock);
        Self::open(Place { files: Arc::clone(&home), letters: home, journal: None, clock }, files, letters, 0)
    }

    fn log_notices(&mut self) -> Vec<Notice> {
        let notices = self.files.take_notices();
        for notice in &notices {
            match notice {
                Notice::SetAside { name, moved_to, damage, count, .. } => {
                    let error = self.garbage.remove(name).map(|error| format!(" ({error})")).unwrap_or_default();
                    let (text, place) = (damage.as_str(), place_of(moved_to.as_deref()));
                    let kind = if *damage == Damage::Incomplete { Kind::FileShort } else { Kind::FileSetAside };
                    self.log.warn(kind, *count, &format!("{name}: {text}{error}; {place}"));
                }
                Notice::Vanished { name, count } => {
                    self.garbage.remove(name);
                    self.log.warn(Kind::FileTaken, *count, name);
                }
                Notice::AgeRests { until } => self.log.warn(Kind::AgeRests, 0, &shown(*until)),
                Notice::ClockSetBack { from, to } => {
                    self.log.warn(Kind::ClockSetBack, 0, &format!("from {} to {}", shown(*from), shown(*to)));
                }
                Notice::RemovedAfterRest { name } => self.log.warn(Kind::RemovedForAge, 0, name),
                other => log::info_contained!(notice = ?other, "fallback files"),
            }
        }
        notices
    }

    /// A count that fails leaves the last one.
    fn count_aside(&mut self) {
        if let Ok(file_fallback::SetAside { files, count: spans }) = self.files.set_aside() {
            self.set_aside = SetAside { files, spans };
        }
    }

    /// Logs the notices of the files and turns them into changes.
    fn note_changes(&mut self) {
        let notices = self.log_notices();
        if notices.iter().any(|notice| !matches!(notice, Notice::Vanished { .. })) {
            self.count_aside();
        }
        for notice in notices {
            let change = match notice {
                Notice::SetAside { count, .. } => Change::Dropped { spans: count, reason: DropReason::Corrupt },
                Notice::Vanished { count, .. } => Change::TakenOver { spans: count },
                Notice::Adopted { count, .. } => Change::Recovered { spans: count },
                _ => continue,
            };
            self.changes.push(change);
        }
    }

    fn note_evicted(&mut self, evicted: &[Evicted]) {
        if !evicted.is_empty() {
            // A file that has just been adopted enters the ledger before it leaves it.
            self.note_changes();
        }
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

    /// Decodes the records of a group. Returns the batches, and the content of each record for its mark.
    fn decode(&mut self, group: &mut Group) -> (Vec<StoredBatch>, Vec<Content>) {
        let signal = self.upkeep.signal();
        let decoded = self.files.decode(group, |source, record| records::request(signal, record, source.format));
        let (mut batches, mut contents) = (Vec::new(), Vec::new());
        for (source, decoded) in group.sources().zip(decoded) {
            contents.push(match decoded.unwrap_or_else(|| Err("its decoder panicked".to_owned())) {
                Ok((_, 0)) => Content::Empty,
                Ok((request, spans)) => {
                    let failures = marks::failures_of(source.attempts);
                    batches.push(StoredBatch { request, spans, failures });
                    Content::Batch
                }
                Err(error) => {
                    self.garbage.entry(source.file.to_owned()).or_insert(error);
                    Content::Garbage
                }
            });
        }
        (batches, contents)
    }

    /// Marks the records of a group by the fates of its batches.
    fn mark(&mut self, group: Group, contents: &[Content], fates: &[Fate]) -> Result<(), FallbackError> {
        let mut fates = fates.iter();
        let verdicts = contents.iter().map(|content| match content {
            Content::Empty => Verdict::Done(0),
            Content::Garbage => Verdict::Rejected,
            Content::Batch => match fates.next() {
                Some(Fate::Finished { delivered, rejected, refused }) => {
                    let refused = refused.iter().map(|refusal| refusal.payload.item_count()).sum::<usize>();
                    Verdict::Done((delivered + rejected + refused) as u64)
                }
                Some(Fate::Pending(failures)) => Verdict::Failed(marks::attempts_of(*failures)),
                None => Verdict::Keep,
            },
        });
        let verdicts = verdicts.collect::<Vec<_>>();
        let result = self.files.settle(group, &verdicts);
        let surplus = match &result {
            Ok(settled) | Err(SettleError::NotDurable { settled, .. }) => settled.surplus,
            // The directory has vanished since the group was read: its files have left the ledger.
            Err(SettleError::UnknownGroup) => {
                let done = |verdict: &Verdict| if let Verdict::Done(spans) = verdict { *spans } else { 0 };
                verdicts.iter().map(done).sum()
            }
            Err(_) => 0,
        };
        if surplus > 0 {
            self.changes.push(Change::Recovered { spans: surplus });
        }
        self.note_changes();
        match result {
            // No file is left that a mark could be about.
            Err(SettleError::UnknownGroup) => Ok(()),
            result => result.map(drop).map_err(in_one_line),
        }
    }
}

/// A time by the wall clock, for people.
fn shown(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| "an unknown time".to_owned(), |time| format!("{time:.0}"))
}

impl<D: Directory + 'static> Fallback for FileStore<D>
where
    D::File: 'static,
    D::Lock: 'static,
{
    fn usage(&self) -> Usage {
        let stored = self.files.stored();
        Usage { files: stored.files, spans: stored.count, bytes: stored.bytes }
    }

    fn set_aside(&self) -> SetAside {
        self.set_aside
    }

    fn dead_letter_usage(&self) -> Usage {
        self.dead_letters.usage()
    }

    fn max_bytes(&self) -> Option<u64> {
        Some(self.files.max_bytes())
    }

    fn full_in(&mut self, now: SystemTime) -> Option<Duration> {
        self.files.full_in(now)
    }

    fn oldest(&mut self) -> Option<SystemTime> {
        self.spilled.oldest(self.files.oldest_time())
    }

    fn age_rests_until(&self) -> Option<SystemTime> {
        self.files.age_rests_until()
    }

    fn store(&mut self, batches: &[Payload], now: SystemTime) -> Result<Stored, FallbackError> {
        self.store_announced(batches, now, &mut |_| {})
    }

    fn store_announced(
        &mut self,
        batches: &[Payload],
        now: SystemTime,
        announce: &mut dyn FnMut(&str),
    ) -> Result<Stored, FallbackError> {
        let mut records = Vec::new();
        for batch in batches {
            records.append(&mut self.format.records(batch).map_err(FallbackError::of_batches)?);
        }
        self.beat();
        self.forget_ahead();
        let mut result = self.files.spill_announced(&records, now, announce);
        if result.is_err() && self.renew_if_gone() {
            result = self.files.spill_announced(&records, now, announce);
        }
        match &result {
            Ok(spilled) => {
                self.spilled.on_stored(batches, now);
                self.note_evicted(&spilled.evicted);
            }
            Err(error) => self.note_evicted(error.evicted()),
        }
        self.note_changes();
        result.map(|spilled| Stored { name: spilled.name }).map_err(|error| match error {
            SpillError::TooLarge { .. } | SpillError::Record { .. } => FallbackError::of_batches(error),
            error => in_one_line(error),
        })
    }

    fn has_file(&mut self, name: &str) -> io::Result<bool> {
        self.files.holds(name).map_err(|error| io::Error::other(in_one_line(error).to_string()))
    }

    fn read(&mut self, order: Order, max_bytes: usize) -> Result<ReadBack, FallbackError> {
        if let Some((group, contents)) = self.reading.take() {
            // The fates of the last group got lost: its batches stay stored.
            self.mark(group, &contents, &[])?;
        }
        Ok(match self.found(order, max_bytes)? {
            Found::Group { group, batches, contents } => {
                self.reading = Some((group, contents));
                ReadBack::Group(batches)
            }
            Found::Pause => ReadBack::Pause,
            Found::Empty => ReadBack::Empty,
        })
    }

    fn read_ahead(&mut self, order: Order, max_bytes: usize) {
        self.look_ahead(order, max_bytes);
    }

    fn settle(&mut self, fates: &[Fate]) -> Result<(), FallbackError> {
        match self.reading.take() {
            Some((group, contents)) => self.mark(group, &contents, fates),
            None => Ok(()),
        }
    }

    fn clean_up(&mut self, now: SystemTime) {
        self.clean_ups = self.clean_ups.wrapping_add(1);
        self.forget_ahead();
        self.renew_if_gone();
        self.take_over(now);
        self.share_limits();
        let evicted = self.files.clean_up(now);
        self.note_evicted(&evicted);
        self.note_changes();
        if self.clean_ups.is_multiple_of(COUNT_ASIDE_EVERY) {
            self.count_aside();
        }
        self.dead_letters.clean_up(now);
        self.remember_time();
        if self.files.stored().files > 0 {
            self.beat();
        }
        self.log.flush();
    }

    fn next_clean_up(&self) -> Option<Duration> {
        self.clean_up_due()
    }

    fn changes(&mut self) -> Vec<Change> {
        let mut changes = std::mem::take(&mut self.changes);
        changes.append(&mut self.dead_letters.take_changes());
        changes
    }

    fn store_dead_letters(&mut self, refusals: &[Refusal], endpoint: &str, now: SystemTime) -> Option<usize> {
        self.beat_for_letter();
        for (stored, refusal) in refusals.iter().enumerate() {
            if let Err(error) = self.dead_letters.store(refusal, endpoint, now) {
                self.log.warn(Kind::LetterNotStored, refusal.payload.item_count() as u64, &error.to_string());
                return Some(stored);
            }
        }
        Some(refusals.len())
    }

    fn dead_letter_ids(&mut self) -> Result<Vec<String>, DeadLetterError> {
        self.dead_letters.ids()
    }

    fn describe_dead_letter(&mut self, id: &str) -> Result<DeadLetter, DeadLetterError> {
        self.dead_letters.describe(id)
    }

    fn dead_letter(&mut self, id: &str) -> Result<(DeadLetter, Vec<String>), DeadLetterError> {
        self.dead_letters.read(id)
    }

    fn redrive(&mut self, id: &str, now: SystemTime) -> Result<Redriven, DeadLetterError> {
        self.beat();
        let redriven = self.dead_letters.redrive(id, &mut self.files, self.format, now);
        self.note_changes();
        redriven
    }

    fn remove_dead_letter(&mut self, id: &str) -> Result<u64, DeadLetterError> {
        self.dead_letters.remove(id)
    }
}

#[cfg(test)]
mod tests;

//! How the stores are opened: the state directory first, the journal second, the files last.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::journal::Config;
use otlp_payload::Signal;
use otlp_transport::ErrorChain;
use safe_dir::{Machine, SafeDir};

use super::Builder;
use crate::error::BuildError;
use crate::report::log;
use crate::report::notes::StorageNote;
use crate::seams::fallback::Fallback;
use crate::seams::journal::Journal;
use crate::stores::files::{FileStore, FileStoreError, Place};
use crate::stores::home::{Home, StateDirError};
use crate::stores::journal::FileJournal;
use crate::stores::layout;
use crate::stores::old_layout::{Find, OldDir, OldLayout};
use crate::stores::outages::OutageFiles;

/// The stores of an exporter.
#[derive(Default)]
pub(super) struct Storage {
    pub(super) fallback: Option<Box<dyn Fallback>>,
    pub(super) journal: Option<Box<dyn Journal>>,
    /// The reason for which an enabled fallback is missing.
    pub(super) no_fallback: Option<String>,
    /// The trouble that was found, in the words of health. The log has each of them.
    pub(super) notes: Vec<StorageNote>,
    /// The directories, which wake the threads of the storage.
    pub(super) homes: Vec<Arc<Home<SafeDir>>>,
    /// The records of outages; none without a directory.
    pub(super) outages: Option<OutageFiles<SafeDir>>,
    /// The warnings that the log has got.
    pub(super) warnings: Vec<String>,
}

/// The directories of the stores that this builder opens.
#[derive(Default)]
struct Homes {
    state: Option<Arc<Home<SafeDir>>>,
    files: Option<Arc<Home<SafeDir>>>,
}

/// The remedy where a directory cannot be used.
const REMEDY: &str = "repair it or choose another directory, and restart";

impl Storage {
    /// Logs a warning, and keeps it for a program whose log subscriber comes later.
    fn warn(&mut self, warning: String) {
        log::warn_contained!("{warning}");
        self.warnings.push(warning);
    }

    /// The fallback has no directory: the program's own note of the reason takes the place of a general one.
    fn lacks_directory(&mut self) {
        if let Some(at) = self.notes.iter().position(StorageNote::is_memory_only) {
            self.no_fallback = Some(self.notes.remove(at).to_string());
            return;
        }
        let why = "fallback is enabled but has no directory: spans wait in memory only; set a state directory";
        self.warn(why.to_owned());
        self.no_fallback = Some(why.to_owned());
    }

    /// Names spans of other services in the layout before this one, which nothing sends.
    fn note_finds<'a>(&mut self, homes: impl Iterator<Item = &'a Arc<Home<SafeDir>>>) {
        for ((path, service), find) in homes.flat_map(|home| home.finds().0) {
            let Find { spans, journal_bytes } = find;
            let count = match (spans, journal_bytes) {
                (spans, 0) => format!("{spans} spans"),
                (0, bytes) => format!("a journal of {bytes} bytes"),
                (spans, bytes) => format!("{spans} spans and a journal of {bytes} bytes"),
            };
            let note = if service.is_empty() {
                StorageNote::new(
                    format!("{count} of an unknown service wait in {}", path.display()),
                    "look at them, and remove them or start their service once with an earlier version",
                )
            } else {
                StorageNote::new(
                    format!("{count} of \"{service}\" wait in {}", path.display()),
                    format!("start once with OTEL_SERVICE_NAME={service}"),
                )
            };
            self.warn(note.to_string());
            self.notes.push(note);
        }
    }

    fn miss_files(&mut self, note: StorageNote) {
        self.warn(note.to_string());
        self.no_fallback = Some(note.to_string());
    }

    fn miss_journal(&mut self, cause: impl Display, remedy: impl Display) {
        let note =
            StorageNote::new(format!("durable mode is off, and a crash loses the spans in memory: {cause}"), remedy);
        self.warn(note.to_string());
        self.notes.push(note);
    }
}

impl Builder {
    /// Opens the stores. A directory that cannot be used is an error if storage is required; otherwise its store is
    /// missing, and health says why.
    pub(super) fn open_storage(&mut self, signal: Signal, incarnation: u64) -> Result<Storage, BuildError> {
        let mut storage = Storage { notes: std::mem::take(&mut self.storage_notes), ..Storage::default() };
        let told = storage.notes.iter().map(ToString::to_string).collect::<Vec<_>>();
        told.into_iter().for_each(|note| storage.warn(note));
        if self.settings.fallback.enabled {
            storage.fallback = self.fallback.take();
        }
        if self.settings.journal.enabled {
            storage.journal = self.journal.take();
        }
        let (has_files, has_journal) = (self.opens_files(&storage), self.opens_journal(&storage));
        let of = (signal, incarnation);
        let homes = self.open_homes(&mut storage, has_files, has_journal, of)?;
        // The second may be the first: a home takes one waker.
        storage.homes = homes.state.iter().chain(&homes.files).cloned().collect();
        if has_journal {
            match &homes.state {
                Some(state) => self.open_journal(&mut storage, &homes, state)?,
                None if self.settings.state_dir.is_none() => self.no_journal_directory(&mut storage)?,
                None => {}
            }
        }
        if has_files {
            match &homes.files {
                Some(files) => self.open_files(&mut storage, &homes, files)?,
                None if storage.no_fallback.is_none() => storage.lacks_directory(),
                None => {}
            }
        }
        // After the other stores, which have adopted what ended processes have left.
        if let Some(home) = storage.homes.first().cloned() {
            let (outages, warning) = OutageFiles::open(home);
            storage.outages = Some(outages);
            warning.into_iter().for_each(|warning| storage.warn(warning));
        }
        storage
            .note_finds(homes.state.iter().chain(homes.files.iter().filter(|_| self.settings.fallback.dir.is_some())));
        Ok(storage)
    }

    fn opens_files(&self, storage: &Storage) -> bool {
        self.settings.fallback.enabled && storage.fallback.is_none()
    }

    fn opens_journal(&self, storage: &Storage) -> bool {
        self.settings.journal.enabled && storage.journal.is_none()
    }

    /// Makes the directories of this process.
    fn open_homes(
        &self,
        storage: &mut Storage,
        has_files: bool,
        has_journal: bool,
        of: (Signal, u64),
    ) -> Result<Homes, BuildError> {
        let mut homes = Homes::default();
        if !has_files && !has_journal {
            return Ok(homes);
        }
        let mut failed = None;
        if let Some(path) = &self.settings.state_dir {
            let old = std::iter::once(path).chain(&self.settings.old_state_dirs);
            let old = old.flat_map(|dir| OldDir::of_state_dir(dir)).collect();
            match self.open_home(storage, path.clone(), old, of) {
                Ok(home) => homes.state = Some(home),
                Err(error) => failed = Some((path.clone(), error)),
            }
        }
        homes.files.clone_from(&homes.state);
        if has_files && let Some(path) = &self.settings.fallback.dir {
            // Files of a directory of their own do not depend on the state directory.
            let old = std::iter::once(path).chain(&self.settings.old_fallback_dirs);
            let old = old.flat_map(|dir| OldDir::of_fallback_dir(dir)).collect();
            match self.open_home(storage, path.clone(), old, of) {
                Ok(home) => homes.files = Some(home),
                Err(error) => {
                    homes.files = None;
                    self.note_unusable(storage, path, error, true, false)?;
                }
            }
        }
        if let Some((path, error)) = failed {
            let misses_files = has_files && homes.files.is_none() && storage.no_fallback.is_none();
            self.note_unusable(storage, &path, error, misses_files, has_journal)?;
        }
        Ok(homes)
    }

    fn open_home(
        &self,
        storage: &mut Storage,
        path: PathBuf,
        old: Vec<OldDir<SafeDir>>,
        (signal, incarnation): (Signal, u64),
    ) -> Result<Arc<Home<SafeDir>>, StateDirError> {
        // Traces have the directory itself, as before there were others; earlier versions pass the others over.
        let (path, old) = match signal {
            Signal::Traces => (path, old),
            _ => {
                let above = SafeDir::open(&path).map_err(StateDirError::Open)?;
                let service = self.settings.state_service.as_deref().unwrap_or_default();
                layout::check(&above, service).map_err(StateDirError::Layout)?;
                (path.join(signal.as_str()), Vec::new())
            }
        };
        let old = OldLayout::new(old, self.settings.state_service.as_deref().map(name_of));
        let shown = path.display().to_string().escape_debug().to_string();
        let open = Box::new(move || SafeDir::open(&path));
        let service = self.settings.state_service.clone().unwrap_or_default();
        let max_bytes = self.settings.fallback.max_bytes;
        let (home, was_damaged) = Home::open(open, service, Machine::current(), incarnation, max_bytes, old)?;
        if was_damaged {
            storage
                .warn(format!("the file \"layout\" of the state directory {shown} was unreadable; it is written anew"));
        }
        if home.is_on_network() {
            storage.warn(format!(
                "the state directory {shown} is on a network or FUSE file system, where locks may hold on one machine \
                 only: spans of a process on another machine are taken over 60 s after its last sign of life; prefer a \
                 local directory"
            ));
        }
        // Without it a start on a full disk has memory only: no reason to do without storage now.
        drop(home.keep_reserve());
        Ok(Arc::new(home.of_signal(signal)))
    }

    /// The directory cannot be used: an error if storage is required; otherwise the stores that need it are missing.
    fn note_unusable(
        &self,
        storage: &mut Storage,
        path: &Path,
        error: StateDirError,
        misses_files: bool,
        misses_journal: bool,
    ) -> Result<(), BuildError> {
        if self.settings.state_dir_required {
            return Err(BuildError::StateDir { path: path.to_owned(), error });
        }
        let cause = format!("{} cannot be used ({})", path.display(), ErrorChain(&error));
        if misses_files {
            storage.miss_files(StorageNote::memory_only(&cause, REMEDY));
        }
        if misses_journal {
            storage.miss_journal(&cause, REMEDY);
        }
        Ok(())
    }

    fn no_journal_directory(&self, storage: &mut Storage) -> Result<(), BuildError> {
        if self.settings.state_dir_required {
            return Err(BuildError::NoJournalDirectory);
        }
        storage.miss_journal("the journal has no directory", "set a state directory");
        Ok(())
    }

    /// Opens the journal, and those of processes that have ended: they decide whether a batch that was on its way to a
    /// file is in the file. No fallback file may be replayed or removed before.
    fn open_journal(&self, storage: &mut Storage, homes: &Homes, state: &Arc<Home<SafeDir>>) -> Result<(), BuildError> {
        let files = if storage.fallback.is_some() { None } else { homes.files.clone() };
        let fallback = &mut storage.fallback;
        let mut has_file = |name: &str| fallback.as_mut().map_or(Ok(false), |fallback| fallback.has_file(name));
        let (state, clock) = (Arc::clone(state), Arc::clone(&self.clock));
        match FileJournal::open(state, files, self.journal_config(), clock, &mut has_file) {
            Ok(journal) => storage.journal = Some(Box::new(journal)),
            Err(error) if self.settings.state_dir_required => return Err(BuildError::Journal(error)),
            Err(error) => {
                storage.miss_journal(ErrorChain(&error), REMEDY);
            }
        }
        Ok(())
    }

    fn open_files(&self, storage: &mut Storage, homes: &Homes, files: &Arc<Home<SafeDir>>) -> Result<(), BuildError> {
        let letters = homes.state.as_ref().unwrap_or(files);
        // Without a journal of this process, this store takes the journals of ended ones over.
        let journal = homes.state.clone().filter(|_| storage.journal.is_some() && self.settings.journal.enabled);
        let place =
            Place { files: Arc::clone(files), letters: Arc::clone(letters), journal, clock: Arc::clone(&self.clock) };
        let reserve = self.settings.free_space_reserve;
        let opened = FileStore::open(place, &self.settings.fallback, &self.settings.dead_letter, reserve);
        match opened {
            Ok(opened) => storage.fallback = Some(Box::new(opened)),
            // A setting out of range is a mistake in the program.
            Err(error @ FileStoreError::Settings(_)) => return Err(error.into()),
            Err(error) if self.settings.state_dir_required => return Err(error.into()),
            Err(error) => {
                let cause = format!("the fallback files cannot be used ({})", ErrorChain(&BuildError::from(error)));
                storage.miss_files(StorageNote::memory_only(cause, REMEDY));
            }
        }
        Ok(())
    }

    fn journal_config(&self) -> Config {
        Config {
            max_bytes: self.settings.journal.max_bytes,
            free_space_reserve: self.settings.free_space_reserve,
            ..Config::default()
        }
    }
}

/// The `service.name` in the name of a service as the file `layout` states it: behind the namespace and a slash, with
/// percent-encoded bytes.
fn name_of(service: &str) -> String {
    let name = service.rsplit_once('/').map_or(service, |(_, name)| name);
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let digits = behind.first_chunk::<2>().filter(|_| byte == b'%');
        let decoded = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(decoded.unwrap_or(byte));
        rest = if decoded.is_some() { &behind[2..] } else { behind };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_service_is_decoded() {
        for (layout, name) in
            [("shop", "shop"), ("eu/my%20shop", "my shop"), ("%c3%bc", "ü"), ("100%", "100%"), ("", "")]
        {
            assert_eq!(name_of(layout), name);
        }
    }

    #[test]
    fn the_journal_has_the_limit_of_the_settings_and_two_segments_at_least() {
        let max_bytes = |builder: Builder| builder.journal_config().max_bytes;
        assert_eq!(max_bytes(Builder::default()), Config::default().max_bytes);
        let least = 2 * Config::default().segment_bytes;
        let builder = Builder::default().with_journal_enabled(true).with_journal_max_bytes(least);
        assert!(builder.check().is_ok());
        assert_eq!(max_bytes(builder), least);
        let builder = Builder::default().with_journal_enabled(true).with_journal_max_bytes(least - 1);
        assert_eq!(builder.check().expect_err("one segment").field, "journal.max_bytes");
    }
}

//! The start: looks at names and sizes, reads no file.

use std::collections::VecDeque;

use safe_dir::{Directory, FileError, Kind, Metadata};

use crate::books::catalog::{Catalog, Key};
use crate::books::file::StoredFile;
use crate::books::progress::Progress;
use crate::config::Config;
use crate::files::Files;
use crate::files::aside::{Aside, Unusable};
use crate::files::reading::Reading;
use crate::form::format::MAX_FILE_TEXT;
use crate::form::names::Names;
use crate::notice::{Damage, Notice};
use crate::read::reader::Reader;

impl<D: Directory> Files<D> {
    /// Removes unpublished files, reads the log of the progress, and finds the files of the store by their names.
    pub(crate) fn load(dir: D, config: &Config) -> Result<Self, FileError> {
        safe_dir::remove_leftovers(&dir)?;
        let (progress, damaged) = Progress::load(&dir);
        let mut files = Self {
            dir,
            names: Names::new(config.signal.clone(), config.first_number),
            catalog: Catalog::default(),
            progress,
            reader: Reader::new(config.max_record_bytes),
            aside: Aside::new(config.quarantine_max_bytes),
            reading: Reading::new(),
            leftovers: Vec::new(),
            notices: VecDeque::new(),
            has_vanished: false,
        };
        if damaged > 0 {
            files.notices.push_back(Notice::ProgressDamaged { marks: damaged });
        }
        files.scan()?;
        if let Some(key) = Reading::left_in(&files.dir).and_then(|name| files.find(&name)) {
            // A count that is not written costs one more start.
            drop(files.count_death(&key));
        }
        Reading::remove_from(&files.dir);
        files.aside.move_strangers(&files.dir, STRANGERS_AT_START, &mut files.notices);
        Ok(files)
    }

    fn scan(&mut self) -> Result<(), FileError> {
        for entry in self.dir.list()? {
            let Some(name) = entry.name.to_str() else { continue };
            let Some(parsed) = self.names.parse(name) else { continue };
            self.names.note(parsed.seq);
            self.names.note_found(parsed.time);
            // A file that has been removed since, or that this process may not look at, is not counted.
            let Ok(metadata) = self.dir.metadata(name) else { continue };
            let key = Key::new(&parsed, name.to_owned());
            match self.unusable(&metadata) {
                None => {
                    let mut file = StoredFile::new(&parsed, metadata.len, parsed.time);
                    if let Some(mark) = self.progress.claim(name, metadata.len) {
                        file.resume(mark);
                    }
                    self.catalog.insert(key, file);
                }
                Some(damage) => {
                    self.aside.note(Unusable { name: key.name, damage, count: 0, promised: parsed.count });
                }
            }
        }
        let (names, catalog) = (&self.names, &self.catalog);
        let key_of = |name: &str| names.parse(name).map(|parsed| Key::new(&parsed, name.to_owned()));
        let known = |name: &str| key_of(name).is_some_and(|key| catalog.contains(&key));
        self.progress.retain(known);
        // A new file must not get a name that the log has a mark for: it would be taken for a settled one.
        let seq_of = |name: &str| names.parse(name).map(|parsed| parsed.seq);
        if let Some(highest) = self.progress.highest(seq_of) {
            self.names.reserve(highest);
        }
        Ok(())
    }

    /// The reason not to read a file, if there is one.
    pub(super) fn unusable(&self, metadata: &Metadata) -> Option<Damage> {
        if metadata.kind != Kind::File || metadata.links != 1 {
            Some(Damage::NotOurs)
        } else if metadata.len > MAX_FILE_BYTES {
            Some(Damage::FileTooLarge)
        } else {
            None
        }
    }
}

/// The longest file that this crate writes: 256 MiB of text, and compression makes no text longer by more than a
/// hundredth.
const MAX_FILE_BYTES: u64 = MAX_FILE_TEXT + MAX_FILE_TEXT / 100;

/// The start moves at most so many strangers to the quarantine; each clean-up moves more of them.
const STRANGERS_AT_START: usize = 100;

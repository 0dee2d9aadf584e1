//! The records of outages in the state directory: a file for each process, which the next ones read.
//!
//! A process writes its own file alone, each time as a whole. At its start it reads the files of ended processes; their
//! records go into its own file with the first record of its own, and only then it removes those files. So no record is
//! lost to a crash, and one that a crash has left in two files is read once, by its process and its number there.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use safe_dir::{Directory, FileError, OpenError, replace};
use serde::{Deserialize, Serialize};

use super::home::Home;
use crate::report::outage_records::{KEPT, OutageRecord};

/// The version that this code reads and writes.
const VERSION: u32 = 1;

/// A longer file is damaged: a record takes about a kilobyte.
const MAX_BYTES: u64 = 1_024 * 1_024;

/// A longer cause is cut: a collector's message may have any length.
const MAX_CAUSE: usize = 1_024;

/// The end of a file's name, behind the name of its process.
const SUFFIX: &str = ".json";

/// The name of the last file that could not be read.
const UNREADABLE: &str = "unreadable";

/// Files of more ended processes become one at once.
const MOST_FILES: usize = 8;

/// The records of the ended processes of a service, and of this one.
pub(crate) struct OutageFiles<D: Directory> {
    home: Arc<Home<D>>,
    /// The process as its records name it.
    process: String,
    earlier: Vec<Numbered>,
    /// Files whose records are in `earlier`, or that this process has written under an earlier name.
    replaced: Vec<String>,
    /// The name of this process's own file.
    own: Option<String>,
}

/// The text of a file.
#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    outages: Vec<Numbered>,
}

/// A record under the name by which all files know it.
#[derive(Clone, Serialize, Deserialize)]
struct Numbered {
    process: String,
    number: u64,
    #[serde(flatten)]
    record: OutageRecord,
}

/// Why records could not be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    #[error("the directory of the records cannot be used")]
    Open(#[source] OpenError),
    #[error("the records were not written")]
    File(#[source] FileError),
}

impl<D: Directory> OutageFiles<D> {
    /// Reads the records of the processes that have ended. Returns also a warning about files that could not be read:
    /// they are set aside, the last of them under the name `unreadable`.
    pub(crate) fn open(home: Arc<Home<D>>) -> (Self, Option<String>) {
        let process = format!("{:016x}", home.incarnation());
        let mut files = Self { home, process, earlier: Vec::new(), replaced: Vec::new(), own: None };
        let warning = files.read().unwrap_or_else(|error| Some(super::in_one_line(error).to_string()));
        if files.replaced.len() > MOST_FILES {
            // Otherwise processes without an outage would leave one more file at each start. A failure leaves all.
            let _ = files.keep(Vec::new());
        }
        (files, warning.map(|warning| format!("records of outages were not read: {warning}")))
    }

    /// The records of ended processes, the newest, the oldest of them first.
    pub(crate) fn earlier(&self) -> Vec<OutageRecord> {
        self.earlier.iter().map(|numbered| numbered.record.clone()).collect()
    }

    /// Writes the records of this process, each with its number, and those of ended ones; durable when this returns.
    ///
    /// # Errors
    /// The file is as before.
    pub(crate) fn keep(&mut self, own: Vec<(u64, OutageRecord)>) -> Result<(), KeepError> {
        let dir = self.home.outages().map_err(KeepError::Open)?;
        let own = own.into_iter().map(|(number, mut record)| {
            cut(&mut record.cause);
            Numbered { process: self.process.clone(), number, record }
        });
        let mut outages = self.earlier.iter().cloned().chain(own).collect::<Vec<_>>();
        outages.drain(..outages.len().saturating_sub(KEPT));
        let text = serde_json::to_vec(&Content { version: VERSION, outages }).unwrap_or_default();
        let name = format!("{:016x}{SUFFIX}", self.home.incarnation());
        replace(&dir, &name, |file| file.write_all(&text)).map_err(KeepError::File)?;
        // A directory that had vanished was made anew, under another name.
        self.replaced.extend(self.own.replace(name.clone()).filter(|earlier| *earlier != name));
        // One that cannot be removed now is read once more, and removed then.
        self.replaced.drain(..).for_each(|name| drop(dir.remove(&name)));
        Ok(())
    }

    /// Reads the files of ended processes. Returns a text about the first that could not be read.
    fn read(&mut self) -> Result<Option<String>, KeepError> {
        let Some(dir) = self.home.existing_outages().map_err(KeepError::Open)? else { return Ok(None) };
        let (mut found, mut failed) = (BTreeMap::<(String, u64), OutageRecord>::new(), None);
        for entry in dir.list().map_err(KeepError::File)? {
            let Some(name) = entry.name.to_str() else { continue };
            let Some(process) = process_of(name) else { continue };
            if !self.home.has_ended(process) {
                continue;
            }
            if name.starts_with('.') {
                // Its process has died while it wrote.
                let _ = dir.remove(name);
                continue;
            }
            match read(&dir, name) {
                Ok(Some(outages)) => {
                    for Numbered { process, number, mut record } in outages {
                        record.interrupted |= record.to.is_none();
                        let there = found.entry((process, number)).or_insert_with(|| record.clone());
                        if there.to.is_none() {
                            *there = record;
                        }
                    }
                    self.replaced.push(name.to_owned());
                }
                Ok(None) => {}
                Err(error) => {
                    let place = dir.replace(name, UNREADABLE).map_or_else(|_| name.to_owned(), |()| UNREADABLE.into());
                    let path = dir.path().join(place).display().to_string();
                    failed.get_or_insert_with(|| format!("{error}; the file is now {}", path.escape_debug()));
                }
            }
        }
        let earlier = found.into_iter().map(|((process, number), record)| Numbered { process, number, record });
        self.earlier = earlier.collect();
        self.earlier.sort_by_key(|numbered| numbered.record.from);
        self.earlier.drain(..self.earlier.len().saturating_sub(KEPT));
        Ok(failed)
    }
}

/// The records of a file; none if a newer version has written it.
fn read<D: Directory>(dir: &D, name: &str) -> Result<Option<Vec<Numbered>>, String> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let mut text = Vec::new();
    let file = dir.open_read(name).map_err(|error| error.to_string())?;
    let len = file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
    if len as u64 > MAX_BYTES {
        return Err(format!("{name} is too long"));
    }
    let damaged = |error: serde_json::Error| format!("{name} is damaged: {error}");
    let Version { version } = serde_json::from_slice(&text).map_err(damaged)?;
    if version > VERSION {
        return Ok(None);
    }
    serde_json::from_slice::<Content>(&text).map(|content| Some(content.outages)).map_err(damaged)
}

/// The process whose file, or temporary file, has this name.
fn process_of(name: &str) -> Option<&str> {
    let name = name.strip_prefix(".tmp-").unwrap_or(name);
    let process = name.strip_suffix(SUFFIX)?;
    (process.len() == 16 && process.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(process)
}

/// Cuts a text at the end of a character.
fn cut(text: &mut String) {
    if text.len() > MAX_CAUSE {
        let end = (0..=MAX_CAUSE).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        text.truncate(end);
        text.push_str("..");
    }
}

#[cfg(test)]
mod tests;

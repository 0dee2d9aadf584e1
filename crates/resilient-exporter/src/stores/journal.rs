//! The journal in files: where `span-buffer`'s journal, which knows bytes, meets batches of spans.

use std::collections::VecDeque;
use std::error::Error;
use std::io;
use std::time::SystemTime;

use ::journal::{self, AppendError, Config, Notice, OpenError, ReadError};
use bytes::Bytes;
use otlp_payload::{BatchId, Payload};
use safe_dir::{Directory, Kind, LockError, SafeDir};

use crate::seams::journal::{Journal, JournalError, Journaled, Recovered};

/// Begins the names of the subdirectories of further processes, and how many there may be.
const PROCESS_PREFIX: &str = "process-";
const MAX_PROCESSES: u32 = 64;

/// Maintenances, of which there is about one a second, between two looks for journals of processes that have ended.
const ADOPT_EVERY: u32 = 5;

/// Bytes that are taken over from another journal in one step.
const ADOPT_BYTES: usize = 1_024 * 1_024;

pub(crate) struct FileJournal<D: Directory = SafeDir> {
    own: journal::Journal<D>,
    /// The directory of all processes; none for a process that is itself a further one.
    root: Option<D>,
    /// Of a process that has ended, while it is being taken over.
    dead: Option<Dead<D>>,
    /// Taken over, and not given out yet.
    adopted: VecDeque<journal::BatchId>,
    /// Spans that were found and not told of yet.
    found: u64,
    /// Spans among them that are damaged.
    damaged: u64,
    maintained: u32,
}

struct Dead<D: Directory> {
    name: String,
    journal: journal::Journal<D>,
}

impl<D: Directory> FileJournal<D> {
    /// Opens the journal in the directory that `open` gives, or, while another process has that one, in one inside it.
    pub(crate) fn open(
        open: impl Fn() -> Result<D, safe_dir::OpenError>,
        config: Config,
        incarnation: u64,
        mut holds: impl FnMut(&str) -> io::Result<bool>,
    ) -> Result<Self, JournalOpenError> {
        let root = open().map_err(JournalOpenError::Directory)?;
        let dir = open().map_err(JournalOpenError::Directory)?;
        let (own, is_first) = match journal::Journal::open(dir, config, incarnation, &mut holds) {
            Err(OpenError::Lock(LockError::Held { .. })) => {
                (open_further(&root, config, incarnation, &mut holds)?, false)
            }
            opened => (opened.map_err(JournalOpenError::Journal)?, true),
        };
        let (mut own, report) = own;
        log(&mut own);
        if report.batches > 0 || report.torn > 0 || report.damaged > 0 {
            let (batches, spans, torn, damaged) = (report.batches, report.items, report.torn, report.damaged);
            tracing::info!(batches, spans, torn, damaged, "the journal has batches of an earlier run");
        }
        let mut journal = Self {
            own,
            root: is_first.then_some(root),
            dead: None,
            adopted: VecDeque::new(),
            found: report.items,
            damaged: 0,
            maintained: 0,
        };
        if let Err(error) = journal.look_for_dead(&mut holds).and(journal.adopt()) {
            // What stays with the dead for now is tried again.
            tracing::warn!(error = error.to_string(), "the journal of a process that has ended was not taken over");
        }
        Ok(journal)
    }

    /// Takes over one journal after the other, each in small steps.
    fn adopt(&mut self) -> Result<(), JournalError> {
        let Some(mut dead) = self.dead.take() else { return Ok(()) };
        // Where a step fails the other journal is closed; what it still has comes out of it again.
        let finished = self.adopt_some(&mut dead.journal)?;
        if !finished {
            self.dead = Some(dead);
            return Ok(());
        }
        let Dead { name, journal } = dead;
        tracing::info!(name, "the journal of a process that has ended was taken over");
        let removed = journal.remove();
        if let (Ok(()), Some(root)) = (removed, &self.root) {
            // A quarantine in it keeps it in place.
            let _ = root.remove_subdirectory(&name).and_then(|()| root.sync());
        }
        Ok(())
    }

    /// Opens the journals of all processes that have ended, which settles who has what they were handing over to a file: so this
    /// comes before their files are replayed or removed. One of them stays open, to be taken over, and the others wait for their turn.
    fn look_for_dead(&mut self, holds: &mut dyn FnMut(&str) -> io::Result<bool>) -> Result<(), JournalError> {
        let Some(root) = &self.root else { return Ok(()) };
        let mut looked = Ok(());
        for entry in root.list().map_err(told)? {
            let Some(name) = entry.name.to_str() else { continue };
            let number = name.strip_prefix(PROCESS_PREFIX).and_then(|number| number.parse().ok());
            let ours = number.is_some_and(|number: u32| (1..=MAX_PROCESSES).contains(&number));
            let open = self.dead.as_ref().is_some_and(|dead| dead.name == name);
            if !ours || open || entry.kind.is_some_and(|kind| kind != Kind::Directory) {
                continue;
            }
            let Ok(dir) = root.subdirectory(name) else { continue };
            match journal::Journal::open(dir, *self.own.config(), self.own.incarnation(), &mut *holds) {
                Ok((mut journal, _)) => {
                    log(&mut journal);
                    self.dead.get_or_insert_with(|| Dead { name: name.to_owned(), journal });
                }
                Err(OpenError::Lock(LockError::Held { .. })) => {}
                // The others shall not wait for this one.
                Err(error) => looked = looked.and(Err(told(error))),
            }
        }
        looked
    }

    /// Says whether nothing is left there.
    fn adopt_some(&mut self, dead: &mut journal::Journal<D>) -> Result<bool, JournalError> {
        let (mut moved, mut bytes, mut end) = (Vec::new(), 0, false);
        while bytes < ADOPT_BYTES {
            match dead.next_recovered() {
                None => {
                    end = true;
                    break;
                }
                Some(Ok(batch)) => {
                    match self.own.append(batch.id, batch.count, &batch.body) {
                        Ok(()) => {
                            self.found += u64::from(batch.count);
                            self.adopted.push_back(batch.id);
                        }
                        // An earlier attempt got as far as here.
                        Err(AppendError::Duplicate(_)) => {}
                        Err(error) => return Err(told(error)),
                    }
                    bytes += batch.body.len();
                    moved.push(batch.id);
                }
                Some(Err(ReadError::Damaged { count, .. })) => {
                    self.found += u64::from(count);
                    self.damaged += u64::from(count);
                }
                Some(Err(ReadError::File(error))) => return Err(told(error)),
                Some(Err(_)) => {}
            }
        }
        self.own.sync().map_err(told)?;
        dead.done(&moved).map_err(told)?;
        dead.sync().map_err(told)?;
        log(dead);
        Ok(end)
    }
}

fn open_further<D: Directory>(
    root: &D,
    config: Config,
    incarnation: u64,
    holds: &mut dyn FnMut(&str) -> io::Result<bool>,
) -> Result<(journal::Journal<D>, journal::Report), JournalOpenError> {
    for number in 1..=MAX_PROCESSES {
        let Ok(dir) = root.subdirectory(&format!("{PROCESS_PREFIX}{number}")) else { continue };
        match journal::Journal::open(dir, config, incarnation, &mut *holds) {
            // Held, or taken over and removed between the two calls.
            Err(OpenError::Lock(_)) => {}
            opened => return opened.map_err(JournalOpenError::Journal),
        }
    }
    Err(JournalOpenError::Full)
}

impl<D: Directory + 'static> Journal for FileJournal<D>
where
    D::File: 'static,
    D::Lock: 'static,
{
    fn incarnation(&self) -> u64 {
        self.own.incarnation()
    }

    fn append(&mut self, batch: &Payload) -> Result<(), JournalError> {
        let count = u32::try_from(batch.span_count()).unwrap_or(u32::MAX);
        self.own.append(id(batch.id()), count, batch.bytes()).map_err(|error| match error {
            AppendError::TooLarge { bytes, max_bytes } => JournalError::new(format!(
                "a batch of {bytes} bytes is larger than the {max_bytes} that the journal takes: export fewer spans at a time"
            )),
            AppendError::Full { max_bytes, .. } => JournalError::new(format!(
                "the journal has reached its limit of {max_bytes} bytes: let the collector or the fallback catch up, or raise the limit"
            )),
            error => told(error),
        })
    }

    fn done(&mut self, ids: &[BatchId]) -> Result<(), JournalError> {
        self.own.done(&all(ids)).map(drop).map_err(told)
    }

    fn announce(&mut self, file: &str, ids: &[BatchId]) -> Result<(), JournalError> {
        self.own.spill(file, &all(ids)).map(drop).map_err(told)
    }

    fn take_back(&mut self, ids: &[BatchId]) -> Result<(), JournalError> {
        self.own.take_back(&all(ids)).map(drop).map_err(told)
    }

    fn sync(&mut self) -> Result<(), JournalError> {
        self.own.sync().map_err(told)
    }

    fn found(&mut self) -> u64 {
        std::mem::take(&mut self.found)
    }

    fn next_recovered(&mut self, now: SystemTime) -> Recovered {
        if self.damaged > 0 {
            return Recovered::Damaged { spans: std::mem::take(&mut self.damaged) };
        }
        loop {
            let adopted = self.adopted.pop_front();
            let next = match adopted {
                Some(id) => Some(self.own.read(id)),
                None => self.own.next_recovered(),
            };
            log(&mut self.own);
            return match next {
                None => Recovered::End,
                Some(Ok(batch)) => {
                    let id = BatchId { incarnation: batch.id.incarnation, seq: batch.id.seq };
                    Recovered::Batch(Payload::new(id, now, batch.count as usize, Bytes::from(batch.body)))
                }
                Some(Err(ReadError::Damaged { count, .. })) => Recovered::Damaged { spans: count.into() },
                Some(Err(ReadError::File(error))) => {
                    self.adopted.extend(adopted);
                    Recovered::Later(told(error))
                }
                // Clearing up has found its damage: what is missing at the end is accounted for there.
                Some(Err(_)) => continue,
            };
        }
    }

    fn maintain(&mut self, holds: &mut dyn FnMut(&str) -> io::Result<bool>) -> Result<(), JournalError> {
        self.maintained = self.maintained.wrapping_add(1);
        // The first time, and then right before the files of processes that have ended are taken over.
        let looked = match self.maintained % ADOPT_EVERY {
            1 => self.look_for_dead(holds),
            _ => Ok(()),
        };
        let adopted = looked.and(self.adopt());
        let maintained = self.own.maintain().map(drop).map_err(told);
        log(&mut self.own);
        adopted.and(maintained)
    }

    fn kept(&self) -> Journaled {
        let status = self.own.status();
        Journaled { batches: status.batches as u64, bytes: status.bytes }
    }
}

fn id(id: BatchId) -> journal::BatchId {
    journal::BatchId { incarnation: id.incarnation, seq: id.seq }
}

fn all(ids: &[BatchId]) -> Vec<journal::BatchId> {
    ids.iter().copied().map(id).collect()
}

fn log<D: Directory>(journal: &mut journal::Journal<D>) {
    for notice in journal.take_notices() {
        match notice {
            Notice::Damaged { name, places, bytes } => {
                tracing::warn!(name, places, bytes, "a segment of the journal is damaged; what is whole in it is kept");
            }
            Notice::SetAside { name, moved_to } => {
                tracing::warn!(name, moved_to, "a damaged segment of the journal was set aside");
            }
            Notice::Lost { id, count } => {
                let id = id.to_string();
                tracing::warn!(id, count, "a batch in the journal is damaged and was given up");
            }
            Notice::Poisoned { name } => {
                tracing::warn!(
                    name,
                    "a sync of the journal failed; what waits in this segment is written to a new one"
                );
            }
            other => tracing::info!(notice = ?other, "journal"),
        }
    }
}

/// The whole story in one line: `health` shows it to a person.
fn told(error: impl Error + Send + Sync + 'static) -> JournalError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    JournalError::new(text)
}

/// Why the journal could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalOpenError {
    /// The directory cannot be used, or is not safe to use.
    #[error("the journal's directory cannot be used")]
    Directory(#[source] safe_dir::OpenError),
    /// What is in it cannot be read now.
    #[error("the journal cannot be opened")]
    Journal(#[source] OpenError),
    /// More processes than there may be.
    #[error("{MAX_PROCESSES} further processes use this directory already: give this one a state directory of its own")]
    Full,
}

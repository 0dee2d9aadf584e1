//! The journal in files: where `span-buffer`'s journal, which knows bytes, meets batches of spans.

use std::collections::VecDeque;
use std::error::Error;
use std::io;
use std::time::SystemTime;

use ::journal::{self, AppendError, Config, Notice, OpenError, ReadError};
use bytes::Bytes;
use otlp_payload::{BatchId, Payload};
use otlp_transport::ErrorChain;
use safe_dir::{Abandoned, ClaimError, Directory, LockError, Locked, ProcessDirs, SafeDir};

use crate::seams::journal::{Journal, JournalError, JournalUsage, Recovered};

/// The directories of the processes that share one state directory.
const PROCESSES: ProcessDirs = ProcessDirs { prefix: "process-", max_further: 64 };

/// Maintenances, of which there is about one a second, between two looks for journals of processes that have ended.
const ADOPT_EVERY: u32 = 5;

/// Bytes that are taken over from another journal in one step.
const ADOPT_BYTES: usize = 1_024 * 1_024;

pub(crate) struct FileJournal<D: Directory = SafeDir> {
    own: journal::Journal<D>,
    /// Whether the directory is that of all processes, and not the subdirectory of a further one.
    is_first: bool,
    /// Of a process that has ended, while it is being taken over.
    dead: Option<Dead<D>>,
    /// Taken over, and not given out yet.
    adopted: VecDeque<journal::Id>,
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
    /// Opens the journal in `root` or, while another process holds that directory, in a subdirectory.
    pub(crate) fn open(
        root: D,
        config: Config,
        incarnation: u64,
        mut holds: impl FnMut(&str) -> io::Result<bool>,
    ) -> Result<Self, JournalOpenError> {
        let claim = PROCESSES.claim(root).map_err(|error| match error {
            ClaimError::Lock(LockError::Held { .. }) => JournalOpenError::Full,
            ClaimError::Lock(error) => JournalOpenError::Journal(OpenError::Lock(error)),
            ClaimError::Directory(error) => JournalOpenError::Directory(error),
        })?;
        let is_first = claim.is_first;
        let opened = journal::Journal::open_locked(claim.locked, config, incarnation, &mut holds);
        let (mut own, report) = opened.map_err(JournalOpenError::Journal)?;
        log(&mut own);
        if report.batches > 0 || report.torn > 0 || report.damaged > 0 {
            let (batches, spans, torn, damaged) = (report.batches, report.items, report.torn, report.damaged);
            tracing::info!(batches, spans, torn, damaged, "the journal has batches of an earlier run");
        }
        let mut journal = Self {
            own,
            is_first,
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
        if let Ok(Some(locked)) = journal.remove() {
            // A quarantine in the directory prevents the removal: the damaged segments stay for an operator.
            drop(Abandoned { name, locked }.remove(self.own.dir()));
        }
        Ok(())
    }

    /// Opens the journals of all processes that have ended, which settles who has what they were handing over to a file: so this
    /// comes before their files are replayed or removed. One of them stays open, to be taken over, and the others wait for their turn.
    fn look_for_dead(&mut self, holds: &mut dyn FnMut(&str) -> io::Result<bool>) -> Result<(), JournalError> {
        if !self.is_first {
            return Ok(());
        }
        let (root, config, incarnation) = (self.own.dir(), *self.own.config(), self.own.incarnation());
        let mut looked = Ok(());
        for name in PROCESSES.list(root).map_err(told)? {
            let opened = match PROCESSES.open_abandoned(root, &name) {
                Ok(Some(Abandoned { locked, .. })) => open_locked(locked, config, incarnation, holds),
                // The process is alive, or this one has its journal open already; or the name is not a directory for this user.
                Ok(None) | Err(ClaimError::Directory(_)) => continue,
                Err(error) => Err(told(error)),
            };
            match opened {
                Ok(journal) if self.dead.is_none() => self.dead = Some(Dead { name, journal }),
                Ok(_) => {}
                // The journals of the other processes are opened all the same.
                Err(error) => looked = looked.and(Err(error)),
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

fn open_locked<D: Directory>(
    locked: Locked<D>,
    config: Config,
    incarnation: u64,
    holds: &mut dyn FnMut(&str) -> io::Result<bool>,
) -> Result<journal::Journal<D>, JournalError> {
    let (mut journal, _) = journal::Journal::open_locked(locked, config, incarnation, holds).map_err(told)?;
    log(&mut journal);
    Ok(journal)
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
        self.own.append(batch.id(), count, batch.bytes()).map_err(|error| match error {
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
        self.own.done(ids).map(drop).map_err(told)
    }

    fn announce(&mut self, file: &str, ids: &[BatchId]) -> Result<(), JournalError> {
        self.own.spill(file, ids).map(drop).map_err(told)
    }

    fn take_back(&mut self, ids: &[BatchId]) -> Result<(), JournalError> {
        self.own.take_back(ids).map(drop).map_err(told)
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
                    Recovered::Batch(Payload::new(batch.id.into(), now, batch.count as usize, Bytes::from(batch.body)))
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

    fn usage(&self) -> JournalUsage {
        let status = self.own.status();
        JournalUsage { batches: status.batches as u64, bytes: status.bytes }
    }
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
                let id = BatchId::from(id).to_string();
                tracing::warn!(id, count, "a batch in the journal is damaged and was given up");
            }
            Notice::SyncFailed { name } => {
                tracing::warn!(
                    name,
                    "a sync of the journal failed; what waits in this segment is written to a new one"
                );
            }
            other => tracing::info!(notice = ?other, "journal"),
        }
    }
}

/// The error with its sources in one line, as `health` shows it.
fn told(error: impl Error + Send + Sync + 'static) -> JournalError {
    JournalError::new(ErrorChain(&error).to_string())
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
    #[error("{} further processes use this directory already: give this one a state directory of its own", PROCESSES.max_further)]
    Full,
}

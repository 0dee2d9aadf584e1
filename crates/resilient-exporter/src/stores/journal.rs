//! The journal in files: batches of spans as bodies of the crate `journal`, and the adoption of journals whose
//! processes have ended.

use std::collections::VecDeque;
use std::error::Error;
use std::io;
use std::time::{Instant, SystemTime};

use ::journal::{self, AppendError, Config, Notice, OpenError, ReadError};
use bytes::Bytes;
use otlp_payload::{BatchId, Payload};
use otlp_transport::ErrorChain;
use safe_dir::{Abandoned, ClaimError, Directory, LockError, Locked, ProcessDirs, SafeDir};

use super::log::StoreLog;
use super::place_of;
use crate::report::log;
use crate::report::warnings::Kind;
use crate::seams::journal::{Journal, JournalError, JournalUsage, Recovered};

/// The directories of the processes that share one state directory.
const PROCESSES: ProcessDirs = ProcessDirs { prefix: "process-", max_further: 64 };

/// Calls of `maintain`, about one a second, between two searches for journals of processes that have ended.
const ADOPT_EVERY: u32 = 5;

/// Bytes that one step adopts from another journal, about.
const ADOPT_BYTES: usize = 1_024 * 1_024;

pub(crate) struct FileJournal<D: Directory = SafeDir> {
    own: journal::Journal<D>,
    /// This process holds the shared directory itself, not a subdirectory of it: it alone adopts other journals.
    is_first: bool,
    /// The journal that is being adopted; its process has ended.
    ended: Option<Ended<D>>,
    /// Adopted batches that `next_recovered` has not returned yet.
    adopted: VecDeque<journal::Id>,
    /// Recovered spans that `found` has not returned yet.
    found: u64,
    /// Adopted spans that are damaged and that `next_recovered` has not reported yet.
    damaged: u64,
    /// Calls of `maintain` so far.
    maintained: u32,
    log: StoreLog,
}

/// The journal of a process that has ended.
struct Ended<D: Directory> {
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
        let mut log = StoreLog::default();
        log.tell(&mut own);
        if report.batches > 0 || report.torn > 0 || report.damaged > 0 {
            let (batches, spans, torn, damaged) = (report.batches, report.items, report.torn, report.damaged);
            log::info_contained!(batches, spans, torn, damaged, "the journal has batches of an earlier process");
        }
        let mut journal = Self {
            own,
            is_first,
            ended: None,
            adopted: VecDeque::new(),
            found: report.items,
            damaged: 0,
            maintained: 0,
            log,
        };
        if let Err(error) = journal.open_ended(&mut holds).and(journal.adopt()) {
            // `maintain` adopts the rest.
            journal.log.warn(Kind::JournalNotTakenOver, 0, &error.to_string());
        }
        Ok(journal)
    }

    /// Adopts batches of the ended process's journal in one step, and removes that journal once it is empty.
    fn adopt(&mut self) -> Result<(), JournalError> {
        let Some(mut ended) = self.ended.take() else { return Ok(()) };
        // A step that fails closes the other journal: `open_ended` recovers the rest of its batches again.
        let is_empty = self.adopt_step(&mut ended.journal)?;
        if !is_empty {
            self.ended = Some(ended);
            return Ok(());
        }
        let Ended { name, journal } = ended;
        log::info_contained!(name, "the journal of a process that has ended was taken over");
        if let Ok(Some(locked)) = journal.remove() {
            // A quarantine in the directory prevents the removal: an operator may need the damaged segments.
            drop(Abandoned { name, locked }.remove(self.own.dir()));
        }
        Ok(())
    }

    /// Opens the journals of all processes that have ended. One stays open for adoption; the others are closed again
    /// and wait for their turn.
    ///
    /// Opening a journal decides whether a batch that was being handed over is in the journal or in the file. Therefore
    /// this comes before the files of these processes are replayed or removed.
    fn open_ended(&mut self, holds: &mut dyn FnMut(&str) -> io::Result<bool>) -> Result<(), JournalError> {
        if !self.is_first {
            return Ok(());
        }
        let (root, config, incarnation) = (self.own.dir(), *self.own.config(), self.own.incarnation());
        let mut result = Ok(());
        for name in PROCESSES.list(root).map_err(in_one_line)? {
            let opened = match PROCESSES.open_abandoned(root, &name) {
                Ok(Some(Abandoned { locked, .. })) => open_locked(locked, config, incarnation, holds, &mut self.log),
                // The process is alive, or its journal is being adopted; or this user cannot use the directory.
                Ok(None) | Err(ClaimError::Directory(_)) => continue,
                Err(error) => Err(in_one_line(error)),
            };
            match opened {
                Ok(journal) if self.ended.is_none() => self.ended = Some(Ended { name, journal }),
                Ok(_) => {}
                // The error does not keep the journals of other processes closed.
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }

    /// Appends batches of the other journal to this one, syncs them, then marks them as done in the other one: a crash
    /// may leave a batch in both, but in none never. Returns whether the other journal is empty.
    fn adopt_step(&mut self, other: &mut journal::Journal<D>) -> Result<bool, JournalError> {
        let (mut moved, mut bytes, mut is_empty) = (Vec::new(), 0, false);
        while bytes < ADOPT_BYTES {
            match other.next_recovered(moment()) {
                None => {
                    is_empty = true;
                    break;
                }
                Some(Ok(batch)) => {
                    match self.own.append(batch.id, batch.count, &batch.body) {
                        Ok(()) => {
                            self.found += u64::from(batch.count);
                            self.adopted.push_back(batch.id);
                        }
                        // A step that failed later appended this batch already.
                        Err(AppendError::Duplicate(_)) => {}
                        Err(error) => return Err(in_one_line(error)),
                    }
                    bytes += batch.body.len();
                    moved.push(batch.id);
                }
                Some(Err(ReadError::Damaged { count, .. })) => {
                    self.found += u64::from(count);
                    self.damaged += u64::from(count);
                }
                Some(Err(ReadError::File(error))) => return Err(in_one_line(error)),
                Some(Err(_)) => {}
            }
        }
        self.own.sync().map_err(in_one_line)?;
        other.done(&moved).map_err(in_one_line)?;
        other.sync().map_err(in_one_line)?;
        self.log.tell(other);
        Ok(is_empty)
    }
}

fn open_locked<D: Directory>(
    locked: Locked<D>,
    config: Config,
    incarnation: u64,
    holds: &mut dyn FnMut(&str) -> io::Result<bool>,
    log: &mut StoreLog,
) -> Result<journal::Journal<D>, JournalError> {
    let (mut journal, _) = journal::Journal::open_locked(locked, config, incarnation, holds).map_err(in_one_line)?;
    log.tell(&mut journal);
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
            AppendError::Full { max_bytes, .. } => JournalError::full(format!(
                "the journal has reached its limit of {max_bytes} bytes: let the collector or the fallback catch up, or raise the limit"
            )),
            error => in_one_line(error),
        })
    }

    fn done(&mut self, ids: &[BatchId]) -> Result<(), JournalError> {
        self.own.done(ids).map(drop).map_err(in_one_line)
    }

    fn announce(&mut self, file: &str, ids: &[BatchId]) -> Result<(), JournalError> {
        self.own.spill(file, ids).map(drop).map_err(in_one_line)
    }

    fn take_back(&mut self, ids: &[BatchId]) -> Result<(), JournalError> {
        self.own.take_back(ids).map(drop).map_err(in_one_line)
    }

    fn sync(&mut self) -> Result<(), JournalError> {
        self.own.sync().map_err(in_one_line)
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
                Some(id) => Some(self.own.read(id, moment())),
                None => self.own.next_recovered(moment()),
            };
            self.log.tell(&mut self.own);
            return match next {
                None => Recovered::End,
                Some(Ok(batch)) => {
                    Recovered::Batch(Payload::new(batch.id.into(), now, batch.count as usize, Bytes::from(batch.body)))
                }
                Some(Err(ReadError::Damaged { count, .. })) => Recovered::Damaged { spans: count.into() },
                Some(Err(ReadError::File(error))) => {
                    self.adopted.extend(adopted);
                    Recovered::Later(in_one_line(error))
                }
                // `maintain` found this batch damaged and removed it: at the end the core counts its spans as lost.
                Some(Err(_)) => continue,
            };
        }
    }

    fn maintain(&mut self, holds: &mut dyn FnMut(&str) -> io::Result<bool>) -> Result<(), JournalError> {
        self.maintained = self.maintained.wrapping_add(1);
        // On the first call, and then right before the disk thread adopts files of processes that have ended.
        let opened = match self.maintained % ADOPT_EVERY {
            1 => self.open_ended(holds),
            _ => Ok(()),
        };
        let adopted = opened.and(self.adopt());
        let maintained = self.own.maintain().map(drop).map_err(in_one_line);
        self.log.tell(&mut self.own);
        self.log.flush();
        adopted.and(maintained)
    }

    fn usage(&self) -> JournalUsage {
        let status = self.own.status();
        JournalUsage { batches: status.batches as u64, bytes: status.bytes, max_bytes: self.own.config().max_bytes }
    }
}

impl StoreLog {
    /// Logs the notices of a journal.
    fn tell<D: Directory>(&mut self, journal: &mut journal::Journal<D>) {
        for notice in journal.take_notices() {
            match notice {
                Notice::Damaged { name, places, bytes } => {
                    self.warn(Kind::SegmentDamaged, 0, &format!("{name}: {bytes} bytes in {places} places"));
                }
                Notice::SetAside { name, moved_to } => {
                    self.warn(Kind::SegmentSetAside, 0, &format!("{name}: {}", place_of(Some(&moved_to))));
                }
                Notice::Lost { id, count } => {
                    self.warn(Kind::BatchDamaged, u64::from(count), &BatchId::from(id).to_string());
                }
                Notice::SyncFailed { name } => self.warn(Kind::JournalSyncFailed, 0, &name),
                other => log::info_contained!(notice = ?other, "journal"),
            }
        }
    }
}

/// The time of a read, for the journal, which counts failures at least 1 s apart.
#[expect(clippy::disallowed_methods, reason = "the seam passes the wall clock only")]
fn moment() -> Instant {
    Instant::now()
}

/// The error with all its sources in one line, as health shows it to an operator.
fn in_one_line(error: impl Error + 'static) -> JournalError {
    JournalError::new(ErrorChain(&error).to_string())
}

/// The journal could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalOpenError {
    /// The directory cannot be used, or is not safe to use.
    #[error("the journal's directory cannot be used")]
    Directory(#[source] safe_dir::OpenError),
    /// The lock or a segment cannot be used now.
    #[error("the journal cannot be opened")]
    Journal(#[source] OpenError),
    /// Other processes hold the directory and all of its subdirectories.
    #[error("{} further processes use this directory already: give this one a state directory of its own", PROCESSES.max_further)]
    Full,
}

//! The journal in files: batches of spans as bodies of the crate `journal`. Batches of processes that have ended stay
//! in the journals of those until they are done; this store reads and marks them there.

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::journal::{self, AppendError, Config, Notice, ReadError};
use bytes::Bytes;
use otlp_payload::{BatchId, Payload, Signal};
use otlp_transport::ErrorChain;
use safe_dir::{Directory, SafeDir};

use super::home::{self, Home, Part, StateDirError};
use super::log::StoreLog;
use super::place_of;
use crate::report::log;
use crate::report::warnings::Kind;
use crate::seams::clock::Clock;
use crate::seams::journal::{Journal, JournalError, JournalUsage, Lost, Recovered, Vanished};

mod ended;
mod vanished;

pub(super) use ended::{QUARANTINE, keep_damaged};

/// While batches wait and the journal thread has nothing else to do, segments are removed, limits are kept and ended
/// processes are looked for this often.
const MAINTAIN_EVERY: Duration = Duration::from_secs(5);

/// The same while the journal of an ended process is open, or while a step of the upkeep follows another one.
const NEXT_STEP: Duration = Duration::from_secs(1);

/// A journal that is limited by its volume has about so many segments, of at least so many bytes.
const SEGMENTS: u64 = 8;
const LEAST_SEGMENT: u64 = 16 << 10;

/// The answers to a journal that asks whether a spill that was announced has succeeded.
type HasFile<'a> = &'a mut dyn FnMut(&str) -> io::Result<bool>;

pub(crate) struct FileJournal<D: Directory = SafeDir> {
    own: journal::Journal<D>,
    /// The generation of the home in which `own` is.
    generation: u64,
    /// The journals of processes that have ended, oldest first.
    ended: Vec<Ended<D>>,
    /// Declared behind the journals: the last owner of a home removes its directory, in which no file is open then.
    home: Arc<Home<D>>,
    /// The home of the fallback files; none if a fallback of the user's answers for them.
    files: Option<Arc<Home<D>>>,
    config: Config,
    /// Batches that were found in those journals and are not done.
    batches: HashMap<journal::Id, Found>,
    /// Batches that moved to the own journal before `next_recovered` returned them.
    merged: VecDeque<journal::Id>,
    /// Recovered spans that `found` has not returned yet.
    found: u64,
    /// Spans that are damaged and that `next_recovered` has not reported yet.
    damaged: u64,
    /// The last maintenance of the own journal was a step, and another one follows.
    has_next_step: bool,
    /// Batches that no journal has any more, and that `take_vanished` has not returned yet.
    lost: Lost,
    /// The same of batches that another process has.
    taken_over: Lost,
    /// Batches that were read from journals which this process holds no longer, and whether they are done since: it may
    /// find such a journal again.
    released: HashMap<journal::Id, bool>,
    look: Look,
    /// The own journal, or a segment of it, was lost at some time.
    was_lost: bool,
    clock: Arc<dyn Clock>,
    log: StoreLog,
}

/// The next look for journals of ended processes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Usual,
    /// Not before the next maintenance.
    Postponed,
    /// With the next maintenance, which comes soon.
    Due,
}

/// A batch that was found in the journal of a process that has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    /// `next_recovered` is to return the batch, with so many spans.
    Unread(u32),
    /// `next_recovered` has returned it.
    Read,
}

/// The journal of a process that has ended.
struct Ended<D: Directory> {
    key: u64,
    name: String,
    journal: journal::Journal<D>,
}

impl<D: Directory> Drop for FileJournal<D> {
    /// A process that leaves no batch leaves no journal either.
    fn drop(&mut self) {
        // Where this fails, another process finds a journal without a batch.
        drop(self.own.clear());
    }
}

impl<D: Directory> FileJournal<D> {
    /// Opens a new journal in the directory of this process, and those of processes that have ended. `has_file` answers
    /// for files of a fallback of the user's.
    pub(crate) fn open(
        home: Arc<Home<D>>,
        files: Option<Arc<Home<D>>>,
        config: Config,
        clock: Arc<dyn Clock>,
        has_file: HasFile<'_>,
    ) -> Result<Self, JournalOpenError> {
        let config = Config { known_tags: tags_of(home.signal()), ..config };
        let config = home.volume_bytes().map_or(config, |total| fitting(config, total));
        let (own, generation) = open_own(&home, config)?;
        let (ended, log, batches, merged) = (Vec::new(), StoreLog::default(), HashMap::new(), VecDeque::new());
        let (lost, taken_over, released) = (Lost::default(), Lost::default(), HashMap::new());
        let mut journal = Self {
            home,
            files,
            config,
            own,
            generation,
            ended,
            batches,
            merged,
            found: 0,
            damaged: 0,
            has_next_step: false,
            lost,
            taken_over,
            released,
            look: Look::Usual,
            was_lost: false,
            clock,
            log,
        };
        journal.look_for_ended(has_file);
        journal.state_bytes();
        Ok(journal)
    }

    /// All journals, the own one first.
    fn all(&mut self) -> impl Iterator<Item = &mut journal::Journal<D>> {
        std::iter::once(&mut self.own).chain(self.ended.iter_mut().map(|ended| &mut ended.journal))
    }

    /// Runs an operation about `ids` on each journal, until as many of them are known as there are. After a loss each
    /// journal has its turn: a batch of an ended process may stand in the own journal too. The first error is returned
    /// after the others had their turn.
    fn on_each<E: Error + 'static>(
        &mut self,
        ids: &[BatchId],
        mut operation: impl FnMut(&mut journal::Journal<D>) -> Result<usize, E>,
    ) -> Result<(), JournalError> {
        let (mut known, mut result, was_lost) = (0, Ok(()), self.was_lost);
        for journal in self.all() {
            match operation(journal) {
                Ok(count) => known += count,
                Err(error) => result = result.and(Err(in_one_line(error))),
            }
            if known >= ids.len() && !was_lost {
                break;
            }
        }
        result
    }

    fn state_bytes(&mut self) {
        let ended: u64 = self.ended.iter().map(|ended| ended.journal.status().bytes).sum();
        self.home.state(Part::Journal, self.own.status().bytes + ended);
        // Journal and files share the budget: the journal has at most half of it.
        let least = 2 * self.config.segment_bytes;
        let limit = self.config.max_bytes.min(self.home.allowance() / 2).saturating_sub(ended).max(least);
        self.own.set_max_bytes(limit);
    }

    fn payload(batch: journal::Batch, now: SystemTime) -> Recovered {
        let count = batch.count as usize;
        Recovered::Batch(Payload::of(signal_of(batch.tag), batch.id.into(), now, count, Bytes::from(batch.body)))
    }
}

/// The tag of a signal's batches. Those of traces have none, so that a version which knew traces only reads them, and
/// sets the others aside.
pub(crate) const fn tag_of(signal: Signal) -> u8 {
    match signal {
        Signal::Traces => 0,
        Signal::Logs => 1,
        Signal::Metrics => 2,
    }
}

/// The tags in the journal of a signal's exporter.
pub(super) const fn tags_of(signal: Signal) -> &'static [u8] {
    match signal {
        Signal::Traces => &[0],
        Signal::Logs => &[1],
        Signal::Metrics => &[2],
    }
}

/// The signal of the batches with a tag that [`tags_of`] has.
pub(super) fn signal_of(tag: u8) -> Signal {
    Signal::ALL.into_iter().find(|signal| tag_of(*signal) == tag).unwrap_or_default()
}

/// The limits on a volume of so many bytes, of which the journal takes at most a quarter: the files need the rest. A
/// small journal has short segments, since it removes only whole ones.
fn fitting(config: Config, volume_bytes: u64) -> Config {
    let part = volume_bytes.saturating_sub(config.free_space_reserve.min(volume_bytes / 10)) / 4;
    if config.max_bytes <= part {
        return config;
    }
    let segment_bytes = config.segment_bytes.min((part / SEGMENTS).max(LEAST_SEGMENT));
    Config { segment_bytes, max_bytes: part.max(2 * segment_bytes), ..config }
}

fn open_own<D: Directory>(home: &Home<D>, config: Config) -> Result<(journal::Journal<D>, u64), JournalOpenError> {
    let (dir, generation) = home.own(Part::Journal).map_err(JournalOpenError::Directory)?;
    // The directory is new, or this process's own from before a fault: no spill in it was announced.
    let opened = journal::Journal::open(dir, config, home.incarnation(), |_| Ok(false));
    Ok((opened.map_err(JournalOpenError::Journal)?.0, generation))
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
        if self.home.is_on_network() {
            let _ = self.home.beat_if_due(self.clock.now());
        }
        let count = u32::try_from(batch.item_count()).unwrap_or(u32::MAX);
        let tag = tag_of(batch.signal());
        let mut appended = self.own.append_tagged(batch.id(), tag, count, batch.bytes());
        if appended.is_err() && self.own.status().vanished {
            self.renew_if_gone()?;
            appended = self.own.append_tagged(batch.id(), tag, count, batch.bytes());
        }
        appended.or_else(|error| match error {
            // The exporter appends a batch once more after a commit that a panic has cut short.
            AppendError::Duplicate(_) => Ok(()),
            error => Err(error),
        }).map_err(|error| match error {
            AppendError::TooLarge { bytes, max_bytes } => JournalError::new(format!(
                "a batch of {bytes} bytes is larger than the {max_bytes} that the journal takes: export fewer spans at a time"
            )),
            AppendError::Full { max_bytes, .. } => JournalError::full(format!(
                "the journal has reached its limit of {max_bytes} bytes: let the collector or the fallback catch up, or raise the limit"
            )),
            error @ AppendError::NoRoom { .. } => JournalError::full(ErrorChain(&error).to_string()),
            error => in_one_line(error),
        })
    }

    fn done(&mut self, ids: &[BatchId]) -> Result<(), JournalError> {
        if !self.batches.is_empty() || !self.released.is_empty() {
            for id in ids.iter().map(|id| journal::Id::from(*id)) {
                if let Some(Found::Unread(spans)) = self.batches.remove(&id) {
                    // The exporter had this batch in memory when it was found again: `next_recovered` returns it not.
                    self.taken_over.unread += u64::from(spans);
                }
                self.released.entry(id).and_modify(|is_done| *is_done = true);
            }
        }
        self.on_each(ids, |journal| journal.done(ids))
    }

    fn announce(&mut self, file: &str, ids: &[BatchId]) -> Result<(), JournalError> {
        self.on_each(ids, |journal| journal.spill(file, ids))
    }

    fn take_back(&mut self, ids: &[BatchId]) -> Result<(), JournalError> {
        self.on_each(ids, |journal| journal.take_back(ids))
    }

    fn sync(&mut self) -> Result<(), JournalError> {
        let mut result = self.own.sync().map_err(in_one_line);
        if result.is_err() && self.own.status().vanished {
            self.renew_if_gone()?;
            result = self.own.sync().map_err(in_one_line);
        }
        for Ended { journal, .. } in &mut self.ended {
            // Without its directory a journal of an ended process has nothing to sync.
            let synced = journal.sync().or_else(|error| if error.is_vanished() { Ok(()) } else { Err(error) });
            result = result.and(synced.map_err(in_one_line));
        }
        if result.is_ok() && self.home.is_on_network() && self.home.is_gone() {
            // Another machine has taken this directory, and may have read all of it before these batches were written.
            self.renew_if_gone()?;
            result = Err(JournalError::new(
                "another machine has taken the directory of this process, which was stopped for too long: its batches \
                 are written to a new one",
            ));
        }
        result
    }

    fn found(&mut self) -> u64 {
        std::mem::take(&mut self.found)
    }

    fn next_recovered(&mut self, now: SystemTime) -> Recovered {
        if self.damaged > 0 {
            return Recovered::Damaged { spans: std::mem::take(&mut self.damaged) };
        }
        match self.next_of_ended(self.clock.now()) {
            Ok(Some(batch)) => {
                self.batches.insert(batch.id, Found::Read);
                Self::payload(batch, now)
            }
            Ok(None) => Recovered::End,
            Err(recovered) => recovered,
        }
    }

    fn read(&mut self, id: BatchId, now: SystemTime) -> Recovered {
        let instant = self.clock.now();
        for journal in self.all() {
            let read = journal.read(id, instant);
            return match read {
                Ok(batch) => Self::payload(batch, now),
                Err(ReadError::Unknown(_) | ReadError::Vanished { .. }) => continue,
                Err(ReadError::Damaged { count, .. }) => Recovered::Damaged { spans: count.into() },
                Err(error) => Recovered::Later(in_one_line(error)),
            };
        }
        Recovered::End
    }

    fn can_read(&self) -> bool {
        true
    }

    fn take_vanished(&mut self) -> Vanished {
        self.note_vanished();
        let (mut lost, mut taken_over) = (std::mem::take(&mut self.lost), std::mem::take(&mut self.taken_over));
        if self.found > 0 {
            // Some of these may be among the spans that the exporter does not know yet.
            self.lost.unread = std::mem::take(&mut lost.unread);
            self.taken_over.unread = std::mem::take(&mut taken_over.unread);
        }
        Vanished::Batches { lost, taken_over }
    }

    fn remove_oldest_finished(&mut self) -> Result<Option<Lost>, JournalError> {
        // Batches of ended processes are the oldest.
        for at in (0..self.ended.len()).map(Some).chain([None]) {
            let journal = at.map_or(&mut self.own, |at| &mut self.ended[at].journal);
            if let Some(batches) = journal.remove_oldest_finished().map_err(in_one_line)? {
                return Ok(Some(self.without(batches)));
            }
        }
        Ok(None)
    }

    fn next_maintenance(&self) -> Option<Duration> {
        let has_ended = !self.ended.is_empty() || self.home.has_content(Part::Journal, self.clock.now());
        if self.has_next_step || has_ended || self.look != Look::Usual || self.home.has_more() {
            Some(NEXT_STEP)
        } else if self.own.status().batches > 0 || self.own.status().segments > 1 {
            Some(MAINTAIN_EVERY)
        } else {
            self.home.has_others().then_some(home::LOOK_EVERY)
        }
    }

    fn maintain(&mut self, has_file: HasFile<'_>) -> Result<(), JournalError> {
        let renewed = self.renew_if_gone();
        self.drop_moved();
        match self.look {
            Look::Postponed => self.look = Look::Due,
            Look::Usual | Look::Due => {
                self.look_for_ended(has_file);
                self.look = Look::Usual;
            }
        }
        self.close_ended();
        self.merge();
        let mut result = renewed;
        for ended in &mut self.ended {
            result = result.and(ended.journal.maintain().map(drop).map_err(in_one_line));
        }
        let maintained = self.own.maintain();
        self.has_next_step = maintained.as_ref().is_ok_and(|more| *more);
        result = result.and(maintained.map(drop).map_err(in_one_line));
        // The journal thread has just synced: the next batch comes later.
        result = result.and(self.own.prepare().map_err(in_one_line));
        let Self { own, ended, log, .. } = self;
        log.tell(own);
        ended.iter_mut().for_each(|ended| log.tell(&mut ended.journal));
        if self.home.is_on_network() && self.own.status().batches > 0 {
            result = result.and(self.home.beat_if_due(self.clock.now()).map_err(in_one_line));
        }
        self.state_bytes();
        self.log.flush();
        result
    }

    fn usage(&self) -> JournalUsage {
        let mut usage = JournalUsage::default();
        let own = self.own.status();
        usage.max_bytes = own.max_bytes;
        for status in std::iter::once(own).chain(self.ended.iter().map(|ended| ended.journal.status())) {
            usage.batches += status.batches as u64;
            usage.bytes += status.bytes;
        }
        usage.max_bytes += usage.bytes - self.own.status().bytes;
        usage
    }
}

impl StoreLog {
    /// Logs the notices of a journal.
    pub(super) fn tell<D: Directory>(&mut self, journal: &mut journal::Journal<D>) {
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
                Notice::Missing { name, batches, items } => {
                    self.warn(Kind::BatchDamaged, items, &format!("{name}: {batches} batches that cannot be read"));
                }
                Notice::SyncFailed { name } => self.warn(Kind::JournalSyncFailed, 0, &name),
                other => log::info_contained!(notice = ?other, "journal"),
            }
        }
    }
}

/// The error with all its sources in one line, as health shows it to an operator.
fn in_one_line(error: impl Error + 'static) -> JournalError {
    JournalError::new(ErrorChain(&error).to_string())
}

/// The journal could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalOpenError {
    /// The state directory cannot be used.
    #[error(transparent)]
    StateDir(StateDirError),
    /// The directory of the journal cannot be used.
    #[error("the journal's directory cannot be used")]
    Directory(#[source] safe_dir::OpenError),
    /// The lock or a segment cannot be used now.
    #[error("the journal cannot be opened")]
    Journal(#[source] journal::OpenError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_takes_at_most_a_quarter_of_a_small_volume_in_short_segments() {
        let config = Config { max_bytes: 256 << 20, free_space_reserve: 64 << 20, ..Config::default() };
        for mib in [1_u64, 8, 16, 40, 100, 300, 900] {
            let volume_bytes = mib << 20;
            let fitted = fitting(config, volume_bytes);
            assert!(fitted.max_bytes <= volume_bytes / 4, "{mib} MiB: {fitted:?}");
            assert!(fitted.max_bytes >= volume_bytes / 5, "{mib} MiB: {fitted:?}");
            // Files get room a segment at a time, also before the journal is at its limit.
            assert!(fitted.segment_bytes <= fitted.max_bytes / 4, "{mib} MiB: {fitted:?}");
        }
        assert_eq!(fitting(config, 4 << 30), config);
        // A volume that tells no size, or nearly none, still gets limits that the journal takes.
        let least = fitting(config, 0);
        assert_eq!(least.max_bytes, 2 * least.segment_bytes);
    }
}

//! The upkeep of the fallback files and dead letters: the content of processes that have ended, the limits that journal
//! and files share, and a directory that has vanished.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use file_fallback::TakenOver;
use otlp_payload::Signal;
use safe_dir::{Directory, Locked};

use super::convert::{Conversion, Target};
use super::{FileStore, in_one_line};
use crate::report::ledger::DropReason;
use crate::report::log;
use crate::report::warnings::Kind;
use crate::seams::clock::Clock;
use crate::seams::fallback::{Change, FallbackError};
use crate::stores::home::{self, Content, Home, Part, Taken};
use crate::stores::log::StoreLog;

/// While files wait and the disk thread has nothing else to do, it cleans up this often.
const CLEAN_UP_EVERY: Duration = Duration::from_secs(5);

/// While batches in the journal of an ended process turn into files, the disk thread cleans up this often.
const CONVERT_EVERY: Duration = Duration::from_secs(1);

/// While only dead letters are stored, which no limit but their age removes, the disk thread cleans up this often.
const LETTERS_EVERY: Duration = Duration::from_secs(60);

/// One clean-up moves content of processes that have ended for about this long, and in at most so many steps. Then
/// other work of the disk thread has its turn.
const MOVES_FOR: Duration = Duration::from_millis(200);
const MAX_STEPS: usize = 64;

/// While content of a process that has ended moves, the next clean-up follows this soon.
const NEXT_STEP: Duration = Duration::from_millis(5);

/// The smallest limit for files beside the journal, so that a spill always has a place.
const LEAST_BYTES: u64 = 4 << 20;

/// The directories of a store, and its part of their upkeep.
pub(crate) struct Place<D: Directory> {
    pub(crate) files: Arc<Home<D>>,
    pub(crate) letters: Arc<Home<D>>,
    /// The home of the journal of this process, which adopts the journals of ended processes there. None without
    /// durable mode. This store turns the batches of other journals into files.
    pub(crate) journal: Option<Arc<Home<D>>>,
    pub(crate) clock: Arc<dyn Clock>,
}

pub(super) struct Upkeep<D: Directory> {
    pub(super) place: Place<D>,
    generation: u64,
    letters_generation: u64,
    /// Content of processes that have ended and that moves here, from whichever home: the settings of the directories
    /// may have been others before.
    files: VecDeque<Held<D>>,
    letters: VecDeque<Held<D>>,
    journals: VecDeque<Conversion<D>>,
}

/// Content of an ended process, and the home that it is in.
struct Held<D: Directory> {
    home: Arc<Home<D>>,
    content: Content<D>,
}

impl<D: Directory> Place<D> {
    /// Each home once.
    fn homes(&self) -> impl Iterator<Item = &Arc<Home<D>>> {
        let is_another = !Arc::ptr_eq(&self.files, &self.letters);
        std::iter::once(&self.files).chain(is_another.then_some(&self.letters))
    }

    /// The journal of this process is in this home, and takes the journals there.
    fn has_journal_in(&self, home: &Arc<Home<D>>) -> bool {
        self.journal.as_ref().is_some_and(|journal| Arc::ptr_eq(journal, home))
    }
}

impl<D: Directory> Upkeep<D> {
    pub(super) fn new(place: Place<D>, generation: u64) -> Self {
        let (files, letters, journals) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        let letters_generation = place.letters.generation();
        Self { place, generation, letters_generation, files, letters, journals }
    }

    pub(super) fn now(&self) -> Instant {
        self.place.clock.now()
    }

    /// The signal of all files and letters.
    pub(super) fn signal(&self) -> Signal {
        self.place.files.signal()
    }

    /// The state directory, for people.
    pub(super) fn path(&self) -> String {
        self.place.files.path().display().to_string()
    }

    /// Content of ended processes is on its way, or waits for this store.
    fn has_content(&self) -> bool {
        let now = self.now();
        let waits = |home: &Arc<Home<D>>, part| {
            (part != Part::Journal || !self.place.has_journal_in(home)) && home.has_content(part, now)
        };
        !self.files.is_empty()
            || !self.letters.is_empty()
            || self.journals.iter().any(|conversion| conversion.is_due(now))
            || self.place.homes().any(|home| Part::ALL.into_iter().any(|part| waits(home, part)))
    }

    /// Looks for directories of processes that have ended.
    fn look(&mut self, log: &mut StoreLog) {
        let now = self.now();
        let Place { files, letters, journal, .. } = &self.place;
        // The file of an interrupted spill stays where it is until the journal has asked for it.
        let journals = journal.as_ref().unwrap_or(letters);
        let mut is_decided = |owner: Option<&str>| match owner {
            Some(owner) if !Arc::ptr_eq(journals, files) => !journals.has_undecided_journal(owner),
            _ => true,
        };
        let mut rounds = vec![files.round(now, &mut is_decided)];
        if !Arc::ptr_eq(files, letters) {
            rounds.push(letters.round(now, &mut |_| true));
        }
        for round in rounds {
            match round {
                Ok(round) => {
                    if let Some((name, error)) = round.failed {
                        log.warn(Kind::FilesNotTakenOver, 0, &format!("{name}: {error}"));
                    }
                }
                Err(error) => log.warn(Kind::FilesNotTakenOver, 0, &in_one_line(error).to_string()),
            }
        }
    }

    /// Takes the content that is found and ready.
    fn take(&mut self, log: &mut StoreLog) {
        let now = self.now();
        let homes = self.place.homes().cloned().collect::<Vec<_>>();
        for home in homes.iter().filter(|home| !self.place.has_journal_in(home)) {
            for content in taken(home, Part::Journal, now, log) {
                let key = content.key;
                match Conversion::open(content, &homes, Arc::clone(home), log) {
                    Ok(conversion) => self.journals.push_back(conversion),
                    Err(error) => {
                        log.warn(Kind::JournalNotTakenOver, 0, &error);
                        home.give_back(key, Part::Journal, now);
                    }
                }
            }
        }
        for home in homes {
            let held = |content| Held { home: Arc::clone(&home), content };
            self.files.extend(taken(&home, Part::Files, now, log).into_iter().map(held));
            self.letters.extend(taken(&home, Part::Letters, now, log).into_iter().map(held));
        }
    }

    /// A home has another directory now. Content that still exists is found by the next look.
    fn forget(&mut self, home: &Arc<Home<D>>) {
        self.files.retain(|held| !Arc::ptr_eq(&held.home, home));
        self.letters.retain(|held| !Arc::ptr_eq(&held.home, home));
        self.journals.retain(|conversion| !conversion.is_in(home));
    }

    /// Makes the directory of this process for its letters anew, if that is another than the one of the files and has
    /// vanished.
    fn renew_letters_if_gone(&mut self, log: &mut StoreLog) {
        let Place { files, letters, .. } = &self.place;
        if Arc::ptr_eq(files, letters) {
            return;
        }
        let letters = Arc::clone(letters);
        if let Err(error) = letters.renew_if_gone() {
            log.warn(Kind::DiskTrouble, 0, &in_one_line(error).to_string());
        }
        let generation = letters.generation();
        if generation != self.letters_generation {
            self.letters_generation = generation;
            self.forget(&letters);
        }
    }
}

/// Takes the content of one kind; logs the first directory that cannot be opened.
fn taken<D: Directory>(home: &Home<D>, part: Part, now: Instant, log: &mut StoreLog) -> Vec<Content<D>> {
    let Taken { contents, failed } = home.take(part, now);
    let kind = if part == Part::Journal { Kind::JournalNotTakenOver } else { Kind::FilesNotTakenOver };
    if let Some((name, error)) = failed {
        log.warn(kind, 0, &format!("{name}: {error}"));
    }
    contents
}

impl<D: Directory> FileStore<D> {
    /// Looks for content of processes that have ended, and moves it here, or as much of it as this turn has time for.
    pub(super) fn take_over(&mut self, now: SystemTime) {
        self.upkeep.look(&mut self.log);
        let begun = self.upkeep.now();
        for _ in 0..MAX_STEPS {
            self.take_some_over(now);
            if !self.upkeep.has_content() || self.upkeep.now().saturating_duration_since(begun) >= MOVES_FOR {
                break;
            }
        }
    }

    fn take_some_over(&mut self, now: SystemTime) {
        self.upkeep.take(&mut self.log);
        for held in std::mem::take(&mut self.upkeep.files) {
            let taken = self.files.take_over(&held.content.dir, now).map_err(in_one_line);
            if self.goes_on(taken, &held, Part::Files) {
                self.upkeep.files.push_back(held);
            }
        }
        for held in std::mem::take(&mut self.upkeep.letters) {
            let taken = self.dead_letters.take_over(&held.content.dir, now);
            if self.goes_on(taken, &held, Part::Letters) {
                self.upkeep.letters.push_back(held);
            }
        }
        self.convert(now);
    }

    /// More of the content is left. Otherwise its directory is removed or, after a failure, taken again later.
    fn goes_on(&mut self, taken: Result<TakenOver, FallbackError>, held: &Held<D>, part: Part) -> bool {
        let Held { home, content } = held;
        match taken {
            Ok(TakenOver { more: true, .. }) => true,
            Ok(_) => {
                home.finish(content.key, part);
                false
            }
            Err(error) => {
                self.log.warn(Kind::FilesNotTakenOver, 0, &format!("{}: {error}", content.name));
                home.give_back(content.key, part, self.upkeep.now());
                false
            }
        }
    }

    /// Turns batches in the journals of ended processes into files.
    fn convert(&mut self, wall: SystemTime) {
        let now = self.upkeep.now();
        for mut conversion in std::mem::take(&mut self.upkeep.journals) {
            if !conversion.is_due(now) {
                self.upkeep.journals.push_back(conversion);
                continue;
            }
            let (format, log) = (self.format, &mut self.log);
            let step = conversion.step(&mut Target { files: &mut self.files, format, now, wall, log });
            self.note_evicted(&step.evicted);
            let lost = step.vanished + step.damaged;
            if step.spans + lost > 0 {
                self.changes.push(Change::Recovered { spans: step.spans + lost });
            }
            let lost = [(step.vanished, DropReason::Vanished), (step.damaged, DropReason::Corrupt)];
            for (spans, reason) in lost.into_iter().filter(|(spans, _)| *spans > 0) {
                self.changes.push(Change::Dropped { spans, reason });
            }
            if step.is_over {
                conversion.close(now);
            } else {
                self.upkeep.journals.push_back(conversion);
            }
        }
    }

    /// Applies the limits that all processes and the journal share.
    pub(super) fn share_limits(&mut self) {
        let home = &self.upkeep.place.files;
        let journal = match &self.upkeep.place.journal {
            Some(journal) if Arc::ptr_eq(journal, home) => home.bytes_of(Part::Journal),
            _ => 0,
        };
        home.state(Part::Files, self.files.stored().bytes);
        let limit = home.allowance().saturating_sub(journal);
        self.files.set_max_bytes(limit.max(LEAST_BYTES.min(self.max_bytes)));
    }

    /// Goes on in a new directory if the one of this process has vanished; returns whether it had.
    pub(super) fn renew_if_gone(&mut self) -> bool {
        self.upkeep.renew_letters_if_gone(&mut self.log);
        let home = Arc::clone(&self.upkeep.place.files);
        let renewed = home.renew_if_gone();
        if let Err(error) = renewed {
            self.log.warn(Kind::DiskTrouble, 0, &in_one_line(error).to_string());
            return false;
        }
        let is_here = self.upkeep.generation == home.generation() && home.holds(Part::Files, self.files.dir());
        if is_here && !self.files.is_vanished() {
            return false;
        }
        let renewed = self.renew(&home);
        match renewed {
            Ok(generation) => {
                if generation != self.upkeep.generation {
                    self.upkeep.forget(&home);
                }
                self.upkeep.generation = generation;
                log::warn_contained!(
                    path = %self.files.path().display(),
                    "the directory of the fallback files was removed; a new one is made"
                );
                true
            }
            Err(error) => {
                self.log.warn(Kind::DiskTrouble, 0, &error.to_string());
                false
            }
        }
    }

    /// Continues in the directory that this process has now. The files of the former one are noted as taken away.
    fn renew(&mut self, home: &Home<D>) -> Result<u64, FallbackError> {
        let (dir, generation) = home.own(Part::Files).map_err(in_one_line)?;
        let Locked { dir, lock } = Locked::new(dir).map_err(in_one_line)?;
        self.files.renew(dir, lock).map_err(in_one_line)?;
        Ok(generation)
    }

    /// Has the next process know the newest time that this one has seen.
    pub(super) fn remember_time(&mut self) {
        if let Some(newest) = self.files.newest_time() {
            self.remember(newest);
        }
    }

    pub(super) fn remember(&mut self, newest: SystemTime) {
        if let Err(error) = self.upkeep.place.files.remember_time(newest) {
            self.log.warn(Kind::ClockNotWritten, 0, &in_one_line(error).to_string());
        }
    }

    /// Shows other machines that this process is alive, before it writes a file and while files wait.
    pub(super) fn beat(&mut self) {
        self.beat_in(&Arc::clone(&self.upkeep.place.files));
    }

    /// The same for letters. While some are stored, each clean-up has a round, which shows it too.
    pub(super) fn beat_for_letter(&mut self) {
        self.beat_in(&Arc::clone(&self.upkeep.place.letters));
    }

    fn beat_in(&mut self, home: &Home<D>) {
        if home.is_on_network()
            && let Err(error) = home.beat_if_due(self.upkeep.now())
        {
            self.log.warn(Kind::FilesNotTakenOver, 0, &in_one_line(error).to_string());
        }
    }

    pub(super) fn clean_up_due(&self) -> Option<Duration> {
        if self.upkeep.has_content() || self.upkeep.place.homes().any(|home| home.has_more()) {
            return Some(NEXT_STEP);
        }
        if !self.upkeep.journals.is_empty() {
            return Some(CONVERT_EVERY);
        }
        if self.files.stored().files > 0 {
            return Some(CLEAN_UP_EVERY);
        }
        let Place { files, letters, .. } = &self.upkeep.place;
        let others = (files.has_others() || letters.has_others()).then_some(home::LOOK_EVERY);
        let every = if letters.is_on_network() { home::BEAT_EVERY } else { LETTERS_EVERY };
        let letters = self.dead_letters.has_letters().then_some(every);
        others.into_iter().chain(letters).min()
    }
}

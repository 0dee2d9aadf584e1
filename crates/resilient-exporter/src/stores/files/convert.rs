//! The journal of a process that has ended, in a process without durable mode: its batches become fallback files.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use file_fallback::{Evicted, FileFallback};
use journal::{Batch, Config, Id, Journal, ReadError};
use otlp_payload::Payload;
use otlp_transport::ErrorChain;
use safe_dir::{Directory, Locked};

use crate::report::warnings::Kind;
use crate::seams::settings::FallbackFormat;
use crate::stores::home::{Content, Home, Part};
use crate::stores::journal::{QUARANTINE, keep_damaged, signal_of, tags_of};
use crate::stores::log::StoreLog;

/// Bytes that one step turns into a file, about.
const STEP_BYTES: usize = 1_024 * 1_024;

/// The time between a failure and the next step.
const RETRY: Duration = Duration::from_secs(1);

pub(super) struct Conversion<D: Directory> {
    /// The state directory with the journal, and the key of the content there.
    home: Arc<Home<D>>,
    key: u64,
    name: String,
    journal: Journal<D>,
    /// Batches of a step that failed: they come first.
    back: Vec<Id>,
    /// No step before this instant.
    retry_at: Option<Instant>,
    /// Spans that damage has taken, and that no step has reported yet.
    damaged: u64,
}

/// The outcome of one step.
#[derive(Default)]
pub(super) struct Step {
    /// Spans that are in a file now.
    pub(super) spans: u64,
    /// Spans that another program has removed with a part of the journal.
    pub(super) vanished: u64,
    /// Spans of the journal that damage has taken.
    pub(super) damaged: u64,
    /// Files that left the store for it.
    pub(super) evicted: Vec<Evicted>,
    /// No batch is left in the journal.
    pub(super) is_over: bool,
}

/// The store that a step writes to, and the format of its records.
pub(super) struct Target<'a, D: Directory> {
    pub(super) files: &'a mut FileFallback<D>,
    pub(super) format: FallbackFormat,
    pub(super) now: Instant,
    pub(super) wall: SystemTime,
    pub(super) log: &'a mut StoreLog,
}

impl<D: Directory> Conversion<D> {
    /// Opens the journal, which is in `home`, one of `homes`, and decides about each interrupted spill by the files in
    /// all of them.
    ///
    /// # Errors
    /// A text for the log.
    pub(super) fn open(
        content: Content<D>,
        homes: &[Arc<Home<D>>],
        home: Arc<Home<D>>,
        log: &mut StoreLog,
    ) -> Result<Self, String> {
        let Content { key, name, users, dir } = content;
        let mut holds = |file: &str| {
            for files in homes {
                let beside = Arc::ptr_eq(files, &home).then_some(key);
                if files.has_file(file, &users, beside)? {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        let config = Config { known_tags: tags_of(home.signal()), ..Config::default() };
        let locked = Locked::new(dir).map_err(|error| format!("{name}: {}", ErrorChain(&error)))?;
        let (mut journal, report) = Journal::open_locked(locked, config, home.incarnation(), &mut holds)
            .map_err(|error| format!("{name}: {}", ErrorChain(&error)))?;
        log.tell(&mut journal);
        Ok(Self { home, key, name, journal, back: Vec::new(), retry_at: None, damaged: report.lost_items })
    }

    pub(super) fn is_in(&self, home: &Arc<Home<D>>) -> bool {
        Arc::ptr_eq(&self.home, home)
    }

    /// A step may do something now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.retry_at.is_none_or(|instant| now >= instant)
    }

    /// Turns some batches into a file. After a failure they stay in the journal, and later steps try again.
    pub(super) fn step(&mut self, target: &mut Target<'_, D>) -> Step {
        self.retry_at = None;
        let batches = self.read_some(target);
        target.log.tell(&mut self.journal);
        let vanished = self.journal.take_vanished().iter().map(|(_, spans)| u64::from(*spans)).sum();
        let step = self.convert(&batches, target);
        Step { vanished, damaged: std::mem::take(&mut self.damaged), ..step }
    }

    fn convert(&mut self, batches: &[Batch], target: &mut Target<'_, D>) -> Step {
        if batches.is_empty() {
            let is_over = self.journal.status().batches == 0;
            if !is_over {
                self.retry_at = Some(target.now + RETRY);
            }
            return Step { is_over, ..Step::default() };
        }
        let (mut records, mut unreadable) = (Vec::new(), 0);
        for batch in batches {
            let body = Bytes::copy_from_slice(&batch.body);
            let signal = signal_of(batch.tag);
            let payload = Payload::of(signal, batch.id.into(), target.wall, batch.count as usize, body);
            match target.format.records(&payload) {
                Ok(mut of_batch) => records.append(&mut of_batch),
                Err(error) => {
                    let detail = format!("{}: {error}", self.name);
                    target.log.warn(Kind::BatchDamaged, u64::from(batch.count), &detail);
                    unreadable += u64::from(batch.count);
                }
            }
        }
        let ids = batches.iter().map(|batch| batch.id).collect::<Vec<_>>();
        if records.is_empty() {
            self.damaged += unreadable;
            self.mark(&ids);
            return Step::default();
        }
        let mut announce = |name: &str| {
            // After a failure here, a crash in the next moment delivers the batches twice.
            drop(self.journal.spill(name, &ids).map(|_| self.journal.sync()));
        };
        // The batches are safe in the journal: no older file goes for them.
        match target.files.spill_beside_announced(&records, target.wall, &mut announce) {
            Ok(spilled) => {
                self.damaged += unreadable;
                self.mark(&ids);
                let spans = records.iter().map(|record| record.count as u64).sum();
                Step { spans, evicted: spilled.evicted, ..Step::default() }
            }
            Err(error) => {
                target.log.warn(Kind::JournalNotTakenOver, 0, &format!("{}: {}", self.name, ErrorChain(&error)));
                drop(self.journal.take_back(&ids));
                self.back.extend(ids);
                self.retry_at = Some(target.now + RETRY);
                Step { evicted: error.evicted().to_vec(), ..Step::default() }
            }
        }
    }

    fn read_some(&mut self, target: &mut Target<'_, D>) -> Vec<Batch> {
        let (mut batches, mut bytes, mut failures) = (Vec::new(), 0, 0);
        while bytes < STEP_BYTES && failures < 2 {
            let id = self.back.pop();
            let read = match id {
                Some(id) => Some(self.journal.read(id, target.now)),
                None => self.journal.next_recovered(target.now),
            };
            match read {
                Some(Ok(batch)) => {
                    bytes += batch.body.len();
                    batches.push(batch);
                }
                Some(Err(ReadError::Damaged { count, .. })) => self.damaged += u64::from(count),
                Some(Err(ReadError::Vanished { .. } | ReadError::Unknown(_))) => {}
                Some(Err(error)) => {
                    target.log.warn(Kind::JournalNotTakenOver, 0, &format!("{}: {}", self.name, ErrorChain(&error)));
                    // The batches behind it do not wait for it.
                    self.back.splice(..0, id);
                    failures += 1;
                }
                None => break,
            }
        }
        batches
    }

    fn mark(&mut self, ids: &[Id]) {
        // A mark that is not durable delivers the batches once more after a crash.
        drop(self.journal.done(ids));
        drop(self.journal.sync());
    }

    /// Removes the journal, of which no batch is left. Its damaged segments stay in the journal of this process.
    pub(super) fn close(self, now: Instant) {
        let Self { home, key, journal, .. } = self;
        match journal.remove() {
            Ok(Some(Locked { dir, lock })) => {
                let is_kept = dir.metadata(QUARANTINE).is_err_and(|error| error.is_not_found())
                    || home.own(Part::Journal).is_ok_and(|(own, _)| keep_damaged(&own, &dir));
                drop((dir, lock));
                if is_kept { home.finish(key, Part::Journal) } else { home.leave(key, Part::Journal) }
            }
            // A newer version has written a part of it.
            Ok(None) => home.leave(key, Part::Journal),
            Err(_) => home.give_back(key, Part::Journal, now),
        }
    }
}

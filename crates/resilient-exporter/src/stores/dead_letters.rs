//! Dead letters: refused batches in files of their own.

use std::sync::Arc;
use std::time::SystemTime;

use file_fallback::dead_letters::{DeadLetters, Letter, LetterError, RedriveError};
use file_fallback::{Config, Evicted, FileFallback, Format, Notice, Record, SpillError, TakenOver};
use otlp_payload::{BatchId, Payload, Signal};
use otlp_transport::{Cause, ErrorChain};
use safe_dir::Directory;

use super::home::{Home, Part};
use super::log::StoreLog;
use super::{in_one_line, place_of, records};
use crate::report::log;
use crate::report::warnings::Kind;
use crate::seams::dead_letters::{DeadLetter, DeadLetterError, Redriven};
use crate::seams::fallback::{Change, FallbackError, Usage};
use crate::seams::fates::Refusal;
use crate::seams::settings::FallbackFormat;

pub(super) struct DeadLetterStore<D: Directory> {
    /// Opened with the first letter or the first question: an exporter without refused batches makes no directory.
    letters: Option<DeadLetters<D>>,
    home: Arc<Home<D>>,
    /// The generation of the home in which the letters are.
    generation: u64,
    config: Config,
    changes: Vec<Change>,
    log: StoreLog,
}

impl<D: Directory> DeadLetterStore<D> {
    pub(super) fn new(home: Arc<Home<D>>, config: Config) -> Self {
        Self { letters: None, home, generation: 0, config, changes: Vec::new(), log: StoreLog::default() }
    }

    /// The letters that are stored.
    pub(super) fn usage(&self) -> Usage {
        let stored = self.letters.as_ref().map(DeadLetters::stored).unwrap_or_default();
        Usage { files: stored.files, spans: stored.count, bytes: stored.bytes }
    }

    /// Letters are stored.
    pub(super) fn has_letters(&self) -> bool {
        self.letters.as_ref().is_some_and(|letters| letters.stored().files > 0)
    }

    /// Moves letters of a process that has ended here: some at a time.
    pub(super) fn take_over(&mut self, from: &D, now: SystemTime) -> Result<TakenOver, FallbackError> {
        let taken = self.opened()?.take_over(from, now).map_err(in_one_line)?;
        self.log_notices();
        Ok(taken)
    }

    /// Stores the spans of a refusal in one letter; in several, if one would be larger than all letters may be. A
    /// single span that is larger leaves as a letter leaves that its limits remove.
    pub(super) fn store(&mut self, refusal: &Refusal, endpoint: &str, now: SystemTime) -> Result<(), FallbackError> {
        let letter = Letter {
            signal: refusal.payload.signal().to_string(),
            status: match &refusal.cause {
                Cause::Http { status, .. } => format!("HTTP {status}"),
                Cause::Grpc { code, .. } => format!("gRPC {code}"),
                _ => "none".to_owned(),
            },
            reason: refusal.cause.to_string(),
            endpoint: endpoint.to_owned(),
            attempts: refusal.attempts,
            accepted: refusal.payload.created(),
            refused: now,
        };
        self.add(&letter, &refusal.payload, now)
    }

    fn add(&mut self, letter: &Letter, spans: &Payload, now: SystemTime) -> Result<(), FallbackError> {
        // Letters are for people: JSON, although the fallback files may be protobuf.
        let records = FallbackFormat::Json.records(spans).map_err(FallbackError::of_batches)?;
        let added = self.opened()?.add(letter, &records, now);
        match &added {
            Ok(added) => self.note_evicted(&added.evicted),
            Err(error) => self.note_evicted(error.evicted()),
        }
        match added {
            Err(error @ (SpillError::TooLarge { .. } | SpillError::Record { .. })) => {
                let Some((left, right)) = spans.split(spans.id(), spans.id()) else {
                    let spans = spans.item_count() as u64;
                    self.log.warn(Kind::LetterRemoved, spans, &ErrorChain(&error).to_string());
                    self.changes.push(Change::DeadLettersEvicted { spans });
                    return Ok(());
                };
                self.add(letter, &left, now)?;
                self.add(letter, &right, now)
            }
            added => added.map(drop).map_err(in_one_line),
        }
    }

    pub(super) fn ids(&mut self) -> Result<Vec<String>, DeadLetterError> {
        Ok(self.letters()?.list().into_iter().map(|listed| listed.name).collect())
    }

    pub(super) fn describe(&mut self, id: &str) -> Result<DeadLetter, DeadLetterError> {
        let described = self.letters()?.describe(id);
        self.log_notices();
        self.with_size(described.map_err(of_letter)?, id)
    }

    pub(super) fn read(&mut self, id: &str) -> Result<(DeadLetter, Vec<String>), DeadLetterError> {
        let read = self.letters()?.read(id);
        self.log_notices();
        let (letter, lines) = read.map_err(of_letter)?;
        let damaged = |_| DeadLetterError::Damaged { id: id.to_owned(), why: "it is no text".to_owned() };
        let lines = lines.into_iter().map(|line| String::from_utf8(line).map_err(damaged)).collect::<Result<_, _>>()?;
        Ok((self.with_size(letter, id)?, lines))
    }

    /// Moves a letter into `files`, in their format.
    pub(super) fn redrive(
        &mut self,
        id: &str,
        files: &mut FileFallback<D>,
        format: FallbackFormat,
        now: SystemTime,
    ) -> Result<Redriven, DeadLetterError> {
        let signal = self.home.signal();
        let redriven =
            self.letters()?.redrive(id, files, now, |letter, lines| records_of(format, signal, letter, lines));
        self.log_notices();
        match redriven {
            Ok(redriven) => {
                if let Err(error) = &redriven.removed {
                    let detail = format!("{id}: {}", ErrorChain(error));
                    self.log.warn(Kind::LetterStays, redriven.spilled.count, &detail);
                }
                Ok(Redriven { spans: redriven.spilled.count, letter_stays: redriven.removed.is_err() })
            }
            Err(RedriveError::Letter(error)) => Err(of_letter(error)),
            Err(RedriveError::Store(error @ (SpillError::Full { .. } | SpillError::NoRoom { .. }))) => {
                Err(DeadLetterError::NoRoom(in_one_line(error)))
            }
            Err(RedriveError::Store(error @ SpillError::File { .. })) => {
                Err(DeadLetterError::Storage(in_one_line(error)))
            }
            Err(RedriveError::Store(error)) => {
                Err(DeadLetterError::Damaged { id: id.to_owned(), why: ErrorChain(&error).to_string() })
            }
            Err(RedriveError::Unusable(why)) => Err(DeadLetterError::Damaged { id: id.to_owned(), why }),
            Err(error) => Err(DeadLetterError::Storage(FallbackError::new(error.to_string()))),
        }
    }

    pub(super) fn remove(&mut self, id: &str) -> Result<u64, DeadLetterError> {
        self.letters()?.remove(id).map_err(of_letter)
    }

    pub(super) fn clean_up(&mut self, now: SystemTime) {
        self.leave_if_gone();
        if let Some(letters) = &mut self.letters {
            let evicted = letters.clean_up(now);
            self.note_evicted(&evicted);
            self.log_notices();
        }
        self.log.flush();
    }

    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    fn note_evicted(&mut self, evicted: &[Evicted]) {
        for letter in evicted {
            let (name, why) = (&letter.name, letter.reason.as_str());
            self.log.warn(Kind::LetterRemoved, letter.count, &format!("{name}: {why}"));
            self.changes.push(Change::DeadLettersEvicted { spans: letter.count });
        }
    }

    fn log_notices(&mut self) {
        for notice in self.letters.as_mut().map(DeadLetters::take_notices).unwrap_or_default() {
            match notice {
                Notice::SetAside { name, moved_to, damage, count, .. } => {
                    let (damage, moved_to) = (damage.as_str(), place_of(moved_to.as_deref()));
                    self.log.warn(Kind::LetterSetAside, count, &format!("{name}: {damage}; {moved_to}"));
                }
                other => log::info_contained!(notice = ?other, "dead letters"),
            }
        }
    }

    fn letters(&mut self) -> Result<&mut DeadLetters<D>, DeadLetterError> {
        self.opened().map_err(DeadLetterError::Storage)
    }

    /// Leaves a directory that has vanished, and with it the letters: the next letter makes a new one.
    fn leave_if_gone(&mut self) {
        let is_here = self.generation == self.home.generation();
        let is_moved = |letters: &DeadLetters<D>| is_here && !self.home.holds(Part::Letters, letters.dir());
        let is_gone = self.letters.as_ref().is_some_and(|letters| letters.is_vanished() || is_moved(letters));
        if is_gone {
            log::warn_contained!(
                "the directory of the dead letters was removed or moved; a new one is made for the next letter"
            );
        }
        if is_gone || !is_here {
            self.letters = None;
        }
    }

    fn opened(&mut self) -> Result<&mut DeadLetters<D>, FallbackError> {
        self.home.renew_if_gone().map_err(in_one_line)?;
        self.leave_if_gone();
        match &mut self.letters {
            Some(letters) => Ok(letters),
            none => {
                let (dir, generation) = self.home.own(Part::Letters).map_err(in_one_line)?;
                self.generation = generation;
                Ok(none.insert(DeadLetters::open_in(self.config.clone(), dir).map_err(in_one_line)?))
            }
        }
    }

    fn with_size(&mut self, letter: Letter, id: &str) -> Result<DeadLetter, DeadLetterError> {
        let (spans, bytes) = self.letters()?.size(id).map_err(of_letter)?;
        Ok(DeadLetter {
            id: id.to_owned(),
            signal: letter.signal,
            status: letter.status,
            reason: letter.reason,
            endpoint: letter.endpoint,
            attempts: letter.attempts,
            accepted: letter.accepted,
            refused: letter.refused,
            spans,
            bytes,
        })
    }
}

/// The lines of a letter of the wanted signal as records of a fallback file. The lines are decoded and encoded again,
/// so that only items get there.
fn records_of(
    format: FallbackFormat,
    wanted: Signal,
    letter: &Letter,
    lines: Vec<Vec<u8>>,
) -> Result<Vec<Record>, String> {
    let signal = Signal::named(&letter.signal).filter(|signal| *signal == wanted);
    let signal =
        signal.ok_or_else(|| format!("it is a letter of {}, and this exporter sends {wanted}", letter.signal))?;
    let mut all = Vec::new();
    for line in lines {
        let (bytes, items) = records::request(signal, line, Format::Lines)?;
        if items > 0 {
            // A replay gives the batch its id.
            let id = BatchId { incarnation: 0, seq: 0 };
            let batch = Payload::of(signal, id, letter.accepted, items, bytes);
            all.append(&mut format.records(&batch).map_err(|error| error.to_string())?);
        }
    }
    Ok(all)
}

fn of_letter(error: LetterError) -> DeadLetterError {
    match error {
        LetterError::Unknown { name } => DeadLetterError::Unknown { id: name },
        LetterError::Damaged { name, damage } => {
            DeadLetterError::Damaged { id: name, why: format!("{}; it was set aside in quarantine", damage.as_str()) }
        }
        error => DeadLetterError::Storage(in_one_line(error)),
    }
}

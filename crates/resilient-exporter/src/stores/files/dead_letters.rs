//! Dead letters in files of their own.

use std::time::SystemTime;

use file_fallback::dead_letters::{DeadLetters, Letter, LetterError, RedriveError};
use file_fallback::{Evicted, Format, Notice, Record, SpillError};
use otlp_payload::{BatchId, Payload};
use otlp_transport::Cause;
use safe_dir::Directory;

use super::{FileStore, told, whole_story};
use crate::seams::dead_letters::{DeadLetter, DeadLetterError, Redriven};
use crate::seams::fallback::{Change, FallbackError};
use crate::seams::fates::Refusal;
use crate::seams::settings::FallbackFormat;
use crate::stores::records;

impl<D: Directory> FileStore<D> {
    pub(super) fn keep_letter(
        &mut self,
        refusal: &Refusal,
        endpoint: &str,
        now: SystemTime,
    ) -> Result<(), FallbackError> {
        let letters = self.open_letters()?;
        // Letters are for people: JSON, whatever the files are.
        let records = FallbackFormat::Json.records(&refusal.payload).map_err(FallbackError::of_batches)?;
        let letter = Letter {
            signal: "traces".to_owned(),
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
        let added = letters.add(&letter, &records, now);
        match &added {
            Ok(added) => self.letters_evicted(&added.evicted),
            Err(error) => self.letters_evicted(error.evicted()),
        }
        added.map(drop).map_err(told)
    }

    pub(super) fn letter_described(&mut self, id: &str) -> Result<DeadLetter, DeadLetterError> {
        let described = self.letters()?.describe(id);
        self.note_letters();
        self.with_size(described.map_err(of_letter)?, id)
    }

    pub(super) fn letter_read(&mut self, id: &str) -> Result<(DeadLetter, Vec<String>), DeadLetterError> {
        let read = self.letters()?.read(id);
        self.note_letters();
        let (letter, lines) = read.map_err(of_letter)?;
        let damaged = |_| DeadLetterError::Damaged { id: id.to_owned(), why: "it is no text".to_owned() };
        let lines = lines.into_iter().map(|line| String::from_utf8(line).map_err(damaged)).collect::<Result<_, _>>()?;
        Ok((self.with_size(letter, id)?, lines))
    }

    pub(super) fn letter_redriven(&mut self, id: &str, now: SystemTime) -> Result<Redriven, DeadLetterError> {
        self.letters()?;
        let Self { files, letters: Some(letters), format, .. } = self else {
            return Err(DeadLetterError::Unknown { id: id.to_owned() });
        };
        let redriven = letters.redrive(id, files, now, |letter, lines| to_be_kept(*format, letter, lines));
        self.note();
        self.note_letters();
        match redriven {
            Ok(redriven) => {
                if let Err(error) = &redriven.removed {
                    let error = whole_story(error);
                    tracing::warn!(id, error, "a dead letter is sent again, and could not be removed");
                }
                Ok(Redriven { spans: redriven.spilled.count, letter_stays: redriven.removed.is_err() })
            }
            Err(RedriveError::Letter(error)) => Err(of_letter(error)),
            Err(RedriveError::Store(error @ (SpillError::Full { .. } | SpillError::NoRoom { .. }))) => {
                Err(DeadLetterError::NoRoom(told(error)))
            }
            Err(RedriveError::Store(error @ SpillError::File { .. })) => Err(DeadLetterError::Storage(told(error))),
            Err(RedriveError::Store(error)) => {
                Err(DeadLetterError::Damaged { id: id.to_owned(), why: whole_story(&error) })
            }
            Err(RedriveError::Unusable(why)) => Err(DeadLetterError::Damaged { id: id.to_owned(), why }),
            Err(error) => Err(DeadLetterError::Storage(FallbackError::new(error.to_string()))),
        }
    }

    pub(super) fn letter_removed(&mut self, id: &str) -> Result<u64, DeadLetterError> {
        self.letters()?.remove(id).map_err(of_letter)
    }

    pub(super) fn clean_up_letters(&mut self, now: SystemTime) {
        if let Some(letters) = &mut self.letters {
            let evicted = letters.clean_up(now);
            self.letters_evicted(&evicted);
            self.note_letters();
        }
    }

    /// They have ended before, and are counted beside the ledger.
    fn letters_evicted(&mut self, evicted: &[Evicted]) {
        for letter in evicted {
            let (name, spans, why) = (&letter.name, letter.count, letter.reason.as_str());
            tracing::warn!(name, spans, why, "a dead letter was removed to make room or for its age");
            self.changes.push(Change::LettersEvicted { spans });
        }
    }

    fn note_letters(&mut self) {
        for notice in self.letters.as_mut().map(DeadLetters::take_notices).unwrap_or_default() {
            match notice {
                Notice::SetAside { name, moved_to, damage, count, .. } => {
                    let (damage, moved_to) = (damage.as_str(), moved_to.as_deref().unwrap_or("not moved"));
                    tracing::warn!(name, damage, moved_to, count, "a dead letter was set aside");
                }
                other => tracing::info!(notice = ?other, "dead letters"),
            }
        }
    }

    pub(super) fn letters(&mut self) -> Result<&mut DeadLetters<D>, DeadLetterError> {
        self.open_letters().map_err(DeadLetterError::Storage)
    }

    fn open_letters(&mut self) -> Result<&mut DeadLetters<D>, FallbackError> {
        match &mut self.letters {
            Some(letters) => Ok(letters),
            none => {
                let dir = (self.open_letters)().map_err(told)?;
                Ok(none.insert(DeadLetters::open_in(self.letters_config.clone(), dir).map_err(told)?))
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

/// The lines of a letter as the fallback keeps them; through their spans, so that nothing else gets there.
fn to_be_kept(format: FallbackFormat, letter: &Letter, lines: Vec<Vec<u8>>) -> Result<Vec<Record>, String> {
    let mut records = Vec::new();
    for line in lines {
        let (bytes, spans) = records::request(line, Format::Lines)?;
        if spans > 0 {
            // It gets another id when it is read to be sent.
            let id = BatchId { incarnation: 0, seq: 0 };
            let batch = Payload::new(id, letter.accepted, spans, bytes);
            records.append(&mut format.records(&batch).map_err(|error| error.to_string())?);
        }
    }
    Ok(records)
}

fn of_letter(error: LetterError) -> DeadLetterError {
    match error {
        LetterError::Unknown { name } => DeadLetterError::Unknown { id: name },
        LetterError::Damaged { name, damage } => {
            DeadLetterError::Damaged { id: name, why: format!("{}; it was set aside in quarantine", damage.as_str()) }
        }
        error => DeadLetterError::Storage(told(error)),
    }
}

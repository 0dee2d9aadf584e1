//! Dead letters from the user's side: looked at, put back on their way, removed.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};

use super::Handle;
use crate::seams::dead_letters::{DeadLetter, DeadLetterError, PATIENCE};
use crate::seams::fallback::Fallback;
use crate::shell::ask::{Ask, redrive};
use crate::shell::shared::{Job, Shared};

/// What came of [`Handle::redrive_all`].
#[derive(Debug, Default)]
#[must_use = "some letters may have stayed"]
pub struct RedriveReport {
    /// Letters that are on their way again.
    pub letters: u64,
    /// The spans in them.
    pub spans: u64,
    /// Letters that were tried and stayed, with the reason.
    pub failed: Vec<(String, DeadLetterError)>,
    /// Letters that were not tried, since the last failure would have met them too.
    pub left: u64,
}

/// Each of these is done by the disk thread, in turn with what else it has to do, and blocks the caller until then or for 30 s. A
/// fallback of your own keeps dead letters where it implements the methods of [`Fallback`] for them.
impl Handle {
    /// The ids of all dead letters, oldest first. Reads none of them.
    ///
    /// # Errors
    /// If the storage fails, or there is none.
    pub fn dead_letter_ids(&self) -> Result<Vec<String>, DeadLetterError> {
        self.ask(|fallback, _| fallback.dead_letter_ids())
    }

    /// The newest dead letters, so many at most, newest first. Memory is bounded by their number: a few KiB each at most, whatever
    /// they hold. One that is damaged is set aside, told to the log and left out.
    ///
    /// # Errors
    /// If the storage fails, or there is none.
    pub fn dead_letters(&self, newest: usize) -> Result<Vec<DeadLetter>, DeadLetterError> {
        self.ask(move |fallback, _| {
            let mut letters = Vec::new();
            for id in fallback.dead_letter_ids()?.iter().rev() {
                if letters.len() == newest {
                    break;
                }
                match fallback.describe_dead_letter(id) {
                    Ok(letter) => letters.push(letter),
                    Err(DeadLetterError::Unknown { .. }) => {}
                    Err(error @ DeadLetterError::Damaged { .. }) => tracing::warn!("{error}"),
                    Err(error) => return Err(error),
                }
            }
            Ok(letters)
        })
    }

    /// One dead letter and its spans, as lines of OTLP JSON, each a `TracesData`. Memory: the whole letter, 64 MiB at most.
    ///
    /// # Errors
    /// If there is none of that id, or it cannot be read.
    pub fn dead_letter(&self, id: &str) -> Result<(DeadLetter, Vec<String>), DeadLetterError> {
        let id = id.to_owned();
        self.ask(move |fallback, _| fallback.dead_letter(&id))
    }

    /// Puts a dead letter back on its way: its spans are stored as spilled ones are, are replayed, and end as delivered, as
    /// rejected, or in a new dead letter. In the ledger they are `redriven`. Says how many.
    ///
    /// First they are stored, durably, then the letter is removed: a crash in between leaves both, and redriving it once more sends
    /// it twice.
    ///
    /// # Errors
    /// The letter stays. [`DeadLetterError::NoRoom`] if it does not fit: no stored span is dropped for it.
    pub fn redrive(&self, id: &str) -> Result<u64, DeadLetterError> {
        let id = id.to_owned();
        self.ask(move |fallback, shared| redrive(&id, fallback, shared))
    }

    /// [`redrive`](Self::redrive) for each letter that is there now, oldest first. Live spans go first in between. Ends at the first
    /// failure that is not about one letter alone; to go on, call it again.
    pub fn redrive_all(&self) -> RedriveReport {
        let mut report = RedriveReport::default();
        let ids = match self.dead_letter_ids() {
            Ok(ids) => ids,
            Err(error) => {
                report.failed.push((String::new(), error));
                return report;
            }
        };
        let mut ids = ids.into_iter();
        while let Some(id) = ids.next() {
            match self.redrive(&id) {
                Ok(spans) => {
                    report.letters += 1;
                    report.spans += spans;
                }
                // Somebody else was quicker.
                Err(DeadLetterError::Unknown { .. }) => {}
                Err(error) => {
                    let alone = matches!(error, DeadLetterError::Damaged { .. });
                    report.failed.push((id, error));
                    if !alone {
                        report.left = ids.len() as u64;
                        break;
                    }
                }
            }
        }
        report
    }

    /// Removes a dead letter for good; says how many spans were in it. They were counted as `dead_lettered`, and stay so.
    ///
    /// # Errors
    /// If there is none of that id, or it cannot be removed.
    pub fn remove_dead_letter(&self, id: &str) -> Result<u64, DeadLetterError> {
        let id = id.to_owned();
        self.ask(move |fallback, _| fallback.remove_dead_letter(&id))
    }

    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut dyn Fallback, &Shared) -> Result<T, DeadLetterError> + Send + 'static,
    ) -> Result<T, DeadLetterError> {
        let (sender, receiver) = sync_channel(1);
        self.shared.enqueue(Job::Ask(Ask(Box::new(move |fallback, shared| {
            // Whoever asked may have gone.
            let _ = sender.send(question(fallback, shared));
        }))));
        match receiver.recv_timeout(PATIENCE) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => Err(DeadLetterError::TimedOut),
            Err(RecvTimeoutError::Disconnected) => Err(DeadLetterError::Unavailable),
        }
    }
}

//! A user's operations on dead letters: list, read, redrive, remove.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::SystemTime;

use super::Handle;
use crate::core::{Answer, Operation, Question};
use crate::report::warnings::Kind;
use crate::seams::dead_letters::{DeadLetter, DeadLetterError, PATIENCE, Redriven};
use crate::seams::fallback::Fallback;

/// Chooses dead letters by their descriptions, for [`Handle::redrive_matching`]. Every condition that is set must hold;
/// without one all letters match. Letter case does not matter.
///
/// ```
/// use resilient_exporter::DeadLetterFilter;
///
/// // The collector did not know the tenant, and knows it now.
/// let filter = DeadLetterFilter::default().with_status("HTTP 400").with_reason("no such tenant");
/// # let _ = filter;
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeadLetterFilter {
    status: Option<String>,
    reason: Option<String>,
    endpoint: Option<String>,
}

impl DeadLetterFilter {
    /// The status is this one, such as `HTTP 400` or `gRPC 3`; `none` stands for letters without an answer.
    #[must_use]
    pub fn with_status(mut self, status: impl Into<String>) -> Self {
        self.status = Some(status.into());
        self
    }

    /// The reason contains this text.
    #[must_use]
    pub fn with_reason(mut self, text: impl Into<String>) -> Self {
        self.reason = Some(text.into());
        self
    }

    /// The spans were refused by this endpoint, as the letters name it.
    #[must_use]
    pub fn with_endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = Some(endpoint.into());
        self
    }

    /// Whether every condition holds for this letter.
    #[must_use]
    pub fn matches(&self, letter: &DeadLetter) -> bool {
        let is = |wanted: &Option<String>, text: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted.to_lowercase() == text.to_lowercase())
        };
        let has = |wanted: &Option<String>, text: &str| {
            wanted.as_ref().is_none_or(|wanted| text.to_lowercase().contains(&wanted.to_lowercase()))
        };
        is(&self.status, &letter.status) && has(&self.reason, &letter.reason) && is(&self.endpoint, &letter.endpoint)
    }
}

/// The result of [`Handle::redrive_all`] and [`Handle::redrive_matching`].
#[derive(Debug, Default)]
#[must_use = "some letters may have stayed"]
pub struct RedriveReport {
    /// Letters whose spans are stored for delivery again.
    pub letters: u64,
    /// The spans in them.
    pub spans: u64,
    /// Letters that stayed, each with its id and the error.
    pub failed: Vec<(String, DeadLetterError)>,
    /// Letters that were not tried, because the last error concerns them too.
    pub left: u64,
}

/// The disk thread carries each operation out, in turn with its other work; the calling thread is blocked until then,
/// for 30 s at most. A fallback of your own stores dead letters if it implements the methods of [`Fallback`] for them.
impl Handle {
    /// The ids of all dead letters, oldest first. No letter is read.
    ///
    /// # Errors
    /// If the storage fails, or there is none.
    pub fn dead_letter_ids(&self) -> Result<Vec<String>, DeadLetterError> {
        self.ask(|fallback| fallback.dead_letter_ids())
    }

    /// The descriptions of the `newest` dead letters, newest first. Memory: a few KiB a letter at most, however many
    /// spans it holds. A damaged letter is set aside, logged and left out.
    ///
    /// # Errors
    /// If the storage fails, or there is none.
    pub fn dead_letters(&self, newest: usize) -> Result<Vec<DeadLetter>, DeadLetterError> {
        let (letters, damaged) = self.ask(move |fallback| {
            let (mut letters, mut damaged) = (Vec::new(), Vec::new());
            for id in fallback.dead_letter_ids()?.iter().rev() {
                if letters.len() == newest {
                    break;
                }
                match fallback.describe_dead_letter(id) {
                    Ok(letter) => letters.push(letter),
                    Err(DeadLetterError::Unknown { .. }) => {}
                    Err(error @ DeadLetterError::Damaged { .. }) => damaged.push(error.to_string()),
                    Err(error) => return Err(error),
                }
            }
            Ok((letters, damaged))
        })?;
        damaged.iter().for_each(|error| self.shared.note(Kind::LetterUnusable, error));
        Ok(letters)
    }

    /// One dead letter and its spans, as lines of OTLP JSON, each a `TracesData`. Memory: the whole letter, 64 MiB at
    /// most.
    ///
    /// # Errors
    /// If there is none of that id, or it cannot be read.
    pub fn dead_letter(&self, id: &str) -> Result<(DeadLetter, Vec<String>), DeadLetterError> {
        let id = id.to_owned();
        self.ask(move |fallback| fallback.dead_letter(&id))
    }

    /// Puts a dead letter back on its way: its spans are stored as spilled ones are, are replayed, and end as
    /// delivered, as rejected, or in a new dead letter. In the ledger they are `redriven`. Says how many.
    ///
    /// First they are stored, durably, then the letter is removed: a crash in between leaves both, and redriving it
    /// once more sends it twice.
    ///
    /// # Errors
    /// The letter stays. [`DeadLetterError::NoRoom`] if it does not fit: no stored span is dropped for it.
    pub fn redrive(&self, id: &str) -> Result<u64, DeadLetterError> {
        let id = id.to_owned();
        self.ask_and_redrive(move |fallback, now| fallback.redrive(&id, now)).map(|redriven| redriven.spans)
    }

    /// [`redrive`](Self::redrive) for each letter that is there now, oldest first. Live spans go first in between. Ends
    /// at the first failure that is not about one letter alone; to go on, call it again.
    pub fn redrive_all(&self) -> RedriveReport {
        self.redrive_matching(&DeadLetterFilter::default())
    }

    /// [`redrive_all`](Self::redrive_all) for the letters that match `filter`, such as those of one cause that was
    /// repaired. The others stay, and only their descriptions are read.
    pub fn redrive_matching(&self, filter: &DeadLetterFilter) -> RedriveReport {
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
            match self.redrive_if(&id, filter) {
                Ok(Some(spans)) => {
                    report.letters += 1;
                    report.spans += spans;
                }
                Ok(None) => {}
                // Another caller redrove or removed this letter first, or its limits did.
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

    /// The spans of the letter, if it matches.
    fn redrive_if(&self, id: &str, filter: &DeadLetterFilter) -> Result<Option<u64>, DeadLetterError> {
        if *filter != DeadLetterFilter::default() {
            let id = id.to_owned();
            let letter = self.ask(move |fallback| fallback.describe_dead_letter(&id))?;
            if !filter.matches(&letter) {
                return Ok(None);
            }
        }
        self.redrive(id).map(Some)
    }

    /// Removes a dead letter for good; says how many spans were in it. They were counted as `dead_lettered`, and stay
    /// so.
    ///
    /// # Errors
    /// If there is none of that id, or it cannot be removed.
    pub fn remove_dead_letter(&self, id: &str) -> Result<u64, DeadLetterError> {
        let id = id.to_owned();
        self.ask(move |fallback| fallback.remove_dead_letter(&id))
    }

    fn ask<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut dyn Fallback) -> Result<T, DeadLetterError> + Send + 'static,
    ) -> Result<T, DeadLetterError> {
        self.run(|send| {
            Box::new(move |fallback, _| {
                let result = operation(fallback);
                Answer { redriven: None, send: Box::new(move || send(result)) }
            })
        })
    }

    fn ask_and_redrive(
        &self,
        operation: impl FnOnce(&mut dyn Fallback, SystemTime) -> Result<Redriven, DeadLetterError> + Send + 'static,
    ) -> Result<Redriven, DeadLetterError> {
        self.run(|send| {
            Box::new(move |fallback, now| {
                let result = operation(fallback, now);
                Answer { redriven: result.as_ref().ok().copied(), send: Box::new(move || send(result)) }
            })
        })
    }

    /// Has the disk thread run an operation, and waits for its result.
    fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(Box<dyn FnOnce(Result<T, DeadLetterError>) + Send>) -> Box<Operation>,
    ) -> Result<T, DeadLetterError> {
        if let Some(forked) = self.forked() {
            return Err(DeadLetterError::Forked(forked));
        }
        let (sender, receiver) = sync_channel(1);
        // The thread that asked may have given up.
        let send = Box::new(move |result| drop(sender.send(result)));
        let question = Question(operation(send));
        self.shared.decide(|core| core.ask(question));
        match receiver.recv_timeout(PATIENCE) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(DeadLetterError::TimedOut),
            Err(RecvTimeoutError::Disconnected) => Err(DeadLetterError::Unavailable),
        }
    }
}

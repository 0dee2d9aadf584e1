//! Dead letters from the user's side: looked at, put back on their way, removed.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use crate::fallback::{Fallback, FallbackError};
use crate::handle::Handle;
use crate::shared::{Job, Shared};

/// Spans that a collector refused for good, or that failed again and again while others did not: what is known of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DeadLetter {
    /// Names it among the others; a file name, as a rule. Later ones have higher numbers in it.
    pub id: String,
    /// `traces`.
    pub signal: String,
    /// What the collector answered, such as `HTTP 400`; `none` without an answer.
    pub status: String,
    /// Why, in the collector's words as far as it said.
    pub reason: String,
    /// Who refused them.
    pub endpoint: String,
    /// How many calls were made for them.
    pub attempts: u32,
    /// When the exporter accepted them, or read them from a file.
    #[serde(serialize_with = "rfc3339")]
    pub accepted: SystemTime,
    /// When they were refused.
    #[serde(serialize_with = "rfc3339")]
    pub refused: SystemTime,
    /// How many spans.
    pub spans: u64,
    /// Its size on disk.
    pub bytes: u64,
}

/// A dead letter was put back on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Redriven {
    /// How many spans are stored now, and are sent as all that is stored.
    pub spans: u64,
    /// The letter could not be removed, or not durably: its spans may come a second time after a crash.
    pub letter_stays: bool,
}

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

/// Why nothing became of a request about dead letters. No span was lost or moved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeadLetterError {
    /// There is none of that name.
    #[error("there is no dead letter {:?}: list them", shortened(id))]
    Unknown {
        /// As it was given.
        id: String,
    },
    /// It cannot be used.
    #[error("dead letter {id:?} cannot be used: {why}")]
    Damaged {
        /// Its name.
        id: String,
        /// What is wrong with it, and where it is now.
        why: String,
    },
    /// What it holds does not fit among what is stored, from which nothing is dropped for it. The letter stays.
    #[error("the dead letter stays: {0}")]
    NoRoom(#[source] FallbackError),
    /// The storage failed. What was there stays.
    #[error("dead letters cannot be used now: {0}")]
    Storage(#[source] FallbackError),
    /// There is no fallback, or the exporter was shut down.
    #[error("dead letters are not to be had: the exporter has no fallback, or was shut down")]
    Unavailable,
    /// The disk has not answered within 30 s. What was asked for may still be done.
    #[error("the disk has not answered within {} s; what was asked for may still be done", PATIENCE.as_secs())]
    TimedOut,
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

/// By the disk thread.
pub(crate) fn redrive(id: &str, fallback: &mut dyn Fallback, shared: &Shared) -> Result<u64, DeadLetterError> {
    let redriven = fallback.redrive(id, shared.clock.wall())?;
    shared.decide(|core, effects| core.redriven(redriven, effects));
    Ok(redriven.spans)
}

type Question = dyn FnOnce(&mut dyn Fallback, &Shared) + Send;

/// Something to be done with the fallback by its own thread, for somebody who waits. Dropped undone, it is an answer too.
pub(crate) struct Ask(pub(crate) Box<Question>);

impl Ask {
    pub(crate) fn answer(self, fallback: &mut dyn Fallback, shared: &Shared) {
        if catch_unwind(AssertUnwindSafe(|| (self.0)(fallback, shared))).is_err() {
            tracing::error!("the fallback panicked over a dead letter");
        }
    }
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ask")
    }
}

fn shortened(id: &str) -> String {
    id.chars().take(100).collect()
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    match jiff::Timestamp::try_from(*time) {
        Ok(timestamp) => serializer.collect_str(&format_args!("{timestamp:.3}")),
        Err(_) => serializer.serialize_none(),
    }
}

/// How long whoever asks waits for the disk thread.
const PATIENCE: Duration = Duration::from_secs(30);

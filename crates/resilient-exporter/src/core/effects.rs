//! The effects of decisions. The core queues them; the shell acts on each outside the core's lock and reports its
//! result to the core as an event.

use std::fmt;
use std::time::SystemTime;

use otlp_payload::{BatchId, Payload};
use otlp_transport::Cause;
use span_buffer::{Entry, Size};

use super::batch::Batch;
use super::group::joined;
use super::packed::Damaged;
use crate::report::events::Event;
use crate::report::position::Position;
use crate::seams::dead_letters::Redriven;
use crate::seams::fallback::{Fallback, Order};
use crate::seams::fates::{Fate, Refusal};

/// One effect. `Publish` is for the subscribers and the log; `Commit`, `LookForMarks`, `Recover` and `RemoveOldest`
/// are for the journal thread, `Pack` is for the thread that compresses, `Stop` is for all threads, and the disk
/// thread acts on the others in this order.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Append and mark batches in the journal; reported by `Durable::on_written` and `Core::on_committed`.
    Commit(Commit),
    /// Batches have ended: ask for a commit of their marks within 50 ms, by `Core::on_look`.
    LookForMarks,
    /// Write one fallback file; reported by `on_spilled`, `on_spill_refused` or `on_spill_failed`.
    Spill(Spill),
    /// Store refused batches as dead letters; reported by `on_dead_letters_stored`.
    StoreDeadLetters(Vec<Letter>),
    /// Read stored batches for a replay in this order, and merge small ones into requests of at most this size;
    /// reported by `on_group_read`, `on_group_deferred` or `on_read_failed`.
    ReadGroup { order: Order, merge: Size },
    /// Mark the batches of the group that was read last by their fates; reported by `on_group_settled`.
    SettleGroup(Vec<Fate>),
    /// Take over what ended processes have left, as much as one clean-up does; reported by `on_taken_over`.
    TakeOver,
    /// Read one batch from the journal: this one, or the next of an earlier process; reported by one of `on_recovered`,
    /// `on_recovery_damaged`, `on_recovery_failed`, `on_recovery_ended`.
    Recover(Option<BatchId>),
    /// Have the journal remove its oldest segment at once; reported by `on_removed`.
    RemoveOldest,
    /// Compress these requests; reported by `on_packed`.
    Pack(Vec<Payload>),
    /// Keep the records of outages, as they are then; reported by `on_outages_kept`.
    KeepOutages,
    /// Run a user's operation on the fallback; a redriven dead letter is reported by `on_redriven`.
    Ask(Question),
    /// End the disk thread once no effect is left, and the journal thread after that; the thread that compresses ends
    /// at once.
    Stop,
    /// Publish an event to the subscribers and the log.
    Publish(Event),
}

/// One group commit. The journal has one at a time: batches that arrive meanwhile form the next one.
#[derive(Debug)]
pub(crate) struct Commit {
    /// Batches that `export` calls have submitted.
    pub(crate) append: Vec<Payload>,
    /// Batches that have ended. Their appends belong to this commit or to an earlier one, so no mark precedes its
    /// batch.
    pub(crate) done: Vec<BatchId>,
}

/// One file to write.
#[derive(Clone, Debug)]
pub(crate) struct Spill {
    pub(crate) entries: Vec<Entry<Batch>>,
    /// The batches that the file takes over from the journal: no piece of them is elsewhere.
    pub(crate) handed_over: Vec<BatchId>,
}

/// One dead letter of a batch in memory.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    /// The batch, or pieces of it.
    pub(crate) pieces: Vec<Entry<Batch>>,
    /// The collector of the last refusal.
    pub(crate) endpoint: Position,
    /// The last refusal.
    pub(crate) cause: Cause,
    /// The calls that did not deliver the batch.
    pub(crate) attempts: u32,
}

/// Batches whose compressed forms do not give their requests back.
type DamagedOnes = Vec<(Entry<Batch>, Damaged)>;

/// The letters as they are stored: the pieces of each as one payload. Pieces whose compressed forms are damaged are
/// taken out, and letters that have no other.
pub(crate) fn refusals_of(letters: &[Letter]) -> (Vec<Letter>, Vec<Refusal>, DamagedOnes) {
    let (mut whole, mut refusals, mut damaged) = (Vec::new(), Vec::new(), Vec::new());
    for mut letter in letters.iter().cloned() {
        let (mut payloads, damaged_ones) = requests_in(&mut letter.pieces);
        damaged.extend(damaged_ones);
        let payload = if payloads.len() > 1 { Some(joined(payloads)) } else { payloads.pop() };
        if let Some(payload) = payload {
            let &Letter { endpoint, ref cause, attempts, .. } = &letter;
            refusals.push(Refusal { payload, endpoint, cause: cause.clone(), attempts, permanent: true });
            whole.push(letter);
        }
    }
    (whole, refusals, damaged)
}

/// The requests of these batches. Those whose compressed forms are damaged are taken out.
pub(crate) fn requests_in(entries: &mut Vec<Entry<Batch>>) -> (Vec<Payload>, DamagedOnes) {
    let (mut requests, mut damaged) = (Vec::with_capacity(entries.len()), Vec::new());
    entries.retain(|entry| match entry.item.payload.plain() {
        Ok(request) => {
            requests.push(request);
            true
        }
        Err(error) => {
            damaged.push((entry.clone(), error));
            false
        }
    });
    (requests, damaged)
}

pub(crate) type Operation = dyn FnOnce(&mut dyn Fallback, SystemTime) -> Answer + Send;

/// An operation on the fallback that a user's thread waits for. Dropped without a run, it answers by the end of its
/// channel.
pub(crate) struct Question(pub(crate) Box<Operation>);

/// The result of an operation.
pub(crate) struct Answer {
    /// The dead letter that it has redriven.
    pub(crate) redriven: Option<Redriven>,
    /// Answers the waiting thread. Runs after the core knows of `redriven`, so that the thread sees it in the ledger.
    pub(crate) send: Box<dyn FnOnce() + Send>,
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Question")
    }
}

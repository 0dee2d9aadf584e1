//! Durable mode: which batches have a shadow in the journal, and when that may go.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use otlp_payload::{BatchId, Payload};
use span_buffer::Entry;

use super::memory::{over, sum};
use super::{Core, Effect, Phase};
use crate::report::events::Event;
use crate::report::ledger::{DropReason, Place};

/// How long health remembers that a batch was accepted without being durable.
const RECENT: Duration = Duration::from_secs(60);

/// So few names of batches that need not be written any more are not worth looking for.
const MANY_PENDING: usize = 1_024;

/// The shadows of all batches that are in memory. A batch that is split keeps one shadow, the whole, until its last piece has its
/// end.
pub(crate) struct Shadows {
    roots: HashMap<BatchId, Root>,
    /// What a piece of a split batch was cut from.
    pieces: HashMap<BatchId, BatchId>,
    /// To be written, oldest first.
    pending: VecDeque<BatchId>,
    /// To be marked.
    done: Vec<BatchId>,
    /// What was found counts as accepted at the start: its age begins anew.
    started: Instant,
    /// Spans that were found in the journal and are not in memory yet.
    unread: usize,
    /// Spans that a shutdown leaves in the journal.
    left: usize,
    /// What it would leave there if that can still be made durable.
    last: Vec<Entry<Payload>>,
    /// The journal has ended.
    closed: bool,
    /// The disk did not answer in time; nobody waits for it until it has.
    late: bool,
    /// What the last failure said.
    trouble: Option<String>,
    /// Spans that were accepted without being durable, and when that was last.
    not_durable: u64,
    not_durable_at: Option<Instant>,
}

struct Root {
    /// Pieces that have not had their end.
    pieces: usize,
    /// Of the whole.
    spans: usize,
    state: State,
    /// How often it was not written.
    failures: u32,
}

enum State {
    /// For the disk thread to write.
    Pending(Payload),
    /// The disk thread is writing it.
    Writing,
    /// As durable as the policy asks for.
    Kept,
    /// Written, and not as durable as the policy asks for: the last sync failed.
    Unsynced,
    /// Not written.
    Failed,
}

impl Root {
    fn new(spans: usize, state: State) -> Self {
        Self { pieces: 1, spans, state, failures: 0 }
    }
}

/// What the disk thread has done for some shadows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Written {
    Kept,
    Unsynced,
    Failed,
}

impl Shadows {
    fn new(started: Instant) -> Self {
        Self {
            roots: HashMap::new(),
            pieces: HashMap::new(),
            pending: VecDeque::new(),
            done: Vec::new(),
            started,
            unread: 0,
            left: 0,
            last: Vec::new(),
            closed: false,
            late: false,
            trouble: None,
            not_durable: 0,
            not_durable_at: None,
        }
    }

    fn settle(&mut self, piece: BatchId) {
        let root = self.pieces.remove(&piece).unwrap_or(piece);
        let Some(shadow) = self.roots.get_mut(&root) else { return };
        shadow.pieces -= 1;
        if shadow.pieces > 0 {
            return;
        }
        match self.roots.remove(&root).map(|root| root.state) {
            // Nothing of it was written. While the disk hangs nobody takes these names out of the queue.
            Some(State::Pending(_)) if self.pending.len() > MANY_PENDING + 2 * self.roots.len() => {
                self.pending.retain(|id| self.roots.contains_key(id));
            }
            Some(State::Pending(_)) => {}
            _ => self.done.push(root),
        }
    }

    fn root_of(&self, piece: BatchId) -> BatchId {
        self.pieces.get(&piece).copied().unwrap_or(piece)
    }

    fn is_kept(&self, piece: BatchId) -> bool {
        self.roots.get(&self.root_of(piece)).is_some_and(|root| matches!(root.state, State::Kept))
    }
}

impl Core {
    /// Durable mode, with what the journal had at start.
    pub(crate) fn keep_shadows(&mut self, found: u64, now: Instant) {
        self.shadows = Some(Shadows::new(now));
        self.found_in_journal(found);
    }

    /// More was found: of a process that has ended.
    pub(crate) fn found_in_journal(&mut self, spans: u64) {
        let Some(shadows) = &mut self.shadows else { return };
        let spans = usize::try_from(spans).unwrap_or(usize::MAX);
        shadows.unread += spans;
        self.ledger.transfer(spans, Place::Recovered, Place::Buffered);
    }

    /// A new batch is about to be offered: the disk thread is to write it first. Says whether to wait for that.
    pub(crate) fn open_shadow(&mut self, payload: &Payload) -> bool {
        let Some(shadows) = self.shadows.as_mut().filter(|_| self.phase == Phase::Running) else { return false };
        let id = payload.id();
        shadows.roots.insert(id, Root::new(payload.span_count(), State::Pending(payload.clone())));
        shadows.pending.push_back(id);
        true
    }

    pub(crate) fn shadow_waits(&self, id: BatchId) -> bool {
        let shadows = self.shadows.as_ref().filter(|shadows| !shadows.late);
        let root = shadows.and_then(|shadows| shadows.roots.get(&id));
        root.is_some_and(|root| matches!(root.state, State::Pending(_) | State::Writing))
    }

    /// Nobody waits for this shadow any more: the batch is accepted, durable or not.
    pub(crate) fn stop_waiting(&mut self, id: BatchId, spans: usize, now: Instant) {
        let Some(shadows) = &mut self.shadows else { return };
        let Some(root) = shadows.roots.get(&id) else { return };
        shadows.late |= matches!(root.state, State::Pending(_) | State::Writing);
        if !matches!(root.state, State::Kept) {
            shadows.not_durable += spans as u64;
            shadows.not_durable_at = Some(now);
        }
    }

    /// What is to be written next, of about `max_bytes` together. What has had its end meanwhile need not be.
    pub(crate) fn shadows_to_write(&mut self, max_bytes: usize) -> Vec<Payload> {
        let Some(shadows) = &mut self.shadows else { return Vec::new() };
        let (mut group, mut bytes) = (Vec::new(), 0);
        // The disk has come back to its work: it may be waited for again.
        shadows.late &= shadows.pending.is_empty();
        while bytes < max_bytes
            && let Some(id) = shadows.pending.pop_front()
        {
            let Some(root) = shadows.roots.get_mut(&id) else { continue };
            if let State::Pending(payload) = std::mem::replace(&mut root.state, State::Writing) {
                bytes += payload.bytes().len();
                group.push(payload);
            }
        }
        group
    }

    /// The disk thread has done what it could for these.
    pub(crate) fn shadows_written(&mut self, ids: &[BatchId], written: Written) {
        let Some(shadows) = &mut self.shadows else { return };
        shadows.late = false;
        for id in ids {
            if let Some(root) = shadows.roots.get_mut(id) {
                root.state = match written {
                    Written::Kept => State::Kept,
                    Written::Unsynced => State::Unsynced,
                    Written::Failed => State::Failed,
                };
                root.failures += u32::from(written == Written::Failed);
            }
        }
    }

    /// The journal works again: what it would not take, and what still waits in memory, is written once more.
    pub(crate) fn write_failed_again(&mut self) {
        let Some(shadows) = &mut self.shadows else { return };
        for entry in self.buffer.iter() {
            let id = entry.item.id();
            let Some(root) = shadows.roots.get_mut(&id) else { continue };
            // What fails again is at fault itself.
            if matches!(root.state, State::Failed) && root.failures == 1 {
                root.state = State::Pending(entry.item.clone());
                shadows.pending.push_back(id);
            }
        }
    }

    /// What is to be marked as done. Ask after everything that `shadows_to_write` gave was written: then no mark comes before its batch.
    pub(crate) fn shadows_done(&mut self) -> Vec<BatchId> {
        self.shadows.as_mut().map_or_else(Vec::new, |shadows| std::mem::take(&mut shadows.done))
    }

    /// There may be something to write or to mark soon.
    pub(crate) fn has_shadows(&self) -> bool {
        self.shadows
            .as_ref()
            .is_some_and(|shadows| !shadows.roots.is_empty() || !shadows.done.is_empty() || shadows.unread > 0)
    }

    /// Those shadows that the file of these entries takes over whole: no piece of them is elsewhere.
    pub(crate) fn shadows_of(&self, entries: &[Entry<Payload>]) -> Vec<BatchId> {
        let Some(shadows) = &self.shadows else { return Vec::new() };
        let mut here = HashMap::<BatchId, usize>::new();
        for entry in entries {
            *here.entry(shadows.root_of(entry.item.id())).or_default() += 1;
        }
        let whole = |(id, pieces): (BatchId, usize)| {
            shadows.roots.get(&id).is_some_and(|root| root.pieces == pieces).then_some(id)
        };
        here.into_iter().filter_map(whole).collect()
    }

    /// A batch, or a piece of one, has had its end.
    pub(crate) fn settle(&mut self, piece: BatchId) {
        if let Some(shadows) = &mut self.shadows {
            shadows.settle(piece);
        }
    }

    /// A batch was cut in two.
    pub(super) fn cut(&mut self, whole: BatchId, halves: [BatchId; 2]) {
        let Some(shadows) = &mut self.shadows else { return };
        let root = shadows.pieces.remove(&whole).unwrap_or(whole);
        if let Some(shadow) = shadows.roots.get_mut(&root) {
            shadow.pieces += 1;
            shadows.pieces.extend(halves.map(|half| (half, root)));
        }
    }

    /// Memory has room for what was found in the journal: less than half of it is taken, with what is on its way to the disk or
    /// the collector. That may come back, and new batches come in beside it; what is found waits safely where it is.
    pub(crate) fn wants_recovered(&self) -> bool {
        let held = sum(self.buffer.total(), self.away());
        self.phase == Phase::Running && self.unread() > 0 && !over(held, self.policy.limits, (1, 2))
    }

    pub(crate) fn unread(&self) -> usize {
        self.shadows.as_ref().map_or(0, |shadows| shadows.unread)
    }

    /// A batch that was found is in memory now.
    pub(crate) fn recovered(&mut self, payload: Payload, effects: &mut Vec<Effect>) {
        let Some(shadows) = &mut self.shadows else { return };
        let (id, spans, started) = (payload.id(), payload.span_count(), shadows.started);
        shadows.roots.insert(id, Root::new(spans, State::Kept));
        // A journal of another make may give more than it promised.
        let more = spans.saturating_sub(shadows.unread);
        shadows.unread -= spans - more;
        self.ledger.transfer(more, Place::Recovered, Place::Buffered);
        if self.phase == Phase::Stopped {
            // The end came while it was being read: it stays where it is.
            shadows.left += spans;
            return;
        }
        let _ = self.accept(payload, Place::Dropped(DropReason::BufferFull), started, effects);
    }

    /// So many of those that were found are lost.
    pub(crate) fn recovery_lost(&mut self, spans: u64, effects: &mut Vec<Effect>) {
        let Some(shadows) = &mut self.shadows else { return };
        let spans = usize::try_from(spans).unwrap_or(usize::MAX).min(shadows.unread);
        if spans == 0 {
            return;
        }
        shadows.unread -= spans;
        self.ledger.transfer(spans, Place::Buffered, Place::Dropped(DropReason::Corrupt));
        self.counters.lost();
        let detail = "in the journal".to_owned();
        effects.push(Effect::Tell(Event::Dropped { spans, reason: DropReason::Corrupt, detail }));
    }

    /// The journal has no more: what it did not give is lost.
    pub(crate) fn recovery_ends(&mut self, effects: &mut Vec<Effect>) {
        self.recovery_lost(u64::MAX, effects);
    }

    /// The last operation on the journal worked, or says why not.
    pub(crate) fn journal_said(&mut self, trouble: Option<String>, effects: &mut Vec<Effect>) {
        let Some(shadows) = &mut self.shadows else { return };
        if let Some(error) = &trouble
            && shadows.trouble.is_none()
        {
            effects.push(Effect::Tell(Event::JournalTrouble { error: error.clone() }));
        }
        shadows.trouble = trouble;
    }

    /// Nothing else can be done with a batch at the end: it is left in the journal for the next start, or given up. Which of the two
    /// is known when the journal has written and synced for the last time.
    pub(super) fn leave_or_drop(&mut self, entry: &Entry<Payload>, effects: &mut Vec<Effect>) {
        let id = entry.item.id();
        match &mut self.shadows {
            Some(shadows) if shadows.is_kept(id) => shadows.left += entry.size.count,
            Some(shadows) if !shadows.closed && shadows.roots.contains_key(&shadows.root_of(id)) => {
                shadows.last.push(entry.clone());
            }
            _ => self.drop_entry(entry, DropReason::Shutdown, effects),
        }
    }

    /// The journal has done all it could in this life.
    pub(crate) fn journal_closes(&mut self, effects: &mut Vec<Effect>) {
        let Some(shadows) = &mut self.shadows else { return };
        shadows.closed = true;
        for entry in std::mem::take(&mut shadows.last) {
            self.leave_or_drop(&entry, effects);
        }
    }

    /// Spans that were accepted without being as durable as the policy asks for.
    pub(crate) fn accepted_not_durable(&self) -> Option<u64> {
        self.shadows.as_ref().map(|shadows| shadows.not_durable)
    }

    /// Spans that are safe in the journal when a shutdown is over, also where the disk thread hangs in the file that was to have them.
    pub(crate) fn left_in_journal(&self) -> u64 {
        let Some(shadows) = &self.shadows else { return 0 };
        let kept = shadows.roots.values().filter(|root| matches!(root.state, State::Kept) && root.pieces == 1);
        (shadows.unread + shadows.left.max(kept.map(|root| root.spans).sum())) as u64
    }

    #[cfg(test)]
    pub(crate) fn left_spans(&self) -> usize {
        self.shadows.as_ref().map_or(0, |shadows| shadows.left + super::memory::total(&shadows.last).count)
    }

    /// Names of batches that take memory.
    #[cfg(test)]
    pub(crate) fn shadow_names(&self) -> usize {
        self.shadows.as_ref().map_or(0, |shadows| shadows.pending.len() + shadows.done.len() + shadows.roots.len())
    }

    /// What health says of it.
    pub(crate) fn journal_issues(&self, now: Instant) -> Vec<String> {
        let Some(shadows) = &self.shadows else { return Vec::new() };
        let mut issues = Vec::new();
        if let Some(error) = &shadows.trouble {
            issues.push(format!("journal is in trouble, what is accepted now may not survive a crash: {error}"));
        }
        let recent = |instant| now.saturating_duration_since(instant) < RECENT;
        if shadows.not_durable_at.is_some_and(recent) {
            let count = shadows.not_durable;
            issues.push(format!("{count} spans since the start were accepted before they were durable, some of them within the last minute"));
        }
        if shadows.unread > 0 {
            issues.push(format!("{} spans of an earlier run wait in the journal", shadows.unread));
        }
        issues
    }
}

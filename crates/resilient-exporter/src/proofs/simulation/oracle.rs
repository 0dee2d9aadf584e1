//! The rules of dead letters, written anew: from the log of calls and answers alone they say whether a batch may become
//! a dead letter. Where the design leaves a choice, the oracle allows both.

use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use otlp_payload::{BatchId, Payload};
use otlp_transport::RefusalKind;

use super::replicas::{Reply, refusal_kind};
use super::world::{HOUR, MINUTE, Sent, secs};
use super::{Setup, numbers};

/// A refusal so long after an acceptance may be the batch's fault.
const AFTER_ACCEPTANCE: Duration = secs(3);

/// A refusal that is the last of this many in a row is the endpoint's.
const IN_A_ROW: u32 = 20;

/// The window of the ratio, which an implementation may keep by minutes.
const SHORTEST_WINDOW: Duration = secs(9 * 60);
const LONGEST_WINDOW: Duration = secs(11 * 60);

/// The counted refusals with which a batch becomes a dead letter.
fn most(kind: RefusalKind) -> usize {
    match kind {
        RefusalKind::Batch => 1,
        RefusalKind::Sender => 12,
        _ => 6,
    }
}

type Spans = Vec<u64>;

#[derive(Default)]
struct Refusals {
    /// Each with the instant of its answer.
    uncounted: Vec<(Instant, RefusalKind)>,
    counted: Vec<RefusalKind>,
    /// Uncounted ones that the endpoint's own refusal has cleared in this process. The mark of a stored batch may be
    /// older, and have them still.
    cleared: Vec<(Instant, RefusalKind)>,
    /// The rules allow the dead letter since some event.
    is_due: bool,
}

impl Refusals {
    fn is_empty(&self) -> bool {
        self.uncounted.is_empty() && self.counted.is_empty()
    }
}

pub(super) struct Oracle {
    strict: bool,
    request_max_bytes: usize,
    accepted: Option<Instant>,
    in_a_row: u32,
    batches: HashMap<Spans, Refusals>,
    /// The batches that files have held, by each of their spans.
    records: HashMap<u64, Rc<Spans>>,
    /// All calls of the longest window that were answered: when, for which spans, and whether they were refused.
    answers: VecDeque<(Instant, Spans, bool)>,
    /// Single spans that were answered by 413: when, and their bytes.
    too_large: Vec<(Instant, usize)>,
    /// All dead letters, each once.
    pub(super) letters: HashSet<Spans>,
    /// Dead letters by the store's count of letters.
    pub(super) stored_letters: u32,
}

impl Oracle {
    pub(super) fn new(setup: &Setup) -> Self {
        Self {
            strict: setup.strict,
            request_max_bytes: setup.request_max_bytes,
            accepted: None,
            in_a_row: 0,
            batches: HashMap::new(),
            records: HashMap::new(),
            answers: VecDeque::new(),
            too_large: Vec::new(),
            letters: HashSet::new(),
            stored_letters: 0,
        }
    }

    /// The next process knows the marks of stored batches, and nothing of the endpoint.
    pub(super) fn on_restart(&mut self) {
        self.accepted = None;
        self.in_a_row = 0;
        self.answers.clear();
        self.batches.values_mut().for_each(|refusals| refusals.uncounted.append(&mut refusals.cleared));
    }

    /// A file holds this batch: its counts begin anew.
    pub(super) fn on_spilled(&mut self, batch: &Payload) {
        let record = Rc::new(numbers(batch).collect::<Spans>());
        self.batches.remove(&*record);
        self.records.extend(record.iter().map(|span| (*span, Rc::clone(&record))));
    }

    pub(super) fn on_answered(&mut self, sent: &Sent, now: Instant) {
        let kind = match sent.reply {
            Reply::Status(status) | Reply::StatusOfStored(status) => refusal_kind(status),
            _ => None,
        };
        self.answers.push_back((now, sent.spans.clone(), kind.is_some()));
        while self.answers.front().is_some_and(|(at, ..)| *at + LONGEST_WINDOW < now) {
            self.answers.pop_front();
        }
        match (sent.reply, kind) {
            (_, Some(kind)) => self.on_refused(sent, kind, now),
            (Reply::Accept | Reply::PartlyReject(_) | Reply::Unreadable, _) => self.on_accepted(sent, now),
            (Reply::Status(413), _) if sent.spans.len() == 1 => self.too_large.push((now, sent.bytes)),
            // Throttles and too large requests count against no batch.
            (Reply::Throttle(_) | Reply::Status(413) | Reply::Renewed(_) | Reply::NoCredentials, _) => {}
            _ if !sent.live => self.add(sent, RefusalKind::Sender, now),
            _ => {}
        }
        self.find_due(now);
    }

    fn add(&mut self, sent: &Sent, kind: RefusalKind, now: Instant) {
        self.batches.entry(sent.spans.clone()).or_default().uncounted.push((now, kind));
    }

    fn on_refused(&mut self, sent: &Sent, kind: RefusalKind, now: Instant) {
        self.in_a_row += 1;
        if self.strict {
            self.batches.entry(sent.spans.clone()).or_default().is_due = true;
        }
        let is_after_acceptance = self.accepted.is_some_and(|accepted| now - accepted <= AFTER_ACCEPTANCE);
        let is_suspect = self.batches.get(&sent.spans).is_some_and(|refusals| !refusals.is_empty());
        if is_after_acceptance && self.in_a_row < IN_A_ROW {
            self.add(sent, kind, now);
        } else if !is_suspect {
            // The refusal of a suspect says nothing about other batches.
            self.batches.values_mut().for_each(|refusals| refusals.cleared.append(&mut refusals.uncounted));
        }
    }

    fn on_accepted(&mut self, sent: &Sent, now: Instant) {
        self.accepted = Some(now);
        self.in_a_row = 0;
        if sent.reply == Reply::Unreadable {
            return;
        }
        for refusals in self.batches.values_mut() {
            let Refusals { uncounted, counted, .. } = refusals;
            uncounted.retain(|(refused, kind)| {
                let counts = sent.at >= *refused;
                counted.extend(counts.then_some(*kind));
                !counts
            });
        }
    }

    fn find_due(&mut self, now: Instant) {
        let Self { batches, answers, .. } = self;
        for (spans, refusals) in batches.iter_mut().filter(|(_, refusals)| !refusals.is_due) {
            let is_full = |kind| refusals.counted.iter().filter(|&&counted| counted == kind).count() >= most(kind);
            refusals.is_due = is_full(RefusalKind::Batch)
                || (is_full(RefusalKind::Unclear) || is_full(RefusalKind::Sender))
                    && accepts_others(answers, now, |other| other != spans);
        }
    }

    /// Whether these spans may become a dead letter now.
    pub(super) fn check_letter(&mut self, letter: &Payload, now: Instant) -> Result<(), String> {
        let spans = numbers(letter).collect::<Spans>();
        let refusals = self.batches.get(&spans);
        // Pieces of one record share a letter, whatever the reason of each.
        let others = self.without_too_large(letter, now);
        let is_due = refusals.is_some_and(|refusals| refusals.is_due)
            || self.is_due_by_pieces(&spans, now)
            || self.is_due_by_pieces(&others, now)
            || self.is_due_in_its_record(&others);
        if !is_due {
            let (counted, uncounted) =
                refusals.map_or((0, 0), |refusals| (refusals.counted.len(), refusals.uncounted.len()));
            return Err(format!("{spans:?} with {counted} counted refusals and {uncounted} that do not count"));
        }
        self.stored_letters += 1;
        self.letters.insert(spans);
        Ok(())
    }

    /// Each span was refused so often in requests that held these spans alone. True of no spans.
    fn is_due_by_pieces(&self, spans: &Spans, now: Instant) -> bool {
        let is_piece = |piece: &Spans| piece.iter().all(|span| spans.contains(span));
        let pieces = self.batches.iter().filter(|(piece, _)| is_piece(piece)).collect::<Vec<_>>();
        let counted = |span: &u64, kind| {
            let of_span = pieces.iter().filter(|(piece, _)| piece.contains(span));
            of_span.flat_map(|(_, refusals)| &refusals.counted).filter(|&&counted| counted == kind).count()
        };
        let is_full = |kind| spans.iter().all(|span| counted(span, kind) >= most(kind));
        is_full(RefusalKind::Batch)
            || (is_full(RefusalKind::Unclear) || is_full(RefusalKind::Sender))
                && accepts_others(&self.answers, now, |other| !is_piece(other))
    }

    /// The pieces of a stored batch are one batch: a refusal of one of them counts, and each span was refused.
    fn is_due_in_its_record(&self, spans: &Spans) -> bool {
        let Some(record) = spans.first().and_then(|span| self.records.get(span)) else { return false };
        let is_part = |part: &Spans| part.iter().all(|span| record.contains(span));
        let pieces = self.batches.iter().filter(|(piece, refusals)| is_part(piece) && !refusals.is_empty());
        let pieces = pieces.collect::<Vec<_>>();
        pieces.iter().any(|(_, refusals)| refusals.counted.contains(&RefusalKind::Batch))
            && spans.iter().all(|span| pieces.iter().any(|(piece, _)| piece.contains(span)))
    }

    /// The spans of the letter that are not too large by themselves.
    fn without_too_large(&self, letter: &Payload, now: Instant) -> Spans {
        let limit = self.too_large.iter().filter(|(at, _)| *at + HOUR + MINUTE >= now).map(|(_, bytes)| *bytes).min();
        let limit = limit.unwrap_or(usize::MAX).min(self.request_max_bytes.saturating_add(1));
        singles(letter).iter().filter(|single| single.bytes().len() < limit).flat_map(numbers).collect()
    }
}

/// Less than a tenth of the other calls was refused.
fn accepts_others(answers: &VecDeque<(Instant, Spans, bool)>, now: Instant, is_other: impl Fn(&Spans) -> bool) -> bool {
    [SHORTEST_WINDOW, LONGEST_WINDOW].iter().any(|&window| {
        let others = answers.iter().filter(|(at, spans, _)| *at + window >= now && is_other(spans));
        let (refused, all) =
            others.fold((0, 0), |(refused, all), (.., is_refused)| (refused + usize::from(*is_refused), all + 1));
        refused * 10 < all
    })
}

/// Each span of a request as a request of its own.
fn singles(request: &Payload) -> Vec<Payload> {
    let id = BatchId { incarnation: u64::MAX, seq: 0 };
    match request.split(id, id) {
        Some((left, right)) => singles(&left).into_iter().chain(singles(&right)).collect(),
        None => vec![request.clone()],
    }
}

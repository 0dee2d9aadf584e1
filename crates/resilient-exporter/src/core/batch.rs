//! A batch in memory: its payload, the calls that did not deliver it, and its refusals.

use std::time::{Duration, Instant};

use otlp_payload::{BatchId, Payload};
use otlp_transport::{Cause, RefusalKind};

use super::packed::Content;
use crate::report::position::MAX_ENDPOINTS;
use crate::seams::fates::{Failures, Refusals};

/// A suspect waits this long after its first refusal, twice as long after each further one, up to the second time.
const FIRST_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Counted refusals of each kind at which a batch becomes a dead letter.
const MAX_OF_BATCH: u32 = 1;
const MAX_UNCLEAR: u32 = 6;
const MAX_OF_SENDER: u32 = 12;

/// The endpoint's other calls within this time tell a batch that is refused from an endpoint that refuses.
pub(super) const WINDOW: Duration = Duration::from_secs(600);

#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) payload: Content,
    /// Compression does not make the payload smaller.
    pub(super) stays_plain: bool,
    /// The batch that this one was cut from, or its own id.
    pub(super) origin: BatchId,
    /// Its calls that did not end in delivery. Decides the order of calls and nothing else.
    pub(crate) tries: Tries,
    pub(super) suspicion: Suspicion,
    /// The fallback refused this batch alone: no spill before this instant.
    pub(super) spill_after: Option<Instant>,
    /// The batch came back from the journal: no limit on age moves it before this instant.
    pub(super) kept_until: Option<Instant>,
}

/// The calls of a batch that did not end in delivery, by endpoint. Most batches have none: they take no memory for
/// them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tries(Option<Box<[Tried; MAX_ENDPOINTS]>>);

/// Those of one endpoint. The order is that of calls: fewer go first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct Tried {
    /// Throttles aside.
    pub(super) failed: u32,
    /// A peer may throttle a batch alone, for ever, by a limit that the batch exceeds: decides among batches that
    /// failed as often.
    pub(super) throttled: u32,
}

impl Tries {
    pub(super) fn add_failed(&mut self, endpoint: usize) {
        let tried = &mut self.0.get_or_insert_default()[endpoint];
        tried.failed = tried.failed.saturating_add(1);
    }

    pub(super) fn add_throttled(&mut self, endpoint: usize) {
        let tried = &mut self.0.get_or_insert_default()[endpoint];
        tried.throttled = tried.throttled.saturating_add(1);
    }

    pub(super) fn at(&self, endpoint: usize) -> Tried {
        self.0.as_ref().map_or_else(Tried::default, |all| all[endpoint])
    }

    /// The failed calls to all endpoints.
    pub(crate) fn failed(&self) -> u32 {
        self.0.as_ref().map_or(0, |all| all.iter().map(|tried| tried.failed).fold(0, u32::saturating_add))
    }
}

impl Batch {
    pub(super) fn new(payload: Payload) -> Self {
        let origin = payload.id();
        Self {
            payload: payload.into(),
            stays_plain: false,
            origin,
            tries: Tries::default(),
            suspicion: Suspicion::default(),
            spill_after: None,
            kept_until: None,
        }
    }

    /// A piece of this batch, without a refusal.
    pub(super) fn piece(&self, payload: Payload) -> Self {
        Self { payload: payload.into(), stays_plain: false, suspicion: Suspicion::default(), ..self.clone() }
    }

    /// This batch was cut from another one.
    pub(super) fn is_piece(&self) -> bool {
        self.origin != self.payload.id()
    }

    /// No call before this instant.
    pub(super) fn waits_until(&self, now: Instant) -> Option<Instant> {
        self.suspicion.not_before().filter(|&instant| now < instant)
    }

    /// No limit on age moves the batch before this instant.
    pub(super) fn keep_until(&mut self, instant: Option<Instant>) {
        self.kept_until = instant;
    }

    pub(super) fn is_kept(&self, now: Instant) -> bool {
        self.kept_until.is_some_and(|instant| now < instant)
    }

    pub(super) fn may_spill(&self, now: Instant) -> bool {
        self.spill_after.is_none_or(|instant| now >= instant)
    }
}

/// The refusals of a batch in memory or of a stored record, and the wait that follows from them.
///
/// A refusal counts against the batch once the same endpoint accepts a batch that was sent after it. When the endpoint
/// refuses a batch that is no suspect, it refuses all: no refusal that does not count yet says anything then. A refusal
/// of another endpoint begins anew: the batch has the refusals of one endpoint at a time.
///
/// Most batches are never refused: they have no history and take no memory for one.
#[derive(Clone, Debug, Default)]
pub(super) struct Suspicion(Option<Box<History>>);

#[derive(Clone, Debug, Default)]
struct History {
    /// The endpoint that has refused the batch. None: the mark of a stored record does not say so.
    endpoint: Option<usize>,
    counted: Refusals,
    uncounted: Refusals,
    /// The number of calls that had gone out when the last refusal came.
    seen: u64,
    /// The instants of its refusals and failures within [`WINDOW`]: they are no calls of others.
    recent: Vec<Instant>,
    /// The last refusal that this process saw.
    cause: Option<Cause>,
    /// That was a failure which counts as a refusal: no answer says that the batch cannot be delivered.
    may_be_repeated: bool,
    /// That was about a piece of the batch: the other pieces may be delivered.
    is_of_piece: bool,
    /// Refusals in a row that made it wait.
    waits: u32,
    not_before: Option<Instant>,
    /// No place for its dead letter was found: no further attempt before this instant.
    letter_at: Option<Instant>,
}

impl History {
    fn is_of(&self, endpoint: usize) -> bool {
        self.endpoint.is_none_or(|other| other == endpoint)
    }
}

impl Suspicion {
    /// The refusals of a stored record that other groups, or another process, have noted; `calls` have gone out.
    pub(super) fn of(failures: &Failures, calls: u64) -> Self {
        let Failures { counted, uncounted, .. } = *failures;
        if counted == Refusals::default() && uncounted == Refusals::default() {
            return Self::default();
        }
        Self(Some(Box::new(History { counted, uncounted, seen: calls, ..History::default() })))
    }

    fn history(&mut self) -> &mut History {
        self.0.get_or_insert_default()
    }

    // Events.

    /// A call was refused, and the endpoint is not the cause. The batch alone waits.
    pub(super) fn on_refused(&mut self, endpoint: usize, kind: RefusalKind, cause: Cause, calls: u64, now: Instant) {
        self.note(now);
        let history = self.history();
        if history.endpoint.is_some_and(|other| other != endpoint) {
            *history = History { recent: vec![now], ..History::default() };
        }
        history.endpoint = Some(endpoint);
        history.uncounted.add(kind);
        history.cause = Some(cause);
        history.may_be_repeated = false;
        history.seen = calls;
        let wait = FIRST_WAIT.saturating_mul(1 << history.waits.min(6)).min(LONGEST_WAIT);
        history.waits = history.waits.saturating_add(1);
        history.not_before = now.checked_add(wait);
    }

    /// A call failed and may be repeated, and the endpoint is not the cause: counts as a refusal of the kind `sender`.
    pub(super) fn on_failed(&mut self, endpoint: usize, cause: Cause, calls: u64, now: Instant) {
        self.on_refused(endpoint, RefusalKind::Sender, cause, calls, now);
        self.history().may_be_repeated = true;
    }

    /// The last refusal was about a piece of the batch, or about the whole batch.
    pub(super) fn set_of_piece(&mut self, is_of_piece: bool) {
        self.history().is_of_piece = is_of_piece;
    }

    /// The endpoint refused a batch that is no suspect.
    pub(super) fn on_endpoint_refused(&mut self, endpoint: usize) {
        if let Some(history) = &mut self.0
            && history.is_of(endpoint)
        {
            history.uncounted = Refusals::default();
        }
    }

    /// A call of the batch itself ended in a refusal or failure at this instant.
    pub(super) fn note(&mut self, now: Instant) {
        let recent = &mut self.history().recent;
        recent.retain(|&instant| now.saturating_duration_since(instant) < WINDOW);
        recent.push(now);
    }

    /// The endpoint accepted the batch of call number `call`, readably.
    pub(super) fn on_other_accepted(&mut self, call: u64, endpoint: usize) {
        if let Some(history) = &mut self.0
            && history.is_of(endpoint)
            && call > history.seen
        {
            history.counted.take_over(&mut history.uncounted);
        }
    }

    /// No call before this instant, for another reason than a refusal.
    pub(super) fn wait_until(&mut self, instant: Option<Instant>) {
        if instant.is_some() {
            let history = self.history();
            history.not_before = history.not_before.max(instant);
        }
    }

    /// Its dead letter could not be stored: neither a call nor another attempt before this instant.
    pub(super) fn on_letter_failed(&mut self, instant: Option<Instant>) {
        self.wait_until(instant);
        self.history().letter_at = instant;
    }

    /// The endpoint accepts again after it had refused all.
    pub(super) fn end_wait(&mut self) {
        if let Some(history) = &mut self.0 {
            history.not_before = None;
            history.waits = 0;
        }
    }

    // Queries.

    pub(super) fn not_before(&self) -> Option<Instant> {
        self.0.as_ref()?.not_before
    }

    /// The batch was refused, and no later call has delivered it.
    pub(super) fn is_suspect(&self) -> bool {
        let none = Refusals::default();
        self.0.as_ref().is_some_and(|history| history.counted != none || history.uncounted != none)
    }

    /// Its refusals, if there are any, are this endpoint's.
    pub(super) fn is_of(&self, endpoint: usize) -> bool {
        self.0.as_ref().is_none_or(|history| history.is_of(endpoint))
    }

    /// The same, and there are some.
    pub(super) fn is_suspect_of(&self, endpoint: usize) -> bool {
        self.is_suspect() && self.is_of(endpoint)
    }

    /// The batch waits because it was refused, by another endpoint than this one.
    pub(super) fn waits_for_other(&self, endpoint: usize) -> bool {
        self.waits() && !self.is_of(endpoint)
    }

    /// The batch waits because it was refused, whether that refusal may count or not.
    pub(super) fn waits(&self) -> bool {
        self.0.as_ref().is_some_and(|history| history.waits > 0)
    }

    /// The endpoint that has refused the batch, if it is known.
    pub(super) fn endpoint(&self) -> Option<usize> {
        self.0.as_ref()?.endpoint
    }

    /// A refusal waits for an acceptance that makes it count.
    pub(super) fn has_uncounted(&self) -> bool {
        self.0.as_ref().is_some_and(|history| history.uncounted != Refusals::default())
    }

    pub(super) fn cause(&self) -> Option<&Cause> {
        self.0.as_ref()?.cause.as_ref()
    }

    /// The last refusal was one, and no failure that counts as one.
    pub(super) fn is_permanent(&self) -> bool {
        self.0.as_ref().is_some_and(|history| !history.may_be_repeated)
    }

    /// The last refusal was about a piece of the batch.
    pub(super) fn is_of_piece(&self) -> bool {
        self.0.as_ref().is_some_and(|history| history.is_of_piece)
    }

    /// Its own refusals and failures within [`WINDOW`].
    pub(super) fn recent(&self, now: Instant) -> u64 {
        let is_recent = |instant: &&Instant| now.saturating_duration_since(**instant) < WINDOW;
        self.0.as_ref().map_or(0, |history| history.recent.iter().filter(is_recent).count() as u64)
    }

    /// The refusals that count make the batch a dead letter. `accepts_others`: the endpoint accepts nearly all other
    /// batches.
    pub(super) fn makes_dead_letter(&self, accepts_others: bool) -> bool {
        let Some(history) = &self.0 else { return false };
        let Refusals { batch, unclear, sender } = history.counted;
        batch >= MAX_OF_BATCH || accepts_others && (unclear >= MAX_UNCLEAR || sender >= MAX_OF_SENDER)
    }

    /// A dead letter may be stored now, as far as earlier attempts are concerned.
    pub(super) fn may_end(&self, now: Instant) -> bool {
        self.0.as_ref().and_then(|history| history.letter_at).is_none_or(|instant| now >= instant)
    }

    /// The refusals as a store keeps them, beside the number of `calls` that failed.
    pub(super) fn failures(&self, calls: u32) -> Failures {
        let (counted, uncounted) =
            self.0.as_ref().map(|history| (history.counted, history.uncounted)).unwrap_or_default();
        Failures { calls, counted, uncounted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seams::clock::{Clock as _, SystemClock};

    fn cause() -> Cause {
        Cause::Http { status: 400, message: String::new() }
    }

    #[test]
    fn a_refusal_counts_once_a_batch_that_was_sent_after_it_is_accepted() {
        let now = SystemClock.now();
        let mut suspicion = Suspicion::default();
        suspicion.on_refused(0, RefusalKind::Batch, cause(), 7, now);
        suspicion.on_other_accepted(7, 0);
        assert!(!suspicion.makes_dead_letter(true), "that batch was sent before the refusal came");
        suspicion.on_other_accepted(8, 0);
        assert!(suspicion.makes_dead_letter(false));
    }

    #[test]
    fn an_endpoint_that_refuses_all_clears_the_refusals_that_do_not_count_yet() {
        let now = SystemClock.now();
        let mut suspicion = Suspicion::default();
        suspicion.on_refused(0, RefusalKind::Batch, cause(), 1, now);
        suspicion.on_endpoint_refused(0);
        suspicion.on_other_accepted(2, 0);
        assert!(!suspicion.is_suspect());
    }

    #[test]
    fn unclear_refusals_and_those_of_the_sender_need_more_and_an_endpoint_that_accepts_others() {
        let now = SystemClock.now();
        for (kind, most) in [(RefusalKind::Unclear, 6), (RefusalKind::Sender, 12)] {
            let mut suspicion = Suspicion::default();
            for call in 0..most {
                assert!(!suspicion.makes_dead_letter(true));
                suspicion.on_refused(0, kind, cause(), call, now);
                suspicion.on_other_accepted(call + 1, 0);
            }
            assert!(suspicion.makes_dead_letter(true) && !suspicion.makes_dead_letter(false), "{kind:?}");
        }
    }

    #[test]
    fn waits_are_doubled_from_10_seconds_to_10_minutes() {
        let now = SystemClock.now();
        let mut suspicion = Suspicion::default();
        for seconds in [10, 20, 40, 80, 160, 320, 600, 600, 600] {
            suspicion.on_refused(0, RefusalKind::Sender, cause(), 0, now);
            assert_eq!(suspicion.not_before(), Some(now + Duration::from_secs(seconds)));
        }
        suspicion.end_wait();
        assert_eq!(suspicion.not_before(), None);
        suspicion.on_refused(0, RefusalKind::Sender, cause(), 0, now);
        assert_eq!(suspicion.not_before(), Some(now + FIRST_WAIT));
    }

    #[test]
    fn a_batchs_own_refusals_are_forgotten_after_the_window() {
        let now = SystemClock.now();
        let mut suspicion = Suspicion::default();
        suspicion.note(now);
        suspicion.note(now + WINDOW / 2);
        assert_eq!((suspicion.recent(now + WINDOW / 2), suspicion.recent(now + WINDOW)), (2, 1));
    }
}

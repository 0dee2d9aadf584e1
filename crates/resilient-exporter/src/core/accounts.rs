//! The accounts of all decisions: the ledger, the counters beside it, and the events that follow from both.

use std::collections::VecDeque;
use std::time::Instant;

use otlp_transport::Cause;

use super::counters::Counters;
use crate::report::calls::Calls;
use crate::report::events::Event;
use crate::report::lateness::Delivered;
use crate::report::ledger::{DropReason, Ledger, Place, Taken};
use crate::report::losses::{Losses, Recent};
use crate::report::position::{MAX_ENDPOINTS, Position};

/// Events that wait to be published before equal ones become one.
const MANY_EVENTS: usize = 256;

#[derive(Default)]
pub(crate) struct Accounts {
    ledger: Ledger,
    pub(crate) counters: Counters,
    pub(crate) calls: Calls,
    pub(crate) delivered: Delivered,
    recent: Recent,
    events: VecDeque<Event>,
    /// Spans delivered and rejected, by endpoint.
    taken: [Taken; MAX_ENDPOINTS],
}

impl Accounts {
    /// Moves spans that are not lost.
    pub(super) fn transfer(&mut self, spans: usize, from: Place, to: Place) {
        self.ledger.transfer(spans, from, to);
    }

    /// A collector took spans, and rejected some.
    pub(super) fn deliver(&mut self, endpoint: Position, taken: Taken, from: Place) {
        self.ledger.transfer(taken.rejected, from, Place::Rejected);
        self.ledger.transfer(taken.delivered, from, Place::Delivered);
        let sum = &mut self.taken[endpoint.index()];
        sum.delivered += taken.delivered;
        sum.rejected += taken.rejected;
    }

    /// The same of a stored record, whose pieces may have gone to several collectors. A user's fallback may count
    /// `all` in another way: the primary has the difference.
    pub(super) fn deliver_shares(&mut self, shares: &[(Position, Taken)], all: Taken, from: Place) {
        let mut rest = all;
        for (endpoint, taken) in shares {
            let delivered = taken.delivered.min(rest.delivered);
            let rejected = taken.rejected.min(rest.rejected);
            rest = Taken { delivered: rest.delivered - delivered, rejected: rest.rejected - rejected };
            self.deliver(*endpoint, Taken { delivered, rejected }, from);
        }
        self.deliver(Position::PRIMARY, rest, from);
    }

    /// The spans that a collector took, and those that it rejected: together those of the ledger.
    pub(crate) fn taken(&self, endpoint: Position) -> Taken {
        self.taken[endpoint.index()]
    }

    /// Moves spans that are lost: not accepted, or dropped without more about the cause.
    pub(super) fn lose(&mut self, spans: usize, from: Place, to: Place) {
        self.ledger.transfer(spans, from, to);
        match to {
            Place::Refused(reason) => self.publish(Event::NotAccepted { spans, reason }),
            Place::Dropped(reason) => self.publish(Event::Dropped { spans, reason, detail: String::new() }),
            _ => {}
        }
    }

    /// Drops accepted spans, with more about the cause in `detail` where there is more.
    pub(super) fn drop_spans(&mut self, spans: usize, from: Place, reason: DropReason, detail: String) {
        self.ledger.transfer(spans, from, Place::Dropped(reason));
        self.publish(Event::Dropped { spans, reason, detail });
    }

    /// Drops accepted spans if there are any.
    pub(super) fn drop_spans_of(&mut self, spans: usize, from: Place, reason: DropReason) {
        if spans > 0 {
            self.drop_spans(spans, from, reason, String::new());
        }
    }

    /// Ends refused spans: as a dead letter that is stored, or dropped where it could not be stored.
    pub(super) fn end_refused(
        &mut self,
        endpoint: Position,
        spans: usize,
        cause: &Cause,
        from: Place,
        is_stored: bool,
    ) {
        let reason = cause.to_string();
        if is_stored {
            self.ledger.transfer(spans, from, Place::DeadLettered);
            self.publish(Event::DeadLettered { endpoint, spans, reason });
        } else {
            let is_too_old = matches!(cause, Cause::TooOld { .. });
            let reason_of_drop = if is_too_old { DropReason::TooOld } else { DropReason::Permanent };
            self.drop_spans(spans, from, reason_of_drop, reason);
        }
    }

    pub(super) fn publish(&mut self, event: Event) {
        // While the net thread hangs in a transport of a user's, only drops go on: they take no memory.
        if self.events.len() >= MANY_EVENTS
            && let Some(last) = self.events.back_mut()
            && add(last, &event)
        {
            return;
        }
        self.events.push_back(event);
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Gives the losses since the last call the time `now`: most events that lose spans carry none.
    pub(super) fn observe(&mut self, now: Instant) {
        self.recent.observe(&self.ledger, self.counters.dead_letters_evicted(), now);
    }

    /// The losses of the last minutes.
    pub(crate) fn recent_losses(&mut self, now: Instant) -> Losses {
        self.observe(now);
        self.recent.within_recent(now)
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    #[cfg(test)]
    pub(crate) fn ledger_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }
}

/// Adds dropped spans to an event of the same reason.
fn add(last: &mut Event, event: &Event) -> bool {
    match (last, event) {
        (Event::Dropped { spans, reason, .. }, Event::Dropped { spans: more, reason: same, .. }) if reason == same => {
            *spans += more;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_that_no_thread_publishes_take_no_memory_and_are_counted_in_full() {
        let mut accounts = Accounts::default();
        let reasons = [DropReason::BufferFull, DropReason::BufferAge];
        for turn in 0..10_000 {
            accounts.transfer(3, Place::Offered, Place::Buffered);
            accounts.drop_spans(3, Place::Buffered, reasons[usize::from(turn < 100)], String::new());
        }
        assert_eq!(accounts.events.len(), MANY_EVENTS);
        let mut dropped = 0;
        while let Some(event) = accounts.poll_event() {
            let Event::Dropped { spans, .. } = event else { panic!("{event:?}") };
            dropped += spans;
        }
        assert_eq!((dropped, accounts.ledger().dropped["buffer_full"]), (30_000, 29_700));
    }
}

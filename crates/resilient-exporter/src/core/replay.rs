//! Replay: one group of stored batches at a time on its way back to the collector.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use super::group::{Group, Piece, Shares};
use super::returned::Returned;
use super::storage;
use crate::seams::fallback::Order;
use crate::seams::fates::Fate;
use crate::seams::settings::ReplayOrder;

/// While files wait and the buffer is at most half full, at least one call in this many is a replay.
const SHARE: u32 = 4;

/// One group in so many has the oldest records, however often they failed, as one live call in so many takes the oldest
/// batch.
const OLDEST_EVERY: u64 = 8;

/// After a group of which no record was delivered, although the endpoint accepts others, no group is read for this
/// time; twice as long after each further one, up to the second time.
const FIRST_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(600);

pub(super) struct Replay {
    state: State,
    /// Groups that were asked for, and the order of the last one.
    groups: u64,
    order: Order,
    /// The order of the groups that do not have the oldest records.
    usual: Order,
    /// No read before this instant: the last one found no batch although the ledger has some, or the last group was in
    /// vain.
    read_at: Option<Instant>,
    /// Batches that were stored after a group in vain are read from this instant on.
    early: Option<Instant>,
    /// No call before this instant: a record was cut.
    call_at: Option<Instant>,
    /// Groups in a row that were in vain.
    in_vain: u32,
    returned: Returned,
    pace: Pace,
    /// Calls for live batches since the last replay call.
    live_calls: u32,
    /// The spans that endpoints took of each record of the group that the disk thread marks.
    shares: Vec<Shares>,
}

enum State {
    Idle,
    /// The disk thread reads a group.
    Reading,
    Sending(Group),
    /// The disk thread marks the group.
    Settling,
}

/// The next step of a replay.
pub(super) enum Next {
    /// A call for a batch of the group, if the endpoint is willing.
    Call,
    /// A read of the next group, if the endpoint is willing: a group takes memory and pins its files.
    Read,
    /// Not before this instant.
    Wait(Instant),
    /// Nothing until the disk thread or the collector has answered, or until live batches have had their share.
    Nothing,
}

impl Replay {
    pub(super) fn new(rate: Option<NonZeroU32>, order: ReplayOrder) -> Self {
        let usual = match order {
            ReplayOrder::Oldest => Order::FewestFailures,
            ReplayOrder::Newest => Order::FewestFailuresNewest,
        };
        let pace = Pace { rate, next: None };
        let returned = Returned::default();
        Self {
            state: State::Idle,
            groups: 0,
            order: usual,
            usual,
            read_at: None,
            early: None,
            call_at: None,
            in_vain: 0,
            returned,
            pace,
            live_calls: 0,
            shares: Vec::new(),
        }
    }

    // Events.

    /// The disk thread reads a group from now on, in the order that is returned.
    pub(super) fn on_read_begun(&mut self) -> Order {
        self.state = State::Reading;
        self.groups += 1;
        self.order = if self.groups.is_multiple_of(OLDEST_EVERY) { Order::Oldest } else { self.usual };
        self.order
    }

    /// The disk thread has read this group.
    pub(super) fn on_read(&mut self, mut group: Group) {
        group.recall(&mut self.returned);
        self.state = State::Sending(group);
        self.read_at = None;
        self.call_at = None;
    }

    /// The disk thread has no stored batch to give now.
    pub(super) fn on_read_in_vain(&mut self, now: Instant) {
        self.state = State::Idle;
        self.read_at = Some(now + storage::RETRY);
    }

    /// The disk thread has marked the group, or failed to read one.
    pub(super) fn on_group_ended(&mut self) {
        self.state = State::Idle;
    }

    /// An operator has put a batch into the store.
    pub(super) fn on_redriven(&mut self) {
        self.read_at = None;
    }

    /// The store has batches that no group has held: they do not wait for as long as one that always fails.
    pub(super) fn on_stored(&mut self) {
        if let Some(early) = self.early.take() {
            self.read_at = self.read_at.map(|instant| instant.min(early));
        }
    }

    /// The endpoint accepts again after it had refused or failed: a group may be read.
    pub(super) fn on_endpoint_recovered(&mut self) {
        self.read_at = None;
        self.in_vain = 0;
    }

    /// An operator has the next call go out at once: no pause of a cut, and none after a group in vain, holds it.
    pub(super) fn on_retry_now(&mut self) {
        self.on_endpoint_recovered();
        self.call_at = None;
    }

    /// A live batch was sent.
    pub(super) fn on_live_call(&mut self) {
        self.live_calls = self.live_calls.saturating_add(1);
    }

    /// A stored batch was sent.
    pub(super) fn on_replay_call(&mut self, piece: &Piece, now: Instant) {
        self.live_calls = 0;
        self.pace.on_sent(piece.payload.item_count(), now);
    }

    /// The pieces of a record that was cut wait until this instant.
    pub(super) fn on_cut(&mut self, call_at: Instant) {
        self.call_at = Some(call_at);
    }

    /// The group whose calls these are.
    pub(super) fn group(&mut self) -> Option<&mut Group> {
        match &mut self.state {
            State::Sending(group) => Some(group),
            State::Idle | State::Reading | State::Settling => None,
        }
    }

    /// The endpoint accepted the batch of call number `call`, readably.
    pub(super) fn on_other_accepted(
        &mut self,
        call: u64,
        endpoint: usize,
        accepts_others: impl Fn(u64) -> bool,
        now: Instant,
    ) {
        self.returned.on_other_accepted(call, endpoint);
        if let Some(group) = self.group() {
            group.on_other_accepted(call, endpoint, accepts_others, now);
        }
    }

    /// A refusal of the endpoint's own.
    pub(super) fn on_endpoint_refused(&mut self, endpoint: usize) {
        self.returned.on_endpoint_refused(endpoint);
        if let Some(group) = self.group() {
            group.on_endpoint_refused(endpoint);
        }
    }

    // Queries and polls.

    /// The next step, if the fallback `has_spans` and `is_ready`, and `live_waits` in memory.
    pub(super) fn next(&self, has_spans: bool, is_ready: bool, live_waits: bool, now: Instant) -> Next {
        let still = |instant: Option<Instant>| instant.filter(|&instant| now < instant);
        match &self.state {
            State::Idle if has_spans && is_ready => match still(self.read_at) {
                Some(instant) => Next::Wait(instant),
                None => Next::Read,
            },
            State::Sending(group) if group.has_next() => match still(self.pace.next.max(self.call_at)) {
                Some(instant) => Next::Wait(instant),
                None if !live_waits || self.live_calls >= SHARE - 1 => Next::Call,
                None => Next::Nothing,
            },
            State::Idle | State::Reading | State::Sending(_) | State::Settling => Next::Nothing,
        }
    }

    /// The disk thread reads a group, or marks one.
    pub(super) fn is_at_disk(&self) -> bool {
        matches!(self.state, State::Reading | State::Settling)
    }

    /// Takes the piece of the next call.
    pub(super) fn take_next(&mut self) -> Option<Piece> {
        self.group()?.take_next()
    }

    /// Takes the fates of a group whose records have all been tried, and the number of spans that the collector has of
    /// records which will be sent again.
    pub(super) fn take_ended(&mut self, now: Instant) -> Option<(Vec<Fate>, u64)> {
        match std::mem::replace(&mut self.state, State::Settling) {
            State::Sending(group) if group.has_ended() => {
                // The oldest records may be those that always fail: behind them the others go on.
                let others_wait = self.order == Order::Oldest && self.in_vain == 0;
                if group.is_in_vain() && !others_wait {
                    let wait = FIRST_WAIT.saturating_mul(1 << self.in_vain.min(6)).min(LONGEST_WAIT);
                    self.in_vain = self.in_vain.saturating_add(1);
                    self.read_at = now.checked_add(wait);
                    self.early = now.checked_add(FIRST_WAIT);
                } else {
                    self.in_vain = 0;
                }
                group.remember(&mut self.returned, now);
                let repeated = group.delivered_in_part() as u64;
                Some((self.set_shares(group), repeated))
            }
            state => {
                self.state = state;
                None
            }
        }
    }

    fn set_shares(&mut self, group: Group) -> Vec<Fate> {
        let (fates, shares) = group.into_fates();
        self.shares = shares;
        fates
    }

    /// Takes the spans that endpoints took of each record of the group whose marks are written.
    pub(super) fn take_shares(&mut self) -> Vec<Shares> {
        std::mem::take(&mut self.shares)
    }

    /// Takes the fates of a group that is interrupted, and the number of spans that the collector has of records which
    /// will be sent again.
    pub(super) fn take_interrupted(&mut self) -> Option<(Vec<Fate>, u64)> {
        match std::mem::replace(&mut self.state, State::Settling) {
            State::Sending(group) => {
                let repeated = group.delivered_in_part() as u64;
                Some((self.set_shares(group), repeated))
            }
            State::Idle | State::Reading | State::Settling => None,
        }
    }
}

/// Spaces replay calls out to a number of spans a second.
struct Pace {
    rate: Option<NonZeroU32>,
    next: Option<Instant>,
}

impl Pace {
    fn on_sent(&mut self, spans: usize, now: Instant) {
        if let Some(rate) = self.rate {
            let took = Duration::from_secs_f64(spans as f64 / f64::from(rate.get()));
            self.next = Some(self.next.map_or(now, |next| next.max(now)) + took);
        }
    }
}

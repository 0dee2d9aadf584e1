//! The collectors in the order of their priority, and the choice of the one that gets the next call.
//!
//! One endpoint is in use: the first of the list at the start. Calls move to another one when it is unavailable, and
//! only then; calls return to an endpoint of a higher priority once that one has taken trial batches for a while.

use std::time::{Duration, Instant};

use breaker::{State, Ticket};

use super::credentials::Renewals;
use super::endpoint::{Endpoint, Traffic, Wait};
use super::outage::{Outage, Tally};
use crate::report::position::{MAX_ENDPOINTS, Position};

/// Trial batches for an endpoint of a higher priority follow each other after this part of the failback delay.
const TRIALS_IN_DELAY: u32 = 10;

/// They follow each other after this time at least.
const SHORTEST_TRIAL: Duration = Duration::from_secs(1);

/// An endpoint of a higher priority takes this many batches before all calls return to it.
const DELIVERIES: u32 = 3;

/// An endpoint is unavailable while a call of this age has no answer and the endpoint gave none meanwhile.
const SILENT_AFTER: Duration = Duration::from_secs(60);

/// The default of the failback delay.
pub(crate) const FAILBACK_DELAY: Duration = Duration::from_secs(30);

/// All collectors.
pub(crate) struct Endpoints {
    /// By priority; one at least, and [`MAX_ENDPOINTS`] at most.
    all: Vec<Collector>,
    /// The place of the one in use.
    in_use: usize,
    failback_delay: Duration,
    moves: Vec<Move>,
}

/// One collector, and the state beside its endpoint.
pub(crate) struct Collector {
    pub(crate) endpoint: Endpoint,
    pub(super) outage: Outage,
    /// The numbers of the outage, or of the failures that may become one.
    pub(super) tally: Option<Tally>,
    pub(super) renewals: Renewals,
    trial: Trial,
    /// Calls went back to an endpoint of a higher priority: its outage, if there is one, has no end that a call tells.
    pub(super) is_left: bool,
}

/// The trial of an endpoint that is not in use, while one of a lower priority is.
#[derive(Clone, Copy, Default)]
struct Trial {
    /// No trial batch before this instant.
    not_before: Option<Instant>,
    /// The first delivery since the last failure.
    good_since: Option<Instant>,
    /// Deliveries since the last failure.
    deliveries: u32,
}

/// All calls go to another endpoint from now on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Move {
    pub(crate) from: Position,
    pub(crate) to: Position,
}

/// The end of a call, for the trial of its endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Delivered,
    /// A failure, a throttle, or a refusal of the endpoint's own.
    Failed,
}

/// The calls of one endpoint that are out.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Out {
    /// Those that count against its concurrency.
    pub(super) counted: usize,
    pub(super) all: usize,
    /// The start of the oldest.
    pub(super) oldest: Option<Instant>,
}

/// The calls of all endpoints that are out, by the place of the endpoint.
pub(super) type AllOut = [Out; MAX_ENDPOINTS];

/// Why no call goes out now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// As many calls are out as may be.
    NoRoom,
    Wait(Wait),
}

impl From<Endpoint> for Endpoints {
    fn from(endpoint: Endpoint) -> Self {
        Self::new(vec![endpoint], FAILBACK_DELAY)
    }
}

impl Endpoints {
    /// The endpoints by priority: one at least.
    pub(crate) fn new(endpoints: Vec<Endpoint>, failback_delay: Duration) -> Self {
        debug_assert!((1..=MAX_ENDPOINTS).contains(&endpoints.len()));
        let collector = |endpoint| Collector {
            endpoint,
            outage: Outage::default(),
            tally: None,
            renewals: Renewals::default(),
            trial: Trial::default(),
            is_left: false,
        };
        Self { all: endpoints.into_iter().map(collector).collect(), in_use: 0, failback_delay, moves: Vec::new() }
    }

    // Queries.

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// The place of the endpoint that calls go to.
    pub(crate) fn in_use(&self) -> usize {
        self.in_use
    }

    /// The endpoint that calls go to.
    pub(crate) fn current(&self) -> &Endpoint {
        &self.all[self.in_use].endpoint
    }

    pub(super) fn current_mut(&mut self) -> &mut Endpoint {
        &mut self.all[self.in_use].endpoint
    }

    pub(crate) fn of(&self, at: usize) -> &Endpoint {
        &self.all[at].endpoint
    }

    pub(super) fn of_mut(&mut self, at: usize) -> &mut Endpoint {
        &mut self.all[at].endpoint
    }

    pub(crate) fn collectors(&self) -> impl Iterator<Item = &Collector> {
        self.all.iter()
    }

    pub(super) fn collector(&self, at: usize) -> &Collector {
        &self.all[at]
    }

    pub(super) fn collector_mut(&mut self, at: usize) -> &mut Collector {
        &mut self.all[at]
    }

    /// The numbers of outages, and of failures that may become one.
    pub(super) fn tallies_mut(&mut self) -> impl Iterator<Item = &mut Tally> {
        self.all.iter_mut().filter_map(|collector| collector.tally.as_mut())
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Endpoint> {
        self.all.iter_mut().map(|collector| &mut collector.endpoint)
    }

    /// The endpoints that the next call may go to: the one in use, or each one while that is unavailable.
    fn candidates(&self, out: &AllOut, now: Instant) -> impl Iterator<Item = &Endpoint> {
        let is_one = self.is_available(self.in_use, out, now);
        let those = if is_one { self.in_use..self.in_use + 1 } else { 0..self.all.len() };
        self.all[those].iter().map(|collector| &collector.endpoint)
    }

    /// The instant of the next call; none if a call may go out now, or if an answer decides first.
    pub(super) fn next_call(&self, out: &AllOut, now: Instant) -> Option<Instant> {
        let each = self.candidates(out, now).map(|endpoint| endpoint.next_call(now));
        each.min_by_key(|next| next.unwrap_or(now)).flatten()
    }

    /// No call goes out because of pauses that the peers asked for: the rest of the shortest.
    pub(super) fn pause(&self, out: &AllOut, now: Instant) -> Option<Duration> {
        let rests = self.candidates(out, now).map(|endpoint| endpoint.pause(now).map(|(_, rest)| rest));
        rests.min_by_key(|rest| rest.unwrap_or_default()).flatten()
    }

    /// A pass waits for its call.
    pub(super) fn has_pass(&self, out: &AllOut, now: Instant) -> bool {
        self.candidates(out, now).any(Endpoint::has_pass)
    }

    /// Batches have a better place than this endpoint: the one in use is another one, and available.
    pub(super) fn has_better_place(&self, at: usize, out: &AllOut, now: Instant) -> bool {
        at != self.in_use && self.is_available(self.in_use, out, now)
    }

    /// A batch that this endpoint did not take may go to another one at once.
    pub(super) fn may_go_elsewhere(&self, at: usize, out: &AllOut, now: Instant) -> bool {
        let is_available = |at: usize| self.is_available(at, out, now);
        !is_available(at) && (0..self.all.len()).any(is_available)
    }

    /// The instant at which this endpoint is silent, or was; none without a call that is out.
    pub(super) fn silent_at(&self, at: usize, out: &AllOut) -> Option<Instant> {
        let since = self.all[at].endpoint.unanswered_since(out[at].oldest)?;
        since.checked_add(SILENT_AFTER)
    }

    /// The instant of the next trial batch; none while there is no endpoint for one.
    pub(super) fn next_trial(&self, now: Instant) -> Option<Instant> {
        let next = |Collector { endpoint, trial, .. }: &Collector| {
            endpoint.next_call(now).into_iter().chain(trial.not_before).max().unwrap_or(now)
        };
        self.all[..self.in_use].iter().map(next).min()
    }

    /// Calls may go to this endpoint, as far as its answers tell.
    fn is_available(&self, at: usize, out: &AllOut, now: Instant) -> bool {
        let endpoint = &self.all[at].endpoint;
        let is_throttled = endpoint.pause(now).is_some_and(|(whole, _)| whole > self.failback_delay);
        endpoint.state() == State::Closed
            && !endpoint.is_down()
            && !is_throttled
            && self.silent_at(at, out).is_none_or(|instant| now < instant)
    }

    fn has_room(&self, at: usize, out: &AllOut) -> bool {
        out[at].counted < self.all[at].endpoint.concurrency()
    }

    /// A trial batch may go to this endpoint, which is of a higher priority than the one in use.
    fn is_trial_due(&self, at: usize, out: &AllOut, now: Instant) -> bool {
        let is_time = self.all[at].trial.not_before.is_none_or(|instant| instant <= now);
        at < self.in_use && is_time && out[at].all == 0
    }

    /// Another call may go out. `has_trials`: trial batches may.
    pub(super) fn has_room_for_call(&self, has_trials: bool, out: &AllOut, now: Instant) -> bool {
        self.has_room(self.in_use, out)
            || has_trials && (0..self.in_use).any(|at| self.is_trial_due(at, out, now))
            || self.all.len() > 1
                && !self.is_available(self.in_use, out, now)
                && (0..self.all.len()).any(|at| self.has_room(at, out))
    }

    /// Calls have moved since the last [`take_moves`](Self::take_moves).
    pub(super) fn has_moved(&self) -> bool {
        !self.moves.is_empty()
    }

    // The choice.

    /// Takes a permit for the next call, and returns the place of its endpoint. `has_trials`: a live batch may be a
    /// trial.
    pub(super) fn acquire(
        &mut self,
        traffic: Traffic,
        has_trials: bool,
        out: &AllOut,
        now: Instant,
    ) -> Result<(usize, Ticket), Refusal> {
        if traffic == Traffic::Live && has_trials {
            for at in 0..self.in_use {
                if self.is_trial_due(at, out, now)
                    && let Ok(ticket) = self.all[at].endpoint.acquire(traffic, now)
                {
                    self.all[at].trial.not_before = now.checked_add(self.trial_interval());
                    return Ok((at, ticket));
                }
            }
        }
        let is_available = |at: usize| self.is_available(at, out, now);
        if self.all.len() > 1 && !is_available(self.in_use) {
            match (0..self.all.len()).find(|&at| is_available(at)) {
                Some(at) => self.use_instead(at, now),
                None => return self.acquire_first(traffic, out, now),
            }
        }
        self.acquire_at(self.in_use, traffic, out, now)
    }

    fn acquire_at(
        &mut self,
        at: usize,
        traffic: Traffic,
        out: &AllOut,
        now: Instant,
    ) -> Result<(usize, Ticket), Refusal> {
        if !self.has_room(at, out) {
            return Err(Refusal::NoRoom);
        }
        self.all[at].endpoint.acquire(traffic, now).map(|ticket| (at, ticket)).map_err(Refusal::Wait)
    }

    /// No endpoint is available: the one whose wait ends first gets the call.
    fn acquire_first(&mut self, traffic: Traffic, out: &AllOut, now: Instant) -> Result<(usize, Ticket), Refusal> {
        let mut order = (0..self.all.len()).collect::<Vec<_>>();
        let next = |at: usize| {
            let is_silent = self.silent_at(at, out).is_some_and(|instant| instant <= now);
            (is_silent, self.all[at].endpoint.next_call(now).unwrap_or(now))
        };
        order.sort_by_key(|&at| next(at));
        let mut refusal = Refusal::NoRoom;
        for at in order {
            match self.acquire_at(at, traffic, out, now) {
                Ok(permit) => return Ok(permit),
                Err(other) => refusal = refusal.earlier(other),
            }
        }
        Err(refusal)
    }

    fn trial_interval(&self) -> Duration {
        (self.failback_delay / TRIALS_IN_DELAY).max(SHORTEST_TRIAL)
    }

    fn use_instead(&mut self, at: usize, now: Instant) {
        let (from, to) = (Position::new(self.in_use), Position::new(at));
        self.moves.push(Move { from, to });
        let not_before = now.checked_add(self.trial_interval());
        // The trial of those that were left begins; that of an endpoint in front of them goes on.
        for left in self.in_use..at {
            self.all[left].trial = Trial { not_before, ..Trial::default() };
        }
        self.in_use = at;
        self.leave_those_behind(now);
        self.all[at].endpoint.on_chosen(now);
        self.all[at].endpoint.end_pass();
    }

    // Events.

    /// A call of this endpoint has ended. Has all calls return to the endpoint, once its trial is long enough.
    pub(super) fn on_verdict(&mut self, at: usize, verdict: Verdict, now: Instant) {
        if at == self.in_use && verdict == Verdict::Delivered {
            self.leave_those_behind(now);
        }
        if at >= self.in_use {
            return;
        }
        let delay = self.failback_delay;
        let trial = &mut self.all[at].trial;
        if verdict == Verdict::Failed {
            (trial.good_since, trial.deliveries) = (None, 0);
            return;
        }
        trial.deliveries = trial.deliveries.saturating_add(1);
        let since = *trial.good_since.get_or_insert(now);
        let is_long = now.saturating_duration_since(since) >= delay;
        if trial.deliveries >= DELIVERIES && is_long && self.all[at].endpoint.state() == State::Closed {
            self.use_instead(at, now);
        }
    }

    /// The endpoint in use works: no call will say that one behind it that has failed works again.
    fn leave_those_behind(&mut self, now: Instant) {
        for behind in self.all[self.in_use + 1..].iter_mut().filter(|behind| behind.tally.is_some()) {
            behind.endpoint.on_left(now);
            behind.is_left = true;
        }
    }

    /// The trial for which a permit was taken last was not made.
    pub(super) fn on_trial_unused(&mut self, at: usize, now: Instant) {
        if at < self.in_use {
            self.all[at].trial.not_before = Some(now);
        }
    }

    /// A call of this endpoint was given up: a trial that a flush ends, again and again, shall not be one batch of
    /// each.
    pub(super) fn on_given_up(&mut self, at: usize, now: Instant) {
        self.on_verdict(at, Verdict::Failed, now);
        if at < self.in_use {
            self.all[at].trial.not_before = now.checked_add(self.failback_delay);
        }
    }

    /// An operator, or new credentials, ask for a call at once: no trial waits.
    pub(super) fn end_trial_waits(&mut self) {
        self.all.iter_mut().for_each(|collector| collector.trial.not_before = None);
    }

    /// Takes the moves since the last call.
    pub(super) fn take_moves(&mut self) -> Vec<Move> {
        std::mem::take(&mut self.moves)
    }
}

impl Refusal {
    /// The one that ends first.
    fn earlier(self, other: Self) -> Self {
        match (self, other) {
            (Self::Wait(Wait::Until(one)), Self::Wait(Wait::Until(other))) => Self::Wait(Wait::Until(one.min(other))),
            (until @ Self::Wait(Wait::Until(_)), _) | (_, until @ Self::Wait(Wait::Until(_))) => until,
            (Self::NoRoom, other) => other,
            (wait, _) => wait,
        }
    }
}

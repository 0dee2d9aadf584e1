//! The rules of moves between endpoints, written anew: from the log of calls and answers alone they say whether calls
//! may go to another endpoint. Where the design leaves a choice, the watch allows both.

use std::time::{Duration, Instant};

use otlp_transport::RefusalKind;

use super::Setup;
use super::replicas::{Reply, refusal_kind};
use super::world::{MINUTE, Sent};

/// An endpoint of a higher priority takes this many batches before all calls return.
const DELIVERIES: u32 = 3;

/// One endpoint by its answers.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// The last acceptance is older than an answer for which calls go elsewhere.
    is_down: bool,
    /// Failures since the last acceptance.
    failures: u32,
    /// The instant at which failures opened the breaker, until a later call is accepted.
    opened: Option<Instant>,
    /// The first pause since the last acceptance, and the end of the longest.
    paused: Option<(Instant, Instant)>,
    accepted: Option<Instant>,
    /// Deliveries since the last failure, and the first of them.
    deliveries: u32,
    good_since: Option<Instant>,
}

pub(super) struct Watch {
    failure_threshold: u32,
    delay: Duration,
    all: Vec<Seen>,
    in_use: usize,
    /// The calls that were looked at.
    looked_at: usize,
    /// Each move: when, from which endpoint, to which.
    pub(super) moves: Vec<(Instant, usize, usize)>,
}

impl Watch {
    pub(super) fn new(setup: &Setup) -> Self {
        Self {
            failure_threshold: setup.failure_threshold,
            delay: setup.failback_delay,
            all: vec![Seen::default(); setup.endpoints],
            in_use: 0,
            looked_at: 0,
            moves: Vec::new(),
        }
    }

    /// The next process knows nothing of the endpoints.
    pub(super) fn on_restart(&mut self, sent: usize) {
        self.all.fill(Seen::default());
        (self.in_use, self.looked_at) = (0, sent);
    }

    pub(super) fn on_answered(&mut self, sent: &Sent, now: Instant) {
        let (threshold, seen) = (self.failure_threshold, &mut self.all[sent.endpoint]);
        let kind = match sent.reply {
            Reply::Status(status) | Reply::StatusOfStored(status) => refusal_kind(status),
            _ => None,
        };
        match sent.reply {
            Reply::Accept | Reply::PartlyReject(_) | Reply::Unreadable => {
                seen.opened = seen.opened.filter(|opened| sent.at < *opened);
                (seen.is_down, seen.failures, seen.paused) = (false, 0, None);
                seen.accepted = Some(now);
                seen.deliveries += 1;
                seen.good_since.get_or_insert(now);
                return;
            }
            Reply::Throttle(hint) => {
                let end = now + hint.min(Duration::from_secs(300));
                let (first, until) = seen.paused.unwrap_or((now, end));
                seen.paused = Some((first, until.max(end)));
            }
            // About the batch.
            Reply::Status(413) => return,
            Reply::ConnectionRefused | Reply::NoCredentials | Reply::TimeOut { .. } => seen.is_down = true,
            _ => seen.is_down |= kind == Some(RefusalKind::Sender),
        }
        seen.failures += 1;
        if seen.failures >= threshold {
            seen.opened = Some(now);
        }
        if kind.is_none() {
            // A refusal may be about the batch.
            (seen.deliveries, seen.good_since) = (0, None);
        }
    }

    /// Calls may go elsewhere.
    fn is_bad(&self, endpoint: usize) -> bool {
        let Seen { is_down, opened, paused, .. } = &self.all[endpoint];
        // The backoff may wait longer than the hint: a quarter and some more.
        let is_paused = paused.is_some_and(|(first, until)| (until - first) * 2 > self.delay);
        *is_down || opened.is_some() || is_paused
    }

    /// The endpoint has not answered a call for a minute.
    fn is_silent(&self, endpoint: usize, sent: &[Sent], now: Instant) -> bool {
        let accepted = self.all[endpoint].accepted;
        let is_old = |at: Instant| accepted.map_or(at, |accepted| accepted.max(at)) + MINUTE <= now;
        let is_hung = |sent: &Sent| sent.endpoint == endpoint && sent.answered.is_none() && is_old(sent.at);
        sent.iter().rev().take(1_000).any(is_hung)
    }

    fn may_return_to(&self, endpoint: usize, now: Instant) -> bool {
        let Seen { deliveries, good_since, .. } = self.all[endpoint];
        deliveries >= DELIVERIES && good_since.is_some_and(|since| now - since >= self.delay)
    }

    /// Looks at the calls that have just gone out, beside those that are `awaited`; `in_use` is the endpoint in use.
    ///
    /// # Errors
    /// The rule that is broken.
    pub(super) fn on_sent(
        &mut self,
        sent: &[Sent],
        awaited: &[usize],
        in_use: usize,
        now: Instant,
    ) -> Result<(), String> {
        let before = std::mem::replace(&mut self.in_use, in_use);
        if before != in_use {
            self.moves.push((now, before, in_use));
            let may_return = in_use < before && self.may_return_to(in_use, now);
            if !self.is_bad(before) && !may_return && !self.is_silent(before, sent, now) {
                return Err(format!("calls go from {before} to {in_use}, although {before} works: {:?}", self.all));
            }
        }
        let new = std::mem::replace(&mut self.looked_at, sent.len())..sent.len();
        for (index, call) in sent[new.clone()].iter().enumerate().map(|(at, call)| (new.start + at, call)) {
            let earlier = awaited.iter().filter(|&&other| other < index).map(|&other| &sent[other]);
            if let Some(other) = earlier.clone().find(|other| call.spans.iter().any(|span| other.holds(*span))) {
                return Err(format!("{call:?} goes out beside {other:?}"));
            }
            let at = call.endpoint;
            let is_bad = self.is_bad(in_use) || self.is_silent(in_use, sent, now);
            if at == in_use || call.repeat || is_bad || before != in_use {
                continue;
            }
            let is_alone = earlier.clone().all(|other| other.endpoint != at);
            if at > in_use || !call.live || !is_alone {
                return Err(format!("no trial by the rules while {in_use} works: {call:?}, alone: {is_alone}"));
            }
        }
        Ok(())
    }
}

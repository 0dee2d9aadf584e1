//! The machine itself: no clock, no lock, no I/O. Its next state depends only on its state and its input.

use alloc::vec::Vec;
use core::num::NonZeroU64;
use core::time::Duration;

use crate::config::{Config, Trip};
use crate::state::{Change, Counters, Kind, Outcome, Reason, Refuser, Rejected, Report, State};
use crate::window::{Ring, Tally, Verdict, nanos, verdict};

/// A breaker for one owner, for `no_std` (with `alloc`) or for a lock of your own: the shared one is built on it.
///
/// `now` is the time since any fixed point of a clock that does not go back. One that does go back costs only
/// precision: a state that waits for a time waits until the clock gets there again.
///
/// ```
/// use core::time::Duration;
/// use breaker::{Config, Machine, Outcome};
///
/// let mut machine = Machine::new(Config::default());
/// let ticket = machine.try_acquire(Duration::from_millis(1)).answer.expect("a new breaker is closed");
/// assert!(machine.report(ticket, Outcome::Success, Duration::from_millis(5)).answer.counted());
/// ```
#[derive(Clone, Debug)]
pub struct Machine {
    config: Config,
    phase: Phase,
    /// Grows with every move; a ticket of another generation says nothing about this one.
    generation: u64,
    window: Option<Ring>,
    /// The probes that are out. Its capacity is the limit, so it never grows.
    probes: Vec<Probe>,
    next_probe: u64,
    trips: u64,
    /// Entries into open since the last close.
    trips_in_row: u32,
    late: u64,
    random: u64,
}

/// A state with its data. Times are nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed { failures: u32 },
    Open { until: u64 },
    HalfOpen { successes: u32 },
    Isolated,
    Disabled,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    number: u64,
    expires: u64,
}

/// The right to one call; hand it back with the outcome. Lost tickets do no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub(crate) generation: u64,
    /// 0 for an ordinary call.
    pub(crate) probe: u64,
    pub(crate) started: u64,
}

impl Ticket {
    /// Whether this is an ordinary call or a probe.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        if self.probe == 0 { Kind::Call } else { Kind::Probe }
    }
}

/// An operator's command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Command {
    /// Opens it now, as failures would have: for the open time, or for this long if it says so (clamped to 1 ms up to
    /// the longest open time), then probes.
    ForceOpen(Option<Duration>),
    /// Closes it now, as good probes would have. The counts are cleared, the number of trips stays.
    ForceClosed,
    /// Ends the open time now, as if it were over: the next call goes out as a probe. For a program that learned that
    /// its peer is back. Only an open breaker moves; in every other state nothing changes: a closed or disabled one
    /// lets calls out anyway, a half-open one keeps its probes, an isolated one refuses until another command.
    ForceHalfOpen,
    /// Refuses everything until a command that moves it.
    Isolate,
    /// Lets everything out and counts nothing until a command that moves it.
    Disable,
    /// Closed and as new: the number of trips and of late outcomes too.
    Reset,
}

/// The result of one input: the answer, and the move of the machine, if there was one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Step<T> {
    /// The answer.
    pub answer: T,
    /// The move, at most one a step.
    pub change: Option<Change>,
}

impl Machine {
    /// A closed breaker.
    #[must_use]
    pub fn new(config: Config) -> Machine {
        let window = match config.trip {
            Trip::Consecutive(_) => None,
            Trip::Rate(rate) => Some(Ring::new(rate.window)),
        };
        Machine {
            phase: Phase::Closed { failures: 0 },
            generation: 0,
            window,
            probes: Vec::with_capacity(config.half_open_probes as usize),
            next_probe: 1,
            trips: 0,
            trips_in_row: 0,
            late: 0,
            random: config.seed.unwrap_or(0),
            config,
        }
    }

    /// Asks for one call.
    pub fn try_acquire(&mut self, now: Duration) -> Step<Result<Ticket, Rejected>> {
        self.acquire(nanos(now))
    }

    /// Reports the outcome of a call.
    pub fn report(&mut self, ticket: Ticket, outcome: Outcome, now: Duration) -> Step<Report> {
        self.settle(ticket, outcome, nanos(now))
    }

    /// Reports that the permit of a ticket was dropped;
    /// [`ConfigBuilder::with_dropped`](crate::ConfigBuilder::with_dropped) decides the outcome.
    pub fn report_dropped(&mut self, ticket: Ticket, now: Duration) -> Step<Report> {
        self.settle(ticket, self.config.dropped.outcome(), nanos(now))
    }

    /// Applies an operator's command. `None` if it moved nothing, which happens with [`Command::ForceHalfOpen`] only.
    pub fn command(&mut self, command: Command, now: Duration) -> Option<Change> {
        self.obey(command, nanos(now))
    }

    /// The state, which decides how calls are treated. Time alone moves nothing: an open breaker whose time is over
    /// stays open until a call comes.
    #[must_use]
    pub const fn state(&self) -> State {
        match self.phase {
            Phase::Closed { .. } => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen { .. } => State::HalfOpen,
            Phase::Isolated => State::Isolated,
            Phase::Disabled => State::Disabled,
        }
    }

    /// The end of the open time, while the machine is open: the first instant at which it lets a probe out.
    #[must_use]
    pub const fn open_until(&self) -> Option<Duration> {
        match self.phase {
            Phase::Open { until } => Some(Duration::from_nanos(until)),
            _ => None,
        }
    }

    /// Its numbers now.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let window = self.window.as_ref().map_or(Tally::default(), Ring::tally);
        Counters {
            trips: self.trips,
            consecutive_failures: if let Phase::Closed { failures } = self.phase { failures } else { 0 },
            window_calls: window.calls,
            window_failures: window.failures,
            window_slow: window.slow,
            probes: self.probes.len() as u32,
            probe_successes: if let Phase::HalfOpen { successes } = self.phase { successes } else { 0 },
            late: self.late,
        }
    }

    /// The settings.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn acquire(&mut self, now: u64) -> Step<Result<Ticket, Rejected>> {
        let call = Ticket { generation: self.generation, probe: 0, started: now };
        match self.phase {
            Phase::Closed { .. } | Phase::Disabled => Step { answer: Ok(call), change: None },
            Phase::Open { until } if now < until => {
                Step { answer: Err(Rejected::new(Refuser::Open, NonZeroU64::new(until - now))), change: None }
            }
            Phase::Open { .. } => {
                let change = self.go(Phase::HalfOpen { successes: 0 }, Reason::OpenTimeOver);
                Step { answer: Ok(self.admit(now)), change: Some(change) }
            }
            Phase::HalfOpen { .. } => {
                // A probe without a report (`mem::forget`, a call that hangs) must not hold its slot for ever.
                self.probes.retain(|probe| now < probe.expires);
                let answer = if self.probes.len() < self.config.half_open_probes as usize {
                    Ok(self.admit(now))
                } else {
                    Err(Rejected::new(Refuser::HalfOpen, None))
                };
                Step { answer, change: None }
            }
            Phase::Isolated => Step { answer: Err(Rejected::new(Refuser::Isolated, None)), change: None },
        }
    }

    pub(crate) fn settle(&mut self, ticket: Ticket, outcome: Outcome, now: u64) -> Step<Report> {
        let report = |answer| Step { answer, change: None };
        if ticket.generation != self.generation {
            self.late += 1;
            return report(Report::Late);
        }
        let slow = match self.config.slower_than() {
            Some(limit) => outcome != Outcome::Neutral && now.saturating_sub(ticket.started) >= nanos(limit),
            None => false,
        };
        match self.phase {
            Phase::Closed { failures } => {
                Step { answer: Report::Counted, change: self.count(failures, outcome, slow, now) }
            }
            Phase::HalfOpen { successes } => {
                let Some(slot) = self.probes.iter().position(|probe| probe.number == ticket.probe) else {
                    self.late += 1;
                    return report(Report::Expired);
                };
                self.probes.swap_remove(slot);
                Step { answer: Report::Counted, change: self.judge(successes, outcome, slow, now) }
            }
            Phase::Disabled => report(Report::Unrecorded),
            // These give no tickets, so none of their generation exists.
            Phase::Open { .. } | Phase::Isolated => report(Report::Late),
        }
    }

    pub(crate) fn obey(&mut self, command: Command, now: u64) -> Option<Change> {
        Some(match command {
            Command::ForceOpen(duration) => {
                let longest = self.config.max_open_duration;
                let exactly = duration.map(|duration| duration.clamp(SHORTEST_OPEN, longest));
                self.open(Reason::ForcedOpen, exactly, None, now)
            }
            Command::ForceClosed => self.close(Reason::ForcedClosed),
            Command::ForceHalfOpen => match self.phase {
                Phase::Open { .. } => self.go(Phase::HalfOpen { successes: 0 }, Reason::ForcedHalfOpen),
                Phase::Closed { .. } | Phase::HalfOpen { .. } | Phase::Isolated | Phase::Disabled => return None,
            },
            Command::Isolate => self.go(Phase::Isolated, Reason::Isolated),
            Command::Disable => self.go(Phase::Disabled, Reason::Disabled),
            Command::Reset => {
                let change = self.close(Reason::Reset);
                (self.trips, self.late) = (0, 0);
                change
            }
        })
    }

    /// The outcome of an ordinary call while closed.
    fn count(&mut self, failures: u32, outcome: Outcome, slow: bool, now: u64) -> Option<Change> {
        let (failed, hint) = match outcome {
            Outcome::Success => (false, None),
            Outcome::Failure => (true, None),
            Outcome::FailureWithHint(hint) => (true, Some(hint)),
            Outcome::Neutral => return None,
        };
        let reason = match (&self.config.trip, &mut self.window) {
            (Trip::Rate(rate), Some(window)) => {
                let tally = window.record(failed, slow, now);
                match verdict(rate, tally) {
                    // A success that was quick cannot have raised a rate.
                    _ if !failed && !slow => return None,
                    Verdict::Fine => return None,
                    Verdict::Failing => Reason::FailureRate,
                    Verdict::Slow => Reason::SlowCallRate,
                }
            }
            (Trip::Consecutive(threshold), _) => {
                let failures = if failed { failures + 1 } else { 0 };
                if failures < *threshold {
                    self.phase = Phase::Closed { failures };
                    return None;
                }
                Reason::FailureThreshold
            }
            (Trip::Rate(_), None) => return None,
        };
        Some(self.open(reason, None, hint, now))
    }

    /// The outcome of a probe.
    fn judge(&mut self, successes: u32, outcome: Outcome, slow: bool, now: u64) -> Option<Change> {
        match outcome {
            Outcome::Neutral => None,
            Outcome::Success if !slow => {
                let successes = successes + 1;
                if successes < self.config.half_open_successes {
                    self.phase = Phase::HalfOpen { successes };
                    return None;
                }
                Some(self.close(Reason::ProbesSucceeded))
            }
            Outcome::FailureWithHint(hint) => Some(self.open(Reason::ProbeFailed, None, Some(hint), now)),
            Outcome::Success | Outcome::Failure => Some(self.open(Reason::ProbeFailed, None, None, now)),
        }
    }

    fn admit(&mut self, now: u64) -> Ticket {
        let timeout = self.config.probe_timeout.unwrap_or_else(|| self.config.open_duration(self.trips_in_row));
        let number = self.next_probe;
        self.next_probe += 1;
        self.probes.push(Probe { number, expires: now.saturating_add(nanos(timeout)) });
        Ticket { generation: self.generation, probe: number, started: now }
    }

    fn open(&mut self, reason: Reason, exactly: Option<Duration>, hint: Option<Duration>, now: u64) -> Change {
        if !matches!(self.phase, Phase::Open { .. }) {
            self.trips += 1;
            self.trips_in_row = self.trips_in_row.saturating_add(1);
        }
        let duration = exactly.map(nanos).unwrap_or_else(|| {
            let own = self.config.open_duration(self.trips_in_row);
            let base = nanos(own.max(hint.unwrap_or(own)).min(self.config.max_open_duration));
            base.saturating_add((base as f64 * self.config.open_jitter * self.unit()) as u64)
        });
        self.go(Phase::Open { until: now.saturating_add(duration) }, reason)
    }

    fn close(&mut self, reason: Reason) -> Change {
        self.trips_in_row = 0;
        self.go(Phase::Closed { failures: 0 }, reason)
    }

    /// The only place where the generation grows.
    fn go(&mut self, phase: Phase, reason: Reason) -> Change {
        let from = self.state();
        self.phase = phase;
        self.generation += 1;
        self.probes.clear();
        if let Some(window) = &mut self.window {
            window.clear();
        }
        Change { from, to: self.state(), reason, number: self.generation }
    }

    /// A sample from `[0, 1)`: SplitMix64 (Steele, Lea and Flood, 2014), 53 bits of it.
    fn unit(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// The facts for readers without the lock.
    #[cfg(feature = "std")]
    pub(crate) fn view(&self) -> View {
        let full = self.probes.len() >= self.config.half_open_probes as usize;
        match self.phase {
            Phase::Closed { failures } if self.window.is_none() => View::Counting { failures },
            Phase::Closed { .. } => View::Recording,
            Phase::Open { until } => View::Open { until },
            Phase::HalfOpen { .. } if full => {
                View::Full { until: self.probes.iter().map(|probe| probe.expires).min().unwrap_or(0) }
            }
            Phase::HalfOpen { .. } => View::HalfOpen,
            Phase::Isolated => View::Isolated,
            Phase::Disabled => View::Disabled,
        }
    }

    /// Takes over the failures in a row that the shared breaker has counted by itself since it last asked.
    #[cfg(feature = "std")]
    pub(crate) const fn take_over(&mut self, counted: u32) {
        if let Phase::Closed { failures } = &mut self.phase {
            *failures = counted;
        }
    }

    #[cfg(feature = "std")]
    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }
}

/// A state as the shared breaker publishes it.
#[cfg(feature = "std")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// Closed, and failures in a row count.
    Counting {
        failures: u32,
    },
    /// Closed, and each outcome goes to a window.
    Recording,
    Open {
        until: u64,
    },
    HalfOpen,
    /// Half-open with all probes out; until then none expires.
    Full {
        until: u64,
    },
    Isolated,
    Disabled,
}

impl crate::Dropped {
    pub(crate) const fn outcome(self) -> Outcome {
        match self {
            crate::Dropped::Neutral => Outcome::Neutral,
            crate::Dropped::Failure => Outcome::Failure,
        }
    }
}

const SHORTEST_OPEN: Duration = Duration::from_millis(1);

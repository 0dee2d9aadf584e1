//! The words of the breaker: states, outcomes, refusals, transitions.

use core::fmt;
use core::num::NonZeroU64;
use core::time::Duration;

/// How the breaker treats calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Calls go out and their outcomes are counted.
    Closed,
    /// Too many failed: calls are refused until the open time is over.
    Open,
    /// The open time is over, or a command ended it: a limited number of probes may go out; their outcome decides.
    HalfOpen,
    /// Every call is refused until a command that moves it ([`Command::Isolate`](crate::Command::Isolate)).
    Isolated,
    /// Every call goes out and nothing is counted ([`Command::Disable`](crate::Command::Disable)).
    Disabled,
}

impl State {
    /// The name in lower case with underscores, as it stands in logs and JSON: `half_open`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Closed => "closed",
            State::Open => "open",
            State::HalfOpen => "half_open",
            State::Isolated => "isolated",
            State::Disabled => "disabled",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The purpose of a permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An ordinary call, admitted while closed or disabled.
    Call,
    /// One of the limited calls of the half-open state.
    Probe,
}

/// The outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The dependency did its work.
    Success,
    /// The dependency did not do its work.
    Failure,
    /// A failure that says when to come back (`Retry-After`): if it opens the breaker, the breaker stays open at least
    /// this long (up to [`ConfigBuilder::with_max_open_duration`](crate::ConfigBuilder::with_max_open_duration)).
    FailureWithHint(Duration),
    /// Says nothing about the dependency: the caller's own mistake, a cancelled call. It neither counts nor keeps a
    /// slot.
    Neutral,
}

/// `Ok` is a success, `Err` a failure.
impl<T, E> From<&Result<T, E>> for Outcome {
    #[inline]
    fn from(result: &Result<T, E>) -> Outcome {
        match result {
            Ok(_) => Outcome::Success,
            Err(_) => Outcome::Failure,
        }
    }
}

/// Whether an outcome still counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "a report says whether the outcome still counted; ignore it with `let _ =`"]
#[non_exhaustive]
pub enum Report {
    /// The state that issued the permit still stood: the outcome was taken into account (or, for a neutral one, the
    /// slot freed).
    Counted,
    /// The breaker has moved on since the permit was issued: the outcome was ignored.
    Late,
    /// The probe took longer than [`ConfigBuilder::with_probe_timeout`](crate::ConfigBuilder::with_probe_timeout) and
    /// was given up for another one: the outcome was ignored.
    Expired,
    /// The breaker is disabled and counts nothing.
    Unrecorded,
}

impl Report {
    /// Whether the outcome was taken into account.
    #[must_use]
    pub const fn counted(self) -> bool {
        matches!(self, Report::Counted)
    }
}

/// Why a call may not go out now. Not retryable as it stands: wait as long as [`retry_after`](Rejected::retry_after)
/// says, or longer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Rejected {
    by: Refuser,
    /// Nanoseconds, as the machine counts them: a caller that does not ask for the time pays for no conversion.
    after: Option<NonZeroU64>,
}

/// A state that refuses. As wide as the words of a permit, which has the same place in a result: with a single byte
/// there, a permit would go through memory in pieces.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Refuser {
    Open,
    HalfOpen,
    Isolated,
}

impl Rejected {
    #[inline]
    pub(crate) const fn new(by: Refuser, after: Option<NonZeroU64>) -> Rejected {
        Rejected { by, after }
    }

    /// The state that refused: open, half-open or isolated.
    #[must_use]
    #[inline]
    pub const fn state(&self) -> State {
        match self.by {
            Refuser::Open => State::Open,
            Refuser::HalfOpen => State::HalfOpen,
            Refuser::Isolated => State::Isolated,
        }
    }

    /// The time until the breaker lets a probe out. `None` while that depends on something other than time: on probes
    /// that are out, or on the person who isolated the breaker.
    #[must_use]
    #[inline]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self.after {
            Some(nanos) => Some(Duration::from_nanos(nanos.get())),
            None => None,
        }
    }
}

impl fmt::Debug for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected").field("state", &self.state()).field("retry_after", &self.retry_after()).finish()
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.state(), self.retry_after()) {
            (_, Some(after)) => write!(f, "the circuit breaker is {}: call again in {after:?}", self.state()),
            (State::HalfOpen, None) => {
                f.write_str("the circuit breaker is half_open and all its probes are out: call again later")
            }
            (_, None) => write!(f, "the circuit breaker is {}: it refuses calls until it is reset", self.state()),
        }
    }
}

impl core::error::Error for Rejected {}

/// Why a state was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Reason {
    /// So many failures in a row as [`Trip::Consecutive`](crate::Trip::Consecutive) allows.
    FailureThreshold,
    /// The failure rate of the window reached its limit.
    FailureRate,
    /// The rate of slow calls in the window reached its limit.
    SlowCallRate,
    /// The open time was over and a call came.
    OpenTimeOver,
    /// So many probes succeeded as were asked for.
    ProbesSucceeded,
    /// A probe failed (or was slow, where slow calls count).
    ProbeFailed,
    /// [`Command::ForceOpen`](crate::Command::ForceOpen).
    ForcedOpen,
    /// [`Command::ForceClosed`](crate::Command::ForceClosed).
    ForcedClosed,
    /// [`Command::ForceHalfOpen`](crate::Command::ForceHalfOpen).
    ForcedHalfOpen,
    /// [`Command::Isolate`](crate::Command::Isolate).
    Isolated,
    /// [`Command::Disable`](crate::Command::Disable).
    Disabled,
    /// [`Command::Reset`](crate::Command::Reset).
    Reset,
}

impl Reason {
    /// The name in lower case with underscores, as it stands in logs, JSON and the diagram.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::FailureThreshold => "failure_threshold",
            Reason::FailureRate => "failure_rate",
            Reason::SlowCallRate => "slow_call_rate",
            Reason::OpenTimeOver => "open_time_over",
            Reason::ProbesSucceeded => "probes_succeeded",
            Reason::ProbeFailed => "probe_failed",
            Reason::ForcedOpen => "forced_open",
            Reason::ForcedClosed => "forced_closed",
            Reason::ForcedHalfOpen => "forced_half_open",
            Reason::Isolated => "isolated",
            Reason::Disabled => "disabled",
            Reason::Reset => "reset",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One move of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    /// The state that was left.
    pub from: State,
    /// The state that was entered; the same one where a command started it afresh.
    pub to: State,
    /// The cause of the move.
    pub reason: Reason,
    /// Counts the moves of this breaker from 1, without gaps: listeners on several threads can put them in order.
    pub number: u64,
}

/// The numbers of a breaker at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Entries into the open state since the start or the last reset.
    pub trips: u64,
    /// Failures in a row while closed ([`Trip::Consecutive`](crate::Trip::Consecutive) only, else 0).
    pub consecutive_failures: u32,
    /// Calls in the window ([`Trip::Rate`](crate::Trip::Rate) only, else 0).
    pub window_calls: u32,
    /// Failures in the window.
    pub window_failures: u32,
    /// Slow calls in the window.
    pub window_slow: u32,
    /// Probes out now.
    pub probes: u32,
    /// Probes that succeeded in this half-open state.
    pub probe_successes: u32,
    /// Outcomes that were ignored because they came too late.
    pub late: u64,
}

/// Every move that the machine can make; the diagram in the documentation is checked against it.
pub const TRANSITIONS: &[(State, Reason, State)] = &[
    (State::Closed, Reason::FailureThreshold, State::Open),
    (State::Closed, Reason::FailureRate, State::Open),
    (State::Closed, Reason::SlowCallRate, State::Open),
    (State::Open, Reason::OpenTimeOver, State::HalfOpen),
    (State::Open, Reason::ForcedHalfOpen, State::HalfOpen),
    (State::HalfOpen, Reason::ProbesSucceeded, State::Closed),
    (State::HalfOpen, Reason::ProbeFailed, State::Open),
    (State::Closed, Reason::ForcedOpen, State::Open),
    (State::Open, Reason::ForcedOpen, State::Open),
    (State::HalfOpen, Reason::ForcedOpen, State::Open),
    (State::Isolated, Reason::ForcedOpen, State::Open),
    (State::Disabled, Reason::ForcedOpen, State::Open),
    (State::Closed, Reason::ForcedClosed, State::Closed),
    (State::Open, Reason::ForcedClosed, State::Closed),
    (State::HalfOpen, Reason::ForcedClosed, State::Closed),
    (State::Isolated, Reason::ForcedClosed, State::Closed),
    (State::Disabled, Reason::ForcedClosed, State::Closed),
    (State::Closed, Reason::Isolated, State::Isolated),
    (State::Open, Reason::Isolated, State::Isolated),
    (State::HalfOpen, Reason::Isolated, State::Isolated),
    (State::Isolated, Reason::Isolated, State::Isolated),
    (State::Disabled, Reason::Isolated, State::Isolated),
    (State::Closed, Reason::Disabled, State::Disabled),
    (State::Open, Reason::Disabled, State::Disabled),
    (State::HalfOpen, Reason::Disabled, State::Disabled),
    (State::Isolated, Reason::Disabled, State::Disabled),
    (State::Disabled, Reason::Disabled, State::Disabled),
    (State::Closed, Reason::Reset, State::Closed),
    (State::Open, Reason::Reset, State::Closed),
    (State::HalfOpen, Reason::Reset, State::Closed),
    (State::Isolated, Reason::Reset, State::Closed),
    (State::Disabled, Reason::Reset, State::Closed),
];

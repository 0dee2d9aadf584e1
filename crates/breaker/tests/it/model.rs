//! The machine and the shared breaker in lockstep with a slow model, over random histories: calls, late outcomes,
//! drops, lost permits, a clock that jumps, commands.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use breaker::{
    Breaker, Change, Command, Config, Dropped, Kind, Machine, Outcome, Permit, Rate, Reason, Report, State,
    TRANSITIONS, Ticket, Transition, Trip, Window,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{TestRng, TestRunner};

#[derive(Clone, Copy, Debug)]
enum Action {
    Acquire,
    /// The outcome of one of the permits that are out.
    Report(usize, Outcome),
    Drop(usize),
    Forget(usize),
    /// Milliseconds forward or back.
    Wait(i64),
    Command(Command),
}

#[derive(Clone, Debug)]
struct Settings {
    trip: Trip,
    open: u64,
    multiplier: u32,
    max_open: u64,
    probes: u32,
    successes: u32,
    probe_timeout: Option<u64>,
    dropped: Dropped,
}

impl Settings {
    fn config(&self) -> Config {
        let mut builder = Config::builder()
            .with_trip(self.trip)
            .with_open_duration(ms(self.open))
            .with_open_multiplier(f64::from(self.multiplier))
            .with_max_open_duration(ms(self.max_open))
            .with_open_jitter(0.0)
            .with_half_open_probes(self.probes)
            .with_half_open_successes(self.successes)
            .with_dropped(self.dropped);
        if let Some(timeout) = self.probe_timeout {
            builder = builder.with_probe_timeout(ms(timeout));
        }
        builder.build().expect("the strategy makes valid settings only")
    }
}

/// Everything that happened since the state began; every question is answered by looking through all of it.
/// Milliseconds.
struct Model {
    settings: Settings,
    state: State,
    /// Which of the states of this history is the current one.
    era: u64,
    /// Of this closed state: failed, slow, and in which tenth of a window.
    outcomes: Vec<(bool, bool, u64)>,
    newest_tenth: u64,
    until: u64,
    /// Of this half-open state: the probes that are out, by permit number and when they expire.
    out: Vec<(usize, u64)>,
    succeeded: u32,
    trips: u64,
    trips_in_row: u32,
    late: u64,
    moves: Vec<(State, Reason, State)>,
}

#[derive(Clone, Copy)]
struct Issued {
    number: usize,
    era: u64,
    kind: Kind,
    at: u64,
}

impl Model {
    fn new(settings: Settings) -> Model {
        Model {
            settings,
            state: State::Closed,
            era: 0,
            outcomes: Vec::new(),
            newest_tenth: 0,
            until: 0,
            out: Vec::new(),
            succeeded: 0,
            trips: 0,
            trips_in_row: 0,
            late: 0,
            moves: Vec::new(),
        }
    }

    fn acquire(&mut self, number: usize, now: u64) -> Result<Issued, (State, Option<u64>)> {
        if self.state == State::Open && now >= self.until {
            self.enter(State::HalfOpen, Reason::OpenTimeOver);
        }
        let kind = match self.state {
            State::Closed | State::Disabled => Kind::Call,
            State::Open => return Err((State::Open, Some(self.until - now))),
            State::HalfOpen => {
                self.out.retain(|(_, expires)| *expires > now);
                if self.out.len() >= self.settings.probes as usize {
                    return Err((State::HalfOpen, None));
                }
                let timeout = self.settings.probe_timeout.unwrap_or_else(|| self.open_time());
                self.out.push((number, now + timeout));
                Kind::Probe
            }
            other => return Err((other, None)),
        };
        Ok(Issued { number, era: self.era, kind, at: now })
    }

    fn report(&mut self, permit: Issued, outcome: Outcome, now: u64) -> Report {
        if permit.era != self.era {
            self.late += 1;
            return Report::Late;
        }
        let slow = match self.settings.trip {
            Trip::Rate(rate) => rate.slow().is_some_and(|(_, limit)| ms(now.saturating_sub(permit.at)) >= limit),
            _ => false,
        } && outcome != Outcome::Neutral;
        match self.state {
            State::Disabled => Report::Unrecorded,
            State::Closed => {
                self.record(outcome, slow, now);
                Report::Counted
            }
            State::HalfOpen => {
                if !self.out.iter().any(|(number, _)| *number == permit.number) {
                    self.late += 1;
                    return Report::Expired;
                }
                self.out.retain(|(number, _)| *number != permit.number);
                match outcome {
                    Outcome::Neutral => {}
                    Outcome::Success if !slow => {
                        self.succeeded += 1;
                        if self.succeeded == self.settings.successes {
                            self.trips_in_row = 0;
                            self.enter(State::Closed, Reason::ProbesSucceeded);
                        }
                    }
                    _ => self.open(Reason::ProbeFailed, outcome, now),
                }
                Report::Counted
            }
            other => panic!("the model gives no permits while {other}"),
        }
    }

    fn record(&mut self, outcome: Outcome, slow: bool, now: u64) {
        if outcome == Outcome::Neutral {
            return;
        }
        let failed = outcome != Outcome::Success;
        if let Trip::Rate(rate) = self.settings.trip
            && let Window::Time(length) = rate.window()
        {
            self.newest_tenth = self.newest_tenth.max(now / (length.as_millis() as u64 / 10));
        }
        self.outcomes.push((failed, slow, self.newest_tenth));
        match self.settings.trip {
            Trip::Consecutive(threshold) => {
                if self.failures_in_row() >= threshold {
                    self.open(Reason::FailureThreshold, outcome, now);
                }
            }
            Trip::Rate(rate) => {
                let (calls, failures, slow_calls) = self.window();
                if calls < rate.minimum_calls() || (!failed && !slow) {
                    return;
                }
                let part = |count: u32| f64::from(count) / f64::from(calls) + 1e-9;
                if rate.failure_rate().is_some_and(|limit| part(failures) >= limit) {
                    self.open(Reason::FailureRate, outcome, now);
                } else if rate.slow().is_some_and(|(limit, _)| part(slow_calls) >= limit) {
                    self.open(Reason::SlowCallRate, outcome, now);
                }
            }
            _ => unreachable!("the strategy knows two"),
        }
    }

    fn command(&mut self, command: Command, now: u64) {
        match command {
            Command::ForceOpen(exactly) => {
                self.open(Reason::ForcedOpen, Outcome::Failure, now);
                if let Some(exactly) = exactly {
                    self.until = now + (exactly.as_millis() as u64).clamp(1, self.settings.max_open);
                }
            }
            Command::ForceClosed => {
                self.trips_in_row = 0;
                self.enter(State::Closed, Reason::ForcedClosed);
            }
            Command::ForceHalfOpen if self.state == State::Open => {
                self.enter(State::HalfOpen, Reason::ForcedHalfOpen);
            }
            Command::ForceHalfOpen => {}
            Command::Isolate => self.enter(State::Isolated, Reason::Isolated),
            Command::Disable => self.enter(State::Disabled, Reason::Disabled),
            Command::Reset => {
                self.enter(State::Closed, Reason::Reset);
                (self.trips, self.trips_in_row, self.late) = (0, 0, 0);
            }
            other => panic!("{other:?} is new"),
        }
    }

    fn open(&mut self, reason: Reason, outcome: Outcome, now: u64) {
        if self.state != State::Open {
            self.trips += 1;
            self.trips_in_row += 1;
        }
        let hint = if let Outcome::FailureWithHint(hint) = outcome { hint.as_millis() as u64 } else { 0 };
        self.until = now + self.open_time().max(hint).min(self.settings.max_open);
        self.enter(State::Open, reason);
    }

    fn enter(&mut self, state: State, reason: Reason) {
        self.moves.push((self.state, reason, state));
        self.state = state;
        self.era += 1;
        self.outcomes.clear();
        self.newest_tenth = 0;
        self.out.clear();
        self.succeeded = 0;
    }

    fn open_time(&self) -> u64 {
        let growth = u64::from(self.settings.multiplier).saturating_pow(self.trips_in_row.max(1) - 1);
        self.settings.open.saturating_mul(growth).min(self.settings.max_open)
    }

    fn failures_in_row(&self) -> u32 {
        self.outcomes.iter().rev().take_while(|(failed, ..)| *failed).count() as u32
    }

    /// Calls, failures and slow calls in the window.
    fn window(&self) -> (u32, u32, u32) {
        let Trip::Rate(rate) = self.settings.trip else { return (0, 0, 0) };
        let inside: Vec<_> = match rate.window() {
            Window::Calls(length) => self.outcomes.iter().rev().take(length as usize).collect(),
            Window::Time(_) => self.outcomes.iter().filter(|(.., tenth)| tenth + 10 > self.newest_tenth).collect(),
            other => panic!("{other:?} is new"),
        };
        let failures = inside.iter().filter(|(failed, ..)| *failed).count();
        let slow = inside.iter().filter(|(_, slow, _)| *slow).count();
        (inside.len() as u32, failures as u32, slow as u32)
    }
}

/// Runs one history through all three; returns the moves it made.
fn check(settings: &Settings, history: &[Action]) -> Result<Vec<(State, Reason, State)>, TestCaseError> {
    let start = crate::clock();
    let heard = Arc::new(Mutex::new(Vec::new()));
    // The machine's time 0 is a day, a whole number of tenths, before that of the breaker: the two slide alike.
    let mut machine = Machine::new(settings.config());
    let clock = Arc::new(Mutex::new(start));
    let breaker = Breaker::with_clock(settings.config(), {
        let clock = Arc::clone(&clock);
        move || *clock.lock().expect("no panic under it")
    });
    breaker.subscribe({
        let heard = Arc::clone(&heard);
        move |transition: &Transition| heard.lock().expect("no panic under it").push(*transition)
    });
    let mut model = Model::new(settings.clone());
    let mut out: Vec<(Issued, Ticket, Permit)> = Vec::new();
    let (mut now, mut issued) = (0_u64, 0_usize);
    for action in history {
        let instant = start + ms(now);
        *clock.lock().expect("no panic under it") = instant;
        match *action {
            Action::Acquire => {
                issued += 1;
                let expected = model.acquire(issued, now);
                let (ticket, permit) = (machine.try_acquire(ms(now)).answer, breaker.try_acquire_at(instant));
                match (expected, ticket, permit) {
                    (Ok(expected), Ok(ticket), Ok(permit)) => {
                        prop_assert_eq!((ticket.kind(), permit.kind()), (expected.kind, expected.kind));
                        out.push((expected, ticket, permit));
                    }
                    (Err((state, after)), Err(first), Err(second)) => {
                        let after = after.map(ms);
                        for rejected in [first, second] {
                            prop_assert_eq!((rejected.state(), rejected.retry_after()), (state, after));
                        }
                    }
                    (expected, ticket, permit) => {
                        prop_assert!(
                            false,
                            "model {:?}, machine {ticket:?}, breaker {permit:?}",
                            expected.map(|it| it.kind)
                        );
                    }
                }
            }
            Action::Report(index, outcome) if !out.is_empty() => {
                let (expected, ticket, permit) = out.swap_remove(index % out.len());
                let expected = model.report(expected, outcome, now);
                prop_assert_eq!(machine.report(ticket, outcome, ms(now)).answer, expected);
                prop_assert_eq!(permit.report_at(outcome, instant), expected);
            }
            Action::Drop(index) if !out.is_empty() => {
                let (expected, ticket, permit) = out.swap_remove(index % out.len());
                let outcome = if settings.dropped == Dropped::Failure { Outcome::Failure } else { Outcome::Neutral };
                let expected = model.report(expected, outcome, now);
                prop_assert_eq!(machine.report_dropped(ticket, ms(now)).answer, expected);
                drop(permit);
            }
            Action::Forget(index) if !out.is_empty() => {
                let (_, _, permit) = out.swap_remove(index % out.len());
                std::mem::forget(permit);
            }
            Action::Report(..) | Action::Drop(_) | Action::Forget(_) => {}
            Action::Wait(time) => now = now.saturating_add_signed(time),
            Action::Command(command) => {
                let before = model.moves.len();
                model.command(command, now);
                let change = machine.command(command, ms(now));
                let transition = breaker.command_at(command, instant);
                let changed = |change: Change| (change.from, change.reason, change.to, change.number);
                let moved = |moved: Transition| (moved.from, moved.reason, moved.to, moved.number);
                prop_assert_eq!(change.map(changed), transition.map(moved));
                prop_assert_eq!(change.is_some(), model.moves.len() > before);
                prop_assert!(transition.is_none_or(|transition| transition.at == instant));
            }
        }
        prop_assert_eq!((machine.state(), breaker.state()), (model.state, model.state));
        let (first, second) = (machine.counters(), breaker.counters());
        prop_assert_eq!(first, second);
        prop_assert_eq!((first.trips, first.late), (model.trips, model.late));
        prop_assert_eq!(first.probes as usize, model.out.len());
        prop_assert_eq!(first.probe_successes, model.succeeded);
        match settings.trip {
            Trip::Consecutive(_) => prop_assert_eq!(first.consecutive_failures, model.failures_in_row()),
            _ => prop_assert_eq!((first.window_calls, first.window_failures, first.window_slow), model.window()),
        }
    }
    let heard = heard.lock().expect("no panic under it").clone();
    let told: Vec<_> = heard.iter().map(|transition| (transition.from, transition.reason, transition.to)).collect();
    prop_assert_eq!(&told, &model.moves);
    let latest = breaker.transitions();
    prop_assert_eq!(&latest[..], &heard[heard.len().saturating_sub(8)..]);
    prop_assert!(heard.iter().zip(1..).all(|(transition, number)| transition.number == number));
    never_sticks(&breaker, start + ms(now))?;
    Ok(model.moves)
}

/// From any state, with any permits lost, a breaker that was not isolated lets a call out after a while.
fn never_sticks(breaker: &Breaker, now: Instant) -> Result<(), TestCaseError> {
    if breaker.state() == State::Isolated {
        return Ok(());
    }
    // Twice the longest time that any setting of the strategy holds something up, counted from the latest jump.
    let later = now + ms(2 * (LONGEST_WAIT + LONGEST_JUMP * 200));
    prop_assert!(breaker.try_acquire_at(later).is_ok(), "{breaker:?} refuses for ever");
    Ok(())
}

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        4 => Just(Outcome::Success),
        6 => Just(Outcome::Failure),
        1 => (0..5_000_u64).prop_map(|hint| Outcome::FailureWithHint(ms(hint))),
        1 => Just(Outcome::Neutral),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        Just(Command::ForceOpen(None)),
        (0..LONGEST_WAIT * 2).prop_map(|time| Command::ForceOpen(Some(ms(time)))),
        Just(Command::ForceClosed),
        Just(Command::ForceHalfOpen),
        Just(Command::ForceHalfOpen),
        Just(Command::Isolate),
        Just(Command::Disable),
        Just(Command::Reset),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        12 => Just(Action::Acquire),
        12 => (any::<usize>(), outcome()).prop_map(|(index, outcome)| Action::Report(index, outcome)),
        2 => any::<usize>().prop_map(Action::Drop),
        1 => any::<usize>().prop_map(Action::Forget),
        3 => (0..300_i64).prop_map(Action::Wait),
        2 => (0..LONGEST_JUMP as i64).prop_map(Action::Wait),
        1 => (-2_000..0_i64).prop_map(Action::Wait),
        1 => command().prop_map(Action::Command),
    ]
}

fn trip() -> impl Strategy<Value = Trip> {
    let window = prop_oneof![
        (1..40_u32).prop_map(Rate::over_calls),
        prop_oneof![Just(100_u64), Just(1_000), Just(5_000)].prop_map(|length| Rate::over_time(ms(length))),
    ];
    let rate = (window, 1..12_u32, 1..=100_u32, proptest::option::of((1..=100_u32, 1..400_u64)), any::<bool>());
    prop_oneof![
        (1..7_u32).prop_map(Trip::Consecutive),
        rate.prop_map(|(window, minimum, failing, slow, slow_only)| {
            let minimum = if let Window::Calls(length) = window.window() { minimum.min(length) } else { minimum };
            let mut rate = window.with_minimum_calls(minimum).with_failure_rate(f64::from(failing) / 100.0);
            if let Some((part, limit)) = slow {
                rate = rate.with_slow_rate(f64::from(part) / 100.0, ms(limit));
                if slow_only {
                    rate = rate.without_failure_rate();
                }
            }
            Trip::Rate(rate)
        }),
    ]
}

fn settings() -> impl Strategy<Value = Settings> {
    let dropped = prop_oneof![Just(Dropped::Neutral), Just(Dropped::Failure)];
    (
        trip(),
        1..2_000_u64,
        1..4_u32,
        0..LONGEST_WAIT,
        1..4_u32,
        1..4_u32,
        proptest::option::of(1..LONGEST_WAIT),
        dropped,
    )
        .prop_map(|(trip, open, multiplier, longer, probes, successes, probe_timeout, dropped)| Settings {
            trip,
            open,
            multiplier,
            max_open: (open + longer).min(LONGEST_WAIT),
            probes,
            successes,
            probe_timeout,
            dropped,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn behaves_as_the_model_does(settings in settings(), history in vec(action(), 0..200)) {
        check(&settings, &history)?;
    }

    #[test]
    fn the_open_time_is_spread_upward_by_at_most_the_jitter(part in 0.0..=1.0_f64, seed: u64, open in 1..1_000_000_u64) {
        let config = Config::builder().with_open_duration(ms(open)).with_open_jitter(part).with_seed(seed).build();
        let mut machine = Machine::new(config.expect("in range"));
        machine.command(Command::ForceOpen(None), Duration::ZERO);
        let after = machine.try_acquire(Duration::ZERO).answer.unwrap_err().retry_after().expect("open");
        prop_assert!(after >= ms(open) && after.as_secs_f64() <= ms(open).as_secs_f64() * (1.0 + part) + 1e-9);
    }
}

#[test]
fn random_histories_reach_every_transition_and_no_other() {
    let config = ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() };
    let algorithm = config.rng_algorithm;
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(algorithm));
    let reached = Mutex::new(BTreeSet::new());
    runner
        .run(&(settings(), vec(action(), 50..200)), |(settings, history)| {
            let moves = check(&settings, &history)?;
            reached.lock().expect("no panic under it").extend(moves.iter().map(named));
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    let known: BTreeSet<_> = TRANSITIONS.iter().map(named).collect();
    assert_eq!(reached.into_inner().expect("no panic under it"), known);
}

fn named((from, reason, to): &(State, Reason, State)) -> (&'static str, &'static str, &'static str) {
    (from.as_str(), reason.as_str(), to.as_str())
}

const LONGEST_WAIT: u64 = 8_000;
const LONGEST_JUMP: u64 = 9_000;

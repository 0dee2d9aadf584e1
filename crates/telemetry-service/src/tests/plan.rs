//! The kinds of tests: the spans and the fault of each.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use telemetry_manager::otlp_transport::{Fault, FaultMode};

/// The load of a test, and the fault of its calls to the collector.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TestType {
    /// Spans at an even rate, and no fault.
    ContinuousLoad,
    /// The spans of a second at once, at the start of each; HTTP status 503 for half of the calls.
    BurstLoad,
    /// No connection for any call.
    CollectorOutage,
    /// No connection for 5 s, then 5 s without a fault, and so on.
    Flapping,
    /// Each call a second late.
    SlowCollector,
    /// HTTP status 401 for every call.
    RefusingCollector,
}

impl TestType {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::ContinuousLoad,
        Self::BurstLoad,
        Self::CollectorOutage,
        Self::Flapping,
        Self::SlowCollector,
        Self::RefusingCollector,
    ];

    /// The name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ContinuousLoad => "continuous_load",
            Self::BurstLoad => "burst_load",
            Self::CollectorOutage => "collector_outage",
            Self::Flapping => "flapping",
            Self::SlowCollector => "slow_collector",
            Self::RefusingCollector => "refusing_collector",
        }
    }
}

/// The factor of a test's rate and of the share of its calls that fail. A share is 1 at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Severity {
    /// 0.5.
    Low,
    /// 1.
    #[default]
    Moderate,
    /// 2.
    High,
}

impl Severity {
    /// Every severity.
    pub const ALL: [Self; 3] = [Self::Low, Self::Moderate, Self::High];

    /// The name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Moderate => "moderate",
            Self::High => "high",
        }
    }

    /// The factor.
    #[must_use]
    pub const fn factor(self) -> f64 {
        match self {
            Self::Low => 0.5,
            Self::Moderate => 1.0,
            Self::High => 2.0,
        }
    }
}

/// A test to be started.
///
/// Spans that wait are in its scratch directory: 256 MiB of files and journal, and 64 MiB of dead letters, at most, or
/// less where the process has less.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct TestPlan {
    pub(crate) test_type: TestType,
    pub(crate) duration: Duration,
    pub(crate) span_rate: u32,
    pub(crate) severity: Severity,
    pub(crate) settle: Duration,
}

/// Seconds in which spans are made, by default.
pub(super) const PLAN_SECONDS: u32 = 60;
/// Spans a second, by default.
pub(super) const PLAN_RATE: u32 = 20;
/// The time in which stored and waiting spans are delivered after the load, at most, by default.
pub(super) const SETTLE: Duration = Duration::from_secs(10);
/// The time from one burst to the next.
const BURSTS: Duration = Duration::from_secs(1);
/// The time in which a flapping collector is down, and then up.
const FLAPPING: Duration = Duration::from_secs(5);
/// The delay of a slow collector at moderate severity.
const SLOW: Duration = Duration::from_secs(1);

impl TestPlan {
    /// A test of 60 s with 20 spans a second at moderate severity, and up to 10 s for the rest of its spans.
    #[must_use]
    pub const fn new(test_type: TestType) -> Self {
        let (duration, severity) = (Duration::from_secs(PLAN_SECONDS as u64), Severity::Moderate);
        Self { test_type, duration, span_rate: PLAN_RATE, severity, settle: SETTLE }
    }

    /// Sets the time in which spans are made.
    #[must_use]
    pub const fn with_duration(mut self, duration: Duration) -> Self {
        self.duration = duration;
        self
    }

    /// Sets the spans a second, which the severity multiplies.
    #[must_use]
    pub const fn with_span_rate(mut self, spans: u32) -> Self {
        self.span_rate = spans;
        self
    }

    /// Sets the severity.
    #[must_use]
    pub const fn with_severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    /// Sets the longest time after the load in which spans that wait are delivered.
    #[must_use]
    pub const fn with_settle(mut self, settle: Duration) -> Self {
        self.settle = settle;
        self
    }

    /// The spans of the whole test.
    #[must_use]
    pub fn spans(&self) -> u64 {
        self.evenly(self.duration)
    }

    /// The fault of the test's calls; none where each call goes out unharmed.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        let factor = self.severity.factor();
        let failing = |mode, share| Some(Fault::new(mode).with_share(share * factor));
        match self.test_type {
            TestType::ContinuousLoad => None,
            TestType::BurstLoad => failing(FaultMode::Status(503), 0.5),
            TestType::CollectorOutage => failing(FaultMode::Refuse, 1.0),
            TestType::Flapping => failing(FaultMode::Refuse, 0.5).map(|fault| fault.with_block(FLAPPING)),
            TestType::SlowCollector => Some(Fault::new(FaultMode::Slow(SLOW.mul_f64(factor)))),
            TestType::RefusingCollector => failing(FaultMode::Status(401), 1.0),
        }
    }

    /// The spans that are made when so much time has passed.
    pub(crate) fn due(&self, elapsed: Duration) -> u64 {
        let elapsed = elapsed.min(self.duration);
        match self.test_type {
            TestType::BurstLoad => {
                let bursts = u32::try_from(elapsed.as_nanos() / BURSTS.as_nanos()).unwrap_or(u32::MAX);
                self.evenly((BURSTS * bursts.saturating_add(1)).min(self.duration))
            }
            _ => self.evenly(elapsed),
        }
    }

    fn evenly(&self, time: Duration) -> u64 {
        // A rate of half a span keeps its half: the fraction is cut off once.
        (time.as_secs_f64() * f64::from(self.span_rate) * self.severity.factor() + 1e-6) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_share_of_failing_calls_is_that_of_the_kind_times_the_severity() {
        let shares = TestType::ALL.map(|test_type| {
            Severity::ALL.map(|severity| TestPlan::new(test_type).with_severity(severity).fault().map(|f| f.share()))
        });
        let expected = [
            [None; 3],
            [Some(0.25), Some(0.5), Some(1.0)],
            [Some(0.5), Some(1.0), Some(1.0)],
            [Some(0.25), Some(0.5), Some(1.0)],
            [Some(1.0); 3],
            [Some(0.5), Some(1.0), Some(1.0)],
        ];
        assert_eq!(shares, expected, "a slow collector delays each call");
        let delays = Severity::ALL.map(|severity| {
            TestPlan::new(TestType::SlowCollector).with_severity(severity).fault().map(|fault| fault.mode())
        });
        let slow = |millis| Some(FaultMode::Slow(Duration::from_millis(millis)));
        assert_eq!(delays, [slow(500), slow(1_000), slow(2_000)]);
    }

    #[test]
    fn spans_are_due_evenly_or_in_bursts_and_never_more_than_the_plan_has() {
        let even = TestPlan::new(TestType::ContinuousLoad).with_duration(10 * SECOND).with_span_rate(5);
        let at = |plan: TestPlan, millis| plan.due(Duration::from_millis(millis));
        assert_eq!([0, 199, 200, 5_000, 10_000, 99_000].map(|millis| at(even, millis)), [0, 0, 1, 25, 50, 50]);
        assert_eq!(at(even.with_severity(Severity::Low), 600), 1, "2.5 spans a second");
        assert_eq!(even.with_severity(Severity::High).spans(), 100);
        let bursts = TestPlan { test_type: TestType::BurstLoad, duration: Duration::from_millis(2_500), ..even };
        assert_eq!([0, 999, 1_000, 2_000, 2_500, 9_000].map(|millis| at(bursts, millis)), [5, 5, 10, 12, 12, 12]);
        assert_eq!(bursts.spans(), 12);
        let longest = even.with_duration(Duration::MAX).with_span_rate(u32::MAX);
        assert_eq!(longest.due(Duration::MAX), longest.spans());
    }

    #[test]
    fn the_name_of_a_kind_is_its_name_in_json() {
        for test_type in TestType::ALL {
            assert_eq!(serde_json::to_value(test_type).expect("JSON"), test_type.as_str());
        }
        for severity in Severity::ALL {
            assert_eq!(serde_json::to_value(severity).expect("JSON"), severity.as_str());
        }
    }
}

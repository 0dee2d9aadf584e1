//! The fault that a client has begun in front of the process's transport, as the health of telemetry shows it.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use telemetry_manager::Observer;
use telemetry_manager::otlp_transport::{Fault, FaultMode};

/// A failure of the collector that is simulated now.
#[derive(Clone, PartialEq, Debug, Serialize, JsonSchema)]
#[schemars(rename = "SimulatedFailure")]
pub(crate) struct Simulated {
    /// The word of `simulate/collector-failure`.
    mode: &'static str,
    /// The HTTP status of the mode `status`.
    status: Option<u16>,
    /// The delay of the mode `slow`.
    delay_seconds: Option<f64>,
    /// The part of the calls that fail, 0 to 1.
    share: f64,
    /// The time until it ends by itself; none for one that is ended by code alone.
    remaining_seconds: Option<f64>,
}

impl Simulated {
    /// The one of now.
    pub(crate) fn now(observer: &Observer) -> Option<Self> {
        observer.faults()?.current().map(|(fault, left)| Self::of(fault, left))
    }

    fn of(fault: Fault, left: Option<Duration>) -> Self {
        let seconds = |time: Duration| time.as_millis() as f64 / 1_000.0;
        let (mode, status, delay) = match fault.mode() {
            FaultMode::Refuse => ("refuse", None, None),
            FaultMode::Hang => ("hang", None, None),
            FaultMode::Status(status) => ("status", Some(status), None),
            FaultMode::Slow(delay) => ("slow", None, Some(delay)),
            // A mode of a newer transport.
            _ => ("other", None, None),
        };
        let (delay_seconds, remaining_seconds) = (delay.map(seconds), left.map(seconds));
        Self { mode, status, delay_seconds, share: fault.share(), remaining_seconds }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_mode_has_its_word_and_its_numbers() {
        let slow = FaultMode::Slow(Duration::from_secs(2));
        for (mode, word, status, delay) in [
            (FaultMode::Refuse, "refuse", json!(null), json!(null)),
            (FaultMode::Hang, "hang", json!(null), json!(null)),
            (FaultMode::Status(503), "status", json!(503), json!(null)),
            (slow, "slow", json!(null), json!(2.0)),
        ] {
            let simulated = Simulated::of(Fault::new(mode).with_share(0.5), Some(Duration::from_millis(1_250)));
            let expected = json!({
                "mode": word, "status": status, "delay_seconds": delay, "share": 0.5, "remaining_seconds": 1.25,
            });
            assert_eq!(serde_json::to_value(simulated).expect("JSON"), expected);
        }
        assert_eq!(Simulated::of(Fault::new(slow), None).remaining_seconds, None);
    }
}

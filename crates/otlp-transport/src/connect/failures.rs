//! Answers after which a connection is not used again.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::outcome::{Cause, Outcome};

/// The most answers in a row, each a failure of a gateway, after which a connection is used again. OTLP asks clients to
/// keep connections alive, so that one of them is not enough.
const MOST: u32 = 1;

/// The failures in a row of one connection that another one may not have: a gateway whose server is away (HTTP 502, 503
/// and 504, gRPC UNAVAILABLE), which named no time to come back. A load balancer leads a connection to one server for
/// as long as it is open.
#[derive(Debug, Default)]
pub(crate) struct Failures(AtomicU32);

impl Failures {
    /// Counts an answer on the connection; false if it is not to be used again.
    pub(crate) fn is_reusable_after(&self, outcome: &Outcome) -> bool {
        if !is_elsewhere_better(outcome) {
            self.0.store(0, Ordering::Relaxed);
            return true;
        }
        self.0.fetch_add(1, Ordering::Relaxed) < MOST
    }
}

fn is_elsewhere_better(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Retryable {
            after: None,
            cause: Cause::Http { status: 502..=504, .. } | Cause::Grpc { code: 14, .. },
            ..
        }
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn retryable(cause: Cause, after: Option<u64>) -> Outcome {
        Outcome::Retryable { after: after.map(Duration::from_secs), cause, possible_duplicate: true }
    }

    fn http(status: u16, after: Option<u64>) -> Outcome {
        retryable(Cause::Http { status, message: String::new() }, after)
    }

    fn grpc(code: i32, after: Option<u64>) -> Outcome {
        retryable(Cause::Grpc { code, message: String::new() }, after)
    }

    fn reusable(outcomes: &[Outcome]) -> Vec<bool> {
        let failures = Failures::default();
        outcomes.iter().map(|outcome| failures.is_reusable_after(outcome)).collect()
    }

    #[test]
    fn the_second_failure_of_a_gateway_in_a_row_is_the_last() {
        for failure in [http(502, None), http(503, None), http(504, None), grpc(14, None)] {
            assert_eq!(reusable(&[failure.clone(), failure]), [true, false]);
        }
        assert_eq!(reusable(&[http(502, None), http(504, None)]), [true, false]);
    }

    #[test]
    fn any_other_answer_ends_the_row() {
        let delivered = Outcome::Delivered { rejected: 0, message: None };
        for between in [delivered, http(503, Some(1)), http(503, Some(0)), grpc(14, Some(1)), http(429, None)] {
            let row = [http(503, None), between, http(503, None), http(503, None)];
            assert_eq!(reusable(&row), [true, true, true, false]);
        }
        for other in [http(429, None), http(500, None), http(505, None), grpc(8, None), grpc(13, None)] {
            assert_eq!(reusable(&[other.clone(), other.clone(), other]), [true; 3]);
        }
    }
}

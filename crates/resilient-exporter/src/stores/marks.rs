//! The failures of a stored batch as the attempts that `file-fallback` keeps with its record, and back.

use file_fallback::Attempts;

use crate::seams::fates::{Failures, Refusals};

/// The order of the numbers in the note is a format on the disk: a new number takes a new place.
pub(super) fn attempts_of(failures: Failures) -> Attempts {
    let Failures { calls, counted, uncounted } = failures;
    let note = [counted.batch, counted.unclear, counted.sender, uncounted.batch, uncounted.unclear, uncounted.sender];
    Attempts { failed: calls, note }
}

pub(super) fn failures_of(attempts: Attempts) -> Failures {
    let Attempts { failed: calls, note } = attempts;
    let refusals = |[batch, unclear, sender]: [u32; 3]| Refusals { batch, unclear, sender };
    let [a, b, c, d, e, f] = note;
    Failures { calls, counted: refusals([a, b, c]), uncounted: refusals([d, e, f]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failures_of_a_batch_come_back_each_in_its_place() {
        let counted = Refusals { batch: 1, unclear: 2, sender: 3 };
        let uncounted = Refusals { batch: 4, unclear: u32::MAX, sender: 6 };
        let failures = Failures { calls: 17, counted, uncounted };
        let attempts = attempts_of(failures);
        assert_eq!(attempts, Attempts { failed: 17, note: [1, 2, 3, 4, u32::MAX, 6] });
        assert_eq!(failures_of(attempts), failures);
        assert_eq!(attempts_of(Failures::default()), Attempts::default(), "a batch that no call failed to deliver");
    }
}

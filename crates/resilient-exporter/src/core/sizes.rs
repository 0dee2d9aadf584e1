//! The sizes of requests that an endpoint takes, learned from its answers. Uncompressed bytes.

use std::time::{Duration, Instant};

use otlp_transport::Cause;

/// A learned size is forgotten after this time: limits are raised.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3_600);

/// The largest accepted size is the limit for all requests if it is at least this part of the smallest refused one.
const MAX_GAP: usize = 4;

/// The largest accepted request, the smallest refused one, and the smallest request of one span that was refused.
#[derive(Default)]
pub(super) struct Sizes {
    accepted: Option<Learned>,
    refused: Option<Learned>,
    single: Option<(Learned, Cause)>,
}

#[derive(Clone, Copy)]
struct Learned {
    bytes: usize,
    at: Instant,
}

impl Sizes {
    /// The endpoint took a request of this size.
    pub(super) fn on_accepted(&mut self, bytes: usize, now: Instant) {
        self.forget(now);
        if self.accepted.is_none_or(|accepted| accepted.bytes <= bytes) {
            self.accepted = Some(Learned { bytes, at: now });
        }
        // The limit was raised, or the refusal was about something else.
        self.refused.take_if(|refused| refused.bytes <= bytes);
        self.single.take_if(|(single, _)| single.bytes <= bytes);
    }

    /// The endpoint refused a request for its size; `single` is its answer if that was a request of one span.
    pub(super) fn on_refused(&mut self, bytes: usize, single: Option<Cause>, now: Instant) {
        self.forget(now);
        self.accepted.take_if(|accepted| accepted.bytes >= bytes);
        let learned = Learned { bytes, at: now };
        self.refused = Some(self.refused.filter(|refused| refused.bytes < bytes).unwrap_or(learned));
        if let Some(cause) = single
            && self.single.as_ref().is_none_or(|(single, _)| single.bytes >= bytes)
        {
            self.single = Some((learned, cause));
        }
    }

    /// The collector may have another limit now.
    pub(super) fn forget_all(&mut self) {
        *self = Self::default();
    }

    /// The size to which a request of these bytes is cut before it goes; none if it may go as it is.
    pub(super) fn limit(&mut self, bytes: usize, now: Instant) -> Option<usize> {
        self.forget(now);
        let (refused, accepted) = (self.refused?.bytes, self.accepted.map_or(0, |accepted| accepted.bytes));
        if accepted >= refused / MAX_GAP {
            return Some(accepted).filter(|_| bytes > accepted);
        }
        // Only small requests were accepted so far: they do not show the limit.
        Some(refused / 2).filter(|_| bytes >= refused)
    }

    /// A request of one span and this size, or more, is not sent: the endpoint gave this answer to one.
    pub(super) fn single_limit(&mut self, now: Instant) -> Option<(usize, Cause)> {
        self.forget(now);
        self.single.as_ref().map(|(single, cause)| (single.bytes, cause.clone()))
    }

    /// The size to which a refused request of these bytes is cut.
    pub(super) fn cut(&mut self, bytes: usize, now: Instant) -> usize {
        self.limit(bytes, now).unwrap_or(bytes / 2)
    }

    fn forget(&mut self, now: Instant) {
        let is_old = |learned: &Learned| now.saturating_duration_since(learned.at) >= FORGOTTEN_AFTER;
        for learned in [&mut self.accepted, &mut self.refused] {
            learned.take_if(|learned| is_old(learned));
        }
        self.single.take_if(|(learned, _)| is_old(learned));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seams::clock::{Clock as _, SystemClock};

    fn cause() -> Cause {
        Cause::Http { status: 413, message: String::new() }
    }

    fn single(sizes: &mut Sizes, now: Instant) -> Option<usize> {
        sizes.single_limit(now).map(|(bytes, _)| bytes)
    }

    #[test]
    fn requests_are_cut_to_the_largest_accepted_size_or_else_to_half_of_the_refused_one() {
        let now = SystemClock.now();
        let mut sizes = Sizes::default();
        assert_eq!(sizes.limit(1 << 30, now), None, "no size was refused");
        sizes.on_refused(1_000, None, now);
        assert_eq!((sizes.limit(1_000, now), sizes.limit(999, now)), (Some(500), None));
        sizes.on_accepted(700, now);
        assert_eq!((sizes.limit(999, now), sizes.limit(700, now)), (Some(700), None));
        sizes.on_refused(600, None, now);
        assert_eq!(sizes.limit(700, now), Some(300), "the limit was lowered");
    }

    #[test]
    fn small_requests_that_were_accepted_do_not_cut_large_ones_to_their_size() {
        let now = SystemClock.now();
        let mut sizes = Sizes::default();
        sizes.on_accepted(100, now);
        sizes.on_refused(1_000, None, now);
        assert_eq!((sizes.limit(1_000, now), sizes.limit(999, now)), (Some(500), None));
        sizes.on_accepted(250, now);
        assert_eq!(
            (sizes.limit(1_000, now), sizes.limit(251, now), sizes.limit(250, now)),
            (Some(250), Some(250), None)
        );
    }

    #[test]
    fn a_larger_request_that_is_accepted_and_an_hour_end_a_limit() {
        let now = SystemClock.now();
        let mut sizes = Sizes::default();
        sizes.on_refused(1_000, Some(cause()), now);
        assert_eq!(single(&mut sizes, now), Some(1_000));
        sizes.on_accepted(1_000, now);
        assert_eq!((sizes.limit(2_000, now), single(&mut sizes, now)), (None, None));
        sizes.on_refused(3_000, Some(cause()), now);
        assert_eq!(single(&mut sizes, now + FORGOTTEN_AFTER - Duration::from_nanos(1)), Some(3_000));
        assert_eq!(single(&mut sizes, now + FORGOTTEN_AFTER), None);
        assert_eq!(sizes.limit(4_000, now + FORGOTTEN_AFTER), None);
    }

    #[test]
    fn the_smallest_refused_span_decides() {
        let now = SystemClock.now();
        let mut sizes = Sizes::default();
        for bytes in [900, 700, 800] {
            sizes.on_refused(bytes, Some(cause()), now);
        }
        assert_eq!(single(&mut sizes, now), Some(700));
        assert_eq!(sizes.cut(50, now), 25);
    }
}

//! When a refused request has the credentials refreshed. Pure: time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// A generation has its first refresh at once; from one refresh to the next there is at least this time, so that a peer
/// that refuses everything does not have a token service asked without an end.
const REFRESH_EVERY: Duration = Duration::from_secs(10);

/// The credentials of one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    pub(super) generation: u64,
    /// The number of refreshes that had ended when the provider was asked for the headers.
    pub(super) ended: u64,
}

/// The step after a refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Newer credentials are there.
    Newer(u64),
    /// Have the provider get newer ones.
    Refresh,
    /// Wait for the refresh that runs.
    Join,
    /// There are no newer ones, and it is too early to ask again.
    Nothing,
}

/// The refreshes of one provider.
#[derive(Default)]
pub(super) struct Refreshes {
    /// The newest generation that the provider has named.
    newest: Option<u64>,
    /// The generation of the newest headers that a request went out with.
    used: Option<u64>,
    is_running: bool,
    /// Refreshes that have ended.
    ended: u64,
    /// The beginning of the last refresh.
    begun: Option<Instant>,
}

impl Refreshes {
    // Events.

    /// The provider has named a generation.
    pub(super) fn on_named(&mut self, generation: u64) {
        self.newest = self.newest.max(Some(generation));
    }

    /// A request goes out with headers of this generation.
    pub(super) fn on_used(&mut self, generation: u64) {
        self.on_named(generation);
        self.used = self.used.max(Some(generation));
    }

    /// The peer has refused a request. After [`Step::Refresh`] a refresh runs until [`on_ended`](Self::on_ended).
    pub(super) fn on_refused(&mut self, stamp: Stamp, now: Instant) -> Step {
        if let Some(newest) = self.newer_than(stamp.generation) {
            return Step::Newer(newest);
        }
        if self.is_running {
            return Step::Join;
        }
        // The request's headers are older than the last refresh: that one was for it too.
        let was_for_it = stamp.ended < self.ended;
        let is_early = self.begun.is_some_and(|begun| now.saturating_duration_since(begun) < REFRESH_EVERY);
        if was_for_it || is_early {
            return Step::Nothing;
        }
        self.is_running = true;
        self.begun = Some(now);
        Step::Refresh
    }

    /// The refresh has ended, with a generation or without a result.
    pub(super) fn on_ended(&mut self, newest: Option<u64>) {
        self.is_running = false;
        self.ended += 1;
        newest.into_iter().for_each(|generation| self.on_named(generation));
    }

    // Queries.

    pub(super) fn ended(&self) -> u64 {
        self.ended
    }

    pub(super) fn newer_than(&self, generation: u64) -> Option<u64> {
        self.newest.filter(|&newest| newest > generation)
    }

    /// No request has gone out with the newest credentials yet.
    pub(super) fn has_unused(&self) -> bool {
        self.newest > self.used
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stamp(refreshes: &Refreshes, generation: u64) -> Stamp {
        Stamp { generation, ended: refreshes.ended() }
    }

    #[tokio::test(start_paused = true)]
    async fn one_refresh_is_for_all_requests_of_a_generation() {
        let (mut refreshes, now) = (Refreshes::default(), Instant::now());
        refreshes.on_used(1);
        let early = stamp(&refreshes, 1);
        assert_eq!(refreshes.on_refused(early, now), Step::Refresh);
        assert_eq!(refreshes.on_refused(early, now), Step::Join);
        refreshes.on_ended(None);
        let late = now + 5 * REFRESH_EVERY;
        assert_eq!(refreshes.on_refused(early, late), Step::Nothing, "the refresh was for this request too");
        assert_eq!(refreshes.on_refused(stamp(&refreshes, 1), late), Step::Refresh);
        refreshes.on_ended(Some(2));
        assert_eq!(refreshes.on_refused(early, late), Step::Newer(2));
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_are_unused_until_a_request_goes_out_with_them() {
        let mut refreshes = Refreshes::default();
        assert!(!refreshes.has_unused());
        refreshes.on_named(1);
        assert!(refreshes.has_unused(), "no request had any");
        refreshes.on_used(1);
        assert!(!refreshes.has_unused());
        refreshes.on_named(2);
        assert!(refreshes.has_unused());
        refreshes.on_used(1);
        assert!(refreshes.has_unused(), "these were older ones");
    }

    proptest! {
        /// Refreshes never overlap, two begin at least 10 s apart, and none is for a request whose headers were made
        /// before the last refresh ended, in any order of refusals.
        #[test]
        fn refreshes_are_single_and_apart(script in prop::collection::vec((0_u8..4, 0_u64..7_000, 0_u64..3), 0..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
            let _guard = runtime.enter();
            let (mut refreshes, mut now) = (Refreshes::default(), Instant::now());
            let (mut out, mut is_running, mut begun) = (Vec::new(), false, None::<Instant>);
            for (event, wait, choice) in script {
                now += Duration::from_millis(wait);
                match event {
                    0 => {
                        let generation = refreshes.newest.unwrap_or(0);
                        refreshes.on_used(generation);
                        out.push(stamp(&refreshes, generation));
                    }
                    1 if is_running => {
                        is_running = false;
                        refreshes.on_ended(refreshes.newest.map(|newest| newest + choice / 2));
                    }
                    _ => {
                        let Some(stamp) = out.pop() else { continue };
                        match refreshes.on_refused(stamp, now) {
                            Step::Refresh => {
                                prop_assert!(!is_running, "two at a time");
                                prop_assert!(begun.is_none_or(|begun| now - begun >= REFRESH_EVERY), "too early");
                                prop_assert_eq!(stamp.ended, refreshes.ended(), "the last one was for this request");
                                (is_running, begun) = (true, Some(now));
                            }
                            Step::Join => prop_assert!(is_running),
                            Step::Newer(newest) => prop_assert!(newest > stamp.generation),
                            Step::Nothing => prop_assert!(!is_running),
                        }
                    }
                }
            }
        }
    }
}

//! The age of a connection, and the one that takes its place.

use std::collections::hash_map::RandomState;
use std::future::Future;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::outcome::Cause;
use crate::quiet::unobserved;

/// The longest time for the making of a successor. No call waits for it.
const LONGEST: Duration = Duration::from_secs(10);
/// No successor is begun for this time after one that did not come about.
const PAUSE: Duration = Duration::from_secs(10);

/// The instant from which a connection is to be replaced: its greatest age, more or less a tenth, so that the
/// connections of many processes that began together do not end together. `unit` is a sample from `[0, 1)`.
fn due(opened: Instant, max_age: Duration, unit: f64) -> Instant {
    opened + max_age.mul_f64(0.9 + 0.2 * unit)
}

/// The same for a connection that was opened now.
pub(crate) fn due_from_now(max_age: Duration) -> Instant {
    due(Instant::now(), max_age, unit())
}

/// A sample from `[0, 1)`: the keys of std's hash maps are random.
fn unit() -> f64 {
    let sample = RandomState::new().build_hasher().finish() >> 11;
    sample as f64 / (1_u64 << 53) as f64
}

/// Makes the connection that takes the place of one that is due. This is a task of its own: the old connection serves
/// calls until the new one is open, and goes on if there is none. One is made at a time.
pub(crate) struct Successor<C> {
    task: Option<Task<C>>,
    /// The end of the pause after one that did not come about.
    not_before: Option<Instant>,
}

impl<C> Default for Successor<C> {
    fn default() -> Self {
        Self { task: None, not_before: None }
    }
}

impl<C: Send + 'static> Successor<C> {
    /// Begins one, unless one is being made or the last one has just failed.
    pub(crate) fn begin<F>(&mut self, now: Instant, open: impl FnOnce() -> F) -> bool
    where
        F: Future<Output = Result<C, Cause>> + Send + 'static,
    {
        if self.task.is_some() || self.not_before.is_some_and(|instant| now < instant) {
            return false;
        }
        let open = timeout(LONGEST, open());
        self.task = Some(Task(tokio::spawn(unobserved(async move { open.await.ok()?.ok() }))));
        true
    }

    /// The new connection, once it is open, if it `works` still.
    pub(crate) fn take(&mut self, now: Instant, works: impl FnOnce(&C) -> bool) -> Option<C> {
        let ended = (&mut self.task.as_mut()?.0).now_or_never()?;
        self.task = None;
        let opened = ended.ok().flatten().filter(works);
        self.not_before = opened.is_none().then(|| now + PAUSE);
        opened
    }
}

/// A task that ends with its owner.
struct Task<C>(JoinHandle<Option<C>>);

impl<C> Drop for Task<C> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_connection_is_due_at_its_greatest_age_more_or_less_a_tenth() {
        let opened = Instant::now();
        let age = |unit| due(opened, 5 * MINUTE, unit).duration_since(opened).as_secs();
        assert_eq!([age(0.0), age(0.5), age(0.99)], [270, 300, 329]);
        let units: Vec<_> = (0..1_000).map(|_| unit()).collect();
        assert!(units.iter().all(|unit| (0.0..1.0).contains(unit)), "{units:?}");
        let mean = units.iter().sum::<f64>() / 1_000.0;
        assert!((0.45..0.55).contains(&mean), "{mean}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_successor_is_made_at_a_time() {
        let (mut successor, now) = (Successor::default(), Instant::now());
        assert_eq!(successor.take(now, |_| true), None);
        assert!(successor.begin(now, || async { Ok(1) }));
        assert!(!successor.begin(now, || async { Ok(2) }), "one is being made");
        assert_eq!(successor.take(now, |_| true), None, "not polled yet");
        tokio::task::yield_now().await;
        assert_eq!(successor.take(now, |_| true), Some(1));
        assert!(successor.begin(now, || async { Ok(3) }), "the last one came about");
    }

    #[tokio::test(start_paused = true)]
    async fn a_successor_that_failed_is_not_begun_anew_for_a_while() {
        for case in ["failed", "ended", "hung"] {
            let (mut successor, now) = (Successor::default(), Instant::now());
            let open = async move {
                match case {
                    "failed" => Err(Cause::Connect("refused".to_owned())),
                    "ended" => Ok(1),
                    _ => std::future::pending().await,
                }
            };
            assert!(successor.begin(now, || open), "{case}");
            tokio::task::yield_now().await;
            if case == "hung" {
                assert_eq!(successor.take(now, |_| false), None);
                assert!(!successor.begin(now, || async { Ok(2) }), "{case}: it is still being made");
                tokio::time::advance(LONGEST).await;
                tokio::task::yield_now().await;
            }
            assert_eq!(successor.take(now, |_| false), None, "{case}");
            assert!(!successor.begin(now + PAUSE / 2, || async { Ok(2) }), "{case}");
            assert!(successor.begin(now + PAUSE, || async { Ok(2) }), "{case}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_successor_ends_with_its_owner() {
        let (alive, ended) = tokio::sync::oneshot::channel::<()>();
        let mut successor = Successor::default();
        successor.begin(Instant::now(), || async move {
            let _alive = alive;
            std::future::pending::<Result<(), Cause>>().await
        });
        drop(successor);
        assert!(ended.await.is_err());
    }
}

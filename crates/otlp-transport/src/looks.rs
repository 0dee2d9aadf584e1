//! Looks at files that change, on a thread for blocking work: a file system that hangs delays no call for long.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

/// How long the calls of a transport wait for a look in all: calls that come later do without it at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// Looks at the files of one owner: one at a time, also if their file system hangs.
pub(crate) struct Looks<W> {
    /// The state that the last look has seen. Held by the thread that looks, for as long as it hangs.
    pub(crate) watch: Arc<tokio::sync::Mutex<W>>,
    /// The beginning of the look that runs, or of the wait for it.
    begun: Arc<Mutex<Option<Instant>>>,
}

impl<W: Send + 'static> Looks<W> {
    pub(crate) fn new(watch: W) -> Self {
        Self { watch: Arc::new(tokio::sync::Mutex::new(watch)), begun: Arc::default() }
    }

    /// The result of a look; none if the file system does not answer. The patience counts from the beginning of the
    /// look that hangs, not from that of the call: a call whose own time is shorter ends before it.
    pub(crate) async fn look<T: Send + 'static>(&self, look: impl FnOnce(&mut W) -> T + Send + 'static) -> Option<T> {
        let free = Arc::clone(&self.watch).try_lock_owned();
        let mut watch = match free {
            Ok(watch) => watch,
            Err(_) => {
                let begun = *lock(&self.begun).get_or_insert_with(Instant::now);
                timeout_at(begun + PATIENCE, Arc::clone(&self.watch).lock_owned()).await.ok()?
            }
        };
        let (now, begun) = (Instant::now(), Arc::clone(&self.begun));
        *lock(&begun) = Some(now);
        let looked = tokio::task::spawn_blocking(move || {
            let seen = look(&mut watch);
            *lock(&begun) = None;
            seen
        });
        timeout_at(now + PATIENCE, looked).await.ok()?.ok()
    }
}

fn lock(begun: &Mutex<Option<Instant>>) -> MutexGuard<'_, Option<Instant>> {
    begun.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_look_sees_what_the_last_one_left() {
        let looks = Looks::new(1);
        for seen in [1, 2, 3] {
            assert_eq!(looks.look(|watch| std::mem::replace(watch, *watch + 1)).await, Some(seen));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_are_shorter_than_the_patience_wait_no_longer_in_all() {
        let looks = Looks::new(());
        let hangs = Arc::clone(&looks.watch).lock_owned().await;
        let begun = Instant::now();
        let mut calls = 0;
        // Each call has a second, and is given up before the patience ends.
        while tokio::time::timeout(Duration::from_secs(1), looks.look(|()| ())).await.is_err() {
            calls += 1;
            assert!(calls < 10, "each call waits");
        }
        assert_eq!(begun.elapsed().as_secs(), PATIENCE.as_secs());
        assert_eq!(looks.look(|()| ()).await, None);
        assert_eq!(begun.elapsed().as_secs(), PATIENCE.as_secs(), "no call waits any more");
        drop(hangs);
        assert_eq!(looks.look(|()| ()).await, Some(()), "it answers again");
    }
}

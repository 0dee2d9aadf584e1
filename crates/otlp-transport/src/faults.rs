//! Faults on command, in front of any transport.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};
use otlp_payload::{Payload, Signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use crate::outcome::{Cause, Outcome};
use crate::{Note, Transport, answer};

/// The failure of a call, and the share of the calls that have it.
///
/// ```
/// use std::time::Duration;
/// use otlp_transport::{Fault, FaultMode};
///
/// // Down for 5 s, up for 5 s, and so on.
/// let flapping = Fault::new(FaultMode::Refuse).with_share(0.5).with_block(Duration::from_secs(5));
/// # let _ = flapping;
/// ```
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Fault {
    mode: FaultMode,
    share: f64,
    block: Option<Duration>,
}

/// The way in which a call fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FaultMode {
    /// No connection is made, as with a collector that is down.
    Refuse,
    /// No answer comes within the transport's time-out. A call that hangs when the fault ends is sent then, as by a
    /// collector that was stopped and goes on.
    Hang,
    /// This HTTP status answers, over gRPC as from a proxy: [`Outcome`] follows by the table of `docs/otlp.md`, but no
    /// call is a possible duplicate, since nothing goes out. A status below 300 or above 599 stands for 503.
    Status(u16),
    /// The call goes out after this time. From the transport's time-out on that is [`Hang`](Self::Hang).
    Slow(Duration),
}

impl Fault {
    /// A fault of every call.
    #[must_use]
    pub const fn new(mode: FaultMode) -> Self {
        Self { mode, share: 1.0, block: None }
    }

    /// Sets the share of the calls that fail, 0 to 1; values beyond are taken for these. Which calls fail depends on
    /// the number of the call since the fault began alone, so that two runs have one order. Default: 1.
    #[must_use]
    pub const fn with_share(mut self, share: f64) -> Self {
        self.share = if share > 0.0 { share.min(1.0) } else { 0.0 };
        self
    }

    /// Divides the time since the fault began into blocks of this length, in which either all calls fail or none: the
    /// share is that of the blocks then, and the first of them fails unless the share is 0. Zero is no division.
    #[must_use]
    pub const fn with_block(mut self, block: Duration) -> Self {
        self.block = if block.is_zero() { None } else { Some(block) };
        self
    }

    /// The way in which a call fails.
    #[must_use]
    pub const fn mode(&self) -> FaultMode {
        self.mode
    }

    /// The share of the calls that fail, 0 to 1.
    #[must_use]
    pub const fn share(&self) -> f64 {
        self.share
    }

    /// Whether the call of this number fails, which begins so long after the fault did.
    fn hits(&self, call: u64, since: Duration) -> bool {
        match self.block {
            Some(block) => {
                let number = (since.as_nanos() / block.as_nanos()) as f64;
                ((number + 1.0) * self.share).ceil() > (number * self.share).ceil()
            }
            // 53 bits are the digits of an `f64`.
            None => ((mixed(call) >> 11) as f64 / (1_u64 << 53) as f64) < self.share,
        }
    }
}

/// The function of SplitMix64: each bit of the result depends on each bit of the number.
const fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The switch of a [`FaultyTransport`]: begins faults and ends them. Clones are one switch. It reads tokio's clock.
///
/// A call has the fault that holds when the call begins. Without a fault each call goes to the wrapped transport, for
/// the cost of a look at a lock that only `begin` and `end` take for writing, and without an allocation.
#[derive(Clone, Debug)]
pub struct Faults {
    running: Arc<watch::Sender<Option<Running>>>,
    injected: Arc<AtomicU64>,
}

#[derive(Clone, Debug)]
struct Running {
    fault: Fault,
    from: Instant,
    /// None for a fault that only [`Faults::end`] ends.
    until: Option<Instant>,
    /// Calls since `from`.
    calls: Arc<AtomicU64>,
}

impl Running {
    fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now >= until)
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self { running: Arc::new(watch::Sender::new(None)), injected: Arc::default() }
    }
}

impl Faults {
    /// Begins a fault, in the place of one that holds. The fault ends by itself after `duration`; without one, or with
    /// one that reaches beyond the clock, [`end`](Self::end) ends it.
    pub fn begin(&self, fault: Fault, duration: Option<Duration>) {
        let from = Instant::now();
        let until = duration.and_then(|duration| from.checked_add(duration));
        self.running.send_replace(Some(Running { fault, from, until, calls: Arc::default() }));
    }

    /// Ends the fault, and returns whether there was one. Calls that hang are sent.
    pub fn end(&self) -> bool {
        let now = Instant::now();
        self.running.send_replace(None).is_some_and(|running| !running.is_over(now))
    }

    /// The fault that holds, with the time that it still has unless only [`end`](Self::end) ends it.
    #[must_use]
    pub fn current(&self) -> Option<(Fault, Option<Duration>)> {
        let now = Instant::now();
        let running = self.running.borrow();
        let running = running.as_ref().filter(|running| !running.is_over(now))?;
        Some((running.fault, running.until.map(|until| until.saturating_duration_since(now))))
    }

    /// Calls `act` with the fault that holds now, and again with each change: a fault begins, ends, or is over. For a
    /// server that is to fail as the transport does. Never ends by itself: drop the future. Cancel safe.
    pub async fn follow(&self, mut act: impl FnMut(Option<Fault>)) {
        let mut changes = self.running.subscribe();
        loop {
            let running = changes.borrow_and_update().clone().filter(|running| !running.is_over(Instant::now()));
            act(running.as_ref().map(|running| running.fault));
            match running.and_then(|running| running.until) {
                Some(until) => drop(timeout_at(until, changes.changed()).await),
                None => drop(changes.changed().await),
            }
        }
    }

    /// The number of calls that have had a fault.
    #[must_use]
    pub fn injected(&self) -> u64 {
        self.injected.load(Ordering::Relaxed)
    }

    /// `transport` behind this switch. `timeout` is the transport's own, after which a call that hangs fails.
    #[must_use]
    pub fn wrap(&self, transport: Arc<dyn Transport>, timeout: Duration) -> FaultyTransport {
        FaultyTransport { transport, timeout, faults: self.clone() }
    }

    /// The fault of a call that begins now.
    fn of_call(&self) -> Option<Running> {
        let running = self.running.borrow();
        let running = running.as_ref()?;
        let now = Instant::now();
        if running.is_over(now) {
            return None;
        }
        let call = running.calls.fetch_add(1, Ordering::Relaxed);
        if !running.fault.hits(call, now.saturating_duration_since(running.from)) {
            return None;
        }
        self.injected.fetch_add(1, Ordering::Relaxed);
        Some(running.clone())
    }

    /// Waits until `running` has ended.
    async fn ended(&self, running: &Running) {
        let mut changes = self.running.subscribe();
        let calls = &running.calls;
        let replaced = changes.wait_for(|now| now.as_ref().is_none_or(|now| !Arc::ptr_eq(&now.calls, calls)));
        match running.until {
            Some(until) => drop(timeout_at(until, replaced).await),
            None => drop(replaced.await),
        }
    }
}

/// A transport whose calls fail on the command of its [`Faults`].
pub struct FaultyTransport {
    transport: Arc<dyn Transport>,
    timeout: Duration,
    faults: Faults,
}

/// The future of a call.
type Call<'a> = std::pin::Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

impl FaultyTransport {
    /// The transport itself: a call of its `Arc` would put the future into a second box.
    fn inner(&self) -> &dyn Transport {
        &*self.transport
    }

    /// `deadline` is that of the call, whichever faults hold meanwhile.
    async fn fail(&self, running: Running, payload: &Payload, deadline: Instant) -> Outcome {
        match running.fault.mode {
            FaultMode::Refuse => {
                let cause = Cause::Connect("connection refused by an injected fault".to_owned());
                Outcome::Retryable { after: None, cause, possible_duplicate: false }
            }
            FaultMode::Status(status) => {
                let status = StatusCode::from_u16(status).ok().filter(|status| (300..=599).contains(&status.as_u16()));
                let (status, headers) = (status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE), HeaderMap::new());
                // Without a Retry-After the clock has no effect.
                let now = SystemTime::UNIX_EPOCH;
                unsent(answer::http(status, &headers, b"injected fault", None, 0, payload.item_count(), now))
            }
            FaultMode::Slow(delay) if delay < self.timeout => {
                sleep(delay).await;
                self.inner().send(payload).await
            }
            FaultMode::Hang | FaultMode::Slow(_) => {
                if timeout_at(deadline, self.faults.ended(&running)).await.is_ok() {
                    // Another fault may have taken the place of this one.
                    return match self.faults.of_call() {
                        None => self.inner().send(payload).await,
                        Some(next) => Box::pin(self.fail(next, payload, deadline)).await,
                    };
                }
                let cause = Cause::Timeout(self.timeout);
                Outcome::Retryable { after: None, cause, possible_duplicate: false }
            }
        }
    }
}

/// The outcome of an answer to a request of which no byte went out.
fn unsent(mut outcome: Outcome) -> Outcome {
    if let Outcome::Retryable { possible_duplicate, .. }
    | Outcome::TooLarge { possible_duplicate, .. }
    | Outcome::Refused { possible_duplicate, .. } = &mut outcome
    {
        *possible_duplicate = false;
    }
    outcome
}

impl Transport for FaultyTransport {
    /// Written out, since the macro would put the wrapped transport's future into a second box.
    fn send<'life0, 'life1, 'async_trait>(&'life0 self, payload: &'life1 Payload) -> Call<'async_trait>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        match self.faults.of_call() {
            None => self.inner().send(payload),
            Some(running) => Box::pin(self.fail(running, payload, Instant::now() + self.timeout)),
        }
    }

    fn endpoint(&self) -> &str {
        self.inner().endpoint()
    }

    fn endpoint_of(&self, signal: Signal) -> &str {
        self.inner().endpoint_of(signal)
    }

    fn carries(&self, signal: Signal) -> bool {
        self.inner().carries(signal)
    }

    fn reconnect(&self) {
        self.inner().reconnect();
    }

    fn can_change(&self) -> bool {
        self.inner().can_change()
    }

    fn has_changed<'life0, 'async_trait>(
        &'life0 self,
    ) -> std::pin::Pin<Box<dyn Future<Output = bool> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        self.inner().has_changed()
    }

    fn take_notes(&self) -> Vec<Note> {
        self.inner().take_notes()
    }
}

impl std::fmt::Debug for FaultyTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultyTransport")
            .field("endpoint", &self.endpoint())
            .field("fault", &self.faults.current())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

//! The gate between a transport and its credentials: bounds, checks and shares the provider's work.

use std::collections::VecDeque;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::refreshes::{Refreshes, Stamp, Step};
use super::{CredentialHeaders, Credentials, CredentialsError, RequestHead};
use crate::answer::plain;
use crate::error::HeaderProblem;
use crate::headers::Headers;
use crate::note::Note;
use crate::outcome::{Cause, Outcome};
use crate::quiet::unobserved;
use crate::secrets::{Secrets, without_urls};

/// The most bytes of a provider's headers, names included: servers take 8 to 64 KiB of headers in all.
const MAX_BYTES: usize = 64 << 10;

/// The headers of so many requests are kept to find them in a peer's text: one connection may end with a text about
/// another call on it.
const RECENT: usize = 16;

/// The setting that notes of a provider without a setting of its own are about.
const SETTING: &str = "with_credentials";

/// A provider of credentials, behind the rules of its use. One for all transports of a [`Config`](crate::Config).
pub(crate) struct Gate {
    provider: Arc<dyn Credentials>,
    /// The longest refresh: as long as a call.
    limit: Duration,
    state: Mutex<State>,
    /// Counts refreshes that have ended.
    ended: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    refreshes: Refreshes,
    recent: VecDeque<Headers>,
    notes: Vec<Note>,
}

/// The credentials that one request went out with.
pub(crate) struct Signed {
    headers: Headers,
    stamp: Stamp,
}

impl Signed {
    /// Puts the headers into a request, in the place of those of the same names.
    pub(crate) fn put_into(&self, map: &mut HeaderMap) {
        self.headers.put_into(map);
    }

    /// Takes a header out that the request has from elsewhere.
    pub(crate) fn leave_out(&mut self, name: &HeaderName) {
        self.headers.remove(name);
    }

    /// Hides the values of the headers in a text.
    pub(crate) fn scrub(&self, text: &mut String) {
        secrets(&self.headers).remove_from(text);
    }
}

impl Gate {
    pub(crate) fn new(provider: Arc<dyn Credentials>, limit: Duration) -> Self {
        Self { provider, limit, state: Mutex::default(), ended: watch::Sender::new(0) }
    }

    /// The provider's headers for one request, or why there are none.
    pub(crate) async fn sign(&self, head: &RequestHead, body: &Bytes, deadline: Instant) -> Result<Signed, Cause> {
        let ended = self.state().refreshes.ended();
        let asked = AssertUnwindSafe(async { self.provider.headers(head, body).await }).catch_unwind();
        let given = match timeout_at(deadline, asked).await {
            Ok(Ok(Ok(given))) => given,
            Ok(Ok(Err(error))) => return Err(failed(shown(&error))),
            Ok(Err(_)) => return Err(failed("their provider panicked")),
            Err(_) => return Err(failed(format!("their provider gave none within {:?}", self.limit))),
        };
        let headers = checked(&given).map_err(failed)?;
        let mut state = self.state();
        state.refreshes.on_used(given.generation);
        if state.recent.back() != Some(&headers) {
            state.recent.push_back(headers.clone());
            if state.recent.len() > RECENT {
                state.recent.pop_front();
            }
        }
        Ok(Signed { headers, stamp: Stamp { generation: given.generation, ended } })
    }

    /// The outcome of a request that went out with these credentials: after a refusal of credentials, whether newer
    /// ones are there by the deadline.
    pub(crate) async fn settle(self: &Arc<Self>, outcome: Outcome, signed: &Signed, deadline: Instant) -> Outcome {
        match outcome {
            Outcome::Refused { kind, cause, possible_duplicate } if cause.is_about_credentials() => {
                match self.newer_than(signed.stamp, deadline).await {
                    Some(generation) => Outcome::CredentialsRenewed { cause, generation },
                    None => Outcome::Refused { kind, cause, possible_duplicate },
                }
            }
            outcome => outcome,
        }
    }

    /// The generation of newer credentials, once they are there.
    async fn newer_than(self: &Arc<Self>, stamp: Stamp, deadline: Instant) -> Option<u64> {
        let mut ended = self.ended.subscribe();
        ended.mark_unchanged();
        match self.state().refreshes.on_refused(stamp, Instant::now()) {
            Step::Newer(generation) => return Some(generation),
            Step::Nothing => return None,
            Step::Refresh => self.begin_refresh(stamp.generation),
            Step::Join => {}
        }
        let _ = timeout_at(deadline, ended.changed()).await;
        self.state().refreshes.newer_than(stamp.generation)
    }

    /// The refresh is a task of its own: it goes on if the call that caused it is given up.
    fn begin_refresh(self: &Arc<Self>, generation: u64) {
        let refresh = Refresh { gate: Arc::clone(self), newest: None };
        tokio::spawn(unobserved(async move {
            let mut refresh = refresh;
            let gate = Arc::clone(&refresh.gate);
            let asked = AssertUnwindSafe(async { gate.provider.refused(generation).await }).catch_unwind();
            let trouble = match timeout(gate.limit, asked).await {
                Ok(Ok(Ok(newest))) => {
                    refresh.newest = Some(newest);
                    return;
                }
                Ok(Ok(Err(error))) => shown(&error),
                Ok(Err(_)) => "their provider panicked".to_owned(),
                Err(_) => format!("their provider gave none within {:?}", gate.limit),
            };
            gate.note(format!("the credentials were refused, and there are no newer ones: {trouble}"));
        }));
    }

    /// Whether credentials are there that no request went out with.
    pub(crate) async fn has_unused(&self) -> bool {
        let asked = AssertUnwindSafe(async { self.provider.newest().await }).catch_unwind();
        if let Ok(Ok(Some(generation))) = timeout(self.limit, asked).await {
            self.state().refreshes.on_named(generation);
        }
        self.state().refreshes.has_unused()
    }

    /// The notes of the gate and of its provider.
    pub(crate) fn take_notes(&self) -> Vec<Note> {
        let mut notes = std::mem::take(&mut self.state().notes);
        let taken = std::panic::catch_unwind(AssertUnwindSafe(|| self.provider.take_notes()));
        notes.extend(taken.unwrap_or_default());
        notes.iter_mut().for_each(|note| self.scrub(&mut note.message));
        notes
    }

    /// Hides the values of recent headers in a text.
    pub(crate) fn scrub(&self, text: &mut String) {
        let recent = self.state().recent.clone();
        recent.iter().for_each(|headers| secrets(headers).remove_from(text));
    }

    fn note(&self, message: String) {
        let mut state = self.state();
        // Without a reader the notes take no more memory than the last one.
        state.notes.clear();
        state.notes.push(Note::new(SETTING, message));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

/// A refresh that runs. Dropping it, with its runtime too, ends it.
struct Refresh {
    gate: Arc<Gate>,
    newest: Option<u64>,
}

impl Drop for Refresh {
    fn drop(&mut self) {
        self.gate.state().refreshes.on_ended(self.newest);
        self.gate.ended.send_modify(|ended| *ended += 1);
    }
}

fn failed(detail: impl Into<String>) -> Cause {
    Cause::Credentials(detail.into())
}

/// The text of a provider, fit for a line of a log.
fn shown(error: &CredentialsError) -> String {
    plain(&without_urls(&error.to_string()))
}

fn secrets(headers: &Headers) -> Secrets {
    Secrets::new(headers, &PathAndQuery::from_static("/"))
}

/// The headers, if a request may have them. The error names none that is no name, and no value.
fn checked(given: &CredentialHeaders) -> Result<Headers, String> {
    let bytes = given.pairs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    if bytes > MAX_BYTES {
        return Err(format!("their headers have {bytes} bytes; at most {MAX_BYTES} are accepted"));
    }
    let mut headers = Headers::default();
    for (index, (name, value)) in given.pairs.iter().enumerate() {
        headers.insert(name, value.as_bytes()).map_err(|problem| {
            let is_name = problem != HeaderProblem::BadName;
            let name = if is_name { format!(" ({})", name.to_ascii_lowercase()) } else { String::new() };
            let problem = match problem {
                HeaderProblem::BadValue => {
                    "has a value that a header cannot carry; accepted are printable ASCII characters".to_owned()
                }
                problem => problem.to_string(),
            };
            format!("their header {}{name} {problem}", index + 1)
        })?;
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use async_trait::async_trait;

    use super::*;
    use crate::outcome::RefusalKind;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Each refresh takes this time, and makes the next generation if it is allowed to.
    struct Tokens {
        generation: AtomicU64,
        refreshes: AtomicU64,
        takes: Duration,
        renews: bool,
    }

    #[async_trait]
    impl Credentials for Tokens {
        async fn headers(&self, _: &RequestHead, _: &Bytes) -> Result<CredentialHeaders, CredentialsError> {
            let generation = self.generation.load(Ordering::Relaxed);
            Ok(CredentialHeaders::new(generation).with("authorization", format!("canary-{generation}")))
        }

        async fn refused(&self, _: u64) -> Result<u64, CredentialsError> {
            self.refreshes.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(self.takes).await;
            let more = u64::from(self.renews);
            Ok(self.generation.fetch_add(more, Ordering::Relaxed) + more)
        }
    }

    fn gate(takes: Duration, renews: bool) -> (Arc<Gate>, Arc<Tokens>) {
        let tokens = Tokens { generation: AtomicU64::new(1), refreshes: AtomicU64::new(0), takes, renews };
        let tokens = Arc::new(tokens);
        (Arc::new(Gate::new(Arc::clone(&tokens) as _, LIMIT)), tokens)
    }

    async fn sign(gate: &Gate) -> Signed {
        let head = RequestHead::new(http::Method::POST, http::Uri::default(), HeaderMap::new(), Bytes::new());
        gate.sign(&head, &Bytes::new(), Instant::now() + LIMIT).await.expect("headers")
    }

    async fn refuse(gate: &Arc<Gate>, signed: &Signed, within: Duration) -> Option<u64> {
        let cause = Cause::Http { status: 401, message: String::new() };
        let refused = Outcome::Refused { kind: RefusalKind::Sender, cause, possible_duplicate: false };
        match gate.settle(refused.clone(), signed, Instant::now() + within).await {
            Outcome::CredentialsRenewed { generation, .. } => Some(generation),
            outcome => {
                assert_eq!(outcome, refused);
                None
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_service_is_asked_once_in_ten_seconds_at_most() {
        let (gate, tokens) = gate(Duration::from_millis(100), false);
        let begun = Instant::now();
        for _ in 0..600 {
            // A call every 100 ms is refused for a minute.
            let signed = sign(&gate).await;
            assert_eq!(refuse(&gate, &signed, LIMIT).await, None);
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        let (asked, time) = (tokens.refreshes.load(Ordering::Relaxed), begun.elapsed());
        assert!(asked >= 2 && asked <= 1 + time.as_secs() / 10, "{asked} times in {time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refresh_goes_on_when_the_call_that_caused_it_is_given_up() {
        let (gate, tokens) = gate(Duration::from_secs(5), true);
        let signed = sign(&gate).await;
        assert_eq!(refuse(&gate, &signed, Duration::from_secs(1)).await, None, "not within the call's time");
        let joined = refuse(&gate, &signed, LIMIT).await;
        assert_eq!((joined, tokens.refreshes.load(Ordering::Relaxed)), (Some(2), 1));
        assert!(gate.has_unused().await, "no call has gone out with it");
        sign(&gate).await;
        assert!(!gate.has_unused().await);
    }

    #[test]
    fn a_refresh_that_ends_with_its_runtime_leaves_room_for_another() {
        let (gate, tokens) = gate(Duration::from_secs(5), true);
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let signed = runtime().block_on(async {
            let signed = sign(&gate).await;
            assert_eq!(refuse(&gate, &signed, Duration::from_millis(1)).await, None);
            sign(&gate).await
        });
        let state = gate.state();
        assert_eq!((state.refreshes.ended(), state.refreshes.newer_than(1)), (1, None));
        drop((state, signed));
        assert_eq!(tokens.refreshes.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_headers_of_recent_calls_are_hidden_in_every_text() {
        let (gate, tokens) = gate(Duration::ZERO, true);
        let signed = sign(&gate).await;
        tokens.generation.store(2, Ordering::Relaxed);
        sign(&gate).await;
        let mut text = "no canary-1, no Canary-2, no canary".to_owned();
        gate.scrub(&mut text);
        assert_eq!(text, "no ***, no ***, no canary");
        let mut text = "canary-1".to_owned();
        signed.scrub(&mut text);
        assert_eq!(text, "***");
    }

    #[test]
    fn refusals_of_credentials_are_told_from_others() {
        let http = |status, message: &str| Cause::Http { status, message: message.to_owned() };
        let grpc = |code| Cause::Grpc { code, message: String::new() };
        for cause in [http(401, ""), http(403, "expired"), grpc(16), grpc(7)] {
            assert!(cause.is_about_credentials(), "{cause}");
        }
        let large = http(403, "Request body is too large");
        for cause in [http(407, ""), http(404, ""), http(400, ""), http(200, ""), grpc(5), grpc(12), large] {
            assert!(!cause.is_about_credentials(), "{cause}");
        }
    }
}

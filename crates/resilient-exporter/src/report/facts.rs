//! The facts of one moment, and the judgement on them: a status, and a sentence for each reason.

use std::time::{Duration, SystemTime};

use breaker::State;

use super::health::{Health, Status};
use super::ledger::{DropReason, RefuseReason};
use super::losses::Losses;
use super::notes::StorageNote;
use super::rates::Counts;

/// A share of the calls of 5 minutes below this one is an issue.
const LEAST_SUCCESS_RATE: f64 = 0.9;

/// A pause that the collector asked for is an issue if the whole of it is longer than this.
pub(crate) const LONG_PAUSE: Duration = Duration::from_secs(10);

/// The facts of one moment from which health follows, beside the numbers of [`Health`] itself. The default is a moment
/// at which all is well.
#[derive(Default)]
pub(crate) struct Facts<'a> {
    /// Losses within 5 minutes.
    pub(crate) losses: Losses,
    /// The last failed call.
    pub(crate) last_failure: Option<Failed<'a>>,
    /// The time since the first failure after the last success, while there is an outage.
    pub(crate) outage: Option<Duration>,
    /// The answer of an endpoint that refuses: it has accepted nothing since.
    pub(crate) refusing: Option<Failed<'a>>,
    /// The calls of 5 minutes.
    pub(crate) calls: Counts,
    /// Spans that the endpoint acknowledged unreadably, and its answer, until it gives a readable one.
    pub(crate) unreadable: Option<(u64, &'a str)>,
    /// The pause that the collector asked for.
    pub(crate) pause: Option<Pause>,
    /// How much memory is taken.
    pub(crate) fill: Fill,
    /// Spans on their way to a file.
    pub(crate) spilling: usize,
    /// A fallback stores spans that memory has no room for.
    pub(crate) has_fallback: bool,
    /// The reason for which an enabled fallback is missing.
    pub(crate) no_fallback: Option<&'a str>,
    /// The fallback's last error, while spans wait because of it.
    pub(crate) disk_trouble: Option<&'a str>,
    /// The disk thread has been in one operation for 2 s.
    pub(crate) is_disk_stalled: bool,
    /// The journal's last error.
    pub(crate) journal_trouble: Option<&'a str>,
    /// Spans were accepted within the last minute before they were durable.
    pub(crate) is_recently_not_durable: bool,
    /// Spans of earlier processes that wait in the journal.
    pub(crate) unread: usize,
    /// Batches have vanished from the journal lately.
    pub(crate) has_vanished: bool,
    /// Files that were set aside, and their spans.
    pub(crate) set_aside: (u64, u64),
    /// Until when no stored batch is removed for its age.
    pub(crate) age_rests_until: Option<SystemTime>,
    /// The trouble of storage that was found at the start.
    pub(crate) storage_notes: &'a [StorageNote],
}

/// A failed call: its cause, and the [remedy](super::remedies::remedy) of that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failed<'a> {
    pub(crate) cause: &'a str,
    pub(crate) remedy: &'static str,
}

impl std::fmt::Display for Failed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.cause, self.remedy)
    }
}

/// A pause that the collector asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pause {
    pub(crate) whole: Duration,
    pub(crate) left: Duration,
    /// Its end.
    pub(crate) until: SystemTime,
}

/// The memory that batches take, staged and buffered ones, and its limits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fill {
    pub(crate) spans: usize,
    pub(crate) max_spans: usize,
    pub(crate) bytes: usize,
    pub(crate) max_bytes: usize,
}

impl Fill {
    /// More than 80 % of a limit is taken. A limit of 0 is none.
    fn is_high(&self) -> bool {
        let is_above = |taken: usize, limit: usize| limit > 0 && taken as f64 > 0.8 * limit as f64;
        is_above(self.spans, self.max_spans) || is_above(self.bytes, self.max_bytes)
    }
}

impl Health {
    /// Judges the facts: sets the status and the issues.
    pub(crate) fn judged(mut self, facts: &Facts<'_>) -> Self {
        let mut lost = facts.losses_issues(&self);
        let is_losing = !lost.is_empty();
        // Those that the caller has found come behind the losses.
        lost.append(&mut self.issues);
        self.issues = lost;
        self.issues.extend(facts.collector_issues(&self));
        self.issues.extend(facts.storage_issues(&self));
        self.status = match (is_losing, self.issues.is_empty()) {
            (true, _) => Status::Unhealthy,
            (false, false) => Status::Degraded,
            (false, true) => Status::Healthy,
        };
        self
    }
}

impl Facts<'_> {
    /// Spans that are lost for good: each is an issue that makes the exporter unhealthy.
    fn losses_issues(&self, health: &Health) -> Vec<String> {
        let Losses { dropped, not_accepted, letters_removed, .. } = &self.losses;
        let mut issues = Vec::new();
        for (name, spans) in dropped {
            let remedy = DropReason::named(name).map_or_else(String::new, |reason| self.remedy_of_drop(reason, health));
            issues.push(format!("{spans} spans were dropped within 5 min ({name}): {remedy}"));
        }
        for reason in [RefuseReason::LargerThanBuffer, RefuseReason::EncodePanicked] {
            if let Some(spans) = not_accepted.get(reason.as_str()) {
                let (name, remedy) = (reason.as_str(), reason.remedy());
                issues.push(format!("{spans} spans were not accepted within 5 min ({name}): {remedy}"));
            }
        }
        if *letters_removed > 0 {
            issues.push(format!(
                "{letters_removed} spans of dead letters were removed within 5 min by the limits on dead letters: \
                 redrive or remove letters, raise TELEMETRY_DEAD_LETTER_MAX_BYTES, or free disk space"
            ));
        }
        issues
    }

    /// The remedy of the real cause: memory is full because the collector takes nothing *and* no file takes the rest.
    fn remedy_of_drop(&self, reason: DropReason, health: &Health) -> String {
        if !matches!(reason, DropReason::BufferFull | DropReason::BufferAge | DropReason::Shutdown) {
            return reason.remedy().to_owned();
        }
        let mut remedy = match (self.disk_trouble, self.no_fallback) {
            (Some(error), _) => format!("repair the storage of the fallback, which cannot be used: {error}"),
            (None, Some(why)) => why.to_owned(),
            (None, None) if self.has_fallback => match reason {
                DropReason::Shutdown => "give shutdown more time".to_owned(),
                _ => "raise the buffer's limits".to_owned(),
            },
            (None, None) => reason.remedy().to_owned(),
        };
        if let Some(failed) = self.refusing {
            remedy.push_str(&format!("; the collector refuses all spans: {failed}"));
        } else if let Some(failed) = self.last_failure.filter(|_| self.has_failures(health)) {
            remedy.push_str(&format!("; last failure: {failed}"));
        }
        remedy
    }

    /// A call failed within 5 minutes, or the collector takes nothing now. An older failure is no cause of a loss.
    fn has_failures(&self, health: &Health) -> bool {
        let has_failed = self.calls.accepted < self.calls.total();
        has_failed || self.outage.is_some() || health.breaker != State::Closed
    }

    /// The ways in which the collector takes spans badly, or not at all.
    fn collector_issues(&self, health: &Health) -> Vec<String> {
        let mut issues = Vec::new();
        let Counts { refused, .. } = self.calls;
        let total = self.calls.total();
        if let Some(failed) = self.refusing {
            issues.push(format!("refused: {failed}"));
        } else if refused > 0 {
            let failed = self.last_failure.map(|failed| format!("; last failure: {failed}")).unwrap_or_default();
            issues.push(format!("{refused} of {total} calls refused in 5 min{failed}"));
        }
        let last = self.last_failure.map(|failed| format!("; last failure: {failed}")).unwrap_or_default();
        if health.breaker != State::Closed {
            issues.push(format!("circuit breaker is {}{last}", health.breaker));
        } else if let Some(time) = self.outage {
            issues.push(format!("the collector has taken no spans for {} s{last}", time.as_secs()));
        }
        if let Some(Pause { whole, left, until }) = self.pause.filter(|pause| pause.whole > LONG_PAUSE) {
            let (whole, left) = (whole.as_secs(), left.as_secs());
            let until =
                jiff::Timestamp::try_from(until).map_or_else(|_| String::new(), |end| format!(", until {end:.0}"));
            issues.push(format!(
                "the collector asked for a pause of {whole} s, of which {left} s are left{until}: check its load and \
                 its limits; spans wait"
            ));
        }
        if let Some((spans, answer)) = self.unreadable {
            issues.push(format!(
                "{spans} spans were acknowledged by an answer that no OTLP server gives ({answer}); check the URL in \
                 OTEL_EXPORTER_OTLP_ENDPOINT"
            ));
        }
        if health.success_rate_5m < LEAST_SUCCESS_RATE {
            let accepted = self.calls.accepted;
            issues.push(format!("only {accepted} of {total} calls succeeded in 5 min{last}"));
        }
        let Losses { rejected, dead_lettered, .. } = self.losses;
        if rejected > 0 {
            issues.push(format!(
                "{rejected} spans were rejected by the collector within 5 min: read its message in the log"
            ));
        }
        if dead_lettered > 0 {
            issues.push(format!(
                "{dead_lettered} spans became dead letters within 5 min: read their reasons, repair the cause, and \
                 redrive them"
            ));
        }
        issues
    }

    /// Spans that wait, and the trouble of memory, disk and journal.
    fn storage_issues(&self, health: &Health) -> Vec<String> {
        let mut issues = Vec::new();
        if self.fill.is_high() {
            let Fill { spans, max_spans, bytes, max_bytes } = self.fill;
            issues.push(format!(
                "memory is filled above 80 %: {spans} of {max_spans} spans, {bytes} of {max_bytes} bytes; raise the \
                 buffer's limits if the collector takes spans"
            ));
        }
        if let Some(error) = self.disk_trouble {
            issues.push(format!("fallback cannot be used, spans wait in memory: {error}"));
        }
        if let Some(error) = self.journal_trouble {
            issues
                .push(format!("journal is in trouble, batches that are accepted now may not survive a crash: {error}"));
        }
        if self.is_recently_not_durable {
            let spans = health.accepted_not_durable.unwrap_or_default();
            // A faster disk is no remedy for a journal that cannot be written.
            let remedy = match (self.journal_trouble, self.has_vanished) {
                (Some(_), _) => "end the trouble of the journal",
                (None, true) => "keep other programs from removing the state directory",
                (None, false) => "use a faster disk, or raise the journal's sync timeout",
            };
            issues.push(format!(
                "{spans} spans since the start were accepted before they were durable, some of them within the last \
                 minute: {remedy}"
            ));
        }
        if self.unread > 0 {
            issues.push(format!("{} spans of an earlier run wait in the journal; they are sent", self.unread));
        }
        let left = health.ledger.in_journal.saturating_sub(self.unread as u64);
        if left > 0 {
            issues.push(format!(
                "{left} spans that memory had no room for wait in the journal; they are sent when the collector takes \
                 spans"
            ));
        }
        if self.has_vanished {
            issues.push(
                "the journal or a part of it was removed while the process runs, and batches in memory were written \
                 again: keep other programs from removing the state directory"
                    .into(),
            );
        }
        if self.is_disk_stalled {
            issues.push("disk has not answered for 2 s or more; spans wait in memory: check the disk".into());
        }
        issues.extend(self.no_fallback.map(str::to_owned));
        if health.ledger.in_fallback > 0 {
            // The forecast is of the last 10 minutes: a file that was written long ago fills nothing.
            let full = health.storage.full_in.map(|time| {
                let minutes = time.as_secs() / 60;
                format!(
                    "; at the present rate the files are full in {minutes} min, and the oldest are removed then: \
                     repair the collector, raise TELEMETRY_FALLBACK_MAX_BYTES, or free disk space"
                )
            });
            issues.push(format!(
                "{} spans wait in fallback files; they are sent when the collector takes spans{}",
                health.ledger.in_fallback,
                full.unwrap_or_default()
            ));
        }
        if self.spilling > 0 {
            issues.push(format!("{} spans are being written to a fallback file", self.spilling));
        }
        issues.extend(self.storage_notes.iter().map(StorageNote::to_string));
        if let Some(until) = self.age_rests_until {
            let until = jiff::Timestamp::try_from(until).map_or_else(|_| "later".to_owned(), |end| format!("{end:.0}"));
            issues.push(format!(
                "the wall clock was more than 24 h ahead at the start: no stored span is removed for its age until \
                 {until}; check the clock"
            ));
        }
        let (files, spans) = self.set_aside;
        if files > 0 {
            issues.push(format!(
                "{files} damaged files with {spans} spans were set aside in quarantine: inspect and remove them"
            ));
        }
        issues
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use otlp_payload::Signal;

    use super::super::details::{MemoryHealth, StorageHealth, Wakeups};
    use super::super::health::Metrics;
    use super::super::ledger::{Ledger, Place};
    use super::*;

    const UNAUTHORIZED: Failed<'_> =
        Failed { cause: "HTTP status 401: no token", remedy: "check OTEL_EXPORTER_OTLP_HEADERS" };

    fn health() -> Health {
        Health {
            status: Status::Healthy,
            issues: Vec::new(),
            breaker: State::Closed,
            metrics: Metrics {
                total_exports: 0,
                successful_exports: 0,
                failed_exports: 0,
                success_rate: 1.0,
                buffer_size: 0,
                fallback_usage: 0,
                circuit_breaker_trips: 0,
                last_export_success: None,
                last_export_failure: None,
            },
            ledger: Ledger::default(),
            buffered_batches: 0,
            buffered_bytes: 0,
            oldest_waiting: None,
            oldest: None,
            fallback_files: 0,
            fallback_bytes: 0,
            journal_batches: None,
            journal_bytes: None,
            accepted_not_durable: Some(4),
            success_rate_5m: 1.0,
            acknowledged_unreadable: 0,
            possible_duplicates: 0,
            dead_letters_evicted: 0,
            endpoint: "http://collector:4317".to_owned(),
            collectors: Vec::new(),
            storage: StorageHealth::default(),
            signal: Signal::Traces,
            instance: 0,
            uptime: Duration::ZERO,
            memory: MemoryHealth::default(),
            spilling: 0,
            calls: Vec::new(),
            wakeups: Wakeups::default(),
            lateness: super::super::lateness::Lateness::default(),
            not_sampled: None,
            staging_capacity: None,
        }
    }

    fn dropped(reason: DropReason) -> Losses {
        Losses { dropped: BTreeMap::from([(reason.as_str(), 7)]), ..Losses::default() }
    }

    fn not_accepted(reason: RefuseReason) -> Losses {
        Losses { not_accepted: BTreeMap::from([(reason.as_str(), 7)]), ..Losses::default() }
    }

    #[track_caller]
    fn assert_issue(health: Health, facts: &Facts<'_>, status: Status, parts: &[&str]) {
        let Health { status: judged, issues, .. } = health.judged(facts);
        assert_eq!((judged, issues.len()), (status, 1), "{issues:?}");
        for part in parts {
            assert!(issues[0].contains(part), "{part:?} in {issues:?}");
        }
    }

    #[test]
    fn without_a_fact_all_is_well() {
        let judged = health().judged(&Facts::default());
        assert_eq!((judged.status, judged.issues), (Status::Healthy, Vec::new()));
        let minor = Facts {
            losses: not_accepted(RefuseReason::AlreadyShutdown),
            last_failure: Some(UNAUTHORIZED),
            pause: Some(Pause { whole: LONG_PAUSE, left: LONG_PAUSE, until: SystemTime::UNIX_EPOCH }),
            fill: Fill { spans: 80, max_spans: 100, bytes: 80, max_bytes: 100 },
            ..Facts::default()
        };
        let judged = Health { success_rate_5m: 0.9, ..health() }.judged(&minor);
        assert_eq!((judged.status, judged.issues), (Status::Healthy, Vec::new()));
    }

    #[test]
    fn each_fact_degrades_by_one_sentence_with_its_cause_and_remedy() {
        let minute = Duration::from_secs(60);
        let refused = Counts { accepted: 10, refused: 3, ..Counts::default() };
        let failed = Counts { accepted: 8, failed: 2, ..Counts::default() };
        let last_failure = Some(UNAUTHORIZED);
        let pause = Pause { whole: minute, left: minute / 2, until: SystemTime::UNIX_EPOCH + minute };
        let notes = [StorageNote::new("2 spans of \"shop\" wait", "start once with OTEL_SERVICE_NAME=shop")];
        let table: [(Facts<'_>, &[&str]); 20] = [
            (
                Facts { refusing: Some(UNAUTHORIZED), ..Facts::default() },
                &["refused: HTTP status 401", "OTEL_EXPORTER_OTLP_HEADERS"],
            ),
            (Facts { calls: refused, last_failure, ..Facts::default() }, &["3 of 13 calls refused in 5 min", "401"]),
            (Facts { outage: Some(minute), last_failure, ..Facts::default() }, &["no spans for 60 s", "401"]),
            (Facts { pause: Some(pause), ..Facts::default() }, &["60 s, of which 30 s", "1970-01-01T00:01:00Z"]),
            (
                Facts { unreadable: Some((9, "200 text/plain \"ok\"")), ..Facts::default() },
                &["9 spans were acknowledged by an answer that no OTLP server gives (200 text/plain \"ok\")", "check"],
            ),
            (
                Facts { losses: Losses { rejected: 2, ..Losses::default() }, ..Facts::default() },
                &["2 spans were rejected"],
            ),
            (Facts { losses: Losses { dead_lettered: 2, ..Losses::default() }, ..Facts::default() }, &["2", "redrive"]),
            (Facts { fill: Fill { spans: 81, max_spans: 100, ..Fill::default() }, ..Facts::default() }, &["81 of 100"]),
            (Facts { fill: Fill { bytes: 81, max_bytes: 100, ..Fill::default() }, ..Facts::default() }, &["81 of 100"]),
            (Facts { disk_trouble: Some("no space left"), ..Facts::default() }, &["in memory: no space left"]),
            (Facts { no_fallback: Some("set a state directory"), ..Facts::default() }, &["set a state directory"]),
            (Facts { journal_trouble: Some("no space left"), ..Facts::default() }, &["a crash: no space left"]),
            (Facts { is_recently_not_durable: true, ..Facts::default() }, &["4 spans", "sync timeout"]),
            (Facts { unread: 5, ..Facts::default() }, &["5 spans of an earlier run"]),
            (Facts { has_vanished: true, ..Facts::default() }, &["removed while", "the state directory"]),
            (Facts { is_disk_stalled: true, ..Facts::default() }, &["2 s"]),
            (Facts { spilling: 6, ..Facts::default() }, &["6 spans are being written"]),
            (
                Facts { age_rests_until: Some(SystemTime::UNIX_EPOCH), ..Facts::default() },
                &["more than 24 h ahead", "until 1970-01-01T00:00:00Z", "check the clock"],
            ),
            (Facts { set_aside: (2, 30), ..Facts::default() }, &["2 damaged files with 30 spans", "remove"]),
            (Facts { storage_notes: &notes, ..Facts::default() }, &["2 spans of \"shop\"", "OTEL_SERVICE_NAME=shop"]),
        ];
        for (facts, parts) in table {
            assert_issue(health(), &facts, Status::Degraded, parts);
        }
        let slow = Health { success_rate_5m: 0.899, ..health() };
        let facts = Facts { calls: failed, last_failure, ..Facts::default() };
        assert_issue(slow, &facts, Status::Degraded, &["only 8 of 10 calls", "401"]);
        let open = Health { breaker: State::Open, ..health() };
        let facts = Facts { outage: Some(minute), last_failure, ..Facts::default() };
        assert_issue(open, &facts, Status::Degraded, &["circuit breaker is open", "401", "OTEL_EXPORTER_OTLP_HEADERS"]);
        let mut stored = health();
        stored.ledger.transfer(3, Place::Recovered, Place::InFallback);
        assert_issue(stored.clone(), &Facts::default(), Status::Degraded, &["3 spans wait in fallback files"]);
        stored.storage.full_in = Some(minute * 90);
        let parts = ["3 spans wait in fallback files", "full in 90 min", "TELEMETRY_FALLBACK_MAX_BYTES"];
        assert_issue(stored, &Facts::default(), Status::Degraded, &parts);
    }

    #[test]
    fn no_faster_disk_is_asked_for_where_the_journal_cannot_be_written() {
        let late = || Facts { is_recently_not_durable: true, ..Facts::default() };
        for (facts, remedy) in [
            (Facts { journal_trouble: Some("file too large"), ..late() }, "end the trouble of the journal"),
            (Facts { has_vanished: true, ..late() }, "keep other programs from removing the state directory"),
        ] {
            let issues = facts.storage_issues(&health());
            let issue = issues.iter().find(|issue| issue.contains("before they were durable")).expect("an issue");
            assert!(issue.ends_with(remedy), "{issue}");
        }
    }

    #[test]
    fn each_loss_is_unhealthy_and_names_its_reason_and_remedy() {
        for reason in DropReason::ALL {
            let facts = Facts { losses: dropped(reason), ..Facts::default() };
            assert_issue(health(), &facts, Status::Unhealthy, &["7 spans", reason.as_str(), reason.remedy()]);
        }
        for reason in [RefuseReason::LargerThanBuffer, RefuseReason::EncodePanicked] {
            let facts = Facts { losses: not_accepted(reason), ..Facts::default() };
            assert_issue(health(), &facts, Status::Unhealthy, &["7 spans", reason.as_str(), reason.remedy()]);
        }
        let facts = Facts { losses: Losses { letters_removed: 7, ..Losses::default() }, ..Facts::default() };
        assert_issue(health(), &facts, Status::Unhealthy, &["7 spans of dead letters", "redrive"]);
    }

    #[test]
    fn a_drop_names_the_remedy_of_its_real_cause() {
        let issue = |facts: &Facts<'_>| health().judged(facts).issues[0].clone();
        let losses = || dropped(DropReason::BufferFull);
        let refusing = Some(UNAUTHORIZED);
        let without = issue(&Facts { losses: losses(), refusing, ..Facts::default() });
        assert!(without.contains("enable the file fallback"), "{without}");
        assert!(without.contains("refuses all spans: HTTP status 401: no token; check OTEL_EXPORTER_OTLP_HEADERS"));
        let disk = issue(&Facts { losses: losses(), disk_trouble: Some("read-only"), ..Facts::default() });
        assert!(disk.contains("which cannot be used: read-only") && !disk.contains("enable"), "{disk}");
        let missing =
            issue(&Facts { losses: losses(), no_fallback: Some("set a state directory"), ..Facts::default() });
        assert!(missing.contains("set a state directory"), "{missing}");
        let calls = Counts { accepted: 10, failed: 3, ..Counts::default() };
        let last_failure = refusing;
        let has = issue(&Facts { losses: losses(), has_fallback: true, calls, last_failure, ..Facts::default() });
        assert!(has.contains("raise the buffer's limits; last failure: HTTP status 401"), "{has}");
        // The open time of a breaker may be longer than the 5 minutes.
        let open = Health { breaker: State::Open, ..health() };
        let open = open.judged(&Facts { losses: losses(), last_failure, ..Facts::default() }).issues[0].clone();
        assert!(open.contains("; last failure: HTTP status 401"), "{open}");
        let calls = Counts { failed: 0, ..calls };
        let old = issue(&Facts { losses: losses(), has_fallback: true, calls, last_failure, ..Facts::default() });
        assert!(old.ends_with("raise the buffer's limits"), "the last failure was long before: {old}");
        let slow = dropped(DropReason::DiskSlow);
        let slow = issue(&Facts { losses: slow, refusing, has_fallback: true, ..Facts::default() });
        assert!(slow.contains("faster disk") && !slow.contains("401"), "{slow}");
    }
}

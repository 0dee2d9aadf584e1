//! Warnings of the log: at once the first time, then at most one in ten seconds for each kind, with sums.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::ledger::{DropReason, RefuseReason};
use super::log;

/// The log has at most one warning of a kind in this time.
pub(crate) const WARN_EVERY: Duration = Duration::from_secs(10);

/// The names of files in one line take no more bytes than this.
const MAX_NAMES: usize = 8 * 1_024;

/// The kinds of warnings.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    Dropped(DropReason),
    NotAccepted(RefuseReason),
    Rejected,
    Refused,
    Throttled,
    DeadLettered,
    AcknowledgedUnreadably,
    CollectorWarned,
    EndpointChanged,
    DiskTrouble,
    JournalTrouble,
    JournalUpkeep,
    JournalVanished,
    DiskThreadPanicked,
    JournalThreadPanicked,
    NetThreadPanicked,
    PackerPanicked,
    FallbackPanicked,
    FileSetAside,
    FileShort,
    FileTaken,
    FilesNotTakenOver,
    AgeRests,
    ClockSetBack,
    ClockUnreadable,
    ClockNotWritten,
    RemovedForAge,
    LetterSetAside,
    LetterRemoved,
    LetterStays,
    LetterNotStored,
    LetterUnusable,
    SegmentDamaged,
    SegmentSetAside,
    BatchDamaged,
    JournalSyncFailed,
    JournalNotTakenOver,
    LeftInMemory,
    OutagesNotKept,
    TransportNoted,
}

impl Kind {
    /// The message of the warning.
    fn message(self) -> &'static str {
        match self {
            Self::Dropped(_) => "spans were dropped",
            Self::NotAccepted(_) => "spans were not accepted",
            Self::Rejected => "the collector rejected spans",
            Self::Refused => "the collector refused spans; they wait and are sent again",
            Self::Throttled => "the collector asks for a pause; spans wait and are sent after it",
            Self::DeadLettered => {
                "spans became dead letters: they are stored, and not sent again before they are redriven"
            }
            Self::AcknowledgedUnreadably => {
                "spans were acknowledged by an answer that no OTLP server gives; check OTEL_EXPORTER_OTLP_ENDPOINT"
            }
            Self::CollectorWarned => "the collector took all spans and warns",
            Self::EndpointChanged => "spans go to another collector, since the one in use is unavailable",
            Self::DiskTrouble => "the fallback cannot be used; until it can be, spans wait in memory",
            Self::JournalTrouble => {
                "the journal cannot be written; until it can be, accepted batches may not survive a crash"
            }
            Self::JournalUpkeep => {
                "the journal was not cleared up, or one of another process not taken over; it is tried again"
            }
            Self::JournalVanished => {
                "the journal or a part of it was removed while the process runs; batches in memory are written again"
            }
            Self::JournalThreadPanicked => "the journal thread panicked; it goes on",
            Self::DiskThreadPanicked => "the disk thread panicked; it goes on",
            Self::NetThreadPanicked => "the net thread panicked; it goes on with the batches that were in flight",
            Self::PackerPanicked => "the thread that compresses batches panicked; they stay as they are",
            Self::FallbackPanicked => "the fallback panicked over a dead letter",
            Self::TransportNoted => "the credentials or files of the requests need a look",
            Self::LeftInMemory => "a shutdown ended before the disk had stored all spans",
            Self::OutagesNotKept => {
                "the records of outages were not written to the state directory; they are in memory, and tried again"
            }
            Self::FileSetAside => "a fallback file was set aside",
            Self::FileShort => "a fallback file held fewer spans than its name says",
            Self::FileTaken => "a fallback file was taken away",
            Self::FilesNotTakenOver => "files of a process that has ended were not taken over; it is tried again",
            Self::AgeRests => {
                "the wall clock is more than 24 h beyond the newest time that an earlier process has seen: no file is \
                 removed for its age for an hour; check the clock"
            }
            Self::ClockSetBack => {
                "an earlier process has seen a time more than 24 h beyond the wall clock; the wall clock counts"
            }
            Self::ClockUnreadable => "the file \"clock\" of the state directory is unreadable; it is written anew",
            Self::ClockNotWritten => "the file \"clock\" of the state directory was not written; it is tried again",
            Self::RemovedForAge => "a fallback file was removed for its age, after the wall clock had been far ahead",
            Self::LetterSetAside => "a dead letter was set aside",
            Self::LetterRemoved => "a dead letter was removed to make room or for its age",
            Self::LetterStays => "a dead letter is sent again, and could not be removed",
            Self::LetterNotStored => "a dead letter was not stored; it is tried again",
            Self::LetterUnusable => "a dead letter cannot be used; it is left out of the list",
            Self::SegmentDamaged => "a segment of the journal is damaged; its intact records are used",
            Self::SegmentSetAside => "a damaged segment of the journal was set aside",
            Self::BatchDamaged => "a batch in the journal is damaged; its spans are lost",
            Self::JournalSyncFailed => {
                "a sync of the journal failed; the batches of this segment are written to a new one"
            }
            Self::JournalNotTakenOver => {
                "the journal of a process that has ended was not taken over; it is tried again"
            }
        }
    }

    /// The reason's name, where a kind has one.
    fn why(self) -> Option<&'static str> {
        match self {
            Self::Dropped(reason) => Some(reason.as_str()),
            Self::NotAccepted(reason) => Some(reason.as_str()),
            _ => None,
        }
    }

    fn remedy(self) -> Option<&'static str> {
        match self {
            Self::Dropped(reason) => Some(reason.remedy()),
            Self::NotAccepted(reason) => Some(reason.remedy()),
            Self::DeadLettered => Some("repair the cause, and redrive them"),
            Self::EndpointChanged => Some("see the warnings about that collector; its health has the cause"),
            Self::LetterRemoved => Some("redrive or remove letters, or raise the limits on dead letters"),
            _ => None,
        }
    }

    /// Each warning is about a file or batch of its own, whose name an operator needs: a line has the details of all.
    fn is_about_one(self) -> bool {
        matches!(
            self,
            Self::FileSetAside
                | Self::FileShort
                | Self::FileTaken
                | Self::RemovedForAge
                | Self::LetterSetAside
                | Self::LetterRemoved
                | Self::LetterStays
                | Self::LetterUnusable
                | Self::SegmentDamaged
                | Self::SegmentSetAside
                | Self::BatchDamaged
                | Self::TransportNoted
        )
    }

    /// A fault of the exporter's or of code that a user gave it.
    fn is_error(self) -> bool {
        matches!(
            self,
            Self::DiskThreadPanicked | Self::NetThreadPanicked | Self::PackerPanicked | Self::FallbackPanicked
        )
    }
}

/// One line of the log.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "the warning is lost unless it is logged"]
pub(crate) struct Line {
    kind: Kind,
    /// The sum over all warnings of this line; 0 for kinds without spans.
    spans: u64,
    /// The warnings that this line sums up and of which `detail` says nothing.
    suppressed: u64,
    /// About the latest warning, or about each warning of a [kind about one file](Kind::is_about_one).
    detail: String,
}

impl Line {
    /// Logs the line. Runs a user's code: no lock is held.
    pub(crate) fn log(&self) {
        let Self { kind, spans, suppressed, detail } = self;
        let (why, remedy, message) = (kind.why(), kind.remedy(), kind.message());
        let spans = (*spans > 0).then_some(*spans);
        let detail = (!detail.is_empty()).then_some(detail.as_str());
        let suppressed = (*suppressed > 0).then_some(*suppressed);
        if kind.is_error() {
            log::error_contained!(spans, why, remedy, detail, suppressed, "{message}");
        } else {
            log::warn_contained!(spans, why, remedy, detail, suppressed, "{message}");
        }
    }
}

/// The warnings that the log does not have yet. Pure: a caller with a lock takes the lines and logs them outside.
#[derive(Default)]
pub(crate) struct Warnings {
    kinds: BTreeMap<Kind, Pending>,
}

/// The warnings of one kind since its last line.
#[derive(Default)]
struct Pending {
    /// The instant of the last line.
    logged: Option<Instant>,
    count: u64,
    spans: u64,
    detail: String,
    /// The warnings that `detail` is about.
    detailed: u64,
}

impl Pending {
    fn add(&mut self, kind: Kind, spans: u64, detail: &str) {
        self.count += 1;
        self.spans = self.spans.saturating_add(spans);
        if !kind.is_about_one() || self.detailed == 0 {
            detail.clone_into(&mut self.detail);
            self.detailed = 1;
        } else if self.detail.len() + detail.len() <= MAX_NAMES {
            self.detail.push_str(" | ");
            self.detail.push_str(detail);
            self.detailed += 1;
        }
    }

    fn due(&self) -> Option<Instant> {
        (self.count > 0).then(|| self.logged.map(|logged| logged + WARN_EVERY)).flatten()
    }

    fn take(&mut self, kind: Kind, now: Instant) -> Line {
        self.logged = Some(now);
        let suppressed = std::mem::take(&mut self.count) - std::mem::take(&mut self.detailed);
        let (spans, detail) = (std::mem::take(&mut self.spans), std::mem::take(&mut self.detail));
        Line { kind, spans, suppressed, detail }
    }
}

impl Warnings {
    /// Adds a warning. Returns its line, unless the log has had one of this kind within [`WARN_EVERY`].
    pub(crate) fn add(&mut self, kind: Kind, spans: u64, detail: &str, now: Instant) -> Option<Line> {
        let pending = self.kinds.entry(kind).or_default();
        pending.add(kind, spans, detail);
        pending.due().is_none_or(|due| due <= now).then(|| pending.take(kind, now))
    }

    /// Adds a warning and logs it, if it is due. For an owner without a lock.
    pub(crate) fn warn(&mut self, kind: Kind, spans: u64, detail: &str, now: Instant) {
        if let Some(line) = self.add(kind, spans, detail, now) {
            line.log();
        }
    }

    /// Takes the lines that are due, or `all` that the log does not have yet.
    pub(crate) fn take_due(&mut self, now: Instant, all: bool) -> Vec<Line> {
        let mut lines = Vec::new();
        for (kind, pending) in &mut self.kinds {
            if pending.count > 0 && (all || pending.due().is_none_or(|due| due <= now)) {
                lines.push(pending.take(*kind, now));
            }
        }
        lines
    }

    /// The instant at which the next line is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.kinds.values().filter_map(Pending::due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DROPPED: Kind = Kind::Dropped(DropReason::BufferFull);

    #[expect(clippy::disallowed_methods, reason = "any instant serves: the warnings read no clock")]
    fn start() -> Instant {
        Instant::now()
    }

    fn line(kind: Kind, spans: u64, suppressed: u64, detail: &str) -> Line {
        Line { kind, spans, suppressed, detail: detail.to_owned() }
    }

    #[test]
    fn many_warnings_of_a_kind_are_one_line_with_their_sum() {
        let (mut warnings, start) = (Warnings::default(), start());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(warnings.add(DROPPED, 5, "a", at(0)), Some(line(DROPPED, 5, 0, "a")), "the first at once");
        for second in 1..=9 {
            assert_eq!(warnings.add(DROPPED, second, "b", at(second)), None);
        }
        assert_eq!(warnings.take_due(at(9), false), []);
        assert_eq!(warnings.next_due(), Some(at(10)));
        assert_eq!(warnings.take_due(at(10), false), [line(DROPPED, 45, 8, "b")]);
        assert_eq!((warnings.next_due(), warnings.take_due(at(30), true)), (None, Vec::new()));
        assert_eq!(warnings.add(DROPPED, 1, "c", at(31)), Some(line(DROPPED, 1, 0, "c")), "it was quiet meanwhile");
        assert_eq!(warnings.add(DROPPED, 1, "d", at(32)), None);
        assert_eq!(warnings.take_due(at(33), true), [line(DROPPED, 1, 0, "d")], "`all` takes those that are not due");
    }

    #[test]
    fn a_kind_does_not_delay_another() {
        let (mut warnings, start) = (Warnings::default(), start());
        let kinds = [DROPPED, Kind::Dropped(DropReason::DiskSlow), Kind::Rejected, Kind::DiskTrouble];
        for kind in kinds {
            assert_eq!(warnings.add(kind, 1, "", start), Some(line(kind, 1, 0, "")), "{kind:?}");
        }
    }

    #[test]
    fn a_line_names_each_file_and_counts_those_it_has_no_room_for() {
        let (mut warnings, start) = (Warnings::default(), start());
        let kind = Kind::FileSetAside;
        assert_eq!(warnings.add(kind, 3, "first", start), Some(line(kind, 3, 0, "first")));
        assert_eq!((warnings.add(kind, 3, "a", start), warnings.add(kind, 3, "b", start)), (None, None));
        assert_eq!(warnings.take_due(start, true), [line(kind, 6, 0, "a | b")]);
        let name = "n".repeat(100);
        for _ in 0..1_000 {
            assert_eq!(warnings.add(kind, 1, &name, start), None);
        }
        let lines = warnings.take_due(start + WARN_EVERY, false);
        let Line { spans: 1_000, suppressed, detail, .. } = &lines[0] else { panic!("{lines:?}") };
        assert_eq!((detail.matches(&name).count() as u64, detail.len() <= MAX_NAMES + 3), (1_000 - suppressed, true));
        assert!(*suppressed > 900, "{suppressed}");
    }

    #[test]
    fn a_thousand_warnings_a_second_are_seven_lines_a_minute() {
        let (mut warnings, start) = (Warnings::default(), start());
        let (mut lines, mut spans) = (0, 0);
        for milli in 0..=60_000 {
            let now = start + Duration::from_millis(milli);
            let added = warnings.add(Kind::Rejected, 1, "", now);
            for line in added.into_iter().chain(warnings.take_due(now, false)) {
                lines += 1;
                spans += line.spans;
            }
        }
        assert_eq!((lines, spans), (7, 60_001));
    }
}

//! The account of every span: one identity, true at every instant.

use std::collections::BTreeMap;

use serde::Serialize;

/// The sources and places of spans. `Offered`, `Recovered` and `Redriven` are sources: spans only leave them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    Offered,
    Recovered,
    Redriven,
    Staged,
    Buffered,
    InFlight,
    InJournal,
    InFallback,
    Delivered,
    Rejected,
    DeadLettered,
    Dropped(DropReason),
    Refused(RefuseReason),
    TakenOver,
}

/// The spans that a collector took of a batch, and those that it rejected in a partial success.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Taken {
    pub(crate) delivered: usize,
    pub(crate) rejected: usize,
}

/// The reason for which accepted spans were dropped. The set is fixed, so that it can label a metric.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum DropReason {
    /// The buffer was full, and no fallback could take its oldest batches.
    BufferFull,
    /// Older than the buffer's age limit, and no fallback could take it.
    BufferAge,
    /// The disk was slower than the spans that arrived, and the memory limit was reached.
    DiskSlow,
    /// Fallback files were removed, oldest first, to stay below the cap on bytes, files or free space.
    FallbackFull,
    /// Fallback files were older than their age limit.
    FallbackAge,
    /// A stored record was damaged; its readable part was sent. Or the compressed form of a batch in memory was.
    Corrupt,
    /// The collector refused the spans for good, or takes no span of this size, and no dead letter could be stored.
    Permanent,
    /// Older than the limit on the age at which spans are sent, and no dead letter could be stored.
    TooOld,
    /// Still in memory when the deadline of a shutdown passed.
    Shutdown,
    /// The journal was full, and no fallback could take its oldest batches.
    JournalFull,
    /// They were in the journal only, and another program removed its directory or a file in it.
    Vanished,
}

impl DropReason {
    /// Every reason.
    pub const ALL: [Self; 11] = [
        Self::BufferFull,
        Self::BufferAge,
        Self::DiskSlow,
        Self::FallbackFull,
        Self::FallbackAge,
        Self::Corrupt,
        Self::Permanent,
        Self::TooOld,
        Self::Shutdown,
        Self::JournalFull,
        Self::Vanished,
    ];

    /// The reason with this [name](Self::as_str).
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }

    /// The name in JSON, metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BufferFull => "buffer_full",
            Self::BufferAge => "buffer_age",
            Self::DiskSlow => "disk_slow",
            Self::FallbackFull => "fallback_full",
            Self::FallbackAge => "fallback_age",
            Self::Corrupt => "corrupt",
            Self::Permanent => "permanent",
            Self::TooOld => "too_old",
            Self::Shutdown => "shutdown",
            Self::JournalFull => "journal_full",
            Self::Vanished => "vanished",
        }
    }

    /// The remedy, as part of a sentence.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::BufferFull => "enable the file fallback or raise the buffer's limits",
            Self::BufferAge => "enable the file fallback or raise the buffer's maximum age",
            Self::DiskSlow => "use a faster disk for the state directory or raise the buffer's limits",
            Self::FallbackFull => "raise the fallback's maximum bytes or free disk space",
            Self::FallbackAge => "raise the fallback's maximum age",
            Self::Corrupt => {
                "check the disk, whose damaged files are kept in quarantine, and the memory of the computer"
            }
            Self::Permanent => "read the collector's answer in the log; it refuses these spans for good",
            Self::TooOld => {
                "enable the file fallback, which keeps them as dead letters, or raise TELEMETRY_MAX_AGE_AT_SEND"
            }
            Self::Shutdown => "give shutdown more time or enable the file fallback",
            Self::JournalFull => "enable the file fallback, free disk space or raise the journal's maximum bytes",
            Self::Vanished => "keep other programs from removing the state directory while the process runs",
        }
    }
}

/// The reason for which offered spans were never accepted. The set is fixed, so that it can label a metric.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum RefuseReason {
    /// `export` was called after shutdown.
    AlreadyShutdown,
    /// The batch alone is larger than the whole buffer and cannot be split below it.
    LargerThanBuffer,
    /// Encoding panicked: a fault of ours, contained and reported.
    EncodePanicked,
    /// They ended in a process that was forked from the one which built the exporter: see [`Forked`](crate::Forked).
    Forked,
}

impl RefuseReason {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::AlreadyShutdown, Self::LargerThanBuffer, Self::EncodePanicked, Self::Forked];

    /// The name in JSON, metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AlreadyShutdown => "already_shutdown",
            Self::LargerThanBuffer => "larger_than_buffer",
            Self::EncodePanicked => "encode_panicked",
            Self::Forked => "forked",
        }
    }

    /// The remedy, as part of a sentence.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::AlreadyShutdown => "end spans before the exporter is shut down",
            Self::LargerThanBuffer => "raise the buffer's maximum bytes, or put less into one span",
            Self::EncodePanicked => "report this fault to the exporter's maintainers",
            Self::Forked => "set telemetry up after the fork, once in each process",
        }
    }
}

/// The account of one process, in spans, as one consistent snapshot.
///
/// `offered + recovered + redriven = staged + buffered + in_flight + in_journal + in_fallback + delivered + rejected +
/// dead_lettered + dropped + refused + taken_over` holds in every snapshot; [`Ledger::imbalance`] is the difference.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Ledger {
    /// Handed to `export`, or ended in front of a [`ResilientSpanProcessor`](crate::ResilientSpanProcessor).
    pub offered: u64,
    /// Found on disk at start, from an earlier process.
    pub recovered: u64,
    /// Dead letters that were put back on their way.
    pub redriven: u64,
    /// Inside a [`ResilientSpanProcessor`](crate::ResilientSpanProcessor), not yet in a batch.
    pub staged: u64,
    /// In memory, waiting to be sent or being written to a file.
    pub buffered: u64,
    /// Sent, without an answer yet.
    pub in_flight: u64,
    /// In the journal and not in memory: batches of earlier processes that were not read yet, and durable ones that
    /// memory had no room for.
    pub in_journal: u64,
    /// In fallback files; spans that are being replayed stay here until their answer.
    pub in_fallback: u64,
    /// Taken by the collector.
    pub delivered: u64,
    /// Refused by the collector in a partial success.
    pub rejected: u64,
    /// Stored as dead letters: refused for good, too large, or failed again and again while others did not. Never
    /// replayed by themselves.
    pub dead_lettered: u64,
    /// Given up after they had been accepted, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Never accepted, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// In files that another process took over.
    pub taken_over: u64,
}

impl Ledger {
    /// Moves `spans` from one place to another: the only way any number here ever changes.
    pub(crate) fn transfer(&mut self, spans: usize, from: Place, to: Place) {
        let spans = spans as u64;
        if spans == 0 {
            return;
        }
        match from {
            Place::Offered => self.offered += spans,
            Place::Recovered => self.recovered += spans,
            Place::Redriven => self.redriven += spans,
            Place::Buffered => self.buffered -= spans,
            Place::InFlight => self.in_flight -= spans,
            Place::InJournal => self.in_journal -= spans,
            Place::InFallback => self.in_fallback -= spans,
            Place::Delivered
            | Place::Rejected
            | Place::DeadLettered
            | Place::Dropped(_)
            | Place::Refused(_)
            | Place::Staged
            | Place::TakenOver => unreachable!("spans never leave {from:?}"),
        }
        match to {
            Place::Staged => self.staged += spans,
            Place::Buffered => self.buffered += spans,
            Place::InFlight => self.in_flight += spans,
            Place::InJournal => self.in_journal += spans,
            Place::InFallback => self.in_fallback += spans,
            Place::Delivered => self.delivered += spans,
            Place::Rejected => self.rejected += spans,
            Place::DeadLettered => self.dead_lettered += spans,
            Place::Dropped(reason) => *self.dropped.entry(reason.as_str()).or_default() += spans,
            Place::Refused(reason) => *self.refused.entry(reason.as_str()).or_default() += spans,
            Place::TakenOver => self.taken_over += spans,
            Place::Offered | Place::Recovered | Place::Redriven => unreachable!("spans never return to {to:?}"),
        }
    }

    /// Offered, not refused, and in a batch.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.offered - self.refused.values().sum::<u64>() - self.staged
    }

    /// The same with spans that the staging area holds.
    pub(crate) fn with_staged(&self, spans: usize) -> Self {
        let mut ledger = self.clone();
        ledger.transfer(spans, Place::Offered, Place::Staged);
        ledger
    }

    /// Spans that will never be delivered and are kept nowhere: dropped and refused ones. Rejected ones reached the
    /// collector, dead letters are kept.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.dropped.values().sum::<u64>() + self.refused.values().sum::<u64>()
    }

    /// The spans that entered, less the spans of all other terms: 0 in every snapshot.
    #[must_use]
    pub fn imbalance(&self) -> i64 {
        let came = self.offered + self.recovered + self.redriven;
        let stands =
            self.staged + self.buffered + self.in_flight + self.in_journal + self.in_fallback + self.taken_over;
        let ended = self.delivered + self.rejected + self.dead_lettered + self.lost();
        came.cast_signed() - (stands + ended).cast_signed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_keeps_the_balance() {
        let mut ledger = Ledger::default();
        ledger.transfer(5, Place::Offered, Place::Buffered);
        ledger.transfer(3, Place::Recovered, Place::InFallback);
        ledger.transfer(5, Place::Buffered, Place::InJournal);
        assert_eq!((ledger.in_journal, ledger.buffered, ledger.imbalance()), (5, 0, 0));
        ledger.transfer(5, Place::InJournal, Place::Buffered);
        ledger.transfer(5, Place::Buffered, Place::InFlight);
        ledger.transfer(2, Place::InFlight, Place::Rejected);
        ledger.transfer(3, Place::InFlight, Place::Delivered);
        ledger.transfer(3, Place::InFallback, Place::DeadLettered);
        ledger.transfer(3, Place::Redriven, Place::InFallback);
        ledger.transfer(3, Place::InFallback, Place::Dropped(DropReason::FallbackAge));
        ledger.transfer(7, Place::Offered, Place::Refused(RefuseReason::AlreadyShutdown));
        assert_eq!(ledger.imbalance(), 0);
        assert_eq!((ledger.accepted(), ledger.lost()), (5, 10));
    }

    #[test]
    fn any_number_changed_behind_its_back_shows() {
        let mut ledger = Ledger::default();
        ledger.transfer(5, Place::Offered, Place::Buffered);
        ledger.delivered += 1;
        assert_eq!(ledger.imbalance(), -1);
    }

    #[test]
    fn json_keys_are_the_names_of_the_identity() {
        let mut ledger = Ledger::default();
        ledger.transfer(1, Place::Offered, Place::Dropped(DropReason::BufferFull));
        let json = serde_json::to_value(&ledger).expect("serializes");
        assert_eq!(json["dropped"]["buffer_full"], 1);
        assert_eq!((&json["in_fallback"], &json["in_journal"]), (&0.into(), &0.into()));
    }
}

//! The result of a storm.

use std::fmt;
use std::time::{Duration, Instant};

use super::account::Account;
use super::conditions::{Times, Window};
use super::storm::AFTER_A_KILL;

/// The result of a storm; `Display` is the table.
#[derive(Debug)]
pub struct Report {
    /// The seed of every random choice: the same seed gives the same plan, though not the same moments.
    pub seed: u64,
    /// Processes that were killed.
    pub kills: u32,
    /// Processes that were started.
    pub lives: u32,
    /// Spans handed to `export`.
    pub made: u64,
    /// Spans for which it returned `Ok`.
    pub accepted: u64,
    /// Those of them that the exporter itself counted as accepted but not durable, at most.
    pub volatile: u64,
    /// Different spans that the collector wrote down.
    pub delivered: u64,
    /// Spans that it wrote down more than once, each time after the first.
    pub duplicates: u64,
    /// How many of its receipts came shortly before a kill, while an answer could be missing, or in the middle of a
    /// group that was replayed from a file: more repeats than that are too many.
    pub bound: u64,
    /// Repeats for which there is no other reason than that a kill came in the middle of a group that was replayed from
    /// a file.
    pub cut_short: u64,
    /// Repeats of spans whose earlier receipt was none of those: must be 0.
    pub unexplained: u64,
    /// The longest time before a kill that a span was received which came again, where no condition of the collector
    /// gave a reason.
    pub oldest: Duration,
    /// Owed spans that were still in the journal or in fallback files after the last, clean life: must be 0.
    pub left_on_disk: u64,
    /// Owed spans in dead letters at the end.
    pub dead_lettered: u64,
    /// Spans received or found that the application never made: must be 0.
    pub invented: u64,
    /// Owed spans that are nowhere: must be 0.
    pub lost: u64,
    /// Accepted spans that are neither delivered nor on disk, whether they were owed or not.
    pub gone: u64,
    /// Spans that the lives found when they began, added up: how much the storm made recovery work.
    pub recovered: u64,
    /// The longest time from the start of a process until it could accept.
    pub slowest_start: Duration,
    /// The most that the state directory held after a kill, in bytes.
    pub peak_bytes: u64,
    /// How long it all took.
    pub took: Duration,
    /// Everything that is not as it must be, a sentence each.
    pub wrong: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, kills, lives, made, accepted, volatile, delivered, duplicates, bound, .. } = self;
        let rows = [
            ("kills", kills.to_string()),
            ("lives", lives.to_string()),
            ("spans made", made.to_string()),
            ("accepted", format!("{accepted}, of which {volatile} not durable by its own word")),
            ("delivered", delivered.to_string()),
            ("duplicates", format!("{duplicates}, bound {bound}, unexplained {}", self.unexplained)),
            ("of cut replays", self.cut_short.to_string()),
            ("oldest duplicate", format!("{} ms before its kill", self.oldest.as_millis())),
            ("left on disk", self.left_on_disk.to_string()),
            ("dead lettered", self.dead_lettered.to_string()),
            ("invented", self.invented.to_string()),
            ("lost", self.lost.to_string()),
            ("gone with memory", self.gone.to_string()),
            ("found at starts", self.recovered.to_string()),
            ("slowest start", format!("{} ms", self.slowest_start.as_millis())),
            ("largest state", format!("{:.1} MiB", self.peak_bytes as f64 / f64::from(1 << 20))),
            ("took", format!("{:.0} s", self.took.as_secs_f64())),
        ];
        writeln!(f, "kill storm, seed {seed}")?;
        for (name, value) in rows {
            writeln!(f, "  {name:<17} {value}")?;
        }
        Ok(())
    }
}

/// Duplicates, beside the events that may have led to them.
#[derive(Debug)]
pub(super) struct Duplicates {
    pub(super) bound: u64,
    pub(super) cut_short: u64,
    pub(super) unexplained: u64,
    pub(super) oldest: Duration,
    /// The first few unexplained, in words.
    pub(super) examples: Vec<String>,
}

/// A span may come again if its receipt lies in one of these windows: then a condition of the collector may have kept
/// the answer from being sent, or a kill the mark that follows it from being written.
pub(super) fn explain(
    account: &Account,
    conditions: Vec<Window>,
    kills: Vec<Window>,
    times: &Times,
    began: Instant,
) -> Duplicates {
    let (conditions, kills) = (Merged::new(conditions), Merged::new(kills));
    let in_window = |index: u64| conditions.window_of(index, times).or(kills.window_of(index, times)).is_some();
    let cut_short = |index: u64| !in_window(index) && account.cut_short.contains(&index);
    let bound = (0..account.received()).filter(|&index| in_window(index) || cut_short(index)).count() as u64;
    let unexplained = account.repeats.iter().map(|repeat| (repeat, repeat.first));
    let unexplained = unexplained.filter(|(_, first)| !in_window(*first) && !cut_short(*first));
    let unexplained = unexplained.map(|(repeat, _)| repeat).collect::<Vec<_>>();
    let at = |index| times.of(index).map_or(f64::NAN, |(_, seen)| (seen - began).as_secs_f64());
    let example = |index: usize| {
        let repeat = *unexplained[index];
        let (first, again) = (at(repeat.first), at(repeat.again));
        format!("received after {first:.3} s and again after {again:.3} s: {}", account.describe(repeat))
    };
    // One from each of a few different moments explains more than the spans of one batch.
    let step = unexplained.len().div_ceil(8).max(1);
    let examples = (0..unexplained.len()).step_by(step).map(example).collect();
    let of_kills = account.repeats.iter().map(|repeat| repeat.first);
    let of_kills =
        of_kills.filter(|&first| conditions.window_of(first, times).is_none() && !account.cut_short.contains(&first));
    let oldest = of_kills.filter_map(|first| kills.age(first, times)).max().unwrap_or_default();
    let cut_short = account.repeats.iter().filter(|repeat| cut_short(repeat.first)).count() as u64;
    Duplicates { bound, cut_short, unexplained: unexplained.len() as u64, oldest, examples }
}

/// Windows in order, those that touch each other as one.
struct Merged {
    windows: Vec<Window>,
    /// The moment of each kill: the end of the window before it is merged, in order.
    ends: Vec<Instant>,
}

impl Merged {
    fn new(mut windows: Vec<Window>) -> Self {
        windows.sort_by_key(|window| window.from);
        let mut ends = windows.iter().map(|window| window.to).collect::<Vec<_>>();
        ends.sort();
        let mut merged: Vec<Window> = Vec::new();
        for window in windows {
            match merged.last_mut() {
                Some(last) if window.from <= last.to => last.to = last.to.max(window.to),
                _ => merged.push(window),
            }
        }
        Self { windows: merged, ends }
    }

    /// The window in which this receipt may have been.
    fn window_of(&self, index: u64, times: &Times) -> Option<&Window> {
        let Some((before, seen)) = times.of(index) else { return self.windows.last() };
        let next = self.windows.partition_point(|window| window.to < before);
        self.windows.get(next).filter(|window| window.from <= seen)
    }

    /// How long before the next kill it was.
    fn age(&self, index: u64, times: &Times) -> Option<Duration> {
        let (_, seen) = times.of(index)?;
        let end = self.ends[self.ends.partition_point(|end| *end < seen)..].first()?;
        Some(end.saturating_duration_since(seen + AFTER_A_KILL))
    }
}

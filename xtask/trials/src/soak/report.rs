//! The outcome of a soak.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::SpanIds;

/// From this length on the memory of the first and of the last third are compared.
const LONG: Duration = Duration::from_secs(4 * 60);

/// The memory of the first fifth is that of a program which grows to its size.
const WARM_UP: f64 = 0.2;

/// The median of the last third may be above that of the first by a tenth and this, in bytes: the buffer, whose content
/// the outages decide, is as large.
const GROWTH: u64 = 8 << 20;

/// Resident memory, at most, in bytes.
const RESIDENT: u64 = 128 << 20;

/// Wake-ups a second of one thread under load, on average, at most. A batch costs the net thread a few, a commit the
/// journal thread some; the load makes up to 50 batches a second.
const WAKEUPS: f64 = 200.0;

/// Wake-ups of one thread without work, at most: those of the last answers and of the last clean-up, then one in 5 s.
const AT_REST: u64 = 6;
const AT_REST_EACH: Duration = Duration::from_secs(5);

/// Open files and sockets of the application, at most.
const OPEN_FILES: usize = 96;

/// Findings that are written down in full.
const FINDINGS: usize = 20;

/// The outcome of a soak.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The seed that repeats it.
    pub seed: u64,
    /// Whether the lasting application runs in durable mode.
    pub durable: bool,
    /// Conditions of the collector that were played, and how often each.
    pub conditions: BTreeMap<String, u64>,
    /// All of them.
    pub steps: u64,
    /// Lives of the passing application.
    pub lives: usize,
    /// Flushes and checkpoints.
    pub flushes: u64,
    /// The longest of them.
    pub worst_flush: Duration,
    /// How long spans were made.
    pub load: Duration,
    /// From the last span to the last delivery.
    pub delivered_after: Duration,
    /// Spans that were made.
    pub made: u64,
    /// Spans that the collector took, without duplicates.
    pub delivered: u64,
    /// Spans that it took once more.
    pub duplicates: u64,
    /// The bound on them that the exporters reported.
    pub possible_duplicates: u64,
    /// Spans that it never took.
    pub missing: u64,
    /// Spans that it rejected in partial successes.
    pub rejected: u64,
    /// Spans of dead letters that were sent again.
    pub redriven: u64,
    /// Resident memory of the lasting application, each with its time.
    pub resident: Vec<(Duration, u64)>,
    /// Wake-ups of each of its threads under load.
    pub wakeups: BTreeMap<String, u64>,
    /// How long it rested.
    pub rest: Duration,
    /// Wake-ups of each of its threads in that time.
    pub at_rest: BTreeMap<String, u64>,
    /// The most open files and sockets.
    pub open_files: usize,
    /// The most threads.
    pub threads: usize,
    /// A sentence for each thing that is not as it must be.
    pub wrong: Vec<String>,
}

impl Report {
    pub(super) fn new(seed: u64, durable: bool) -> Self {
        Self { seed, durable, ..Self::default() }
    }

    pub(super) fn wrong(&mut self, finding: String) {
        if self.wrong.len() < FINDINGS {
            self.wrong.push(finding);
        }
    }

    /// The medians of the resident memory in each third of the time after the warm-up.
    #[must_use]
    pub fn thirds(&self) -> [u64; 3] {
        let warm = self.load.mul_f64(WARM_UP);
        let mut samples: Vec<_> = self.resident.iter().filter(|(at, _)| *at >= warm).map(|(_, bytes)| *bytes).collect();
        let third = (samples.len() / 3).max(1);
        let mut medians = samples.chunks_mut(third).map(|part| {
            part.sort_unstable();
            part[part.len() / 2]
        });
        [(); 3].map(|()| medians.next().unwrap_or_default())
    }

    /// Compares spans by id, and all numbers with their bounds.
    pub(super) fn judge(&mut self, mut made: Vec<SpanIds>, mut received: Vec<SpanIds>) {
        made.sort_unstable();
        self.made = made.len() as u64;
        let all = received.len();
        received.sort_unstable();
        received.dedup();
        self.delivered = received.len() as u64;
        self.duplicates = (all - received.len()) as u64;
        self.missing = made.iter().filter(|ids| received.binary_search(ids).is_err()).count() as u64;
        let unknown = received.iter().filter(|ids| made.binary_search(ids).is_err()).count();
        let [first, _, last] = self.thirds();
        let peak = self.resident.iter().map(|(_, bytes)| *bytes).max().unwrap_or(u64::MAX);
        let mut wrong = Vec::new();
        if self.made == 0 || self.steps == 0 {
            wrong.push("no span was made".to_owned());
        }
        if self.missing > self.rejected {
            wrong.push(format!("{} spans never arrived, and only {} were rejected", self.missing, self.rejected));
        }
        if unknown > 0 {
            wrong.push(format!("{unknown} spans arrived that no application has made"));
        }
        if self.duplicates > self.possible_duplicates {
            wrong.push(format!("{} duplicates, of {} possible ones", self.duplicates, self.possible_duplicates));
        }
        if peak > RESIDENT {
            wrong.push(format!("resident memory grew to {peak} bytes"));
        }
        if self.load >= LONG && last > first + first / 10 + GROWTH {
            wrong.push(format!("resident memory grew from {first} to {last} bytes"));
        }
        if self.open_files > OPEN_FILES {
            wrong.push(format!("{} open files", self.open_files));
        }
        for (thread, count) in &self.wakeups {
            let each_second = *count as f64 / self.load.as_secs_f64();
            if each_second > WAKEUPS {
                wrong.push(format!("{thread} woke up {each_second:.0} times a second"));
            }
        }
        let allowed = AT_REST + self.rest.as_secs() / AT_REST_EACH.as_secs();
        for (thread, count) in self.at_rest.iter().filter(|(_, count)| **count > allowed) {
            wrong.push(format!("{thread} woke up {count} times in {:?} without work", self.rest));
        }
        wrong.into_iter().for_each(|finding| self.wrong(finding));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: f64 = 1_048_576.0;
        let [first, second, third] = self.thirds().map(|bytes| bytes as f64 / MIB);
        let peak = self.resident.iter().map(|(_, bytes)| *bytes).max().unwrap_or_default() as f64 / MIB;
        let durable = if self.durable { "durable mode" } else { "files" };
        writeln!(f, "{} conditions in {:.0?}: {:?}", self.steps, self.load, self.conditions)?;
        writeln!(
            f,
            "{} lives of the passing application; {} flushes, the longest {:.1?}",
            self.lives, self.flushes, self.worst_flush
        )?;
        writeln!(
            f,
            "{} spans made, {} delivered ({:.1?} after the last one), {} missing, {} rejected, {} redriven, {} duplicates of \
             {} possible ones",
            self.made,
            self.delivered,
            self.delivered_after,
            self.missing,
            self.rejected,
            self.redriven,
            self.duplicates,
            self.possible_duplicates
        )?;
        writeln!(
            f,
            "the lasting application ({durable}): resident {first:.1}, {second:.1}, {third:.1} MiB (medians of thirds), at most {peak:.1} MiB; {} threads, {} open files",
            self.threads, self.open_files
        )?;
        let each_second = |(name, count): (&String, &u64)| {
            format!("{name} {:.1}/s", *count as f64 / self.load.as_secs_f64().max(1e-9))
        };
        let load = self.wakeups.iter().map(each_second).collect::<Vec<_>>().join(", ");
        write!(f, "wake-ups under load: {load}; in {:.0?} of rest: {:?}", self.rest, self.at_rest)
    }
}

//! Durable mode on a slow disk in virtual time, while the collector is gone: one thread exports, the journal thread
//! commits, the disk thread writes files. Each sync takes its time, and a file takes three of them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ::journal::SyncPolicy;
use bytes::Bytes;
use otlp_payload::{BatchId, Payload};
use otlp_transport::{Cause, Outcome};
use span_buffer::Limits;

use super::Setup;
use super::world::{ms, secs};
use crate::core::{Commit, Core, Effect, Spill, Written};
use crate::report::ledger::Ledger;
use crate::seams::clock::{Clock as _, SystemClock};
use crate::seams::journal::JournalUsage;
use crate::shell::journal::LOOK_AFTER;
use crate::shell::plan::Plan;

const SPANS: usize = 512;
const SPANS_A_SECOND: u64 = 3_000;

/// The longest wait of an `export` call.
const TIMEOUT: Duration = ms(100);

/// The time of a sync that begins so long after the start.
type SyncTime = fn(Duration) -> Duration;

struct SlowDisk {
    core: Core,
    start: Instant,
    now: Instant,
    sync_time: SyncTime,
    /// The instant of the next batch of the SDK, and the `export` call that waits.
    next_batch: Instant,
    waiting: Option<(Payload, Instant)>,
    bytes: Bytes,
    /// The journal thread: its jobs, the commit in its hands, and the end of its sync.
    plan: Plan,
    commits: VecDeque<Commit>,
    marks_since: Option<Instant>,
    announced: bool,
    standing: bool,
    syncing: Option<(Instant, Option<Commit>, bool)>,
    /// The disk thread: its effects, the file in its hands, and the end of the write.
    files: VecDeque<Spill>,
    file: Option<(Spill, Option<Instant>)>,
    answers: VecDeque<(Instant, u64)>,
}

impl SlowDisk {
    fn new(sync_time: SyncTime) -> Self {
        let now = SystemClock.now();
        let setup =
            Setup { limits: Limits { max_count: 10_000, max_bytes: 10 << 20, max_age: secs(300) }, ..Setup::usual() };
        Self {
            core: setup.core(0, now).with_journal(0, true, now),
            start: now,
            now,
            sync_time,
            next_batch: now,
            waiting: None,
            bytes: Bytes::from(vec![0; SPANS * 300]),
            plan: Plan::new(SyncPolicy::Batch),
            commits: VecDeque::new(),
            marks_since: None,
            announced: false,
            standing: false,
            syncing: None,
            files: VecDeque::new(),
            file: None,
            answers: VecDeque::new(),
        }
    }

    /// Runs for this time, from event to event.
    fn run(&mut self, time: Duration) {
        let end = self.start + time;
        while self.now < end {
            self.act();
            let events = [
                self.waiting.as_ref().map_or(self.next_batch, |(_, deadline)| *deadline),
                self.answers.front().map_or(end, |(at, _)| *at),
                self.core.next_wakeup().unwrap_or(end),
                self.syncing.as_ref().map_or_else(|| self.journal_due().unwrap_or(end), |(at, ..)| *at),
                self.file.as_ref().and_then(|(_, at)| *at).unwrap_or(end),
            ];
            // An event of this instant that asks for another one of this instant is acted on a little later.
            let next = events.into_iter().min().unwrap_or(end);
            self.now = next.max(self.now + Duration::from_micros(1)).min(end);
        }
    }

    fn journal_due(&self) -> Option<Instant> {
        let look = self.marks_since.map(|since| since + LOOK_AFTER);
        look.into_iter().chain(self.plan.due()).min()
    }

    fn act(&mut self) {
        let now = self.now;
        self.end_sync();
        self.end_file();
        while self.answers.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, id)) = self.answers.pop_front() else { break };
            let cause = Cause::Connect("connection refused".to_owned());
            let gone = Outcome::Retryable { after: None, cause, possible_duplicate: false };
            self.core.on_answered(id, gone, secs(1), now, SystemClock.wall());
        }
        self.export();
        let calls = self.core.poll_calls(now);
        self.answers.extend(calls.into_iter().map(|call| (now + ms(1), call.id)));
        self.take_effects();
        self.begin_file();
        self.begin_sync();
    }

    /// The thread that exports: a call ends with its commit or its time-out.
    fn export(&mut self) {
        let now = self.now;
        if let Some((payload, deadline)) = self.waiting.take() {
            if self.core.durable.is_committing(payload.id()) && now < deadline {
                self.waiting = Some((payload, deadline));
                return;
            }
            self.core.durable.on_wait_ended(payload.id(), SPANS, now);
            let before = self.ledger().lost();
            self.core.on_offered(payload, now).expect("the core runs");
            if self.ledger().lost() > before {
                let may_leave = |entry| self.core.durable.may_leave(entry);
                assert!(!self.core.memory.waiting().any(may_leave), "a batch is dropped before durable ones leave");
            }
        }
        if now >= self.next_batch {
            self.next_batch += Duration::from_secs_f64(SPANS as f64 / SPANS_A_SECOND as f64);
            let payload = Payload::new(self.core.next_id(), SystemClock.wall(), SPANS, self.bytes.clone());
            assert!(self.core.on_submitted(&payload));
            self.waiting = Some((payload, now + TIMEOUT));
        }
    }

    fn take_effects(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Commit(commit) => self.commits.push_back(commit),
                Effect::LookForMarks => drop(self.marks_since.get_or_insert(self.now)),
                Effect::Spill(spill) => self.files.push_back(spill),
                Effect::Publish(_) => {}
                other => panic!("no thread of this world acts on it: {other:?}"),
            }
        }
    }

    /// The disk thread announces its next file, and writes it once the announcement is durable.
    fn begin_file(&mut self) {
        if self.file.is_none()
            && let Some(spill) = self.files.pop_front()
        {
            self.announced = spill.handed_over.is_empty();
            if !self.announced {
                self.plan.on_announced(self.now);
            }
            self.file = Some((spill, None));
        }
        if self.announced
            && let Some((_, end @ None)) = &mut self.file
        {
            let begin = self.now - self.start;
            let time = (0..3).fold(Duration::ZERO, |time, _| time + (self.sync_time)(begin + time));
            *end = Some(self.now + time);
        }
    }

    fn end_file(&mut self) {
        let now = self.now;
        if let Some((spill, _)) = self.file.take_if(|(_, end)| end.is_some_and(|end| end <= now)) {
            self.plan.on_standing(now);
            self.standing = true;
            self.core.on_spilled(&spill, "a file");
        }
    }

    /// A turn of the journal thread: one sync covers all that arrived.
    fn begin_sync(&mut self) {
        if self.syncing.is_some() {
            return;
        }
        let now = self.now;
        if self.marks_since.is_some_and(|since| now >= since + LOOK_AFTER) {
            self.core.on_look();
            self.take_effects();
        }
        let commit = self.commits.pop_front();
        if let Some(commit) = &commit {
            if !commit.append.is_empty() {
                self.plan.on_appended(now);
            }
            if !commit.done.is_empty() {
                self.plan.on_marked(self.marks_since.take().unwrap_or(now));
            }
        }
        if self.plan.is_due(now) {
            let has_announcement = self.file.as_ref().is_some_and(|(_, end)| end.is_none());
            self.syncing = Some((now + (self.sync_time)(now - self.start), commit, has_announcement));
        } else if commit.is_some() {
            self.core.on_committed(false);
        }
    }

    fn end_sync(&mut self) {
        let now = self.now;
        if let Some((_, commit, has_announcement)) = self.syncing.take_if(|(end, ..)| *end <= now) {
            self.plan.on_synced();
            self.announced |= has_announcement;
            if let Some(commit) = commit {
                let ids = commit.append.iter().map(Payload::id).collect::<Vec<BatchId>>();
                self.core.durable.on_written(&ids, Written::Synced);
                self.core.on_committed(false);
            }
            self.core.on_journal_usage(JournalUsage { batches: 0, bytes: 1 << 20, max_bytes: 256 << 20 }, now);
        }
    }

    fn ledger(&self) -> &Ledger {
        self.core.ledger()
    }

    /// The part of all spans that was not durable in time.
    fn not_durable(&self) -> f64 {
        self.core.durable.accepted_not_durable().expect("durable mode") as f64 / self.ledger().offered as f64
    }
}

#[test]
fn a_slow_disk_drops_nothing_and_at_60_ms_a_sync_nearly_all_is_durable_in_time() {
    let disks: [(u64, SyncTime, f64); 5] = [
        (0, |_| ms(0), 0.0),
        (20, |_| ms(20), 0.0),
        (60, |_| ms(60), 0.05),
        (150, |_| ms(150), 1.0),
        (300, |_| ms(300), 1.0),
    ];
    for (sync, sync_time, most) in disks {
        let mut disk = SlowDisk::new(sync_time);
        disk.run(secs(60));
        let ledger = disk.ledger();
        assert!(ledger.offered > 170_000, "{ledger:?}");
        assert_eq!((ledger.lost(), ledger.imbalance()), (0, 0), "{sync} ms a sync: {ledger:?}");
        assert!(disk.not_durable() <= most, "{sync} ms a sync: {} is not durable in time", disk.not_durable());
        assert!(ledger.in_fallback > 100_000, "{sync} ms a sync: files are written: {ledger:?}");
    }
}

#[test]
fn a_disk_that_stalls_for_seconds_drops_nothing() {
    // The disk does nothing for two of ten seconds.
    let mut disk = SlowDisk::new(|at| {
        let ms_of_ten = u64::try_from(at.as_millis() % 10_000).expect("small");
        ms(5 + if ms_of_ten >= 8_000 { 10_000 - ms_of_ten } else { 0 })
    });
    disk.run(secs(60));
    let ledger = disk.ledger();
    assert_eq!((ledger.lost(), ledger.imbalance()), (0, 0), "{ledger:?}");
    assert!(disk.not_durable() < 0.3, "only batches of the stalls: {}", disk.not_durable());
}

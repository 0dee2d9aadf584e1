//! Health, from the facts of core and disk queue.

use std::time::{Duration, Instant, SystemTime};

use span_buffer::Size;

use super::queue::{Activity, Contents};
use super::shared::Shared;
use crate::core::{Collector, Core};
use crate::report::details::{AsideHealth, CollectorHealth, FilesHealth, JournalHealth, MemoryHealth, StorageHealth};
use crate::report::facts::{Facts, Failed, Fill, Pause};
use crate::report::health::{Health, Status};
use crate::report::position::Position;
use crate::report::remedies::remedy;
use crate::seams::fallback::Usage;
use crate::seams::journal::JournalUsage;

/// The disk thread is stalled if one operation takes this long.
const STALLED: Duration = Duration::from_secs(2);

/// The calls of this time decide on health.
const RECENT: Duration = Duration::from_secs(300);

impl Shared {
    pub(crate) fn health(&self) -> Health {
        if let Some(forked) = self.forked() {
            return forked.health(self.primary().to_owned(), self.signal, self.instance);
        }
        // Clocks of a user's: outside the lock.
        let (now, wall) = (self.clock.now(), self.clock.wall());
        let Activity { contents, busy } = self.activity(now);
        let Contents { usage, set_aside, age_rests_until, oldest: oldest_stored, .. } = contents;
        let (journal, journal_busy) = self.journal_activity(now);
        let (mut core, staged) = self.core_and_staged();
        let losses = core.accounts.recent_losses(now);
        let lateness = core.accounts.delivered.lateness(now);
        let core = &*core;
        let (counters, snapshot) = (&core.accounts.counters, core.memory.snapshot(now));
        let ledger = core.ledger().with_staged(staged.count);
        let in_use = Position::new(core.endpoints.in_use());
        let endpoint = core.endpoints.current();
        let calls = endpoint.rates(now, RECENT);
        let oldest_accepted = core.oldest_accepted().map(|accepted| now.saturating_duration_since(accepted));
        // Without a file the disk thread sleeps, and no operation says that the last one has gone.
        let oldest_stored = oldest_stored.filter(|_| usage.files > 0);
        let oldest_stored = oldest_stored.map(|stored| wall.duration_since(stored).unwrap_or_default());
        let waiting = ledger.staged + ledger.buffered + ledger.in_flight;
        let (limits, held) = (core.memory.limits(), core.memory.occupied_size());
        let held = Size { count: held.count + staged.count, bytes: held.bytes + staged.bytes };
        let mut health = Health {
            status: Status::Healthy,
            issues: Vec::new(),
            breaker: core.breaker_state(),
            metrics: counters
                .metrics(waiting, core.endpoints.collectors().map(|collector| collector.endpoint.trips()).sum()),
            ledger,
            buffered_batches: snapshot.batches,
            buffered_bytes: snapshot.bytes,
            oldest: snapshot.oldest_age,
            oldest_waiting: oldest_accepted.into_iter().chain(oldest_stored).max(),
            fallback_files: usage.files,
            fallback_bytes: usage.bytes,
            journal_batches: journal.map(|journal| journal.batches),
            journal_bytes: journal.map(|journal| journal.bytes),
            accepted_not_durable: core.durable.accepted_not_durable(),
            success_rate_5m: (calls.success_rate() * 1_000.0).round() / 1_000.0,
            acknowledged_unreadable: counters.acknowledged_unreadable(),
            possible_duplicates: counters.possible_duplicates(),
            dead_letters_evicted: counters.dead_letters_evicted(),
            endpoint: self.endpoint(in_use).to_owned(),
            collectors: self.collectors(core, now, wall),
            storage: self.storage_health(core, contents, journal),
            signal: self.signal,
            instance: self.instance,
            uptime: now.saturating_duration_since(self.started),
            memory: MemoryHealth {
                spans: held.count as u64,
                max_spans: limits.max_count as u64,
                bytes: held.bytes as u64,
                max_bytes: limits.max_bytes as u64,
            },
            spilling: core.spilling_spans() as u64,
            calls: core.accounts.calls.durations(),
            wakeups: self.wakeups.counts(),
            lateness,
            not_sampled: self.not_sampled(),
            staging_capacity: self.staging_capacity(),
        };
        let texts = [counters.last_cause(), endpoint.refusing(), endpoint.unreadable()];
        let [last, refusing, unreadable] = texts.map(|cause| cause.map(|cause| (cause.to_string(), remedy(cause))));
        let later = |time: Duration| wall.checked_add(time).unwrap_or(wall);
        if in_use != Position::PRIMARY {
            health.issues.push(self.about_failover(core, in_use));
        }
        health.judged(&Facts {
            losses,
            last_failure: last.as_ref().map(failed),
            outage: core.outage_since().map(|since| now.saturating_duration_since(since)),
            refusing: refusing.as_ref().map(failed),
            calls,
            unreadable: unreadable.as_ref().map(|(cause, _)| (counters.acknowledged_unreadable(), cause.as_str())),
            pause: endpoint.pause(now).map(|(whole, left)| Pause { whole, left, until: later(left) }),
            fill: Fill {
                spans: held.count,
                max_spans: limits.max_count,
                bytes: held.bytes,
                max_bytes: limits.max_bytes,
            },
            spilling: core.spilling_spans(),
            has_fallback: core.storage.is_enabled(),
            disk_trouble: core.storage.trouble().filter(|_| core.is_disk_trouble_felt(now)),
            journal_trouble: core.durable.trouble(),
            is_recently_not_durable: core.durable.is_recently_not_durable(now),
            unread: core.durable.unread(),
            has_vanished: core.durable.has_recently_vanished(now),
            is_disk_stalled: is_stalled(busy) || is_stalled(journal_busy),
            no_fallback: self.no_fallback.as_deref(),
            set_aside: (set_aside.files, set_aside.spans),
            age_rests_until: age_rests_until.filter(|until| *until > wall),
            storage_notes: &self.storage_notes,
        })
    }
}

impl Shared {
    /// Each collector, by its place.
    fn collectors(&self, core: &Core, now: Instant, wall: SystemTime) -> Vec<CollectorHealth> {
        let later = |time: Duration| wall.checked_add(time).unwrap_or(wall);
        let health = |(at, Collector { endpoint, .. }): (usize, &Collector)| {
            let position = Position::new(at);
            let taken = core.accounts.taken(position);
            let pause = endpoint.pause(now).map(|(_, left)| left);
            let wait = endpoint.next_call(now).map(|next| next.saturating_duration_since(now));
            CollectorHealth {
                position,
                endpoint: self.endpoint(position).to_owned(),
                in_use: core.endpoints.in_use() == at,
                breaker: endpoint.state(),
                refusing: endpoint.refusing().map(|cause| format!("{cause}; {}", remedy(cause))),
                delivered: taken.delivered as u64,
                rejected: taken.rejected as u64,
                pause_until: pause.map(later),
                next_attempt: wait.map(later),
                pause,
                wait,
            }
        };
        core.endpoints.collectors().enumerate().map(health).collect()
    }

    /// The issue that spans go to another collector than the primary.
    fn about_failover(&self, core: &Core, in_use: Position) -> String {
        let primary = core.endpoints.of(Position::PRIMARY.index());
        let cause = primary.last_cause().map(|cause| format!("; its last failure: {cause}; {}", remedy(cause)));
        format!(
            "spans go to endpoint {in_use} ({}) until the primary ({}) takes spans again{}",
            self.endpoint(in_use),
            self.primary(),
            cause.unwrap_or_default()
        )
    }

    fn storage_health(&self, core: &Core, contents: Contents, journal: Option<JournalUsage>) -> StorageHealth {
        let Contents { usage, max_bytes, dead_letters, set_aside, full_in, .. } = contents;
        let limits = self.storage_limits;
        let files = |Usage { files, spans, bytes }, max_bytes| FilesHealth { files, spans, bytes, max_bytes };
        let of_fallback = |usage: Usage, max_bytes| core.storage.is_enabled().then(|| files(usage, max_bytes));
        StorageHealth {
            fallback: of_fallback(usage, max_bytes.unwrap_or(limits.fallback)),
            journal: journal.map(|JournalUsage { batches, bytes, max_bytes }| JournalHealth {
                batches,
                bytes,
                max_bytes,
            }),
            dead_letters: of_fallback(dead_letters, limits.dead_letters),
            set_aside: AsideHealth { files: set_aside.files, spans: set_aside.spans },
            // Without a file the disk thread sleeps, and would correct no forecast.
            full_in: full_in.filter(|_| usage.files > 0),
        }
    }
}

/// The disk thread has been in one operation for too long.
pub(super) fn is_stalled(busy: Option<Duration>) -> bool {
    busy.is_some_and(|time| time >= STALLED)
}

fn failed<'a>((cause, remedy): &'a (String, &'static str)) -> Failed<'a> {
    Failed { cause, remedy }
}

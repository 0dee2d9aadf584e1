//! The disk thread: writes spills, reads groups back, keeps the fallback within its caps. The only one that waits for
//! the storage.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use opentelemetry::Context;
use otlp_payload::Payload;
use span_buffer::Entry;

use crate::decide::total;
use crate::fallback::{Change, Fallback, FallbackError};
use crate::replay::{Fate, Refusal};
use crate::shared::{Job, Shared};

/// How often the caps are looked after.
const CLEAN_UP_EVERY: Duration = Duration::from_secs(1);

/// Payload bytes of one file, about: 8 MiB of JSON text, which is 2.2 times its protobuf.
const FILE_BYTES: usize = 8 * 1_024 * 1_024 * 10 / 22;

/// Bytes of one group to replay.
const GROUP_BYTES: usize = 4 * 1_024 * 1_024;

/// Runs until `Job::Stop`.
pub(crate) fn run(shared: &Shared, mut fallback: Box<dyn Fallback>) {
    let _suppressed = Context::enter_telemetry_suppressed_scope();
    let mut cleaned = shared.clock.now();
    let mut stop = false;
    while !stop {
        let jobs = shared.next_jobs(CLEAN_UP_EVERY);
        let mut spills = Vec::new();
        let mut others = Vec::new();
        for job in jobs {
            match job {
                Job::Spill(entries) => spills.extend(entries),
                Job::Stop => stop = true,
                other => others.push(other),
            }
        }
        spill(shared, fallback.as_mut(), spills);
        for job in others {
            other(shared, fallback.as_mut(), job);
            shared.disk_did(fallback.kept(), false);
        }
        let now = shared.clock.now();
        if now.saturating_duration_since(cleaned) >= CLEAN_UP_EVERY {
            cleaned = now;
            let _ = guarded(|| {
                fallback.clean_up(shared.clock.wall());
                Ok(())
            });
        }
        changed(shared, changes(fallback.as_mut()));
        if !stop {
            shared.disk_did(fallback.kept(), false);
        }
    }
    let kept = fallback.kept();
    // Before anybody is told: the directory's lock goes with it.
    drop(fallback);
    shared.disk_did(kept, true);
}

/// Writes batches in files of a sensible size, each accounted for as soon as it stands.
fn spill(shared: &Shared, fallback: &mut dyn Fallback, mut entries: Vec<Entry<Payload>>) {
    while !entries.is_empty() {
        let mut bytes = 0;
        let count = entries.iter().take_while(|entry| {
            bytes += entry.size.bytes;
            bytes <= FILE_BYTES
        });
        let rest = entries.split_off(count.count().max(1));
        let file = std::mem::replace(&mut entries, rest);
        let payloads = file.iter().map(|entry| entry.item.clone()).collect::<Vec<_>>();
        let result = guarded(|| fallback.keep(&payloads, shared.clock.wall()));
        let mut effects = Vec::new();
        match result {
            Ok(stored) => {
                shared.core().spilled(&file, &stored.name, &mut effects);
                shared.act(effects);
            }
            Err(error) => {
                // Those behind it would fail too: one attempt at a time.
                let mut back = file;
                back.append(&mut entries);
                debug_assert!(total(&back).count > 0);
                shared.core().spill_failed(back, &error.to_string(), shared.clock.now(), &mut effects);
                shared.act(effects);
            }
        }
        changed(shared, changes(fallback));
        shared.disk_did(fallback.kept(), false);
    }
}

fn other(shared: &Shared, fallback: &mut dyn Fallback, job: Job) {
    let mut effects = Vec::new();
    match job {
        Job::Bury(refusals) => {
            let kept = bury(shared, fallback, &refusals);
            shared.core().letters_kept(&refusals, kept, &mut effects);
        }
        Job::Read => match guarded(|| fallback.read(GROUP_BYTES)) {
            Ok(batches) => {
                let wall = shared.clock.wall();
                let mut core = shared.core();
                let batches =
                    batches.into_iter().map(|(bytes, spans)| Payload::new(core.next_id(), wall, spans, bytes));
                let batches = batches.collect();
                core.group_read(batches, shared.clock.now());
            }
            Err(error) => shared.core().read_failed(&error.to_string(), shared.clock.now(), &mut effects),
        },
        Job::Finish(fates) => {
            let refusals = fates.iter().flat_map(refusals).cloned().collect::<Vec<_>>();
            // First the dead letters, then the mark: a crash between the two repeats, it does not lose.
            let letters = refusals.is_empty() || bury(shared, fallback, &refusals);
            let finished = guarded(|| fallback.finish(&fates));
            let changes = changes(fallback);
            let (found, gone) = changes.into_iter().partition(|change| matches!(change, Change::Recovered { .. }));
            // More than was promised must have come in before it can go out.
            changed(shared, found);
            let mut core = shared.core();
            // The answers stand even where their mark is missing.
            core.group_finished(&fates, letters, &mut effects);
            if let Err(error) = finished {
                core.disk_failed(&error.to_string(), shared.clock.now(), &mut effects);
            }
            drop(core);
            shared.act(effects);
            changed(shared, gone);
            return;
        }
        Job::Spill(_) | Job::Stop => {}
    }
    shared.act(effects);
}

fn refusals(fate: &Fate) -> &[Refusal] {
    match fate {
        Fate::Finished { refused, .. } => refused,
        Fate::Kept => &[],
    }
}

fn bury(shared: &Shared, fallback: &mut dyn Fallback, refusals: &[Refusal]) -> bool {
    guarded(|| Ok(fallback.bury(refusals, &shared.endpoint, shared.clock.wall()))).unwrap_or(false)
}

fn changes(fallback: &mut dyn Fallback) -> Vec<Change> {
    guarded(|| Ok(fallback.changes())).unwrap_or_default()
}

fn changed(shared: &Shared, changes: Vec<Change>) {
    let mut effects = Vec::new();
    for change in changes {
        shared.core().fallback_changed(change, &mut effects);
    }
    shared.act(effects);
}

/// Somebody's code: its panic is an error of the storage.
fn guarded<T>(operation: impl FnOnce() -> Result<T, FallbackError>) -> Result<T, FallbackError> {
    catch_unwind(AssertUnwindSafe(operation)).unwrap_or_else(|_| Err(FallbackError::new("the fallback panicked")))
}

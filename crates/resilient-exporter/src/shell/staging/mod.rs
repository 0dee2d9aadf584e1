//! Spans between their end and their batch: `on_end` encodes each one into a part of this area.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `shards` | the parts and their locks; knows neither spans nor the core |

pub(crate) mod shards;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use opentelemetry_sdk::trace::SpanData;
use otlp_payload::{BatchId, BatchWriter, Encoder, Payload, ValueLimits};
use span_buffer::{Limits, Size};

use self::shards::{Content, Keeper, Lock, Part, Shards, Staged};
use super::shared::Shared;
use crate::core::Core;
use crate::locks::{Mutex, MutexGuard};
use crate::report::forked::Forked;
use crate::report::ledger::{Ledger, RefuseReason};
use crate::seams::clock::{Clock as _, SystemClock};

/// The staging area takes this part of the buffer's limits at most.
const PART_OF_BUFFER: usize = 4;

/// More parts than this help no program: a thread holds one for about a microsecond a span.
const MOST_PARTS: usize = 8;

thread_local! {
    /// The part that this thread tries first: the last one that it found free. All begin with the first, so that the
    /// spans of threads which do not meet share a batch.
    static FIRST: Cell<usize> = const { Cell::new(0) };
}

/// The settings of a [`Staging`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct StagingSettings {
    /// Spans and bytes of a batch, at most.
    pub(crate) batch: Size,
    /// The limits of the buffer.
    pub(crate) buffer: Limits,
    /// The longest stay of a span.
    pub(crate) delay: Duration,
    /// The cores of the machine.
    pub(crate) parallelism: usize,
    pub(crate) values: ValueLimits,
}

pub(crate) struct Staging {
    shards: Shards<Area, Mutex<Part<Area>>>,
    /// The room of one part.
    room: Size,
    /// Locked alone, or inside of a part's lock.
    encoder: Mutex<Arc<Encoder>>,
    /// Spans that ended without being sampled.
    not_sampled: AtomicU64,
}

/// The spans of a part.
pub(crate) struct Area {
    writer: BatchWriter,
    room: Size,
}

/// The areas of all parts, and the room in memory that each one keeps: less than a span where the buffer is that small.
pub(crate) fn areas(settings: &StagingSettings) -> (impl Iterator<Item = Area> + use<>, Size) {
    let &StagingSettings { batch, buffer, parallelism, values, .. } = settings;
    let most = Size { count: buffer.max_count / PART_OF_BUFFER, bytes: buffer.max_bytes / PART_OF_BUFFER };
    let parts = (most.count / batch.count.max(1)).clamp(1, parallelism.clamp(1, MOST_PARTS));
    let room =
        Size { count: batch.count.min(most.count / parts).max(1), bytes: batch.bytes.min(most.bytes / parts).max(1) };
    let kept = Size { count: room.count.min(most.count / parts), bytes: room.bytes.min(most.bytes / parts) };
    ((0..parts).map(move |_| Area { writer: BatchWriter::new(values), room }), kept)
}

impl Area {
    /// Adds a span; after a panic the area is as before.
    pub(crate) fn push(&mut self, span: &SpanData) {
        self.writer.push(span);
    }

    pub(crate) fn finish(&mut self, encoder: &Encoder, id: BatchId, created: SystemTime) -> Payload {
        self.writer.finish(encoder, id, created)
    }

    pub(crate) fn size(&self) -> Size {
        Size { count: self.writer.span_count(), bytes: self.writer.byte_count() }
    }
}

impl Content for Area {
    fn len(&self) -> usize {
        self.writer.span_count()
    }

    fn is_full(&self) -> bool {
        self.writer.span_count() >= self.room.count || self.writer.byte_count() >= self.room.bytes
    }

    fn join(&mut self, other: &mut Self) {
        let fits = self.len() + other.len() <= self.room.count
            && self.writer.byte_count() + other.writer.byte_count() <= self.room.bytes;
        if fits {
            self.writer.append(&mut other.writer);
        }
    }

    fn clear(&mut self) {
        self.writer.clear();
    }
}

impl<C> Lock<Part<C>> for Mutex<Part<C>> {
    type Guard<'a>
        = MutexGuard<'a, Part<C>>
    where
        C: 'a;

    fn new(value: Part<C>) -> Self {
        Self::new(value)
    }

    fn lock(&self) -> Self::Guard<'_> {
        self.lock()
    }

    fn try_lock(&self) -> Option<Self::Guard<'_>> {
        self.try_lock()
    }
}

impl Staging {
    pub(crate) fn new(settings: StagingSettings) -> Self {
        let (areas, room) = areas(&settings);
        let encoder = Encoder::new(&opentelemetry_sdk::Resource::builder_empty().build());
        Self {
            shards: Shards::new(areas, settings.delay),
            room,
            encoder: Mutex::new(Arc::new(encoder.with_value_limits(settings.values))),
            not_sampled: AtomicU64::new(0),
        }
    }

    pub(crate) fn set_encoder(&self, encoder: Encoder) {
        *self.encoder.lock() = Arc::new(encoder);
    }

    pub(crate) fn on_not_sampled(&self) {
        self.not_sampled.fetch_add(1, Ordering::Relaxed);
    }
}

/// The clocks at the seal of a batch.
#[derive(Clone, Copy)]
pub(crate) struct Moment {
    now: Instant,
    wall: SystemTime,
}

impl Keeper<Area> for Shared {
    type Moment = Moment;

    fn moment(&self) -> Moment {
        Moment { now: self.clock.now(), wall: self.clock.wall() }
    }

    fn is_child(&self) -> bool {
        self.process.forked().is_some()
    }

    fn on_opened(&self) {
        self.core().on_staging_opened(self.room());
    }

    fn on_released(&self) {
        self.core().on_staging_released(self.room());
    }

    fn seal(&self, area: &mut Area, Moment { now, wall }: Moment) {
        let Some(staging) = self.staging() else { return };
        let encoder = Arc::clone(&staging.encoder.lock());
        let id = self.core().next_id();
        let payload = area.finish(&encoder, id, wall);
        // The events are published by the net thread: a log subscriber would run under the lock of this part.
        self.decide_quietly(|core| core.on_sealed(payload, now, self.journal_timeout()));
    }
}

impl Shared {
    fn room(&self) -> Size {
        self.staging().map_or_else(Size::default, |staging| staging.room)
    }

    /// A span has ended. Waits for no disk, no collector and no clock; for another thread only while each part is held,
    /// each by a thread that encodes a span or seals a batch.
    pub(crate) fn stage(&self, span: &SpanData) {
        let Some(staging) = self.staging() else { return };
        let mut has_panicked = false;
        let staged = staging.shards.stage(
            FIRST.try_with(Cell::get).unwrap_or_default(),
            || SystemClock.now(),
            self,
            // After a panic the writer is as before.
            |area| has_panicked = catch_unwind(AssertUnwindSafe(|| area.push(span))).is_err(),
        );
        match staged {
            Staged::Here { part, is_news } => {
                // A thread that ends has no thread-local values.
                let _ = FIRST.try_with(|first| first.set(part));
                if is_news {
                    self.net.notify_one();
                }
            }
            // In a child a thread that it does not have may hold the core.
            Staged::Closed if self.process.refuse(1).is_some() => {}
            Staged::Closed => self.decide_quietly(|core| core.on_not_accepted(1, RefuseReason::AlreadyShutdown)),
            Staged::Child(spans) => drop(self.process.refuse(spans)),
        }
        if has_panicked {
            self.decide_quietly(|core| core.on_not_accepted(1, RefuseReason::EncodePanicked));
            // The net thread publishes the event.
            self.net.notify_one();
        }
    }

    /// Seals the batches whose time is over; returns the time of the next.
    pub(crate) fn seal_due(&self) -> Option<Instant> {
        self.staging().and_then(|staging| staging.shards.seal_due(SystemClock.now(), self))
    }

    /// Seals all spans that have ended so far.
    pub(crate) fn seal_all(&self) {
        if let Some(staging) = self.staging() {
            staging.shards.seal_all(self, false);
        }
    }

    /// The same, for the last time: spans that end later are refused.
    pub(crate) fn close_staging(&self) {
        if let Some(staging) = self.staging() {
            staging.shards.seal_all(self, true);
        }
    }

    /// The core, and the staged spans of the instant at which its lock was taken. The parts are free again.
    pub(crate) fn core_and_staged(&self) -> (MutexGuard<'_, Core>, Size) {
        let parts = self.staging().map(|staging| staging.shards.lock_all()).unwrap_or_default();
        let staged = parts
            .iter()
            .map(|part| part.content().size())
            .fold(Size::default(), |sum, size| Size { count: sum.count + size.count, bytes: sum.bytes + size.bytes });
        let core = self.core();
        drop(parts);
        (core, staged)
    }

    /// Some in a child of the process that built the exporter. The spans that the child has staged are refused.
    pub(crate) fn forked(&self) -> Option<Forked> {
        self.process.forked()?;
        let staged = self.staging().map_or(0, |staging| staging.shards.disown());
        if staged > 0 {
            self.process.refuse(staged);
        }
        self.process.forked()
    }

    /// The place of every span at one instant.
    pub(crate) fn ledger(&self) -> Ledger {
        let (core, staged) = self.core_and_staged();
        core.ledger().with_staged(staged.count)
    }

    /// Spans that the end of the process would lose.
    pub(crate) fn only_in_memory(&self) -> u64 {
        let (core, staged) = self.core_and_staged();
        core.only_in_memory() + staged.count as u64
    }

    /// Spans that ended without being sampled; none without a processor of ours.
    pub(crate) fn not_sampled(&self) -> Option<u64> {
        self.staging().map(|staging| staging.not_sampled.load(Ordering::Relaxed))
    }

    /// Spans that all parts hold; none without a processor of ours.
    pub(crate) fn staging_capacity(&self) -> Option<u64> {
        // A part takes a span also where the buffer is too small to keep room for one.
        self.staging().map(|staging| (staging.shards.parts() * staging.room.count.max(1)) as u64)
    }
}

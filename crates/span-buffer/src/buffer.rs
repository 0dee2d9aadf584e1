//! The buffer: a queue sorted by the time of acceptance, and the totals of its entries.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The size of an item, in the two units that are limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Size {
    /// The number of things in it, in the caller's unit: spans, rows, messages.
    pub count: usize,
    /// The bytes of memory that they take.
    pub bytes: usize,
}

/// The limits of a buffer. Every value is allowed; with a limit of zero each item leaves at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The sum of all counts; 10,000 by default.
    pub max_count: usize,
    /// The sum of all bytes; 10 MiB by default.
    pub max_bytes: usize,
    /// From acceptance until an entry must leave; 5 minutes by default, [`Duration::MAX`] for never.
    pub max_age: Duration,
}

/// A waiting item, with its size, its age and its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<T> {
    /// The caller's item.
    pub item: T,
    /// Its size, as given to [`Buffer::push`] or by [`Buffer::resize`].
    pub size: Size,
    /// When it was pushed. Its age counts from here, however often it was taken and given back.
    pub accepted: Instant,
    /// The number of calls that were made for it. The buffer sets 0 at first; only the caller changes it.
    pub calls: u32,
}

/// The fill at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Waiting entries.
    pub batches: usize,
    /// The sum of their counts.
    pub count: usize,
    /// The sum of their bytes.
    pub bytes: usize,
    /// The age of the oldest entry; `None` if the buffer is empty.
    pub oldest_age: Option<Duration>,
}

/// Waiting entries, oldest first, bounded by count, bytes and age.
///
/// Entries that must leave are returned, never dropped: each method that makes space returns the entries that left. The
/// buffer has no lock, no clock and no thread; `now` is an argument and should not go back. If it does, the entry
/// counts as accepted together with the newest one, so that the queue stays sorted.
#[derive(Debug)]
pub struct Buffer<T> {
    limits: Limits,
    /// Sorted by `accepted`, oldest at the front.
    entries: VecDeque<Entry<T>>,
    /// The sum over `entries`; changed by `added`, `removed` and `resize` only.
    total: Size,
}

impl<T> Buffer<T> {
    /// An empty buffer. Allocates with the first push.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self { limits, entries: VecDeque::new(), total: Size { count: 0, bytes: 0 } }
    }

    /// The limits of this buffer.
    #[must_use]
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// Adds an item at the back and returns the entries that must leave, oldest first.
    ///
    /// No entry leaves while the limits hold. If the item would exceed one of them, the oldest entries leave together
    /// until at most 75 % of that limit are taken, so that a caller which writes them to a disk does so in few large
    /// pieces. The new item stays, unless it is larger than the whole buffer: then it alone leaves. O(1), plus the
    /// entries that leave.
    #[must_use = "what is returned has left the buffer"]
    pub fn push(&mut self, item: T, size: Size, now: Instant) -> Vec<Entry<T>> {
        self.push_beside(item, size, Size::default(), now)
    }

    /// [`push`](Self::push), with `away` counted against the limits too: the size of the entries that the caller has
    /// taken and not finished yet, such as batches in flight or being written.
    ///
    /// An item that does not fit beside `away`, even into an empty buffer, leaves alone; the others stay.
    #[must_use = "what is returned has left the buffer"]
    pub fn push_beside(&mut self, item: T, size: Size, away: Size, now: Instant) -> Vec<Entry<T>> {
        let accepted = self.entries.back().map_or(now, |newest| newest.accepted.max(now));
        let entry = Entry { item, size, accepted, calls: 0 };
        let fixed = sum(size, away);
        if !self.limits.admit(fixed) {
            return vec![entry];
        }
        let target = self.limits.after_eviction(sum(fixed, self.total));
        let mut leaving = Vec::new();
        while !target.admit(sum(fixed, self.total)) {
            match self.take() {
                Some(oldest) => leaving.push(oldest),
                None => break, // alone it may take more than the target, as it is within the limits
            }
        }
        self.added(size);
        self.entries.push_back(entry);
        leaving
    }

    /// Takes the oldest entry. O(1).
    pub fn take(&mut self) -> Option<Entry<T>> {
        let entry = self.entries.pop_front()?;
        self.removed(entry.size);
        Some(entry)
    }

    /// Takes the oldest entry for which `wanted` returns `true`; the others stay in their places. O(entries before it).
    pub fn take_where(&mut self, wanted: impl FnMut(&Entry<T>) -> bool) -> Option<Entry<T>> {
        let index = self.entries.iter().position(wanted)?;
        let entry = self.entries.remove(index)?;
        self.removed(entry.size);
        Some(entry)
    }

    /// Takes every entry for which `wanted` returns `true`, oldest first; the others stay in their places. O(all
    /// entries), however many are taken.
    #[must_use = "what is returned has left the buffer"]
    pub fn take_all_where(&mut self, mut wanted: impl FnMut(&Entry<T>) -> bool) -> Vec<Entry<T>> {
        let Some(first) = self.entries.iter().position(&mut wanted) else { return Vec::new() };
        let mut taken = Vec::new();
        let mut rest = self.entries.split_off(first);
        taken.extend(rest.pop_front());
        for entry in rest {
            if wanted(&entry) {
                taken.push(entry);
            } else {
                self.entries.push_back(entry);
            }
        }
        taken.iter().for_each(|entry| self.removed(entry.size));
        taken
    }

    /// Puts back an entry that was taken, to its place by age: the front, if it is the oldest. Its time of acceptance
    /// and its number of calls do not change.
    ///
    /// No entry leaves for it, so the limits may be exceeded until the next push; not for callers that pass the entries
    /// they have taken as `away` to [`push_beside`](Self::push_beside). O(1) at the front, else O(log n) to find the
    /// place.
    pub fn give_back(&mut self, entry: Entry<T>) {
        self.added(entry.size);
        match self.entries.front() {
            Some(front) if front.accepted < entry.accepted => {
                let index = self.entries.partition_point(|other| other.accepted < entry.accepted);
                self.entries.insert(index, entry);
            }
            _ => self.entries.push_front(entry),
        }
    }

    /// Takes all entries whose age has reached the limit, oldest first.
    #[must_use = "what is returned has left the buffer"]
    pub fn expire(&mut self, now: Instant) -> Vec<Entry<T>> {
        let mut leaving = Vec::new();
        while let Some(oldest) = self.entries.front() {
            if now.saturating_duration_since(oldest.accepted) < self.limits.max_age {
                break;
            }
            leaving.extend(self.take());
        }
        leaving
    }

    /// Takes all entries, oldest first.
    #[must_use = "what is returned has left the buffer"]
    pub fn drain(&mut self) -> Vec<Entry<T>> {
        self.total = Size::default();
        self.entries.drain(..).collect()
    }

    /// When [`expire`](Self::expire) will next return an entry; `None` if the buffer is empty or the limit is never
    /// reached.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        self.entries.front()?.accepted.checked_add(self.limits.max_age)
    }

    /// The number, the size and the age of the waiting entries. O(1).
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        Snapshot {
            batches: self.entries.len(),
            count: self.total.count,
            bytes: self.total.bytes,
            oldest_age: self.entries.front().map(|oldest| now.saturating_duration_since(oldest.accepted)),
        }
    }

    /// The size of all waiting entries. O(1).
    #[must_use]
    pub const fn total(&self) -> Size {
        self.total
    }

    /// The number of waiting entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no entry waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The items of all entries, oldest first, to be changed in place; sizes and ages stay.
    pub fn items_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut T> + ExactSizeIterator {
        self.entries.iter_mut().map(|entry| &mut entry.item)
    }

    /// Changes items in place together with their sizes: `change` gets each item, oldest first, with its size, and
    /// returns the size that it has from now on. Places and ages stay.
    ///
    /// No entry leaves, so an item that grows may exceed the limits until the next push. O(all entries).
    ///
    /// ```
    /// use std::time::Instant;
    ///
    /// use span_buffer::{Buffer, Limits, Size};
    ///
    /// let mut buffer = Buffer::new(Limits::default());
    /// let left = buffer.push("a long text", Size { count: 1, bytes: 11 }, Instant::now());
    /// assert!(left.is_empty());
    /// buffer.resize(|text, size| {
    ///     *text = &text[2..6];
    ///     Size { bytes: text.len(), ..size }
    /// });
    /// assert_eq!((buffer.take().map(|entry| entry.item), buffer.total().bytes), (Some("long"), 0));
    /// ```
    pub fn resize(&mut self, mut change: impl FnMut(&mut T, Size) -> Size) {
        let mut total = Size::default();
        for entry in &mut self.entries {
            entry.size = change(&mut entry.item, entry.size);
            total = sum(total, entry.size);
        }
        self.total = total;
    }

    /// All entries, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Entry<T>> + ExactSizeIterator {
        self.entries.iter()
    }

    fn added(&mut self, size: Size) {
        self.total = sum(self.total, size);
    }

    fn removed(&mut self, size: Size) {
        self.total.count = self.total.count.saturating_sub(size.count);
        self.total.bytes = self.total.bytes.saturating_sub(size.bytes);
    }
}

impl Limits {
    fn admit(&self, size: Size) -> bool {
        size.count <= self.max_count && size.bytes <= self.max_bytes
    }

    /// The limits that apply once `wanted` exceeds some of `self`: 75 % of each of these.
    fn after_eviction(&self, wanted: Size) -> Self {
        let reduced = |limit: usize, wanted: usize| if wanted > limit { limit - limit / 4 } else { limit };
        Self {
            max_count: reduced(self.max_count, wanted.count),
            max_bytes: reduced(self.max_bytes, wanted.bytes),
            max_age: self.max_age,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_count: 10_000, max_bytes: 10 << 20, max_age: Duration::from_secs(300) }
    }
}

fn sum(a: Size, b: Size) -> Size {
    Size { count: a.count.saturating_add(b.count), bytes: a.bytes.saturating_add(b.bytes) }
}

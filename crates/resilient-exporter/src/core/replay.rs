//! One group of stored batches on its way back to the collector. Pure.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use otlp_payload::Payload;
use otlp_transport::Cause;

use crate::seams::fates::{Fate, Refusal};

/// A part of a stored batch that can be sent: the whole of it, or what a split left.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) batch: usize,
    pub(crate) payload: Payload,
    /// Failures of its own: see `MAX_FAILURES`.
    pub(crate) failures: u32,
    /// How the others fared when it failed last.
    seen: Others,
}

/// What tells a batch that fails from a collector that does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Others {
    /// Calls that succeeded.
    pub(crate) successes: u64,
    /// How often the breaker opened.
    pub(crate) trips: u64,
}

impl Piece {
    /// One more failure. It is the batch's own if others succeeded since the last one; where the breaker opened in
    /// between, the collector was away, and nothing of what came before counts.
    pub(crate) fn failed(&mut self, others: Others) {
        if others.trips != self.seen.trips {
            self.failures = 0;
        } else if others.successes > self.seen.successes {
            self.failures += 1;
        }
        self.seen = others;
    }
}

/// A stored batch that fails this often while others succeed becomes a dead letter: the first call and five retries, as
/// for live batches.
pub(crate) const MAX_FAILURES: u32 = 6;

struct Account {
    pieces: usize,
    delivered: usize,
    rejected: usize,
    refused: Vec<Refusal>,
}

/// The batches of one group, what is still to be sent of them, and what became of the rest.
pub(crate) struct Group {
    accounts: Vec<Account>,
    queue: VecDeque<Piece>,
}

impl Group {
    pub(crate) fn new(batches: Vec<Payload>, others: Others) -> Self {
        let accounts =
            batches.iter().map(|_| Account { pieces: 1, delivered: 0, rejected: 0, refused: Vec::new() }).collect();
        let queue = batches
            .into_iter()
            .enumerate()
            .map(|(batch, payload)| Piece { batch, payload, failures: 0, seen: others })
            .collect();
        Self { accounts, queue }
    }

    pub(crate) fn has_next(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(crate) fn next(&mut self) -> Option<Piece> {
        self.queue.pop_front()
    }

    /// To the end of the queue: a piece that failed lets the others go first.
    pub(crate) fn give_back(&mut self, piece: Piece) {
        self.queue.push_back(piece);
    }

    pub(crate) fn delivered(&mut self, piece: &Piece, rejected: usize) {
        let account = &mut self.accounts[piece.batch];
        account.pieces -= 1;
        account.delivered += piece.payload.span_count() - rejected;
        account.rejected += rejected;
    }

    pub(crate) fn refused(&mut self, piece: Piece, cause: Cause, attempts: u32, permanent: bool) {
        let account = &mut self.accounts[piece.batch];
        account.pieces -= 1;
        account.refused.push(Refusal { payload: piece.payload, cause, attempts, permanent });
    }

    pub(crate) fn split(&mut self, piece: &Piece, left: Payload, right: Payload) {
        self.accounts[piece.batch].pieces += 1;
        for payload in [right, left] {
            self.queue.push_front(Piece { batch: piece.batch, payload, failures: 0, seen: piece.seen });
        }
    }

    /// Every batch has its answer.
    pub(crate) fn finished(&self) -> bool {
        self.accounts.iter().all(|account| account.pieces == 0)
    }

    /// Spans that the collector has of batches that have not ended.
    pub(crate) fn delivered_in_part(&self) -> usize {
        self.accounts.iter().filter(|account| account.pieces > 0).map(|account| account.delivered).sum()
    }

    /// What became of each batch, in the order in which they were read.
    pub(crate) fn into_fates(self) -> Vec<Fate> {
        self.accounts
            .into_iter()
            .map(|account| match account.pieces {
                // A batch of which a part was delivered and a part was not stays whole: at least once.
                1.. => Fate::Kept,
                0 => Fate::Finished {
                    delivered: account.delivered,
                    rejected: account.rejected,
                    refused: account.refused,
                },
            })
            .collect()
    }
}

/// How much is read for one group. A crash in the middle of a group repeats what was delivered of it, since its mark is written when all of
/// it has an answer: so a group is as large as what the collector takes in about 100 ms.
#[derive(Debug)]
pub(crate) struct GroupSize {
    bytes: usize,
}

impl GroupSize {
    const LEAST: usize = 64 * 1_024;
    const MOST: usize = 4 * 1_024 * 1_024;

    /// What acknowledged spans wait for their mark, at most, as in the journal.
    const TIME: Duration = Duration::from_millis(100);

    pub(crate) fn new() -> Self {
        Self { bytes: Self::LEAST }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The last group took so long, from when it was read until its last answer.
    pub(crate) fn took(&mut self, time: Duration) {
        let bytes = match time {
            time if time <= Self::TIME / 2 => self.bytes * 2,
            time if time <= Self::TIME => self.bytes,
            time => (self.bytes as f64 * Self::TIME.div_duration_f64(time)) as usize,
        };
        self.bytes = bytes.clamp(Self::LEAST, Self::MOST);
    }
}

/// Spaces replay out to a number of spans a second.
pub(crate) struct Pace {
    rate: Option<NonZeroU32>,
    next: Option<Instant>,
}

impl Pace {
    pub(crate) fn new(rate: Option<NonZeroU32>) -> Self {
        Self { rate, next: None }
    }

    /// When the next piece may go out, if that is still to come.
    pub(crate) fn waits_until(&self, now: Instant) -> Option<Instant> {
        self.next.filter(|&next| now < next)
    }

    pub(crate) fn sent(&mut self, spans: usize, now: Instant) {
        if let Some(rate) = self.rate {
            let took = Duration::from_secs_f64(spans as f64 / f64::from(rate.get()));
            self.next = Some(self.next.map_or(now, |next| next.max(now)) + took);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_what_the_collector_takes_in_100_ms() {
        let mut size = GroupSize::new();
        // A kilobyte takes so many microseconds.
        for (micros, bytes) in
            [(1, 4_096 * 1_024..=4_096 * 1_024), (200, 250 * 1_024..=512 * 1_024), (9_000, 65_536..=65_536)]
        {
            for _ in 0..20 {
                size.took(Duration::from_micros(size.bytes() as u64 / 1_024 * micros));
            }
            assert!(bytes.contains(&size.bytes()), "{micros} us: {}", size.bytes());
        }
        size.took(Duration::ZERO);
        assert_eq!(size.bytes(), 2 * 65_536, "it grows again");
    }
}

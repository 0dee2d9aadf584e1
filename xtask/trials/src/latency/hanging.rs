//! A user's own storage whose writes hang while a test holds the lock of the disk.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use otlp_payload::{BatchId, Payload};
use resilient_exporter::{
    Change, Fallback, FallbackError, Fate, Journal, JournalError, JournalUsage, Order, ReadBack, Recovered, Stored,
    StoredBatch, Usage,
};

/// Waits until no test holds the disk.
fn wait_for(disk: &Mutex<()>) {
    drop(disk.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Keeps batches in memory.
pub(super) struct HangingFallback {
    disk: Arc<Mutex<()>>,
    batches: VecDeque<StoredBatch>,
    reading: usize,
}

impl HangingFallback {
    pub(super) fn new(disk: &Arc<Mutex<()>>) -> Self {
        Self { disk: Arc::clone(disk), batches: VecDeque::new(), reading: 0 }
    }
}

impl Fallback for HangingFallback {
    fn usage(&self) -> Usage {
        let spans = self.batches.iter().map(|batch| batch.spans as u64).sum();
        Usage { files: self.batches.len() as u64, spans, bytes: 0 }
    }

    fn store(&mut self, batches: &[Payload], _: SystemTime) -> Result<Stored, FallbackError> {
        wait_for(&self.disk);
        let stored = |batch: &Payload| StoredBatch::new(batch.bytes().clone(), batch.item_count());
        self.batches.extend(batches.iter().map(stored));
        Ok(Stored { name: "memory".to_owned() })
    }

    fn read(&mut self, _: Order, max_bytes: usize) -> Result<ReadBack, FallbackError> {
        wait_for(&self.disk);
        let mut bytes = 0;
        let fits = |batch: &&StoredBatch| {
            bytes += batch.request.len();
            bytes <= max_bytes.max(batch.request.len())
        };
        let group: Vec<_> = self.batches.iter().take_while(fits).cloned().collect();
        self.reading = group.len();
        Ok(if group.is_empty() { ReadBack::Empty } else { ReadBack::Group(group) })
    }

    fn settle(&mut self, fates: &[Fate]) -> Result<(), FallbackError> {
        let read: Vec<_> = self.batches.drain(..self.reading).collect();
        self.reading = 0;
        for (batch, fate) in read.into_iter().zip(fates) {
            if let Fate::Pending(_) = fate {
                self.batches.push_back(batch);
            }
        }
        Ok(())
    }

    fn clean_up(&mut self, _: SystemTime) {}

    fn changes(&mut self) -> Vec<Change> {
        Vec::new()
    }
}

/// Keeps nothing but the number of batches that are not done.
pub(super) struct HangingJournal {
    disk: Arc<Mutex<()>>,
    batches: u64,
}

impl HangingJournal {
    pub(super) fn new(disk: &Arc<Mutex<()>>) -> Self {
        Self { disk: Arc::clone(disk), batches: 0 }
    }
}

impl Journal for HangingJournal {
    fn incarnation(&self) -> u64 {
        1
    }

    fn append(&mut self, _: &Payload) -> Result<(), JournalError> {
        wait_for(&self.disk);
        self.batches += 1;
        Ok(())
    }

    fn done(&mut self, ids: &[BatchId]) -> Result<(), JournalError> {
        self.batches = self.batches.saturating_sub(ids.len() as u64);
        Ok(())
    }

    fn announce(&mut self, _: &str, _: &[BatchId]) -> Result<(), JournalError> {
        Ok(())
    }

    fn take_back(&mut self, _: &[BatchId]) -> Result<(), JournalError> {
        Ok(())
    }

    fn sync(&mut self) -> Result<(), JournalError> {
        wait_for(&self.disk);
        Ok(())
    }

    fn found(&mut self) -> u64 {
        0
    }

    fn next_recovered(&mut self, _: SystemTime) -> Recovered {
        Recovered::End
    }

    fn maintain(&mut self, _: &mut dyn FnMut(&str) -> io::Result<bool>) -> Result<(), JournalError> {
        Ok(())
    }

    fn usage(&self) -> JournalUsage {
        JournalUsage { batches: self.batches, bytes: 0, max_bytes: 0 }
    }
}

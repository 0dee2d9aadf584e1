//! The fallback of an exporter that has a journal alone: it stores no batch.

use std::time::{Duration, SystemTime};

use otlp_payload::Payload;

use crate::seams::fallback::{Change, Fallback, FallbackError, Order, ReadBack, Stored, Usage};
use crate::seams::fates::Fate;

pub(crate) struct NoFallback;

impl Fallback for NoFallback {
    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn store(&mut self, _batches: &[Payload], _now: SystemTime) -> Result<Stored, FallbackError> {
        Err(FallbackError::new("there is no fallback"))
    }

    fn read(&mut self, _order: Order, _max_bytes: usize) -> Result<ReadBack, FallbackError> {
        Ok(ReadBack::Empty)
    }

    fn settle(&mut self, _fates: &[Fate]) -> Result<(), FallbackError> {
        Ok(())
    }

    fn clean_up(&mut self, _now: SystemTime) {}

    fn next_clean_up(&self) -> Option<Duration> {
        None
    }

    fn changes(&mut self) -> Vec<Change> {
        Vec::new()
    }
}

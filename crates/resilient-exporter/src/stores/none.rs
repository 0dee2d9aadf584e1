//! The fallback of an exporter that has a journal alone.

use std::time::SystemTime;

use bytes::Bytes;
use otlp_payload::Payload;

use crate::seams::fallback::{Change, Fallback, FallbackError, Kept, Stored};
use crate::seams::fates::Fate;

/// For a disk thread that has only a journal to look after.
pub(crate) struct NoFallback;

impl Fallback for NoFallback {
    fn kept(&self) -> Kept {
        Kept::default()
    }

    fn keep(&mut self, _batches: &[Payload], _now: SystemTime) -> Result<Stored, FallbackError> {
        Err(FallbackError::new("there is no fallback"))
    }

    fn read(&mut self, _max_bytes: usize) -> Result<Vec<(Bytes, usize)>, FallbackError> {
        Ok(Vec::new())
    }

    fn finish(&mut self, _fates: &[Fate]) -> Result<(), FallbackError> {
        Ok(())
    }

    fn clean_up(&mut self, _now: SystemTime) {}

    fn changes(&mut self) -> Vec<Change> {
        Vec::new()
    }
}

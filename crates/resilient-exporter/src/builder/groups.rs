//! The methods that change the settings of one struct each.

use super::Builder;
use crate::seams::settings::{
    Breaker, Buffer, DeadLetters, Durability, Failover, Files, Processor, Replay, Requests, Retry, Settings, Shutdown,
    Threads,
};

/// Settings.
impl Builder {
    /// Replaces all settings.
    pub fn with_settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Changes settings of the buffer in memory.
    pub fn buffer(mut self, change: impl FnOnce(&mut Buffer)) -> Self {
        change(&mut self.settings.buffer);
        self
    }

    /// Changes settings of the circuit breaker.
    pub fn circuit_breaker(mut self, change: impl FnOnce(&mut Breaker)) -> Self {
        change(&mut self.settings.circuit_breaker);
        self
    }

    /// Changes settings of the failover to other collectors.
    pub fn failover(mut self, change: impl FnOnce(&mut Failover)) -> Self {
        change(&mut self.settings.failover);
        self
    }

    /// Changes settings of the retries.
    pub fn retry(mut self, change: impl FnOnce(&mut Retry)) -> Self {
        change(&mut self.settings.retry);
        self
    }

    /// Changes settings of a request.
    pub fn request(mut self, change: impl FnOnce(&mut Requests)) -> Self {
        change(&mut self.settings.request);
        self
    }

    /// Changes settings of the fallback files.
    pub fn fallback(mut self, change: impl FnOnce(&mut Files)) -> Self {
        change(&mut self.settings.fallback);
        self
    }

    /// Changes settings of durable mode.
    pub fn journal(mut self, change: impl FnOnce(&mut Durability)) -> Self {
        change(&mut self.settings.journal);
        self
    }

    /// Changes settings of dead letters.
    pub fn dead_letter(mut self, change: impl FnOnce(&mut DeadLetters)) -> Self {
        change(&mut self.settings.dead_letter);
        self
    }

    /// Changes settings of the replay.
    pub fn replay(mut self, change: impl FnOnce(&mut Replay)) -> Self {
        change(&mut self.settings.replay);
        self
    }

    /// Changes settings of the shutdown.
    pub fn shutdown(mut self, change: impl FnOnce(&mut Shutdown)) -> Self {
        change(&mut self.settings.shutdown);
        self
    }

    /// Changes settings of the [`ResilientSpanProcessor`](crate::ResilientSpanProcessor).
    pub fn processor(mut self, change: impl FnOnce(&mut Processor)) -> Self {
        change(&mut self.settings.processor);
        self
    }

    /// Changes settings of the exporter's threads.
    pub fn threads(mut self, change: impl FnOnce(&mut Threads)) -> Self {
        change(&mut self.settings.threads);
        self
    }
}

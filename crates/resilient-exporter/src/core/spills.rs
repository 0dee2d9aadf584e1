//! Batches on their way from memory to fallback files. The disk thread writes one file at a time; the batches behind it
//! wait here, so that they share files, and return to memory together when a write fails.

use std::collections::VecDeque;

use otlp_payload::Payload;
use span_buffer::Entry;

/// Payload bytes of one file, about: 8 MiB of JSON text, which takes 2.2 times the bytes of its protobuf.
const FILE_BYTES: usize = 8 * 1_024 * 1_024 * 10 / 22;

#[derive(Default)]
pub(super) struct Spills {
    files: VecDeque<File>,
    is_writing: bool,
}

struct File {
    entries: Vec<Entry<Payload>>,
    bytes: usize,
    /// One half of a file that the store refused: takes no further batch.
    is_half: bool,
}

impl Spills {
    /// Adds batches behind those that wait.
    pub(super) fn push(&mut self, entries: Vec<Entry<Payload>>) {
        for entry in entries {
            match self.files.back_mut() {
                Some(file) if !file.is_half && file.bytes.saturating_add(entry.size.bytes) <= FILE_BYTES => {
                    file.bytes += entry.size.bytes;
                    file.entries.push(entry);
                }
                _ => self.files.push_back(File { bytes: entry.size.bytes, entries: vec![entry], is_half: false }),
            }
        }
    }

    /// The next file to write, unless the disk thread still has one.
    pub(super) fn next_file(&mut self) -> Option<Vec<Entry<Payload>>> {
        if self.is_writing {
            return None;
        }
        let file = self.files.pop_front()?;
        self.is_writing = true;
        Some(file.entries)
    }

    /// The disk thread has written its file.
    pub(super) fn on_written(&mut self) {
        self.is_writing = false;
    }

    /// The store works, but refuses these batches together: each half is tried alone. Returns a batch that is alone
    /// already.
    pub(super) fn on_refused(&mut self, mut entries: Vec<Entry<Payload>>) -> Option<Entry<Payload>> {
        self.is_writing = false;
        if entries.len() < 2 {
            return entries.pop();
        }
        let second = entries.split_off(entries.len() / 2);
        for entries in [second, entries] {
            let bytes = entries.iter().map(|entry| entry.size.bytes).sum();
            self.files.push_front(File { entries, bytes, is_half: true });
        }
        None
    }

    #[cfg(test)]
    pub(super) fn waiting_spans(&self) -> usize {
        self.files.iter().flat_map(|file| &file.entries).map(|entry| entry.size.count).sum()
    }

    /// The store failed: returns the failed batches and all behind them, which would fail too.
    pub(super) fn on_failed(&mut self, mut entries: Vec<Entry<Payload>>) -> Vec<Entry<Payload>> {
        self.is_writing = false;
        entries.extend(self.files.drain(..).flat_map(|file| file.entries));
        entries
    }
}

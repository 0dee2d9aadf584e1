//! Batches on their way from memory to fallback files. The disk thread writes one file at a time; the batches behind it
//! wait here, so that they share files, and return to memory together when a write fails.

use std::collections::VecDeque;

use span_buffer::Entry;

use super::batch::Batch;

/// Payload bytes of one file, about: 8 MiB of JSON text, which takes 2.2 times the bytes of its protobuf.
const FILE_BYTES: usize = 8 * 1_024 * 1_024 * 10 / 22;

#[derive(Default)]
pub(super) struct Spills {
    files: VecDeque<File>,
    is_writing: bool,
}

/// The next step with batches that the store refused.
pub(super) enum Refused {
    /// Each half is a file of its own.
    Halved,
    /// The store refused one batch alone.
    Single(Box<Entry<Batch>>),
}

struct File {
    entries: Vec<Entry<Batch>>,
    bytes: usize,
    /// One half of a file that the store refused: takes no further batch.
    is_half: bool,
}

impl Spills {
    /// Adds batches behind those that wait.
    pub(super) fn push(&mut self, entries: Vec<Entry<Batch>>) {
        for entry in entries {
            match self.files.back_mut() {
                Some(file)
                    if !file.is_half && file.bytes.saturating_add(entry.item.payload.request_len()) <= FILE_BYTES =>
                {
                    file.bytes += entry.item.payload.request_len();
                    file.entries.push(entry);
                }
                _ => {
                    let bytes = entry.item.payload.request_len();
                    self.files.push_back(File { entries: vec![entry], bytes, is_half: false });
                }
            }
        }
    }

    /// The next file to write, unless the disk thread still has one.
    pub(super) fn next_file(&mut self) -> Option<Vec<Entry<Batch>>> {
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

    /// The store works, but refuses these batches together: each half is tried alone.
    pub(super) fn on_refused(&mut self, mut entries: Vec<Entry<Batch>>) -> Refused {
        self.is_writing = false;
        if entries.len() < 2 {
            return entries.pop().map_or(Refused::Halved, |entry| Refused::Single(Box::new(entry)));
        }
        let second = entries.split_off(entries.len() / 2);
        self.push_halves([entries, second]);
        Refused::Halved
    }

    /// Adds the halves of what the store refused before all that waits.
    pub(super) fn push_halves(&mut self, halves: [Vec<Entry<Batch>>; 2]) {
        for entries in halves.into_iter().rev().filter(|entries| !entries.is_empty()) {
            let bytes = request_bytes(&entries);
            self.files.push_front(File { entries, bytes, is_half: true });
        }
    }

    /// Takes the batches behind the file that the disk thread writes which need no file: memory has no room.
    pub(super) fn take_excess(&mut self, mut wanted: impl FnMut(&Entry<Batch>) -> bool) -> Vec<Entry<Batch>> {
        let mut excess = Vec::new();
        for file in &mut self.files {
            let before = excess.len();
            excess.extend(file.entries.extract_if(.., |entry| wanted(entry)));
            file.bytes -= request_bytes(&excess[before..]);
        }
        self.files.retain(|file| !file.entries.is_empty());
        excess
    }

    /// The batches behind the file that the disk thread writes.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Entry<Batch>> {
        self.files.iter().flat_map(|file| &file.entries)
    }

    /// The disk thread writes a file.
    pub(super) fn is_writing(&self) -> bool {
        self.is_writing
    }

    pub(super) fn waiting_spans(&self) -> usize {
        self.waiting().map(|entry| entry.size.count).sum()
    }

    /// The store failed: returns the failed batches and all behind them, which would fail too.
    pub(super) fn on_failed(&mut self, mut entries: Vec<Entry<Batch>>) -> Vec<Entry<Batch>> {
        self.is_writing = false;
        entries.extend(self.files.drain(..).flat_map(|file| file.entries));
        entries
    }
}

/// The bytes of the batches' requests, of which a file is made.
fn request_bytes(entries: &[Entry<Batch>]) -> usize {
    entries.iter().map(|entry| entry.item.payload.request_len()).sum()
}

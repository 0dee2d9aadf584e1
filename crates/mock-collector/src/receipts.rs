//! Receipts: counts, ids, and the record that outlives the process.

use std::collections::{HashSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The trace id and the span id of one span. An id that was empty on the wire is all zeros.
pub type SpanIds = ([u8; 16], [u8; 8]);

/// Bytes of one span in a record: trace id, then span id.
const RECORD_BYTES: usize = 24;

/// Counts since the start: `spans = unique + duplicates + untracked`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Received {
    /// Spans taken, each time they came.
    pub spans: u64,
    /// Different spans, by trace id and span id.
    pub unique: u64,
    /// Spans that had been taken before.
    pub duplicates: u64,
    /// Spans that arrived beyond the limit on kept ids, new ones and duplicates of these.
    pub untracked: u64,
    /// Requests that were read to their end, with any answer.
    pub requests: u64,
    /// Requests refused by the collector's own rules: too large, malformed, unknown path, type or encoding.
    pub refused: u64,
    /// Connections accepted.
    pub connections: u64,
}

/// Over which port a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP/gRPC.
    Grpc,
    /// OTLP/HTTP with protobuf.
    Http,
}

/// A request as it came, kept if [`Builder::with_kept_requests`](crate::Builder::with_kept_requests) asks for it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Request {
    /// Over which port it came.
    pub protocol: Protocol,
    /// Headers or metadata in the order of arrival; a value that is no text is written with replacement characters.
    pub headers: Vec<(String, String)>,
    /// Bytes of the message on the wire: compressed, if it was, and without the gRPC prefix.
    pub wire_bytes: usize,
    /// The decompressed `ExportTraceServiceRequest`.
    pub body: Bytes,
}

impl Request {
    /// The first header of this name, in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Reads a record back: the ids in the order of arrival, duplicates included. A part of an id at the end, torn by a
/// kill in the middle of a write, was never answered for and is left out.
///
/// # Errors
///
/// When the file cannot be read.
pub fn read_record(path: impl AsRef<Path>) -> io::Result<Vec<SpanIds>> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    let (ids, _torn) = bytes.as_chunks::<RECORD_BYTES>();
    Ok(ids.iter().map(split).collect())
}

fn split(id: &[u8; RECORD_BYTES]) -> SpanIds {
    let (mut trace, mut span) = ([0; 16], [0; 8]);
    trace.copy_from_slice(&id[..16]);
    span.copy_from_slice(&id[16..]);
    (trace, span)
}

/// The books behind the lock.
#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) received: Received,
    ids: HashSet<SpanIds>,
    id_limit: usize,
    record: Option<File>,
    kept: VecDeque<Request>,
    keep: usize,
}

impl Book {
    pub(crate) fn new(id_limit: usize, keep: usize, record: Option<&Path>) -> io::Result<Self> {
        let record = record.map(|path| OpenOptions::new().create(true).append(true).open(path)).transpose()?;
        let (received, ids, kept) = (Received::default(), HashSet::new(), VecDeque::new());
        Ok(Self { received, ids, id_limit, record, kept, keep })
    }

    /// Takes spans: record first, so that nothing is counted which a killed process would not have left behind.
    pub(crate) fn take(&mut self, ids: &[SpanIds]) -> io::Result<()> {
        if let Some(record) = self.record.as_mut().filter(|_| !ids.is_empty()) {
            let mut bytes = Vec::with_capacity(ids.len() * RECORD_BYTES);
            for (trace, span) in ids {
                bytes.extend_from_slice(trace);
                bytes.extend_from_slice(span);
            }
            record.write_all(&bytes)?; // the kernel has it: it survives this process, though not a power cut
        }
        for id in ids {
            self.received.spans += 1;
            if self.ids.contains(id) {
                self.received.duplicates += 1;
            } else if self.ids.len() < self.id_limit {
                self.ids.insert(*id);
                self.received.unique += 1;
            } else {
                self.received.untracked += 1;
            }
        }
        Ok(())
    }

    pub(crate) fn keep(&mut self, request: Request) {
        if self.keep > 0 {
            self.kept.truncate(self.keep - 1);
            self.kept.push_front(request);
        }
    }

    pub(crate) fn kept(&self) -> Vec<Request> {
        self.kept.iter().rev().cloned().collect()
    }

    pub(crate) fn ids(&self) -> &HashSet<SpanIds> {
        &self.ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> SpanIds {
        ([n; 16], [n; 8])
    }

    #[test]
    fn counts_tell_new_from_known_from_untracked() {
        let mut book = Book::new(2, 0, None).expect("no file to open");
        book.take(&[id(1), id(2), id(1)]).expect("no record");
        book.take(&[id(3), id(2)]).expect("no record");
        let Received { spans, unique, duplicates, untracked, .. } = book.received;
        assert_eq!((spans, unique, duplicates, untracked), (5, 2, 2, 1));
        assert!(book.ids().contains(&id(2)) && !book.ids().contains(&id(3)));
    }

    #[test]
    fn record_is_appended_and_read_back_without_a_torn_end() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("record");
        Book::new(9, 0, Some(&path)).expect("opens").take(&[id(1), id(2)]).expect("written");
        Book::new(9, 0, Some(&path)).expect("opens again").take(&[id(1)]).expect("written");
        OpenOptions::new().append(true).open(&path).expect("opens").write_all(&[7; 23]).expect("torn");
        assert_eq!(read_record(&path).expect("readable"), [id(1), id(2), id(1)]);
    }
}

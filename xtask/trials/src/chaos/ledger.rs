//! The outside ledger: the batches that the application handed over, and the answers of `export`. One file a life, only
//! ever appended to, in plain writes: the process dies, the kernel does not.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use crate::SpanIds;

/// Kind, three zeros, number of ids, number of the batch; the ids follow, 24 bytes each.
const HEAD: usize = 16;
const ID: usize = 24;

/// The answer of `export`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// `Ok`, and the exporter did not report a batch that is not on disk.
    Accepted,
    /// `Ok`, and meanwhile the exporter counted a batch that is in memory only.
    Volatile,
    /// An error: nothing is promised.
    Refused,
}

/// Writes it.
#[derive(Debug)]
pub(super) struct Writer {
    file: File,
}

impl Writer {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: OpenOptions::new().create_new(true).append(true).open(path)? })
    }

    /// Before a batch is handed over.
    pub(super) fn offered(&self, batch: u64, ids: &[SpanIds]) -> io::Result<()> {
        let mut record = head(b'o', ids.len(), batch);
        for (trace, span) in ids {
            record.extend_from_slice(trace);
            record.extend_from_slice(span);
        }
        (&self.file).write_all(&record)
    }

    /// After `export` returned.
    pub(super) fn answered(&self, batch: u64, answer: Answer) -> io::Result<()> {
        let kind = match answer {
            Answer::Accepted => b'a',
            Answer::Volatile => b'v',
            Answer::Refused => b'r',
        };
        (&self.file).write_all(&head(kind, 0, batch))
    }
}

fn head(kind: u8, ids: usize, batch: u64) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEAD + ids * ID);
    record.extend_from_slice(&[kind, 0, 0, 0]);
    record.extend_from_slice(&u32::try_from(ids).expect("a batch of the SDK").to_le_bytes());
    record.extend_from_slice(&batch.to_le_bytes());
    record
}

/// One batch, as the application saw it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) number: u64,
    pub(super) ids: Vec<SpanIds>,
    /// None: the process died before it could note an answer.
    pub(super) answer: Option<Answer>,
}

/// Reads it back. A record at the end that was torn by the kill counts for nothing: before the torn note of an offer
/// nothing was handed over, and a torn note of an answer promised nothing to a process that is still alive.
///
/// # Errors
///
/// When the file cannot be read, or holds something else before its end. A process that was killed before it began has
/// none.
pub(super) fn read(path: &Path) -> io::Result<Vec<Batch>> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        bytes => bytes?,
    };
    let mut batches: Vec<Batch> = Vec::new();
    let mut rest = bytes.as_slice();
    while let Some((head, after)) = rest.split_at_checked(HEAD) {
        let count = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let number = u64::from_le_bytes(head[8..].try_into().expect("eight bytes"));
        let Some((body, after)) = after.split_at_checked(count * ID) else { break };
        rest = after;
        let answer = match head[0] {
            b'o' => {
                batches.push(Batch { number, ids: body.as_chunks::<ID>().0.iter().map(ids).collect(), answer: None });
                continue;
            }
            b'a' => Answer::Accepted,
            b'v' => Answer::Volatile,
            b'r' => Answer::Refused,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "no record of the outside ledger")),
        };
        if let Some(batch) = batches.iter_mut().rev().find(|batch| batch.number == number) {
            batch.answer = Some(answer);
        }
    }
    Ok(batches)
}

/// Trace id, then span id.
pub(super) fn ids(bytes: &[u8; ID]) -> SpanIds {
    let (trace, span) = bytes.split_at(16);
    (trace.try_into().expect("sixteen bytes"), span.try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_torn_anywhere_says_what_was_whole() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("ledger");
        let id = |n: u8| ([n; 16], [n; 8]);
        let writer = Writer::create(&path).expect("created");
        writer.offered(0, &[id(1), id(2)]).expect("written");
        writer.answered(0, Answer::Accepted).expect("written");
        writer.offered(1, &[id(3)]).expect("written");
        writer.answered(1, Answer::Volatile).expect("written");
        let whole = std::fs::read(&path).expect("readable");
        for len in 0..=whole.len() {
            std::fs::write(&path, &whole[..len]).expect("cut");
            let batches = read(&path).expect("readable");
            let answers: Vec<_> = batches.iter().map(|batch| batch.answer).collect();
            let expected: &[Option<Answer>] = match len {
                0..64 => &[],
                64..80 => &[None],
                80..120 => &[Some(Answer::Accepted)],
                120..136 => &[Some(Answer::Accepted), None],
                _ => &[Some(Answer::Accepted), Some(Answer::Volatile)],
            };
            assert_eq!(answers, expected, "{len} bytes");
        }
        assert_eq!(read(&path).expect("readable")[0].ids, [id(1), id(2)]);
        assert_eq!(read(&dir.path().join("none")).expect("no file is no batch"), []);
    }
}

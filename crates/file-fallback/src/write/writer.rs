//! Enforces the limits for a new file, writes it, publishes it.

use std::io;
use std::time::SystemTime;

use safe_dir::{Directory, Draft, FileError};

use crate::config::Config;
use crate::error::{RecordProblem, SpillError};
use crate::files::Files;
use crate::form::format::{Format, MAX_FILE_RECORDS, MAX_FILE_TEXT};
use crate::form::record::Record;
use crate::limits::evict::Limits;
use crate::outcome::{Evicted, Reason, Spilled};
use crate::write::encode::{Encoded, Encoder};

/// Writes records to one new file for each call.
#[derive(Debug)]
pub(crate) struct Writer {
    encoder: Encoder,
    max_record_bytes: usize,
}

/// The consequence of a full store or disk for a new file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// The oldest files are removed for it.
    EvictOldest,
    /// The new file is refused.
    Refuse,
}

/// The store that a file is written to.
pub(crate) struct Target<'a, D: Directory> {
    pub(crate) files: &'a mut Files<D>,
    pub(crate) limits: &'a mut Limits,
}

impl Writer {
    pub(crate) fn new(config: &Config) -> Self {
        Self { encoder: Encoder::new(config), max_record_bytes: config.max_record_bytes }
    }

    /// Writes the records to one file. `announce` is called with each name that the file may get, before its first byte
    /// is written.
    pub(crate) fn spill<D: Directory>(
        &self,
        mut target: Target<'_, D>,
        records: &[Record],
        now: SystemTime,
        when_full: WhenFull,
        announce: &mut dyn FnMut(&str),
    ) -> Result<Spilled, SpillError> {
        self.check(records)?;
        let text = self.encoder.text_len(records);
        if text > MAX_FILE_TEXT || records.len() as u64 > MAX_FILE_RECORDS {
            return Err(SpillError::TooLarge { bytes: text, max_bytes: MAX_FILE_TEXT });
        }
        let encoded = self.encoder.encode(records).map_err(|source| {
            let path = target.files.dir().path().to_owned();
            SpillError::File { source: FileError::Io { path, action: "compress", source }, evicted: Vec::new() }
        })?;
        let (bytes, max_bytes) = (encoded.len(), target.limits.max_bytes());
        if bytes > max_bytes {
            return Err(SpillError::TooLarge { bytes, max_bytes });
        }
        let counts = records.iter().map(|record| record.count as u64).collect::<Vec<_>>();
        let spilled = target.write(&encoded, &counts, now, when_full, announce);
        if let Err(error) = &spilled
            && !error.evicted().is_empty()
        {
            // The error reports these files as removed: a power cut must not bring them back.
            drop(target.files.dir().sync());
        }
        spilled
    }

    fn check(&self, records: &[Record]) -> Result<(), SpillError> {
        if records.is_empty() {
            return Err(SpillError::Empty);
        }
        let max_record_bytes = self.max_record_bytes;
        for (index, record) in records.iter().enumerate() {
            let is_line = self.encoder.format() == Format::Lines;
            let problem = if record.bytes.is_empty() || is_line && record.bytes.iter().all(u8::is_ascii_whitespace) {
                RecordProblem::Empty
            } else if is_line && record.bytes.contains(&b'\n') {
                RecordProblem::LineFeed
            } else if record.bytes.len() > max_record_bytes {
                RecordProblem::TooLong { bytes: record.bytes.len(), max_record_bytes }
            } else {
                continue;
            };
            return Err(SpillError::Record { index, problem });
        }
        Ok(())
    }
}

impl<D: Directory> Target<'_, D> {
    fn write(
        &mut self,
        encoded: &Encoded<'_>,
        counts: &[u64],
        now: SystemTime,
        when_full: WhenFull,
        announce: &mut dyn FnMut(&str),
    ) -> Result<Spilled, SpillError> {
        let count = counts.iter().copied().fold(0, u64::saturating_add);
        let bytes = encoded.len();
        // Else the removals of old files would seem to succeed one after the other.
        self.files.check_directory().map_err(|source| SpillError::File { source, evicted: Vec::new() })?;
        let written_at = self.limits.time(self.files, now);
        let mut evicted = Vec::new();
        match when_full {
            WhenFull::EvictOldest => self.limits.make_free_space(self.files, bytes, &mut evicted)?,
            WhenFull::Refuse => self.limits.check_fit(self.files, bytes)?,
        }
        let mut attempts = 1;
        let name = loop {
            let name = self.files.new_name(now, count, encoded.extension());
            announce(&name.text);
            match self.publish(&name.text, encoded, when_full, &mut evicted) {
                Ok(()) => break name,
                // Another program has made a file of this name since the start.
                Err(source) if source.is_already_exists() && attempts < MAX_ATTEMPTS => attempts += 1,
                Err(source) => return Err(SpillError::File { source, evicted }),
            }
        };
        self.limits.note_written(written_at, bytes);
        let text = name.text.clone();
        self.files.add(name, bytes, written_at, counts);
        Ok(Spilled { name: text, count, bytes, evicted })
    }

    /// Writes and publishes one file. Where the disk or a quota is full, older files are removed, up to twice the space
    /// that the file needs: if that does not help, another program takes the space.
    fn publish(
        &mut self,
        name: &str,
        encoded: &Encoded<'_>,
        when_full: WhenFull,
        evicted: &mut Vec<Evicted>,
    ) -> Result<(), FileError> {
        let enough = encoded.len().saturating_mul(2).saturating_add(BLOCKS);
        let mut freed = 0_u64;
        loop {
            let source = match self.publish_once(name, encoded, evicted) {
                Ok(()) => return Ok(()),
                Err(source) => source,
            };
            let full = matches!(
                source.io().map(io::Error::kind),
                Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            );
            if when_full == WhenFull::Refuse || !full || freed >= enough {
                return Err(source);
            }
            match self.limits.evict_oldest(self.files, Reason::FreeSpace) {
                Some(Ok(removed)) => {
                    freed = freed.saturating_add(removed.bytes);
                    evicted.push(removed);
                }
                Some(Err(_)) | None => return Err(source),
            }
        }
    }

    fn publish_once(&mut self, name: &str, encoded: &Encoded<'_>, evicted: &mut Vec<Evicted>) -> Result<(), FileError> {
        let draft = Draft::write(self.files.dir(), name, |file| encoded.write_to(file))?;
        // After the draft, because writing it may fail; before it is published, so that the limits hold at every
        // moment.
        match self.limits.enforce(self.files, encoded.len(), evicted) {
            Ok(()) => draft.publish(self.files.dir()),
            Err(error) => {
                // A draft that cannot be discarded is removed by the next start.
                drop(draft.discard(self.files.dir()));
                Err(error)
            }
        }
    }
}

/// The most names that are tried for one file.
const MAX_ATTEMPTS: u32 = 16;

/// Space that counts as found besides twice the size of a file, for the file system's own blocks.
const BLOCKS: u64 = 64 << 10;

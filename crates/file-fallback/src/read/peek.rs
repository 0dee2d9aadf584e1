//! A look into a file of a directory that is not opened as a store.

use std::io;

use safe_dir::{Directory, FileError};

use crate::form::format::Format;
use crate::form::name::FileName;
use crate::read::records::{Item, RecordReader};

/// The record number `index`, from 0, of a file in a directory that is not opened as a store: for a caller that has to
/// know whose records they are before it takes the file over. `None` if the name is none of this signal, or the file
/// has no such record, or damage before it. Changes nothing. Memory: one record.
///
/// # Errors
///
/// If the file cannot be opened or read.
pub fn record_in<D: Directory>(
    dir: &D,
    signal: &str,
    name: &str,
    index: u64,
    max_record_bytes: usize,
) -> Result<Option<(Vec<u8>, Format)>, FileError> {
    let Some(parsed) = FileName::parse(signal, name) else { return Ok(None) };
    let file = dir.open_read(name)?;
    let failed = |source: io::Error| FileError::Io { path: dir.path().join(name), action: "read", source };
    let mut records = RecordReader::new(file, parsed.extension, max_record_bytes).map_err(failed)?;
    let mut number = 0;
    loop {
        match records.next().map_err(failed)? {
            Item::Record(record) if number == index => {
                return Ok(Some((records.text(&record).to_vec(), parsed.extension.format)));
            }
            Item::Record(_) => number += 1,
            Item::Pause | Item::Skipped(None) => {}
            Item::Skipped(Some(_)) | Item::Damage(_) | Item::End => return Ok(None),
        }
    }
}

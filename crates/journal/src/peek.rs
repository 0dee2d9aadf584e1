//! A look into the directory of a journal that is not opened.

use std::io::{Read as _, Seek as _, SeekFrom};

use safe_dir::{Directory, FileError};

use super::frame::{self, Header, Kind, Parsed};
use super::scan::{Found, Subject, scan};
use super::segment::SegmentId;

/// The body of the oldest whole batch in the segments of a directory, whether the batch is done or waits: for a caller
/// that has to know whose batches they are before it opens the journal. Batches with a tag do not count. Changes
/// nothing, and takes no lock. `None` if there is no such batch.
///
/// # Errors
///
/// If the directory or a segment cannot be read.
pub fn first_body<D: Directory>(dir: &D) -> Result<Option<Vec<u8>>, FileError> {
    let names = dir.list()?.into_iter().filter_map(|entry| entry.name.into_string().ok());
    let mut segments: Vec<_> = names.filter_map(|name| Some((SegmentId::parse(&name)?, name))).collect();
    segments.sort();
    for (id, name) in segments {
        let mut file = match dir.open_read(&name) {
            Ok(file) => file,
            Err(error) if error.is_refused() || error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        // A segment of a newer version, or one that cannot be read, has no batch for this code.
        let Ok(read) = scan(&mut file, Subject { id, is_finished: false, known_tags: &[0] }, &mut 0) else { continue };
        for found in read.found {
            let Found::Batch { offset, .. } = found else { continue };
            let mut bytes = [0; frame::HEADER_LEN];
            let failed = |source| FileError::Io { path: dir.path().join(&name), action: "read", source };
            file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(&mut bytes)).map_err(failed)?;
            let Parsed::Header(header) = Header::parse(read.id.salt(), offset, &bytes) else { continue };
            // The scan found this length inside the file.
            let mut body = vec![0; header.body_len as usize];
            file.read_exact(&mut body).map_err(failed)?;
            if header.kind == Kind::Batch && header.accepts(crc32c::crc32c_append(header.body_seed(), &body)) {
                return Ok(Some(body));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use safe_dir::sim::Disk;

    use super::*;
    use crate::{Config, Journal};

    #[test]
    fn the_first_body_is_that_of_the_oldest_batch_and_nothing_changes() {
        let disk = Disk::new();
        assert_eq!(first_body(&disk.root()).expect("readable"), None);
        let (mut journal, _) = Journal::open(disk.root(), Config::default(), 1, |_| Ok(false)).expect("a well disk");
        journal.append((1, 1), 1, b"first").expect("room");
        journal.append((1, 2), 1, b"second").expect("room");
        journal.done(&[(1, 1)]).expect("room");
        journal.sync().expect("a well disk");
        let before = disk.root().list().expect("readable");
        assert_eq!(first_body(&disk.root()).expect("readable").as_deref(), Some(&b"first"[..]));
        assert_eq!(disk.root().list().expect("readable"), before);
    }
}

//! Reading batches back, one at a time.

use std::io::{self, Read as _, Seek as _, SeekFrom};

use safe_dir::{Directory, FileError};

use super::frame::{self, Header, Kind, Parsed};
use super::index::Place;
use super::{Id, Journal, Notice, ReadError};

/// A batch that was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its id.
    pub id: Id,
    /// The number of its items, as given to [`append`](Journal::append).
    pub count: u32,
    /// Its bytes, as given to [`append`](Journal::append).
    pub body: Vec<u8>,
}

impl<D: Directory> Journal<D> {
    /// The next batch that was found at open and is not done since, oldest first; each is returned once. Takes the
    /// memory of this one batch. It stays in the journal, under its old id, until it is [`done`](Self::done).
    ///
    /// # Errors
    ///
    /// [`ReadError::Damaged`]: that batch is lost; go on with the next. [`ReadError::File`]: the batch comes again
    /// behind the others; stop and go on later.
    pub fn next_recovered(&mut self) -> Option<Result<Batch, ReadError>> {
        while let Some(id) = self.to_recover.pop_front() {
            match self.read(id) {
                Err(ReadError::Unknown(_)) => {}
                Err(ReadError::File(error)) => {
                    self.to_recover.push_back(id);
                    return Some(Err(ReadError::File(error)));
                }
                other => return Some(other),
            }
        }
        None
    }

    /// Reads a waiting batch, whether it was found at open or appended since.
    ///
    /// # Errors
    ///
    /// If it does not wait, or cannot be read. A batch is lost if every copy of it is damaged, or the disk failed to
    /// read it three times.
    pub fn read(&mut self, id: impl Into<Id>) -> Result<Batch, ReadError> {
        self.read_patiently(id.into(), MAX_READS)
    }

    /// [`read`](Self::read), with the number of failed reads after which the batch is lost.
    pub(crate) fn read_patiently(&mut self, id: Id, max_reads: u32) -> Result<Batch, ReadError> {
        let Some(live) = self.index.batches.get(&id) else { return Err(ReadError::Unknown(id)) };
        let (count, places) = (live.count, live.places.clone());
        if let Some(body) = self.tail.body(id) {
            return Ok(Batch { id, count, body: body.to_vec() });
        }
        let mut failure = None;
        for place in places {
            match self.read_place(id, place) {
                Ok(Some(body)) => {
                    self.read_failures.remove(&id);
                    return Ok(Batch { id, count, body });
                }
                Ok(None) => self.damaged_place(id, place),
                Err(error) => failure = Some((error, place)),
            }
        }
        if let Some(((error, counts), place)) = failure {
            let failures = self.read_failures.entry(id).or_default();
            *failures += u32::from(counts);
            if *failures < max_reads {
                return Err(ReadError::File(error));
            }
            self.damaged_place(id, place);
        }
        self.read_failures.remove(&id);
        self.index.remove(id);
        self.notice(Notice::Lost { id, count });
        Err(ReadError::Damaged { id, count })
    }

    /// The body of the batch at this place, if it is whole. The flag of an error is `true` if reading this place
    /// failed, and `false` if the file could not be opened.
    fn read_place(&mut self, id: Id, place: Place) -> Result<Option<Vec<u8>>, (FileError, bool)> {
        let Some(segment) = self.index.segments.get(&place.segment) else { return Ok(None) };
        let salt = segment.id.salt();
        let mut file = match self.reader.take() {
            Some((key, file)) if key == place.segment => file,
            _ => match self.dir.open_read(&segment.name) {
                Ok(file) => file,
                Err(error) if error.is_not_found() || error.is_refused() => return Ok(None),
                Err(error) => return Err((error, false)),
            },
        };
        let mut read = || -> io::Result<Option<Vec<u8>>> {
            file.seek(SeekFrom::Start(place.offset))?;
            let mut header = [0; frame::HEADER_LEN];
            file.read_exact(&mut header)?;
            let Parsed::Header(header) = Header::parse(salt, place.offset, &header) else { return Ok(None) };
            if (header.kind, header.id, header.body_len) != (Kind::Batch, id, place.body_len) {
                return Ok(None);
            }
            // The scan found this length inside the file, and at most MAX_BODY.
            let mut body = vec![0; header.body_len as usize];
            file.read_exact(&mut body)?;
            Ok(header.accepts(crc32c::crc32c_append(header.body_seed(), &body)).then_some(body))
        };
        match read() {
            Ok(body) => {
                self.reader = Some((place.segment, file));
                Ok(body)
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(source) => {
                Err((FileError::Io { path: self.dir.path().join(&segment.name), action: "read", source }, true))
            }
        }
    }

    fn damaged_place(&mut self, id: Id, place: Place) {
        self.index.remove_place(id, place);
        let Some(segment) = self.index.segments.get_mut(&place.segment) else { return };
        // In a segment whose sync failed, damage is expected.
        segment.damaged |= !segment.sync_failed;
        let (name, bytes) = (segment.name.clone(), u64::from(place.body_len) + frame::HEADER_LEN as u64);
        self.notice(Notice::Damaged { name, places: 1, bytes });
    }
}

/// Failed reads after which a batch is lost.
const MAX_READS: u32 = 3;

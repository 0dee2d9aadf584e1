//! Reading batches back, one at a time.

use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::time::{Duration, Instant};

use safe_dir::{Directory, FileError};

use super::frame::{self, Header, Kind, Parsed};
use super::index::{Failures, Place};
use super::{Id, Journal, Notice, ReadError};

/// A batch that was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its id.
    pub id: Id,
    /// The number of its items, as given to [`append`](Journal::append).
    pub count: u32,
    /// As given to [`append_tagged`](Journal::append_tagged); 0 for a batch without a tag.
    pub tag: u8,
    /// Its bytes, as given to [`append`](Journal::append).
    pub body: Vec<u8>,
}

/// The bytes at a place.
enum Content {
    Whole(Vec<u8>),
    Damaged,
    /// The segment does not exist any more.
    Vanished,
}

/// Why a place was not read.
pub(crate) struct Unread {
    error: FileError,
    /// The disk failed, as opposed to a lack of file handles or of permission, which ends without a loss.
    counts: bool,
}

impl<D: Directory> Journal<D> {
    /// The next batch that was found at open and is not done since, oldest first; each is returned once. Takes the
    /// memory of this one batch. It stays in the journal, under its old id, until it is [`done`](Self::done).
    ///
    /// # Errors
    ///
    /// [`ReadError::Damaged`] and [`ReadError::Vanished`]: that batch is lost; go on with the next.
    /// [`ReadError::File`]: the batch comes again behind the others. Failures of one batch count as in
    /// [`read`](Self::read).
    pub fn next_recovered(&mut self, now: Instant) -> Option<Result<Batch, ReadError>> {
        while let Some(id) = self.to_recover.pop_front() {
            match self.read(id, now) {
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
    /// read it three times. A failure within 1 s after the last counted one of the same batch does not count: a disk
    /// that fails for a moment loses nothing. [`ReadError::Vanished`]: the batch is one of those that
    /// [`take_vanished`](Self::take_vanished) returns.
    pub fn read(&mut self, id: impl Into<Id>, now: Instant) -> Result<Batch, ReadError> {
        let id = id.into();
        match self.try_read(id)? {
            Ok(batch) => Ok(batch),
            Err(Unread { error, counts }) => {
                if !counts || !self.is_given_up(id, now) {
                    return Err(ReadError::File(error));
                }
                for place in self.index.batches.get(&id).map(|live| live.places.clone()).unwrap_or_default() {
                    self.damaged_place(id, place);
                }
                Err(self.lose(id))
            }
        }
    }

    /// Counts a failed read; returns whether it was the last one that counts.
    fn is_given_up(&mut self, id: Id, now: Instant) -> bool {
        let failures = self.read_failures.entry(id).or_insert(Failures { count: 0, last: now });
        if failures.count == 0 || now.saturating_duration_since(failures.last) >= BETWEEN_FAILURES {
            *failures = Failures { count: failures.count + 1, last: now };
        }
        failures.count >= MAX_READS
    }

    /// Reads a waiting batch from its first place that is whole. A failure of the disk counts for nothing here.
    pub(crate) fn try_read(&mut self, id: Id) -> Result<Result<Batch, Unread>, ReadError> {
        let Some(live) = self.index.batches.get(&id) else { return Err(ReadError::Unknown(id)) };
        let (count, tag) = (live.count, live.tag);
        if let Some(body) = self.tail.body(id) {
            return Ok(Ok(Batch { id, count, tag, body: body.to_vec() }));
        }
        let (mut tried, mut unread) = (Vec::new(), None);
        // A place that is lost may bring back the one that the batch was copied from.
        while let Some(place) = self.index.next_place(id, &tried) {
            tried.push(place);
            match self.read_place(id, place) {
                Ok(Content::Whole(body)) => {
                    self.read_failures.remove(&id);
                    return Ok(Ok(Batch { id, count, tag, body }));
                }
                Ok(Content::Damaged) => {
                    self.damaged_place(id, place);
                    self.index.restore_place(id);
                }
                Ok(Content::Vanished) => self.lose_segment(place.segment),
                Err(error) => unread = Some(error),
            }
        }
        match unread {
            Some(unread) => Ok(Err(unread)),
            None if self.index.batches.contains_key(&id) => Err(self.lose(id)),
            // The batch went with a segment that another program has removed: `take_vanished` returns it.
            None => Err(ReadError::Vanished { id, count }),
        }
    }

    /// Removes a batch of which no place is whole, and marks it: no later process finds it, and reports it as lost,
    /// once more.
    fn lose(&mut self, id: Id) -> ReadError {
        self.read_failures.remove(&id);
        let count = self.index.remove(id).map_or(0, |live| live.count);
        self.mark_done(&[id]);
        self.notice(Notice::Lost { id, count });
        ReadError::Damaged { id, count }
    }

    /// The body of the batch at this place, if it is whole.
    fn read_place(&mut self, id: Id, place: Place) -> Result<Content, Unread> {
        let Some(segment) = self.index.segments.get(&place.segment) else { return Ok(Content::Vanished) };
        let salt = segment.id.salt();
        let mut file = match self.reader.take() {
            Some((key, file)) if key == place.segment => file,
            _ => match self.dir.open_read(&segment.name) {
                Ok(file) => file,
                Err(error) if error.is_not_found() => return Ok(Content::Vanished),
                Err(error) if error.is_refused() => return Ok(Content::Damaged),
                Err(error) => {
                    let counts = error.io().is_some_and(is_of_the_disk);
                    return Err(Unread { error, counts });
                }
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
                Ok(body.map_or(Content::Damaged, Content::Whole))
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Content::Damaged),
            Err(source) => {
                let path = self.dir.path().join(&segment.name);
                Err(Unread { error: FileError::Io { path, action: "read", source }, counts: true })
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

impl Unread {
    pub(crate) fn into_error(self) -> FileError {
        self.error
    }
}

/// Whether a file could not be opened because the disk failed: EIO, EBADMSG or EUCLEAN.
fn is_of_the_disk(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(5 | 74 | 117))
}

/// Failed reads after which a batch is lost.
const MAX_READS: u32 = 3;

/// The least time between two failed reads of a batch that count.
const BETWEEN_FAILURES: Duration = Duration::from_secs(1);

//! The newest wall-clock time that the processes of a directory have seen, in a file.

use std::io::{Read as _, Write as _};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use safe_dir::{Directory, File as _, FileError};

/// The file `clock` in a directory that several processes may share: it holds the newest time that they have seen, as
/// `2026-02-01T00:00:00Z`. Give [`read`](Self::read)'s answer to
/// [`Builder::with_newest_time`](crate::Builder::with_newest_time), and [`note`](Self::note) what
/// [`FileFallback::newest_time`](crate::FileFallback::newest_time) says, such as after each clean-up.
#[derive(Clone, Copy, Debug)]
pub struct ClockFile {
    /// Makes the temporary name this process's own.
    writer: u64,
    /// The time in the file as this process knows it.
    written: Option<SystemTime>,
}

/// The content of a [`ClockFile`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remembered {
    /// There is no file: no process has run here.
    Nothing,
    /// The newest time.
    Time(SystemTime),
    /// The file is damaged or cannot be read: to be logged. The next [`ClockFile::note`] replaces it.
    Unreadable,
}

impl Remembered {
    /// The time, if it is known.
    #[must_use]
    pub fn time(self) -> Option<SystemTime> {
        match self {
            Self::Time(time) => Some(time),
            Self::Nothing | Self::Unreadable => None,
        }
    }
}

impl ClockFile {
    /// For a process with a number that no other process of the directory has at the same time.
    #[must_use]
    pub const fn new(writer: u64) -> Self {
        Self { writer, written: None }
    }

    /// Reads the file in `dir`.
    pub fn read<D: Directory>(dir: &D) -> Remembered {
        let mut text = String::new();
        let read = match dir.open_read(NAME) {
            Ok(file) => file.take(MAX_BYTES + 1).read_to_string(&mut text),
            Err(error) if error.is_not_found() => return Remembered::Nothing,
            Err(_) => return Remembered::Unreadable,
        };
        let read = read.ok().filter(|len| *len as u64 <= MAX_BYTES);
        let time = read.and_then(|_| text.strip_suffix('\n')?.parse::<Timestamp>().ok());
        time.map_or(Remembered::Unreadable, |time| Remembered::Time(time.into()))
    }

    /// Writes a time that is a minute newer than the one in the file, or a day older; returns whether it was written,
    /// durably. A newer time of another process stays.
    ///
    /// # Errors
    ///
    /// If the file system refuses: the file is as before.
    pub fn note<D: Directory>(&mut self, dir: &D, newest: SystemTime) -> Result<bool, FileError> {
        if self.written.is_some_and(|written| !is_due(written, newest)) {
            return Ok(false);
        }
        if let Remembered::Time(there) = Self::read(dir)
            && !is_due(there, newest)
        {
            self.written = Some(there);
            return Ok(false);
        }
        let time = Timestamp::try_from(newest).unwrap_or(Timestamp::MAX);
        let temporary = format!(".tmp-{NAME}-{:016x}", self.writer);
        match dir.remove(&temporary) {
            Err(error) if !error.is_not_found() => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let failed = |source| FileError::Io { path: dir.path().join(&temporary), action: "write", source };
        let mut file = dir.create(&temporary)?;
        let text = format!("{}\n", time.strftime("%Y-%m-%dT%H:%M:%SZ"));
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync()).map_err(failed);
        written.and_then(|()| dir.replace(&temporary, NAME)).inspect_err(|_| drop(dir.remove(&temporary)))?;
        self.written = Some(newest);
        dir.sync().map(|()| true)
    }
}

fn is_due(written: SystemTime, newest: SystemTime) -> bool {
    match newest.duration_since(written) {
        Ok(newer) => newer >= EVERY,
        Err(older) => older.duration() > SET_BACK,
    }
}

/// The name of the file.
const NAME: &str = "clock";

/// A longer file is no time.
const MAX_BYTES: u64 = 64;

/// The file is written at most so often.
const EVERY: Duration = Duration::from_secs(60);

/// A time in the file that is so far ahead is wrong.
const SET_BACK: Duration = Duration::from_secs(24 * 3600);

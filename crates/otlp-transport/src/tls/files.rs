//! The files of key material: reads them, and notices that they have changed.

use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::pem::{self, Block};

/// Larger files are no key material: the bundle of all public authorities has 220 kB.
const MAX_BYTES: u64 = 8 << 20;

/// Two changes within the granularity of a file system's clock leave one time: a file whose time is closer to now than
/// this is read again by the next connection. A time that lies further ahead, by another clock or a program that sets
/// it, is none that the next change has.
const SETTLED: Duration = Duration::from_secs(2);

/// Tells two contents of a file apart without reading them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
    inode: u64,
    /// The time that no program sets.
    changed: (i64, i64),
}

/// The stamp of the file that `path` leads to, through links as a mounted secret has them; none where there is no file.
pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    fs::metadata(path).ok().map(|metadata| Stamp {
        modified: metadata.modified().ok(),
        len: metadata.len(),
        inode: inode(&metadata),
        changed: changed(&metadata),
    })
}

impl Stamp {
    /// Whether a later content would have another stamp.
    pub(super) fn is_settled(&self, now: SystemTime) -> bool {
        self.modified.is_some_and(|modified| {
            let apart = now.duration_since(modified).unwrap_or_else(|ahead| ahead.duration());
            apart > SETTLED
        })
    }
}

#[cfg(unix)]
fn inode(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn inode(_metadata: &Metadata) -> u64 {
    0
}

#[cfg(unix)]
fn changed(metadata: &Metadata) -> (i64, i64) {
    use std::os::unix::fs::MetadataExt as _;

    (metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(not(unix))]
fn changed(_metadata: &Metadata) -> (i64, i64) {
    (0, 0)
}

/// The PEM blocks of a file.
///
/// # Errors
/// The predicate of a sentence about the file.
pub(super) fn read(path: &Path) -> Result<Vec<Block>, String> {
    // A device is not even opened: some begin to work then.
    of_kind(&fs::metadata(path).map_err(failed)?)?;
    pem::blocks(&bytes_of(path)?)
}

fn failed(error: io::Error) -> String {
    format!("cannot be read: {error}")
}

fn of_kind(metadata: &Metadata) -> Result<(), String> {
    if metadata.is_file() { Ok(()) } else { Err("is not a file; accepted is a PEM file".to_owned()) }
}

/// The content of a regular file. Another file may have come to the path since the last look.
fn bytes_of(path: &Path) -> Result<Vec<u8>, String> {
    let file = open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    of_kind(&metadata)?;
    let mut bytes = Vec::new();
    if metadata.len() <= MAX_BYTES {
        // One more shows a file that has grown.
        (&file).take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    }
    let len = metadata.len().max(bytes.len() as u64);
    if len > MAX_BYTES {
        return Err(format!("has {len} bytes, and {MAX_BYTES} are the most for key material"));
    }
    Ok(bytes)
}

/// Opens a file at once: a FIFO would wait for a writer.
#[cfg(unix)]
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;

    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    File::options().read(true).custom_flags(flags).open(path)
}

#[cfg(not(unix))]
fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

#[cfg(all(test, unix))]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const CERTIFICATE: &str = include_str!("../../tests/it/tls/keys/weak.ca.pem");

    /// The look at the path came before the FIFO did.
    #[test]
    fn a_fifo_that_comes_after_the_look_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("key.pem");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("made");
        let (sender, done) = mpsc::channel();
        std::thread::spawn(move || sender.send(bytes_of(&path)));
        let read = done.recv_timeout(Duration::from_secs(10)).expect("no process writes into the FIFO");
        assert!(read.expect_err("no key").contains("is not a file"));
    }

    #[test]
    fn a_file_that_grows_beyond_the_limit_behind_the_look_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ca.pem");
        let file = fs::File::create(&path).expect("an own file");
        file.set_len(MAX_BYTES).expect("a sparse file");
        assert_eq!(bytes_of(&path).map(|bytes| bytes.len() as u64), Ok(MAX_BYTES));
        file.set_len(MAX_BYTES + 1).expect("a sparse file");
        assert!(
            bytes_of(&path).map(|bytes| bytes.len()).expect_err("too large").contains("are the most for key material")
        );
    }

    #[test]
    fn a_time_that_lies_ahead_settles_as_one_that_lies_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ca.pem");
        fs::write(&path, CERTIFICATE).expect("written");
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        fs::File::options().append(true).open(&path).and_then(|file| file.set_modified(at(1_000))).expect("own");
        let stamp = stamp(&path).expect("a file");
        for (now, is_settled) in [(100, true), (997, true), (998, false), (1_000, false), (1_002, false), (1_003, true)]
        {
            assert_eq!(stamp.is_settled(at(now)), is_settled, "{now}");
        }
    }

    #[test]
    fn another_content_under_the_same_time_has_another_stamp() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ca.pem");
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let written = |text: &str| {
            fs::write(&path, text).expect("written");
            fs::File::options().append(true).open(&path).and_then(|file| file.set_modified(at)).expect("own");
            stamp(&path).expect("a file")
        };
        let first = written("one");
        // The clock of a file system has steps: it has gone on once another file has a later time.
        let probe = dir.path().join("probe");
        let time = || {
            fs::write(&probe, "").expect("written");
            changed(&fs::metadata(&probe).expect("a file"))
        };
        while time() == first.changed {
            std::hint::spin_loop();
        }
        assert_ne!(written("two"), first);
    }
}

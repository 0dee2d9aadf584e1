//! The files of key material: reads them, and notices that they have changed.

use std::fs::{self, Metadata};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::pem::{self, Block};

/// Larger files are no key material: the bundle of all public authorities has 220 kB.
const MAX_BYTES: u64 = 8 << 20;

/// Two changes within the granularity of a file system's clock leave one time: a file that is younger than this is read
/// again by the next connection.
const SETTLED: Duration = Duration::from_secs(2);

/// Tells two contents of a file apart without reading them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
    inode: u64,
}

/// The stamp of the file that `path` leads to, through links as a mounted secret has them; none where there is no file.
pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    fs::metadata(path).ok().map(|metadata| Stamp {
        modified: metadata.modified().ok(),
        len: metadata.len(),
        inode: inode(&metadata),
    })
}

impl Stamp {
    /// Whether a later content would have another stamp.
    pub(super) fn is_settled(&self, now: SystemTime) -> bool {
        self.modified.is_some_and(|modified| now.duration_since(modified).is_ok_and(|age| age > SETTLED))
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

/// The PEM blocks of a file.
///
/// # Errors
/// The predicate of a sentence about the file.
pub(super) fn read(path: &Path) -> Result<Vec<Block>, String> {
    let failed = |error: std::io::Error| format!("cannot be read: {error}");
    let metadata = fs::metadata(path).map_err(failed)?;
    // Opening a FIFO would wait for a writer.
    if !metadata.is_file() {
        return Err("is not a file; accepted is a PEM file".to_owned());
    }
    if metadata.len() > MAX_BYTES {
        return Err(format!("has {} bytes, and {MAX_BYTES} are the most for key material", metadata.len()));
    }
    pem::blocks(&fs::read(path).map_err(failed)?)
}

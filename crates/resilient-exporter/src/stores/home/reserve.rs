//! The file `reserve` in the state directory: space that a start on a full disk gets. Without a directory of its own a
//! process can neither store a span nor send those that fill the disk.

use std::error::Error;
use std::io::{self, Write as _};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use safe_dir::{Directory, File as _, FileError};

/// Its name.
pub(super) const RESERVE: &str = "reserve";

/// Enough for the directories of several processes: each takes four blocks of usually 4 KiB, and their files some more.
const BYTES: usize = 128 << 10;

/// With less free space the file is not made: it would take space that spans need.
const LEAST_FREE: u64 = 64 * BYTES as u64;

/// Makes the file, durably, if it is missing and the disk has space. The bytes are random: a file system that
/// compresses, or knows holes, would keep no space for zeros. Opening a file that exists takes the access from other
/// users that a platform may have given them, such as the kubelet to the group of a volume.
///
/// # Errors
/// The file system refuses, and no part of a new file is left; or another thing has the name.
pub(super) fn keep<D: Directory>(root: &D, seed: u64) -> Result<(), FileError> {
    match root.open_read(RESERVE) {
        Err(error) if error.is_not_found() => {}
        file => return file.map(drop),
    }
    if root.space()?.free < LEAST_FREE {
        return Ok(());
    }
    let mut file = match root.create(RESERVE) {
        // Another process was faster.
        Err(error) if error.is_already_exists() => return Ok(()),
        file => file?,
    };
    let mut bytes = vec![0; BYTES];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    let written = file.write_all(&bytes).and_then(|()| file.sync());
    if let Err(source) = written {
        drop(root.remove(RESERVE));
        return Err(FileError::Io { path: root.path().join(RESERVE), action: "write", source });
    }
    root.sync()
}

/// Gives the space of the file back, if `error` says that the disk, or the user's part of it, is full. Returns whether
/// the caller may try again.
pub(super) fn give<D: Directory>(root: &D, error: &(dyn Error + 'static)) -> bool {
    // Some file systems give blocks back with the next sync only.
    is_full(error) && root.remove(RESERVE).is_ok() && root.sync().is_ok()
}

fn is_full(error: &(dyn Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    causes.filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|error| full.contains(&error.kind()))
}

#[cfg(test)]
mod tests {
    use safe_dir::Machine;
    use safe_dir::sim::{Disk, Fault, Faults, Faulty, MemoryDir};

    use super::*;
    use crate::stores::home::{Home, StateDirError};
    use crate::stores::old_layout::OldLayout;

    fn start(disk: &Disk, faults: &Faults) -> Result<Home<Faulty<MemoryDir>>, StateDirError> {
        let (disk, faults) = (disk.clone(), faults.clone());
        let open = Box::new(move || Ok(Faulty::new(disk.root(), faults.clone())));
        let machine = Machine { boot_id: "boot".to_owned(), host: "host".to_owned() };
        Ok(Home::open(open, "shop".to_owned(), machine, 1, 1 << 30, OldLayout::new(Vec::new(), None))?.0)
    }

    /// Each call of a start fails once for want of space.
    #[test]
    fn a_start_on_a_full_disk_has_the_space_of_the_reserve() {
        let (mut given, mut refused) = (0, 0);
        for nth in 1..60 {
            let (disk, faults) = (Disk::new(), Faults::none());
            drop(start(&disk, &faults).expect("space"));
            keep(&disk.root(), 1).expect("space");
            faults.plan(nth, Fault::Errno(28), false);
            let home = start(&disk, &faults);
            faults.clear();
            let has_reserve = disk.root().metadata(RESERVE).is_ok();
            if home.is_ok() {
                given += u64::from(!has_reserve);
            } else {
                refused += 1;
                assert!(has_reserve, "call {nth} failed, and the space was given back for nothing");
            }
        }
        // The file `layout` was there before: its reading needs no space.
        assert!(given > 3 && refused < given, "{given} starts with the reserve, {refused} failed");
    }

    #[test]
    fn a_disk_that_has_errors_or_little_space_neither_takes_nor_gives_a_reserve() {
        let disk = Disk::new();
        disk.set_capacity(Some(LEAST_FREE - 1));
        keep(&disk.root(), 1).expect("nothing to do");
        assert!(disk.root().metadata(RESERVE).is_err());
        disk.set_capacity(Some(LEAST_FREE));
        keep(&disk.root(), 1).expect("space");
        assert_eq!(disk.root().metadata(RESERVE).expect("there").len, BYTES as u64);
        assert!(!give(&disk.root(), &io::Error::from_raw_os_error(5)));
        assert!(give(&disk.root(), &io::Error::from_raw_os_error(122)), "the quota is used up");
        assert!(!give(&disk.root(), &io::Error::from_raw_os_error(28)), "it was given before");
    }
}

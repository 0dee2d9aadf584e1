//! The file `layout` of a state directory: the version of the layout, and the service that the directory belongs to.

use std::io::{Read as _, Write as _};

use safe_dir::{Directory, File as _, FileError};

/// The name of the file.
const LAYOUT: &str = "layout";

/// The version that this code reads and writes.
const VERSION: u64 = 2;

/// Begins the text of the file.
const MAGIC: &str = "holdfast-state";

/// A longer file is not read further: a service name that an operator chose is shorter.
const MAX_BYTES: u64 = 1_024 * 1_024;

/// Why a state directory is left alone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// A newer version of this program has used it.
    #[error(
        "\"{path}\" has layout {version} of a newer version, and this one knows layouts up to {VERSION}: update this \
         program, or give it a state directory of its own"
    )]
    Newer {
        /// The directory.
        path: String,
        /// The version in its file `layout`.
        version: u64,
    },
    /// The directory is another service's: its spans must not be sent with the headers of this one.
    #[error(
        "\"{path}\" belongs to the service \"{found}\", not to \"{wanted}\": give each service a state directory of its \
         own, or remove the file \"layout\" there if the service was renamed"
    )]
    OtherService {
        /// The directory.
        path: String,
        /// The service in its file `layout`.
        found: String,
        /// The service of this process.
        wanted: String,
    },
    /// The file system refused.
    #[error("the layout of the state directory cannot be read or written")]
    File(#[source] FileError),
}

/// The text of the file, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Of this version.
    Ours {
        /// The service name; empty if the process that made the directory did not know it.
        service: String,
    },
    Newer(u64),
    /// Empty, cut off, or not a text of this kind.
    Unreadable,
}

impl Layout {
    pub(crate) fn parse(text: &[u8]) -> Self {
        let Ok(text) = std::str::from_utf8(text) else { return Self::Unreadable };
        // A file without its last line feed was cut off.
        let Some(line) = text.split_once('\n').map(|(line, _)| line) else { return Self::Unreadable };
        let mut words = line.splitn(3, ' ');
        if words.next() != Some(MAGIC) {
            return Self::Unreadable;
        }
        match words.next().and_then(|version| version.parse::<u64>().ok()) {
            Some(VERSION) => Self::Ours { service: words.next().unwrap_or_default().to_owned() },
            Some(version) if version > VERSION => Self::Newer(version),
            Some(_) | None => Self::Unreadable,
        }
    }
}

/// The layout of a directory; none if the directory has no file of that name.
///
/// # Errors
/// The file is no regular file of this user, or cannot be read.
pub(crate) fn read<D: Directory>(root: &D) -> Result<Option<Layout>, FileError> {
    read_file(root, LAYOUT)
}

fn read_file<D: Directory>(root: &D, name: &str) -> Result<Option<Layout>, FileError> {
    let file = match root.open_read(name) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    let failed = |source| FileError::Io { path: root.path().join(name), action: "read", source };
    file.take(MAX_BYTES).read_to_end(&mut text).map_err(failed)?;
    Ok(Some(Layout::parse(&text)))
}

/// Checks that the directory is one of this version and of `service`, and writes the file where it is missing or
/// unreadable. Returns whether it was unreadable. `nonce` names this process: several may start at once, and of several
/// services the directory is that of the first.
///
/// # Errors
/// Nothing in the directory was changed.
pub(crate) fn claim<D: Directory>(root: &D, service: &str, nonce: &str) -> Result<bool, LayoutError> {
    let service = &in_one_line(service);
    let (mut was_damaged, mut last) = (false, None);
    for race in 0..MAX_RACES {
        let found = match read(root) {
            // A file system that knows no rename without overwriting: another process is between its two steps, or has
            // died there.
            Err(error @ FileError::SeveralLinks { .. }) => {
                if race > MAX_RACES / 2 {
                    remove_unfinished(root);
                }
                last = Some(error);
                continue;
            }
            found => found.map_err(LayoutError::File)?,
        };
        if let Some(found) = found {
            if !is_replaced(&found, service, root)? {
                return Ok(was_damaged);
            }
            was_damaged |= found == Layout::Unreadable;
            take_away(root, service, nonce)?;
        }
        match publish(root, nonce, format!("{MAGIC} {VERSION} {service}\n").as_bytes()) {
            // Another process was faster: the directory may be another service's now.
            Err(error) if error.is_already_exists() => last = Some(error),
            published => return published.map(|()| was_damaged).map_err(LayoutError::File),
        }
    }
    Err(LayoutError::File(last.unwrap_or_else(|| {
        let (path, source) = (root.path().join(LAYOUT), std::io::ErrorKind::WouldBlock.into());
        FileError::Io { path, action: "write", source }
    })))
}

/// Checks that the directory is none of a newer version or another service. Writes nothing.
///
/// # Errors
/// It is one, or its file cannot be read.
pub(crate) fn check<D: Directory>(root: &D, service: &str) -> Result<(), LayoutError> {
    match read(root).map_err(LayoutError::File)? {
        Some(found) => is_replaced(&found, &in_one_line(service), root).map(drop),
        None => Ok(()),
    }
}

/// Whether the file is to be written anew for `service`.
///
/// # Errors
/// The directory is another service's, or a newer version's.
fn is_replaced<D: Directory>(found: &Layout, service: &str, root: &D) -> Result<bool, LayoutError> {
    let path = || root.path().display().to_string();
    match found {
        Layout::Newer(version) => Err(LayoutError::Newer { path: path(), version: *version }),
        Layout::Ours { service: found } if found == service || service.is_empty() => Ok(false),
        // The process that made the directory did not know the name: from now on the file has it.
        Layout::Ours { service: found } if found.is_empty() => Ok(true),
        Layout::Ours { service: found } => {
            Err(LayoutError::OtherService { path: path(), found: found.clone(), wanted: service.to_owned() })
        }
        Layout::Unreadable => Ok(true),
    }
}

/// Takes the file away that is to be written anew. Of several processes that do so at once one gets it.
fn take_away<D: Directory>(root: &D, service: &str, nonce: &str) -> Result<(), LayoutError> {
    let old = format!("{TEMPORARY}{LAYOUT}-old-{nonce}");
    match root.rename(LAYOUT, root, &old) {
        Err(error) if error.is_not_found() => return Ok(()),
        renamed => renamed.map_err(LayoutError::File)?,
    }
    // Meanwhile another process may have written it.
    let is_replaced = read_file(root, &old)
        .is_ok_and(|found| found.is_none_or(|found| is_replaced(&found, service, root).unwrap_or(false)));
    if !is_replaced && root.rename(&old, root, LAYOUT).is_ok() {
        return Ok(());
    }
    root.remove(&old).map_err(LayoutError::File)
}

/// Writes the file, durably, unless there is one.
fn publish<D: Directory>(root: &D, nonce: &str, text: &[u8]) -> Result<(), FileError> {
    let temporary = format!("{TEMPORARY}{LAYOUT}-{nonce}");
    match root.remove(&temporary) {
        Err(error) if !error.is_not_found() => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = root.create(&temporary)?;
    let written = file.write_all(text).and_then(|()| file.sync());
    let written =
        written.map_err(|source| FileError::Io { path: root.path().join(&temporary), action: "write", source });
    let renamed = written.and_then(|()| root.rename(&temporary, root, LAYOUT));
    renamed.inspect_err(|_| drop(root.remove(&temporary)))?;
    root.sync()
}

/// Removes temporary names that processes have left which died while they wrote the file.
fn remove_unfinished<D: Directory>(root: &D) {
    let names = root.list().unwrap_or_default().into_iter().filter_map(|entry| entry.name.into_string().ok());
    let prefix = format!("{TEMPORARY}{LAYOUT}-");
    names.filter(|name| name.starts_with(&prefix)).for_each(|name| drop(root.remove(&name)));
}

/// Each means that another process has written the file between two calls.
const MAX_RACES: u32 = 16;

/// Begins the name of a file that is not finished; the name ends in the nonce of its process.
const TEMPORARY: &str = ".tmp-";

/// The name without control characters, which would end the line.
fn in_one_line(service: &str) -> String {
    let mut line = String::with_capacity(service.len());
    for c in service.chars() {
        if c.is_control() { line.extend(c.escape_unicode()) } else { line.push(c) }
    }
    line
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI32, Ordering};

    use proptest::prelude::*;
    use safe_dir::sim::Disk;

    use super::*;
    use crate::locks::Mutex;

    #[test]
    fn the_first_process_writes_the_layout_and_later_ones_of_the_service_read_it() {
        let root = Disk::new().root();
        assert_eq!(read(&root).expect("readable"), None);
        assert!(!claim(&root, "shop", "1").expect("new"));
        assert_eq!(read(&root).expect("readable"), Some(Layout::Ours { service: "shop".to_owned() }));
        assert!(!claim(&root, "shop", "2").expect("the same service"));
        let error = claim(&root, "bank", "3").expect_err("another service");
        assert!(error.to_string().contains("belongs to the service \"shop\", not to \"bank\""), "{error}");
    }

    /// At each step of a claim, another service claims the same directory: one of the two gets it.
    #[test]
    fn of_two_services_that_start_at_once_one_gets_the_directory() {
        for before in [None, Some("nonsense\n"), Some("holdfast-state 2 \n")] {
            let (mut step, mut is_over) = (0, false);
            while !is_over {
                let disk = Disk::new();
                let root = disk.root();
                if let Some(text) = before {
                    publish(&root, "0", text.as_bytes()).expect("room");
                }
                let (other, left) = (disk.clone(), Arc::new(AtomicI32::new(step)));
                let (result, steps) = (Arc::new(Mutex::new(None)), Arc::clone(&left));
                let found = Arc::clone(&result);
                disk.before_each_step(move || {
                    if steps.fetch_sub(1, Ordering::Relaxed) == 0 {
                        let claimed = claim(&other.root(), "bank", "2");
                        *found.lock() = Some(claimed.is_ok());
                    }
                });
                let first = claim(&root, "shop", "1").is_ok();
                is_over = left.load(Ordering::Relaxed) >= 0;
                let second = result.lock().take();
                assert!(is_over || second == Some(!first), "{before:?}, step {step}: {first} {second:?}");
                let owner = if first { "shop" } else { "bank" };
                let found = read(&disk.root()).expect("readable");
                assert_eq!(found, Some(Layout::Ours { service: owner.to_owned() }), "{before:?}, step {step}");
                let names = disk.root().list().expect("readable").len();
                assert_eq!(names, 1, "{before:?}, step {step}: a temporary file is left");
                step += 1;
            }
            assert!(step > 5, "{step}");
        }
    }

    /// A file system without a rename that does not overwrite: the process died between the two steps of one.
    #[test]
    fn a_layout_that_has_kept_its_temporary_name_is_read() {
        let scratch = tempfile::tempdir().expect("a directory");
        let root = safe_dir::SafeDir::open(scratch.path().join("state")).expect("ours");
        claim(&root, "shop", "1").expect("new");
        std::fs::hard_link(root.path().join(LAYOUT), root.path().join(".tmp-layout-2")).expect("a second name");
        assert!(!claim(&root, "shop", "3").expect("the same service"));
        assert_eq!(root.list().expect("readable").len(), 1);
    }

    #[test]
    fn a_directory_of_a_newer_version_is_left_alone() {
        let root = Disk::new().root();
        publish(&root, "1", b"holdfast-state 3 shop and more\n").expect("room");
        let error = claim(&root, "shop", "1").expect_err("newer");
        assert!(error.to_string().contains("layout 3 of a newer version"), "{error}");
        assert_eq!(read(&root).expect("readable"), Some(Layout::Newer(3)));
    }

    #[test]
    fn an_unreadable_layout_is_written_anew_and_reported() {
        for text in ["", "holdfast-state", "holdfast-state 2 shop", "holdfast-state x shop\n", "\u{0}\n", "nonsense\n"]
        {
            let root = Disk::new().root();
            publish(&root, "1", text.as_bytes()).expect("room");
            assert!(claim(&root, "shop", "1").expect("rewritten"), "{text:?}");
            assert!(!claim(&root, "shop", "1").expect("whole now"), "{text:?}");
        }
    }

    #[test]
    fn a_directory_of_no_known_service_takes_the_first_name() {
        let root = Disk::new().root();
        assert!(!claim(&root, "", "1").expect("new"));
        assert!(!claim(&root, "shop", "1").expect("named now"));
        assert!(!claim(&root, "", "1").expect("a process that does not know the name"));
        claim(&root, "bank", "1").expect_err("another service");
    }

    proptest! {
        #[test]
        fn any_service_name_is_read_as_it_was_written(service in ".*") {
            let root = Disk::new().root();
            claim(&root, &service, "1").expect("new");
            let found = Some(Layout::Ours { service: in_one_line(&service) });
            prop_assert_eq!(read(&root).expect("readable"), found);
            prop_assert!(!claim(&root, &service, "2").expect("the same service"));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(text in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Layout::parse(&text);
            let _ = Layout::parse(&[b"holdfast-state ".as_slice(), &text].concat());
        }
    }
}

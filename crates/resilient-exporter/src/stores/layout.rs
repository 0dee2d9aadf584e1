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
    let file = match root.open_read(LAYOUT) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    let failed = |source| FileError::Io { path: root.path().join(LAYOUT), action: "read", source };
    file.take(MAX_BYTES).read_to_end(&mut text).map_err(failed)?;
    Ok(Some(Layout::parse(&text)))
}

/// Checks that the directory is one of this version and of `service`, and writes the file where it is missing or
/// unreadable. Returns whether it was unreadable. `nonce` names this process: several may start at once.
///
/// # Errors
/// Nothing in the directory was changed.
pub(crate) fn claim<D: Directory>(root: &D, service: &str, nonce: &str) -> Result<bool, LayoutError> {
    let path = || root.path().display().to_string();
    let service = &in_one_line(service);
    let found = read(root).map_err(LayoutError::File)?;
    let is_damaged = match found {
        Some(Layout::Newer(version)) => return Err(LayoutError::Newer { path: path(), version }),
        Some(Layout::Ours { service: found }) if found == *service || service.is_empty() => return Ok(false),
        // The process that made the directory did not know the name: from now on the file has it.
        Some(Layout::Ours { service: found }) if found.is_empty() => false,
        Some(Layout::Ours { service: found }) => {
            return Err(LayoutError::OtherService { path: path(), found, wanted: service.clone() });
        }
        Some(Layout::Unreadable) => true,
        None => false,
    };
    write(root, LAYOUT, nonce, format!("{MAGIC} {VERSION} {service}\n").as_bytes()).map_err(LayoutError::File)?;
    Ok(is_damaged)
}

/// Writes a small file of the state directory whole, durably, in place of the one that may be there. Several processes
/// may do so at once: `nonce` is in the temporary name.
pub(crate) fn write<D: Directory>(root: &D, name: &str, nonce: &str, text: &[u8]) -> Result<(), FileError> {
    let temporary = format!("{TEMPORARY}{name}-{nonce}");
    match root.remove(&temporary) {
        Err(error) if !error.is_not_found() => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = root.create(&temporary)?;
    let written = file.write_all(text).and_then(|()| file.sync());
    let written =
        written.map_err(|source| FileError::Io { path: root.path().join(&temporary), action: "write", source });
    let replaced = written.and_then(|()| root.replace(&temporary, name));
    replaced.inspect_err(|_| drop(root.remove(&temporary)))?;
    root.sync()
}

/// Begins the name of a file that `write` has not finished; the name ends in the nonce of its process.
pub(crate) const TEMPORARY: &str = ".tmp-";

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
    use proptest::prelude::*;
    use safe_dir::sim::Disk;

    use super::*;

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

    #[test]
    fn a_directory_of_a_newer_version_is_left_alone() {
        let root = Disk::new().root();
        write(&root, LAYOUT, "1", b"holdfast-state 3 shop and more\n").expect("room");
        let error = claim(&root, "shop", "1").expect_err("newer");
        assert!(error.to_string().contains("layout 3 of a newer version"), "{error}");
        assert_eq!(read(&root).expect("readable"), Some(Layout::Newer(3)));
    }

    #[test]
    fn an_unreadable_layout_is_written_anew_and_reported() {
        for text in ["", "holdfast-state", "holdfast-state 2 shop", "holdfast-state x shop\n", "\u{0}\n", "nonsense\n"]
        {
            let root = Disk::new().root();
            write(&root, LAYOUT, "1", text.as_bytes()).expect("room");
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

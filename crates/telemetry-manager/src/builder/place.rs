//! The place of the service's directory in a chosen one: in itself, or in a directory of this user's in or beside it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use resilient_exporter::StorageNote;
use safe_dir::{Directory as _, OpenError, Place, SafeDir, others_below};

use super::siblings;
use crate::settings::table::STATE_DIR;

/// Begins the name of the directory that a user has in one which belongs to another, or which others use too.
const PREFIX: &str = "holdfast";

/// The directory in which the service has its own, and the remarks about it.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) base: PathBuf,
    /// For health: spans that this process cannot send.
    pub(super) notes: Vec<StorageNote>,
    /// For the log alone.
    pub(super) warnings: Vec<String>,
}

/// Finds the place of the directory `service` in `chosen`. Makes no directory but one of this user's in a chosen one
/// that others own or use.
///
/// # Errors
///
/// If the chosen directory belongs to another user and this one can make none in or beside it, or if the path leads
/// through a link of another user.
pub(super) fn place(chosen: &Path, from: &str, service: &str) -> Result<Placed, OpenError> {
    let mut placed = Placed { base: chosen.to_owned(), notes: Vec::new(), warnings: Vec::new() };
    let own = format!("{PREFIX}-{}", user());
    let metadata = match fs::metadata(chosen) {
        Ok(metadata) => metadata,
        // The exporter makes it, or has the error.
        Err(_) => return Ok(placed),
    };
    let is_ours_alone = metadata.is_dir() && metadata.uid() == user() && metadata.mode() & 0o022 == 0;
    if !is_ours_alone || chosen.join(&own).is_dir() {
        // Names of this user in a directory that came back wider; the others are those of the version before.
        let in_use = [service, "fallback", "journal", "dead-letters"];
        match SafeDir::open_or_below(chosen, PREFIX, &in_use) {
            Ok(opened) => {
                placed.base = opened.dir.path().to_owned();
                if let (Place::Itself, Some(mode)) = (opened.place, opened.dir.narrowed()) {
                    placed.warnings.push(narrowed(&placed.base, mode));
                }
            }
            Err(error) => {
                let owner = metadata.uid();
                placed.base = beside(chosen, &own).filter(|_| owner != user()).ok_or(error)?;
                let cause = format!("{} of {from} belongs to user {owner}", chosen.display());
                let place = placed.base.display();
                let remedy = format!("set {} to a directory of user {}", STATE_DIR.name, user());
                placed.notes.push(StorageNote::new(format!("{cause}, so spans go to files in {place}"), remedy));
            }
        }
    }
    // A directory that cannot be opened is an error of the exporter's; one that does not exist is made by it.
    let root = placed.base.join(service);
    if root.symlink_metadata().is_ok()
        && let Ok(dir) = SafeDir::open(&root)
        && let Some(mode) = dir.narrowed()
    {
        placed.warnings.push(narrowed(&root, mode));
    }
    placed.look_around(chosen, service);
    Ok(placed)
}

/// The directory of this user beside the chosen one, which belongs to another.
fn beside(chosen: &Path, own: &str) -> Option<PathBuf> {
    let dir = SafeDir::open(chosen.parent()?.join(own)).ok()?;
    Some(dir.path().to_owned())
}

fn narrowed(path: &Path, mode: u32) -> String {
    format!(
        "{} had mode {mode:04o}, by which other users had access: its mode is 0700 again; check what changes it, such as the \
         fsGroup of a volume",
        path.display()
    )
}

impl Placed {
    /// Notes the spans of other services, and of other users, that wait near the directory.
    fn look_around(&mut self, chosen: &Path, service: &str) {
        self.notes.extend(siblings::note_about(&self.base, Some(service)));
        if self.base.parent() == Some(chosen) {
            // From a time when the chosen directory was this user's alone.
            self.notes.extend(siblings::note_about(chosen, None));
        } else {
            self.notes.extend(siblings::note_about(&chosen.join(format!("{PREFIX}-{}", user())), None));
        }
        for other in others_below(chosen, PREFIX).unwrap_or_default().into_iter().take(MAX_OTHERS) {
            let content = match other.bytes {
                Some(0) => continue,
                Some(bytes) => format!("has {bytes} bytes"),
                None => "may have spans".to_owned(),
            };
            let (path, owner) = (other.path.display(), other.owner);
            self.notes.push(StorageNote::new(
                format!("{path} of user {owner} {content} that a process of user {} does not send", user()),
                format!("start once as user {owner}, or remove it"),
            ));
        }
    }
}

/// Directories of other users that are named, at most.
const MAX_OTHERS: usize = 5;

pub(super) fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn make(path: &Path, mode: u32) {
        fs::create_dir(path).expect("a directory");
        set(path, mode);
    }

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("a directory").mode() & 0o7777
    }

    fn placed(chosen: &Path) -> (PathBuf, usize, usize) {
        let Placed { base, notes, warnings } = place(chosen, "TELEMETRY_STATE_DIR", "shop").expect("a place");
        (base, notes.len(), warnings.len())
    }

    #[test]
    fn a_volume_that_all_users_write_in_is_used_through_a_directory_of_this_user() {
        let scratch = tempfile::tempdir().expect("a directory");
        let volume = scratch.path().canonicalize().expect("a path").join("volume");
        for wide in [0o777, 0o1777] {
            make(&volume, wide);
            let own = volume.join(format!("holdfast-{}", user()));
            for _ in 0..2 {
                assert_eq!(placed(&volume), (own.clone(), 0, 0), "{wide:o}");
                assert_eq!((mode(&own), mode(&volume)), (0o700, wide));
            }
            // The platform has narrowed the volume: the directory stays in use.
            set(&volume, 0o700);
            assert_eq!(placed(&volume), (own, 0, 0), "{wide:o}");
            fs::remove_dir_all(&volume).expect("removed");
        }
    }

    #[test]
    fn a_directory_that_came_back_wider_stays_in_use_and_is_narrowed_with_a_warning() {
        let scratch = tempfile::tempdir().expect("a directory");
        let chosen = scratch.path().canonicalize().expect("a path").join("chosen");
        assert_eq!(placed(&chosen), (chosen.clone(), 0, 0), "it is made by the exporter");
        make(&chosen, 0o755);
        assert_eq!(placed(&chosen), (chosen.clone(), 0, 0));
        assert_eq!(mode(&chosen), 0o755, "others may read names, as before");
        make(&chosen.join("shop"), 0o700);
        set(&chosen, 0o2770);
        assert_eq!(placed(&chosen), (chosen.clone(), 0, 1));
        assert_eq!(mode(&chosen), 0o700);
        assert_eq!(placed(&chosen), (chosen.clone(), 0, 0));
        set(&chosen.join("shop"), 0o2770);
        let warnings = place(&chosen, "", "shop").expect("a place").warnings;
        assert!(warnings.len() == 1 && warnings[0].contains("shop had mode 2770"), "{warnings:?}");
    }

    #[test]
    fn directories_of_other_users_and_services_are_named() {
        let scratch = tempfile::tempdir().expect("a directory");
        let chosen = scratch.path().canonicalize().expect("a path");
        for (dir, bytes) in [("holdfast-4294967294", 9), ("holdfast-4294967293", 0), ("old/fallback", 1)] {
            let dir = chosen.join(dir);
            fs::create_dir_all(&dir).expect("directories");
            fs::write(dir.join("traces-20260201T000000.123Z-00000042-n512.jsonl"), vec![0; bytes]).expect("a file");
        }
        let notes = place(&chosen, "", "shop").expect("a place").notes;
        let texts: Vec<_> = notes.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(texts[0].starts_with("512 spans of \"old\" wait in"), "{texts:?}");
        assert!(texts[1].contains("holdfast-4294967294 of user") && texts[1].contains("has 9 bytes"), "{texts:?}");
        assert!(texts[1].contains("; start once as user"), "{texts:?}");
    }

    #[test]
    fn spans_in_the_other_place_of_this_user_are_named() {
        let scratch = tempfile::tempdir().expect("a directory");
        let chosen = scratch.path().canonicalize().expect("a path");
        let own = format!("holdfast-{}", user());
        for dir in ["shop".to_owned(), own] {
            let dir = chosen.join(dir).join("shop/fallback");
            fs::create_dir_all(&dir).expect("directories");
            fs::write(dir.join("traces-20260201T000000.123Z-00000042-n512.jsonl"), "x").expect("a file");
        }
        let Placed { base, notes, .. } = place(&chosen, "", "shop").expect("a place");
        assert_eq!((base, notes.len()), (chosen.clone(), 1), "{notes:?}");
        assert!(notes[0].to_string().contains("holdfast-"), "{notes:?}");
    }

    #[test]
    fn a_file_in_the_place_of_the_chosen_directory_is_an_error_of_it() {
        let scratch = tempfile::tempdir().expect("a directory");
        let file = scratch.path().join("file");
        fs::write(&file, "precious").expect("a file");
        let error = place(&file, "", "shop").expect_err("no directory").to_string();
        assert!(error.contains("not a directory"), "{error}");
        assert_eq!(fs::read_to_string(&file).expect("still there"), "precious");
    }
}

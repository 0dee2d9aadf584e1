//! The copy of the tree in which bugs are planted; the working tree is never written to.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::table::Bug;
use crate::fail::Failure;
use crate::process::capture;

/// A copy of the sources below the target folder. The copy and its build stay between runs, so that the next run builds
/// only the files that have changed.
pub(super) struct Copy {
    pub(super) root: PathBuf,
    pub(super) target: PathBuf,
}

impl Copy {
    /// Brings the copy up to date: writes each file whose content differs and removes each file that the tree lacks.
    pub(super) fn sync(root: &Path, home: &Path) -> Result<Self, Failure> {
        let copy = Self { root: home.join("tree"), target: home.join("target") };
        let files = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
        let listed = capture(Command::new("git").current_dir(root).args(files))?;
        let mut expected = BTreeSet::new();
        for file in listed.split('\0').filter(|file| !file.is_empty()) {
            let (from, to) = (root.join(file), copy.root.join(file));
            // Git lists a file that the working tree has deleted, too.
            if from.is_file() {
                write_if_different(&from, &to).map_err(|source| Failure::File { path: to.clone(), source })?;
                expected.insert(to);
            }
        }
        remove_others(&copy.root, &expected)?;
        Ok(copy)
    }

    /// Plants a bug; the original text returns when the guard is restored or dropped.
    pub(super) fn plant(&self, bug: &Bug) -> Result<Planted, Failure> {
        let path = self.package(&bug.package).join(&bug.entry.file);
        let file = |source| Failure::File { path: path.clone(), source };
        let original = fs::read_to_string(&path).map_err(file)?;
        let planted = bug.entry.plant(&original);
        let planted = planted.map_err(|why| Failure::Unreadable { what: path.display().to_string(), why })?;
        fs::write(&path, planted).map_err(file)?;
        Ok(Planted { path, original, restored: false })
    }

    /// The folder of a crate in the copy.
    pub(super) fn package(&self, name: &str) -> PathBuf {
        self.root.join("crates").join(name)
    }
}

/// A file that holds a planted bug.
pub(super) struct Planted {
    path: PathBuf,
    original: String,
    restored: bool,
}

impl Planted {
    pub(super) fn restore(mut self) -> Result<(), Failure> {
        self.restored = true;
        fs::write(&self.path, &self.original).map_err(|source| Failure::File { path: self.path.clone(), source })
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        if !self.restored {
            // On the way out with a failure; the next run's `sync` repairs a file that cannot be written now.
            let _ = fs::write(&self.path, &self.original);
        }
    }
}

fn write_if_different(from: &Path, to: &Path) -> io::Result<()> {
    let content = fs::read(from)?;
    if fs::read(to).is_ok_and(|present| present == content) {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    // A copy also carries the permissions; its modification time is now, so that cargo sees the change.
    fs::copy(from, to).map(drop)
}

/// A source that was moved must not stay where it was: cargo would still find it there as a target.
fn remove_others(root: &Path, expected: &BTreeSet<PathBuf>) -> Result<(), Failure> {
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let failed = |source| Failure::File { path: folder.clone(), source };
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else if !expected.contains(&path) {
                fs::remove_file(&path).map_err(|source| Failure::File { path: path.clone(), source })?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants::table::{Entry, Lane};

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("xtask-mutants-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary folder");
        path
    }

    #[test]
    fn the_copy_follows_the_tree_and_leaves_equal_files_alone() {
        let home = scratch("sync");
        let (tree, copy) = (home.join("from"), home.join("to"));
        let write = |name: &str, text: &str| {
            fs::create_dir_all(tree.join("src")).expect("a temporary folder");
            fs::write(tree.join(name), text).expect("a temporary file");
        };
        write("src/equal.rs", "equal");
        write("src/changed.rs", "before");
        write("src/gone.rs", "gone");
        let git = |arguments: &[&str]| capture(Command::new("git").current_dir(&tree).args(arguments)).expect("git");
        git(&["init", "--quiet"]);
        Copy::sync(&tree, &copy).unwrap_or_else(|failure| panic!("{failure}"));
        let modified = |name: &str| fs::metadata(copy.join("tree").join(name)).and_then(|meta| meta.modified());
        let before = modified("src/equal.rs").expect("copied");
        write("src/changed.rs", "after");
        fs::remove_file(tree.join("src/gone.rs")).expect("written above");
        Copy::sync(&tree, &copy).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(modified("src/equal.rs").expect("still there"), before);
        assert_eq!(fs::read_to_string(copy.join("tree/src/changed.rs")).expect("copied"), "after");
        assert!(modified("src/gone.rs").is_err());
        fs::remove_dir_all(&home).expect("made above");
    }

    #[test]
    fn a_planted_file_is_restored_even_when_the_run_fails() {
        let home = scratch("plant");
        let copy = Copy { root: home.clone(), target: home.join("target") };
        let source = copy.package("leaf").join("lib.rs");
        fs::create_dir_all(source.parent().expect("a folder")).expect("a temporary folder");
        fs::write(&source, "let a = 1;\n").expect("a temporary file");
        let entry = Entry {
            name: "n".into(),
            bug: "b".into(),
            file: "lib.rs".into(),
            find: "let a = 1;\n".into(),
            replace: "let a = 2;\n".into(),
            lane: Lane::Tests,
            test: "lib".into(),
        };
        let bug = Bug { package: "leaf".into(), entry };
        let planted = copy.plant(&bug).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(fs::read_to_string(&source).expect("planted"), "let a = 2;\n");
        drop(planted);
        assert_eq!(fs::read_to_string(&source).expect("restored"), "let a = 1;\n");
        fs::remove_dir_all(&home).expect("made above");
    }
}

//! The tables of planted bugs: one TOML file per crate, read and checked against the sources.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::fail::Failure;
use crate::workspace::{Package, Workspace};

/// The name under which a table refers to the unit tests of the library.
pub(super) const LIBRARY: &str = "lib";

/// One planted bug of a crate.
#[derive(Clone, Debug)]
pub(super) struct Bug {
    /// The crate whose source the bug changes and whose tests must fail.
    pub(super) package: String,
    pub(super) entry: Entry,
}

/// One `[[bug]]` of a table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) name: String,
    /// One line for people: which statement about the crate the bug makes false.
    pub(super) bug: String,
    /// The changed source, relative to the crate.
    pub(super) file: PathBuf,
    /// Whole lines that occur exactly once in the file.
    pub(super) find: String,
    /// The lines that take their place.
    pub(super) replace: String,
    pub(super) lane: Lane,
    /// The test or module that is run first: its target, then its path inside the target, joined by `::`.
    pub(super) test: String,
}

/// Which build of the tests must find a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Lane {
    /// The tests of the library and of the integration targets.
    Tests,
    /// The target `loom`, built with `--cfg loom`.
    Loom,
}

impl Lane {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tests => "tests",
            Self::Loom => "loom",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    bug: Vec<Entry>,
}

impl Entry {
    /// The target of the named test and its path inside that target; an empty path stands for all tests of the target.
    pub(super) fn named_test(&self) -> (&str, &str) {
        self.test.split_once("::").unwrap_or((&self.test, ""))
    }

    /// The text of the source with the bug in it.
    pub(super) fn plant(&self, source: &str) -> Result<String, String> {
        match source.matches(&self.find).count() {
            1 => Ok(source.replacen(&self.find, &self.replace, 1)),
            0 => Err("`find` does not occur in it".into()),
            count => Err(format!("`find` occurs {count} times in it")),
        }
    }
}

/// Reads every table of the folder, in the order of their names.
pub(super) fn load(folder: &Path) -> Result<Vec<Bug>, Failure> {
    let unreadable = |path: &Path, why: String| Failure::Unreadable { what: path.display().to_string(), why };
    let entries = fs::read_dir(folder).map_err(|error| unreadable(folder, error.to_string()))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    let mut bugs = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).map_err(|error| unreadable(&path, error.to_string()))?;
        let table: Table = toml::from_str(&text).map_err(|error| unreadable(&path, error.to_string()))?;
        let package = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        bugs.extend(table.bug.into_iter().map(|entry| Bug { package: package.clone(), entry }));
    }
    Ok(bugs)
}

/// Lists every entry that cannot be planted: the quick test in the gate and the lane itself refuse such tables.
pub(super) fn check(workspace: &Workspace, bugs: &[Bug]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut names = BTreeSet::new();
    for bug in bugs {
        let mut report = |problem: String| problems.push(format!("{} {}: {problem}", bug.package, bug.entry.name));
        if bug.entry.name.is_empty() || !names.insert(&bug.entry.name) {
            report("the name is empty or stands twice".into());
        }
        if bug.entry.bug.trim().is_empty() {
            report("`bug` is empty".into());
        }
        if bug.entry.find.is_empty() || bug.entry.find == bug.entry.replace {
            report("`find` is empty or equal to `replace`".into());
        }
        let Some(package) = workspace.crates().find(|package| package.name == bug.package) else {
            report("no crate has the name of this table".into());
            continue;
        };
        let path = package.dir.join(&bug.entry.file);
        match fs::read_to_string(&path) {
            Ok(source) => {
                if let Err(problem) = bug.entry.plant(&source) {
                    report(format!("{}: {problem}", bug.entry.file.display()));
                }
            }
            Err(error) => report(format!("{}: {error}", bug.entry.file.display())),
        }
        let (target, path) = bug.entry.named_test();
        if !has_target(package, target) {
            report(format!("`test` names the target {target:?}, which the crate does not have"));
        } else if !names_something(package, target, path) {
            report(format!("`test` names {path:?}, and the sources of {target} have no such test or module"));
        }
        if bug.entry.lane == Lane::Loom && target != "loom" {
            report("a bug of the lane loom names a test of the target loom".into());
        }
    }
    problems
}

fn has_target(package: &Package, target: &str) -> bool {
    if target == LIBRARY { package.has_library } else { package.tests.iter().any(|test| test.name == target) }
}

/// Whether the last name of the path is a test or a module in the sources of the target; the names before the last one
/// are not compared, because the quick check builds nothing. The lane itself asks the test program for the whole path.
fn names_something(package: &Package, target: &str, path: &str) -> bool {
    let Some(name) = path.rsplit("::").next().filter(|name| !name.is_empty()) else { return true };
    let folder = if target == LIBRARY { "src" } else { "tests" };
    let mut folders = vec![package.dir.join(folder)];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())) {
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(&path)
                && declares(&text, name)
            {
                return true;
            }
        }
    }
    false
}

/// Whether a source declares a module of this name, or a function of this name under `#[test]`: also one inside of
/// `proptest!`, which carries the attribute too.
fn declares(source: &str, name: &str) -> bool {
    if [format!("mod {name};"), format!("mod {name} {{")].iter().any(|module| source.contains(module)) {
        return true;
    }
    source.match_indices(&format!("fn {name}(")).any(|(at, _)| {
        // The attributes and comments of the function begin behind the item before it.
        let before = &source[..at];
        let begin = before.rfind(['{', '}', ';']).unwrap_or(0);
        before[begin..].contains("#[test]")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(find: &str, replace: &str) -> Entry {
        let text = format!(
            "[[bug]]\nname = 'n'\nbug = 'b'\nfile = 'src/lib.rs'\nfind = '''\n{find}'''\nreplace = '''\n{replace}'''\n\
             lane = 'tests'\ntest = 'it::limits'\n"
        );
        toml::from_str::<Table>(&text).expect("a table").bug.remove(0)
    }

    #[test]
    fn every_planted_bug_can_be_planted() {
        let workspace = Workspace::find().unwrap_or_else(|failure| panic!("{failure}"));
        let bugs = load(&workspace.root.join("xtask/mutants")).unwrap_or_else(|failure| panic!("{failure}"));
        let problems = check(&workspace, &bugs);
        assert!(problems.is_empty(), "\n{}", problems.join("\n"));
        assert!(bugs.len() >= 119, "a planted bug follows its code and is never dropped: {}", bugs.len());
    }

    #[test]
    fn a_renamed_test_is_missed() {
        let workspace = Workspace::find().unwrap_or_else(|failure| panic!("{failure}"));
        let backoff = workspace.crates().find(|package| package.name == "backoff").expect("a crate");
        assert!(names_something(backoff, "it", "policies") && names_something(backoff, "it", ""));
        assert!(!names_something(backoff, "it", "policies::no_such_test_anywhere"));
    }

    #[test]
    fn a_helper_of_tests_is_no_test() {
        let source = concat!(
            "mod deep;\nmod near {\n    #[test]\n    fn inner() {}\n}\n#[test]\n#[cfg(unix)]\nfn first() {}\n",
            "fn helper() {}\nproptest! {\n    /// Any bytes.\n    #[test]\n    fn any(bytes in vec()) {}\n}\n"
        );
        for name in ["deep", "near", "inner", "first", "any"] {
            assert!(declares(source, name), "{name}");
        }
        for name in ["helper", "firs", "bytes"] {
            assert!(!declares(source, name), "{name}");
        }
    }

    #[test]
    fn a_bug_takes_the_place_of_lines_that_occur_once() {
        let entry = entry("    b\n", "    c\n");
        assert_eq!(entry.plant("a\n    b\n").as_deref(), Ok("a\n    c\n"));
        assert_eq!(entry.plant("a\n"), Err("`find` does not occur in it".into()));
        assert_eq!(entry.plant("    b\n    b\n"), Err("`find` occurs 2 times in it".into()));
    }

    #[test]
    fn lines_can_be_removed() {
        assert_eq!(entry("b\n", "").plant("a\nb\nc\n").as_deref(), Ok("a\nc\n"));
    }

    #[test]
    fn a_named_test_is_a_target_and_a_path() {
        assert_eq!(entry("a", "b").named_test(), ("it", "limits"));
        let whole_target = Entry { test: "lib".into(), ..entry("a", "b") };
        assert_eq!(whole_target.named_test(), ("lib", ""));
    }

    #[test]
    fn an_unknown_or_missing_field_is_refused() {
        for text in ["[[bug]]\nname = 'n'\n", "[[bugs]]\n", "[[bug]]\nname = 'n'\nseverity = 3\n"] {
            assert!(toml::from_str::<Table>(text).is_err(), "{text}");
        }
    }
}

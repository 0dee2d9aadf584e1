//! Which planted bugs a run takes: by name, by crate, or those of the crates that have changed.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::fail::Failure;
use crate::process::capture;

/// The command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// A part of a bug's name, or a crate.
    pub(super) filter: String,
    pub(super) scope: Scope,
    /// The measured rows replace those of `docs/mutants.md`.
    pub(super) write: bool,
}

/// Which crates a run looks at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Scope {
    /// Those that differ from where this branch left `origin/main`; all of them if a filter is given.
    #[default]
    Changed,
    /// Those that differ from a commit.
    Since(String),
    All,
}

impl Options {
    pub(super) fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let mut options = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--all" => options.set_scope(Scope::All)?,
                "--since" => {
                    let commit = arguments.next().ok_or_else(|| Failure::Usage("--since takes a commit".into()))?;
                    options.set_scope(Scope::Since(commit.clone()))?;
                }
                "--write" => options.write = true,
                flag if flag.starts_with('-') => {
                    return Err(Failure::Usage(format!("mutants does not know {flag:?}")));
                }
                filter if options.filter.is_empty() => options.filter = filter.to_owned(),
                second => return Err(Failure::Usage(format!("one filter at most, got {second:?} too"))),
            }
        }
        if options.scope == Scope::Changed && !options.filter.is_empty() {
            options.scope = Scope::All;
        }
        Ok(options)
    }

    fn set_scope(&mut self, scope: Scope) -> Result<(), Failure> {
        if self.scope != Scope::Changed {
            return Err(Failure::Usage("mutants takes one of --since and --all, once".into()));
        }
        self.scope = scope;
        Ok(())
    }
}

/// The crates that differ from a commit.
pub(super) struct Changed {
    pub(super) crates: BTreeSet<String>,
    /// The commit, as the reader of the output knows it.
    pub(super) since: String,
}

impl Changed {
    /// Compares the working tree, uncommitted and untracked files included, with the commit.
    pub(super) fn find(root: &Path, since: Option<&str>) -> Result<Self, Failure> {
        let (commit, since) = match since {
            Some(commit) => (commit.to_owned(), commit.to_owned()),
            None => default_commit(root)?,
        };
        let git = |arguments: &[&str]| capture(Command::new("git").current_dir(root).args(arguments));
        let changed = git(&["diff", "--name-only", "-z", &commit, "--"])?;
        let untracked = git(&["ls-files", "--others", "--exclude-standard", "-z"])?;
        let files = changed.split('\0').chain(untracked.split('\0'));
        Ok(Self { crates: files.filter_map(owner).map(str::to_owned).collect(), since })
    }
}

/// The merge base with `origin/main`, else the commit before this one.
fn default_commit(root: &Path) -> Result<(String, String), Failure> {
    let first_line = |arguments: &[&str]| {
        let text = capture(Command::new("git").current_dir(root).args(arguments).stderr(Stdio::null()));
        text.ok().map(|text| text.trim().to_owned()).filter(|commit| !commit.is_empty())
    };
    if let Some(commit) = first_line(&["merge-base", "HEAD", "origin/main"]) {
        return Ok((commit, "the merge base with origin/main".into()));
    }
    match first_line(&["rev-parse", "--verify", "--quiet", "HEAD~1"]) {
        Some(commit) => Ok((commit, "HEAD~1".into())),
        None => Err(Failure::Usage("there is no commit to compare with; take --all or --since COMMIT".into())),
    }
}

/// The crate whose tests a changed file can affect: the one that holds it, or whose table it is.
fn owner(file: &str) -> Option<&str> {
    if let Some(rest) = file.strip_prefix("crates/") {
        return rest.split_once('/').map(|(name, _)| name);
    }
    file.strip_prefix("xtask/mutants/")?.strip_suffix(".toml")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&arguments).map_err(|failure| failure.to_string())
    }

    #[test]
    fn without_a_filter_the_changed_crates_are_taken_and_with_one_all() {
        assert_eq!(parse(""), Ok(Options::default()));
        let all = Options { filter: "backoff".into(), scope: Scope::All, write: false };
        assert_eq!(parse("backoff"), Ok(all));
        let since = Options { filter: "probe".into(), scope: Scope::Since("v1".into()), write: true };
        assert_eq!(parse("probe --since v1 --write"), Ok(since));
    }

    #[test]
    fn contradictions_are_refused() {
        for line in ["--all --since v1", "a b", "--since", "--nothing"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_file_belongs_to_its_crate_and_a_table_to_the_crate_of_its_name() {
        assert_eq!(owner("crates/backoff/src/lib.rs"), Some("backoff"));
        assert_eq!(owner("xtask/mutants/breaker.toml"), Some("breaker"));
        assert_eq!((owner("docs/backoff.md"), owner("xtask/mutants/README.md")), (None, None));
    }
}

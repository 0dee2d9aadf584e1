//! Rules that no other tool checks: arrows between the crates and between the rooms of a crate, fields that every
//! manifest inherits, the oldest supported compiler, text that no source may hold, words and widths of comments and
//! prose, links of the documentation.

mod arrows;
mod ceilings;
mod links;
mod manifests;
mod msrv;
mod paths;
mod rooms;
mod sources;
mod tokens;
mod words;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::fail::Failure;
use crate::workspace::Workspace;

use ceilings::Ceilings;

/// One thing that is wrong.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// File or crate, relative to the workspace.
    place: String,
    /// Counted from 1; 0 if the finding is about the whole.
    line: usize,
    message: String,
}

impl Finding {
    fn new(place: impl Into<String>, line: usize, message: impl Into<String>) -> Self {
        Self { place: place.into(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.place, self.message),
            line => write!(f, "{}:{line}: {}", self.place, self.message),
        }
    }
}

/// Runs every check and prints every finding.
pub(crate) fn run(workspace: &Workspace) -> Result<(), Failure> {
    let files = read_tree(&workspace.root)?;
    let mut findings = arrows::check(&workspace.root, &workspace.packages);
    findings.extend(arrows::check_trees(workspace)?);
    findings.extend(manifests::check(workspace));
    findings.extend(msrv::check(&files)?);
    findings.extend(sources::check(&files));
    findings.extend(links::check(&files));
    findings.extend(rooms::check(&files));
    let ceilings = read(&workspace.root.join(ceilings::FILE))?;
    let ceilings = Ceilings::parse(&String::from_utf8_lossy(&ceilings))
        .map_err(|why| Failure::Unreadable { what: ceilings::FILE.into(), why })?;
    let mut crates: Vec<&str> = workspace.crates().map(|package| package.name.as_str()).collect();
    crates.sort_unstable();
    findings.extend(rooms::check_circles(&crates, &files, &ceilings));
    let folders: Vec<String> = crates.iter().map(|name| format!("crates/{name}")).collect();
    let folders: Vec<&str> = folders.iter().map(String::as_str).chain(["xtask", "benches"]).collect();
    findings.extend(words::check(&folders, &files, &ceilings));
    findings.extend(words::check_width(&files, &ceilings));
    for finding in &findings {
        eprintln!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        n => Err(Failure::Found(format!("tidy: {n} finding(s), listed above"))),
    }
}

/// A text file of the project; `path` is relative to the workspace, with `/`.
pub(crate) struct Source {
    path: String,
    text: String,
}

/// All text files of the project. Build output, version control and other hidden folders but `.ci` and `.cargo` are not
/// the project; binary files are left out.
fn read_tree(root: &Path) -> Result<Vec<Source>, Failure> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in list(&folder)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let hidden = name.starts_with('.') && !matches!(name.as_str(), ".ci" | ".cargo" | ".gitignore");
            if hidden || path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                // Every `target` folder holds cargo's marker; a source folder of that name would not.
                if !path.join("CACHEDIR.TAG").exists() {
                    folders.push(path);
                }
            } else if let Ok(text) = String::from_utf8(read(&path)?) {
                let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
                found.push(Source { path: relative, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = fs::read_dir(folder).map_err(|source| Failure::File { path: folder.to_owned(), source })?;
    entries
        .map(|entry| {
            entry.map(|entry| entry.path()).map_err(|source| Failure::File { path: folder.to_owned(), source })
        })
        .collect()
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|source| Failure::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_read_without_build_output_hidden_folders_and_binaries() {
        let root = std::env::temp_dir().join(format!("xtask-tidy-{}", std::process::id()));
        for (path, bytes) in [
            ("src/lib.rs", &b"//! Text."[..]),
            (".git/config", b"[core]"),
            (".ci/run", b"#!/bin/bash"),
            ("target/CACHEDIR.TAG", b"Signature"),
            ("target/debug/build.rs", b"fn main() {}"),
            ("logo.png", &[0x89, 0xff, 0xfe]),
        ] {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("below the root")).expect("a temporary folder");
            fs::write(path, bytes).expect("a temporary file");
        }
        let files = read_tree(&root).expect("readable");
        fs::remove_dir_all(&root).expect("made above");
        assert_eq!(files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), [".ci/run", "src/lib.rs"]);
    }
}

//! The fields that every member's manifest must have, and the files that its folder must have.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::Finding;
use crate::workspace::{Package, Workspace};

/// Fields that stand once, in the workspace.
const INHERITED: [&str; 5] = ["version", "edition", "rust-version", "license", "publish"];

/// The only source of packages.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Checks every member and the lock file.
pub(super) fn check(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in &workspace.packages {
        // A missing file is as bad as an empty one, and reported in the same words.
        let read = |name: &str| fs::read_to_string(package.dir.join(name)).unwrap_or_default();
        let folder = package.dir.strip_prefix(&workspace.root).unwrap_or(&package.dir);
        let tests: Vec<String> =
            package.tests.iter().map(|test| fs::read_to_string(&test.source).unwrap_or_default()).collect();
        findings.extend(check_one(folder, package, &read("Cargo.toml"), &read("README.md"), &tests));
    }
    findings.extend(check_examples(&workspace.packages));
    for lock in ["Cargo.lock", "xtask/fuzz/Cargo.lock"] {
        findings.extend(check_lock(lock, &fs::read_to_string(workspace.root.join(lock)).unwrap_or_default()));
    }
    findings
}

fn check_one(folder: &Path, package: &Package, manifest: &str, readme: &str, tests: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut say = |file: &str, line: usize, message: String| {
        findings.push(Finding::new(format!("{}/{file}", folder.display()), line, message));
    };
    for field in INHERITED {
        if !has(manifest, "[package]", &format!("{field}.workspace = true")) {
            say("Cargo.toml", 0, format!("`{field}.workspace = true` is missing"));
        }
    }
    if !has(manifest, "[lints]", "workspace = true") {
        say("Cargo.toml", 0, "the lints of the workspace are not inherited".into());
    }
    if package.description.as_deref().unwrap_or_default().is_empty() {
        say("Cargo.toml", 0, "has no description".into());
    }
    // The benches alone depend on the peers that they compare us with, so these versions stand in their manifest.
    for (line, dependency) in if package.name == "benches" { vec![] } else { own_versions(manifest) } {
        say(
            "Cargo.toml",
            line,
            format!("`{dependency}` has a version of its own: put it into [workspace.dependencies]"),
        );
    }
    if readme.lines().filter(|line| !line.trim().is_empty()).count() < 3 {
        say("README.md", 0, "is missing or says nothing: what it is, why, one example".into());
    }
    // Another allocator, another kind of build and a measured peak of memory need a program of their own.
    let apart = ["#[global_allocator]", "#![cfg(loom)]", "/proc/self/clear_refs"];
    let together = tests.iter().filter(|text| !apart.iter().any(|mark| text.contains(mark))).count();
    if together > 1 {
        say("tests", 0, format!("{together} integration-test binaries, each linked on its own: make them one"));
    }
    findings
}

/// Examples of all packages land in one folder: of two with one name, only one is there to run.
fn check_examples(packages: &[Package]) -> Vec<Finding> {
    let mut owners: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages {
        for example in &package.examples {
            owners.entry(example).or_default().push(&package.name);
        }
    }
    let shared = owners.into_iter().filter(|(_, owners)| owners.len() > 1);
    shared
        .map(|(example, owners)| {
            Finding::new(owners.join(", "), 0, format!("each has an example `{example}`: name them apart"))
        })
        .collect()
}

/// Whether `section` holds the line `wanted`.
fn has(manifest: &str, section: &str, wanted: &str) -> bool {
    manifest
        .lines()
        .skip_while(|line| line.trim() != section)
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .any(|line| line.trim() == wanted)
}

/// Dependencies that do not inherit: a quoted version, or a table without `workspace = true` and without `path`.
fn own_versions(manifest: &str) -> Vec<(usize, &str)> {
    let mut inside = false;
    let mut found = Vec::new();
    for (number, line) in manifest.lines().enumerate() {
        if line.starts_with('[') {
            inside = line.trim_end().ends_with("dependencies]");
        } else if let (true, Some((name, value))) = (inside, line.split_once('=')) {
            let inherits = name.trim().ends_with(".workspace") || value.contains("workspace = true");
            if !inherits
                && !line.trim_start().starts_with('#')
                && (value.contains("version") || value.trim_start().starts_with('"'))
            {
                found.push((number + 1, name.trim()));
            }
        }
    }
    found
}

fn check_lock(place: &str, lock: &str) -> Vec<Finding> {
    let sources =
        lock.lines().enumerate().filter_map(|(number, line)| Some((number + 1, line.strip_prefix("source = ")?)));
    sources
        .filter(|(_, source)| source.trim_matches('"') != REGISTRY)
        .map(|(line, source)| Finding::new(place, line, format!("{source} is not crates.io")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[package]\nname = \"leaf\"\nversion.workspace = true\nedition.workspace = true\nrust-version.workspace = true\n\
        license.workspace = true\npublish.workspace = true\n\n[dependencies]\nrand.workspace = true\ntokio = { workspace = true, optional = true }\n\
        \n[lints]\nworkspace = true\n";
    const README: &str = "# leaf\n\nWhat.\n\nWhy.\n";

    fn package(name: &str) -> Package {
        let (dir, description) = (Path::new("/w/crates").join(name), Some("A leaf".into()));
        let name = name.into();
        Package {
            name,
            dir,
            description,
            dependencies: vec![],
            examples: vec![],
            tests: vec![],
            has_library: true,
            features: vec![],
        }
    }

    fn check_text(manifest: &str, readme: &str, tests: &[&str]) -> Vec<String> {
        let tests: Vec<String> = tests.iter().map(ToString::to_string).collect();
        let findings = check_one(Path::new("crates/leaf"), &package("leaf"), manifest, readme, &tests);
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_manifest_that_inherits_everything_is_fine() {
        assert_eq!(check_text(GOOD, README, &["mod a;", "#![cfg(loom)]", "#[global_allocator]"]), [""; 0]);
    }

    #[test]
    fn what_is_not_inherited_is_found() {
        let own =
            GOOD.replace("edition.workspace = true", "edition = \"2024\"").replace("[lints]\nworkspace = true\n", "");
        assert_eq!(
            check_text(&own, README, &[]),
            [
                "crates/leaf/Cargo.toml: `edition.workspace = true` is missing",
                "crates/leaf/Cargo.toml: the lints of the workspace are not inherited"
            ]
        );
    }

    #[test]
    fn a_dependency_with_its_own_version_is_found() {
        for own in ["rand = \"0.10\"", "rand = { version = \"0.10\" }"] {
            let found = check_text(&GOOD.replace("rand.workspace = true", own), README, &[]);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains("Cargo.toml:10: `rand` has a version"), "{found:?}");
        }
    }

    #[test]
    fn an_empty_readme_and_a_second_test_binary_are_found() {
        let found = check_text(GOOD, "# leaf\n", &["mod a;", "mod b;"]);
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn two_examples_of_one_name_are_found() {
        let mut packages = [package("backoff"), package("breaker"), package("safe-dir")];
        for (package, example) in packages.iter_mut().zip(["database", "database", "files"]) {
            package.examples.push(example.into());
        }
        let found = check_examples(&packages);
        assert_eq!(found.iter().map(|finding| finding.place.as_str()).collect::<Vec<_>>(), ["backoff, breaker"]);
    }

    #[test]
    fn a_package_from_elsewhere_is_found_in_the_lock_file() {
        let lock = format!("source = \"{REGISTRY}\"\nsource = \"git+https://example.com/x\"\n");
        assert_eq!(check_lock("Cargo.lock", &lock).iter().map(|finding| finding.line).collect::<Vec<_>>(), [2]);
    }
}

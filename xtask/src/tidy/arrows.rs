//! Who may depend on whom: arrows point up the list of the house only.

use std::path::Path;

use super::Finding;
use crate::fail::Failure;
use crate::process::{self, cargo};
use crate::workspace::{Package, Workspace};

/// The crates of the house, leaves first: a crate may depend on those above it, never on those below.
const HOUSE: [&str; 13] = [
    "backoff",
    "breaker",
    "safe-dir",
    "span-buffer",
    "journal",
    "file-fallback",
    "otlp-payload",
    "otlp-transport",
    "resilient-exporter",
    "telemetry-manager",
    "telemetry-service",
    "mock-collector",
    "holdfast",
];

/// How many of the first crates of the house are leaves: useful in programs that know nothing of telemetry.
const LEAVES: usize = 6;

/// The one leaf that other leaves may stand on.
const GROUND: &str = "safe-dir";

/// Families of packages that a leaf never depends on by default, not even through another package.
const NOT_IN_LEAVES: [&str; 4] = ["opentelemetry", "tokio", "tonic", "hyper"];

/// Checks the declared normal dependencies of every member.
pub(super) fn check(root: &Path, packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        let shipped = package.dir.parent() == Some(root.join("crates").as_path());
        let place = HOUSE.iter().position(|name| *name == package.name);
        if shipped && place.is_none() {
            findings.push(Finding::new(&package.name, 0, "has no place in the list of the house (tidy/arrows.rs)"));
        }
        for dependency in package.dependencies.iter().filter(|dependency| dependency.normal) {
            let target = &dependency.name;
            let Some(from) = place else { continue };
            if let Some(to) = HOUSE.iter().position(|name| name == target) {
                if to >= from {
                    findings.push(Finding::new(
                        &package.name,
                        0,
                        format!("must not depend on {target}: it stands below"),
                    ));
                } else if from < LEAVES && target != GROUND {
                    findings.push(Finding::new(&package.name, 0, format!("is a leaf and must not know {target}")));
                }
            } else if packages.iter().any(|other| other.name == *target) {
                findings.push(Finding::new(
                    &package.name,
                    0,
                    format!("must not depend on {target}: it is no part of the house"),
                ));
            }
            if from < LEAVES && !dependency.optional && is_foreign(target) {
                findings.push(Finding::new(
                    &package.name,
                    0,
                    format!("is a leaf and must not know {target} by default"),
                ));
            }
        }
    }
    findings
}

/// Checks the dependencies that the leaves have through others, with their default features.
pub(super) fn check_trees(workspace: &Workspace) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    for leaf in &HOUSE[..LEAVES] {
        if workspace.packages.iter().any(|package| package.name == *leaf) {
            let tree =
                ["tree", "--quiet", "--edges", "normal", "--prefix", "none", "--format", "{p}", "--package", leaf];
            findings.extend(check_tree(leaf, &process::capture(cargo().args(tree))?));
        }
    }
    Ok(findings)
}

fn check_tree(leaf: &str, tree: &str) -> Vec<Finding> {
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    let mut foreign: Vec<&str> = names.filter(|name| is_foreign(name)).collect();
    foreign.sort_unstable();
    foreign.dedup();
    foreign.iter().map(|name| Finding::new(leaf, 0, format!("is a leaf and brings {name} along"))).collect()
}

fn is_foreign(name: &str) -> bool {
    NOT_IN_LEAVES
        .iter()
        .any(|family| name.strip_prefix(family).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;

    fn package(name: &str, dependencies: &[(&str, bool, bool)]) -> Package {
        let dependencies = dependencies
            .iter()
            .map(|&(name, normal, optional)| Dependency { name: name.into(), normal, optional })
            .collect();
        let dir = Path::new("/w/crates").join(name);
        Package {
            name: name.into(),
            dir,
            description: None,
            dependencies,
            examples: vec![],
            tests: vec![],
            has_library: true,
            features: vec![],
        }
    }

    fn messages(packages: &[Package]) -> Vec<String> {
        check(Path::new("/w"), packages).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_arrow_down_the_list_is_found_and_one_up_is_not() {
        let down = package("otlp-payload", &[("otlp-transport", true, false)]);
        assert_eq!(messages(&[down]), ["otlp-payload: must not depend on otlp-transport: it stands below"]);
        assert!(messages(&[package("otlp-transport", &[("otlp-payload", true, false)])]).is_empty());
    }

    #[test]
    fn dev_dependencies_may_point_anywhere() {
        assert!(messages(&[package("otlp-transport", &[("mock-collector", false, false)])]).is_empty());
    }

    #[test]
    fn leaves_know_only_the_ground() {
        assert_eq!(
            messages(&[package("breaker", &[("backoff", true, true)])]),
            ["breaker: is a leaf and must not know backoff"]
        );
        assert!(messages(&[package("file-fallback", &[("safe-dir", true, false)])]).is_empty());
    }

    #[test]
    fn leaves_know_tokio_and_opentelemetry_only_by_choice() {
        let found = messages(&[package("breaker", &[("tokio", true, false), ("opentelemetry_sdk", true, false)])]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(messages(&[package("breaker", &[("tokio", true, true), ("tower-layer", true, true)])]).is_empty());
    }

    #[test]
    fn what_a_leaf_brings_along_is_found_deep_in_its_tree() {
        let tree =
            "backoff v0.1.0 (/w/crates/backoff)\nrand v0.10.4\ntokio-util v0.7.1\ntokio v1.54.1\ntokio v1.54.1 (*)\n";
        let found: Vec<_> = check_tree("backoff", tree).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            ["backoff: is a leaf and brings tokio along", "backoff: is a leaf and brings tokio-util along"]
        );
    }

    #[test]
    fn a_crate_without_a_place_and_an_arrow_out_of_the_house_are_found() {
        let mut xtask = package("xtask", &[]);
        xtask.dir = "/w/xtask".into();
        let found = messages(&[package("common", &[]), xtask, package("holdfast", &[("xtask", true, false)])]);
        assert_eq!(found.len(), 2, "{found:?}");
    }
}

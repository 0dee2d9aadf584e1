//! The oldest supported compiler: no dependency needs a newer one, and no source uses younger syntax.
//!
//! `clippy::incompatible_msrv` checks the names of std. A build by that compiler would check everything, and would make
//! rustup download it for each person who runs the gate.

use serde_json::Value;

use super::tokens::{Token, tokens};
use super::{Finding, Source};
use crate::fail::Failure;
use crate::process::{self, cargo};

/// Those of `deny.toml`: the packages of other platforms would be downloaded for this check alone.
const PLATFORMS: [&str; 3] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "aarch64-apple-darwin"];

/// Syntax that a compiler of `rust-version` does not know, with the version that does: `if let` guards of a `match`.
const GUARDS_SINCE: Version = Version(1, 95, 0);

/// Checks the resolved dependencies of all members, and the sources.
pub(super) fn check(files: &[Source]) -> Result<Vec<Finding>, Failure> {
    let mut command = cargo();
    command.args(["metadata", "--format-version", "1", "--all-features"]);
    command.args(PLATFORMS.iter().flat_map(|platform| ["--filter-platform", platform]));
    let text = process::capture(&mut command)?;
    let unreadable = || Failure::Unreadable {
        what: "cargo metadata".into(),
        why: "a field that format version 1 promises is missing".into(),
    };
    let json: Value = serde_json::from_str(&text).map_err(|_| unreadable())?;
    let (ours, mut findings) = check_packages(&json).ok_or_else(unreadable)?;
    let pages = files.iter().filter(|file| file.path == "README.md");
    findings.extend(pages.flat_map(|page| check_page(&page.path, &page.text, ours)));
    if ours < GUARDS_SINCE {
        let sources = files.iter().filter(|file| file.path.ends_with(".rs"));
        findings.extend(sources.flat_map(|file| check_source(&file.path, &file.text, ours)));
    }
    Ok(findings)
}

/// A version of Rust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32, u32);

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('.').map(|number| number.parse().ok());
        Some(Self(numbers.next()??, numbers.next()??, numbers.next().unwrap_or(Some(0))?))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(major, minor, patch) = self;
        write!(f, "{major}.{minor}")?;
        if *patch > 0 { write!(f, ".{patch}") } else { Ok(()) }
    }
}

/// The lowest `rust-version` of the members, and each dependency that needs more.
fn check_packages(json: &Value) -> Option<(Version, Vec<Finding>)> {
    let packages = json["packages"].as_array()?;
    let version = |package: &Value| Version::parse(package["rust_version"].as_str()?);
    let (members, others): (Vec<_>, Vec<_>) = packages.iter().partition(|package| package["source"].is_null());
    let ours = members.into_iter().filter_map(version).min()?;
    let newer =
        others.into_iter().filter_map(|package| Some((package, version(package).filter(|needs| *needs > ours)?)));
    let findings = newer.map(|(package, needs)| {
        let (name, version) = (package["name"].as_str()?, package["version"].as_str()?);
        let message = format!(
            "{name} {version} needs Rust {needs}, `rust-version` is {ours}: `cargo update -p {name}` takes an older one"
        );
        Some(Finding::new("Cargo.lock", 0, message))
    });
    Some((ours, findings.collect::<Option<_>>()?))
}

/// The front page states the version.
fn check_page(path: &str, text: &str, ours: Version) -> Option<Finding> {
    let stated = format!("Rust {ours} or newer");
    let missing = || Finding::new(path, 0, format!("does not say \"{stated}\", which is the `rust-version`"));
    (!text.contains(&stated)).then(missing)
}

fn check_source(path: &str, text: &str, ours: Version) -> Vec<Finding> {
    let tokens = tokens(text);
    let is_condition = |at: usize| at > 0 && (tokens[at - 1].is("if") || tokens[at - 1].is("&"));
    let lets = (0..tokens.len()).filter(|at| tokens[*at].is("let") && is_condition(*at));
    let guards = lets.filter(|at| ends_in_an_arrow(&tokens[at + 1..]));
    let message = format!("`if let` as the guard of an arm is of Rust {GUARDS_SINCE}, `rust-version` is {ours}");
    guards.map(|at| Finding::new(path, tokens[at].line, message.clone())).collect()
}

/// Whether the condition that begins with the pattern in front of these tokens ends at the arrow of an arm, and not at
/// the block of an `if` or a `while`.
fn ends_in_an_arrow(tokens: &[Token<'_>]) -> bool {
    let (mut depth, mut in_pattern) = (0_usize, true);
    for (at, token) in tokens.iter().enumerate() {
        let is_arrow = || tokens.get(at + 1).is_some_and(|next| next.is(">"));
        match token.text {
            // The first one outside of brackets ends the pattern; that of `..=` is inside.
            "=" if depth == 0 && in_pattern => in_pattern = at > 0 && tokens[at - 1].is("."),
            "=" if depth == 0 && is_arrow() => return true,
            "{" if depth == 0 && !in_pattern => return false,
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" if depth == 0 => return false,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_that_needs_a_newer_compiler_is_found() {
        let json = serde_json::json!({"packages": [
            {"name": "leaf", "version": "0.1.0", "source": null, "rust_version": "1.88"},
            {"name": "same", "version": "1.0.0", "source": "registry", "rust_version": "1.88.0"},
            {"name": "older", "version": "1.0.0", "source": "registry", "rust_version": "1.9"},
            {"name": "silent", "version": "1.0.0", "source": "registry", "rust_version": null},
            {"name": "newer", "version": "0.13.1", "source": "registry", "rust_version": "1.88.1"},
        ]});
        let (ours, findings) = check_packages(&json).expect("readable");
        assert_eq!(ours, Version(1, 88, 0));
        assert_eq!(
            findings.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "Cargo.lock: newer 0.13.1 needs Rust 1.88.1, `rust-version` is 1.88: `cargo update -p newer` takes an older one"
            ]
        );
        assert_eq!(check_packages(&serde_json::json!({"packages": []})), None);
    }

    #[test]
    fn a_front_page_with_another_version_is_found() {
        let page = |text| check_page("README.md", text, Version(1, 88, 0)).is_some();
        assert!(!page("It needs Rust 1.88 or newer.") && page("It needs Rust 1.95 or newer.") && page(""));
    }

    #[test]
    fn a_guard_with_let_is_found_and_an_if_with_let_is_not() {
        for (text, lines) in [
            ("match x {\n    (a, _) if let Some(b) = f(a) => b,\n    _ => 0,\n}", &[2][..]),
            ("match x {\n    a if a > 1 && let P { b, .. } = f(|| { 1 }) => b,\n    _ => 0,\n}", &[2]),
            ("match x {\n    a if a > 1 => if let Some(b) = a { b } else { 0 },\n    _ => 0,\n}", &[]),
            ("if let 1..=2 = x && let Some(y) = z { match y { _ => 0 } }", &[]),
            ("while let P { a } = f() { match a { b if b => 1, _ => 0 } }", &[]),
            ("if let Some(x) = y { |z| match z { _ => 0 } } // if let Some(x) = y => z", &[]),
            ("let x = match y { Some(z) => z, None => 0 };", &[]),
        ] {
            let found = check_source("a.rs", text, Version(1, 88, 0));
            assert_eq!(found.iter().map(|finding| finding.line).collect::<Vec<_>>(), lines, "{text}");
        }
    }
}

//! That Markdown links to files and headings that exist, and that the index of `docs/` names each of its pages.
//! Addresses on the network are not visited.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, Source};

/// Checks the relative links of every Markdown file.
pub(super) fn check(files: &[Source]) -> Vec<Finding> {
    let mut known: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for file in files {
        known.insert(&file.path, if is_markdown(&file.path) { headings(&file.text) } else { BTreeSet::new() });
    }
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| is_markdown(&file.path)) {
        for (line, target) in prose(&file.text).flat_map(|(line, text)| targets(text).map(move |target| (line, target)))
        {
            if let Some(why) = broken(&known, &file.path, target) {
                findings.push(Finding::new(&file.path, line, format!("link to `{target}`: {why}")));
            }
        }
    }
    findings.extend(check_index(files));
    findings
}

/// The list of the pages in `docs/`, by reader.
const INDEX: &str = "docs/README.md";

fn check_index(files: &[Source]) -> Vec<Finding> {
    let Some(index) = files.iter().find(|file| file.path == INDEX) else { return Vec::new() };
    let linked: BTreeSet<String> = prose(&index.text)
        .flat_map(|(_, line)| targets(line))
        .map(|target| resolve(INDEX, target.split('#').next().unwrap_or_default()))
        .collect();
    let pages = files.iter().map(|file| &file.path).filter(|path| path.starts_with("docs/") && is_markdown(path));
    let missing = pages.filter(|path| *path != INDEX && !linked.contains(*path));
    missing.map(|path| Finding::new(INDEX, 0, format!("does not link to `{path}`: name its reader"))).collect()
}

fn broken(known: &BTreeMap<&str, BTreeSet<String>>, from: &str, target: &str) -> Option<&'static str> {
    let remote = ["http:", "https:", "mailto:"].iter().any(|scheme| target.starts_with(scheme));
    if remote || target.is_empty() {
        return target.is_empty().then_some("it is empty");
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = if path.is_empty() { from.to_owned() } else { resolve(from, path) };
    match known.get(path.as_str()) {
        Some(headings) => (!anchor.is_empty() && !headings.contains(anchor)).then_some("no such heading"),
        // A link may also name a folder.
        None if known.keys().any(|file| file.strip_prefix(path.as_str()).is_some_and(|rest| rest.starts_with('/'))) => {
            None
        }
        None => Some("no such file"),
    }
}

/// `path` as seen from the file `from`, relative to the workspace.
fn resolve(from: &str, path: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

/// Lines outside of fenced code, counted from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(number, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((number + 1, line))
    })
}

/// The targets of `[text](target)` in a line, code spans left out.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    // Every second piece between backticks is code; a link's text may be code too, so its target begins the next piece.
    line.split('`').step_by(2).flat_map(|piece| piece.split("](").skip(1)).filter_map(|rest| {
        let target = rest.split_once(')')?.0;
        // A title may follow the target.
        Some(target.split_once(' ').map_or(target, |(target, _)| target))
    })
}

/// Anchors as the usual renderers make them: lower case, punctuation dropped, spaces to hyphens.
fn headings(text: &str) -> BTreeSet<String> {
    let titles =
        prose(text).filter(|(_, line)| line.starts_with('#')).map(|(_, line)| line.trim_start_matches('#').trim());
    titles
        .map(|title| {
            let kept = title.to_lowercase().replace(' ', "-");
            kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
        })
        .collect()
}

fn is_markdown(path: &str) -> bool {
    path.ends_with(".md")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(text: &str) -> Vec<String> {
        let file = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
        let files = [
            file("docs/page.md", text),
            file("docs/other.md", "# What it is, and why\n```\n# not a heading\n```\n"),
            file("crates/leaf/src/lib.rs", ""),
        ];
        check(&files).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn links_to_what_exists_are_fine() {
        let text = "[a](other.md) [b](./other.md#what-it-is-and-why \"title\") [`code`](../crates/leaf/src/lib.rs)\n\
            [folder](../crates/leaf/) [here](#top) [net](https://example.com/x)\n# Top\n";
        assert_eq!(check_text(text), [""; 0]);
    }

    #[test]
    fn links_to_nothing_are_found_with_their_line() {
        let found = check_text("fine\n[a](gone.md) [b](other.md#not-a-heading) [c]()\n");
        assert_eq!(
            found,
            [
                "docs/page.md:2: link to `gone.md`: no such file",
                "docs/page.md:2: link to `other.md#not-a-heading`: no such heading",
                "docs/page.md:2: link to ``: it is empty"
            ]
        );
    }

    #[test]
    fn a_page_that_the_index_does_not_name_is_found() {
        let file = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
        let files = [
            file("docs/README.md", "[a](a.md#use)"),
            file("docs/a.md", "# Use"),
            file("docs/b.md", ""),
            file("README.md", ""),
        ];
        let found: Vec<String> = check(&files).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["docs/README.md: does not link to `docs/b.md`: name its reader"]);
    }

    #[test]
    fn code_is_not_searched_for_links() {
        assert_eq!(check_text("`a[0](gone.md)`\n```text\n[a](gone.md)\n```\n"), [""; 0]);
    }
}

//! The table of a run, and the same table in `docs/mutants.md`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::suite::Verdict;
use super::table::Bug;
use crate::fail::Failure;

/// The lines of the page between which the lane writes.
const BEGIN: &str = "<!-- measured by `cargo xtask mutants --write`: begin -->";
const END: &str = "<!-- measured by `cargo xtask mutants --write`: end -->";

const HEADINGS: &str = "| Name | Bug | Found by | Seconds |\n| --- | --- | --- | ---: |\n";

/// One bug that a run has judged.
pub(super) struct Row<'a> {
    pub(super) bug: &'a Bug,
    pub(super) verdict: Verdict,
    pub(super) seconds: f64,
}

impl Row<'_> {
    pub(super) fn is_found(&self) -> bool {
        matches!(self.verdict, Verdict::Found { .. } | Verdict::FoundByAnother { .. })
    }

    fn found_by(&self) -> String {
        match &self.verdict {
            Verdict::Found { by } => format!("`{by}`"),
            Verdict::FoundByAnother { by } => format!("`{by}`, not by `{}`", self.bug.entry.test),
            Verdict::Survived => "**survived**".into(),
            Verdict::Broken { why } => format!("**{why}**"),
        }
    }

    fn markdown(&self) -> String {
        let bug = self.bug.entry.bug.replace('|', "\\|");
        format!("| {} | {bug} | {} | {:.0} |", self.bug.entry.name, self.found_by(), self.seconds)
    }
}

/// The Markdown table of these rows.
pub(super) fn table(rows: &[Row<'_>]) -> String {
    rows.iter().fold(HEADINGS.to_owned(), |table, row| table + &row.markdown() + "\n")
}

/// Replaces the rows of the page that were measured now, and removes those of bugs that no table has any more.
pub(super) fn write(page: &Path, rows: &[Row<'_>], all: &[Bug]) -> Result<(), Failure> {
    let failed = |source| Failure::File { path: page.to_owned(), source };
    let text = fs::read_to_string(page).map_err(failed)?;
    let text = updated(&text, rows, all)
        .ok_or_else(|| Failure::Unreadable { what: page.display().to_string(), why: format!("no line {BEGIN:?}") })?;
    fs::write(page, text).map_err(failed)
}

fn updated(text: &str, rows: &[Row<'_>], all: &[Bug]) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (old, after) = rest.split_once(END)?;
    let mut lines: BTreeMap<&str, String> = BTreeMap::new();
    for line in old.lines() {
        if let Some((name, _)) = line.strip_prefix("| ").and_then(|rest| rest.split_once(" |")) {
            lines.insert(name, line.to_owned());
        }
    }
    lines.extend(rows.iter().map(|row| (row.bug.entry.name.as_str(), row.markdown())));
    let known: Vec<&String> = all.iter().filter_map(|bug| lines.get(bug.entry.name.as_str())).collect();
    let mut table = HEADINGS.to_owned();
    for line in known {
        table += line;
        table.push('\n');
    }
    Some(format!("{before}{BEGIN}\n\n{table}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants::table::{Entry, Lane};

    fn bug(name: &str) -> Bug {
        let entry = Entry {
            name: name.into(),
            bug: "a | b".into(),
            file: "src/lib.rs".into(),
            find: "a".into(),
            replace: "b".into(),
            lane: Lane::Tests,
            test: "it::x".into(),
        };
        Bug { package: "leaf".into(), entry }
    }

    #[test]
    fn a_run_replaces_its_rows_and_leaves_the_others() {
        let page =
            format!("Text.\n\n{BEGIN}\n\n{HEADINGS}| gone | x | `it` | 1 |\n| old | x | `it` | 2 |\n\n{END}\nEnd.\n");
        let all = [bug("new"), bug("old")];
        let rows = [Row { bug: &all[0], verdict: Verdict::Survived, seconds: 3.4 }];
        let text = updated(&page, &rows, &all).expect("a page with its marks");
        let expected = format!(
            "Text.\n\n{BEGIN}\n\n{HEADINGS}| new | a \\| b | **survived** | 3 |\n| old | x | `it` | 2 |\n\n{END}\nEnd.\n"
        );
        assert_eq!(text, expected);
        assert_eq!(updated(&text, &rows, &all), Some(text.clone()));
    }

    #[test]
    fn a_bug_that_another_test_finds_names_both() {
        let bug = bug("x");
        let row = Row { bug: &bug, verdict: Verdict::FoundByAnother { by: "lib::y".into() }, seconds: 0.0 };
        assert_eq!(row.found_by(), "`lib::y`, not by `it::x`");
    }
}

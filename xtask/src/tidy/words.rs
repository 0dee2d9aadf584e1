//! Vague words in comments, and comments and prose that are too wide.

use std::collections::BTreeMap;

use super::ceilings::{self, Ceilings, GOAL, Words};
use super::{Finding, Source};

/// Columns of a line of a comment or of prose.
const WIDTH: usize = 120;

const SOMEBODY: [&str; 6] = ["somebody", "nobody", "whoever", "whatever", "anybody", "everybody"];

/// The words of a crate's comments.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    words: usize,
    what: usize,
    somebody: usize,
}

impl Count {
    fn add(&mut self, comment: &str) {
        self.words += words(comment);
        for word in comment.split(|c: char| !c.is_alphanumeric() && c != '_') {
            self.what += usize::from(word.eq_ignore_ascii_case("what"));
            self.somebody += usize::from(SOMEBODY.iter().any(|vague| word.eq_ignore_ascii_case(vague)));
        }
    }

    /// In 1,000 words, to one decimal.
    fn rates(&self) -> Words {
        let rate = |count: usize| (10_000.0 * count as f64 / self.words.max(1) as f64).round() / 10.0;
        Words { what: rate(self.what), somebody: rate(self.somebody) }
    }
}

/// Prints how often vague words stand in the comments of each crate, and reports those above their ceiling.
///
/// A folder is a crate's; the last segment of its path is the name.
pub(super) fn check(folders: &[&str], files: &[Source], ceilings: &Ceilings) -> Vec<Finding> {
    let mut findings = Vec::new();
    println!("{:<20} {:>7} {:>13} {:>13}", "words of comments", "", "what", "somebody ..");
    for folder in folders {
        let mut count = Count::default();
        let below = |file: &&Source| file.path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        for file in files.iter().filter(below).filter(|file| file.path.ends_with(".rs")) {
            comments(&file.text).for_each(|(_, comment)| count.add(comment));
        }
        let name = folder.rsplit('/').next().unwrap_or(folder);
        let (rates, limits) = (count.rates(), ceilings.words(name));
        println!(
            "{name:<20} {:>7} {:>5.1} of {:>4.1} {:>5.1} of {:>4.1}",
            count.words, rates.what, limits.what, rates.somebody, limits.somebody
        );
        let families = [
            ("what", rates.what, limits.what, GOAL.what),
            ("somebody", rates.somebody, limits.somebody, GOAL.somebody),
        ];
        for (family, rate, limit, goal) in families {
            if rate > limit {
                let message = format!(
                    "\"{family}\" stands {rate} times in 1,000 words of comments, {limit} is the ceiling: name the subject \
                     and the object"
                );
                findings.push(Finding::new(*folder, 0, message));
            } else if limit > goal && rate < limit * 0.9 {
                println!("{name}: lower the ceiling of \"{family}\" to {} in {}", rate.max(goal), ceilings::FILE);
            }
        }
    }
    findings
}

/// Reports the lines that are too long of each crate or folder that has more of them than its ceiling allows.
pub(super) fn check_width(files: &[Source], ceilings: &Ceilings) -> Vec<Finding> {
    let mut groups: BTreeMap<&str, Vec<Finding>> = BTreeMap::new();
    for file in files {
        let findings = long_lines(file).into_iter().map(|(line, width)| {
            let message = format!("{width} columns of comment or prose, {WIDTH} are allowed");
            Finding::new(&file.path, line, message)
        });
        groups.entry(group(&file.path)).or_default().extend(findings);
    }
    let mut findings = Vec::new();
    for (group, long) in groups {
        let ceiling = ceilings.long_lines(group);
        if long.len() < ceiling {
            println!("{group}: lower the ceiling of long lines to {} in {}", long.len(), ceilings::FILE);
        } else if long.len() > ceiling {
            if ceiling > 0 {
                let message =
                    format!("{} lines of comment or prose are too long, {ceiling} is the ceiling", long.len());
                findings.push(Finding::new(group, 0, message));
            }
            findings.extend(long);
        }
    }
    findings
}

/// The crate that a file belongs to, else the file or folder at the top level that it is or is in.
fn group(path: &str) -> &str {
    let segments = if path.starts_with("crates/") { 2 } else { 1 };
    path.match_indices('/').nth(segments - 1).map_or(path, |(end, _)| &path[..end])
}

/// Lines of comments or prose above the width, tables and lines without a place to break left out.
fn long_lines(file: &Source) -> Vec<(usize, usize)> {
    let too_long = |line: &str| line.chars().count() > WIDTH;
    let lines = file.text.lines().enumerate().map(|(number, line)| (number + 1, line));
    let with_width = |(number, line): (usize, &str)| (number, line.chars().count());
    if file.path.ends_with(".rs") {
        let whole_lines: Vec<&str> = file.text.lines().collect();
        let long = comments(&file.text).map(|(number, comment)| (number, whole_lines[number - 1], comment));
        let long = long.filter(|(_, line, comment)| too_long(line) && can_be_broken(comment));
        long.map(|(number, line, _)| with_width((number, line))).collect()
    } else if file.path.ends_with(".md") {
        let mut fenced = false;
        let prose = lines.filter(move |(_, line)| {
            let fence = line.trim_start().starts_with("```");
            fenced ^= fence;
            !fenced && !fence
        });
        prose.filter(|(_, line)| too_long(line) && can_be_broken(line)).map(with_width).collect()
    } else {
        vec![]
    }
}

/// Whether a line of text is neither a row of a table nor a single word, such as an address, behind its markers.
fn can_be_broken(text: &str) -> bool {
    let text = text.trim_start().trim_start_matches(['-', '>', '*']).trim_start();
    !text.starts_with('|') && text.split_whitespace().count() > 1
}

/// The comments of a Rust source with their lines, without the signs that begin them.
fn comments(source: &str) -> impl Iterator<Item = (usize, &str)> {
    source.lines().enumerate().filter_map(|(number, line)| Some((number + 1, comment(line)?)))
}

fn comment(line: &str) -> Option<&str> {
    let trimmed = line.trim();
    if trimmed.starts_with("//") {
        return Some(trimmed.trim_start_matches(['/', '!']).trim());
    }
    // Behind code: not inside of a string, and not the slashes of an address.
    let begins = |at: &usize| {
        let before = &line[..*at];
        !before.ends_with([':', '"', '\'']) && line[at + 2..].starts_with([' ', '/', '!'])
    };
    let at = line.match_indices("//").map(|(at, _)| at).find(begins)?;
    line[..at].matches('"').count().is_multiple_of(2).then(|| &line[at + 3..])
}

/// How many words a text has: each begins with a letter and goes on with letters, hyphens and apostrophes.
fn words(text: &str) -> usize {
    let mut inside = false;
    let mut count = 0;
    for c in text.chars() {
        let goes_on = c.is_ascii_alphabetic() || inside && matches!(c, '\'' | '-');
        count += usize::from(goes_on && !inside);
        inside = goes_on;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: impl Into<String>) -> Source {
        Source { path: path.into(), text: text.into() }
    }

    #[test]
    fn comments_are_read_without_strings_and_addresses() {
        let source = "//! Front.\nlet a = 1; // behind\nlet b = \"// no\"; let c = \"http://x\";\n/// Doc.\ncode();\n";
        let found: Vec<_> = comments(source).collect();
        assert_eq!(found, [(1, "Front."), (2, "behind"), (4, "Doc.")]);
    }

    #[test]
    fn vague_words_are_counted_as_words() {
        let mut count = Count::default();
        count.add("What nobody's what-if says: whatever, somewhat `what_it_is` 12");
        assert_eq!(count, Count { words: 9, what: 2, somebody: 2 });
    }

    #[test]
    fn a_crate_above_its_ceiling_is_a_finding_and_one_below_is_not() {
        let files =
            [file("crates/leaf/src/lib.rs", "// what is it\n"), file("crates/leaf-2/src/lib.rs", "// a span\n")];
        let folders = ["crates/leaf", "crates/leaf-2"];
        let found = check(&folders, &files, &Ceilings::default());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].to_string().starts_with("crates/leaf: \"what\" stands 333.3 times"), "{found:?}");
        let ceilings = Ceilings::parse("[words]\nleaf = { what = 333.3, somebody = 0 }\n").expect("a table");
        assert!(check(&folders, &files, &ceilings).is_empty());
    }

    #[test]
    fn wide_comments_and_prose_are_found() {
        let wide = "word ".repeat(30);
        let lines =
            |path: &str, text: String| long_lines(&file(path, text)).iter().map(|(line, _)| *line).collect::<Vec<_>>();
        assert_eq!(lines("a.rs", format!("fn f() {{}}\n/// {wide}\nlet a = \"{wide}\";\n// | {wide} |\n")), [2]);
        assert_eq!(
            lines("a.md", format!("{wide}\n| {wide} |\n```\n{wide}\n```\n- {}\n- {wide}\n", "x".repeat(130))),
            [1, 7]
        );
        assert_eq!(lines("a.toml", wide.clone()), [0; 0]);
    }

    #[test]
    fn a_crate_may_have_as_many_wide_lines_as_its_ceiling_and_no_more() {
        let wide = "word ".repeat(30);
        let files =
            [file("crates/leaf/README.md", wide.clone()), file("crates/leaf/src/lib.rs", format!("// {wide}\n"))];
        let found = |ceiling: usize| {
            let ceilings = Ceilings::parse(&format!("[long_lines]\n\"crates/leaf\" = {ceiling}\n")).expect("a table");
            check_width(&files, &ceilings).len()
        };
        // Both lines, and above a ceiling that is not zero their count.
        assert_eq!([found(0), found(1), found(2)], [2, 3, 0]);
        assert_eq!(
            (group("README.md"), group("docs/a.md"), group("crates/a/b/c.rs")),
            ("README.md", "docs", "crates/a")
        );
    }
}

//! Text that no source may hold.

use super::{Finding, Source};

/// A source above this is a question to ask; it is printed, not refused.
const LONG: usize = 500;

/// A source above this is refused.
const TOO_LONG: usize = 600;

/// How many lines above a sleep its `#[expect]` may stand.
const EXPECT_REACH: usize = 6;

/// Written in two parts each, so that this file does not find itself.
const MARKS: [(&str, &str); 6] = [
    (concat!("#[", "ignore"), "a test that does not run proves nothing: make it run or delete it"),
    (concat!("todo", "!("), "unfinished code"),
    (concat!("unimple", "mented!("), "unfinished code"),
    (concat!("dbg", "!("), "left over from debugging"),
    (concat!("FIX", "ME"), "mend it, or say `TODO(name of the test that pins it)`"),
    (concat!("XX", "X"), "mend it, or say `TODO(name of the test that pins it)`"),
];

const SLEEP: &str = concat!("thread::", "sleep(");
const EXPECT: &str = "clippy::disallowed_methods";
const TODO: &str = concat!("TO", "DO");

/// The crates whose log calls are contained: their sources, and the one file there that calls the log.
const CONTAINED: [(&str, &str); 2] = [
    ("crates/resilient-exporter/src/", "crates/resilient-exporter/src/report/log.rs"),
    ("crates/telemetry-manager/src/", "crates/telemetry-manager/src/log.rs"),
];

/// Written in two parts, so that this file does not find itself.
const LOG: &str = concat!("trac", "ing");

/// Folders of one machine, which no other machine has.
const MACHINE: [&str; 4] =
    [concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];

/// Checks Rust sources for marks and length, every file for paths of one machine.
pub(super) fn check(files: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        if file.path != "Cargo.lock" {
            findings.extend(check_machine_paths(file));
        }
        if file.path.ends_with(".rs") {
            findings.extend(check_length(file));
            findings.extend(check_marks(file));
            findings.extend(check_todos(file, files));
            findings.extend(check_log_calls(file));
        }
    }
    findings
}

fn check_length(file: &Source) -> Option<Finding> {
    let lines = file.text.lines().count();
    if (LONG + 1..=TOO_LONG).contains(&lines) {
        println!("{}: {lines} lines; above {LONG} it may be two files", file.path);
    }
    let message = format!("{lines} lines; split it where a reader would, {TOO_LONG} is the limit");
    (lines > TOO_LONG).then(|| Finding::new(&file.path, 0, message))
}

fn check_marks(file: &Source) -> Vec<Finding> {
    let lines: Vec<&str> = file.text.lines().collect();
    let mut findings = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        for (mark, remedy) in MARKS {
            if contains_word(line, mark) {
                findings.push(Finding::new(&file.path, number + 1, format!("`{mark}`: {remedy}")));
            }
        }
        let near = &lines[number.saturating_sub(EXPECT_REACH)..=number];
        if line.contains(SLEEP) && !near.iter().any(|line| line.contains(EXPECT)) {
            let remedy = "wait on a condition with a deadline, or expect the lint and say why";
            findings.push(Finding::new(&file.path, number + 1, format!("`{SLEEP}`: {remedy}")));
        }
    }
    findings
}

/// A log subscriber is a user's code: one that panics must end no thread and lose no job.
fn check_log_calls(file: &Source) -> Vec<Finding> {
    let is_contained = |(folder, log): &&(&str, &str)| file.path.starts_with(folder) && file.path != *log;
    let Some((_, contained)) = CONTAINED.iter().find(is_contained) else { return Vec::new() };
    let code = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    let calls = |line: &str| {
        let line = code(line);
        contains_word(&line, &format!("{LOG}::")) || contains_word(&line, &format!("use {LOG}"))
    };
    let lines = file.text.lines().enumerate().filter(|(_, line)| calls(line));
    let message = || format!("`{LOG}`: a subscriber may panic; call the log through `{contained}`, which contains it");
    lines.map(|(number, _)| Finding::new(&file.path, number + 1, message())).collect()
}

/// A thing left to do names the test that pins today's behaviour: `TODO(name_of_the_test)`.
fn check_todos(file: &Source, files: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in file.text.lines().enumerate().filter(|(_, line)| is_to_do(line)) {
        let test =
            line.split_once(TODO).and_then(|(_, rest)| rest.strip_prefix('(')?.split_once(')')).map(|(name, _)| name);
        let pinned = test.is_some_and(|test| {
            let head = format!("fn {test}(");
            files.iter().any(|other| other.path.ends_with(".rs") && other.text.contains(&head))
        });
        if !pinned {
            let message = format!("`{TODO}` without the name of a test that pins today's behaviour in parentheses");
            findings.push(Finding::new(&file.path, number + 1, message));
        }
    }
    findings
}

/// The word in a comment, unless it is quoted.
fn is_to_do(line: &str) -> bool {
    let comment = line.split_once("//").map_or("", |(_, comment)| comment);
    contains_word(comment, TODO) && !comment.contains(&format!("`{TODO}"))
}

fn check_machine_paths(file: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        if let Some(folder) = MACHINE.iter().find(|folder| starts_a_path(line, folder)) {
            findings.push(Finding::new(&file.path, number + 1, format!("`{folder}` is a folder of one machine")));
        }
    }
    findings
}

/// Whether `folder` stands in `line` as the start of a path, not inside of a longer one.
fn starts_a_path(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '}' | ')' | '*' | '~'))
    })
}

/// Whether `mark` stands in `line` and does not begin in the middle of a word.
fn contains_word(line: &str, mark: &str) -> bool {
    line.match_indices(mark).any(|(at, _)| {
        let starts_inside = line[..at].chars().next_back().is_some_and(is_word);
        let goes_on = mark.ends_with(is_word) && line[at + mark.len()..].chars().next().is_some_and(is_word);
        !starts_inside && !goes_on
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(path: &str, text: impl Into<String>) -> Vec<(usize, String)> {
        let found = check(&[Source { path: path.into(), text: text.into() }]);
        found.into_iter().map(|finding| (finding.line, finding.message)).collect()
    }

    #[test]
    fn every_mark_is_found_with_its_line() {
        for (mark, _) in MARKS {
            let found = check_text("src/lib.rs", format!("fn fine() {{}}\n    {mark}\n"));
            assert_eq!(found.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2], "{mark}");
        }
    }

    #[test]
    fn marks_inside_words_and_in_prose_files_are_left_alone() {
        assert!(check_text("src/lib.rs", concat!("let mytodo", "!(); // an XX", "XL size, re-ignore")).is_empty());
        assert!(check_text("docs/notes.md", MARKS[4].0).is_empty());
    }

    #[test]
    fn a_sleep_needs_its_reason_nearby() {
        let sleep = format!("    std::{SLEEP}pause);\n");
        assert_eq!(check_text("src/lib.rs", sleep.clone()).len(), 1);
        assert!(
            check_text(
                "src/lib.rs",
                format!("#[expect({EXPECT}, reason = \"the disk of this test is slow\")]\n{sleep}")
            )
            .is_empty()
        );
        assert_eq!(
            check_text("src/lib.rs", format!("#[expect({EXPECT})]\n{}{sleep}", "\n".repeat(EXPECT_REACH))).len(),
            1
        );
    }

    #[test]
    fn a_crate_calls_the_log_in_one_file_only() {
        for (folder, log) in CONTAINED {
            check_calls(&format!("{folder}shell/net.rs"), log);
        }
    }

    fn check_calls(path: &str, log: &str) {
        for call in [format!("    {LOG}::warn!(spans);"), format!("use {LOG}::warn;"), format!("use {LOG};")] {
            assert_eq!(check_text(path, call.clone()).len(), 1, "{call}");
            assert_eq!(check_text(log, call.clone()), []);
            assert_eq!(check_text("crates/holdfast/src/warn.rs", call), []);
        }
        assert_eq!(check_text(path, format!("    work(); // as {LOG}::warn! would")), []);
    }

    #[test]
    fn a_source_is_refused_above_the_limit_only() {
        assert!(check_text("src/lib.rs", "\n".repeat(TOO_LONG)).is_empty());
        assert_eq!(check_text("src/lib.rs", "\n".repeat(TOO_LONG + 1)).len(), 1);
    }

    #[test]
    fn a_thing_to_do_must_name_a_test_that_exists() {
        let check_comment = |rest: &str| check_text("src/lib.rs", [&"/".repeat(2), TODO, rest].concat());
        assert_eq!(check_comment(": later").len(), 1);
        assert_eq!(check_comment("(no_such_test): later").len(), 1);
        assert!(check_comment("(pins_it): later\n#[test]\nfn pins_it() {}").is_empty());
    }

    #[test]
    fn paths_of_one_machine_are_found_in_any_file() {
        for folder in MACHINE {
            assert_eq!(check_text("docs/a.md", format!("see `{folder}x`")).len(), 1, "{folder}");
            assert!(
                check_text("docs/a.md", format!("see https://example.com{folder}x and ${{DIR}}{folder}x")).is_empty(),
                "{folder}"
            );
        }
    }
}

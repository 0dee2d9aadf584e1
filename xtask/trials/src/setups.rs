//! Wrong and unusual set-ups: the README's program starts with each, and the table of `docs/setups.md` says what it
//! does: its exit code, the first lines of its log, its health, and the spans that a collector received.

mod cases;
mod stage;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

use self::cases::Case;
use self::stage::{Row, Stage};
use crate::Failure;

/// Programs that run at a time: most of them wait for a collector that does not answer.
const AT_ONCE: usize = 4;

/// The lines before and behind the table in the page.
const BEGIN: &str = "<!-- table: cargo xtask setups --write -->";
const END: &str = "<!-- end of the table -->";

/// Plays the set-ups, or those whose name contains a `filter`, and compares their rows with those of the page; with
/// `write` the page has the new rows.
///
/// # Errors
///
/// When this is not root, when a program hangs, or with each row that differs from the page.
pub fn run(program: &Path, page: &Path, filter: &str, write: bool) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err("the lane changes users and owners: run it as root".into());
    }
    if write && !filter.is_empty() {
        return Err("--write makes the whole table: no filter".into());
    }
    let stage = Stage::new(program)?;
    let cases = cases::all();
    let chosen = cases.iter().filter(|case| case.name.contains(filter)).collect::<Vec<_>>();
    if chosen.is_empty() {
        return Err(format!("no set-up has a name with {filter:?}").into());
    }
    let rows = play(&stage, &chosen)?;
    let text = fs::read_to_string(page).unwrap_or_default();
    if write {
        return write_page(page, &text, &rows);
    }
    let expected = rows_of(&text);
    let mut wrong = Vec::new();
    for row in &rows {
        println!("{}", row.line());
        match expected.get(row.name) {
            Some(line) if *line == row.markdown() => {}
            Some(line) => wrong.push(format!("{}:\n  page: {line}\n  seen: {}", row.name, row.markdown())),
            None => wrong.push(format!("{}: the page has no such row\n  seen: {}", row.name, row.markdown())),
        }
    }
    if filter.is_empty() && expected.len() != rows.len() {
        wrong.push(format!("the page has {} rows, and {} set-ups were played", expected.len(), rows.len()));
    }
    let page = page.display();
    match wrong.as_slice() {
        [] => Ok(()),
        wrong => Err(format!("{} rows differ from {page}:\n{}", wrong.len(), wrong.join("\n")).into()),
    }
}

/// Plays the cases, some at a time, and returns their rows in the order of the table.
fn play(stage: &Stage, cases: &[&Case]) -> Result<Vec<Row>, Failure> {
    let (next, rows) = (Mutex::new(0), Mutex::new(BTreeMap::new()));
    let work = || -> Result<(), String> {
        loop {
            let index = {
                let mut next = next.lock().map_err(|_| "a case has panicked")?;
                *next += 1;
                *next - 1
            };
            let Some(case) = cases.get(index) else { return Ok(()) };
            let row = stage.play(case).map_err(|error| format!("{}: {error}", case.name))?;
            rows.lock().map_err(|_| "a case has panicked")?.insert(index, row);
        }
    };
    std::thread::scope(|scope| {
        let workers = (0..AT_ONCE).map(|_| scope.spawn(work)).collect::<Vec<_>>();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a case has panicked")?)
    })?;
    Ok(rows.into_inner().map_err(|_| "a case has panicked")?.into_values().collect())
}

/// The rows of the page by their names, which are the first cells.
fn rows_of(page: &str) -> BTreeMap<&str, &str> {
    let table = page.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END)).map_or("", |(table, _)| table);
    // Behind the head of the table and its line.
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(2);
    rows.filter_map(|line| Some((line.strip_prefix("| ")?.split(" | ").next()?, line))).collect()
}

fn write_page(page: &Path, text: &str, rows: &[Row]) -> Result<(), Failure> {
    let (head, rest) = text.split_once(BEGIN).ok_or_else(|| format!("{}: no line {BEGIN:?}", page.display()))?;
    let (_, tail) = rest.split_once(END).ok_or_else(|| format!("{}: no line {END:?}", page.display()))?;
    let mut table = String::from("\n\n| Set-up | Variables | Exit | First lines of the log | Health | Spans |\n");
    table.push_str("| --- | --- | --- | --- | --- | --- |\n");
    for row in rows {
        println!("{}", row.line());
        writeln!(table, "{}", row.markdown())?;
    }
    fs::write(page, format!("{head}{BEGIN}{table}\n{END}{tail}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_as_it_is_written() -> Result<(), Failure> {
        let row = |name, log: &[&str]| Row {
            name,
            variables: "`A=1`".into(),
            exit: Some(0),
            log: log.iter().map(|line| (*line).to_owned()).collect(),
            health: vec!["healthy".into()],
            spans: 3,
        };
        let rows = [row("nothing set", &["INFO one | two"]), row("a", &[])];
        let dir = tempfile::tempdir()?;
        let page = dir.path().join("page.md");
        write_page(&page, &format!("# Page\n\n{BEGIN}\nold\n{END}\n\nmore\n"), &rows)?;
        let text = fs::read_to_string(&page)?;
        assert!(text.starts_with("# Page\n\n") && text.ends_with("\n\nmore\n") && !text.contains("old"), "{text}");
        let read = rows_of(&text);
        assert_eq!(read.keys().copied().collect::<Vec<_>>(), ["a", "nothing set"]);
        for row in rows {
            assert_eq!(read[row.name], row.markdown());
        }
        Ok(())
    }

    #[test]
    fn the_set_ups_are_forty_and_have_names_of_their_own() {
        let cases = cases::all();
        let names = cases.iter().map(|case| case.name).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(names.len(), cases.len());
        assert!(cases.len() >= 40, "{} set-ups", cases.len());
        assert!(names.iter().all(|name| !name.contains('|')), "a name is one cell");
    }
}

//! The program `holdfast serve` from outside: its API fuzzed from its own document, the walk of a person through
//! docs/testing.md with a collector that is killed, and figures with limits.
//!
//! Another part is a file below `e2e/` with a `run`, and a row of [`PARTS`].

mod api;
mod figures;
mod http;
mod page;
mod programs;
mod prometheus;
mod walk;

use crate::fail::Failure;
use crate::process;
use crate::workspace::Workspace;

/// The parts of the lane, each of which runs alone too.
const PARTS: [Part; 4] =
    [("api", api::run), ("walk", walk::run), ("figures", figures::run), ("prometheus", prometheus::run)];

/// A name, and its deeds.
type Part = (&'static str, fn(&Workspace) -> Result<(), Failure>);

/// Runs all parts, or one of them. Each is bounded in time: `api` by 5 minutes, `walk` by 4, `figures` by 3,
/// `prometheus` by 3, builds and the installation of schemathesis apart.
pub(crate) fn run(workspace: &Workspace, options: &[String]) -> Result<(), Failure> {
    let chosen = chosen(options)?;
    for (name, part) in chosen {
        let begin = process::now();
        part(workspace)?;
        println!("e2e {name}: passed in {:.0} s", begin.elapsed().as_secs_f64());
    }
    Ok(())
}

fn chosen(options: &[String]) -> Result<Vec<Part>, Failure> {
    match options {
        [] => Ok(PARTS.to_vec()),
        [name] if PARTS.iter().any(|(part, _)| part == name) => {
            Ok(PARTS.iter().filter(|(part, _)| part == name).copied().collect())
        }
        _ => {
            let parts = PARTS.map(|(part, _)| part).join("`, `");
            Err(Failure::Usage(format!("e2e takes no option but one of `{parts}`, got {options:?}")))
        }
    }
}

/// A finding of the lane, in words.
fn found(words: impl Into<String>) -> Failure {
    Failure::Found(words.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_runs_alone_by_its_name_and_an_unknown_one_is_refused() {
        let names = |options: &[&str]| {
            let options: Vec<_> = options.iter().map(ToString::to_string).collect();
            chosen(&options).map(|parts| parts.into_iter().map(|(name, _)| name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).expect("all"), ["api", "walk", "figures", "prometheus"]);
        assert_eq!(names(&["walk"]).expect("one"), ["walk"]);
        assert!(names(&["walks"]).unwrap_err().to_string().contains("`api`, `walk`, `figures`, `prometheus`"));
        assert!(names(&["walk", "api"]).is_err());
    }
}

//! Benchmarks: budgets, each with a gate that fails the run, then the criterion benches.

mod budget;
mod callgrind;

use std::fmt;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crate::fail::Failure;
use crate::process::{self, cargo};
use crate::workspace::Workspace;

use budget::{Budget, Notes};

/// The options of the lane.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    /// Part of the names of budgets and benches; empty for all.
    filter: String,
    /// The budgets alone, one line each.
    quick: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let mut options = Self::default();
        for argument in arguments {
            match argument.as_str() {
                "--quick" if !options.quick => options.quick = true,
                filter if !filter.starts_with('-') && options.filter.is_empty() => options.filter = filter.to_owned(),
                _ => {
                    let usage = "bench takes --quick and one filter, a part of a name";
                    return Err(Failure::Usage(format!("{usage}; got {}", arguments.join(" "))));
                }
            }
        }
        Ok(options)
    }
}

/// Runs the budgets and the criterion benches whose name contains the filter, and fails if a gate was missed. The table
/// is the last output.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<(), Failure> {
    let Options { filter, quick } = Options::parse(arguments)?;
    let budgets: Vec<&Budget> = budget::ALL.iter().filter(|budget| budget.name.contains(&filter)).collect();
    if quick && budgets.is_empty() {
        return Err(Failure::Usage(format!("no budget's name contains {filter:?}")));
    }
    budget::build(&budgets)?;
    let started = process::now();
    let programs = workspace.target.join("release");
    let notes = if quick { Notes::LeftOut } else { Notes::Shown };
    let verdicts = measure(&budgets, |budget| budget.measure(&programs, notes))?;
    let took = started.elapsed();
    if !quick {
        let filter = Some(&filter).filter(|filter| !filter.is_empty());
        process::run(cargo().args(["bench", "--package", "benches", "--"]).args(filter))?;
    }
    if !verdicts.is_empty() {
        println!("\n{}", Verdict::heading());
    }
    for verdict in &verdicts {
        println!("{verdict}");
    }
    let missed = verdicts.iter().filter(|verdict| !verdict.holds()).count();
    println!("{} gate(s) in {:.0} s, {missed} missed", verdicts.len(), took.as_secs_f64());
    if missed == 0 { Ok(()) } else { Err(Failure::Found(format!("{missed} gate(s) missed"))) }
}

/// Measures each budget and prints a line when it is done, in the order in which they end; the verdicts are in the
/// order of the budgets. Counts of instructions are the same beside other work, so two are made at a time; times are
/// taken afterwards, one budget at a time.
fn measure<'a>(
    budgets: &[&'a Budget],
    measure: impl Fn(&'a Budget) -> Result<Verdict, Failure> + Sync,
) -> Result<Vec<Verdict>, Failure> {
    let done: Mutex<Vec<Option<Result<Verdict, Failure>>>> = Mutex::new(budgets.iter().map(|_| None).collect());
    let run = |index: usize| {
        let started = process::now();
        let outcome = measure(budgets[index]);
        let mut done = done.lock().expect("no panic under it");
        done[index] = Some(outcome);
        let (count, all) = (done.iter().flatten().count(), budgets.len());
        if let Some(outcome) = &done[index] {
            println!("{}", progress(count, all, budgets[index].name, outcome, started.elapsed()));
        }
    };
    let (counts, times): (Vec<usize>, Vec<usize>) =
        (0..budgets.len()).partition(|index| budgets[*index].counts_instructions());
    let queue = Mutex::new(counts.into_iter());
    let next = || queue.lock().expect("no panic under it").next();
    thread::scope(|scope| {
        for _ in 0..COUNTS_AT_A_TIME {
            scope.spawn(|| {
                while let Some(index) = next() {
                    run(index);
                }
            });
        }
    });
    times.into_iter().for_each(run);
    done.into_inner().expect("no panic under it").into_iter().flatten().collect()
}

fn progress(count: usize, all: usize, name: &str, outcome: &Result<Verdict, Failure>, took: Duration) -> String {
    let result = match outcome {
        Ok(verdict) => verdict.short(),
        Err(failure) => format!("not measured: {failure}"),
    };
    format!("[{count:>2}/{all}] {name}: {result}, {:.1} s", took.as_secs_f64())
}

/// The project is checked on machines with two cores.
const COUNTS_AT_A_TIME: usize = 2;

/// One line of the table.
struct Verdict {
    name: &'static str,
    /// Of `peer` and `ours`.
    unit: Unit,
    peer: f64,
    ours: f64,
    gate: Gate,
}

/// The highest value that a gate lets through, or the lowest.
#[derive(Clone, Copy)]
enum Gate {
    /// Ours as a multiple of the peer's.
    TimesPeer(f64),
    /// The same, where more is better.
    AtLeastTimesPeer(f64),
    /// Ours alone, in its unit.
    AtMost(f64),
}

#[derive(Clone, Copy)]
enum Unit {
    /// User-space instructions per span.
    Instructions,
    InstructionsPerCall,
    NanosPerCall,
    NanosPerBatch,
    NanosPerSpan,
    Seconds,
    Millis,
    SpansPerSecond,
    KiB,
    MiB,
}

impl Unit {
    /// The name of the unit, and the number of decimals that its values are printed with.
    fn form(self) -> (&'static str, usize) {
        match self {
            Self::Instructions => ("instr/span", 0),
            Self::InstructionsPerCall => ("instr/call", 0),
            Self::NanosPerCall => ("ns/call", 1),
            Self::NanosPerBatch => ("ns/batch", 1),
            Self::NanosPerSpan => ("ns/span", 1),
            Self::Seconds => ("s", 3),
            Self::Millis => ("ms", 2),
            Self::SpansPerSecond => ("spans/s", 0),
            Self::KiB => ("KiB", 1),
            Self::MiB => ("MiB", 2),
        }
    }
}

impl Verdict {
    /// The value that is compared, and the gate that it is compared with.
    fn value_and_gate(&self) -> (f64, f64) {
        match self.gate {
            Gate::TimesPeer(gate) | Gate::AtLeastTimesPeer(gate) => (self.ours / self.peer, gate),
            Gate::AtMost(gate) => (self.ours, gate),
        }
    }

    fn holds(&self) -> bool {
        let (value, gate) = self.value_and_gate();
        match self.gate {
            Gate::TimesPeer(_) | Gate::AtMost(_) => value <= gate,
            Gate::AtLeastTimesPeer(_) => value >= gate,
        }
    }
}

impl Verdict {
    fn heading() -> String {
        format!("{:<32} {:>12} {:>12} {:>10} {:>8}  verdict", "budget", "peer", "ours", "value", "gate")
    }

    fn word(&self) -> &'static str {
        if self.holds() { "ok" } else { "MISSED" }
    }

    /// The sign of value and gate, and the number of decimals that the value is printed with.
    fn sign(&self) -> (&'static str, usize) {
        match self.gate {
            Gate::TimesPeer(_) | Gate::AtLeastTimesPeer(_) => ("x", 3),
            Gate::AtMost(_) => self.unit.form(),
        }
    }

    /// For the line of progress.
    fn short(&self) -> String {
        let ((value, gate), (sign, digits)) = (self.value_and_gate(), self.sign());
        format!("{value:.digits$} {sign} of {gate}, {}", self.word())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, unit, peer, ours, .. } = self;
        let (unit, digits) = unit.form();
        let (sign, value_digits) = self.sign();
        let (value, gate) = self.value_and_gate();
        let verdict = self.word();
        write!(
            f,
            "{name:<32} {peer:>12.digits$} {ours:>12.digits$} {value:>10.value_digits$} {gate:>8}  {verdict} ({unit}; gate in {sign})"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_above_its_gate_is_a_missed_gate_and_says_so() {
        let verdict = |ours, gate| Verdict { name: "x", unit: Unit::MiB, peer: 2.0, ours, gate };
        for (ours, gate) in [(0.5, Gate::TimesPeer(0.25)), (0.5, Gate::AtMost(0.5))] {
            assert!(verdict(ours, gate).holds() && verdict(ours, gate).to_string().contains("ok"));
            assert!(!verdict(0.51, gate).holds() && verdict(0.51, gate).to_string().contains("MISSED"));
            assert!(!verdict(f64::NAN, gate).holds());
        }
    }

    #[test]
    fn a_value_below_its_gate_is_a_missed_gate_where_more_is_better() {
        let gate = Gate::AtLeastTimesPeer(10.0);
        let verdict = |ours| Verdict { name: "x", unit: Unit::SpansPerSecond, peer: 2.0, ours, gate };
        assert!(verdict(20.0).holds() && verdict(21.0).holds());
        assert!(!verdict(19.9).holds() && !verdict(f64::NAN).holds());
    }

    #[test]
    fn a_command_line_is_a_filter_and_whether_it_is_quick() {
        let parse = |line: &str| Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let options = |filter: &str, quick| Options { filter: filter.to_owned(), quick };
        for (line, expected) in [
            ("", options("", false)),
            ("journal", options("journal", false)),
            ("--quick", options("", true)),
            ("--quick breaker", options("breaker", true)),
            ("breaker --quick", options("breaker", true)),
        ] {
            assert_eq!(parse(line).expect(line), expected);
        }
        for wrong in ["--slow", "one two", "--quick --quick"] {
            assert!(matches!(parse(wrong), Err(Failure::Usage(_))), "{wrong}");
        }
    }

    #[test]
    fn each_budget_is_measured_once_times_one_at_a_time_and_the_table_has_their_order() {
        let budgets: Vec<&Budget> = budget::ALL.iter().collect();
        let under_way = Mutex::new(Vec::new());
        let verdicts = measure(&budgets, |budget| {
            let mut names = under_way.lock().expect("no panic under it");
            names.push(budget);
            let (counts, times) = names.iter().partition::<Vec<&Budget>, _>(|budget| budget.counts_instructions());
            let allowed = if times.is_empty() { counts.len() <= COUNTS_AT_A_TIME } else { names.len() == 1 };
            drop(names);
            assert!(allowed, "{} beside others", budget.name);
            thread::yield_now();
            under_way.lock().expect("no panic under it").retain(|other| other.name != budget.name);
            Ok(Verdict { name: budget.name, unit: Unit::MiB, peer: 1.0, ours: 1.0, gate: Gate::AtMost(1.0) })
        });
        let names: Vec<_> = verdicts.expect("measured").iter().map(|verdict| verdict.name).collect();
        assert_eq!(names, budget::ALL.map(|budget| budget.name));
    }

    #[test]
    fn a_budget_that_cannot_be_measured_fails_the_run_after_the_others() {
        let budgets: Vec<&Budget> = budget::ALL.iter().take(3).collect();
        let measured = Mutex::new(0);
        let outcome = measure(&budgets, |budget| {
            *measured.lock().expect("no panic under it") += 1;
            Err::<Verdict, _>(Failure::Found(budget.name.to_owned()))
        });
        assert_eq!(*measured.lock().expect("no panic under it"), 3);
        assert!(outcome.is_err_and(|failure| failure.to_string() == budgets[0].name));
    }

    #[test]
    fn a_line_of_progress_names_the_row_its_value_its_gate_and_its_time() {
        let verdict = Verdict { name: "x", unit: Unit::MiB, peer: 2.0, ours: 3.0, gate: Gate::TimesPeer(1.2) };
        let line = progress(3, 17, "x", &Ok(verdict), Duration::from_millis(1_250));
        assert_eq!(line, "[ 3/17] x: 1.500 x of 1.2, MISSED, 1.2 s");
    }
}

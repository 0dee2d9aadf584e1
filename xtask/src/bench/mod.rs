//! Benchmarks: budgets, each with a gate that fails the run, then the criterion benches.

mod budget;
mod callgrind;

use std::fmt;

use crate::fail::Failure;
use crate::process::{self, cargo};
use crate::workspace::Workspace;

use budget::Budget;

/// Runs the budgets and the criterion benches whose name contains the filter, and fails if a gate was missed.
pub(crate) fn run(workspace: &Workspace, options: &[String]) -> Result<(), Failure> {
    let filter = match options {
        [] => "",
        [filter] if !filter.starts_with('-') => filter,
        _ => return Err(Failure::Usage("bench takes one filter at most, a part of a name".into())),
    };
    let budgets: Vec<&Budget> = budget::ALL.iter().filter(|budget| budget.name.contains(filter)).collect();
    budget::build(&budgets)?;
    let programs = workspace.target.join("release");
    let verdicts = budgets.iter().map(|budget| budget.measure(&programs)).collect::<Result<Vec<_>, _>>()?;
    process::run(cargo().args(["bench", "--package", "benches", "--"]).args(options))?;
    if !verdicts.is_empty() {
        println!("\n{:<30} {:>12} {:>12} {:>10} {:>8}  verdict", "budget", "peer", "ours", "value", "gate");
    }
    for verdict in &verdicts {
        println!("{verdict}");
    }
    match verdicts.iter().filter(|verdict| !verdict.holds()).count() {
        0 => Ok(()),
        missed => Err(Failure::Found(format!("{missed} gate(s) missed"))),
    }
}

/// One line of the table.
struct Verdict {
    name: &'static str,
    /// Of `peer` and `ours`.
    unit: Unit,
    peer: f64,
    ours: f64,
    gate: Gate,
}

/// The highest value that a gate lets through.
#[derive(Clone, Copy)]
enum Gate {
    /// Ours as a multiple of the peer's.
    TimesPeer(f64),
    /// Ours alone, in its unit.
    AtMost(f64),
}

#[derive(Clone, Copy)]
enum Unit {
    /// User-space instructions per span.
    Instructions,
    NanosPerBatch,
    NanosPerSpan,
    Seconds,
    MiB,
}

impl Unit {
    /// The name of the unit, and the number of decimals that its values are printed with.
    fn form(self) -> (&'static str, usize) {
        match self {
            Self::Instructions => ("instr/span", 0),
            Self::NanosPerBatch => ("ns/batch", 1),
            Self::NanosPerSpan => ("ns/span", 1),
            Self::Seconds => ("s", 3),
            Self::MiB => ("MiB", 2),
        }
    }
}

impl Verdict {
    /// The value that is compared, and the gate that it is compared with.
    fn value_and_gate(&self) -> (f64, f64) {
        match self.gate {
            Gate::TimesPeer(gate) => (self.ours / self.peer, gate),
            Gate::AtMost(gate) => (self.ours, gate),
        }
    }

    fn holds(&self) -> bool {
        let (value, gate) = self.value_and_gate();
        value <= gate
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, unit, peer, ours, .. } = self;
        let (unit, digits) = unit.form();
        let (sign, value_digits) = match self.gate {
            Gate::TimesPeer(_) => ("x", 3),
            Gate::AtMost(_) => (unit, digits),
        };
        let (value, gate) = self.value_and_gate();
        let verdict = if self.holds() { "ok" } else { "MISSED" };
        write!(
            f,
            "{name:<30} {peer:>12.digits$} {ours:>12.digits$} {value:>10.value_digits$} {gate:>8}  {verdict} ({unit}; gate in {sign})"
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
}

//! The diagram in the documentation shows every move of the machine and no other.

use std::collections::BTreeSet;

use breaker::{State, TRANSITIONS};

#[test]
fn the_diagram_and_the_code_agree() {
    let page = include_str!("../../../../docs/breaker.md");
    let diagram = page.split("```mermaid").nth(1).and_then(|rest| rest.split("```").next()).expect("a mermaid block");
    let mut drawn = BTreeSet::new();
    for line in diagram.lines().map(str::trim).filter(|line| line.contains("-->") && !line.starts_with("[*]")) {
        let (from, rest) = line.split_once("-->").expect("an arrow");
        let (to, reasons) = rest.split_once(':').expect("a reason");
        let froms: &[&str] = match from.trim() {
            // A command is obeyed in every state.
            "any" => &["closed", "open", "half_open", "isolated", "disabled"],
            other => &[other],
        };
        for from in froms {
            for reason in reasons.split(',') {
                drawn.insert((from.to_string(), reason.trim().to_string(), to.trim().to_string()));
            }
        }
    }
    let name = |state: State| state.as_str().to_string();
    let coded: BTreeSet<_> =
        TRANSITIONS.iter().map(|(from, reason, to)| (name(*from), reason.as_str().to_string(), name(*to))).collect();
    assert_eq!(drawn, coded);
}

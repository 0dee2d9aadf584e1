//! Arrows inside a crate: which rooms (folders below `src`) may use which, and how long its longest import circle is.

use std::collections::{BTreeMap, BTreeSet};

use super::ceilings::Ceilings;
use super::paths::Crate;
use super::{Finding, Source};

/// The rooms of one crate. Files directly below `src` that are no room are its front door, which may use every room.
struct Plan {
    package: &'static str,
    arrows: Arrows,
    /// Rooms of tests: they may use everything, and only code under `#[cfg(test)]` may use them.
    proofs: &'static [&'static str],
}

/// Which rooms a room may use beside itself.
enum Arrows {
    /// Those that stand beside its name.
    Named(&'static [(&'static str, &'static [&'static str])]),
    /// All that stand behind it in the list.
    Down(&'static [&'static str]),
}

impl Arrows {
    /// The rooms that this one may use; none if it is no room.
    fn of(&self, room: &str) -> Option<&'static [&'static str]> {
        match self {
            Self::Named(rooms) => rooms.iter().find(|(name, _)| *name == room).map(|(_, uses)| *uses),
            Self::Down(rooms) => rooms.iter().position(|name| *name == room).map(|at| &rooms[at + 1..]),
        }
    }
}

/// Every crate that has rooms. A crate without a line here is not checked.
const PLANS: [Plan; 2] = [
    Plan {
        package: "file-fallback",
        arrows: Arrows::Down(&[
            "dead_letters",
            "store",
            "write",
            "limits",
            "files",
            "read",
            "books",
            "config",
            "form",
            "error",
            "outcome",
            "notice",
        ]),
        proofs: &[],
    },
    Plan {
        package: "resilient-exporter",
        arrows: Arrows::Named(&[
            ("locks", &[]),
            ("report", &["locks"]),
            ("seams", &["locks", "report"]),
            ("core", &["locks", "report", "seams"]),
            ("stores", &["locks", "report", "seams"]),
            ("shell", &["locks", "report", "seams", "core", "stores"]),
        ]),
        proofs: &["proofs"],
    },
];

/// Checks the arrows between the rooms of every crate that has some.
pub(super) fn check(files: &[Source]) -> Vec<Finding> {
    PLANS.iter().flat_map(|plan| check_plan(plan, &Crate::read(plan.package, files))).collect()
}

fn check_plan(plan: &Plan, sources: &Crate<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if sources.files().is_empty() {
        findings.push(Finding::new(plan.package, 0, "has rooms in tidy/rooms.rs and no sources"));
    }
    findings.extend(unknown_folders(plan, sources));
    for file in sources.files() {
        let room = file.module.first().map_or("", String::as_str);
        for reference in &file.references {
            let name = reference.name.as_str();
            let mut report = |message: String| findings.push(Finding::new(file.path, reference.line, message));
            if plan.proofs.contains(&name) {
                report(format!("uses `{name}`, which is for code under `#[cfg(test)]` alone"));
                continue;
            }
            // The front door uses every room.
            let Some(uses) = plan.arrows.of(room) else { continue };
            if reference.is_whole_root() {
                report(format!("`{room}` must not import the crate's root, by `*` or under a name: name each room"));
                continue;
            }
            if plan.arrows.of(name).is_some() {
                if name != room && !uses.contains(&name) {
                    let list = if uses.is_empty() { "no other room".into() } else { uses.join(", ") };
                    report(format!("`{room}` must not use `{name}`: its arrows lead to {list}"));
                }
                continue;
            }
            let remedy = match sources.target(reference) {
                Some(module) if module != name => format!("; name it by its room, `crate::{module}`"),
                _ => String::new(),
            };
            report(format!("`{room}` must not use the front door, `crate::{name}`{remedy}"));
        }
    }
    findings
}

/// Folders that are neither a room nor the own folder of a file of the front door: no arrow of the plan is theirs.
fn unknown_folders(plan: &Plan, sources: &Crate<'_>) -> Vec<Finding> {
    let source_folder = format!("crates/{}/src/", plan.package);
    let below = |path: &str| path.strip_prefix(&source_folder).map(str::to_owned);
    let paths: Vec<String> = sources.files().iter().filter_map(|file| below(file.path)).collect();
    let folders: BTreeSet<&str> = paths.iter().filter_map(|path| path.split_once('/')).map(|(name, _)| name).collect();
    let is_known = |folder: &&str| {
        let owner = format!("{folder}.rs");
        plan.arrows.of(folder).is_some() || plan.proofs.contains(folder) || paths.contains(&owner)
    };
    let unknown = folders.into_iter().filter(|folder| !is_known(folder));
    let message = "is no room of tidy/rooms.rs, and no file of the front door has its name";
    unknown.map(|folder| Finding::new(format!("{source_folder}{folder}"), 0, message)).collect()
}

/// Prints the size of each crate's longest import circle and reports those above their ceiling.
pub(super) fn check_circles(packages: &[&str], files: &[Source], ceilings: &Ceilings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut circles = Vec::new();
    for package in packages {
        let circle = longest_circle(&Crate::read(package, files));
        let ceiling = ceilings.circle(package);
        if circle.len() > ceiling {
            let message = format!(
                "{} modules import each other in a circle, {ceiling} is the ceiling: {}",
                circle.len(),
                circle.join(", ")
            );
            findings.push(Finding::new(*package, 0, message));
        } else if circle.len() < ceiling {
            println!("{package}: its longest import circle has {} modules; lower the ceiling {ceiling}", circle.len());
        }
        if circle.len() > 1 {
            circles.push(format!("{package} {} ({})", circle.len(), circle.join(", ")));
        }
    }
    let list = if circles.is_empty() { "none".into() } else { circles.join("; ") };
    println!("longest import circle of each crate, in modules: {list}");
    findings
}

/// The largest set of modules directly below the root each of which imports, perhaps through others, every other one.
fn longest_circle(sources: &Crate<'_>) -> Vec<String> {
    let mut arrows: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for file in sources.files() {
        let Some(from) = file.module.first() else { continue };
        let targets = file.references.iter().filter_map(|reference| sources.target(reference));
        arrows.entry(from).or_default().extend(targets.filter(|target| target != from));
    }
    let reachable = |from: &str| {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&str> = arrows.get(from).into_iter().flatten().copied().collect();
        while let Some(module) = next.pop() {
            if seen.insert(module) {
                next.extend(arrows.get(module).into_iter().flatten());
            }
        }
        seen
    };
    let reach: BTreeMap<&str, BTreeSet<&str>> = arrows.keys().map(|module| (*module, reachable(module))).collect();
    let circle = |module: &str| -> Vec<String> {
        let others = reach[module].iter().filter(|other| reach.get(*other).is_some_and(|back| back.contains(module)));
        others.map(ToString::to_string).collect()
    };
    arrows.keys().map(|module| circle(module)).max_by_key(Vec::len).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(package: &str, files: &[(&str, &str)]) -> Vec<Source> {
        let source =
            |(path, text): &(&str, &str)| Source { path: format!("crates/{package}/src/{path}"), text: (*text).into() };
        files.iter().map(source).collect()
    }

    fn messages(files: &[(&str, &str)]) -> Vec<String> {
        messages_of("resilient-exporter", files)
    }

    fn messages_of(package: &str, files: &[(&str, &str)]) -> Vec<String> {
        let plan = PLANS.iter().find(|plan| plan.package == package).expect("a crate with rooms");
        let sources = sources(package, files);
        check_plan(plan, &Crate::read(package, &sources)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_arrow_against_the_plan_is_found_with_file_and_line() {
        let found = messages(&[(
            "core/memory.rs",
            "use crate::report::Ledger;\npub(crate) use crate::{seams::Clock, shell::Net};",
        )]);
        assert_eq!(
            found,
            [
                "crates/resilient-exporter/src/core/memory.rs:2: `core` must not use `shell`: its arrows lead to locks, report, seams"
            ]
        );
    }

    #[test]
    fn core_and_stores_do_not_know_each_other() {
        assert_eq!(messages(&[("core/mod.rs", "fn f() { crate::stores::open() }")]).len(), 1);
        assert_eq!(messages(&[("stores/files.rs", "use super::super::core::Core;")]).len(), 1);
    }

    #[test]
    fn arrows_of_the_plan_are_fine() {
        let found = messages(&[
            ("report/mod.rs", "use self::ledger::Ledger; use crate::report::events;"),
            ("shell/net.rs", "use crate::core::Core; use crate::stores::Files; use super::shared;"),
            ("exporter.rs", "use crate::shell::Shell; use crate::core::Core;"),
            ("lib.rs", "#[cfg(test)] mod proofs; pub use crate::report::Ledger;"),
            ("proofs/sim.rs", "use crate::exporter::X; use crate::shell::Y;"),
        ]);
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn arrows_run_down_a_list() {
        let files = [("store.rs", "use crate::files::Files;"), ("files/scan.rs", "use crate::store::Store;")];
        let found = messages_of("file-fallback", &files);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("files/scan.rs:1: `files` must not use `store`"), "{found:?}");
    }

    #[test]
    fn a_plan_for_a_crate_that_is_gone_is_found() {
        assert_eq!(messages(&[]), ["resilient-exporter: has rooms in tidy/rooms.rs and no sources"]);
    }

    #[test]
    fn a_room_does_not_use_the_front_door_nor_its_names() {
        let lib = ("lib.rs", "mod exporter; mod seams; pub use seams::Clock;");
        let found =
            messages(&[lib, ("seams/mod.rs", ""), ("core/mod.rs", "use crate::exporter::X;\nuse crate::Clock;")]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[1].ends_with("`crate::Clock`; name it by its room, `crate::seams`"), "{found:?}");
    }

    #[test]
    fn a_room_does_not_import_the_root_as_a_whole() {
        for import in ["use crate::*;", "use crate as root;", "use super::{self as root};", "extern crate self as r;"] {
            let found = messages(&[("lib.rs", "use crate::*;"), ("core/mod.rs", import)]);
            assert_eq!(found.len(), 1, "{import} {found:?}");
            assert!(found[0].contains("core/mod.rs:1: `core` must not import the crate's root"), "{found:?}");
        }
        assert_eq!(messages(&[("core/memory.rs", "use super::*; use crate::seams::*;")]), [""; 0]);
    }

    #[test]
    fn a_folder_without_a_place_in_the_plan_is_found() {
        let found = messages(&[
            ("builder.rs", ""),
            ("builder/aliases.rs", ""),
            ("core/memory.rs", ""),
            ("proofs/sim.rs", ""),
            ("cellar/mod.rs", ""),
            ("cellar/deep/shelf.rs", ""),
        ]);
        let expected = "crates/resilient-exporter/src/cellar: is no room of tidy/rooms.rs, and no file of the front door has its name";
        assert_eq!(found, [expected]);
    }

    #[test]
    fn proofs_are_used_by_tests_alone() {
        let files = [("exporter.rs", "#[cfg(test)] use crate::proofs::Sim;\nuse crate::proofs::Disk;")];
        let found = messages(&files);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("exporter.rs:2: uses `proofs`"), "{found:?}");
    }

    fn circle(files: &[(&str, &str)]) -> Vec<String> {
        longest_circle(&Crate::read("leaf", &sources("leaf", files)))
    }

    #[test]
    fn a_circle_is_found_through_others_and_through_names_of_the_root() {
        let found = circle(&[
            ("lib.rs", "mod a; mod b; mod c; pub use c::C;"),
            ("a.rs", "use crate::b::B;"),
            ("b.rs", "use crate::C;"),
            ("c.rs", "fn f() { crate::a::g() }"),
            ("d.rs", "use crate::a::A;"),
        ]);
        assert_eq!(found, ["a", "b", "c"]);
    }

    #[test]
    fn without_a_circle_there_is_none() {
        assert!(
            circle(&[("a.rs", "use crate::b::B; use super::a::Own;"), ("b.rs", ""), ("lib.rs", "use a::A;")])
                .is_empty()
        );
    }

    #[test]
    fn a_circle_above_its_ceiling_is_a_finding() {
        let files = sources("leaf", &[("a.rs", "use crate::b::B;"), ("b.rs", "use crate::a::A;")]);
        let ceilings = |text: &str| Ceilings::parse(text).expect("a table");
        let found = check_circles(&["leaf"], &files, &ceilings(""));
        assert_eq!(found.len(), 1);
        assert!(found[0].to_string().contains("2 modules import each other in a circle, 0 is the ceiling: a, b"));
        assert!(check_circles(&["leaf"], &files, &ceilings("[circles]\nleaf = 2\n")).is_empty());
    }
}

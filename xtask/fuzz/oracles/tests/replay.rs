//! The seeds and every input that once failed, on stable.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use fuzz_oracles::TARGETS;

/// Memory is counted for the whole process: one target at a time.
static TURN: Mutex<()> = Mutex::new(());

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Checks all files of a folder and gives their number.
fn replay(target: &str, folder: &str) -> usize {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let Ok(entries) = fs::read_dir(home().join(folder).join(target)) else { return 0 };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    for path in &paths {
        println!("{}", path.display());
        fuzz_oracles::check(target, &fs::read(path).expect("readable"));
    }
    paths.len()
}

#[test]
fn every_seed_holds() {
    for target in &TARGETS {
        assert!(replay(target.name, "seeds") > 0, "{} has no seeds: cargo run --package fuzz-oracles", target.name);
    }
}

#[test]
fn what_once_failed_holds_now() {
    let known: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    for entry in fs::read_dir(home().join("findings")).expect("the folder of former findings") {
        let name = entry.expect("readable").file_name().into_string().expect("a target's name");
        assert!(known.contains(&name.as_str()) || name == "README.md", "findings/{name} belongs to no target");
    }
    for target in &TARGETS {
        replay(target.name, "findings");
    }
}

#[test]
fn every_target_has_its_program() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let manifest = fs::read_to_string(home().join("Cargo.toml")).expect("readable");
    let programs = fs::read_dir(home().join("fuzz_targets")).expect("readable").count();
    assert_eq!(programs, TARGETS.len(), "one program a target");
    for target in &TARGETS {
        let name = target.name;
        let source = fs::read_to_string(home().join(format!("fuzz_targets/{name}.rs"))).expect("one a target");
        let entry = format!("fuzz_target!(|input: &[u8]| fuzz_oracles::check(\"{name}\", input));");
        assert!(source.contains(&entry), "{name}.rs does not run its target");
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
}

//! Looks at inputs without libFuzzer, on stable.
//!
//! `fuzz-oracles TARGET FILE..` checks the files; `fuzz-oracles seeds` writes the seeds of all targets to
//! `xtask/fuzz/seeds`, in place of those that are there; `fuzz-oracles targets` names the targets.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use fuzz_oracles::{TARGETS, Target};

fn main() -> io::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let target = arguments.first().and_then(|name| TARGETS.iter().find(|target| target.name == *name));
    match (arguments.split_first(), target) {
        (Some((word, [])), _) if word == "seeds" => TARGETS.iter().try_for_each(write_seeds)?,
        (Some((word, [])), _) if word == "targets" => TARGETS.iter().for_each(|target| println!("{}", target.name)),
        (Some((_, files @ [_, ..])), Some(target)) => {
            for file in files {
                println!("{file}");
                (target.check)(&fs::read(file)?);
            }
        }
        _ => {
            eprintln!("usage: fuzz-oracles seeds | targets | TARGET FILE..");
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write_seeds(target: &Target) -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../seeds").join(target.name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    (target.seeds)().into_iter().try_for_each(|(name, bytes)| fs::write(folder.join(name), bytes))
}

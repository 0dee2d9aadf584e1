//! Our exporter against the OpenTelemetry Collector itself: builds the Collector once, then lets the trials package drive
//! it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fail::Failure;
use crate::process::{self, cargo};
use crate::workspace::Workspace;

/// What decides which program comes out of the build; the configurations are read at run time.
const BUILT_FROM: [&str; 3] = ["go.mod", "go.sum", "main.go"];

/// Finds or builds the Collector and runs the trials against it.
pub(crate) fn run(workspace: &Workspace) -> Result<(), Failure> {
    let source = workspace.root.join("xtask/collector");
    let collector = match env::var_os("OTELCOL_BIN").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => build(&source)?,
    };
    println!("collector: {}", collector.file_name().unwrap_or_default().to_string_lossy());
    process::run(Command::new(&collector).arg("--version"))?;
    // Built with the features of the gate's tests, so that nothing compiles twice: cargo builds a package's program for its
    // integration test.
    process::run(cargo().args(["test", "--quiet", "--workspace", "--all-features", "--test", "outages", "--no-run"]))?;
    let driver = workspace.target.join("debug/trials");
    process::run(Command::new(driver).arg("interop").arg("--collector").arg(collector).arg("--configs").arg(source))
}

/// Builds the program, or takes it from the user's cache if these very sources were built before.
fn build(source: &Path) -> Result<PathBuf, Failure> {
    let cache = cache_dir()?;
    let program = cache.join(format!("otelcol-{:016x}", fingerprint(source)?));
    if program.exists() {
        return Ok(program);
    }
    process::require("go", "version", "https://go.dev/dl, or name a Collector of your own in OTELCOL_BIN")?;
    fs::create_dir_all(&cache).map_err(|source| Failure::File { path: cache.clone(), source })?;
    println!("building the Collector, once: about 100 s on 2 cores");
    // Under another name until it is whole: a build that was interrupted leaves nothing that looks finished.
    let unfinished = program.with_extension(std::process::id().to_string());
    let mut command = Command::new("go");
    command.current_dir(source).args([
        "build",
        "-trimpath",
        "-ldflags=-s -w",
        "-mod=readonly",
        "-buildvcs=false",
        "-o",
    ]);
    process::run(command.arg(&unfinished).arg("."))?;
    fs::rename(&unfinished, &program).map_err(|source| Failure::File { path: program.clone(), source })?;
    Ok(program)
}

/// `holdfast` in the user's cache folder, which outlives clones and `cargo clean`.
fn cache_dir() -> Result<PathBuf, Failure> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    base.map(|base| base.join("holdfast")).ok_or_else(|| Failure::Unreadable {
        what: "the user's cache folder".into(),
        why: "neither XDG_CACHE_HOME nor HOME is set".into(),
    })
}

/// FNV-1a, 64 bits, over names and contents: a name for a cache entry, no protection against anybody.
fn fingerprint(folder: &Path) -> Result<u64, Failure> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for name in BUILT_FROM {
        let path = folder.join(name);
        let content = fs::read(&path).map_err(|source| Failure::File { path, source })?;
        for byte in name.bytes().chain([0]).chain(content) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_dependency_is_another_program() {
        let folder = env::temp_dir().join(format!("xtask-interop-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a temporary folder");
        for name in BUILT_FROM {
            fs::write(folder.join(name), name).expect("a temporary file");
        }
        let before = fingerprint(&folder).expect("readable");
        fs::write(folder.join("go.sum"), "other").expect("a temporary file");
        let after = fingerprint(&folder).expect("readable");
        fs::remove_dir_all(&folder).expect("made above");
        assert_ne!(before, after);
    }
}

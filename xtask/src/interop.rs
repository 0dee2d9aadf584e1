//! Our exporter and its files against programs that share no code with it: builds the OpenTelemetry Collector once,
//! installs google.protobuf once, and lets the trials package drive them, jq, gzip and zstd.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fail::Failure;
use crate::process::{self, cargo};
use crate::workspace::Workspace;

/// The files that the program is built from; the configurations are read at run time.
const BUILT_FROM: [&str; 3] = ["go.mod", "go.sum", "main.go"];

/// Programs that are started by their name. `gunzip` is a script around gzip.
const TOOLS: [(&str, &str); 4] = [
    ("jq", "apt-get install jq"),
    ("zstd", "apt-get install zstd"),
    ("gzip", "apt-get install gzip"),
    ("python3", "apt-get install python3 python3-venv; 3.10 or later"),
];

/// Proxies, which tell their version for `-v`. squid lies in a folder of the superuser's path.
const TINYPROXY: (&[&str], &str) = (&["tinyproxy", "/usr/sbin/tinyproxy"], "apt-get install tinyproxy");
const SQUID: (&[&str], &str) = (&["squid", "/usr/sbin/squid"], "apt-get install squid");

/// Peers of TLS. nginx lies in a folder of the superuser's path.
const OPENSSL: (&str, &str) = ("openssl", "apt-get install openssl");
const NGINX: (&[&str], &str) = (&["nginx", "/usr/sbin/nginx"], "apt-get install nginx");

/// The first of these programs that runs.
fn find((programs, get): (&[&'static str], &'static str)) -> Result<&'static str, Failure> {
    let found = programs.iter().find(|program| process::require(program, "-v", get).is_ok());
    found.copied().ok_or_else(|| Failure::MissingTool { tool: programs[0].into(), get })
}

/// Parts of the lane that run alone too.
const PARTS: [&str; 9] = [PROXIES, "tls", PEERS, NAMES, "socket", "auth", "codings", SIGNALS, "failover"];
/// Those that need more than the Collector.
const PROXIES: &str = "proxies";
const PEERS: &str = "peers";
const NAMES: &str = "names";
const SIGNALS: &str = "signals";

/// Finds or builds the other programs and runs the trials against them, or one part of them.
pub(crate) fn run(workspace: &Workspace, options: &[String]) -> Result<(), Failure> {
    let part = match options {
        [] => None,
        [part] if PARTS.contains(&part.as_str()) => Some(part.as_str()),
        _ => {
            let parts = PARTS.join("`, `");
            return Err(Failure::Usage(format!("interop takes no option but one of `{parts}`, got {options:?}")));
        }
    };
    let mut programs: Vec<(&str, PathBuf)> = Vec::new();
    if part.is_none_or(|part| part == PROXIES) {
        programs.extend([("--tinyproxy", find(TINYPROXY)?.into()), ("--squid", find(SQUID)?.into())]);
    }
    if part.is_none_or(|part| part == PEERS) {
        let (openssl, get) = OPENSSL;
        process::require(openssl, "version", get)?;
        programs.extend([("--openssl", openssl.into()), ("--nginx", find(NGINX)?.into())]);
    }
    if part.is_none_or(|part| part == NAMES) {
        process::require("unshare", "--version", "apt-get install util-linux")?;
    }
    if part.is_none_or(|part| part == SIGNALS) {
        for (tool, get) in TOOLS {
            process::require(tool, "--version", get)?;
        }
        programs.push(("--python", install_python(workspace)?));
        programs.push(("--otlp-py", workspace.root.join("xtask/trials/python/otlp.py")));
    }
    let source = workspace.root.join("xtask/trials/collector");
    let collector = match env::var_os("OTELCOL_BIN").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => build(&source)?,
    };
    println!("collector: {}", collector.file_name().unwrap_or_default().to_string_lossy());
    process::run(Command::new(&collector).arg("--version"))?;
    // Built with the features of the gate's tests, so that nothing compiles twice: cargo builds a package's program for
    // its integration test.
    process::run(cargo().args(["test", "--quiet", "--workspace", "--all-features", "--test", "it", "--no-run"]))?;
    let driver = workspace.target.join("debug/trials");
    let mut command = Command::new(driver);
    command.arg("interop").args(part).arg("--collector").arg(collector).arg("--configs").arg(source);
    for (name, program) in programs {
        command.arg(name).arg(program);
    }
    process::run(&mut command)
}

/// A virtual environment with the packages of `requirements.txt`, these versions and these bytes, made once for each
/// content of that file. Gives its Python.
fn install_python(workspace: &Workspace) -> Result<PathBuf, Failure> {
    const GET: &str = "apt-get install python3-venv";
    let folder = workspace.root.join("xtask/trials/python");
    let requirements = folder.join("requirements.txt");
    let home = workspace.target.join(format!("interop-python-{:016x}", fingerprint(&folder, &["requirements.txt"])?));
    let (python, whole) = (home.join("bin/python"), home.join("installed"));
    if whole.exists() {
        return Ok(python);
    }
    let venv = process::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home));
    if venv.is_err() || !python.exists() {
        return Err(Failure::MissingTool { tool: "python3 -m venv".into(), get: GET });
    }
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]);
    process::run(pip.args(["--only-binary", ":all:", "--requirement"]).arg(&requirements))?;
    // Last: an installation that was interrupted lacks this file and begins anew.
    fs::write(&whole, "").map_err(|source| Failure::File { path: whole, source })?;
    Ok(python)
}

/// Builds the program, or takes it from the user's cache if these very sources were built before.
fn build(source: &Path) -> Result<PathBuf, Failure> {
    let cache = cache_dir()?;
    let program = cache.join(format!("otelcol-{:016x}", fingerprint(source, &BUILT_FROM)?));
    if program.exists() {
        return Ok(program);
    }
    process::require("go", "version", "https://go.dev/dl, or name a Collector of your own in OTELCOL_BIN")?;
    fs::create_dir_all(&cache).map_err(|source| Failure::File { path: cache.clone(), source })?;
    println!("building the Collector, once: minutes on 2 cores");
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

/// FNV-1a, 64 bits, over names and contents: a name for a cache entry, no protection against an attacker.
fn fingerprint(folder: &Path, names: &[&str]) -> Result<u64, Failure> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for name in names {
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
        let before = fingerprint(&folder, &BUILT_FROM).expect("readable");
        fs::write(folder.join("go.sum"), "other").expect("a temporary file");
        let after = fingerprint(&folder, &BUILT_FROM).expect("readable");
        fs::remove_dir_all(&folder).expect("made above");
        assert_ne!(before, after);
    }
}

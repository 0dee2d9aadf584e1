//! Opens a directory as a program on a mounted volume does, stores a file in it, and prints the outcome as one line of
//! JSON:
//!
//! ```text
//! cargo run -p safe-dir --example volumes -- /data queue jobs
//! {"dir": "/data/queue-1000", "place": "below-foreign", "owner": 0, "narrowed": null, "files": 3, "others": [..]}
//! ```
//!
//! The arguments are those of `SafeDir::open_or_below`: the path, the prefix of subdirectories, and the names that show
//! that the directory is in use. Without arguments it uses a scratch directory. It ends with status 1 and the chain of
//! errors if the directory cannot be used.

use std::error::Error;
use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use safe_dir::{Directory as _, Kind, Place, SafeDir, others_below, publish};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let scratch = tempfile::tempdir();
    let default = || scratch.as_ref().map_or_else(|_| "volume".into(), |scratch| scratch.path().join("volume").into());
    let path = arguments.next().unwrap_or_else(default);
    let rest: Vec<String> = arguments.map(|argument| argument.to_string_lossy().into_owned()).collect();
    match run(&path, &rest) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let mut chain = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                chain = format!("{chain}: {cause}");
                source = cause.source();
            }
            println!("{{\"error\": {chain:?}}}");
            ExitCode::FAILURE
        }
    }
}

fn run(path: &OsString, rest: &[String]) -> Result<String, Box<dyn Error>> {
    let prefix = rest.first().map_or("queue", String::as_str);
    let in_use: Vec<&str> = rest.iter().skip(1).map(String::as_str).collect();
    let placed = SafeDir::open_or_below(path, prefix, &in_use)?;
    let (place, detail) = match placed.place {
        Place::Itself => ("itself", String::new()),
        Place::BelowForeign { owner } => ("below-foreign", format!(" \"owner\": {owner},")),
        Place::BelowShared { mode } => ("below-shared", format!(" \"mode\": \"{mode:04o}\",")),
        Place::BelowAsBefore => ("below-as-before", String::new()),
        _ => ("elsewhere", String::new()),
    };
    let narrowed = placed.dir.narrowed().map_or("null".into(), |mode| format!("\"{mode:04o}\""));

    // Each run adds a file and reads all of them: those of earlier runs too.
    let jobs = placed.dir.subdirectory(in_use.first().unwrap_or(&"jobs"))?;
    let mut number = 0;
    while let Err(error) = publish(&jobs, &format!("{number}.job"), |file| file.write_all(b"to be done")) {
        if !error.is_already_exists() {
            return Err(error.into());
        }
        number += 1;
    }
    let mut files = 0;
    for entry in jobs.list()? {
        let Some(name) = entry.name.to_str() else { continue };
        if jobs.metadata(name)?.kind == Kind::File {
            jobs.open_read(name)?.read_to_end(&mut Vec::new())?;
            files += 1;
        }
    }
    // A volume that this user may write in, but not read, does not tell.
    let others = others_below(path, prefix).unwrap_or_default().into_iter().map(|other| {
        let bytes = other.bytes.map_or("null".into(), |bytes| bytes.to_string());
        format!("{{\"path\": {:?}, \"owner\": {}, \"bytes\": {bytes}}}", other.path, other.owner)
    });
    Ok(format!(
        "{{\"dir\": {:?}, \"place\": \"{place}\",{detail} \"narrowed\": {narrowed}, \"files\": {files}, \"others\": [{}]}}",
        placed.dir.path(),
        others.collect::<Vec<_>>().join(", ")
    ))
}

#![doc = include_str!("../README.md")]

mod clock;
mod dead_letters;
mod fallback;
mod feed;
mod files;
mod forge;
mod journal;
mod json_line;
mod lock;
mod memory;
mod protobuf;
mod request;
mod settings;
mod signals;

/// One reader of untrusted bytes with the statements that must hold of it.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Names the target, its folder of seeds and its program.
    pub name: &'static str,
    /// The bytes that the target reads, in a few words.
    pub about: &'static str,
    /// Panics if something does not hold for these bytes.
    pub check: fn(&[u8]),
    /// Inputs to begin with, by name: made by our own writers.
    pub seeds: fn() -> Vec<Seed>,
}

/// The name and the bytes of an input to begin with.
pub type Seed = (String, Vec<u8>);

/// Every target.
pub static TARGETS: [Target; 9] = [
    Target { name: "json_line", about: "OTLP JSON lines, read", check: json_line::check, seeds: json_line::seeds },
    Target {
        name: "protobuf",
        about: "trace requests: counted, decoded, split, written as JSON",
        check: protobuf::check,
        seeds: protobuf::seeds,
    },
    Target {
        name: "signals",
        about: "requests of logs and metrics, in protobuf and in OTLP JSON",
        check: signals::check,
        seeds: signals::seeds,
    },
    Target {
        name: "fallback",
        about: "files of the fallback, and the record of their progress, replayed",
        check: fallback::check,
        seeds: fallback::seeds,
    },
    Target {
        name: "journal",
        about: "segments of the journal, recovered",
        check: journal::check,
        seeds: journal::seeds,
    },
    Target {
        name: "dead_letters",
        about: "files of dead letters, read",
        check: dead_letters::check,
        seeds: dead_letters::seeds,
    },
    Target { name: "clock", about: "the newest time of a directory, read", check: clock::check, seeds: clock::seeds },
    Target { name: "lock", about: "lock files of other processes, read", check: lock::check, seeds: lock::seeds },
    Target {
        name: "settings",
        about: "durations, sizes, header lists and endpoints of the environment",
        check: settings::check,
        seeds: settings::seeds,
    },
];

/// Checks one input: the fuzzing program of the target `name` calls this function for each.
///
/// # Panics
///
/// If there is no such target, or if something does not hold: that is the finding.
pub fn check(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of the table");
    (target.check)(input);
}

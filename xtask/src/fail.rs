//! Why a lane failed, in words that name the next step.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a lane failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line does not parse.
    Usage(String),
    /// A tool that the lane needs is not installed.
    MissingTool { tool: String, get: &'static str },
    /// A command ended without success.
    Command { what: String, status: String },
    /// A file could not be read or written.
    File { path: PathBuf, source: io::Error },
    /// A file or an output does not have the expected form.
    Unreadable { what: String, why: String },
    /// The lane looked and found something wrong; details were printed.
    Found(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(why) => f.write_str(why),
            Self::MissingTool { tool, get } => write!(f, "`{tool}` is missing; get it by: {get}"),
            Self::Command { what, status } => write!(f, "`{what}` failed: {status}"),
            Self::File { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Unreadable { what, why } => write!(f, "{what} could not be understood: {why}"),
            Self::Found(what) => f.write_str(what),
        }
    }
}

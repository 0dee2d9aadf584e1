//! The place where a program starts: its user, its directory, its peers.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use mock_collector::{Answer, Behavior, MockCollector};
use serde::Deserialize;
use tempfile::TempDir;

use super::cases::{Case, Directory, Peer, User};
use crate::{Failure, now};

/// A program that runs for longer hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// Lines of the log in a row of the table.
const LINES: usize = 4;

/// Long texts end here in the table.
const WIDTH: usize = 400;

/// What a set-up does.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) variables: String,
    /// `None`: ended by a signal.
    pub(super) exit: Option<i32>,
    pub(super) log: Vec<String>,
    pub(super) health: Vec<String>,
    pub(super) spans: u64,
}

impl Row {
    pub(super) fn markdown(&self) -> String {
        let cell = |texts: &[String]| {
            let cells = texts.iter().map(|text| text.replace('|', "\\|").replace('<', "&lt;")).collect::<Vec<_>>();
            cells.join("<br>")
        };
        let exit = self.exit.map_or_else(|| "signal".to_owned(), |code| code.to_string());
        let (log, health) = (cell(&self.log), cell(&self.health));
        format!("| {} | {} | {exit} | {log} | {health} | {} |", self.name, self.variables, self.spans)
    }

    /// One line for a terminal.
    pub(super) fn line(&self) -> String {
        let status = self.health.first().map_or("-", String::as_str);
        format!("{:60} exit {:>4} {status:10} {} spans", self.name, self.exit.unwrap_or(-1), self.spans)
    }
}

/// The program's health, as it tells it on standard output.
#[derive(Deserialize)]
struct Health {
    status: String,
    issues: Vec<String>,
}

pub(super) struct Stage {
    dir: TempDir,
    program: PathBuf,
}

impl Stage {
    pub(super) fn new(program: &Path) -> Result<Self, Failure> {
        let dir = tempfile::Builder::new().prefix("holdfast-setups-").tempdir()?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let copy = dir.path().join("program");
        fs::copy(program, &copy)?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
        Ok(Self { dir, program: copy })
    }

    /// Starts the program with the variables of the case alone, and returns what it did.
    pub(super) fn play(&self, case: &Case) -> Result<Row, Failure> {
        let place = tempfile::tempdir_in(self.dir.path())?;
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755))?;
        let state = self.state(case, place.path())?;
        let collector = MockCollector::start()?;
        match case.peer {
            Peer::Accepts => {}
            Peer::Refuses(status) => collector.set(Behavior::answer(Answer::http(status))),
            Peer::Gone => collector.stop(),
        }
        let vars = case.vars.iter().map(|(name, value)| {
            let value =
                value.replace("{grpc}", &collector.grpc_endpoint()).replace("{http}", &collector.http_endpoint());
            let ports = [("{grpc-port}", collector.grpc_endpoint()), ("{http-port}", collector.http_endpoint())];
            let value = ports.iter().fold(value, |value, (mark, url)| value.replace(mark, port_of(url)));
            (*name, value.replace("{dir}", &state.to_string_lossy()))
        });
        let output = self.output(case, place.path(), &state, vars)?;
        let scrub = |text: &str| {
            let text =
                text.replace(&*state.to_string_lossy(), "{dir}").replace(&*place.path().to_string_lossy(), "{home}");
            let text = text.replace(port_of(&collector.grpc_endpoint()), "{grpc-port}");
            shorten(&text.replace(port_of(&collector.http_endpoint()), "{http-port}"))
        };
        let (told, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let log = log.lines().filter(|line| !line.trim().is_empty()).map(|line| scrub(line.trim()));
        let health = match told.lines().last() {
            Some(line) => {
                let health: Health = serde_json::from_str(line)?;
                [health.status].into_iter().chain(health.issues).map(|text| scrub(&text)).collect()
            }
            None => Vec::new(),
        };
        let variables = case.vars.iter().map(|(name, value)| format!("`{name}={}`", value.replace('|', "\\|")));
        let entry = if case.or_disabled { vec!["`from_env_or_disabled()`".to_owned()] } else { Vec::new() };
        Ok(Row {
            name: case.name,
            variables: entry.into_iter().chain(variables).collect::<Vec<_>>().join("<br>"),
            exit: output.status.code(),
            log: once(log),
            health,
            spans: collector.received().unique,
        })
    }

    /// The directory that the variables call `{dir}`.
    fn state(&self, case: &Case, place: &Path) -> Result<PathBuf, Failure> {
        let state = place.join("state");
        let User { id } = case.user;
        match case.directory {
            Directory::Own => {
                fs::create_dir(&state)?;
                chown(&state, Some(id), Some(id))?;
                fs::set_permissions(&state, fs::Permissions::from_mode(0o700))?;
            }
            Directory::OfRoot => {
                fs::create_dir(&state)?;
                fs::set_permissions(&state, fs::Permissions::from_mode(0o755))?;
            }
            Directory::File => fs::write(&state, "no directory")?,
        }
        Ok(state)
    }

    fn output(
        &self,
        case: &Case,
        place: &Path,
        state: &Path,
        vars: impl Iterator<Item = (&'static str, String)>,
    ) -> Result<Output, Failure> {
        let id = case.user.id.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]).arg(&self.program);
        if case.or_disabled {
            command.arg("or-disabled");
        }
        command.env_clear().current_dir(place);
        if case.has_state {
            command.env("TELEMETRY_STATE_DIR", state);
        }
        command.envs(vars).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let limit = now() + LIMIT;
        while child.try_wait()?.is_none() {
            if now() > limit {
                child.kill()?;
                return Err(format!("the program still runs after {LIMIT:?}").into());
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(child.wait_with_output()?)
    }
}

/// The port of a URL without a path.
fn port_of(url: &str) -> &str {
    url.rsplit(':').next().unwrap_or_default()
}

/// A text for a cell: counts that differ from run to run are `n`.
fn shorten(text: &str) -> String {
    let mut text = ["spans=", "suppressed=", "only ", " of ", "calls="].iter().fold(text.to_owned(), |text, mark| {
        let mut parts = text.split(mark);
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let rest = part.trim_start_matches(|digit: char| digit.is_ascii_digit());
            let count = if rest.len() < part.len() { "n" } else { "" };
            out.extend([mark, count, rest]);
        }
        out
    });
    if let Some((at, _)) = text.char_indices().nth(WIDTH) {
        text.truncate(at);
        text.push('…');
    }
    text
}

/// Each message once: how often a warning comes within two seconds differs from run to run.
fn once(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut messages = BTreeSet::new();
    let message = |line: &str| line.split(" spans=").next().unwrap_or_default().to_owned();
    lines.filter(|line| messages.insert(message(line))).take(LINES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_hidden_and_a_message_comes_once() {
        assert_eq!(shorten("WARN refused spans=12 of=3 suppressed=1"), "WARN refused spans=n of=3 suppressed=n");
        assert_eq!(shorten("only 0 of 2 calls succeeded in 5 min"), "only n of n calls succeeded in 5 min");
        let lines = ["WARN a spans=3", "INFO b", "WARN a spans=6"].map(str::to_owned);
        assert_eq!(once(lines.into_iter()), ["WARN a spans=3", "INFO b"]);
        assert_eq!(shorten(&"x".repeat(WIDTH + 1)).chars().count(), WIDTH + 1);
    }
}

//! The programs of the lane: `holdfast serve`, and the collector that it sends to, which can die.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::{found, http};
use crate::fail::Failure;
use crate::process::{self, cargo, now};
use crate::workspace::Workspace;

/// The token of each service.
pub(super) const TOKEN: &str = "e2e-0123456789abcdef";

/// The longest wait for a program to be ready.
const START: Duration = Duration::from_secs(20);

/// The programs, built.
pub(super) struct Programs {
    folder: PathBuf,
    /// Home and state of the services; made anew by each part.
    pub(super) home: PathBuf,
}

impl Programs {
    /// Builds them; `part` names the folder of their files.
    pub(super) fn build(workspace: &Workspace, part: &str, is_release: bool) -> Result<Self, Failure> {
        let profile = if is_release { vec!["--release"] } else { Vec::new() };
        let packages = ["build", "--quiet", "--package", "holdfast", "--package", "mock-collector"];
        process::run(cargo().args(packages).args(profile))?;
        let folder = workspace.target.join(if is_release { "release" } else { "debug" });
        let home = workspace.target.join("e2e").join(part);
        let made = match fs::remove_dir_all(&home) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => fs::create_dir_all(&home),
        };
        made.map_err(|source| Failure::File { path: home.clone(), source })?;
        Ok(Self { folder, home })
    }

    pub(super) fn collector(&self) -> Result<Collector, Failure> {
        Collector::start(&self.folder.join("mock-collector"))
    }

    /// `holdfast serve` on a port of the system's choice, with this environment and no other.
    pub(super) fn serve(&self, variables: &[(&str, &str)]) -> Result<Service, Failure> {
        Service::start(&self.folder.join("holdfast"), &self.home, variables)
    }
}

/// The program `mock-collector`. Its ports stay the same over restarts. Dropping it kills it.
pub(super) struct Collector {
    program: PathBuf,
    ports: [u16; 2],
    process: Option<(Child, ChildStdin, Receiver<String>)>,
}

impl Collector {
    fn start(program: &Path) -> Result<Self, Failure> {
        let mut collector = Self { program: program.to_owned(), ports: [free_port()?, free_port()?], process: None };
        collector.start_again()?;
        Ok(collector)
    }

    /// Starts it on its ports, unless it runs.
    pub(super) fn start_again(&mut self) -> Result<(), Failure> {
        if self.process.is_some() {
            return Ok(());
        }
        let [grpc, http] = self.ports.map(|port| port.to_string());
        let mut command = Command::new(&self.program);
        command.args(["--grpc-port", &grpc, "--http-port", &http]);
        let failed = |error: io::Error| Failure::Command { what: "mock-collector".into(), status: error.to_string() };
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(failed)?;
        let input = child.stdin.take().expect("piped above");
        let output = lines_of(child.stdout.take().expect("piped above"));
        let greeting = output.recv_timeout(START);
        self.process = Some((child, input, output));
        if greeting.is_err() {
            self.kill();
            return Err(found(format!("the collector ended at its start, or said nothing for {START:?}")));
        }
        Ok(())
    }

    /// Kills it, as a crash would.
    pub(super) fn kill(&mut self) {
        if let Some((mut child, ..)) = self.process.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    /// Gives it a command, as its `--help` has them.
    pub(super) fn ask(&mut self, command: &Value) -> Result<Value, Failure> {
        let Some((_, input, output)) = &mut self.process else { return Err(found("the collector is down")) };
        let asked = writeln!(input, "{command}").and_then(|()| input.flush());
        let reply = asked.and_then(|()| output.recv_timeout(START).map_err(io::Error::other));
        let reply = reply.map_err(|error| found(format!("the collector does not answer {command}: {error}")))?;
        let reply: Value = serde_json::from_str(&reply)
            .map_err(|error| Failure::Unreadable { what: reply.clone(), why: error.to_string() })?;
        if reply["ok"] == true { Ok(reply) } else { Err(found(format!("the collector answers {command} by {reply}"))) }
    }

    /// Different spans that it has taken since its start.
    pub(super) fn unique_spans(&mut self) -> Result<u64, Failure> {
        let reply = self.ask(&json!({"command": "received"}))?;
        reply["received"]["unique"].as_u64().ok_or_else(|| found(format!("no number of spans in {reply}")))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that is free now.
fn free_port() -> Result<u16, Failure> {
    let bound = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    bound.map(|address| address.port()).map_err(|error| found(format!("no port on loopback: {error}")))
}

/// The program `holdfast serve`. Dropping it kills it.
pub(super) struct Service {
    child: Child,
    pub(super) address: SocketAddr,
    /// From the start of the process to its first answer.
    pub(super) ready_after: Duration,
}

impl Service {
    fn start(program: &Path, home: &Path, variables: &[(&str, &str)]) -> Result<Self, Failure> {
        let mut command = Command::new(program);
        command.args(["serve", "--listen", "127.0.0.1:0"]).env_clear();
        command
            .env("HOME", home)
            .env("TMPDIR", home)
            .env("TELEMETRY_SERVICE_TOKEN", TOKEN)
            .envs(variables.iter().copied());
        let log = home.join("serve.log");
        let log = fs::File::create(&log).map_err(|source| Failure::File { path: log, source })?;
        let begin = now();
        let child = command.stdout(Stdio::piped()).stderr(log).stdin(Stdio::null()).spawn();
        let mut child =
            child.map_err(|error| Failure::Command { what: "holdfast serve".into(), status: error.to_string() })?;
        let lines = lines_of(child.stdout.take().expect("piped above"));
        let address = address_in(&lines);
        // From here on a failure kills the child.
        let mut service = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)), ready_after: Duration::ZERO };
        service.address =
            address.ok_or_else(|| found(format!("holdfast serve names no address: see {}", home.display())))?;
        let answer = http::get(service.address, "/health/ready")?;
        service.ready_after = begin.elapsed();
        if answer.status != 200 {
            return Err(found(format!("holdfast serve is not ready: {}", answer.body)));
        }
        // The pipe is read to its end, so that the service can write.
        thread::spawn(move || while lines.recv().is_ok() {});
        Ok(service)
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process still runs: a panic of one request would not end it, a crash would.
    pub(super) fn check_alive(&mut self) -> Result<(), Failure> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            ended => Err(found(format!("holdfast serve has ended: {ended:?}"))),
        }
    }

    /// Asks `path` for JSON until it is as wanted, and gives it back.
    pub(super) fn wait_for(
        &self,
        path: &str,
        limit: Duration,
        words: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value, Failure> {
        let begin = now();
        loop {
            let value = http::get(self.address, path)?.json()?;
            if wanted(&value) {
                return Ok(value);
            }
            if begin.elapsed() > limit {
                return Err(found(format!("{path}: not {words} within {limit:?}: {value:#}")));
            }
            thread::park_timeout(Duration::from_millis(100));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a program, for waits with an end.
pub(super) fn lines_of(output: ChildStdout) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// The address in the line "listening on http://..".
fn address_in(lines: &Receiver<String>) -> Option<SocketAddr> {
    let begin = now();
    while let Ok(line) = lines.recv_timeout(START.saturating_sub(begin.elapsed())) {
        if let Some((_, address)) = line.split_once("listening on http://") {
            return address.trim().parse().ok();
        }
    }
    None
}

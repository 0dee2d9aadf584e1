//! A name whose address changes: an application with its own `/etc/hosts`, in a mount namespace, and two Collectors on
//! the same ports of two addresses.

mod app;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use mock_collector::SpanIds;

use self::app::Told;
use super::Setup;
use super::otelcol::Otelcol;
use super::wire::PATIENCE;
use crate::contender::Protocol;
use crate::{Failure, now, wait_until};

/// The name of the collector.
const NAME: &str = "collector.example";
const FIRST: Ipv4Addr = Ipv4Addr::LOCALHOST;
const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// The age at which a connection is replaced, more or less a tenth: the least that is accepted.
const MAX_AGE: Duration = Duration::from_secs(1);
/// How long the application may take to follow: its age, and the time of a busy machine.
const FOLLOWS: Duration = Duration::from_secs(5);

/// One life of the application.
///
/// # Errors
///
/// When telemetry cannot be set up, or spans wait at the end.
pub(super) fn live() -> Result<(), Failure> {
    app::live()
}

/// The name leads to the first Collector, to the second, and to the first again: the application follows by the age of
/// its connection. The first dies, and the name leads to the second. Each span has arrived once.
pub(super) fn followed(setup: &Setup, protocol: Protocol) -> Result<String, Failure> {
    let folder = tempfile::tempdir()?;
    let places = free()?;
    let start = |at: Ipv4Addr| {
        let folder = folder.path().join(at.to_string());
        fs::create_dir(&folder)?;
        Otelcol::otlp_on(setup, &folder, places.map(|port| SocketAddr::from((at, port))))
    };
    let (mut first, second) = (start(FIRST)?, start(SECOND)?);
    let names = Names::new(folder.path())?;
    names.lead_to(FIRST)?;
    let port = places[usize::from(protocol == Protocol::Http)];
    let mut app = App::start(folder.path(), &names, protocol, port)?;

    until("the first Collector", PATIENCE, || {
        app.serve()?;
        Ok(!first.span_ids()?.is_empty())
    })?;
    app.settle(&[&first, &second])?;
    if !second.span_ids()?.is_empty() {
        return Err("spans came to an address that the name never had".into());
    }
    let mut times = Vec::new();
    for (at, from, to) in [(SECOND, &first, &second), (FIRST, &second, &first)] {
        let before = to.span_ids()?.len();
        names.lead_to(at)?;
        let changed = now();
        until("the new address", FOLLOWS, || {
            app.serve()?;
            Ok(to.span_ids()?.len() > before)
        })?;
        times.push(format!("{:.1} s", changed.elapsed().as_secs_f64()));
        // The last call of an old connection begins the making of a new one.
        until("no more spans at the old address", FOLLOWS, || {
            app.settle(&[from, to])?;
            let left = from.span_ids()?.len();
            for _ in 0..10 {
                app.serve()?;
                app.flush()?;
            }
            app.settle(&[from, to])?;
            Ok(from.span_ids()?.len() == left)
        })?;
    }
    // Everything is in its record: what the first Collector has acknowledged and not written would be lost with it.
    let failed = app.flush()?;
    first.kill()?;
    until("a failed call", PATIENCE, || Ok(app.serve()? > failed))?;
    names.lead_to(SECOND)?;
    let changed = now();
    app.serve()?;
    app.flush()?;
    let seconds = changed.elapsed().as_secs_f64();
    app.settle(&[&first, &second])?;
    let counts = [first.span_ids()?.len(), second.span_ids()?.len()];
    app.end()?;
    Ok(format!(
        "{} and {} spans, each of {} once; followed after {}; {seconds:.1} s after a death and the change of the name \
         nothing waits",
        counts[0],
        counts[1],
        app.made.len(),
        times.join(" and "),
    ))
}

/// A folder that is `/etc` to the application.
struct Names(PathBuf);

impl Names {
    fn new(folder: &Path) -> Result<Self, Failure> {
        let etc = folder.join("etc");
        fs::create_dir(&etc)?;
        // No name service but the file.
        fs::write(etc.join("nsswitch.conf"), "hosts: files\n")?;
        Ok(Self(etc))
    }

    /// Renamed into its place: the application never reads a half of it.
    fn lead_to(&self, address: Ipv4Addr) -> Result<(), Failure> {
        let new = self.0.join("hosts.new");
        fs::write(&new, format!("{address} {NAME}\n"))?;
        Ok(fs::rename(&new, self.0.join("hosts"))?)
    }
}

/// The application as a process.
struct App {
    child: Child,
    commands: Option<ChildStdin>,
    folder: PathBuf,
    /// Lines of its answers that were read.
    lines: usize,
    made: BTreeSet<SpanIds>,
}

impl App {
    fn start(folder: &Path, names: &Names, protocol: Protocol, port: u16) -> Result<Self, Failure> {
        // A user who is not root may mount in a user namespace, where the kernel lets users have one.
        let as_root: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["--map-root-user"] };
        let mut command = Command::new("unshare");
        command.args(as_root).args(["--mount", "--propagation", "private", "--", "sh", "-c"]);
        command.arg("mount --bind \"$0\" /etc && exec \"$@\"").arg(&names.0);
        command.arg(std::env::current_exe()?).arg("names-app");
        let protocol = match protocol {
            Protocol::Grpc => "grpc",
            Protocol::Http => "http/protobuf",
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path).env("OTEL_SERVICE_NAME", "names");
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{NAME}:{port}"));
        command.env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol).env("TELEMETRY_STATE_DIR", folder.join("state"));
        command.env("TELEMETRY_CONNECTION_MAX_AGE", format!("{}s", MAX_AGE.as_secs()));
        command.stdin(Stdio::piped()).stdout(File::create(folder.join("told"))?);
        let child = command.stderr(File::create(folder.join("errors"))?).spawn();
        let mut child = child.map_err(|error| format!("unshare: {error}; get it by: apt-get install util-linux"))?;
        let commands = child.stdin.take();
        Ok(Self { child, commands, folder: folder.to_owned(), lines: 0, made: BTreeSet::new() })
    }

    /// Gives a command, and waits for its answer.
    fn ask(&mut self, command: &str) -> Result<u64, Failure> {
        let written = self.commands.as_mut().map(|commands| writeln!(commands, "{command}"));
        let mut answer = None;
        let waited = wait_until("an answer of the application", 2 * PATIENCE, || {
            let told = fs::read_to_string(self.folder.join("told")).unwrap_or_default();
            let whole = told.split_inclusive('\n').nth(self.lines).filter(|line| line.ends_with('\n'));
            answer = whole.map(str::to_owned);
            answer.is_some() || !matches!(self.child.try_wait(), Ok(None))
        });
        let (Some(Ok(())), Ok(()), Some(answer)) = (written, waited, answer) else {
            let errors = fs::read_to_string(self.folder.join("errors"))?;
            return Err(format!("the application gave no answer to {command:?}: {errors}").into());
        };
        let told: Told = serde_json::from_str(&answer)?;
        self.lines += 1;
        self.made.extend(told.spans);
        Ok(told.failed)
    }

    /// Makes spans; gives the number of calls that have failed so far.
    fn serve(&mut self) -> Result<u64, Failure> {
        self.ask(app::SERVE)
    }

    /// Waits until nothing waits; gives the same.
    fn flush(&mut self) -> Result<u64, Failure> {
        self.ask(app::FLUSH)
    }

    /// Waits until each span is in a record, and fails if one is missing, unknown, or came twice.
    fn settle(&mut self, collectors: &[&Otelcol<'_>]) -> Result<(), Failure> {
        self.flush()?;
        let mut outcome = Err(Failure::from("no look"));
        // A time-out is no error here: the outcome has the counts.
        let _ = wait_until("every span in a record", PATIENCE, || {
            outcome = self.compare(collectors);
            outcome.is_ok()
        });
        outcome
    }

    fn compare(&self, collectors: &[&Otelcol<'_>]) -> Result<(), Failure> {
        let (mut all, mut count) = (BTreeSet::new(), 0);
        for collector in collectors {
            let spans = collector.span_ids()?;
            count += spans.len();
            all.extend(spans);
        }
        let (made, unique) = (self.made.len(), all.len());
        let (missing, unknown) = (self.made.difference(&all).count(), all.difference(&self.made).count());
        if (missing, unknown, count) == (0, 0, unique) {
            return Ok(());
        }
        Err(format!("of {made} spans {missing} are missing, {unknown} unknown, {} came twice", count - unique).into())
    }

    fn end(&mut self) -> Result<(), Failure> {
        self.commands = None;
        wait_until("the end of the application", PATIENCE, || !matches!(self.child.try_wait(), Ok(None)))?;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the application ended with {status}").into()) }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes steps until one gives true, or fails.
fn until(what: &str, limit: Duration, mut step: impl FnMut() -> Result<bool, Failure>) -> Result<(), Failure> {
    let mut outcome = Ok(false);
    wait_until(what, limit, || {
        outcome = step();
        !matches!(outcome, Ok(false))
    })?;
    outcome.map(drop)
}

/// Two ports that are free at both addresses. Another process could take one in between: then a Collector does not get
/// ready, and its log has the reason.
fn free() -> Result<[u16; 2], Failure> {
    let held = [TcpListener::bind((FIRST, 0))?, TcpListener::bind((FIRST, 0))?];
    let ports = [held[0].local_addr()?.port(), held[1].local_addr()?.port()];
    for port in ports {
        TcpListener::bind((SECOND, port))?;
    }
    Ok(ports)
}

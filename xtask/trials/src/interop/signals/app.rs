//! The application: a pipeline of one signal by the variables of that signal. Each line of standard input is a command.
//! It ends when it is killed, or with its commands.

use std::fs::{self, File};
use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use otlp_transport::{Config, SignalTransport};
use resilient_exporter::{Ledger, Pipeline, ResilientSpanExporter, Signal};
use serde::{Deserialize, Serialize};

use super::super::wire::PATIENCE;
use super::requests;
use crate::contender::Protocol;
use crate::{Failure, wait_until};

/// Items in memory, at most: in an outage the oldest go to files.
const BUFFER: usize = 300;
/// Bytes of a request, at most: the Collector gets parts, some of which begin within a metric.
const REQUEST_BYTES: usize = 2 << 10;

/// Where the items of the application are.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) offered: u64,
    pub(super) recovered: u64,
    pub(super) delivered: u64,
    pub(super) in_fallback: u64,
    /// In the journal alone, or in memory and in the journal.
    pub(super) waiting: u64,
    /// Everything else, and what the sums miss.
    pub(super) wrong: u64,
}

impl From<Ledger> for Told {
    fn from(ledger: Ledger) -> Self {
        let Ledger { offered, recovered, delivered, in_fallback, .. } = ledger;
        let waiting = ledger.buffered + ledger.in_flight + ledger.in_journal;
        let ended = ledger.lost() + ledger.rejected + ledger.dead_lettered + ledger.taken_over;
        let wrong = ended + ledger.imbalance().unsigned_abs();
        Self { offered, recovered, delivered, in_fallback, waiting, wrong }
    }
}

/// Runs until the commands end; what waits then goes to files.
pub(super) fn live(signal: &str, state: &Path) -> Result<(), Failure> {
    let signal = Signal::named(signal).ok_or("the first argument names no signal")?;
    let pipeline = pipeline(signal, state)?;
    for line in std::io::stdin().lines() {
        match line?.split(' ').collect::<Vec<_>>()[..] {
            ["offer", from, to] => {
                for number in from.parse()?..to.parse()? {
                    pipeline.offer(requests::request(signal, number).into())?;
                }
            }
            ["flush"] => pipeline.handle().settled(PATIENCE)?,
            ref other => return Err(format!("there is no command {other:?}").into()),
        }
        let told = Told::from(pipeline.handle().ledger());
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&told)?)?;
        std::io::stdout().flush()?;
    }
    Ok(pipeline.shutdown(PATIENCE)?)
}

/// In durable mode: an accepted request is in the journal, as the pipeline waits for it.
fn pipeline(signal: Signal, state: &Path) -> Result<Pipeline, Failure> {
    let vars = |name: &str| std::env::var_os(name);
    let settings = Signal::ALL.map(|signal| Config::builder().with_signal(signal).build_over(vars));
    let settings = settings.into_iter().collect::<Result<Vec<_>, _>>()?;
    let builder = ResilientSpanExporter::builder().with_primary(SignalTransport::new(settings)?);
    let builder = builder.with_state_dir(state).with_buffer_size(BUFFER).with_request_max_bytes(REQUEST_BYTES);
    let builder = builder.with_journal_enabled(true).with_journal_sync_timeout(PATIENCE);
    let builder = builder.with_retry_initial_delay(Duration::from_millis(50));
    let builder = builder.with_retry_max_delay(Duration::from_millis(400));
    Ok(builder.with_circuit_breaker_timeout(Duration::from_millis(500)).build_pipeline(signal)?)
}

/// The application as a process.
pub(super) struct App {
    child: Child,
    commands: Option<ChildStdin>,
    folder: PathBuf,
    /// Lines of its answers that were read.
    lines: usize,
}

impl App {
    /// `endpoint` and `protocol` are those of the signal. The variables of all signals lead elsewhere, and speak
    /// otherwise.
    pub(super) fn start(
        folder: &Path,
        state: &Path,
        signal: Signal,
        protocol: Protocol,
        endpoint: &str,
    ) -> Result<Self, Failure> {
        let of_signal = |name: &str| format!("OTEL_EXPORTER_OTLP_{}_{name}", signal.as_str().to_uppercase());
        let (own, other, endpoint) = match protocol {
            Protocol::Grpc => ("grpc", "http/protobuf", endpoint.to_owned()),
            // Used as it is.
            Protocol::Http => ("http/protobuf", "grpc", format!("{endpoint}/v1/{signal}")),
        };
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["signals-app", signal.as_str()]).arg(state).env_clear();
        // Nothing listens at the port of no service.
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9").env("OTEL_EXPORTER_OTLP_PROTOCOL", other);
        command.env(of_signal("ENDPOINT"), endpoint).env(of_signal("PROTOCOL"), own);
        command.env(of_signal("COMPRESSION"), "gzip");
        command.stdin(Stdio::piped()).stdout(File::create(folder.join("told"))?);
        let mut child = command.stderr(File::create(folder.join("errors"))?).spawn()?;
        let commands = child.stdin.take();
        Ok(Self { child, commands, folder: folder.to_owned(), lines: 0 })
    }

    /// Offers the requests of these numbers, all of which are on the disk then.
    pub(super) fn offer(&mut self, requests: Range<u64>) -> Result<Told, Failure> {
        self.ask(&format!("offer {} {}", requests.start, requests.end))
    }

    /// Waits until nothing waits.
    pub(super) fn flush(&mut self) -> Result<Told, Failure> {
        self.ask("flush")
    }

    /// Gives a command, and waits for its answer.
    fn ask(&mut self, command: &str) -> Result<Told, Failure> {
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
        self.lines += 1;
        let told: Told = serde_json::from_str(&answer)?;
        if told.wrong == 0 { Ok(told) } else { Err(format!("after {command:?}: {told:?}").into()) }
    }

    /// Ends it at once, as a crash does.
    pub(super) fn kill(mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Lets it end by itself.
    pub(super) fn end(mut self) -> Result<(), Failure> {
        self.commands = None;
        wait_until("the end of the application", 2 * PATIENCE, || !matches!(self.child.try_wait(), Ok(None)))?;
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

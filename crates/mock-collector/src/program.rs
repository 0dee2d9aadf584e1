//! The program: a collector driven by JSON lines.

use std::ffi::OsString;
use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::behavior::{Behavior, End};
use crate::receipts::Received;
use crate::server::{Builder, MockCollector};

const USAGE: &str = "\
usage: mock-collector [--grpc-port N] [--http-port N] [--record FILE]
                      [--grpc-max-bytes N] [--http-max-bytes N] [--id-limit N]

Receives OTLP traces on 127.0.0.1. Prints one JSON line with its endpoints, then answers each JSON line on standard
input with one on standard output, and ends when standard input does. Commands:
  {\"command\": \"received\"}
  {\"command\": \"set\", \"behavior\": {\"action\": {\"answer\": {\"status\": {\"grpc\": 14}}}, \"store\": true}}
  {\"command\": \"set_next\", \"requests\": 3, \"behavior\": {\"action\": {\"end\": \"rst\"}}}
  {\"command\": \"end_connections\", \"end\": {\"go_away\": 0}}
  {\"command\": \"stop\"}
  {\"command\": \"start_again\"}
  {\"command\": \"contains\", \"trace_id\": \"<32 hex digits>\", \"span_id\": \"<16 hex digits>\"}
  {\"command\": \"wait\", \"unique\": 1000, \"timeout_ms\": 5000}
";

/// A line on standard input.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Command {
    Received,
    Set { behavior: Behavior },
    SetNext { requests: u64, behavior: Behavior },
    EndConnections { end: End },
    Stop,
    StartAgain,
    Contains { trace_id: String, span_id: String },
    Wait { unique: u64, timeout_ms: u64 },
}

/// A line on standard output.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Reply {
    pub(crate) ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) received: Option<Received>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) contains: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reached: Option<bool>,
}

/// The first line on standard output.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Greeting {
    pub(crate) grpc: String,
    pub(crate) http: String,
    pub(crate) pid: u32,
}

/// Runs the program `mock-collector`: its arguments without the program's name, commands on standard input, replies on
/// standard output. Public so that a program with other subcommands can be such a child as well. Ends when standard
/// input does.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let builder = match parse(arguments) {
        Ok(builder) => builder,
        Err(fault) => {
            eprint!("mock-collector: {fault}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let served = builder.start().and_then(|collector| serve(&collector, io::stdin().lock(), io::stdout().lock()));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        // The parent process is gone: no process reads this output.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mock-collector: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: Vec<OsString>) -> Result<Builder, String> {
    let mut builder = MockCollector::builder();
    let mut arguments = arguments.into_iter();
    while let Some(name) = arguments.next() {
        let name = name.into_string().map_err(|name| format!("unknown argument {}", name.display()))?;
        let mut value = || arguments.next().ok_or_else(|| format!("{name} needs a value"));
        builder = match name.as_str() {
            "--grpc-port" => builder.with_grpc_port(number(&name, &value()?)?),
            "--http-port" => builder.with_http_port(number(&name, &value()?)?),
            "--grpc-max-bytes" => builder.with_grpc_max_bytes(number(&name, &value()?)?),
            "--http-max-bytes" => builder.with_http_max_bytes(number(&name, &value()?)?),
            "--id-limit" => builder.with_id_limit(number(&name, &value()?)?),
            "--record" => builder.with_record(value()?),
            _ => return Err(format!("unknown argument {name}")),
        };
    }
    Ok(builder)
}

fn number<T: std::str::FromStr>(name: &str, value: &OsString) -> Result<T, String> {
    let parsed = value.to_str().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| format!("{name} takes a whole number in its range, not {}", value.display()))
}

fn serve(collector: &MockCollector, mut input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let (grpc, http) = (collector.grpc_endpoint(), collector.http_endpoint());
    print_line(&mut output, &Greeting { grpc, http, pid: std::process::id() })?;
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line)? > 0 {
        if !line.trim_ascii().is_empty() {
            let reply = match serde_json::from_slice(&line) {
                Ok(command) => obey(collector, command),
                Err(error) => fault(format!("not a command: {error}; see --help")),
            };
            print_line(&mut output, &reply)?;
        }
        line.clear();
    }
    Ok(())
}

fn print_line(output: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *output, value)?;
    output.write_all(b"\n")?;
    output.flush()
}

fn obey(collector: &MockCollector, command: Command) -> Reply {
    let done = Reply { ok: true, ..Reply::default() };
    match command {
        Command::Received => return Reply { received: Some(collector.received()), ..done },
        Command::Set { behavior } => collector.set(behavior),
        Command::SetNext { requests, behavior } => collector.set_next(requests, behavior),
        Command::EndConnections { end } => collector.end_connections(end),
        Command::Stop => collector.stop(),
        Command::StartAgain => {
            if let Err(error) = collector.start_again() {
                return fault(error.to_string());
            }
        }
        Command::Contains { trace_id, span_id } => {
            let (Some(trace_id), Some(span_id)) = (unhex(&trace_id), unhex(&span_id)) else {
                return fault("trace_id takes 32 hex digits and span_id 16".to_owned());
            };
            return Reply { contains: Some(collector.contains(trace_id, span_id)), ..done };
        }
        Command::Wait { unique, timeout_ms } => {
            let reached = collector.wait_until(Duration::from_millis(timeout_ms), |now| now.unique >= unique);
            return Reply { reached: Some(reached), received: Some(collector.received()), ..done };
        }
    }
    done
}

fn fault(error: String) -> Reply {
    Reply { error: Some(error), ..Reply::default() }
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes: Option<Vec<u8>> = pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_gets_its_reply_and_nonsense_an_error() {
        let collector = MockCollector::start().expect("starts");
        let input = [
            r#"{"command": "received"}"#,
            "nonsense",
            "",
            r#"{"command": "set", "behavior": {"action": "never_answer"}}"#,
            r#"{"command": "contains", "trace_id": "0z", "span_id": "00"}"#,
            r#"{"command": "contains", "trace_id": "0102030405060708090a0b0c0d0e0f10", "span_id": "0102030405060708"}"#,
            r#"{"command": "wait", "unique": 1, "timeout_ms": 0}"#,
            r#"{"command": "stop"}"#,
            r#"{"command": "start_again"}"#,
        ];
        let mut output = Vec::new();
        serve(&collector, input.join("\n").as_bytes(), &mut output).expect("in memory");
        let output = String::from_utf8(output).expect("text");
        let (greeting, replies) = output.split_once('\n').expect("two lines at least");
        let greeting: Greeting = serde_json::from_str(greeting).expect("a greeting");
        assert_eq!((greeting.grpc, greeting.http), (collector.grpc_endpoint(), collector.http_endpoint()));
        let replies: Vec<Reply> = replies.lines().map(|line| serde_json::from_str(line).expect("a reply")).collect();
        let oks: Vec<bool> = replies.iter().map(|reply| reply.ok).collect();
        assert_eq!(oks, [true, false, true, false, true, true, true, true]);
        assert!(replies[1].error.as_deref().is_some_and(|error| error.contains("--help")));
        assert_eq!((replies[4].contains, replies[5].reached), (Some(false), Some(false)));
        assert!(collector.is_running());
    }

    #[test]
    fn bad_arguments_are_named() {
        let fault = |arguments: &[&str]| parse(arguments.iter().map(OsString::from).collect()).unwrap_err();
        assert!(fault(&["--grpc-port", "70000"]).contains("70000"));
        assert!(fault(&["--record"]).contains("needs a value"));
        assert!(fault(&["--speed", "9"]).contains("--speed"));
    }
}

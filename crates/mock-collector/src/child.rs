//! A collector as a child process: one that can hang and die as a whole.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::behavior::{Behavior, End};
use crate::program::{self, Greeting, Reply};
use crate::receipts::{Protocol, Received};
use crate::server::Port;

/// The program `mock-collector` as a child process. It can be stopped as a whole ([`pause`](Self::pause)) and killed;
/// its ports stay reserved by this process over both. Dropping it kills it.
///
/// Each method waits for the child's reply, without a time-out.
#[derive(Debug)]
pub struct ChildCollector {
    program: OsString,
    arguments: Vec<OsString>,
    ports: [Port; 2],
    process: Option<Process>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    paused: bool,
}

impl ChildCollector {
    /// Starts `program` (the program `mock-collector`, or another that calls [`run`](crate::run)) with these arguments
    /// on two free ports. Port arguments are added.
    ///
    /// # Errors
    ///
    /// When no port is to be had, or the program does not start or does not greet as it should.
    pub fn start<A: Into<OsString>>(
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = A>,
    ) -> io::Result<Self> {
        let ports = [Port::reserve(Protocol::Grpc, 0)?, Port::reserve(Protocol::Http, 0)?];
        let arguments = arguments.into_iter().map(Into::into).collect();
        let mut collector = Self { program: program.as_ref().to_owned(), arguments, ports, process: None };
        collector.restart()?;
        Ok(collector)
    }

    /// The endpoint for OTLP/gRPC, the same over restarts.
    #[must_use]
    pub fn grpc_endpoint(&self) -> String {
        self.ports[0].endpoint()
    }

    /// The base endpoint for OTLP/HTTP, the same over restarts.
    #[must_use]
    pub fn http_endpoint(&self) -> String {
        self.ports[1].endpoint()
    }

    /// The child's process id, while it lives.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.child.id())
    }

    /// The receipts of this process since its start: a restart begins anew, a [record](crate::read_record) does not.
    ///
    /// # Errors
    ///
    /// When the child is dead or paused.
    pub fn received(&mut self) -> io::Result<Received> {
        let reply = self.ask(&program::Command::Received)?;
        reply.received.ok_or_else(|| io::Error::other("the child said nothing about what it received"))
    }

    /// Waits until so many different spans arrived, at most `timeout`; says whether they did.
    ///
    /// # Errors
    ///
    /// When the child is dead or paused.
    pub fn wait_for_unique(&mut self, unique: u64, timeout: Duration) -> io::Result<bool> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        Ok(self.ask(&program::Command::Wait { unique, timeout_ms })?.reached.unwrap_or(false))
    }

    /// As [`MockCollector::set`](crate::MockCollector::set).
    ///
    /// # Errors
    ///
    /// When the child is dead or paused.
    pub fn set(&mut self, behavior: Behavior) -> io::Result<()> {
        self.ask(&program::Command::Set { behavior }).map(drop)
    }

    /// As [`MockCollector::set_next`](crate::MockCollector::set_next).
    ///
    /// # Errors
    ///
    /// When the child is dead or paused.
    pub fn set_next(&mut self, requests: u64, behavior: Behavior) -> io::Result<()> {
        self.ask(&program::Command::SetNext { requests, behavior }).map(drop)
    }

    /// As [`MockCollector::end_connections`](crate::MockCollector::end_connections).
    ///
    /// # Errors
    ///
    /// When the child is dead or paused.
    pub fn end_connections(&mut self, end: End) -> io::Result<()> {
        self.ask(&program::Command::EndConnections { end }).map(drop)
    }

    /// As [`MockCollector::stop`](crate::MockCollector::stop): the process lives, its ports refuse.
    ///
    /// # Errors
    ///
    /// When the child is dead or paused.
    pub fn stop(&mut self) -> io::Result<()> {
        self.ask(&program::Command::Stop).map(drop)
    }

    /// As [`MockCollector::start_again`](crate::MockCollector::start_again).
    ///
    /// # Errors
    ///
    /// When the child is dead or paused, or cannot listen.
    pub fn start_again(&mut self) -> io::Result<()> {
        self.ask(&program::Command::StartAgain).map(drop)
    }

    /// Stops the whole process (SIGSTOP): the kernel still accepts connections and takes bytes, but no thread reads
    /// them. Returns when it stands still.
    ///
    /// # Errors
    ///
    /// When the child is dead.
    pub fn pause(&mut self) -> io::Result<()> {
        let process = self.process.as_mut().ok_or_else(dead)?;
        let pid = Pid::from_child(&process.child);
        kill_process(pid, Signal::STOP)?;
        process.paused = true;
        match waitpid(Some(pid), WaitOptions::UNTRACED)? {
            Some((_, status)) if status.stopped() => Ok(()),
            _ => Err(dead()),
        }
    }

    /// Lets a paused process go on (SIGCONT).
    ///
    /// # Errors
    ///
    /// When the child is dead.
    pub fn resume(&mut self) -> io::Result<()> {
        let process = self.process.as_mut().ok_or_else(dead)?;
        kill_process(Pid::from_child(&process.child), Signal::CONT)?;
        process.paused = false;
        Ok(())
    }

    /// Kills the process (SIGKILL), paused or not, and waits for its end. Its ports refuse from then on and stay ours.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.child.kill(); // an error means that it is dead
            let _ = process.child.wait();
        }
        for port in &self.ports {
            let _ = port.share(false); // cannot fail on an open socket
        }
    }

    /// Kills the process if it lives, and starts it again on the same ports with the same arguments.
    ///
    /// # Errors
    ///
    /// When the program does not start or does not greet as it should.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill();
        self.ports.iter().try_for_each(|port| port.share(true))?;
        let [grpc, http] = self.ports.each_ref().map(|port| port.address.port().to_string());
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .args(["--grpc-port", &grpc, "--http-port", &http])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the child has no pipes"));
        };
        let process = self.process.insert(Process { child, input, output: BufReader::new(output), paused: false });
        let greeting: Greeting = process.read()?;
        if (greeting.grpc, greeting.http) != (self.grpc_endpoint(), self.http_endpoint()) {
            return Err(io::Error::other("the child listens elsewhere than it was told"));
        }
        Ok(())
    }

    fn ask(&mut self, command: &program::Command) -> io::Result<Reply> {
        let process = self.process.as_mut().ok_or_else(dead)?;
        if process.paused {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "the collector is paused; resume it first"));
        }
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        process.input.write_all(&line)?;
        let reply: Reply = process.read()?;
        match reply.error {
            Some(error) => Err(io::Error::other(error)),
            None => Ok(reply),
        }
    }
}

impl Process {
    fn read<T: serde::de::DeserializeOwned>(&mut self) -> io::Result<T> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err(dead());
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for ChildCollector {
    fn drop(&mut self) {
        self.kill();
    }
}

fn dead() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the collector's process is dead")
}

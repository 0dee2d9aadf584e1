//! The application as the soak sees it: a child process with a pipe for commands, and the kernel's numbers of it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command as Program, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use super::app::{Command, Life, Reply};
use crate::{Failure, idle};

/// An application that does not answer within this hangs.
const HANGS: Duration = Duration::from_secs(30);

/// One life of the application; dropping it kills the process.
pub(super) struct Process {
    pub(super) life: Life,
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Process {
    /// Starts `program soak-app`, which is this package's own.
    pub(super) fn start(program: &Path, life: Life) -> Result<Self, Failure> {
        let mut child = Program::new(program)
            .arg("soak-app")
            .arg(serde_json::to_string(&life)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the application has no pipes".into());
        };
        let (sender, lines) = channel();
        thread::spawn(move || {
            // Ends with the process.
            BufReader::new(output).lines().map_while(Result::ok).all(|line| sender.send(line).is_ok())
        });
        Ok(Self { life, child, input, lines })
    }

    /// Has a command carried out.
    ///
    /// # Errors
    ///
    /// When the application hangs or has ended.
    pub(super) fn ask(&mut self, command: Command) -> Result<Reply, Failure> {
        writeln!(self.input, "{}", serde_json::to_string(&command)?)?;
        match self.lines.recv_timeout(HANGS) {
            Ok(line) => Ok(serde_json::from_str(&line)?),
            Err(RecvTimeoutError::Timeout) => {
                Err(format!("the application hangs: no answer to {command:?} within {HANGS:?}").into())
            }
            Err(RecvTimeoutError::Disconnected) => Err(format!("the application has ended before {command:?}").into()),
        }
    }

    /// Waits for the end of an application that was told to end.
    pub(super) fn wait(mut self) -> Result<(), Failure> {
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the application ended with {status}").into()) }
    }

    /// Resident memory, in bytes.
    pub(super) fn resident(&self) -> Result<u64, Failure> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        Ok(kib.ok_or("the kernel reports no resident memory")? * 1_024)
    }

    /// Open files and sockets.
    pub(super) fn open_files(&self) -> Result<usize, Failure> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }

    /// Threads of the process.
    pub(super) fn threads(&self) -> Result<usize, Failure> {
        Ok(fs::read_dir(format!("/proc/{}/task", self.child.id()))?.count())
    }

    /// How often each thread of the exporter has slept, by its name.
    pub(super) fn wakeups(&self) -> Result<BTreeMap<String, u64>, Failure> {
        idle::wakeups(self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that the process has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

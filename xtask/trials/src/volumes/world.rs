//! Users, mounts and processes.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use mock_collector::MockCollector;
use tempfile::TempDir;

use super::app::Told;
use crate::{Failure, wait_until};

/// The user and the groups of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) id: u32,
    /// A supplementary group, such as the one that `fsGroup` gives.
    pub(super) group: Option<u32>,
}

/// A directory that every user can reach, and the application in it.
pub(super) struct Stage {
    dir: TempDir,
    program: PathBuf,
}

impl Stage {
    pub(super) fn new(program: &Path) -> Result<Self, Failure> {
        for tool in ["setpriv", "mount", "umount"] {
            run(Command::new(tool).arg("--version").stdout(Stdio::null()))?;
        }
        let dir = tempfile::Builder::new().prefix("holdfast-volumes-").tempdir()?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let copy = dir.path().join("application");
        fs::copy(program, &copy)?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
        Ok(Self { dir, program: copy })
    }
}

/// The place of one case: a directory, a collector, and the mounts in it.
pub(super) struct World<'a> {
    stage: &'a Stage,
    dir: TempDir,
    pub(super) collector: MockCollector,
    mounts: Vec<PathBuf>,
    /// Whether the application runs in durable mode.
    is_durable: bool,
    /// The directories that the case made itself.
    set_up: Vec<PathBuf>,
    /// The spans that were made.
    made: BTreeSet<(String, String)>,
}

/// A process is stopped when it has run for this long.
const LIMIT: Duration = Duration::from_secs(90);

impl<'a> World<'a> {
    pub(super) fn new(stage: &'a Stage, is_durable: bool) -> Result<Self, Failure> {
        let dir = tempfile::tempdir_in(stage.dir.path())?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let collector = MockCollector::start()?;
        Ok(Self { stage, dir, collector, mounts: Vec::new(), is_durable, set_up: Vec::new(), made: BTreeSet::new() })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes a directory of this owner, group and mode, as a platform does.
    pub(super) fn make(&mut self, name: &str, owner: u32, group: u32, mode: u32) -> Result<PathBuf, Failure> {
        let path = self.path(name);
        fs::create_dir(&path)?;
        chown(&path, Some(owner), Some(group))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        self.set_up.push(path.clone());
        Ok(path)
    }

    /// Makes a link of this owner.
    pub(super) fn link(&mut self, target: &Path, name: &str, owner: u32) -> Result<PathBuf, Failure> {
        let path = self.path(name);
        symlink(target, &path)?;
        lchown(&path, Some(owner), Some(owner))?;
        // A case may put a directory of its own in the place of the link.
        self.set_up.push(path.clone());
        Ok(path)
    }

    pub(super) fn mount(&mut self, arguments: &[&str], path: &Path) -> Result<(), Failure> {
        run(Command::new("mount").args(arguments).arg(path))?;
        self.mounts.push(path.to_owned());
        Ok(())
    }

    /// Mounts a directory over itself, read-only.
    pub(super) fn make_read_only(&mut self, path: &Path) -> Result<(), Failure> {
        let text = path.to_string_lossy().into_owned();
        self.mount(&["--bind", &text], path)?;
        run(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(path))
    }

    /// Gives all content of a volume to a group, as the kubelet does for `fsGroup`: directories to 2770, files to 0660.
    pub(super) fn give_to_group(path: &Path, group: u32) -> Result<(), Failure> {
        let metadata = fs::symlink_metadata(path)?;
        lchown(path, None, Some(group))?;
        if metadata.is_dir() {
            fs::set_permissions(path, fs::Permissions::from_mode(metadata.mode() & 0o777 | 0o2070))?;
            for entry in path.read_dir()? {
                Self::give_to_group(&entry?.path(), group)?;
            }
        } else if metadata.is_file() {
            fs::set_permissions(path, fs::Permissions::from_mode(metadata.mode() & 0o777 | 0o060))?;
        }
        Ok(())
    }

    /// Runs the application, and returns its report.
    pub(super) fn start(&mut self, user: User, spans: u64, end: &str, vars: &[(&str, &Path)]) -> Result<Told, Failure> {
        let output = self.output(user, spans, end, vars)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        let is_killed = end == "kill" && output.status.code().is_none();
        if !output.status.success() && !is_killed {
            return Err(format!("the application of user {} ended with {}: {errors}", user.id, output.status).into());
        }
        let told: Told = serde_json::from_str(text.lines().last().unwrap_or_default())?;
        if told.not_durable > 0 {
            return Err(format!("{} spans were not durable in time", told.not_durable).into());
        }
        self.made.extend(told.spans.iter().cloned());
        Ok(told)
    }

    pub(super) fn output(&self, user: User, spans: u64, end: &str, vars: &[(&str, &Path)]) -> Result<Output, Failure> {
        let mut command = Command::new("setpriv");
        let groups = user.group.map_or_else(|| "--clear-groups".to_owned(), |group| format!("--groups={group}"));
        command.args([format!("--reuid={}", user.id), format!("--regid={}", user.id), groups]).arg("--");
        command.arg(&self.stage.program).args(["volumes-app", &spans.to_string(), end]);
        command.env_clear().current_dir("/").env("OTEL_EXPORTER_OTLP_ENDPOINT", self.collector.grpc_endpoint());
        command.env("OTEL_SERVICE_NAME", "my-api").env("TELEMETRY_JOURNAL_SYNC_TIMEOUT", "10s");
        command.env("TELEMETRY_JOURNAL_ENABLED", self.is_durable.to_string());
        command.envs(vars.iter().map(|(name, value)| (*name, OsString::from(value))));
        // Files, which take any number of bytes while this waits for the end.
        let files = ["stdout", "stderr"].map(|name| self.stage.dir.path().join(name));
        let [stdout, stderr] = [fs::File::create(&files[0])?, fs::File::create(&files[1])?];
        let mut child = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn()?;
        let ended = wait_until("the end of the application", LIMIT, || !matches!(child.try_wait(), Ok(None)));
        if ended.is_err() {
            child.kill()?;
        }
        let status = child.wait()?;
        let output = Output { status, stdout: fs::read(&files[0])?, stderr: fs::read(&files[1])? };
        ended.map_err(|failure| Failure::from(format!("{failure}: {}", String::from_utf8_lossy(&output.stderr))))?;
        Ok(output)
    }

    /// The spans that were made, and those of them that the collector has.
    pub(super) fn counts(&self) -> (usize, usize) {
        let has = |(trace, span): &&(String, String)| {
            let trace = u128::from_str_radix(trace, 16).map(u128::to_be_bytes);
            let span = u64::from_str_radix(span, 16).map(u64::to_be_bytes);
            matches!((trace, span), (Ok(trace), Ok(span)) if self.collector.contains(trace, span))
        };
        (self.made.len(), self.made.iter().filter(has).count())
    }

    /// All names below the directory of the case, of files and directories, but for those that the case made itself.
    pub(super) fn names(&self) -> Result<Vec<Name>, Failure> {
        let mut names = Vec::new();
        list(self.dir.path(), &mut names)?;
        names.retain(|name| !self.set_up.contains(&name.path));
        Ok(names)
    }

    /// Fails unless everything that the application's users made is theirs alone: 0700 and 0600.
    pub(super) fn check_modes(&self, users: &[User]) -> Result<(), Failure> {
        for Name { path, owner, mode, is_dir } in self.names()? {
            let expected = if is_dir { 0o700 } else { 0o600 };
            // A directory inherits the bit of the group from a volume with `fsGroup`, which gives no access.
            if users.iter().any(|user| user.id == owner) && mode & 0o5777 != expected {
                return Err(format!("{} has mode {mode:04o}", path.display()).into());
            }
        }
        Ok(())
    }
}

/// A file or directory.
pub(super) struct Name {
    pub(super) path: PathBuf,
    pub(super) owner: u32,
    pub(super) mode: u32,
    pub(super) is_dir: bool,
}

fn list(dir: &Path, names: &mut Vec<Name>) -> Result<(), Failure> {
    for entry in dir.read_dir()? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_symlink() {
            continue;
        }
        if metadata.is_dir() {
            list(&path, names)?;
        }
        let (owner, mode, is_dir) = (metadata.uid(), metadata.mode() & 0o7777, metadata.is_dir());
        names.push(Name { path, owner, mode, is_dir });
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<(), Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().map_err(|error| format!("{name}: {error}; get it by: apt-get install util-linux"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} failed: {status}").into()) }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        for path in self.mounts.iter().rev() {
            // The directory below is removed next: that fails, and says so, while something is mounted.
            let _ = Command::new("umount").arg("--lazy").arg(path).status();
        }
    }
}

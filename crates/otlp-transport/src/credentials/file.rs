//! A file of headers that is read again when it has changed.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;

use super::lines::{self, BadLine, Lines};
use super::{CredentialHeaders, Credentials, CredentialsError, RequestHead};
use crate::clock::system_clock;
use crate::error::{ConfigError, HeadersFileProblem as Problem};
use crate::looks::Looks;
use crate::note::Note;
use crate::reading::Reading;

/// The largest file: a hundred headers of 640 bytes.
const MAX_BYTES: u64 = 64 << 10;

/// A file that was changed within this time before it was read may be changed again under the same times: the clocks of
/// file systems have steps of up to 2 s (FAT).
const UNSETTLED: Duration = Duration::from_secs(2);

/// How often a file that changes while it is read is read again at once.
const READS: u32 = 3;

/// Headers from a file with a line `key=value` for each, values percent-decoded as those of
/// `OTEL_EXPORTER_OTLP_HEADERS`. Blank lines and lines that begin with `#` are skipped. At most 64 KiB and 100 headers.
///
/// Each call looks at the file, with one `stat` on a thread for blocking work, and reads it if it has changed; so does
/// a refusal, and the exporter every 5 s while batches wait for an endpoint that refuses. A link is followed each time,
/// so that the mounts of Kubernetes work. A file that vanishes, is half written or is replaced by something else is
/// noted once, and the last good headers stay. Write a new file beside it and rename it: a value that was cut off
/// cannot be told from a whole one. Needs Unix: the times and the kind of the file are those of a Unix file system.
pub struct HeadersFile {
    file: Arc<Watched>,
    looks: Looks<Watch>,
}

/// The file, and the last results of looking at it.
struct Watched {
    setting: &'static str,
    path: PathBuf,
    wall_clock: fn() -> SystemTime,
    results: Mutex<Results>,
}

#[derive(Default)]
struct Results {
    /// The last good headers.
    good: Option<CredentialHeaders>,
    /// Why the file cannot be used now.
    trouble: Option<Trouble>,
    /// The file system did not answer the last look.
    hangs: bool,
    notes: Vec<Note>,
}

impl Results {
    /// The treatment of requests while the file cannot be used.
    fn meanwhile(&self) -> &'static str {
        match self.good {
            Some(_) => "the last good headers stay in use",
            None => "no request goes out before the file has its headers",
        }
    }
}

/// A file that cannot be used: a line of it, or the whole.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Trouble {
    line: Option<usize>,
    name: Option<String>,
    problem: Problem,
}

/// The state of the file at the last look.
#[derive(Default)]
struct Watch {
    seen: Option<Stamp>,
}

/// Two files of one stamp have the same content, unless one was changed twice within a step of the clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl HeadersFile {
    /// Reads the file now. One that does not exist, cannot be opened or holds no header yet is noted, and each call
    /// fails before a byte is sent, until the file is there: a request without its headers might reach another tenant.
    ///
    /// # Errors
    ///
    /// [`ConfigError::HeadersFile`], if there is something else in its place or a line that is no header. It names the
    /// file, the line and the accepted form, and no value.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, ConfigError> {
        Self::open_as("with_headers_file", path.into(), system_clock, Reading::AtOnce)
    }

    /// The same for a setting of this name. With [`Reading::Later`] the first call is the first to look.
    pub(crate) fn open_as(
        setting: &'static str,
        path: PathBuf,
        wall_clock: fn() -> SystemTime,
        reading: Reading,
    ) -> Result<Self, ConfigError> {
        let file = Watched { setting, path, wall_clock, results: Mutex::default() };
        let mut watch = Watch::default();
        if reading == Reading::AtOnce {
            file.look(&mut watch);
        }
        let trouble = file.results().trouble.clone();
        if let Some(trouble) = trouble
            && !trouble.problem.may_pass()
        {
            return Err(file.error(trouble));
        }
        Ok(Self { file: Arc::new(file), looks: Looks::new(watch) })
    }

    /// Looks at the file. False if the file system does not answer in time: the last good headers serve then.
    async fn look(&self) -> bool {
        let file = Arc::clone(&self.file);
        let has_answered = self.looks.look(move |watch| file.look(watch)).await.is_some();
        if !has_answered {
            self.file.on_hang();
        }
        has_answered
    }
}

#[async_trait]
impl Credentials for HeadersFile {
    async fn headers(&self, _: &RequestHead, _: &Bytes) -> Result<CredentialHeaders, CredentialsError> {
        let has_answered = self.look().await;
        let results = self.file.results();
        if let Some(good) = &results.good {
            return Ok(good.clone());
        }
        let trouble = results.trouble.clone().filter(|_| has_answered);
        drop(results);
        Err(CredentialsError::new(match trouble {
            Some(trouble) => self.file.error(trouble).to_string(),
            None => format!("{}: its file system does not answer", self.file.named()),
        }))
    }

    async fn refused(&self, generation: u64) -> Result<u64, CredentialsError> {
        Ok(self.newest().await.unwrap_or(generation))
    }

    async fn newest(&self) -> Option<u64> {
        self.look().await;
        self.file.results().good.as_ref().map(|good| good.generation)
    }

    fn take_notes(&self) -> Vec<Note> {
        std::mem::take(&mut self.file.results().notes)
    }
}

impl Watched {
    /// Reads the file if it has changed since the last look. Blocks.
    fn look(&self, watch: &mut Watch) {
        let read = self.read_if_changed(watch);
        let mut results = self.results();
        results.hangs = false;
        match read {
            None => {}
            Some(Ok(Lines { mut headers, remarks })) => {
                let generation = results.good.as_ref().map_or(1, |good| good.generation + 1);
                results.trouble = None;
                if results.good.as_ref().is_none_or(|good| good.pairs != headers.pairs) {
                    headers.generation = generation;
                    results.good = Some(headers);
                    let named = self.named();
                    results.notes = remarks
                        .into_iter()
                        .map(|(line, remark)| Note::new(self.setting, format!("{named}: line {line} {remark}")))
                        .collect();
                }
            }
            // Each trouble is noted once, until the file was good in between.
            Some(Err(trouble)) if results.trouble.as_ref() == Some(&trouble) => {}
            Some(Err(trouble)) => {
                let message = format!("{}; {}", self.error(trouble.clone()), results.meanwhile());
                results.trouble = Some(trouble);
                results.notes = vec![Note::new(self.setting, message)];
            }
        }
    }

    fn on_hang(&self) {
        let mut results = self.results();
        if !std::mem::replace(&mut results.hangs, true) {
            let message = format!(
                "{}: its file system does not answer; the last good headers stay in use; check it",
                self.named()
            );
            results.notes = vec![Note::new(self.setting, message)];
        }
    }

    /// None if the file is as it was at the last look.
    fn read_if_changed(&self, watch: &mut Watch) -> Option<Result<Lines, Trouble>> {
        let whole = |problem| Trouble { line: None, name: None, problem };
        let mut reads = 0;
        loop {
            reads += 1;
            let metadata = match std::fs::metadata(&self.path) {
                Ok(metadata) => metadata,
                Err(error) => {
                    watch.seen = None;
                    return Some(Err(whole(Problem::of_io(&error))));
                }
            };
            let stamp = Stamp::of(&metadata);
            if watch.seen == Some(stamp) {
                return None;
            }
            watch.seen = None;
            // A device is not even opened: some begin to work then.
            let (bytes, read) = match of_kind(&metadata).and_then(|()| read(&self.path)) {
                Ok(read) => read,
                Err(problem) => return Some(Err(whole(problem))),
            };
            if read != stamp && reads < READS {
                continue;
            }
            if read == stamp && stamp.is_settled((self.wall_clock)()) {
                watch.seen = Some(stamp);
            }
            return Some(lines::read(&bytes).map_err(|BadLine { line, name, problem }| {
                let line = Some(line).filter(|&line| line > 0);
                Trouble { line, name, problem }
            }));
        }
    }

    fn error(&self, trouble: Trouble) -> ConfigError {
        let Trouble { line, name, problem } = trouble;
        let (path, name) = (PathBuf::from(shown(&self.path)).into(), name.map(Into::into));
        ConfigError::HeadersFile { setting: self.setting, path, line, name, problem }
    }

    fn named(&self) -> String {
        format!("{}={:?}", self.setting, shown(&self.path))
    }

    fn results(&self) -> MutexGuard<'_, Results> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// A later change has another time. The time of the content does not count: a program can set it to any value.
    fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let changed = u64::try_from(self.changed.0).unwrap_or_default();
        Duration::from_secs(changed + 1) + UNSETTLED <= now
    }
}

/// The path up to a blank with a `=` behind it: a unit file with one pair of quotation marks around two variables has
/// the second one there, such as a list of headers.
pub(crate) fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    match text.find(char::is_whitespace).map(|at| text.split_at(at)) {
        Some((before, behind)) if behind.contains('=') => format!("{before} ***"),
        _ => text.into_owned(),
    }
}

/// Nothing but a regular file is read.
fn of_kind(metadata: &Metadata) -> Result<(), Problem> {
    Err(Problem::NotAFile(match metadata.file_type() {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    }))
}

/// The bytes of a regular file of a fair size, and its state behind them.
fn read(path: &Path) -> Result<(Vec<u8>, Stamp), Problem> {
    // A FIFO that has just come in the place of the file would block until another process writes into it.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut options = File::options();
    let file = options.read(true).custom_flags(flags).open(path).map_err(|error| Problem::of_io(&error))?;
    let of_io = |error: io::Error| Problem::of_io(&error);
    of_kind(&file.metadata().map_err(of_io)?)?;
    let mut bytes = Vec::new();
    (&file).take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(of_io)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Problem::TooLarge);
    }
    let stamp = Stamp::of(&file.metadata().map_err(of_io)?);
    Ok((bytes, stamp))
}

impl std::fmt::Debug for HeadersFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeadersFile").field("path", &shown(&self.file.path)).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::looks::PATIENCE;

    fn head() -> RequestHead {
        RequestHead::new(http::Method::POST, http::Uri::default(), http::HeaderMap::new(), Bytes::new())
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_system_that_hangs_leaves_the_last_good_headers_and_one_thread() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("headers");
        std::fs::write(&path, "x-key=canary").expect("written");
        for is_good in [true, false] {
            let file = HeadersFile::open(&path).expect("read, or missing");
            // The thread of the first look has not come back.
            let _hangs = Arc::clone(&file.looks.watch).lock_owned().await;
            let _ = file.take_notes();
            let begun = tokio::time::Instant::now();
            let _ = file.headers(&head(), &Bytes::new()).await;
            assert_eq!(begun.elapsed().as_secs(), PATIENCE.as_secs());
            // Later calls wait no more.
            let given = file.headers(&head(), &Bytes::new()).await;
            assert_eq!(begun.elapsed().as_secs(), PATIENCE.as_secs());
            let notes = file.take_notes();
            assert!(notes.len() == 1 && notes[0].message.contains("does not answer"), "{notes:?}");
            match given {
                Ok(headers) => assert!(is_good && headers.pairs == [("x-key".to_owned(), "canary".to_owned())]),
                Err(error) => assert!(!is_good && error.to_string().contains("does not answer"), "{error}"),
            }
            std::fs::remove_file(&path).unwrap_or_default();
        }
    }

    #[tokio::test]
    async fn a_file_system_that_answers_again_is_looked_at_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("headers");
        std::fs::write(&path, "x-key=1").expect("written");
        let file = HeadersFile::open(&path).expect("read");
        file.file.on_hang();
        std::fs::write(&path, "x-key=2").expect("written");
        assert_eq!(file.newest().await, Some(2));
        assert!(!file.file.results().hangs);
    }

    #[test]
    fn a_file_is_settled_once_its_times_lie_two_seconds_back() {
        let stamp = Stamp { device: 1, inode: 1, len: 1, modified: (10, 0), changed: (10, 999_999_999) };
        let at = |millis| UNIX_EPOCH + Duration::from_millis(millis);
        assert!(!stamp.is_settled(at(10_000)) && !stamp.is_settled(at(12_900)) && stamp.is_settled(at(13_000)));
        assert!(!stamp.is_settled(UNIX_EPOCH - UNSETTLED), "the clock was set back");
        let ahead = Stamp { changed: (20, 0), ..stamp };
        assert!(!ahead.is_settled(at(20_000)), "the time of the change counts, which no program sets");
        let written = Stamp { modified: (20, 0), ..stamp };
        assert!(written.is_settled(at(13_000)), "the time of the content may lie ahead for ever");
    }
}

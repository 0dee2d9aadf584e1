//! Spans that wait in directories of services which no process runs, such as one that has another name now. Reads names
//! of files, never their content, and no more than a bounded number.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;
use resilient_exporter::StorageNote;
use rustix::fs::{FlockOperation, Mode, OFlags};

/// Directories of services, at most.
const MAX_SERVICES: usize = 1_000;

/// Names of files and directories below all of them, at most.
const MAX_NAMES: usize = 20_000;

/// Services that the note names, at most.
const MAX_NAMED: usize = 5;

/// Levels below the directory of a service: process, store.
const MAX_DEPTH: u32 = 3;

/// The spans of one service.
#[derive(Debug, PartialEq, Eq)]
struct Waiting {
    path: PathBuf,
    /// Namespace and name.
    service: (Option<String>, String),
    spans: u64,
    journal_bytes: u64,
}

/// The note about directories of services in `base` that hold spans, and that no process has locked. Leaves out the
/// directory `own`.
pub(super) fn note_about(base: &Path, own: Option<&str>) -> Option<StorageNote> {
    let waiting = find(base, own, MAX_NAMES);
    let further = waiting.len().saturating_sub(MAX_NAMED);
    let (last, others) = waiting[..waiting.len() - further].split_last()?;
    let mut cause = others.iter().map(|one| format!("{}; {}; ", one.cause(), one.remedy())).collect::<String>();
    cause.push_str(&last.cause());
    let mut remedy = last.remedy();
    if further > 0 {
        remedy.push_str(&format!("; and spans of {further} further services wait in {}", base.display()));
    }
    Some(StorageNote::new(cause, remedy))
}

impl Waiting {
    fn cause(&self) -> String {
        let Self { path, service: (_, name), spans, journal_bytes } = self;
        let path = path.display();
        match (spans, journal_bytes) {
            (0, bytes) => format!("{bytes} bytes in a journal of {name:?} wait in {path}"),
            (spans, 0) => format!("{spans} spans of {name:?} wait in {path}"),
            (spans, bytes) => format!("{spans} spans of {name:?} and {bytes} bytes in a journal wait in {path}"),
        }
    }

    fn remedy(&self) -> String {
        let (namespace, name) = &self.service;
        let attribute = namespace.as_ref().map(|namespace| {
            format!(" and OTEL_RESOURCE_ATTRIBUTES={}", as_word(&format!("service.namespace={namespace}")))
        });
        format!("start once with OTEL_SERVICE_NAME={}{}", as_word(name), attribute.unwrap_or_default())
    }
}

/// The text as a shell takes it.
fn as_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '/' | '=');
    if text.chars().all(is_plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

fn find(base: &Path, own: Option<&str>, mut names_left: usize) -> Vec<Waiting> {
    let user = rustix::process::geteuid().as_raw();
    let Ok(entries) = base.read_dir() else { return Vec::new() };
    let mut waiting = Vec::new();
    for entry in entries.take(MAX_SERVICES).flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        // A name that begins with a dot, or is one of a store's, is no service's.
        if own == Some(&*name) || name.starts_with('.') || crate::settings::directories::is_reserved(&name) {
            continue;
        }
        let Ok(metadata) = entry.metadata() else { continue };
        if !metadata.is_dir() || metadata.uid() != user {
            continue;
        }
        if has_owner(&entry.path()) {
            continue;
        }
        let mut found = Found { names_left, ..Found::default() };
        let has_owner = found.look(&entry.path(), In::Service, MAX_DEPTH).is_err();
        names_left = found.names_left;
        let layout = layout_of(&entry.path());
        // The version before leaves records that are done in the journals of processes that have ended.
        let journal_bytes = if layout.is_some() || found.spans > 0 { found.journal_bytes } else { 0 };
        if has_owner || (found.spans == 0 && journal_bytes == 0) {
            continue;
        }
        let service = layout.unwrap_or_else(|| (None, decoded(&name)));
        waiting.push(Waiting { path: entry.path(), service, spans: found.spans, journal_bytes });
    }
    waiting.sort_by(|one, other| one.path.cmp(&other.path));
    waiting
}

#[derive(Default)]
struct Found {
    spans: u64,
    journal_bytes: u64,
    names_left: usize,
}

/// The kind of a directory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum In {
    Service,
    Journal,
}

/// A process has a lock in the directory.
struct HasOwner;

impl Found {
    fn look(&mut self, dir: &Path, kind: In, depth: u32) -> Result<(), HasOwner> {
        if has_locked(dir) {
            return Err(HasOwner);
        }
        let Ok(entries) = dir.read_dir() else { return Ok(()) };
        for entry in entries.flatten() {
            let Some(left) = self.names_left.checked_sub(1) else { return Ok(()) };
            self.names_left = left;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let Ok(file_type) = entry.file_type() else { continue };
            if file_type.is_dir() {
                let kind = match &*name {
                    "dead-letters" | "quarantine" => continue,
                    "journal" => In::Journal,
                    _ => kind,
                };
                if depth > 0 {
                    self.look(&entry.path(), kind, depth - 1)?;
                }
            } else if !file_type.is_file() || name == ".lock" {
            } else if kind == In::Journal {
                self.journal_bytes += entry.metadata().map_or(0, |metadata| metadata.len());
            } else {
                self.spans += spans_in(&name).unwrap_or(0);
            }
        }
        Ok(())
    }
}

/// A process has locked the directory of the service, or one directly in it. Each process locks its directory before
/// those of its stores, which are not asked here: that would stand in the way of a process that starts. First, since
/// the names behind are as many as the spans of ended processes have files.
fn has_owner(service: &Path) -> bool {
    let entries = service.read_dir().into_iter().flatten().take(MAX_NAMES).flatten();
    let mut dirs = entries.filter(|entry| entry.file_type().is_ok_and(|file_type| file_type.is_dir()));
    has_locked(service) || dirs.any(|entry| has_locked(&entry.path()))
}

fn has_locked(dir: &Path) -> bool {
    let lock = dir.join(".lock");
    lock.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) && is_locked(&lock)
}

/// The spans that the name of a fallback file promises, as in `traces-20260201T000000.123Z-00000042-n512.jsonl`.
fn spans_in(name: &str) -> Option<u64> {
    let (_, end) = name.strip_prefix("traces-")?.rsplit_once("-n")?;
    end.split_once('.')?.0.parse().ok()
}

/// Opens a file for reading; never waits for the writer of a pipe, never follows a link.
fn open(path: &Path) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    file.metadata().is_ok_and(|metadata| metadata.is_file()).then_some(file)
}

/// A process has the lock, or it cannot be asked for.
fn is_locked(path: &Path) -> bool {
    // Shared: two processes that look at the same time do not take each other for an owner.
    open(path).is_none_or(|file| rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err())
}

/// The service in the file `layout`: "holdfast-state 2 <service>".
fn layout_of(dir: &Path) -> Option<(Option<String>, String)> {
    let mut text = String::new();
    open(&dir.join("layout"))?.take(4_096).read_to_string(&mut text).ok()?;
    let (_, service) = text.lines().next()?.strip_prefix("holdfast-state ")?.split_once(' ')?;
    Some(match service.split_once('/') {
        Some((namespace, name)) => (Some(decoded(namespace)), decoded(name)),
        None => (None, decoded(service)),
    })
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Makes a file of this many bytes.
    fn make(base: &Path, path: &str, bytes: usize) {
        let path = base.join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
        fs::write(path, vec![b'x'; bytes]).expect("a file");
    }

    fn layout(base: &Path, dir: &str, service: &str) {
        make(base, &format!("{dir}/layout"), 0);
        fs::write(base.join(dir).join("layout"), format!("holdfast-state 2 {service}\n")).expect("a file");
    }

    fn note(base: &Path) -> String {
        note_about(base, Some("own")).map(|note| note.to_string()).unwrap_or_default()
    }

    const FILE: &str = "traces-20260201T000000.123Z-00000042-n512.jsonl";

    #[test]
    fn a_service_without_a_process_is_named_with_its_spans_and_the_remedy() {
        let scratch = tempfile::tempdir().expect("a directory");
        let base = scratch.path();
        layout(base, "shop", "shop");
        make(base, "shop/0123456789abcdef/.lock", 40);
        make(base, &format!("shop/0123456789abcdef/fallback/{FILE}"), 10);
        make(base, "shop/0123456789abcdef/fallback/traces-20260201T000000.124Z-00000043-n3.jsonl.zst", 10);
        make(base, &format!("shop/0123456789abcdef/dead-letters/{FILE}"), 10);
        make(base, &format!("shop/0123456789abcdef/quarantine/{FILE}"), 10);
        make(base, &format!("own/0123456789abcdef/fallback/{FILE}"), 10);
        make(base, &format!("fallback/{FILE}"), 10);
        make(base, &format!("holdfast-7/shop/{FILE}"), 10);
        let path = base.join("shop").display().to_string();
        let expected = format!("515 spans of \"shop\" wait in {path}; start once with OTEL_SERVICE_NAME=shop");
        assert_eq!(note(base), expected);
        make(base, "shop/0123456789abcdef/journal/journal-1.seg", 70);
        assert!(note(base).starts_with("515 spans of \"shop\" and 70 bytes in a journal wait in"), "{}", note(base));
    }

    #[test]
    fn a_service_with_a_process_or_without_spans_is_not_named() {
        let scratch = tempfile::tempdir().expect("a directory");
        let base = scratch.path();
        layout(base, "live", "live");
        make(base, &format!("live/0123456789abcdef/fallback/{FILE}"), 10);
        make(base, &format!("live/fedcba9876543210/fallback/{FILE}"), 10);
        make(base, "live/fedcba9876543210/.lock", 0);
        layout(base, "empty", "empty");
        make(base, "empty/0123456789abcdef/.lock", 0);
        // Records that are done, of the version before.
        make(base, "old/journal/journal-1.seg", 70);
        let lock = File::open(base.join("live/fedcba9876543210/.lock")).expect("a file");
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).expect("free");
        assert_eq!(note(base), "");
        drop(lock);
        assert!(note(base).starts_with("1024 spans of \"live\""), "{}", note(base));
    }

    #[test]
    fn a_process_is_found_behind_more_names_than_are_looked_at() {
        let scratch = tempfile::tempdir().expect("a directory");
        let base = scratch.path();
        layout(base, "live", "live");
        for process in 0..8 {
            make(base, &format!("live/000000000000000{process}/fallback/{FILE}"), 10);
            make(base, &format!("live/000000000000000{process}/.lock"), 0);
        }
        for process in 0..8 {
            let lock = File::open(base.join(format!("live/000000000000000{process}/.lock"))).expect("a file");
            rustix::fs::flock(&lock, FlockOperation::LockExclusive).expect("free");
            assert_eq!(find(base, None, 6), [], "process {process} is alive");
        }
        assert_eq!(find(base, None, 6).len(), 1);
    }

    #[test]
    fn each_name_is_given_as_a_shell_takes_it() {
        let scratch = tempfile::tempdir().expect("a directory");
        let base = scratch.path();
        layout(base, "eu.my%20shop", "EU/It%27s%20mine");
        make(base, &format!("eu.my%20shop/0123456789abcdef/fallback/{FILE}"), 10);
        let attribute = "OTEL_RESOURCE_ATTRIBUTES=service.namespace=EU";
        let expected = format!(r"; start once with OTEL_SERVICE_NAME='It'\''s mine' and {attribute}");
        assert!(note(base).ends_with(&expected), "{}", note(base));
        // The version before has no file `layout`.
        make(base, &format!("a%4dz/fallback/{FILE}"), 10);
        assert!(note(base).starts_with("512 spans of \"aMz\" wait in"), "{}", note(base));
        assert!(note(base).contains("; start once with OTEL_SERVICE_NAME=aMz; 512 spans of"), "{}", note(base));
    }

    #[test]
    fn the_note_and_the_look_are_bounded() {
        let scratch = tempfile::tempdir().expect("a directory");
        let base = scratch.path();
        for service in 0..9 {
            make(base, &format!("s{service}/fallback/{FILE}"), 10);
        }
        assert!(note(base).contains("of \"s4\"") && !note(base).contains("of \"s5\""), "{}", note(base));
        assert!(note(base).ends_with(&format!("; and spans of 4 further services wait in {}", base.display())));
        // Two names a service.
        assert_eq!(find(base, None, 6).len(), 3);
        assert_eq!(find(base, None, 0), []);
    }

    #[test]
    fn pipes_links_and_texts_that_are_no_layout_end_the_look_at_nothing() {
        let scratch = tempfile::tempdir().expect("a directory");
        let base = scratch.path();
        make(base, &format!("elsewhere/{FILE}"), 10);
        std::os::unix::fs::symlink(base.join("elsewhere"), base.join("link")).expect("a link");
        for name in ["layout", "fallback/.lock"] {
            let path = base.join("pipes").join(name);
            fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
            rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
                .expect("a pipe");
        }
        make(base, &format!("pipes/fallback/{FILE}"), 10);
        for text in ["", "holdfast-state", "holdfast-state 2", "\u{1}"] {
            fs::write(base.join("elsewhere/layout"), text).expect("a file");
            let found = find(base, None, MAX_NAMES);
            let names: Vec<_> = found.iter().map(|one| one.service.1.as_str()).collect();
            assert_eq!(names, ["elsewhere", "pipes"], "{text:?}");
        }
        for name in ["traces-x-n12", "traces--n.jsonl", "traces-x-n-1.jsonl", "x-n1.jsonl", "traces-n7.jsonl"] {
            assert_eq!(spans_in(name), None, "{name}");
        }
    }
}

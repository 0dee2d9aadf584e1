//! The file that is being read now, noted so that the next process learns which file the last one died of.

use std::io::Read as _;

use safe_dir::Directory;

/// Notes of the file that is being read: a line before the read and an empty one behind it, without a sync. An ended
/// process leaves them to the file system's cache, and a power cut is not the fault of a file.
///
/// A note that cannot be written costs nothing but the knowledge.
#[derive(Debug)]
pub(super) struct Reading<F> {
    /// Made at the first read.
    notes: Option<F>,
    len: u64,
    is_set: bool,
}

impl<F: safe_dir::File> Reading<F> {
    pub(super) const fn new() -> Self {
        Self { notes: None, len: 0, is_set: false }
    }

    /// The file that an ended process was reading when it died.
    pub(super) fn left_in<D: Directory<File = F>>(dir: &D) -> Option<String> {
        let mut text = Vec::new();
        dir.open_read(NOTES).ok()?.take(2 * MAX_NOTES).read_to_end(&mut text).ok()?;
        let text = std::str::from_utf8(&text).ok()?.strip_suffix('\n')?;
        let (_, last) = text.rsplit_once('\n').unwrap_or(("", text));
        let (sum, name) = last.split_once(' ')?;
        (u32::from_str_radix(sum, 16).ok()? == crc32c::crc32c(name.as_bytes())).then(|| name.to_owned())
    }

    /// Removes the notes from a directory that no process reads in.
    pub(super) fn remove_from<D: Directory<File = F>>(dir: &D) {
        drop(dir.remove(NOTES));
    }

    /// The file `name` is going to be read.
    pub(super) fn begin<D: Directory<File = F>>(&mut self, dir: &D, name: &str) {
        if self.notes.is_none() {
            Self::remove_from(dir);
            self.notes = dir.create(NOTES).ok();
            self.len = 0;
        }
        self.is_set = true;
        self.write(&format!("{:08x} {name}\n", crc32c::crc32c(name.as_bytes())));
    }

    /// The file was read, or the read has failed.
    pub(super) fn end(&mut self) {
        if std::mem::take(&mut self.is_set) {
            self.write("\n");
        }
    }

    /// One call each: a process that dies leaves all of the text or none.
    fn write(&mut self, text: &str) {
        let Some(notes) = &mut self.notes else { return };
        let emptied = if self.len < MAX_NOTES { Ok(()) } else { notes.truncate(0).map(|()| self.len = 0) };
        self.len += text.len() as u64;
        if !emptied.and_then(|()| notes.write(text.as_bytes())).is_ok_and(|written| written == text.len()) {
            // The next read begins new ones.
            self.notes = None;
        }
    }
}

/// The name of the notes.
const NOTES: &str = ".reading";

/// Notes that are longer begin again.
const MAX_NOTES: u64 = 64 << 10;

//! The files of a simulated disk, seen by another program: lists, searches and removes them.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};

use safe_dir::sim::{Disk, MemoryDir};
use safe_dir::{Directory as _, Kind};

use super::computer::SpanKey;

/// The paths of all directories and files, from the root of the disk, each directory before its content.
pub(super) fn paths(disk: &Disk) -> Vec<(String, Kind)> {
    let mut found = Vec::new();
    list(&disk.root(), "", &mut found);
    found
}

fn list(dir: &MemoryDir, above: &str, found: &mut Vec<(String, Kind)>) {
    for entry in dir.list().expect("a disk without faults") {
        let name = entry.name.into_string().expect("a name of this crate");
        let path = if above.is_empty() { name.clone() } else { format!("{above}/{name}") };
        let kind = entry.kind.expect("known on a simulated disk");
        found.push((path.clone(), kind));
        if kind == Kind::Directory {
            let inner = dir.existing_subdirectory(&name).expect("a disk without faults");
            list(&inner.expect("listed just now"), &path, found);
        }
    }
}

/// The paths of all segments of journals.
pub(super) fn segments(disk: &Disk) -> Vec<String> {
    let paths = paths(disk).into_iter().map(|(path, _)| path);
    paths.filter(|path| path.contains("/journal/journal-")).collect()
}

/// Whether a process has the journal open that this segment is in. A process that has adopted the directory, and not
/// opened the journal yet, does not know the segments.
pub(super) fn is_in_use(disk: &Disk, segment: &str) -> bool {
    parent(disk, segment).0.lock().is_err()
}

/// Removes a file, or a directory with all that is in it.
pub(super) fn remove(disk: &Disk, path: &str, kind: Kind) {
    if kind == Kind::Directory {
        assert!(disk.remove_tree(path), "{path} was listed");
        return;
    }
    let (dir, name) = parent(disk, path);
    dir.remove(name).expect("listed");
}

/// The spans in a file, or in all files of a directory, by their ids: in the journal, in protobuf, in JSON, compressed
/// or not.
pub(super) fn spans_below(disk: &Disk, path: &str, made: &HashSet<SpanKey>) -> HashSet<SpanKey> {
    let below = format!("{path}/");
    let mut found = HashSet::new();
    for (file, kind) in paths(disk) {
        if kind == Kind::File && (file == path || file.starts_with(&below)) {
            spans_in(&content(disk, &file), made, &mut found);
        }
    }
    found
}

fn spans_in(content: &[u8], made: &HashSet<SpanKey>, found: &mut HashSet<SpanKey>) {
    let mut unpacked = Vec::new();
    // Spans in the part of a torn file that can be unpacked count.
    let _ = zstd::Decoder::new(content).and_then(|mut decoder| decoder.read_to_end(&mut unpacked));
    let _ = flate2::read::MultiGzDecoder::new(content).read_to_end(&mut unpacked);
    for text in [content, &unpacked] {
        // The ids of `proofs::spans` have the same number: a trace id with it names the span.
        let key = |id: [u8; 16]| (id, id.last_chunk::<8>().copied().expect("16 bytes"));
        let ids = text.windows(16).map(|id| key(id.try_into().expect("16 bytes")));
        found.extend(ids.filter(|key| made.contains(key)));
        for window in text.windows(32).filter(|window| window.iter().all(u8::is_ascii_hexdigit)) {
            let digits = std::str::from_utf8(window).expect("digits");
            let id = u128::from_str_radix(digits, 16).expect("digits").to_be_bytes();
            found.extend(Some(key(id)).filter(|key| made.contains(key)));
        }
    }
}

fn content(disk: &Disk, path: &str) -> Vec<u8> {
    let (dir, name) = parent(disk, path);
    let mut content = Vec::new();
    dir.open_read(name).expect("listed").read_to_end(&mut content).expect("a disk without faults");
    content
}

fn parent<'a>(disk: &Disk, path: &'a str) -> (MemoryDir, &'a str) {
    let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
    let open = |dir: MemoryDir, part: &str| dir.existing_subdirectory(part).expect("a disk without faults");
    let parts = above.split('/').filter(|part| !part.is_empty());
    (parts.fold(disk.root(), |dir, part| open(dir, part).expect("listed")), name)
}

/// Writes a file; a power cut may take it away again. Nothing is written if the name exists: a file that was adopted
/// may have got its number.
pub(super) fn write(disk: &Disk, path: &str, content: &[u8]) {
    let (dir, name) = parent(disk, path);
    if let Ok(mut file) = dir.create(name) {
        // On a full disk the file is cut.
        let _ = file.write_all(content);
    }
}

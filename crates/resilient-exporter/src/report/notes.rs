//! Trouble of storage that was found at the start: health names it as long as the exporter lives.

use std::fmt;

/// Trouble of storage that the program found before it built the exporter: a cause and its remedy. Health is degraded
/// by each note as long as the exporter lives, and the log warns of each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageNote {
    text: String,
    is_memory_only: bool,
}

impl StorageNote {
    /// Something that this exporter cannot use, such as the files of another service. Both texts are parts of one
    /// sentence; control characters in them are escaped, since they may contain names of files.
    #[must_use]
    pub fn new(cause: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        Self { text: in_one_line(&format!("{cause}; {remedy}")), is_memory_only: false }
    }

    /// The reason for which spans are in memory only.
    #[must_use]
    pub fn memory_only(cause: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        let text =
            format!("spans are in memory only, and are lost when it is full or the process ends: {cause}; {remedy}");
        Self { text: in_one_line(&text), is_memory_only: true }
    }

    /// Whether spans are in memory only because of it.
    #[must_use]
    pub const fn is_memory_only(&self) -> bool {
        self.is_memory_only
    }
}

impl fmt::Display for StorageNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn in_one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_one_line_with_its_cause_and_remedy() {
        let note = StorageNote::new("7 spans of \"a\nb\" wait", "start once with OTEL_SERVICE_NAME");
        assert_eq!(note.to_string(), "7 spans of \"a\\nb\" wait; start once with OTEL_SERVICE_NAME");
        assert!(!note.is_memory_only());
        let note = StorageNote::memory_only("no directory", "set one");
        assert!(note.is_memory_only());
        assert!(note.to_string().ends_with("process ends: no directory; set one"), "{note}");
    }
}

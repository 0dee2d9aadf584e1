//! The content of a lock file: the process that the directory belongs to.

use std::fmt::Write as _;

/// A machine, as far as locks are concerned: processes of one machine always see each other's locks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Machine {
    /// The id of this start of the kernel; empty on a system that has none.
    pub boot_id: String,
    /// The name of the host, which differs between containers on one kernel.
    pub host: String,
}

/// The process that a directory belongs to, or belonged to until it ended.
///
/// In the file each field is a line: its name, a space, its value. [`parse`](Self::parse) ignores lines of other names,
/// which a newer version may write.
///
/// ```
/// use safe_dir::{Machine, Owner};
///
/// let machine = Machine { boot_id: "3f0c".into(), host: "web-3".into() };
/// let owner = Owner { machine, incarnation: "00000000000000ab".into(), bytes: 812 };
/// assert_eq!(owner.to_text(), "boot 3f0c\nhost web-3\nincarnation 00000000000000ab\nbytes 812\n");
/// assert_eq!(Owner::parse(owner.to_text().as_bytes()), Some(owner));
/// assert_eq!(Owner::parse(b"boot 3f0c\nhost we"), None, "cut off while it was written");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The machine that the process runs on.
    pub machine: Machine,
    /// The name of the directory that it made for itself.
    pub incarnation: String,
    /// The bytes that it stored, by its last heartbeat; 0 if the file does not tell.
    pub bytes: u64,
}

impl Machine {
    /// The machine of this process.
    #[must_use]
    pub fn current() -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { boot_id: one_line(&boot_id), host: one_line(&host) }
    }

    /// The same, as the file gives it back.
    pub(crate) fn normalized(self) -> Self {
        Self { boot_id: one_line(&self.boot_id), host: one_line(&self.host) }
    }
}

impl Owner {
    /// The content of the file. A control character of a field becomes `?`, so that a field stays one line.
    #[must_use]
    pub fn to_text(&self) -> String {
        self.head() + &self.bytes_line()
    }

    /// Reads the content of a file; `None` unless it names a machine and an incarnation. A last line without a line
    /// break was not written to its end and does not count; of two lines of one name the last counts.
    #[must_use]
    pub fn parse(content: &[u8]) -> Option<Self> {
        let (mut boot_id, mut host, mut incarnation, mut bytes) = (None, None, None, 0);
        for line in content.split_inclusive(|byte| *byte == b'\n') {
            let Some(line) = line.strip_suffix(b"\n") else { continue };
            let Ok(line) = std::str::from_utf8(line) else { continue };
            match line.split_once(' ') {
                Some(("boot", value)) => boot_id = Some(one_line(value)),
                Some(("host", value)) => host = Some(one_line(value)),
                Some(("incarnation", value)) => incarnation = Some(one_line(value)),
                Some(("bytes", value)) => bytes = value.trim().parse().unwrap_or(0),
                _ => {}
            }
        }
        Some(Self { machine: Machine { boot_id: boot_id?, host: host? }, incarnation: incarnation?, bytes })
    }

    /// The lines that stay the same over the life of the process.
    pub(crate) fn head(&self) -> String {
        let mut text = String::new();
        let Machine { boot_id, host } = &self.machine;
        for (name, value) in [("boot", boot_id), ("host", host), ("incarnation", &self.incarnation)] {
            let _ = writeln!(text, "{name} {}", one_line(value));
        }
        text
    }

    /// The last line, which each heartbeat writes anew.
    pub(crate) fn bytes_line(&self) -> String {
        format!("bytes {}\n", self.bytes)
    }
}

fn one_line(value: &str) -> String {
    value.trim().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn this_machine_is_known_and_stays_the_same() {
        let machine = Machine::current();
        assert_eq!(machine, Machine::current());
        assert_eq!(machine, machine.clone().normalized());
        assert!(!machine.host.is_empty());
        assert_eq!(machine.boot_id.is_empty(), !cfg!(target_os = "linux"), "{machine:?}");
    }

    #[test]
    fn lines_of_other_names_and_unfinished_lines_are_ignored() {
        let text = b"zone eu\nboot b\nhost h\n\xff\xfe\nhost  \nhost h2\nincarnation 7\nbytes x\nbytes 12";
        let owner = Owner::parse(text).expect("machine and incarnation are there");
        let machine = Machine { boot_id: "b".into(), host: "h2".into() };
        assert_eq!(owner, Owner { machine, incarnation: "7".into(), bytes: 0 });
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(content: Vec<u8>) {
            if let Some(owner) = Owner::parse(&content) {
                prop_assert_eq!(Owner::parse(owner.to_text().as_bytes()), Some(owner));
            }
        }

        #[test]
        fn the_file_gives_back_the_fields(boot_id: String, host: String, incarnation: String, bytes: u64) {
            let machine = Machine { boot_id, host }.normalized();
            let owner = Owner { machine, incarnation: one_line(&incarnation), bytes };
            prop_assert_eq!(Owner::parse(owner.to_text().as_bytes()), Some(owner.clone()));
            // Each cut is the same owner, at most without its bytes, or none.
            for cut in 0..owner.to_text().len() {
                if let Some(read) = Owner::parse(&owner.to_text().as_bytes()[..cut]) {
                    prop_assert_eq!((&read.machine, &read.incarnation), (&owner.machine, &owner.incarnation));
                    prop_assert!(read.bytes == 0 || read.bytes == owner.bytes);
                }
            }
        }
    }
}

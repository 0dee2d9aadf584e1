//! Which names may be used inside a directory.

use std::fmt;

/// The longest name, in bytes: `NAME_MAX` of Linux and of nearly every file system. A name to be published must be 5
/// bytes shorter, for its temporary one.
pub(crate) const MAX_NAME_LEN: usize = 255;

/// Why a name was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameProblem {
    /// The name is empty.
    Empty,
    /// It is `.` or `..`.
    Dots,
    /// It contains `/`.
    Slash,
    /// It contains a control character, such as NUL or a line break.
    Control,
    /// The name is longer than 255 bytes.
    TooLong,
}

/// Checks that `name` is one plain component that cannot lead out of its directory.
///
/// # Errors
///
/// The reason why it may not be used.
pub(crate) fn check(name: &str) -> Result<(), NameProblem> {
    if name.is_empty() {
        Err(NameProblem::Empty)
    } else if name == "." || name == ".." {
        Err(NameProblem::Dots)
    } else if name.contains('/') {
        Err(NameProblem::Slash)
    } else if name.chars().any(char::is_control) {
        Err(NameProblem::Control)
    } else if name.len() > MAX_NAME_LEN {
        Err(NameProblem::TooLong)
    } else {
        Ok(())
    }
}

impl fmt::Display for NameProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it is empty"),
            Self::Dots => f.write_str("it leads to another directory"),
            Self::Slash => f.write_str("it contains a slash"),
            Self::Control => f.write_str("it contains a control character"),
            Self::TooLong => write!(f, "it is longer than {MAX_NAME_LEN} bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_components_pass() {
        for (name, problem) in [
            ("", NameProblem::Empty),
            (".", NameProblem::Dots),
            ("..", NameProblem::Dots),
            ("../x", NameProblem::Slash),
            ("/etc/x", NameProblem::Slash),
            ("a/b", NameProblem::Slash),
            ("a\0b", NameProblem::Control),
            ("a\nb", NameProblem::Control),
            ("\u{85}", NameProblem::Control),
        ] {
            assert_eq!(check(name), Err(problem), "{name:?}");
        }
        assert_eq!(check(&"x".repeat(MAX_NAME_LEN)), Ok(()));
        assert_eq!(check(&"x".repeat(MAX_NAME_LEN + 1)), Err(NameProblem::TooLong));
        for name in ["...", "-", "a b", "ä", ".lock"] {
            assert_eq!(check(name), Ok(()), "{name:?}");
        }
    }
}

//! Remarks about settings.

use std::fmt;

/// A remark about a setting: a value that is ignored, one that is read otherwise than its text, or one that rarely
/// means its text. Free of secrets.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Note {
    /// The variable, or the method of the builder, that it is about.
    pub setting: &'static str,
    /// The whole sentence, with the variable in it.
    pub message: String,
}

impl Note {
    /// `setting` names the variable or the method that the sentence `message` is about; a place in its list, in
    /// parentheses behind the name, is left out. No secret may be in the sentence.
    pub fn new(setting: &'static str, message: impl Into<String>) -> Self {
        Self { setting: variable(setting), message: message.into() }
    }
}

/// The variable or the method in a name of a setting, which may have a place in a list behind it.
pub(crate) fn variable(setting: &'static str) -> &'static str {
    setting.split(" (").next().unwrap_or(setting)
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

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
    /// `setting` names the variable or the method that the sentence `message` is about. No secret may be in it.
    pub fn new(setting: &'static str, message: impl Into<String>) -> Self {
        Self { setting, message: message.into() }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

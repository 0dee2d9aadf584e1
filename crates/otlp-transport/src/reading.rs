//! When files are read.

/// When the files that the settings name are read for the first time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reading {
    /// As the settings are built: a file that cannot be used is an error of theirs.
    #[default]
    AtOnce,
    /// By the first call that needs them: a file that cannot be used is a cause of its failure.
    Later,
}

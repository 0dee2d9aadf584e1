//! An error and all its sources as one text.

use std::error::Error;
use std::fmt;

/// Shows an error followed by each of its sources, from the outermost to the innermost, with `": "` between them.
///
/// For a log line, a health report or an answer that shows one text of an error: the `Display` of an error does not
/// repeat its source.
///
/// ```
/// use otlp_transport::ErrorChain;
///
/// #[derive(Debug, thiserror::Error)]
/// #[error("the settings were not read")]
/// struct NotRead(#[source] std::fmt::Error);
///
/// let text = ErrorChain(&NotRead(std::fmt::Error)).to_string();
/// assert!(text.starts_with("the settings were not read: an error occurred"), "{text}");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ErrorChain<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

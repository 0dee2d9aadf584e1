//! An open connection, and the errors of one that prove something about its requests.

use std::error::Error;
use std::io;

use tokio::io::{AsyncRead, AsyncWrite};

/// An open connection to the peer, over a socket or over another connection.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Duplex for T {}

/// In front of the text of an error which proves that the peer took nothing of any request on its connection. h2 keeps
/// of an error its kind and its text alone.
const NOTHING_TAKEN: &str = "no request was read: ";
const NOTHING_TAKEN_KIND: io::ErrorKind = io::ErrorKind::PermissionDenied;

/// Such an error.
pub(crate) fn nothing_taken(text: &str) -> io::Error {
    io::Error::new(NOTHING_TAKEN_KIND, format!("{NOTHING_TAKEN}{text}"))
}

/// The text of such an error, if it is behind `error`.
pub(crate) fn why_nothing_was_taken(error: &(dyn Error + 'static)) -> Option<String> {
    let mut causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.find_map(|cause| {
        let cause = cause.downcast_ref::<io::Error>().filter(|cause| cause.kind() == NOTHING_TAKEN_KIND)?;
        cause.to_string().strip_prefix(NOTHING_TAKEN).map(str::to_owned)
    })
}

//! Connections to a Unix socket.

use std::io;
use std::path::Path;

/// Opens a connection to the socket at `path`.
#[cfg(unix)]
pub(super) async fn open(path: &Path) -> io::Result<tokio::net::UnixStream> {
    tokio::net::UnixStream::connect(path).await.map_err(explained)
}

/// No path is accepted as that of a socket on such a platform.
#[cfg(not(unix))]
pub(super) async fn open(_path: &Path) -> io::Result<tokio::net::TcpStream> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// The same error with its usual cause.
#[cfg(unix)]
fn explained(error: io::Error) -> io::Error {
    let why = match error.kind() {
        io::ErrorKind::NotFound => "no socket has this path: the collector may not run yet, or listens elsewhere",
        io::ErrorKind::ConnectionRefused => "no process listens on this socket: its collector has ended",
        io::ErrorKind::PermissionDenied => {
            "this user may not connect: the socket needs its write permission, and each directory above it the right to \
             search it"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{why} ({error})"))
}

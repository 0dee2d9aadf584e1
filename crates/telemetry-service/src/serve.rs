//! Runs the server until the caller's stop completes.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// The default address: loopback only, since the answers describe this process.
pub const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 5210);

/// Serves `app` on `listener` until `stop` completes, then waits up to `grace` for requests that are being answered.
/// Requests that still run then are aborted.
///
/// # Errors
///
/// If the server cannot go on; errors of single connections end these alone.
///
/// # Cancel safety
///
/// Dropping the future leaves the server running in its task; complete `stop` instead.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    stop: impl Future<Output = ()> + Send + 'static,
    grace: Duration,
) -> io::Result<()> {
    let (stopping, stopped) = oneshot::channel::<()>();
    let stop = async move {
        stop.await;
        drop(stopping);
    };
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let server = tokio::spawn(axum::serve(listener, app).with_graceful_shutdown(stop).into_future());
    // Either `stop` completed or the server dropped it because it ended by itself: both close the channel.
    let _ = stopped.await;
    let abort = server.abort_handle();
    match tokio::time::timeout(grace, server).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(io::Error::other(error)),
        Err(_) => {
            abort.abort();
            Ok(())
        }
    }
}

//! Bodies of requests, within limits of size and time.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, StatusCode, header};

use crate::problem::Problem;

/// Bytes of a body, at most.
const MAX_BYTES: usize = 64 << 10;

/// The longest time from the head of a request to the end of its body.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads the body of a request. A body in a coding such as gzip is refused: none is decompressed here.
///
/// # Errors
/// Too large, too slow, or coded. A body that says its size is refused before it is read.
pub(crate) async fn read(headers: &HeaderMap, body: Body, path: &str) -> Result<Vec<u8>, Problem> {
    let too_large = || {
        let detail = format!("the body is larger than {MAX_BYTES} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail, path)
    };
    if headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        let detail = "Content-Encoding is not accepted: send the body as it is";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail, path));
    }
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > MAX_BYTES as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(PATIENCE, to_bytes(body, MAX_BYTES)).await {
        Ok(Ok(bytes)) => Ok(bytes.to_vec()),
        Ok(Err(error)) if is_too_large(&error) => Err(too_large()),
        // The client has broken off, or its chunks are no HTTP.
        Ok(Err(error)) => Err(Problem::new(StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}"), path)),
        Err(_) => {
            let detail = format!("the body has not arrived within {} s", PATIENCE.as_secs());
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail, path))
        }
    }
}

fn is_too_large(error: &axum::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Accepts a request without a body alone.
///
/// # Errors
/// As [`read`], and if the body has content.
pub(crate) async fn none(headers: &HeaderMap, body: Body, path: &str) -> Result<(), Problem> {
    let body = read(headers, body, path).await?;
    if body.trim_ascii().is_empty() {
        return Ok(());
    }
    Err(Problem::new(StatusCode::BAD_REQUEST, "this takes no body; its parameters stand in the target", path))
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;
    use futures_util::{StreamExt as _, stream};

    use super::*;

    /// The status with which a body is refused that arrives in these parts, one a second.
    fn refused(parts: usize, bytes: usize) -> Option<StatusCode> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let parts = stream::iter(0..parts).then(move |_| async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok::<_, std::io::Error>(vec![b'x'; bytes])
            });
            let read = read(&HeaderMap::new(), Body::from_stream(parts), "/x").await;
            read.err().map(|problem| problem.into_response().status())
        })
    }

    #[test]
    fn a_body_has_one_deadline_and_one_limit() {
        assert_eq!(refused(9, 1), None);
        assert_eq!(refused(60, 1), Some(StatusCode::REQUEST_TIMEOUT));
        assert_eq!(refused(2, MAX_BYTES / 2), None);
        assert_eq!(refused(3, MAX_BYTES / 2), Some(StatusCode::PAYLOAD_TOO_LARGE));
    }
}

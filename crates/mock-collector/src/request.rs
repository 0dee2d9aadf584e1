//! From the bytes of a request to its answer: the rules of the real Collector, then the script.

use std::io::Read;

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::HeaderMap;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;

use crate::behavior::{Action, Answer, Behavior, End};
use crate::receipts::{Protocol, Request, SpanIds};
use crate::shared::Shared;

/// The answer to a request, or its lack.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Success with this `ExportTraceServiceResponse`.
    Success(Bytes),
    Answer(Answer),
    Silence,
    End(End),
}

/// A request that was read to its end and decompressed.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) protocol: Protocol,
    pub(crate) headers: HeaderMap,
    pub(crate) wire_bytes: usize,
    pub(crate) body: Bytes,
}

/// Decides about a request and stores its receipts.
pub(crate) async fn judge(shared: &Shared, incoming: Incoming) -> Verdict {
    let behavior = shared.script.lock().for_request();
    let ids = decode(&incoming.body);
    let taken = match (&behavior.action, &ids) {
        (_, Err(_)) => &[][..],
        (Action::Accept, Ok(ids)) => ids,
        (Action::Reject { spans, .. }, Ok(ids)) => {
            &ids[..ids.len().saturating_sub(usize::try_from(*spans).unwrap_or(usize::MAX))]
        }
        (_, Ok(ids)) if behavior.store => ids,
        _ => &[],
    };
    let malformed = ids.as_ref().err().filter(|_| matches!(behavior.action, Action::Accept | Action::Reject { .. }));
    let recorded = shared.take(incoming.keepable(), taken, malformed.is_some());
    if behavior.delay_ms > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(behavior.delay_ms)).await;
    }
    if let Err(error) = recorded {
        return Verdict::Answer(Answer::grpc(13).with_message(format!("receipts could not be recorded: {error}")));
    }
    match malformed {
        Some(fault) => Verdict::Answer(malformed_answer(incoming.protocol, fault)),
        None => verdict(behavior),
    }
}

/// Counts a request that breaks the collector's own rules: it is refused before the script is asked.
pub(crate) fn refuse(shared: &Shared, answer: Answer) -> Verdict {
    shared.change(|book| {
        book.received.requests += 1;
        book.received.refused += 1;
    });
    Verdict::Answer(answer)
}

impl Incoming {
    fn keepable(&self) -> Request {
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = self.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
        Request { protocol: self.protocol, headers, wire_bytes: self.wire_bytes, body: self.body.clone() }
    }
}

fn verdict(behavior: Behavior) -> Verdict {
    match behavior.action {
        Action::Accept => Verdict::Success(success(0, String::new())),
        Action::Reject { spans, message } => Verdict::Success(success(spans, message)),
        Action::Answer(answer) => Verdict::Answer(answer),
        Action::End(end) => Verdict::End(end),
        Action::NeverRead | Action::NeverAnswer => Verdict::Silence,
    }
}

/// The Collector sends the partial success in every answer, empty where all is well.
pub(crate) fn success(rejected: u64, error_message: String) -> Bytes {
    let rejected_spans = i64::try_from(rejected).unwrap_or(i64::MAX);
    let partial_success = Some(ExportTracePartialSuccess { rejected_spans, error_message });
    ExportTraceServiceResponse { partial_success }.encode_to_vec().into()
}

fn malformed_answer(protocol: Protocol, fault: &str) -> Answer {
    match protocol {
        Protocol::Grpc => Answer::grpc(13).with_message(format!("grpc: error unmarshalling request: {fault}")),
        Protocol::Http => Answer::http(400).with_message(fault),
    }
}

/// The ids of all spans in the order of the request, or the Collector's message about bytes that are none. Read by
/// prost and not by `otlp-payload`: a receiver that shared the sender's code would share its errors.
fn decode(body: &[u8]) -> Result<Vec<SpanIds>, String> {
    let request = ExportTraceServiceRequest::decode(body).map_err(|error| error.to_string())?;
    let scopes = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
    scopes.flat_map(|scope| &scope.spans).map(|span| Ok((id(&span.trace_id)?, id(&span.span_id)?))).collect()
}

fn id<const N: usize>(bytes: &[u8]) -> Result<[u8; N], String> {
    match bytes.len() {
        0 => Ok([0; N]),
        length => bytes.try_into().map_err(|_| format!("an id of {length} bytes where {N} are due")),
    }
}

/// Why a compressed body was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum UnpackError {
    TooLarge,
    Corrupt(String),
}

/// Decompresses to at most `limit` bytes; a bomb is stopped there. None for a coding that is not supported.
pub(crate) fn unpack(coding: &[u8], bytes: &[u8], limit: usize) -> Option<Result<Bytes, UnpackError>> {
    let room = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let mut body = Vec::new();
    let read = match coding {
        b"gzip" => GzDecoder::new(bytes).take(room).read_to_end(&mut body),
        b"zstd" => zstd::stream::Decoder::new(bytes).and_then(|decoder| decoder.take(room).read_to_end(&mut body)),
        _ => return None,
    };
    Some(match read {
        Err(error) => Err(UnpackError::Corrupt(error.to_string())),
        Ok(_) if body.len() > limit => Err(UnpackError::TooLarge),
        Ok(_) => Ok(body.into()),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn success_is_what_the_collector_sends() {
        assert_eq!(&success(0, String::new())[..], [0x0a, 0x00]);
    }

    #[test]
    fn ids_of_a_wrong_length_are_a_fault_and_empty_ones_are_not() {
        assert_eq!(id::<8>(&[]), Ok([0; 8]));
        assert_eq!(id::<8>(&[1; 8]), Ok([1; 8]));
        assert!(id::<16>(&[1; 3]).unwrap_err().contains("3 bytes"));
    }

    #[test]
    fn each_coding_stops_at_its_limit() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&[0; 100_000]).expect("in memory");
        let zstd = zstd::stream::encode_all(&[0; 100_000][..], 1).expect("in memory");
        for (coding, packed) in [(b"gzip", gzip.finish().expect("in memory")), (b"zstd", zstd)] {
            let open = |bytes: &[u8], limit| unpack(coding, bytes, limit).expect("a known coding");
            assert_eq!(open(&packed, 99_999), Err(UnpackError::TooLarge));
            assert_eq!(open(&packed, 100_000).expect("fits").len(), 100_000);
            assert!(matches!(open(&packed[..packed.len() / 2], 100_000), Err(UnpackError::Corrupt(_))));
            assert_eq!(open(&packed, usize::MAX).expect("no limit").len(), 100_000);
        }
        assert_eq!(unpack(b"br", b"", 1), None);
    }
}

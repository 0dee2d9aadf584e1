//! The largest answer that is read, as it comes and after decompression.

use bytes::Bytes;
use otlp_transport::{Config, ConfigBuilder, Outcome, Protocol, connect};

use crate::support::*;

/// The smallest limit that is accepted.
const LIMIT: usize = 1 << 10;

/// An acknowledgement of exactly so many bytes, with an unknown field that servers may add.
fn acknowledgement(bytes: usize) -> Vec<u8> {
    let framing = if bytes < 1 << 14 { 3 } else { 5 };
    let whole = field(15, &vec![0; bytes - framing]);
    assert_eq!(whole.len(), bytes);
    whole
}

/// The codings of an answer.
const CODINGS: [Option<&str>; 3] = [None, Some("gzip"), Some("zstd")];

fn coded(message: Vec<u8>, coding: Option<&str>) -> Vec<u8> {
    match coding {
        Some("gzip") => gzip(&message),
        Some(_) => zstd::stream::encode_all(&message[..], 1).expect("to a Vec"),
        None => message,
    }
}

/// The outcome of a call that a peer of this protocol answers so, in this coding.
async fn outcome(protocol: Protocol, message: &[u8], coding: Option<&'static str>, limit: Option<usize>) -> Outcome {
    let (listener, address) = listen().await;
    if protocol == Protocol::Grpc {
        let body = frame(u8::from(coding.is_some()), message);
        serve_grpc(listener, move |_| {
            let Grpc::Answer { status, mut headers, body, trailers } =
                grpc_answer(Some(body.clone()), vec![("grpc-status", "0".to_owned())])
            else {
                unreachable!("an answer")
            };
            headers.extend(coding.map(|coding| ("grpc-encoding", coding.to_owned())));
            Grpc::Answer { status, headers, body, trailers }
        });
    } else {
        let mut fields = vec![("content-type", "application/x-protobuf")];
        fields.extend(coding.map(|coding| ("content-encoding", coding)));
        let body = Bytes::copy_from_slice(message);
        serve_raw(listener, move |_| Raw::Answer(http_answer(200, &fields, &body)));
    }
    let config = config(protocol, address);
    let config = limit.into_iter().fold(config, ConfigBuilder::with_max_response_bytes);
    connect(config.build().expect("valid")).expect("valid").send(&payload()).await
}

#[tokio::test]
async fn an_acknowledgement_of_the_limit_is_read_and_one_byte_more_is_not() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        for (limit, default) in [(LIMIT, false), (4 << 20, true)] {
            let given = (!default).then_some(limit);
            for (bytes, expected) in [(limit, "delivered, 0 rejected"), (limit + 1, "acknowledged: unexpected")] {
                for coding in CODINGS {
                    let message = coded(acknowledgement(bytes), coding);
                    let outcome = outcome(protocol, &message, coding, given).await;
                    assert_eq!(summary(&outcome), expected, "{protocol}, {bytes} bytes, {coding:?}");
                    if bytes > limit {
                        let cause = outcome.cause().expect("unreadable").to_string();
                        assert!(cause.contains(&format!("more than {limit} bytes")), "{cause}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_limit_out_of_its_range_is_an_error_with_the_range() {
    assert_eq!(Config::builder().build().expect("valid").max_response_bytes(), 4 << 20);
    for bytes in [LIMIT, 64 << 20] {
        let config = Config::builder().with_max_response_bytes(bytes).build().expect("valid");
        assert_eq!(config.max_response_bytes(), bytes);
    }
    for bytes in [0, LIMIT - 1, (64 << 20) + 1, usize::MAX] {
        let error = Config::builder().with_max_response_bytes(bytes).build().expect_err("out of range").to_string();
        let expected = format!("with_max_response_bytes of {bytes}: 1024 to 67108864 bytes is accepted");
        assert_eq!(error, expected);
    }
}

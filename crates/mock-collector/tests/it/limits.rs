//! The rules of the real Collector: sizes, forms, paths.

use mock_collector::{MockCollector, Received};
use prost::Message;
use tonic::Code;
use tonic::codec::CompressionEncoding;

use crate::client::{EXPORT, Http, frame, gzip, h2_call, request, request_of, tonic_client};

#[tokio::test]
async fn a_grpc_message_over_the_limit_is_resource_exhausted_with_the_collectors_text() {
    let collector = MockCollector::start().expect("starts");
    let mut client = tonic_client(&collector).await;
    client.export(request_of(4 << 20)).await.expect("4 MiB fit");
    let refused = client.export(request_of(5_243_070)).await.expect_err("too large");
    let text = "grpc: received message larger than max (5243070 vs. 4194304)";
    assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, text));
    let mut client = client.send_compressed(CompressionEncoding::Gzip);
    let refused = client.export(request_of((4 << 20) + 1)).await.expect_err("too large after decompression");
    let text = "grpc: received message after decompression larger than max 4194304";
    assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, text));
    client.export(request([7])).await.expect("the connection lives on");
    let Received { spans, requests, refused, .. } = collector.received();
    assert_eq!((spans, requests, refused), (2, 4, 2));
}

#[test]
fn an_http_body_over_the_limit_is_a_400_that_says_so() {
    let collector = MockCollector::builder().with_http_max_bytes(1000).start().expect("starts");
    let mut http = Http::connect(&collector);
    assert_eq!(http.post(&request_of(1000).encode_to_vec()).expect("an answer").status, 200);
    let headers = "content-type: application/x-protobuf\r\ncontent-encoding: gzip\r\n";
    let (plain, packed) = (request_of(1001).encode_to_vec(), gzip(&request_of(5000).encode_to_vec()));
    http.send("POST /v1/traces", "content-type: application/x-protobuf\r\n", &plain).expect("sent");
    http.send("POST /v1/traces", headers, &packed).expect("sent");
    for _ in 0..2 {
        let answer = http.answer().expect("an answer");
        let expected = [&[0x08, 3, 0x12, 28][..], b"http: request body too large"].concat(); // google.rpc.Status
        assert_eq!((answer.status, answer.body), (400, expected));
    }
    assert_eq!(collector.received().refused, 2);
}

#[tokio::test]
async fn a_malformed_message_is_refused_as_the_collector_does() {
    let collector = MockCollector::start().expect("starts");
    let mut short_id = request([1]);
    short_id.resource_spans[0].scope_spans[0].spans[0].trace_id = vec![1; 3];
    let refused = tonic_client(&collector).await.export(short_id.clone()).await.expect_err("3 bytes are no trace id");
    assert_eq!(refused.code(), Code::Internal);
    assert!(refused.message().starts_with("grpc: error unmarshalling request: "), "{refused:?}");
    let answer = h2_call(&collector, EXPORT, &[], frame(0, b"\xff\xff\xff\xff")).await;
    assert_eq!(answer.response.expect("an answer").headers()["grpc-status"], "13");

    let mut http = Http::connect(&collector);
    for body in [short_id.encode_to_vec(), b"\xff\xff\xff\xff".to_vec()] {
        let answer = http.post(&body).expect("an answer");
        assert_eq!((answer.status, &answer.body[..2]), (400, &[0x08, 3][..]));
    }
    assert_eq!(http.post(&request([1]).encode_to_vec()).expect("the connection lives on").status, 200);
    assert_eq!(collector.received().refused, 4);
}

#[tokio::test]
async fn what_is_no_export_over_grpc_is_refused() {
    let collector = MockCollector::start().expect("starts");
    let good = request([1]).encode_to_vec();
    let torn = frame(0, &good)[..9].to_vec();
    let two = [frame(0, &good), frame(0, &good)].concat();
    let cases = [
        ("/some.other.Service/Call", "identity", frame(0, &good), "12"),
        (EXPORT, "br", frame(1, &good), "12"),
        (EXPORT, "gzip", frame(1, &good), "13"),
        (EXPORT, "identity", frame(9, &good), "13"),
        (EXPORT, "identity", torn, "13"),
        (EXPORT, "identity", two, "13"),
        (EXPORT, "identity", Vec::new(), "13"),
    ];
    for (path, encoding, body, code) in cases {
        let answer = h2_call(&collector, path, &[("grpc-encoding", encoding)], body).await.response.expect("an answer");
        assert_eq!(answer.headers()["grpc-status"], code, "{path} {encoding}");
    }
    let Received { spans, requests, refused, .. } = collector.received();
    assert_eq!((spans, requests, refused), (0, 7, 7));
}

#[test]
fn what_is_no_export_over_http_is_refused() {
    let collector = MockCollector::start().expect("starts");
    let mut http = Http::connect(&collector);
    let mut status = |line: &str, headers: &str| {
        http.send(line, headers, b"\x0a\x00").expect("sent");
        http.answer().expect("an answer").status
    };
    assert_eq!(status("GET /v1/traces", ""), 405);
    assert_eq!(status("POST /v1/metrics", "content-type: application/x-protobuf\r\n"), 404);
    assert_eq!(status("POST /v1/traces", "content-type: application/json\r\n"), 415);
    assert_eq!(status("POST /v1/traces", ""), 415);
    let brotli = "content-type: application/x-protobuf\r\ncontent-encoding: br\r\n";
    assert_eq!(status("POST /v1/traces", brotli), 400);
    let gzip = "content-type: application/x-protobuf\r\ncontent-encoding: gzip\r\n";
    assert_eq!(status("POST /v1/traces", gzip), 400);
    assert_eq!(collector.received().refused, 6);
}

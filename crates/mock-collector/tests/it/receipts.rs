//! Taking spans: counts, ids, kept requests, records.

use std::collections::HashSet;

use mock_collector::{MockCollector, Protocol, Received, read_record};
use prost::Message;
use tonic::codec::CompressionEncoding;

use crate::client::{Http, gzip, ids, request, tonic_client};

#[tokio::test]
async fn spans_over_grpc_are_counted_by_id_inside_a_runtime() {
    let collector = MockCollector::start().expect("starts inside a runtime");
    let mut client = tonic_client(&collector).await;
    let answer = client.export(request([1, 2, 3])).await.expect("taken").into_inner();
    let partial = answer.partial_success.expect("present, as the Collector sends it");
    assert_eq!((partial.rejected_spans, partial.error_message.as_str()), (0, ""));
    client.export(request([3, 4])).await.expect("taken");
    let expected = Received { spans: 5, unique: 4, duplicates: 1, requests: 2, connections: 1, ..Received::default() };
    assert_eq!(collector.received(), expected);
    let seen: HashSet<_> = collector.span_ids().into_iter().collect();
    assert_eq!(seen, HashSet::from([ids(1), ids(2), ids(3), ids(4)]));
    let (trace_id, span_id) = ids(4);
    assert!(collector.contains(trace_id, span_id) && !collector.contains(trace_id, [5; 8]));
}

#[test]
fn spans_over_http_are_counted_by_id_without_a_runtime() {
    let collector = MockCollector::start().expect("starts");
    let mut http = Http::connect(&collector);
    let answer = http.post(&request([1, 2]).encode_to_vec()).expect("an answer");
    assert_eq!((answer.status, &answer.body[..]), (200, &[0x0a, 0x00][..]));
    assert_eq!(answer.header("content-type"), Some("application/x-protobuf"));
    assert_eq!(http.post(&[]).expect("the same connection").status, 200);
    let expected = Received { spans: 2, unique: 2, requests: 2, connections: 1, ..Received::default() };
    assert_eq!(collector.received(), expected);
}

#[tokio::test]
async fn gzip_is_read_and_kept_requests_show_it() {
    let collector = MockCollector::builder().with_kept_requests(2).start().expect("starts");
    let mut client = tonic_client(&collector).await.send_compressed(CompressionEncoding::Gzip);
    let mut metadata = tonic::Request::new(request([1]));
    metadata.metadata_mut().insert("x-token", "abc".parse().expect("ASCII"));
    client.export(request([9])).await.expect("taken, and dropped from the kept ones");
    client.export(metadata).await.expect("taken");
    let body = request([2; 200]).encode_to_vec();
    let mut http = Http::connect(&collector);
    let headers = "Content-Type: application/x-protobuf; charset=utf-8\r\ncontent-encoding: gzip\r\nX-Token: def\r\n";
    http.send("POST /v1/traces", headers, &gzip(&body)).expect("sent");
    assert_eq!(http.answer().expect("an answer").status, 200);

    let kept = collector.requests();
    assert_eq!(kept.iter().map(|request| request.protocol).collect::<Vec<_>>(), [Protocol::Grpc, Protocol::Http]);
    assert_eq!(kept[0].body, request([1]).encode_to_vec());
    assert_eq!(kept[1].body, body);
    assert!(kept[1].wire_bytes < body.len());
    assert_eq!((kept[0].header("grpc-encoding"), kept[1].header("content-encoding")), (Some("gzip"), Some("gzip")));
    assert_eq!((kept[0].header("x-token"), kept[1].header("x-token")), (Some("abc"), Some("def")));
}

#[test]
fn the_record_holds_what_was_taken_before_the_answer_came() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("record");
    let collector = MockCollector::builder().with_record(&path).with_id_limit(1).start().expect("starts");
    let mut http = Http::connect(&collector);
    for numbers in [vec![1, 2], vec![], vec![2]] {
        http.post(&request(numbers).encode_to_vec()).expect("an answer");
    }
    assert_eq!(read_record(&path).expect("readable while it runs"), [ids(1), ids(2), ids(2)]);
    let Received { spans, unique, untracked, .. } = collector.received();
    assert_eq!((spans, unique, untracked), (3, 1, 2));
}

#[test]
fn a_record_that_cannot_be_written_takes_nothing_and_says_so() {
    let collector = MockCollector::builder().with_record("/dev/full").start().expect("opens");
    let answer = Http::connect(&collector).post(&request([1]).encode_to_vec()).expect("an answer");
    assert_eq!(answer.status, 500);
    assert!(String::from_utf8_lossy(&answer.body).contains("receipts could not be recorded"));
    assert_eq!(collector.received().spans, 0);
    assert!(MockCollector::builder().with_record("/no/such/directory/record").start().is_err());
}

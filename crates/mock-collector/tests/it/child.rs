//! The program as a child process.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use mock_collector::{Answer, Behavior, ChildCollector, read_record};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;

use crate::client::{NEVER, SOON, ids, request};

const PROGRAM: &str = env!("CARGO_BIN_EXE_mock-collector");

fn refused(endpoint: &str) -> bool {
    let connected = TcpStream::connect(endpoint.trim_start_matches("http://"));
    connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

#[tokio::test]
async fn a_killed_child_leaves_its_receipts_and_comes_back_on_its_ports() {
    let dir = tempfile::tempdir().expect("temp dir");
    let record = dir.path().join("record");
    let mut collector = ChildCollector::start(PROGRAM, ["--record".as_ref(), record.as_os_str()]).expect("starts");
    let (grpc, http) = (collector.grpc_endpoint(), collector.http_endpoint());
    let mut client = TraceServiceClient::connect(grpc.clone()).await.expect("listens");
    client.export(request([1, 2])).await.expect("taken");
    collector.kill();
    assert!(refused(&grpc) && refused(&http));
    assert!(collector.received().is_err() && collector.id().is_none());
    collector.restart().expect("starts again");
    assert_eq!((collector.grpc_endpoint(), collector.http_endpoint()), (grpc, http));
    while client.export(request([2, 3])).await.is_err() {} // the client may notice the end only with its next call
    assert!(collector.received().expect("alive").spans >= 2);
    let seen = read_record(&record).expect("readable");
    assert_eq!(seen[..4], [ids(1), ids(2), ids(2), ids(3)]);
}

#[tokio::test]
async fn a_paused_child_accepts_and_answers_when_it_goes_on() {
    let mut collector = ChildCollector::start(PROGRAM, [""; 0]).expect("starts");
    collector.pause().expect("stands still");
    assert_eq!(collector.received().expect_err("paused").kind(), ErrorKind::WouldBlock);
    assert!(!refused(&collector.http_endpoint()), "the kernel goes on accepting");
    let client = TraceServiceClient::connect(collector.grpc_endpoint());
    let mut client = client.await.expect("the kernel goes on accepting");
    assert!(tokio::time::timeout(NEVER, client.export(request([1]))).await.is_err());
    collector.resume().expect("goes on");
    client.export(request([2])).await.expect("taken");
    assert!(collector.wait_for_unique(1, SOON).expect("alive"));
    collector.pause().expect("stands still");
    collector.kill(); // also while it stands still
    assert!(refused(&collector.http_endpoint()));
}

#[tokio::test]
async fn a_child_takes_the_same_commands() {
    let mut collector = ChildCollector::start(PROGRAM, ["--grpc-max-bytes", "100"]).expect("starts");
    let mut client = TraceServiceClient::connect(collector.grpc_endpoint()).await.expect("listens");
    collector.set(Behavior::answer(Answer::grpc(3).with_message("never"))).expect("alive");
    collector.set_next(1, Behavior::answer(Answer::grpc(14).with_message("once"))).expect("alive");
    for expected in ["once", "never", "never"] {
        assert_eq!(client.export(request([1])).await.expect_err("an error").message(), expected);
    }
    let refusal = client.export(request(0..50)).await.expect_err("too large");
    assert!(refusal.message().contains("larger than max"), "{refusal:?}");
    collector.stop().expect("alive");
    assert!(refused(&collector.grpc_endpoint()));
    collector.start_again().expect("alive");
    assert!(!refused(&collector.grpc_endpoint()));
    assert_eq!(collector.received().expect("alive").requests, 4);
}

#[test]
fn the_program_ends_with_its_standard_input() {
    let mut child =
        Command::new(PROGRAM).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program was built");
    let mut input = child.stdin.take().expect("piped");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert!(lines.next().expect("a line").expect("text").contains(r#""grpc":"http://127.0.0.1:"#));
    input.write_all(b"{\"command\": \"received\"}\n").expect("alive");
    assert!(lines.next().expect("a line").expect("text").contains(r#""spans":0"#));
    drop(input);
    assert!(child.wait().expect("ends").success());
    assert!(lines.next().is_none());
}

#[test]
fn bad_arguments_end_the_program_with_its_usage() {
    let output = Command::new(PROGRAM).arg("--speed").output().expect("the program was built");
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("unknown argument --speed") && text.contains("usage:"), "{text}");
    assert!(Command::new(PROGRAM).arg("--help").output().expect("runs").status.success());
}

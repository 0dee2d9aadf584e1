//! Stopping, starting again, ending connections, dropping.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};

use mock_collector::{End, MockCollector};
use prost::Message;

use crate::client::{Http, SOON, request, tonic_client};

fn addresses(collector: &MockCollector) -> [SocketAddr; 2] {
    let address = |endpoint: String| endpoint.trim_start_matches("http://").parse().expect("an address");
    [address(collector.grpc_endpoint()), address(collector.http_endpoint())]
}

#[test]
fn a_stopped_collector_refuses_and_keeps_its_ports() {
    let collector = MockCollector::start().expect("starts");
    let mut live = Http::connect(&collector);
    assert_eq!(live.post(&request([1]).encode_to_vec()).expect("an answer").status, 200);
    for round in 0..3 {
        collector.stop();
        collector.stop(); // without effect
        assert!(!collector.is_running());
        for address in addresses(&collector) {
            let refused = TcpStream::connect(address).expect_err("nobody listens").kind();
            assert_eq!(refused, ErrorKind::ConnectionRefused, "round {round}");
            let taken = TcpListener::bind(address).expect_err("it is ours").kind();
            assert_eq!(taken, ErrorKind::AddrInUse, "round {round}");
        }
        collector.start_again().expect("the same ports");
        collector.start_again().expect("without effect");
        assert_eq!(Http::connect(&collector).post(&request([2]).encode_to_vec()).expect("an answer").status, 200);
    }
    live.post(&request([1]).encode_to_vec()).expect_err("live connections were dropped");
    let received = collector.received();
    assert_eq!((received.unique, received.duplicates), (2, 2));
}

#[tokio::test]
async fn a_grpc_client_reconnects_after_a_restart() {
    let collector = MockCollector::start().expect("starts");
    let mut client = tonic_client(&collector).await;
    client.export(request([1])).await.expect("taken");
    collector.stop();
    client.export(request([2])).await.expect_err("refused");
    collector.start_again().expect("the same ports");
    client.export(request([2])).await.expect("taken");
    assert_eq!(collector.received().unique, 2);
}

#[test]
fn a_request_in_progress_ends_with_the_stop() {
    let collector = MockCollector::start().expect("starts");
    let mut http = Http::connect(&collector);
    http.send("POST /v1/traces", "content-type: application/x-protobuf\r\ntransfer-encoding: x\r\n", b"")
        .expect("sent");
    let mut waiting = Http::connect(&collector);
    collector.set(mock_collector::Behavior::never_answer());
    waiting.send("POST /v1/traces", "content-type: application/x-protobuf\r\n", b"").expect("sent");
    assert!(collector.wait_until(SOON, |received| received.requests == 1));
    collector.stop();
    waiting.answer().expect_err("the connection ended");
}

#[test]
fn all_connections_can_be_ended_while_they_idle() {
    let collector = MockCollector::start().expect("starts");
    for (end, reset) in [(End::Fin, false), (End::Rst, true)] {
        let mut connections = [Http::connect(&collector), Http::connect(&collector)];
        for http in &mut connections {
            assert_eq!(http.post(&request([1]).encode_to_vec()).expect("an answer").status, 200);
        }
        collector.end_connections(end);
        for http in &mut connections {
            assert_eq!(http.rest().err().map(|error| error.kind()), reset.then_some(ErrorKind::ConnectionReset));
        }
    }
}

#[tokio::test]
async fn idle_grpc_connections_get_a_goaway_and_the_client_reconnects() {
    let collector = MockCollector::start().expect("starts");
    let stream = tokio::net::TcpStream::connect(addresses(&collector)[0]).await.expect("listens");
    let (_sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let ended = tokio::spawn(connection);
    let mut client = tonic_client(&collector).await;
    client.export(request([1])).await.expect("taken");
    // The bare connection's handshake is over on our side too once a later connection was served.
    collector.end_connections(End::GoAway(11));
    let error = tokio::time::timeout(SOON, ended).await.expect("soon").expect("no panic").expect_err("a GOAWAY");
    assert_eq!((error.is_go_away(), error.reason()), (true, Some(h2::Reason::ENHANCE_YOUR_CALM)));
    while client.export(request([2])).await.is_err() {} // the client may notice only with its next call
    assert!(collector.received().connections >= 3);
}

#[tokio::test]
async fn waiting_for_receipts_in_a_runtime_blocks_nobody() {
    let collector = MockCollector::start().expect("starts");
    let mut client = tonic_client(&collector).await;
    let waiting = collector.received_when(|received| received.unique == 3);
    let sending = async {
        for n in 1..=3 {
            client.export(request([n])).await.expect("taken");
        }
    };
    let both = async { tokio::join!(waiting, sending) };
    let (received, ()) = tokio::time::timeout(SOON, both).await.expect("soon");
    assert_eq!(received.unique, 3);
}

#[test]
fn it_starts_and_drops_in_every_kind_of_runtime_and_frees_its_ports() {
    let ports = || {
        let collector = MockCollector::start().expect("starts");
        collector.stop();
        collector.start_again().expect("starts again");
        addresses(&collector)
    };
    let multi = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without I/O");
    for [grpc, http] in [ports(), multi.block_on(async { ports() })] {
        drop(TcpListener::bind(grpc).expect("free again"));
        drop(TcpListener::bind(http).expect("free again"));
    }
}

#[test]
fn a_port_that_is_taken_is_an_error_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = taken.local_addr().expect("bound");
    let error = MockCollector::builder().with_http_port(address.port()).start().expect_err("taken");
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

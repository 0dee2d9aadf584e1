//! Several replicas behind one address: which connection a call uses, and the calls that no replica processed.

use std::sync::Arc;
use std::task::Poll;

use h2::Reason;
use http::StatusCode;
use otlp_transport::{Protocol, Transport, connect};
use tokio::sync::Notify;

use crate::support::*;

const BOTH: [Protocol; 2] = [Protocol::Grpc, Protocol::HttpProtobuf];
const DELIVERED: &str = "delivered, 0 rejected";

fn transport(protocol: Protocol, server: &Apart) -> Arc<dyn Transport> {
    connect(config(protocol, server.address).build().expect("valid")).expect("valid").into()
}

/// The runtime of an exporter's net thread.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// The connection of each request that the server has read.
fn connections(server: &Apart) -> Vec<usize> {
    server.log.lock().expect("not poisoned").iter().map(|seen| seen.connection).collect()
}

/// The first replica refuses, the second delivers.
fn two_replicas(protocol: Protocol) -> Apart {
    Apart::start(None, move |listener| match protocol {
        Protocol::Grpc => {
            let refused = || grpc_answer(None, vec![("grpc-status", "16".to_owned())]);
            serve_grpc(listener, move |request| if request < 2 { refused() } else { grpc_ok() })
        }
        _ => serve_raw(listener, |connection| {
            let status = if connection == 0 { StatusCode::UNAUTHORIZED } else { StatusCode::OK };
            Raw::Answer(http_answer(status.as_u16(), &[], b""))
        }),
    })
}

#[test]
fn reconnect_leads_the_next_call_to_another_replica() {
    for protocol in BOTH {
        let server = two_replicas(protocol);
        let (transport, runtime) = (transport(protocol, &server), runtime());
        let send = || summary(&runtime.block_on(transport.send(&payload())));
        // Before the first call there is no connection to give up.
        transport.reconnect();
        for _ in 0..2 {
            let refused = send();
            assert!(refused.starts_with("sender"), "{protocol}: {refused}");
        }
        transport.reconnect();
        for _ in 0..2 {
            assert_eq!(send(), DELIVERED, "{protocol}");
        }
        assert_eq!(connections(&server), [0, 0, 1, 1], "{protocol}");
    }
}

#[test]
fn reconnect_leaves_calls_that_are_out_on_their_connection() {
    for protocol in BOTH {
        let gate = Arc::new(Notify::new());
        let gates = Arc::clone(&gate);
        let server = Apart::start(None, move |listener| match protocol {
            Protocol::Grpc => {
                serve_grpc(listener, move |n| if n == 0 { Grpc::Gate(Arc::clone(&gates)) } else { grpc_ok() })
            }
            _ => serve_raw(listener, move |connection| match http_answer(200, &[], b"") {
                answer if connection == 0 => Raw::Gate(Arc::clone(&gates), answer),
                answer => Raw::Answer(answer),
            }),
        });
        let (transport, runtime) = (transport(protocol, &server), runtime());
        let send = || {
            let transport = Arc::clone(&transport);
            async move { summary(&transport.send(&payload()).await) }
        };
        runtime.block_on(async {
            let out = tokio::spawn(send());
            while connections(&server).is_empty() {
                tokio::task::yield_now().await;
            }
            transport.reconnect();
            assert_eq!(send().await, DELIVERED, "{protocol}");
            gate.notify_one();
            assert_eq!(out.await.expect("no panic"), DELIVERED, "{protocol}");
            // The connection of the call that was out is not the next one's, although it ended last.
            assert_eq!(send().await, DELIVERED, "{protocol}");
        });
        assert_eq!(connections(&server), [0, 1, 1], "{protocol}");
    }
}

#[test]
fn reconnect_gives_up_a_connection_that_is_being_made() {
    for protocol in BOTH {
        let server = Apart::start(None, move |listener| match protocol {
            Protocol::Grpc => serve_grpc(listener, |_| grpc_ok()),
            _ => serve_raw(listener, |_| Raw::Answer(http_answer(200, &[], b""))),
        });
        let (transport, runtime) = (transport(protocol, &server), runtime());
        runtime.block_on(async {
            let first = payload();
            let mut first = transport.send(&first);
            let is_done = std::future::poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx).is_ready())).await;
            assert!(!is_done, "{protocol}: connecting takes a turn of the runtime");
            transport.reconnect();
            assert_eq!(summary(&first.await), DELIVERED, "{protocol}");
            for _ in 0..2 {
                assert_eq!(summary(&transport.send(&payload()).await), DELIVERED, "{protocol}");
            }
        });
        assert_eq!(connections(&server), [0, 1, 1], "{protocol}");
    }
}

/// SETTINGS, and a GOAWAY with last stream 0.
fn goaway_below_every_stream(reason: Reason) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend(u32::from(reason).to_be_bytes());
    bytes
}

#[test]
fn a_request_that_was_not_processed_goes_out_once_more_on_a_new_connection() {
    let refuse = |requests: usize| {
        Apart::start(None, move |listener| {
            serve_grpc(listener, move |n| if n < requests { Grpc::Reset(Reason::REFUSED_STREAM) } else { grpc_ok() })
        })
    };
    let go_away =
        |peers: Vec<Raw>| Apart::start(None, move |listener| serve_grpc_behind(peers, listener, |_| grpc_ok()));
    let goaway = goaway_below_every_stream;
    for (name, server, expect, seen) in [
        ("refused", refuse(1), DELIVERED, &[0, 1][..]),
        ("refused twice", refuse(2), "retryable: broken", &[0, 1]),
        ("GOAWAY", go_away(vec![Raw::ReadThenWrite(1, goaway(Reason::NO_ERROR))]), DELIVERED, &[1]),
        ("GOAWAY: calm down", go_away(vec![Raw::ReadThenWrite(1, goaway(Reason::ENHANCE_YOUR_CALM))]), DELIVERED, &[1]),
        ("GOAWAY as greeting", go_away(vec![Raw::Greet(goaway(Reason::NO_ERROR))]), DELIVERED, &[1]),
        ("GOAWAY twice", go_away(vec![Raw::ReadThenWrite(1, goaway(Reason::NO_ERROR)); 2]), "retryable: broken", &[]),
        (
            "GOAWAY, then an end",
            go_away(vec![Raw::ReadThenWrite(1, goaway(Reason::NO_ERROR)), Raw::ReadThenClose]),
            "retryable: broken, maybe taken",
            &[],
        ),
    ] {
        let (transport, runtime) = (transport(Protocol::Grpc, &server), runtime());
        assert_eq!(summary(&runtime.block_on(transport.send(&payload()))), expect, "{name}");
        assert_eq!(connections(&server), seen, "{name}");
        assert_eq!(summary(&runtime.block_on(transport.send(&payload()))), DELIVERED, "{name}");
    }
}

/// The peer began to answer, so it has seen the request.
#[test]
fn a_stream_that_ends_behind_the_head_of_its_answer_was_processed() {
    // SETTINGS, HEADERS (":status: 200" as an index) and RST_STREAM of stream 1.
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let headers = [0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88];
    let reset = [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 7];
    let peer = Raw::ReadThenWrite(payload().bytes().len(), [&settings[..], &headers, &reset].concat());
    let server = Apart::start(None, move |listener| serve_grpc_behind(vec![peer], listener, |_| grpc_ok()));
    let (transport, runtime) = (transport(Protocol::Grpc, &server), runtime());
    let outcome = runtime.block_on(transport.send(&payload()));
    assert_eq!(summary(&outcome), "retryable: broken, maybe taken");
    assert_eq!(connections(&server), [0; 0]);
}

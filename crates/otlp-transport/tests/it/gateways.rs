//! Gateways whose servers are away: the connection of the next call.

use otlp_transport::{Protocol, connect};

use crate::support::*;

/// The answers of one connection; behind them, and on every other connection, each call is delivered.
fn gateway(protocol: Protocol, answers: &[Option<u64>]) -> Apart {
    let answers = answers.to_vec();
    Apart::start(None, move |listener| match protocol {
        Protocol::Grpc => serve_grpc(listener, move |request| match answers.get(request) {
            None => grpc_ok(),
            Some(hint) => {
                let status = rpc_status(14, "away", hint.map(|seconds| (seconds as i64, 0)));
                let details = base64(&status);
                grpc_answer(None, vec![("grpc-status", "14".to_owned()), ("grpc-status-details-bin", details)])
            }
        }),
        _ => serve_raw(listener, move |connection| {
            let away = |hint: &Option<u64>| match hint {
                None => http_answer(503, &[], b"away"),
                Some(seconds) => http_answer(503, &[("retry-after", &seconds.to_string())], b"away"),
            };
            let answers = if connection == 0 { &answers[..] } else { &[] };
            Raw::Answers(answers.iter().map(away).chain([http_answer(200, &[], b"")]).collect())
        }),
    })
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD_NO_PAD.encode(bytes)
}

/// The connections of so many calls, one after the other.
fn connections(server: &Apart, protocol: Protocol, calls: usize) -> Vec<usize> {
    let transport = connect(config(protocol, server.address).build().expect("valid")).expect("valid");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for _ in 0..calls {
        runtime.block_on(transport.send(&payload()));
    }
    server.log.lock().expect("not poisoned").iter().map(|seen| seen.connection).collect()
}

#[test]
fn a_connection_is_not_used_again_after_the_second_failure_of_its_gateway_in_a_row() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        for (answers, expected) in [
            (&[None][..], [0, 0, 0, 0, 0]),
            (&[None, None], [0, 0, 1, 1, 1]),
            // OTLP asks to keep connections alive: a server that names a time is there.
            (&[None, Some(1), None], [0, 0, 0, 0, 0]),
            (&[None, Some(1), None, None], [0, 0, 0, 0, 1]),
            (&[Some(1), Some(1), Some(1)], [0, 0, 0, 0, 0]),
        ] {
            let server = gateway(protocol, answers);
            assert_eq!(connections(&server, protocol, 5), expected, "{protocol}: {answers:?}");
        }
    }
}

#[test]
fn the_failure_of_a_proxy_in_front_of_grpc_counts_too() {
    for status in [502, 503, 504] {
        let server = Apart::start(None, move |listener| {
            let away = move || Grpc::Answer { status, headers: vec![], body: Some("away".into()), trailers: None };
            serve_grpc(listener, move |request| if request < 2 { away() } else { grpc_ok() })
        });
        assert_eq!(connections(&server, Protocol::Grpc, 4), [0, 0, 1, 1], "{status}");
    }
}

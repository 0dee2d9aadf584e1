//! Connections that follow a name to its addresses. Sockets are real; the clock is moved on between calls.

mod peer;
#[cfg(feature = "_tls")]
mod secured;
mod written;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use otlp_payload::{BatchId, Payload};

use super::Connector;
use super::addresses::{Addresses, Resolve};
use crate::config::ConfigBuilder;
use crate::{Cause, Config, GrpcTransport, HttpTransport, Outcome, Protocol, Transport};
use peer::{Peer, refusing};
pub(super) use written::Written;

const BOTH: [Protocol; 2] = [Protocol::Grpc, Protocol::HttpProtobuf];
const DELIVERED: Outcome = Outcome::Delivered { rejected: 0, message: None };

/// A name whose addresses change.
#[derive(Clone, Default)]
struct Name(Arc<Mutex<Vec<SocketAddr>>>);

impl Name {
    fn of(addresses: &[SocketAddr]) -> Self {
        let name = Self::default();
        name.moves_to(addresses);
        name
    }

    fn moves_to(&self, addresses: &[SocketAddr]) {
        *self.0.lock().expect("not poisoned") = addresses.to_vec();
    }
}

#[async_trait]
impl Resolve for Name {
    async fn addresses(&self, host: &str, _port: u16) -> io::Result<Vec<SocketAddr>> {
        assert_eq!(host, "collector.example");
        Ok(self.0.lock().expect("not poisoned").clone())
    }
}

fn transport(protocol: Protocol, name: &Name) -> Arc<dyn Transport> {
    transport_with(protocol, name, |config| config)
}

fn transport_with(
    protocol: Protocol,
    name: &Name,
    change: impl FnOnce(ConfigBuilder) -> ConfigBuilder,
) -> Arc<dyn Transport> {
    let config = Config::builder().with_protocol(protocol).with_endpoint("http://collector.example:4319");
    transport_of(protocol, name, change(config).build().expect("valid"))
}

fn transport_of(protocol: Protocol, name: &Name, config: Config) -> Arc<dyn Transport> {
    watched(protocol, name, config, Written::default())
}

fn watched(protocol: Protocol, name: &Name, config: Config, written: Written) -> Arc<dyn Transport> {
    let mut connector = Connector::new(&config);
    (connector.addresses, connector.written) = (Addresses::of(name.clone()), written);
    match protocol {
        Protocol::Grpc => Arc::new(GrpcTransport::over(connector, config)),
        Protocol::HttpProtobuf => Arc::new(HttpTransport::over(connector, config)),
    }
}

fn payload() -> Payload {
    Payload::new(BatchId { incarnation: 7, seq: 1 }, UNIX_EPOCH, 3, Bytes::from(vec![7; 2_000]))
}

/// Sends `count` payloads at once, and returns their outcomes.
async fn calls(transport: &Arc<dyn Transport>, count: usize) -> Vec<Outcome> {
    let payload = payload();
    join_all((0..count).map(|_| transport.send(&payload))).await
}

async fn advance(seconds: u64) {
    advance_by(Duration::from_secs(seconds)).await;
}

async fn advance_by(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Lets calls, peers and connections that are being made go on until each of them waits for something: they are tasks
/// of one thread, and what they write to a loopback socket is there at once.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// Eight calls at once each second; none of them fails.
async fn run(transport: &Arc<dyn Transport>, seconds: u64) {
    for second in 0..seconds {
        let outcomes = calls(transport, 8).await;
        assert!(outcomes.iter().all(|outcome| *outcome == DELIVERED), "second {second}: {outcomes:?}");
        settle().await;
        advance(1).await;
    }
}

#[tokio::test]
async fn connections_follow_a_name_without_a_failed_call() {
    for protocol in BOTH {
        let (old, new) = (Peer::healthy(protocol), Peer::healthy(protocol));
        let name = Name::of(&[old.address]);
        let transport = transport(protocol, &name);
        run(&transport, 60).await;
        let connections = old.connections();
        name.moves_to(&[new.address]);
        run(&transport, 200).await;
        assert_eq!((old.connections(), new.connections()), (connections, 0), "{protocol}: none is due");
        // Five minutes and a tenth.
        run(&transport, 75).await;
        assert_eq!((old.connections(), new.connections()), (connections, connections), "{protocol}");
        let calls = old.requests();
        run(&transport, 10).await;
        assert_eq!(old.requests(), calls, "{protocol}: calls go to the new address");
        assert_eq!(old.open(), 0, "{protocol}: the old connections are closed");
    }
}

#[tokio::test]
async fn calls_that_are_out_end_on_the_connection_that_was_replaced() {
    for protocol in BOTH {
        let (old, new) = (Peer::healthy(protocol).hold(), Peer::healthy(protocol));
        let name = Name::of(&[old.address]);
        let transport = transport_with(protocol, &name, |config| {
            config.with_connection_max_age(Duration::from_secs(20)).with_timeout(Duration::from_secs(3_600))
        });
        let send = || {
            let transport = Arc::clone(&transport);
            tokio::spawn(async move { transport.send(&payload()).await })
        };
        let first = send();
        settle().await;
        assert_eq!(old.requests(), 1, "{protocol}");
        name.moves_to(&[new.address]);
        advance(25).await;
        // Over gRPC on the old connection, over HTTP on one of its own.
        let second = send();
        settle().await;
        assert_eq!(transport.send(&payload()).await, DELIVERED, "{protocol}");
        assert!(!first.is_finished(), "{protocol}: it is out");
        old.release();
        assert_eq!(first.await.expect("no panic"), DELIVERED, "{protocol}");
        assert_eq!(second.await.expect("no panic"), DELIVERED, "{protocol}");
        assert_eq!((old.connections(), new.connections()), (1, 1), "{protocol}");
    }
}

#[tokio::test]
async fn an_old_connection_goes_on_while_no_new_one_can_be_made() {
    for protocol in BOTH {
        let (old, new) = (Peer::healthy(protocol), Peer::healthy(protocol));
        let name = Name::of(&[old.address]);
        let transport =
            transport_with(protocol, &name, |config| config.with_connection_max_age(Duration::from_secs(20)));
        run(&transport, 10).await;
        let connections = old.connections();
        let (held, dead) = refusing();
        let closing = Peer::closing();
        name.moves_to(&[dead]);
        run(&transport, 60).await;
        if protocol == Protocol::Grpc {
            // Over HTTP/1.1 a server says nothing before the first request.
            name.moves_to(&[closing.address]);
            run(&transport, 60).await;
            assert!((2..=12).contains(&closing.connections()), "{} attempts in 60 s", closing.connections());
        }
        name.moves_to(&[]);
        run(&transport, 30).await;
        assert_eq!((old.connections(), old.open()), (connections, connections), "{protocol}");
        name.moves_to(&[dead, new.address]);
        run(&transport, 12).await;
        assert_eq!(old.open(), 0, "{protocol}: the old connections are closed");
        assert_eq!(new.connections(), connections, "{protocol}");
        drop(held);
    }
}

#[tokio::test]
async fn handshakes_of_ten_minutes_with_eight_calls_at_once() {
    for (protocol, expected) in [(Protocol::Grpc, 2..=3), (Protocol::HttpProtobuf, 16..=24)] {
        let peer = Peer::healthy(protocol);
        let transport = transport(protocol, &Name::of(&[peer.address]));
        run(&transport, 600).await;
        println!("{protocol}: {} handshakes for {} calls", peer.connections(), peer.requests());
        assert_eq!(peer.requests(), 4_800);
        assert!(expected.contains(&peer.connections()), "{protocol}: {} handshakes", peer.connections());
    }
}

#[tokio::test]
async fn reconnect_leads_to_another_address_of_the_name() {
    for protocol in BOTH {
        let peers = [Peer::healthy(protocol), Peer::healthy(protocol)];
        let name = Name::of(&[peers[0].address, peers[1].address]);
        let transport = transport(protocol, &name);
        for calls in 1..=3 {
            for peer in &peers {
                assert_eq!(transport.send(&payload()).await, DELIVERED);
                assert_eq!(peer.connections(), calls, "{protocol}");
                transport.reconnect();
            }
        }
    }
}

#[tokio::test]
async fn a_connection_that_ended_without_an_answer_leads_the_next_call_to_another_address() {
    for protocol in BOTH {
        let (closing, healthy) = (Peer::closing(), Peer::healthy(protocol));
        let transport = transport(protocol, &Name::of(&[closing.address, healthy.address]));
        let first = transport.send(&payload()).await;
        assert!(matches!(first, Outcome::Retryable { cause: Cause::Broken(_), .. }), "{protocol}: {first:?}");
        assert_eq!(transport.send(&payload()).await, DELIVERED, "{protocol}");
        assert_eq!((closing.connections(), healthy.connections()), (1, 1), "{protocol}");
    }
}

#[tokio::test]
async fn an_address_that_refused_costs_the_next_connections_nothing_for_a_minute() {
    for protocol in BOTH {
        let (peer, late) = (Peer::healthy(protocol), Peer::healthy(protocol));
        let (held, dead) = refusing();
        let name = Name::of(&[dead, peer.address]);
        let transport = transport(protocol, &name);
        assert_eq!(transport.send(&payload()).await, DELIVERED);
        drop(held);
        // The address would be the first again.
        let back = Peer::healthy_at(protocol, dead);
        advance(55).await;
        assert_eq!(transport.send(&payload()).await, DELIVERED);
        assert_eq!((back.connections(), peer.connections()), (0, 2), "{protocol}");
        advance(59).await;
        name.moves_to(&[dead, late.address]);
        assert_eq!(transport.send(&payload()).await, DELIVERED);
        assert_eq!((back.connections(), late.connections()), (1, 0), "{protocol}: forgotten");
    }
}

#[tokio::test]
async fn calls_above_the_streams_of_a_peer_wait_on_one_connection() {
    for (streams, count) in [(1, 8), (3, 20)] {
        let peer = Peer::with_streams(streams);
        let transport = transport(Protocol::Grpc, &Name::of(&[peer.address]));
        for _ in 0..3 {
            let outcomes = calls(&transport, count).await;
            assert!(outcomes.iter().all(|outcome| *outcome == DELIVERED), "{outcomes:?}");
        }
        assert_eq!((peer.connections(), peer.requests()), (1, 3 * count));
        assert!(peer.at_once() <= streams as usize, "{} at once", peer.at_once());
    }
}

#[tokio::test]
async fn a_peer_that_lets_no_request_in_costs_each_call_its_time_and_no_duplicate() {
    let peer = Peer::with_streams(0);
    let name = Name::of(&[peer.address]);
    let transport = transport_with(Protocol::Grpc, &name, |config| config.with_timeout(Duration::from_millis(500)));
    for outcome in calls(&transport, 8).await {
        let Outcome::Retryable { after: None, cause, possible_duplicate: false } = &outcome else {
            panic!("{outcome:?}");
        };
        assert!(!matches!(cause, Cause::Grpc { .. } | Cause::Http { .. }), "{cause}");
    }
    assert_eq!(peer.requests(), 0);
    let healthy = Peer::healthy(Protocol::Grpc);
    name.moves_to(&[healthy.address]);
    assert_eq!(transport.send(&payload()).await, DELIVERED, "the connection was given up");
}

#[tokio::test]
async fn a_call_that_waits_for_a_stream_leaves_a_connection_that_is_given_up() {
    let (hung, healthy) = (Peer::hung_with_one_stream(), Peer::healthy(Protocol::Grpc));
    let name = Name::of(&[hung.address]);
    let transport = transport_with(Protocol::Grpc, &name, |config| config.with_timeout(Duration::from_secs(1)));
    let first = tokio::spawn({
        let transport = Arc::clone(&transport);
        async move { transport.send(&payload()).await }
    });
    settle().await;
    assert_eq!(hung.requests(), 1);
    name.moves_to(&[healthy.address]);
    advance_by(Duration::from_millis(300)).await;
    assert_eq!(transport.send(&payload()).await, DELIVERED, "it has 300 ms left when the first one is given up");
    let first = first.await.expect("no panic");
    assert!(
        matches!(first, Outcome::Retryable { cause: Cause::Timeout(_), possible_duplicate: true, .. }),
        "{first:?}"
    );
}

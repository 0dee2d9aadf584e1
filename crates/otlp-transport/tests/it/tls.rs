//! TLS against real servers, with certificates of authorities that each test makes.

mod authority;
mod bad;
mod files;
mod later;
mod peer;
mod plain;
mod proxies;

use otlp_transport::{Cause, Config, ConfigBuilder, Outcome, Protocol, Transport, connect};
use rcgen::KeyPair;
use rustls::ProtocolVersion;

use crate::support::{PATIENCE, payload, summary};
use authority::{Authority, Files, Valid};
use peer::{Peer, Setup};

const BOTH: [Protocol; 2] = [Protocol::Grpc, Protocol::HttpProtobuf];

fn config(protocol: Protocol, endpoint: impl Into<String>) -> ConfigBuilder {
    Config::builder().with_protocol(protocol).with_endpoint(endpoint).with_timeout(PATIENCE)
}

fn transport(config: ConfigBuilder) -> Box<dyn Transport> {
    connect(config.build().expect("good settings")).expect("checked")
}

async fn send(config: ConfigBuilder) -> Outcome {
    transport(config).send(&payload()).await
}

fn assert_delivered(outcome: &Outcome) {
    assert_eq!(summary(outcome), "delivered, 0 rejected", "{outcome:?}");
}

/// The cause of a call of which nothing went out.
fn cause(outcome: Outcome) -> String {
    match outcome {
        Outcome::Retryable { cause: Cause::Connect(text), after: None, possible_duplicate: false, .. } => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn both_protocols_deliver_to_a_verified_peer() {
    let (files, authority) = (Files::new(), Authority::new("root"));
    let trusted = files.write("ca.pem", authority.pem());
    for versions in [vec![&rustls::version::TLS13], vec![&rustls::version::TLS12]] {
        let version = versions[0].version;
        for protocol in BOTH {
            let pair = authority.server(&["localhost", "127.0.0.1", "::1"], Valid::Now);
            let peer = Peer::start(&pair, Setup { versions: versions.clone(), ..Setup::default() }).await;
            for host in ["localhost", "127.0.0.1"] {
                let endpoint = format!("https://{host}:{}", peer.address.port());
                assert_delivered(&send(config(protocol, endpoint).with_certificate(&trusted)).await);
            }
            let [by_name, by_address] = peer.visits().try_into().expect("two connections");
            let alpn = if protocol == Protocol::Grpc { "h2" } else { "http/1.1" };
            for visit in [&by_name, &by_address] {
                assert_eq!((visit.version, visit.alpn.as_deref()), (Some(version), Some(alpn)));
                assert_eq!(visit.certificates, 0);
            }
            // An address is no name to ask for (RFC 6066).
            assert_eq!((by_name.name.as_deref(), by_address.name), (Some("localhost"), None));
            let prefix = if protocol == Protocol::Grpc { 5 } else { 0 };
            assert_eq!(by_name.bodies, [2_000 + prefix]);
        }
    }
}

#[tokio::test]
async fn a_peer_below_another_authority_and_one_without_alpn_are_spoken_to() {
    let (files, root) = (Files::new(), Authority::new("root"));
    let trusted = files.write("ca.pem", root.pem());
    let pair = root.below("between").below("below").server(&["localhost"], Valid::Now);
    let peer = Peer::start(&pair, Setup { alpn: vec![], ..Setup::default() }).await;
    let endpoint = format!("https://localhost:{}", peer.address.port());
    assert_delivered(&send(config(Protocol::HttpProtobuf, endpoint).with_certificate(&trusted)).await);
    assert_eq!(peer.visits()[0].alpn, None);
}

#[tokio::test]
async fn a_grpc_endpoint_without_a_scheme_means_tls() {
    let (files, authority) = (Files::new(), Authority::new("root"));
    let trusted = files.write("ca.pem", authority.pem());
    let peer = Peer::start(&authority.server(&["localhost"], Valid::Now), Setup::default()).await;
    let endpoint = format!("localhost:{}", peer.address.port());
    let settings = config(Protocol::Grpc, &endpoint).with_certificate(&trusted).build().expect("good settings");
    assert_eq!(settings.endpoint(), format!("https://{endpoint}"));
    assert_delivered(&connect(settings).expect("checked").send(&payload()).await);

    let settings = config(Protocol::Grpc, &endpoint).with_insecure(true).build().expect("good settings");
    assert_eq!(settings.endpoint(), format!("http://{endpoint}"));
}

/// A second connection of the same transport saves a round trip and the peer's signature.
#[tokio::test]
async fn sessions_are_resumed() {
    let (files, authority) = (Files::new(), Authority::new("root"));
    let trusted = files.write("ca.pem", authority.pem());
    for protocol in BOTH {
        for versions in [vec![&rustls::version::TLS13], vec![&rustls::version::TLS12]] {
            let setup = Setup { versions, ..Setup::default() };
            let peer = Peer::start(&authority.server(&["localhost"], Valid::Now), setup).await;
            let endpoint = format!("https://localhost:{}", peer.address.port());
            let transport = transport(config(protocol, endpoint).with_certificate(&trusted));
            for _ in 0..3 {
                assert_delivered(&transport.send(&payload()).await);
                transport.reconnect();
            }
            let resumed: Vec<_> = peer.visits().iter().map(|visit| visit.is_resumed).collect();
            assert_eq!(resumed, [false, true, true], "{protocol}");
        }
    }
}

/// Keys as tools write them, and a certificate and its key in one file.
#[tokio::test]
async fn a_client_shows_its_certificate_with_a_key_of_each_form() {
    let (files, root) = (Files::new(), Authority::new("root"));
    let clients = root.below("clients");
    let trusted = files.write("ca.pem", root.pem());
    for (pkcs8, form) in [
        (include_str!("tls/keys/rsa.pkcs8.pem"), include_str!("tls/keys/rsa.pkcs8.pem")),
        (include_str!("tls/keys/rsa.pkcs8.pem"), include_str!("tls/keys/rsa.pkcs1.pem")),
        (include_str!("tls/keys/ec.pkcs8.pem"), include_str!("tls/keys/ec.pkcs8.pem")),
        (include_str!("tls/keys/ec.pkcs8.pem"), include_str!("tls/keys/ec.sec1.pem")),
    ] {
        let pair = clients.client_with(Valid::Now, KeyPair::from_pem(pkcs8).expect("a key"));
        let both = files.write("client.pem", format!("{}\n{form}", pair.chain));
        for protocol in BOTH {
            let setup = Setup { clients: Some(root.pem()), ..Setup::default() };
            let peer = Peer::start(&root.server(&["localhost"], Valid::Now), setup).await;
            let endpoint = format!("https://localhost:{}", peer.address.port());
            let settings = config(protocol, endpoint).with_certificate(&trusted);
            assert_delivered(&send(settings.with_client_certificate(&both).with_client_key(&both)).await);
            assert_eq!(peer.visits()[0].certificates, 2);
        }
    }
}

/// The variables name the same files, those for traces first.
#[tokio::test]
async fn the_variables_of_the_specification_name_the_files() {
    let (files, authority) = (Files::new(), Authority::new("root"));
    let client = authority.client(Valid::Now);
    let trusted = files.write("ca.pem", authority.pem());
    let other = files.write("other.pem", Authority::new("other").pem());
    let [certificate, key] = [files.write("c.pem", client.chain), files.write("k.pem", client.key)];
    let setup = Setup { clients: Some(authority.pem()), ..Setup::default() };
    let peer = Peer::start(&authority.server(&["localhost"], Valid::Now), setup).await;
    let endpoint = format!("https://localhost:{}", peer.address.port());
    let config = Config::from_vars(|name| {
        Some(match name {
            "OTEL_EXPORTER_OTLP_ENDPOINT" => endpoint.clone().into(),
            "OTEL_EXPORTER_OTLP_CERTIFICATE" => other.clone().into(),
            "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE" => trusted.clone().into(),
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE" => certificate.clone().into(),
            "OTEL_EXPORTER_OTLP_CLIENT_KEY" => key.clone().into(),
            _ => return None,
        })
    });
    let config = config.expect("good settings");
    assert!(config.notes().is_empty(), "{:?}", config.notes());
    assert_delivered(&connect(config).expect("checked").send(&payload()).await);
    assert_eq!(peer.visits()[0].version, Some(ProtocolVersion::TLSv1_3));
}

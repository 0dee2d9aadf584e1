//! Settings that were checked without a look at the files: the first call reads them, and fails without them.

use std::fs;

use otlp_transport::{Cause, Config, ConfigBuilder, Outcome, Transport, connect};

use super::authority::{Authority, Files, Valid};
use super::peer::{Peer, Setup};
use super::{BOTH, assert_delivered, cause, config};
use crate::support::{Raw, http_answer, listen, payload, serve_raw};

/// The settings, checked without a look at a file.
fn checked(settings: &ConfigBuilder) -> Config {
    let config = settings.clone().check_over(|_| None).expect("good settings");
    assert!(config.notes().is_empty(), "{:?}", config.notes());
    config
}

fn transport(settings: &ConfigBuilder) -> Box<dyn Transport> {
    connect(checked(settings)).expect("checked")
}

#[tokio::test]
async fn the_first_connection_reads_the_certificates_and_there_is_none_without_them() {
    for protocol in BOTH {
        let (files, root) = (Files::new(), Authority::new("root"));
        let trusted = files.path("ca.pem");
        let peer = Peer::start(&root.server(&["localhost"], Valid::Now), Setup::default()).await;
        let settings = config(protocol, format!("https://localhost:{}", peer.address.port()));
        let settings = settings.with_certificate(&trusted);
        assert!(settings.clone().build().is_err(), "the file is missing");
        let transport = transport(&settings);
        for _ in 0..2 {
            let text = cause(transport.send(&payload()).await);
            assert!(text.contains("ca.pem") && text.contains("cannot be read"), "{text}");
        }
        assert_eq!(peer.taken(), 0, "nothing goes to a peer that is not verified");
        let [note] = transport.take_notes().try_into().expect("one note for one fault");
        let text = note.to_string();
        assert!(text.contains("ca.pem") && text.contains("no connection is made before this is mended"), "{text}");

        files.write("ca.pem", root.pem());
        assert_delivered(&transport.send(&payload()).await);
        fs::remove_file(&trusted).expect("the file");
        transport.reconnect();
        assert_delivered(&transport.send(&payload()).await);
        let [note] = transport.take_notes().try_into().expect("one note for one fault");
        assert!(note.to_string().contains("go on with the content"), "{note}");
    }
}

#[test]
fn a_fault_that_no_file_is_needed_for_is_an_error_at_once() {
    let settings = config(BOTH[0], "https://localhost:4317");
    let check = |settings: &ConfigBuilder| settings.clone().check_over(|_| None).map(|_| ());
    let lonely = [settings.clone().with_client_certificate("/c.pem"), settings.clone().with_client_key("/k.pem")];
    for lonely in &lonely {
        let error = check(lonely).expect_err("half of a pair");
        assert!(error.to_string().contains("stands alone"), "{error}");
        assert_eq!(lonely.clone().build().map(|_| ()), Err(error));
    }
    assert_eq!(check(&settings.with_client_certificate("/c.pem").with_client_key("/k.pem")), Ok(()));
}

#[tokio::test]
async fn the_systems_authorities_are_read_by_the_first_connection_too() {
    let root = Authority::new("root");
    for protocol in BOTH {
        let peer = Peer::start(&root.server(&["localhost"], Valid::Now), Setup::default()).await;
        let settings = config(protocol, format!("https://localhost:{}", peer.address.port()));
        let text = cause(transport(&settings).send(&payload()).await);
        assert!(text.contains("no authority"), "the peer's authority is no public one: {text}");
        assert_eq!(peer.taken(), 0);
    }
}

#[tokio::test]
async fn the_first_call_reads_the_headers_and_does_not_go_out_without_them() {
    let files = Files::new();
    for protocol in BOTH {
        let (listener, address) = listen().await;
        let log = serve_raw(listener, |_| Raw::Answer(http_answer(200, &[], b"")));
        let settings = config(protocol, format!("http://{address}")).with_headers_file(files.path("headers"));
        let transport = transport(&settings);
        match transport.send(&payload()).await {
            Outcome::Retryable { cause: Cause::Credentials(text), possible_duplicate: false, .. } => {
                assert!(text.contains("headers"), "{text}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(log.lock().expect("not poisoned").len(), 0);
        if protocol == BOTH[1] {
            files.write("headers", "x-key=here");
            assert_delivered(&transport.send(&payload()).await);
            let seen = log.lock().expect("not poisoned").last().cloned().expect("a request");
            assert_eq!(seen.header("x-key"), Some("here"));
        }
    }
}

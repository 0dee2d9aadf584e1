//! The Collector behind TLS, which asks for the client's certificate.

use std::fs;
use std::path::Path;
use std::time::Duration;

use otlp_transport::{Cause, Outcome, RefusalKind};

use super::Setup;
use super::calls::Vars;
use super::certificates::{Authority, Pair, Valid};
use super::otelcol::{Otelcol, TlsFiles};
use super::wire::Traced;
use crate::contender::{self, Protocol};
use crate::{Failure, canonical};

pub(super) const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";
pub(super) const CLIENT_CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE";
pub(super) const CLIENT_KEY: &str = "OTEL_EXPORTER_OTLP_CLIENT_KEY";

/// Spans arrive alike by this version of TLS with the client's certificate. Without it, with one of another authority,
/// with a server's certificate of an authority that is not trusted, and where one side speaks TLS and the other does
/// not, nothing arrives, and the cause is the one that the peer lets see.
pub(super) fn verified(setup: &Setup, protocol: Protocol, version: &str) -> Result<String, Failure> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let (ours, other) = (Authority::new("ours")?, Authority::new("another")?);
    let [root, other_root] = [ours.write(folder, "root")?, other.write(folder, "other-root")?];
    // Made anew under its old name.
    let namesake = Authority::new("ours")?.write(folder, "namesake")?;
    let server = ours.server(folder, "server", &["127.0.0.1"], Valid::Now)?;
    let client = ours.client(folder, "client", Valid::Now)?;
    let stranger = other.client(folder, "stranger", Valid::Now)?;
    let files = TlsFiles { certificate: server.certificate, key: server.key, client_ca: root.clone(), version };
    let collector = Otelcol::tls(setup, folder, files)?;
    let plain_folder = folder.join("plain");
    fs::create_dir(&plain_folder)?;
    let plain = Otelcol::otlp(setup, &plain_folder)?;

    let (secured, unsecured) = (collector.endpoint(protocol), plain.endpoint(protocol));
    let trusting = |endpoint: &str, root: &Path| Vars::new(protocol, endpoint).with(CERTIFICATE, root);
    let known = |vars: Vars, pair: &Pair| vars.with(CLIENT_CERTIFICATE, &pair.certificate).with(CLIENT_KEY, &pair.key);
    let refused = [
        ("no client certificate", trusting(&secured, &root), "client certificate"),
        ("one of another authority", known(trusting(&secured, &root), &stranger), "refuses the client certificate"),
        (
            "a server of an authority that was made anew",
            known(trusting(&secured, &namesake), &client),
            "not signed by the authority that it names",
        ),
        (
            "a server that is not trusted",
            known(trusting(&secured, &other_root), &client),
            "no authority that is trusted here",
        ),
        (
            "TLS to a plain port",
            trusting(&unsecured.replacen("http", "https", 1), &root),
            "does not speak TLS on this port",
        ),
    ];
    for (case, vars, words) in &refused {
        not_connected(&vars.send_stray()?, words).map_err(|failure| format!("{case}: {failure}"))?;
    }
    unencrypted(&Vars::new(protocol, secured.replacen("https", "http", 1)).send_stray()?, protocol)?;
    let builder = known(trusting(&secured, &root), &client).exporter(&folder.join("state"))?;
    let mut traced = Traced::new(builder, contender::resource())?;
    traced.serve(300)?;
    // Finds the span of a refused call too, if it arrived.
    let count = traced.compare(&collector)?;
    traced.provider.shutdown()?;
    canonical::compare(&canonical::Spans::new(), &plain.spans(0, Duration::ZERO)?)?;
    Ok(format!("{count} spans, all alike; {} other peers and clients refused", refused.len() + 1))
}

/// Nothing was sent, and the cause says why.
fn not_connected(outcome: &Outcome, words: &str) -> Result<(), Failure> {
    match outcome {
        Outcome::Retryable { cause: Cause::Connect(text), possible_duplicate: false, .. } if text.contains(words) => {
            Ok(())
        }
        other => Err(format!("no connection and {words:?} were expected, and the outcome is {other:?}").into()),
    }
}

/// Plain text to a port that speaks TLS: Go's HTTP server answers it with words of its own, and its gRPC server closes
/// the connection without an alert of TLS, as a server that crashed does.
fn unencrypted(outcome: &Outcome, protocol: Protocol) -> Result<(), Failure> {
    const WORDS: &str = "Client sent an HTTP request to an HTTPS server";
    const NO_WORDS: &str = "before its first byte: if it speaks TLS on this port, the endpoint begins with https://";
    let is_expected = match (protocol, outcome) {
        (Protocol::Grpc, Outcome::Retryable { cause: Cause::Broken(text), possible_duplicate: true, .. }) => {
            text.contains(NO_WORDS)
        }
        (Protocol::Http, Outcome::Refused { kind: RefusalKind::Sender, cause, possible_duplicate: false, .. }) => {
            matches!(cause, Cause::Http { status: 400, message } if message.contains(WORDS))
        }
        _ => false,
    };
    if is_expected { Ok(()) } else { Err(format!("plain text to its port of TLS: the outcome is {outcome:?}").into()) }
}

//! Files of key material: their faults at set-up, and their changes while a transport runs.

use std::fs;
use std::path::Path;

use otlp_transport::{Config, ConfigError, Protocol, Transport};

use super::authority::{Authority, Files, Valid};
use super::peer::{Peer, Setup};
use super::{BOTH, assert_delivered, cause, config, transport};
use crate::support::payload;

fn settings() -> otlp_transport::ConfigBuilder {
    config(Protocol::Grpc, "https://localhost:4317")
}

fn assert_says(error: ConfigError, parts: &[&str]) {
    let text = error.to_string();
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
}

#[test]
fn an_unusable_file_of_authorities_is_named_with_block_and_line() {
    let (files, root) = (Files::new(), Authority::new("root"));
    let damaged = root.pem().replacen("MII", "AII", 1);
    for (content, parts) in [
        ("", &["with_certificate", "ca.pem", "is empty", "-----BEGIN"][..]),
        ("-----BEGIN CERTIFICATE-----\nMIIB\n", &["line 1", "no end"]),
        (&damaged, &["block CERTIFICATE of line 1", "X.509"]),
        (&format!("# a comment\n{}{damaged}", root.pem()), &["ca.pem", "X.509", "line 12"]),
        (include_str!("keys/ec.sec1.pem"), &["no block CERTIFICATE", "EC PRIVATE KEY (line 1)"]),
    ] {
        let path = files.write("ca.pem", content);
        let error = settings().with_certificate(path).build().expect_err(content);
        let at_line = content.lines().enumerate().filter(|(_, line)| line.contains("BEGIN")).last();
        let line = at_line.map_or(0, |(index, _)| index + 1);
        let parts: Vec<_> = parts.iter().map(|part| part.replace("line 12", &format!("line {line}"))).collect();
        assert_says(error, &parts.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let missing = settings().with_certificate(files.path("none.pem")).build().expect_err("no file");
    assert_says(missing, &["none.pem", "cannot be read"]);
    assert_says(settings().with_certificate(files.dir()).build().expect_err("a folder"), &["is not a file"]);
    assert_says(settings().with_certificate("/dev/zero").build().expect_err("a device"), &["is not a file"]);
    let huge = files.path("huge.pem");
    fs::File::create(&huge).and_then(|file| file.set_len(1 << 30)).expect("a sparse file");
    assert_says(settings().with_certificate(&huge).build().expect_err("huge"), &["1073741824 bytes"]);
}

#[test]
fn a_client_needs_a_certificate_and_its_own_key() {
    let (files, root) = (Files::new(), Authority::new("root"));
    let (one, two) = (root.client(Valid::Now), root.client(Valid::Now));
    let [certificate, key] = [files.write("c.pem", &one.chain), files.write("k.pem", &one.key)];
    let with = |certificate: &Path, key: &Path| {
        settings().with_client_certificate(certificate).with_client_key(key).build().expect_err("a bad pair")
    };
    settings().with_client_certificate(&certificate).with_client_key(&key).build().expect("a pair");
    let error = settings().with_client_certificate(&certificate).build().expect_err("no key");
    assert_says(error, &["with_client_certificate", "stands alone", "OTEL_EXPORTER_OTLP_CLIENT_KEY"]);
    let error = settings().with_client_key(&key).build().expect_err("no certificate");
    assert_says(error, &["with_client_key", "stands alone", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"]);

    assert_says(with(&certificate, &files.write("o.pem", &two.key)), &["o.pem", "is not the key", "c.pem"]);
    assert_says(with(&key, &key), &["k.pem", "no block CERTIFICATE", "PRIVATE KEY (line 1)"]);
    assert_says(with(&certificate, &certificate), &["no private key", "CERTIFICATE (line 1)", "PKCS#8"]);
    for text in [include_str!("keys/ec.encrypted.pem"), include_str!("keys/ec.old-encrypted.pem")] {
        assert_says(with(&certificate, &files.write("e.pem", text)), &["line 1", "is encrypted", "openssl pkey"]);
    }
    let der = [0x30, 0x82, 1, 0x22];
    assert_says(with(&certificate, &files.write("d.der", der)), &["d.der", "DER", "openssl"]);
    let nonsense = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert_says(with(&certificate, &files.write("n.pem", nonsense)), &["line 1", "no key that can be used"]);
}

#[test]
fn a_host_that_no_certificate_can_name_is_an_error() {
    for (endpoint, part) in [
        ("https://c:4317:1", "not a URL"),
        ("https://a..b:4317", "no certificate can name"),
        ("a..b:4317", "no certificate can name"),
    ] {
        let error = config(Protocol::Grpc, endpoint).build().expect_err(endpoint);
        assert_says(error, &["with_endpoint", endpoint, part]);
    }
}

#[test]
fn files_without_tls_are_noted_and_not_read() {
    for endpoint in ["http://localhost:4317", "unix:///run/otel.sock"] {
        let settings = Config::from_vars(|name| match name {
            "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(endpoint.into()),
            "OTEL_EXPORTER_OTLP_CERTIFICATE" => Some("/none/ca.pem".into()),
            _ => None,
        });
        let settings = settings.expect("good settings");
        let [note] = settings.notes() else { panic!("{:?}", settings.notes()) };
        assert!(note.to_string().contains("OTEL_EXPORTER_OTLP_CERTIFICATE has no effect"), "{note}");
    }
}

#[test]
fn no_text_has_the_content_of_a_key() {
    let (files, root) = (Files::new(), Authority::new("root"));
    let pair = root.client(Valid::Now);
    let secret = pair.key.lines().nth(1).expect("base64").to_owned();
    let [certificate, key] = [files.write("c.pem", &pair.chain), files.write("k.pem", &pair.key)];
    let settings = settings().with_client_certificate(certificate).with_client_key(&key);
    let text = format!("{settings:?} {:?}", settings.clone().build().expect("a pair"));
    assert!(text.contains("k.pem") && !text.contains(&secret), "{text}");
}

async fn assert_connects(transport: &dyn Transport) {
    transport.reconnect();
    assert_delivered(&transport.send(&payload()).await);
}

#[tokio::test]
async fn the_next_connection_uses_a_changed_certificate_and_survives_a_broken_one() {
    for protocol in BOTH {
        let (files, root) = (Files::new(), Authority::new("root"));
        let trusted = files.write("ca.pem", root.pem());
        let first = root.client(Valid::Now);
        let both = files.write("client.pem", format!("{}{}", first.chain, first.key));
        let setup = Setup { clients: Some(root.pem()), ..Setup::default() };
        let peer = Peer::start(&root.server(&["localhost"], Valid::Now), setup).await;
        let settings = config(protocol, format!("https://localhost:{}", peer.address.port()));
        let settings = settings.with_certificate(&trusted).with_client_certificate(&both).with_client_key(&both);
        let transport = transport(settings);
        assert!(transport.can_change());
        assert_connects(&*transport).await;
        assert!(transport.take_notes().is_empty());

        // Half of a file, as a copy in place leaves it for a moment.
        files.write("client.pem", &first.chain);
        assert_connects(&*transport).await;
        assert_connects(&*transport).await;
        let [note] = transport.take_notes().try_into().expect("one note for one fault");
        let text = note.to_string();
        assert!(
            ["client.pem", "no private key", "go on with the content"].iter().all(|part| text.contains(part)),
            "{text}"
        );

        // Gone, and a folder in its place.
        fs::remove_file(&both).expect("the file");
        assert_connects(&*transport).await;
        fs::create_dir(&both).expect("the name is free");
        assert_connects(&*transport).await;
        let notes: Vec<_> = transport.take_notes().iter().map(ToString::to_string).collect();
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(notes[0].contains("cannot be read") && notes[1].contains("is not a file"), "{notes:?}");

        // A good one of an authority that the peer does not know shows that it is used.
        fs::remove_dir(&both).expect("the folder");
        let other = Authority::new("other").client(Valid::Now);
        files.write("client.pem", format!("{}{}", other.chain, other.key));
        transport.reconnect();
        assert!(cause(transport.send(&payload()).await).contains("refuses the client certificate"));
        let second = root.client(Valid::Now);
        files.write("client.pem", format!("{}{}", second.chain, second.key));
        assert_connects(&*transport).await;
        assert!(transport.take_notes().is_empty());
    }
}

/// A file counts as settled two seconds after its change.
fn settle(path: &Path, seconds: u64) {
    let then = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    fs::File::options().append(true).open(path).and_then(|file| file.set_modified(then)).expect("an own file");
}

#[tokio::test]
async fn a_changed_file_is_told_once_and_the_next_call_uses_it() {
    for protocol in BOTH {
        let (files, root) = (Files::new(), Authority::new("root"));
        let trusted = files.write("ca.pem", root.pem());
        let first = root.client(Valid::Now);
        let both = files.write("client.pem", format!("{}{}", first.chain, first.key));
        settle(&trusted, 1_000);
        settle(&both, 1_000);
        let setup = Setup { clients: Some(root.pem()), ..Setup::default() };
        let peer = Peer::start(&root.server(&["localhost"], Valid::Now), setup).await;
        let settings = config(protocol, format!("https://localhost:{}", peer.address.port()));
        let settings = settings.with_certificate(&trusted).with_client_certificate(&both).with_client_key(&both);
        let transport = transport(settings);
        assert_delivered(&transport.send(&payload()).await);
        assert!(!transport.has_changed().await);

        let other = Authority::new("other").client(Valid::Now);
        files.write("client.pem", format!("{}{}", other.chain, other.key));
        settle(&both, 2_000);
        assert!(transport.has_changed().await);
        assert!(!transport.has_changed().await, "told, and no connection has read it yet");
        assert!(cause(transport.send(&payload()).await).contains("refuses the client certificate"));

        files.write("client.pem", format!("{}{}", first.chain, first.key));
        settle(&both, 3_000);
        assert!(transport.has_changed().await, "another change");
        assert_delivered(&transport.send(&payload()).await);
        assert!(!transport.has_changed().await);
    }
}

/// The clock of the computer that made the file is ahead of this one's.
#[tokio::test]
async fn a_file_whose_time_lies_ahead_is_read_once_and_told_when_it_changes() {
    let (files, root) = (Files::new(), Authority::new("root"));
    let trusted = files.write("ca.pem", root.pem());
    let year_2100 = 4_102_444_800;
    settle(&trusted, year_2100);
    let peer = Peer::start(&root.server(&["localhost"], Valid::Now), Setup::default()).await;
    let settings = config(Protocol::Grpc, format!("https://localhost:{}", peer.address.port()));
    let transport = transport(settings.with_certificate(&trusted));
    assert_delivered(&transport.send(&payload()).await);
    assert!(!transport.has_changed().await);
    files.write("ca.pem", format!("{}{}", Authority::new("other").pem(), root.pem()));
    settle(&trusted, year_2100);
    assert!(transport.has_changed().await);
    assert_delivered(&transport.send(&payload()).await);
    assert!(!transport.has_changed().await);
}

/// A secret that Kubernetes mounts is a link to a folder that is replaced as a whole.
#[tokio::test]
async fn a_mounted_secret_is_followed_through_its_links() {
    use std::os::unix::fs::symlink;

    let (files, root, other) = (Files::new(), Authority::new("root"), Authority::new("other"));
    for (name, authority) in [("1", &other), ("2", &root)] {
        fs::create_dir(files.path(name)).expect("space");
        files.write(&format!("{name}/ca.pem"), authority.pem());
    }
    symlink("1", files.path("..data")).expect("space");
    symlink("..data/ca.pem", files.path("ca.pem")).expect("space");
    let peer = Peer::start(&root.server(&["localhost"], Valid::Now), Setup::default()).await;
    let settings = config(Protocol::Grpc, format!("https://localhost:{}", peer.address.port()));
    let transport = transport(settings.with_certificate(files.path("ca.pem")));
    assert!(cause(transport.send(&payload()).await).contains("no authority"));
    symlink("2", files.path("..new")).expect("space");
    fs::rename(files.path("..new"), files.path("..data")).expect("one disk");
    assert_delivered(&transport.send(&payload()).await);
}

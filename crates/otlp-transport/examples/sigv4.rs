//! Signs each request by AWS Signature Version 4, over its body as it is sent.
//! `cargo run -p otlp-transport --example sigv4`
//!
//! The collector is a thread of this program: it makes the signature anew from the bytes that it received. The signer
//! is first checked against the signed request that AWS publishes ("Signed Signature Version 4 Requests Examples" of
//! the AWS General Reference, `ListUsers` of IAM at 20150830T123600Z). A program takes the keys from their usual
//! sources; here they are those of that example.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use otlp_payload::{BatchId, Payload};
use otlp_transport::{
    Compression, Config, CredentialHeaders, Credentials, CredentialsError, Outcome, Protocol, RequestHead,
    Transport as _, connect,
};
use sha2::{Digest as _, Sha256};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    check_against_the_published_example();

    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let collector = std::thread::spawn(move || verify_one(&listener));
    let signer = Signer { keys: keys(), region: "eu-central-1", service: "xray", wall_clock };
    let config = Config::builder()
        .with_protocol(Protocol::HttpProtobuf)
        .with_endpoint(format!("http://{address}/otlp?tenant=b&tenant=a"))
        .with_compression(Compression::Gzip)
        .with_credentials(Arc::new(signer))
        .build()?;
    let transport = connect(config)?;
    let spans = Bytes::from(vec![0_u8; 10_000]); // any bytes: the collector only checks the signature
    let payload = Payload::new(BatchId { incarnation: 1, seq: 0 }, wall_clock(), 1, spans);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(transport.send(&payload));
    let verified = collector.join().expect("no panic")?;
    println!("the collector has verified a signature over {verified} compressed bytes: {outcome:?}");
    assert!(matches!(outcome, Outcome::Delivered { .. }), "{outcome:?}");
    Ok(())
}

/// Signs for one region and service.
struct Signer {
    keys: Keys,
    region: &'static str,
    service: &'static str,
    wall_clock: fn() -> SystemTime,
}

/// An access key. Keys of a role also have a session token, which is one more signed header, `x-amz-security-token`; a
/// provider that renews them counts the generation up.
#[derive(Clone)]
struct Keys {
    id: String,
    secret: String,
    generation: u64,
}

#[async_trait]
impl Credentials for Signer {
    async fn headers(&self, head: &RequestHead, body: &Bytes) -> Result<CredentialHeaders, CredentialsError> {
        // The peer hashes the body of the HTTP request, to which gRPC's frame belongs.
        let hash = hex(&Sha256::new().chain_update(head.prefix()).chain_update(body).finalize());
        let date = date((self.wall_clock)()).ok_or_else(|| CredentialsError::new("the clock is before 1970"))?;
        let mut headers = BTreeMap::from([
            ("host", head.authority().to_owned()),
            ("x-amz-content-sha256", hash.clone()),
            ("x-amz-date", date.clone()),
        ]);
        headers.extend(head.header("content-type").map(|value| ("content-type", value.to_owned())));
        let request = Request { method: head.method(), path: head.path(), query: head.query().unwrap_or_default() };
        let authorization = self.authorization(&request, &headers, &hash, &date);
        Ok(CredentialHeaders::new(self.keys.generation)
            .with("x-amz-content-sha256", hash)
            .with("x-amz-date", date)
            .with("authorization", authorization))
    }
}

/// The parts of a request that are signed beside its headers.
struct Request<'a> {
    method: &'a str,
    path: &'a str,
    query: &'a str,
}

impl Signer {
    fn authorization(&self, request: &Request<'_>, headers: &BTreeMap<&str, String>, hash: &str, date: &str) -> String {
        let scope = format!("{}/{}/{}/aws4_request", &date[..8], self.region, self.service);
        let canonical = canonical(request, headers, hash);
        let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
        let signature = hex(&hmac(&self.key(&date[..8]), &to_sign));
        let (id, signed) = (&self.keys.id, signed(headers));
        format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={signed}, Signature={signature}")
    }

    fn key(&self, day: &str) -> Vec<u8> {
        let secret = format!("AWS4{}", self.keys.secret);
        let parts = [day, self.region, self.service, "aws4_request"];
        parts.iter().fold(secret.into_bytes(), |key, part| hmac(&key, part))
    }
}

fn signed(headers: &BTreeMap<&str, String>) -> String {
    headers.keys().copied().collect::<Vec<_>>().join(";")
}

/// The canonical request. Pairs of the query are sorted; those of an endpoint's URL are encoded already.
fn canonical(request: &Request<'_>, headers: &BTreeMap<&str, String>, hash: &str) -> String {
    let mut query = request.query.split('&').filter(|pair| !pair.is_empty()).collect::<Vec<_>>();
    query.sort_unstable();
    let lines = headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect::<String>();
    let (method, path, query) = (request.method, request.path, query.join("&"));
    format!("{method}\n{path}\n{query}\n{lines}\n{}\n{hash}", signed(headers))
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    mac.chain_update(text).finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `20150830T123600Z`.
fn date(now: SystemTime) -> Option<String> {
    let seconds = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
    // `Sun, 30 Aug 2015 12:36:00 GMT`.
    let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
    let [_, day, month, year, time, _] = text.split(' ').collect::<Vec<_>>()[..] else { return None };
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    Some(format!("{year}{:02}{day}T{}Z", MONTHS.find(month)? / 3 + 1, time.replace(':', "")))
}

fn keys() -> Keys {
    let (id, secret) = ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
    Keys { id: id.to_owned(), secret: secret.to_owned(), generation: 1 }
}

#[expect(clippy::disallowed_methods, reason = "the clock of the example")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

fn check_against_the_published_example() {
    let signer = Signer { keys: keys(), region: "us-east-1", service: "iam", wall_clock };
    let date = date(UNIX_EPOCH + Duration::from_secs(1_440_938_160)).expect("a date");
    assert_eq!(date, "20150830T123600Z");
    let request = Request { method: "GET", path: "/", query: "Action=ListUsers&Version=2010-05-08" };
    let headers = BTreeMap::from([
        ("content-type", "application/x-www-form-urlencoded; charset=utf-8".to_owned()),
        ("host", "iam.amazonaws.com".to_owned()),
        ("x-amz-date", date.clone()),
    ]);
    let empty = hex(&Sha256::digest(""));
    assert_eq!(
        hex(&Sha256::digest(canonical(&request, &headers, &empty))),
        "f536975d06c0309214f805bb90ccff089219ecd68b2577efef23edd43b7e1a59"
    );
    assert_eq!(hex(&signer.key("20150830")), "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9");
    let signature = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7";
    let authorization = signer.authorization(&request, &headers, &empty, &date);
    assert!(authorization.ends_with(&format!("Signature={signature}")), "{authorization}");
    println!("the signature of the published example is {signature}");
}

/// Takes one request, and answers 200 if the signature in it is that of its bytes. Returns their number.
fn verify_one(listener: &TcpListener) -> io::Result<usize> {
    let (mut stream, _) = listener.accept()?;
    let (head, body) = read_request(&mut stream)?;
    let mut lines = head.lines();
    let [method, target, _] = lines.next().unwrap_or_default().split(' ').collect::<Vec<_>>()[..] else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let all: BTreeMap<&str, &str> = lines.filter_map(|line| line.split_once(": ")).collect();
    let authorization = all["authorization"];
    let names = authorization.split("SignedHeaders=").nth(1).and_then(|rest| rest.split(',').next());
    let headers = names.unwrap_or_default().split(';').map(|name| (name, all[name].to_owned())).collect();
    let hash = hex(&Sha256::digest(&body));
    let signer = Signer { keys: keys(), region: "eu-central-1", service: "xray", wall_clock };
    let expected = signer.authorization(&Request { method, path, query }, &headers, &hash, all["x-amz-date"]);
    let is_signed = authorization == expected && all["x-amz-content-sha256"] == hash && headers.len() == 4;
    let status = if is_signed { "200 OK" } else { "403 Forbidden" };
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")?;
    Ok(body.len())
}

/// Reads a request: its head, and its body.
fn read_request(stream: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let (mut read, mut buffer) = (Vec::new(), [0; 4_096]);
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end]).into_owned();
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
            let length: usize = length.unwrap_or(0);
            if read.len() >= end + 4 + length {
                return Ok((head, read[end + 4..end + 4 + length].to_vec()));
            }
        }
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => read.extend_from_slice(&buffer[..count]),
        }
    }
}

//! Answers of servers whose port wants TLS, or another client certificate: they come as status 400, as a fault of the
//! request would, and say so in their text alone.

/// In lower case: Go's server (the Collector), nginx (three), Apache, Tomcat.
const WORDS: [&str; 6] = [
    "client sent an http request to an https server",
    "plain http request was sent to https port",
    "no required ssl certificate was sent",
    "the ssl certificate error",
    "speaking plain http to an ssl-enabled server port",
    "this combination of host and port requires tls",
];
/// Those about the client certificate.
const CLIENT: [&str; 2] = ["no required ssl certificate was sent", "the ssl certificate error"];

/// The remedy, if the text says so. The server has read nothing of the request but its head then.
pub(super) fn remedy(text: &str) -> Option<&'static str> {
    let text = text.to_lowercase();
    let found = WORDS.iter().find(|words| text.contains(**words))?;
    Some(if CLIENT.contains(found) {
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY name a client certificate that the peer \
         accepts"
    } else {
        "the peer speaks TLS on this port: the endpoint begins with https:// then"
    })
}

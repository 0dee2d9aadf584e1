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

/// Whether the text says so. The server has read nothing of the request but its head then.
pub(super) fn are_in(text: &str) -> bool {
    let text = text.to_lowercase();
    WORDS.iter().any(|words| text.contains(words))
}

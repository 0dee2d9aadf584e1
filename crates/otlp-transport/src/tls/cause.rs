//! Faults of TLS in words, each with its remedy.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

use crate::duplex::{Duplex, nothing_taken};
use crate::protocol::Protocol;

const CLIENT: &str = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY";
const AUTHORITIES: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";

/// The other side of a handshake.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Collector(Protocol),
    /// No client certificate is shown to it.
    Proxy,
}

impl Side {
    /// The setting that names it.
    fn address(self) -> &'static str {
        match self {
            Self::Collector(_) => "the endpoint",
            Self::Proxy => "the proxy's URL",
        }
    }
}

/// The fault of a handshake; nothing of a payload was sent.
pub(super) fn of_handshake(error: &io::Error, side: Side) -> io::Error {
    let text = match rustls_error(error) {
        Some(fault) => in_words(fault, side),
        None if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => format!(
            "the peer closed the connection in the TLS handshake: it may not speak TLS on this port, or a device on the \
             way ends connections ({error})"
        ),
        None => format!("the connection broke in the TLS handshake: {error}"),
    };
    io::Error::new(error.kind(), text)
}

fn rustls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

fn in_words(error: &Error, side: Side) -> String {
    match error {
        Error::InvalidCertificate(fault) => certificate(fault, side),
        Error::AlertReceived(alert) => self::alert(*alert, side).unwrap_or_else(|| {
            format!("the peer ended the TLS handshake with the alert {alert:?}; its own log has the reason")
        }),
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
            format!(
                "the peer does not speak TLS on this port: it answers with something else; if it is meant to be spoken \
                 to without TLS, {} begins with http://",
                side.address()
            )
        }
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13 | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => "the peer offers TLS 1.0 or 1.1 alone; TLS 1.2 and 1.3 are accepted".to_owned(),
        Error::NoApplicationProtocol | Error::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedApplicationProtocol) => {
            other_protocol(side)
        }
        other => format!("the TLS handshake failed: {other}"),
    }
}

fn other_protocol(side: Side) -> String {
    match side {
        Side::Collector(Protocol::Grpc) => {
            "the peer speaks no HTTP/2 on this port (ALPN), which gRPC needs: the protocol may be \
                           http/protobuf, or a proxy in front of the collector does not pass HTTP/2 on"
                .to_owned()
        }
        Side::Collector(Protocol::HttpProtobuf) => {
            "the peer speaks no HTTP/1.1 on this port (ALPN): the protocol may be grpc".to_owned()
        }
        Side::Proxy => {
            "the peer speaks no HTTP/1.1 on this port (ALPN): the port may be that of another service".to_owned()
        }
    }
}

fn certificate(fault: &CertificateError, side: Side) -> String {
    let clock = "compare the clocks of both machines too";
    match fault {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("the peer's certificate, or one above it, has expired: renew it; {clock} ({fault})")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("the peer's certificate, or one above it, is not valid yet; {clock} ({fault})")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            let address = side.address();
            format!("the peer's certificate is for another host: {address} needs a name that it lists ({fault})")
        }
        CertificateError::UnknownIssuer => format!(
            "the peer's certificate is signed by no authority that is trusted here: {AUTHORITIES} names the PEM file of \
             that authority; or the peer leaves out the certificates between its own and the authority's"
        ),
        CertificateError::Revoked => "the peer's certificate is revoked".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            format!("the peer's certificate is not one for a server ({fault})")
        }
        CertificateError::BadSignature => format!(
            "the peer's certificate is not signed by the authority that it names ({AUTHORITIES} may be an old one), or \
             its key or that of the authority is too weak: RSA keys have 2048 bits or more"
        ),
        other => {
            let text = other.to_string();
            let hint = if text.contains("CaUsedAsEndEntity") {
                ": it is an authority's own certificate, such as a self-signed one made without CA:FALSE; sign one for \
                 the server with it"
            } else {
                ""
            };
            format!("the peer's certificate cannot be verified{hint} ({text})")
        }
    }
}

/// The alerts that have a usual cause.
fn alert(alert: AlertDescription, side: Side) -> Option<String> {
    if matches!(side, Side::Proxy) && refuses_client(alert) {
        return Some(format!(
            "the proxy asks for a client certificate, and none is shown to a proxy ({alert:?}): let it take clients by \
             user and password"
        ));
    }
    Some(match alert {
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
            format!("the peer asks for a client certificate: {CLIENT} name one ({alert:?})")
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied => format!(
            "the peer refuses the client certificate, or misses one ({alert:?}): it must be valid now and signed by an \
             authority that the peer trusts ({CLIENT})"
        ),
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
            let shown = if matches!(side, Side::Proxy) { "none is shown to a proxy" } else { CLIENT };
            format!(
                "the peer ended the TLS handshake ({alert:?}): it has no cipher suite in common, or asks for a client \
                 certificate ({shown})"
            )
        }
        AlertDescription::ProtocolVersion => "the peer speaks neither TLS 1.2 nor 1.3 (ProtocolVersion)".to_owned(),
        AlertDescription::UnrecognisedName => {
            format!("the peer knows no host of the name in {} (UnrecognisedName)", side.address())
        }
        AlertDescription::NoApplicationProtocol => other_protocol(side),
        _ => return None,
    })
}

/// Alerts by which a server refuses the client itself, before it looks at any request.
fn refuses_client(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
    )
}

/// A secured connection. In TLS 1.3 the client is done before the server has looked at the client's certificate: the
/// refusal of it is the first thing that is read.
pub(super) struct Secured {
    stream: TlsStream<Box<dyn Duplex>>,
    side: Side,
    has_read: bool,
}

impl Secured {
    pub(super) fn new(stream: TlsStream<Box<dyn Duplex>>, side: Side) -> Self {
        Self { stream, side, has_read: false }
    }
}

impl AsyncRead for Secured {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        match read {
            Ok(()) => {
                self.has_read |= buf.filled().len() > before;
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(match rustls_error(&error) {
                Some(Error::AlertReceived(alert)) if !self.has_read && refuses_client(*alert) => {
                    let text = self::alert(*alert, self.side).unwrap_or_else(|| format!("{alert:?}"));
                    nothing_taken(&text)
                }
                _ => error,
            })),
        }
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

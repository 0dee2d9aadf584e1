//! The exporters that are compared: the stock one and ours, each behind the SDK's default batch processor, and our own
//! processor.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};
use opentelemetry_otlp::{Protocol as StockProtocol, SpanExporter, WithExportConfig as _};
use opentelemetry_otlp::{WithHttpConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use otlp_transport::{Config, ConfigBuilder};
use resilient_exporter::{Builder, Handle, ResilientSpanExporter};
use tokio::runtime::Runtime;

use crate::Failure;

/// How requests are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP over gRPC.
    Grpc,
    /// OTLP over HTTP, protobuf bodies.
    Http,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Grpc => "gRPC",
            Self::Http => "HTTP",
        })
    }
}

/// The stock exporter with its defaults: retries as shipped, 10 s time-out. Must be called inside of a tokio runtime
/// for gRPC.
///
/// # Errors
///
/// When the endpoint does not parse.
pub fn stock_exporter(protocol: Protocol, endpoint: &str) -> Result<SpanExporter, Failure> {
    use_ring();
    Ok(match protocol {
        Protocol::Grpc => SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?,
        Protocol::Http => SpanExporter::builder()
            .with_http()
            .with_protocol(StockProtocol::HttpBinary)
            .with_endpoint(format!("{endpoint}/v1/traces"))
            .build()?,
    })
}

/// The same behind TLS, with the certificate of an authority in this file as the only one that is trusted.
///
/// # Errors
///
/// When the endpoint does not parse, or the file holds no certificate.
pub fn stock_exporter_with_tls(protocol: Protocol, endpoint: &str, authority: &Path) -> Result<SpanExporter, Failure> {
    /// The stock exporter's own default, which it gives to a client of its own making.
    const TIMEOUT: Duration = Duration::from_secs(10);
    use_ring();
    let pem = std::fs::read(authority)?;
    Ok(match protocol {
        Protocol::Grpc => {
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
            SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_tls_config(tls).build()?
        }
        Protocol::Http => {
            let authority = reqwest::Certificate::from_pem(&pem)?;
            // As the stock exporter does: the blocking client cannot be made inside a runtime.
            let client = std::thread::spawn(|| {
                reqwest::blocking::Client::builder().timeout(TIMEOUT).tls_certs_only([authority]).build()
            });
            let client = client.join().map_err(|_| "the client's thread panicked")??;
            SpanExporter::builder()
                .with_http()
                .with_protocol(StockProtocol::HttpBinary)
                .with_endpoint(format!("{endpoint}/v1/traces"))
                .with_http_client(client)
                .build()?
        }
    })
}

/// Names ring as the provider of TLS where no other is named, as the stock HTTP client needs it. Ours never takes it.
fn use_ring() {
    // An error means that it is named already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A provider with the stock exporter behind the default batch processor. `runtime` carries the gRPC connection and
/// must outlive the provider.
///
/// # Errors
///
/// When the endpoint does not parse.
pub fn stock(runtime: &Runtime, protocol: Protocol, endpoint: &str) -> Result<SdkTracerProvider, Failure> {
    let _context = runtime.enter();
    let exporter = stock_exporter(protocol, endpoint)?;
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource()).build())
}

/// How our exporter is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settings {
    /// Nothing is set that has a default.
    Default,
    /// Everything that waits waits less, so that failures, an open breaker and a probe fit into a few seconds.
    Quick,
}

impl Settings {
    fn transport(self, builder: ConfigBuilder) -> ConfigBuilder {
        match self {
            Self::Default => builder,
            Self::Quick => builder.with_timeout(Duration::from_millis(500)),
        }
    }

    /// The exporter with these settings.
    pub(crate) fn exporter(self, builder: Builder) -> Builder {
        match self {
            Self::Default => builder,
            Self::Quick => builder
                .with_retry_initial_delay(Duration::from_millis(50))
                .with_retry_max_delay(Duration::from_millis(400))
                .with_circuit_breaker_timeout(Duration::from_millis(500)),
        }
    }
}

/// A transport of ours to this endpoint, and a builder on top of it whose files live below `state`.
///
/// # Errors
///
/// When the endpoint does not parse.
pub fn builder(settings: Settings, protocol: Protocol, endpoint: &str, state: &Path) -> Result<Builder, Failure> {
    let transport = otlp_transport::connect(settings.transport(config(protocol, endpoint)).build()?)?;
    Ok(settings.exporter(ResilientSpanExporter::builder().with_primary(transport).with_state_dir(state)))
}

/// As [`builder`] with quick settings, without limits of ours on the size of a request: the peer's decide.
///
/// # Errors
///
/// When the endpoint does not parse.
pub fn unlimited(protocol: Protocol, endpoint: &str, state: &Path) -> Result<Builder, Failure> {
    const PLENTY: usize = 512 << 20;
    let config = config(protocol, endpoint).with_max_request_bytes(PLENTY).build()?;
    let builder = ResilientSpanExporter::builder().with_primary(otlp_transport::connect(config)?).with_state_dir(state);
    Ok(Settings::Quick.exporter(builder.with_request_max_bytes(PLENTY).with_buffer_max_bytes(PLENTY)))
}

/// The settings of a transport of ours to this endpoint.
pub fn config(protocol: Protocol, endpoint: &str) -> ConfigBuilder {
    Config::builder().with_endpoint(endpoint).with_protocol(match protocol {
        Protocol::Grpc => otlp_transport::Protocol::Grpc,
        Protocol::Http => otlp_transport::Protocol::HttpProtobuf,
    })
}

/// A provider with our exporter behind the default batch processor.
///
/// # Errors
///
/// When the builder's settings are refused.
pub fn ours(builder: Builder) -> Result<(SdkTracerProvider, Handle), Failure> {
    let exporter = builder.build()?;
    let handle = exporter.handle();
    Ok((SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource()).build(), handle))
}

/// A provider with our span processor, which takes the place of the SDK's.
///
/// # Errors
///
/// When the builder's settings are refused.
pub fn ours_by_processor(builder: Builder) -> Result<(SdkTracerProvider, Handle), Failure> {
    let processor = builder.build_processor()?;
    let handle = processor.handle();
    Ok((SdkTracerProvider::builder().with_span_processor(processor).with_resource(resource()).build(), handle))
}

/// Spans made at once where no clock sets the pace: one batch of the processor, whose queue holds four.
pub const BURST: u64 = 512;

/// Whether a burst fits into the batch processor's queue and into our buffer, where spans that are being written to
/// disk count too. With less, spans would be dropped, and should be: a debug build makes them faster than it spills.
#[must_use]
pub fn has_space(made: u64, handle: &Handle) -> bool {
    /// The buffer spills from 8,750 of its 10,000 spans on, and two batches may still follow.
    const BUFFER: u64 = 8_900;
    let ledger = handle.ledger();
    made - ledger.offered <= BURST && ledger.buffered + ledger.in_flight <= BUFFER
}

/// The resource of every application of the trials.
#[must_use]
pub fn resource() -> Resource {
    Resource::builder().with_service_name("shop").build()
}

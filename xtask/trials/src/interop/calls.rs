//! An exporter that is set up by the variables of the specification alone, and single calls whose outcome is looked at.

use std::ffi::OsString;
use std::path::Path;
use std::time::SystemTime;

use otlp_payload::{BatchId, Encoder};
use otlp_transport::{Config, Outcome, Transport};
use resilient_exporter::{Builder, ResilientSpanExporter};

use crate::contender::{self, Protocol};
use crate::{Failure, app};

/// Variables of an application's environment.
#[derive(Clone)]
pub(super) struct Vars(Vec<(&'static str, OsString)>);

impl Vars {
    pub(super) fn new(protocol: Protocol, endpoint: impl Into<OsString>) -> Self {
        let protocol = match protocol {
            Protocol::Grpc => "grpc",
            Protocol::Http => "http/protobuf",
        };
        Self(vec![]).with("OTEL_EXPORTER_OTLP_PROTOCOL", protocol).with("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.0.push((name, value.into()));
        self
    }

    /// A transport by these variables, of which none is ignored.
    fn transport(&self) -> Result<Box<dyn Transport>, Failure> {
        let value = |name: &str| Some(self.0.iter().find(|(set, _)| *set == name)?.1.clone());
        let config = Config::from_vars(value)?;
        if !config.notes().is_empty() {
            return Err(format!("the settings have notes: {:?}", config.notes()).into());
        }
        Ok(otlp_transport::connect(config)?)
    }

    /// An exporter by these variables, with its files below `state`.
    pub(super) fn exporter(&self, state: &Path) -> Result<Builder, Failure> {
        Ok(ResilientSpanExporter::builder().with_primary(self.transport()?).with_state_dir(state))
    }

    /// One call with one span, which must not arrive: no application of a check has made it.
    pub(super) fn send_stray(&self) -> Result<Outcome, Failure> {
        let spans = app::finished_spans(1);
        let id = BatchId { incarnation: 1, seq: 0 };
        let payload = Encoder::new(&contender::resource()).encode(id, SystemTime::UNIX_EPOCH, &spans);
        let transport = self.transport()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(transport.send(&payload)))
    }
}

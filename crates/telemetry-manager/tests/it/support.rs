//! Shared by the tests: a collector, an environment apart from that of the process, spans.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mock_collector::MockCollector;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use telemetry_manager::opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
use telemetry_manager::{Builder, OpenTelemetryManager};
use tempfile::TempDir;

/// Far longer than any test here waits; a test that waits this long has failed.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A collector, and a directory of the test's own.
pub(crate) struct Setup {
    pub(crate) collector: MockCollector,
    pub(crate) dir: TempDir,
}

impl Setup {
    pub(crate) fn new() -> Self {
        let collector = MockCollector::builder().with_kept_requests(100).start().expect("a collector on loopback");
        // Beside the build, where no directory above is writable by others as the system's temporary one is.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        Self { collector, dir }
    }

    /// The variables that most tests need, and `more`.
    pub(crate) fn vars(&self, more: &[(&str, &str)]) -> BTreeMap<String, OsString> {
        let mut vars = BTreeMap::from([
            ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), self.collector.grpc_endpoint().into()),
            ("OTEL_SERVICE_NAME".to_owned(), "my-api".into()),
            ("HOME".to_owned(), self.dir.path().into()),
        ]);
        vars.extend(more.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))));
        vars
    }

    /// A builder that reads these variables and leaves the globals alone.
    pub(crate) fn builder(&self, more: &[(&str, &str)]) -> Builder {
        let vars = self.vars(more);
        OpenTelemetryManager::builder().with_vars(move |name| vars.get(name).cloned()).with_globals(false)
    }

    pub(crate) fn manager(&self, more: &[(&str, &str)]) -> OpenTelemetryManager {
        self.builder(more).build().expect("telemetry starts")
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().expect("a Unicode path").to_owned()
    }

    /// The requests that the collector received, decoded by `opentelemetry-proto`.
    pub(crate) fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        let decode = |request: mock_collector::Request| ExportTraceServiceRequest::decode(request.body);
        self.collector.requests().into_iter().map(|request| decode(request).expect("protobuf")).collect()
    }

    /// The text of a resource attribute of the first request.
    pub(crate) fn resource_attribute(&self, key: &str) -> Option<String> {
        use opentelemetry_proto::tonic::common::v1::any_value::Value;
        let resource = self.requests().first()?.resource_spans.first()?.resource.clone()?;
        let attribute = resource.attributes.into_iter().find(|attribute| attribute.key == key)?;
        match attribute.value?.value? {
            Value::StringValue(text) => Some(text),
            other => panic!("{key} is {other:?}"),
        }
    }
}

/// Ends `spans` spans.
pub(crate) fn trace(manager: &OpenTelemetryManager, spans: usize) {
    let tracer = manager.tracer_provider().tracer("test");
    for _ in 0..spans {
        tracer.start("work").end();
    }
}

/// Polls a condition until it holds, and panics with `expected` after [`LONG`].
#[track_caller]
pub(crate) fn eventually(expected: &str, mut condition: impl FnMut() -> bool) {
    let mut waited = Duration::ZERO;
    while !condition() {
        assert!(waited < LONG, "waited {LONG:?} in vain: {expected}");
        let pause = Duration::from_millis(2);
        std::thread::park_timeout(pause);
        waited += pause;
    }
}

/// The paths of all files below `dir`.
pub(crate) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

/// Whether a fallback file is below `dir`.
pub(crate) fn has_fallback_file(dir: &Path) -> bool {
    files_below(dir).iter().any(|file| file.file_name().expect("a name").as_encoded_bytes().starts_with(b"traces-"))
}

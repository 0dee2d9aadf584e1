//! The files that settings of the transport name are read for sending only, and once.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use telemetry_manager::opentelemetry_sdk::error::OTelSdkResult;
use telemetry_manager::opentelemetry_sdk::trace::{SpanData, SpanExporter};
use telemetry_manager::{OpenTelemetryManager, Settings};

/// A certificate of nobody.
const CERTIFICATE: &str = include_str!("../../../otlp-transport/tests/it/tls/keys/weak.ca.pem");

/// A directory with a file of authorities and one of headers, and a watch over what is opened in it.
struct Files {
    dir: tempfile::TempDir,
    opened: OwnedFd,
}

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        std::fs::write(dir.path().join("ca.pem"), CERTIFICATE).expect("written");
        std::fs::write(dir.path().join("headers"), "x-key=canary").expect("written");
        let opened = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).expect("Linux");
        inotify::add_watch(&opened, dir.path(), WatchFlags::OPEN).expect("watched");
        Self { dir, opened }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The variables of a program that sends to an endpoint with TLS, with both files.
    fn vars(&self, more: &[(&str, &str)]) -> Vec<(String, String)> {
        let text = |path: &Path| path.to_str().expect("Unicode").to_owned();
        let mut vars = vec![
            ("HOME".to_owned(), text(self.dir.path())),
            ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), "https://127.0.0.1:9".to_owned()),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE".to_owned(), text(&self.path("ca.pem"))),
            ("TELEMETRY_HEADERS_FILE".to_owned(), text(&self.path("headers"))),
        ];
        vars.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        vars
    }

    /// The names of the files that were opened since the last call, in the order of the alphabet.
    fn opened(&self) -> Vec<String> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.opened, &mut buffer);
        let mut names = Vec::new();
        while let Ok(event) = events.next() {
            let name = event.file_name().map(CStr::to_string_lossy).unwrap_or_default().into_owned();
            if ["ca.pem", "headers"].contains(&name.as_str()) {
                names.push(name);
            }
        }
        names.sort();
        names
    }
}

const OFF: [(&str, &str); 2] = [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")];

#[test]
fn a_set_up_reads_each_file_once() {
    let files = Files::new();
    let settings = Settings::from_environment(files.vars(&[])).expect("valid");
    assert!(settings.warnings().is_empty(), "{:?}", settings.warnings());
    assert_eq!(files.opened(), ["ca.pem", "headers"]);
    let manager = OpenTelemetryManager::builder().with_environment(files.vars(&[])).with_globals(false).build();
    drop(manager.expect("telemetry starts"));
    assert_eq!(files.opened(), ["ca.pem", "headers"]);
}

#[test]
fn with_telemetry_off_no_file_is_opened_or_missed() {
    let files = Files::new();
    for off in OFF {
        let settings = Settings::from_environment(files.vars(&[off])).expect("off");
        assert!(settings.warnings().is_empty(), "{:?}", settings.warnings());
        assert_eq!(settings.transport.endpoint(), "https://127.0.0.1:9");
        assert_eq!(settings.transport.certificate(), Some(&*files.path("ca.pem")));
        assert_eq!(settings.transport.headers_file(), files.path("headers").to_str());
    }
    let code = OpenTelemetryManager::builder().with_environment(files.vars(&[])).with_globals(false);
    drop(code.with_sdk_disabled(true).build().expect("off"));
    assert_eq!(files.opened(), [""; 0]);
    for name in ["ca.pem", "headers"] {
        std::fs::remove_file(files.path(name)).expect("removed");
    }
    for off in OFF {
        let settings = Settings::from_environment(files.vars(&[off])).expect("off");
        assert!(settings.warnings().is_empty(), "{:?}", settings.warnings());
    }
    assert!(Settings::from_environment(files.vars(&[])).is_err(), "with telemetry on it is missed");
}

#[derive(Debug)]
struct Foreign;

impl SpanExporter for Foreign {
    async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
        Ok(())
    }
}

#[test]
fn a_program_with_a_transport_of_its_own_has_no_use_for_the_files() {
    let files = Files::new();
    let builder = OpenTelemetryManager::builder().with_environment(files.vars(&[])).with_globals(false);
    let manager = builder.with_primary(Foreign).build().expect("telemetry starts");
    assert!(manager.warnings().is_empty(), "{:?}", manager.warnings());
    assert_eq!(files.opened(), [""; 0]);
}

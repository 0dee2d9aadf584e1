//! The lines of the log about the start. A program sets telemetry up before its log subscriber, which may need the
//! tracer; the lines then go out again once there is a subscriber.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};

use crate::log;
use crate::settings::Warning;

/// The lines about one start.
#[derive(Debug)]
pub(crate) struct StartLines {
    lines: Vec<Line>,
    /// No subscriber has got them.
    is_pending: AtomicBool,
}

#[derive(Debug)]
enum Line {
    Failed(String),
    Setting(Warning),
    /// A warning that the exporter has logged, about no setting.
    Storage(String),
    /// A sentence about settings that asks for no change.
    Remark(String),
    Summary(String),
}

impl Line {
    fn log(&self) {
        match self {
            Self::Failed(error) => log::report_setup(error),
            Self::Setting(warning) => log::warn_of_setting(&warning.setting, &warning.message),
            Self::Storage(warning) => log::warn_of_storage(warning),
            Self::Remark(text) | Self::Summary(text) => log::state_settings(text),
        }
    }

    /// The exporter has logged it too.
    fn is_logged_twice(&self) -> bool {
        match self {
            Self::Setting(warning) => warning.is_noted,
            Self::Storage(_) => true,
            Self::Failed(_) | Self::Remark(_) | Self::Summary(_) => false,
        }
    }
}

impl StartLines {
    /// The lines about a start with these warnings about settings and of the exporter, and these remarks.
    pub(crate) fn new(warnings: &[Warning], of_exporter: &[String], remarks: &[String], summary: String) -> Self {
        let settings = warnings.iter().cloned().map(Line::Setting);
        let is_new = |warning: &&String| warnings.iter().all(|known| !known.is_noted || known.message != **warning);
        let storage = of_exporter.iter().filter(is_new).cloned().map(Line::Storage);
        let remarks = remarks.iter().cloned().map(Line::Remark);
        Self::of(settings.chain(storage).chain(remarks).chain([Line::Summary(summary)]).collect())
    }

    /// The lines about a set-up that failed, and about settings that are no reason of that.
    pub(crate) fn failed(error: String, warnings: &[Warning]) -> Self {
        let settings = warnings.iter().cloned().map(Line::Setting);
        Self::of([Line::Failed(error)].into_iter().chain(settings).collect())
    }

    fn of(lines: Vec<Line>) -> Self {
        Self { lines, is_pending: AtomicBool::new(false) }
    }

    /// Logs the lines. Without a subscriber they are lost, and [`repeat`](Self::repeat) logs them again.
    pub(crate) fn log(&self) {
        self.is_pending.store(!log::has_subscriber(), Ordering::Release);
        self.lines.iter().filter(|line| !line.is_logged_twice()).for_each(Line::log);
    }

    /// Logs the lines once more if no subscriber has got them and there is one now. Else the cost is a look at an
    /// atomic boolean.
    pub(crate) fn repeat(&self) {
        let is_due = || self.is_pending.load(Ordering::Acquire) && log::has_subscriber();
        if is_due() && self.is_pending.swap(false, Ordering::AcqRel) {
            self.lines.iter().for_each(Line::log);
        }
    }

    /// Waits on a thread of its own, for [`LONGEST_WAIT`], for the subscriber of a program that sets it right after
    /// telemetry. A service that ends no span at its start has its lines all the same.
    pub(crate) fn wait(self: &Arc<Self>) {
        if !self.is_pending.load(Ordering::Acquire) {
            return;
        }
        let lines = Arc::downgrade(self);
        let thread = std::thread::Builder::new().name("holdfast-start".to_owned());
        // Without the thread the first export logs them.
        let _ = thread.spawn(move || wait(&lines));
    }
}

/// The first pause between two looks for a subscriber; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// The time in which a subscriber is looked for, about.
const LONGEST_WAIT: Duration = Duration::from_millis(2_500);

fn wait(lines: &Weak<StartLines>) {
    let _suppressed = Context::enter_telemetry_suppressed_scope();
    let mut pause = FIRST_PAUSE;
    while pause < LONGEST_WAIT {
        std::thread::park_timeout(pause);
        let Some(lines) = lines.upgrade() else { return };
        lines.repeat();
        if !lines.is_pending.load(Ordering::Acquire) {
            return;
        }
        pause *= 2;
    }
}

/// An exporter whose exports log the lines of the start, if the log has not got them.
#[derive(Debug)]
pub(crate) struct Telling<E> {
    pub(crate) exporter: E,
    pub(crate) lines: Arc<StartLines>,
}

impl<E: SpanExporter> SpanExporter for Telling<E> {
    fn export(&self, batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        self.lines.repeat();
        self.exporter.export(batch)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn shutdown(&self) -> OTelSdkResult {
        self.exporter.shutdown()
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

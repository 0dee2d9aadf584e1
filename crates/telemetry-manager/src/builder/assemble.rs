//! Builds a running provider from the settings.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use opentelemetry::trace::noop::NoopTracerProvider;
use opentelemetry::{KeyValue, Value, global};
use opentelemetry_sdk::trace::SdkTracerProvider;
use otlp_transport::Transport;
use resilient_exporter::ResilientSpanExporter;

use super::Builder;
use super::storage::Storage;
use crate::error::SetupError;
use crate::manager::{Injected, OpenTelemetryManager};
use crate::processor::{Processor, Running};
use crate::settings::table::{SERVICE_NAME, SERVICE_VERSION};
use crate::settings::{Environment, Refused, Settings, TracesExporter, UNKNOWN_SERVICE, resolve};
use crate::start::StartLines;
use crate::{propagation, resource};

impl Builder {
    /// Checks all settings, starts the exporter's two threads, and sets the globals unless
    /// [`with_globals`](Self::with_globals) forbids it. Makes no connection. Needs no tokio runtime; the exporter's own
    /// is visible to no other thread.
    ///
    /// # Errors
    ///
    /// [`SetupError`] names each setting that is not accepted, its value unless secret, and the accepted values, or the
    /// directory that cannot be used, or says that the system refuses a thread. No thread of telemetry runs then.
    pub fn build(mut self) -> Result<OpenTelemetryManager, SetupError> {
        self.try_build()
    }

    /// The same for a program that must start with any settings: where [`build`](Self::build) has an error,
    /// there is no telemetry, as with `OTEL_SDK_DISABLED=true`. The error is logged, stands in
    /// [`OpenTelemetryManager::setup_error`] and [`warnings`](OpenTelemetryManager::warnings), and makes health
    /// *unhealthy*. A panic of a closure or a transport that was given to the builder counts as an error.
    ///
    /// ```
    /// use telemetry_manager::OpenTelemetryManager;
    ///
    /// let builder = OpenTelemetryManager::builder().with_endpoint("tcp://collector:4317"); // an error of `build`
    /// let telemetry = builder.with_vars(|_| None).build_or_disabled();
    /// assert!(telemetry.setup_error().is_some());
    /// assert!(!telemetry.health().initialized);
    /// ```
    pub fn build_or_disabled(mut self) -> OpenTelemetryManager {
        let error = match catch_unwind(AssertUnwindSafe(|| self.try_build())) {
            Ok(Ok(manager)) => return manager,
            Ok(Err(error)) => error,
            Err(panic) => SetupError::of_panic(&*panic),
        };
        let warnings = std::mem::take(&mut self.warnings);
        // Propagators and the name of the service have an effect still.
        let mut disabled = self.with_sdk_disabled(true);
        let settings = catch_unwind(AssertUnwindSafe(|| disabled.settings()));
        let mut settings = match settings {
            Ok(Ok(settings)) => settings,
            // The closure that panicked before: the settings of code are left out.
            _ => {
                let settings = Builder::default().with_vars(|_| None).with_sdk_disabled(true).settings();
                settings.expect("the defaults are accepted")
            }
        };
        settings.warnings.clear();
        let message = format!("telemetry is off, and the program goes on without it: {error}");
        settings.warn(error.setting(), message.clone());
        let (provider, running) = (SdkTracerProvider::builder().build(), None);
        let lines = StartLines::failed(message, &warnings);
        settings.warnings.extend(warnings);
        disabled.start(provider, running, settings, Arc::new(lines), Some(error))
    }

    fn try_build(&mut self) -> Result<OpenTelemetryManager, SetupError> {
        let mut settings = self.settings()?;
        let resource = resource::of(&settings, &self.attributes);
        let exports = !settings.sdk_disabled && settings.traces_exporter == TracesExporter::Otlp;
        let processor = if exports { Some(self.processor(&mut settings)?) } else { None };
        let provider = SdkTracerProvider::builder()
            .with_span_limits(settings.span_limits)
            .with_sampler(self.sampler.take().unwrap_or_else(|| Box::new(settings.sdk_sampler())))
            .with_resource(resource.clone());
        let of_exporter = processor.as_ref().map_or(&[][..], Processor::start_warnings);
        let lines = StartLines::new(&settings.warnings, of_exporter, &settings.remarks, settings.summary());
        let lines = Arc::new(lines);
        let (provider, running) = match processor {
            Some(processor) => {
                let (provider, running) = processor.install(provider, &resource, &settings, &lines)?;
                (provider.build(), Some(running))
            }
            None => (provider.build(), None),
        };
        Ok(self.start(provider, running, settings, lines, None))
    }

    /// Sets the globals, and logs the lines of the start.
    fn start(
        &self,
        provider: SdkTracerProvider,
        running: Option<Running>,
        settings: Settings,
        lines: Arc<StartLines>,
        error: Option<SetupError>,
    ) -> OpenTelemetryManager {
        if settings.sdk_disabled {
            // The tracers of a provider that is shut down do nothing, at no cost.
            let _ = provider.shutdown();
        }
        if self.globals {
            propagation::install(&settings.propagators);
            if settings.sdk_disabled {
                global::set_tracer_provider(NoopTracerProvider::new());
            } else {
                global::set_tracer_provider(provider.clone());
            }
        }
        lines.log();
        if running.is_some() {
            // Where nothing is exported there is no thread.
            lines.wait();
        }
        let injected = Injected { faults: self.faults.clone(), is_own: self.primary.is_some() };
        OpenTelemetryManager::new(provider, running, settings, lines, error, injected)
    }

    /// The settings that [`build`](Self::build) would use, without starting anything.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build), except for errors that only opening the directories shows.
    pub fn settings(&mut self) -> Result<Settings, SetupError> {
        let attribute = |key| match self.attributes.iter().rfind(|attribute| attribute.key.as_str() == key) {
            Some(KeyValue { value: Value::String(text), .. }) => Some(text.to_string()),
            _ => None,
        };
        let (name, version) = (attribute("service.name"), attribute("service.version"));
        if let Some(name) = name
            && self.code.given.insert(SERVICE_NAME.builder)
        {
            self.code.changes.push(Box::new(move |settings| settings.service_name.clone_from(&name)));
        }
        if let Some(version) = version
            && self.code.given.insert(SERVICE_VERSION.builder)
        {
            self.code.changes.push(Box::new(move |settings| settings.service_version = Some(version.clone())));
        }
        // Of attributes with one key the resource has the last one, whatever its type.
        let namespace = self.attributes.iter().rfind(|attribute| attribute.key.as_str() == "service.namespace");
        self.code.namespace = namespace.map(|attribute| attribute.value.as_str().into_owned());
        let default_name = self.default_service_name.clone().filter(|name| !name.trim().is_empty());
        let default_service_name = default_name.unwrap_or_else(unknown_service);
        self.code.has_transport = self.primary.is_some();
        let names = (self.names)();
        let environment = Environment { vars: &*self.vars, names: &names };
        let resolved = resolve(environment, &self.code, self.transport.clone(), &default_service_name);
        self.warnings = match &resolved {
            Ok(settings) => settings.warnings.clone(),
            Err(Refused { warnings, .. }) => warnings.clone(),
        };
        resolved.map_err(|refused| refused.error)
    }

    fn processor(&self, settings: &mut Settings) -> Result<Processor, SetupError> {
        let primary = match &self.primary {
            Some(primary) => Arc::clone(primary),
            None => Arc::from(otlp_transport::connect(settings.transport.clone())?),
        };
        let failover = settings.failover.iter().map(|config| otlp_transport::connect(config.clone()).map(Arc::from));
        let failover: Vec<Arc<dyn Transport>> = failover.collect::<Result<_, _>>()?;
        let mut storage = Storage::prepare(settings)?;
        loop {
            let primary = self.faults.wrap(Arc::clone(&primary), settings.transport.timeout());
            let builder = ResilientSpanExporter::builder().with_primary(primary);
            let builder = failover.iter().cloned().fold(builder, resilient_exporter::Builder::with_failover);
            // The exporter reports trouble of storage as an error: the manager knows the variable that it is about.
            let mut required = settings.exporter.clone();
            required.state_dir_required = true;
            let builder = (self.exporter)(builder.with_settings(required));
            match Processor::build(settings.processor, storage.apply(builder)) {
                Ok(processor) => return Ok(processor),
                Err(error) => storage.refused(settings, error)?,
            }
        }
    }
}

/// `unknown_service:` and the name of the program, as the resource SDK specification demands.
fn unknown_service() -> String {
    let program = std::env::current_exe().ok();
    let name = program.as_deref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
    name.map_or_else(|| UNKNOWN_SERVICE.to_owned(), |name| format!("{UNKNOWN_SERVICE}:{name}"))
}

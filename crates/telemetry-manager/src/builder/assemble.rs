//! Builds a running provider from the settings.

use std::sync::Arc;

use opentelemetry::trace::noop::NoopTracerProvider;
use opentelemetry::{KeyValue, Value, global};
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, TracerProviderBuilder};
use otlp_transport::{ErrorChain, Transport};
use resilient_exporter::{BuildError, ResilientSpanExporter};

use super::Builder;
use crate::error::SetupError;
use crate::log;
use crate::manager::OpenTelemetryManager;
use crate::settings::directories::VARIABLES;
use crate::settings::table::{SERVICE_NAME, SERVICE_VERSION, STATE_DIR};
use crate::settings::{Settings, TracesExporter, UNKNOWN_SERVICE, resolve};
use crate::{propagation, resource};

impl Builder {
    /// Checks all settings, starts the batch processor's thread and the exporter's two, and sets the globals unless
    /// [`with_globals`](Self::with_globals) forbids it. Makes no connection. Needs no tokio runtime; the exporter's own
    /// is visible to no other thread.
    ///
    /// # Errors
    ///
    /// [`SetupError`] names each setting that is not accepted, its value unless secret, and the accepted values, or the
    /// directory that cannot be used. No thread was started then.
    pub fn build(mut self) -> Result<OpenTelemetryManager, SetupError> {
        let mut settings = self.settings()?;
        let resource = resource::of(&settings, &self.attributes);
        let provider = SdkTracerProvider::builder()
            .with_span_limits(settings.span_limits)
            .with_sampler(self.sampler.take().unwrap_or_else(|| Box::new(settings.sdk_sampler())))
            .with_resource(resource);
        let exports = !settings.sdk_disabled && settings.traces_exporter == TracesExporter::Otlp;
        let (provider, handle) = if exports {
            let exporter = self.exporter(&mut settings)?;
            let handle = exporter.handle();
            (with_batches(provider, exporter, &settings).build(), Some(handle))
        } else {
            (provider.build(), None)
        };
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
        // An exporter that is asked for files and has no directory logs that itself.
        let logged = if handle.is_some() && settings.lacks_directory() { STATE_DIR.name } else { "" };
        for warning in settings.warnings.iter().filter(|warning| warning.setting != logged) {
            log::warn_of_setting(warning.setting, &warning.to_string());
        }
        log::state_settings(&settings.summary());
        Ok(OpenTelemetryManager::new(provider, handle, settings))
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
        resolve(&*self.vars, &self.code, self.transport.clone(), &default_service_name)
    }

    fn exporter(&self, settings: &mut Settings) -> Result<ResilientSpanExporter, SetupError> {
        let primary = match &self.primary {
            Some(primary) => Arc::clone(primary),
            None => Arc::from(otlp_transport::connect(settings.transport.clone())?),
        };
        let built = (self.exporter)(exporter_builder(settings, Arc::clone(&primary))).build();
        let error = match built {
            Err(BuildError::Fallback(error)) => error,
            built => return Ok(built?),
        };
        let (state, files) = (settings.chosen.state_dir_from, settings.chosen.fallback_dir_from);
        let has_default_state_dir = VARIABLES.contains(&state);
        match (settings.exporter.fallback.dir.clone(), settings.exporter.state_dir.take()) {
            (Some(path), _) => Err(SetupError::Directory { setting: files, path, error }),
            // No user chose the default directory: a program must start without it.
            (None, Some(path)) if has_default_state_dir => {
                let message = format!(
                    "{} cannot be used ({}): spans are kept in memory only and are lost when the buffer overflows; set {} to \
                     {}",
                    path.display(),
                    ErrorChain(&error),
                    STATE_DIR.name,
                    STATE_DIR.accepted()
                );
                settings.warn(STATE_DIR.name, message);
                Ok((self.exporter)(exporter_builder(settings, primary)).build()?)
            }
            (None, Some(path)) => Err(SetupError::Directory { setting: state, path, error }),
            // The caller's `with_exporter` chose the directory.
            (None, None) => Err(SetupError::Exporter(BuildError::Fallback(error))),
        }
    }
}

fn exporter_builder(settings: &Settings, primary: Arc<dyn Transport>) -> resilient_exporter::Builder {
    ResilientSpanExporter::builder().with_primary(primary).with_settings(settings.exporter.clone())
}

fn with_batches(
    provider: TracerProviderBuilder,
    exporter: ResilientSpanExporter,
    settings: &Settings,
) -> TracerProviderBuilder {
    // All three fields are set, so that the SDK's own reading of the environment decides none.
    let config = BatchConfigBuilder::default()
        .with_scheduled_delay(settings.batch.schedule_delay)
        .with_max_queue_size(settings.batch.max_queue_size)
        .with_max_export_batch_size(settings.batch.max_export_batch_size)
        .build();
    provider.with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(config).build())
}

/// `unknown_service:` and the name of the program, as the resource SDK specification demands.
fn unknown_service() -> String {
    let program = std::env::current_exe().ok();
    let name = program.as_deref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
    name.map_or_else(|| UNKNOWN_SERVICE.to_owned(), |name| format!("{UNKNOWN_SERVICE}:{name}"))
}

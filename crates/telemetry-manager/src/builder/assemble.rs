//! From settings to a running provider.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::noop::NoopTracerProvider;
use opentelemetry::{KeyValue, Value, global};
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, TracerProviderBuilder};
use otlp_transport::{ErrorChain, Transport};
use resilient_exporter::{BuildError, ResilientSpanExporter};

use super::Builder;
use crate::error::SetupError;
use crate::manager::OpenTelemetryManager;
use crate::settings::table::{FALLBACK_DIR, SERVICE_NAME, SERVICE_VERSION, STATE_DIR};
use crate::settings::{Given, Setting, Settings, StateDir, TracesExporter, UNKNOWN_SERVICE, Warning};
use crate::{propagation, resource};

impl Builder {
    /// Checks everything and starts: the batch processor's thread, the exporter's two, and, where asked for, the globals.
    /// Makes no connection. Needs no tokio runtime and starts none that others see.
    ///
    /// # Errors
    ///
    /// [`SetupError`] names each setting that is not accepted, its value unless secret, and what is accepted, or says why
    /// the directory cannot be used. Nothing was started then.
    pub fn build(mut self) -> Result<OpenTelemetryManager, SetupError> {
        let mut settings = self.settings()?;
        let resource = resource::of(&settings, &self.attributes);
        let provider = SdkTracerProvider::builder()
            .with_span_limits(self.span_limits.unwrap_or(settings.span_limits))
            .with_sampler(self.sampler.take().unwrap_or_else(|| Box::new(settings.sampler.clone())))
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
            // A provider that is shut down hands out tracers that do nothing, at the cost of nothing.
            let _ = provider.shutdown();
        }
        if self.globals {
            propagation::install(self.propagators.as_deref().unwrap_or(&settings.propagators));
            if settings.sdk_disabled {
                global::set_tracer_provider(NoopTracerProvider::new());
            } else {
                global::set_tracer_provider(provider.clone());
            }
        }
        // That there is no directory the exporter says itself, if it is asked for files.
        let said = if handle.is_some() && settings.lacks_directory() { STATE_DIR.name } else { "" };
        for warning in settings.warnings.iter().filter(|warning| warning.setting != said) {
            tracing::warn!(setting = warning.setting, "{warning}");
        }
        tracing::info!("telemetry: {}", settings.summary());
        Ok(OpenTelemetryManager::new(provider, handle, settings))
    }

    /// The settings that [`build`](Self::build) would use, without starting anything.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build), but for what only the file system can tell.
    pub fn settings(&mut self) -> Result<Settings, SetupError> {
        for (setting, key) in [(&SERVICE_NAME, "service.name"), (&SERVICE_VERSION, "service.version")] {
            let given = self.attributes.iter().rfind(|attribute| attribute.key.as_str() == key);
            if let Some(KeyValue { value: Value::String(text), .. }) = given {
                self.overrides.entry(setting.name).or_insert_with(|| Given::Text(text.to_string()));
            }
        }
        let default_service_name = self.default_service_name.clone().unwrap_or_else(unknown_service);
        Settings::resolve(&*self.vars, &self.overrides, self.transport.clone(), &default_service_name)
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
        match (settings.fallback.dir.clone(), settings.state_dir.take()) {
            (Some(path), _) => Err(SetupError::Directory { setting: self.source(&FALLBACK_DIR), path, error }),
            (None, Some(StateDir::Chosen(path))) => {
                Err(SetupError::Directory { setting: self.source(&STATE_DIR), path, error })
            }
            // Nobody chose this one, so it is not used, whatever is wrong with it; a program must not fail to start over it.
            (None, Some(StateDir::Default(path))) => {
                let message = format!(
                    "{} cannot be used ({}): spans are kept in memory only and are lost when the buffer overflows; set {} to \
                     {}",
                    path.display(),
                    ErrorChain(&error),
                    STATE_DIR.name,
                    STATE_DIR.accepted()
                );
                settings.warnings.push(Warning { setting: STATE_DIR.name, message });
                Ok((self.exporter)(exporter_builder(settings, primary)).build()?)
            }
            // A directory that the caller's own adjustment chose.
            (None, None) => Err(SetupError::Exporter(BuildError::Fallback(error))),
        }
    }

    /// Where a setting's value came from.
    fn source(&self, setting: &Setting) -> &'static str {
        if self.overrides.contains_key(setting.name) { setting.builder } else { setting.name }
    }
}

fn exporter_builder(settings: &Settings, primary: Arc<dyn Transport>) -> resilient_exporter::Builder {
    let Settings { breaker, retry, buffer, journal, fallback, .. } = settings;
    let mut builder = ResilientSpanExporter::builder()
        .with_primary(primary)
        .with_request_max_bytes(settings.transport.max_request_bytes())
        // The transport's own time-out comes first; this one is for transports whose own does not hold.
        .with_attempt_timeout(settings.transport.timeout().saturating_mul(2).max(Duration::from_secs(60)))
        .with_circuit_breaker_threshold(breaker.failure_threshold)
        .with_circuit_breaker_timeout(breaker.recovery_timeout)
        .with_half_open_probes(breaker.half_open_probes)
        .with_half_open_successes(breaker.half_open_successes)
        .with_retry_max_retries(retry.max_retries)
        .with_retry_initial_delay(retry.initial_delay)
        .with_retry_multiplier(retry.multiplier)
        .with_retry_max_delay(retry.max_delay)
        .with_retry_jitter(retry.jitter)
        .with_buffer_size(buffer.max_spans)
        .with_buffer_max_bytes(buffer.max_bytes)
        .with_buffer_max_age(buffer.max_age)
        .with_journal_enabled(journal.enabled)
        .with_journal_sync(journal.sync)
        .with_journal_sync_timeout(journal.sync_timeout)
        .with_fallback_enabled(fallback.enabled)
        .with_fallback_max_bytes(fallback.max_bytes)
        .with_fallback_max_age(fallback.max_age)
        .with_fallback_compression(fallback.compression)
        .with_fallback_format(fallback.format)
        .with_fallback_compress_above(fallback.compress_above)
        .with_dead_letter_max_bytes(settings.dead_letters.max_bytes)
        .with_dead_letter_max_age(settings.dead_letters.max_age)
        .with_replay_rate(settings.replay_rate);
    if let Some(state_dir) = &settings.state_dir {
        builder = builder.with_state_dir(state_dir.path());
    }
    if let Some(dir) = &fallback.dir {
        builder = builder.with_fallback_dir(dir);
    }
    builder
}

fn with_batches(
    provider: TracerProviderBuilder,
    exporter: ResilientSpanExporter,
    settings: &Settings,
) -> TracerProviderBuilder {
    // Every field that counts is set: the SDK's own reading of the environment decides nothing.
    let config = BatchConfigBuilder::default()
        .with_scheduled_delay(settings.batch.schedule_delay)
        .with_max_queue_size(settings.batch.max_queue_size)
        .with_max_export_batch_size(settings.batch.max_export_batch_size)
        .build();
    provider.with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(config).build())
}

/// `unknown_service:` and the name of the program, as the resource SDK specification wants it.
fn unknown_service() -> String {
    let program = std::env::current_exe().ok();
    let name = program.as_deref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
    name.map_or_else(|| UNKNOWN_SERVICE.to_owned(), |name| format!("{UNKNOWN_SERVICE}:{name}"))
}

//! Resolves the settings: code beats the environment, which beats the defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::kind::{Kind, OnBad};
use super::table::{
    BSP_MAX_EXPORT_BATCH_SIZE, BSP_MAX_QUEUE_SIZE, BUFFER_COMPRESSION, BUFFER_MAX_SPANS, FALLBACK_DIR, Group,
    JOURNAL_ENABLED, JOURNAL_STAGING, NOT_SUPPORTED, PROCESSOR, RETRY_INITIAL_DELAY, RETRY_MAX_DELAY, SAMPLER,
    SAMPLER_ARG, SETTINGS, STATE_DIR, Setting,
};
use super::{Chosen, Settings, TracesProcessor, directories, failover, off, slips, vendors};
use crate::error::{InvalidSetting, SetupError};

/// A remark about a setting: a value that is ignored, and the one that holds instead, or a value that rarely means its
/// text. Free of secrets.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Warning {
    /// The environment variable that the warning is about; for a value from code, the method of the builder.
    pub setting: String,
    /// The whole sentence, with the setting in it.
    pub message: String,
    /// The exporter logs the same.
    pub(crate) is_noted: bool,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A change that code makes to the settings.
pub(crate) type Change = Box<dyn Fn(&mut Settings) + Send>;

/// The settings that code gives.
#[derive(Default)]
pub(crate) struct Code {
    /// In the order in which the builder's methods were called.
    pub(crate) changes: Vec<Change>,
    /// The rows, by [`Setting::builder`], that a method of their own sets: their variables are not looked at. A closure
    /// may change any field of its struct; its rows are found by comparison.
    pub(crate) given: BTreeSet<&'static str>,
    /// `service.namespace` among the attributes of the resource.
    pub(crate) namespace: Option<String>,
    /// Code sends by a transport of its own: the settings of ours have no effect.
    pub(crate) has_transport: bool,
    /// Code changes the exporter's builder, which may have other transports then to fail over to.
    pub(crate) changes_exporter: bool,
}

/// Answers with the value of the variable of this name.
pub(crate) type Vars<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The variables of a program.
#[derive(Clone, Copy)]
pub(crate) struct Environment<'a> {
    pub(crate) vars: Vars<'a>,
    /// The names of all of them; none where only single ones can be asked for.
    pub(crate) names: &'a [OsString],
}

/// Settings of which some must not be guessed.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) error: SetupError,
    /// About the other settings.
    pub(crate) warnings: Vec<Warning>,
}

/// Resolves all settings. `service_name` holds where neither code nor the environment names the service.
///
/// # Errors
///
/// All values that are not accepted and must not be guessed, in the order of the table; or an error of the transport.
/// With telemetry off, none.
pub(crate) fn resolve(
    environment: Environment<'_>,
    code: &Code,
    transport: otlp_transport::ConfigBuilder,
    service_name: &str,
) -> Result<Settings, Refused> {
    let vars = environment.vars;
    let mut settings = Settings::defaults();
    let refused = read(&mut settings, vars, code);
    let before = settings.clone();
    code.changes.iter().for_each(|change| change(&mut settings));
    for row in SETTINGS {
        // `NaN` differs from itself, so it counts as changed and is refused.
        if code.given.contains(row.builder) || (row.get)(&before, row.kind) != (row.get)(&settings, row.kind) {
            settings.in_code.insert(row.name);
        }
    }
    let errors = check(&mut settings, &refused);

    if settings.service_name.is_empty() {
        service_name.clone_into(&mut settings.service_name);
    }
    if code.namespace.is_some() {
        settings.service_namespace.clone_from(&code.namespace);
    }
    warn_of_parts_that_are_off(&mut settings, vars);
    limit_batches(&mut settings, vars);
    raise_max_delay(&mut settings);
    choose_directories(&mut settings, vars);
    for &(name, why) in NOT_SUPPORTED {
        if raw(vars, name).is_some() {
            settings.warn(name, format!("{name} has no effect: {why}"));
        }
    }
    for (name, meant) in slips::mistaken(environment.names.iter()) {
        let message = format!("{name} is no setting and has no effect: is {meant} meant?");
        settings.warn(name, message);
    }

    // The host may be that of a vendor, which decides the largest request. No file is opened to know it.
    let endpoint = transport.clone().check_over(vars).ok();
    let endpoint = endpoint.as_ref().filter(|_| !code.has_transport).map(|config| config.endpoint());
    vendors::preset(&mut settings, endpoint, |name| raw(vars, name).is_some() && !refused.contains_key(name));
    let request = &mut settings.exporter.request;
    let (second, week) = (Duration::from_secs(1), Duration::from_secs(7 * 24 * 60 * 60));
    // A value out of its range is among the errors of the rows.
    let transport = transport
        .with_max_request_bytes(request.max_bytes.clamp(1 << 10, 1 << 30))
        .with_connection_max_age(settings.connection_max_age.clamp(second, week))
        .with_max_response_bytes(settings.response_max_bytes.clamp(1 << 10, 64 << 20));
    let timeout = before.exporter.request.attempt_timeout;
    if let Some(switch) = off::switch(&settings) {
        off::without_effect(&mut settings, switch, errors, transport.check_endpoints_over(vars));
        raise_attempt_timeout(&mut settings, timeout);
        return Ok(settings);
    }
    if !errors.is_empty() {
        return Err(Refused { error: SetupError::Settings(errors), warnings: settings.warnings });
    }
    // Certificates and headers are of use to the sender alone.
    if code.has_transport {
        failover::leave(&mut settings, transport.check_endpoints_over(vars), |name| raw(vars, name).is_some());
    } else {
        match transport.build_endpoints_over(vars) {
            Ok(endpoints) => failover::take(&mut settings, endpoints),
            Err(error) => return Err(Refused { error: error.into(), warnings: settings.warnings }),
        }
        if !code.changes_exporter {
            failover::warn_of_delay(&mut settings, |name| raw(vars, name).is_some());
        }
    }
    raise_attempt_timeout(&mut settings, timeout);
    Ok(settings)
}

/// Reads the variables into the settings. Returns the texts that are not accepted, by variable: their fields keep the
/// default.
fn read(settings: &mut Settings, vars: Vars<'_>, code: &Code) -> BTreeMap<&'static str, String> {
    let mut refused = BTreeMap::new();
    for row in SETTINGS.iter().filter(|row| !code.given.contains(row.builder)) {
        let Some(read) = row.read else { continue };
        let Some(text) = value(settings, row, vars) else { continue };
        if !read(row.kind, settings, &text) {
            refused.insert(row.name, text.to_string_lossy().into_owned());
        } else if let (Kind::Text(_) | Kind::Path, Some(text)) = (row.kind, text.to_str())
            && let Some(slip) = slips::in_text(text)
        {
            settings.warn(row.name, format!("{} {slip}", row.name));
        }
    }
    let listed =
        |key: &str| settings.resource_attributes.iter().rfind(|(k, _)| k == key).map(|(_, value)| value.clone());
    let (name, version, namespace) = (listed("service.name"), listed("service.version"), listed("service.namespace"));
    settings.service_namespace = namespace;
    if settings.service_name.is_empty() {
        settings.service_name = name.unwrap_or_default();
    }
    settings.service_version = settings.service_version.take().or(version);
    refused
}

/// The value of a row's variable without quotation marks around it and, for a path, without blanks around it; both are
/// warned about.
fn value(settings: &mut Settings, row: &Setting, vars: Vars<'_>) -> Option<OsString> {
    let value = raw(vars, row.name)?;
    let Some(mut text) = value.to_str() else { return Some(value) };
    let mut taken_off = |what: &str| {
        let message =
            format!("{} has {what} around its value: they are not read as a part of it; remove them", row.name);
        settings.warn(row.name, message);
    };
    if let Some(inner) = slips::unquoted(text) {
        taken_off("quotation marks, as some env files leave them,");
        text = inner;
    }
    if row.kind == Kind::Path && text.trim() != text {
        taken_off("blanks or the end of a line");
        text = text.trim();
    }
    (!text.trim().is_empty()).then(|| text.into())
}

/// Turns values that are not accepted into errors, which are returned, and warnings. A value of the environment that
/// code beats is neither.
fn check(settings: &mut Settings, refused: &BTreeMap<&'static str, String>) -> Vec<InvalidSetting> {
    let mut errors = Vec::new();
    let noted = std::mem::take(&mut settings.warnings);
    for row in SETTINGS {
        if settings.in_code.contains(row.name) {
            let value = (row.get)(settings, row.kind);
            if row.read.is_some() && !value.is_accepted_by(row.kind) {
                errors.push(InvalidSetting::in_code(row, value.shown()));
            }
            continue;
        }
        settings.warnings.extend(noted.iter().filter(|warning| warning.setting == row.name).cloned());
        // The argument of a sampler is judged only if the sampler takes it.
        let is_used = row.name != SAMPLER_ARG.name || settings.sampler.takes_ratio();
        let is_error = match row.on_bad {
            OnBad::Default => false,
            OnBad::Error => true,
            OnBad::Storage => settings.exporter.state_dir_required,
        };
        match refused.get(row.name).filter(|_| is_used) {
            Some(text) if is_error => errors.push(InvalidSetting::in_environment(row, text)),
            Some(text) => refuse(settings, row, text),
            None => {}
        }
    }
    errors
}

/// Warns about a value of the environment that is not accepted.
fn refuse(settings: &mut Settings, row: &Setting, text: &str) {
    let holds = row.value(settings);
    let instead = if holds.is_empty() { "it is ignored".to_owned() } else { format!("{holds} is used") };
    let (accepted, hint, shown) = (row.accepted(), slips::hint(row.kind, text), slips::before_next(text));
    settings.warn(row.name, format!("{}={shown:?} is not accepted, {instead}; accepted is {accepted}{hint}", row.name));
}

/// Warns of variables whose value differs from the default and that belong to a part which is off.
fn warn_of_parts_that_are_off(settings: &mut Settings, vars: Vars<'_>) {
    let is_given = |settings: &Settings, row: &Setting| {
        !settings.in_code.contains(row.name) && raw(vars, row.name).is_some() && row.value(settings) != row.default()
    };
    let arg = SAMPLER_ARG;
    if is_given(settings, &arg) && raw(vars, SAMPLER.name).is_none() && !settings.in_code.contains(SAMPLER.name) {
        let message = format!("{} has no effect without {}=parentbased_traceidratio", arg.name, SAMPLER.name);
        settings.warn(arg.name, message);
    }
    for row in SETTINGS.iter().filter(|row| row.group == Group::Journal) {
        if !settings.exporter.journal.enabled && is_given(settings, row) {
            let message = format!("{} has no effect without {}=true", row.name, JOURNAL_ENABLED.name);
            settings.warn(row.name, message);
        }
    }
    if settings.exporter.journal.enabled && is_given(settings, &BUFFER_COMPRESSION) {
        let name = BUFFER_COMPRESSION.name;
        let message =
            format!("{name} has no effect with {}=true: batches leave memory for the journal", JOURNAL_ENABLED.name);
        settings.warn(name, message);
    }
    let (queue, staging) = (BSP_MAX_QUEUE_SIZE, JOURNAL_STAGING);
    let without = match settings.processor {
        TracesProcessor::Resilient if is_given(settings, &queue) => {
            Some((queue, "=batch: there is no queue; TELEMETRY_BUFFER_MAX_SPANS is the limit on spans in memory"))
        }
        TracesProcessor::Batch if settings.exporter.journal.enabled && is_given(settings, &staging) => Some((
            staging,
            "=resilient: OTEL_BSP_SCHEDULE_DELAY is the longest stay in the queue of the other processor",
        )),
        TracesProcessor::Resilient | TracesProcessor::Batch => None,
    };
    if let Some((row, why)) = without {
        let message = format!("{} has no effect without {}{why}", row.name, PROCESSOR.name);
        settings.warn(row.name, message);
    }
}

/// The shortest time between two batches: with less, the thread that sends them on their way would not rest.
const SHORTEST_DELAY: Duration = Duration::from_millis(10);

/// The largest queue: the SDK takes memory for all of its spans at the start, here 32 MiB at most.
const LARGEST_QUEUE: usize = 65_536;

/// Brings the settings of the batches to values that the processor can work with, and gives them to the exporter too.
fn limit_batches(settings: &mut Settings, vars: Vars<'_>) {
    let is_queued = settings.processor == TracesProcessor::Batch;
    let batch = &mut settings.batch;
    if is_queued || !batch.schedule_delay.is_zero() {
        batch.schedule_delay = batch.schedule_delay.max(SHORTEST_DELAY);
    }
    if is_queued {
        limit_queue(settings, vars);
    }
    let (batch, of_exporter) = (settings.batch, &mut settings.exporter.processor);
    of_exporter.scheduled_delay = batch.schedule_delay;
    of_exporter.max_export_batch_size = batch.max_export_batch_size;
    of_exporter.export_timeout = batch.export_timeout;
}

/// Brings the queue of the SDK's processor, and a batch of it, to sizes that it can work with.
fn limit_queue(settings: &mut Settings, vars: Vars<'_>) {
    let (row, queue) = (BSP_MAX_QUEUE_SIZE, settings.batch.max_queue_size);
    if queue > LARGEST_QUEUE {
        let message = format!(
            "{} of {queue} is more than {LARGEST_QUEUE}, which is used: the SDK takes memory for the whole queue at its \
             start, and the exporter empties it at once; {} is the buffer that an outage fills",
            row.name, BUFFER_MAX_SPANS.name
        );
        settings.warn(row.name, message);
        settings.batch.max_queue_size = LARGEST_QUEUE;
    }
    let (size, queue) = (settings.batch.max_export_batch_size, settings.batch.max_queue_size);
    if size <= queue {
        return;
    }
    // The default of the batch over a small queue needs no warning; a number that a user wrote does.
    let row = BSP_MAX_EXPORT_BATCH_SIZE;
    if raw(vars, row.name).is_some() || settings.in_code.contains(row.name) {
        let message =
            format!("{} of {size} is above {} of {queue}, which is used for both", row.name, BSP_MAX_QUEUE_SIZE.name);
        settings.warn(row.name, message);
    }
    settings.batch.max_export_batch_size = queue;
}

fn raise_max_delay(settings: &mut Settings) {
    if settings.exporter.retry.max_delay >= settings.exporter.retry.initial_delay {
        return;
    }
    let message = format!(
        "{} of {} is shorter than {} of {}, which is used for both",
        RETRY_MAX_DELAY.name,
        RETRY_MAX_DELAY.value(settings),
        RETRY_INITIAL_DELAY.name,
        RETRY_INITIAL_DELAY.value(settings)
    );
    settings.warn(RETRY_MAX_DELAY.name, message);
    settings.exporter.retry.max_delay = settings.exporter.retry.initial_delay;
}

/// Raises the bound of an attempt, unless code has changed it: the transport's own time-out comes first; this one is
/// for transports whose own fails.
fn raise_attempt_timeout(settings: &mut Settings, default: Duration) {
    let request = &mut settings.exporter.request;
    if request.attempt_timeout == default {
        request.attempt_timeout = request.attempt_timeout.max(settings.transport.timeout().saturating_mul(2));
    }
}

/// Keeps the chosen directories, and gives the exporter those of the service in them.
fn choose_directories(settings: &mut Settings, vars: Vars<'_>) {
    let (state_dir_from, fallback_dir_from) = (settings.source(&STATE_DIR), settings.source(&FALLBACK_DIR));
    let exporter = &mut settings.exporter;
    let (state_dir, fallback_dir) = (exporter.state_dir.take(), exporter.fallback.dir.take());
    let mut chosen = Chosen { state_dir, state_dir_from, fallback_dir, fallback_dir_from };
    // The version before had no directory for each service in a chosen one.
    exporter.old_state_dirs = chosen.state_dir.iter().cloned().collect();
    exporter.old_fallback_dirs = chosen.fallback_dir.iter().cloned().collect();
    if chosen.state_dir.is_none() {
        let default = directories::default(vars);
        for (name, value) in default.ignored {
            settings.warn(name, format!("{name} has {value:?}, which is no absolute path: it is ignored"));
        }
        let old = default.old.map(|old| old.join(directories::old_directory(&settings.service_name)));
        settings.exporter.old_state_dirs.extend(old);
        (chosen.state_dir, chosen.state_dir_from) = (default.dir, default.from);
    }
    let service = settings.service();
    let of_service = |dir: &Option<PathBuf>| dir.as_ref().map(|dir| dir.join(service.directory()));
    let exporter = &mut settings.exporter;
    exporter.state_dir = of_service(&chosen.state_dir);
    exporter.fallback.dir = of_service(&chosen.fallback_dir);
    exporter.state_service = Some(service.in_layout());
    // The exporter looks into its own directory anyway.
    let state_dir = exporter.state_dir.as_ref();
    exporter.old_state_dirs.retain(|old| Some(old) != state_dir);
    settings.chosen = chosen;
}

/// Code or the environment gives this row a value that is accepted.
pub(super) fn is_given(settings: &Settings, name: &str, is_in_environment: impl Fn(&str) -> bool) -> bool {
    settings.in_code.contains(name) || is_in_environment(name)
}

/// The variable, if it is set and not blank: the specification makes no difference between the two.
pub(super) fn raw(vars: Vars<'_>, name: &str) -> Option<OsString> {
    vars(name).filter(|value| !value.to_str().is_some_and(|text| text.trim().is_empty()))
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::trace::SpanData;

    use super::*;

    #[test]
    fn the_largest_queue_takes_as_much_memory_as_its_documentation_says() {
        let slot = size_of::<SpanData>() + size_of::<usize>();
        assert!((16 << 20..=32 << 20).contains(&(LARGEST_QUEUE * slot)), "{slot} bytes a span");
    }
}

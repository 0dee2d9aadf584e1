use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::Duration;

use resilient_exporter::{BufferCompression, Compression, FallbackFormat, Refused, ReplayOrder, SyncPolicy};

use super::field::Value;
use super::kind::{Kind, OnBad};
use super::table::NOT_SUPPORTED;
use super::*;

fn from(vars: &[(&str, &str)]) -> Result<Settings, SetupError> {
    let vars: BTreeMap<&str, &str> = vars.iter().copied().collect();
    Settings::from_vars(|name| match name {
        // Most tests need some directory.
        "HOME" if !vars.contains_key("HOME") => Some("/users/someone".into()),
        _ => vars.get(name).map(OsString::from),
    })
}

pub(super) fn good(vars: &[(&str, &str)]) -> Settings {
    from(vars).unwrap_or_else(|error| panic!("{vars:?}: {error}"))
}

fn read(kind: Kind, text: &str) -> Option<Value> {
    Value::read(kind, text.as_ref())
}

pub(super) fn warnings(vars: &[(&str, &str)]) -> Vec<String> {
    good(vars).warnings().iter().map(ToString::to_string).collect()
}

#[test]
fn without_any_variable_the_documented_defaults_hold() {
    let settings = good(&[]);
    assert!(settings.warnings().is_empty(), "{:?}", settings.warnings());
    assert!(!settings.sdk_disabled);
    assert_eq!(settings.service_name, "unknown_service");
    assert_eq!(settings.service_version, None);
    assert_eq!(settings.traces_exporter, TracesExporter::Otlp);
    assert_eq!(settings.transport.endpoint(), "http://localhost:4317");
    assert_eq!(settings.transport.timeout(), Duration::from_secs(10));
    assert_eq!(settings.transport.max_request_bytes(), (4 << 20) - (64 << 10));
    assert_eq!(settings.transport.connection_max_age(), Duration::from_secs(300));
    assert_eq!(format!("{:?}", settings.sdk_sampler()), "ParentBased(AlwaysOn)");
    assert_eq!(settings.propagators, [Propagator::TraceContext, Propagator::Baggage]);
    let b = settings.batch;
    assert_eq!(b.schedule_delay, Duration::from_secs(5));
    assert_eq!((b.max_queue_size, b.max_export_batch_size, b.export_timeout), (2048, 512, Duration::from_secs(30)));
    assert_eq!(settings.processor, TracesProcessor::Resilient);
    assert_eq!(settings.exporter.processor, resilient_exporter::Processor::default());
    let breaker = &settings.exporter.circuit_breaker;
    assert_eq!((breaker.failure_threshold, breaker.recovery_timeout), (5, Duration::from_secs(60)));
    assert_eq!((breaker.half_open_probes, breaker.half_open_successes), (1, 1));
    let retry = &settings.exporter.retry;
    assert_eq!(
        (retry.max_retries, retry.initial_delay, retry.max_delay),
        (5, Duration::from_secs(1), Duration::from_secs(20))
    );
    assert_eq!((retry.multiplier, retry.jitter), (2.0, 0.25));
    let buffer = &settings.exporter.buffer;
    assert_eq!((buffer.max_spans, buffer.max_bytes, buffer.max_age), (10_000, 10 << 20, Duration::from_secs(300)));
    assert_eq!(buffer.compression, BufferCompression::None);
    let files = &settings.exporter.fallback;
    assert_eq!((files.enabled, &files.dir, files.max_bytes), (true, &None, 1 << 30));
    assert_eq!(
        (files.max_age, files.format, files.compression, files.compress_above),
        (Duration::from_secs(604_800), FallbackFormat::Json, Compression::Zstd, 64 << 10)
    );
    let letters = &settings.exporter.dead_letter;
    assert_eq!((letters.max_bytes, letters.max_age), (64 << 20, Duration::from_secs(30 * 86_400)));
    assert_eq!((settings.exporter.replay.rate, settings.exporter.refused), (None, Refused::Keep));
    assert_eq!(settings.exporter.replay.order, ReplayOrder::Oldest);
    let shutdown = &settings.exporter.shutdown;
    assert_eq!((shutdown.timeout, shutdown.replay), (Duration::from_secs(5), Duration::from_secs(1)));
    assert_eq!(settings.exporter.threads.niceness, 5);
    let journal = &settings.exporter.journal;
    assert_eq!(
        (journal.enabled, journal.sync, journal.sync_timeout, journal.max_bytes),
        (false, SyncPolicy::Batch, Duration::from_millis(100), 256 << 20)
    );
    assert_eq!(journal.staging, Duration::from_millis(200));
    assert_eq!(settings.exporter.request.attempt_timeout, Duration::from_secs(60));
    assert_eq!(settings.chosen.state_dir_from, "HOME");
    let exporter = &settings.exporter;
    assert_eq!((exporter.state_dir_required, exporter.free_space_reserve), (false, 64 << 20));
    assert_eq!((exporter.max_concurrency, exporter.outage_span), (8, false));
    assert_eq!(
        settings.exporter.state_dir.as_deref(),
        Some(Path::new("/users/someone/.local/state/holdfast/unknown_service"))
    );
}

#[test]
fn every_default_is_accepted_by_its_own_kind() {
    let defaults = Settings::defaults();
    for row in SETTINGS.iter().filter(|row| row.read.is_some() && !row.default().is_empty()) {
        assert!((row.get)(&defaults, row.kind).is_accepted_by(row.kind), "{}: {:?}", row.name, row.default());
        assert_eq!(read(row.kind, &row.default()), Some((row.get)(&defaults, row.kind)), "{}", row.name);
    }
}

#[test]
fn every_default_written_out_changes_nothing() {
    // Debug shows every field, so equal text means equal settings.
    let plain = format!("{:?}", good(&[]));
    for setting in SETTINGS {
        let default = setting.default();
        if default.is_empty() {
            continue;
        }
        assert_eq!(format!("{:?}", good(&[(setting.name, &default)])), plain, "{}", setting.name);
        let upper = default.to_uppercase();
        if matches!(setting.kind, Kind::Bool | Kind::Choice(_)) {
            assert_eq!(format!("{:?}", good(&[(setting.name, &upper)])), plain, "{}={upper}", setting.name);
        }
    }
}

/// The fields of the outermost struct in the output of `{:#?}`.
fn fields(shown: &str) -> BTreeSet<String> {
    let outermost = |line: &str| line.starts_with("    ") && !line.starts_with("     ");
    let field = |line: &str| line.trim().split_once(": ").map(|(field, _)| field.to_owned());
    shown.lines().filter(|line| outermost(line)).filter_map(field).collect()
}

#[test]
fn every_field_has_a_row() {
    let rows = |parent: &str| {
        let below = |row: &'static Setting| row.field.strip_prefix(parent)?.split('.').next().map(str::to_owned);
        SETTINGS.iter().filter_map(below).collect::<BTreeSet<_>>()
    };
    let private = ["preset", "warnings", "remarks", "in_code", "chosen", "service_namespace"].map(str::to_owned);
    let shown = fields(&format!("{:#?}", Settings::defaults()));
    assert_eq!(shown, &rows("") | &BTreeSet::from(private));
    assert_eq!(fields(&format!("{:#?}", Batch::default())), rows("batch."));

    let without_variable = [
        "request.attempt_timeout",
        // The manager makes these of others.
        "processor.max_export_batch_size",
        "processor.scheduled_delay",
        "processor.export_timeout",
        "state_service",
        "old_state_dirs",
        "old_fallback_dirs",
    ];
    for path in resilient_exporter::Settings::FIELDS.iter().filter(|path| !without_variable.contains(path)) {
        assert!(SETTINGS.iter().any(|row| row.field == format!("exporter.{path}")), "no row reads {path}");
    }
}

#[test]
fn a_field_of_the_exporter_has_the_name_of_its_variable() {
    for row in SETTINGS.iter().filter(|row| row.field.starts_with("exporter.")) {
        let name = row.name.to_lowercase();
        let path = row.field.trim_start_matches("exporter.").replace("threads.", "thread.");
        let path = path.trim_start_matches("failover.").replace('.', "_");
        assert_eq!(name.trim_start_matches("telemetry_").trim_start_matches("otel_"), path);
    }
}

#[test]
fn every_row_of_the_table_is_read_and_everything_read_has_a_row() {
    let asked = RefCell::new(BTreeSet::new());
    let ratio = |name: &str| (name == "OTEL_TRACES_SAMPLER").then(|| OsString::from("traceidratio"));
    let limits = |name: &str| name.ends_with("_COUNT_LIMIT").then(|| OsString::from("7"));
    Settings::from_vars(|name| {
        asked.borrow_mut().insert(name.to_owned());
        ratio(name).or_else(|| limits(name))
    })
    .expect("valid");
    let asked: BTreeSet<_> = asked
        .into_inner()
        .into_iter()
        .filter(|name| !directories::VARIABLES.contains(&name.as_str()))
        .filter(|name| !NOT_SUPPORTED.iter().any(|(known, _)| known == name))
        .filter(|name| !name.starts_with("OTEL_EXPORTER_OTLP_TRACES_"))
        // The other spellings, and the mark of a CGI script.
        .filter(|name| !name.ends_with("_proxy") && name != "REQUEST_METHOD")
        .collect();
    let table: BTreeSet<_> = SETTINGS.iter().map(|setting| setting.name.to_owned()).collect();
    assert_eq!(asked, table);
}

#[test]
fn names_are_unique() {
    let names: BTreeSet<_> = SETTINGS.iter().map(|setting| setting.name).collect();
    assert_eq!(names.len(), SETTINGS.len());
}

#[test]
fn empty_and_blank_are_unset() {
    let plain = format!("{:?}", good(&[]));
    for setting in SETTINGS {
        for blank in ["", " ", "\t"] {
            assert_eq!(format!("{:?}", good(&[(setting.name, blank)])), plain, "{}={blank:?}", setting.name);
        }
    }
}

#[test]
fn a_value_that_is_not_accepted_is_a_warning_or_an_error_that_names_the_range() {
    for setting in SETTINGS.iter().filter(|setting| !setting.name.starts_with("OTEL_EXPORTER_OTLP")) {
        let bad = match setting.kind {
            Kind::Path | Kind::Text(_) => continue,
            Kind::Sync { .. } => vec!["sometimes", "0", "2h"],
            Kind::Bool => vec!["yes", "1", "nonsense"],
            Kind::Count { .. } | Kind::Rate => vec!["-1", "1.5", "nonsense", "99999999999999999999"],
            Kind::Factor { .. } => vec!["-1", "NaN", "inf", "1e9", "nonsense"],
            Kind::Bytes { .. } => vec!["-1", "10M", "nonsense", "99999999999TiB"],
            Kind::Duration { min: Duration::ZERO, .. } => vec!["-1s", "1.5s", "nonsense", "99999999999d"],
            Kind::Duration { .. } => vec!["-1s", "1.5s", "nonsense", "99999999999d", "0"],
            Kind::Choice(_) => vec!["nonsense"],
        };
        for value in bad {
            // The ratio is judged only where a sampler takes it.
            let outcome = from(&[("OTEL_TRACES_SAMPLER", "traceidratio"), (setting.name, value)]);
            let message = match (setting.on_bad, outcome) {
                (OnBad::Default | OnBad::Storage, Ok(settings)) => {
                    let warnings = settings.warnings();
                    assert_eq!(warnings.len(), 1, "{}={value}: {warnings:?}", setting.name);
                    assert_eq!(warnings[0].setting, setting.name);
                    assert!(warnings[0].message.contains(&setting.default()), "{}", warnings[0]);
                    warnings[0].message.clone()
                }
                (OnBad::Error, Err(error)) => error.to_string(),
                (_, outcome) => panic!("{}={value}: {outcome:?}", setting.name),
            };
            for part in [setting.name, value, &setting.accepted()] {
                assert!(message.contains(part), "{message:?} lacks {part:?}");
            }
        }
    }
}

#[test]
fn ranges_include_their_ends_and_nothing_beyond() {
    for setting in SETTINGS {
        let (inside, outside) = match setting.kind {
            Kind::Count { min, max } | Kind::Bytes { min, max } => {
                let below = min.checked_sub(1).map(|below| below.to_string());
                (vec![min.to_string(), max.to_string()], below.into_iter().chain([(max + 1).to_string()]).collect())
            }
            Kind::Duration { min, max, .. } => {
                let ms = |duration: Duration| format!("{}ms", duration.as_millis());
                let step = Duration::from_millis(1);
                let below = min.checked_sub(step).map(ms);
                (vec![ms(min), ms(max)], below.into_iter().chain([ms(max + step)]).collect())
            }
            Kind::Factor { min, max } => {
                (vec![min.to_string(), max.to_string()], vec![(min - 0.001).to_string(), (max + 0.001).to_string()])
            }
            Kind::Rate => (vec!["1".into(), u32::MAX.to_string()], vec!["0".into(), "4294967296".into()]),
            _ => continue,
        };
        for text in &inside {
            assert!(read(setting.kind, text).is_some(), "{}={text}", setting.name);
        }
        for text in &outside {
            assert!(read(setting.kind, text).is_none(), "{}={text}", setting.name);
        }
    }
}

#[test]
fn text_that_is_not_unicode_never_panics() {
    let garbage = || OsString::from_vec(vec![0x66, 0xff, 0xfe]);
    // Without a proxy for this endpoint, these two have no effect.
    for setting in SETTINGS.iter().filter(|setting| !["HTTPS_PROXY", "NO_PROXY"].contains(&setting.name)) {
        let outcome = Settings::from_vars(|name| match name {
            "HOME" => Some("/users/someone".into()),
            "OTEL_TRACES_SAMPLER" if setting.name == "OTEL_TRACES_SAMPLER_ARG" => Some("traceidratio".into()),
            "OTEL_EXPORTER_OTLP_ENDPOINT" if setting.name.ends_with("_PROXY") => Some("http://c:4317".into()),
            _ => (name == setting.name).then(garbage),
        });
        match (setting.kind, outcome) {
            (Kind::Path, Ok(settings)) => {
                let is_missing = |warning: &Warning| warning.message.contains("does not exist");
                assert!(settings.warnings().iter().all(is_missing), "a path need not be Unicode");
            }
            (_, Ok(settings)) => assert_eq!(settings.warnings().len(), 1, "{}", setting.name),
            (_, Err(error)) => assert!(error.to_string().contains(setting.name), "{error}"),
        }
    }
}

#[test]
fn several_errors_are_reported_at_once() {
    let required = ("TELEMETRY_STATE_DIR_REQUIRED", "true");
    let bad = [required, ("TELEMETRY_FALLBACK_ENABLED", "yes"), ("TELEMETRY_FALLBACK_MAX_AGE", "never")];
    let error = from(&bad).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("TELEMETRY_FALLBACK_ENABLED is \"yes\"; accepted is true or false"), "{text}");
    assert!(text.contains("TELEMETRY_FALLBACK_MAX_AGE is \"never\""), "{text}");
}

#[test]
fn endpoint_and_headers_are_errors_and_header_values_stay_secret() {
    let error = from(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost;4317")]).unwrap_err().to_string();
    assert!(error.contains("OTEL_EXPORTER_OTLP_ENDPOINT") && error.contains("localhost;4317"), "{error}");
    let error = from(&[("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s3cr%zz")]).unwrap_err();
    assert!(error.to_string().contains("OTEL_EXPORTER_OTLP_HEADERS"), "{error}");
    assert!(!format!("{error} {error:?}").contains("s3cr"), "{error:?}");
    let settings = good(&[("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s3cret")]);
    assert!(!format!("{settings:?} {}", settings.summary()).contains("s3cret"));
}

#[test]
fn notes_of_the_transport_become_warnings() {
    let noted = warnings(&[("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")]);
    assert!(noted.len() == 1 && noted[0].contains("OTEL_EXPORTER_OTLP_TIMEOUT"), "{noted:?}");
    let settings = good(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")]);
    assert_eq!(settings.transport.protocol(), otlp_transport::Protocol::HttpProtobuf);
    assert_eq!(settings.warnings().len(), 1);
}

#[test]
fn service_name_and_version_beat_the_list() {
    let list = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=listed,service.version=1,team=a%2Cb");
    let settings = good(&[list]);
    assert_eq!((settings.service_name.as_str(), settings.service_version.as_deref()), ("listed", Some("1")));
    assert_eq!(settings.resource_attributes[2], ("team".to_owned(), "a,b".to_owned()));
    let settings = good(&[list, ("OTEL_SERVICE_NAME", "named"), ("OTEL_SERVICE_VERSION", "2")]);
    assert_eq!((settings.service_name.as_str(), settings.service_version.as_deref()), ("named", Some("2")));
}

#[test]
fn a_bad_entry_discards_the_whole_list() {
    for list in ["a=1,b", "a=1,b=%zz", "a=1,=2"] {
        let settings = good(&[("OTEL_RESOURCE_ATTRIBUTES", list)]);
        assert!(settings.resource_attributes.is_empty(), "{list}");
        assert_eq!(settings.warnings().len(), 1, "{list}");
    }
}

#[test]
fn each_name_of_a_sampler_makes_that_sampler() {
    for (name, arg, expected) in [
        ("always_on", "", "AlwaysOn"),
        ("Always_Off", "", "AlwaysOff"),
        ("traceidratio", "0.25", "TraceIdRatioBased(0.25)"),
        ("traceidratio", "", "TraceIdRatioBased(1.0)"),
        ("parentbased_always_off", "", "ParentBased(AlwaysOff)"),
        ("parentbased_traceidratio", "0", "ParentBased(TraceIdRatioBased(0.0))"),
    ] {
        let settings = good(&[("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", arg)]);
        assert_eq!(format!("{:?}", settings.sdk_sampler()), expected, "{name} {arg}");
        assert!(settings.warnings().is_empty(), "{name} {arg}");
    }
    assert!(
        warnings(&[("OTEL_TRACES_SAMPLER", "always_on"), ("OTEL_TRACES_SAMPLER_ARG", "x")]).is_empty(),
        "a ratio that no sampler takes is not judged"
    );
}

#[test]
fn exporters_and_propagators_are_lists() {
    for (list, exporter, warned) in [
        ("otlp", TracesExporter::Otlp, 0),
        ("none", TracesExporter::None, 0),
        ("None", TracesExporter::None, 0),
        ("otlp,none", TracesExporter::Otlp, 0),
        ("console", TracesExporter::Otlp, 1),
        ("console, otlp", TracesExporter::Otlp, 1),
        ("zipkin,none", TracesExporter::None, 1),
    ] {
        let settings = good(&[("OTEL_TRACES_EXPORTER", list)]);
        assert_eq!((settings.traces_exporter, settings.warnings().len()), (exporter, warned), "{list}");
        let used = if exporter == TracesExporter::None { ": none is used" } else { ": otlp is used" };
        assert!(settings.warnings().iter().all(|warning| warning.message.contains(used)), "{:?}", settings.warnings());
    }
    use Propagator::{Baggage, TraceContext};
    for (list, propagators, warned) in [
        ("tracecontext", vec![TraceContext], 0),
        ("baggage, tracecontext ,baggage", vec![Baggage, TraceContext], 0),
        ("none", vec![], 0),
        ("b3", vec![TraceContext, Baggage], 1),
        ("b3,tracecontext", vec![TraceContext], 1),
    ] {
        let settings = good(&[("OTEL_PROPAGATORS", list)]);
        assert_eq!((&settings.propagators, settings.warnings().len()), (&propagators, warned), "{list}");
    }
}

#[test]
fn attribute_limits_fall_back_to_the_general_one() {
    let limits = good(&[("OTEL_ATTRIBUTE_COUNT_LIMIT", "9"), ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "3")]).span_limits;
    assert_eq!(
        (limits.max_attributes_per_span, limits.max_attributes_per_event, limits.max_attributes_per_link),
        (3, 9, 9)
    );
    assert_eq!((limits.max_events_per_span, limits.max_links_per_span), (128, 128));
}

#[test]
fn a_bad_attribute_limit_counts_as_unset_and_the_general_one_holds() {
    for name in
        ["OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT"]
    {
        for (general, holds) in [("9", 9), ("", 128)] {
            let settings = good(&[("OTEL_ATTRIBUTE_COUNT_LIMIT", general), (name, "many")]);
            let limits = settings.span_limits;
            assert_eq!(
                [limits.max_attributes_per_span, limits.max_attributes_per_event, limits.max_attributes_per_link],
                [holds; 3],
                "{name}"
            );
            let warnings = settings.warnings().iter().map(ToString::to_string).collect::<Vec<_>>();
            let accepted = "accepted is a whole number from 0 to 4294967295";
            assert_eq!(warnings, [format!("{name}=\"many\" is not accepted, {holds} is used; {accepted}")]);
        }
    }
}

#[test]
fn settings_that_contradict_each_other_are_reconciled_with_a_warning() {
    let sdk = ("TELEMETRY_PROCESSOR", "batch");
    let settings = good(&[sdk, ("OTEL_BSP_MAX_QUEUE_SIZE", "100")]);
    assert_eq!((settings.batch.max_export_batch_size, settings.warnings().len()), (100, 0));
    let settings = good(&[sdk, ("OTEL_BSP_MAX_QUEUE_SIZE", "100"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "200")]);
    assert_eq!((settings.batch.max_export_batch_size, settings.warnings().len()), (100, 1));
    let settings = good(&[sdk, ("OTEL_BSP_MAX_QUEUE_SIZE", "2147483647")]);
    assert_eq!((settings.batch.max_queue_size, settings.batch.max_export_batch_size), (65_536, 512));
    assert!(settings.warnings()[0].message.contains("TELEMETRY_BUFFER_MAX_SPANS"), "{:?}", settings.warnings());
    assert!(good(&[sdk, ("OTEL_BSP_MAX_QUEUE_SIZE", "65536")]).warnings().is_empty());
    for delay in ["0", "0ms", "9"] {
        let settings = good(&[sdk, ("OTEL_BSP_SCHEDULE_DELAY", delay)]);
        assert_eq!((settings.batch.schedule_delay, settings.warnings().len()), (Duration::from_millis(10), 0));
    }
    let settings = good(&[("TELEMETRY_RETRY_INITIAL_DELAY", "30s")]);
    assert_eq!((settings.exporter.retry.max_delay, settings.warnings().len()), (Duration::from_secs(30), 1));
}

#[test]
fn refused_batches_are_kept_unless_strict_mode_is_asked_for() {
    let refused = |value| good(&[("TELEMETRY_REFUSED", value)]).exporter.refused;
    assert_eq!([refused("dead-letter"), refused("Dead-Letter")], [Refused::DeadLetter; 2]);
    let settings = good(&[("TELEMETRY_REFUSED", "drop")]);
    assert_eq!(settings.exporter.refused, Refused::Keep);
    let warnings: Vec<_> = settings.warnings().iter().map(ToString::to_string).collect();
    let expected = "TELEMETRY_REFUSED=\"drop\" is not accepted, keep is used; accepted is keep or dead-letter";
    assert_eq!(warnings, [expected]);
}

#[test]
fn stored_spans_are_sent_oldest_first_unless_the_newest_are_asked_for() {
    let order = |value| good(&[("TELEMETRY_REPLAY_ORDER", value)]);
    for (value, expected) in
        [("newest", ReplayOrder::Newest), ("Newest", ReplayOrder::Newest), ("oldest", ReplayOrder::Oldest)]
    {
        let settings = order(value);
        assert_eq!((settings.exporter.replay.order, settings.warnings().len()), (expected, 0), "{value}");
    }
    let settings = order("newst");
    assert_eq!(settings.exporter.replay.order, ReplayOrder::Oldest);
    let warnings: Vec<_> = settings.warnings().iter().map(ToString::to_string).collect();
    let expected = "TELEMETRY_REPLAY_ORDER=\"newst\" is not accepted, oldest is used; accepted is oldest or newest";
    assert_eq!(warnings, [expected]);
}

#[test]
fn the_state_directory_is_chosen_or_below_the_users_own() {
    let dir = |vars: &[(&str, &str)]| {
        let settings = good(vars);
        (settings.exporter.state_dir.expect("a directory"), settings.chosen.state_dir_from)
    };
    let named = ("OTEL_SERVICE_NAME", "my-api");
    assert_eq!(dir(&[("TELEMETRY_STATE_DIR", "/s"), named]), ("/s/my-api".into(), "TELEMETRY_STATE_DIR"));
    assert_eq!(dir(&[("STATE_DIRECTORY", "/v:/w"), named]), ("/v/my-api".into(), "STATE_DIRECTORY"));
    assert_eq!(dir(&[("XDG_STATE_HOME", "/x"), named]), ("/x/holdfast/my-api".into(), "XDG_STATE_HOME"));
    assert_eq!(dir(&[named]), ("/users/someone/.local/state/holdfast/my-api".into(), "HOME"));
    let (climbing, _) = dir(&[("OTEL_SERVICE_NAME", "../../../etc")]);
    assert_eq!(climbing.parent(), Some(Path::new("/users/someone/.local/state/holdfast")));
}

#[test]
fn a_variable_without_effect_is_warned_about() {
    for (name, _) in NOT_SUPPORTED {
        assert_eq!(warnings(&[(name, "x")]).len(), 1, "{name}");
    }
}

#[test]
fn the_journal_is_off_by_default_and_its_bad_values_are_errors_where_storage_is_required() {
    let sync =
        |value| good(&[("TELEMETRY_JOURNAL_ENABLED", "true"), ("TELEMETRY_JOURNAL_SYNC", value)]).exporter.journal.sync;
    assert!(good(&[("TELEMETRY_JOURNAL_ENABLED", "TRUE")]).exporter.journal.enabled);
    assert_eq!((sync("batch"), sync("Never"), sync("")), (SyncPolicy::Batch, SyncPolicy::Never, SyncPolicy::Batch));
    assert_eq!(sync("250ms"), SyncPolicy::Interval(Duration::from_millis(250)));
    assert_eq!(sync("2"), SyncPolicy::Interval(Duration::from_secs(2)));
    let journal =
        good(&[("TELEMETRY_JOURNAL_SYNC_TIMEOUT", "20ms"), ("TELEMETRY_JOURNAL_MAX_BYTES", "16MiB")]).exporter.journal;
    assert_eq!((journal.sync_timeout, journal.max_bytes), (Duration::from_millis(20), 16 << 20));
    for (name, value) in [
        ("TELEMETRY_JOURNAL_ENABLED", "perhaps"),
        ("TELEMETRY_JOURNAL_SYNC", "sometimes"),
        ("TELEMETRY_JOURNAL_SYNC", "0"),
        ("TELEMETRY_JOURNAL_SYNC_TIMEOUT", "2h"),
        ("TELEMETRY_JOURNAL_MAX_BYTES", "15MiB"),
    ] {
        let error = from(&[(name, value), ("TELEMETRY_STATE_DIR_REQUIRED", "true")]).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("accepted"), "{error}");
        let settings = good(&[(name, value)]);
        assert_eq!(settings.exporter.journal, resilient_exporter::Durability::default(), "{name}={value}");
        assert_eq!(settings.warnings().len(), 1, "{name}={value}");
    }
}

#[test]
fn the_summary_is_one_line() {
    let line = good(&[("OTEL_SERVICE_NAME", "my-api"), ("OTEL_SERVICE_VERSION", "1.2")]).summary();
    assert_eq!(
        line,
        "service my-api 1.2; collector http://localhost:4317 (grpc, 10s a request); buffer 10000 spans, 10MiB, 5m; breaker \
         opens after 5 failures for 1m; 5 retries from 1s to 20s; files in /users/someone/.local/state/holdfast/my-api, 1GiB, 7d"
    );
    assert_eq!(good(&[("OTEL_SDK_DISABLED", "true")]).summary(), "service unknown_service; telemetry is disabled");
    assert!(good(&[("TELEMETRY_FALLBACK_ENABLED", "false")]).summary().ends_with("memory only"));
}

#[test]
fn the_proxy_is_named_without_its_credentials() {
    let vars = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"), ("HTTP_PROXY", "http://me:s3cret@proxy:3128")];
    let settings = good(&vars);
    let line = settings.summary();
    assert!(
        line.contains("; collector http://c:4317 (grpc, 10s a request) through the proxy http://proxy:3128;"),
        "{line}"
    );
    assert!(!format!("{settings:?} {line}").contains("s3cret"), "{settings:?}");
    let error = from(&[vars[0], ("all_proxy", "socks5://me:s3cret@proxy")]).unwrap_err();
    assert!(error.to_string().contains("all_proxy") && error.to_string().contains("SOCKS"), "{error}");
    assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
}

#[test]
fn the_page_in_docs_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/settings.md");
    let page = std::fs::read_to_string(path).expect("docs/settings.md can be read");
    assert!(
        page == settings_markdown(),
        "docs/settings.md is stale: run `cargo run -p telemetry-manager --example settings > docs/settings.md`"
    );
}

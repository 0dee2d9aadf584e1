//! Reading any environment ends in settings or in an error, never in a panic.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path};

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample;

use super::directories::Service;
use super::kind::Bare;
use super::text::{format_bytes, format_duration, parse_bytes, parse_duration};
use super::*;

/// Text that is close to accepted text, and arbitrary bytes.
fn value() -> impl Strategy<Value = OsString> {
    prop_oneof![
        "[0-9]{0,25}(ms|s|m|h|d|KiB|MiB|TB|%|,|=|\\.| )?[0-9]{0,5}(s|h)?".prop_map(OsString::from),
        "(true|false|none|otlp|tracecontext|baggage|always_on|traceidratio|unlimited|gzip|grpc|batch)?[,= ]?"
            .prop_map(OsString::from),
        "(http://b:4318|b|https://c)[,;](protocol|headers-file|certificate|client-key)?=?[a-z/:,;=@#]{0,12}"
            .prop_map(OsString::from),
        "(http://)?[a-z.\\[\\]:@/?#%=,]{0,20}".prop_map(OsString::from),
        any::<String>().prop_map(OsString::from),
        vec(any::<u8>(), 0..20).prop_map(OsString::from_vec),
    ]
}

fn variable() -> impl Strategy<Value = &'static str> {
    let names = SETTINGS.iter().map(|setting| setting.name).chain(["HOME", "XDG_STATE_HOME"]);
    proptest::sample::select(names.collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_environment_is_settings_or_an_error(vars in btree_map(variable(), value(), 0..8)) {
        match Settings::from_vars(|name| vars.get(name).cloned()) {
            Ok(settings) => {
                // Every value is within its range, so the exporter accepts it.
                for row in SETTINGS.iter().filter(|row| row.read.is_some() && !row.value(&settings).is_empty()) {
                    prop_assert!((row.get)(&settings, row.kind).is_accepted_by(row.kind), "{}", row.name);
                }
                let retry = &settings.exporter.retry;
                prop_assert!(retry.initial_delay <= retry.max_delay);
                let (batch, processor) = (settings.batch, &settings.exporter.processor);
                let is_queued = settings.processor == TracesProcessor::Batch;
                prop_assert!(!is_queued || batch.max_export_batch_size <= batch.max_queue_size);
                prop_assert!(!is_queued || batch.schedule_delay >= Duration::from_millis(10));
                prop_assert_eq!(processor.max_export_batch_size, batch.max_export_batch_size);
                prop_assert_eq!(processor.scheduled_delay, batch.schedule_delay);
                prop_assert!(!settings.service_name.is_empty());
                prop_assert!(!settings.summary().contains(char::is_control));
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn any_name_is_one_normal_component(namespace in any::<Option<String>>(), name in any::<String>()) {
        let component = Service::new(namespace.as_deref(), &name).directory();
        let path = Path::new(&component);
        prop_assert_eq!(path.components().count(), 1);
        prop_assert!(matches!(path.components().next(), Some(Component::Normal(_))));
        prop_assert!(component.len() <= 96 && component.is_ascii());
    }

    #[test]
    fn formatted_durations_and_sizes_are_parsed_again(ms in any::<u32>(), bytes in any::<u64>()) {
        let duration = Duration::from_millis(ms.into());
        prop_assert_eq!(parse_duration(&format_duration(duration), Bare::Milliseconds), Some(duration));
        prop_assert_eq!(parse_bytes(&format_bytes(bytes)), Some(bytes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A name is a setting, or has at most one warning, which escapes control characters.
    #[test]
    fn any_name_of_a_variable_is_read_or_told_or_left(
        name in "[A-Z_]{0,30}|(TELEMETRY|OTEL|CIRCUIT_BREAKER)_[A-Za-z_]{0,30}|\\PC{0,20}",
        known in sample::select(SETTINGS),
        at in 0_usize..40,
        letter in any::<char>(),
    ) {
        let mut near: Vec<char> = known.name.chars().collect();
        near.insert(at.min(near.len()), letter);
        for name in [name, near.into_iter().collect()] {
            let settings = Settings::from_environment([(&*name, ""), ("HOME", "/users/u")]).expect("all are blank");
            let told: Vec<_> = settings.warnings().iter().map(|warning| &warning.message).collect();
            prop_assert!(told.len() <= 1 && !told.iter().any(|text| text.contains(char::is_control)), "{told:?}");
            if name.ends_with(known.name) && name.len() == known.name.len() + 1 && !letter.is_control() {
                // The names of proxies are shared with other programs, and so may be those near to them.
                let is_foreign = name.starts_with("OTEL_BLRP_") || known.name.ends_with("_PROXY");
                prop_assert!(told.len() == 1 || is_foreign, "{name:?}");
            }
        }
    }
}

//! Settings as the environment gives them: any texts.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use telemetry_manager::{Settings, SetupError, TracesProcessor};

use crate::Seed;
use crate::feed::{Feed, Recipe};

/// Any values give settings or an error that names the variable, the same each time; a secret is never shown.
///
/// The input: a byte that decides where a secret stands, two chunks around it, then values: which variable, and a
/// chunk.
pub(crate) fn check(input: &[u8]) {
    let mut feed = Feed(input);
    let place = feed.byte();
    let around = [feed.chunk(), feed.chunk()];
    let mut vars: BTreeMap<&str, OsString> = BTreeMap::new();
    while !feed.is_empty() {
        let name = NAMES[usize::from(feed.byte()) % NAMES.len()];
        let length = usize::from(feed.byte());
        vars.insert(name, OsString::from_vec(feed.bytes(length).to_vec()));
    }
    let has_secret = hide(place, around, &mut vars);
    let read = || Settings::from_vars(|name| vars.get(name).cloned());
    let shown = match read() {
        Ok(settings) => {
            for warning in settings.warnings() {
                assert!(NAMES.contains(&&*warning.setting) && !warning.message.is_empty(), "{warning:?}");
            }
            let (buffer, retry) = (&settings.exporter.buffer, &settings.exporter.retry);
            assert!(buffer.max_spans > 0 && buffer.max_bytes > 0 && !buffer.max_age.is_zero(), "{buffer:?}");
            assert!((0.0..=1.0).contains(&retry.jitter) && retry.multiplier >= 1.0, "{retry:?}");
            let (is_queued, batch) = (settings.processor == TracesProcessor::Batch, settings.batch);
            assert!(!is_queued || batch.max_export_batch_size <= batch.max_queue_size, "{batch:?}");
            let warnings: Vec<String> = settings.warnings().iter().map(ToString::to_string).collect();
            format!("{settings:?} {warnings:?} {} {:?}", settings.summary(), settings.transport.notes())
        }
        Err(error) => {
            let text = error.to_string();
            let names_it = vars.keys().any(|name| text.contains(name));
            assert!(names_it, "no variable is named: {text}");
            if let SetupError::Settings(all) = &error {
                assert!(!all.is_empty() && all.iter().all(|one| vars.contains_key(one.setting)), "{text}");
            }
            format!("{text} {error:?}")
        }
    };
    let again = match read() {
        Ok(settings) => format!("{settings:?}"),
        Err(error) => error.to_string(),
    };
    assert!(shown.starts_with(&again), "another result the second time");
    assert!(!has_secret || !shown.contains(SECRET), "shown: {shown}");
}

/// Puts a secret where one may stand; false if it would be none there.
fn hide(place: u8, [before, behind]: [&[u8]; 2], vars: &mut BTreeMap<&str, OsString>) -> bool {
    if place.is_multiple_of(5) && place & 0x80 != 0 {
        let value = [&b"http://"[..], before, SECRET.as_bytes(), b"@", behind].concat();
        let name = if place & 0x40 == 0 { "HTTP_PROXY" } else { "all_proxy" };
        vars.insert(name, OsString::from_vec(value));
        // A proxy in front of this host would have no effect.
        vars.entry("OTEL_EXPORTER_OTLP_ENDPOINT").or_insert_with(|| "http://collector:4317".into());
        return true;
    }
    let free_of = |signs: &[u8]| !before.iter().any(|byte| signs.contains(byte));
    let (start, sure) = match place % 5 {
        // Behind a comma it would be a name.
        1 => ("key=", free_of(b",")),
        2 => ("http://", free_of(b"?#")),
        3 => ("", free_of(b"?#")),
        4 if place & 0x20 != 0 => ("http://localhost:4318/receiver/v1/otlp/", true),
        4 => ("http://localhost:4318/v1/traces?", true),
        _ => return false,
    };
    let ending: &[u8] = if matches!(place % 5, 2 | 3) { b"@" } else { b"" };
    let value = [start.as_bytes(), before, SECRET.as_bytes(), ending, behind].concat();
    let name = match (place % 5, place & 0x40 == 0) {
        (1, true) => "OTEL_EXPORTER_OTLP_HEADERS",
        (1, false) => "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
        (_, true) => "OTEL_EXPORTER_OTLP_ENDPOINT",
        (_, false) => "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    };
    if place & 0x10 != 0 && place % 5 != 1 {
        vars.insert("TELEMETRY_FAILOVER_ENDPOINTS", OsString::from_vec(value));
        // Behind a comma it would be a host, behind a semicolon the value of an option.
        return sure && free_of(b",;");
    }
    vars.insert(name, OsString::from_vec(value));
    sure
}

const SECRET: &str = "c4n4ry-s3cr3t";

/// Every variable that is read; new ones go to the end, so that inputs keep their meaning.
const NAMES: [&str; 104] = [
    "CIRCUIT_BREAKER_FAILURE_THRESHOLD",
    "CIRCUIT_BREAKER_HALF_OPEN_PROBES",
    "CIRCUIT_BREAKER_HALF_OPEN_SUCCESSES",
    "CIRCUIT_BREAKER_RECOVERY_TIMEOUT",
    "HOME",
    "OTEL_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_BSP_MAX_CONCURRENT_EXPORTS",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_CONFIG_FILE",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_INSECURE",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_INSECURE",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_PROPAGATORS",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_SDK_DISABLED",
    "OTEL_SERVICE_NAME",
    "OTEL_SERVICE_VERSION",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
    "OTEL_TRACES_EXPORTER",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "TELEMETRY_BUFFER_MAX_AGE",
    "TELEMETRY_BUFFER_MAX_BYTES",
    "TELEMETRY_BUFFER_MAX_SPANS",
    "TELEMETRY_DEAD_LETTER_MAX_AGE",
    "TELEMETRY_DEAD_LETTER_MAX_BYTES",
    "TELEMETRY_FAILBACK_DELAY",
    "TELEMETRY_FAILOVER_ENDPOINTS",
    "TELEMETRY_FALLBACK_COMPRESSION",
    "TELEMETRY_FALLBACK_COMPRESS_ABOVE",
    "TELEMETRY_FALLBACK_DIR",
    "TELEMETRY_FALLBACK_ENABLED",
    "TELEMETRY_FALLBACK_FORMAT",
    "TELEMETRY_FALLBACK_MAX_AGE",
    "TELEMETRY_FALLBACK_MAX_BYTES",
    "TELEMETRY_JOURNAL_ENABLED",
    "TELEMETRY_JOURNAL_SYNC",
    "TELEMETRY_JOURNAL_SYNC_TIMEOUT",
    "TELEMETRY_REPLAY_RATE",
    "TELEMETRY_REQUEST_MAX_BYTES",
    "TELEMETRY_RETRY_INITIAL_DELAY",
    "TELEMETRY_RETRY_JITTER",
    "TELEMETRY_RETRY_MAX_DELAY",
    "TELEMETRY_RETRY_MAX_RETRIES",
    "TELEMETRY_RETRY_MULTIPLIER",
    "TELEMETRY_STATE_DIR",
    "XDG_STATE_HOME",
    "TELEMETRY_JOURNAL_MAX_BYTES",
    "TELEMETRY_REFUSED",
    "TELEMETRY_STATE_DIR_REQUIRED",
    "TELEMETRY_FREE_SPACE_RESERVE",
    "STATE_DIRECTORY",
    "TELEMETRY_MAX_CONCURRENCY",
    "OTEL_LOG_LEVEL",
    "OTEL_EXPERIMENTAL_CONFIG_FILE",
    "TELEMETRY_SHUTDOWN_REPLAY",
    "TELEMETRY_CONNECTION_MAX_AGE",
    "TELEMETRY_REPLAY_ORDER",
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
    "REQUEST_METHOD",
    "TELEMETRY_HEADERS_FILE",
    "TELEMETRY_RESPONSE_MAX_BYTES",
    "TELEMETRY_REQUEST_MAX_SPANS",
    "TELEMETRY_MAX_AGE_AT_SEND",
    "TELEMETRY_VENDOR",
    "TELEMETRY_PROCESSOR",
    "TELEMETRY_JOURNAL_STAGING",
    "TELEMETRY_SHUTDOWN_TIMEOUT",
    "TELEMETRY_THREAD_NICENESS",
    "TELEMETRY_OUTAGE_SPAN",
    "TELEMETRY_BUFFER_COMPRESSION",
    "OTEL_EXPORTER_OTLP_FALLBACK_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_FALLBACK_ENDPOINT",
];

/// A value of each kind in each variable, good and bad ones, and secrets.
pub(crate) fn seeds() -> Vec<Seed> {
    let texts = [
        "1",
        "0",
        "true",
        "5s",
        "1h30m",
        "250ms",
        "10MiB",
        "18446744073709551615",
        "-1",
        "1.5",
        "grpc",
        "none",
        "unlimited",
        "batch",
        "http://localhost:4318/x",
        "[::1]:4317",
        "a=b,c=%20d",
        "a=1,b",
        "/var/lib/x",
        "relative/dir",
        "http://b:4317;protocol=grpc,https://c;x=y",
        "\u{e9}",
        " ",
    ];
    let mut seeds: Vec<Seed> = Vec::new();
    for (index, text) in texts.into_iter().enumerate() {
        let mut recipe = Recipe::default().byte(0).chunk(b"").chunk(b"");
        for name in 0..NAMES.len() {
            // All of one kind together would only ever show the first error.
            if (name + index) % 3 == 0 {
                recipe = recipe.byte(name as u8).byte(text.len() as u8);
                recipe.0.extend_from_slice(text.as_bytes());
            }
        }
        seeds.push((format!("all-{index:02}"), recipe.0));
    }
    for (name, place, before, behind) in [
        ("secret-header", 1, "Bearer ", ""),
        ("secret-bad-header", 0x41, "", "%zz"),
        ("secret-password", 2, "user:", "localhost:4317"),
        ("secret-without-scheme", 3, "user:", "localhost:4317"),
        ("secret-query", 0x44, "token=", "&x=y#z"),
        ("secret-path", 0x22, "", "/v1/traces"),
        ("secret-password-of-a-member", 0x16, "user:", "b:4317,http://c:4317"),
        ("secret-query-of-a-member", 0x13, "token=", ";protocol=grpc"),
        ("secret-path-of-a-member", 0x3b, "", ";header=x"),
        ("secret-of-a-proxy", 0x82, "user:", "proxy:3128"),
        ("secret-of-a-bad-proxy", 0xc8, "user:1#", "proxy:3128"),
    ] {
        let recipe = Recipe::default().byte(place).chunk(before.as_bytes()).chunk(behind.as_bytes());
        seeds.push((name.to_owned(), recipe.0));
    }
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_among_the_names() {
        for setting in telemetry_manager::SETTINGS {
            assert!(NAMES.contains(&setting.name), "{} is missing", setting.name);
        }
    }
}

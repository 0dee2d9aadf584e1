//! Usual slips in the texts and the names of variables, told by their form, and a hint for each.

use std::borrow::Cow;
use std::ffi::OsString;

use super::kind::Kind;
use super::table::{NOT_SUPPORTED, SETTINGS};

/// The text between a pair of quotation marks: a reader of env files that knows none leaves them around the value.
pub(crate) fn unquoted(text: &str) -> Option<&str> {
    let text = text.trim();
    ['"', '\''].into_iter().find_map(|mark| {
        let inner = text.strip_prefix(mark)?.strip_suffix(mark)?;
        (!inner.contains(mark)).then_some(inner)
    })
}

/// The text of a variable that is no list, up to the word with a `=`: a unit file with one pair of quotation marks
/// around two variables has the second one there, which may be a list of headers.
pub(crate) fn before_next(text: &str) -> Cow<'_, str> {
    let Some((before, _)) = text.split_once('=') else { return Cow::from(text) };
    let word = before.rsplit(char::is_whitespace).next().unwrap_or_default();
    Cow::from(format!("{}***", before.strip_suffix(word).unwrap_or_default()))
}

/// Whether only a shell reads the text as it is meant: `~` for the home directory, or a variable in it.
pub(crate) fn is_for_a_shell(text: &str) -> bool {
    text.starts_with('~') || text.starts_with('$') || is_unexpanded(text)
}

/// Whether a variable in the text was left as it is: `$(NAME)` of Kubernetes, `${NAME}` of a shell.
fn is_unexpanded(text: &str) -> bool {
    text.contains("$(") || text.contains("${")
}

/// Whether an env file left a comment behind the value.
fn has_comment(text: &str) -> bool {
    text.contains(" #")
}

/// The cause for which a text of this kind is not accepted, and its remedy, behind a semicolon; else empty.
pub(crate) fn hint(kind: Kind, text: &str) -> String {
    let text = text.trim();
    if has_comment(text) {
        return "; # begins no comment here: put it on a line of its own".to_owned();
    }
    if is_unexpanded(text) {
        return "; the variable in it was not expanded: write its value".to_owned();
    }
    let write = |word: &str| format!("; write {word}");
    match (kind, text.to_ascii_lowercase().as_str()) {
        (Kind::Path, _) if is_for_a_shell(text) => "; only a shell expands ~ and $: write the whole path".to_owned(),
        (Kind::Bool, "1" | "yes" | "y" | "on" | "t" | "enabled") => write("true"),
        (Kind::Bool, "0" | "no" | "n" | "off" | "f" | "disabled") => write("false"),
        (Kind::Count { .. } | Kind::Bytes { .. }, grouped) => {
            let digits: String = grouped.chars().filter(|c| !matches!(c, '_' | ',' | '\'' | ' ')).collect();
            let is_number = !digits.is_empty() && digits != grouped && digits.bytes().all(|byte| byte.is_ascii_digit());
            if is_number { write(&digits) } else { String::new() }
        }
        _ => String::new(),
    }
}

/// The slip in a text that is accepted as it is, as the predicate of a sentence about the variable.
pub(crate) fn in_text(text: &str) -> Option<&'static str> {
    if has_comment(text) {
        return Some("has a # behind a blank, which is a part of its value: put a comment on a line of its own");
    }
    is_unexpanded(text).then_some("has a variable in it that was not expanded: write its value")
}

/// The names among `names` that are no settings and are nearly the name of one, each with that one.
///
/// Every name of ours may be meant by two slips, also by a small letter for each capital one. Of `OTEL_*` those of the
/// batch processor for log records are left out: they are as near to those for spans as a slip is.
pub(crate) fn mistaken<'a>(names: impl Iterator<Item = &'a OsString>) -> Vec<(String, &'static str)> {
    const PREFIXES: [&str; 3] = ["TELEMETRY_", "CIRCUIT_BREAKER_", "OTEL_"];
    let mut found = Vec::new();
    for name in names.filter_map(|name| name.to_str()) {
        let upper = name.to_ascii_uppercase();
        // Names of other programs are long lists in some containers: most end here.
        let may_be_ours = upper.len() >= 10 && PREFIXES.iter().any(|prefix| is_near_start(&upper, prefix));
        if !may_be_ours || is_known(name) || upper.starts_with("OTEL_BLRP_") {
            continue;
        }
        let near = known().map(|known| (distance(&upper, known), known)).filter_map(|(far, known)| Some((far?, known)));
        if let Some((_, known)) = near.min_by_key(|(far, _)| *far) {
            found.push((name.escape_debug().to_string(), known));
        }
    }
    found
}

/// The names of all variables that are read or recognised.
fn known() -> impl Iterator<Item = &'static str> {
    let settings = SETTINGS.iter().map(|setting| setting.name);
    settings.chain(NOT_SUPPORTED.iter().map(|(name, _)| *name)).chain(OF_TRACES)
}

fn is_known(name: &str) -> bool {
    known().any(|known| known == name)
}

/// The variables of the OTLP family that stand in no row.
const OF_TRACES: [&str; 10] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_FALLBACK_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TRACES_INSECURE",
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
];

/// The most slips within a name.
const SLIPS: usize = 2;

/// Whether the name may begin with the prefix, with up to two slips in it.
fn is_near_start(name: &str, prefix: &str) -> bool {
    let shortest = prefix.len().saturating_sub(SLIPS);
    (shortest..=prefix.len() + SLIPS).any(|end| name.get(..end).is_some_and(|start| distance(start, prefix).is_some()))
}

/// The slips from one name to the other, if there are two at most: a letter more, less or other, or two neighbours that
/// changed places (optimal string alignment).
fn distance(name: &str, other: &str) -> Option<usize> {
    let (name, other) = (name.as_bytes(), other.as_bytes());
    if name.len().abs_diff(other.len()) > SLIPS {
        return None;
    }
    let mut rows = [(0..=other.len()).collect::<Vec<_>>(), vec![0; other.len() + 1], vec![0; other.len() + 1]];
    for (at, letter) in name.iter().enumerate() {
        // The row of this letter, behind those of the two letters before it.
        rows.rotate_right(1);
        let [row, before, two_before] = &mut rows;
        row[0] = at + 1;
        for (column, theirs) in other.iter().enumerate() {
            let changed = before[column] + usize::from(letter != theirs);
            row[column + 1] = changed.min(before[column + 1] + 1).min(row[column] + 1);
            if at > 0 && column > 0 && (letter, &name[at - 1]) == (&other[column - 1], theirs) {
                row[column + 1] = row[column + 1].min(two_before[column - 1] + 1);
            }
        }
        if row.iter().all(|&slips| slips > SLIPS) {
            return None;
        }
    }
    Some(rows[0][other.len()]).filter(|&slips| slips <= SLIPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_counted() {
        for (name, other, slips) in [
            ("abc", "abc", Some(0)),
            ("abc", "abd", Some(1)),
            ("abc", "ab", Some(1)),
            ("abc", "acb", Some(1)),
            ("abcd", "badc", Some(2)),
            ("abc", "xabcx", Some(2)),
            ("", "ab", Some(2)),
            ("", "abc", None),
            ("abc", "xyz", None),
            ("abcdef", "fabcde", Some(2)),
            ("abcdef", "fedcba", None),
        ] {
            assert_eq!((distance(name, other), distance(other, name)), (slips, slips), "{name} {other}");
        }
    }

    fn of(names: &[&str]) -> Vec<(String, &'static str)> {
        let names: Vec<OsString> = names.iter().map(OsString::from).collect();
        mistaken(names.iter())
    }

    #[test]
    fn a_name_of_two_slips_is_found_and_a_known_or_foreign_one_is_not() {
        for (name, meant) in [
            ("TELEMETRY_BUFER_MAX_SPANS", "TELEMETRY_BUFFER_MAX_SPANS"),
            ("TELEMETRY_BUFFER_MAXSPAN", "TELEMETRY_BUFFER_MAX_SPANS"),
            ("TELEMTRY_JOURNAL_ENABLED", "TELEMETRY_JOURNAL_ENABLED"),
            ("TELEMETRY_JOURNAL_ENABLE", "TELEMETRY_JOURNAL_ENABLED"),
            ("telemetry_state_dir", "TELEMETRY_STATE_DIR"),
            ("CIRCUT_BREAKER_FAILURE_THRESHOLD", "CIRCUIT_BREAKER_FAILURE_THRESHOLD"),
            ("CIRCUIT_BREAKER_FAILURES_THRESHOLD", "CIRCUIT_BREAKER_FAILURE_THRESHOLD"),
            ("OTEL_EXPORTER_OTLP_ENDPONT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
            ("OTEL_EXPORTER_OTEL_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
            ("OTEL_EXPORTER_OTLP_TRACE_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
            ("OTEL_SERVICENAME", "OTEL_SERVICE_NAME"),
            ("OTEL_SERIVCE_NAME", "OTEL_SERVICE_NAME"),
        ] {
            assert_eq!(of(&[name]), [(name.to_owned(), meant)]);
        }
        let names: Vec<_> = known().collect();
        assert_eq!(of(&names), []);
        assert_eq!(
            of(&["PATH", "TELEMETRY_URL", "TELEMETRY_ENABLED", "CIRCUIT_BREAKER_TIMEOUT", "HOTEL_NAME", ""]),
            []
        );
    }

    /// The names of the specification that are about other signals, exporters and languages.
    #[test]
    fn names_of_the_specification_are_no_slips() {
        let names = [
            "OTEL_BLRP_EXPORT_TIMEOUT",
            "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
            "OTEL_BLRP_MAX_QUEUE_SIZE",
            "OTEL_BLRP_SCHEDULE_DELAY",
            "OTEL_ENTITIES",
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
            "OTEL_EXPORTER_OTLP_LOGS_HEADERS",
            "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL",
            "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT",
            "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE",
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
            "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
            "OTEL_EXPORTER_OTLP_SPAN_INSECURE",
            "OTEL_EXPORTER_PROMETHEUS_HOST",
            "OTEL_EXPORTER_PROMETHEUS_PORT",
            "OTEL_EXPORTER_ZIPKIN_ENDPOINT",
            "OTEL_EXPORTER_ZIPKIN_TIMEOUT",
            "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT",
            "OTEL_LOGS_EXPORTER",
            "OTEL_METRICS_EXEMPLAR_FILTER",
            "OTEL_METRICS_EXPORTER",
            "OTEL_METRIC_EXPORT_INTERVAL",
            "OTEL_METRIC_EXPORT_TIMEOUT",
            "OTEL_NODE_RESOURCE_DETECTORS",
            "OTEL_PYTHON_LOG_LEVEL",
        ];
        assert_eq!(of(&names), []);
    }

    #[test]
    fn each_refused_text_has_its_hint() {
        let count = Kind::Count { min: 1, max: 9_999_999 };
        for (kind, text, part) in [
            (Kind::Bool, "yes", "write true"),
            (Kind::Bool, "0", "write false"),
            (Kind::Bool, "true # in tests", "no comment"),
            (count, "10_000", "write 10000"),
            (count, "10,000", "write 10000"),
            (count, "${SPANS}", "not expanded"),
            (Kind::Path, "~/state", "only a shell"),
            (Kind::Path, "$HOME/state", "only a shell"),
            (Kind::Rate, "fast", ""),
            (count, "many", ""),
        ] {
            let hint = hint(kind, text);
            assert!(hint.contains(part) && hint.is_empty() == part.is_empty(), "{text}: {hint:?}");
        }
    }
}

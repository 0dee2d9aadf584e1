//! Variables whose text is a list, or sets several fields.

use std::borrow::Cow;
use std::ffi::OsStr;

use percent_encoding::percent_decode_str;

use super::choice::Choice as _;
use super::field::{Field as _, Value};
use super::kind::Kind;
use super::table::{PROPAGATORS, RESOURCE_ATTRIBUTES, TRACES_EXPORTER};
use super::{Propagator, Settings, TracesExporter, slips};

/// Reads `OTEL_RESOURCE_ATTRIBUTES` by the rules of the resource SDK specification: one bad entry discards the whole
/// list, with a warning.
pub(crate) fn resource_attributes(_kind: Kind, settings: &mut Settings, list: &OsStr) -> bool {
    let Some(list) = list.to_str() else { return false };
    let mut attributes = Vec::new();
    for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let Some(attribute) = attribute(entry) else {
            let message = format!(
                "{} is discarded as a whole because of its entry {:?}; accepted is {}",
                RESOURCE_ATTRIBUTES.name,
                shown(entry),
                RESOURCE_ATTRIBUTES.accepted()
            );
            settings.warn(RESOURCE_ATTRIBUTES.name, message);
            return true;
        };
        if entry.matches('=').nth(1).is_some() {
            // The specification wants `%3D`; Baggage, whose format this is, allows the sign, and nothing else is meant.
            let (key, value) = &attribute;
            let message = format!(
                "{} has the entry {:?}, which is read as {key:?} with the value {:?}: a comma ends an entry, and = in a \
                 value is written %3D; other SDKs may discard the list",
                RESOURCE_ATTRIBUTES.name,
                shown(entry),
                shown_value(value)
            );
            settings.warn(RESOURCE_ATTRIBUTES.name, message);
        }
        attributes.push(attribute);
    }
    settings.resource_attributes = attributes;
    true
}

/// Reads `OTEL_TRACES_EXPORTER`: exporters that do not exist here are left out, each with a warning.
pub(crate) fn traces_exporter(_kind: Kind, settings: &mut Settings, list: &OsStr) -> bool {
    let Some(list) = list.to_str().map(str::to_ascii_lowercase) else { return false };
    let words = || list.split(',').map(str::trim).filter(|word| !word.is_empty());
    let exporter = match (words().any(|word| word == "otlp"), words().any(|word| word == "none")) {
        (false, true) => TracesExporter::None,
        _ => TracesExporter::Otlp,
    };
    for other in words().filter(|word| TracesExporter::of_word(word).is_none()) {
        let message = format!(
            "{} names {:?}, which is left out: {} is used; accepted is {}",
            TRACES_EXPORTER.name,
            slips::before_next(other),
            exporter.word(),
            TRACES_EXPORTER.accepted()
        );
        settings.warn(TRACES_EXPORTER.name, message);
    }
    settings.traces_exporter = exporter;
    true
}

/// Reads `OTEL_PROPAGATORS`: propagators that do not exist here are left out, each with a warning. The default holds
/// where none is left.
pub(crate) fn propagators(_kind: Kind, settings: &mut Settings, list: &OsStr) -> bool {
    let Some(list) = list.to_str().map(str::to_ascii_lowercase) else { return false };
    let mut found = Vec::new();
    let mut none = false;
    for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let propagator = match word {
            "tracecontext" => Propagator::TraceContext,
            "baggage" => Propagator::Baggage,
            "none" => {
                none = true;
                continue;
            }
            other => {
                let message = format!(
                    "{} names {:?}, which is left out; accepted is {}",
                    PROPAGATORS.name,
                    slips::before_next(other),
                    PROPAGATORS.accepted()
                );
                settings.warn(PROPAGATORS.name, message);
                continue;
            }
        };
        if !found.contains(&propagator) {
            found.push(propagator);
        }
    }
    if none || !found.is_empty() {
        settings.propagators = found;
    }
    true
}

/// Reads `OTEL_ATTRIBUTE_COUNT_LIMIT`, which holds for spans, events and links; the variables of each are read after
/// it.
pub(crate) fn attribute_limits(kind: Kind, settings: &mut Settings, text: &OsStr) -> bool {
    let Some(limit) = Value::read(kind, text) else { return false };
    let limits = &mut settings.span_limits;
    [&mut limits.max_attributes_per_span, &mut limits.max_attributes_per_event, &mut limits.max_attributes_per_link]
        .into_iter()
        .all(|field| field.set(limit.clone()))
}

/// The entry, as [`shown_value`] has its value.
fn shown(entry: &str) -> String {
    match entry.split_once('=') {
        Some((key, value)) => format!("{key}={}", shown_value(value)),
        None => entry.to_owned(),
    }
}

/// The value up to a word with a `=` behind a blank, which may be another variable on the same line.
fn shown_value(value: &str) -> Cow<'_, str> {
    if value.contains(char::is_whitespace) { slips::before_next(value) } else { Cow::from(value) }
}

fn attribute(entry: &str) -> Option<(String, String)> {
    let (key, value) = entry.split_once('=')?;
    let (key, value) = (decode(key.trim())?, decode(value.trim())?);
    (!key.is_empty()).then_some((key, value))
}

/// Decodes percent-encoding; none if a `%` lacks its two hexadecimal digits or the bytes are not UTF-8.
fn decode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let is_hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let is_encoded = bytes.iter().enumerate().all(|(at, byte)| *byte != b'%' || is_hex(at + 1) && is_hex(at + 2));
    is_encoded.then(|| percent_decode_str(text).decode_utf8().ok())?.map(|decoded| decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_percent_decoded() {
        assert_eq!(attribute("a%2Cb = x%3D1 "), Some(("a,b".to_owned(), "x=1".to_owned())));
        assert_eq!(attribute("a=b=c"), Some(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(attribute("a="), Some(("a".to_owned(), String::new())));
        assert_eq!(attribute("city=K%C3%B6ln"), Some(("city".to_owned(), "Köln".to_owned())));
    }

    #[test]
    fn an_entry_that_cannot_be_decoded_is_refused() {
        for entry in ["a", "=b", "a=%", "a=%4", "a=%zz", "a=%FF", " =x"] {
            assert_eq!(attribute(entry), None, "{entry:?}");
        }
    }
}

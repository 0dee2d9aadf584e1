//! One form for spans from two sources, so that they can be compared: those that the SDK made, and those that the
//! Collector wrote.
//!
//! It shares no code with our own encoder: it would find its own mistakes right.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use mock_collector::SpanIds;
use opentelemetry::trace::{SpanKind, Status};
use opentelemetry::{Array, KeyValue, Value as Attribute};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;
use serde_json::{Map, Value, json};

use crate::Failure;

/// Spans by id, each in the canonical form: fields of OTLP JSON, attributes as a map, absent fields as defaults.
pub type Spans = BTreeMap<SpanIds, Value>;

/// The spans that the SDK made.
#[must_use]
pub fn made(spans: &[SpanData], resource: &Resource) -> Spans {
    let resource: Map<String, Value> =
        resource.iter().map(|(key, value)| (key.to_string(), attribute(value))).collect();
    let one = |span: &SpanData| {
        let ids = (span.span_context.trace_id().to_bytes(), span.span_context.span_id().to_bytes());
        let events = span.events.events.iter().map(|event| {
            json!({ "name": event.name, "time": nanos(event.timestamp), "attributes": attributes(&event.attributes) })
        });
        let links = span.links.links.iter().map(|link| {
            let (trace, span) = (link.span_context.trace_id(), link.span_context.span_id());
            json!({ "trace": trace.to_string(), "span": span.to_string(), "attributes": attributes(&link.attributes) })
        });
        let (code, message) = match &span.status {
            Status::Unset => (0, ""),
            Status::Ok => (1, ""),
            Status::Error { description } => (2, description.as_ref()),
        };
        let parent = span.parent_span_id.to_string();
        let form = json!({
            "parent": if parent.trim_matches('0').is_empty() { String::new() } else { parent },
            "name": span.name,
            "kind": kind(&span.span_kind),
            "start": nanos(span.start_time),
            "end": nanos(span.end_time),
            "attributes": attributes(&span.attributes),
            "events": events.collect::<Vec<_>>(),
            "links": links.collect::<Vec<_>>(),
            "status": [code, message],
            "scope": span.instrumentation_scope.name(),
            "resource": resource,
        });
        (ids, form)
    };
    spans.iter().map(one).collect()
}

/// The spans that the Collector wrote: OTLP JSON, one request a line. A last line without its end is still being
/// written and is left out. A span that came twice counts once, if both are the same.
///
/// # Errors
///
/// When a whole line is no OTLP JSON, or one id stands for two different spans.
pub fn recorded(text: &str) -> Result<Spans, Failure> {
    let mut found = Spans::new();
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let request: Value = serde_json::from_str(line)?;
        for by_resource in list(&request["resourceSpans"]) {
            let resource = recorded_attributes(&by_resource["resource"]["attributes"])?;
            for by_scope in list(&by_resource["scopeSpans"]) {
                for span in list(&by_scope["spans"]) {
                    let ids = (hex(&span["traceId"])?, hex(&span["spanId"])?);
                    let form = recorded_span(span, &by_scope["scope"]["name"], &resource)?;
                    if found.insert(ids, form.clone()).is_some_and(|before| before != form) {
                        return Err(format!("span {} arrived twice, and not the same", span["spanId"]).into());
                    }
                }
            }
        }
    }
    Ok(found)
}

/// The ids of the spans that the Collector wrote, each as often as it came; lines as in [`recorded`].
///
/// # Errors
///
/// When a whole line is no OTLP JSON.
pub fn recorded_ids(text: &str) -> Result<Vec<SpanIds>, Failure> {
    let mut found = Vec::new();
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let request: Value = serde_json::from_str(line)?;
        let scopes = list(&request["resourceSpans"]).flat_map(|resource| list(&resource["scopeSpans"]));
        for span in scopes.flat_map(|scope| list(&scope["spans"])) {
            found.push((hex(&span["traceId"])?, hex(&span["spanId"])?));
        }
    }
    Ok(found)
}

/// Compares by id.
///
/// # Errors
///
/// Counts of the spans that are missing, unknown or different, and the first of each in full.
pub fn compare(made: &Spans, recorded: &Spans) -> Result<(), Failure> {
    let mut wrong = Vec::new();
    let missing: Vec<_> = made.iter().filter(|(ids, _)| !recorded.contains_key(*ids)).collect();
    if let Some((_, first)) = missing.first() {
        wrong.push(format!("{} of {} spans never arrived, the first is {first}", missing.len(), made.len()));
    }
    let unknown: Vec<_> = recorded.iter().filter(|(ids, _)| !made.contains_key(*ids)).collect();
    if let Some((_, first)) = unknown.first() {
        wrong.push(format!("{} spans arrived that the application never made, the first is {first}", unknown.len()));
    }
    let different: Vec<_> = made
        .iter()
        .filter_map(|(ids, made)| Some((made, recorded.get(ids)?)))
        .filter(|(made, came)| made != came)
        .collect();
    if let Some((made, came)) = different.first() {
        wrong.push(format!("{} spans arrived changed, the first was\n{made}\nand became\n{came}", different.len()));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

fn recorded_span(span: &Value, scope: &Value, resource: &Map<String, Value>) -> Result<Value, Failure> {
    let mut events = Vec::new();
    for event in list(&span["events"]) {
        let attributes = recorded_attributes(&event["attributes"])?;
        events.push(json!({ "name": event["name"], "time": event["timeUnixNano"], "attributes": attributes }));
    }
    let mut links = Vec::new();
    for link in list(&span["links"]) {
        let attributes = recorded_attributes(&link["attributes"])?;
        links.push(json!({ "trace": link["traceId"], "span": link["spanId"], "attributes": attributes }));
    }
    let mut attributes = recorded_attributes(&span["attributes"])?;
    // Put there by the Collector's file receiver.
    attributes.remove("log.file.name");
    let status = &span["status"];
    Ok(json!({
        "parent": span["parentSpanId"].as_str().unwrap_or(""),
        "name": span["name"],
        "kind": span["kind"],
        "start": span["startTimeUnixNano"],
        "end": span["endTimeUnixNano"],
        "attributes": attributes,
        "events": events,
        "links": links,
        "status": [status["code"].as_i64().unwrap_or(0), status["message"].as_str().unwrap_or("")],
        "scope": scope.as_str().unwrap_or(""),
        "resource": resource,
    }))
}

fn recorded_attributes(attributes: &Value) -> Result<Map<String, Value>, Failure> {
    let one = |attribute: &Value| {
        // Left out when it is empty, as every default is.
        let key = match &attribute["key"] {
            Value::Null => String::new(),
            Value::String(key) => key.clone(),
            _ => return Err(format!("an attribute whose key is no text: {attribute}").into()),
        };
        Ok((key, attribute["value"].clone()))
    };
    list(attributes).map(one).collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn attributes(attributes: &[KeyValue]) -> Map<String, Value> {
    attributes.iter().map(|pair| (pair.key.to_string(), attribute(&pair.value))).collect()
}

/// As OTLP JSON writes it: 64-bit integers are strings.
fn attribute(value: &Attribute) -> Value {
    match value {
        Attribute::Bool(value) => json!({ "boolValue": value }),
        Attribute::I64(value) => json!({ "intValue": value.to_string() }),
        Attribute::F64(value) => json!({ "doubleValue": double(*value) }),
        Attribute::String(value) => json!({ "stringValue": value.as_str() }),
        Attribute::Array(values) => {
            let values: Vec<Value> = match values {
                Array::Bool(values) => values.iter().map(|value| json!({ "boolValue": value })).collect(),
                Array::I64(values) => values.iter().map(|value| json!({ "intValue": value.to_string() })).collect(),
                Array::F64(values) => values.iter().map(|value| json!({ "doubleValue": double(*value) })).collect(),
                Array::String(values) => values.iter().map(|value| json!({ "stringValue": value.as_str() })).collect(),
                other => vec![json!({ "unknown": format!("{other:?}") })],
            };
            json!({ "arrayValue": { "values": values } })
        }
        other => json!({ "unknown": format!("{other:?}") }),
    }
}

/// Written and read once, as its counterpart was: `serde_json` may miss the last bit when it reads. The Collector
/// writes a whole number without a fraction.
fn double(value: f64) -> Value {
    let text =
        if value.fract() == 0.0 && value.abs() < 1e15 { format!("{value:.0}") } else { json!(value).to_string() };
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

/// The numbers of `Span.SpanKind` in `trace.proto`.
fn kind(kind: &SpanKind) -> u8 {
    match kind {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
        SpanKind::Producer => 4,
        SpanKind::Consumer => 5,
    }
}

fn nanos(time: SystemTime) -> String {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos()).to_string()
}

fn hex<const N: usize>(value: &Value) -> Result<[u8; N], Failure> {
    let text = value
        .as_str()
        .filter(|text| text.len() == 2 * N && text.is_ascii())
        .ok_or_else(|| format!("no id of {N} bytes: {value}"))?;
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app;

    /// The record of one span as the Collector writes it.
    const LINE: &str = r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}]},"scopeSpans":[{"scope":{"name":"s"},"spans":[{"traceId":"00000000000000000000000000000001","spanId":"0000000000000002","parentSpanId":"","name":"GET","kind":2,"startTimeUnixNano":"5","endTimeUnixNano":"6","attributes":[{"key":"n","value":{"intValue":"3"}},{"key":"log.file.name","value":{"stringValue":"x"}}],"status":{}}]}]}]}
"#;

    #[test]
    fn a_record_is_read_without_what_the_receiver_adds_and_without_a_torn_line() {
        let spans = recorded(&format!("{LINE}{}", &LINE[..40])).expect("valid");
        let ids = (1_u128.to_be_bytes(), 2_u64.to_be_bytes());
        assert_eq!(spans.keys().collect::<Vec<_>>(), [&ids]);
        assert_eq!(spans[&ids]["attributes"], json!({ "n": { "intValue": "3" } }));
        assert_eq!(spans[&ids]["status"], json!([0, ""]));
    }

    #[test]
    fn the_same_id_with_another_content_is_an_error() {
        assert!(recorded(&format!("{LINE}{LINE}")).is_ok());
        assert!(recorded(&format!("{LINE}{}", LINE.replace("GET", "PUT"))).is_err());
    }

    #[test]
    fn a_span_that_came_twice_has_its_ids_twice() {
        let ids = (1_u128.to_be_bytes(), 2_u64.to_be_bytes());
        assert_eq!(recorded_ids(&format!("{LINE}{LINE}{}", &LINE[..40])).expect("valid"), [ids, ids]);
    }

    #[test]
    fn any_difference_is_found() {
        let spans = made(&app::finished_spans(3), &Resource::builder_empty().build());
        assert!(compare(&spans, &spans).is_ok());
        for change in
            ["name", "kind", "start", "attributes", "events", "links", "status", "scope", "resource", "parent"]
        {
            let mut other = spans.clone();
            other.first_entry().expect("three").get_mut()[change] = json!("changed");
            let failure = compare(&spans, &other).expect_err(change).to_string();
            assert!(failure.starts_with("1 spans arrived changed"), "{failure}");
        }
        let mut fewer = spans.clone();
        fewer.pop_first();
        assert!(compare(&spans, &fewer).is_err() && compare(&fewer, &spans).is_err());
    }
}

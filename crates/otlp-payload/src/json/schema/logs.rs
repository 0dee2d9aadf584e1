//! From `opentelemetry/proto/logs/v1` of OTLP 1.11.

use super::{ANY_VALUE, Block, Field, KEY_VALUE, Kind, Message, RESOURCE, Request, SCOPE, field};

/// `LogsData`, which is `ExportLogsServiceRequest` by another name.
pub(super) static LOGS: Request = Request {
    message: Message::of(&[field!(1, "resourceLogs", "resource_logs", repeated & RESOURCE_LOGS, 0)]),
    entry: &LOG_RECORD,
    line_start: b"{\"resourceLogs\":[{\"scopeLogs\":[",
    scope_start: b"{\"logRecords\":[",
};

static RESOURCE_LOGS: Message = Message::of(&[
    field!(1, "resource", "resource", one & RESOURCE),
    field!(2, "scopeLogs", "scope_logs", repeated & SCOPE_LOGS, 0),
    field!(3, "schemaUrl", "schema_url", text),
]);

static SCOPE_LOGS: Message = Message::of(&[
    field!(1, "scope", "scope", one & SCOPE),
    field!(2, "logRecords", "log_records", repeated & LOG_RECORD, 2),
    field!(3, "schemaUrl", "schema_url", text),
]);

static LOG_RECORD: Message = Message::item(&[
    field!(1, "timeUnixNano", "time_unix_nano", fixed64),
    field!(2, "severityNumber", "severity_number", enum SEVERITIES),
    field!(3, "severityText", "severity_text", text),
    field!(5, "body", "body", one & ANY_VALUE),
    field!(6, "attributes", "attributes", repeated & KEY_VALUE, 1),
    field!(7, "droppedAttributesCount", "dropped_attributes_count", uint32),
    field!(8, "flags", "flags", fixed32),
    field!(9, "traceId", "trace_id", hex),
    field!(10, "spanId", "span_id", hex),
    field!(11, "observedTimeUnixNano", "observed_time_unix_nano", fixed64),
    field!(12, "eventName", "event_name", text),
]);

const SEVERITIES: &[&str] = &[
    "SEVERITY_NUMBER_UNSPECIFIED",
    "SEVERITY_NUMBER_TRACE",
    "SEVERITY_NUMBER_TRACE2",
    "SEVERITY_NUMBER_TRACE3",
    "SEVERITY_NUMBER_TRACE4",
    "SEVERITY_NUMBER_DEBUG",
    "SEVERITY_NUMBER_DEBUG2",
    "SEVERITY_NUMBER_DEBUG3",
    "SEVERITY_NUMBER_DEBUG4",
    "SEVERITY_NUMBER_INFO",
    "SEVERITY_NUMBER_INFO2",
    "SEVERITY_NUMBER_INFO3",
    "SEVERITY_NUMBER_INFO4",
    "SEVERITY_NUMBER_WARN",
    "SEVERITY_NUMBER_WARN2",
    "SEVERITY_NUMBER_WARN3",
    "SEVERITY_NUMBER_WARN4",
    "SEVERITY_NUMBER_ERROR",
    "SEVERITY_NUMBER_ERROR2",
    "SEVERITY_NUMBER_ERROR3",
    "SEVERITY_NUMBER_ERROR4",
    "SEVERITY_NUMBER_FATAL",
    "SEVERITY_NUMBER_FATAL2",
    "SEVERITY_NUMBER_FATAL3",
    "SEVERITY_NUMBER_FATAL4",
];

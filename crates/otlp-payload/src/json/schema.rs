//! The messages of OTLP requests as tables, for both directions: the frame and the spans of traces, and the messages
//! that all signals share.
//!
//! From `opentelemetry/proto/trace/v1`, `common/v1` and `resource/v1` of OTLP 1.11; fields in the order of their
//! numbers.

mod logs;
mod metrics;

use super::text::Block;
use crate::signal::Signal;

pub(crate) struct Message {
    pub(crate) fields: &'static [Field],
    /// At most one of the fields is set, and it is there even when it is 0 or empty.
    pub(crate) oneof: bool,
    /// The message is an item of its signal.
    pub(crate) is_item: bool,
}

/// The names and messages of one signal's request.
pub(crate) struct Request {
    pub(crate) message: Message,
    /// The message of the field `ENTRIES` of a scope.
    pub(crate) entry: &'static Message,
    /// The text that begins a line, and the one that begins a scope.
    pub(super) line_start: &'static [u8],
    pub(super) scope_start: &'static [u8],
}

/// The request of a signal.
pub(crate) const fn request(signal: Signal) -> &'static Request {
    match signal {
        Signal::Traces => &TRACES,
        Signal::Logs => &logs::LOGS,
        Signal::Metrics => &metrics::METRICS,
    }
}

pub(crate) struct Field {
    pub(crate) number: u32,
    /// The tag on the wire: number and wire type.
    pub(crate) tag: u32,
    pub(crate) repeated: bool,
    /// The field is a member of the `oneof` of its message, which has other fields too, and is there even when it is 0.
    pub(crate) is_choice: bool,
    pub(crate) kind: Kind,
    /// The name in lowerCamelCase, as it is written.
    pub(crate) name: &'static str,
    /// The name in the `.proto` file; a reader takes either.
    pub(crate) proto_name: &'static str,
    /// `"name":`, how a reader meets it.
    pub(super) key: &'static str,
    /// How many bytes the length of a message is likely to take; 0: it depends on the whole.
    pub(super) guess: u8,
    /// `"name":`, and the bracket that begins the values of a repeated field.
    pub(super) opening: Block,
}

/// The type of a field, which decides its form in JSON.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Text,
    /// Trace and span ids: OTLP/JSON has them in hex where proto3 JSON would have base64.
    Hex,
    Base64,
    Bool,
    /// `int64`: a string in JSON.
    Int64,
    /// `int32`, of which only non-negative values have a meaning in OTLP.
    Int32,
    Uint32,
    /// `sint32`: in zigzag on the wire.
    Sint32,
    Fixed32,
    /// A string in JSON.
    Fixed64,
    /// A string in JSON.
    Sfixed64,
    Double,
    /// Numbers one behind the other in one field.
    Packed(Number),
    /// A number in JSON; the names, from 0 on, are taken too.
    Enum(&'static [&'static str]),
    Message(&'static Message),
}

/// The type of packed numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Number {
    /// A string in JSON.
    Fixed64,
    /// A varint; a string in JSON.
    Uint64,
    Double,
}

impl Number {
    /// The wire type of a field that holds one number alone, as a reader has to take it too.
    pub(super) const fn wire_type(self) -> u32 {
        match self {
            Self::Fixed64 | Self::Double => 1,
            Self::Uint64 => 0,
        }
    }
}

macro_rules! field {
    ($number:literal, $name:literal, $proto:literal, $wire:literal, $kind:expr, $open:literal, $repeated:literal, $guess:literal) => {
        Field {
            number: $number,
            tag: $number << 3 | $wire,
            repeated: $repeated,
            is_choice: false,
            kind: $kind,
            name: $name,
            proto_name: $proto,
            key: concat!("\"", $name, "\":"),
            guess: $guess,
            opening: Block::new(concat!("\"", $name, "\":", $open)),
        }
    };
    ($number:literal, $name:literal, $proto:literal, text) => {
        field!($number, $name, $proto, 2, Kind::Text, "", false, 1)
    };
    ($number:literal, $name:literal, $proto:literal, hex) => {
        field!($number, $name, $proto, 2, Kind::Hex, "", false, 1)
    };
    ($number:literal, $name:literal, $proto:literal, base64) => {
        field!($number, $name, $proto, 2, Kind::Base64, "", false, 1)
    };
    ($number:literal, $name:literal, $proto:literal, bool) => {
        field!($number, $name, $proto, 0, Kind::Bool, "", false, 1)
    };
    ($number:literal, $name:literal, $proto:literal, int64) => {
        field!($number, $name, $proto, 0, Kind::Int64, "", false, 1)
    };
    ($number:literal, $name:literal, $proto:literal, int32) => {
        field!($number, $name, $proto, 0, Kind::Int32, "", false, 1)
    };
    ($number:literal, $name:literal, $proto:literal, uint32) => {
        field!($number, $name, $proto, 0, Kind::Uint32, "", false, 1)
    };
    ($number:literal, $name:literal, $proto:literal, sint32) => {
        field!($number, $name, $proto, 0, Kind::Sint32, "", false, 1)
    };
    ($number:literal, $name:literal, $proto:literal, fixed32) => {
        field!($number, $name, $proto, 5, Kind::Fixed32, "", false, 1)
    };
    ($number:literal, $name:literal, $proto:literal, fixed64) => {
        field!($number, $name, $proto, 1, Kind::Fixed64, "", false, 1)
    };
    ($number:literal, $name:literal, $proto:literal, double) => {
        field!($number, $name, $proto, 1, Kind::Double, "", false, 1)
    };
    ($number:literal, $name:literal, $proto:literal, sfixed64) => {
        field!($number, $name, $proto, 1, Kind::Sfixed64, "", false, 1)
    };
    ($number:literal, $name:literal, $proto:literal, packed $of:ident) => {
        field!($number, $name, $proto, 2, Kind::Packed(Number::$of), "[", true, 1)
    };
    ($number:literal, $name:literal, $proto:literal, choice $($kind:tt)+) => {
        Field { is_choice: true, ..field!($number, $name, $proto, $($kind)+) }
    };
    ($number:literal, $name:literal, $proto:literal, enum $names:expr) => {
        field!($number, $name, $proto, 0, Kind::Enum($names), "", false, 1)
    };
    ($number:literal, $name:literal, $proto:literal, repeated text) => {
        field!($number, $name, $proto, 2, Kind::Text, "[", true, 1)
    };
    ($number:literal, $name:literal, $proto:literal, repeated $message:expr, $guess:literal) => {
        field!($number, $name, $proto, 2, Kind::Message($message), "[", true, $guess)
    };
    ($number:literal, $name:literal, $proto:literal, one $message:expr) => {
        field!($number, $name, $proto, 2, Kind::Message($message), "", false, 1)
    };
}

pub(super) use field;

/// `TracesData`, which is `ExportTraceServiceRequest` by another name.
static TRACES: Request = Request {
    message: Message::of(&[field!(1, "resourceSpans", "resource_spans", repeated & RESOURCE_SPANS, 0)]),
    entry: &SPAN,
    line_start: b"{\"resourceSpans\":[{\"scopeSpans\":[",
    scope_start: b"{\"spans\":[",
};

impl Message {
    pub(super) const fn of(fields: &'static [Field]) -> Self {
        Self { fields, oneof: false, is_item: false }
    }

    pub(super) const fn item(fields: &'static [Field]) -> Self {
        Self { fields, oneof: false, is_item: true }
    }
}

static RESOURCE_SPANS: Message = Message::of(&[
    field!(1, "resource", "resource", one & RESOURCE),
    field!(2, "scopeSpans", "scope_spans", repeated & SCOPE_SPANS, 0),
    field!(3, "schemaUrl", "schema_url", text),
]);

pub(super) static RESOURCE: Message = Message::of(&[
    field!(1, "attributes", "attributes", repeated & KEY_VALUE, 1),
    field!(2, "droppedAttributesCount", "dropped_attributes_count", uint32),
    field!(3, "entityRefs", "entity_refs", repeated & ENTITY_REF, 1),
]);

static ENTITY_REF: Message = Message::of(&[
    field!(1, "schemaUrl", "schema_url", text),
    field!(2, "type", "type", text),
    field!(3, "idKeys", "id_keys", repeated text),
    field!(4, "descriptionKeys", "description_keys", repeated text),
]);

static SCOPE_SPANS: Message = Message::of(&[
    field!(1, "scope", "scope", one & SCOPE),
    field!(2, "spans", "spans", repeated & SPAN, 2),
    field!(3, "schemaUrl", "schema_url", text),
]);

pub(super) static SCOPE: Message = Message::of(&[
    field!(1, "name", "name", text),
    field!(2, "version", "version", text),
    field!(3, "attributes", "attributes", repeated & KEY_VALUE, 1),
    field!(4, "droppedAttributesCount", "dropped_attributes_count", uint32),
]);

static SPAN: Message = Message::item(&[
    field!(1, "traceId", "trace_id", hex),
    field!(2, "spanId", "span_id", hex),
    field!(3, "traceState", "trace_state", text),
    field!(4, "parentSpanId", "parent_span_id", hex),
    field!(5, "name", "name", text),
    field!(6, "kind", "kind", enum SPAN_KINDS),
    field!(7, "startTimeUnixNano", "start_time_unix_nano", fixed64),
    field!(8, "endTimeUnixNano", "end_time_unix_nano", fixed64),
    field!(9, "attributes", "attributes", repeated & KEY_VALUE, 1),
    field!(10, "droppedAttributesCount", "dropped_attributes_count", uint32),
    field!(11, "events", "events", repeated & EVENT, 2),
    field!(12, "droppedEventsCount", "dropped_events_count", uint32),
    field!(13, "links", "links", repeated & LINK, 1),
    field!(14, "droppedLinksCount", "dropped_links_count", uint32),
    field!(15, "status", "status", one & STATUS),
    field!(16, "flags", "flags", fixed32),
]);

const SPAN_KINDS: &[&str] = &[
    "SPAN_KIND_UNSPECIFIED",
    "SPAN_KIND_INTERNAL",
    "SPAN_KIND_SERVER",
    "SPAN_KIND_CLIENT",
    "SPAN_KIND_PRODUCER",
    "SPAN_KIND_CONSUMER",
];

static EVENT: Message = Message::of(&[
    field!(1, "timeUnixNano", "time_unix_nano", fixed64),
    field!(2, "name", "name", text),
    field!(3, "attributes", "attributes", repeated & KEY_VALUE, 1),
    field!(4, "droppedAttributesCount", "dropped_attributes_count", uint32),
]);

static LINK: Message = Message::of(&[
    field!(1, "traceId", "trace_id", hex),
    field!(2, "spanId", "span_id", hex),
    field!(3, "traceState", "trace_state", text),
    field!(4, "attributes", "attributes", repeated & KEY_VALUE, 1),
    field!(5, "droppedAttributesCount", "dropped_attributes_count", uint32),
    field!(6, "flags", "flags", fixed32),
]);

static STATUS: Message =
    Message::of(&[field!(2, "message", "message", text), field!(3, "code", "code", enum STATUS_CODES)]);

const STATUS_CODES: &[&str] = &["STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR"];

pub(super) static KEY_VALUE: Message = Message::of(&[
    field!(1, "key", "key", text),
    field!(2, "value", "value", one & ANY_VALUE),
    field!(3, "keyStrindex", "key_strindex", int32),
]);

pub(super) static ANY_VALUE: Message = Message {
    oneof: true,
    is_item: false,
    fields: &[
        field!(1, "stringValue", "string_value", text),
        field!(2, "boolValue", "bool_value", bool),
        field!(3, "intValue", "int_value", int64),
        field!(4, "doubleValue", "double_value", double),
        field!(5, "arrayValue", "array_value", one & ARRAY_VALUE),
        field!(6, "kvlistValue", "kvlist_value", one & KEY_VALUE_LIST),
        field!(7, "bytesValue", "bytes_value", base64),
        field!(8, "stringValueStrindex", "string_value_strindex", int32),
    ],
};

static ARRAY_VALUE: Message = Message::of(&[field!(1, "values", "values", repeated & ANY_VALUE, 1)]);

static KEY_VALUE_LIST: Message = Message::of(&[field!(1, "values", "values", repeated & KEY_VALUE, 1)]);

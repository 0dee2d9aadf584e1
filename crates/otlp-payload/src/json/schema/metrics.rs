//! From `opentelemetry/proto/metrics/v1` of OTLP 1.11.

use super::{Block, Field, KEY_VALUE, Kind, Message, Number, RESOURCE, Request, SCOPE, field};

/// `MetricsData`, which is `ExportMetricsServiceRequest` by another name.
pub(super) static METRICS: Request = Request {
    message: Message::of(&[field!(1, "resourceMetrics", "resource_metrics", repeated & RESOURCE_METRICS, 0)]),
    entry: &METRIC,
    line_start: b"{\"resourceMetrics\":[{\"scopeMetrics\":[",
    scope_start: b"{\"metrics\":[",
};

static RESOURCE_METRICS: Message = Message::of(&[
    field!(1, "resource", "resource", one & RESOURCE),
    field!(2, "scopeMetrics", "scope_metrics", repeated & SCOPE_METRICS, 0),
    field!(3, "schemaUrl", "schema_url", text),
]);

static SCOPE_METRICS: Message = Message::of(&[
    field!(1, "scope", "scope", one & SCOPE),
    field!(2, "metrics", "metrics", repeated & METRIC, 2),
    field!(3, "schemaUrl", "schema_url", text),
]);

static METRIC: Message = Message::of(&[
    field!(1, "name", "name", text),
    field!(2, "description", "description", text),
    field!(3, "unit", "unit", text),
    field!(5, "gauge", "gauge", choice 2, Kind::Message(&GAUGE), "", false, 2),
    field!(7, "sum", "sum", choice 2, Kind::Message(&SUM), "", false, 2),
    field!(9, "histogram", "histogram", choice 2, Kind::Message(&HISTOGRAM), "", false, 2),
    field!(
        10, "exponentialHistogram", "exponential_histogram",
        choice 2, Kind::Message(&EXPONENTIAL_HISTOGRAM), "", false, 2
    ),
    field!(11, "summary", "summary", choice 2, Kind::Message(&SUMMARY), "", false, 2),
    field!(12, "metadata", "metadata", repeated & KEY_VALUE, 1),
]);

static GAUGE: Message = Message::of(&[field!(1, "dataPoints", "data_points", repeated & NUMBER_DATA_POINT, 1)]);

static SUM: Message = Message::of(&[
    field!(1, "dataPoints", "data_points", repeated & NUMBER_DATA_POINT, 1),
    field!(2, "aggregationTemporality", "aggregation_temporality", enum TEMPORALITIES),
    field!(3, "isMonotonic", "is_monotonic", bool),
]);

static HISTOGRAM: Message = Message::of(&[
    field!(1, "dataPoints", "data_points", repeated & HISTOGRAM_DATA_POINT, 1),
    field!(2, "aggregationTemporality", "aggregation_temporality", enum TEMPORALITIES),
]);

static EXPONENTIAL_HISTOGRAM: Message = Message::of(&[
    field!(1, "dataPoints", "data_points", repeated & EXPONENTIAL_DATA_POINT, 1),
    field!(2, "aggregationTemporality", "aggregation_temporality", enum TEMPORALITIES),
]);

static SUMMARY: Message = Message::of(&[field!(1, "dataPoints", "data_points", repeated & SUMMARY_DATA_POINT, 1)]);

const TEMPORALITIES: &[&str] =
    &["AGGREGATION_TEMPORALITY_UNSPECIFIED", "AGGREGATION_TEMPORALITY_DELTA", "AGGREGATION_TEMPORALITY_CUMULATIVE"];

static NUMBER_DATA_POINT: Message = Message::item(&[
    field!(2, "startTimeUnixNano", "start_time_unix_nano", fixed64),
    field!(3, "timeUnixNano", "time_unix_nano", fixed64),
    field!(4, "asDouble", "as_double", choice 1, Kind::Double, "", false, 1),
    field!(5, "exemplars", "exemplars", repeated & EXEMPLAR, 1),
    field!(6, "asInt", "as_int", choice 1, Kind::Sfixed64, "", false, 1),
    field!(7, "attributes", "attributes", repeated & KEY_VALUE, 1),
    field!(8, "flags", "flags", uint32),
]);

static HISTOGRAM_DATA_POINT: Message = Message::item(&[
    field!(2, "startTimeUnixNano", "start_time_unix_nano", fixed64),
    field!(3, "timeUnixNano", "time_unix_nano", fixed64),
    field!(4, "count", "count", fixed64),
    field!(5, "sum", "sum", double),
    field!(6, "bucketCounts", "bucket_counts", packed Fixed64),
    field!(7, "explicitBounds", "explicit_bounds", packed Double),
    field!(8, "exemplars", "exemplars", repeated & EXEMPLAR, 1),
    field!(9, "attributes", "attributes", repeated & KEY_VALUE, 1),
    field!(10, "flags", "flags", uint32),
    field!(11, "min", "min", double),
    field!(12, "max", "max", double),
]);

static EXPONENTIAL_DATA_POINT: Message = Message::item(&[
    field!(1, "attributes", "attributes", repeated & KEY_VALUE, 1),
    field!(2, "startTimeUnixNano", "start_time_unix_nano", fixed64),
    field!(3, "timeUnixNano", "time_unix_nano", fixed64),
    field!(4, "count", "count", fixed64),
    field!(5, "sum", "sum", double),
    field!(6, "scale", "scale", sint32),
    field!(7, "zeroCount", "zero_count", fixed64),
    field!(8, "positive", "positive", one & BUCKETS),
    field!(9, "negative", "negative", one & BUCKETS),
    field!(10, "flags", "flags", uint32),
    field!(11, "exemplars", "exemplars", repeated & EXEMPLAR, 1),
    field!(12, "min", "min", double),
    field!(13, "max", "max", double),
    field!(14, "zeroThreshold", "zero_threshold", double),
]);

static BUCKETS: Message =
    Message::of(&[field!(1, "offset", "offset", sint32), field!(2, "bucketCounts", "bucket_counts", packed Uint64)]);

static SUMMARY_DATA_POINT: Message = Message::item(&[
    field!(2, "startTimeUnixNano", "start_time_unix_nano", fixed64),
    field!(3, "timeUnixNano", "time_unix_nano", fixed64),
    field!(4, "count", "count", fixed64),
    field!(5, "sum", "sum", double),
    field!(6, "quantileValues", "quantile_values", repeated & QUANTILE, 1),
    field!(7, "attributes", "attributes", repeated & KEY_VALUE, 1),
    field!(8, "flags", "flags", uint32),
]);

static QUANTILE: Message =
    Message::of(&[field!(1, "quantile", "quantile", double), field!(2, "value", "value", double)]);

static EXEMPLAR: Message = Message::of(&[
    field!(2, "timeUnixNano", "time_unix_nano", fixed64),
    field!(3, "asDouble", "as_double", choice 1, Kind::Double, "", false, 1),
    field!(4, "spanId", "span_id", hex),
    field!(5, "traceId", "trace_id", hex),
    field!(6, "asInt", "as_int", choice 1, Kind::Sfixed64, "", false, 1),
    field!(7, "filteredAttributes", "filtered_attributes", repeated & KEY_VALUE, 1),
]);

//! Random requests of logs and metrics, as the stock messages.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric,
    NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, exemplar, metric,
    number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

/// 0 often, as the default that proto3 leaves out.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0..300_u64, any::<u64>()]
}

fn small() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), any::<u32>()]
}

/// With infinities, and without NaN, which has many forms.
fn double() -> impl Strategy<Value = f64> {
    prop_oneof![
        Just(0.0),
        Just(f64::INFINITY),
        Just(-1.5),
        any::<f64>().prop_filter("no number", |value| !value.is_nan())
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-z]{1,8}", "\\PC{0,6}"]
}

fn value() -> impl Strategy<Value = AnyValue> {
    let leaf = prop_oneof![
        text().prop_map(Value::StringValue),
        any::<bool>().prop_map(Value::BoolValue),
        any::<i64>().prop_map(Value::IntValue),
        double().prop_map(Value::DoubleValue),
        vec(any::<u8>(), 0..5).prop_map(Value::BytesValue),
    ];
    let value = leaf.prop_recursive(2, 6, 3, |inner| {
        let any = inner.prop_map(|value| AnyValue { value: Some(value) });
        prop_oneof![
            vec(any.clone(), 0..3).prop_map(|values| Value::ArrayValue(ArrayValue { values })),
            vec((text(), any), 0..3).prop_map(|all| {
                let values =
                    all.into_iter().map(|(key, value)| KeyValue { key, value: Some(value), ..KeyValue::default() });
                Value::KvlistValue(KeyValueList { values: values.collect() })
            }),
        ]
    });
    value.prop_map(|value| AnyValue { value: Some(value) })
}

fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    let attribute = (text(), of(value())).prop_map(|(key, value)| KeyValue { key, value, ..KeyValue::default() });
    vec(attribute, 0..3)
}

fn resource() -> impl Strategy<Value = Option<Resource>> {
    of(attributes().prop_map(|attributes| Resource { attributes, ..Resource::default() }))
}

fn scope() -> impl Strategy<Value = Option<InstrumentationScope>> {
    of((text(), text()).prop_map(|(name, version)| InstrumentationScope { name, version, ..Default::default() }))
}

fn id(length: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(Vec::new()), vec(any::<u8>(), length)]
}

prop_compose! {
    fn log_record()(
        (time_unix_nano, observed_time_unix_nano) in (number(), number()),
        severity_number in 0..25_i32,
        (severity_text, event_name) in (text(), text()),
        body in of(value()),
        attributes in attributes(),
        (dropped_attributes_count, flags) in (small(), small()),
        (trace_id, span_id) in (id(16), id(8)),
    ) -> LogRecord {
        LogRecord {
            time_unix_nano, observed_time_unix_nano, severity_number, severity_text, event_name, body, attributes,
            dropped_attributes_count, flags, trace_id, span_id,
        }
    }
}

/// One to three resources with scopes with log records.
pub(crate) fn logs() -> impl Strategy<Value = ExportLogsServiceRequest> {
    let scope = (scope(), vec(log_record(), 1..5), text()).prop_map(|(scope, log_records, schema_url)| ScopeLogs {
        scope,
        log_records,
        schema_url,
    });
    let resource = (resource(), vec(scope, 1..3), text()).prop_map(|(resource, scope_logs, schema_url)| ResourceLogs {
        resource,
        scope_logs,
        schema_url,
    });
    vec(resource, 1..3).prop_map(|resource_logs| ExportLogsServiceRequest { resource_logs })
}

fn exemplars() -> impl Strategy<Value = Vec<Exemplar>> {
    let value = prop_oneof![
        double().prop_map(exemplar::Value::AsDouble),
        prop_oneof![Just(0), any::<i64>()].prop_map(exemplar::Value::AsInt),
    ];
    let exemplar = (of(value), number(), id(8), id(16), attributes()).prop_map(
        |(value, time_unix_nano, span_id, trace_id, filtered_attributes)| Exemplar {
            filtered_attributes,
            time_unix_nano,
            span_id,
            trace_id,
            value,
        },
    );
    vec(exemplar, 0..2)
}

prop_compose! {
    fn number_point()(
        attributes in attributes(),
        (start_time_unix_nano, time_unix_nano) in (number(), number()),
        exemplars in exemplars(),
        flags in small(),
        value in of(prop_oneof![
            double().prop_map(number_data_point::Value::AsDouble),
            prop_oneof![Just(0), any::<i64>()].prop_map(number_data_point::Value::AsInt),
        ]),
    ) -> NumberDataPoint {
        NumberDataPoint { attributes, start_time_unix_nano, time_unix_nano, exemplars, flags, value }
    }
}

prop_compose! {
    fn histogram_point()(
        attributes in attributes(),
        (start_time_unix_nano, time_unix_nano, count) in (number(), number(), number()),
        (sum, min, max) in (of(double()), of(double()), of(double())),
        bucket_counts in vec(number(), 0..4),
        explicit_bounds in vec(double(), 0..4),
        exemplars in exemplars(),
        flags in small(),
    ) -> HistogramDataPoint {
        HistogramDataPoint {
            attributes, start_time_unix_nano, time_unix_nano, count, sum, bucket_counts, explicit_bounds, exemplars,
            flags, min, max,
        }
    }
}

fn buckets() -> impl Strategy<Value = Option<Buckets>> {
    let offset = prop_oneof![Just(0), any::<i32>()];
    of((offset, vec(number(), 0..4)).prop_map(|(offset, bucket_counts)| Buckets { offset, bucket_counts }))
}

prop_compose! {
    fn exponential_point()(
        attributes in attributes(),
        (start_time_unix_nano, time_unix_nano, count, zero_count) in (number(), number(), number(), number()),
        (sum, min, max) in (of(double()), of(double()), of(double())),
        scale in any::<i32>(),
        (positive, negative) in (buckets(), buckets()),
        exemplars in exemplars(),
        flags in small(),
        zero_threshold in double(),
    ) -> ExponentialHistogramDataPoint {
        ExponentialHistogramDataPoint {
            attributes, start_time_unix_nano, time_unix_nano, count, sum, scale, zero_count, positive, negative, flags,
            exemplars, min, max, zero_threshold,
        }
    }
}

prop_compose! {
    fn summary_point()(
        attributes in attributes(),
        (start_time_unix_nano, time_unix_nano, count) in (number(), number(), number()),
        sum in double(),
        values in vec((double(), double()), 0..3),
        flags in small(),
    ) -> SummaryDataPoint {
        let values = values.into_iter().map(|(quantile, value)| ValueAtQuantile { quantile, value });
        SummaryDataPoint {
            attributes, start_time_unix_nano, time_unix_nano, count, sum, quantile_values: values.collect(), flags,
        }
    }
}

fn data() -> impl Strategy<Value = metric::Data> {
    let temporality = || select(vec![0, 1, 2]);
    prop_oneof![
        vec(number_point(), 0..4).prop_map(|data_points| metric::Data::Gauge(Gauge { data_points })),
        (vec(number_point(), 0..4), temporality(), any::<bool>()).prop_map(
            |(data_points, aggregation_temporality, is_monotonic)| {
                metric::Data::Sum(Sum { data_points, aggregation_temporality, is_monotonic })
            }
        ),
        (vec(histogram_point(), 0..4), temporality()).prop_map(|(data_points, aggregation_temporality)| {
            metric::Data::Histogram(Histogram { data_points, aggregation_temporality })
        }),
        (vec(exponential_point(), 0..4), temporality()).prop_map(|(data_points, aggregation_temporality)| {
            metric::Data::ExponentialHistogram(ExponentialHistogram { data_points, aggregation_temporality })
        }),
        vec(summary_point(), 0..4).prop_map(|data_points| metric::Data::Summary(Summary { data_points })),
    ]
}

/// One or two resources with scopes with metrics of all kinds, some without data points.
pub(crate) fn metrics() -> impl Strategy<Value = ExportMetricsServiceRequest> {
    let metric = (text(), text(), text(), of(data()), attributes())
        .prop_map(|(name, description, unit, data, metadata)| Metric { name, description, unit, metadata, data });
    let scope = (scope(), vec(metric, 1..4), text()).prop_map(|(scope, metrics, schema_url)| ScopeMetrics {
        scope,
        metrics,
        schema_url,
    });
    let resource = (resource(), vec(scope, 1..3), text())
        .prop_map(|(resource, scope_metrics, schema_url)| ResourceMetrics { resource, scope_metrics, schema_url });
    vec(resource, 1..3).prop_map(|resource_metrics| ExportMetricsServiceRequest { resource_metrics })
}

//! The pages that are made from the table of metrics.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `alerts` | a row for each alert: its rule, its reason, its unit test |
//! | `dashboard` | the dashboard for Grafana |
//! | `docs` | `docs/metrics.md` |
//! | `rules` | the alerts as rules for Prometheus and as unit tests of these |

pub(crate) mod alerts;
pub(crate) mod dashboard;
mod docs;
mod rules;

use telemetry_manager::metrics::METRICS;

/// The pages, by their names below `docs`.
pub(crate) fn all() -> [(&'static str, String); 4] {
    [
        ("metrics.md", docs::markdown()),
        ("grafana/holdfast.json", dashboard::json()),
        ("prometheus/holdfast.rules.yaml", rules::rules()),
        ("prometheus/holdfast.test.yaml", rules::tests()),
    ]
}

/// A query whose metrics are in braces by the end of their names for OpenTelemetry, as in `{items.delivered}[5m]` or
/// `{items.dropped|reason="shutdown"}`: each is replaced by its name for Prometheus, with these labels and `labels`.
///
/// # Panics
/// If the table has no such metric.
pub(crate) fn query(template: &str, labels: &str) -> String {
    let mut query = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (metric, after) = after.split_once('}').expect("a brace that ends the metric");
        let (name, own) = metric.split_once('|').unwrap_or((metric, ""));
        query.push_str(before);
        query.push_str(&prometheus_name(name));
        let both: Vec<_> = [own, labels].into_iter().filter(|labels| !labels.is_empty()).collect();
        if !both.is_empty() {
            query.push_str(&format!("{{{}}}", both.join(",")));
        }
        rest = after;
    }
    query.push_str(rest);
    query
}

/// The name for Prometheus of `items.delivered` or `exporter.span.exported`, or of one series of a histogram, such as
/// `exporter.operation.duration_bucket`.
fn prometheus_name(name: &str) -> String {
    let suffixes = ["_bucket", "_sum", "_count"];
    let series = suffixes.into_iter().find_map(|suffix| Some((name.strip_suffix(suffix)?, suffix)));
    let (base, suffix) = series.unwrap_or((name, ""));
    let is_it = |full: &str| full.strip_prefix("holdfast.").or(full.strip_prefix("otel.sdk.")) == Some(base);
    let metric = METRICS.iter().find(|metric| is_it(metric.name));
    let metric = metric.unwrap_or_else(|| panic!("{name} is no metric of the table"));
    metric.prometheus_name() + suffix
}

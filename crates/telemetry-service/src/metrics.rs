//! The table of metrics in Prometheus' text format, version 0.0.4, and in OpenMetrics 1.0.
//!
//! Written from the table that the instruments of OpenTelemetry are made from too: a registry and its exporter would
//! add dependencies and a second copy of every number.

use std::fmt::Write as _;

use telemetry_manager::metrics::{METRICS, Metric, Sample, Snapshot, Value};

/// The content type of [`prometheus_text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The content type of [`openmetrics_text`].
pub const OPENMETRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics page of one consistent snapshot of the exporter. Without an exporter only `holdfast_exporter_up 0`, the
/// status of health and the version.
#[must_use]
pub fn prometheus_text(snapshot: &Snapshot) -> String {
    written(snapshot, Format::Prometheus)
}

/// [`prometheus_text`] in OpenMetrics 1.0: a family of counters has its name without `_total`, families have units, and
/// the page has an end, so that a scraper knows a page that was cut off.
#[must_use]
pub fn openmetrics_text(snapshot: &Snapshot) -> String {
    let mut page = written(snapshot, Format::OpenMetrics);
    page.push_str("# EOF\n");
    page
}

fn written(snapshot: &Snapshot, format: Format) -> String {
    let mut page = Page { text: String::with_capacity(32 * 1024), format };
    for metric in METRICS {
        let samples = metric.samples(snapshot);
        // No family without a sample: a scraper would learn nothing from it.
        if !samples.is_empty() {
            page.family(metric);
            let name = metric.prometheus_name();
            samples.iter().for_each(|sample| page.sample(&name, sample));
        }
    }
    page.text
}

/// Names, helps and label values are constants of the table or positions: nothing here needs escapes, and tests of the
/// table hold that.
struct Page {
    text: String,
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Prometheus,
    OpenMetrics,
}

impl Page {
    fn family(&mut self, metric: &Metric) {
        let (text, name) = (&mut self.text, metric.prometheus_name());
        let (kind, help) = (metric.kind.prometheus(), metric.help);
        let _ = match self.format {
            Format::Prometheus => write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n"),
            Format::OpenMetrics => {
                let family = name.strip_suffix("_total").unwrap_or(&name);
                let _ = writeln!(text, "# TYPE {family} {kind}");
                if let Some(unit) = metric.prometheus_unit() {
                    let _ = writeln!(text, "# UNIT {family} {unit}");
                }
                writeln!(text, "# HELP {family} {help}")
            }
        };
    }

    fn sample(&mut self, name: &str, sample: &Sample) {
        let labels: Vec<_> =
            sample.labels.iter().map(|(key, value)| format!("{}=\"{value}\"", key.replace('.', "_"))).collect();
        match &sample.value {
            Value::Count(count) => self.line(name, &labels, count),
            Value::Sum(sum) => self.line(name, &labels, sum),
            Value::Number(number) => self.line(name, &labels, number),
            Value::Buckets(buckets) => {
                let (mut below, bucket) = (0, format!("{name}_bucket"));
                let bounds = buckets.bounds.iter().map(|bound| format!("{bound:?}")).chain(["+Inf".to_owned()]);
                for (bound, count) in bounds.zip(&buckets.counts) {
                    below += count;
                    let labels = [labels.as_slice(), &[format!("le=\"{bound}\"")]].concat();
                    self.line(&bucket, &labels, below);
                }
                self.line(&format!("{name}_sum"), &labels, buckets.sum.as_secs_f64());
                self.line(&format!("{name}_count"), &labels, below);
            }
            // `Value` may grow: a family of this format has no form for it.
            _ => {}
        }
    }

    fn line(&mut self, name: &str, labels: &[String], value: impl std::fmt::Display) {
        let _ = match labels {
            [] => writeln!(self.text, "{name} {value}"),
            labels => writeln!(self.text, "{name}{{{}}} {value}", labels.join(",")),
        };
    }
}

#[cfg(test)]
mod tests {
    use telemetry_manager::OpenTelemetryManager;

    use super::*;

    #[test]
    fn a_family_is_a_row_of_the_table() {
        let builder = OpenTelemetryManager::builder().with_fallback_enabled(false).with_vars(|_| None);
        let telemetry = builder.build().expect("valid");
        let page = prometheus_text(&Snapshot::of(&telemetry.observer()));
        let families: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let snapshot = Snapshot::of(&telemetry.observer());
        let rows = METRICS.iter().filter(|metric| !metric.samples(&snapshot).is_empty());
        let rows: Vec<_> = rows.map(|row| format!("{} {}", row.prometheus_name(), row.kind.prometheus())).collect();
        assert_eq!(families, rows);
        let zeros =
            page.lines().filter(|line| line.starts_with("holdfast_items_dropped_total{") && line.ends_with(" 0"));
        assert_eq!(zeros.count(), 11, "each reason of a loss has a sample before its first loss");
    }
}

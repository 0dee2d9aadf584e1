//! `docs/metrics.md`.

use std::fmt::Write as _;

use telemetry_manager::metrics::{Kind, METRICS, Metric, Question, Values};

use super::alerts::ALERTS;
use super::query;

/// The page.
pub(super) fn markdown() -> String {
    let mut page = String::from(HEAD);
    for question in Question::ALL {
        let _ = writeln!(page, "\n### {}\n", question.title());
        if question == Question::Conventions {
            page.push_str(CONVENTIONS);
        }
        page.push_str("| OpenTelemetry | Prometheus | Kind, unit | Labels | |\n| --- | --- | --- | --- | --- |\n");
        METRICS.iter().filter(|metric| metric.question == question).for_each(|metric| row(&mut page, metric));
    }
    page.push_str("\n### Labels\n\n| Label | Values |\n| --- | --- |\n");
    labels(&mut page);
    page.push_str(ALERTS_HEAD);
    for alert in ALERTS {
        let (anchor, text) = (alert.page, alert.page.split('#').next().unwrap_or(alert.page));
        let lasts = if alert.lasts == "0m" { "at once".to_owned() } else { format!("after {}", alert.lasts) };
        let _ = writeln!(
            page,
            "\n### {}\n\n{}, {lasts}:\n\n```promql\n{}\n```\n",
            alert.name,
            capitalized(alert.severity.as_str()),
            query(alert.expr, "")
        );
        wrapped(&mut page, "- ", &format!("Why so: {}", alert.reason));
        wrapped(&mut page, "- ", &format!("Remedy: {} More: [{text}]({anchor}).", alert.description));
    }
    page.push_str(TAIL);
    page
}

fn row(page: &mut String, metric: &Metric) {
    let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{}`", label.key)).collect();
    let kind = match metric.kind {
        Kind::Counter => "counter",
        Kind::UpDownCounter => "up-down-counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
        _ => "unknown",
    };
    let unit = if metric.unit.is_empty() { String::new() } else { format!(", `{}`", metric.unit) };
    let _ = writeln!(
        page,
        "| `{}` | `{}` | {kind}{unit} | {} | {} |",
        metric.name,
        metric.prometheus_name(),
        labels.join(", "),
        metric.help
    );
}

/// A label stands once, but for one that has other values elsewhere.
fn labels(page: &mut String) {
    let mut rows: Vec<(&str, Values, Vec<&str>)> = Vec::new();
    for metric in METRICS {
        for label in metric.labels {
            match rows.iter_mut().find(|(key, values, _)| *key == label.key && *values == label.values) {
                Some((_, _, metrics)) => metrics.push(metric.name),
                None => rows.push((label.key, label.values, vec![metric.name])),
            }
        }
    }
    for (key, values, metrics) in &rows {
        let is_one_of_several = rows.iter().filter(|(other, _, _)| other == key).count() > 1;
        let of = if is_one_of_several { format!(" of `{}`", metrics.join("`, `")) } else { String::new() };
        let values = match values {
            Values::OneOf(values) => format!("`{}`", values.join("`, `")),
            Values::Fixed(text) => (*text).to_owned(),
            _ => String::new(),
        };
        let _ = writeln!(page, "| `{key}`{of} | {values} |");
    }
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Appends an item of a list, in lines of 120 columns.
fn wrapped(page: &mut String, mark: &str, text: &str) {
    let indent = " ".repeat(mark.len());
    let mut line = mark.to_owned();
    for (at, word) in text.split(' ').enumerate() {
        if line.len() + 1 + word.len() > 120 {
            let _ = writeln!(page, "{line}");
            line.clone_from(&indent);
        } else if at > 0 {
            line.push(' ');
        }
        line.push_str(word);
    }
    let _ = writeln!(page, "{line}");
}

const HEAD: &str = "\
# Metrics

Made from the table in `crates/telemetry-manager/src/metrics/table.rs`; do not edit by hand:
`cargo run -p telemetry-manager --example metrics -- docs`. The same run writes the dashboard and the alert rules.

## Use

```text
GET /metrics                                              Prometheus' text format, or OpenMetrics 1.0 by Accept
let registration = metrics::register(&meter, &observer);  instruments of your meter provider, while it lives
docs/grafana/holdfast.json                                a dashboard for Grafana: import it, choose the data source
docs/prometheus/holdfast.rules.yaml                       alert rules for Prometheus: name the file in `rule_files`
docs/prometheus/holdfast.test.yaml                        their unit tests: `promtool test rules FILE`
```

```yaml
# prometheus.yml
rule_files: [holdfast.rules.yaml]
scrape_configs:
  - job_name: shop
    static_configs: [{targets: [\"shop-1:5210\"]}]
```

Both ways carry the same numbers under the same names: the name for Prometheus is the one that Prometheus and the
Collector make of the name for OpenTelemetry, so that dashboard and alerts work with either. Each page, and each
collection of a meter provider, is one consistent snapshot, which costs one short lock of the exporter.

- **Metrics must not take the way of the spans that they are about.** Let Prometheus scrape, or give the meter provider
  an exporter of its own; the exporter of this project carries spans.
- **Labels** have fixed sets of values. Endpoints are named by their position, never by a URL, which may hold a secret
  and changes with each deployment.
- **Every reason** of `dropped` and `refused` has a sample from the start, 0 at first: a series that begins at its first
  loss would hide this loss from `increase`.
- **No sample** means nothing to say: no journal, no fallback, no call yet. Without an exporter there are three metrics:
  `holdfast.exporter.up`, `holdfast.health.status`, `holdfast.build_info`.
- **After the shutdown** of telemetry the last numbers stay, and `holdfast.exporter.up` is 0. A process that was forked
  from the one of the set-up has its own numbers: items that it refused.
- **Lateness** is the wait of a span, of which `otel.sdk.exporter.operation.duration` knows the last call alone. For
  OpenTelemetry the histogram begins with the registration; the page has each batch since the start.
- **Instruments** observe while the `Registration` lives. Register once for each meter provider. Two exporters in one
  process need two meters.

## The metrics
";

const CONVENTIONS: &str = "\
These names are those of the
[semantic conventions](https://opentelemetry.io/docs/specs/semconv/otel/sdk-metrics/), unchanged. The component is the
exporter as a whole. `inflight` and `exported` add up: spans offered, recovered and redriven, less those that another
process took over, are in flight or exported.

- A call is one request to a collector. The operations of `otel.sdk.exporter.operation.duration` are calls, not batches:
  a batch of an outage would take hours, and its waits are metrics of their own. For OpenTelemetry the histogram begins
  with the registration, since the API has no histogram that is read; the page has all calls since the start.
- `server.address` and `server.port` are left out, as a URL is. So is the status of the answer: `error.type` has the
  kind of failure, and health the answer.
- `otel.sdk.processor.span.*` are left out: the processor is the SDK's, which can have them itself.

";

const ALERTS_HEAD: &str = "
## Alerts

`docs/prometheus/holdfast.rules.yaml`. *Critical*: telemetry is being lost, is stuck, or counts wrongly. *Warning*:
nothing is lost yet, or by the collector's own decision. Windows of 10 minutes and times are for scrapes each 15 s to
2 min. A program that cannot be scraped fires none of them: have an alert on `up == 0` of its job too.
";

const TAIL: &str = "
## Shown by

| Statement | Test |
| --- | --- |
| names are unique; labels and kinds of samples are those of their row | `telemetry-manager`, `metrics::tests` |
| every row arrives at a real meter provider with unit, labels and value; one collection is one moment | `telemetry-manager`, `tests/it/metrics.rs` |
| this page, the dashboard and the rules are current; each query names metrics of the table | `telemetry-manager`, `tests/it/metric_pages.rs` |
| the page for Prometheus, and in OpenMetrics, by their grammar | `telemetry-service`, `tests/it/metrics.rs` |
| promtool accepts the page, the rules and each query of the dashboard, and the unit tests of the rules pass | `cargo xtask e2e prometheus` |
| a Prometheus that scrapes a service through an outage and its recovery answers each query, evaluates each rule, and finds the ledger balanced at each scrape | `cargo xtask e2e prometheus` |
";

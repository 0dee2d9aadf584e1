//! The alerts as rules for Prometheus, and unit tests of these rules for `promtool`.

use std::fmt::Write as _;

use super::alerts::{ALERTS, Alert};
use super::query;

const MADE: &str = "# Made from the table of alerts in crates/telemetry-manager/examples/metrics; do not edit by hand:\n\
                    # cargo run -p telemetry-manager --example metrics -- docs\n";

/// The labels of the instance of which the unit tests tell.
const INSTANCE: [(&str, &str); 2] = [("instance", "shop-1:5210"), ("job", "shop")];

/// The rules.
pub(super) fn rules() -> String {
    let mut text = format!("{MADE}groups:\n  - name: holdfast\n    rules:\n");
    for alert in ALERTS {
        let Alert { name, severity, lasts, summary, description, page, .. } = alert;
        let _ = writeln!(text, "      - alert: {name}");
        let _ = writeln!(text, "        expr: {}", quoted(&query(alert.expr, "")));
        let _ = writeln!(text, "        for: {lasts}");
        let _ = writeln!(text, "        labels:\n          severity: {}", severity.as_str());
        let _ = writeln!(text, "        annotations:\n          summary: {}", quoted(summary));
        let _ = writeln!(text, "          description: {}", quoted(description));
        let _ = writeln!(text, "          page: {}", quoted(&format!("docs/{page}")));
    }
    text
}

/// Two unit tests of each rule: one under which it fires, one under which it must not.
pub(super) fn tests() -> String {
    let mut text = format!("{MADE}rule_files:\n  - holdfast.rules.yaml\nevaluation_interval: 1m\ntests:\n");
    for alert in ALERTS {
        test(&mut text, alert, alert.fires, true);
        test(&mut text, alert, alert.rests, false);
    }
    text
}

fn test(text: &mut String, alert: &Alert, series: &[(&str, &str)], fires: bool) {
    let Alert { name, severity, summary, description, page, .. } = alert;
    let end = series.iter().map(|(_, values)| minutes(values)).min().unwrap_or_default();
    let instance = |quote: &str| INSTANCE.map(|(key, value)| format!("{key}={quote}{value}{quote}")).join(",");
    let _ = writeln!(text, "  - interval: 1m\n    name: {name} {}", if fires { "fires" } else { "rests" });
    let _ = writeln!(text, "    input_series:");
    for (metric, values) in series {
        let metric = query(&format!("{{{metric}}}"), &instance("\""));
        let _ = writeln!(text, "      - series: {}\n        values: {}", quoted(&metric), quoted(values));
    }
    let _ = writeln!(text, "    alert_rule_test:\n      - eval_time: {end}m\n        alertname: {name}");
    if !fires {
        let _ = writeln!(text, "        exp_alerts: []");
        return;
    }
    let mut labels: Vec<_> = INSTANCE.into_iter().chain(alert.labels.iter().copied()).collect();
    let shown = |text: &str| {
        let replace =
            |text: String, (key, value): &(&str, &str)| text.replace(&format!("{{{{ $labels.{key} }}}}"), value);
        labels.iter().fold(text.to_owned(), replace)
    };
    let texts = [("summary", shown(summary)), ("description", shown(description)), ("page", format!("docs/{page}"))];
    labels.push(("severity", severity.as_str()));
    let _ = writeln!(text, "        exp_alerts:\n          - exp_labels:");
    for (key, value) in labels {
        let _ = writeln!(text, "              {key}: {}", quoted(value));
    }
    let _ = writeln!(text, "            exp_annotations:");
    for (key, value) in texts {
        let _ = writeln!(text, "              {key}: {}", quoted(&value));
    }
}

/// The minute of the last of the values: `AxN` are a value and N more.
fn minutes(values: &str) -> usize {
    let counted = |value: &str| match value.split_once('x') {
        Some((first, more)) => more.parse::<usize>().unwrap_or_default() + usize::from(first != "_"),
        None => 1,
    };
    values.split(' ').map(counted).sum::<usize>().saturating_sub(1)
}

/// A text in quotation marks: YAML reads those of JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

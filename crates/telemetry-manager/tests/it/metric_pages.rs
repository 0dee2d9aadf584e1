//! The pages that are made from the table of metrics.

use std::collections::BTreeSet;
use std::path::Path;

use telemetry_manager::metrics::{Kind, METRICS};

#[path = "../../examples/metrics/pages/mod.rs"]
mod pages;

#[test]
fn the_pages_in_docs_are_current() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    for (name, page) in pages::all() {
        let file = std::fs::read_to_string(docs.join(name)).unwrap_or_default();
        assert!(file == page, "docs/{name} is stale: run `cargo run -p telemetry-manager --example metrics -- docs`");
    }
}

/// The names of metrics in a query: all words with a prefix of ours.
fn names(query: &str) -> Vec<&str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = query.split(|c| !is_word(c));
    words.filter(|word| word.starts_with("holdfast_") || word.starts_with("otel_sdk_")).collect()
}

fn known() -> BTreeSet<String> {
    let series = METRICS.iter().flat_map(|metric| {
        let name = metric.prometheus_name();
        match metric.kind {
            Kind::Histogram => ["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}")).to_vec(),
            _ => vec![name],
        }
    });
    series.collect()
}

#[test]
fn each_metric_in_a_query_is_a_metric_of_the_table_with_this_label() {
    let known = known();
    let rules = pages::alerts::ALERTS.iter().map(|alert| pages::query(alert.expr, ""));
    for query in rules.chain(pages::dashboard::queries()) {
        let names = names(&query);
        assert!(!names.is_empty(), "{query}");
        for name in names {
            assert!(known.contains(name), "{name} in {query}");
        }
        for selector in query.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(inside, _)| inside) {
            for matcher in selector.split("\",") {
                let label = matcher.split(['=', '!']).next().expect("a label");
                let is_label = |wanted: &str| {
                    METRICS.iter().flat_map(|metric| metric.labels).any(|label| label.prometheus_name() == wanted)
                };
                assert!(["job", "instance"].contains(&label) || is_label(label), "{label} in {query}");
            }
        }
    }
}

#[test]
fn every_alert_says_where_to_look_and_names_a_page_that_is_there() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let mut alerts = BTreeSet::new();
    for alert in pages::alerts::ALERTS {
        assert!(alerts.insert(alert.name) && alert.name.starts_with("Holdfast"), "{}", alert.name);
        assert!(alert.summary.contains("{{ $labels.instance }}"), "{}", alert.name);
        assert!(alert.description.ends_with('.') && alert.reason.ends_with('.'), "{}", alert.name);
        let (file, heading) = alert.page.split_once('#').expect("a heading");
        let page = std::fs::read_to_string(docs.join(file)).expect("a page of docs");
        let anchor = |title: &str| title.to_lowercase().replace(' ', "-").replace(['`', ':', ','], "");
        let mut headings = page.lines().filter_map(|line| line.split_once("# "));
        assert!(headings.any(|(_, title)| anchor(title) == heading), "{file} has no heading {heading}");
        // Every label that a text shows is one that the expression keeps.
        for text in [alert.summary, alert.description] {
            for label in text.split("$labels.").skip(1).filter_map(|rest| rest.split(' ').next()) {
                assert!(alert.expr.contains(&format!(", {label}")) || label == "instance", "{}: {label}", alert.name);
            }
        }
    }
}

#[test]
fn the_dashboard_is_json_with_unique_ids_and_a_data_source_that_is_chosen() {
    let (_, text) = pages::all().into_iter().find(|(name, _)| name.ends_with(".json")).expect("a dashboard");
    let dashboard: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().expect("an id")).collect();
    assert_eq!(ids.len(), panels.len());
    let rows: Vec<_> = panels.iter().filter(|panel| panel["type"] == "row").map(|row| &row["title"]).collect();
    assert_eq!(
        rows,
        [
            "Is anything lost?",
            "Is anything waiting?",
            "Who is down or refusing?",
            "Is it recovering?",
            "How late do spans arrive?"
        ]
    );
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!targets.is_empty() && panel["description"].as_str().is_some_and(|text| text.ends_with('.')));
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}");
        }
    }
    let variables: Vec<_> = dashboard["templating"]["list"].as_array().expect("variables").iter().collect();
    assert_eq!(variables[0]["type"], "datasource");
}

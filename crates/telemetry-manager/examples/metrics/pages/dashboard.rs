//! The dashboard for Grafana: a row of panels for each question.

use serde_json::{Value, json};

use super::query;

/// The instances that the dashboard shows.
const SHOWN: &str = "job=~\"$job\",instance=~\"$instance\"";

/// One panel: its title, its description, its kind and unit, and its queries with their legends.
struct Panel {
    title: &'static str,
    help: &'static str,
    kind: Kind,
    unit: &'static str,
    queries: &'static [(&'static str, &'static str)],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Numbers of this moment; from 1 on they are red.
    Bad,
    /// Numbers of this moment; below 1 they are red.
    Good,
    /// Lines over time.
    Lines,
    /// States over time.
    States,
}

const ROWS: &[(&str, &[Panel])] = &[
    (
        "Is anything lost?",
        &[
            Panel {
                title: "Lost within the range",
                help: "Items that were dropped or refused, or whose dead letters were removed. Anything but 0 is a loss.",
                kind: Kind::Bad,
                unit: "short",
                queries: &[
                    ("sum(increase({items.dropped}[$__range]))", "dropped"),
                    ("sum(increase({items.refused|reason!=\"already_shutdown\"}[$__range]))", "refused"),
                    ("sum(increase({dead_letters.evicted}[$__range]))", "dead letters removed"),
                ],
            },
            Panel {
                title: "The ledger adds up",
                help: "Items that came in less items accounted for: 0, or there is a fault.",
                kind: Kind::Bad,
                unit: "short",
                queries: &[("max(abs({ledger.imbalance}))", "imbalance")],
            },
            Panel {
                title: "Losses by reason",
                help: "Items a second, by the reason of their loss.",
                kind: Kind::Lines,
                unit: "cps",
                queries: &[
                    ("sum by (reason) (rate({items.dropped}[$__rate_interval])) > 0", "dropped: {{reason}}"),
                    ("sum by (reason) (rate({items.refused}[$__rate_interval])) > 0", "refused: {{reason}}"),
                ],
            },
            Panel {
                title: "Rejected, dead letters, not durable in time",
                help: "Rejected items are gone. Dead letters are kept until they are redriven or removed. In durable mode a \
                       crash may lose the items that were accepted before they were durable.",
                kind: Kind::Lines,
                unit: "cps",
                queries: &[
                    ("sum(rate({items.rejected}[$__rate_interval]))", "rejected"),
                    ("sum(rate({items.dead_lettered}[$__rate_interval]))", "dead letters"),
                    ("sum(rate({items.accepted_not_durable}[$__rate_interval]))", "accepted before durable"),
                ],
            },
        ],
    ),
    (
        "Is anything waiting?",
        &[
            Panel {
                title: "Items that wait",
                help: "By their place. They are sent once a collector takes them, and dead letters once they are redriven.",
                kind: Kind::Lines,
                unit: "short",
                queries: &[
                    ("sum({items.staged})", "not in a batch yet"),
                    ("sum({items.buffered})", "memory"),
                    ("sum({items.in_flight})", "sent, no answer"),
                    ("sum({items.in_fallback})", "files"),
                    ("sum({items.in_journal})", "journal alone"),
                    ("sum({dead_letters.items})", "dead letters"),
                ],
            },
            Panel {
                title: "Age of the oldest item that waits",
                help: "Grows in an outage; in memory until the batch goes to a file.",
                kind: Kind::Lines,
                unit: "s",
                queries: &[
                    ("max by (instance) ({items.oldest_age})", "{{instance}}"),
                    ("max by (instance) ({buffer.oldest_age})", "{{instance}}, in memory"),
                ],
            },
            Panel {
                title: "Memory and storage, share of the limit",
                help: "Memory goes to files near 90 %, and at 100 % the oldest files are removed.",
                kind: Kind::Lines,
                unit: "percentunit",
                queries: &[
                    ("max({buffer.held_size} / ({buffer.max_size} > 0))", "memory, bytes"),
                    ("max({buffer.held_items} / ({buffer.max_items} > 0))", "memory, items"),
                    ("max({fallback.size} / ({fallback.max_size} > 0))", "files"),
                    ("max({journal.size} / ({journal.max_size} > 0))", "journal"),
                    ("max({dead_letters.size} / ({dead_letters.max_size} > 0))", "dead letters"),
                ],
            },
            Panel {
                title: "Time until files are full",
                help: "At the rate of the last 10 minutes; no line while no file is written.",
                kind: Kind::Lines,
                unit: "s",
                queries: &[("min by (instance) ({fallback.full_in})", "{{instance}}")],
            },
        ],
    ),
    (
        "Who is down or refusing?",
        &[
            Panel {
                title: "Telemetry is on",
                help: "1 while spans are exported.",
                kind: Kind::Good,
                unit: "short",
                queries: &[("min({exporter.up})", "on")],
            },
            Panel {
                title: "Endpoints that refuse",
                help: "Endpoints that answer and take nothing: see their answer at /telemetry-test/health.",
                kind: Kind::Bad,
                unit: "short",
                queries: &[("sum({endpoint.refusing})", "refusing")],
            },
            Panel {
                title: "Health and circuit breakers",
                help: "The status of health, and breakers that are not closed.",
                kind: Kind::States,
                unit: "short",
                queries: &[
                    ("max by (instance, status) ({health.status|status!=\"healthy\"})", "{{instance}} {{status}}"),
                    (
                        "max by (instance, endpoint, state) ({breaker.state|state!=\"closed\"})",
                        "{{instance}} {{endpoint}} {{state}}",
                    ),
                ],
            },
            Panel {
                title: "Calls by their result",
                help: "Calls a second; failures by their kind.",
                kind: Kind::Lines,
                unit: "cps",
                queries: &[
                    ("sum by (outcome) (rate({calls}[$__rate_interval]))", "{{outcome}}"),
                    (
                        "sum by (error_type) (rate({exporter.operation.duration_count|error_type!=\"\"}[$__rate_interval]))",
                        "{{error_type}}",
                    ),
                ],
            },
        ],
    ),
    (
        "Is it recovering?",
        &[
            Panel {
                title: "In and out",
                help: "After an outage more goes out than comes in, until no item waits.",
                kind: Kind::Lines,
                unit: "cps",
                queries: &[
                    ("sum(rate({items.offered}[$__rate_interval]))", "offered"),
                    ("sum(rate({items.recovered}[$__rate_interval]))", "found on disk"),
                    ("sum(rate({items.redriven}[$__rate_interval]))", "redriven"),
                    ("sum(rate({items.delivered}[$__rate_interval]))", "delivered"),
                ],
            },
            Panel {
                title: "Success of calls, 5 minutes",
                help: "Below 0.9 health is degraded.",
                kind: Kind::Lines,
                unit: "percentunit",
                queries: &[("min by (instance) ({calls.success_rate_5m})", "{{instance}}")],
            },
            Panel {
                title: "Time until the next attempt",
                help: "A pause that the collector asked for, the backoff, or an open breaker.",
                kind: Kind::Lines,
                unit: "s",
                queries: &[
                    ("max by (endpoint) ({endpoint.next_attempt})", "{{endpoint}}: next attempt"),
                    ("max by (endpoint) ({endpoint.pause})", "{{endpoint}}: pause"),
                ],
            },
        ],
    ),
    (
        "How late do spans arrive?",
        &[
            Panel {
                title: "Lateness of delivered batches",
                help: "From the end of the newest span of a batch to its acknowledgement. Of 5 minutes: half of the \
                       batches, and 99 of 100, were no later.",
                kind: Kind::Lines,
                unit: "s",
                queries: &[
                    ("histogram_quantile(0.5, sum by (le) (rate({delivery.lateness_bucket}[5m])))", "half"),
                    ("histogram_quantile(0.99, sum by (le) (rate({delivery.lateness_bucket}[5m])))", "99 of 100"),
                ],
            },
            Panel {
                title: "Duration of successful calls",
                help: "Of 5 minutes: half of the calls, and 99 of 100, took no longer.",
                kind: Kind::Lines,
                unit: "s",
                queries: &[
                    (
                        "histogram_quantile(0.5, sum by (le) \
                     (rate({exporter.operation.duration_bucket|error_type=\"\"}[5m])))",
                        "half",
                    ),
                    (
                        "histogram_quantile(0.99, sum by (le) \
                     (rate({exporter.operation.duration_bucket|error_type=\"\"}[5m])))",
                        "99 of 100",
                    ),
                ],
            },
        ],
    ),
];

/// The queries of all panels.
pub(crate) fn queries() -> Vec<String> {
    let panels = ROWS.iter().flat_map(|(_, panels)| panels.iter());
    panels.flat_map(|panel| panel.queries.iter().map(|(template, _)| query(template, SHOWN))).collect()
}

/// The dashboard, to be imported as it is: the datasource is a variable.
pub(super) fn json() -> String {
    let mut panels = Vec::new();
    let (mut id, mut y) = (0, 0);
    let mut next_id = || {
        id += 1;
        id
    };
    for (title, of_row) in ROWS {
        panels.push(json!({
            "id": next_id(), "type": "row", "title": title, "collapsed": false, "panels": [],
            "gridPos": {"h": 1, "w": 24, "x": 0, "y": y},
        }));
        let width = 24 / of_row.len();
        for (at, panel) in of_row.iter().enumerate() {
            let place = json!({"h": 8, "w": width, "x": at * width, "y": y + 1});
            panels.push(panel.json(next_id(), &place));
        }
        y += 9;
    }
    let up = query("{exporter.up}", "");
    let dashboard = json!({
        "title": "holdfast: resilience of telemetry",
        "uid": "holdfast",
        "description": "Made from the table of metrics (docs/metrics.md); do not edit by hand.",
        "tags": ["holdfast", "opentelemetry"],
        "schemaVersion": 39,
        "version": 1,
        "editable": true,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": [
            {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}},
            variable("job", &format!("label_values({up}, job)")),
            variable("instance", &format!("label_values({up}{{job=~\"$job\"}}, instance)")),
        ]},
        "panels": panels,
    });
    format!("{dashboard:#}\n")
}

fn variable(name: &str, query: &str) -> Value {
    json!({
        "name": name, "label": name, "type": "query", "datasource": datasource(), "query": query, "refresh": 2,
        "multi": true, "includeAll": true, "allValue": ".*", "sort": 1, "current": {"text": "All", "value": "$__all"},
    })
}

fn datasource() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

impl Panel {
    fn json(&self, id: u32, place: &Value) -> Value {
        let targets = self.queries.iter().zip('A'..).map(|((template, legend), letter)| {
            json!({
                "refId": letter.to_string(), "datasource": datasource(), "expr": query(template, SHOWN),
                "legendFormat": legend, "range": true,
            })
        });
        let targets: Vec<_> = targets.collect();
        let (kind, steps, options) = match self.kind {
            Kind::Bad => ("stat", json!([{"color": "green", "value": null}, {"color": "red", "value": 1}]), stat()),
            Kind::Good => ("stat", json!([{"color": "red", "value": null}, {"color": "green", "value": 1}]), stat()),
            Kind::Lines => ("timeseries", json!([{"color": "green", "value": null}]), legend()),
            Kind::States => (
                "state-timeline",
                json!([{"color": "green", "value": null}, {"color": "orange", "value": 1}]),
                json!({"showValue": "never", "mergeValues": true}),
            ),
        };
        json!({
            "id": id, "type": kind, "title": self.title, "description": self.help, "gridPos": place,
            "datasource": datasource(), "targets": targets, "options": options,
            "fieldConfig": {
                "defaults": {
                    "unit": self.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps},
                    "color": {"mode": if kind == "timeseries" { "palette-classic" } else { "thresholds" }},
                },
                "overrides": [],
            },
        })
    }
}

fn stat() -> Value {
    json!({"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": false}, "textMode": "auto"})
}

fn legend() -> Value {
    json!({"legend": {"showLegend": true, "displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}})
}

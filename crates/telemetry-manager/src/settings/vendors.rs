//! The requests that vendors take, by their own pages: one row each. A preset of a row sets the largest request and
//! the most spans of one where the user sets neither; it never drops or refuses anything. The page `docs/vendors.md` is
//! made from these rows, and a peer that behaves as they say checks them.

use std::fmt::Write as _;
use std::num::NonZeroUsize;

use super::Settings;
use super::reader::is_given;
use super::table::{REQUEST_MAX_BYTES, REQUEST_MAX_SPANS, VENDOR};
use super::text::format_bytes;

/// A vendor that takes OTLP: what to set, and what its pages say about requests and answers.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Vendor {
    /// Its word in `TELEMETRY_VENDOR`.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// The hosts of its endpoints; `*` stands for any text.
    pub hosts: &'static [&'static str],
    /// Three variables and their values; `<..>` stands for a text of the user's account.
    pub lines: [(&'static str, &'static str); 3],
    /// Bytes of a request, at most.
    pub max_bytes: Option<usize>,
    /// Spans of a request, at most.
    pub max_spans: Option<usize>,
    /// The status, the content type and the body of its answer to a request that it takes.
    pub answer: (u16, &'static str, &'static str),
    /// More to know, in a sentence or two.
    pub note: &'static str,
    /// The page with the numbers, or with the set-up where there are none.
    pub page: &'static str,
    /// The day on which the page was read.
    pub date: &'static str,
}

/// The usual answer: no bytes, an empty `ExportTraceServiceResponse`.
const PROTOBUF: (u16, &str, &str) = (200, "application/x-protobuf", "");
/// Answers in JSON, also to requests in protobuf.
const JSON: (u16, &str, &str) = (200, "application/json", "{}");

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const TRACES_PROTOCOL: &str = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL";
const TRACES_HEADERS: &str = "OTEL_EXPORTER_OTLP_TRACES_HEADERS";
const HTTP: &str = "http/protobuf";
const DATE: &str = "2026-11-28";

/// The vendors, in the order of the page.
pub static VENDORS: &[Vendor] = &[
    Vendor {
        name: "newrelic",
        title: "New Relic",
        hosts: &["*.nr-data.net"],
        lines: [(ENDPOINT, "https://otlp.nr-data.net:4318"), (PROTOCOL, HTTP), (HEADERS, "api-key=<license key>")],
        max_bytes: Some(1_000_000),
        max_spans: None,
        answer: PROTOBUF,
        note: "Texts of attributes have 4,095 characters at most: OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT=4095 cuts longer ones.",
        page: "https://docs.newrelic.com/docs/more-integrations/open-source-telemetry-integrations/opentelemetry/best-practices/opentelemetry-best-practices-compression/",
        date: DATE,
    },
    Vendor {
        name: "datadog",
        title: "Datadog",
        hosts: &["*.datadoghq.com", "*.datadoghq.eu", "*.ddog-gov.com"],
        lines: [
            (TRACES_ENDPOINT, "https://<OTLP host of the site>/v1/traces"),
            (TRACES_PROTOCOL, HTTP),
            (TRACES_HEADERS, "dd-api-key=<API key>"),
        ],
        max_bytes: Some(3_200_000),
        max_spans: None,
        answer: (202, "application/json", "{}"),
        note: "The endpoint for traces without an agent; gRPC is not spoken. Larger requests are answered by 413.",
        page: "https://docs.datadoghq.com/opentelemetry/setup/otlp_ingest/traces/",
        date: DATE,
    },
    Vendor {
        name: "dynatrace",
        title: "Dynatrace",
        hosts: &["*.live.dynatrace.com"],
        lines: [
            (ENDPOINT, "https://<environment>.live.dynatrace.com/api/v2/otlp"),
            (PROTOCOL, HTTP),
            (HEADERS, "Authorization=Api-Token%20<token>"),
        ],
        max_bytes: Some(8_000_000),
        max_spans: None,
        answer: PROTOBUF,
        note: "Spans that ended more than 60 minutes ago are not taken; TELEMETRY_MAX_AGE_AT_SEND=60m keeps them as dead \
               letters instead.",
        page: "https://docs.dynatrace.com/docs/shortlink/opentelemetry-traces-ingest",
        date: DATE,
    },
    Vendor {
        name: "xray",
        title: "AWS X-Ray",
        hosts: &["xray.*.amazonaws.com"],
        lines: [
            (TRACES_ENDPOINT, "https://xray.<region>.amazonaws.com/v1/traces"),
            (TRACES_PROTOCOL, HTTP),
            ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "none"),
        ],
        max_bytes: Some(5_000_000),
        max_spans: Some(10_000),
        answer: PROTOBUF,
        note: "Requests are signed (SigV4). `gzip` is taken too, gRPC is not. Spans of more than 200 KB or older than 14 \
               days are refused.",
        page: "https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch-OTLPEndpoint.html",
        date: DATE,
    },
    Vendor {
        name: "coralogix",
        title: "Coralogix",
        hosts: &["ingress.*.coralogix.com", "ingress.coralogix.*"],
        lines: [
            (ENDPOINT, "https://ingress.<domain>:443"),
            (PROTOCOL, HTTP),
            (HEADERS, "Authorization=Bearer%20<key>"),
        ],
        max_bytes: Some(2_000_000),
        max_spans: None,
        answer: PROTOBUF,
        note: "2 MB is the recommended size, 10 MB the hard limit.",
        page: "https://coralogix.com/docs/developer-portal/apis/limitations",
        date: DATE,
    },
    Vendor {
        name: "observe",
        title: "Observe",
        hosts: &["*.collect.observeinc.com"],
        lines: [
            (ENDPOINT, "https://<customer>.collect.observeinc.com/v2/otel"),
            (PROTOCOL, HTTP),
            (HEADERS, "Authorization=Bearer%20<token>"),
        ],
        max_bytes: Some(10_000_000),
        max_spans: None,
        answer: PROTOBUF,
        note: "10 MB is the limit of a compressed request, 50 MB that of a plain one.",
        page: "https://docs.observeinc.com/en/token-search/content/data-ingestion/endpoints/otel.html",
        date: DATE,
    },
    Vendor {
        name: "grafana",
        title: "Grafana Cloud",
        hosts: &["otlp-gateway-*.grafana.net"],
        lines: [
            (ENDPOINT, "https://otlp-gateway-<zone>.grafana.net/otlp"),
            (PROTOCOL, HTTP),
            (HEADERS, "Authorization=Basic%20<base64 of id:token>"),
        ],
        max_bytes: None,
        max_spans: None,
        answer: PROTOBUF,
        note: "An endpoint without `/otlp` is answered by 404.",
        page: "https://grafana.com/docs/grafana-cloud/send-data/otlp/send-data-otlp/",
        date: DATE,
    },
    Vendor {
        name: "honeycomb",
        title: "Honeycomb",
        hosts: &["api.honeycomb.io", "api.*.honeycomb.io"],
        lines: [
            (ENDPOINT, "https://api.honeycomb.io:443"),
            (PROTOCOL, HTTP),
            (HEADERS, "x-honeycomb-team=<ingest key>"),
        ],
        max_bytes: None,
        max_spans: None,
        answer: JSON,
        note: "Classic keys need the header `x-honeycomb-dataset` too.",
        page: "https://docs.honeycomb.io/send-data/opentelemetry",
        date: DATE,
    },
    Vendor {
        name: "langfuse",
        title: "Langfuse",
        hosts: &["cloud.langfuse.com", "*.cloud.langfuse.com"],
        lines: [
            (ENDPOINT, "https://cloud.langfuse.com/api/public/otel"),
            (PROTOCOL, HTTP),
            (HEADERS, "Authorization=Basic%20<base64 of public:secret key>,x-langfuse-ingestion-version=4"),
        ],
        max_bytes: None,
        max_spans: None,
        answer: JSON,
        note: "gRPC is not spoken.",
        page: "https://langfuse.com/integrations/native/opentelemetry",
        date: DATE,
    },
    Vendor {
        name: "logfire",
        title: "Pydantic Logfire",
        hosts: &["logfire-us.pydantic.dev", "logfire-eu.pydantic.dev", "logfire-api.pydantic.dev"],
        lines: [
            (ENDPOINT, "https://logfire-us.pydantic.dev"),
            (PROTOCOL, HTTP),
            (HEADERS, "Authorization=<write token>"),
        ],
        max_bytes: None,
        max_spans: None,
        answer: PROTOBUF,
        note: "The token stands alone, without `Bearer`.",
        page: "https://logfire.pydantic.dev/docs/how-to-guides/alternative-clients",
        date: DATE,
    },
];

/// The words of `TELEMETRY_VENDOR`: the names of all rows, and `none` for no preset.
pub(crate) const WORDS: &[&str] = &[
    "newrelic",
    "datadog",
    "dynatrace",
    "xray",
    "coralogix",
    "observe",
    "grafana",
    "honeycomb",
    "langfuse",
    "logfire",
    "none",
];

/// The settings that a preset has set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Preset {
    pub(crate) vendor: &'static str,
    pub(crate) bytes: Option<usize>,
    pub(crate) spans: Option<NonZeroUsize>,
}

impl Vendor {
    /// The largest request of the preset: a 64th below the vendor's limit, for the frame and for what compression adds
    /// to bytes that have no order.
    fn preset_bytes(&self) -> Option<usize> {
        self.max_bytes.map(|bytes| bytes - bytes / 64)
    }

    fn has_host(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        self.hosts.iter().any(|pattern| match pattern.split_once('*') {
            Some((start, end)) => {
                host.len() > start.len() + end.len() && host.starts_with(start) && host.ends_with(end)
            }
            None => host == **pattern,
        })
    }
}

/// The vendor of the settings: by its name, or else by the host of the endpoint.
fn of(settings: &Settings, endpoint: Option<&str>) -> Option<&'static Vendor> {
    if let Some(name) = &settings.vendor {
        return VENDORS.iter().find(|vendor| vendor.name == name);
    }
    let rest = endpoint?.split_once("://")?.1;
    let host = rest.split(['/', ':', '?']).next().unwrap_or_default();
    VENDORS.iter().find(|vendor| vendor.has_host(host))
}

/// Sets the sizes of requests that the vendor documents, where neither code nor `is_in_environment` gives them. A limit
/// above the default changes nothing.
pub(super) fn preset(settings: &mut Settings, endpoint: Option<&str>, is_in_environment: impl Fn(&str) -> bool) {
    let Some(vendor) = of(settings, endpoint) else { return };
    let may_set = |settings: &Settings, name: &str| !is_given(settings, name, &is_in_environment);
    let mut preset = Preset { vendor: vendor.name, bytes: None, spans: None };
    if let Some(bytes) = vendor.preset_bytes()
        && bytes < settings.exporter.request.max_bytes
        && may_set(settings, REQUEST_MAX_BYTES.name)
    {
        settings.exporter.request.max_bytes = bytes;
        preset.bytes = Some(bytes);
    }
    if let Some(spans) = vendor.max_spans.and_then(NonZeroUsize::new)
        && may_set(settings, REQUEST_MAX_SPANS.name)
    {
        settings.exporter.request.max_spans = Some(spans);
        preset.spans = Some(spans);
    }
    if preset.bytes.is_some() || preset.spans.is_some() {
        settings.preset = Some(preset);
    }
}

/// The page `docs/vendors.md`.
#[must_use]
pub fn vendors_markdown() -> String {
    let mut page = HEAD.to_owned();
    for Vendor { name, title, max_bytes, max_spans, answer, page: source, date, .. } in VENDORS {
        let bytes = max_bytes.map_or_else(String::new, |bytes| format!("{} MB", bytes as f64 / 1e6));
        let spans = max_spans.map_or_else(String::new, |spans| spans.to_string());
        let (status, content_type, body) = answer;
        let body = if body.is_empty() { "empty".to_owned() } else { format!("`{body}`") };
        let _ = writeln!(
            page,
            "| {title} | `{name}` | {bytes} | {spans} | {status}, `{content_type}`, {body} | [page]({source}), {date} |"
        );
    }
    for Vendor { title, lines, note, .. } in VENDORS {
        let _ = write!(page, "\n## {title}\n\n```sh\n");
        for (variable, value) in lines {
            let _ = writeln!(page, "{variable}={value}");
        }
        let _ = write!(page, "```\n\n{}\n", folded(note));
    }
    page
}

/// The text in lines of up to 120 columns.
fn folded(text: &str) -> String {
    let mut folded = String::new();
    let mut columns = 0;
    for word in text.split_whitespace() {
        if columns > 0 && columns + 1 + word.len() > 120 {
            folded.push('\n');
            columns = 0;
        } else if columns > 0 {
            folded.push(' ');
            columns += 1;
        }
        folded.push_str(word);
        columns += word.len();
    }
    folded
}

/// The sizes that the preset has set, as a part of the line of effective settings.
pub(super) fn shown(preset: &Preset) -> String {
    let bytes = preset.bytes.map(|bytes| format_bytes(bytes as u64));
    let parts = [bytes.map(|bytes| format!("{bytes} bytes")), preset.spans.map(|spans| format!("{spans} spans"))];
    let parts = parts.into_iter().flatten().collect::<Vec<_>>().join(" and ");
    format!("requests of at most {parts} by the preset {} ({})", preset.vendor, VENDOR.name)
}

const HEAD: &str = "\
# Vendors

Three lines set a vendor up, with the texts of your account in the place of `<..>`. This page is made from the table in
`crates/telemetry-manager/src/settings/vendors.rs`; do not edit it by hand:
`cargo run -p telemetry-manager --example vendors > docs/vendors.md`.

The host of the endpoint, or `TELEMETRY_VENDOR`, selects a preset. A preset sets the largest request (a 64th below the
number of the table, if that is less than the default) and the most spans of one, each where you do not set it yourself
(`TELEMETRY_REQUEST_MAX_BYTES`, `TELEMETRY_REQUEST_MAX_SPANS`), and the line of effective settings at the start says so.
It drops and refuses nothing. `TELEMETRY_VENDOR=none` turns presets off. A number without a page is left out.

A test sends through each row to a peer on loopback that takes the headers, the path and the sizes of the row alone and
answers as the row says (`crates/telemetry-manager/tests/it/vendors.rs`). Vendors change their limits: the last column
has the page of each number, and the day on which it was read.

| Vendor | `TELEMETRY_VENDOR` | A request | Spans of one | Its answer | Source |
| --- | --- | --- | --- | --- | --- |
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use std::ffi::OsString;

    fn from(vars: &[(&str, &str)]) -> Settings {
        let vars: Vec<(String, OsString)> =
            vars.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
        let get = |name: &str| vars.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        Settings::from_vars(get).expect("valid")
    }

    fn sizes(vars: &[(&str, &str)]) -> (usize, Option<usize>) {
        let settings = from(vars);
        let request = &settings.exporter.request;
        assert_eq!(settings.transport.max_request_bytes(), request.max_bytes, "the transport has the same limit");
        (request.max_bytes, request.max_spans.map(NonZeroUsize::get))
    }

    const DEFAULT: usize = otlp_transport::DEFAULT_MAX_REQUEST_BYTES;

    #[test]
    fn the_host_or_the_name_selects_the_sizes_of_the_vendor() {
        let host = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otlp.eu01.nr-data.net:4318");
        assert_eq!(sizes(&[host]), (984_375, None));
        assert_eq!(sizes(&[("TELEMETRY_VENDOR", " Datadog ")]), (3_150_000, None));
        assert_eq!(sizes(&[host, ("TELEMETRY_VENDOR", "xray")]), (DEFAULT, Some(10_000)), "the name beats the host");
        assert_eq!(sizes(&[host, ("TELEMETRY_VENDOR", "none")]), (DEFAULT, None));
        assert_eq!(sizes(&[("TELEMETRY_VENDOR", "dynatrace")]), (DEFAULT, None), "8 MB are more than the default");
        for foreign in ["http://otlp.nr-data.net.example.com:4318", "http://localhost:4318/otlp.nr-data.net"] {
            assert_eq!(sizes(&[("OTEL_EXPORTER_OTLP_ENDPOINT", foreign)]), (DEFAULT, None), "{foreign}");
        }
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://xray.eu-west-1.amazonaws.com:80/v1/traces");
        assert_eq!(sizes(&[traces, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]), (DEFAULT, Some(10_000)));
    }

    #[test]
    fn a_size_that_the_user_sets_beats_the_preset() {
        let vendor = ("TELEMETRY_VENDOR", "newrelic");
        assert_eq!(sizes(&[vendor, ("TELEMETRY_REQUEST_MAX_BYTES", "2MiB")]), (2 << 20, None));
        // Also the default itself.
        assert_eq!(sizes(&[vendor, ("TELEMETRY_REQUEST_MAX_BYTES", "4032KiB")]), (DEFAULT, None));
        let bad = from(&[vendor, ("TELEMETRY_REQUEST_MAX_BYTES", "lots")]);
        assert_eq!(bad.exporter.request.max_bytes, 984_375, "a bad value is none");
        assert_eq!(sizes(&[("TELEMETRY_VENDOR", "xray"), ("TELEMETRY_REQUEST_MAX_SPANS", "7")]), (DEFAULT, Some(7)));
        let mut code = crate::OpenTelemetryManager::builder()
            .with_vars(|_| None)
            .with_vendor("newrelic")
            .with_request_max_bytes(3 << 20);
        assert_eq!(code.settings().expect("valid").exporter.request.max_bytes, 3 << 20);
    }

    #[test]
    fn the_line_of_effective_settings_names_the_preset() {
        let line = from(&[("TELEMETRY_VENDOR", "newrelic")]).summary();
        assert!(line.contains("requests of at most 984375 bytes by the preset newrelic (TELEMETRY_VENDOR)"), "{line}");
        let line = from(&[("TELEMETRY_VENDOR", "xray")]).summary();
        assert!(line.contains("requests of at most 10000 spans by the preset xray"), "{line}");
        for without in [&[][..], &[("TELEMETRY_VENDOR", "honeycomb")], &[("TELEMETRY_VENDOR", "none")]] {
            let line = from(without).summary();
            assert!(!line.contains("preset"), "{line}");
        }
    }

    #[test]
    fn an_unknown_name_is_a_warning_with_the_names_in_the_environment_and_an_error_in_code() {
        let settings = from(&[("TELEMETRY_VENDOR", "newrelik")]);
        let [warning] = settings.warnings() else { panic!("{:?}", settings.warnings()) };
        let names = WORDS[..WORDS.len() - 1].join(", ");
        assert!(warning.message.contains("newrelik") && warning.message.contains(&names), "{warning}");
        assert_eq!((settings.exporter.request.max_bytes, settings.preset), (DEFAULT, None));
        let mut code = crate::OpenTelemetryManager::builder().with_vars(|_| None).with_vendor("newrelik");
        let error = code.settings().expect_err("no such vendor").to_string();
        assert!(error.contains("with_vendor") && error.contains("newrelic, datadog"), "{error}");
    }

    #[test]
    fn the_words_are_the_names_of_the_rows() {
        let names = VENDORS.iter().map(|vendor| vendor.name).chain(["none"]).collect::<Vec<_>>();
        assert_eq!(names, WORDS);
    }

    #[test]
    fn the_endpoint_of_each_row_is_one_of_its_hosts() {
        for Vendor { name, lines, .. } in VENDORS {
            let rest = lines[0].1.strip_prefix("https://").expect("TLS");
            let host = rest.split(['/', ':']).next().expect("a host").replace(['<', '>', ' '], "x");
            // Of two the user knows the whole host alone.
            let whole =
                [("xOTLPxhostxofxthexsitex", "otlp.datadoghq.com"), ("ingress.xdomainx", "ingress.eu2.coralogix.com")];
            let host = whole.iter().find(|(text, _)| *text == host).map_or(host.as_str(), |(_, whole)| whole);
            let found = VENDORS.iter().filter(|vendor| vendor.has_host(host)).map(|vendor| vendor.name);
            assert_eq!(found.collect::<Vec<_>>(), [*name], "{host}");
        }
    }

    #[test]
    fn the_page_of_vendors_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/vendors.md");
        let page = std::fs::read_to_string(path).expect("docs/vendors.md can be read");
        assert!(
            page == vendors_markdown(),
            "docs/vendors.md is stale: run `cargo run -p telemetry-manager --example vendors > docs/vendors.md`"
        );
    }
}

//! The requests that vendors take, by their own pages: one row each. A preset of a row sets the largest request and
//! the most spans of one where the user sets neither; it never drops or refuses anything. The page `docs/vendors.md` is
//! made from these rows, and a peer that behaves as they say checks them.

mod rows;

use std::fmt::Write as _;
use std::num::NonZeroUsize;

use super::Settings;
use super::reader::is_given;
use super::table::{REQUEST_MAX_BYTES, REQUEST_MAX_SPANS, VENDOR};
use super::text::format_bytes;

pub use rows::VENDORS;

/// A vendor that takes OTLP: what to set, and what its pages say about requests and answers.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Vendor {
    /// Its word in `TELEMETRY_VENDOR`.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// The hosts of its endpoints; `*` stands for any text. None for a product that users run on hosts of their own.
    pub hosts: &'static [&'static str],
    /// Up to three variables and their values; `<..>` stands for a text of the user's account.
    pub lines: &'static [(&'static str, &'static str)],
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
    "axiom",
    "dash0",
    "google",
    "sumologic",
    "keboola",
    "aliyun",
    "quickwit",
    "servicenow",
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
        for (variable, value) in *lines {
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

Up to three lines set a vendor up, with the texts of your account in the place of `<..>`. This page is made from the
table in `crates/telemetry-manager/src/settings/vendors/rows.rs`; do not edit it by hand:
`cargo run -p telemetry-manager --example vendors > docs/vendors.md`.

The host of the endpoint, or `TELEMETRY_VENDOR`, selects a preset. A preset sets the largest request (a 64th below the
number of the table, if that is less than the default) and the most spans of one, each where you do not set it yourself
(`TELEMETRY_REQUEST_MAX_BYTES`, `TELEMETRY_REQUEST_MAX_SPANS`), and the line of effective settings at the start says so.
It drops and refuses nothing. `TELEMETRY_VENDOR=none` turns presets off. A number without a page is left out. Products
that you run yourself have no host to be known by: `TELEMETRY_VENDOR` names them.

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
        assert_eq!(sizes(&[("TELEMETRY_VENDOR", "axiom")]), (DEFAULT, Some(10_000)));
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
        for Vendor { name, hosts, lines, .. } in VENDORS {
            let (_, rest) = lines[0].1.split_once("://").expect("a URL");
            let host = rest.split(['/', ':']).next().expect("a host").replace(['<', '>', ' '], "x");
            // Of two the user knows the whole host alone.
            let whole =
                [("xOTLPxhostxofxthexsitex", "otlp.datadoghq.com"), ("ingress.xdomainx", "ingress.eu2.coralogix.com")];
            let host = whole.iter().find(|(text, _)| *text == host).map_or(host.as_str(), |(_, whole)| whole);
            let found = VENDORS.iter().filter(|vendor| vendor.has_host(host)).map(|vendor| vendor.name);
            // A product that users run themselves has no host.
            let expected = (!hosts.is_empty()).then_some(*name);
            assert_eq!(found.collect::<Vec<_>>(), expected.into_iter().collect::<Vec<_>>(), "{host}");
        }
    }

    #[test]
    fn only_an_endpoint_whose_page_names_no_tls_is_without_it() {
        let plain = VENDORS.iter().filter(|vendor| !vendor.lines[0].1.starts_with("https://"));
        assert_eq!(plain.map(|vendor| vendor.name).collect::<Vec<_>>(), ["aliyun", "quickwit"]);
    }

    #[test]
    fn each_row_has_up_to_three_lines_and_a_page() {
        for Vendor { name, lines, page, date, note, .. } in VENDORS {
            assert!((2..=3).contains(&lines.len()), "{name}");
            assert!(lines[0].0.ends_with("_ENDPOINT") && lines[1].1 == "http/protobuf", "{name}");
            assert!(page.starts_with("https://") && date.len() == 10 && note.ends_with('.'), "{name}");
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

//! The rows of the table: the numbers, and the pages that they are from.

use super::Vendor;

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
const HEADERS_FILE: &str = "TELEMETRY_HEADERS_FILE";
const HTTP: &str = "http/protobuf";
const DATE: &str = "2026-11-28";

/// The vendors, in the order of the page.
pub static VENDORS: &[Vendor] = &[
    Vendor {
        name: "newrelic",
        title: "New Relic",
        hosts: &["*.nr-data.net"],
        lines: &[(ENDPOINT, "https://otlp.nr-data.net:4318"), (PROTOCOL, HTTP), (HEADERS, "api-key=<license key>")],
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
        lines: &[
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
        lines: &[
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
        lines: &[
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
        lines: &[
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
        lines: &[
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
        lines: &[
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
        lines: &[
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
        lines: &[
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
        lines: &[
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
    Vendor {
        name: "axiom",
        title: "Axiom",
        hosts: &["api.axiom.co"],
        lines: &[
            (TRACES_ENDPOINT, "https://api.axiom.co/v1/traces"),
            (TRACES_PROTOCOL, HTTP),
            (TRACES_HEADERS, "Authorization=Bearer%20<API token>,X-Axiom-Dataset=<dataset>"),
        ],
        max_bytes: None,
        max_spans: Some(10_000),
        answer: JSON,
        note: "10,000 events are the most of one request, and a span is an event; one event has 1 MB at most.",
        page: "https://axiom.co/docs/reference/limits",
        date: DATE,
    },
    Vendor {
        name: "dash0",
        title: "Dash0",
        hosts: &["ingress.*.dash0.com"],
        lines: &[
            (ENDPOINT, "https://ingress.<region>.aws.dash0.com"),
            (PROTOCOL, HTTP),
            (HEADERS, "Authorization=Bearer%20<token>,Dash0-Dataset=<dataset>"),
        ],
        max_bytes: None,
        max_spans: None,
        answer: PROTOBUF,
        note: "gRPC is on port 4317. Texts of attributes have 2,048 characters at most. Spans older than 6 hours are not \
               taken; TELEMETRY_MAX_AGE_AT_SEND=6h keeps them as dead letters instead.",
        page: "https://www.dash0.com/documentation/dash0/limits",
        date: DATE,
    },
    Vendor {
        name: "google",
        title: "Google Cloud Telemetry API",
        hosts: &["telemetry.googleapis.com"],
        lines: &[
            (ENDPOINT, "https://telemetry.googleapis.com"),
            (PROTOCOL, HTTP),
            (HEADERS_FILE, "<a file with Authorization=Bearer%20.. and x-goog-user-project=..>"),
        ],
        max_bytes: None,
        max_spans: None,
        answer: PROTOBUF,
        note: "A token is valid for an hour: write a new one into the file, or give a provider of credentials in code \
               (`with_credentials`). Texts of attributes have 64 KiB at most.",
        page: "https://cloud.google.com/stackdriver/quotas",
        date: DATE,
    },
    Vendor {
        name: "sumologic",
        title: "Sumo Logic",
        hosts: &["*.sumologic.com", "*.sumologic.net"],
        lines: &[(ENDPOINT, "https://<endpoint>.sumologic.com/receiver/v1/otlp/<secret>"), (PROTOCOL, HTTP)],
        max_bytes: None,
        max_spans: None,
        answer: PROTOBUF,
        note: "The URL of the OTLP/HTTP source holds the secret, which no log and no health shows. Spans older than 24 \
               hours are not taken; TELEMETRY_MAX_AGE_AT_SEND=24h keeps them as dead letters instead.",
        page: "https://www.sumologic.com/help/docs/apm/traces/tracing-ingest",
        date: DATE,
    },
    Vendor {
        name: "keboola",
        title: "Keboola Data Streams",
        hosts: &["stream-in.keboola.com"],
        lines: &[(ENDPOINT, "https://stream-in.keboola.com/otlp/<project>/<source>/<secret>"), (PROTOCOL, HTTP)],
        max_bytes: None,
        max_spans: None,
        answer: PROTOBUF,
        note: "The last part of the path is the secret, which no log and no health shows. gRPC is not spoken.",
        page: "https://www.keboola.com/product/data-streams/opentelemetry",
        date: DATE,
    },
    Vendor {
        name: "aliyun",
        title: "Alibaba Cloud Managed Service for OpenTelemetry",
        hosts: &["tracing-analysis-dc-*.aliyuncs.com"],
        lines: &[
            (TRACES_ENDPOINT, "http://tracing-analysis-dc-<region>.aliyuncs.com:80/adapt_<token>/api/otlp/traces"),
            (TRACES_PROTOCOL, HTTP),
        ],
        max_bytes: None,
        max_spans: None,
        answer: (200, "text/plain", "success"),
        note: "The endpoints of the page are without TLS, and the path holds the token: use those of the private network. \
               The answer is a word and no OTLP; it is read as an acknowledgement.",
        page: "https://www.alibabacloud.com/help/en/opentelemetry/connect-to-managed-service-for-opentelemetry-and-authenticate-clients",
        date: DATE,
    },
    Vendor {
        name: "quickwit",
        title: "Quickwit",
        hosts: &[],
        lines: &[(ENDPOINT, "http://<host>:7280/api/v1/otlp"), (PROTOCOL, HTTP)],
        max_bytes: None,
        max_spans: None,
        answer: (200, "application/json", r#"{"partial_success":{"rejected_spans":0,"error_message":""}}"#),
        note: "gRPC is on port 7281. The header `qw-otel-traces-index` names another index.",
        page: "https://quickwit.io/docs/distributed-tracing/otel-service",
        date: DATE,
    },
    Vendor {
        name: "servicenow",
        title: "ServiceNow Cloud Observability",
        hosts: &["ingest.lightstep.com"],
        lines: &[
            (ENDPOINT, "https://ingest.lightstep.com:443"),
            (PROTOCOL, HTTP),
            (HEADERS, "lightstep-access-token=<token>"),
        ],
        max_bytes: None,
        max_spans: None,
        answer: PROTOBUF,
        note: "The former Lightstep.",
        page: "https://docs.lightstep.com/archive/send-otlp-over-http-to-lightstep",
        date: DATE,
    },
];

//! The set-ups of the table.

/// One set-up. In the values `{grpc}` and `{http}` are the URLs of a collector, `{grpc-port}` and `{http-port}` their
/// ports, `{dir}` is a directory.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) vars: Vec<(&'static str, &'static str)>,
    pub(super) or_disabled: bool,
    pub(super) peer: Peer,
    pub(super) user: User,
    pub(super) directory: Directory,
    /// `TELEMETRY_STATE_DIR` is `{dir}`, unless a variable of the case says otherwise.
    pub(super) has_state: bool,
}

/// The collector's part.
#[derive(Clone, Copy)]
pub(super) enum Peer {
    Accepts,
    /// Answers each request with this HTTP status.
    Refuses(u16),
    /// Nobody listens.
    Gone,
}

/// The user of the program.
#[derive(Clone, Copy)]
pub(super) struct User {
    pub(super) id: u32,
}

/// What `{dir}` is.
#[derive(Clone, Copy)]
pub(super) enum Directory {
    /// An empty directory of the program's user.
    Own,
    /// A directory of root, in which nobody else can write.
    OfRoot,
    /// A file.
    File,
}

const ROOT: User = User { id: 0 };
const OTHER: User = User { id: 1_000 };

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
const TIMEOUT: &str = "OTEL_EXPORTER_OTLP_TIMEOUT";
const DISABLED: (&str, &str) = ("OTEL_SDK_DISABLED", "true");
const NO_EXPORTER: (&str, &str) = ("OTEL_TRACES_EXPORTER", "none");

impl Case {
    fn new(name: &'static str, vars: &[(&'static str, &'static str)]) -> Self {
        let vars = vars.to_vec();
        let (peer, user, directory) = (Peer::Accepts, ROOT, Directory::Own);
        Self { name, vars, or_disabled: false, peer, user, directory, has_state: true }
    }

    /// A set-up with a right endpoint, and these variables beside it.
    fn with(name: &'static str, vars: &[(&'static str, &'static str)]) -> Self {
        let endpoint = [(ENDPOINT, "{grpc}")];
        Self::new(name, &[&endpoint, vars].concat())
    }

    fn or_disabled(self) -> Self {
        Self { or_disabled: true, ..self }
    }

    fn to(self, peer: Peer) -> Self {
        Self { peer, ..self }
    }

    fn of(self, user: User, directory: Directory) -> Self {
        Self { user, directory, ..self }
    }
}

pub(super) fn all() -> Vec<Case> {
    let mut cases = disabled();
    cases.extend(endpoints());
    cases.extend(values());
    cases.extend(storage());
    cases
}

/// Nothing is exported, so that no other variable is an error.
fn disabled() -> Vec<Case> {
    let wrong: &[(&str, &str)] = &[
        (ENDPOINT, "https://collector.example:4317"),
        (HEADERS, "no pair"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/file"),
        ("TELEMETRY_BUFFER_MAX_BYTES", "ten"),
    ];
    vec![
        Case::with("disabled", &[DISABLED]),
        Case::new("disabled, and everything else is wrong", &[&[DISABLED], wrong].concat()),
        Case::new("no exporter, and everything else is wrong", &[&[NO_EXPORTER], wrong].concat()),
        Case::with("disabled by a word that is not true", &[("OTEL_SDK_DISABLED", "yes")]),
        Case::with("an exporter that is not built in", &[("OTEL_TRACES_EXPORTER", "zipkin")]),
    ]
}

fn endpoints() -> Vec<Case> {
    vec![
        Case::new("a right endpoint, gRPC", &[(ENDPOINT, "{grpc}")]),
        Case::new("a right endpoint, HTTP", &[(ENDPOINT, "{http}"), (PROTOCOL, "http/protobuf")]),
        Case::new("nobody listens", &[(ENDPOINT, "{grpc}")]).to(Peer::Gone),
        Case::new("an expired key", &[(ENDPOINT, "{http}"), (PROTOCOL, "http/protobuf"), (HEADERS, "api-key=old")])
            .to(Peer::Refuses(401)),
        Case::new(
            "quotes of an env file around all values",
            &[
                (ENDPOINT, "\"{grpc}\""),
                ("OTEL_SERVICE_NAME", "'shop'"),
                (HEADERS, "\"api-key=a\""),
                ("TELEMETRY_JOURNAL_ENABLED", "\"true\""),
            ],
        ),
        Case::new("no scheme", &[(ENDPOINT, "localhost:{grpc-port}")]),
        Case::new("a scheme with a slip", &[(ENDPOINT, "htp://localhost:{grpc-port}")]),
        Case::new("no URL at all", &[(ENDPOINT, "collector is on host 7")]),
        Case::new("no URL at all, or disabled", &[(ENDPOINT, "collector is on host 7")]).or_disabled(),
        Case::new("/v1/traces in the general endpoint", &[(ENDPOINT, "{http}/v1/traces"), (PROTOCOL, "http/protobuf")]),
        Case::new(
            "the traces endpoint without its path",
            &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "{http}"), (PROTOCOL, "http/protobuf")],
        ),
        Case::new(
            "a bad traces endpoint beside a good general one",
            &[(ENDPOINT, "{grpc}"), ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "not a URL")],
        ),
        Case::new("port 4317 with HTTP", &[(ENDPOINT, "http://127.0.0.1:4317"), (PROTOCOL, "http/protobuf")]),
        Case::new("port 4318 with gRPC", &[(ENDPOINT, "http://127.0.0.1:4318"), (PROTOCOL, "grpc")]),
        Case::new("a Unix socket", &[(ENDPOINT, "unix:/run/otel.sock")]),
        Case::new("https to a collector without TLS", &[(ENDPOINT, "https://localhost:{grpc-port}")]),
        Case::new(
            "https with a file of authorities that is missing",
            &[(ENDPOINT, "https://localhost:{grpc-port}"), ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/ca.pem")],
        ),
        Case::new(
            "https with a file of authorities that is missing, or disabled",
            &[(ENDPOINT, "https://localhost:{grpc-port}"), ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/ca.pem")],
        )
        .or_disabled(),
        Case::new(
            "a client certificate without its key",
            &[(ENDPOINT, "https://localhost:{grpc-port}"), ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/no/such/c.pem")],
        ),
        Case::new(
            "a key in the path of the URL",
            &[(ENDPOINT, "{http}/receiver/v1/http/ZaVnC4dhaV1-key"), (PROTOCOL, "http/protobuf")],
        )
        .to(Peer::Refuses(404)),
        Case::new("a password in the URL", &[(ENDPOINT, "http://user:geheim@127.0.0.1:{grpc-port}")]),
    ]
}

fn values() -> Vec<Case> {
    vec![
        Case::with("an unknown protocol", &[(PROTOCOL, "thrift")]),
        Case::with(
            "a bad protocol for traces, a good general one",
            &[(PROTOCOL, "grpc"), ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "thrift")],
        ),
        Case::with("headers that do not parse", &[(HEADERS, "api-key")]),
        Case::with("headers that do not parse, or disabled", &[(HEADERS, "api-key")]).or_disabled(),
        Case::with("headers that we set ourselves", &[(HEADERS, "content-type=text/plain,user-agent=shop,api-key=a")]),
        Case::with(
            "certificates with an http endpoint",
            &[("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/file"), ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/no/such/key")],
        ),
        // A collector that answers within 10 ms would make the rest of the row a matter of luck.
        Case::with("a time-out meant as seconds", &[(TIMEOUT, "10")]).to(Peer::Gone),
        Case::with("a time-out with a unit", &[(TIMEOUT, "10s")]),
        Case::with("no time-out", &[(TIMEOUT, "0")]),
        Case::with("a schedule delay of nothing", &[("OTEL_BSP_SCHEDULE_DELAY", "0")]),
        Case::with("a queue that the processor has not", &[("OTEL_BSP_MAX_QUEUE_SIZE", "4096")]),
        Case::with("the largest queue", &[("TELEMETRY_PROCESSOR", "batch"), ("OTEL_BSP_MAX_QUEUE_SIZE", "2147483647")]),
        Case::with("no such processor", &[("TELEMETRY_PROCESSOR", "simple")]),
        Case::with("a queue of minus one", &[("OTEL_BSP_MAX_QUEUE_SIZE", "-1")]),
        Case::with("a resource attribute with two signs", &[("OTEL_RESOURCE_ATTRIBUTES", "team=a=b,region=eu")]),
        Case::with("a resource attribute without a value", &[("OTEL_RESOURCE_ATTRIBUTES", "team")]),
        Case::with("an unknown sampler", &[("OTEL_TRACES_SAMPLER", "sometimes")]),
        Case::with(
            "a sampler's argument out of range",
            &[("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "7")],
        ),
        Case::with("an unknown propagator", &[("OTEL_PROPAGATORS", "tracecontext,carrier-pigeon")]),
        Case::with("a variable with a slip", &[("TELEMETRY_BUFER_MAX_SPANS", "500")]),
        Case::with("a bad size", &[("TELEMETRY_BUFFER_MAX_BYTES", "10 MegaByte")]),
        Case::with("a bad threshold", &[("CIRCUIT_BREAKER_FAILURE_THRESHOLD", "zero")]),
        Case::with("empty variables", &[(HEADERS, ""), ("OTEL_SERVICE_NAME", ""), (TIMEOUT, "")]),
        Case::with("a log level of the SDK's", &[("OTEL_LOG_LEVEL", "debug")]),
    ]
}

fn storage() -> Vec<Case> {
    let none = |case: Case| Case { has_state: false, ..case };
    vec![
        none(Case::with("no directory, no HOME, another user", &[])).of(OTHER, Directory::Own),
        Case::with("a directory of root, another user", &[]).of(OTHER, Directory::OfRoot),
        Case::with("a directory of root, another user, storage required", &[("TELEMETRY_STATE_DIR_REQUIRED", "true")])
            .of(OTHER, Directory::OfRoot),
        Case::with("storage required, or disabled", &[("TELEMETRY_STATE_DIR_REQUIRED", "true")])
            .of(OTHER, Directory::OfRoot)
            .or_disabled(),
        Case::with("a file in place of the directory", &[]).of(OTHER, Directory::File),
        Case::with("a relative directory", &[("TELEMETRY_STATE_DIR", "state")]).of(OTHER, Directory::Own),
        Case::with("durable mode without a directory", &[("TELEMETRY_JOURNAL_ENABLED", "true")])
            .of(OTHER, Directory::OfRoot),
        Case::with("durable mode", &[("TELEMETRY_JOURNAL_ENABLED", "true")]).of(OTHER, Directory::Own),
        Case::with("a limit of files below the least one", &[("TELEMETRY_FALLBACK_MAX_BYTES", "1")])
            .of(OTHER, Directory::Own),
        Case::with("files, and nobody listens", &[]).of(OTHER, Directory::Own).to(Peer::Gone),
    ]
}

//! `holdfast serve`: health, metrics, dead letters and events over HTTP, the server's own requests traced through the
//! manager.

use std::error::Error;
use std::fmt;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use telemetry_manager::OpenTelemetryManager;
use telemetry_service::{Service, Token, TokenError};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

mod collector;

use collector::Collector;

/// The arguments of `holdfast serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP, after_long_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = telemetry_service::DEFAULT_ADDRESS)]
    listen: SocketAddr,

    /// Name that requests may have in Host, beside literal addresses and localhost; may be given more than once
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,

    /// Allow resilience tests, with the token, on an address that strangers can reach
    #[arg(long)]
    allow_tests: bool,
}

const AFTER_HELP: &str = "\
Paths:
  GET /health, /health/live, /health/ready   this process's own health; telemetry is no part of it
  GET /metrics                               the numbers for Prometheus; OpenMetrics 1.0 by Accept
  GET /telemetry-test/health                 how telemetry goes, as JSON; 503 after a loss, for 5 minutes
  GET /telemetry-test/metrics                the numbers as JSON
  GET /telemetry-test/outages                the outages of the collector
  GET /telemetry-test/events                 server-sent events: each change, and a snapshot a second
  GET /telemetry-test/openapi.json           all routes for programs: OpenAPI 3.1
  GET /telemetry-test/dead-letters           refused batches, ?limit=100 of them
  GET /telemetry-test/dead-letters/ID        one of them with its spans (token)
  POST /telemetry-test/dead-letters/ID/redrive, /telemetry-test/dead-letters/redrive?reason=TEXT
                                             sends one again, or those whose reason has the text (token)
  POST /telemetry-test/test/start, generate-loads, simulate/collector-failure
                                             resilience tests: docs/testing.md has them as curl lines

Routes with (token) need a header `Authorization: Bearer TOKEN`. On other addresses than loopback all but /health* and
/metrics need it, and tests are off there without --allow-tests. The token is TELEMETRY_SERVICE_TOKEN, else the first line of the file TELEMETRY_SERVICE_TOKEN_FILE,
else one that is made in the state directory: the output names the file. Requests whose Host is a name are refused
unless --allow-host or TELEMETRY_SERVICE_HOSTS has the name, and so are those of web pages of other servers.

Spans of the server's own requests go to OTEL_EXPORTER_OTLP_ENDPOINT; where that is unset and nothing listens on the
default port, to a collector inside this process, which counts and forgets them; files are then neither written nor
sent. The first lines of the output say which. All settings are environment
variables, listed in docs/settings.md. SIGINT and SIGTERM end it: what is in memory is sent, or kept in files.";

/// Requests that are being answered when the signal comes get this long; the exporter then has its own 3.5 s.
const GRACE: Duration = Duration::from_millis(500);

/// Serves until SIGINT or SIGTERM.
pub(crate) fn run(args: Args) -> ExitCode {
    // Info and above. An error means that a subscriber is installed already, which cannot happen in a program's `main`.
    let _ = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_max_level(tracing_subscriber::filter::LevelFilter::INFO)
        .try_init();
    match serve(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("holdfast: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &Args) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = bind(&runtime, args.listen)?;
    let address = listener.local_addr()?;
    // Before the address is printed: its reader may send the signal at once.
    let stop = runtime.block_on(async { stop_signal() })?;

    let mut builder = OpenTelemetryManager::builder().with_default_service_name("holdfast");
    let collector = Collector::choose(&builder.settings()?)?;
    if let Some(endpoint) = collector.endpoint() {
        // The embedded collector counts spans and forgets them: files of earlier processes must not be sent to it.
        builder = builder.with_endpoint(endpoint).with_fallback_enabled(false);
    }
    let telemetry = builder.build()?;
    say(format_args!("listening on http://{address}"));
    say(format_args!("exporting to {} ({collector})", telemetry.health().collector_endpoint));

    let observer = telemetry.observer();
    let has_tests = args.allow_tests || is_set("TELEMETRY_SERVICE_TESTS")?;
    let mut service = Service::new(observer.clone()).with_address(address).with_tests_elsewhere(has_tests);
    for name in hosts(&args.allow_host, &std::env::var("TELEMETRY_SERVICE_HOSTS").unwrap_or_default())? {
        service = service.with_host(name);
    }
    if let Some(token) = token(telemetry.settings().exporter.state_dir.as_deref())? {
        service = service.with_token(token);
    }
    if let Some(follow) = observer.faults().and_then(|faults| collector.follow(faults)) {
        runtime.spawn(follow);
    }
    // The command serves nothing else, and shows spans on their way.
    let app = telemetry_service::traced_all(service.router(), &observer);
    let served = runtime.block_on(telemetry_service::serve(listener, app, stop, GRACE));
    say(format_args!("stopping"));
    runtime.shutdown_background();
    let shut_down = telemetry.shutdown();
    if let Some(handle) = telemetry.handle() {
        let ledger = handle.ledger();
        say(format_args!(
            "stopped: {} spans delivered, {} kept in files, {} lost",
            ledger.delivered,
            ledger.in_fallback,
            ledger.lost()
        ));
    }
    if let Some(received) = collector.received() {
        say(format_args!("the collector inside this process received {received} spans"));
    }
    served?;
    shut_down?;
    Ok(())
}

/// Whether a variable says `true`, in any case; an empty one counts as unset.
///
/// # Errors
/// Any other text.
fn is_set(name: &str) -> Result<bool, String> {
    let value = std::env::var(name).unwrap_or_default();
    match value.trim().to_ascii_lowercase().as_str() {
        "" | "false" => Ok(false),
        "true" => Ok(true),
        _ => Err(format!("{name}={value:?}: accepted are true and false")),
    }
}

/// The names of the arguments and of a list with commas, without blanks around them and empty ones.
///
/// # Errors
/// A name with a port, a scheme or a blank in it: no `Host` would ever match.
fn hosts<'a>(given: &'a [String], list: &'a str) -> Result<Vec<&'a str>, String> {
    let names = given.iter().map(String::as_str).chain(list.split(',')).map(str::trim);
    let names = names.filter(|name| !name.is_empty()).collect::<Vec<_>>();
    match names.iter().find(|name| name.contains([':', '/', ' '])) {
        Some(name) => {
            Err(format!("{name:?} is no host name: accepted is a name such as telemetry.internal, without a port"))
        }
        None => Ok(names),
    }
}

/// The token of the environment, else the one in the state directory. Without either the routes that need it refuse,
/// and the others work.
///
/// # Errors
/// A token or a file that the environment names and that cannot be used.
fn token(state_dir: Option<&Path>) -> Result<Option<Token>, TokenError> {
    if let Some(found) = Token::from_vars(|name| std::env::var_os(name), None)? {
        return Ok(Some(found.token));
    }
    let error = match state_dir.map(Token::in_dir) {
        Some(Ok(found)) => {
            if let Some(file) = &found.file {
                let made = if found.is_made { "made" } else { "found" };
                say(format_args!("token {made} in {}", file.display()));
            }
            return Ok(Some(found.token));
        }
        Some(Err(error)) => error.to_string(),
        None => "there is no state directory; set TELEMETRY_SERVICE_TOKEN".to_owned(),
    };
    say(format_args!("no token, so that routes which need one refuse: {error}"));
    Ok(None)
}

fn bind(runtime: &Runtime, address: SocketAddr) -> Result<TcpListener, BindError> {
    runtime.block_on(TcpListener::bind(address)).map_err(|source| BindError { address, source })
}

/// Completes at the first SIGINT or SIGTERM from now on.
fn stop_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(std::future::poll_fn(move |cx| {
        let interrupted = interrupt.poll_recv(cx).is_ready();
        let terminated = terminate.poll_recv(cx).is_ready();
        if interrupted || terminated { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    }))
}

/// Prints one line on standard output. An error in writing, as of a closed pipe, is ignored.
fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "holdfast: {line}");
}

/// The address could not be taken; the text has the remedy.
#[derive(Debug)]
struct BindError {
    address: SocketAddr,
    source: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, source } = self;
        match source.kind() {
            io::ErrorKind::AddrInUse => write!(
                f,
                "{address} is in use: stop the program that listens there, or choose another port with --listen {}",
                SocketAddr::new(address.ip(), 0)
            ),
            _ => write!(f, "cannot listen on {address}: {source}; choose another address with --listen 127.0.0.1:5210"),
        }
    }
}

impl Error for BindError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_out_of_a_port_in_use_can_be_typed_as_it_stands() {
        for (address, other) in [("127.0.0.1:5210", "127.0.0.1:0"), ("[::1]:5210", "[::1]:0")] {
            let address = address.parse().expect("an address");
            let text = BindError { address, source: io::ErrorKind::AddrInUse.into() }.to_string();
            assert!(text.ends_with(&format!("--listen {other}")), "{text}");
        }
    }

    #[test]
    fn names_come_from_arguments_and_the_list_and_have_no_port() {
        let given = ["one.test".to_owned()];
        assert_eq!(hosts(&given, " two.test, ,three.test,").expect("names"), ["one.test", "two.test", "three.test"]);
        assert_eq!(hosts(&[], "").expect("none"), [""; 0]);
        for bad in ["one.test:5210", "http://one.test", "one test"] {
            let error = hosts(&[], bad).expect_err(bad);
            assert!(error.contains(bad) && error.contains("accepted"), "{error}");
        }
    }
}

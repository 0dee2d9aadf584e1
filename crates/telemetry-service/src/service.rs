//! The settings of the service.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use telemetry_manager::Observer;

use crate::router::build;
use crate::shared::{Inner, Shared};
use crate::token::Token;

/// The routes of this crate over one telemetry, and who may use them.
///
/// Without an [address](Self::with_address) the service assumes that strangers can reach it: every route but `/health*`
/// and `/metrics` needs the token.
///
/// ```
/// use telemetry_manager::OpenTelemetryManager;
/// use telemetry_service::{DEFAULT_ADDRESS, Service, Token};
///
/// let telemetry = OpenTelemetryManager::builder().with_fallback_enabled(false).with_vars(|_| None).build()?;
/// let service = Service::new(telemetry.observer())
///     .with_address(DEFAULT_ADDRESS)
///     .with_token(Token::new("a secret of 16 characters or more")?)
///     .with_host("telemetry.internal");
/// let app = axum::Router::new().merge(service.router());
/// # drop(app);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use = "a service does nothing without its router"]
pub struct Service {
    parts: Parts,
}

#[derive(Clone)]
struct Parts {
    observer: Observer,
    is_loopback: bool,
    token: Option<Token>,
    has_tests_elsewhere: bool,
    hosts: Vec<String>,
    has_root_routes: bool,
    is_ready: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl Service {
    /// All routes of one telemetry, for an address that strangers can reach, without a token.
    pub fn new(observer: Observer) -> Self {
        let (token, hosts, is_ready) = (None, Vec::new(), Arc::new(|| true));
        let (is_loopback, has_tests_elsewhere, has_root_routes) = (false, false, true);
        Self { parts: Parts { observer, is_loopback, token, has_tests_elsewhere, hosts, has_root_routes, is_ready } }
    }

    /// Sets the address that the program listens on. On a loopback address most routes need no token. Do not give a
    /// loopback address if a reverse proxy on this machine passes requests of strangers on.
    pub fn with_address(mut self, address: SocketAddr) -> Self {
        self.parts.is_loopback = address.ip().to_canonical().is_loopback();
        self
    }

    /// Sets the token. Without one, routes that need it answer 403.
    pub fn with_token(mut self, token: Token) -> Self {
        self.parts.token = Some(token);
        self
    }

    /// Whether resilience tests may be started on an address that is no loopback one, with the token; false by default,
    /// since they make load and may have the process's own calls fail. On a loopback address they always may.
    pub fn with_tests_elsewhere(mut self, has_tests: bool) -> Self {
        self.parts.has_tests_elsewhere = has_tests;
        self
    }

    /// Adds a name that requests may have in `Host`, without a port. Literal addresses and `localhost` are accepted
    /// always, other names are refused: a web page can give its own name the address of this machine.
    pub fn with_host(mut self, name: impl Into<String>) -> Self {
        self.parts.hosts.push(name.into());
        self
    }

    /// Whether the router has `/health`, `/health/live`, `/health/ready`, `/metrics` and an answer to unknown paths;
    /// true by default. Without them all of its paths are below `/telemetry-test`, for an application that has its own.
    pub fn with_root_routes(mut self, has_root_routes: bool) -> Self {
        self.parts.has_root_routes = has_root_routes;
        self
    }

    /// Sets the application's own readiness for `/health/ready`, which answers 503 while it is false; always ready by
    /// default. Called by each request; must not block. Do not let it depend on telemetry.
    pub fn with_readiness(mut self, is_ready: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.parts.is_ready = Arc::new(is_ready);
        self
    }

    /// The routes. `uptime_seconds` is counted from this call.
    pub fn router(self) -> Router {
        let Parts { observer, is_loopback, token, has_tests_elsewhere, hosts, has_root_routes, is_ready } = self.parts;
        let inner = Inner::new(observer, is_loopback, token, hosts, is_ready);
        build(Shared::new(Inner { has_tests_elsewhere, ..inner }), has_root_routes)
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { observer, is_loopback, token, has_tests_elsewhere, hosts, has_root_routes, .. } = &self.parts;
        f.debug_struct("Service")
            .field("observer", observer)
            .field("is_loopback", is_loopback)
            .field("token", token)
            .field("has_tests_elsewhere", has_tests_elsewhere)
            .field("hosts", hosts)
            .field("has_root_routes", has_root_routes)
            .finish_non_exhaustive()
    }
}

/// [`Service::router`] of a service that strangers can reach, without a token: `/health*` and `/metrics` answer, all
/// other routes refuse.
pub fn router(observer: Observer) -> Router {
    Service::new(observer).router()
}
